//! `weir track report`: what operations took, as a table, JSON, CSV, Markdown or a page with charts.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use weir_base::ByteSize;
use weir_track::compare::{millis, signed_percent};
use weir_track::html;
use weir_track::report::{By, Group, Query, Report, moment};

use super::history::{self, Folder, History};
use crate::exit::Exit;
use crate::terminal::Terminal;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weir track report --since 7d
  weir track report --name build --by label:tool --by day --format markdown
  weir track report --format html -o report.html")]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) wanted: Wanted,
    /// Group also by: day, or label:NAME (repeatable). Groups are by operation anyway.
    #[arg(long, value_parser = by, value_name = "BY")]
    by: Vec<By>,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// The same as --format json.
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Write the answer to a file instead of stdout.
    #[arg(long, short)]
    output: Option<PathBuf>,
    #[command(flatten)]
    pub(super) folder: Folder,
}

/// Which operations.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Wanted {
    /// Only operations of this name.
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Only operations with this label, as name=value (repeatable).
    #[arg(long = "label", value_parser = super::label, value_name = "K=V")]
    pub(super) labels: Vec<(String, String)>,
    /// From this time on: RFC 3339, a day (UTC), or how long ago, such as 7d.
    #[arg(long, value_parser = super::moment)]
    pub(super) since: Option<i64>,
    /// Before this time.
    #[arg(long, value_parser = super::moment)]
    pub(super) until: Option<i64>,
}

impl Wanted {
    pub(super) fn query(&self, by: Vec<By>) -> Query {
        let (name, labels) = (self.name.clone(), super::labels(&self.labels));
        Query { name, labels, since: self.since, until: self.until, by }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Table,
    /// An array of objects, one for each group.
    Json,
    /// Comma-separated with a header line.
    Csv,
    /// A Markdown table.
    Markdown,
    /// A page with charts that needs no network.
    Html,
}

fn by(text: &str) -> Result<By> {
    match text.strip_prefix("label:").filter(|name| !name.is_empty()) {
        Some(name) => Ok(By::Label(name.to_owned())),
        None if text == "day" => Ok(By::Day),
        None if text == "operation" => anyhow::bail!("groups are by operation anyway"),
        None => anyhow::bail!("'{text}' is neither day nor label:NAME"),
    }
}

pub(super) fn run(args: &Args, terminal: &Terminal) -> Result<Exit> {
    let query = args.wanted.query(args.by.clone());
    let history = history::read(&args.folder, |row| query.takes(row), terminal)?;
    let mut report = Report::default();
    history.finished.iter().for_each(|row| report.add(&query, row));
    if report.unreadable > 0 {
        terminal.warn(format!("{} summed rows could not be read and are left out", report.unreadable));
    }
    let groups: Vec<&Group> = report.groups().collect();
    tell_open(&history, &query, terminal);
    let format = if args.json { Format::Json } else { args.format };
    if groups.is_empty() && args.wanted.name.is_some() && format != Format::Html {
        terminal.say("no such operation is recorded here for that time");
        if format == Format::Json {
            super::deliver("[]\n", args.output.as_ref())?;
        }
        return Ok(Exit::NotFound);
    }
    let text = match format {
        Format::Json => {
            let told: Vec<_> = groups.iter().map(|group| group.to_json()).collect();
            format!("{}\n", serde_json::to_string(&told)?)
        }
        Format::Table => table(&groups, presets::UTF8_HORIZONTAL_ONLY),
        Format::Markdown => table(&groups, presets::ASCII_MARKDOWN),
        Format::Csv => csv(&groups),
        Format::Html => html::page(&groups),
    };
    super::deliver(&text, args.output.as_ref())
}

fn tell_open(history: &History, query: &Query, terminal: &Terminal) {
    let asked = |started: &&weir_track::Started| {
        query.name.as_ref().is_none_or(|name| *name == started.name)
            && query.labels.iter().all(|(label, value)| started.labels.get(label) == Some(value))
    };
    for started in history.unfinished.iter().filter(asked).rev().take(5) {
        terminal.say(format!("unfinished: {} began {} and never ended", started.name, moment(started.start_ns)));
    }
    let running = history.running.iter().filter(asked).count();
    if running > 0 {
        terminal.say(format!("{running} run right now"));
    }
}

const HEAD: [&str; 13] = [
    "operation",
    "count",
    "failures",
    "min",
    "mean",
    "p50",
    "p95",
    "p99",
    "max",
    "ops/s",
    "items/s",
    "trend",
    "medians",
];

fn title(group: &Group) -> String {
    let key: Vec<String> = group.key.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if key.is_empty() { group.name.clone() } else { format!("{} {}", group.name, key.join(" ")) }
}

fn table(groups: &[&Group], preset: &str) -> String {
    let mut table = Table::new();
    table.load_preset(preset).set_header(HEAD);
    for group in groups {
        let ms = |ms: Option<f64>| ms.map_or("-".to_owned(), millis);
        let told = |ns: Option<f64>| ms(ns.map(|ns| ns / 1e6));
        let exact = |ns: Option<u64>| told(ns.map(|ns| ns as f64));
        let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{rate:.1}"));
        let bytes = group.per_second(group.bytes).map(|rate| format!("{}/s", ByteSize::new(rate as u64)));
        table.add_row([
            title(group),
            group.sketch.count().to_string(),
            group.failures.to_string(),
            exact(group.sketch.min_ns()),
            told(group.sketch.mean_ns()),
            ms(group.quantile_ms(0.5)),
            ms(group.quantile_ms(0.95)),
            ms(group.quantile_ms(0.99)),
            exact(group.sketch.max_ns()),
            rate(group.rate()),
            bytes.unwrap_or_else(|| rate(group.per_second(group.items))),
            group.trend().map_or("steady".to_owned(), signed_percent),
            spark(&group.spark()),
        ]);
    }
    for column in table.column_iter_mut().skip(1).take(10) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}

/// Medians over time as small bars; a gap where nothing ran.
fn spark(medians: &[Option<f64>]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let high = medians.iter().flatten().fold(0f64, |high, ms| high.max(*ms));
    let low = medians.iter().flatten().fold(f64::MAX, |low, ms| low.min(*ms));
    let span = (high - low).max(high * 0.05);
    let bar = |ms: &Option<f64>| ms.map_or(' ', |ms| BARS[(((ms - low) / span * 7.0).round() as usize).min(7)]);
    medians.iter().map(bar).collect()
}

fn csv(groups: &[&Group]) -> String {
    let quoted = |text: &str| {
        if text.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text.to_owned()
        }
    };
    let mut out = String::new();
    for (at, group) in groups.iter().enumerate() {
        let told = group.to_json();
        let Some(fields) = told.as_object() else { continue };
        let fields = || fields.iter().filter(|(name, _)| *name != "spark_ms");
        if at == 0 {
            out.push_str(&fields().map(|(name, _)| quoted(name)).collect::<Vec<_>>().join(","));
            out.push('\n');
        }
        let value = |value: &serde_json::Value| match value {
            serde_json::Value::Null => String::new(),
            serde_json::Value::String(text) => quoted(text),
            other => other.to_string(),
        };
        out.push_str(&fields().map(|(_, field)| value(field)).collect::<Vec<_>>().join(","));
        out.push('\n');
    }
    out
}
