//! `weir track`: how long operations take, whether they got slower, and what to change.

mod advice;
mod changes;
mod check;
pub(crate) mod history;
mod import;
pub(crate) mod progress;
mod report;
mod run;
pub(crate) mod sampling;
mod script;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Subcommand;
use weir_track::Labels;

use crate::exit::Exit;
use crate::terminal::Terminal;

/// Time operations, compare them, report on them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command and record how long it took, how much CPU and memory, and how it ended.
    Run(run::Args),
    /// Begin an operation of a script; prints the id that `finish` wants.
    Start(script::StartArgs),
    /// End an operation that `start` began.
    Finish(script::FinishArgs),
    /// Say what operations took.
    Report(report::Args),
    /// Say whether operations got slower; exit 1 when one did.
    Check(check::Args),
    /// Say when operations became slower or faster, and by how much.
    Changes(changes::Args),
    /// Say what to change, with the evidence.
    Recommend(advice::Args),
    /// Take in what another tool measured.
    Import(import::Args),
    /// Copy what was measured into database `weir`, for `weir sql`.
    Drain(history::Folder),
}

pub(crate) use history::{Folder, Recorder, drain_always, drain_for};

/// Runs `weir track`.
pub(crate) fn run(args: Args, terminal: &Terminal) -> anyhow::Result<Exit> {
    match args.command {
        Command::Run(args) => run::run(&args, terminal),
        Command::Start(args) => script::start(&args),
        Command::Finish(args) => script::finish(&args, terminal),
        Command::Report(args) => report::run(&args, terminal),
        Command::Check(args) => check::run(&args, terminal),
        Command::Changes(args) => changes::run(&args, terminal),
        Command::Recommend(args) => advice::run(&args, terminal),
        Command::Import(args) => import::run(&args, terminal),
        Command::Drain(args) => history::drain_now(&args, terminal),
    }
}

/// `k=v`.
pub(crate) fn label(text: &str) -> anyhow::Result<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => bail!("'{text}' is not name=value"),
    }
}

/// `k=v` pairs, later ones winning.
fn labels(pairs: &[(String, String)]) -> Labels {
    pairs.iter().cloned().collect()
}

/// `5%`, or `0.05`.
fn fraction(text: &str) -> anyhow::Result<f64> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    let value: f64 = number.trim().parse().with_context(|| format!("'{text}' is neither 5% nor 0.05"))?;
    anyhow::ensure!(value > 0.0 && value.is_finite(), "'{text}' is not above zero");
    Ok(value / unit)
}

/// A moment: RFC 3339, a day, or how long ago, such as `7d`.
fn moment(text: &str) -> anyhow::Result<i64> {
    use weir_base::Clock;
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(i64::try_from(time.as_nanosecond())?);
    }
    if let Ok(day) = text.parse::<jiff::civil::Date>() {
        let time = day.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp();
        return Ok(i64::try_from(time.as_nanosecond())?);
    }
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let found = units.iter().find_map(|(unit, seconds)| Some(text.strip_suffix(unit)?.parse::<i64>().ok()? * seconds));
    let seconds = found.with_context(|| format!("'{text}' is no time: use 2026-01-31, 2026-01-31T12:00:00Z or 7d"))?;
    Ok(weir_base::SystemClock::default().now().saturating_sub(seconds.saturating_mul(1_000_000_000)))
}

/// Writes an answer to a file, or to stdout.
fn deliver(text: &str, output: Option<&PathBuf>) -> anyhow::Result<Exit> {
    let Some(path) = output else { return crate::terminal::print(text) };
    use weir_base::FileSystem;
    weir_base::OsFileSystem
        .replace(path, text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Exit::Done)
}
