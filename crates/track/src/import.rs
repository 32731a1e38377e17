//! Reads what other tools measured: hyperfine, pytest-benchmark, Google Benchmark and criterion (JSON), JUnit (XML), Go
//! benchmarks (text), and CSV with `timestamp,operation,duration_ms`.
//!
//! Where a tool kept single runs they come as single rows; where it kept only a mean, one row is one mean, with the label
//! `measured=mean`. What has no time of its own gets the caller's.

mod junit;

use std::collections::BTreeMap;

use serde_json::Value;
use weir_base::Timestamp;

use crate::row::{Finished, Labels};
use crate::{Error, Result};

/// Most rows of one file.
pub const ROWS_MAX: usize = 5_000_000;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `hyperfine --export-json`.
    Hyperfine,
    /// `pytest --benchmark-json`.
    PytestBenchmark,
    /// `--benchmark_format=json`.
    GoogleBenchmark,
    /// `sample.json` of criterion, or its `--message-format=json` lines.
    Criterion,
    /// JUnit XML.
    Junit,
    /// `go test -bench`.
    Go,
    /// Columns `timestamp`, `operation`, `duration_ms`, and labels.
    Csv,
}

impl Format {
    /// The format called `name`.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "hyperfine" => Self::Hyperfine,
            "pytest-benchmark" => Self::PytestBenchmark,
            "google-benchmark" => Self::GoogleBenchmark,
            "criterion" => Self::Criterion,
            "junit" => Self::Junit,
            "go" => Self::Go,
            "csv" => Self::Csv,
            _ => return None,
        })
    }

    /// What the bytes look like; none when like nothing known.
    pub fn guess(text: &str) -> Option<Self> {
        let start = text.trim_start_matches('\u{feff}').trim_start();
        if start.starts_with('<') {
            return Some(Self::Junit);
        }
        if start.starts_with('{') {
            let has = |key: &str| text.contains(&format!("\"{key}\""));
            return match () {
                () if has("pytest-benchmark") || (has("machine_info") && has("benchmarks")) => {
                    Some(Self::PytestBenchmark)
                }
                () if has("real_time") || (has("context") && has("benchmarks")) => Some(Self::GoogleBenchmark),
                () if has("benchmark-complete") || has("sampling_mode") => Some(Self::Criterion),
                () if has("results") => Some(Self::Hyperfine),
                () => None,
            };
        }
        if text.lines().any(|line| line.starts_with("Benchmark") && line.contains("ns/op")) {
            return Some(Self::Go);
        }
        start.lines().next().filter(|head| head.contains("duration_ms")).map(|_| Self::Csv)
    }
}

/// What was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Imported {
    /// Operations.
    pub rows: Vec<Finished>,
    /// What could not be read, one sentence each.
    pub refused: Vec<String>,
}

/// Reads `bytes` as `format`, or as what they look like; `now` is for what has no time of its own.
///
/// # Errors
/// `invalid` when the bytes are not of the format.
pub fn read(bytes: &[u8], format: Option<Format>, now: Timestamp) -> Result<Imported> {
    let text = std::str::from_utf8(bytes).map_err(|error| Error::wrap(weir_base::Kind::Invalid, "not UTF-8", error))?;
    let format = format.or_else(|| Format::guess(text));
    let format = format.ok_or_else(|| Error::invalid("not a format that is known; say which with --format"))?;
    let mut imported = Imported::default();
    match format {
        Format::Hyperfine => hyperfine(&parse(text)?, now, &mut imported)?,
        Format::PytestBenchmark => pytest(&parse(text)?, now, &mut imported)?,
        Format::GoogleBenchmark => google(&parse(text)?, now, &mut imported)?,
        Format::Criterion => criterion(text, now, &mut imported)?,
        Format::Junit => junit::read(text, now, &mut imported)?,
        Format::Go => go(text, now, &mut imported),
        Format::Csv => csv(text, &mut imported)?,
    }
    if imported.rows.len() > ROWS_MAX {
        return Err(Error::new(weir_base::Kind::Limit, format!("the file holds more than {ROWS_MAX} operations")));
    }
    let digest = weir_base::checksum::hex(&weir_base::checksum::blake3(bytes)[..8]);
    for (at, row) in imported.rows.iter_mut().enumerate() {
        row.count = 1;
        row.id = Some(format!("import-{digest}-{at}"));
        row.run = Some(format!("import-{digest}"));
    }
    Ok(imported)
}

fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|error| Error::wrap(weir_base::Kind::Invalid, "not JSON", error))
}

fn array<'a>(value: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    value[name].as_array().ok_or_else(|| Error::invalid(format!("there is no list \"{name}\"")))
}

fn label_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn labels_of(value: &Value) -> Labels {
    let pairs = value.as_object().into_iter().flatten();
    pairs.filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.clone(), label_text(value))).collect()
}

/// A row of a duration in nanoseconds; none unless it is a sensible number.
fn row(name: &str, labels: Labels, end_ns: Timestamp, nanoseconds: f64) -> Option<Finished> {
    let sensible = nanoseconds.is_finite() && (0.0..1e18).contains(&nanoseconds) && !name.is_empty();
    sensible.then(|| Finished {
        name: name.to_owned(),
        labels,
        end_ns,
        duration_ns: nanoseconds as u64,
        ..Finished::default()
    })
}

impl Imported {
    fn take(&mut self, what: &str, row: Option<Finished>) {
        match row {
            Some(row) => self.rows.push(row),
            None => self.refused.push(format!("{what}: no name or no duration")),
        }
    }
}

fn time_of(value: &Value) -> Option<Timestamp> {
    instant(value.as_str()?)
}

/// A time as tools write it: RFC 3339, the same without a zone (then UTC), or seconds or milliseconds since 1970.
fn instant(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return i64::try_from(time.as_nanosecond()).ok();
    }
    if let Ok(time) = text.parse::<jiff::civil::DateTime>() {
        let time = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
        return i64::try_from(time.as_nanosecond()).ok();
    }
    let number: f64 = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0)?;
    // Seconds since 1970 pass 1e11 in the year 5138, milliseconds did in 1973.
    let seconds = if number < 1e11 { number } else { number / 1e3 };
    (seconds < 9e9).then(|| (seconds * 1e6).round() as i64 * 1000)
}

fn hyperfine(value: &Value, now: Timestamp, into: &mut Imported) -> Result<()> {
    for result in array(value, "results")? {
        let name = result["command"].as_str().unwrap_or_default();
        let labels = labels_of(&result["parameters"]);
        let Some(times) = result["times"].as_array() else {
            let mut labels = labels;
            labels.insert("measured".into(), "mean".into());
            into.take(name, result["mean"].as_f64().and_then(|mean| row(name, labels, now, mean * 1e9)));
            continue;
        };
        for (at, time) in times.iter().enumerate() {
            let mut taken = time.as_f64().and_then(|time| row(name, labels.clone(), now + at as i64, time * 1e9));
            if let Some(taken) = &mut taken {
                taken.failures = u64::from(result["exit_codes"][at].as_i64().is_some_and(|code| code != 0));
                if let Some(bytes) = result["memory_usage_byte"][at].as_f64() {
                    taken.measures.insert("peak_memory_bytes".into(), bytes);
                }
            }
            into.take(name, taken);
        }
    }
    Ok(())
}

fn pytest(value: &Value, now: Timestamp, into: &mut Imported) -> Result<()> {
    let time = time_of(&value["datetime"]).unwrap_or(now);
    for bench in array(value, "benchmarks")? {
        let name = bench["fullname"].as_str().or_else(|| bench["name"].as_str()).unwrap_or_default();
        let mut labels = labels_of(&bench["params"]);
        if let Some(group) = bench["group"].as_str() {
            labels.insert("group".into(), group.to_owned());
        }
        if let Some(commit) = value["commit_info"]["id"].as_str() {
            labels.insert("ref".into(), commit.to_owned());
        }
        if let Some(data) = bench["stats"]["data"].as_array() {
            for (at, seconds) in data.iter().enumerate() {
                into.take(name, seconds.as_f64().and_then(|s| row(name, labels.clone(), time + at as i64, s * 1e9)));
            }
        } else {
            labels.insert("measured".into(), "mean".into());
            into.take(name, bench["stats"]["mean"].as_f64().and_then(|mean| row(name, labels, time, mean * 1e9)));
        }
    }
    Ok(())
}

fn google(value: &Value, now: Timestamp, into: &mut Imported) -> Result<()> {
    let time = time_of(&value["context"]["date"]).unwrap_or(now);
    for (at, bench) in array(value, "benchmarks")?.iter().enumerate() {
        // Aggregates are made of the iterations that are there too.
        if bench["run_type"].as_str() == Some("aggregate") {
            continue;
        }
        let name = bench["run_name"].as_str().or_else(|| bench["name"].as_str()).unwrap_or_default();
        let factor = match bench["time_unit"].as_str().unwrap_or("ns") {
            "ns" => 1.0,
            "us" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            _ => f64::NAN,
        };
        let labels = Labels::from([("measured".to_owned(), "mean".to_owned())]);
        let mut taken = bench["real_time"].as_f64().and_then(|real| row(name, labels, time + at as i64, real * factor));
        if let Some(taken) = &mut taken {
            taken.failures = u64::from(bench["error_occurred"].as_bool().unwrap_or(false));
            let rates = [("bytes_per_second", "bytes_per_s"), ("items_per_second", "items_per_s")];
            taken.measures = rates
                .iter()
                .filter_map(|(from, to)| Some(((*to).to_owned(), bench[*from].as_f64()?)))
                .collect::<BTreeMap<_, _>>();
        }
        into.take(name, taken);
    }
    Ok(())
}

fn criterion(text: &str, now: Timestamp, into: &mut Imported) -> Result<()> {
    for (at, value) in serde_json::Deserializer::from_str(text).into_iter::<Value>().enumerate() {
        let value = value.map_err(|error| Error::wrap(weir_base::Kind::Invalid, "not JSON", error))?;
        let lines = value["reason"].as_str();
        if lines.is_some_and(|reason| reason != "benchmark-complete") {
            continue;
        }
        let name = value["id"].as_str().unwrap_or("criterion");
        let (counts, times) = if lines.is_some() {
            (&value["iteration_count"], &value["measured_values"])
        } else {
            (&value["iters"], &value["times"])
        };
        let (Some(counts), Some(times)) = (counts.as_array(), times.as_array()) else {
            return Err(Error::invalid("there are no lists of iterations and times"));
        };
        let unit = match value["unit"].as_str().unwrap_or("ns") {
            "ns" => 1.0,
            "us" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            _ => f64::NAN,
        };
        for (sample, (count, time)) in counts.iter().zip(times).enumerate() {
            let each = count.as_f64().zip(time.as_f64()).map(|(count, time)| time * unit / count);
            let end = now + (at * 100_000 + sample) as i64;
            into.take(name, each.and_then(|each| row(name, Labels::new(), end, each)));
        }
    }
    Ok(())
}

fn go(text: &str, now: Timestamp, into: &mut Imported) {
    let mut package = None;
    for (at, line) in text.lines().enumerate() {
        if let Some(name) = line.strip_prefix("pkg:") {
            package = Some(name.trim().to_owned());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(unit) = words.iter().position(|word| *word == "ns/op").filter(|_| line.starts_with("Benchmark"))
        else {
            continue;
        };
        // The number behind the last dash is GOMAXPROCS, no part of the name.
        let (name, procs) = match words[0].rsplit_once('-') {
            Some((name, procs)) if procs.bytes().all(|byte| byte.is_ascii_digit()) => (name, Some(procs)),
            _ => (words[0], None),
        };
        let mut labels = Labels::from([("measured".to_owned(), "mean".to_owned())]);
        labels.extend(package.clone().map(|package| ("package".to_owned(), package)));
        labels.extend(procs.map(|procs| ("procs".to_owned(), procs.to_owned())));
        let mut taken = words[unit - 1].parse().ok().and_then(|ns| row(name, labels, now + at as i64, ns));
        if let Some(taken) = &mut taken {
            for pair in words[unit + 1..].chunks_exact(2) {
                if let Ok(value) = pair[0].parse::<f64>() {
                    taken.measures.insert(pair[1].replace("/op", "_per_op").replace("/s", "_per_s"), value);
                }
            }
        }
        into.take(name, taken);
    }
}

fn csv(text: &str, into: &mut Imported) -> Result<()> {
    let mut records = csv_records(text.trim_start_matches('\u{feff}'));
    let head = records.next().unwrap_or_default();
    let column = |name: &str| {
        let found = head.iter().position(|own| own.trim() == name);
        found.ok_or_else(|| Error::invalid(format!("there is no column \"{name}\"")))
    };
    let (time, name, duration) = (column("timestamp")?, column("operation")?, column("duration_ms")?);
    for (at, fields) in records.enumerate() {
        let what = format!("record {}", at + 2);
        let field = |column: usize| fields.get(column).map_or("", |field| field.trim());
        let Some(end) = instant(field(time)) else {
            into.refused.push(format!("{what}: '{}' is no time", field(time)));
            continue;
        };
        let mut labels = Labels::new();
        let mut failures = 0;
        for (column, label) in head.iter().enumerate().filter(|(column, _)| ![time, name, duration].contains(column)) {
            match (label.trim(), field(column)) {
                (_, "") | ("", _) => {}
                ("success", value) => {
                    failures = u64::from(matches!(value.to_lowercase().as_str(), "false" | "0" | "no"))
                }
                (label, value) => drop(labels.insert(label.to_owned(), value.to_owned())),
            }
        }
        let ms: Option<f64> = field(duration).parse().ok();
        let mut taken = ms.and_then(|ms| row(field(name), labels, end, ms * 1e6));
        if let Some(taken) = &mut taken {
            taken.failures = failures;
        }
        into.take(&what, taken);
    }
    Ok(())
}

/// Records of RFC 4180: commas, quotes doubled inside quotes, either line end; blank lines are passed over.
fn csv_records(text: &str) -> impl Iterator<Item = Vec<String>> + '_ {
    let mut letters = text.chars().peekable();
    std::iter::from_fn(move || {
        loop {
            letters.peek()?;
            let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
            while let Some(letter) = letters.next() {
                match letter {
                    '"' if quoted && letters.peek() == Some(&'"') => {
                        letters.next();
                        field.push('"');
                    }
                    '"' if quoted || field.is_empty() => quoted = !quoted,
                    ',' if !quoted => fields.push(std::mem::take(&mut field)),
                    '\r' if !quoted && letters.peek() == Some(&'\n') => {}
                    '\n' if !quoted => break,
                    letter => field.push(letter),
                }
            }
            fields.push(field);
            if fields.len() > 1 || !fields[0].trim().is_empty() {
                return Some(fields);
            }
        }
    })
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
