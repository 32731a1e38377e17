//! What a journal is opened with: the seams, the codec, the limits.

use std::sync::Arc;
use std::time::Duration;

use weir_base::{Clock, FileSystem, OsFileSystem, SystemClock};

use crate::compact::Retention;
use crate::{Error, Result};

/// Disk and clock of a journal.
#[derive(Debug, Clone)]
pub struct Env {
    /// Where the files are.
    pub fs: Arc<dyn FileSystem>,
    /// For intervals and for the time in segment headers.
    pub clock: Arc<dyn Clock>,
}

impl Env {
    /// The machine's own disk and clock.
    pub fn system() -> Self {
        Self { fs: Arc::new(OsFileSystem), clock: Arc::new(SystemClock::default()) }
    }
}

/// How frames are compressed. A frame that would not shrink is stored as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Stored as they are.
    None,
    /// LZ4 blocks: fast both ways.
    Lz4,
    /// zstd frames: smaller.
    Zstd {
        /// 1 (fast) to 19 (small).
        level: i32,
    },
}

/// How far an append has come when it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// The operating system has the bytes: they survive the death of the process, not that of the machine.
    None,
    /// As `None`, and synced within [`Options::interval`].
    Interval,
    /// Synced to the disk before the answer.
    Durable,
}

/// Limits and choices of a journal that is open for writing.
#[derive(Debug, Clone)]
pub struct Options {
    /// How frames are compressed.
    pub codec: Codec,
    /// A segment is sealed when a group would take it past this many bytes. Default 64 MiB.
    pub segment_bytes_max: u64,
    /// A group is written once it holds this many bytes. Default 32 MiB.
    pub group_bytes_max: u64,
    /// Compressed bytes that may wait for the writer; past it `submit` is refused. One batch always fits. Default 256 MiB.
    pub queue_bytes_max: u64,
    /// Raw bytes of records in a frame, unless one record is larger. Default 256 KiB.
    pub frame_raw_bytes_max: usize,
    /// Key and payload of one record. Default 512 MiB, at most 1 GiB.
    pub record_bytes_max: usize,
    /// Longest time between an [`Durability::Interval`] append and its sync. Default 100 ms.
    pub interval: Duration,
    /// How long to wait for the writer's lock. Default 5 s.
    pub lock_wait: Duration,
    /// Whether sealed segments get a footer with an index of frames and keys. Default true; a log that is only replayed needs none.
    pub index: bool,
    /// Train a zstd dictionary of at most this many bytes from the first MiB of records. Default `None`: no dictionary.
    pub dictionary_bytes_max: Option<usize>,
    /// What goes by itself, looked at whenever a segment is sealed, and each minute where there is an age. Default: nothing.
    pub retention: Retention,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            codec: Codec::Zstd { level: 3 },
            segment_bytes_max: 64 << 20,
            group_bytes_max: 32 << 20,
            queue_bytes_max: 256 << 20,
            frame_raw_bytes_max: 256 << 10,
            record_bytes_max: 512 << 20,
            interval: Duration::from_millis(100),
            lock_wait: Duration::from_secs(5),
            index: true,
            dictionary_bytes_max: None,
            retention: Retention::default(),
        }
    }
}

impl Options {
    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<()> {
        if let Codec::Zstd { level } = self.codec
            && !(1..=19).contains(&level)
        {
            return Err(Error::invalid(format!("zstd level {level} is not in 1 to 19")));
        }
        if self.dictionary_bytes_max.is_some_and(|bytes| bytes > 1 << 20) {
            return Err(Error::invalid("dictionary_bytes_max is past 1 MiB"));
        }
        if self.record_bytes_max > 1 << 30 {
            return Err(Error::invalid("record_bytes_max is past 1 GiB"));
        }
        if self.frame_raw_bytes_max == 0 || self.frame_raw_bytes_max > 1 << 30 {
            return Err(Error::invalid("frame_raw_bytes_max is not in 1 byte to 1 GiB"));
        }
        Ok(())
    }
}
