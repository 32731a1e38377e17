//! One run: start a server, send it the workload over several connections, empty it to disk, count what it has.
//!
//! The connections share one generator, so that lines arrive in order of time as they do from agents; a body is made
//! under its lock (0.5 ms) and sent outside it. A refused request (429, 503) waits as it is told and is sent again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::disk::{self, SyncCost};
use crate::http::Connection;
use crate::process::{Server, Usage, free_address};
use crate::profile::Recorder;
use crate::target::{ANSWER_TIMEOUT, Content, Target};
use crate::tsbs::{BodyFacts, Generator, VALUES_PER_LINE};

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Lines in all.
    pub rows: u64,
    /// Lines in a request.
    pub lines_per_request: usize,
    /// Connections at the same time.
    pub connections: usize,
    /// Hosts (series).
    pub hosts: usize,
    /// Seed of the values.
    pub seed: u64,
    /// First stamp, seconds since 1970.
    pub start_seconds: u64,
}

/// What one run showed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// Name of the target.
    pub target: String,
    /// What an answered write means there.
    pub promise: String,
    /// Rows sent, answered and (where it can be asked) counted in the end.
    pub rows: u64,
    /// Whether the server's own count and sum were compared.
    pub verified: bool,
    /// Connections at the same time.
    pub connections: usize,
    /// Rows answered per second.
    pub acknowledged_rows_per_second: f64,
    /// Rows per second until the call that empties the server to disk came back; none where there is no such call.
    pub flushed_rows_per_second: Option<f64>,
    /// Of one request, in milliseconds.
    pub latency_p50_ms: f64,
    /// Of one request, in milliseconds.
    pub latency_p99_ms: f64,
    /// Of one request, in milliseconds.
    pub latency_max_ms: f64,
    /// Requests that were refused for now and sent again.
    pub refused_requests: u64,
    /// CPU seconds of the server per million rows, the flush included.
    pub server_cpu_seconds_per_million_rows: f64,
    /// CPU seconds of this client per million rows.
    pub client_cpu_seconds_per_million_rows: f64,
    /// Highest resident size of the server.
    pub peak_memory_bytes: u64,
    /// Size of the final files by the number of values (fields) in them.
    pub bytes_per_value: f64,
    /// The same after the files were merged.
    pub bytes_per_value_compacted: Option<f64>,
    /// Size of the whole data folder at that moment.
    pub folder_bytes: u64,
    /// A bare write and sync in the same folder, just before.
    pub bare_sync: Vec<SyncCost>,
}

/// What a load alone showed.
#[derive(Debug)]
pub struct Loaded {
    /// What was sent.
    pub facts: BodyFacts,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// One per request.
    pub latencies: Vec<Duration>,
    /// Refusals.
    pub refused_requests: u64,
}

/// Where and how to start the server.
#[derive(Debug, Clone)]
pub struct Place {
    /// Path of the `weir` binary.
    pub weir: PathBuf,
    /// Further arguments for `weir serve`.
    pub weir_arguments: Vec<String>,
    /// A shared object to preload into the server: see `slow_sync.c`.
    pub preload: Option<PathBuf>,
    /// Where the profile of the run goes as text, if one is asked for.
    pub profile: Option<PathBuf>,
    /// An empty folder for data and log.
    pub folder: PathBuf,
}

impl Place {
    /// Starts `target` there and waits until it answers.
    pub fn start(&self, target: Target) -> anyhow::Result<(Server, SocketAddr, Duration)> {
        let address = free_address()?;
        let data = self.folder.join("data");
        std::fs::create_dir_all(&data)?;
        let mut command = target.command(&self.weir, &self.weir_arguments, &data, address)?;
        if let Some(object) = &self.preload {
            command.env("LD_PRELOAD", object);
        }
        let mut server = Server::start(command, &self.folder.join("log"))?;
        let took = server.wait_until(Duration::from_secs(120), || target.is_ready(address)).with_context(|| {
            format!("cannot start {}; its log is {}", target.name(), self.folder.join("log").display())
        })?;
        Ok((server, address, took))
    }
}

/// Builds the library that delays every sync of the process it is loaded into.
pub fn slow_sync(folder: &std::path::Path, delay_ms: u32) -> anyhow::Result<PathBuf> {
    let source = folder.join("slow_sync.c");
    std::fs::write(&source, include_str!("slow_sync.c"))?;
    let object = folder.join("slow_sync.so");
    let status = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", &format!("-DDELAY_MS={delay_ms}"), "-o"])
        .args([&object, &source])
        .arg("-ldl")
        .status()
        .context("cannot run cc")?;
    ensure!(status.success(), "cc ended with {status}");
    Ok(object)
}

/// Runs `plan` against `target` and checks the answer.
pub fn run(target: Target, plan: &Plan, place: &Place, compacts: bool) -> anyhow::Result<Outcome> {
    let data = place.folder.join("data");
    std::fs::create_dir_all(&data)?;
    let bare_sync = [4 << 10, 256 << 10, 1 << 20]
        .into_iter()
        .map(|bytes| disk::sync_cost(&place.folder, bytes, 100))
        .collect::<Result<Vec<_>, _>>()?;
    let (server, address, _) = place.start(target)?;
    target.prepare(address)?;
    let recorder = place.profile.as_ref().map(|_| Recorder::start(server.id(), &place.folder)).transpose()?;
    let server_before = server.usage()?;
    let client_before = Usage::of_self()?;
    let start = Instant::now();
    let mut loaded = send(target, plan, address)?;
    let client_after = Usage::of_self()?;
    let flushed = target.flush(address)?;
    let until_flushed = start.elapsed();
    let server_after = server.usage()?;
    if let (Some(recorder), Some(path)) = (recorder, &place.profile) {
        std::fs::write(path, recorder.stop()?)?;
    }
    let values = (loaded.facts.rows * VALUES_PER_LINE) as f64;
    let bytes_per_value = || disk::folder_bytes(&target.files_folder(&data)) as f64 / values;
    let flushed_bytes_per_value = bytes_per_value();
    let folder_bytes = disk::folder_bytes(&data);
    let verified = check(target, address, loaded.facts)?;
    let mut bytes_per_value_compacted = None;
    if compacts && target.compact(address)? {
        check(target, address, loaded.facts)?;
        bytes_per_value_compacted = Some(live_bytes(&target.files_folder(&data))? as f64 / values);
    }
    let stopped = server.stop(Duration::from_secs(120))?;
    ensure!(
        stopped || target == Target::Floor,
        "the server did not stop in order; its log is {}",
        place.folder.join("log").display()
    );
    let rows = loaded.facts.rows as f64;
    let mut latency = |share| disk::percentile(&mut loaded.latencies, share).as_secs_f64() * 1e3;
    Ok(Outcome {
        target: target.name().to_owned(),
        promise: target.promise().to_owned(),
        rows: loaded.facts.rows,
        verified,
        connections: plan.connections,
        acknowledged_rows_per_second: rows / loaded.elapsed.as_secs_f64(),
        flushed_rows_per_second: flushed.then(|| rows / until_flushed.as_secs_f64()),
        latency_p50_ms: latency(0.5),
        latency_p99_ms: latency(0.99),
        latency_max_ms: latency(1.0),
        refused_requests: loaded.refused_requests,
        server_cpu_seconds_per_million_rows: (server_after.cpu_seconds - server_before.cpu_seconds) / rows * 1e6,
        client_cpu_seconds_per_million_rows: (client_after.cpu_seconds - client_before.cpu_seconds) / rows * 1e6,
        peak_memory_bytes: server_after.peak_bytes,
        bytes_per_value: flushed_bytes_per_value,
        bytes_per_value_compacted,
        folder_bytes,
        bare_sync,
    })
}

/// Sends the whole plan.
pub fn send(target: Target, plan: &Plan, address: SocketAddr) -> anyhow::Result<Loaded> {
    let source = Mutex::new(Source {
        generator: Generator::starting_at(plan.hosts, plan.seed, plan.start_seconds),
        rows_left: plan.rows,
        facts: BodyFacts::default(),
    });
    let refused = AtomicU64::new(0);
    let start = Instant::now();
    let latencies = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.connections)
            .map(|_| scope.spawn(|| send_from(&source, plan.lines_per_request, target, address, &refused)))
            .collect();
        let mut latencies = Vec::new();
        for worker in workers {
            latencies.extend(worker.join().map_err(|_| anyhow::anyhow!("a connection's thread panicked"))??);
        }
        anyhow::Ok(latencies)
    })?;
    let elapsed = start.elapsed();
    let facts = source.into_inner().map_err(|_| anyhow::anyhow!("the generator's lock is poisoned"))?.facts;
    Ok(Loaded { facts, elapsed, latencies, refused_requests: refused.into_inner() })
}

struct Source {
    generator: Generator,
    rows_left: u64,
    facts: BodyFacts,
}

fn send_from(
    source: &Mutex<Source>,
    lines_per_request: usize,
    target: Target,
    address: SocketAddr,
    refused: &AtomicU64,
) -> anyhow::Result<Vec<Duration>> {
    let mut connection = Connection::open(address, ANSWER_TIMEOUT)?;
    let path = target.write_path();
    let mut latencies = Vec::new();
    let mut body = Vec::new();
    loop {
        {
            let mut source = source.lock().map_err(|_| anyhow::anyhow!("the generator's lock is poisoned"))?;
            let lines = source.rows_left.min(lines_per_request as u64);
            if lines == 0 {
                return Ok(latencies);
            }
            let facts = source.generator.body(lines as usize, &mut body);
            source.rows_left -= lines;
            source.facts.rows += facts.rows;
            source.facts.usage_user_sum += facts.usage_user_sum;
        }
        let start = Instant::now();
        loop {
            let answer = connection.post(&path, &body)?;
            match answer.status {
                200..300 => break,
                429 | 503 if start.elapsed() < ANSWER_TIMEOUT => {
                    refused.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_secs(answer.retry_after_seconds.unwrap_or(1)));
                }
                status => bail!("a write was answered {status}: {}", answer.text()),
            }
        }
        latencies.push(start.elapsed());
    }
}

/// Lines in a request of a [`Pace`].
const PACE_LINES: usize = 1_000;
/// Connections of a [`Pace`].
const PACE_CONNECTIONS: usize = 4;

/// Writes to Weir at a rate that does not depend on the answers: what is late counts from when it was due.
pub struct Pace {
    /// Between two requests of one connection.
    every: Duration,
    in_time_within: Duration,
    generator: Mutex<Generator>,
    due: AtomicU64,
    in_time: AtomicU64,
}

impl Pace {
    /// Sends the generator's lines; an acknowledgement within `in_time_within` of the moment at which its request was due is in time.
    pub fn new(rows_per_second: f64, in_time_within: Duration, generator: Generator) -> Self {
        let every = Duration::from_secs_f64((PACE_CONNECTIONS * PACE_LINES) as f64 / rows_per_second);
        let (due, in_time) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { every, in_time_within, generator: Mutex::new(generator), due, in_time }
    }

    /// Sends for so long; returns how many rows were acknowledged, in time or not.
    ///
    /// # Errors
    /// When the server is gone or answers what it should not.
    pub fn send(&self, address: SocketAddr, length: Duration) -> anyhow::Result<u64> {
        let start = Instant::now();
        let requests = (length.as_secs_f64() / self.every.as_secs_f64()).ceil() as u32;
        let work = || -> anyhow::Result<u64> {
            let mut connection = Connection::open(address, ANSWER_TIMEOUT)?;
            let (mut body, mut taken) = (Vec::new(), 0);
            for number in 0..requests {
                let due = start + self.every * number;
                self.generator.lock().expect("nobody panics under it").body(PACE_LINES, &mut body);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let answer = connection.post(&Target::Weir.write_path(), &body)?;
                ensure!([204, 429, 503].contains(&answer.status), "{}: {}", answer.status, answer.text());
                self.due.fetch_add(1, Ordering::AcqRel);
                if answer.status == 204 {
                    taken += PACE_LINES as u64;
                    self.in_time.fetch_add(u64::from(due.elapsed() <= self.in_time_within), Ordering::AcqRel);
                }
            }
            Ok(taken)
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..PACE_CONNECTIONS).map(|_| scope.spawn(work)).collect();
            workers.into_iter().map(|worker| worker.join().expect("writing does not panic")).sum()
        })
    }

    /// Of the requests so far.
    pub fn share_in_time(&self) -> f64 {
        self.in_time.load(Ordering::Acquire) as f64 / self.due.load(Ordering::Acquire).max(1) as f64
    }
}

/// Compares what the server says it has with what was sent. VictoriaMetrics shows rows a second or two late.
pub fn check(target: Target, address: SocketAddr, facts: BodyFacts) -> anyhow::Result<bool> {
    let expected = Content { rows: facts.rows, usage_user_sum: facts.usage_user_sum };
    let start = Instant::now();
    loop {
        let Some(content) = target.content(address)? else { return Ok(false) };
        if content == expected {
            return Ok(true);
        }
        let patience = if target == Target::Victoriametrics { 10 } else { 0 };
        ensure!(start.elapsed().as_secs() < patience, "wrong answer: {content:?} instead of {expected:?}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Bytes of the Parquet files that the newest version of each Delta table below `folder` names.
fn live_bytes(folder: &std::path::Path) -> anyhow::Result<u64> {
    let log = folder.join("_delta_log");
    if !log.is_dir() {
        let mut sum = 0;
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                sum += live_bytes(&path)?;
            }
        }
        return Ok(sum);
    }
    let mut versions: Vec<PathBuf> = std::fs::read_dir(&log)?.flatten().map(|entry| entry.path()).collect();
    versions.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    versions.sort();
    let mut live = std::collections::HashMap::new();
    for version in versions {
        for line in std::fs::read_to_string(&version)?.lines() {
            let action: serde_json::Value = serde_json::from_str(line)?;
            if let Some(path) = action["add"]["path"].as_str() {
                live.insert(path.to_owned(), action["add"]["size"].as_u64().unwrap_or(0));
            }
            if let Some(path) = action["remove"]["path"].as_str() {
                live.remove(path);
            }
        }
    }
    Ok(live.values().sum())
}
