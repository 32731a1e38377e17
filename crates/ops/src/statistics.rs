//! Figures about the history: how many, how well, how long.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::operation::State;
use crate::view::Summary;

/// Figures of one kind of operation.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct KindStatistics {
    /// Operations.
    pub operations: u64,
    /// By state.
    pub states: BTreeMap<State, u64>,
    /// Operations that are undone.
    pub undone: u64,
    /// Entries in all.
    pub entries: u64,
    /// Entries that are done.
    pub done: u64,
    /// Entries that failed.
    pub failed: u64,
    /// Entries that were not touched.
    pub skipped: u64,
    /// How long sealed operations took, seconds; absent without any.
    pub duration_s: Option<Durations>,
    /// Entries per second over the time of sealed operations; absent without any.
    pub entries_per_s: Option<f64>,
}

/// A distribution, seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Durations {
    /// Smallest.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// Largest.
    pub max: f64,
}

/// Figures by kind.
pub fn statistics(summaries: &[Summary]) -> BTreeMap<String, KindStatistics> {
    let mut found: BTreeMap<String, (KindStatistics, Vec<f64>, u64)> = BTreeMap::new();
    for summary in summaries {
        let (kind, times, timed) = found.entry(summary.kind.to_string()).or_default();
        kind.operations += 1;
        *kind.states.entry(summary.state).or_default() += 1;
        kind.undone += u64::from(summary.undone_by.is_some());
        kind.entries += u64::from(summary.entries);
        kind.done += u64::from(summary.done);
        kind.failed += u64::from(summary.failed);
        kind.skipped += u64::from(summary.skipped);
        if let Some(ended) = summary.ended {
            times.push(ended.saturating_sub(summary.time).max(0) as f64 / 1e9);
            *timed += u64::from(summary.done);
        }
    }
    found.into_iter().map(|(name, (kind, times, timed))| (name, with_times(kind, times, timed))).collect()
}

/// Nearest-rank percentiles.
fn with_times(mut kind: KindStatistics, mut times: Vec<f64>, entries: u64) -> KindStatistics {
    times.sort_unstable_by(f64::total_cmp);
    let rank = |share: f64| times[((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1];
    if let (Some(&min), Some(&max)) = (times.first(), times.last()) {
        kind.duration_s = Some(Durations { min, p50: rank(0.5), p95: rank(0.95), max });
        let total: f64 = times.iter().sum();
        kind.entries_per_s = (total > 0.0).then(|| entries as f64 / total);
    }
    kind
}
