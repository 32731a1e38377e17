//! The cache beside its rivals: the same keys, sizes and processes for each, every answer checked.
//!
//! `cache all` does everything, in about six minutes. `cache run` starts worker processes of this program (and of
//! `bench/rivals/cache_diskcache.py`) that work on one folder for a fixed time, engines taking turns. `cache extras` measures
//! what only the cache has: the size query, batches, bytes of index per entry; `cache contention` the handing over of one
//! lock; `cache start` the command line; `cache hits` eviction beside the published algorithm.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark measures real files and the real clock, and prints"
)]

mod cells;
mod engines;
mod extras;
#[path = "../../../../crates/cache/tests/cache/traces.rs"]
mod traces;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use weir_bench::figures::{Figure, Figures};
use weir_bench::report;

use cells::{Fill, Plan};

#[derive(Parser)]
struct Cli {
    /// A result file; what it holds of other runs stays.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
    /// Where folders are made and removed.
    #[arg(long, global = true, default_value = "target/bench-cache")]
    dir: PathBuf,
    #[command(subcommand)]
    command: Mode,
}

#[derive(Args)]
struct Table {
    /// Seconds per cell.
    #[arg(long, default_value_t = 0.25)]
    seconds: f64,
    /// Engines.
    #[arg(long, value_delimiter = ',', default_value = "weir,sqlite,files,cacache,diskcache,redis,redb")]
    engines: Vec<String>,
    /// Value sizes, bytes.
    #[arg(long, value_delimiter = ',', default_value = "512,4096,65536,1048576")]
    sizes: Vec<usize>,
    /// Processes.
    #[arg(long, value_delimiter = ',', default_value = "1,4")]
    processes: Vec<usize>,
    /// Rounds per cell, engines taking turns; the median counts.
    #[arg(long, default_value_t = 2)]
    rounds: usize,
}

#[derive(Args)]
struct Start {
    /// The released binary; without it the command line is left out of `all`.
    #[arg(long)]
    weir: Option<PathBuf>,
    /// Entries in the cache.
    #[arg(long, default_value_t = 1_000_000)]
    entries: u64,
    /// Starts of each command.
    #[arg(long, default_value_t = 41)]
    starts: usize,
}

#[derive(Subcommand)]
enum Mode {
    /// Everything below.
    All {
        #[command(flatten)]
        table: Table,
        #[command(flatten)]
        start: Start,
    },
    /// The table, half full and full.
    Run(Table),
    /// Processes that want one lock: the kernel's queue beside exponential backoff.
    Contention,
    /// `weir cache size` and `get` beside an empty process, taking turns.
    Start(Start),
    /// What only the cache has.
    Extras,
    /// Eviction on traces.
    Hits,
    /// One worker of the table.
    #[command(hide = true)]
    Worker {
        engine: String,
        folder: PathBuf,
        size: usize,
        work: String,
        seed: u64,
        seconds: f64,
        limit: u64,
        may_miss: u8,
    },
    /// One process that takes the lock.
    #[command(hide = true)]
    Contender { wait: String, path: PathBuf, turns: usize, start_ns: u64 },
}

/// Processes that want the lock, and how often each takes it.
const CONTENDERS: (usize, usize) = (8, 25);
/// Entries beside which the size query and the index are measured.
const ENTRIES: u64 = 200_000;

fn load() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

/// Puts the figures of this run in the place of older ones of the same name.
fn keep(path: &Path, load: f64, figures: Vec<Figure>) -> anyhow::Result<()> {
    let mut all = if path.exists() { serde_json::from_slice(&std::fs::read(path)?)? } else { Figures::default() };
    all.machine = report::machine();
    // A command that is run again replaces its figures, and itself.
    let command = report::command("cache");
    all.commands.retain(|earlier| !earlier.starts_with(&format!("{command} (")));
    all.commands.push(format!("{command} (load before: {load})"));
    let is_new = |old: &Figure| !figures.iter().any(|new| new.what == old.what && new.engine == old.engine);
    all.figures.retain(is_new);
    all.figures.extend(figures);
    report::save(path, &all)
}

impl Table {
    fn run(&self, dir: &Path, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
        for fill in [Fill::Half, Fill::Full] {
            let plan = Plan {
                dir,
                seconds: self.seconds,
                rounds: self.rounds,
                engines: &self.engines,
                processes: &self.processes,
                fill,
            };
            self.sizes.iter().try_for_each(|size| plan.run(*size, figures))?;
        }
        Ok(())
    }
}

impl Start {
    fn run(&self, dir: &Path, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
        let Some(weir) = &self.weir else {
            println!("the command line is left out: --weir is not given");
            return Ok(());
        };
        within(dir, |dir| extras::starts(dir, weir, self.entries, self.starts, figures))
    }
}

/// Runs in a fresh folder below `dir` and removes it.
fn within(dir: &Path, run: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let folder = dir.join(format!("part-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let outcome = run(&folder);
    std::fs::remove_dir_all(&folder)?;
    outcome
}

fn main() -> anyhow::Result<()> {
    let Cli { json, dir, command } = Cli::parse();
    // Sockets of Redis need a whole path.
    let dir = std::path::absolute(dir)?;
    let (load, mut figures) = (load()?, Vec::new());
    let lock = |figures: &mut _| within(&dir, |dir| extras::contention(dir, CONTENDERS.0, CONTENDERS.1, figures));
    let own = |figures: &mut _| within(&dir, |dir| extras::extras(dir, ENTRIES, figures));
    let hits = |figures: &mut _| within(&dir, |dir| extras::hit_ratios(dir, figures));
    match command {
        Mode::All { table, start } => {
            table.run(&dir, &mut figures)?;
            own(&mut figures)?;
            lock(&mut figures)?;
            hits(&mut figures)?;
            start.run(&dir, &mut figures)?;
        }
        Mode::Run(table) => table.run(&dir, &mut figures)?,
        Mode::Contention => lock(&mut figures)?,
        Mode::Start(start) => start.run(&dir, &mut figures)?,
        Mode::Extras => own(&mut figures)?,
        Mode::Hits => hits(&mut figures)?,
        Mode::Worker { engine, folder, size, work, seed, seconds, limit, may_miss } => {
            let mut engine = engines::open(&engine, &folder, seed, limit)?;
            return cells::work(&mut *engine, size, &work, seed, seconds, may_miss > 0);
        }
        Mode::Contender { wait, path, turns, start_ns } => return extras::contend(&wait, &path, turns, start_ns),
    }
    match json {
        Some(path) => keep(&path, load, figures),
        None => Ok(()),
    }
}
