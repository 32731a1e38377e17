//! Questions over a year of rows, answered from a rollup and from the table itself, both answers compared.
//!
//! ```text
//! cargo xtask bench rollup -- --json bench/results/rollup.json
//! ```
//!
//! Loads a row every ten seconds for a few hosts into a server, empties and merges its files, makes an hourly rollup and
//! fills it; then asks in rounds, first as queries use rollups by themselves, then a server that has this turned off.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its figures")]
#![allow(clippy::disallowed_methods, reason = "a benchmark works on the real disk and clock")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Parser;
use serde_json::Value;
use weir_bench::http::Connection;
use weir_bench::load::{self, Place, Plan};
use weir_bench::rollup::{self, RollupAsked, RollupResults};
use weir_bench::target::{Target, sql};
use weir_bench::{disk, report, tsbs};

/// The longest answer that is waited for: the first filling of the rollup.
const ANSWER_WITHIN: Duration = Duration::from_secs(1800);
const CREATE: &str = "CREATE ROLLUP hourly AS SELECT hostname, time_bucket('1 hour', time) AS time, count(*), avg(usage_user), \
    max(usage_user), min(usage_user), avg(usage_system), max(usage_system), last(usage_user, time) \
    FROM cpu GROUP BY hostname, time_bucket('1 hour', time)";
const QUESTIONS: [(&str, &str); 4] = [
    (
        "year by day",
        "SELECT time_bucket('1 day', time) AS t, avg(usage_user) AS a, max(usage_user) AS b, count(*) AS n FROM cpu GROUP BY t ORDER BY t",
    ),
    (
        "year by day and host",
        "SELECT hostname, time_bucket('1 day', time) AS t, avg(usage_user) AS a, avg(usage_system) AS b, max(usage_system) AS c \
         FROM cpu GROUP BY hostname, t ORDER BY hostname, t",
    ),
    (
        "a host by month",
        "SELECT time_bucket('1 month', time) AS t, min(usage_user) AS a, last(usage_user, time) AS b FROM cpu \
         WHERE hostname = 'host_1' GROUP BY t ORDER BY t",
    ),
    (
        "90 days with cut ends, by day",
        "SELECT time_bucket('1 day', time) AS t, avg(usage_user) AS a, count(*) AS n FROM cpu \
         WHERE time >= '2016-03-01T00:17:05' AND time < '2016-05-30T12:41:00' GROUP BY t ORDER BY t",
    ),
];

/// Asks over a year, with a rollup and without.
#[derive(Debug, Parser)]
struct Cli {
    /// Hosts, each one series.
    #[arg(long, default_value_t = 4)]
    hosts: usize,
    /// Days of rows, one a host every ten seconds.
    #[arg(long, default_value_t = 365)]
    days: u64,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// The `weir` binary, built for release.
    #[arg(long, default_value = "target/release/weir")]
    weir: PathBuf,
    /// Where the figures go as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let folder = std::env::temp_dir().join(format!("weir-rollup-{}", std::process::id()));
    let results = run(&cli, &folder);
    std::fs::remove_dir_all(&folder)?;
    let results = results?;
    println!("{}", rollup::table(&results));
    if let Some(path) = &cli.json {
        report::save(path, &results)?;
    }
    Ok(())
}

fn run(cli: &Cli, folder: &Path) -> anyhow::Result<RollupResults> {
    let mut place = Place {
        weir: cli.weir.clone(),
        weir_arguments: vec![],
        preload: None,
        profile: None,
        folder: folder.to_owned(),
    };
    std::fs::create_dir_all(folder)?;
    let rows = cli.hosts as u64 * cli.days * 86_400 / tsbs::STEP_SECONDS;
    let (server, address, _) = place.start(Target::Weir)?;
    let plan = Plan {
        rows,
        lines_per_request: 10_000,
        connections: 4,
        hosts: cli.hosts,
        seed: 1,
        start_seconds: tsbs::START_SECONDS,
    };
    load::send(Target::Weir, &plan, address)?;
    Target::Weir.flush(address)?;
    Target::Weir.compact(address)?;
    let tables = folder.join("data/tables");
    let table_bytes = disk::folder_bytes(&tables);
    let mut connection = Connection::open(address, ANSWER_WITHIN)?;
    sql(&mut connection, CREATE)?;
    let begun = Instant::now();
    let refreshed = sql(&mut connection, "REFRESH ROLLUP hourly")?;
    let refresh_s = begun.elapsed().as_secs_f64();
    ensure!(refreshed[0]["state"] == "refreshed", "the rollup was filled by somebody else: {refreshed:?}");
    let explained = sql(&mut connection, &format!("EXPLAIN {}", QUESTIONS[0].1))?;
    ensure!(format!("{explained:?}").contains("rollup hourly answers"), "the rollup is not used: {explained:?}");
    let with = ask(address, cli.rounds)?;
    ensure!(server.stop(Duration::from_secs(120))?, "the server did not stop in order");
    let settings = folder.join("off.toml");
    std::fs::write(&settings, "[query]\nquery_rollups = false\n")?;
    place.weir_arguments = vec!["--config".to_owned(), settings.display().to_string()];
    let (server, address, _) = place.start(Target::Weir)?;
    let without = ask(address, cli.rounds)?;
    ensure!(server.stop(Duration::from_secs(120))?, "the server did not stop in order");
    let mut asked = Vec::new();
    for (((question, _), with), without) in QUESTIONS.iter().zip(with).zip(without) {
        ensure!(same(&with.1, &without.1), "{question}: the answers differ\n{:?}\n{:?}", with.1, without.1);
        let (rollup_ms, table_ms) = (with.0, without.0);
        asked.push(RollupAsked { question: (*question).to_owned(), rows: with.1.len() as u64, rollup_ms, table_ms });
    }
    Ok(RollupResults {
        command: report::command("rollup"),
        machine: report::machine(),
        rows,
        rounds: cli.rounds as u64,
        table_bytes,
        rollup_bytes: disk::folder_bytes(&tables) - table_bytes,
        rollup_rows: refreshed[0]["rows"].as_u64().unwrap_or_default(),
        refresh_s,
        asked,
    })
}

/// The median time of each question in milliseconds, and its answer.
fn ask(address: SocketAddr, rounds: usize) -> anyhow::Result<Vec<(f64, Vec<Value>)>> {
    let mut connection = Connection::open(address, ANSWER_WITHIN)?;
    let mut answers = Vec::new();
    for (_, question) in QUESTIONS {
        let mut times = Vec::new();
        let mut answer = Vec::new();
        for _ in 0..rounds {
            let begun = Instant::now();
            answer = sql(&mut connection, question)?;
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
        }
        answers.push((report::median(&times), answer));
    }
    Ok(answers)
}

/// Whether two answers are the same; doubles may differ in their last digits, since sums are added in another order.
fn same(one: &[Value], other: &[Value]) -> bool {
    let equal = |one: &Value, other: &Value| match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => (one - other).abs() <= 1e-9 * one.abs().max(1.0),
        _ => one == other,
    };
    let rows = |(one, other): (&Value, &Value)| match (one.as_object(), other.as_object()) {
        (Some(one), Some(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, value)| other.get(name).is_some_and(|other| equal(value, other)))
        }
        _ => false,
    };
    one.len() == other.len() && one.iter().zip(other).all(rows)
}
