//! The state of one table in memory: schema, buffered rows, and the committed version that queries see.
//!
//! One short lock guards it all, so a reader sees a flush's rows either in the buffer or in the files, never in both or
//! neither (Q1, E3). The lock is never held across I/O or a callback (S2).

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use weir_base::Kind;

use crate::chunk::Chunk;
use crate::dictionary::{Dictionary, SeriesLimit};
use crate::error::{Error, Result};
use crate::memory::{Memory, Reservation};
use crate::read::{MemoryRun, ReadSnapshot};
use crate::rows::Rows;
use crate::schema::{Role, SchemaRef, TableSchema};
use crate::series;
use crate::sort::Sorted;
use crate::store::{Snapshot, Table};

/// Rows below this are collected in one chunk instead of a chunk a request.
const TAIL_ROWS: usize = 8_192;
/// A dictionary larger than this is renewed when no buffered row needs it.
const DICTIONARY_KEEP: usize = 100_000;
/// Sorted runs of the open buffer that queries keep before they are sorted into one.
const RUNS_MAX: usize = 8;

/// One table.
#[derive(Debug)]
pub struct TableState {
    /// Its database.
    pub database: String,
    /// Its name, the measurement.
    pub name: String,
    series_limit: Arc<SeriesLimit>,
    inner: Mutex<Inner>,
    /// Named lease: one flush of this table at a time.
    pub(crate) flushing: tokio::sync::Mutex<()>,
    /// Named lease: one compaction of this table at a time.
    pub(crate) compacting: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Inner {
    schema: SchemaRef,
    stored: Option<Arc<Table>>,
    committed: Option<Arc<Snapshot>>,
    dictionary: Arc<Dictionary>,
    open: Open,
    frozen: Option<Arc<Frozen>>,
}

/// Rows that the next flush will take.
#[derive(Debug)]
struct Open {
    chunks: Vec<Arc<Chunk>>,
    tail: Option<Chunk>,
    rows: usize,
    memory: Reservation,
    /// First and last WAL sequence, and when the first row came (monotonic).
    span: Option<(u64, u64, Duration)>,
    /// Sorted runs made for queries: how many chunks each ends after.
    runs: Vec<(usize, Arc<Sorted>)>,
}

/// Rows that a flush has taken and not yet committed.
#[derive(Debug)]
pub struct Frozen {
    /// In order of arrival.
    pub chunks: Vec<Arc<Chunk>>,
    /// Columns at the time of freezing.
    pub schema: SchemaRef,
    /// First WAL sequence.
    pub first: u64,
    /// Last WAL sequence: every row of this table up to it is here or committed.
    pub last: u64,
    /// When the first row came (monotonic).
    pub since: Duration,
    sorted: OnceLock<Arc<Sorted>>,
    memory: Reservation,
}

impl Frozen {
    /// The rows in key order; sorted at most once.
    ///
    /// # Errors
    /// Those of [`Sorted::new`].
    pub fn sorted(&self) -> Result<Arc<Sorted>> {
        if let Some(sorted) = self.sorted.get() {
            return Ok(Arc::clone(sorted));
        }
        let sorted = Arc::new(Sorted::new(self.chunks.clone(), &self.schema)?);
        Ok(Arc::clone(self.sorted.get_or_init(|| sorted)))
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }
}

/// How much a table has buffered, for the choice of what to flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffered {
    /// Bytes in the open buffer.
    pub bytes: u64,
    /// Rows, open and frozen.
    pub rows: usize,
    /// When the oldest row came (monotonic).
    pub since: Duration,
    /// Its WAL sequence.
    pub first: u64,
    /// Whether a flush has been tried and not finished.
    pub frozen: bool,
}

impl Open {
    fn new(memory: &Arc<Memory>) -> Self {
        Self { chunks: Vec::new(), tail: None, rows: 0, memory: memory.reservation(), span: None, runs: Vec::new() }
    }

    fn seal_tail(&mut self) {
        self.chunks.extend(self.tail.take().map(Arc::new));
    }

    fn push(&mut self, chunk: Chunk) {
        self.rows += chunk.len();
        if chunk.len() >= TAIL_ROWS {
            self.seal_tail();
            self.chunks.push(Arc::new(chunk));
            return;
        }
        match &mut self.tail {
            Some(tail) if Arc::ptr_eq(&tail.dictionary, &chunk.dictionary) => tail.append(&chunk),
            _ => {
                self.seal_tail();
                self.tail = Some(chunk);
            }
        }
        if self.tail.as_ref().is_some_and(|tail| tail.len() >= TAIL_ROWS) {
            self.seal_tail();
        }
    }
}

impl TableState {
    /// A table without rows; `stored` when it exists in the store.
    pub fn new(
        database: &str,
        name: &str,
        stored: Option<Arc<Table>>,
        memory: &Arc<Memory>,
        series_limit: &Arc<SeriesLimit>,
    ) -> Self {
        let committed = stored.as_ref().map(|table| table.snapshot());
        let schema = committed.as_ref().map_or_else(SchemaRef::default, |snapshot| Arc::clone(&snapshot.schema));
        Self {
            database: database.to_owned(),
            name: name.to_owned(),
            series_limit: Arc::clone(series_limit),
            inner: Mutex::new(Inner {
                schema,
                stored,
                committed,
                dictionary: Dictionary::new(series_limit, memory),
                open: Open::new(memory),
                frozen: None,
            }),
            flushing: tokio::sync::Mutex::new(()),
            compacting: tokio::sync::Mutex::new(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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
        for key in dictionary.unknown(&rows.keys) {
            for (name, _) in series::decode(key)? {
                add(name, Role::Tag)?;
            }
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

    /// What is not yet committed; `None` when nothing is.
    pub fn buffered(&self) -> Option<Buffered> {
        let inner = self.lock();
        let frozen = inner.frozen.as_ref();
        let (first, since) = match (frozen, inner.open.span) {
            (Some(frozen), _) => (frozen.first, frozen.since),
            (None, Some((first, _, since))) => (first, since),
            (None, None) => return None,
        };
        let rows = inner.open.rows + frozen.map_or(0, |frozen| frozen.chunks.iter().map(|chunk| chunk.len()).sum());
        Some(Buffered { bytes: inner.open.memory.bytes(), rows, since, first, frozen: frozen.is_some() })
    }

    /// Takes the open buffer for a flush; the rows of a flush that failed come first and alone. `None` without rows.
    pub fn freeze(&self, memory: &Arc<Memory>) -> Option<Arc<Frozen>> {
        let mut inner = self.lock();
        if inner.frozen.is_none() {
            let (first, last, since) = inner.open.span?;
            let mut open = std::mem::replace(&mut inner.open, Open::new(memory));
            open.seal_tail();
            let schema = Arc::clone(&inner.schema);
            if inner.dictionary.len() > DICTIONARY_KEEP {
                inner.dictionary = Dictionary::new(&self.series_limit, memory);
            }
            inner.frozen = Some(Arc::new(Frozen {
                chunks: open.chunks,
                schema,
                first,
                last,
                since,
                sorted: OnceLock::new(),
                memory: open.memory,
            }));
        }
        inner.frozen.clone()
    }

    /// Notes where the table is stored.
    pub fn set_stored(&self, table: &Arc<Table>) {
        self.lock().stored = Some(Arc::clone(table));
    }

    /// Forgets the table in the store after it was dropped, and its columns with it, unless rows are buffered: those are newer
    /// and belong to the next table of this name, with their columns. The caller holds writes and flushes back meanwhile.
    pub(crate) fn detach(&self, memory: &Arc<Memory>) {
        let mut inner = self.lock();
        if inner.open.span.is_some() || inner.frozen.is_some() {
            inner.stored = None;
            inner.committed = None;
            return;
        }
        let dictionary = Dictionary::new(&self.series_limit, memory);
        let (schema, open) = (SchemaRef::default(), Open::new(memory));
        *inner = Inner { schema, stored: None, committed: None, dictionary, open, frozen: None };
    }

    /// Shows the newest known version of the table in the store; `flushed` says that it holds the frozen rows. One that was let go
    /// meanwhile is not shown.
    pub fn committed(&self, table: &Arc<Table>, flushed: bool) {
        let snapshot = table.snapshot();
        let mut inner = self.lock();
        if inner.stored.as_ref().is_none_or(|stored| stored.folder() != table.folder()) {
            return;
        }
        if flushed {
            inner.frozen = None;
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

    /// Everything visible now, the buffer sorted. Sorting happens outside the lock and is kept for the next query.
    ///
    /// # Errors
    /// Those of [`Sorted::new`].
    pub fn read(&self) -> Result<ReadSnapshot> {
        let (schema, committed, frozen, mut chunks, tail, mut runs) = {
            let inner = self.lock();
            (
                Arc::clone(&inner.schema),
                inner.committed.clone(),
                inner.frozen.clone(),
                inner.open.chunks.clone(),
                inner.open.tail.clone(),
                inner.open.runs.clone(),
            )
        };
        let mut memory_runs = Vec::new();
        if let Some(frozen) = &frozen {
            memory_runs.extend(MemoryRun::new(frozen.sorted()?));
        }
        let covered = runs.last().map_or(0, |(end, _)| *end);
        if covered < chunks.len() {
            let start = if runs.len() >= RUNS_MAX { 0 } else { covered };
            if start == 0 {
                runs.clear();
            }
            runs.push((chunks.len(), Arc::new(Sorted::new(chunks[start..].to_vec(), &schema)?)));
            self.keep_runs(&chunks, &runs);
        }
        memory_runs.extend(runs.into_iter().filter_map(|(_, sorted)| MemoryRun::new(sorted)));
        if let Some(tail) = tail {
            chunks.clear();
            memory_runs.extend(MemoryRun::new(Arc::new(Sorted::new(vec![Arc::new(tail)], &schema)?)));
        }
        Ok(ReadSnapshot {
            database: self.database.clone(),
            table: self.name.clone(),
            schema,
            version: committed.as_ref().map_or(-1, |snapshot| snapshot.version),
            files: committed.as_ref().map_or_else(Vec::new, |snapshot| snapshot.files.clone()),
            runs: memory_runs,
            committed,
        })
    }

    /// Keeps sorted runs for the next query unless the buffer was frozen since, or somebody kept longer ones.
    fn keep_runs(&self, chunks: &[Arc<Chunk>], runs: &[(usize, Arc<Sorted>)]) {
        let mut inner = self.lock();
        let same =
            inner.open.chunks.first().zip(chunks.first()).is_some_and(|(mine, theirs)| Arc::ptr_eq(mine, theirs));
        let longer = runs.last().map(|(end, _)| *end) > inner.open.runs.last().map(|(end, _)| *end);
        if same && longer {
            inner.open.runs = runs.to_vec();
        }
    }
}
