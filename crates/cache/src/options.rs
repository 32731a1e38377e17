//! How a cache is opened and how a value is put.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use weir_base::{ByteSize, Clock, FileSystem, OsFileSystem, OsRandom, Random, SystemClock};

/// Byte limit of a namespace that was never given one.
pub const LIMIT_DEFAULT: ByteSize = ByteSize::mib(1024);
/// Smallest byte limit: below it the index and its log would leave no room.
pub const LIMIT_MIN: ByteSize = ByteSize::mib(1);
/// Values up to this size (as stored) live in the index.
pub const INLINE_BYTES_MAX: usize = 16 << 10;
/// Most tags of one entry.
pub const TAGS_MAX: usize = 32;
/// Longest tag, bytes.
pub const TAG_BYTES_MAX: usize = 128;
/// Most entries of one batch call.
pub const BATCH_MAX: usize = 10_000;

/// Refreshes in the background of one handle.
pub const REFRESHES_MAX_DEFAULT: usize = 4;

/// Which entry goes first when room is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Three queues: one-hit wonders leave quickly, what was read again stays (Yang et al., SOSP 2023).
    #[default]
    S3Fifo,
    /// Least recently used.
    Lru,
    /// Lowest frequency x cost / size, aged (Cherkasova, HPL-98-69): favours small and expensive entries.
    Gdsf,
}

/// How writers of one namespace wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LockWait {
    /// Woken by the kernel when the lock is free; polls exponentially on file systems of the network.
    #[default]
    Kernel,
    /// Polls: 0.1 s, doubling to 2 s.
    Exponential,
    /// Polls every 0.1 s.
    Linear,
}

/// How values are compressed when it pays (at least an eighth smaller).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// LZ4: fast.
    Lz4,
    /// Zstandard level 3: small.
    Zstd,
}

macro_rules! words {
    ($type:ident, $what:literal, $($word:literal => $variant:ident),+) => {
        impl FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($type::$variant),)+
                    other => Err(format!(concat!("unknown ", $what, " '{}' (use ", $($word, " ",)+ ")"), other)),
                }
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($type::$variant => $word),+ })
            }
        }
    };
}
words!(Policy, "policy", "s3fifo" => S3Fifo, "lru" => Lru, "gdsf" => Gdsf);
words!(LockWait, "wait", "kernel" => Kernel, "exponential" => Exponential, "linear" => Linear);
words!(Compression, "compression", "none" => None, "lz4" => Lz4, "zstd" => Zstd);

/// The third level.
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// `redis://host:port/db` or `unix:///path.sock`.
    pub url: String,
    /// Longest wait for one call, connecting included.
    pub deadline: Duration,
    /// Failures in a row after which it is left alone.
    pub breaker_failures: u32,
    /// For how long it is left alone.
    pub breaker_period: Duration,
    /// Lifetime of values without a TTL; a remote level must not keep them for ever.
    pub ttl_max: Duration,
}

impl RemoteOptions {
    /// With a deadline of 250 ms, a breaker that opens at the first failure for 30 s, and values kept for 30 days.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            deadline: Duration::from_millis(250),
            breaker_failures: 1,
            breaker_period: Duration::from_secs(30),
            ttl_max: Duration::from_secs(30 * 86_400),
        }
    }
}

/// How to open a cache. `CacheOptions::new(dir, namespace)` gives the defaults; every field can be changed.
#[derive(Debug, Clone)]
pub struct CacheOptions {
    /// The folder of all namespaces.
    pub dir: PathBuf,
    /// Checked by [`crate::Namespace`].
    pub namespace: String,
    /// Bytes on the disk; kept in the namespace. `None`: what it has, 1 GiB when new.
    pub limit: Option<ByteSize>,
    /// Entries at most; kept in the namespace. `None`: what it has, unlimited when new.
    pub entry_limit: Option<u64>,
    /// Largest value as stored. `None`: a quarter of the limit.
    pub item_limit: Option<ByteSize>,
    /// Kept in the namespace. `None`: what it has, s3fifo when new.
    pub policy: Option<Policy>,
    /// Bytes of the memory level; zero turns it off.
    pub memory_limit: ByteSize,
    /// Whether there is a disk level.
    pub disk: bool,
    /// The third level, if any.
    pub remote: Option<RemoteOptions>,
    /// Codec for values of at least `compress_from` bytes.
    pub compression: Compression,
    /// Values shorter than this are stored raw.
    pub compress_from: ByteSize,
    /// The first write of a key wins; later ones are kept out.
    pub write_once: bool,
    /// Others of the group may read: modes 0750 and 0640 instead of 0700 and 0600.
    pub shared: bool,
    /// Never writes; works in a folder that cannot be written.
    pub read_only: bool,
    /// How writers wait for each other.
    pub lock_wait: LockWait,
    /// Longest wait for another writer.
    pub lock_deadline: Duration,
    /// Longest wait for another process that computes the same key.
    pub flight_deadline: Duration,
    /// Values computed anew in the background at once by this handle; zero: none, stale values stay until computed.
    pub refreshes_max: usize,
    /// Whether operations are counted and timed.
    pub metrics: bool,
    /// Time of expiry and deadlines.
    pub clock: Arc<dyn Clock>,
    /// Names of temporary files, versions.
    pub random: Arc<dyn Random>,
    /// Files of blobs. (The index is SQLite's, which brings its own.)
    pub fs: Arc<dyn FileSystem>,
}

impl CacheOptions {
    /// The defaults: 64 MiB of memory, disk, no remote.
    pub fn new(dir: impl Into<PathBuf>, namespace: &str) -> Self {
        Self {
            dir: dir.into(),
            namespace: namespace.to_owned(),
            limit: None,
            entry_limit: None,
            item_limit: None,
            policy: None,
            memory_limit: ByteSize::mib(64),
            disk: true,
            remote: None,
            compression: Compression::None,
            compress_from: ByteSize::new(4 << 10),
            write_once: false,
            shared: false,
            read_only: false,
            lock_wait: LockWait::Kernel,
            lock_deadline: Duration::from_secs(5),
            flight_deadline: Duration::from_secs(60),
            refreshes_max: REFRESHES_MAX_DEFAULT,
            metrics: true,
            clock: Arc::new(SystemClock::default()),
            random: Arc::new(OsRandom),
            fs: Arc::new(OsFileSystem),
        }
    }
}

/// How a value is put.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PutOptions {
    /// Fresh for this long; `None`: until evicted.
    pub ttl: Option<Duration>,
    /// After `ttl`, served stale for this long while somebody computes it anew.
    pub stale: Option<Duration>,
    /// Names by which it can be invalidated together with others.
    pub tags: Vec<String>,
    /// Time that computing it took; policy `gdsf` keeps what is expensive.
    pub cost: Option<Duration>,
}

impl PutOptions {
    /// Fresh for `ttl`.
    pub fn ttl(ttl: Duration) -> Self {
        Self { ttl: Some(ttl), ..Self::default() }
    }
}
