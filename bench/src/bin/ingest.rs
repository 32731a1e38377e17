//! Takes the TSBS cpu-only workload into Weir and its rivals, side by side, and counts what arrived.
//!
//! ```text
//! cargo xtask bench ingest -- --rows 20000000 --targets weir,victoriametrics,influxdb,floor
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its figures")]
#![allow(clippy::disallowed_methods, reason = "a benchmark works on the real disk")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use weir_bench::load::{self, Place, Plan};
use weir_bench::report::{self, Results};
use weir_bench::target::Target;
use weir_bench::tsbs;

/// Measures ingest from the outside.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The floor: receives, compresses, appends, syncs, answers. Started by a run with the target `floor`.
    #[command(hide = true)]
    ServeFloor {
        #[arg(long)]
        data: PathBuf,
        #[arg(long)]
        http: SocketAddr,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// Lines in all, as a number or with `k` or `M` behind it.
    #[arg(long, default_value = "20M", value_parser = report::parse_count)]
    rows: u64,
    /// Lines in a request.
    #[arg(long, default_value_t = 10_000)]
    lines_per_request: usize,
    /// Connections at the same time.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Hosts, each one series.
    #[arg(long, default_value_t = 100)]
    hosts: usize,
    /// Seed of the values.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Servers to measure, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "weir,floor")]
    targets: Vec<Target>,
    /// The `weir` binary, built for release.
    #[arg(long, default_value = "target/release/weir")]
    weir: PathBuf,
    /// One more argument for `weir serve`; can be repeated.
    #[arg(long, allow_hyphen_values = true)]
    weir_argument: Vec<String>,
    /// Milliseconds added to each sync of the server, by a preloaded library made with `cc`.
    #[arg(long)]
    sync_delay_ms: Option<u32>,
    /// Also merge the files afterwards and count again.
    #[arg(long)]
    compact: bool,
    /// Samples each server with `perf` and writes its hottest symbols to this file, the target's name added.
    #[arg(long)]
    profile: Option<PathBuf>,
    /// Keeps the servers' data and logs here instead of in a folder that is removed.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Where the figures go as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if let Some(Command::ServeFloor { data, http }) = cli.command {
        return serve_floor(&data, http);
    }
    run(&cli.run)
}

fn run(run: &Run) -> anyhow::Result<()> {
    let plan = Plan {
        rows: run.rows,
        lines_per_request: run.lines_per_request,
        connections: run.connections,
        hosts: run.hosts,
        seed: run.seed,
        start_seconds: tsbs::START_SECONDS,
    };
    let root =
        run.keep.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("weir-bench-{}", std::process::id())));
    std::fs::create_dir_all(&root)?;
    let preload = run.sync_delay_ms.map(|delay_ms| load::slow_sync(&root, delay_ms)).transpose()?;
    let mut results = Results { command: report::command("ingest"), machine: report::machine(), outcomes: vec![] };
    for target in &run.targets {
        let folder = root.join(target.name());
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        let place = Place {
            weir: run.weir.clone(),
            weir_arguments: run.weir_argument.clone(),
            preload: preload.clone(),
            profile: run.profile.as_ref().map(|path| path.with_extension(format!("{}.txt", target.name()))),
            folder: folder.clone(),
        };
        let outcome = load::run(*target, &plan, &place, run.compact).with_context(|| target.name().to_owned())?;
        eprintln!("{}", report::sync_line(&outcome));
        results.outcomes.push(outcome);
        if run.keep.is_none() {
            std::fs::remove_dir_all(&folder)?;
        }
    }
    if run.keep.is_none() {
        std::fs::remove_dir_all(&root)?;
    }
    println!("{}", report::ingest_table(&results));
    if let Some(path) = &run.json {
        report::save(path, &results)?;
    }
    Ok(())
}

fn serve_floor(data: &std::path::Path, address: SocketAddr) -> anyhow::Result<()> {
    let file = Arc::new(Mutex::new(std::fs::File::create(data.join("log"))?));
    let listener = TcpListener::bind(address)?;
    // In order on SIGTERM: there is nothing to finish, the default action ends it, so the run must not ask for code 0.
    for stream in listener.incoming() {
        let file = Arc::clone(&file);
        let stream = stream?;
        std::thread::spawn(move || {
            let _ = take_requests(stream, &file);
        });
    }
    Ok(())
}

/// One thread per connection; compression outside the lock, write and sync inside: no group commit.
fn take_requests(stream: TcpStream, file: &Mutex<std::fs::File>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(256 << 10, stream);
    let mut body = Vec::new();
    loop {
        let mut length = 0;
        let mut line = String::new();
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        if length > 0 {
            let block = lz4_flex::block::compress_prepend_size(&body);
            let mut file = file.lock().map_err(|_| anyhow::anyhow!("the file's lock is poisoned"))?;
            file.write_all(&block)?;
            file.sync_data()?;
        }
        reader.get_mut().write_all(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")?;
    }
}
