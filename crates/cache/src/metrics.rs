//! What the cache measures about itself: counters and latency buckets, recorded with relaxed atomics, merged into a small file
//! of fixed size when a handle ends. Nothing grows, so nothing needs pruning.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde::Serialize;
use weir_base::{FileSystem, OpenMode};

/// Operations that are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Get,
    Put,
    Delete,
    Batch,
    Invalidate,
    Compute,
}

const OPERATIONS: [&str; 6] = ["get", "put", "delete", "batch", "invalidate", "compute"];

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counter {
    HitMemory,
    HitDisk,
    HitRemote,
    Miss,
    /// Misses because bytes were damaged or missing.
    Damaged,
    /// Reads and fills that failed (and so were misses).
    Failed,
    /// Hits served past their time while somebody computes them anew.
    Stale,
    BytesIn,
    BytesOut,
    /// Microseconds of computing that hits saved.
    SavedUs,
    /// Calls that waited for another's computation of the same key.
    Joined,
}

const COUNTERS: usize = 11;
/// Buckets of latency: four per doubling, from 1 microsecond to about 17 minutes.
const BUCKETS: usize = 124;
const FIELDS: usize = COUNTERS + OPERATIONS.len() * BUCKETS;

/// See the module.
#[derive(Debug)]
pub(crate) struct Metrics {
    on: bool,
    fields: Box<[AtomicU64]>,
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let log = 63 - micros.leading_zeros() as usize;
    let quarter = if log >= 2 { (micros >> (log - 2)) & 3 } else { (micros << (2 - log)) & 3 } as usize;
    (log * 4 + quarter).min(BUCKETS - 1)
}

/// Upper bound of a bucket, microseconds.
fn bound_us(bucket: usize) -> f64 {
    let (log, quarter) = (bucket / 4, bucket % 4);
    (1u64 << log) as f64 * (1.0 + (quarter + 1) as f64 / 4.0)
}

impl Metrics {
    pub(crate) fn new(on: bool) -> Self {
        Self { on, fields: (0..FIELDS).map(|_| AtomicU64::new(0)).collect() }
    }

    pub(crate) fn add(&self, counter: Counter, amount: u64) {
        if self.on {
            self.fields[counter as usize].fetch_add(amount, Ordering::Relaxed);
        }
    }

    pub(crate) fn time(&self, operation: Operation, took: Duration) {
        if self.on {
            let field = COUNTERS + operation as usize * BUCKETS + bucket(took);
            self.fields[field].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn snapshot(&self) -> Vec<u64> {
        self.fields.iter().map(|field| field.load(Ordering::Relaxed)).collect()
    }

    /// What was recorded by this handle and, before it, by all handles that ended.
    pub(crate) fn stat(&self, fs: &dyn FileSystem, path: Option<&Path>) -> Stat {
        let past = path.and_then(|path| fs.open(path, OpenMode::Read).ok()).and_then(|file| read_fields(&*file));
        let mut fields = self.snapshot();
        for (field, before) in fields.iter_mut().zip(past.unwrap_or_default()) {
            *field = field.saturating_add(before);
        }
        Stat::from_fields(&fields)
    }

    /// Adds this handle's numbers to the file and forgets them. When another handle is doing so, they stay here.
    pub(crate) fn merge(&self, fs: &dyn FileSystem, path: &Path) {
        if !self.on || self.fields.iter().all(|field| field.load(Ordering::Relaxed) == 0) {
            return;
        }
        let Ok(file) = fs.open(path, OpenMode::Create) else { return };
        let Some(os) = file.os_file() else { return };
        if rustix::fs::flock(os, FlockOperation::NonBlockingLockExclusive).is_err() {
            return;
        }
        let mut total = read_fields(&*file).unwrap_or_else(|| vec![0; FIELDS]);
        for (sum, field) in total.iter_mut().zip(&self.fields) {
            *sum = sum.saturating_add(field.swap(0, Ordering::Relaxed));
        }
        let bytes: Vec<u8> = total.iter().flat_map(|field| field.to_le_bytes()).collect();
        // Lost numbers change no answer.
        let _ = file.write_all_at(&bytes, 0);
    }
}

fn read_fields(file: &dyn weir_base::File) -> Option<Vec<u64>> {
    let mut bytes = vec![0; FIELDS * 8];
    file.read_exact_at(&mut bytes, 0).ok()?;
    Some(bytes.as_chunks::<8>().0.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect())
}

/// One operation's count and times, microseconds; absent where nothing was measured.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct OpStat {
    /// Name of the operation.
    pub operation: String,
    /// How often.
    pub count: u64,
    /// Median.
    pub p50_us: Option<f64>,
    /// 90th percentile.
    pub p90_us: Option<f64>,
    /// 99th percentile.
    pub p99_us: Option<f64>,
}

/// One level's part.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct LevelStat {
    /// `memory`, `disk` or `remote`.
    pub level: String,
    /// Answers from it.
    pub hits: u64,
    /// Bytes in it; absent where it cannot be known.
    pub bytes: Option<u64>,
    /// Entries in it; absent where it cannot be known.
    pub entries: Option<u64>,
}

/// Counters since the namespace was made, and percentiles.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct Stat {
    /// Answers from any level.
    pub hits: u64,
    /// Questions without an answer.
    pub misses: u64,
    /// hits / (hits + misses); absent before the first question.
    pub hit_ratio: Option<f64>,
    /// Misses because bytes were damaged or missing; each was healed.
    pub damaged: u64,
    /// Reads that failed and so were misses.
    pub failed: u64,
    /// Hits past their time, served while somebody computed them anew.
    pub stale: u64,
    /// Calls that waited for another's computation of the same key.
    pub joined: u64,
    /// Bytes put.
    pub bytes_in: u64,
    /// Bytes answered.
    pub bytes_out: u64,
    /// Seconds of computing that hits saved, by the recorded cost.
    pub saved_s: f64,
    /// Entries evicted.
    pub evicted: u64,
    /// Per level.
    pub levels: Vec<LevelStat>,
    /// Per operation.
    pub operations: Vec<OpStat>,
}

impl Stat {
    fn from_fields(fields: &[u64]) -> Self {
        let of = |counter: Counter| fields[counter as usize];
        let levels = [("memory", Counter::HitMemory), ("disk", Counter::HitDisk), ("remote", Counter::HitRemote)];
        let hits = levels.iter().map(|(_, counter)| of(*counter)).sum::<u64>();
        let misses = of(Counter::Miss);
        Self {
            hits,
            misses,
            hit_ratio: (hits + misses > 0).then(|| hits as f64 / (hits + misses) as f64),
            damaged: of(Counter::Damaged),
            failed: of(Counter::Failed),
            stale: of(Counter::Stale),
            joined: of(Counter::Joined),
            bytes_in: of(Counter::BytesIn),
            bytes_out: of(Counter::BytesOut),
            saved_s: of(Counter::SavedUs) as f64 / 1e6,
            evicted: 0,
            levels: levels
                .iter()
                .map(|(level, counter)| LevelStat {
                    level: (*level).into(),
                    hits: of(*counter),
                    bytes: None,
                    entries: None,
                })
                .collect(),
            operations: OPERATIONS
                .iter()
                .enumerate()
                .map(|(index, name)| op_stat(name, &fields[COUNTERS + index * BUCKETS..][..BUCKETS]))
                .collect(),
        }
    }
}

fn op_stat(name: &str, buckets: &[u64]) -> OpStat {
    let count: u64 = buckets.iter().sum();
    let quantile = |share: f64| {
        let rank = (count as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        buckets.iter().position(|bucket| {
            seen += bucket;
            seen >= rank
        })
    };
    let at = |share| (count > 0).then(|| quantile(share)).flatten().map(bound_us);
    OpStat { operation: name.into(), count, p50_us: at(0.5), p90_us: at(0.9), p99_us: at(0.99) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_base::OsFileSystem;

    #[test]
    fn numbers_of_ended_handles_add_up_and_percentiles_bound_the_truth() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics");
        for _ in 0..2 {
            let metrics = Metrics::new(true);
            metrics.add(Counter::HitDisk, 3);
            metrics.add(Counter::Miss, 1);
            for micros in 1..=1000 {
                metrics.time(Operation::Get, Duration::from_micros(micros));
            }
            metrics.merge(&OsFileSystem, &path);
        }
        let stat = Metrics::new(false).stat(&OsFileSystem, Some(&path));
        assert_eq!((stat.hits, stat.misses, stat.hit_ratio), (6, 2, Some(0.75)));
        let get = &stat.operations[0];
        assert_eq!(get.count, 2000);
        for (found, truth) in [(get.p50_us, 500.0), (get.p90_us, 900.0), (get.p99_us, 990.0)] {
            let found = found.unwrap();
            assert!(found >= truth && found <= truth * 1.26, "{found} for {truth}");
        }
        assert_eq!(stat.operations[1].p50_us, None, "M1: nothing measured is absent, never zero");
    }
}
