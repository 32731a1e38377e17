//! The seam to a cache: bytes by key, each with a life time. Losing it never changes an answer, only its cost.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use weir_base::Clock;

/// The namespace of Weir's cache that is used.
pub const NAMESPACE: &str = "deps";

/// Bytes by key. Failures are misses; a store never fails its caller (C1).
pub trait Store: Send + Sync {
    /// The bytes put under `key`, unless they have expired, were evicted or cannot be read.
    fn get(&self, key: &str) -> Option<Vec<u8>>;
    /// Remembers `bytes`; `life` of `None` means that they never become wrong.
    fn put(&self, key: &str, bytes: &[u8], life: Option<Duration>);
}

/// Weir's cache: memory, disk and, where configured, Redis. Writes are gathered and put in one batch at the end, as each
/// single one would cost a transaction.
pub struct CacheStore {
    cache: weir_cache::Cache,
    waiting: Mutex<Vec<weir_cache::Op>>,
}

impl CacheStore {
    /// Stands on an open cache.
    pub fn new(cache: weir_cache::Cache) -> Self {
        Self { cache, waiting: Mutex::default() }
    }

    /// Puts what has been gathered.
    pub fn flush(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for part in waiting.chunks(weir_cache::BATCH_MAX) {
            // A failed write is a later miss (C1).
            let _ = self.cache.batch(part);
        }
    }
}

impl Drop for CacheStore {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Store for CacheStore {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.cache.get(key).map(|bytes| bytes.to_vec())
    }

    fn put(&self, key: &str, bytes: &[u8], life: Option<Duration>) {
        let options = weir_cache::PutOptions { ttl: life, ..Default::default() };
        let op = weir_cache::Op::Put { key: key.as_bytes().to_vec(), value: bytes.to_vec(), options };
        let full = {
            let mut waiting = self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            waiting.push(op);
            waiting.len() >= 1000
        };
        if full {
            self.flush();
        }
    }
}

/// Remembers nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoStore;

impl Store for NoStore {
    fn get(&self, _key: &str) -> Option<Vec<u8>> {
        None
    }
    fn put(&self, _key: &str, _bytes: &[u8], _life: Option<Duration>) {}
}

/// In memory, for one process, up to a number of bytes; past it, new entries are not taken.
#[derive(Debug)]
pub struct MemoryStore<C> {
    clock: C,
    bytes_max: usize,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    bytes: usize,
    by_key: HashMap<String, (Vec<u8>, Option<Duration>)>,
}

impl<C: Clock> MemoryStore<C> {
    /// An empty store.
    pub fn new(clock: C, bytes_max: usize) -> Self {
        Self { clock, bytes_max, entries: Mutex::default() }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<C: Clock> Store for MemoryStore<C> {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        let now = self.clock.monotonic();
        let entries = self.entries();
        let (bytes, until) = entries.by_key.get(key)?;
        until.is_none_or(|until| now < until).then(|| bytes.clone())
    }

    fn put(&self, key: &str, bytes: &[u8], life: Option<Duration>) {
        let until = life.map(|life| self.clock.monotonic() + life);
        let mut entries = self.entries();
        let size = key.len() + bytes.len();
        if let Some((old, _)) = entries.by_key.remove(key) {
            entries.bytes -= key.len() + old.len();
        }
        if entries.bytes + size <= self.bytes_max {
            entries.bytes += size;
            entries.by_key.insert(key.to_owned(), (bytes.to_vec(), until));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_live_as_long_as_said_and_the_size_is_bounded() {
        let store = MemoryStore::new(weir_base::SystemClock::default(), 100);
        store.put("a", b"one", None);
        store.put("b", b"two", Some(Duration::ZERO));
        assert_eq!(store.get("a").as_deref(), Some(&b"one"[..]));
        assert_eq!(store.get("b"), None);
        store.put("big", &[0; 200], None);
        assert_eq!(store.get("big"), None);
    }
}
