//! Figures for people and for machines: a table on the terminal, a JSON file per run, and the page made from them.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::load::Outcome;

/// The runs of one command, as kept in a result file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    /// The command that made them.
    pub command: String,
    /// The machine: cores, memory, system.
    pub machine: String,
    /// One per target.
    pub outcomes: Vec<Outcome>,
}

/// One kind of start, measured some times.
#[derive(Debug, Serialize, Deserialize)]
pub struct Start {
    /// What there was to read.
    pub what: String,
    /// Rows counted after each start.
    pub rows: u64,
    /// Size of the log before the start.
    pub log_bytes: u64,
    /// Size of the tables before the start.
    pub files_bytes: u64,
    /// From the start of the process until it was ready.
    pub ready_ms: Vec<f64>,
    /// The first count of all rows and sum of a field after that.
    pub count_ms: Vec<f64>,
}

/// The starts of one command, as kept in a result file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Starts {
    /// The command that made them.
    pub command: String,
    /// The machine.
    pub machine: String,
    /// One per kind.
    pub starts: Vec<Start>,
}

/// Appends of batches to one store, by `bench/rivals/journal`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Appends {
    /// The store and its durability.
    pub store: String,
    /// Batches of 100 records.
    pub batches: u64,
    /// Mean time of an append.
    pub mean_ms: f64,
    /// Median time of an append.
    pub median_ms: f64,
    /// Of 100 appends, 99 took at most this.
    pub p99_ms: f64,
    /// Median time of the last tenth of the appends over that of the first tenth.
    pub last_over_first_tenth_medians: f64,
    /// The mean time of bare writes of the same bytes over that of this store.
    pub share_of_bare: Option<f64>,
    /// The same of the medians.
    pub share_of_bare_medians: Option<f64>,
    /// Bytes of the records as JSON Lines over what the store takes on the disk.
    pub json_over_stored: f64,
}

/// The appends and the large journal of one command, as kept in a result file.
#[derive(Debug, Serialize, Deserialize)]
pub struct JournalResults {
    /// The command that made them.
    pub command: String,
    /// The machine.
    pub machine: String,
    /// One per store, durability and number of batches.
    pub appends: Vec<Appends>,
    /// What was measured on a large journal, by name.
    pub large: serde_json::Map<String, serde_json::Value>,
}

/// Appends of all stores side by side, then the large journal.
pub fn journal_tables(results: &JournalResults) -> String {
    let head = [
        "store",
        "batches",
        "ms, mean",
        "median",
        "p99",
        "last / first tenth",
        "of bare, mean (median)",
        "JSON / stored",
    ];
    let share = |append: &Appends| match (append.share_of_bare, append.share_of_bare_medians) {
        (Some(mean), Some(median)) => format!("{:.0} % ({:.0} %)", mean * 100.0, median * 100.0),
        _ => "-".to_owned(),
    };
    let rows: Vec<Vec<String>> = results
        .appends
        .iter()
        .map(|append| {
            vec![
                append.store.clone(),
                thousands(append.batches as f64),
                format!("{:.3}", append.mean_ms),
                format!("{:.3}", append.median_ms),
                format!("{:.3}", append.p99_ms),
                format!("{:.2}", append.last_over_first_tenth_medians),
                share(append),
                format!("{:.1}", append.json_over_stored),
            ]
        })
        .collect();
    let large: Vec<Vec<String>> = results
        .large
        .iter()
        .map(|(name, value)| {
            let figure = value.as_f64().unwrap_or(f64::NAN);
            let whole = value.is_u64();
            let text = if whole { thousands(figure) } else { format!("{figure:.3}") };
            vec![name.replace('_', " "), text]
        })
        .collect();
    table(&head, &rows) + "\n" + &table(&["a large journal, lz4", ""], &large)
}

/// A body parsed many times, by `bench parse`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Parse {
    /// Of the lines.
    pub shape: String,
    /// Mean bytes of a line.
    pub line_bytes: u64,
    /// Of the best round: megabytes of text for each second of CPU time.
    pub best_mb_per_s: f64,
    /// Of the median round.
    pub median_mb_per_s: f64,
    /// Rows of the median round.
    pub median_million_rows_per_s: f64,
    /// Best round of the public parser for Rust over the same body.
    pub rival_mb_per_s: Option<f64>,
}

/// The shapes of one command, as kept in a result file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Parses {
    /// The command that made them.
    pub command: String,
    /// The machine.
    pub machine: String,
    /// One per shape.
    pub parses: Vec<Parse>,
}

/// The shapes side by side.
pub fn parses_table(results: &Parses) -> String {
    let head =
        ["shape", "bytes/line", "MB/s, median (best)", "M rows/s", "public parser MB/s, best", "ratio of the best"];
    let rows: Vec<Vec<String>> = results
        .parses
        .iter()
        .map(|parse| {
            vec![
                parse.shape.clone(),
                parse.line_bytes.to_string(),
                format!("{:.0} ({:.0})", parse.median_mb_per_s, parse.best_mb_per_s),
                format!("{:.2}", parse.median_million_rows_per_s),
                parse.rival_mb_per_s.map_or_else(|| "-".to_owned(), |rival| format!("{rival:.0}")),
                parse
                    .rival_mb_per_s
                    .map_or_else(|| "-".to_owned(), |rival| format!("{:.1}", parse.best_mb_per_s / rival)),
            ]
        })
        .collect();
    table(&head, &rows)
}

/// The starts side by side.
pub fn starts_table(results: &Starts) -> String {
    let head = ["what", "rows", "log MiB", "files MiB", "ready, median (max) ms", "first count and sum, median ms"];
    let rows: Vec<Vec<String>> = results
        .starts
        .iter()
        .map(|start| {
            let max = start.ready_ms.iter().copied().fold(0.0, f64::max);
            vec![
                start.what.clone(),
                thousands(start.rows as f64),
                (start.log_bytes >> 20).to_string(),
                (start.files_bytes >> 20).to_string(),
                format!("{:.0} ({max:.0})", median(&start.ready_ms)),
                format!("{:.0}", median(&start.count_ms)),
            ]
        })
        .collect();
    table(&head, &rows)
}

/// The middle of some figures, the larger of two; not a number without any.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The command that made a result, without the place of the binary on this machine.
pub fn command(name: &str) -> String {
    let mut words = vec![format!("cargo xtask bench {name} --")];
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--weir" {
            arguments.next();
        } else {
            words.push(argument);
        }
    }
    words.join(" ")
}

/// Cores, memory and system of this machine in a few words.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or(0);
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |pair| pair.1);
    format!("{cores} cores ({model}), {} GiB of memory", kibibytes >> 20)
}

/// Writes results as JSON.
pub fn save<T: Serialize>(path: &Path, results: &T) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let text = serde_json::to_string_pretty(results)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// A Markdown table; also readable as it is.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(index, name)| rows.iter().map(|row| row[index].chars().count()).chain([name.len()]).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    let mut line = |cells: Vec<&str>| {
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(out, "| {cell:width$} ");
        }
        out.push_str("|\n");
    };
    line(head.to_vec());
    let dashes: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    line(dashes.iter().map(String::as_str).collect());
    for row in rows {
        line(row.iter().map(String::as_str).collect());
    }
    out
}

/// The runs side by side.
pub fn ingest_table(results: &Results) -> String {
    let head = [
        "target",
        "answered means",
        "rows/s answered",
        "rows/s until in files",
        "p50 / p99 / max ms",
        "refused",
        "server CPU s/M rows",
        "client CPU s/M rows",
        "peak MiB",
        "bytes/value",
        "counted",
    ];
    let rows: Vec<Vec<String>> = results.outcomes.iter().map(row).collect();
    table(&head, &rows)
}

fn row(outcome: &Outcome) -> Vec<String> {
    let bytes = match outcome.bytes_per_value_compacted {
        Some(compacted) => format!("{:.2} ({compacted:.2} merged)", outcome.bytes_per_value),
        None => format!("{:.2}", outcome.bytes_per_value),
    };
    vec![
        outcome.target.clone(),
        outcome.promise.clone(),
        thousands(outcome.acknowledged_rows_per_second),
        outcome.flushed_rows_per_second.map_or_else(|| "-".to_owned(), thousands),
        format!("{:.1} / {:.1} / {:.1}", outcome.latency_p50_ms, outcome.latency_p99_ms, outcome.latency_max_ms),
        outcome.refused_requests.to_string(),
        format!("{:.2}", outcome.server_cpu_seconds_per_million_rows),
        format!("{:.2}", outcome.client_cpu_seconds_per_million_rows),
        (outcome.peak_memory_bytes >> 20).to_string(),
        bytes,
        if outcome.verified { "yes" } else { "-" }.to_owned(),
    ]
}

/// The bare write and sync of each run, in one line.
pub fn sync_line(outcome: &Outcome) -> String {
    let costs: Vec<String> = outcome
        .bare_sync
        .iter()
        .map(|cost| {
            format!(
                "{} KiB {:.2} ms (p99 {:.2})",
                cost.write_bytes >> 10,
                cost.p50_micros as f64 / 1e3,
                cost.p99_micros as f64 / 1e3
            )
        })
        .collect();
    format!("bare write + fdatasync before {}: {}", outcome.target, costs.join(", "))
}

/// `1234567.8` as `1,234,568`.
pub fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `20M` and `500k` as numbers.
pub fn parse_count(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        Some(b'k') => (&text[..text.len() - 1], 1_000),
        _ => (text, 1),
    };
    let count: u64 = digits.parse().map_err(|_| format!("{text:?} is not a count like 20M"))?;
    count.checked_mul(factor).ok_or_else(|| format!("{text:?} is too large"))
}

/// Puts `content` between the marks `<!-- NAME -->` and `<!-- /NAME -->` of a page.
pub fn replace_section(page: &str, name: &str, content: &str) -> anyhow::Result<String> {
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let start = page.find(&open).with_context(|| format!("the page has no {open:?}"))? + open.len();
    let end = start + page[start..].find(&close).with_context(|| format!("the page has no {close:?}"))?;
    Ok(format!("{}{content}{}", &page[..start], &page[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_digits() {
        assert_eq!(thousands(999.4), "999");
        assert_eq!(thousands(1_234_567.8), "1,234,568");
        assert_eq!(parse_count("20M"), Ok(20_000_000));
        assert_eq!(parse_count("7"), Ok(7));
        assert!(parse_count("M").is_err());
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[9.0, 1.0, 5.0]), 5.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn replaces_only_the_named_section() {
        let page = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n";
        assert_eq!(replace_section(page, "x", "new\n").unwrap(), "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n");
        assert!(replace_section(page, "y", "").is_err());
    }

    #[test]
    fn tables_line_up() {
        let text = table(&["a", "bbb"], &[vec!["é".to_owned(), "2".to_owned()]]);
        assert_eq!(text, "| a | bbb |\n| - | --- |\n| é | 2   |\n");
    }
}
