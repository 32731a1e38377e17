//! `weir journal`: append to a journal, read it, check it, repair it, make it smaller, bring records in and out.

use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};
use weir_base::{ByteSize, Clock, Kind, SystemClock};
use weir_journal::{
    Codec, Compaction, Durability, Env, Follow, Journal, KeyMatch, Lost, Options, OwnedRecord, Query, Reader, Record,
    RecordRef, Retention, Verification, awsideman, jsonl,
};

use crate::exit::Exit;
use crate::terminal::Terminal;

/// Append to a journal, read, check, repair and compact it.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Append the lines of stdin, one JSON record each.
    Append(Append),
    /// Print the payloads of the records in order, one a line.
    Cat(Cat),
    /// Print the newest record with a key, or with the one key that begins so.
    Get(Get),
    /// Say what a journal holds.
    Stat(Inspect),
    /// Read and check everything; exit 7 on damage.
    Verify(Inspect),
    /// Make a damaged journal fit for writing again; says what was lost.
    Repair(Dir),
    /// Drop what is not wanted any more.
    Compact(Compact),
    /// Append the records of an export, or of an awsideman history file.
    Import(Import),
    /// Print all records with their fields as JSON Lines.
    Export(Export),
}

#[derive(Debug, clap::Args)]
struct Dir {
    /// The journal's folder.
    dir: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    None,
    Interval,
    Durable,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CodecName {
    None,
    Lz4,
    Zstd,
}

#[derive(Debug, clap::Args)]
struct Append {
    /// The journal's folder.
    dir: PathBuf,
    /// The kind of the records, 0 to 65535.
    #[arg(long, default_value_t = 0)]
    kind: u16,
    /// The field whose value becomes the key.
    #[arg(long)]
    key_field: Option<String>,
    /// Records in one append.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batch: u32,
    /// What an append waits for.
    #[arg(long, value_enum, default_value = "durable")]
    durability: Level,
    /// With `--durability interval`: longest time until a sync, in milliseconds.
    #[arg(long, default_value_t = 100)]
    interval_ms: u64,
    /// How to compress.
    #[arg(long, value_enum, default_value = "zstd")]
    codec: CodecName,
    /// Level for zstd, 1 to 19.
    #[arg(long, default_value_t = 3)]
    level: i32,
}

#[derive(Debug, clap::Args)]
struct Cat {
    /// The journal's folder.
    dir: PathBuf,
    /// First sequence.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only records with this key.
    #[arg(long, conflicts_with = "prefix")]
    key: Option<String>,
    /// Only records whose key begins so.
    #[arg(long)]
    prefix: Option<String>,
    /// Only records of this kind (repeatable).
    #[arg(long)]
    kind: Vec<u16>,
    /// Only records at or past this time (RFC 3339).
    #[arg(long)]
    since: Option<jiff::Timestamp>,
    /// Only records at or before this time (RFC 3339).
    #[arg(long)]
    until: Option<jiff::Timestamp>,
    /// Newest first.
    #[arg(long, conflicts_with = "follow")]
    reverse: bool,
    /// At most this many records.
    #[arg(long)]
    limit: Option<u64>,
    /// Wait for more at the end.
    #[arg(long)]
    follow: bool,
    /// Skip damaged bytes and say which sequences are lost; exit 7 if there were any.
    #[arg(long)]
    salvage: bool,
    /// Print all fields, as `export` does.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Get {
    /// The journal's folder.
    dir: PathBuf,
    /// The key, or the beginning of the only key that begins so.
    key: String,
    /// Print all fields, as `export` does.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Inspect {
    /// The journal's folder.
    dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Compact {
    /// The journal's folder.
    dir: PathBuf,
    /// Drop records older than this, such as `90d` or `12h`.
    #[arg(long)]
    age: Option<String>,
    /// Drop the oldest until the journal takes at most this, such as `1GiB`.
    #[arg(long)]
    size: Option<ByteSize>,
    /// Drop the oldest until this many are left.
    #[arg(long)]
    count: Option<u64>,
    /// Drop records whose key has a newer one.
    #[arg(long)]
    latest_per_key: bool,
}

#[derive(Debug, clap::Args)]
struct Import {
    /// The journal's folder.
    dir: PathBuf,
    /// JSON Lines as `export` prints them, or awsideman's `operations.json`, `rollbacks.json`, also gzipped; `-` for stdin.
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Export {
    /// The journal's folder.
    dir: PathBuf,
    /// Where to; stdout if not given.
    file: Option<PathBuf>,
}

/// Runs `weir journal`.
pub(crate) fn run(args: Args, terminal: &Terminal) -> anyhow::Result<Exit> {
    match args.command {
        Command::Append(args) => append(&args, terminal),
        Command::Cat(args) => cat(&args, terminal),
        Command::Get(args) => get(&args),
        Command::Stat(args) => stat(&args),
        Command::Verify(args) => verify(&args, terminal),
        Command::Repair(args) => repair(&args, terminal),
        Command::Compact(args) => compact(&args, terminal),
        Command::Import(args) => import(&args, terminal),
        Command::Export(args) => export(&args),
    }
}

/// Appends without waiting for each: what fails is kept for the end.
struct Appender {
    journal: Journal,
    durability: Durability,
    failure: Arc<Mutex<Option<weir_journal::Error>>>,
    records: u64,
}

impl Appender {
    fn open(dir: &Path, options: Options, durability: Durability, terminal: &Terminal) -> anyhow::Result<Self> {
        let (journal, recovery) = Journal::open(Env::system(), dir, "weir journal", options)?;
        if let Some(torn) = recovery.torn {
            let file = torn.file.display();
            terminal.warn(format!("cut {} torn bytes at byte {} of {file}", torn.bytes, torn.offset));
        }
        Ok(Self { journal, durability, failure: Arc::default(), records: 0 })
    }

    fn append(&mut self, records: &[OwnedRecord]) -> anyhow::Result<()> {
        self.check()?;
        let refs: Vec<Record<'_>> =
            records.iter().map(|r| Record { time: r.time, kind: r.kind, key: &r.key, payload: &r.payload }).collect();
        loop {
            let failure = Arc::clone(&self.failure);
            let outcome = self.journal.submit(&refs, self.durability, move |outcome| {
                if let Err(error) = outcome {
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            });
            match outcome {
                Err(error) if error.kind() == Kind::Limit && error.retry() == weir_base::Retry::Backoff => {
                    self.journal.sync()?;
                }
                outcome => break outcome?,
            }
        }
        self.records += records.len() as u64;
        Ok(())
    }

    fn check(&self) -> anyhow::Result<()> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    fn finish(self, terminal: &Terminal) -> anyhow::Result<()> {
        let failure = Arc::clone(&self.failure);
        let records = self.records;
        let closed = self.journal.close();
        if let Some(error) = failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error.into());
        }
        closed?;
        terminal.say(format!("appended {records} records"));
        Ok(())
    }
}

fn append(args: &Append, terminal: &Terminal) -> anyhow::Result<Exit> {
    let durability = match args.durability {
        Level::None => Durability::None,
        Level::Interval => Durability::Interval,
        Level::Durable => Durability::Durable,
    };
    let codec = match args.codec {
        CodecName::None => Codec::None,
        CodecName::Lz4 => Codec::Lz4,
        CodecName::Zstd => Codec::Zstd { level: args.level },
    };
    let options = Options { codec, interval: Duration::from_millis(args.interval_ms), ..Options::default() };
    let clock = SystemClock::default();
    let mut appender = Appender::open(&args.dir, options, durability, terminal)?;
    let mut batch = Vec::new();
    let mut input = std::io::stdin().lock();
    let mut line = Vec::new();
    let mut number = 0u64;
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line).context("cannot read stdin")? == 0 {
            break;
        }
        number += 1;
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let key = match key_of(text, args.key_field.as_deref()) {
            Ok(key) => key,
            Err(error) => {
                appender.append(&batch)?;
                appender.finish(terminal)?;
                bail!("line {number}: {error}");
            }
        };
        batch.push(OwnedRecord { sequence: 0, time: clock.now(), kind: args.kind, key, payload: text.to_vec() });
        if batch.len() >= args.batch as usize {
            appender.append(&batch)?;
            batch.clear();
        }
    }
    if !batch.is_empty() {
        appender.append(&batch)?;
    }
    appender.finish(terminal)?;
    Ok(Exit::Done)
}

/// The key of a JSON record; fails when it is no JSON or has no such field.
fn key_of(line: &[u8], field: Option<&str>) -> anyhow::Result<Vec<u8>> {
    let Some(field) = field else {
        serde_json::from_slice::<serde::de::IgnoredAny>(line).context("not JSON")?;
        return Ok(Vec::new());
    };
    let value: Value = serde_json::from_slice(line).context("not JSON")?;
    match value.get(field) {
        Some(Value::String(text)) => Ok(text.clone().into_bytes()),
        Some(other) => Ok(other.to_string().into_bytes()),
        None => bail!("no field '{field}'"),
    }
}

/// Nanoseconds UTC; a time out of their range (1677 to 2262) is the nearest one in it.
fn nanos(time: Option<jiff::Timestamp>, default: i64) -> i64 {
    time.map_or(default, |time| time.as_nanosecond().clamp(i64::MIN.into(), i64::MAX.into()) as i64)
}

fn cat(args: &Cat, terminal: &Terminal) -> anyhow::Result<Exit> {
    let query = Query {
        sequences: args.from..=u64::MAX,
        times: nanos(args.since, i64::MIN)..=nanos(args.until, i64::MAX),
        key: match (&args.key, &args.prefix) {
            (Some(key), _) => KeyMatch::Is(key.clone().into_bytes()),
            (None, Some(prefix)) => KeyMatch::Begins(prefix.clone().into_bytes()),
            (None, None) => KeyMatch::Any,
        },
        kinds: args.kind.clone(),
        backward: args.reverse,
        salvage: args.salvage,
    };
    let mut out = BufWriter::new(std::io::stdout().lock());
    if args.follow {
        return follow(args, &query, &mut out);
    }
    let mut records = Reader::open(Env::system(), &args.dir)?.query(query);
    let mut printed = 0;
    while args.limit.is_none_or(|limit| printed < limit) {
        let Some(record) = records.next_ref().inspect_err(|_| drop(out.flush()))? else { break };
        if !print(&mut out, &record, args.json)? {
            return Ok(Exit::Done);
        }
        printed += 1;
    }
    out.flush().or_else(closed_is_fine)?;
    tell_lost(records.lost(), terminal);
    Ok(if records.lost().is_empty() { Exit::Done } else { Exit::Damaged })
}

fn follow(args: &Cat, query: &Query, out: &mut impl Write) -> anyhow::Result<Exit> {
    let mut follow = Follow::new(Env::system(), &args.dir, args.from);
    let mut printed = 0;
    while args.limit.is_none_or(|limit| printed < limit) {
        let Some(record) = follow.next_within(Duration::from_millis(100))? else {
            out.flush().or_else(closed_is_fine)?;
            continue;
        };
        let wanted = match &query.key {
            KeyMatch::Any => true,
            KeyMatch::Is(key) => *key == record.key,
            KeyMatch::Begins(prefix) => record.key.starts_with(prefix),
        };
        let wanted = wanted
            && query.times.contains(&record.time)
            && (query.kinds.is_empty() || query.kinds.contains(&record.kind));
        if wanted {
            printed += 1;
            if !print(out, &record.as_ref(), args.json)? {
                return Ok(Exit::Done);
            }
        }
    }
    out.flush().or_else(closed_is_fine)?;
    Ok(Exit::Done)
}

/// Prints a record; `false` when nobody reads any more.
fn print(out: &mut impl Write, record: &RecordRef<'_>, whole: bool) -> anyhow::Result<bool> {
    let written = if whole {
        writeln!(out, "{}", jsonl::to_line(record))
    } else {
        out.write_all(record.payload).and_then(|()| out.write_all(b"\n"))
    };
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

fn closed_is_fine(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}

fn tell_lost(lost: &[Lost], terminal: &Terminal) {
    for lost in lost {
        let file = lost.file.display();
        let (first, end) = (lost.first, lost.end);
        terminal.warn(format!(
            "{file}: {} bytes at {} are damaged, sequences {first} to {} are lost: {}",
            lost.bytes,
            lost.offset,
            end.saturating_sub(1),
            lost.what
        ));
    }
}

fn get(args: &Get) -> anyhow::Result<Exit> {
    let reader = Reader::open(Env::system(), &args.dir)?;
    let record = match reader.get(args.key.as_bytes())? {
        Some(record) => Some(record),
        None => reader.get(&reader.unique_key(args.key.as_bytes())?)?,
    };
    let record = record.ok_or_else(|| weir_journal::Error::new(Kind::NotFound, format!("no record '{}'", args.key)))?;
    print(&mut std::io::stdout().lock(), &record.as_ref(), args.json)?;
    Ok(Exit::Done)
}

fn stat(args: &Inspect) -> anyhow::Result<Exit> {
    let found = Reader::open(Env::system(), &args.dir)?.statistics()?;
    show(&found, args.json)
}

fn verify(args: &Inspect, terminal: &Terminal) -> anyhow::Result<Exit> {
    let found = weir_journal::verify(&Env::system(), &args.dir)?;
    tell_lost(&found.damage, terminal);
    if let Some(torn) = &found.torn {
        let file = torn.file.display();
        terminal
            .say(format!("{file}: a torn tail of {} bytes at {}; the next writer cuts it", torn.bytes, torn.offset));
    }
    for file in &found.footers_bad {
        terminal.warn(format!("{}: the footer is missing or bad; repair builds it again", file.display()));
    }
    show(&found, args.json)
}

fn show(found: &Verification, json: bool) -> anyhow::Result<Exit> {
    let ratio = if found.stored_bytes == 0 { 0.0 } else { found.raw_bytes as f64 / found.stored_bytes as f64 };
    let (min, max) = found.times.unzip();
    let mut out = std::io::stdout().lock();
    if json {
        let lost = |lost: &Lost| json!({"file": lost.file, "offset": lost.offset, "bytes": lost.bytes, "first": lost.first, "end": lost.end, "what": lost.what});
        let object = json!({
            "records": found.records,
            "raw_bytes": found.raw_bytes,
            "stored_bytes": found.stored_bytes,
            "ratio": ratio,
            "segments": found.segments,
            "first_sequence": found.first_sequence,
            "next_sequence": found.next_sequence,
            "time_min": min,
            "time_max": max,
            "damage": found.damage.iter().map(lost).collect::<Vec<_>>(),
            "torn_bytes": found.torn.as_ref().map_or(0, |torn| torn.bytes),
        });
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "records    {}", found.records)?;
        writeln!(out, "sequences  {} to {}", found.first_sequence, found.next_sequence.saturating_sub(1))?;
        writeln!(out, "raw        {}", ByteSize::new(found.raw_bytes))?;
        writeln!(out, "stored     {} (ratio {ratio:.2})", ByteSize::new(found.stored_bytes))?;
        writeln!(out, "segments   {}", found.segments)?;
        if let (Some(min), Some(max)) = (min, max) {
            let time = |nanos| jiff::Timestamp::from_nanosecond(i128::from(nanos));
            writeln!(out, "times      {} to {}", time(min)?, time(max)?)?;
        }
        writeln!(out, "damage     {}", found.damage.len())?;
    }
    Ok(if found.damage.is_empty() { Exit::Done } else { Exit::Damaged })
}

fn repair(args: &Dir, terminal: &Terminal) -> anyhow::Result<Exit> {
    let done = weir_journal::repair(&Env::system(), &args.dir, "weir journal repair", &Options::default())?;
    tell_lost(&done.lost, terminal);
    for file in &done.quarantined {
        terminal.say(format!("the damaged bytes are in {}", file.display()));
    }
    terminal.say(format!(
        "{} segments written again, {} footers built again{}",
        done.segments_rewritten,
        done.footers_rebuilt,
        if done.manifest_rebuilt { ", manifest built again" } else { "" }
    ));
    Ok(if done.lost.is_empty() { Exit::Done } else { Exit::Partial })
}

fn compact(args: &Compact, terminal: &Terminal) -> anyhow::Result<Exit> {
    let age_max = args.age.as_deref().map(|text| -> anyhow::Result<Duration> {
        let span: jiff::SignedDuration = match text.parse::<jiff::Span>() {
            Ok(span) => span.to_duration(jiff::SpanRelativeTo::days_are_24_hours())?,
            Err(error) => return Err(error).context("--age wants something like 90d or 12h"),
        };
        Ok(Duration::try_from(span)?)
    });
    let retention = Retention {
        age_max: age_max.transpose()?,
        stored_bytes_max: args.size.map(ByteSize::bytes),
        records_max: args.count,
        latest_per_key: args.latest_per_key,
    };
    if !args.dir.is_dir() {
        return Err(weir_journal::Error::new(Kind::NotFound, format!("no journal in {}", args.dir.display())).into());
    }
    let (journal, _) = Journal::open(Env::system(), &args.dir, "weir journal compact", Options::default())?;
    let done = journal.compact(Compaction { retention, keep: None })?;
    journal.close()?;
    terminal.say(format!(
        "{} of {} records kept, {} of {}",
        done.records_after,
        done.records_before,
        ByteSize::new(done.bytes_after),
        ByteSize::new(done.bytes_before)
    ));
    if !done.complete {
        terminal.warn("more keys than fit in memory: some older records stayed");
    }
    Ok(Exit::Done)
}

#[allow(clippy::disallowed_methods, reason = "reads a file that the user names, outside of any store")]
fn import(args: &Import, terminal: &Terminal) -> anyhow::Result<Exit> {
    let what = || format!("cannot read {}", args.file.display());
    let mut input: Box<dyn Read> = if args.file.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(&args.file).with_context(what)?)
    };
    let mut head = vec![0; 64 << 10];
    let mut count = 0;
    while count < head.len() {
        match input.read(&mut head[count..]).with_context(what)? {
            0 => break,
            more => count += more,
        }
    }
    head.truncate(count);
    let mut appender = Appender::open(&args.dir, Options::default(), Durability::Durable, terminal)?;
    let mut problems = 0;
    if awsideman::is_history(&head) {
        input.read_to_end(&mut head).with_context(what)?;
        let history = awsideman::read(&head)?;
        for batch in history.records.chunks(1000) {
            appender.append(batch)?;
        }
        problems = history.problems.len();
        history.problems.iter().for_each(|problem| terminal.warn(problem));
    } else {
        let lines = BufReader::new(std::io::Cursor::new(head).chain(input)).lines();
        let mut batch = Vec::new();
        for (number, line) in (1u64..).zip(lines) {
            match jsonl::from_line(&line.with_context(what)?) {
                Ok(record) => batch.push(record),
                Err(error) => {
                    problems += 1;
                    terminal.warn(format!("line {number}: {}", weir_base::error::chain(&error)));
                }
            }
            if batch.len() == 1000 {
                appender.append(&batch)?;
                batch.clear();
            }
        }
        appender.append(&batch)?;
    }
    appender.finish(terminal)?;
    Ok(if problems == 0 { Exit::Done } else { Exit::Partial })
}

#[allow(clippy::disallowed_methods, reason = "writes a file that the user names, outside of any store")]
fn export(args: &Export) -> anyhow::Result<Exit> {
    let mut records = Reader::open(Env::system(), &args.dir)?.query(Query::default());
    let target: Box<dyn Write> = match &args.file {
        None => Box::new(std::io::stdout().lock()),
        Some(path) => {
            Box::new(std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?)
        }
    };
    let mut out = BufWriter::new(target);
    while let Some(record) = records.next_ref()? {
        if !print(&mut out, &record, true)? {
            return Ok(Exit::Done);
        }
    }
    out.flush().or_else(closed_is_fine)?;
    Ok(Exit::Done)
}
