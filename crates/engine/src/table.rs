//! The state of one table in memory: schema, buffered rows, and the committed version that queries see.
//!
//! One short lock guards it all, so a reader sees a flush's rows either in the buffer or in the files, never in both or
//! neither (Q1, E3). The lock is never held across I/O or a callback (S2).

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use weir_base::Kind;

use crate::chunk::Chunk;
use crate::dictionary::{Dictionary, SeriesLimit};
use crate::error::{Error, Result};
use crate::memory::{Memory, Reservation};
use crate::read::{MemoryRun, ReadSnapshot};
use crate::rows::Rows;
use crate::run::Run;
use crate::schema::{Role, SchemaRef, TableSchema};
use crate::series;
use crate::sort::Sorted;
use crate::store::{Snapshot, Table};

/// Rows below this are collected in one chunk instead of a chunk a request.
const TAIL_ROWS: usize = 8_192;
/// A dictionary larger than this is renewed when no buffered row needs it.
const DICTIONARY_KEEP: usize = 100_000;
/// Runs of the open buffer that queries keep before they become one.
const RUNS_MAX: usize = 8;

/// One table.
#[derive(Debug)]
pub struct TableState {
    /// Its database.
    pub database: String,
    /// Its name, the measurement.
    pub name: String,
    series_limit: Arc<SeriesLimit>,
    /// Rows that one flush takes, about.
    flush_rows: usize,
    inner: Mutex<Inner>,
    /// Named lease: one flush of this table at a time.
    pub(crate) flushing: tokio::sync::Mutex<()>,
    /// Named lease: one compaction of this table at a time.
    pub(crate) compacting: tokio::sync::Mutex<()>,
    /// How many wait for that lease.
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct Inner {
    schema: SchemaRef,
    stored: Option<Arc<Table>>,
    committed: Option<Arc<Snapshot>>,
    dictionary: Arc<Dictionary>,
    open: Open,
    /// What flushes take, oldest first, each one file: the first may be on its way.
    frozen: VecDeque<Arc<Frozen>>,
}

/// Rows that came last.
#[derive(Debug)]
struct Open {
    chunks: Vec<Arc<Chunk>>,
    /// Shared with readers only for as long as they need it.
    tail: Option<Arc<Chunk>>,
    rows: usize,
    memory: Reservation,
    /// First and last WAL sequence, and when the first row came (monotonic).
    span: Option<(u64, u64, Duration)>,
    /// Runs made for queries: how many chunks each ends after.
    runs: Vec<(usize, Arc<Run>)>,
}

/// Rows that one flush takes, until they are committed.
#[derive(Debug)]
pub struct Frozen {
    /// The rows, with the columns at the time of freezing.
    run: Arc<Run>,
    /// First WAL sequence.
    pub first: u64,
    /// Last WAL sequence: every row of this table up to it is here or committed.
    pub last: u64,
    /// When the first row came (monotonic).
    pub since: Duration,
    memory: Reservation,
}

impl Frozen {
    /// The rows in key order; sorted at most once.
    ///
    /// # Errors
    /// Those of [`Sorted::new`].
    pub fn sorted(&self) -> Result<Arc<Sorted>> {
        self.run.sorted()
    }

    /// Columns at the time of freezing.
    pub fn schema(&self) -> &SchemaRef {
        self.run.schema()
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }
}

/// How much a table has buffered, for the choice of what to flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffered {
    /// Bytes of them.
    pub bytes: u64,
    /// Rows, open and frozen.
    pub rows: usize,
    /// When the oldest row came (monotonic).
    pub since: Duration,
    /// Its WAL sequence.
    pub first: u64,
    /// The WAL sequence of the newest row.
    pub last: u64,
    /// Whether there are rows that wait for nothing but their flush.
    pub frozen: bool,
}

impl Open {
    fn new(memory: &Arc<Memory>) -> Self {
        Self { chunks: Vec::new(), tail: None, rows: 0, memory: memory.reservation(), span: None, runs: Vec::new() }
    }

    fn seal_tail(&mut self) {
        self.chunks.extend(self.tail.take());
    }

    /// All of it for one flush; `None` without rows.
    fn freeze(self, schema: &SchemaRef) -> Option<Arc<Frozen>> {
        let mut open = self;
        let (first, last, since) = open.span?;
        open.seal_tail();
        let run = Arc::new(Run::new(open.chunks, Arc::clone(schema)));
        Some(Arc::new(Frozen { run, first, last, since, memory: open.memory }))
    }

    fn push(&mut self, chunk: Chunk) {
        self.rows += chunk.len();
        if chunk.len() >= TAIL_ROWS {
            self.seal_tail();
            self.chunks.push(Arc::new(chunk));
            return;
        }
        match &mut self.tail {
            // A copy only while somebody reads it.
            Some(tail) if Arc::ptr_eq(&tail.dictionary, &chunk.dictionary) => Arc::make_mut(tail).append(&chunk),
            _ => {
                self.seal_tail();
                self.tail = Some(Arc::new(chunk));
            }
        }
        if self.tail.as_ref().is_some_and(|tail| tail.len() >= TAIL_ROWS) {
            self.seal_tail();
        }
    }
}

/// Counts who waits, also one who gives up.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl TableState {
    /// A table without rows; `stored` when it exists in the store. A flush takes about `flush_rows` rows of what waits for it.
    pub fn new(
        database: &str,
        name: &str,
        stored: Option<Arc<Table>>,
        memory: &Arc<Memory>,
        series_limit: &Arc<SeriesLimit>,
        flush_rows: usize,
    ) -> Self {
        let committed = stored.as_ref().map(|table| table.snapshot());
        let schema = committed.as_ref().map_or_else(SchemaRef::default, |snapshot| Arc::clone(&snapshot.schema));
        Self {
            database: database.to_owned(),
            name: name.to_owned(),
            series_limit: Arc::clone(series_limit),
            flush_rows,
            inner: Mutex::new(Inner {
                schema,
                stored,
                committed,
                dictionary: Dictionary::new(series_limit, memory),
                open: Open::new(memory),
                frozen: VecDeque::new(),
            }),
            flushing: tokio::sync::Mutex::new(()),
            compacting: tokio::sync::Mutex::new(()),
            waiting: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lease of compaction, for somebody who asked for one: what goes on in the background then hurries.
    pub(crate) async fn compaction(&self) -> tokio::sync::MutexGuard<'_, ()> {
        let _waits = Waits::new(&self.waiting);
        self.compacting.lock().await
    }

    /// Whether somebody waits for the end of a compaction.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Whether anybody has ever written to it: a table comes to be with its first accepted row (E3). One whose first write is still
    /// making its place in the store has no columns yet.
    pub fn exists(&self) -> bool {
        !self.lock().schema.columns().is_empty()
    }

    /// The columns now.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.lock().schema)
    }

    /// The table in the store, once it is there.
    pub fn stored(&self) -> Option<Arc<Table>> {
        self.lock().stored.clone()
    }

    /// What numbers series now.
    pub fn dictionary(&self) -> Arc<Dictionary> {
        Arc::clone(&self.lock().dictionary)
    }

    /// The schema with the columns that `rows` would add, or `None` when it has them all. The order depends only on the
    /// schema and the rows, so that replay adds the same columns in the same order.
    ///
    /// Of new tags the one with the most values comes first: rows are sorted by tags in the order of the schema, so what is asked for by
    /// the tag that tells most series apart then lies in few places.
    ///
    /// # Errors
    /// `conflict`, to be tried again, when a column got another role since `rows` were parsed; `limit` past `columns_max`.
    pub fn widened(&self, rows: &Rows, columns_max: usize) -> Result<Option<SchemaRef>> {
        let (schema, dictionary) = {
            let inner = self.lock();
            (Arc::clone(&inner.schema), Arc::clone(&inner.dictionary))
        };
        let mut wider: Option<TableSchema> = None;
        let mut add = |name: &str, role: Role| -> Result<()> {
            let current = wider.as_ref().unwrap_or(&schema);
            match current.get(name) {
                Some((_, column)) if column.role == role => Ok(()),
                Some(_) => Err(Error::new(
                    Kind::Conflict,
                    format!("column '{name}' of '{}' was given another type by a concurrent write", self.name),
                )
                .with_retry(weir_base::Retry::After(Duration::ZERO))),
                None => wider.get_or_insert_with(|| TableSchema::clone(&schema)).add(name, role).map(drop),
            }
        };
        // A tag that is not yet there is only in keys that nobody has seen: which others are among them makes no difference.
        let mut new: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
        for key in dictionary.unknown(&rows.keys) {
            for (name, value) in series::decode(key)? {
                match schema.get(name) {
                    Some(_) => add(name, Role::Tag)?,
                    None => drop(new.entry(name).or_default().insert(value)),
                }
            }
        }
        let mut new: Vec<_> = new.into_iter().collect();
        new.sort_by_key(|(_, values)| Reverse(values.len()));
        for (name, _) in new {
            add(name, Role::Tag)?;
        }
        for field in &rows.fields {
            add(&field.name, Role::Field(field.values.kind()))?;
        }
        match wider {
            Some(wider) if wider.columns().len() > columns_max => Err(Error::new(
                Kind::Limit,
                format!(
                    "table '{}' would have {} columns, more than {columns_max} (setting columns_max)",
                    self.name,
                    wider.columns().len()
                ),
            )),
            wider => Ok(wider.map(Arc::new)),
        }
    }

    /// Takes rows in: from now on every query sees them. Called in WAL order, with the last sequence of the record.
    pub fn apply(&self, chunk: Chunk, wider: Option<SchemaRef>, memory: Reservation, sequence: u64, now: Duration) {
        let mut inner = self.lock();
        if inner.open.rows >= self.flush_rows && inner.open.span.is_some_and(|(_, last, _)| last < sequence) {
            self.close(&mut inner, memory.account());
        }
        if let Some(schema) = wider {
            inner.schema = schema;
        }
        inner.open.memory.absorb(memory);
        inner.open.push(chunk);
        inner.open.span = Some(match inner.open.span {
            Some((first, _, since)) => (first, sequence, since),
            None => (sequence, sequence, now),
        });
    }

    /// Closes the open buffer, so that the next rows go to another file.
    fn close(&self, inner: &mut Inner, memory: &Arc<Memory>) {
        let open = std::mem::replace(&mut inner.open, Open::new(memory));
        if let Some(frozen) = open.freeze(&inner.schema) {
            inner.frozen.push_back(frozen);
        }
        if inner.dictionary.len() > DICTIONARY_KEEP {
            inner.dictionary = Dictionary::new(&self.series_limit, memory);
        }
    }

    /// What is not yet committed; `None` when nothing is.
    pub fn buffered(&self) -> Option<Buffered> {
        let inner = self.lock();
        let frozen = || inner.frozen.iter();
        let spans = frozen().map(|frozen| (frozen.first, frozen.last, frozen.since)).chain(inner.open.span);
        let (first, last, since) = spans.reduce(|one, two| (one.0, two.1, one.2))?;
        Some(Buffered {
            bytes: inner.open.memory.bytes() + frozen().map(|frozen| frozen.bytes()).sum::<u64>(),
            rows: inner.open.rows + frozen().map(|frozen| frozen.run.rows_at_most()).sum::<usize>(),
            since,
            first,
            last,
            frozen: !inner.frozen.is_empty(),
        })
    }

    /// What the next flush takes: rows whose flush failed first, then what came first. `None` without rows.
    pub fn freeze(&self, memory: &Arc<Memory>) -> Option<Arc<Frozen>> {
        let mut inner = self.lock();
        if inner.frozen.is_empty() {
            inner.open.span?;
            self.close(&mut inner, memory);
        }
        inner.frozen.front().cloned()
    }

    /// Notes where the table is stored.
    pub fn set_stored(&self, table: &Arc<Table>) {
        self.lock().stored = Some(Arc::clone(table));
    }

    /// Forgets the table in the store after it was dropped, and its columns with it, unless rows are buffered: those are newer
    /// and belong to the next table of this name, with their columns. The caller holds writes and flushes back meanwhile.
    pub(crate) fn detach(&self, memory: &Arc<Memory>) {
        let mut inner = self.lock();
        if inner.open.span.is_some() || !inner.frozen.is_empty() {
            inner.stored = None;
            inner.committed = None;
            return;
        }
        let dictionary = Dictionary::new(&self.series_limit, memory);
        let (schema, open) = (SchemaRef::default(), Open::new(memory));
        *inner = Inner { schema, stored: None, committed: None, dictionary, open, frozen: VecDeque::new() };
    }

    /// Shows the newest known version of the table in the store; `flushed` says that it holds what [`TableState::freeze`] gave. One that was let go
    /// meanwhile is not shown.
    pub fn committed(&self, table: &Arc<Table>, flushed: bool) {
        let snapshot = table.snapshot();
        let mut inner = self.lock();
        if inner.stored.as_ref().is_none_or(|stored| stored.folder() != table.folder()) {
            return;
        }
        if flushed {
            inner.frozen.pop_front();
        }
        if inner.committed.as_ref().is_none_or(|old| old.version < snapshot.version) {
            for column in snapshot.schema.columns() {
                if inner.schema.get(&column.name).is_none() {
                    // Another server widened the table: its columns come after ours only until the next restart.
                    let mut wider = TableSchema::clone(&inner.schema);
                    wider.push(column.clone());
                    inner.schema = Arc::new(wider);
                }
            }
            inner.committed = Some(snapshot);
        }
    }

    /// The committed version that queries see.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.lock().committed.clone()
    }

    /// Everything visible now. What of the buffer a query needs it sorts by itself, and that is kept for the next.
    pub fn read(&self) -> ReadSnapshot {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let (schema, committed, open) = (Arc::clone(&inner.schema), inner.committed.clone(), &mut inner.open);
        let covered = open.runs.last().map_or(0, |(end, _)| *end);
        if covered < open.chunks.len() {
            if open.runs.len() >= RUNS_MAX {
                open.runs.clear();
            }
            let start = open.runs.last().map_or(0, |(end, _)| *end);
            let run = Run::new(open.chunks[start..].to_vec(), Arc::clone(&schema));
            open.runs.push((open.chunks.len(), Arc::new(run)));
        }
        let tail = open.tail.iter().map(|tail| Arc::new(Run::new(vec![Arc::clone(tail)], Arc::clone(&schema))));
        let frozen = inner.frozen.iter().map(|frozen| Arc::clone(&frozen.run));
        let runs = frozen.chain(open.runs.iter().map(|(_, run)| Arc::clone(run))).chain(tail);
        let runs = runs.filter_map(MemoryRun::unsorted).collect();
        ReadSnapshot {
            database: self.database.clone(),
            table: self.name.clone(),
            schema,
            version: committed.as_ref().map_or(-1, |snapshot| snapshot.version),
            files: committed.as_ref().map_or_else(Vec::new, |snapshot| snapshot.files.clone()),
            runs,
            committed,
        }
    }
}
