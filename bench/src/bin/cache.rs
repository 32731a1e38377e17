//! The cache beside its rivals: the same keys, sizes and processes for each, every answer checked.
//!
//! `cache run` starts worker processes of this program (and of `bench/rivals/cache_diskcache.py`) that work on one folder
//! for a fixed time, and prints a table of operations per second. `cache extras` measures what only the cache has: the size
//! query, batches, bytes of index per entry, handing over the lock.

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
use weir_base::ByteSize;
use weir_cache::{Cache, CacheOptions, LIMIT_DEFAULT, Op, PutOptions};

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("cache");
/// Bytes of values that a run works on.
const DATA_BYTES: usize = 48 << 20;

#[derive(Parser)]
struct Args {
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

fn run(
    dir: &Path,
    seconds: f64,
    engines: &[String],
    sizes: &[usize],
    processes: &[usize],
    full: bool,
) -> anyhow::Result<()> {
    println!("| size | processes | work | engine | operations/s | hits |\n|---|---|---|---|---|---|");
    for size in sizes {
        for engine in engines {
            if full && !matches!(&**engine, "weir" | "diskcache") {
                continue;
            }
            let folder = dir.join(format!("{engine}-{size}"));
            std::fs::create_dir_all(&folder)?;
            let limit = if full { (keys(*size) * size / 2 + (8 << 20)) as u64 } else { 0 };
            let cell = Cell { engine, dir: &folder, size: *size, limit };
            let mut server = if engine == "redis" { Some(start_redis(&folder)?) } else { None };
            ensure!(cell.spawn("fill", 1, 0, 0.0)?.wait()?.success(), "{engine} could not be filled");
            for count in processes {
                if engine == "redb" && *count > 1 {
                    continue;
                }
                for work in ["get", "put", "95/5", "50/50"] {
                    let (rate, hits) = cell.measure(work, *count, seconds)?;
                    println!("| {size} | {count} | {work} | {engine} | {rate:.0} | {hits:.3} |");
                }
            }
            if let Some(server) = &mut server {
                server.kill()?;
                server.wait()?;
            }
            std::fs::remove_dir_all(&folder)?;
        }
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

fn extras(dir: &Path, entries: u64) -> anyhow::Result<()> {
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
    println!("index bytes per entry beyond its 120 bytes: {:.0}", size.index_bytes as f64 / entries as f64 - 120.0);
    println!("size query: {:.1} us", per_call(2000, |_| Ok(drop(cache.size()?)))?);
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
    println!(
        "put of 100 bytes: single {single:.1} us, in a batch of 100 {batch:.1} us: {:.1} times faster",
        single / batch
    );
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
    println!("removing {} expired entries: {:.1} ms", done.expired, started.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Mode::Run { dir, seconds, engines, sizes, processes, full } => {
            run(&dir, seconds, &engines, &sizes, &processes, full)
        }
        Mode::Worker { engine, dir, size, work: kind, seed, start_ns, seconds, limit } => {
            let mut engine = open(&engine, &dir, seed, limit)?;
            std::thread::sleep(Duration::from_nanos(start_ns.saturating_sub(now_ns())));
            work(&mut *engine, size, &kind, seed, seconds, limit > 0)
        }
        Mode::Extras { dir, entries } => extras(&dir, entries),
    }
}
