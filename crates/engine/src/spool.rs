//! The telemetry spool: what any process measured, kept in `DIR/spool` and copied from there into database `weir`.
//!
//! A process takes the first free slot, a journal of its own (`DIR/spool/000`, `001`, ...): no process waits for
//! another. Whoever holds the drain lock copies what is new to the tables `operations` and `measures` as line protocol
//! through the normal write path, and then moves the slot's mark. A crash in between copies rows again, and the same
//! tags and time are the same row. Copied rows stay in the spool until its limits let them go: it is the history that
//! `weir track` reads without opening a database. The page is `docs/formats/spool.md`.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weir_base::{FileLock, Kind, LockError};
use weir_journal::{Codec, Durability, Env, Journal, KeyMatch, Options, Query, Reader, Record, Retention};
use weir_track::{Finished, Labels, Row};

use crate::{Error, Result};

/// The database that telemetry goes to.
pub const DATABASE: &str = "weir";

/// Most processes that record at once.
pub const SLOTS_MAX: u16 = 256;

/// Rows copied with one write.
const BATCH_ROWS: usize = 5_000;

/// Label names that become columns of a table; more would let anybody fill up the schema.
const LABELS_MAX: usize = 32;

/// The folder of the spool in a data folder.
pub fn folder(data: &Path) -> PathBuf {
    data.join("spool")
}

fn slot_dir(dir: &Path, slot: u16) -> PathBuf {
    dir.join(format!("{slot:03}"))
}

fn options() -> Options {
    Options {
        codec: Codec::Zstd { level: 1 },
        segment_bytes_max: 4 << 20,
        queue_bytes_max: 16 << 20,
        group_bytes_max: 4 << 20,
        record_bytes_max: 1 << 20,
        lock_wait: Duration::ZERO,
        retention: Retention {
            age_max: Some(Duration::from_secs(90 * 24 * 3600)),
            stored_bytes_max: Some(64 << 20),
            ..Retention::default()
        },
        ..Options::default()
    }
}

fn of_journal(error: weir_journal::Error) -> Error {
    Error::new(error.kind(), weir_base::error::chain(&error)).with_retry(error.retry())
}

/// A slot of the spool, open for this process.
#[derive(Debug)]
pub struct Spool {
    journal: Journal,
    slot: u16,
    /// Latest time of each series: in a table, rows of one series and time would be one row.
    latest: HashMap<(String, Labels), i64>,
}

impl Spool {
    /// Takes the first free slot of the spool in `dir`. `owner` begins the ids of this process's operations.
    ///
    /// # Errors
    /// `limit` when [`SLOTS_MAX`] processes record already; what the journal says.
    pub fn open(env: &Env, dir: &Path, owner: &str) -> Result<Self> {
        for slot in 0..SLOTS_MAX {
            match Journal::open(env.clone(), &slot_dir(dir, slot), owner, options()) {
                Ok((journal, _)) => return Ok(Self { journal, slot, latest: HashMap::new() }),
                // Taken, or damaged: what is there can still be read, and the next slot is as good.
                Err(error) if matches!(error.kind(), Kind::Conflict | Kind::Damaged) => {}
                Err(error) => return Err(of_journal(error)),
            }
        }
        Err(Error::new(Kind::Limit, format!("{SLOTS_MAX} processes record into {} already", dir.display())))
    }

    /// Appends rows: they survive the death of the process, and are synced when the spool is closed.
    ///
    /// # Errors
    /// What the journal says; then none of the rows is in.
    pub fn append(&mut self, mut rows: Vec<Row>) -> Result<()> {
        rows.sort_by_key(Row::time_ns);
        for row in &mut rows {
            match row {
                Row::Finished(row) => {
                    row.measures.retain(|_, value| value.is_finite());
                    self.make_time_unique(row);
                }
                Row::Sampled(row) => row.measures.retain(|_, value| value.is_finite()),
                Row::Started(_) => {}
            }
        }
        let payloads: Vec<Vec<u8>> = rows.iter().map(Row::to_json).collect();
        let records: Vec<Record<'_>> = rows
            .iter()
            .zip(&payloads)
            .map(|(row, payload)| Record { time: row.time_ns(), kind: row.kind(), key: row.key().as_bytes(), payload })
            .collect();
        // A record that fits no frame of the journal's queue is refused as a whole: keep the appends small.
        for some in records.chunks(BATCH_ROWS) {
            self.journal.append(some, Durability::None).map_err(of_journal)?;
        }
        Ok(())
    }

    fn make_time_unique(&mut self, row: &mut Finished) {
        if self.latest.len() > 100_000 {
            self.latest.clear();
        }
        let latest = self.latest.entry((row.name.clone(), row.labels.clone())).or_insert(i64::MIN);
        // Far before the latest it is another history, such as an import, whose times are its own.
        if row.end_ns <= *latest && latest.saturating_sub(row.end_ns) < 5_000_000_000 {
            row.end_ns = *latest + 1;
        }
        *latest = row.end_ns;
    }

    /// Which slot this is.
    pub fn slot(&self) -> u16 {
        self.slot
    }

    /// Syncs and lets the slot go.
    ///
    /// # Errors
    /// What the journal says.
    pub fn close(self) -> Result<()> {
        self.journal.close().map_err(of_journal)
    }
}

/// A row with its place in the spool.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// Its slot.
    pub slot: u16,
    /// Its sequence in the slot.
    pub sequence: u64,
    /// The row.
    pub row: Row,
}

/// What a reading of the spool met.
#[derive(Debug, Clone, Default)]
pub struct ReadSummary {
    /// First sequence that is still there, of each slot.
    pub first: BTreeMap<u16, u64>,
    /// Beginning of the ids of the process that has the slot right now.
    pub holders: BTreeMap<u16, String>,
    /// What could not be read, one sentence each.
    pub damage: Vec<String>,
}

/// Slots that exist, in order.
fn slots(dir: &Path, env: &Env) -> Result<Vec<u16>> {
    let listed = match env.fs.list(dir) {
        Ok(listed) => listed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(format!("cannot list {}", dir.display()), error)),
    };
    let number = |path: PathBuf| path.file_name()?.to_str().filter(|name| name.len() == 3)?.parse().ok();
    let mut slots: Vec<u16> = listed.into_iter().filter_map(number).collect();
    slots.sort_unstable();
    Ok(slots)
}

/// Reads all rows of a time range, slot after slot, in the order in which they were appended. Takes no lock.
///
/// # Errors
/// When the folder cannot be listed. What is damaged is skipped and told.
pub fn read(
    env: &Env,
    dir: &Path,
    times: std::ops::RangeInclusive<i64>,
    key: &KeyMatch,
    mut visit: impl FnMut(Placed),
) -> Result<ReadSummary> {
    let mut summary = ReadSummary::default();
    for slot in slots(dir, env)? {
        let own = slot_dir(dir, slot);
        if let Some(holder) = holder(&own) {
            summary.holders.insert(slot, holder);
        }
        let reader = match Reader::open(env.clone(), &own) {
            Ok(reader) => reader,
            // A process that has just made the folder has not written its first segment yet.
            Err(error) if error.kind() == Kind::NotFound => continue,
            Err(error) => {
                summary.damage.push(weir_base::error::chain(&error));
                continue;
            }
        };
        summary.first.insert(slot, first_kept(&reader));
        let query = Query { times: times.clone(), key: key.clone(), salvage: true, ..Query::default() };
        let mut records = reader.query(query);
        loop {
            match records.next_ref() {
                Ok(Some(record)) => match Row::from_json(record.kind, record.payload) {
                    Some(row) => visit(Placed { slot, sequence: record.sequence, row }),
                    None => summary.damage.push(format!("slot {slot:03}: record {} is no row", record.sequence)),
                },
                Ok(None) => break,
                Err(error) => {
                    summary.damage.push(weir_base::error::chain(&error));
                    break;
                }
            }
        }
        if !records.lost().is_empty() {
            summary.damage.push(format!("slot {slot:03}: {} damaged stretches were skipped", records.lost().len()));
        }
    }
    Ok(summary)
}

/// The first sequence that can still be read. The journal's own first may be before it: a segment whose oldest frames
/// were let go keeps the range that it had.
fn first_kept(reader: &Reader) -> u64 {
    let mut records = reader.query(Query { salvage: true, ..Query::default() });
    match records.next_ref() {
        Ok(Some(record)) => record.sequence,
        Ok(None) | Err(_) => reader.first_sequence(),
    }
}

/// Who has a slot right now. The lock's text alone may be of a dead process, so the lock itself is asked.
fn holder(slot: &Path) -> Option<String> {
    let path = slot.join("lock");
    match FileLock::acquire(&path, "weir", Duration::ZERO) {
        Err(LockError::Held { holder, .. }) => Some(holder.split(' ').next().unwrap_or_default().to_owned()),
        Ok(_) | Err(LockError::Io(_)) => None,
    }
}

/// The right to copy the spool into the database.
#[derive(Debug)]
pub struct Drain {
    env: Env,
    dir: PathBuf,
    _lock: FileLock,
}

/// Rows to copy, as line protocol for database [`DATABASE`] with times in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The lines.
    pub lines: String,
    /// How many rows of the spool they are.
    pub rows: usize,
    slot: u16,
    /// Everything before this sequence is copied once the lines are.
    next: u64,
}

impl Drain {
    /// Takes the drain lock; none when another process copies, or nothing was ever measured here.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn begin(env: &Env, dir: &Path) -> Result<Option<Self>> {
        if slots(dir, env)?.is_empty() {
            return Ok(None);
        }
        match FileLock::acquire(&dir.join("drain.lock"), "drain", Duration::ZERO) {
            Ok(lock) => Ok(Some(Self { env: env.clone(), dir: dir.to_path_buf(), _lock: lock })),
            Err(LockError::Held { .. }) => Ok(None),
            Err(LockError::Io(error)) => Err(Error::io(format!("cannot lock {}", dir.display()), error)),
        }
    }

    /// The next rows to copy; none when all are. Write the lines, then call [`Drain::done`].
    ///
    /// # Errors
    /// When the disk refuses. A damaged slot is passed over, as far as it cannot be read.
    pub fn next(&self) -> Result<Option<Batch>> {
        for slot in slots(&self.dir, &self.env)? {
            let mark = self.mark(slot)?;
            let Ok(reader) = Reader::open(self.env.clone(), &slot_dir(&self.dir, slot)) else { continue };
            let query = Query { sequences: mark..=u64::MAX, salvage: true, ..Query::default() };
            let mut records = reader.query(query);
            let mut batch = Batch { lines: String::new(), rows: 0, slot, next: mark };
            while batch.rows < BATCH_ROWS
                && let Ok(Some(record)) = records.next_ref()
            {
                batch.rows += 1;
                batch.next = record.sequence + 1;
                if let Some(row) = Row::from_json(record.kind, record.payload) {
                    to_lines(&mut batch.lines, slot, record.sequence, &row);
                }
            }
            if batch.rows > 0 {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    /// The lines of `batch` are written and durable.
    ///
    /// # Errors
    /// When the mark cannot be written; the same rows come again then.
    pub fn done(&self, batch: &Batch) -> Result<()> {
        let path = self.mark_path(batch.slot);
        let written = self.env.fs.replace(&path, batch.next.to_string().as_bytes());
        written.map_err(|error| Error::io(format!("cannot write {}", path.display()), error))
    }

    fn mark_path(&self, slot: u16) -> PathBuf {
        self.dir.join(format!("{slot:03}.drained"))
    }

    fn mark(&self, slot: u16) -> Result<u64> {
        let path = self.mark_path(slot);
        match self.env.fs.read(&path) {
            // A mark that is no number counts as none: copying again changes nothing.
            Ok(bytes) => Ok(std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(0)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(Error::io(format!("cannot read {}", path.display()), error)),
        }
    }
}

fn to_lines(lines: &mut String, slot: u16, sequence: u64, row: &Row) {
    match row {
        Row::Finished(row) => {
            let tags = tags(&row.name, &row.labels, slot);
            let _ =
                write!(lines, "operations{tags} sequence={sequence}i,count={}i,failures={}i", row.count, row.failures);
            let _ = write!(lines, ",duration_ms={}", row.duration_ns as f64 / 1e6);
            for (name, value) in [("min_ms", row.min_ns), ("max_ms", row.max_ns)] {
                if let Some(value) = value {
                    let _ = write!(lines, ",{name}={}", value as f64 / 1e6);
                }
            }
            for (name, value) in [("items", row.items), ("bytes", row.bytes), ("round", row.round.map(u64::from))] {
                if let Some(value) = value {
                    let _ = write!(lines, ",{name}={value}i");
                }
            }
            for (name, value) in [("id", &row.id), ("parent", &row.parent), ("run", &row.run), ("sketch", &row.sketch)]
            {
                if let Some(value) = value {
                    let _ = write!(lines, ",{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
                }
            }
            let _ = writeln!(lines, " {}", row.end_ns);
            measures(lines, &tags, sequence, &row.measures, row.end_ns);
        }
        Row::Sampled(row) => {
            measures(lines, &tags(&row.process, &Labels::new(), slot), sequence, &row.measures, row.time_ns);
        }
        // It becomes a row when it ends; until then the spool knows it.
        Row::Started(_) => {}
    }
}

fn measures(lines: &mut String, tags: &str, sequence: u64, measures: &BTreeMap<String, f64>, time_ns: i64) {
    for (name, value) in measures.iter().filter(|(_, value)| value.is_finite()) {
        let _ =
            writeln!(lines, "measures{tags},measure={} value={value},sequence={sequence}i {time_ns}", escaped(name));
    }
}

fn tags(name: &str, labels: &Labels, slot: u16) -> String {
    let mut tags = format!(",name={},slot={slot:03}", escaped(name));
    for (label, value) in labels.iter().take(LABELS_MAX).filter(|(_, value)| !value.is_empty()) {
        let _ = write!(tags, ",label_{}={}", escaped(label), escaped(value));
    }
    tags
}

/// A tag's name or value in line protocol. Line ends have no escape there; a trailing backslash would eat the separator.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' | '\r' => out.push('_'),
            ',' | '=' | ' ' => out.extend(['\\', letter]),
            _ => out.push(letter),
        }
    }
    if out.is_empty() || out.ends_with('\\') {
        out.push('_');
    }
    out
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
