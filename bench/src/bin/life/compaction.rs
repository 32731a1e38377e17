//! Thousands of small files with overlapping times become few: what that costs, what it gains, and what queries notice.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::ensure;
use serde_json::Value;
use weir_bench::figures::{Figure, Figures, Goal};
use weir_bench::http::Connection;
use weir_bench::process::Server;
use weir_bench::target::{DATABASE, Target};
use weir_bench::tsbs::{START_SECONDS, VALUES_PER_LINE};
use weir_bench::{load, report};

use super::lines::Batches;
use super::{ANSWER_WITHIN, Run, compact, flush, stop, stored, timed};

/// Files are merged when that is asked for, not before.
const HELD_OFF: &str = "[engine]\ncompact_files = 1000000\n";
const BYTES_PER_VALUE_MAX: f64 = 0.6;
const SLOWER_MAX: f64 = 1.3;
const MIB: f64 = 1048576.0;

/// How many small files.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Flushes, each a file.
    #[arg(long, default_value_t = 2_000)]
    flushes: usize,
    /// Hosts; a flush has ten rows of a tenth of them.
    #[arg(long, default_value_t = 1_000)]
    hosts: usize,
}

pub(super) fn run(run: &Run<'_>, options: &Options) -> anyhow::Result<Figures> {
    let mut bench = Compaction { run, options, figures: Vec::new() };
    let (server, address, tables) = bench.fragmented("alone")?;
    bench.alone(server, address, &tables)?;
    let (server, address, _) = bench.fragmented("asked")?;
    bench.asked(server, address)?;
    Ok(Figures { commands: vec![report::command("life")], machine: report::machine(), figures: bench.figures })
}

struct Compaction<'a> {
    run: &'a Run<'a>,
    options: &'a Options,
    figures: Vec<Figure>,
}

/// The answers and median milliseconds of each question.
struct Asked {
    /// By question, then by round.
    answers: Vec<Vec<Vec<Value>>>,
    medians: Vec<f64>,
}

impl Compaction<'_> {
    fn add(&mut self, what: &str, value: f64, unit: &str, goal: Option<Goal>) {
        eprintln!("{what}: {value:.3} {unit}");
        self.figures.push(Figure { goal, ..Figure::new(what, "weir", value, unit) });
    }

    /// A server with a table of many small files, checked.
    fn fragmented(&self, name: &str) -> anyhow::Result<(Server, SocketAddr, PathBuf)> {
        let place = self.run.place(name, HELD_OFF)?;
        let (server, address, _) = place.start(Target::Weir)?;
        let mut batches = Batches::new(self.options.hosts);
        let mut connection = Connection::open(address, ANSWER_WITHIN)?;
        let mut body = Vec::new();
        for _ in 0..self.options.flushes {
            batches.next(&mut body);
            let answer = connection.post(&Target::Weir.write_path(), &body)?;
            ensure!(answer.status == 204, "{}: {}", answer.status, answer.text());
            flush(address)?;
        }
        load::check(Target::Weir, address, batches.facts)?;
        Ok((server, address, place.folder.join("data/tables").join(DATABASE)))
    }

    fn alone(&mut self, server: Server, address: SocketAddr, tables: &Path) -> anyhow::Result<()> {
        let mut connection = Connection::open(address, ANSWER_WITHIN)?;
        let before = stored(&mut connection)?;
        self.add("files before", before.files as f64, "", None);
        self.add("bytes of the files before", before.bytes as f64 / MIB, "MiB", None);
        let asked_before = self.ask(&mut connection)?;
        let content = Target::Weir.content(address)?;
        let known = parquet_files(tables)?;
        server.forget_peak()?;
        let resting = server.usage()?;
        let seconds = compact(address)?;
        let usage = server.usage()?;
        let written: u64 =
            parquet_files(tables)?.difference(&known).map(|path| path.metadata().map_or(0, |of| of.len())).sum();
        let after = stored(&mut connection)?;
        ensure!(after.overlapping == 0, "{} files overlap after the compaction", after.overlapping);
        ensure!(Target::Weir.content(address)? == content, "other rows than before");
        let rows = content.map_or(0, |content| content.rows);
        self.add("files after", after.files as f64, "", None);
        self.add("bytes of the files after", after.bytes as f64 / MIB, "MiB", None);
        self.add("rows", rows as f64, "", None);
        let per_value = after.bytes as f64 / (rows * VALUES_PER_LINE) as f64;
        self.add("bytes a value after", per_value, "B", Some(Goal::AtMost(BYTES_PER_VALUE_MAX)));
        self.add("compaction", seconds, "s", None);
        self.add("its processor time", usage.cpu_seconds - resting.cpu_seconds, "s", None);
        self.add("bytes written over bytes of the files after", written as f64 / after.bytes as f64, "", None);
        self.add("peak memory of the server meanwhile", usage.peak_bytes as f64 / MIB, "MiB", None);
        self.add("memory of the server before", resting.anonymous_bytes as f64 / MIB, "MiB", None);
        let asked_after = self.ask(&mut connection)?;
        ensure!(asked_before.answers == asked_after.answers, "other answers than before");
        for (index, (question, _)) in questions(0, self.options).iter().enumerate() {
            self.add(&format!("{question}, before"), asked_before.medians[index], "ms", None);
            self.add(&format!("{question}, after"), asked_after.medians[index], "ms", None);
        }
        stop(server)
    }

    /// Questions while the files are merged, beside the same ones before.
    fn asked(&mut self, server: Server, address: SocketAddr) -> anyhow::Result<()> {
        let mut connection = Connection::open(address, ANSWER_WITHIN)?;
        let idle = self.ask(&mut connection)?;
        let over = AtomicBool::new(false);
        let times = std::thread::scope(|scope| -> anyhow::Result<Vec<Vec<f64>>> {
            let merging = scope.spawn(|| {
                let done = compact(address);
                over.store(true, Ordering::Release);
                done
            });
            let mut times = vec![Vec::new(); idle.answers.len()];
            'rounds: for round in (0..self.run.rounds).cycle() {
                for (index, (question, statement)) in questions(round, self.options).iter().enumerate() {
                    let (answer, ms) = timed(&mut connection, statement)?;
                    ensure!(
                        answer == idle.answers[index][round],
                        "{question} is answered otherwise while files are merged"
                    );
                    if over.load(Ordering::Acquire) {
                        break 'rounds;
                    }
                    times[index].push(ms);
                }
            }
            merging.join().expect("merging does not panic")?;
            Ok(times)
        })?;
        let mut ratios = Vec::new();
        for (index, (question, _)) in questions(0, self.options).iter().enumerate() {
            if times[index].is_empty() {
                continue;
            }
            let ratio = report::median(&times[index]) / idle.medians[index];
            self.add(
                &format!("{question}, {} times while files are merged / before", times[index].len()),
                ratio,
                "",
                None,
            );
            ratios.push(ratio);
        }
        ensure!(!ratios.is_empty(), "no question was answered while files were merged");
        let mean = (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
        self.add("all of them, geometric mean", mean, "", Some(Goal::AtMost(SLOWER_MAX)));
        stop(server)
    }

    fn ask(&self, connection: &mut Connection) -> anyhow::Result<Asked> {
        let count = questions(0, self.options).len();
        let mut asked = Asked { answers: vec![Vec::new(); count], medians: Vec::new() };
        let mut times = vec![Vec::new(); count];
        for round in 0..self.run.rounds {
            for (index, (_, statement)) in questions(round, self.options).iter().enumerate() {
                let (answer, ms) = timed(connection, statement)?;
                times[index].push(ms);
                asked.answers[index].push(answer);
            }
        }
        asked.medians = times.iter().map(|times| report::median(times)).collect();
        Ok(asked)
    }
}

/// Other hosts and times in each round.
fn questions(round: usize, options: &Options) -> [(&'static str, String); 5] {
    let host = |number: usize| format!("'host_{}'", (round * 37 + number * 101 + 7) % options.hosts);
    // A flush is a step of ten seconds.
    let begin = START_SECONDS as usize + (round * 977) % (options.flushes * 10).saturating_sub(3600).max(1);
    let hour = format!("time >= to_timestamp({begin}) AND time < to_timestamp({})", begin + 3600);
    let hosts: Vec<String> = (0..8).map(host).collect();
    [
        (
            "an hour of a host",
            format!(
                "SELECT date_trunc('minute', time) AS t, max(usage_user) AS a FROM cpu WHERE hostname = {} AND {hour} GROUP BY 1 ORDER BY 1",
                host(0)
            ),
        ),
        (
            "an hour of eight hosts",
            format!(
                "SELECT date_trunc('minute', time) AS t, max(usage_user) AS a, max(usage_system) AS b, max(usage_idle) AS c FROM cpu \
                 WHERE hostname IN ({}) AND {hour} GROUP BY 1 ORDER BY 1",
                hosts.join(", ")
            ),
        ),
        (
            "an hour of all hosts",
            format!(
                "SELECT hostname, max(usage_user) AS a, min(usage_idle) AS b FROM cpu WHERE {hour} GROUP BY 1 ORDER BY 1"
            ),
        ),
        (
            "last row of each host",
            "SELECT hostname, max(time) AS t, last(usage_user, time) AS a FROM cpu GROUP BY hostname ORDER BY hostname"
                .to_owned(),
        ),
        ("count and sum", "SELECT count(*) AS n, sum(usage_user) AS s FROM cpu".to_owned()),
    ]
}

/// All Parquet files below a folder, also those that no version names any more.
fn parquet_files(folder: &Path) -> anyhow::Result<HashSet<PathBuf>> {
    let mut found = HashSet::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(parquet_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            found.insert(path);
        }
    }
    Ok(found)
}
