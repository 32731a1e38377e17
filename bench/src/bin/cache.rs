//! The cache beside its rivals: the same keys, sizes and processes for each, every answer checked.
//!
//! `cache run` starts worker processes of this program (and of `bench/rivals/cache_diskcache.py`) that work on one folder
//! for a fixed time, engines taking turns. `cache extras` measures what only the cache has: the size query, batches, bytes
//! of index per entry; `cache contention` the handing over of one lock; `cache start` the command line.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark measures real files and the real clock, and prints"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use clap::{Parser, Subcommand};
use redb::{ReadableDatabase, TableDefinition};
use rusqlite::OptionalExtension;
use weir_base::{ByteSize, FileLock, LockError};
use weir_bench::report::{self, Figure, Figures};
use weir_cache::{Cache, CacheOptions, LIMIT_DEFAULT, Op, PutOptions};

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("cache");
/// Bytes of values that a run works on.
const DATA_BYTES: usize = 48 << 20;

#[derive(Parser)]
struct Args {
    /// A result file; what it holds of other runs stays.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
    #[command(subcommand)]
    command: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// The table.
    Run {
        /// Where the folders are made.
        #[arg(long)]
        dir: PathBuf,
        /// Seconds per cell.
        #[arg(long, default_value_t = 0.5)]
        seconds: f64,
        /// Engines.
        #[arg(long, value_delimiter = ',', default_value = "weir,sqlite,files,cacache,diskcache,redis,redb")]
        engines: Vec<String>,
        /// Value sizes, bytes.
        #[arg(long, value_delimiter = ',', default_value = "512,4096,65536,1048576")]
        sizes: Vec<usize>,
        /// Processes.
        #[arg(long, value_delimiter = ',', default_value = "1,4")]
        processes: Vec<usize>,
        /// Rounds per cell, engines taking turns; the median counts.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Also: the limit is what the data takes by half, so that eviction runs (weir and diskcache).
        #[arg(long)]
        full: bool,
    },
    /// One worker.
    Worker {
        engine: String,
        dir: PathBuf,
        size: usize,
        work: String,
        seed: u64,
        start_ns: u64,
        seconds: f64,
        limit: u64,
    },
    /// Processes that want one lock: the kernel's queue beside exponential backoff.
    Contention {
        #[arg(long)]
        dir: PathBuf,
        /// Processes.
        #[arg(long, default_value_t = 8)]
        processes: usize,
        /// How often each takes the lock.
        #[arg(long, default_value_t = 25)]
        turns: usize,
    },
    /// One process that takes the lock.
    Contender { wait: String, path: PathBuf, turns: usize, start_ns: u64 },
    /// `weir cache size` and `get` beside `weir --version`, taking turns.
    Start {
        #[arg(long)]
        dir: PathBuf,
        /// The released binary.
        #[arg(long)]
        weir: PathBuf,
        /// Entries in the cache.
        #[arg(long, default_value_t = 1_000_000)]
        entries: u64,
        /// Starts of each command.
        #[arg(long, default_value_t = 41)]
        rounds: usize,
    },
    /// What only the cache has.
    Extras {
        #[arg(long)]
        dir: PathBuf,
        /// Entries for the size query and the index.
        #[arg(long, default_value_t = 200_000)]
        entries: u64,
    },
}

trait Engine {
    fn put(&mut self, key: &str, value: &[u8]) -> anyhow::Result<()>;
    fn get(&mut self, key: &str) -> anyhow::Result<Option<Vec<u8>>>;
}

struct Weir(Cache);
impl Engine for Weir {
    fn put(&mut self, key: &str, value: &[u8]) -> anyhow::Result<()> {
        self.0.put(key, value, &PutOptions::default())?;
        Ok(())
    }
    fn get(&mut self, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(self.0.get(key).map(|value| value.to_vec()))
    }
}

struct Sqlite(rusqlite::Connection);
impl Engine for Sqlite {
    fn put(&mut self, key: &str, value: &[u8]) -> anyhow::Result<()> {
        self.0.prepare_cached("INSERT OR REPLACE INTO cache VALUES (?1, ?2)")?.execute((key, value))?;
        Ok(())
    }
    fn get(&mut self, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(self
            .0
            .prepare_cached("SELECT value FROM cache WHERE key = ?1")?
            .query_row([key], |row| row.get(0))
            .optional()?)
    }
}

/// A file per key, replaced by rename.
struct Files(PathBuf, u64);
impl Engine for Files {
    fn put(&mut self, key: &str, value: &[u8]) -> anyhow::Result<()> {
        let staged = self.0.join(format!("{key}.{}", self.1));
        std::fs::write(&staged, value)?;
        std::fs::rename(staged, self.0.join(key))?;
        Ok(())
    }
    fn get(&mut self, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
        match std::fs::read(self.0.join(key)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            other => Ok(Some(other?)),
        }
    }
}

struct Cacache(PathBuf);
impl Engine for Cacache {
    fn put(&mut self, key: &str, value: &[u8]) -> anyhow::Result<()> {
        cacache::write_sync(&self.0, key, value)?;
        Ok(())
    }
    fn get(&mut self, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
        match cacache::read_sync(&self.0, key) {
            Err(cacache::Error::EntryNotFound(..)) => Ok(None),
            other => Ok(Some(other?)),
        }
    }
}

/// One process only: the file is locked. Commits without a sync, as the others.
struct Redb(redb::Database);
impl Engine for Redb {
    fn put(&mut self, key: &str, value: &[u8]) -> anyhow::Result<()> {
        let mut write = self.0.begin_write()?;
        write.set_durability(redb::Durability::None)?;
        write.open_table(TABLE)?.insert(key.as_bytes(), value)?;
        write.commit()?;
        Ok(())
    }
    fn get(&mut self, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let table = self.0.begin_read()?.open_table(TABLE)?;
        Ok(table.get(key.as_bytes())?.map(|value| value.value().to_vec()))
    }
}

struct Redis(redis::Connection);
impl Engine for Redis {
    fn put(&mut self, key: &str, value: &[u8]) -> anyhow::Result<()> {
        redis::cmd("SET").arg(key).arg(value).query::<()>(&mut self.0)?;
        Ok(())
    }
    fn get(&mut self, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(redis::cmd("GET").arg(key).query(&mut self.0)?)
    }
}

fn open(name: &str, dir: &Path, seed: u64, limit: u64) -> anyhow::Result<Box<dyn Engine>> {
    Ok(match name {
        "weir" => {
            let limit = Some(if limit == 0 { LIMIT_DEFAULT } else { ByteSize::new(limit) });
            let options =
                CacheOptions { limit, lock_deadline: Duration::from_secs(30), ..CacheOptions::new(dir, "bench") };
            Box::new(Weir(Cache::open(options)?))
        }
        "sqlite" => {
            let sql = rusqlite::Connection::open(dir.join("cache.db"))?;
            sql.busy_timeout(Duration::from_secs(60))?;
            sql.execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; CREATE TABLE IF NOT EXISTS cache (key TEXT PRIMARY KEY, value BLOB)",
            )?;
            Box::new(Sqlite(sql))
        }
        "files" => Box::new(Files(dir.to_owned(), seed)),
        "cacache" => Box::new(Cacache(dir.to_owned())),
        "redb" => {
            let database = redb::Database::create(dir.join("cache.redb"))?;
            let write = database.begin_write()?;
            write.open_table(TABLE)?;
            write.commit()?;
            Box::new(Redb(database))
        }
        "redis" => {
            let url = format!("unix://{}", dir.join("redis.sock").display());
            Box::new(Redis(redis::Client::open(url)?.get_connection()?))
        }
        other => bail!("unknown engine {other}"),
    })
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Keys by Zipf's law (exponent 0.99).
struct Zipf(Vec<f64>);
impl Zipf {
    fn new(keys: usize) -> Self {
        let mut sum = 0.0;
        let mut steps: Vec<f64> = (1..=keys)
            .map(|rank| {
                sum += 1.0 / (rank as f64).powf(0.99);
                sum
            })
            .collect();
        steps.iter_mut().for_each(|step| *step /= sum);
        Self(steps)
    }
    fn draw(&self, state: &mut u64) -> usize {
        let at = (next(state) >> 11) as f64 / (1u64 << 53) as f64;
        // Spread over the key space, so that hot keys are not neighbours.
        (self.0.partition_point(|step| *step < at).min(self.0.len() - 1) * 7919) % self.0.len()
    }
}

fn keys(size: usize) -> usize {
    // Not a multiple of the spreading factor.
    (DATA_BYTES / size).clamp(48, 20_000) + 1
}

fn value(number: usize, size: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend_from_slice(&next(&mut state).to_le_bytes());
    }
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    bytes.truncate(size);
    bytes
}

fn name(number: usize) -> String {
    format!("key-{number:08}")
}

/// Works for a while; prints operations, seconds and hits.
fn work(engine: &mut dyn Engine, size: usize, work: &str, seed: u64, seconds: f64, full: bool) -> anyhow::Result<()> {
    let count = keys(size);
    let zipf = Zipf::new(count);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    if work == "fill" {
        for number in 0..count {
            engine.put(&name(number), &value(number, size))?;
        }
        return Ok(());
    }
    let write_share = match work {
        "put" => 100,
        "get" => 0,
        "95/5" => 5,
        "50/50" => 50,
        other => bail!("unknown work {other}"),
    };
    let mut template = value(0, size);
    let (started, limit) = (Instant::now(), Duration::from_secs_f64(seconds));
    let (mut done, mut hits, mut reads) = (0u64, 0u64, 0u64);
    while started.elapsed() < limit {
        let number = zipf.draw(&mut state);
        if next(&mut state) % 100 < write_share {
            template[..8].copy_from_slice(&(number as u64).to_le_bytes());
            // Different each time, or content-named stores would have nothing to write.
            let at = size - 8;
            template[at..].copy_from_slice(&next(&mut state).to_le_bytes());
            engine.put(&name(number), &template)?;
        } else {
            reads += 1;
            match engine.get(&name(number))? {
                Some(found) => {
                    hits += 1;
                    ensure!(found.len() == size && found[..8] == (number as u64).to_le_bytes(), "a wrong answer");
                }
                None => ensure!(full, "a missing answer"),
            }
        }
        done += 1;
    }
    println!("{done} {} {hits} {reads}", started.elapsed().as_secs_f64());
    Ok(())
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64)
}

struct Cell<'a> {
    engine: &'a str,
    dir: &'a Path,
    size: usize,
    limit: u64,
}

impl Cell<'_> {
    fn spawn(&self, work: &str, seed: u64, start_ns: u64, seconds: f64) -> anyhow::Result<std::process::Child> {
        let mut command = if self.engine == "diskcache" {
            let mut python = Command::new(std::env::var_os("BENCH_PYTHON").unwrap_or("python3".into()));
            python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("rivals/cache_diskcache.py"));
            python
        } else {
            let mut own = Command::new(std::env::current_exe()?);
            own.args(["worker", self.engine]);
            own
        };
        let numbers = [seed.to_string(), start_ns.to_string(), seconds.to_string(), self.limit.to_string()];
        command.arg(self.dir).arg(self.size.to_string()).arg(work).args(numbers);
        if self.engine == "diskcache" {
            command.arg(keys(self.size).to_string());
        }
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start a worker of {}", self.engine))
    }

    /// Operations per second over all processes, and the hit ratio.
    fn measure(&self, work: &str, processes: usize, seconds: f64) -> anyhow::Result<(f64, f64)> {
        let start = now_ns() + 400_000_000;
        let children: Vec<_> =
            (0..processes).map(|seed| self.spawn(work, seed as u64 + 1, start, seconds)).collect::<Result<_, _>>()?;
        let (mut rate, mut hits, mut reads) = (0.0, 0.0, 0.0);
        for child in children {
            let output = child.wait_with_output()?;
            ensure!(output.status.success(), "a worker of {} failed", self.engine);
            let said = String::from_utf8(output.stdout)?;
            let numbers: Vec<f64> = said.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            let [done, took, hit, read] = numbers[..] else { bail!("a worker of {} said {said:?}", self.engine) };
            rate += done / took;
            hits += hit;
            reads += read;
        }
        Ok((rate, if reads > 0.0 { hits / reads } else { 1.0 }))
    }
}

fn start_redis(dir: &Path) -> anyhow::Result<std::process::Child> {
    let socket = dir.join("redis.sock");
    let server = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
        .arg(&socket)
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start redis-server")?;
    for _ in 0..500 {
        if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
            return Ok(server);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("redis-server did not come up")
}

/// What a table is made of.
struct Plan<'a> {
    dir: &'a Path,
    seconds: f64,
    rounds: usize,
    engines: &'a [String],
    processes: &'a [usize],
    full: bool,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Plan<'_> {
    fn run(&self, size: usize, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
        let engines: Vec<&String> =
            self.engines.iter().filter(|name| !self.full || matches!(&***name, "weir" | "diskcache")).collect();
        let folders: Vec<PathBuf> = engines.iter().map(|engine| self.dir.join(format!("{engine}-{size}"))).collect();
        let limit = if self.full { (keys(size) * size / 2 + (8 << 20)) as u64 } else { 0 };
        let mut cells = Vec::new();
        let mut server = None;
        for (engine, dir) in engines.iter().zip(&folders) {
            std::fs::create_dir_all(dir)?;
            if *engine == "redis" {
                server = Some(start_redis(dir)?);
            }
            let cell = Cell { engine, dir, size, limit };
            ensure!(cell.spawn("fill", 1, 0, 0.0)?.wait()?.success(), "{engine} could not be filled");
            cells.push(cell);
        }
        for count in self.processes {
            for work in ["get", "put", "95/5", "50/50"] {
                self.row(&cells, *count, work, figures)?;
            }
        }
        if let Some(server) = &mut server {
            server.kill()?;
            server.wait()?;
        }
        folders.iter().try_for_each(std::fs::remove_dir_all)?;
        Ok(())
    }

    /// One kind of work, the engines taking turns.
    fn row(&self, cells: &[Cell<'_>], count: usize, work: &str, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
        let cells: Vec<_> = cells.iter().filter(|cell| cell.engine != "redb" || count == 1).collect();
        let mut rates = vec![Vec::new(); cells.len()];
        for _ in 0..self.rounds {
            for (cell, rates) in cells.iter().zip(&mut rates) {
                rates.push(cell.measure(work, count, self.seconds)?.0);
            }
        }
        for (cell, rates) in cells.iter().zip(rates) {
            let (rate, full) = (median(rates), if self.full { ", full" } else { "" });
            let what = format!("{} B, {count} processes, {work}{full}", cell.size);
            println!("{what}: {} {rate:.0}/s", cell.engine);
            figures.push(Figure { what, engine: cell.engine.to_owned(), value: rate, unit: "/s".to_owned() });
        }
        Ok(())
    }
}

const HELD: Duration = Duration::from_millis(5);

/// Takes the lock `turns` times; prints when it asked, got and gave each time, in nanoseconds.
fn contend(wait: &str, path: &Path, turns: usize, start_ns: u64) -> anyhow::Result<()> {
    std::thread::sleep(Duration::from_nanos(start_ns.saturating_sub(now_ns())));
    for _ in 0..turns {
        let asked = now_ns();
        let lock = if wait == "kernel" {
            FileLock::acquire(path, "bench", Duration::from_secs(60))?
        } else {
            let mut pause = Duration::from_millis(100);
            loop {
                match FileLock::acquire(path, "bench", Duration::ZERO) {
                    Err(LockError::Held { .. }) => std::thread::sleep(pause),
                    other => break other?,
                }
                pause = (pause * 2).min(Duration::from_secs(2));
            }
        };
        let got = now_ns();
        std::thread::sleep(HELD);
        let gave = now_ns();
        drop(lock);
        println!("{asked} {got} {gave}");
    }
    Ok(())
}

fn contention(dir: &Path, processes: usize, turns: usize, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    for wait in ["kernel", "exponential"] {
        let (path, start) = (dir.join(wait), now_ns() + 500_000_000);
        let children: Vec<_> = (0..processes)
            .map(|_| {
                let mut own = Command::new(std::env::current_exe()?);
                own.args(["contender", wait]).arg(&path).args([turns.to_string(), start.to_string()]);
                own.stdout(Stdio::piped()).spawn()
            })
            .collect::<Result<_, _>>()?;
        let mut held: Vec<[u64; 3]> = Vec::new();
        for child in children {
            let output = child.wait_with_output()?;
            ensure!(output.status.success(), "a process failed");
            for line in String::from_utf8(output.stdout)?.lines() {
                let times: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
                held.push(times.try_into().map_err(|_| anyhow::anyhow!("{line}"))?);
            }
        }
        ensure!(held.len() == processes * turns, "{} turns", held.len());
        held.sort_by_key(|times| times[1]);
        ensure!(held.windows(2).all(|pair| pair[1][1] >= pair[0][2]), "two held the lock at once");
        let mut gaps: Vec<f64> = held.windows(2).map(|pair| (pair[1][1] - pair[0][2]) as f64 / 1e6).collect();
        gaps.sort_by(f64::total_cmp);
        let total = (held[held.len() - 1][2] - held[0][1]) as f64 / 1e6;
        let ideal = (processes * turns) as f64 * HELD.as_secs_f64() * 1e3;
        let longest = held.iter().map(|times| times[1] - times[0]).max().unwrap_or(0) as f64 / 1e6;
        let fair = (processes - 1) as f64 * HELD.as_secs_f64() * 1e3;
        for (name, value, unit) in [
            ("total / ideal", total / ideal, ""),
            ("release to next p99", gaps[gaps.len() * 99 / 100], "ms"),
            ("longest wait / fair", longest / fair, ""),
        ] {
            let what = format!("one lock, {processes} processes, 5 ms held: {name}");
            println!("{what}: {wait} {value:.2} {unit}");
            figures.push(Figure { what, engine: wait.to_owned(), value, unit: unit.to_owned() });
        }
    }
    Ok(())
}

fn starts(dir: &Path, weir: &Path, entries: u64, rounds: usize, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let options = CacheOptions { limit: Some(LIMIT_DEFAULT), ..CacheOptions::new(dir, "start") };
    let cache = Cache::open(options)?;
    for start in (0..entries).step_by(100) {
        let ops: Vec<Op> = (start..start + 100)
            .map(|number| Op::Put {
                key: name(number as usize).into(),
                value: vec![7; 100],
                options: PutOptions::default(),
            })
            .collect();
        cache.batch(&ops)?;
    }
    let filled = cache.size()?.entries;
    drop(cache);
    let key = name(entries as usize / 2);
    let commands = [
        ("--version", vec!["--version"]),
        ("cache size", vec!["cache", "size", "--namespace", "start"]),
        ("cache get", vec!["cache", "get", &key, "--namespace", "start"]),
    ];
    let mut took = vec![Vec::new(); commands.len()];
    for _ in 0..rounds {
        for ((name, words), took) in commands.iter().zip(&mut took) {
            let started = Instant::now();
            let output = Command::new(weir).args(words).env("WEIR_CACHE_DIR", dir).output()?;
            took.push(started.elapsed().as_secs_f64() * 1e3);
            ensure!(output.status.success(), "weir {name} failed: {}", String::from_utf8_lossy(&output.stderr));
            ensure!(*name != "cache get" || output.stdout == [7; 100], "a wrong answer");
        }
    }
    for ((name, _), took) in commands.iter().zip(took) {
        let (what, value) = (format!("start to end with {filled} entries, median"), median(took));
        println!("{what}: weir {name} {value:.1} ms");
        figures.push(Figure { what, engine: format!("weir {name}"), value, unit: "ms".to_owned() });
    }
    Ok(())
}

fn per_call(count: u32, mut call: impl FnMut(u32) -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let started = Instant::now();
    for number in 0..count {
        call(number)?;
    }
    Ok(started.elapsed().as_secs_f64() * 1e6 / f64::from(count))
}

fn extras(dir: &Path, entries: u64, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let mut say = |what: &str, value: f64, unit: &str| {
        println!("{what}: {value:.1} {unit}");
        figures.push(Figure { what: what.to_owned(), engine: "weir".to_owned(), value, unit: unit.to_owned() });
    };
    let options =
        CacheOptions { limit: Some(LIMIT_DEFAULT), memory_limit: ByteSize::new(0), ..CacheOptions::new(dir, "extras") };
    let cache = Cache::open(options)?;
    let op = |number: u64| Op::Put {
        key: format!("key-{number:016}").into_bytes(),
        value: vec![7; 100],
        options: PutOptions::ttl(Duration::from_secs(3600)),
    };
    for start in (0..entries).step_by(100) {
        cache.batch(&(start..start + 100).map(op).collect::<Vec<_>>())?;
    }
    let size = cache.size()?;
    ensure!(size.entries == entries, "{} of {entries} entries are there", size.entries);
    say("index per entry beyond its 120 bytes", size.index_bytes as f64 / entries as f64 - 120.0, "B");
    say("size query in process", per_call(2000, |_| Ok(drop(cache.size()?)))?, "us");
    let plain = PutOptions::default();
    let single = per_call(2000, |number| Ok(drop(cache.put(format!("s{number}"), &[1; 100], &plain)?)))?;
    let batch = per_call(20, |round| {
        let ops: Vec<Op> = (0..100)
            .map(|number| Op::Put {
                key: format!("b{round}-{number}").into(),
                value: vec![1; 100],
                options: plain.clone(),
            })
            .collect();
        Ok(drop(cache.batch(&ops)?))
    })? / 100.0;
    say("put of 100 bytes, alone", single, "us");
    say("put of 100 bytes, in a batch of 100", batch, "us");
    let tags = PutOptions::ttl(Duration::from_millis(1));
    for start in (0..10_000).step_by(100) {
        let ops: Vec<Op> = (start..start + 100)
            .map(|number| Op::Put { key: format!("dead-{number}").into(), value: vec![1; 100], options: tags.clone() })
            .collect();
        cache.batch(&ops)?;
    }
    std::thread::sleep(Duration::from_millis(20));
    let started = Instant::now();
    let done = cache.collect(Duration::from_secs(10))?;
    ensure!(done.expired == 10_000, "{} were removed", done.expired);
    say("removing 10,000 expired entries", started.elapsed().as_secs_f64() * 1e3, "ms");
    Ok(())
}

fn load() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

/// Puts the figures of this run in the place of older ones of the same name.
fn keep(path: &Path, load: f64, figures: Vec<Figure>) -> anyhow::Result<()> {
    let mut all = if path.exists() { serde_json::from_slice(&std::fs::read(path)?)? } else { Figures::default() };
    all.machine = report::machine();
    all.commands.push(format!("{} (load before: {load})", report::command("cache")));
    let is_new = |old: &Figure| !figures.iter().any(|new| new.what == old.what && new.engine == old.engine);
    all.figures.retain(is_new);
    all.figures.extend(figures);
    report::save(path, &all)
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let (load, mut figures) = (load()?, Vec::new());
    match args.command {
        Mode::Run { dir, seconds, engines, sizes, processes, rounds, full } => {
            let plan = Plan { dir: &dir, seconds, rounds, engines: &engines, processes: &processes, full };
            sizes.iter().try_for_each(|size| plan.run(*size, &mut figures))?;
        }
        Mode::Worker { engine, dir, size, work: kind, seed, start_ns, seconds, limit } => {
            let mut engine = open(&engine, &dir, seed, limit)?;
            std::thread::sleep(Duration::from_nanos(start_ns.saturating_sub(now_ns())));
            work(&mut *engine, size, &kind, seed, seconds, limit > 0)?;
        }
        Mode::Contention { dir, processes, turns } => contention(&dir, processes, turns, &mut figures)?,
        Mode::Contender { wait, path, turns, start_ns } => contend(&wait, &path, turns, start_ns)?,
        Mode::Start { dir, weir, entries, rounds } => starts(&dir, &weir, entries, rounds, &mut figures)?,
        Mode::Extras { dir, entries } => extras(&dir, entries, &mut figures)?,
    }
    match args.json {
        Some(path) => keep(&path, load, figures),
        None => Ok(()),
    }
}
