//! Figures about the tracker, as kept in `bench/results/track.json`, and their tables.

use serde::{Deserialize, Serialize};

use crate::report::{table, thousands};

/// What one side takes to record an operation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recording {
    /// Which side.
    pub side: String,
    /// Processor time of an operation on one thread, nanoseconds.
    pub one_thread_ns: f64,
    /// The same on eight threads at once.
    pub eight_threads_ns: f64,
}

/// Memory of many operations under many label sets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Memory {
    /// Operations recorded.
    pub operations: u64,
    /// Label sets.
    pub label_sets: u64,
    /// Growth of the resident set while recording, MiB.
    pub recording_mib: f64,
    /// Peak of the resident set of the whole process, a drain included, MiB.
    pub peak_mib: f64,
    /// Processor time of an operation, nanoseconds.
    pub operation_ns: f64,
}

/// A command run by `weir track run` and by hyperfine in turns.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Timed {
    /// The command.
    pub command: String,
    /// Runs by each.
    pub runs: usize,
    /// Median wall time as Weir tells it, milliseconds.
    pub weir_ms: f64,
    /// The same by hyperfine.
    pub hyperfine_ms: f64,
    /// What Weir takes beside each run, milliseconds: its own start, its history and its end are in it.
    pub weir_overhead_ms: f64,
    /// The same by hyperfine.
    pub hyperfine_overhead_ms: f64,
}

/// What `check` says of simulated runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Checked {
    /// The noise of a run.
    pub noise: String,
    /// Pairs of 60 interleaved runs a side.
    pub pairs: usize,
    /// Regressions called where there are none.
    pub alarms: usize,
    /// Slowdowns of 5 % found.
    pub found: usize,
}

/// Change points of made-up histories.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Found {
    /// Who searched.
    pub side: String,
    /// Histories.
    pub histories: usize,
    /// Changes that there are.
    pub changes: usize,
    /// Changes told.
    pub told: usize,
    /// Of them within three points of a change, each counted once.
    pub hits: usize,
    /// Time of the search, seconds.
    pub seconds: f64,
}

/// All of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct TrackResults {
    /// The command that made them.
    pub command: String,
    /// The machine.
    pub machine: String,
    /// Cost of recording.
    pub recording: Vec<Recording>,
    /// Memory.
    pub memory: Memory,
    /// Commands from outside.
    pub timed: Vec<Timed>,
    /// Simulated checks.
    pub checked: Vec<Checked>,
    /// What the best of all tests would find under the last noise of `checked`, of as many.
    pub found_at_best: usize,
    /// Change points.
    pub changes: Vec<Found>,
}

/// All tables.
pub fn tables(results: &TrackResults) -> String {
    let recording = results
        .recording
        .iter()
        .map(|row| vec![row.side.clone(), format!("{:.1}", row.one_thread_ns), format!("{:.1}", row.eight_threads_ns)]);
    let memory = &results.memory;
    let timed = results.timed.iter().map(|row| {
        vec![
            format!("`{}`", row.command),
            row.runs.to_string(),
            format!("{:.2}", row.weir_ms),
            format!("{:.2}", row.hyperfine_ms),
            format!("{:+.1} %", (row.weir_ms / row.hyperfine_ms - 1.0) * 100.0),
            format!("{:.2}", row.weir_overhead_ms),
            format!("{:.2}", row.hyperfine_overhead_ms),
        ]
    });
    let percent = |part: usize, all: usize| format!("{:.2} %", part as f64 * 100.0 / all.max(1) as f64);
    let checked = results.checked.iter().map(|row| {
        vec![
            row.noise.clone(),
            thousands(row.pairs as f64),
            percent(row.alarms, row.pairs),
            percent(row.found, row.pairs),
        ]
    });
    let changes = results.changes.iter().map(|row| {
        vec![
            row.side.clone(),
            row.changes.to_string(),
            row.told.to_string(),
            format!("{:.3}", row.hits as f64 / row.told.max(1) as f64),
            format!("{:.3}", row.hits as f64 / row.changes.max(1) as f64),
            format!("{:.2}", row.seconds),
        ]
    });
    [
        table(&["an operation, CPU time", "1 thread, ns", "8 threads, ns"], &recording.collect::<Vec<_>>()),
        format!(
            "{} operations under {} label sets: {:.1} MiB more while recording, {:.1} MiB peak of the process with a drain, {:.0} ns each.\n",
            thousands(memory.operations as f64),
            thousands(memory.label_sets as f64),
            memory.recording_mib,
            memory.peak_mib,
            memory.operation_ns
        ),
        table(
            &["command", "runs", "weir, median ms", "hyperfine", "difference", "weir, ms beside a run", "hyperfine"],
            &timed.collect::<Vec<_>>(),
        ),
        table(&["noise of a run", "pairs", "false alarms", "slowdown of 5 % found"], &checked.collect::<Vec<_>>()),
        format!(
            "The best of all tests, which knows the noise and may give 0.25 % false alarms, finds {} under the last noise.\n",
            percent(results.found_at_best, results.checked.first().map_or(0, |row| row.pairs))
        ),
        table(&["change points", "there are", "told", "precision", "recall", "seconds"], &changes.collect::<Vec<_>>()),
    ]
    .join("\n")
}
