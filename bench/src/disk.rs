//! The floor under every durable figure: what a bare write and `fdatasync` cost here and now, and the size of a folder.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Cost of one write of `write_bytes` and the sync after it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct SyncCost {
    /// Bytes appended before each sync.
    pub write_bytes: usize,
    /// Half of the syncs took less, in microseconds.
    pub p50_micros: u64,
    /// 99 of 100 took less, in microseconds.
    pub p99_micros: u64,
}

/// Appends and syncs `count` times in `folder`, and cleans up.
pub fn sync_cost(folder: &Path, write_bytes: usize, count: usize) -> std::io::Result<SyncCost> {
    let path = folder.join("sync-cost");
    let mut file = File::create(&path)?;
    // Not zeros: a file system may store those for free.
    let block: Vec<u8> = (0..write_bytes).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    drop(file);
    fs::remove_file(path)?;
    let micros = |share: f64| percentile(&mut times.clone(), share).as_micros() as u64;
    Ok(SyncCost { write_bytes, p50_micros: micros(0.5), p99_micros: micros(0.99) })
}

/// The smallest time that `share` of all do not exceed; zero for none.
pub fn percentile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    let rank = (times.len() as f64 * share).ceil() as usize;
    times.get(rank.max(1) - 1).copied().unwrap_or_default()
}

/// Sum of the lengths of all files below `folder`; files that vanish while it looks count nothing.
pub fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => folder_bytes(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let mut times: Vec<Duration> = (1..=100).rev().map(Duration::from_micros).collect();
        assert_eq!(percentile(&mut times, 0.5), Duration::from_micros(50));
        assert_eq!(percentile(&mut times, 0.99), Duration::from_micros(99));
        assert_eq!(percentile(&mut times, 1.0), Duration::from_micros(100));
        assert_eq!(percentile(&mut [], 0.5), Duration::ZERO);
    }
}
