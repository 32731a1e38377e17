//! The cache as its users see it: one folder, many handles, many processes, real failures.

#![allow(clippy::disallowed_methods, reason = "the tests look at, and damage, what is really on the disk")]

mod bounds;
mod damage;
mod hit_ratio;
mod levels;
mod processes;
mod redis_level;
mod traces;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use weir_base::{ByteSize, Clock, SystemClock, Timestamp};
use weir_cache::{Cache, CacheOptions};

/// A real clock that can be set.
#[derive(Debug, Default)]
struct SetClock {
    real: SystemClock,
    ahead_ns: AtomicI64,
}

impl SetClock {
    fn move_by(&self, seconds: i64) {
        self.ahead_ns.fetch_add(seconds * 1_000_000_000, Ordering::Relaxed);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        self.real.now() + self.ahead_ns.load(Ordering::Relaxed)
    }
    fn monotonic(&self) -> Duration {
        self.real.monotonic()
    }
    fn sleep(&self, duration: Duration) {
        self.real.sleep(duration);
    }
}

fn options(dir: &Path) -> CacheOptions {
    CacheOptions { limit: Some(ByteSize::mib(16)), ..CacheOptions::new(dir, "test") }
}

fn open(dir: &Path) -> Cache {
    Cache::open(options(dir)).unwrap()
}

fn open_at(dir: &Path, clock: &Arc<SetClock>) -> Cache {
    let clock: Arc<dyn Clock> = Arc::clone(clock) as Arc<dyn Clock>;
    Cache::open(CacheOptions { clock, ..options(dir) }).unwrap()
}

/// Bytes that no compressor shrinks and no two seeds share.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 32);
    while bytes.len() < len {
        bytes.extend_from_slice(&weir_base::checksum::blake3(format!("{seed} {}", bytes.len()).as_bytes()));
    }
    bytes.truncate(len);
    bytes
}

/// Index and disk agree, and the size covers what is there.
fn check_agreement(cache: &Cache) {
    let found = cache.verify(false).unwrap();
    assert!(found.agree, "C2: {found:?}");
    let (size, disk) = (cache.size().unwrap(), cache.scan_bytes().unwrap());
    assert!(disk <= size.bytes, "C2: {disk} bytes on the disk, {size:?}");
    assert_eq!(found.counted_blob_bytes, found.disk_blob_bytes, "C2");
}
