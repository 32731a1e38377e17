//! Runs that were recorded: one JSON file each, and the rows of the tables `deps_runs` and `deps_findings`.
//!
//! The folder holds `<time>.json`, the oldest removed past [`RUNS_MAX`]; `docs/formats/deps-runs.md` has the fields.

use std::path::{Path, PathBuf};

use weir_base::{FileSystem, Kind};

use crate::check::Report;
use crate::{Error, Result};

/// Runs that are kept.
pub const RUNS_MAX: usize = 500;
/// Largest recorded run, bytes.
pub const RUN_BYTES_MAX: u64 = 256 << 20;

/// Writes a run and removes the oldest past [`RUNS_MAX`].
pub fn record(fs: &dyn FileSystem, dir: &Path, report: &Report) -> Result<PathBuf> {
    let io = |path: &Path| {
        let shown = path.display().to_string();
        move |error| Error::io(format!("cannot write {shown}"), error)
    };
    fs.create_dir_all(dir).map_err(io(dir))?;
    let path = dir.join(format!("{:020}.json", report.time.max(0)));
    let bytes =
        serde_json::to_vec(report).map_err(|error| Error::wrap(Kind::Internal, "cannot encode the report", error))?;
    fs.replace(&path, &bytes).map_err(io(&path))?;
    let mut runs = list(fs, dir)?;
    let past = runs.len().saturating_sub(RUNS_MAX);
    for old in runs.drain(..past) {
        fs.remove_file(&old).map_err(io(&old))?;
    }
    Ok(path)
}

/// The recorded runs, oldest first.
pub fn list(fs: &dyn FileSystem, dir: &Path) -> Result<Vec<PathBuf>> {
    let mut runs = match fs.list(dir) {
        Ok(runs) => runs,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Error::io(format!("cannot list {}", dir.display()), error)),
    };
    runs.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    runs.sort();
    Ok(runs)
}

/// The last run of the same source before the given time.
pub fn last(fs: &dyn FileSystem, dir: &Path, source: &str, before: weir_base::Timestamp) -> Result<Option<Report>> {
    for path in list(fs, dir)?.iter().rev().take(RUNS_MAX) {
        match read(fs, path) {
            Ok(report) if report.source == source && report.time < before => return Ok(Some(report)),
            // A damaged run is older history lost, not a failed check.
            _ => {}
        }
    }
    Ok(None)
}

/// Reads a run, or a report that `weir deps check --format json` printed.
pub fn read(fs: &dyn FileSystem, path: &Path) -> Result<Report> {
    let io = |error| Error::io(format!("cannot read {}", path.display()), error);
    if fs.metadata(path).map_err(io)?.len > RUN_BYTES_MAX {
        return Err(Error::new(Kind::Limit, format!("{} is larger than 256 MiB", path.display())));
    }
    let bytes = fs.read(path).map_err(io)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::wrap(Kind::Invalid, format!("{} is not a report", path.display()), error))
}

/// The run as line protocol for `weir write`: one row of `deps_runs`, one of `deps_findings` for each package with its
/// licence and worst finding.
pub fn lines(report: &Report) -> String {
    let s = report.summary;
    let mut text = format!(
        "deps_runs,source={},profile={} packages={}i,approved={}i,restricted={}i,unlisted={}i,prohibited={}i,unknown={}i,deny={}i,warn={}i {}\n",
        tag(&report.source),
        tag(&report.profile),
        s.packages,
        s.approved,
        s.restricted,
        s.unlisted,
        s.prohibited,
        s.unknown,
        s.deny,
        s.warn,
        report.time
    );
    for one in &report.packages {
        let finding = one.findings.first();
        text.push_str(&format!(
            "deps_findings,source={},package={} version={},license={},rung={},confidence={},verdict={},level={},finding={},message={} {}\n",
            tag(&report.source),
            tag(&one.name),
            field(&one.version),
            field(one.license.as_deref().unwrap_or("")),
            field(one.rung.word()),
            one.confidence,
            field(one.verdict.word()),
            field(one.level.word()),
            field(finding.map_or("", |finding| finding.code.word())),
            field(finding.map_or("", |finding| finding.message.as_str())),
            report.time
        ));
    }
    text
}

fn tag(text: &str) -> String {
    let text = if text.is_empty() { "-" } else { text };
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            ',' | '=' | ' ' => escaped.extend(['\\', c]),
            '\\' => escaped.push('/'),
            c if c.is_control() => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}

fn field(text: &str) -> String {
    let escaped: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("\"{}\"", escaped.replace('\\', "\\\\").replace('"', "\\\""))
}
