//! Where answers go and in which form, and how long each stage took.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use weir_base::{Clock, FileSystem, OsFileSystem, SystemClock};
use weir_deps::check::Report;
use weir_deps::finding::Level;
use weir_deps::policy::Policy;
use weir_deps::{history, report};

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// The whole answer.
    Json,
    /// For pull requests.
    Markdown,
    /// The compliance page.
    Html,
    /// SARIF 2.1.0.
    Sarif,
    /// Annotations of GitHub's workflows.
    Github,
    /// JUnit XML.
    Junit,
    /// CycloneDX 1.5.
    Cyclonedx,
    /// SPDX 2.3.
    Spdx,
    /// NOTICE file with texts.
    Notice,
    /// What pip-licenses prints.
    PipLicensesJson,
    /// Line protocol, for `weir write --db weir`.
    Lines,
}

/// The report in a form.
pub(crate) fn render(format: Format, found: &Report, policy: &Policy, fail_on: Level) -> anyhow::Result<String> {
    Ok(match format {
        Format::Table => report::table::check(found, Level::Warn),
        Format::Json => report::json::report(found),
        Format::Markdown => report::markdown::report(found),
        Format::Html => report::page::report(found, policy),
        Format::Sarif => report::sarif::report(found),
        Format::Github => report::pipeline::github(found),
        Format::Junit => report::pipeline::junit(found, fail_on),
        Format::Cyclonedx => report::bill::cyclonedx(found),
        Format::Spdx => report::bill::spdx(found),
        Format::Notice => report::notice::report(found, &OsFileSystem),
        Format::PipLicensesJson => report::json::pip_licenses(found),
        Format::Lines => history::lines(found),
    })
}

/// Writes to a file (replaced as a whole) or to stdout. A closed pipe is the reader's wish, not an error.
pub(crate) fn write(file: Option<&Path>, text: &str) -> anyhow::Result<()> {
    if let Some(file) = file {
        return Ok(OsFileSystem.replace(file, text.as_bytes())?);
    }
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Durations of stages, in the order they ran.
#[derive(Debug)]
pub(crate) struct Timings {
    clock: SystemClock,
    last: Duration,
    stages: Vec<(&'static str, Duration)>,
}

impl Timings {
    /// Starts now.
    pub(crate) fn new() -> Self {
        let clock = SystemClock::default();
        Self { last: clock.monotonic(), clock, stages: Vec::new() }
    }

    /// Ends a stage.
    pub(crate) fn mark(&mut self, stage: &'static str) {
        let now = self.clock.monotonic();
        self.stages.push((stage, now.saturating_sub(self.last)));
        self.last = now;
    }
}

impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (stage, took) in &self.stages {
            writeln!(f, "{stage:>10} {:>9.2} ms", took.as_secs_f64() * 1e3)?;
        }
        let total: Duration = self.stages.iter().map(|(_, took)| *took).sum();
        write!(f, "{:>10} {:>9.2} ms", "total", total.as_secs_f64() * 1e3)
    }
}
