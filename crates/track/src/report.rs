//! Groups rows and says what each took: counts exact, quantiles within 1 %.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use weir_base::Timestamp;

use crate::compare::{self, Rule, Verdict};
use crate::row::{Finished, Labels};
use crate::sketch::Sketch;

/// Points of a group that are kept for its trend and charts; of more, evenly spaced ones.
const POINTS_MAX: usize = 4096;

/// Slices of a sparkline.
pub const SPARK: usize = 24;

/// Which rows, grouped by what.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Only operations of this name.
    pub name: Option<String>,
    /// Only operations with all of these labels.
    pub labels: Labels,
    /// Only operations that ended at or after this time.
    pub since: Option<Timestamp>,
    /// Only operations that ended before this time.
    pub until: Option<Timestamp>,
    /// Groups are by name, and by these too.
    pub by: Vec<By>,
}

/// What to group by, besides the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// The value of a label.
    Label(String),
    /// The day (UTC).
    Day,
}

impl Query {
    /// Whether a row is asked for.
    pub fn takes(&self, row: &Finished) -> bool {
        self.name.as_ref().is_none_or(|name| *name == row.name)
            && self.since.is_none_or(|since| row.end_ns >= since)
            && self.until.is_none_or(|until| row.end_ns < until)
            && self.labels.iter().all(|(label, value)| row.labels.get(label) == Some(value))
    }

    fn key(&self, row: &Finished) -> Vec<(String, String)> {
        let part = |by: &By| match by {
            By::Label(label) => (label.clone(), row.labels.get(label).cloned().unwrap_or_default()),
            By::Day => ("day".to_owned(), day(row.end_ns)),
        };
        self.by.iter().map(part).collect()
    }
}

/// The UTC day of a time, as `2026-01-31`.
pub fn day(time: Timestamp) -> String {
    at(time).map_or_else(|| "?".to_owned(), |time| time.strftime("%Y-%m-%d").to_string())
}

/// A time for people, as `2026-01-31 17:05:09`.
pub fn moment(time: Timestamp) -> String {
    at(time).map_or_else(|| "?".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

fn at(time: Timestamp) -> Option<jiff::Zoned> {
    let time = jiff::Timestamp::from_nanosecond(i128::from(time)).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC))
}

/// Durations over time, thinned evenly when there are too many.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    points: Vec<(Timestamp, f64)>,
    stride: usize,
    seen: usize,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { points: Vec::new(), stride: 1, seen: 0 }
    }
}

impl Timeline {
    fn push(&mut self, time: Timestamp, ms: f64) {
        if self.seen.is_multiple_of(self.stride) {
            if self.points.len() >= POINTS_MAX {
                let mut at = 0;
                self.points.retain(|_| {
                    at += 1;
                    at % 2 == 1
                });
                self.stride *= 2;
            }
            self.points.push((time, ms));
        }
        self.seen += 1;
    }

    /// Points in time's order: when, and how many milliseconds.
    pub fn points(&self) -> Vec<(Timestamp, f64)> {
        let mut points = self.points.clone();
        points.sort_unstable_by_key(|(time, _)| *time);
        points
    }
}

/// What one group took.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Group {
    /// Name of the operations.
    pub name: String,
    /// The other things it is grouped by, with their values.
    pub key: Vec<(String, String)>,
    /// Durations.
    pub sketch: Sketch,
    /// How many failed.
    pub failures: u64,
    /// Items done, where somebody counted.
    pub items: Option<u64>,
    /// Bytes done, where somebody counted.
    pub bytes: Option<u64>,
    /// Durations over time.
    pub timeline: Timeline,
    first_ns: Timestamp,
    last_ns: Timestamp,
}

/// A report: groups in order of name and key.
#[derive(Debug, Clone, Default)]
pub struct Report {
    groups: BTreeMap<(String, Vec<(String, String)>), Group>,
    /// Rows whose durations could not be read; they are in no group.
    pub unreadable: u64,
}

impl Report {
    /// Adds a row, if `query` asks for it.
    pub fn add(&mut self, query: &Query, row: &Finished) {
        if !query.takes(row) {
            return;
        }
        let key = (row.name.clone(), query.key(row));
        let group = self.groups.entry(key).or_insert_with_key(|(name, key)| Group {
            name: name.clone(),
            key: key.clone(),
            first_ns: Timestamp::MAX,
            last_ns: Timestamp::MIN,
            ..Group::default()
        });
        if !group.add(row) {
            self.unreadable += 1;
        }
    }

    /// The groups.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values().filter(|group| group.sketch.count() > 0)
    }
}

impl Group {
    fn add(&mut self, row: &Finished) -> bool {
        if !row.add_to(&mut self.sketch) {
            return false;
        }
        self.failures += row.failures;
        for (own, other) in [(&mut self.items, row.items), (&mut self.bytes, row.bytes)] {
            if let Some(other) = other {
                *own = Some(own.unwrap_or(0) + other);
            }
        }
        let taken = i64::try_from(row.duration_ns).unwrap_or(0);
        let begin = if row.count <= 1 { row.end_ns.saturating_sub(taken) } else { row.end_ns };
        self.first_ns = self.first_ns.min(begin);
        self.last_ns = self.last_ns.max(row.end_ns);
        self.timeline.push(row.end_ns, row.duration_ms());
        true
    }

    /// A quantile in milliseconds.
    pub fn quantile_ms(&self, q: f64) -> Option<f64> {
        self.sketch.quantile(q).map(|ns| ns / 1e6)
    }

    /// The fraction that worked.
    pub fn success_ratio(&self) -> f64 {
        1.0 - self.failures as f64 / self.sketch.count().max(1) as f64
    }

    /// Per second of work, that is of the summed durations; none where nobody counted or nothing was timed.
    pub fn per_second(&self, total: Option<u64>) -> Option<f64> {
        let seconds = self.sketch.sum_ns() as f64 / 1e9;
        total.filter(|_| seconds > 0.0).map(|total| total as f64 / seconds)
    }

    /// Operations per second of the time from the first beginning to the last end; none over no time.
    pub fn rate(&self) -> Option<f64> {
        let seconds = (self.last_ns.saturating_sub(self.first_ns)) as f64 / 1e9;
        (seconds > 0.0).then(|| self.sketch.count() as f64 / seconds)
    }

    /// How the last third compares with the first, as a ratio of medians; none when there is no clear difference or
    /// there are too few operations.
    pub fn trend(&self) -> Option<f64> {
        let points = self.timeline.points();
        let third = points.len() / 3;
        if third < 7 {
            return None;
        }
        let ms = |points: &[(Timestamp, f64)]| points.iter().map(|point| point.1).collect::<Vec<_>>();
        let found =
            compare::compare(&ms(&points[..third]), &ms(&points[points.len() - third..]), false, Rule::default());
        found
            .ok()
            .filter(|found| matches!(found.verdict, Verdict::Regression | Verdict::Improvement))
            .map(|found| found.ratio)
    }

    /// Medians of even slices of its time; none where a slice is empty.
    pub fn spark(&self) -> Vec<Option<f64>> {
        let points = self.timeline.points();
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
        let slices = SPARK.min(points.len());
        let span = (last.0 - first.0).max(1) as f64 * 1.000_001;
        let mut held: Vec<Vec<f64>> = vec![Vec::new(); slices];
        for (time, ms) in &points {
            held[((time - first.0) as f64 / span * slices as f64) as usize].push(*ms);
        }
        held.iter().map(|slice| (!slice.is_empty()).then(|| compare::median(slice))).collect()
    }

    /// The group as JSON: what cannot be told is null (M1).
    pub fn to_json(&self) -> Value {
        let ms = |ns: Option<f64>| ns.map(|ns| ns / 1e6);
        let exact = |ns: Option<u64>| ms(ns.map(|ns| ns as f64));
        let mut told = Map::new();
        told.insert("name".into(), self.name.clone().into());
        for (name, value) in &self.key {
            told.insert(
                if matches!(&**name, "name" | "count") { format!("label_{name}") } else { name.clone() },
                value.clone().into(),
            );
        }
        let rest = json!({
            "count": self.sketch.count(),
            "failures": self.failures,
            "min_ms": exact(self.sketch.min_ns()),
            "mean_ms": ms(self.sketch.mean_ns()),
            "p50_ms": self.quantile_ms(0.5),
            "p95_ms": self.quantile_ms(0.95),
            "p99_ms": self.quantile_ms(0.99),
            "max_ms": exact(self.sketch.max_ns()),
            "total_ms": self.sketch.sum_ns() as f64 / 1e6,
            "success_ratio": self.success_ratio(),
            "operations_per_s": self.rate(),
            "items": self.items,
            "items_per_s": self.per_second(self.items),
            "bytes": self.bytes,
            "bytes_per_s": self.per_second(self.bytes),
            "trend_ratio": self.trend(),
            "first_time": moment(self.first_ns),
            "last_time": moment(self.last_ns),
            "spark_ms": self.spark(),
        });
        if let Value::Object(rest) = rest {
            told.extend(rest);
        }
        Value::Object(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(end: &str, ms: u64) -> Finished {
        let end_ns = end.parse::<jiff::Timestamp>().unwrap().as_nanosecond() as i64;
        let labels = Labels::from([("tool".to_owned(), format!("t{}", ms % 2))]);
        Finished { name: "op".into(), labels, end_ns, duration_ns: ms * 1_000_000, count: 1, ..Finished::default() }
    }

    #[test]
    fn days_and_windows_hold_across_month_and_year_ends() {
        let rows = [
            row("2025-12-31T23:59:59.999999999Z", 1),
            row("2026-01-01T00:00:00Z", 2),
            row("2026-01-31T23:59:59Z", 3),
            row("2026-02-01T00:00:00Z", 4),
            row("2028-02-29T12:00:00Z", 5),
        ];
        let query = Query { by: vec![By::Day], ..Query::default() };
        let mut report = Report::default();
        rows.iter().for_each(|row| report.add(&query, row));
        let days: Vec<_> = report.groups().map(|group| group.key[0].1.clone()).collect();
        assert_eq!(days, ["2025-12-31", "2026-01-01", "2026-01-31", "2026-02-01", "2028-02-29"]);
        let window = Query { since: Some(rows[1].end_ns), until: Some(rows[3].end_ns), ..Query::default() };
        let mut report = Report::default();
        rows.iter().for_each(|row| report.add(&window, row));
        assert_eq!(report.groups().map(|group| group.sketch.count()).collect::<Vec<_>>(), [2]);
        let by_tool = Query { by: vec![By::Label("tool".into())], ..Query::default() };
        let mut report = Report::default();
        rows.iter().for_each(|row| report.add(&by_tool, row));
        let found: Vec<_> = report.groups().map(|group| (group.key[0].1.clone(), group.sketch.count())).collect();
        assert_eq!(found, [("t0".to_owned(), 2), ("t1".to_owned(), 3)]);
    }

    #[test]
    fn a_group_says_what_it_knows_and_null_for_the_rest() {
        let mut report = Report::default();
        for at in 0..100 {
            let mut row = row("2026-01-01T00:00:00Z", if at < 50 { 100 } else { 120 } + at % 7);
            row.end_ns += i64::try_from(at).unwrap() * 1_000_000_000;
            row.failures = u64::from(at == 0);
            report.add(&Query::default(), &row);
        }
        let told = report.groups().next().unwrap().to_json();
        assert_eq!((&told["count"], &told["failures"], &told["items"]), (&json!(100), &json!(1), &Value::Null));
        let p50 = told["p50_ms"].as_f64().unwrap();
        assert!((105.0..=121.0).contains(&p50), "{told}");
        assert!((told["trend_ratio"].as_f64().unwrap() - 1.19).abs() < 0.03, "{told}");
        assert_eq!(told["spark_ms"].as_array().unwrap().len(), SPARK);
    }
}
