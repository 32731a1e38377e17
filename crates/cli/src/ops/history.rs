//! Where the history is, how it is opened, and how a run is bounded: flags that `weir ops` and `weir access` share.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use weir_base::{Clock, SystemClock};
use weir_journal::Lost;
use weir_ops::{Env, History, Options, Policy, RunOptions, Step, View};
use weir_track::Progress;

use super::output::Format;
use crate::config::Config;
use crate::embedded::OPERATIONS;
use crate::exit::Exit;
use crate::folder::{Open, Target, data_folder};
use crate::terminal::Terminal;
use crate::track::progress::{ProgressForm, Teller};

/// Which history.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct HistoryArgs {
    /// Data folder that holds the history [default: the platform's, as `weir doctor` tells].
    #[arg(long, env = "WEIR_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Configuration [default: DIR/weir.toml, if it is there].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl HistoryArgs {
    /// The folder of the history.
    pub(crate) fn dir(&self) -> Result<PathBuf> {
        Ok(data_folder(self.data.as_ref())?.join(OPERATIONS))
    }

    fn settings(&self, terminal: &Terminal) -> Result<Config> {
        let open = Open { store: None, config: self.config.clone() };
        Config::load(&data_folder(self.data.as_ref())?, &open, terminal)
    }

    /// The database beside the history, whose tables operations change.
    pub(crate) fn database(&self) -> Target {
        let open = Open { store: None, config: self.config.clone() };
        Target { data: self.data.clone(), open, ..Target::default() }
    }

    /// For reading.
    pub(crate) fn view(&self, terminal: &Terminal) -> Result<(View, Config)> {
        let config = self.settings(terminal)?;
        let view = View::open(Env::system(), &self.dir()?)?;
        Ok((view.with_memory(config.operations.memory_bytes_max.bytes()), config))
    }

    /// For writing; only one process at a time.
    pub(crate) fn open(&self, owner: &str, terminal: &Terminal) -> Result<(History, Config)> {
        let config = self.settings(terminal)?;
        let options = Options { chain: config.operations.chain, ..Options::default() };
        let owner = format!("{owner} (pid {})", std::process::id());
        let (history, recovery) = History::open(Env::system(), &self.dir()?, &owner, options)?;
        if let Some(torn) = recovery.torn {
            let file = torn.file.display();
            terminal.warn(format!("cut {} torn bytes at byte {} of {file}", torn.bytes, torn.offset));
        }
        Ok((history, config))
    }
}

/// How a run is confirmed, bounded and told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RunArgs {
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Show the plan and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Entries that are worked on at once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Longest time of the run, seconds; what is left can be resumed.
    #[arg(long, default_value_t = 14_400, value_name = "SECONDS")]
    deadline_s: u64,
    /// How progress is told on stderr.
    #[arg(long, value_enum, default_value_t = ProgressForm::Auto)]
    pub(crate) progress: ProgressForm,
    /// Form of the answer.
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) format: Format,
}

impl RunArgs {
    /// Tells how far `work` is, which calls what it is given after each of `total` entries.
    pub(crate) fn told<T>(
        &self,
        total: u64,
        terminal: &Terminal,
        work: impl FnOnce(&(dyn Fn(u32, Step) + Sync)) -> T,
    ) -> T {
        let progress = Progress::new("entries", Some(total));
        let teller = Teller::start(&progress, self.progress, terminal);
        let outcome = work(&|_, _| progress.add(1));
        progress.finish();
        teller.stop();
        outcome
    }

    /// The bounds of the run.
    pub(crate) fn options(&self) -> RunOptions<'static> {
        RunOptions {
            concurrency: usize::from(self.concurrency),
            deadline: Duration::from_secs(self.deadline_s),
            ..RunOptions::default()
        }
    }

    /// Asks whether to go on.
    ///
    /// # Errors
    /// When the answer is no, or there is nobody to ask.
    pub(crate) fn confirm(&self, entries: usize) -> Result<()> {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            bail!("{entries} entries would be changed: give --yes, or --dry-run to see them");
        }
        write!(std::io::stderr(), "change {entries} entries? [y/N] ")?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if !matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
            bail!("nothing was changed");
        }
        Ok(())
    }
}

/// What to do where the world moved.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DriftArgs {
    /// Where the state is not what the history left: refuse everything, skip those entries, or overwrite.
    #[arg(long, value_enum, default_value = "refuse")]
    drift: Drift,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Drift {
    Refuse,
    Skip,
    Force,
}

impl DriftArgs {
    /// As the core calls it.
    pub(crate) fn policy(&self) -> Policy {
        match self.drift {
            Drift::Refuse => Policy::Refuse,
            Drift::Skip => Policy::Skip,
            Drift::Force => Policy::Force,
        }
    }
}

/// Who is asking: the user's name and machine, as far as they are known.
pub(crate) fn actor() -> String {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let user = ["USER", "LOGNAME"].into_iter().find_map(set);
    user.map_or_else(|| "unknown".to_owned(), |user| user.to_string_lossy().into_owned())
}

/// A time (RFC 3339, or a date), or an age such as `90m`, `7d`.
pub(crate) fn time_of(text: &str) -> Result<i64> {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    if let Ok(count) = number.parse::<i64>() {
        let unit = match &text[number.len()..] {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 604_800,
            other => bail!("'{other}' is not a unit of time: s, m, h, d or w"),
        };
        let age = count.saturating_mul(unit).saturating_mul(1_000_000_000);
        return Ok(SystemClock::default().now().saturating_sub(age));
    }
    let timestamp = text.parse::<jiff::Timestamp>().or_else(|_| {
        let date: jiff::civil::Date = text.parse()?;
        date.to_zoned(jiff::tz::TimeZone::UTC).map(|zoned| zoned.timestamp())
    });
    let timestamp = timestamp.with_context(|| format!("'{text}' is neither a time nor an age such as 7d"))?;
    i64::try_from(timestamp.as_nanosecond()).context("the time is out of range")
}

/// Warns of what damage hides; the exit code that says so.
pub(crate) fn tell_lost(lost: &[Lost], terminal: &Terminal) -> Exit {
    for lost in lost {
        let file = lost.file.display();
        terminal.warn(format!("{file}: {} bytes at {} are damaged: {}", lost.bytes, lost.offset, lost.what));
    }
    if lost.is_empty() { Exit::Done } else { Exit::Damaged }
}

/// Writes a file atomically.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    use weir_base::FileSystem;
    let path = if path.parent() == Some(Path::new("")) { Path::new(".").join(path) } else { path.to_path_buf() };
    weir_base::OsFileSystem.replace(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a file.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    use weir_base::FileSystem;
    weir_base::OsFileSystem.read(path).with_context(|| format!("cannot read {}", path.display()))
}
