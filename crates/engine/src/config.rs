//! The engine's settings, checked, with units in their types. The command line makes them from the configuration file.

use std::path::PathBuf;
use std::time::Duration;

use weir_base::ByteSize;

use crate::store::RemoteLimits;

/// How an engine works and within which limits (S1). Every field has the name of its setting.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of lock, WAL and, unless `store` is set, tables.
    pub data: PathBuf,
    /// Where tables are: a URL or path. `None`: `data/tables`, private to this server.
    pub store: Option<String>,
    /// Settings of the object store, by the names that `object_store` gives them.
    pub store_options: Vec<(String, String)>,
    /// Bounds of calls to an object store; the settings are these names after `store_`.
    pub store_limits: RemoteLimits,
    /// Who holds the folder, for the message to the next who wants it.
    pub owner: String,
    /// Rows not yet in files, all tables together.
    pub buffer_bytes_max: ByteSize,
    /// Flush a table whose buffer holds this much.
    pub flush_bytes: ByteSize,
    /// Flush a table whose buffer holds this much and is older than `flush_age`.
    pub flush_bytes_min: ByteSize,
    /// See `flush_bytes_min`.
    pub flush_age: Duration,
    /// Flush a table whose oldest buffered row is older than this.
    pub flush_age_max: Duration,
    /// Flush the oldest tables first when the WAL is larger than this.
    pub wal_flush_bytes: ByteSize,
    /// Refuse writes when the WAL is larger than this.
    pub wal_bytes_max: ByteSize,
    /// Series of all tables together.
    pub series_max: u64,
    /// Tables of all databases together.
    pub tables_max: usize,
    /// Columns of one table.
    pub columns_max: usize,
    /// One line of line protocol.
    pub line_bytes_max: ByteSize,
    /// Wait for somebody else's change of a schema.
    pub schema_wait: Duration,
    /// Wait this long after a failed flush, doubled each time up to `flush_backoff_max`.
    pub flush_backoff: Duration,
    /// See `flush_backoff`.
    pub flush_backoff_max: Duration,
    /// Merge neighbouring files by themselves when a table has this many small ones.
    pub compact_files: usize,
    /// Rows in a compacted file.
    pub compact_rows: usize,
    /// Memory that the files of one merge may take while they are read: more are merged in steps.
    pub compact_bytes_max: ByteSize,
    /// How much of rows merges in the background go through in a second, as they lie in memory; one that was asked for is not held back.
    pub compact_bytes_per_s: ByteSize,
    /// How long deleted and dropped rows can be brought back and the past can be read; at least an hour on a shared store.
    pub undo_window: Duration,
    /// How often files that no version of the undo window needs are deleted.
    pub vacuum_every: Duration,
    /// Whether flush, compaction and vacuum run by themselves.
    pub background: bool,
}

impl Config {
    /// The defaults of the design, for the engine in `data`.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            store: None,
            store_options: Vec::new(),
            store_limits: RemoteLimits::default(),
            owner: "weir".to_owned(),
            buffer_bytes_max: ByteSize::new(memory_of_machine() / 4),
            flush_bytes: ByteSize::mib(64),
            flush_bytes_min: ByteSize::mib(8),
            flush_age: Duration::from_secs(10),
            flush_age_max: Duration::from_secs(600),
            wal_flush_bytes: ByteSize::mib(1024),
            wal_bytes_max: ByteSize::mib(4096),
            series_max: 10_000_000,
            tables_max: 20_000,
            columns_max: 2_000,
            line_bytes_max: ByteSize::mib(1),
            schema_wait: Duration::from_secs(10),
            flush_backoff: Duration::from_millis(100),
            flush_backoff_max: Duration::from_secs(30),
            compact_files: 16,
            compact_rows: 4 << 20,
            compact_bytes_max: ByteSize::new(memory_of_machine() / 32),
            compact_bytes_per_s: ByteSize::mib(512),
            undo_window: Duration::from_secs(7 * 24 * 3600),
            vacuum_every: Duration::from_secs(3600),
            background: true,
        }
    }
}

/// Bytes of memory that this process may use: the machine's, or its container's limit where that is smaller.
pub fn memory_of_machine() -> u64 {
    let system = weir_base::machine::memory_bytes();
    weir_base::machine::container_memory_bytes().map_or(system, |limit| limit.min(system))
}
