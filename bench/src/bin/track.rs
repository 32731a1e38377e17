//! The tracker beside its rivals: what recording an operation costs (`tracing` spans with a histogram layer, `metrics`
//! with its Prometheus recorder, a bare pair of clock readings), the memory of many label sets, commands timed from outside
//! (hyperfine), simulated checks, and change points (Apache Otava).
//!
//! ```text
//! cargo xtask bench track -- --json bench/results/track.json --svg docs/images/nab-changes.svg
//! ```
//!
//! Every side records the same operation: a name, one label, a duration. Afterwards each is asked how many it counted;
//! a side that lost one fails the bench.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark reads the clock and prints its figures"
)]

use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Parser;
use hdrhistogram::Histogram;
use serde::Deserialize;
use serde_json::Value;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use weir_base::SystemClock;
use weir_bench::track::{self, Checked, Found, Memory, Recording, Timed, TrackResults};
use weir_bench::{plot, report};
use weir_track::change::{self, Settings};
use weir_track::random::Seeded;
use weir_track::simulate::{self, Noise};
use weir_track::{Limits, Row, Tracker, compare};

#[derive(Parser)]
struct Args {
    /// The binary, for the comparison with hyperfine.
    #[arg(long)]
    weir: PathBuf,
    /// Where rivals are kept between runs.
    #[arg(long, default_value = "target/bench-track")]
    work: PathBuf,
    /// Operations of each side, over all threads.
    #[arg(long, default_value_t = 4_000_000)]
    operations: u64,
    /// Rounds; the best of each side counts.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Runs of each command by each side.
    #[arg(long, default_value_t = 60)]
    runs: usize,
    /// Simulated pairs of each noise.
    #[arg(long, default_value_t = 20_000)]
    pairs: usize,
    /// Made-up histories that are searched for changes.
    #[arg(long, default_value_t = 200)]
    histories: usize,
    /// The real series whose changes are drawn.
    #[arg(long, default_value = "crates/cli/tests/data/nab.lp.gz")]
    nab: PathBuf,
    /// Draws the changes of the real series into this file.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Writes the figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only measures the memory of 10 million operations with 10,000 label sets (the run itself starts this).
    #[arg(long)]
    memory: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.memory {
        println!("{}", serde_json::to_string(&memory()?)?);
        return Ok(());
    }
    let script = Command::new("bench/rivals/track.sh").arg(&args.work).status().context("bench/rivals/track.sh")?;
    ensure!(script.success(), "the rivals could not be installed");
    let own = Command::new(std::env::current_exe()?).args(["--memory", "--weir", "-"]).output()?;
    let memory: Memory = serde_json::from_slice(&own.stdout).context("the memory")?;
    ensure!(memory.peak_mib < 64.0, "{} MiB are past the limit of 64", memory.peak_mib);
    let results = TrackResults {
        command: report::command("track"),
        machine: report::machine(),
        recording: recording(&args)?,
        memory,
        timed: timed_commands(&args)?,
        checked: checked(args.pairs),
        found_at_best: simulate::regressions_at_best(16, 0.05, args.pairs * 10, 1.05) / 10,
        changes: changes(&args)?,
    };
    println!("{}", track::tables(&results));
    if let Some(path) = &args.svg {
        std::fs::write(path, real_series(&args)?)?;
    }
    args.json.iter().try_for_each(|path| report::save(path, &results))
}

fn recording(args: &Args) -> anyhow::Result<Vec<Recording>> {
    let mut rows: Vec<Recording> = Vec::new();
    for _ in 0..args.rounds {
        for threads in [1, 8] {
            for (side, cost) in sides(args.operations, threads)? {
                let at = rows.iter().position(|row| row.side == side).unwrap_or_else(|| {
                    rows.push(Recording { side: side.to_owned(), one_thread_ns: f64::MAX, eight_threads_ns: f64::MAX });
                    rows.len() - 1
                });
                let best = if threads == 1 { &mut rows[at].one_thread_ns } else { &mut rows[at].eight_threads_ns };
                *best = best.min(cost);
            }
        }
    }
    Ok(rows)
}

/// Processor time of this process: what others do on the machine is not in it.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Nanoseconds of processor time of one operation, `operations` shared by `threads`.
fn timed(operations: u64, threads: u64, work: impl Fn(u64) + Sync) -> f64 {
    let each = operations / threads;
    let begin = cpu();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| (0..each).for_each(&work));
        }
    });
    (cpu() - begin).as_nanos() as f64 / (each * threads) as f64
}

fn sides(operations: u64, threads: u64) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let count = operations / threads * threads;
    let sum = AtomicU64::new(0);
    let bare = timed(operations, threads, |_| {
        let begin = Instant::now();
        black_box(begin.elapsed());
    });
    let tracker = Tracker::new(Arc::new(SystemClock::default()), "bench", Limits::default());
    let started = timed(operations, threads, |_| tracker.start("flush", &[("table", "cpu")]).finish());
    sum.fetch_add(counted(&tracker), Ordering::Relaxed);
    anyhow::ensure!(sum.swap(0, Ordering::Relaxed) == count, "start lost operations");
    let kind = tracker.kind("flush", &[("table", "cpu")]);
    let of_kind = timed(operations, threads, |_| {
        let _ = black_box(kind.time(|| Ok::<(), ()>(())));
    });
    anyhow::ensure!(counted(&tracker) == count, "kind lost operations");
    let only = timed(operations, threads, |at| kind.record(Duration::from_nanos(500 + at % 100), true));
    anyhow::ensure!(counted(&tracker) == count, "record lost operations");
    Ok(vec![
        ("two clock readings", bare),
        ("weir: `tracker.start(name, labels)` to `finish`", started),
        ("weir: `kind.time(work)`, label set looked up before", of_kind),
        ("weir: recording alone, without the clock", only),
        ("`tracing` span and a histogram layer", spans(operations, threads)?),
        ("`metrics` histogram, Prometheus recorder", prometheus(operations, threads)?),
    ])
}

fn counted(tracker: &Tracker) -> u64 {
    let mut count = 0;
    tracker.drain(|row| {
        if let Row::Finished(row) = row {
            count += row.count;
        }
    });
    count
}

/// A layer that puts a span's duration into a histogram of its name and label.
#[derive(Clone, Default)]
struct Histograms(Arc<Mutex<HashMap<(&'static str, String), Histogram<u64>>>>);

struct Began(Instant, String);

struct Table(String);

impl tracing::field::Visit for Table {
    fn record_str(&mut self, _: &tracing::field::Field, value: &str) {
        value.clone_into(&mut self.0);
    }
    fn record_debug(&mut self, _: &tracing::field::Field, _: &dyn std::fmt::Debug) {}
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Histograms {
    fn on_new_span(&self, attributes: &tracing::span::Attributes<'_>, id: &tracing::span::Id, context: Context<'_, S>) {
        let mut table = Table(String::new());
        attributes.record(&mut table);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(Began(Instant::now(), table.0));
        }
    }

    fn on_close(&self, id: tracing::span::Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(Began(begin, table)) = span.extensions_mut().remove::<Began>() else { return };
        let nanoseconds = begin.elapsed().as_nanos() as u64;
        let mut all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let histogram = all.entry((span.name(), table)).or_insert_with(|| {
            Histogram::new_with_bounds(1, 3_600_000_000_000, 2).unwrap_or_else(|error| panic!("{error}"))
        });
        histogram.saturating_record(nanoseconds);
    }
}

fn spans(operations: u64, threads: u64) -> anyhow::Result<f64> {
    let layer = Histograms::default();
    let dispatch = tracing::Dispatch::new(tracing_subscriber::registry().with(layer.clone()));
    let each = operations / threads;
    let begin = cpu();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let dispatch = dispatch.clone();
            scope.spawn(move || {
                tracing::dispatcher::with_default(&dispatch, || {
                    for _ in 0..each {
                        let _entered = tracing::info_span!("flush", table = "cpu").entered();
                    }
                });
            });
        }
    });
    let cost = (cpu() - begin).as_nanos() as f64 / (each * threads) as f64;
    let count: u64 =
        layer.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).values().map(Histogram::len).sum();
    anyhow::ensure!(count == each * threads, "the layer lost operations");
    Ok(cost)
}

fn prometheus(operations: u64, threads: u64) -> anyhow::Result<f64> {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let each = operations / threads;
    let begin = cpu();
    std::thread::scope(|scope| {
        for number in 0..threads {
            let (recorder, handle) = (&recorder, &handle);
            scope.spawn(move || {
                metrics::with_local_recorder(recorder, || {
                    for at in 0..each {
                        let begin = Instant::now();
                        metrics::histogram!("flush", "table" => "cpu").record(begin.elapsed().as_secs_f64());
                        // It keeps every sample until somebody folds them; a server's scrape does that. Two that fold at once lose some.
                        if number == 0 && at % 50_000 == 0 {
                            handle.run_upkeep();
                        }
                    }
                });
            });
        }
    });
    let cost = (cpu() - begin).as_nanos() as f64 / (each * threads) as f64;
    let text = handle.render();
    let counted = text.lines().find_map(|line| line.strip_prefix("flush_count{table=\"cpu\"} ")?.parse::<u64>().ok());
    anyhow::ensure!(counted == Some(each * threads), "the recorder lost operations: {counted:?}");
    Ok(cost)
}

fn resident_bytes(field: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kib.ok_or_else(|| anyhow::anyhow!("no {field}"))? << 10)
}

/// Durations spread over three decades, each label set with its own.
fn memory() -> anyhow::Result<Memory> {
    const OPERATIONS: u64 = 10_000_000;
    const SETS: u64 = 10_000;
    let before = resident_bytes("VmRSS:")?;
    let tracker = Tracker::new(Arc::new(SystemClock::default()), "bench", Limits::default());
    let labels: Vec<String> = (0..SETS).map(|set| format!("table-{set}")).collect();
    let begin = cpu();
    for at in 0..OPERATIONS {
        let set = at % SETS;
        let spread = (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / (1u64 << 24) as f64;
        let nanoseconds = (1000.0 * (1.0 + set as f64 / 100.0) * (spread * 6.9).exp()) as u64 % 999_999;
        tracker.record("flush", &[("table", &labels[set as usize])], Duration::from_nanos(nanoseconds), true);
    }
    let operation_ns = (cpu() - begin).as_nanos() as f64 / OPERATIONS as f64;
    let recorded = resident_bytes("VmRSS:")?;
    let count = counted(&tracker);
    anyhow::ensure!(count == OPERATIONS && tracker.pressure().overflowed == 0, "{count} counted");
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    Ok(Memory {
        operations: OPERATIONS,
        label_sets: SETS,
        recording_mib: mib(recorded - before),
        peak_mib: mib(resident_bytes("VmHWM:")?),
        operation_ns,
    })
}

/// Commands of about a millisecond, ten and fifty.
const COMMANDS: [&[&str]; 4] =
    [&["true"], &["sleep", "0.01"], &["sha256sum", "/bin/bash"], &["python3", "-c", "sum(range(1000000))"]];

/// Each command by both sides in turns, five times.
fn timed_commands(args: &Args) -> anyhow::Result<Vec<Timed>> {
    const TURNS: usize = 5;
    let each = (args.runs / TURNS).max(2).to_string();
    let mut rows = Vec::new();
    for words in COMMANDS {
        let (mut ours, mut theirs) = (Told::default(), Told::default());
        for _ in 0..TURNS {
            ours.add(|| by_weir(args, words, &each))?;
            theirs.add(|| by_hyperfine(args, words, &each))?;
        }
        ensure!(ours.wall_ms.len() == theirs.wall_ms.len(), "a side left out runs of {words:?}");
        rows.push(Timed {
            command: words.join(" "),
            runs: ours.wall_ms.len(),
            weir_ms: compare::median(&ours.wall_ms),
            hyperfine_ms: compare::median(&theirs.wall_ms),
            weir_overhead_ms: ours.overhead_ms(),
            hyperfine_overhead_ms: theirs.overhead_ms(),
        });
    }
    Ok(rows)
}

/// What a side told of its runs, and how long it took in all.
#[derive(Default)]
struct Told {
    wall_ms: Vec<f64>,
    all_ms: f64,
}

impl Told {
    fn add(&mut self, run: impl Fn() -> anyhow::Result<Vec<f64>>) -> anyhow::Result<()> {
        let begin = Instant::now();
        self.wall_ms.extend(run()?);
        self.all_ms += begin.elapsed().as_secs_f64() * 1e3;
        Ok(())
    }

    fn overhead_ms(&self) -> f64 {
        (self.all_ms - self.wall_ms.iter().sum::<f64>()) / self.wall_ms.len() as f64
    }
}

fn by_weir(args: &Args, words: &[&str], runs: &str) -> anyhow::Result<Vec<f64>> {
    let mut command = Command::new(&args.weir);
    command.args(["track", "run", "--json", "--name", "bench", "--runs", runs, "--data"]).arg(args.work.join("data"));
    let output = command.arg("--").args(words).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout)?;
    Ok(serde_json::from_value(told["sides"][0]["wall_ms"].clone())?)
}

fn by_hyperfine(args: &Args, words: &[&str], runs: &str) -> anyhow::Result<Vec<f64>> {
    let file = args.work.join("hyperfine.json");
    let mut command = Command::new("hyperfine");
    command.args(["--shell=none", "--style", "none", "--runs", runs, "--export-json"]).arg(&file);
    let line = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let output = command.arg(line).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let seconds: Vec<f64> = serde_json::from_value(told["results"][0]["times"].clone())?;
    Ok(seconds.into_iter().map(|second| second * 1e3).collect())
}

fn checked(pairs: usize) -> Vec<Checked> {
    let row = |(seed, noise): (u64, Noise)| Checked {
        noise: noise.describe().to_owned(),
        pairs,
        alarms: simulate::regressions(100 + seed, noise, pairs, 1.0),
        found: simulate::regressions(200 + seed, noise, pairs, 1.05),
    };
    (1..).zip(Noise::ALL).map(row).collect()
}

/// What Apache Otava found in one set of series.
#[derive(Deserialize)]
struct Searched {
    found: Vec<Vec<usize>>,
    seconds: f64,
}

fn by_otava(args: &Args, series: &[Vec<f64>]) -> anyhow::Result<HashMap<String, Searched>> {
    let mut command = Command::new(args.work.join("otava/bin/python"));
    command.arg("bench/rivals/changes_otava.py").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("Otava's interpreter")?;
    let input = serde_json::to_vec(series)?;
    child.stdin.take().context("no standard input")?.write_all(&input)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "Otava ended with {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn by_us(series: &[Vec<f64>]) -> Searched {
    let begin = Instant::now();
    let find =
        |values: &Vec<f64>| change::find(values, Settings::default()).iter().map(|change| change.index).collect();
    Searched { found: series.iter().map(find).collect(), seconds: begin.elapsed().as_secs_f64() }
}

fn changes(args: &Args) -> anyhow::Result<Vec<Found>> {
    let random = Seeded::new(31);
    let made: Vec<_> =
        simulate::SHAPES.iter().cycle().take(args.histories).map(|steps| simulate::history(&random, steps)).collect();
    let series: Vec<Vec<f64>> = made.iter().map(|one| one.0.clone()).collect();
    let mut otava = by_otava(args, &series)?;
    let mut take = |name: &str| otava.remove(name).context("Otava left out a method");
    let all = [
        ("weir", by_us(&series)),
        ("Apache Otava, defaults", take("hunter")?),
        ("Apache Otava, its E-divisive with permutations", take("permutation")?),
    ];
    let row = |(side, searched): (&str, Searched)| {
        let hits = made.iter().zip(&searched.found).map(|((_, truth), found)| {
            truth.iter().filter(|at| found.iter().any(|index| index.abs_diff(**at) <= 3)).count()
        });
        Found {
            side: side.to_owned(),
            histories: made.len(),
            changes: made.iter().map(|one| one.1.len()).sum(),
            told: searched.found.iter().map(Vec::len).sum(),
            hits: hits.sum(),
            seconds: searched.seconds,
        }
    };
    Ok(all.into_iter().map(row).collect())
}

/// The CloudWatch series of the Numenta Anomaly Benchmark as medians of an hour, each with the changes that were found in it.
fn real_series(args: &Args) -> anyhow::Result<String> {
    const MEASUREMENTS: [&str; 6] = ["ec2_cpu", "ec2_disk", "ec2_network", "elb_", "grok_", "rds_"];
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(&args.nab)?).read_to_string(&mut text)?;
    let mut hours: BTreeMap<&str, BTreeMap<i64, Vec<f64>>> = BTreeMap::new();
    for line in text.lines().filter(|line| MEASUREMENTS.iter().any(|name| line.starts_with(name))) {
        let mut words = line.split(' ');
        let (Some(key), Some(field), Some(time)) = (words.next(), words.next(), words.next()) else { continue };
        let value = field.split_once('=').context("a field")?.1.trim_end_matches('i').parse()?;
        hours.entry(key).or_default().entry(time.parse::<i64>()? / 3_600_000_000_000).or_default().push(value);
    }
    let names: Vec<&str> = hours.keys().copied().collect();
    let series: Vec<Vec<f64>> =
        hours.values().map(|hours| hours.values().map(|one| compare::median(one)).collect()).collect();
    let (ours, mut otava) = (by_us(&series), by_otava(args, &series)?);
    let theirs = otava.remove("hunter").context("Otava left out a method")?;
    Ok(plot::page(&names, &series, &ours.found, &theirs.found))
}
