//! The memory level: values by key, bounded in bytes, never trusted longer than the disk level allows.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// What is kept per entry beyond key and value, roughly; so that many tiny values stay within the limit too.
const OVERHEAD_BYTES: u64 = 160;

/// A value as memory knows it.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    /// `None`: known to be absent.
    pub(crate) value: Option<Bytes>,
    pub(crate) version: u64,
    /// Milliseconds UTC; `i64::MAX` for never.
    pub(crate) expires_ms: i64,
    pub(crate) dead_ms: i64,
    pub(crate) written_ms: i64,
    pub(crate) cost_us: u64,
    /// Row in the index, for counting hits.
    pub(crate) id: i64,
    /// Hits counted so far; past three they are not told to the index any more.
    pub(crate) freq: std::sync::Arc<AtomicU64>,
    /// The namespace's generation before the row was read.
    pub(crate) generation: std::sync::Arc<AtomicU64>,
}

impl Kept {
    pub(crate) fn new_generation(value: u64) -> std::sync::Arc<AtomicU64> {
        std::sync::Arc::new(AtomicU64::new(value))
    }

    /// The row was compared and is the same: trust it from `generation` on.
    pub(crate) fn renew(&self, generation: u64) {
        self.generation.store(generation, Ordering::Release);
    }

    /// Whether the index should hear of this hit.
    pub(crate) fn count_hit(&self) -> bool {
        self.freq.load(Ordering::Relaxed) < 3 && self.freq.fetch_add(1, Ordering::Relaxed) < 3
    }

    pub(crate) fn seen_at(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

#[derive(Debug, Clone)]
struct Weigh;

impl Weighter<Box<[u8]>, Kept> for Weigh {
    fn weight(&self, key: &Box<[u8]>, kept: &Kept) -> u64 {
        key.len() as u64 + kept.value.as_ref().map_or(0, |value| value.len() as u64) + OVERHEAD_BYTES
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Memory {
    cache: Cache<Box<[u8]>, Kept, Weigh>,
    item_bytes_max: u64,
}

impl Memory {
    /// `None` when `limit_bytes` is zero.
    pub(crate) fn new(limit_bytes: u64) -> Option<Self> {
        if limit_bytes == 0 {
            return None;
        }
        // The estimate only sizes tables; few shards, so that each has room for large values.
        let entries = usize::try_from(limit_bytes / 4096).unwrap_or(usize::MAX).clamp(16, 1 << 20);
        let cache = Cache::with_weighter(entries, limit_bytes, Weigh);
        Some(Self { item_bytes_max: cache.shard_capacity() / 2, cache })
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Kept> {
        self.cache.get(key)
    }

    pub(crate) fn insert(&self, key: &[u8], kept: Kept) {
        if kept.value.as_ref().is_some_and(|value| value.len() as u64 > self.item_bytes_max) {
            self.remove(key);
        } else {
            self.cache.insert(key.into(), kept);
        }
    }

    pub(crate) fn remove(&self, key: &[u8]) {
        self.cache.remove(key);
    }

    pub(crate) fn clear(&self) {
        self.cache.clear();
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.cache.weight()
    }

    pub(crate) fn entries(&self) -> u64 {
        self.cache.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(len: usize) -> Kept {
        Kept {
            value: Some(Bytes::from(vec![7; len])),
            version: 1,
            expires_ms: i64::MAX,
            dead_ms: i64::MAX,
            written_ms: 0,
            cost_us: 0,
            id: 1,
            freq: Kept::new_generation(0),
            generation: Kept::new_generation(0),
        }
    }

    #[test]
    fn s1_memory_stays_below_its_limit_in_bytes() {
        let limit = 1 << 20;
        let memory = Memory::new(limit).unwrap();
        for (count, len) in [(5_000, 10), (500, 10_000), (10, 2 << 20), (20, 0)] {
            for number in 0..count {
                memory.insert(format!("{len}-{number}").as_bytes(), kept(len));
                assert!(memory.bytes() <= limit);
            }
        }
        assert!(memory.get(format!("{}-{}", 2 << 20, 1).as_bytes()).is_none(), "too large to keep");
        assert!(memory.entries() > 0);
        assert!(Memory::new(0).is_none());
    }
}
