//! Runs that were recorded: one file each, and the rows of the tables `deps_runs` and `deps_findings`.
//!
//! The folder holds `<time>-<project>.json.gz`, or `.new.json.gz` as long as the run's rows are not in the database; the
//! oldest are removed past [`RUNS_MAX`]. `docs/formats/deps-runs.md` has the fields.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use weir_base::{FileSystem, Kind};

use crate::check::{Judged, Report};
use crate::finding::Finding;
use crate::package::Ecosystem;
use crate::{Error, Result};

/// Runs that are kept.
pub const RUNS_MAX: usize = 500;
/// Largest recorded run, bytes of JSON.
pub const RUN_BYTES_MAX: u64 = 256 << 20;
/// The end of the name of a run whose rows are not in the database yet.
const UNSENT: &str = ".new.json.gz";
const SENT: &str = ".json.gz";

fn io(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let context = format!("cannot {what} {}", path.display());
    move |error| Error::io(context, error)
}

/// The part of a run's name that says what was checked.
fn project_code(project: &str) -> String {
    weir_base::checksum::hex(&weir_base::checksum::blake3(project.as_bytes())[..6])
}

/// Writes a run, unsent, and removes the oldest past [`RUNS_MAX`]. The report's `project` says whose history it is.
pub fn record(fs: &dyn FileSystem, dir: &Path, report: &Report) -> Result<PathBuf> {
    fs.create_dir_all(dir).map_err(io("make", dir))?;
    let path = dir.join(format!("{:020}-{}{UNSENT}", report.time.max(0), project_code(&report.project)));
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    let json =
        serde_json::to_vec(report).map_err(|error| Error::wrap(Kind::Internal, "cannot encode the report", error))?;
    let packed = packed.write_all(&json).and_then(|()| packed.finish()).map_err(io("pack", &path))?;
    fs.replace(&path, &packed).map_err(io("write", &path))?;
    let mut runs = list(fs, dir)?;
    let past = runs.len().saturating_sub(RUNS_MAX);
    for old in runs.drain(..past) {
        remove(fs, &old)?;
    }
    Ok(path)
}

/// Another process may have been faster.
fn remove(fs: &dyn FileSystem, path: &Path) -> Result<()> {
    match fs.remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The recorded runs, oldest first.
pub fn list(fs: &dyn FileSystem, dir: &Path) -> Result<Vec<PathBuf>> {
    let mut runs = match fs.list(dir) {
        Ok(runs) => runs,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Error::io(format!("cannot list {}", dir.display()), error)),
    };
    runs.retain(|path| name(path).ends_with(SENT));
    runs.sort();
    Ok(runs)
}

/// The runs whose rows are not in the database yet, oldest first.
pub fn unsent(fs: &dyn FileSystem, dir: &Path) -> Result<Vec<PathBuf>> {
    let mut runs = list(fs, dir)?;
    runs.retain(|path| name(path).ends_with(UNSENT));
    Ok(runs)
}

/// Remembers that a run's rows are in the database.
pub fn mark_sent(fs: &dyn FileSystem, path: &Path) -> Result<()> {
    let Some(start) = name(path).strip_suffix(UNSENT) else { return Ok(()) };
    match fs.rename(path, &path.with_file_name(format!("{start}{SENT}"))) {
        // Another process sent it too: the rows are equal, so they are one.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(io("rename", path)),
    }
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The last run of the same project before the given time.
pub fn last(fs: &dyn FileSystem, dir: &Path, project: &str, before: weir_base::Timestamp) -> Result<Option<Report>> {
    let code = project_code(project);
    let runs = list(fs, dir)?;
    for path in runs.iter().rev().filter(|path| name(path).get(21..).is_some_and(|rest| rest.starts_with(&code))) {
        match read(fs, path) {
            Ok(report) if report.project == project && report.time < before => return Ok(Some(report)),
            // A damaged run is older history lost, not a failed check.
            _ => {}
        }
    }
    Ok(None)
}

/// Reads a run, or a report that `weir deps check --format json` printed.
pub fn read(fs: &dyn FileSystem, path: &Path) -> Result<Report> {
    let too_large = || Error::new(Kind::Limit, format!("{} is larger than 256 MiB", path.display()));
    if fs.metadata(path).map_err(io("read", path))?.len > RUN_BYTES_MAX {
        return Err(too_large());
    }
    let mut bytes = fs.read(path).map_err(io("read", path))?;
    if bytes.starts_with(b"\x1f\x8b") {
        let mut inflated = Vec::new();
        let damaged = |error| Error::wrap(Kind::Damaged, format!("{} is damaged", path.display()), error);
        GzDecoder::new(&bytes[..]).take(RUN_BYTES_MAX + 1).read_to_end(&mut inflated).map_err(damaged)?;
        bytes = inflated;
    }
    if bytes.len() as u64 > RUN_BYTES_MAX {
        return Err(too_large());
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::wrap(Kind::Invalid, format!("{} is not a report", path.display()), error))
}

/// The run as line protocol for `weir write`: one row of `deps_runs`, and one of `deps_findings` for each finding; a
/// package without findings has one row too, with the code `-`, so that the table has every licence of every run.
pub fn lines(report: &Report) -> String {
    let s = report.summary;
    let mut text = format!(
        "deps_runs,source={},profile={} packages={}i,approved={}i,restricted={}i,unlisted={}i,prohibited={}i,unknown={}i,deny={}i,warn={}i,cache_hits={}i,cache_misses={}i {}\n",
        tag(&report.project),
        tag(&report.profile),
        s.packages,
        s.approved,
        s.restricted,
        s.unlisted,
        s.prohibited,
        s.unknown,
        s.deny,
        s.warn,
        report.cache.hits,
        report.cache.misses,
        report.time
    );
    for package in &report.packages {
        if package.findings.is_empty() {
            text.push_str(&line(report, Some(package), None, 0));
        }
        for (at, finding) in package.findings.iter().enumerate() {
            let number = package.findings[..at].iter().filter(|one| one.code == finding.code).count();
            text.push_str(&line(report, Some(package), Some(finding), number));
        }
    }
    for (at, finding) in report.findings.iter().enumerate() {
        text.push_str(&line(report, None, Some(finding), at));
    }
    text
}

fn line(report: &Report, package: Option<&Judged>, finding: Option<&Finding>, number: usize) -> String {
    let ecosystem = package.map_or(Ecosystem::Pypi, |package| package.ecosystem);
    let mut text = format!(
        "deps_findings,source={},ecosystem={},package={},version={},code={},number={number} level={}",
        tag(&report.project),
        ecosystem.word(),
        tag(package.map_or("", |package| &package.name)),
        tag(package.map_or("", |package| &package.version)),
        finding.map_or("-", |finding| finding.code.word()),
        field(finding.map_or("allow", |finding| finding.level.word())),
    );
    if let Some(package) = package {
        // What could not be determined is absent (M1).
        if let Some(license) = &package.license {
            text.push_str(&format!(",license={}", field(license)));
        }
        text.push_str(&format!(
            ",rung={},confidence={},verdict={}",
            field(package.rung.word()),
            package.confidence,
            field(package.verdict.word())
        ));
    }
    if let Some(finding) = finding {
        text.push_str(&format!(",message={}", field(&finding.message)));
    }
    text.push_str(&format!(" {}\n", report.time));
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
