//! Answers bytes by key from memory, then disk, then Redis; losing any of it never changes an answer (C1), and the size it
//! reports is what it takes on the disk (C2).
//!
//! ```
//! # fn main() -> weir_cache::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! use weir_cache::{Cache, CacheOptions, PutOptions};
//! let cache = Cache::open(CacheOptions::new(dir.path(), "default"))?;
//! cache.put("answer", b"42", &PutOptions::default())?;
//! assert_eq!(cache.get("answer").as_deref(), Some(&b"42"[..]));
//! # Ok(())
//! # }
//! ```
//!
//! [`Cache`] is a cheap handle to share between threads; processes share the folder. The format, the accounting and the
//! argument why both survive `kill -9` are in `docs/formats/cache.md`.

mod admin;
mod archive;
mod batch;
mod cache;
mod codec;
mod disk;
mod error;
mod flight;
#[doc(hidden)]
pub mod fuzzing;
mod key;
mod lock;
mod memory;
mod metrics;
mod name;
mod options;
mod refresh;
mod remote;

pub use admin::{Diagnosis, Exported, Finding, Size};
pub use archive::{PackedDirectory, pack_directory, unpack_directory};
pub use batch::{Answer, Op};
pub use cache::{Cache, Entry, Lookup, Put};
pub use disk::check::{Collection, Verification};
pub use error::{Error, Result};
pub use key::{KEY_BYTES_MAX, KeyBuilder};
pub use metrics::{LevelStat, OpStat, Stat};
pub use name::{NAME_BYTES_MAX, Namespace};
pub use options::{
    BATCH_MAX, CacheOptions, Compression, INLINE_BYTES_MAX, LIMIT_DEFAULT, LIMIT_MIN, LockWait, Policy, PutOptions,
    REFRESHES_MAX_DEFAULT, RemoteOptions, TAG_BYTES_MAX, TAGS_MAX,
};
