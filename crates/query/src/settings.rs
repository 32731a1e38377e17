//! The limits of queries, checked, with units in their types (S1). Every field has the name of its setting.

use std::path::PathBuf;
use std::time::Duration;

use weir_base::ByteSize;

use crate::external::Locations;

/// How queries run and within which limits.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Threads that compute queries, apart from those that serve the network.
    pub query_threads: usize,
    /// Memory of all queries together.
    pub query_memory_bytes_max: ByteSize,
    /// Memory of one query; past it, it spills to `query_spill_dir` where it can.
    pub query_each_memory_bytes_max: ByteSize,
    /// Folder for what does not fit in memory; swept at start. `None`: nothing is spilled.
    pub query_spill_dir: Option<PathBuf>,
    /// Bytes that all queries together may spill.
    pub query_spill_bytes_max: ByteSize,
    /// Queries that run at once.
    pub query_running_max: usize,
    /// Queries that wait for a slot.
    pub query_waiting_max: usize,
    /// How long a query waits for a slot.
    pub query_wait: Duration,
    /// How long a query may run, from its admission to its last row.
    pub query_deadline: Duration,
    /// A query that takes longer, from its arrival to its last row, is told in the log.
    pub query_slow: Duration,
    /// Memory for footers of Parquet files.
    pub query_footer_bytes_max: ByteSize,
    /// Memory for decoded columns of files, which are read once and then asked again and again.
    pub query_column_bytes_max: ByteSize,
    /// Rows that one query may fill into the gaps of its buckets.
    pub query_gapfill_rows_max: u64,
    /// Whether queries use rollups by themselves.
    pub query_rollups: bool,
    /// Where files of external tables may lie.
    pub query_external_locations: Locations,
    /// Files and folders that are looked at to find the files of one external table.
    pub query_external_files_max: usize,
}

impl Settings {
    /// The defaults for a machine with that much memory and that many cores.
    pub fn new(memory_bytes: u64, cores: usize) -> Self {
        let pool = memory_bytes / 4;
        Self {
            query_threads: cores.max(1),
            query_memory_bytes_max: ByteSize::new(pool),
            query_each_memory_bytes_max: ByteSize::new(pool / 4),
            query_spill_dir: None,
            query_spill_bytes_max: ByteSize::mib(16 << 10),
            query_running_max: 2 * cores.max(1),
            query_waiting_max: 100,
            query_wait: Duration::from_secs(5),
            query_deadline: Duration::from_secs(300),
            query_slow: Duration::from_secs(10),
            query_footer_bytes_max: ByteSize::mib(64),
            query_column_bytes_max: ByteSize::new(memory_bytes / 8),
            query_gapfill_rows_max: 100_000_000,
            query_rollups: true,
            query_external_locations: Locations::Unset,
            query_external_files_max: 10_000,
        }
    }
}
