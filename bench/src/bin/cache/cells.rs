//! The table: engines x sizes x processes x work x how full, engines taking turns.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use weir_bench::figures::Figure;

use crate::engines::Engine;

/// Bytes of values that a run works on.
const DATA_BYTES: usize = 24 << 20;
/// Index and log beside the values, roughly.
const SPARE_BYTES: usize = 8 << 20;

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
    (DATA_BYTES / size).clamp(24, 4000) + 1
}

/// The bytes of a key: `size` of them, never the same for two.
pub(crate) fn value(number: usize, size: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend_from_slice(&next(&mut state).to_le_bytes());
    }
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    bytes.truncate(size);
    bytes
}

/// A key.
pub(crate) fn name(number: usize) -> String {
    format!("key-{number:08}")
}

/// Works for a while once standard input says so; prints operations, seconds, hits and reads.
pub(crate) fn work(
    engine: &mut dyn Engine,
    size: usize,
    work: &str,
    seed: u64,
    seconds: f64,
    may_miss: bool,
) -> anyhow::Result<()> {
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
    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;
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
            let mut right = true;
            let is_right = |found: &[u8]| found.len() == size && found[..8] == (number as u64).to_le_bytes();
            if engine.get(&name(number), &mut |found| right = is_right(found))? {
                hits += 1;
                ensure!(right, "a wrong answer");
            } else {
                ensure!(may_miss, "a missing answer");
            }
        }
        done += 1;
    }
    println!("{done} {} {hits} {reads}", started.elapsed().as_secs_f64());
    Ok(())
}

/// How much of the data fits below the limit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// The limit is twice the data.
    Half,
    /// The limit is half of the data, so that eviction runs; only for engines that evict.
    Full,
}

impl Fill {
    fn limit_bytes(self, size: usize) -> u64 {
        let data = keys(size) * size;
        (SPARE_BYTES + if self == Self::Half { data * 2 } else { data / 2 }) as u64
    }
}

struct Cell<'a> {
    engine: &'a str,
    dir: &'a Path,
    size: usize,
    fill: Fill,
}

impl Cell<'_> {
    fn spawn(&self, work: &str, seed: u64, seconds: f64) -> anyhow::Result<Child> {
        let mut command = if self.engine == "diskcache" {
            let mut python = Command::new(std::env::var_os("BENCH_PYTHON").unwrap_or("python3".into()));
            python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("rivals/cache_diskcache.py"));
            python
        } else {
            let mut own = Command::new(std::env::current_exe()?);
            own.args(["worker", self.engine]);
            own
        };
        let numbers = [seed.to_string(), seconds.to_string(), self.fill.limit_bytes(self.size).to_string()];
        command.arg(self.dir).arg(self.size.to_string()).arg(work).args(numbers);
        command.arg(u8::from(self.fill == Fill::Full || self.misses_while_replacing()).to_string());
        if self.engine == "diskcache" {
            command.arg(keys(self.size).to_string());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().with_context(|| format!("cannot start a worker of {}", self.engine))
    }

    /// diskcache looks the row up, then opens the file that a replacing process has removed meanwhile: a miss.
    fn misses_while_replacing(&self) -> bool {
        self.engine == "diskcache"
    }

    /// Operations per second over all processes, which begin together, and the hit ratio.
    fn measure(&self, work: &str, processes: usize, seconds: f64) -> anyhow::Result<(f64, f64)> {
        let mut workers = Vec::new();
        for seed in 0..processes {
            let mut child = self.spawn(work, seed as u64 + 1, seconds)?;
            let said = BufReader::new(child.stdout.take().context("no output")?);
            workers.push((child, said));
        }
        for (_, said) in &mut workers {
            let mut line = String::new();
            said.read_line(&mut line)?;
            ensure!(line.trim() == "ready", "a worker of {} failed to open", self.engine);
        }
        for (child, _) in &mut workers {
            child.stdin.take().context("no input")?.write_all(b"go\n")?;
        }
        let (mut rate, mut hits, mut reads) = (0.0, 0.0, 0.0);
        for (mut child, mut said) in workers {
            let mut line = String::new();
            said.read_line(&mut line)?;
            ensure!(child.wait()?.success(), "a worker of {} failed", self.engine);
            let numbers: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            let [done, took, hit, read] = numbers[..] else { bail!("a worker of {} said {line:?}", self.engine) };
            rate += done / took;
            hits += hit;
            reads += read;
        }
        let ratio = if reads > 0.0 { hits / reads } else { 1.0 };
        ensure!(self.fill == Fill::Full || ratio > 0.98, "{} has only {ratio} of what fits", self.engine);
        Ok((rate, ratio))
    }
}

fn start_redis(dir: &Path, fill: Fill, size: usize) -> anyhow::Result<Child> {
    let socket = dir.join("redis.sock");
    let limit = fill.limit_bytes(size).to_string();
    let server = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--appendonly", "no", "--maxmemory", &limit])
        .args(["--maxmemory-policy", "allkeys-lru", "--unixsocket"])
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
pub(crate) struct Plan<'a> {
    /// Where the folders are made; removed afterwards.
    pub(crate) dir: &'a Path,
    /// Seconds per cell.
    pub(crate) seconds: f64,
    /// Rounds per cell; the median counts.
    pub(crate) rounds: usize,
    /// Engines.
    pub(crate) engines: &'a [String],
    /// Numbers of processes.
    pub(crate) processes: &'a [usize],
    /// How much fits.
    pub(crate) fill: Fill,
}

/// The middle value; of two, the larger.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Plan<'_> {
    /// All rows of one value size.
    pub(crate) fn run(&self, size: usize, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
        let evicts = |name: &str| matches!(name, "weir" | "diskcache" | "redis");
        let engines: Vec<&String> =
            self.engines.iter().filter(|name| self.fill == Fill::Half || evicts(name)).collect();
        let folders: Vec<PathBuf> = engines.iter().map(|engine| self.dir.join(format!("{engine}-{size}"))).collect();
        let mut cells = Vec::new();
        let mut server = None;
        for (engine, dir) in engines.iter().zip(&folders) {
            std::fs::create_dir_all(dir)?;
            if *engine == "redis" {
                server = Some(start_redis(dir, self.fill, size)?);
            }
            cells.push(Cell { engine, dir, size, fill: self.fill });
        }
        let outcome = self.rows(&cells, figures);
        if let Some(server) = &mut server {
            server.kill()?;
            server.wait()?;
        }
        folders.iter().try_for_each(std::fs::remove_dir_all)?;
        outcome
    }

    fn rows(&self, cells: &[Cell<'_>], figures: &mut Vec<Figure>) -> anyhow::Result<()> {
        for cell in cells {
            ensure!(cell.spawn("fill", 1, 0.0)?.wait()?.success(), "{} could not be filled", cell.engine);
        }
        for count in self.processes {
            for work in ["get", "put", "95/5", "50/50"] {
                self.row(cells, *count, work, figures)?;
            }
        }
        Ok(())
    }

    /// One kind of work, the engines taking turns.
    fn row(&self, cells: &[Cell<'_>], count: usize, work: &str, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
        let cells: Vec<_> = cells.iter().filter(|cell| cell.engine != "redb" || count == 1).collect();
        let mut rates = vec![Vec::new(); cells.len()];
        let mut ratios = vec![0.0; cells.len()];
        for _ in 0..self.rounds {
            for (at, cell) in cells.iter().enumerate() {
                let (rate, ratio) = cell.measure(work, count, self.seconds)?;
                rates[at].push(rate);
                ratios[at] = ratio;
            }
        }
        for ((cell, rates), ratio) in cells.iter().zip(rates).zip(ratios) {
            let (rate, full) = (median(rates), if self.fill == Fill::Full { "100 % full" } else { "half full" });
            let what = format!("{} B, {count} processes, {work}, {full}", cell.size);
            println!("{what}: {} {rate:.0}/s, hit ratio {ratio:.3}", cell.engine);
            figures.push(Figure::new(&what, cell.engine, rate, "/s"));
        }
        Ok(())
    }
}
