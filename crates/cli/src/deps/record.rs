//! What stays of a check: the recorded run, its rows in the database `weir`, and alerts about it.
//!
//! A check writes one file and goes on; the rows reach the tables `deps_runs` and `deps_findings` when the next command
//! opens that database (`weir sql --db weir`), at once where a server holds the folder or `--record now` is given.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use indicatif::ProgressBar;
use weir_base::{OsFileSystem, OsRandom, SystemClock};
use weir_deps::alert::{self, Alert};
use weir_deps::check::Report;
use weir_deps::history;
use weir_deps::index::http::{Http, HttpOptions};

use super::input;
use crate::exit::Exit;
use crate::folder::Target;
use crate::runtime;
use crate::session::{Purpose, Session, socket_of};
use crate::terminal::Terminal;

/// The database that the rows go to.
const DATABASE: &str = "weir";

/// When a run's rows are written to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    /// When the database is opened next; at once where a server holds the folder.
    Later,
    /// Before the command ends.
    Now,
    /// The run is not recorded.
    Off,
}

/// Flags for recording.
#[derive(Debug, clap::Args)]
pub(super) struct RecordArgs {
    /// When the run is written to the tables deps_runs and deps_findings of the database `weir`.
    #[arg(long, value_enum, value_name = "WHEN", default_value = "later")]
    pub(super) record: When,
    /// Name of the history that the run belongs to [default: the path of the input].
    #[arg(long, value_name = "NAME")]
    pub(super) project: Option<String>,
}

/// Flags for alerts.
#[derive(Debug, clap::Args)]
pub(super) struct AlertArgs {
    /// Alert when the cache had a smaller share of the packages than this, though there was a run before.
    #[arg(long, value_name = "SHARE", default_value = "0.5")]
    hit_ratio_min: f64,
    /// Append alerts to this file, one JSON document a line.
    #[arg(long, value_name = "FILE")]
    alert_log: Option<PathBuf>,
    /// POST the alerts of a run as one JSON document to this address.
    #[arg(long, value_name = "URL", env = "WEIR_DEPS_WEBHOOK", hide_env_values = true)]
    webhook: Option<String>,
    /// Exit 1 when there is an alert.
    #[arg(long)]
    fail_on_alert: bool,
}

/// The folder of recorded runs.
pub(super) fn runs_folder() -> anyhow::Result<PathBuf> {
    Ok(input::data_folder()?.join("deps").join("runs"))
}

/// The name of a report's history: as given, else the absolute path of what was read.
pub(super) fn project_of(given: Option<&String>, report: &Report) -> String {
    given.cloned().unwrap_or_else(|| {
        let path = std::path::absolute(&report.source).unwrap_or_else(|_| PathBuf::from(&report.source));
        path.display().to_string()
    })
}

/// Keeps the run.
pub(super) fn keep(args: &RecordArgs, report: &Report, terminal: &Terminal) -> anyhow::Result<()> {
    if args.record == When::Off {
        return Ok(());
    }
    let kept = runs_folder().and_then(|runs| Ok(history::record(&OsFileSystem, &runs, report)?));
    if args.record == When::Now {
        kept.context("the run is not recorded")?;
        return send(terminal).context("the run is kept, but not in the database yet");
    }
    // A history that cannot be written fails no check.
    if let Err(error) = kept {
        terminal.warn(format!("the run is not recorded: {error:#}"));
    } else if socket_of(&input::data_folder()?).exists()
        && let Err(error) = send(terminal)
    {
        terminal.warn(format!("the run is kept, but not in the database yet: {error:#}"));
    }
    Ok(())
}

/// Opens the database and writes the rows of all runs that are not in it.
fn send(terminal: &Terminal) -> anyhow::Result<()> {
    let target = Target { data: Some(input::data_folder()?), ..Target::default() };
    runtime::block_on(async {
        let mut session = Session::open(&target, Purpose::Write, "weir deps", terminal).await?;
        let outcome = send_unsent(&mut session, &runs_folder()?, terminal).await;
        session.close(terminal).await;
        outcome
    })
}

/// What `weir sql --db weir` does first: writes the rows of recorded runs that are not in the database yet. A failure is a
/// warning, as what is asked for may be something else.
pub(crate) async fn send_before_query(session: &mut Session, target: &Target, database: &str, terminal: &Terminal) {
    if database != DATABASE || target.server.is_some() {
        return;
    }
    let Ok(data) = crate::folder::data_folder(target.data.as_ref()) else { return };
    if let Err(error) = send_unsent(session, &data.join("deps").join("runs"), terminal).await {
        terminal.warn(format!("recorded runs of `weir deps` are not in the database yet: {error:#}"));
    }
}

async fn send_unsent(session: &mut Session, runs: &Path, terminal: &Terminal) -> anyhow::Result<()> {
    for path in history::unsent(&OsFileSystem, runs)? {
        match history::read(&OsFileSystem, &path) {
            Ok(report) => {
                let text = history::lines(&report);
                let totals =
                    crate::write::load(session, DATABASE, text.as_bytes(), &ProgressBar::hidden(), terminal).await?;
                anyhow::ensure!(totals.refused == 0, "{} rows of {} were refused", totals.refused, path.display());
            }
            Err(error) => terminal.warn(format!("a recorded run is lost: {}", weir_base::error::chain(&error))),
        }
        history::mark_sent(&OsFileSystem, &path)?;
    }
    Ok(())
}

/// Tells of the alerts: on stderr, in the log, to the webhook. Whether there were any that must fail the command.
pub(super) fn tell(
    args: &AlertArgs,
    before: Option<&Report>,
    report: &Report,
    terminal: &Terminal,
) -> anyhow::Result<Exit> {
    let alerts = alert::alerts(before, report, args.hit_ratio_min);
    if alerts.is_empty() {
        return Ok(Exit::Done);
    }
    for Alert { kind, message, .. } in &alerts {
        terminal.warn(format!("{}: {message}", kind.word()));
    }
    let document = alert::document(report, &alerts);
    if let Some(file) = &args.alert_log {
        append(file, &document).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(url) = &args.webhook
        && let Err(error) = post(url, &document)
    {
        terminal.warn(format!("the alerts did not reach the webhook: {error:#}"));
    }
    Ok(if args.fail_on_alert { Exit::Failed } else { Exit::Done })
}

#[allow(clippy::disallowed_methods, reason = "appends to a log of the user's, which other processes append to as well")]
fn append(file: &Path, line: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
    file.write_all(format!("{line}\n").as_bytes())
}

fn post(url: &str, document: &str) -> anyhow::Result<()> {
    let (clock, random) = (SystemClock::default(), OsRandom);
    let options = HttpOptions {
        request_timeout: Duration::from_secs(5),
        deadline: Duration::from_secs(10),
        ..HttpOptions::default()
    };
    let status = Http::new(options, &clock, &random)?.post(url, document)?;
    anyhow::ensure!((200..300).contains(&status), "it answered {status}");
    Ok(())
}
