//! The figures of `bench/src/bin/query.rs` and their table.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::report;

/// What `bench/rivals/query.py` prints.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    /// Milliseconds by question and engine.
    pub medians_ms: BTreeMap<String, BTreeMap<String, f64>>,
    /// The same of the round before the first that counts, in which nothing had been asked yet.
    #[serde(default)]
    pub cold_ms: BTreeMap<String, BTreeMap<String, f64>>,
    /// Bytes on disk of the rivals' forms.
    pub bytes: BTreeMap<String, Option<u64>>,
    /// Versions of the rivals.
    pub versions: BTreeMap<String, String>,
    /// Rounds, of which the median is told.
    pub rounds: u64,
    /// Rows a second that came in while each engine was asked.
    #[serde(default)]
    pub beside: BTreeMap<String, f64>,
}

/// The times of one question to one engine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueryTimes {
    /// The median.
    pub median_ms: f64,
    /// The first time that it was asked.
    pub cold_ms: f64,
}

impl Asked {
    /// The times of one engine, by question.
    pub fn of(&self, engine: &str) -> BTreeMap<String, QueryTimes> {
        let times = self.medians_ms.iter().filter_map(|(question, by)| {
            let cold_ms = *self.cold_ms.get(question)?.get(engine)?;
            Some((question.clone(), QueryTimes { median_ms: *by.get(engine)?, cold_ms }))
        });
        times.collect()
    }
}

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueryResults {
    /// How it was started.
    pub command: String,
    /// Where.
    pub machine: String,
    /// Rows that were asked.
    pub rows: u64,
    /// Bytes of Weir's tables.
    pub weir_bytes: u64,
    /// Highest resident size of Weir's server, loading included.
    pub peak_memory_bytes: u64,
    /// The times.
    pub asked: Asked,
}

/// In the order of the suite; others follow.
pub(crate) const ORDER: [&str; 10] = [
    "single-groupby-1-1-1",
    "single-groupby-5-8-1",
    "cpu-max-all-8",
    "double-groupby-1",
    "double-groupby-all",
    "high-cpu-all",
    "lastpoint",
    "groupby-orderby-limit",
    "count-all",
    "newest-rows",
];
const ENGINES: [&str; 5] = ["weir", "duckdb", "duckdb-parquet", "polars", "datafusion"];

/// A row for each question, and the geometric mean of the ratios.
pub fn table(results: &QueryResults) -> String {
    let asked = &results.asked;
    let engines: Vec<&str> =
        ENGINES.into_iter().filter(|engine| asked.medians_ms.values().any(|of| of.contains_key(*engine))).collect();
    let mut head = vec!["median ms"];
    head.extend(&engines);
    head.extend(["duckdb / weir", "weir cold", "duckdb cold"]);
    let mut rows = Vec::new();
    let mut ratios: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for shape in ORDER {
        let Some(of) = asked.medians_ms.get(shape) else { continue };
        let mut row = vec![shape.to_owned()];
        for engine in &engines {
            row.push(of.get(*engine).map_or_else(String::new, |ms| format!("{ms:.1}")));
            if let (Some(theirs), Some(ours)) = (of.get(*engine), of.get("weir")) {
                ratios.entry(engine).or_default().push(theirs / ours);
            }
        }
        let ratio = of.get("duckdb").zip(of.get("weir")).map(|(theirs, ours)| format!("{:.2}", theirs / ours));
        row.push(ratio.unwrap_or_default());
        for engine in ["weir", "duckdb"] {
            let cold = asked.cold_ms.get(shape).and_then(|of| of.get(engine));
            row.push(cold.map_or_else(String::new, |ms| format!("{ms:.1}")));
        }
        rows.push(row);
    }
    let mut last = vec!["time over weir's, geometric mean".to_owned()];
    for engine in &engines {
        let of = ratios.get(engine).map_or(&[][..], Vec::as_slice);
        let mean = (of.iter().map(|ratio| ratio.ln()).sum::<f64>() / of.len().max(1) as f64).exp();
        last.push(format!("{mean:.2}"));
    }
    last.extend([String::new(), String::new(), String::new()]);
    rows.push(last);
    let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
    let theirs: Vec<String> =
        asked.bytes.iter().filter_map(|(name, bytes)| Some(format!("{name} {}", mib((*bytes)?)))).collect();
    let versions: Vec<String> = asked.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let beside: Vec<String> =
        asked.beside.iter().map(|(name, rate)| format!("{name} {}", report::thousands(*rate))).collect();
    let beside = match &beside[..] {
        [] => String::new(),
        rates => format!("rows a second that came in meanwhile: {}; ", rates.join(", ")),
    };
    format!(
        "{}\n{beside}{} rows; on disk: weir {}, {}; weir's peak memory {}; {}; {} rounds.\n",
        report::table(&head, &rows),
        report::thousands(results.rows as f64),
        mib(results.weir_bytes),
        theirs.join(", "),
        mib(results.peak_memory_bytes),
        versions.join(", "),
        asked.rounds,
    )
}
