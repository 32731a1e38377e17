//! `weir track changes`: when operations became slower or faster.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::json;
use weir_track::change::{self, Change, Settings};
use weir_track::compare::{millis, signed_percent};
use weir_track::html;
use weir_track::report::{Query, Report, moment};

use super::history::{self, Folder};
use super::report::Wanted;
use crate::exit::Exit;
use crate::terminal::Terminal;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The method is E-divisive on ranks with a permutation test (Matteson and James, 2014), as in Apache Otava."
)]
pub(super) struct Args {
    #[command(flatten)]
    wanted: Wanted,
    /// Smaller changes do not matter.
    #[arg(long, default_value = "1%", value_parser = super::fraction)]
    change_min: f64,
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
    folder: Folder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Format {
    /// A sentence for each change.
    #[default]
    Text,
    /// An array of objects.
    Json,
    /// A page with charts that needs no network.
    Html,
}

pub(super) fn run(args: &Args, terminal: &Terminal) -> Result<Exit> {
    let query = args.wanted.query(Vec::new());
    let history = history::read(&args.folder, |row| query.takes(row), terminal)?;
    let mut series: BTreeMap<&str, Vec<(i64, f64)>> = BTreeMap::new();
    for row in history.finished.iter().filter(|row| row.failures < row.count) {
        series.entry(&row.name).or_default().push((row.end_ns, row.duration_ms()));
    }
    let settings = Settings { change_min: args.change_min, ..Settings::default() };
    let mut found: BTreeMap<&str, Vec<(i64, Change)>> = BTreeMap::new();
    for (name, points) in &series {
        let values: Vec<f64> = points.iter().map(|point| point.1).collect();
        let changes = change::find(&values, settings).into_iter();
        found.insert(name, changes.map(|change| (points[change.index].0, change)).collect());
    }
    let text = match if args.json { Format::Json } else { args.format } {
        Format::Html => page(&query, &history.finished, &found),
        Format::Text => text(&found, terminal),
        Format::Json => {
            let object = |(name, (time, change)): (&str, &(i64, Change))| {
                json!({
                    "name": name, "time": moment(*time), "index": change.index, "before_ms": change.before, "after_ms": change.after,
                    "ratio": change.ratio, "interval": change.interval, "p": change.p,
                })
            };
            let all = found.iter().flat_map(|(name, changes)| changes.iter().map(move |change| (*name, change)));
            format!("{}\n", serde_json::to_string(&all.map(object).collect::<Vec<_>>())?)
        }
    };
    super::deliver(&text, args.output.as_ref())
}

fn page(query: &Query, rows: &[weir_track::Finished], found: &BTreeMap<&str, Vec<(i64, Change)>>) -> String {
    let mut report = Report::default();
    rows.iter().for_each(|row| report.add(query, row));
    let groups: Vec<_> =
        report.groups().map(|group| (group, found.get(&*group.name).cloned().unwrap_or_default())).collect();
    html::page_with_changes(&groups)
}

fn text(found: &BTreeMap<&str, Vec<(i64, Change)>>, terminal: &Terminal) -> String {
    let mut out = String::new();
    for (name, changes) in found {
        if changes.is_empty() {
            terminal.say(format!("{name} has not changed"));
        }
        for (time, change) in changes {
            let word = if change.ratio > 1.0 { "slower" } else { "faster" };
            let interval = change.interval.map_or(String::new(), |(low, high)| {
                format!(", 99.8 % interval {} to {}", signed_percent(low), signed_percent(high))
            });
            out += &format!(
                "{name} became {word} at {}: median {} -> {} ({}{interval})\n",
                moment(*time),
                millis(change.before),
                millis(change.after),
                signed_percent(change.ratio)
            );
        }
    }
    out
}
