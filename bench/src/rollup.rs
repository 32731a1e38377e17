//! The figures of `bench/src/bin/rollup.rs` and their table.

use serde::{Deserialize, Serialize};

use crate::report;

/// What the question over a year by day is to take, said beforehand.
const GOAL_MS: f64 = 20.0;

/// A question both ways.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RollupAsked {
    /// In words.
    pub question: String,
    /// Rows of the answer.
    pub rows: u64,
    /// Median with the rollup.
    pub rollup_ms: f64,
    /// Median over the table alone.
    pub table_ms: f64,
}

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RollupResults {
    /// How it was started.
    pub command: String,
    /// Where.
    pub machine: String,
    /// Rows of the table.
    pub rows: u64,
    /// Rounds, of which the median is told.
    pub rounds: u64,
    /// Size of the table's files.
    pub table_bytes: u64,
    /// Size of the rollup's.
    pub rollup_bytes: u64,
    /// Rows of the rollup.
    pub rollup_rows: u64,
    /// Seconds to fill it.
    pub refresh_s: f64,
    /// The times.
    pub asked: Vec<RollupAsked>,
}

/// A row for each question.
pub fn table(results: &RollupResults) -> String {
    let head = ["median ms", "rows of the answer", "with the rollup", "the table alone", "table / rollup"];
    let row = |asked: &RollupAsked| {
        vec![
            asked.question.clone(),
            asked.rows.to_string(),
            format!("{:.1}", asked.rollup_ms),
            format!("{:.1}", asked.table_ms),
            format!("{:.1}", asked.table_ms / asked.rollup_ms),
        ]
    };
    let rows: Vec<Vec<String>> = results.asked.iter().map(row).collect();
    let met = results.asked.first().is_some_and(|first| first.rollup_ms <= GOAL_MS);
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    format!(
        "{}\n{} rows, {}; the rollup: {} rows, {}, filled in {:.1} s; {} rounds. The goal, a year by day in {GOAL_MS} ms, is {}.\n",
        report::table(&head, &rows),
        report::thousands(results.rows as f64),
        mib(results.table_bytes),
        report::thousands(results.rollup_rows as f64),
        mib(results.rollup_bytes),
        results.refresh_s,
        results.rounds,
        if met { "reached" } else { "not reached" },
    )
}
