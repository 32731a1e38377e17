//! The way in: text to columns, columns to the WAL, then to the buffer, then the acknowledgement (E1, E2, E4).
//!
//! A [`Write`] parses whatever bytes it is fed, in any pieces, and accounts for the memory as it grows. [`Write::commit`]
//! turns what was accepted into one journal record: all or nothing. The journal's writer thread calls back in sequence
//! order once the record is as durable as asked; the callback shows the rows to queries and answers the waiter, so buffer
//! order is WAL order and nothing unacknowledgeable is ever visible.
//!
//! Rows that widen a table take a named lease (the schema lease), so that widening records are in the WAL in the order in
//! which the columns appear; all others go side by side. A widened schema is published with the rows, by the callback: a
//! failed append leaves none behind (E3). On a shared store the new columns are committed there first.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use weir_base::{ByteSize, Kind, Retry};
use weir_journal::{Durability, Record};

use crate::chunk::Chunk;
use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};
use crate::lp::{Options, Parsed, Parser, Precision, Rejected, Schemas};
use crate::memory::Reservation;
use crate::rows::Rows;
use crate::schema::SchemaRef;
use crate::table::TableState;
use crate::wal;

/// How a request wants to be written.
#[derive(Debug, Clone, Copy)]
pub struct WriteOptions {
    /// The unit of timestamps.
    pub precision: Precision,
    /// Keep the good lines of a request with bad ones; else refuse all of it.
    pub accept_partial: bool,
    /// Acknowledge after the write and before the sync: survives `kill -9`, not a power failure.
    pub no_sync: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { precision: Precision::Nanosecond, accept_partial: true, no_sync: false }
    }
}

/// What became of a request.
#[derive(Debug)]
pub struct Written {
    /// Rows acknowledged.
    pub rows: usize,
    /// Lines refused, the first of them with their reasons.
    pub rejected: Vec<Rejected>,
    /// How many lines were refused in all.
    pub rejected_total: usize,
}

/// One request on its way in.
pub struct Write {
    shared: Arc<Shared>,
    database: String,
    options: WriteOptions,
    parser: Parser<'static>,
    memory: Reservation,
}

/// What a parser may know of the tables of one database. A table that is in the store and not loaded yet is loaded: the
/// parser runs on a thread that may block.
struct DatabaseSchemas {
    shared: Arc<Shared>,
    database: String,
    runtime: tokio::runtime::Handle,
}

impl Schemas for DatabaseSchemas {
    fn schema(&self, measurement: &str) -> Option<SchemaRef> {
        let loaded = self.shared.tables.get(&self.database, measurement);
        let table = loaded.or_else(|| {
            // A store that does not answer is met again, as an error, before anything is written.
            self.runtime.block_on(self.shared.table(&self.database, measurement)).ok().flatten()
        });
        let schema = table?.schema();
        (!schema.columns().is_empty()).then_some(schema)
    }

    fn is_external(&self, measurement: &str) -> bool {
        self.shared.is_external(&self.database, measurement)
    }
}

impl Engine {
    /// Begins a request into `database`, which comes to be with its first row.
    ///
    /// # Errors
    /// `invalid` for a name that is not one; `limit` when the buffer or the WAL is full; `unavailable` while closing.
    pub fn begin_write(&self, database: &str, options: WriteOptions) -> Result<Write> {
        let shared = &self.shared;
        shared.check_open()?;
        crate::names::check_database(database)?;
        shared.check_wal_room(0)?;
        let schemas = DatabaseSchemas {
            shared: Arc::clone(shared),
            database: database.to_owned(),
            runtime: tokio::runtime::Handle::current(),
        };
        let parse = Options {
            precision: options.precision,
            line_bytes_max: shared.config.line_bytes_max.bytes() as usize,
            columns_max: shared.config.columns_max,
            tables_max: shared.config.tables_max,
            ..Options::new(shared.env.clock.now(), shared.env.random.next_u64())
        };
        Ok(Write {
            shared: Arc::clone(shared),
            database: database.to_owned(),
            options,
            parser: Parser::new(Box::new(schemas), parse),
            memory: shared.memory.reservation(),
        })
    }

    /// Writes rows that are columns already: what every way in comes down to.
    ///
    /// # Errors
    /// Those of [`Write::commit`].
    pub async fn write_rows(&self, database: &str, tables: Vec<Rows>, no_sync: bool) -> Result<usize> {
        self.shared.check_open()?;
        crate::names::check_database(database)?;
        let mut memory = self.shared.memory.reservation();
        memory.resize(tables.iter().map(|rows| rows.bytes() as u64).sum())?;
        append(&self.shared, database, tables, memory, no_sync).await
    }
}

impl Write {
    /// Parses the next bytes of the body. CPU work that may wait for the store: call it on a thread that may block, never on
    /// one of the runtime's.
    ///
    /// # Errors
    /// `limit`, to be tried again later, when the buffer has no room for what was accepted so far. Bad lines are not errors.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        for part in bytes.chunks(256 << 10) {
            self.parser.feed(part)?;
            self.memory.resize(self.parser.bytes_held() as u64).inspect_err(|_| self.shared.refuse())?;
        }
        Ok(())
    }

    /// Ends the body and makes its good lines durable and visible.
    ///
    /// # Errors
    /// `limit` or `unavailable`, to be tried again, when nothing was written; `conflict`, to be tried again at once, when
    /// another request gave a new column another type in the meantime.
    pub async fn commit(self) -> Result<Written> {
        let Write { shared, database, options, parser, mut memory } = self;
        let parsed = crate::flush::blocking(move || parser.finish()).await?;
        let Parsed { tables, rejected, rejected_count: rejected_total, rows } = parsed;
        let tables: Vec<Rows> = tables.into_iter().map(|table| table.rows).collect();
        if rows == 0 || (rejected_total > 0 && !options.accept_partial) {
            return Ok(Written { rows: 0, rejected, rejected_total });
        }
        memory.resize(tables.iter().map(|rows| rows.bytes() as u64).sum()).inspect_err(|_| shared.refuse())?;
        let rows = append(&shared, &database, tables, memory, options.no_sync).await?;
        Ok(Written { rows, rejected, rejected_total })
    }
}

/// A table's part of a request, ready to be shown.
struct Part {
    table: Arc<TableState>,
    chunk: Chunk,
    wider: Option<SchemaRef>,
    memory: Reservation,
}

async fn append(
    shared: &Arc<Shared>,
    database: &str,
    tables: Vec<Rows>,
    memory: Reservation,
    no_sync: bool,
) -> Result<usize> {
    // A drop waits until these rows are in the buffer, and holds back those that come while it is at it.
    let gate = Arc::clone(&shared.write_gate).read_owned().await;
    let mut states = Vec::with_capacity(tables.len());
    let mut widens = false;
    for rows in &tables {
        if crate::names::is_own(&rows.table) {
            return Err(Error::invalid(format!("'{}' is a name of Weir's own: no rows are written there", rows.table)));
        }
        let state = shared.table_or_new(database, &rows.table).await?;
        if !state.exists() && shared.is_external(database, &rows.table) {
            let what = format!("'{}' is an external table: no rows are written there", rows.table);
            return Err(Error::new(Kind::Conflict, what));
        }
        widens |= state.widened(rows, shared.config.columns_max)?.is_some();
        states.push(state);
    }
    if !widens {
        let parts = Wanted { tables, states, wider: Vec::new(), memory, gate };
        return submit(shared, database, parts, no_sync).await;
    }
    let lease = tokio::time::timeout(shared.config.schema_wait, Arc::clone(&shared.schema_lease).lock_owned()).await;
    let _lease = lease.map_err(|_| {
        Error::new(Kind::Unavailable, "another write is still adding columns (setting schema_wait_ms)")
            .with_retry(Retry::After(Duration::from_secs(1)))
    })?;
    let mut wider = Vec::with_capacity(tables.len());
    for (rows, state) in tables.iter().zip(&states) {
        wider.push(match shared.store.is_shared() {
            true => shared.store_columns(state, rows).await?,
            false => state.widened(rows, shared.config.columns_max)?,
        });
    }
    submit(shared, database, Wanted { tables, states, wider, memory, gate }, no_sync).await
}

/// The rows of a request, table by table, with what they need.
struct Wanted {
    tables: Vec<Rows>,
    states: Vec<Arc<TableState>>,
    wider: Vec<Option<SchemaRef>>,
    memory: Reservation,
    gate: tokio::sync::OwnedRwLockReadGuard<()>,
}

/// Encodes and queues one record off the runtime's threads, and waits for its durability.
async fn submit(shared: &Arc<Shared>, database: &str, wanted: Wanted, no_sync: bool) -> Result<usize> {
    let Wanted { tables, states, wider, memory, gate } = wanted;
    let (answer, answered) = oneshot::channel();
    let work = {
        let (shared, database) = (Arc::clone(shared), database.to_owned());
        move || -> Result<()> {
            let payload = wal::encode(&database, &tables);
            shared.check_wal_room(payload.len() as u64)?;
            let parts = prepare(tables, states, wider, memory)?;
            let durability = if no_sync { Durability::None } else { Durability::Durable };
            let record = Record {
                time: shared.env.clock.now(),
                kind: wal::KIND_ROWS,
                key: database.as_bytes(),
                payload: &payload,
            };
            let visible = Arc::clone(&shared);
            let done = move |outcome: weir_journal::Result<weir_journal::Appended>| {
                let rows = outcome.map_err(from_journal).map(|appended| show(&visible, parts, appended.last));
                // Whoever is answered may close the engine: keep nothing of it alive past the answer.
                drop(visible);
                drop(gate);
                let _ = answer.send(rows);
            };
            shared.journal()?.submit(&[record], durability, done).map_err(from_journal)
        }
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::wrap(Kind::Internal, "a write panicked", error))?
        .inspect_err(|error| shared.note_refusal(error))?;
    answered
        .await
        .map_err(|_| Error::new(Kind::Unavailable, "the write-ahead log stopped").with_retry(Retry::Backoff))?
}

fn prepare(
    tables: Vec<Rows>,
    states: Vec<Arc<TableState>>,
    wider: Vec<Option<SchemaRef>>,
    mut memory: Reservation,
) -> Result<Vec<Part>> {
    let wider = wider.into_iter().chain(std::iter::repeat(None));
    let mut parts = Vec::with_capacity(states.len());
    for ((rows, table), wider) in tables.into_iter().zip(states).zip(wider) {
        let schema = wider.clone().unwrap_or_else(|| table.schema());
        let chunk = Chunk::new(rows, &schema, &table.dictionary())?;
        let mut own = memory.take_all();
        let bytes = chunk.bytes() as u64;
        if own.bytes() > bytes {
            let mut rest = own.take_all();
            rest.resize(rest.bytes() - bytes)?;
            memory.absorb(rest);
        }
        own.resize(bytes)?;
        parts.push(Part { table, chunk, wider, memory: own });
    }
    Ok(parts)
}

/// Shows the rows of a durable record; called by the journal's writer thread in sequence order, under no lock.
fn show(shared: &Shared, parts: Vec<Part>, sequence: u64) -> usize {
    let now = shared.env.clock.monotonic();
    let mut rows = 0;
    for Part { table, chunk, wider, memory } in parts {
        rows += chunk.len();
        table.apply(chunk, wider, memory, sequence, now);
        if table.buffered().is_some_and(|buffered| buffered.bytes >= shared.config.flush_bytes.bytes()) {
            shared.flush_wanted.notify_one();
        }
    }
    shared.applied.store(sequence, Ordering::Release);
    shared.counters.rows_written.fetch_add(rows as u64, Ordering::Relaxed);
    rows
}

/// An error of the journal as one of the engine: a full disk or a poisoned log refuses the write, to be tried again.
pub(crate) fn from_journal(error: weir_journal::Error) -> Error {
    let (kind, retry) = (error.kind(), error.retry());
    let retry = match (kind, retry) {
        (Kind::Unavailable | Kind::Limit, Retry::Never) => Retry::After(Duration::from_secs(1)),
        (_, retry) => retry,
    };
    Error::wrap(kind, "cannot append to the write-ahead log", error).with_retry(retry)
}

impl Shared {
    /// Refuses a write of `more` bytes when the WAL would grow past its limit.
    pub(crate) fn check_wal_room(&self, more: u64) -> Result<()> {
        let (used, limit) = (self.journal()?.stored_bytes(), self.config.wal_bytes_max);
        if used + more <= limit.bytes() {
            return Ok(());
        }
        self.refuse();
        Err(Error::new(
            Kind::Limit,
            format!(
                "the write-ahead log is full ({} of {limit}; setting wal_bytes_max); try again when it has been flushed",
                ByteSize::new(used)
            ),
        )
        .with_retry(Retry::After(Duration::from_secs(1))))
    }

    /// Counts a refusal and asks for a flush, which makes room.
    pub(crate) fn refuse(&self) {
        self.counters.writes_refused.fetch_add(1, Ordering::Relaxed);
        self.flush_wanted.notify_one();
    }

    fn note_refusal(&self, error: &Error) {
        if error.kind() == Kind::Limit {
            self.refuse();
        }
    }
}
