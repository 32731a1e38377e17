//! What recording one operation costs, beside `tracing` spans with a histogram layer, `metrics` with its Prometheus
//! recorder, and a bare pair of clock readings; and the memory of ten million operations under ten thousand label sets.
//!
//! Every side records the same operation: a name, one label, a duration. Afterwards each is asked how many it counted;
//! a side that lost one fails the bench.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark reads the clock and prints its figures"
)]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use weir_base::SystemClock;
use weir_track::{Limits, Row, Tracker};

#[derive(Parser)]
struct Args {
    /// Operations of each side, over all threads.
    #[arg(long, default_value_t = 4_000_000)]
    operations: u64,
    /// Rounds; the best of each side counts.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Only measure the memory of 10 million operations with 10,000 label sets.
    #[arg(long)]
    memory: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.memory {
        return memory();
    }
    println!("| side | 1 thread, ns | 8 threads, ns of wall time x 8 / operations | counted |");
    println!("|---|---|---|---|");
    let mut lines: Vec<(&str, [f64; 2])> = Vec::new();
    for _ in 0..args.rounds {
        for (at, threads) in [1, 8].into_iter().enumerate() {
            for (name, cost) in sides(args.operations, threads)? {
                match lines.iter_mut().find(|line| line.0 == name) {
                    Some(line) => line.1[at] = line.1[at].min(cost),
                    None => lines.push((name, [cost, f64::MAX])),
                }
            }
        }
    }
    for (name, [one, eight]) in lines {
        println!("| {name} | {one:.1} | {eight:.1} | all |");
    }
    Ok(())
}

/// Nanoseconds of one operation on each of `threads`.
fn timed(operations: u64, threads: u64, work: impl Fn(u64) + Sync) -> f64 {
    let each = operations / threads;
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| (0..each).for_each(&work));
        }
    });
    begin.elapsed().as_nanos() as f64 / each as f64
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
    let of_kind = timed(operations, threads, |_| { let _ = black_box(kind.time(|| Ok::<(), ()>(()))); });
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
    let begin = Instant::now();
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
    let cost = begin.elapsed().as_nanos() as f64 / each as f64;
    let count: u64 =
        layer.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).values().map(Histogram::len).sum();
    anyhow::ensure!(count == each * threads, "the layer lost operations");
    Ok(cost)
}

fn prometheus(operations: u64, threads: u64) -> anyhow::Result<f64> {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let each = operations / threads;
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                metrics::with_local_recorder(&recorder, || {
                    for at in 0..each {
                        let begin = Instant::now();
                        metrics::histogram!("flush", "table" => "cpu").record(begin.elapsed().as_secs_f64());
                        // It keeps every sample until somebody folds them; a server's scrape does that.
                        if at % 100_000 == 0 {
                            handle.run_upkeep();
                        }
                    }
                });
            });
        }
    });
    let cost = begin.elapsed().as_nanos() as f64 / each as f64;
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
fn memory() -> anyhow::Result<()> {
    const OPERATIONS: u64 = 10_000_000;
    const SETS: u64 = 10_000;
    let before = resident_bytes("VmRSS:")?;
    let tracker = Tracker::new(Arc::new(SystemClock::default()), "bench", Limits::default());
    let labels: Vec<String> = (0..SETS).map(|set| format!("table-{set}")).collect();
    let begin = Instant::now();
    for at in 0..OPERATIONS {
        let set = at % SETS;
        let spread = (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / (1u64 << 24) as f64;
        let nanoseconds = (1000.0 * (1.0 + set as f64 / 100.0) * (spread * 6.9).exp()) as u64 % 999_999;
        tracker.record("flush", &[("table", &labels[set as usize])], Duration::from_nanos(nanoseconds), true);
    }
    let took = begin.elapsed().as_nanos() as f64 / OPERATIONS as f64;
    let recorded = resident_bytes("VmRSS:")?;
    let count = counted(&tracker);
    anyhow::ensure!(count == OPERATIONS && tracker.pressure().overflowed == 0, "{count} counted");
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "{OPERATIONS} operations, {SETS} label sets: {:.1} MiB more while recording, {:.1} MiB peak of the process with a drain, {took:.0} ns each",
        mib(recorded - before),
        mib(resident_bytes("VmHWM:")?)
    );
    Ok(())
}
