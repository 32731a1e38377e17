//! How a server under pressure stays healthy, seen from outside: while endless queries take all slots and fill the queue, while
//! the disk takes two seconds for a sync, and while bombs come in.
//!
//! ```text
//! cargo xtask bench health -- --seconds 60
//! ```
//!
//! Requests are paced by the clock, not by the answers before them: one that is late counts from the moment at which it was due. What
//! was acknowledged is counted in the server after it was killed and started again.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its figures")]
#![allow(clippy::disallowed_methods, reason = "a benchmark works on the real disk and clock")]

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use weir_bench::figures::{self, Figure, Figures, Goal};
use weir_bench::http::Connection;
use weir_bench::load::{self, Pace, Place, Plan};
use weir_bench::process::Server;
use weir_bench::target::{ANSWER_TIMEOUT, Target};
use weir_bench::tsbs::{self, Generator};
use weir_bench::{disk, report};

/// Measures health under pressure from the outside.
#[derive(Debug, Parser)]
struct Cli {
    /// Rows that are sent as fast as they are taken, to know what the idle server takes.
    #[arg(long, default_value = "5M", value_parser = report::parse_count)]
    rows: u64,
    /// How long each kind of pressure lasts.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Bombs at once.
    #[arg(long, default_value_t = 50)]
    bombs: usize,
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

/// Queries run and wait until the server ends.
const ENDLESS_SETTINGS: &str = "[query]\nquery_deadline_s = 86400\nquery_wait_s = 86400\n";
const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 9000000000000000000) WHERE sin(value) > 2";
const JSON: &str = "Content-Type: application/json\r\n";
/// Waiting places of a server, and queries past them.
const WAITING: usize = 100;
const TOO_MANY: usize = 20;

const CONNECTIONS: usize = 4;
const LINES: usize = 1_000;
const HOSTS: usize = 1_000;
/// A write that takes longer came too late.
const IN_TIME: Duration = Duration::from_secs(1);
/// Between two looks at `/health`.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const HEALTH_MS_MAX: f64 = 50.0;
const SYNC_DELAY_MS: u32 = 2_000;
const MIB: usize = 1 << 20;
const BOMB_BYTES: usize = 256 * MIB;
const BOMBS_GROWTH_MIB_MAX: f64 = 100.0;

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let root =
        cli.folder.clone().unwrap_or_else(std::env::temp_dir).join(format!("weir-health-{}", std::process::id()));
    let mut results =
        Figures { commands: vec![report::command("health")], machine: report::machine(), figures: Vec::new() };
    let mut run = Run { cli: &cli, root: &root, figures: &mut results.figures };
    run.under_queries()?;
    run.under_slow_syncs()?;
    run.under_bombs()?;
    std::fs::remove_dir_all(&root)?;
    println!("{}", figures::goals_table(&results));
    if let Some(path) = &cli.json {
        report::save(path, &results)?;
    }
    Ok(())
}

struct Run<'a> {
    cli: &'a Cli,
    root: &'a Path,
    figures: &'a mut Vec<Figure>,
}

impl Run<'_> {
    fn place(&self, name: &str, settings: &str, preload: Option<PathBuf>) -> anyhow::Result<Place> {
        let folder = self.root.join(name);
        std::fs::create_dir_all(&folder)?;
        let config = folder.join("weir.toml");
        std::fs::write(&config, settings)?;
        let weir_arguments = vec!["--config".to_owned(), config.display().to_string()];
        Ok(Place { weir: self.cli.weir.clone(), weir_arguments, preload, profile: None, folder })
    }

    fn add(&mut self, what: &str, value: f64, unit: &str, goal: Option<Goal>) {
        eprintln!("{what}: {value:.3} {unit}");
        self.figures.push(Figure { goal, ..Figure::new(what, "weir", value, unit) });
    }

    fn add_looks(&mut self, when: &str, mut looks: Vec<Duration>) -> anyhow::Result<()> {
        ensure!(!looks.is_empty(), "nobody looked at /health {when}");
        let mut of = |share| milliseconds(disk::percentile(&mut looks, share));
        let (median, late) = (of(0.5), of(0.99));
        self.add(&format!("/health {when}, median"), median, "ms", None);
        self.add(&format!("/health {when}, p99"), late, "ms", Some(Goal::AtMost(HEALTH_MS_MAX)));
        Ok(())
    }

    fn seconds(&self) -> Duration {
        Duration::from_secs(self.cli.seconds)
    }

    fn under_queries(&mut self) -> anyhow::Result<()> {
        let place = self.place("queries", ENDLESS_SETTINGS, None)?;
        let (server, address, _) = place.start(Target::Weir)?;
        let rows = self.cli.rows;
        let plan = Plan {
            rows,
            lines_per_request: LINES,
            connections: CONNECTIONS,
            hosts: HOSTS,
            seed: 1,
            start_seconds: tsbs::START_SECONDS,
        };
        let loaded = load::send(Target::Weir, &plan, address)?;
        let most = loaded.facts.rows as f64 / loaded.elapsed.as_secs_f64();
        self.add("rows acknowledged, nothing else going on", most, "rows/s", None);
        let looks = look_for(address, self.seconds() / 4)?;
        self.add_looks("while nothing happens", looks)?;

        let running = 2 * thread::available_parallelism().map_or(1, usize::from);
        let taken = thread::scope(|scope| -> anyhow::Result<u64> {
            // Whatever comes, the server ends with this, and with it its queries.
            let server = server;
            for _ in 0..running + WAITING {
                scope.spawn(move || ask_for_ever(address));
            }
            wait_for_queries(address, running)?;
            self.measure_refusals(address)?;
            let looks = look_for(address, self.seconds())?;
            self.add_looks(&format!("while {running} queries run and {WAITING} wait"), looks)?;
            let next = tsbs::START_SECONDS + rows / HOSTS as u64 * tsbs::STEP_SECONDS;
            let pace = Pace::new(most / 2.0, IN_TIME, Generator::starting_at(HOSTS, 1, next));
            let (looks, sent) = thread::scope(|scope| {
                let looking = scope.spawn(|| look_for(address, self.seconds()));
                let sent = pace.send(address, self.seconds());
                (looking.join().expect("looking does not panic"), sent)
            });
            let (sent, share) = (sent?, pace.share_in_time());
            self.add(
                "half of that offered beside the queries: acknowledged within 1 s",
                share,
                "",
                Some(Goal::AtLeast(0.95)),
            );
            self.add_looks("beside both", looks?)?;
            wait_for_queries(address, running)?;
            server.kill()?;
            Ok(sent)
        })?;
        check_kept(&place, rows + taken)
    }

    /// How soon those are told who find all slots and all waiting places taken.
    fn measure_refusals(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let mut took = Vec::new();
        for _ in 0..TOO_MANY {
            let start = Instant::now();
            let answer =
                Connection::open(address, ANSWER_TIMEOUT)?.send("POST", "/api/v3/query_sql", JSON, &question())?;
            ensure!(
                answer.status == 503 && answer.retry_after_seconds.is_some(),
                "{}: {}",
                answer.status,
                answer.text()
            );
            took.push(start.elapsed());
        }
        let median = milliseconds(disk::percentile(&mut took, 0.5));
        self.add("a query too many is refused, median", median, "ms", None);
        Ok(())
    }

    fn under_slow_syncs(&mut self) -> anyhow::Result<()> {
        let object = load::slow_sync(self.root, SYNC_DELAY_MS)?;
        let place = self.place("syncs", "", Some(object))?;
        let (server, address, _) = place.start(Target::Weir)?;
        let over = AtomicBool::new(false);
        let generator = Mutex::new(Generator::starting_at(HOSTS, 1, tsbs::START_SECONDS));
        let taken = AtomicU64::new(0);
        let looks = thread::scope(|scope| {
            let write = || -> anyhow::Result<()> {
                let mut connection = Connection::open(address, ANSWER_TIMEOUT)?;
                let mut body = Vec::new();
                while !over.load(Ordering::Acquire) {
                    generator.lock().expect("nobody panics under it").body(LINES, &mut body);
                    let answer = connection.post(&Target::Weir.write_path(), &body)?;
                    ensure!(answer.status == 204, "{}: {}", answer.status, answer.text());
                    taken.fetch_add(LINES as u64, Ordering::AcqRel);
                }
                Ok(())
            };
            let writers: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(write)).collect();
            let looks = look_for(address, self.seconds());
            over.store(true, Ordering::Release);
            for writer in writers {
                writer.join().expect("writing does not panic")?;
            }
            looks
        })?;
        self.add_looks(&format!("while each sync takes {} s more", SYNC_DELAY_MS / 1000), looks)?;
        server.kill()?;
        check_kept(&Place { preload: None, ..place }, taken.into_inner())
    }

    fn under_bombs(&mut self) -> anyhow::Result<()> {
        let place = self.place("bombs", "", None)?;
        let (server, address, _) = place.start(Target::Weir)?;
        let before = server.usage()?.peak_bytes;
        let bomb = bomb()?;
        let over = AtomicBool::new(false);
        let (answers, looks) = thread::scope(|scope| {
            let looking = scope.spawn(|| look(address, || over.load(Ordering::Acquire)));
            let throw = || -> anyhow::Result<Duration> {
                let (start, path) = (Instant::now(), Target::Weir.write_path());
                let mut connection = Connection::open(address, ANSWER_TIMEOUT)?;
                let answer = connection.send("POST", &path, "Content-Encoding: gzip\r\n", &bomb)?;
                ensure!(
                    [413, 429].contains(&answer.status),
                    "a bomb was answered {}: {}",
                    answer.status,
                    answer.text()
                );
                Ok(start.elapsed())
            };
            let thrown: Vec<_> = (0..self.cli.bombs).map(|_| scope.spawn(throw)).collect();
            let answers: Vec<_> = thrown.into_iter().map(|one| one.join().expect("throwing does not panic")).collect();
            over.store(true, Ordering::Release);
            (answers, looking.join().expect("looking does not panic"))
        });
        let mut answers = answers.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let what = format!("{} bombs at once", self.cli.bombs);
        let median = milliseconds(disk::percentile(&mut answers, 0.5));
        self.add(&format!("{what}: refused, median"), median, "ms", None);
        self.add(&format!("{what}: refused, latest"), milliseconds(disk::percentile(&mut answers, 1.0)), "ms", None);
        let grown = server.usage()?.peak_bytes.saturating_sub(before) as f64 / MIB as f64;
        self.add(&format!("{what}: memory grows by"), grown, "MiB", Some(Goal::AtMost(BOMBS_GROWTH_MIB_MAX)));
        self.add_looks(&format!("beside {what}"), looks?)?;
        ensure!(server.stop(Duration::from_secs(120))?, "the server did not stop in order");
        Ok(())
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn question() -> Vec<u8> {
    format!("{{\"db\": \"bench\", \"q\": \"{ENDLESS}\"}}").into_bytes()
}

/// Ends with the server.
fn ask_for_ever(address: SocketAddr) {
    let asked = Connection::open(address, Duration::from_secs(86_400))
        .and_then(|mut connection| connection.send("POST", "/api/v3/query_sql", JSON, &question()));
    if let Ok(answer) = asked {
        eprintln!("a query without end was answered {}: {}", answer.status, answer.text());
    }
}

/// Waits until all slots and waiting places are taken, as the server itself says.
fn wait_for_queries(address: SocketAddr, running: usize) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let page = Connection::open(address, ANSWER_TIMEOUT)?.get("/metrics")?.text();
        let number = |name: &str| page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<usize>().ok());
        let now = (number("weir_queries_running "), number("weir_queries_waiting "));
        if now == (Some(running), Some(WAITING)) {
            return Ok(());
        }
        ensure!(start.elapsed() < ANSWER_TIMEOUT, "{now:?} queries run and wait instead of {running} and {WAITING}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn look_for(address: SocketAddr, length: Duration) -> anyhow::Result<Vec<Duration>> {
    let start = Instant::now();
    look(address, || start.elapsed() >= length)
}

/// Asks for `/health` at a steady pace. A look that is late counts from when it was due.
fn look(address: SocketAddr, is_over: impl Fn() -> bool) -> anyhow::Result<Vec<Duration>> {
    let mut connection = Connection::open(address, ANSWER_TIMEOUT)?;
    let (mut due, mut took) = (Instant::now(), Vec::new());
    while !is_over() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let answer = connection.get("/health")?;
        ensure!(answer.status == 200, "/health is {}: {}", answer.status, answer.text());
        took.push(due.elapsed());
        due += LOOK_EVERY;
    }
    Ok(took)
}

/// Starts what was killed again: it must have at least what it acknowledged.
fn check_kept(place: &Place, rows: u64) -> anyhow::Result<()> {
    let (server, address, _): (Server, _, _) = place.start(Target::Weir)?;
    let content = Target::Weir.content(address)?.context("the server counts")?;
    ensure!(content.rows >= rows, "{} rows of {rows} that were acknowledged", content.rows);
    ensure!(server.stop(Duration::from_secs(600))?, "the server did not stop in order");
    Ok(())
}

/// Valid lines, many times over, as one small body.
fn bomb() -> anyhow::Result<Vec<u8>> {
    // A length that divides a MiB, so that the lines are whole.
    let block = b"cpu,host=a v=1i 1700000000000000\n".repeat(MIB / 32);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..BOMB_BYTES / MIB {
        encoder.write_all(&block)?;
    }
    Ok(encoder.finish()?)
}
