//! The simulator: a disk, a clock and randomness that obey a seed, with the faults that real ones have. Test only.
//!
//! ```
//! use std::path::Path;
//! use weir_base::{FileSystem, OpenMode};
//! let disk = weir_sim::Disk::new(7);
//! let file = disk.open(Path::new("/f"), OpenMode::Create)?;
//! file.write_all_at(b"never synced", 0)?;
//! disk.power_cycle();
//! assert!(disk.read(Path::new("/f")).is_err() || disk.read(Path::new("/f"))?.len() <= 12);
//! # Ok::<(), std::io::Error>(())
//! ```

mod clock;
mod disk;
mod objects;
mod proxy;
mod random;
mod silent;

pub use clock::Clock;
pub use disk::{Disk, Fault};
pub use objects::{ObjectServer, Protocol};
pub use proxy::{Proxy, ProxyFault};
pub use random::Seeded;
pub use silent::SilentAddress;
