//! The life of a table, seen from outside: a history that grows, thousands of small overlapping files that become few, and tables of
//! unusual shapes.
//!
//! ```text
//! BENCH_PYTHON=FOLDER/bin/python cargo xtask bench life -- history --json bench/results/history.json
//! cargo xtask bench life -- compaction --json bench/results/compaction.json
//! cargo xtask bench life -- shapes --json bench/results/shapes.json
//! ```
//!
//! Every answer that is timed is compared with what was sent, or with another way to ask for the same.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its figures")]
#![allow(clippy::disallowed_methods, reason = "a benchmark works on the real disk and clock")]

mod compaction;
mod history;
mod lines;
mod shapes;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use serde_json::Value;
use weir_bench::http::Connection;
use weir_bench::load::Place;
use weir_bench::process::Server;
use weir_bench::target::{DATABASE, sql};
use weir_bench::{life, report};

/// Longest wait for any one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1800);
const STOP_WITHIN: Duration = Duration::from_secs(300);

/// Measures how tables fare as they grow, fragment or take unusual shapes.
#[derive(Debug, Parser)]
struct Cli {
    /// What is measured.
    #[command(subcommand)]
    part: Part,
    /// The `weir` binary, built for release.
    #[arg(long, global = true, default_value = "target/release/weir")]
    weir: PathBuf,
    /// Folder for data, removed in the end.
    #[arg(long, global = true)]
    folder: Option<PathBuf>,
    /// Keeps the data, and uses a history again that is there.
    #[arg(long, global = true)]
    keep: bool,
    /// Rounds of questions; the median counts.
    #[arg(long, global = true, default_value_t = 9)]
    rounds: usize,
    /// Where the figures go as JSON.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The same questions over a short and a long history.
    History(history::Options),
    /// Many small files with overlapping times, merged.
    Compaction(compaction::Options),
    /// Many tables, wide tables, many series, sparse fields, logs.
    Shapes(shapes::Options),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let name = if cli.keep { "weir-life".to_owned() } else { format!("weir-life-{}", std::process::id()) };
    let root = cli.folder.clone().unwrap_or_else(std::env::temp_dir).join(name);
    let run = Run { weir: &cli.weir, root: &root, rounds: cli.rounds };
    let save = |table: String, json: Value| {
        println!("{table}");
        cli.json.as_ref().map_or(Ok(()), |path| report::save(path, &json))
    };
    match &cli.part {
        Part::History(options) => {
            let results = history::run(&run, options)?;
            save(life::history_table(&results), serde_json::to_value(&results)?)?;
        }
        Part::Compaction(options) => {
            let results = compaction::run(&run, options)?;
            save(weir_bench::figures::goals_table(&results), serde_json::to_value(&results)?)?;
        }
        Part::Shapes(options) => {
            let results = shapes::run(&run, options)?;
            save(life::shapes_table(&results), serde_json::to_value(&results)?)?;
        }
    }
    if !cli.keep {
        std::fs::remove_dir_all(&root)?;
    }
    Ok(())
}

/// What all parts need.
struct Run<'a> {
    weir: &'a Path,
    root: &'a Path,
    rounds: usize,
}

impl Run<'_> {
    /// An empty folder with settings for a server.
    fn place(&self, name: &str, settings: &str) -> anyhow::Result<Place> {
        let folder = self.root.join(name);
        std::fs::create_dir_all(&folder)?;
        let config = folder.join("weir.toml");
        std::fs::write(&config, settings)?;
        let weir_arguments = vec!["--config".to_owned(), config.display().to_string()];
        Ok(Place { weir: self.weir.to_owned(), weir_arguments, preload: None, profile: None, folder })
    }
}

/// Live files of all tables of the benchmark.
#[derive(Debug, Clone, Copy, Default)]
struct Stored {
    files: u64,
    bytes: u64,
    overlapping: u64,
}

fn stored(connection: &mut Connection) -> anyhow::Result<Stored> {
    let mut all = Stored::default();
    for table in sql(connection, "SHOW TABLE STATUS")? {
        let number = |name: &str| table[name].as_u64().with_context(|| format!("no {name} in {table}"));
        all.files += number("files")?;
        all.bytes += number("bytes")?;
        all.overlapping += number("files_overlapping")?;
    }
    Ok(all)
}

fn post(address: SocketAddr, path: &str) -> anyhow::Result<Value> {
    let answer = Connection::open(address, ANSWER_WITHIN)?.post(path, b"")?;
    ensure!(answer.status == 200, "{path}: {}: {}", answer.status, answer.text());
    Ok(serde_json::from_slice(&answer.body)?)
}

/// Puts everything that is buffered into files.
fn flush(address: SocketAddr) -> anyhow::Result<()> {
    post(address, "/api/v1/flush").map(drop)
}

/// Merges the files of all tables of the benchmark; the seconds that it took.
fn compact(address: SocketAddr) -> anyhow::Result<f64> {
    let begun = Instant::now();
    post(address, &format!("/api/v1/compact?db={DATABASE}"))?;
    Ok(begun.elapsed().as_secs_f64())
}

fn stop(server: Server) -> anyhow::Result<()> {
    ensure!(server.stop(STOP_WITHIN)?, "the server did not stop in order");
    Ok(())
}

/// The answer, and the milliseconds that it took.
fn timed(connection: &mut Connection, statement: &str) -> anyhow::Result<(Vec<Value>, f64)> {
    let begun = Instant::now();
    let answer = sql(connection, statement)?;
    Ok((answer, begun.elapsed().as_secs_f64() * 1e3))
}

/// Each connection's thread sends the bodies that `body` fills in until that says that there are no more.
fn send(
    address: SocketAddr,
    connections: usize,
    body: impl Fn(&mut Vec<u8>) -> bool + Sync,
) -> anyhow::Result<Duration> {
    let path = weir_bench::target::Target::Weir.write_path();
    let begun = Instant::now();
    let work = || -> anyhow::Result<()> {
        let mut connection = Connection::open(address, ANSWER_WITHIN)?;
        let mut text = Vec::new();
        while body(&mut text) {
            loop {
                let answer = connection.post(&path, &text)?;
                match answer.status {
                    204 => break,
                    429 | 503 if begun.elapsed() < ANSWER_WITHIN => {
                        std::thread::sleep(Duration::from_secs(answer.retry_after_seconds.unwrap_or(1)));
                    }
                    status => anyhow::bail!("a write was answered {status}: {}", answer.text()),
                }
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("sending does not panic"))
    })?;
    Ok(begun.elapsed())
}
