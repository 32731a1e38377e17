//! The questions of the Time Series Benchmark Suite asked of Weir beside DuckDB, Polars and DataFusion, every answer compared.
//!
//! ```text
//! bench/rivals/query.sh FOLDER
//! BENCH_PYTHON=FOLDER/bin/python cargo xtask bench query -- --json bench/results/query.json
//! ```
//!
//! Loads a day of rows into a server, empties and merges its files, and lets `bench/rivals/query.py` ask: one process asks all engines in
//! turns, with other hosts and times in each round. With `--beside` one engine after the other is asked while new rows come into the same table,
//! at the same rate for each, on a copy of what it holds.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its figures")]
#![allow(clippy::disallowed_methods, reason = "a benchmark works on the real disk and clock")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use weir_bench::load::{self, Pace, Place, Plan};
use weir_bench::query::{self, Asked, QueryResults};
use weir_bench::target::Target;
use weir_bench::tsbs::{self, Generator};
use weir_bench::{disk, report};

/// Asks Weir and its rivals the same questions.
#[derive(Debug, Parser)]
struct Cli {
    /// Hosts, each one series.
    #[arg(long, default_value_t = 1_000)]
    hosts: usize,
    /// Hours of rows, one a host every ten seconds.
    #[arg(long, default_value_t = 24)]
    hours: u64,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Who is asked.
    #[arg(long, default_value = "weir,duckdb,duckdb-parquet,polars,datafusion")]
    engines: String,
    /// The `weir` binary, built for release.
    #[arg(long, default_value = "target/release/weir")]
    weir: PathBuf,
    /// The script that asks.
    #[arg(long, default_value = "bench/rivals/query.py")]
    script: PathBuf,
    /// Folder for data; kept and used again when it is there.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Rows a second that come in while questions are asked; 0 for none.
    #[arg(long, default_value_t = 0)]
    beside: u32,
    /// Only writes, at the rate of `--beside`, to this server, until it is killed: how the script feeds Weir.
    #[arg(long, hide = true)]
    feed: Option<SocketAddr>,
    /// Where the figures go as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if let Some(address) = cli.feed {
        let later = tsbs::START_SECONDS + cli.hours * 3600;
        let pace =
            Pace::new(f64::from(cli.beside), Duration::from_secs(1), Generator::starting_at(cli.hosts, 2, later));
        return pace.send(address, Duration::from_secs(24 * 3600)).map(drop);
    }
    let made = std::env::temp_dir().join(format!("weir-query-{}", std::process::id()));
    let folder = cli.folder.clone().unwrap_or_else(|| made.clone());
    let results = run(&cli, &folder)?;
    println!("{}", query::table(&results));
    if let Some(path) = &cli.json {
        report::save(path, &results)?;
    }
    if cli.folder.is_none() {
        std::fs::remove_dir_all(&made)?;
    }
    Ok(())
}

fn run(cli: &Cli, folder: &Path) -> anyhow::Result<QueryResults> {
    let place = Place {
        weir: cli.weir.clone(),
        weir_arguments: vec![],
        preload: None,
        profile: None,
        folder: folder.join("weir"),
    };
    let fresh = !place.folder.exists();
    std::fs::create_dir_all(&place.folder)?;
    let (mut server, mut address, _) = place.start(Target::Weir)?;
    let rows = cli.hosts as u64 * cli.hours * 3600 / tsbs::STEP_SECONDS;
    if fresh {
        let plan = Plan {
            rows,
            lines_per_request: 10_000,
            connections: 4,
            hosts: cli.hosts,
            seed: 1,
            start_seconds: tsbs::START_SECONDS,
        };
        let begun = Instant::now();
        load::send(Target::Weir, &plan, address)?;
        Target::Weir.flush(address)?;
        Target::Weir.compact(address)?;
        eprintln!("{rows} rows are in files after {:.1} s", begun.elapsed().as_secs_f64());
    }
    let mut data = place.folder.clone();
    if cli.beside > 0 {
        // What is asked for elsewhere stays as it is.
        ensure!(server.stop(Duration::from_secs(120))?, "the server did not stop in order");
        data = folder.join("weir-beside");
        if data.exists() {
            std::fs::remove_dir_all(&data)?;
        }
        let copied = Command::new("cp").arg("-r").arg(&place.folder).arg(&data).status()?;
        ensure!(copied.success(), "the data could not be copied");
        (server, address, _) = Place { folder: data.clone(), ..place }.start(Target::Weir)?;
    }
    let python =
        std::env::var("BENCH_PYTHON").context("BENCH_PYTHON names no interpreter: see bench/rivals/query.sh")?;
    let asked = Command::new(python)
        .arg(&cli.script)
        .args(["--weir", &address.to_string(), "--folder"])
        .arg(folder)
        .args(["--rounds", &cli.rounds.to_string(), "--hosts", &cli.hosts.to_string()])
        .args(["--hours", &cli.hours.to_string(), "--engines", &cli.engines])
        .args(["--beside", &cli.beside.to_string(), "--feeder"])
        .arg(std::env::current_exe()?)
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(asked.status.success(), "the questions were not all answered alike");
    let asked: Asked = serde_json::from_slice(&asked.stdout).context("the script's figures cannot be read")?;
    let peak_memory_bytes = server.usage()?.peak_bytes;
    ensure!(server.stop(Duration::from_secs(120))?, "the server did not stop in order");
    Ok(QueryResults {
        command: report::command("query"),
        machine: report::machine(),
        rows,
        weir_bytes: disk::folder_bytes(&data.join("data/tables")),
        peak_memory_bytes,
        asked,
    })
}
