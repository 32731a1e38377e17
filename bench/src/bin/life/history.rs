//! The questions of the suite over a short and over a long history of the same hosts: none should take longer for what is older.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use weir_bench::http::Connection;
use weir_bench::life::{History, HistoryResults};
use weir_bench::load::{self, Place, Plan};
use weir_bench::query::Asked;
use weir_bench::target::Target;
use weir_bench::tsbs::{START_SECONDS, STEP_SECONDS};
use weir_bench::{report, target};

use super::{ANSWER_WITHIN, Run, compact, flush, stop, stored};

const FIELDS: &str = "usage_user, usage_system, usage_idle, usage_nice, usage_iowait, usage_irq, usage_softirq, usage_steal, usage_guest, \
    usage_guest_nice";

/// Lengths of the histories.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Rows of the histories, ascending.
    #[arg(long, default_value = "10M,100M", value_delimiter = ',', value_parser = report::parse_count)]
    rows: Vec<u64>,
    /// Hosts, each one series.
    #[arg(long, default_value_t = 1_000)]
    hosts: usize,
    /// The script that asks.
    #[arg(long, default_value = "bench/rivals/query.py")]
    script: std::path::PathBuf,
}

pub(super) fn run(run: &Run<'_>, options: &Options) -> anyhow::Result<HistoryResults> {
    let histories = options.rows.iter().map(|&rows| history(run, options, rows));
    Ok(HistoryResults {
        command: report::command("life"),
        machine: report::machine(),
        hosts: options.hosts as u64,
        rounds: run.rounds as u64,
        histories: histories.collect::<anyhow::Result<_>>()?,
    })
}

fn history(run: &Run<'_>, options: &Options, rows: u64) -> anyhow::Result<History> {
    let place = run.place(&format!("history-{rows}"), "")?;
    // How long the load took, written when it was done.
    let loaded = place.folder.join("loaded");
    if !loaded.exists() {
        std::fs::write(&loaded, load(&place, options, rows)?.to_string())?;
    }
    let load_s = std::fs::read_to_string(&loaded)?.parse()?;
    // Asked of a server that has just started: what the load left in memory would warm the first questions.
    let (server, address, _) = place.start(Target::Weir)?;
    let hours = rows / options.hosts as u64 * STEP_SECONDS / 3600;
    let asked = ask(run, options, &address.to_string(), hours)?;
    let mut connection = Connection::open(address, ANSWER_WITHIN)?;
    check_last(&mut connection, options.hosts, rows)?;
    let files = stored(&mut connection)?;
    let peak_memory_bytes = server.usage()?.peak_bytes;
    stop(server)?;
    let times = asked.of("weir");
    eprintln!("{rows} rows: {times:?}");
    Ok(History { rows, files: files.files, file_bytes: files.bytes, load_s, peak_memory_bytes, times })
}

/// Sends the rows, and has them merged; the seconds that it took.
fn load(place: &Place, options: &Options, rows: u64) -> anyhow::Result<f64> {
    let (server, address, _) = place.start(Target::Weir)?;
    let plan = Plan {
        rows,
        lines_per_request: 10_000,
        connections: 4,
        hosts: options.hosts,
        seed: 1,
        start_seconds: START_SECONDS,
    };
    let begun = Instant::now();
    let loaded = load::send(Target::Weir, &plan, address)?;
    flush(address)?;
    compact(address)?;
    let seconds = begun.elapsed().as_secs_f64();
    load::check(Target::Weir, address, loaded.facts)?;
    stop(server)?;
    Ok(seconds)
}

fn ask(run: &Run<'_>, options: &Options, address: &str, hours: u64) -> anyhow::Result<Asked> {
    let python =
        std::env::var("BENCH_PYTHON").context("BENCH_PYTHON names no interpreter: see bench/rivals/query.sh")?;
    let asked = Command::new(python)
        .arg(&options.script)
        .args(["--weir", address, "--engines", "weir", "--folder"])
        .arg(run.root)
        .args(["--rounds", &run.rounds.to_string(), "--hosts", &options.hosts.to_string()])
        .args(["--hours", &hours.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(asked.status.success(), "the questions were not all answered");
    serde_json::from_slice(&asked.stdout).context("the script's figures cannot be read")
}

/// The last row of each host, asked for as such and by its time; and an hour of a host by minute and row by row.
fn check_last(connection: &mut Connection, hosts: usize, rows: u64) -> anyhow::Result<()> {
    let lasts: Vec<String> = FIELDS.split(',').map(|name| format!("last({name}, time) AS {name}")).collect();
    let last = target::sql(
        connection,
        &format!("SELECT hostname, max(time) AS t, {} FROM cpu GROUP BY hostname ORDER BY hostname", lasts.join(", ")),
    )?;
    let seconds = START_SECONDS + (rows / hosts as u64 - 1) * STEP_SECONDS;
    let plain = format!(
        "SELECT hostname, time AS t, {FIELDS} FROM cpu WHERE time >= to_timestamp({seconds}) ORDER BY hostname"
    );
    ensure!(last == target::sql(connection, &plain)?, "the last rows are not those of the last time");
    ensure!(last.len() == hosts, "{} hosts of {hosts} have a last row", last.len());
    let of = format!(
        "hostname = 'host_7' AND time >= to_timestamp({}) AND time < to_timestamp({seconds})",
        seconds / 60 * 60 - 3600
    );
    let minutes = target::sql(
        connection,
        &format!(
            "SELECT date_trunc('minute', time) AS t, max(usage_user) AS m FROM cpu WHERE {of} GROUP BY 1 ORDER BY 1"
        ),
    )?;
    let lines =
        target::sql(connection, &format!("SELECT time AS t, usage_user AS m FROM cpu WHERE {of} ORDER BY time"))?;
    let minute = |row: &serde_json::Value| row["t"].as_str().map(|text| text[..16].to_owned());
    for group in lines.chunk_by(|one, other| minute(one) == minute(other)) {
        let most = group.iter().filter_map(|row| row["m"].as_i64()).max();
        let told = minutes.iter().find(|row| minute(row) == minute(&group[0])).and_then(|row| row["m"].as_i64());
        ensure!(most == told, "the maximum of a minute is {told:?}, not {most:?}");
    }
    Ok(())
}
