//! How long Weir takes to start: with many rows in files, and with a full log to replay after `kill -9`.
//!
//! ```text
//! cargo xtask bench recovery -- --rows 100M --log-mib 256
//! ```
//!
//! "Ready" is when `/ready` answers 200, asked every millisecond from the moment the process is started. The system's page
//! cache is warm, as it is after a crash of the process alone. Rows are counted after each start.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its figures")]
#![allow(clippy::disallowed_methods, reason = "a benchmark works on the real disk and clock")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use weir_bench::load::{self, Place, Plan};
use weir_bench::report::{self, Start, Starts};
use weir_bench::target::Target;
use weir_bench::{disk, tsbs};

/// Measures starts from the outside.
#[derive(Debug, Parser)]
struct Cli {
    /// Rows in files for the first start.
    #[arg(long, default_value = "100M", value_parser = report::parse_count)]
    rows: u64,
    /// Hosts, each one series.
    #[arg(long, default_value_t = 1_000)]
    hosts: usize,
    /// Size of the log for the second start.
    #[arg(long, default_value_t = 256)]
    log_mib: u64,
    /// Starts measured each.
    #[arg(long, default_value_t = 5)]
    starts: usize,
    /// The `weir` binary, built for release.
    #[arg(long, default_value = "target/release/weir")]
    weir: PathBuf,
    /// Folder for data, removed in the end.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Where the figures go as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Keeps rows in the buffer, and so in the log, however many there are.
const NO_FLUSH: &str = "\
[engine]
buffer_bytes_max = \"8 GiB\"
flush_bytes = \"64 GiB\"
flush_bytes_min = \"64 GiB\"
flush_age_max_s = 86400
wal_flush_bytes = \"64 GiB\"
wal_bytes_max = \"64 GiB\"
";

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let root =
        cli.folder.clone().unwrap_or_else(std::env::temp_dir).join(format!("weir-recovery-{}", std::process::id()));
    let mut place = Place {
        weir: cli.weir.clone(),
        weir_arguments: vec![],
        preload: None,
        profile: None,
        folder: root.join("files"),
    };
    std::fs::create_dir_all(&place.folder)?;
    let mut starts = vec![with_files(&cli, &place)?];
    std::fs::remove_dir_all(&place.folder)?;
    place.folder = root.join("log");
    std::fs::create_dir_all(&place.folder)?;
    let config = root.join("no-flush.toml");
    std::fs::write(&config, NO_FLUSH)?;
    place.weir_arguments = vec!["--config".to_owned(), config.display().to_string()];
    starts.push(with_log(&cli, &place)?);
    std::fs::remove_dir_all(&root)?;
    let results = Starts { command: report::command("recovery"), machine: report::machine(), starts };
    println!("{}", report::starts_table(&results));
    if let Some(path) = &cli.json {
        report::save(path, &results)?;
    }
    Ok(())
}

fn plan(cli: &Cli, rows: u64, start_seconds: u64) -> Plan {
    Plan { rows, lines_per_request: 10_000, connections: 4, hosts: cli.hosts, seed: 1, start_seconds }
}

fn with_files(cli: &Cli, place: &Place) -> anyhow::Result<Start> {
    let (server, address, _) = place.start(Target::Weir)?;
    let loaded = load::send(Target::Weir, &plan(cli, cli.rows, tsbs::START_SECONDS), address)?;
    Target::Weir.flush(address)?;
    ensure!(server.stop(Duration::from_secs(600))?, "the server did not stop in order");
    let data = place.folder.join("data");
    let mut start = Start {
        what: "rows in files".to_owned(),
        rows: loaded.facts.rows,
        log_bytes: disk::folder_bytes(&data.join("wal")),
        files_bytes: disk::folder_bytes(&data.join("tables")),
        ready_ms: vec![],
        count_ms: vec![],
    };
    for _ in 0..cli.starts {
        let server = measure(place, &mut start, loaded.facts)?;
        ensure!(server.stop(Duration::from_secs(120))?, "the server did not stop in order");
    }
    Ok(start)
}

fn with_log(cli: &Cli, place: &Place) -> anyhow::Result<Start> {
    let (server, address, _) = place.start(Target::Weir)?;
    let log = place.folder.join("data/wal");
    let mut facts = tsbs::BodyFacts::default();
    let mut seconds = tsbs::START_SECONDS;
    let begun = Instant::now();
    while disk::folder_bytes(&log) < cli.log_mib << 20 {
        ensure!(
            begun.elapsed() < Duration::from_secs(600),
            "the log does not grow: {} bytes",
            disk::folder_bytes(&log)
        );
        let plan = plan(cli, 200_000, seconds);
        let more = load::send(Target::Weir, &plan, address)?.facts;
        facts.rows += more.rows;
        facts.usage_user_sum += more.usage_user_sum;
        seconds += plan.rows / plan.hosts as u64 * tsbs::STEP_SECONDS;
    }
    server.kill()?;
    let mut start = Start {
        what: "log to replay".to_owned(),
        rows: facts.rows,
        log_bytes: disk::folder_bytes(&log),
        files_bytes: disk::folder_bytes(&place.folder.join("data/tables")),
        ready_ms: vec![],
        count_ms: vec![],
    };
    for _ in 0..cli.starts {
        // Killed, so that the next one has the same log before it.
        measure(place, &mut start, facts)?.kill()?;
    }
    Ok(start)
}

fn measure(place: &Place, start: &mut Start, facts: tsbs::BodyFacts) -> anyhow::Result<weir_bench::process::Server> {
    let (server, address, ready) = place.start(Target::Weir)?;
    let asked = Instant::now();
    load::check(Target::Weir, address, facts).with_context(|| log_of(&place.folder))?;
    start.ready_ms.push(ready.as_secs_f64() * 1e3);
    start.count_ms.push(asked.elapsed().as_secs_f64() * 1e3);
    Ok(server)
}

fn log_of(folder: &Path) -> String {
    format!("the server's log is {}", folder.join("log").display())
}
