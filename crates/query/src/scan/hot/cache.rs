//! Decoded columns in memory, the more often used ones kept, their bytes bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use weir_base::ByteSize;

use super::HotColumn;

/// A typical column of a row group: how many entries the cache plans for.
const COLUMN_BYTES: u64 = 1 << 20;
/// An entry's own bytes, keys included.
const ENTRY_BYTES: u64 = 256;

/// Columns of which it is kept that they were missed.
const MISSED: usize = 64 << 10;
/// Files of which it is kept which groups they hold.
const CENSUS_FILES: usize = 64 << 10;

/// One column of one row group of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ColumnKey {
    /// Path from the root of the store; never used for other content.
    pub(super) file: Arc<str>,
    pub(super) row_group: u32,
    /// The true name: a column that was added later is another one.
    pub(super) column: Arc<str>,
}

/// Decoded columns of files, shared by all queries.
#[derive(Debug)]
pub(crate) struct ColumnCache {
    columns: Cache<ColumnKey, Arc<HotColumn>, ByBytes>,
    limit: ByteSize,
    /// What was missed lately, and by which partition: what is asked for once is not kept.
    missed: Cache<(ColumnKey, usize), ()>,
    /// What a file's set of groups is known by.
    groups: Cache<[u8; 32], [u8; 32]>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<ColumnKey, Arc<HotColumn>> for ByBytes {
    fn weight(&self, _: &ColumnKey, column: &Arc<HotColumn>) -> u64 {
        column.bytes() as u64 + ENTRY_BYTES
    }
}

impl ColumnCache {
    /// Holds at most `limit` bytes.
    pub(crate) fn new(limit: ByteSize) -> Self {
        let entries = usize::try_from(limit.bytes() / COLUMN_BYTES).unwrap_or(usize::MAX).max(16);
        let columns = Cache::with_weighter(entries, limit.bytes(), ByBytes);
        let (missed, groups) = (Cache::new(MISSED), Cache::new(CENSUS_FILES));
        Self { columns, limit, missed, groups, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// Most bytes that it may hold.
    pub(super) fn limit(&self) -> ByteSize {
        self.limit
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> u64 {
        self.columns.weight()
    }

    /// Columns asked for that were there, and those that were not.
    pub(crate) fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Relaxed), self.misses.load(Relaxed))
    }

    /// Takes note that a column was missed; whether it is for the first time.
    pub(super) fn note_miss(&self, key: &ColumnKey, partition: usize) -> bool {
        let key = (key.clone(), partition);
        let first = self.missed.get(&key).is_none();
        if first {
            self.missed.insert(key, ());
        }
        first
    }

    /// The hash of the groups of a file.
    pub(crate) fn groups_of(&self, file: &[u8; 32]) -> Option<[u8; 32]> {
        self.groups.get(file)
    }

    pub(crate) fn put_groups(&self, file: [u8; 32], groups: [u8; 32]) {
        self.groups.insert(file, groups);
    }

    pub(super) fn get(&self, key: &ColumnKey) -> Option<Arc<HotColumn>> {
        let found = self.columns.get(key);
        let count = if found.is_some() { &self.hits } else { &self.misses };
        count.fetch_add(1, Relaxed);
        found
    }

    pub(super) fn put(&self, key: ColumnKey, column: Arc<HotColumn>) {
        self.columns.insert(key, column);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_of_files_and_misses_is_bounded_s1() {
        let cache = ColumnCache::new(ByteSize::mib(1));
        let key = |row_group: u32| ColumnKey { file: Arc::from("db/m/a"), row_group, column: Arc::from("v") };
        assert!(cache.note_miss(&key(0), 0) && !cache.note_miss(&key(0), 0));
        assert!(cache.note_miss(&key(0), 1), "each partition misses for itself");
        for number in 0..2 * MISSED as u32 {
            cache.note_miss(&key(number), 0);
            let mut file = [0; 32];
            file[..4].copy_from_slice(&number.to_le_bytes());
            cache.put_groups(file, file);
            assert_eq!(cache.groups_of(&file), Some(file));
        }
        assert!(cache.missed.len() <= MISSED, "{}", cache.missed.len());
        assert!(cache.groups.len() <= CENSUS_FILES, "{}", cache.groups.len());
    }
}
