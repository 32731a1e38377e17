//! `weir bench`: Weir's own standard workloads, run for real and recorded as operations, so that `weir track check` guards Weir.
//!
//! Each round runs every workload once, in a folder of its own below the data folder, and checks each answer. What is
//! recorded is `bench.<workload>`; the rounds of one call are one series of runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::body::Body;
use hyper::Request;
use serde_json::{Value, json};
use weir_base::{Clock, SystemClock};
use weir_cache::{Cache, CacheOptions, PutOptions};
use weir_ops::model::Model;
use weir_ops::{Entry, Env, History, Options, Plan, RunOptions};
use weir_track::compare::{self, millis};
use weir_track::{Finished, Progress, Row};

use crate::client;
use crate::exit::Exit;
use crate::folder::Target;
use crate::runtime;
use crate::session::{Purpose, Session};
use crate::terminal::{self, Terminal};
use crate::track::history::{Folder, Recorder};
use crate::track::progress::{ProgressForm, Teller};
use crate::track::sampling::Sampling;

const ROWS: u64 = 20_000;
const HOSTS: u64 = 100;
const CACHE_ENTRIES: usize = 200;
const CACHE_VALUE_BYTES: usize = 4096;
const ENTRIES: usize = 200;
const PACKAGES: usize = 200;
const DATABASE: &str = "bench";
const DEADLINE: Duration = Duration::from_secs(90);

/// Run Weir's own standard workloads and record how long they take.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  weir bench --runs 60 --label ref=main
  weir bench --runs 60 --label ref=feature
  weir track check --baseline main --candidate feature

Workloads, each checked: append 20,000 rows; flush them; query their means by host; cache_put and cache_get of 200 values of
4 KiB; plan and apply of 200 changes to a target in memory; deps_check of 200 made-up packages (a process of its own).
Exit codes: 0 recorded; 70 a workload gave a wrong answer.")]
pub(crate) struct Args {
    /// Rounds; each runs every workload once.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// A label, as name=value (repeatable).
    #[arg(long = "label", value_parser = crate::track::label, value_name = "K=V")]
    labels: Vec<(String, String)>,
    /// Print what was measured as JSON.
    #[arg(long)]
    json: bool,
    /// How progress is told: a bar on a terminal, lines elsewhere; or JSON lines.
    #[arg(long, value_enum, default_value_t)]
    progress: ProgressForm,
    #[command(flatten)]
    folder: Folder,
}

/// Runs `weir bench`.
pub(crate) fn run(args: &Args, terminal: &Terminal) -> Result<Exit> {
    let mut recorder = Recorder::open(&args.folder)?;
    let series = recorder.id();
    let work = Work::make(&args.folder.path()?, &series)?;
    let progress = Progress::new("bench", Some(u64::from(args.runs)));
    let teller = Teller::start(&progress, args.progress, terminal);
    let sampling = Sampling::start("weir bench");
    let mut taken: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 0..args.runs {
        let dir = work.0.join(round.to_string());
        let mut timer = Timer { clock: SystemClock::default(), done: Vec::new() };
        workloads(&dir, &mut timer, terminal)?;
        let mut rows = Vec::new();
        for done in timer.done {
            taken.entry(done.name).or_default().push(done.took.as_secs_f64() * 1e3);
            rows.push(Row::Finished(Finished {
                name: format!("bench.{}", done.name),
                labels: args.labels.iter().cloned().collect(),
                id: Some(recorder.id()),
                end_ns: done.end_ns,
                duration_ns: u64::try_from(done.took.as_nanos()).unwrap_or(u64::MAX),
                count: 1,
                items: Some(done.items),
                run: Some(series.clone()),
                round: Some(round),
                ..Finished::default()
            }));
        }
        recorder.append(rows)?;
        clear(&dir)?;
        progress.add(1);
    }
    recorder.append(sampling.stop())?;
    recorder.close()?;
    progress.finish();
    teller.stop();
    tell(args, &taken)
}

fn tell(args: &Args, taken: &BTreeMap<&str, Vec<f64>>) -> Result<Exit> {
    if args.json {
        let told = taken.iter().map(|(name, ms)| {
            let name = format!("bench.{name}");
            json!({"name": name, "median_ms": compare::median(ms), "spread_ms": compare::spread(ms), "wall_ms": ms})
        });
        return terminal::print(format!("{}\n", Value::Array(told.collect())));
    }
    let line = |(name, ms): (&&str, &Vec<f64>)| {
        format!("bench.{name}: {} ± {}, {} runs\n", millis(compare::median(ms)), millis(compare::spread(ms)), ms.len())
    };
    terminal::print(taken.iter().map(line).collect::<String>())
}

/// The folder that the workloads use; gone when this is.
struct Work(PathBuf);

impl Work {
    fn make(data: &Path, series: &str) -> Result<Self> {
        let dir = data.join(format!("bench-{series}"));
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = clear(&self.0);
    }
}

fn clear(dir: &Path) -> Result<()> {
    std::fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))
}

struct Done {
    name: &'static str,
    took: Duration,
    end_ns: i64,
    items: u64,
}

struct Timer {
    clock: SystemClock,
    done: Vec<Done>,
}

impl Timer {
    fn begin(&self) -> Duration {
        self.clock.monotonic()
    }

    fn end(&mut self, name: &'static str, begin: Duration, items: u64) {
        let took = self.clock.monotonic().saturating_sub(begin);
        self.done.push(Done { name, took, end_ns: self.clock.now(), items });
    }
}

fn workloads(dir: &Path, timer: &mut Timer, terminal: &Terminal) -> Result<()> {
    let target = Target { data: Some(dir.join("data")), ..Target::default() };
    runtime::block_on(async {
        let mut session = Session::open(&target, Purpose::Write, "weir bench", terminal).await?;
        let outcome = database(&mut session, timer).await;
        session.close(terminal).await;
        outcome
    })?;
    cache(&dir.join("cache"), timer)?;
    operations(&dir.join("operations"), timer)?;
    dependencies(&dir.join("packages"), timer)
}

fn lines() -> String {
    use std::fmt::Write as _;
    let mut lines = String::new();
    for row in 0..ROWS {
        let (host, step) = (row % HOSTS, row / HOSTS);
        let time = 1_700_000_000_000_000_000 + step * 10_000_000_000;
        let _ =
            writeln!(lines, "cpu,host=host-{host},region=eu-{} user={}i,idle={}.5 {time}", host % 4, step % 100, host);
    }
    lines
}

async fn database(session: &mut Session, timer: &mut Timer) -> Result<()> {
    let body = lines();
    let request = Request::post(format!("/api/v3/write_lp?db={DATABASE}&precision=ns")).body(Body::from(body))?;
    let begin = timer.begin();
    let answer = session.send(request, DEADLINE).await?;
    timer.end("append", begin, ROWS);
    if !answer.status().is_success() {
        return Err(client::refusal(answer).await);
    }
    let begin = timer.begin();
    session.flush().await?;
    timer.end("flush", begin, ROWS);
    let sql = "SELECT host, count(*) AS n, avg(idle) AS idle FROM cpu GROUP BY host ORDER BY host";
    let begin = timer.begin();
    let answer = session.query(DATABASE, sql, "json").await?;
    let text = client::collect(answer, 16 << 20).await?;
    timer.end("query", begin, ROWS);
    let rows: Vec<Value> = serde_json::from_slice(&text)?;
    let right = |row: &Value| row["n"] == ROWS / HOSTS;
    ensure!(rows.len() as u64 == HOSTS && rows.iter().all(right), "the query gave a wrong answer");
    Ok(())
}

fn cache(dir: &Path, timer: &mut Timer) -> Result<()> {
    let cache = Cache::open(CacheOptions::new(dir, "bench"))?;
    let value = |at: usize| vec![at as u8; CACHE_VALUE_BYTES];
    let begin = timer.begin();
    for at in 0..CACHE_ENTRIES {
        cache.put(format!("key-{at}"), &value(at), &PutOptions::default())?;
    }
    timer.end("cache_put", begin, CACHE_ENTRIES as u64);
    let begin = timer.begin();
    let hits = (0..CACHE_ENTRIES).filter(|at| cache.get(format!("key-{at}")).is_some_and(|got| *got == value(*at)));
    let hits = hits.count();
    timer.end("cache_get", begin, CACHE_ENTRIES as u64);
    ensure!(hits == CACHE_ENTRIES, "the cache answered {hits} of {CACHE_ENTRIES} gets");
    Ok(())
}

fn operations(dir: &Path, timer: &mut Timer) -> Result<()> {
    let (history, _) = History::open(Env::system(), dir, "weir bench", Options::default())?;
    let target = Model::default();
    let entries = (0..ENTRIES).map(|at| Entry::new(format!("door-{at}"), None, Some(json!("open")))).collect();
    let begin = timer.begin();
    let plan = Plan::make(&history, &target, "weir bench", "open", entries)?;
    timer.end("plan", begin, ENTRIES as u64);
    let begin = timer.begin();
    let operation = weir_ops::apply(&history, &target, &plan, &RunOptions::default())?;
    timer.end("apply", begin, ENTRIES as u64);
    ensure!(operation.state == weir_ops::State::Done && target.states().len() == ENTRIES, "the plan was not applied");
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "made-up packages for one round, thrown away after it")]
fn dependencies(dir: &Path, timer: &mut Timer) -> Result<()> {
    for at in 0..PACKAGES {
        let package = dir.join(format!("made_up_{at}-1.0.dist-info"));
        std::fs::create_dir_all(&package)?;
        let text = format!("Metadata-Version: 2.4\nName: made-up-{at}\nVersion: 1.0\nLicense-Expression: MIT\n\n");
        std::fs::write(package.join("METADATA"), text)?;
    }
    let mut command = std::process::Command::new(std::env::current_exe().context("the path of this program")?);
    command.args(["deps", "check", "--offline", "--format", "json", "--env"]).arg(dir);
    command.env("WEIR_CACHE_DIR", dir.join("cache")).env("WEIR_DATA", dir.join("data"));
    let begin = timer.begin();
    let output = command.output().context("cannot run deps check")?;
    timer.end("deps_check", begin, PACKAGES as u64);
    let told = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code().is_some_and(|code| code <= 1), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(
        told.contains("made-up-0") && told.contains(&format!("made-up-{}", PACKAGES - 1)),
        "deps check left out packages"
    );
    Ok(())
}
