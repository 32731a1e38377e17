//! Reading the history, without the writer and without a lock: listing by the index, one operation by its records.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use weir_base::id::Uuid;
use weir_base::{Kind, Timestamp};
use weir_journal::{KeyMatch, Lost, Query, Reader};

use crate::event::{Event, HISTORY_KEY};
use crate::filter::Filter;
use crate::history::log_dir;
use crate::index::{self, Raw, Texts};
use crate::operation::{Operation, State};
use crate::{Env, Error, Result};

/// An operation without its entries.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// UUIDv7.
    pub id: Uuid,
    /// Operations of one command share a run.
    pub run: Uuid,
    /// When it began, nanoseconds UTC.
    pub time: Timestamp,
    /// When it was sealed last, nanoseconds UTC.
    pub ended: Option<Timestamp>,
    /// How it stands.
    pub state: State,
    /// Whether a fresh read agreed.
    pub verified: bool,
    /// Entries in all.
    pub entries: u32,
    /// Entries that are done.
    pub done: u32,
    /// Entries that failed.
    pub failed: u32,
    /// Entries that were not touched.
    pub skipped: u32,
    /// What it is.
    #[serde(serialize_with = "text")]
    pub kind: Arc<str>,
    /// What it changes.
    #[serde(serialize_with = "text")]
    pub target: Arc<str>,
    /// Who asked for it.
    #[serde(serialize_with = "text")]
    pub actor: Arc<str>,
    /// The operations that it undoes.
    pub undoes: Box<[Uuid]>,
    /// The operation that undid it and is not undone itself.
    pub undone_by: Option<Uuid>,
}

fn text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

/// Which operations to list; the default is all, newest first.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Of this kind.
    pub kind: Option<String>,
    /// With an entry for which this holds.
    pub filter: Filter,
    /// In this state.
    pub state: Option<State>,
    /// Of this run.
    pub run: Option<Uuid>,
    /// Begun at or after, nanoseconds UTC.
    pub since: Option<Timestamp>,
    /// Begun before, nanoseconds UTC.
    pub until: Option<Timestamp>,
    /// At most so many.
    pub limit: Option<usize>,
}

/// A history open for reading.
#[derive(Debug)]
pub struct View {
    env: Env,
    dir: PathBuf,
    reader: Reader,
    id: Uuid,
    memory_bytes_max: u64,
}

/// Memory that a listing may take, when nothing else is said.
pub const MEMORY_BYTES_MAX: u64 = 64 << 20;

impl View {
    /// Opens the history in `dir`.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Damaged`, `Unavailable`.
    pub fn open(env: Env, dir: &Path) -> Result<Self> {
        let none = |error: Error| match error.kind() {
            Kind::NotFound => Error::new(Kind::NotFound, format!("no history of operations in {}", dir.display())),
            _ => error,
        };
        let reader = Reader::open(env.journal.clone(), &log_dir(dir)).map_err(|error| none(error.into()))?;
        let id = history_id(&reader).map_err(none)?;
        Ok(Self { env, dir: dir.to_path_buf(), reader, id, memory_bytes_max: MEMORY_BYTES_MAX })
    }

    /// The same, with another limit for the memory of a listing.
    pub fn with_memory(mut self, bytes_max: u64) -> Self {
        self.memory_bytes_max = bytes_max;
        self
    }

    /// The history's own id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The log.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Lists operations, newest first. What damage hides from the log is told in the second value.
    ///
    /// # Errors
    /// `Limit` when the summaries do not fit in memory, `Damaged`, `Unavailable`.
    pub fn list(&self, listing: &Listing) -> Result<(Vec<Summary>, Vec<Lost>)> {
        let mut table = Table { bytes_max: self.memory_bytes_max, ..Table::default() };
        let mut past_limit = None;
        let extent = index::scan(&*self.env.journal.fs, &self.dir, self.id, u64::MAX, |raw| {
            if past_limit.is_none() {
                past_limit = table.put(raw, listing).err();
            }
        })?;
        if let Some(error) = past_limit {
            return Err(error);
        }
        let lost =
            self.fold_tail(extent.through, &mut |operation| table.put(Raw::of(&index::encode(operation)), listing))?;
        Ok((table.finish(listing), lost))
    }

    /// Folds every operation that has records past `through`.
    ///
    /// # Errors
    /// Those of `each`; `Damaged`, `Unavailable`.
    pub(crate) fn fold_beyond(&self, through: u64, each: &mut dyn FnMut(&Operation) -> Result<()>) -> Result<()> {
        self.fold_tail(through, each).map(drop)
    }

    fn fold_tail(&self, through: u64, each: &mut dyn FnMut(&Operation) -> Result<()>) -> Result<Vec<Lost>> {
        let mut open: HashMap<Uuid, Operation> = HashMap::new();
        // Those that began, or were given out, before: resumed ones mostly.
        let mut again: BTreeSet<Uuid> = BTreeSet::new();
        let sequences = through + 1..=u64::MAX;
        let mut records = self.reader.query(Query { sequences, salvage: true, ..Query::default() });
        while let Some(record) = records.next_ref()? {
            if record.key == HISTORY_KEY {
                continue;
            }
            let id = parse_id(record.key)?;
            let Some(event) = Event::parse(record.kind, record.payload)? else { continue };
            let is_seal = matches!(event, Event::Seal { .. });
            if let Some(operation) = open.get_mut(&id) {
                operation.fold(record.time, event);
            } else if matches!(event, Event::Begin(_)) {
                open.insert(id, Operation::begin(id, record.time, event)?);
            } else {
                again.insert(id);
            }
            if is_seal && let Some(operation) = open.remove(&id) {
                each(&operation)?;
            }
        }
        let lost = records.lost().to_vec();
        for operation in open.values() {
            each(operation)?;
        }
        for id in again {
            if let (Some(operation), _) = self.fold(id.to_string().as_bytes())? {
                each(&operation)?;
            }
        }
        Ok(lost)
    }

    /// The operation with this key and what damage hides of it.
    fn fold(&self, key: &[u8]) -> Result<(Option<Operation>, Vec<Lost>)> {
        let id = parse_id(key)?;
        let mut operation: Option<Operation> = None;
        let query = Query { key: KeyMatch::Is(key.to_vec()), salvage: true, ..Query::default() };
        let mut records = self.reader.query(query);
        while let Some(record) = records.next_ref()? {
            let Some(event) = Event::parse(record.kind, record.payload)? else { continue };
            match &mut operation {
                Some(operation) => operation.fold(record.time, event),
                None if matches!(event, Event::Begin(_)) => operation = Some(Operation::begin(id, record.time, event)?),
                None => {}
            }
        }
        Ok((operation, records.lost().to_vec()))
    }

    /// The operation whose id begins with `prefix`, with all entries; the second value tells what damage may hide of it.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when several begin so, `Damaged`, `Unavailable`.
    pub fn show(&self, prefix: &str) -> Result<(Operation, Vec<Lost>)> {
        let id = self.resolve(prefix)?;
        let (operation, lost) = self.fold(id.to_string().as_bytes())?;
        match operation {
            Some(operation) => Ok((operation, lost)),
            None if lost.is_empty() => Err(Error::new(Kind::NotFound, format!("there is no operation {id}"))),
            None => Err(Error::new(Kind::Damaged, format!("the beginning of operation {id} is lost"))),
        }
    }

    /// The id that begins with `prefix`.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when several begin so, `Invalid` for an empty prefix.
    pub fn resolve(&self, prefix: &str) -> Result<Uuid> {
        let prefix = prefix.to_ascii_lowercase();
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
            return Err(Error::new(Kind::NotFound, format!("'{prefix}' is not the beginning of an operation's id")));
        }
        if let Ok(id) = prefix.parse() {
            return Ok(id);
        }
        let unknown = || Error::new(Kind::NotFound, format!("no operation's id begins with '{prefix}'"));
        let several = || Error::conflict(format!("several operations' ids begin with '{prefix}'"));
        match self.reader.unique_key(prefix.as_bytes()) {
            Ok(key) => parse_id(&key),
            Err(error) if error.kind() == Kind::NotFound => Err(unknown()),
            Err(error) if error.kind() == Kind::Conflict => Err(several()),
            // The log cannot say: the index may.
            Err(error) if error.kind() == Kind::Damaged => {
                let (mut summaries, _) = self.list(&Listing::default())?;
                summaries.retain(|summary| summary.id.to_string().starts_with(&prefix));
                match &summaries[..] {
                    [] => Err(unknown()),
                    [one] => Ok(one.id),
                    _ => Err(several()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Every operation, whole, oldest first, one at a time.
    ///
    /// # Errors
    /// As [`View::list`].
    pub fn for_each(&self, each: &mut dyn FnMut(&Operation) -> Result<()>) -> Result<Vec<Lost>> {
        let (mut summaries, lost) = self.list(&Listing::default())?;
        summaries.reverse();
        for summary in summaries {
            if let (Some(operation), _) = self.fold(summary.id.to_string().as_bytes())? {
                each(&operation)?;
            }
        }
        Ok(lost)
    }
}

/// Rows of the last summary of each operation.
#[derive(Default)]
struct Table {
    rows: Vec<(Summary, bool)>,
    places: HashMap<Uuid, u32>,
    texts: Texts,
    bytes: u64,
    bytes_max: u64,
}

impl Table {
    fn put(&mut self, raw: Raw<'_>, listing: &Listing) -> Result<()> {
        let Some((summary, labels)) = raw.parse(&mut self.texts) else { return Ok(()) };
        let holds = listing.filter.is_empty() || listing.filter.holds_for(labels);
        if let Some(place) = self.places.get(&summary.id) {
            self.rows[*place as usize] = (summary, holds);
            return Ok(());
        }
        self.bytes += (size_of::<(Summary, bool)>() + 2 * size_of::<(Uuid, u32)>() + 16 * summary.undoes.len()) as u64;
        if self.bytes > self.bytes_max {
            let max = weir_base::ByteSize::new(self.bytes_max);
            return Err(Error::new(
                Kind::Limit,
                format!("the summaries of {} operations do not fit (memory_bytes_max = {max})", self.rows.len()),
            ));
        }
        self.places.insert(summary.id, self.rows.len() as u32);
        self.rows.push((summary, holds));
        Ok(())
    }

    fn finish(self, listing: &Listing) -> Vec<Summary> {
        let Self { mut rows, places, .. } = self;
        drop(places);
        rows.sort_unstable_by_key(|(summary, _)| std::cmp::Reverse(summary.id));
        // An undo is newer than what it undoes, so that the newest undo that still holds is met first.
        let mut undone: HashMap<Uuid, Uuid> = HashMap::new();
        for (summary, _) in &rows {
            if !summary.undoes.is_empty() && summary.done > 0 && !undone.contains_key(&summary.id) {
                for id in &summary.undoes {
                    undone.entry(*id).or_insert(summary.id);
                }
            }
        }
        let wanted = |summary: &Summary| {
            listing.kind.as_ref().is_none_or(|kind| **kind == *summary.kind)
                && listing.state.is_none_or(|state| state == summary.state)
                && listing.run.is_none_or(|run| run == summary.run)
                && listing.since.is_none_or(|since| summary.time >= since)
                && listing.until.is_none_or(|until| summary.time < until)
        };
        rows.retain(|(summary, holds)| *holds && wanted(summary));
        rows.truncate(listing.limit.unwrap_or(usize::MAX));
        rows.into_iter()
            .map(|(mut summary, _)| {
                summary.undone_by = undone.get(&summary.id).copied();
                summary
            })
            .collect()
    }
}

/// The id in a record's key.
pub(crate) fn parse_id(key: &[u8]) -> Result<Uuid> {
    Uuid::try_parse_ascii(key)
        .map_err(|error| Error::wrap(Kind::Damaged, "a record of the history has a key that is no id", error))
}

/// The id of a history, from its first record; `NotFound` while it has none: its writer is about to write that, or died before.
pub(crate) fn history_id(reader: &Reader) -> Result<Uuid> {
    let mut is_empty = true;
    let mut records = reader.query(Query { salvage: true, ..Query::default() });
    while let Some(record) = records.next_ref()? {
        if let Some(Event::History { id }) = Event::parse(record.kind, record.payload)? {
            return Ok(id);
        }
        is_empty = false;
    }
    if is_empty && records.lost().is_empty() {
        return Err(Error::new(Kind::NotFound, "the history has no record yet"));
    }
    Err(Error::new(Kind::Damaged, "the record that names this history is lost"))
}
