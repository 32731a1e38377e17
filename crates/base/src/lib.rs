//! The seams and words that every room of Weir shares.
//!
//! Clock, disk and randomness reach the other crates as the traits of this crate, so that the simulator can swap
//! them; `clippy.toml` bans the raw calls elsewhere. Nothing here knows what a journal, a table or a cache is.
//!
//! ```
//! use weir_base::{ByteSize, Kind};
//! assert_eq!("64 MiB".parse::<ByteSize>().unwrap().bytes(), 64 << 20);
//! assert_eq!(Kind::Limit.code(), "limit");
//! ```

pub mod beneath;
pub mod checksum;
pub mod clock;
pub mod error;
pub mod file;
pub mod id;
pub mod lock;
pub mod machine;
pub mod random;
pub mod size;

pub use clock::{Clock, SystemClock, Timestamp};
pub use error::{Kind, Retry};
pub use file::{File, FileSystem, OpenMode, OsFileSystem};
pub use lock::{FileLock, LockError};
pub use random::{OsRandom, Random};
pub use size::ByteSize;
