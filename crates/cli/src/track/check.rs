//! `weir track check`: did operations get slower? Told to people, to CI, and by the exit code.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::json;
use weir_base::{FileSystem, Kind};
use weir_track::compare::{self, Comparison, RUNS_MIN, Rule, Verdict};
use weir_track::{Finished, Labels, import};

use super::history::{self, Folder};
use crate::client::Refused;
use crate::exit::Exit;
use crate::terminal::{self, Terminal};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weir track check --name build --baseline branch=main --candidate branch=feature
  weir track check --baseline last-30 --threshold 3%
  weir track check --baseline bench.json --format github

Exit codes: 0 nothing got slower; 1 something did; 3 there is nothing to compare. Fewer runs than could
show a slowdown of the threshold are said so, with how many would.")]
pub(super) struct Args {
    /// Only operations of this name [default: all that both sides have].
    #[arg(long)]
    name: Option<String>,
    /// What to compare with: labels k=v[,k=v], last-N (the N operations before the candidate's), a file that `import`
    /// reads, or the value of label `ref`.
    #[arg(long, value_name = "K=V|last-N|FILE|REF")]
    baseline: String,
    /// What to judge, in the same words [default: the newest series of runs].
    #[arg(long, value_name = "K=V|FILE|REF")]
    candidate: Option<String>,
    /// The slowdown that matters.
    #[arg(long, default_value = "5%", value_parser = super::fraction)]
    threshold: f64,
    /// The slowdown that matters for one operation, as NAME=10% (repeatable).
    #[arg(long, value_parser = threshold_for, value_name = "NAME=PERCENT")]
    threshold_for: Vec<(String, f64)>,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// The same as --format json.
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Also write a JUnit report to this file.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    #[command(flatten)]
    folder: Folder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Format {
    /// Sentences for people.
    #[default]
    Text,
    /// An array of objects.
    Json,
    /// Sentences as annotations of GitHub Actions.
    Github,
}

fn threshold_for(text: &str) -> Result<(String, f64)> {
    let (name, value) = super::label(text)?;
    Ok((name, super::fraction(&value)?))
}

/// One side of the comparison.
enum Side {
    Labels(Labels),
    Last(usize),
    Rows(Vec<Finished>),
    /// The newest series of runs of each operation.
    Newest,
}

impl Side {
    fn parse(text: &str) -> Result<Self> {
        if let Some(count) = text.strip_prefix("last-").and_then(|count| count.parse().ok()) {
            return Ok(Self::Last(count));
        }
        if text.contains('=') {
            return Ok(Self::Labels(super::labels(&text.split(',').map(super::label).collect::<Result<Vec<_>>>()?)));
        }
        let path = std::path::Path::new(text);
        if path.is_file() {
            let bytes = weir_base::OsFileSystem.read(path).with_context(|| format!("cannot read {text}"))?;
            return Ok(Self::Rows(import::read(&bytes, None, 0)?.rows));
        }
        Ok(Self::Labels(Labels::from([("ref".to_owned(), text.to_owned())])))
    }
}

/// What was found about one operation.
struct Finding {
    name: String,
    outcome: Result<Comparison, String>,
    /// Failures of the candidate, of how many.
    failures: (u64, u64),
}

impl Finding {
    fn regressed(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|found| found.verdict == Verdict::Regression)
    }

    /// It sometimes works and sometimes does not.
    fn flaky(&self) -> bool {
        self.failures.0 > 0 && self.failures.0 < self.failures.1
    }

    fn sentence(&self) -> String {
        let mut text = match &self.outcome {
            Ok(found) => found.sentence(&self.name),
            Err(why) => format!("{}: not compared, {why}", self.name),
        };
        if self.flaky() {
            let _ = write!(text, "; it is flaky: {} of {} runs failed", self.failures.0, self.failures.1);
        }
        text
    }
}

pub(super) fn run(args: &Args, terminal: &Terminal) -> Result<Exit> {
    let baseline = Side::parse(&args.baseline)?;
    let candidate = args.candidate.as_deref().map_or(Ok(Side::Newest), Side::parse)?;
    anyhow::ensure!(
        !matches!(candidate, Side::Last(_)),
        "--candidate cannot be last-N; leave it out for the newest runs"
    );
    let wanted = |row: &Finished| args.name.as_ref().is_none_or(|name| *name == row.name);
    let history = history::read(&args.folder, wanted, terminal)?;
    let findings = judge(args, &history.finished, &baseline, &candidate);
    if findings.is_empty() {
        let name = args.name.as_deref().unwrap_or("any operation");
        let message = format!("there are no runs of {name} on both sides: see `weir track report`");
        return Err(Refused { kind: Kind::NotFound, message, retry_after: None }.into());
    }
    if let Some(path) = &args.junit {
        super::deliver(&junit(&findings), Some(path))?;
    }
    let format = if args.json { Format::Json } else { args.format };
    terminal::print(match format {
        Format::Json => format!("{}\n", serde_json::to_string(&findings.iter().map(to_json).collect::<Vec<_>>())?),
        Format::Text => findings.iter().map(|finding| finding.sentence() + "\n").collect(),
        Format::Github => findings.iter().map(annotation).collect(),
    })?;
    Ok(if findings.iter().any(Finding::regressed) { Exit::Failed } else { Exit::Done })
}

fn judge(args: &Args, rows: &[Finished], baseline: &Side, candidate: &Side) -> Vec<Finding> {
    let in_files = [baseline, candidate].into_iter().filter_map(|side| match side {
        Side::Rows(rows) => Some(rows.as_slice()),
        _ => None,
    });
    let names: BTreeSet<&str> = rows
        .iter()
        .chain(in_files.flatten())
        .map(|row| row.name.as_str())
        .filter(|name| args.name.as_deref().is_none_or(|wanted| wanted == *name))
        .collect();
    let thresholds: BTreeMap<&str, f64> = args.threshold_for.iter().map(|(name, value)| (&**name, *value)).collect();
    let mut findings = Vec::new();
    for name in names {
        let own: Vec<&Finished> = rows.iter().filter(|row| row.name == name).collect();
        let candidates = take(candidate, name, &own, &[]);
        let baselines = take(baseline, name, &own, &candidates);
        if baselines.is_empty() || candidates.is_empty() {
            continue;
        }
        let rule = Rule { threshold: thresholds.get(name).copied().unwrap_or(args.threshold) };
        let count = |of: fn(&Finished) -> u64| candidates.iter().map(|row| of(row)).sum::<u64>();
        let failures = (count(|row| row.failures), count(|row| row.count));
        let outcome = compared(&baselines, &candidates, rule);
        findings.push(Finding { name: name.to_owned(), outcome, failures });
    }
    findings
}

fn take<'a>(side: &'a Side, name: &str, own: &[&'a Finished], others: &[&Finished]) -> Vec<&'a Finished> {
    match side {
        Side::Labels(labels) => {
            let has = |row: &&&Finished| labels.iter().all(|(label, value)| row.labels.get(label) == Some(value));
            own.iter().filter(has).copied().collect()
        }
        Side::Rows(rows) => rows.iter().filter(|row| row.name == name).collect(),
        Side::Newest => {
            let Some(newest) = own.last() else { return Vec::new() };
            own.iter()
                .filter(|row| row.run == newest.run && (row.run.is_some() || row.id == newest.id))
                .copied()
                .collect()
        }
        Side::Last(count) => {
            let first = others.iter().map(|row| row.end_ns).min().unwrap_or(i64::MAX);
            let before: Vec<&Finished> = own.iter().filter(|row| row.end_ns < first).copied().collect();
            before[before.len().saturating_sub(*count)..].to_vec()
        }
    }
}

fn compared(baselines: &[&Finished], candidates: &[&Finished], rule: Rule) -> Result<Comparison, String> {
    let pairs = pairs(baselines, candidates);
    let (base, cand, paired) = match pairs {
        Some((base, cand)) => (base, cand, true),
        None => (durations(baselines), durations(candidates), false),
    };
    for (side, runs) in [("baseline", &base), ("candidate", &cand)] {
        if runs.len() < RUNS_MIN {
            return Err(format!("the {side} has {} runs that worked and {RUNS_MIN} are the fewest", runs.len()));
        }
    }
    compare::compare(&base, &cand, paired, rule).map_err(|error| error.to_string())
}

/// Runs of the same round and series, where both sides have them throughout.
fn pairs(baselines: &[&Finished], candidates: &[&Finished]) -> Option<(Vec<f64>, Vec<f64>)> {
    let by_round = |rows: &[&Finished]| -> Option<BTreeMap<(String, u32), f64>> {
        rows.iter().map(|row| Some(((row.run.clone()?, row.round?), row.duration_ms()))).collect()
    };
    if baselines.iter().chain(candidates).any(|row| row.failures > 0 || row.count != 1) {
        return None;
    }
    let (base, cand) = (by_round(baselines)?, by_round(candidates)?);
    (base.len() == baselines.len() && base.keys().eq(cand.keys()))
        .then(|| (base.into_values().collect(), cand.into_values().collect()))
}

/// Durations of what worked; summed rows by their buckets.
fn durations(rows: &[&Finished]) -> Vec<f64> {
    let mut all = Vec::new();
    for row in rows.iter().filter(|row| row.failures < row.count) {
        if row.count == 1 {
            all.push(row.duration_ms());
            continue;
        }
        let mut sketch = weir_track::sketch::Sketch::default();
        if row.add_to(&mut sketch) {
            for (bucket, count) in sketch.buckets() {
                let count = usize::try_from(count).unwrap_or(usize::MAX).min(compare::RUNS_MAX);
                all.extend(std::iter::repeat_n(weir_track::sketch::value_of(bucket) / 1e6, count));
            }
        }
    }
    all.retain(|ms| *ms > 0.0);
    all
}

fn to_json(finding: &Finding) -> serde_json::Value {
    let (found, error) = match &finding.outcome {
        Ok(found) => (Some(found), None),
        Err(why) => (None, Some(why)),
    };
    json!({
        "name": finding.name,
        "regression": finding.regressed(),
        "sentence": finding.sentence(),
        "flaky": finding.flaky(),
        "failures": finding.failures.0,
        "comparison": found,
        "method": found.map(|found| found.method.describe()),
        "not_compared": error,
    })
}

/// A line that GitHub Actions turns into an annotation.
fn annotation(finding: &Finding) -> String {
    let level = match &finding.outcome {
        Ok(found) if found.verdict == Verdict::Regression => "error",
        Ok(found) if found.verdict != Verdict::Unsure && !finding.flaky() => "notice",
        _ => "warning",
    };
    let escaped = finding.sentence().replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let title = finding.name.replace('%', "%25").replace(':', "%3A").replace(',', "%2C").replace(['\r', '\n'], " ");
    format!("::{level} title={title}::{escaped}\n")
}

fn junit(findings: &[Finding]) -> String {
    let failed = findings.iter().filter(|finding| finding.regressed()).count();
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"weir track check\" tests=\"{}\" failures=\"{failed}\">\n",
        findings.len()
    );
    for finding in findings {
        let seconds = finding.outcome.as_ref().map_or(0.0, |found| found.candidate_ms / 1e3);
        let (name, text) = (weir_track::html::escaped(&finding.name), weir_track::html::escaped(&finding.sentence()));
        let _ = write!(out, "  <testcase classname=\"performance\" name=\"{name}\" time=\"{seconds}\">");
        let _ = match &finding.outcome {
            _ if finding.regressed() => write!(out, "<failure message=\"{text}\"/>"),
            Ok(_) => write!(out, "<system-out>{text}</system-out>"),
            Err(_) => write!(out, "<skipped message=\"{text}\"/>"),
        };
        out.push_str("</testcase>\n");
    }
    out + "</testsuite>\n"
}
