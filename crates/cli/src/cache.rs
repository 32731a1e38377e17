//! `weir cache`: the shared cache from the command line. Flags and `WEIR_CACHE_*` settings become options; answers are printed.

mod transfer;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use weir_base::{ByteSize, OsFileSystem};
use weir_cache::{
    Answer, Cache, CacheOptions, Compression, KeyBuilder, LockWait, Op, Policy, Put, PutOptions, RemoteOptions,
};
use weir_track::{Finished, Row};

use crate::exit::Exit;
use crate::terminal::Terminal;
use crate::track::{Folder, Recorder};

/// Longest line of `batch`, bytes.
const LINE_BYTES_MAX: u64 = 96 << 20;
/// Lines of `batch` that share transactions.
const BATCH_LINES: usize = 100;

/// See the module.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

/// Which cache, and how it is opened.
#[derive(Debug, clap::Args)]
struct Place {
    /// Folder of the cache [default: the platform's cache folder].
    #[arg(long, global = true, env = "WEIR_CACHE_DIR")]
    dir: Option<PathBuf>,
    /// Namespace: a developer, project or branch.
    #[arg(long, short = 'n', global = true, env = "WEIR_CACHE_NAMESPACE", default_value = "default")]
    namespace: String,
    /// Byte limit of the namespace, with unit; kept in it.
    #[arg(long, global = true, env = "WEIR_CACHE_LIMIT")]
    limit: Option<ByteSize>,
    /// Entries at most; kept in the namespace.
    #[arg(long, global = true, env = "WEIR_CACHE_ENTRY_LIMIT")]
    entry_limit: Option<u64>,
    /// Largest value, with unit [default: a quarter of the limit].
    #[arg(long, global = true, env = "WEIR_CACHE_ITEM_LIMIT")]
    item_limit: Option<ByteSize>,
    /// Eviction: s3fifo, lru or gdsf; kept in the namespace.
    #[arg(long, global = true, env = "WEIR_CACHE_POLICY")]
    policy: Option<Policy>,
    /// Remote level: redis://HOST:PORT or unix:///PATH.
    #[arg(long, global = true, env = "WEIR_CACHE_REDIS")]
    redis: Option<String>,
    /// Longest wait for one call to the remote level, milliseconds.
    #[arg(long, global = true, env = "WEIR_CACHE_REDIS_DEADLINE_MS", default_value_t = 250)]
    redis_deadline_ms: u64,
    /// For how long the remote level is left alone after a failure, seconds.
    #[arg(long, global = true, env = "WEIR_CACHE_REDIS_BREAKER_S", default_value_t = 30)]
    redis_breaker_s: u64,
    /// Failures in a row after which the remote level is left alone.
    #[arg(long, global = true, env = "WEIR_CACHE_REDIS_BREAKER_FAILURES", default_value_t = 1)]
    redis_breaker_failures: u32,
    /// Longest time that the remote level keeps a value, seconds [default: 30 days].
    #[arg(long, global = true, env = "WEIR_CACHE_REDIS_TTL_S", default_value_t = 2_592_000)]
    redis_ttl_s: u64,
    /// Byte limit of the memory level, with unit: one command seldom asks twice, but a `batch` may.
    #[arg(long, global = true, env = "WEIR_CACHE_MEMORY", default_value = "0 B")]
    memory: ByteSize,
    /// Compression of values: none, lz4 or zstd.
    #[arg(long, global = true, env = "WEIR_CACHE_COMPRESSION", default_value_t = Compression::None)]
    compression: Compression,
    /// Values shorter than this are stored as they are, with unit.
    #[arg(long, global = true, env = "WEIR_CACHE_COMPRESS_FROM", default_value = "4 KiB")]
    compress_from: ByteSize,
    /// How to wait for another writer: kernel, exponential or linear.
    #[arg(long, global = true, env = "WEIR_CACHE_WAIT", default_value_t = LockWait::Kernel)]
    wait: LockWait,
    /// Longest wait for another writer, seconds.
    #[arg(long, global = true, env = "WEIR_CACHE_LOCK_S", default_value_t = 5)]
    lock_s: u64,
    /// Longest wait of `run` for another process that computes the same key, seconds.
    #[arg(long, global = true, env = "WEIR_CACHE_FLIGHT_S", default_value_t = 60)]
    flight_s: u64,
    /// The first write of a key wins.
    #[arg(long, global = true, env = "WEIR_CACHE_WRITE_ONCE")]
    write_once: bool,
    /// Let the group read (modes 0750 and 0640).
    #[arg(long, global = true, env = "WEIR_CACHE_SHARED")]
    shared: bool,
    /// Never write.
    #[arg(long, global = true, env = "WEIR_CACHE_READ_ONLY")]
    read_only: bool,
    /// Count and time nothing.
    #[arg(long, global = true, env = "WEIR_CACHE_NO_METRICS")]
    no_metrics: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Store a file, standard input or a folder under KEY.
    Put {
        /// The key.
        key: String,
        /// File, folder, or - for standard input.
        #[arg(default_value = "-")]
        file: PathBuf,
        #[command(flatten)]
        keep: Keep,
    },
    /// Print the value of KEY; exit 3 on a miss.
    Get {
        /// The key.
        key: String,
        /// Write to this file, or unpack a stored folder into it.
        #[arg(long, short)]
        output: Option<PathBuf>,
        /// The value is a folder: unpack it into --output.
        #[arg(long, requires = "output")]
        directory: bool,
    },
    /// Remove KEY, or everything with a tag or prefix.
    Delete {
        /// The key.
        #[arg(required_unless_present_any = ["tag", "prefix"])]
        key: Option<String>,
        /// Remove everything with this tag.
        #[arg(long)]
        tag: Option<String>,
        /// Remove every key that begins so.
        #[arg(long)]
        prefix: Option<String>,
    },
    /// Operations as JSON Lines on standard input, answers on standard output, in order.
    Batch,
    /// Make a key from files, environment and arguments.
    Key {
        /// What the key is for; its prefix.
        #[arg(long, default_value = "key")]
        domain: String,
        /// A file, by name and content.
        #[arg(long)]
        file: Vec<PathBuf>,
        /// An environment variable, by name and value.
        #[arg(long)]
        env: Vec<OsString>,
        /// A text.
        #[arg(long)]
        arg: Vec<String>,
    },
    /// Run CMD, or repeat its output and exit code from the cache.
    Run {
        /// The key [default: of CMD and the working folder].
        #[arg(long)]
        key: Option<String>,
        #[command(flatten)]
        keep: Keep,
        /// Keep failures too (exit codes other than 0).
        #[arg(long)]
        failures: bool,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Bytes, entries and limit.
    Size {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Scan the disk too.
        #[arg(long)]
        exact: bool,
    },
    /// Hits, misses, percentiles.
    Stat {
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        record: RecordArgs,
    },
    /// Remove what is over, within a time budget.
    Gc {
        /// Milliseconds at most.
        #[arg(long, default_value_t = 1000)]
        budget_ms: u64,
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        record: RecordArgs,
    },
    /// Remove every entry of the namespace.
    Clear,
    /// Compare index and disk, reading every blob; exit 0 when they agree.
    Verify {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Make them agree.
        #[arg(long)]
        repair: bool,
    },
    /// What is wrong here, and what to do.
    Doctor {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// The namespaces of the folder.
    Namespaces,
    /// All live entries as JSON Lines, values in base 16.
    Export,
    /// Take entries from an export.
    Import {
        /// File, or - for standard input.
        #[arg(default_value = "-")]
        file: PathBuf,
    },
}

/// Whether the numbers are kept as history.
#[derive(Debug, clap::Args)]
struct RecordArgs {
    /// Keep the numbers: table `measures` of database `weir`, under the name `cache`.
    #[arg(long, env = "WEIR_CACHE_RECORD")]
    record: bool,
    #[command(flatten)]
    folder: Folder,
}

/// For how long a value is kept, and by what it is found again.
#[derive(Debug, clap::Args)]
struct Keep {
    /// Fresh for this long: 90, 90s, 15m, 12h, 7d.
    #[arg(long, value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Served stale for this long after.
    #[arg(long, value_parser = parse_duration, requires = "ttl")]
    stale: Option<Duration>,
    /// A tag; may be given several times.
    #[arg(long)]
    tag: Vec<String>,
    /// What it cost to make, as a duration.
    #[arg(long, value_parser = parse_duration)]
    cost: Option<Duration>,
}

impl Keep {
    fn options(&self) -> PutOptions {
        PutOptions { ttl: self.ttl, stale: self.stale, tags: self.tag.clone(), cost: self.cost }
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let scale = match &text[split..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        unit => return Err(format!("unknown unit '{unit}' (use ms, s, m, h or d)")),
    };
    let number: f64 = text[..split].parse().map_err(|_| format!("'{text}' is not a duration such as 15m"))?;
    Duration::try_from_secs_f64(number * scale).map_err(|error| error.to_string())
}

impl Place {
    fn folder(&self) -> anyhow::Result<PathBuf> {
        if let Some(dir) = &self.dir {
            return Ok(dir.clone());
        }
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        cache
            .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
            .map(|path| path.join("weir"))
            .context("no cache folder: set WEIR_CACHE_DIR or HOME")
    }

    fn options(&self) -> anyhow::Result<CacheOptions> {
        Ok(CacheOptions {
            limit: self.limit,
            entry_limit: self.entry_limit,
            item_limit: self.item_limit,
            policy: self.policy,
            // One command asks for few keys: a memory level would only be filled.
            memory_limit: self.memory,
            remote: self.redis.as_deref().filter(|url| !url.is_empty()).map(|url| RemoteOptions {
                deadline: Duration::from_millis(self.redis_deadline_ms),
                breaker_failures: self.redis_breaker_failures,
                breaker_period: Duration::from_secs(self.redis_breaker_s),
                ttl_max: Duration::from_secs(self.redis_ttl_s),
                ..RemoteOptions::new(url)
            }),
            compression: self.compression,
            compress_from: self.compress_from,
            flight_deadline: Duration::from_secs(self.flight_s),
            lock_wait: self.wait,
            lock_deadline: Duration::from_secs(self.lock_s),
            write_once: self.write_once,
            shared: self.shared,
            read_only: self.read_only,
            metrics: !self.no_metrics,
            ..CacheOptions::new(self.folder()?, &self.namespace)
        })
    }

    fn open(&self) -> anyhow::Result<Cache> {
        if self.limit.is_some_and(|limit| limit < weir_cache::LIMIT_MIN) {
            return Err(
                weir_cache::Error::invalid(format!("the limit must be at least {}", weir_cache::LIMIT_MIN)).into()
            );
        }
        Ok(Cache::open(self.options()?)?)
    }
}

/// Runs the command.
pub(crate) fn run(args: Args, terminal: &Terminal) -> anyhow::Result<Exit> {
    let place = &args.place;
    match args.command {
        Command::Put { key, file, keep } => put(&place.open()?, &key, &file, &keep.options(), terminal),
        Command::Get { key, output, directory } => get(&place.open()?, &key, output, directory),
        Command::Delete { key, tag, prefix } => delete(&place.open()?, key, tag, prefix),
        Command::Batch => batch(&place.open()?),
        Command::Key { domain, file, env, arg } => make_key(&domain, &file, &env, &arg),
        Command::Run { key, keep, failures, command } => {
            transfer::run_command(&place.open()?, key, &keep.options(), failures, &command)
        }
        Command::Size { json, exact } => size(&place.open()?, json, exact),
        Command::Stat { json, record } => {
            let cache = place.open()?;
            record.keep(&cache, &place.namespace)?;
            stat(&cache, json)
        }
        Command::Gc { budget_ms, json, record } => {
            let cache = place.open()?;
            let exit = gc(&cache, budget_ms, json)?;
            record.keep(&cache, &place.namespace)?;
            Ok(exit)
        }
        Command::Clear => print(format_args!("{} entries removed", place.open()?.clear()?)),
        Command::Verify { json, repair } => verify(&place.open()?, json, repair),
        Command::Doctor { json } => doctor(&place.open()?, json),
        Command::Namespaces => {
            for name in Cache::namespaces(&OsFileSystem, &place.folder()?)? {
                print(format_args!("{}", name.as_str()))?;
            }
            Ok(Exit::Done)
        }
        Command::Export => transfer::export(&place.open()?),
        Command::Import { file } => transfer::import(&place.open()?, &file),
    }
}

fn print(line: std::fmt::Arguments<'_>) -> anyhow::Result<Exit> {
    writeln!(std::io::stdout(), "{line}").context("cannot write the answer")?;
    Ok(Exit::Done)
}

fn put(
    cache: &Cache,
    key: &str,
    file: &std::path::Path,
    options: &PutOptions,
    terminal: &Terminal,
) -> anyhow::Result<Exit> {
    let value = if file.is_dir() {
        let limit = cache.size()?.limit / 4;
        let packed = weir_cache::pack_directory(file, limit)?;
        terminal.say(format_args!("{} files packed", packed.files));
        packed.bytes
    } else {
        transfer::read_input(file)?
    };
    match cache.put(key, &value, options)? {
        Put::Stored(_) => Ok(Exit::Done),
        Put::Refused => {
            terminal.say("the key is there already (write-once)");
            Ok(Exit::Conflict)
        }
    }
}

fn get(cache: &Cache, key: &str, output: Option<PathBuf>, directory: bool) -> anyhow::Result<Exit> {
    let Some(value) = cache.get(key) else { return Ok(Exit::NotFound) };
    match output {
        Some(path) if directory => {
            std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
            weir_cache::unpack_directory(&value, &path, 64 << 30)?;
        }
        Some(path) => transfer::write_output(&path, &value)?,
        None => {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&value).and_then(|()| stdout.flush()).context("cannot write the value")?;
        }
    }
    Ok(Exit::Done)
}

fn delete(cache: &Cache, key: Option<String>, tag: Option<String>, prefix: Option<String>) -> anyhow::Result<Exit> {
    let mut removed = 0;
    if let Some(tag) = tag {
        removed += cache.invalidate_tag(&tag)?;
    }
    if let Some(prefix) = prefix {
        removed += cache.invalidate_prefix(prefix)?;
    }
    if let Some(key) = key {
        removed += u64::from(cache.delete(key)?);
    }
    Ok(if removed > 0 { Exit::Done } else { Exit::NotFound })
}

fn make_key(domain: &str, files: &[PathBuf], env: &[OsString], args: &[String]) -> anyhow::Result<Exit> {
    let mut key = KeyBuilder::new(domain);
    for path in files {
        let content = weir_base::checksum::blake3(&transfer::read_input(path)?);
        key = key.file(&path.to_string_lossy(), &content);
    }
    for name in env {
        let value = std::env::var_os(name);
        key = key.env(&name.to_string_lossy(), value.as_deref().map(std::os::unix::ffi::OsStrExt::as_bytes));
    }
    for arg in args {
        key = key.arg(arg);
    }
    print(format_args!("{}", key.finish()))
}

fn size(cache: &Cache, json: bool, exact: bool) -> anyhow::Result<Exit> {
    let size = cache.size()?;
    let scanned = exact.then(|| cache.scan_bytes()).transpose()?;
    if json {
        let mut value = serde_json::to_value(&size)?;
        if let (Some(bytes), Some(fields)) = (scanned, value.as_object_mut()) {
            fields.insert("disk_bytes".into(), bytes.into());
        }
        return print(format_args!("{value}"));
    }
    print(format_args!("{} of {}, {} entries", ByteSize::new(size.bytes), ByteSize::new(size.limit), size.entries))?;
    scanned.map_or(Ok(Exit::Done), |bytes| print(format_args!("{} on the disk", ByteSize::new(bytes))))
}

fn stat(cache: &Cache, json: bool) -> anyhow::Result<Exit> {
    let stat = cache.stat();
    if json {
        return print(format_args!("{}", serde_json::to_string(&stat)?));
    }
    let ratio = stat.hit_ratio.map_or("no questions yet".into(), |ratio| format!("{:.1} % hits", ratio * 100.0));
    print(format_args!(
        "{ratio}: {} hits, {} misses, {} damaged, {} failed",
        stat.hits, stat.misses, stat.damaged, stat.failed
    ))?;
    print(format_args!("{:.1} s of computing saved, {} entries evicted", stat.saved_s, stat.evicted))?;
    for level in &stat.levels {
        print(format_args!("level {:<8} {:>10} hits", level.level, level.hits))?;
    }
    for op in stat.operations.iter().filter(|op| op.count > 0) {
        let us = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.0}"));
        let (p50, p90, p99) = (us(op.p50_us), us(op.p90_us), us(op.p99_us));
        print(format_args!("{:<10} {:>10} calls, p50 {p50} us, p90 {p90} us, p99 {p99} us", op.operation, op.count))?;
    }
    Ok(Exit::Done)
}

impl RecordArgs {
    /// Appends the namespace's numbers to the spool, from where they come into the database. What was never measured is left
    /// out (M1).
    fn keep(&self, cache: &Cache, namespace: &str) -> anyhow::Result<()> {
        if !self.record {
            return Ok(());
        }
        let (stat, size) = (cache.stat(), cache.size()?);
        let count = |name: &str, value: u64| (name.to_owned(), value as f64);
        let mut measures = BTreeMap::from([
            count("hits", stat.hits),
            count("misses", stat.misses),
            count("damaged", stat.damaged),
            count("failed", stat.failed),
            count("evicted", stat.evicted),
            count("entries", size.entries),
            count("size_bytes", size.bytes),
            count("limit_bytes", size.limit),
            ("saved_s".to_owned(), stat.saved_s),
        ]);
        measures.extend(stat.hit_ratio.map(|ratio| ("hit_ratio".to_owned(), ratio)));
        for op in &stat.operations {
            for (percentile, value) in [("p50_us", op.p50_us), ("p99_us", op.p99_us)] {
                measures.extend(value.map(|value| (format!("{}_{percentile}", op.operation), value)));
            }
        }
        let mut recorder = Recorder::open(&self.folder)?;
        let labels = BTreeMap::from([("namespace".to_owned(), namespace.to_owned())]);
        let end_ns = recorder.now();
        let row = Finished { name: "cache".to_owned(), labels, measures, end_ns, count: 1, ..Finished::default() };
        recorder.append(vec![Row::Finished(row)])?;
        recorder.close()
    }
}

fn gc(cache: &Cache, budget_ms: u64, json: bool) -> anyhow::Result<Exit> {
    let done = cache.collect(Duration::from_millis(budget_ms))?;
    if json {
        return print(format_args!("{}", serde_json::to_string(&done)?));
    }
    let more = if done.more { "; there is more to do" } else { "" };
    print(format_args!(
        "{} expired, {} evicted, {} orphaned files, {} counted anew, {} dead writers{more}",
        done.expired, done.evicted, done.orphans, done.recounted, done.dead_writers
    ))
}

fn verify(cache: &Cache, json: bool, repair: bool) -> anyhow::Result<Exit> {
    let found = cache.verify(repair)?;
    if json {
        print(format_args!("{}", serde_json::to_string(&found)?))?;
    } else {
        let verdict = if found.agree { "index and disk agree" } else { "index and disk do not agree" };
        print(format_args!(
            "{verdict}: {} entries, {} blobs, {} missing, {} damaged, {} orphaned files, {} wrong counters",
            found.entries,
            found.blobs,
            found.missing,
            found.damaged,
            found.orphans,
            found.wrong_counters.len()
        ))?;
    }
    Ok(if found.agree { Exit::Done } else { Exit::Failed })
}

fn doctor(cache: &Cache, json: bool) -> anyhow::Result<Exit> {
    let diagnosis = cache.doctor();
    if json {
        print(format_args!("{}", serde_json::to_string(&diagnosis)?))?;
    } else {
        for finding in &diagnosis.findings {
            print(format_args!("{:<8} {}: {}", finding.level, finding.subject, finding.message))?;
        }
    }
    Ok(if diagnosis.healthy { Exit::Done } else { Exit::Failed })
}

/// A line of `batch`, checked.
fn parse_op(line: &str) -> Result<(Op, String), String> {
    let line: Value = serde_json::from_str(line).map_err(|error| format!("not JSON: {error}"))?;
    let text = |name: &str| line.get(name).and_then(Value::as_str).map(str::to_owned);
    let key = text("key").ok_or("\"key\" is missing")?;
    let op = match text("op").as_deref() {
        Some("get") => Op::Get { key: key.clone().into() },
        Some("delete") => Op::Delete { key: key.clone().into() },
        Some("put") => {
            let ttl = match line.get("ttl_s") {
                None | Some(Value::Null) => None,
                Some(value) => {
                    let seconds = value.as_f64().ok_or("\"ttl_s\" is not a number")?;
                    Some(Duration::try_from_secs_f64(seconds).map_err(|error| format!("\"ttl_s\": {error}"))?)
                }
            };
            let tags = match line.get("tags") {
                None | Some(Value::Null) => Vec::new(),
                Some(value) => {
                    serde_json::from_value(value.clone()).map_err(|_| "\"tags\" is not a list of texts".to_owned())?
                }
            };
            let value = text("value").ok_or("\"value\" is missing")?.into_bytes();
            Op::Put { key: key.clone().into(), value, options: PutOptions { ttl, tags, ..PutOptions::default() } }
        }
        other => return Err(format!("unknown \"op\" {:?} (use put, get or delete)", other.unwrap_or(""))),
    };
    Ok((op, key))
}

fn batch(cache: &Cache) -> anyhow::Result<Exit> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().context("cannot read standard input")?;
    let mut input = std::io::BufReader::new(std::fs::File::from(stdin));
    let mut stdout = std::io::BufWriter::new(std::io::stdout().lock());
    let (mut lines, mut failed, mut ended) = (Vec::new(), false, false);
    while !ended {
        let mut line = Vec::new();
        let read = input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).context("cannot read the batch")?;
        anyhow::ensure!((read as u64) < LINE_BYTES_MAX, "a line has more than {LINE_BYTES_MAX} bytes");
        ended = read == 0;
        if !line.trim_ascii().is_empty() {
            lines.push(String::from_utf8(line).map_err(|_| "not UTF-8".to_owned()).and_then(|line| parse_op(&line)));
        }
        // Whoever writes line by line and waits for the answer must get it: only what is waiting already is joined.
        if lines.len() >= BATCH_LINES || ended || !more_is_waiting(&input) {
            failed |= answer(cache, std::mem::take(&mut lines), &mut stdout)?;
            stdout.flush().context("cannot write the answers")?;
        }
    }
    Ok(if failed { Exit::Partial } else { Exit::Done })
}

/// Whether the next line can be read without waiting for whoever writes it.
fn more_is_waiting(input: &std::io::BufReader<std::fs::File>) -> bool {
    let mut polled = [rustix::event::PollFd::new(input.get_ref(), rustix::event::PollFlags::IN)];
    let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    input.buffer().contains(&b'\n') || rustix::event::poll(&mut polled, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

fn answer(cache: &Cache, lines: Vec<Result<(Op, String), String>>, out: &mut impl Write) -> anyhow::Result<bool> {
    let ops: Vec<Op> = lines.iter().filter_map(|line| line.as_ref().ok()).map(|(op, _)| op.clone()).collect();
    let mut answers = cache.batch(&ops)?.into_iter();
    let mut failed = false;
    for line in lines {
        let text = match line {
            Err(error) => json!({"op": null, "key": null, "hit": false, "value": null, "error": error}),
            Ok((op, key)) => {
                let name = match op {
                    Op::Get { .. } => "get",
                    Op::Put { .. } => "put",
                    Op::Delete { .. } => "delete",
                };
                let (hit, value, error) = match answers.next() {
                    Some(Answer::Got(Some(value))) => match String::from_utf8(value.to_vec()) {
                        Ok(text) => (true, Some(text), None),
                        Err(_) => (true, None, Some("the value is not UTF-8; use get".to_owned())),
                    },
                    Some(Answer::Got(None)) => (false, None, None),
                    Some(Answer::Put(put)) => (put != Put::Refused, None, None),
                    Some(Answer::Deleted(found)) => (found, None, None),
                    Some(Answer::Failed(error)) => (false, None, Some(weir_base::error::chain(&error))),
                    None => (false, None, Some("no answer".to_owned())),
                };
                json!({"op": name, "key": key, "hit": hit, "value": value, "error": error})
            }
        };
        failed |= !text["error"].is_null();
        writeln!(out, "{text}").context("cannot write the answers")?;
    }
    Ok(failed)
}
