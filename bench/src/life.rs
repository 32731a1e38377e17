//! The figures of `bench/src/bin/life` and their tables.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::query::{ORDER, QueryTimes};
use crate::report;

/// How much longer a question over the long history may take: what is no more than noise.
const GROWTH_MAX: f64 = 1.3;

/// Questions over histories of different lengths.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HistoryResults {
    /// How it was started.
    pub command: String,
    /// Where.
    pub machine: String,
    /// Series.
    pub hosts: u64,
    /// Rounds, of which the median is told.
    pub rounds: u64,
    /// The shortest first.
    pub histories: Vec<History>,
}

/// One length of history.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct History {
    /// Rows, all series together.
    pub rows: u64,
    /// Live files.
    pub files: u64,
    /// Their bytes.
    pub file_bytes: u64,
    /// Seconds from the first row until all of them were in merged files.
    pub load_s: f64,
    /// Highest resident size of the server, while it was asked.
    pub peak_memory_bytes: u64,
    /// Milliseconds by question.
    pub times: BTreeMap<String, QueryTimes>,
}

/// A row for each question, a column for each length.
pub fn history_table(results: &HistoryResults) -> String {
    let Some((short, long)) = results.histories.first().zip(results.histories.last()) else { return String::new() };
    let names = results.histories.iter().map(|one| format!("{} rows", report::thousands(one.rows as f64)));
    let names: Vec<String> = std::iter::once("median ms".to_owned())
        .chain(names)
        .chain(["long / short", "cold, short", "cold, long"].map(str::to_owned))
        .collect();
    let head: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut rows = Vec::new();
    let mut grown = Vec::new();
    for shape in ORDER {
        let Some((few, many)) = short.times.get(shape).zip(long.times.get(shape)) else { continue };
        let growth = many.median_ms / few.median_ms;
        if growth > GROWTH_MAX {
            grown.push(shape);
        }
        let medians = results.histories.iter().map(|one| one.times.get(shape));
        let mut row = vec![shape.to_owned()];
        row.extend(medians.map(|times| times.map_or_else(String::new, |times| format!("{:.1}", times.median_ms))));
        row.extend([format!("{growth:.2}"), format!("{:.1}", few.cold_ms), format!("{:.1}", many.cold_ms)]);
        rows.push(row);
    }
    let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
    let told = |one: &History| {
        format!(
            "{} rows: {} files, {}, written and merged in {:.0} s, peak memory while asked {}",
            report::thousands(one.rows as f64),
            one.files,
            mib(one.file_bytes),
            one.load_s,
            mib(one.peak_memory_bytes),
        )
    };
    let verdict = match grown.is_empty() {
        true => format!("No question takes more than {GROWTH_MAX} times as long"),
        false => format!("More than {GROWTH_MAX} times as long: {}", grown.join(", ")),
    };
    format!(
        "{}\n{} hosts, {} rounds. {}. {verdict}.\n",
        report::table(&head, &rows),
        report::thousands(results.hosts as f64),
        results.rounds,
        results.histories.iter().map(told).collect::<Vec<_>>().join("; "),
    )
}

/// Tables of unusual shapes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShapeResults {
    /// How it was started.
    pub command: String,
    /// Where.
    pub machine: String,
    /// In order.
    pub shapes: Vec<Shape>,
}

/// One shape.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Shape {
    /// In words.
    pub name: String,
    /// Rows, counted by the server in the end.
    pub rows: u64,
    /// Values that are not NULL, tags and times aside.
    pub values: u64,
    /// Seconds until the last row was acknowledged.
    pub written_s: f64,
    /// Seconds until all rows were in files.
    pub in_files_s: f64,
    /// Highest resident size of the server until then.
    pub peak_memory_bytes: u64,
    /// Live files then.
    pub files: u64,
    /// Their bytes.
    pub file_bytes: u64,
    /// Seconds of the compaction of all tables that was asked for then.
    pub compact_s: f64,
    /// Live files after it.
    pub files_compacted: u64,
    /// Their bytes.
    pub file_bytes_compacted: u64,
    /// Highest resident size during compaction and questions.
    pub peak_memory_later_bytes: u64,
    /// From the start of the process until it was ready, with all this in files.
    pub restart_ms: f64,
    /// What was asked, and the median in milliseconds; each answer was checked.
    pub asked: Vec<(String, f64)>,
}

/// A row for each shape, then one for each of its questions.
pub fn shapes_table(results: &ShapeResults) -> String {
    let head = [
        "shape",
        "rows",
        "rows/s",
        "values/s",
        "s until in files",
        "files (merged)",
        "MiB (merged)",
        "peak MiB, writing",
        "peak MiB, later",
        "merged in s",
        "restart ms",
    ];
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    let row = |shape: &Shape| {
        vec![
            shape.name.clone(),
            report::thousands(shape.rows as f64),
            report::thousands(shape.rows as f64 / shape.written_s),
            report::thousands(shape.values as f64 / shape.written_s),
            format!("{:.1}", shape.in_files_s),
            format!("{} ({})", report::thousands(shape.files as f64), report::thousands(shape.files_compacted as f64)),
            format!("{} ({})", mib(shape.file_bytes), mib(shape.file_bytes_compacted)),
            format!("{:.0}", shape.peak_memory_bytes >> 20),
            format!("{:.0}", shape.peak_memory_later_bytes >> 20),
            format!("{:.1}", shape.compact_s),
            format!("{:.0}", shape.restart_ms),
        ]
    };
    let shapes: Vec<Vec<String>> = results.shapes.iter().map(row).collect();
    let asked = results.shapes.iter().flat_map(|shape| {
        let row = |(question, ms): &(String, f64)| vec![shape.name.clone(), question.clone(), format!("{ms:.1}")];
        shape.asked.iter().map(row)
    });
    let asked: Vec<Vec<String>> = asked.collect();
    report::table(&head, &shapes) + "\n" + &report::table(&["shape", "question", "median ms"], &asked)
}
