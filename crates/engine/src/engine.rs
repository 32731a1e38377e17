//! The engine: everything above wired together, opened from a folder and closed in order.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;
use weir_base::{Clock, FileLock, FileSystem, Kind, LockError, Random};
use weir_journal::Journal;

use crate::config::Config;
use crate::dictionary::SeriesLimit;
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::past::{At, Past};
use crate::read::{ReadSnapshot, Tables};
use crate::recover;
use crate::store::{RemoteStats, Store, StoreEnv, StoreOptions};
use crate::table::TableState;
use crate::upkeep::Upkeep;

/// Segments that a full log has at least.
const WAL_SEGMENTS_MIN: u64 = 8;

/// The seams that an engine works through.
#[derive(Debug, Clone)]
pub struct Env {
    /// Disk.
    pub fs: Arc<dyn FileSystem>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
}

impl Default for Env {
    fn default() -> Self {
        Self {
            fs: Arc::new(weir_base::OsFileSystem),
            clock: Arc::new(weir_base::clock::SystemClock::default()),
            random: Arc::new(weir_base::OsRandom),
        }
    }
}

/// A time-series engine on one folder. Clones share it.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
}

/// What opening found and did.
#[derive(Debug, Clone, Default)]
pub struct Opened {
    /// Rows read back from the WAL into the buffer.
    pub rows_recovered: u64,
    /// WAL records that were already in files.
    pub records_skipped: u64,
    /// A torn tail that was cut, in words; `None` after an orderly stop.
    pub torn_tail: Option<String>,
}

/// What all parts of one engine share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) env: Env,
    pub(crate) memory: Arc<Memory>,
    pub(crate) series_limit: Arc<SeriesLimit>,
    pub(crate) store: Store,
    /// The id in every commit of this WAL; a new WAL has a new one, since its sequences start over.
    pub(crate) writer: String,
    journal: RwLock<Option<Arc<Journal>>>,
    pub(crate) tables: TableMap,
    /// Named lease: one change of any schema at a time.
    pub(crate) schema_lease: Arc<tokio::sync::Mutex<()>>,
    /// Named lease: a write on its way shares it, a drop has it alone.
    pub(crate) write_gate: Arc<tokio::sync::RwLock<()>>,
    /// Last WAL sequence whose rows are in the buffer.
    pub(crate) applied: AtomicU64,
    pub(crate) flush_wanted: Notify,
    pub(crate) stop: tokio_util::sync::CancellationToken,
    closing: AtomicBool,
    pub(crate) counters: Counters,
    /// Where files are merged; where the caller is when nothing runs by itself.
    pub(crate) upkeep: Option<Upkeep>,
    _lock: FileLock,
}

/// Counters since start, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Rows acknowledged.
    pub rows_written: AtomicU64,
    /// Requests refused for a limit.
    pub writes_refused: AtomicU64,
    /// Flushes that committed.
    pub flushes: AtomicU64,
    /// Flushes that failed and will be tried again.
    pub flushes_failed: AtomicU64,
    /// Failed flushes since the last that committed.
    pub flushes_failed_in_a_row: AtomicU64,
    /// Rows committed to files by flushes.
    pub rows_flushed: AtomicU64,
    /// Compactions that committed.
    pub compactions: AtomicU64,
}

/// A moment's figures of an engine. Bytes, rows and counts; what could not be measured is absent (M1).
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Rows acknowledged since start.
    pub rows_written: u64,
    /// Requests refused for a limit since start.
    pub writes_refused: u64,
    /// Flushes committed since start.
    pub flushes: u64,
    /// Flushes failed since start.
    pub flushes_failed: u64,
    /// Failed flushes since the last that committed.
    pub flushes_failed_in_a_row: u64,
    /// Rows flushed since start.
    pub rows_flushed: u64,
    /// Compactions since start.
    pub compactions: u64,
    /// Rows in the buffer.
    pub rows_buffered: u64,
    /// Bytes of the buffer and of requests on their way.
    pub buffer_bytes: u64,
    /// Most bytes ever.
    pub buffer_bytes_peak: u64,
    /// Its limit.
    pub buffer_bytes_max: u64,
    /// Bytes of the WAL on disk; absent when it is closed.
    pub wal_bytes: Option<u64>,
    /// Its limit.
    pub wal_bytes_max: u64,
    /// Series known.
    pub series: u64,
    /// Tables loaded.
    pub tables: u64,
    /// How the calls to an object store went; absent for a folder.
    pub store: Option<RemoteStats>,
}

/// Loaded tables by database and name.
#[derive(Debug, Default)]
pub(crate) struct TableMap(RwLock<HashMap<String, HashMap<String, Arc<TableState>>>>);

impl TableMap {
    pub(crate) fn get(&self, database: &str, name: &str) -> Option<Arc<TableState>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(database)?.get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<TableState>> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        map.values().flat_map(|tables| tables.values().cloned()).collect()
    }

    fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().map(HashMap::len).sum()
    }

    /// Keeps the first of two that were made at the same time.
    fn insert(&self, state: TableState) -> Arc<TableState> {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let tables = map.entry(state.database.clone()).or_default();
        Arc::clone(tables.entry(state.name.clone()).or_insert_with(|| Arc::new(state)))
    }
}

impl Engine {
    /// Opens the engine in `config.data`, made when missing: takes its lock, opens the store, replays the WAL.
    ///
    /// # Errors
    /// `conflict`, naming the holder, when another process has the folder; `damaged`, naming file and offset, when the WAL
    /// has damage before its last sync; `unavailable` when disk or store do not answer.
    pub async fn open(config: Config, env: Env) -> Result<(Self, Opened)> {
        let lock = prepare_folder(&config, &env)?;
        let wal = config.data.join("wal");
        let (journal, recovery) = open_journal(&config, &env, &wal)?;
        let writer = recover::writer_id(&env, &wal, journal.next_sequence())?;
        let store = open_store(&config, &env).await?;
        let upkeep = config.background.then(Upkeep::start).transpose();
        let upkeep = upkeep.map_err(|error| Error::io("cannot start a thread for merges", error))?;
        let shared = Arc::new(Shared {
            memory: Memory::new(config.buffer_bytes_max),
            series_limit: SeriesLimit::new(config.series_max),
            store,
            writer,
            applied: AtomicU64::new(journal.next_sequence().saturating_sub(1)),
            journal: RwLock::new(Some(Arc::new(journal))),
            tables: TableMap::default(),
            schema_lease: Arc::default(),
            write_gate: Arc::default(),
            flush_wanted: Notify::new(),
            stop: tokio_util::sync::CancellationToken::new(),
            closing: AtomicBool::new(false),
            counters: Counters::default(),
            upkeep,
            _lock: lock,
            config,
            env,
        });
        let mut opened = recover::replay(&shared, &wal).await?;
        opened.torn_tail = recovery;
        if shared.config.background {
            tokio::spawn(crate::background::run(Arc::clone(&shared)));
            tokio::spawn(crate::vacuum::run(Arc::clone(&shared)));
        }
        Ok((Self { shared }, opened))
    }

    /// Stops taking writes, flushes everything within `deadline`, and closes the WAL. What could not be flushed stays in
    /// the WAL for the next start.
    ///
    /// # Errors
    /// `unavailable` when not all was flushed in time, or the first failure; nothing acknowledged is lost either way.
    pub async fn close(&self, deadline: Duration) -> Result<()> {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.stop.cancel();
        let flushed = tokio::time::timeout(deadline, self.flush(None)).await.unwrap_or_else(|_| {
            Err(Error::new(Kind::Unavailable, "not everything was flushed before the deadline; the rest is in the log"))
        });
        let journal = self.shared.journal.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(journal) = journal {
            // A request that still holds it closes it when it ends.
            let close = move || Arc::into_inner(journal).map_or(Ok(()), Journal::close);
            crate::flush::blocking(move || close().map_err(crate::ingest::from_journal)).await?;
        }
        flushed.map(drop)
    }

    /// Databases that have a table, sorted.
    ///
    /// # Errors
    /// `unavailable` when the catalog cannot be read.
    pub async fn databases(&self) -> Result<Vec<String>> {
        self.refresh_catalog().await?;
        let mut names: BTreeSet<String> = self.shared.store.tables().into_iter().map(|entry| entry.database).collect();
        let loaded = self.shared.tables.all().into_iter();
        names.extend(loaded.filter(|table| self.is_there(table)).map(|table| table.database.clone()));
        Ok(names.into_iter().collect())
    }

    /// Tables of a database, sorted; empty when there is no such database.
    ///
    /// # Errors
    /// `unavailable` when the catalog cannot be read.
    pub async fn tables(&self, database: &str) -> Result<Vec<String>> {
        self.refresh_catalog().await?;
        let stored = self.shared.store.tables().into_iter().filter(|entry| entry.database == database);
        let mut names: BTreeSet<String> = stored.map(|entry| entry.table).collect();
        let loaded = self.shared.tables.all().into_iter();
        names.extend(
            loaded.filter(|table| table.database == database && self.is_there(table)).map(|table| table.name.clone()),
        );
        // What rollups keep is no table that anybody made, and external tables have no rows here.
        names.retain(|name| !crate::names::is_own(name));
        Ok(names.into_iter().collect())
    }

    /// Everything visible of a table at this moment (Q1, E2); `None` when there is no such table.
    ///
    /// # Errors
    /// `unavailable` when the store does not answer.
    pub async fn snapshot(&self, database: &str, table: &str) -> Result<Option<ReadSnapshot>> {
        let Some(state) = self.shared.find(database, table).await? else { return Ok(None) };
        if let Some(stored) = state.stored().filter(|_| self.shared.store.is_shared()) {
            stored.refresh().await?;
            state.committed(&stored, false);
        }
        Ok(Some(state.read()))
    }

    /// Whether a loaded table has rows or columns, and no other server has dropped it.
    fn is_there(&self, table: &TableState) -> bool {
        table.exists() && !table.stored().is_some_and(|stored| self.shared.store.is_dropped(stored.folder()))
    }

    pub(crate) async fn refresh_catalog(&self) -> Result<()> {
        if self.shared.store.is_shared() { self.shared.store.refresh().await } else { Ok(()) }
    }

    /// The store behind the tables.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// The settings in force.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Figures of this moment.
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &shared.counters;
        Stats {
            rows_written: read(&counters.rows_written),
            writes_refused: read(&counters.writes_refused),
            flushes: read(&counters.flushes),
            flushes_failed: read(&counters.flushes_failed),
            flushes_failed_in_a_row: read(&counters.flushes_failed_in_a_row),
            rows_flushed: read(&counters.rows_flushed),
            compactions: read(&counters.compactions),
            rows_buffered: shared.tables.all().iter().filter_map(|table| table.buffered()).map(|b| b.rows as u64).sum(),
            buffer_bytes: shared.memory.used(),
            buffer_bytes_peak: shared.memory.peak(),
            buffer_bytes_max: shared.memory.limit(),
            wal_bytes: shared.journal().ok().map(|journal| journal.stored_bytes()),
            wal_bytes_max: shared.config.wal_bytes_max.bytes(),
            series: shared.series_limit.used(),
            tables: shared.tables.len() as u64,
            store: shared.store.remote_stats(),
        }
    }
}

#[async_trait::async_trait]
impl Tables for Engine {
    async fn databases(&self) -> Result<Vec<String>> {
        Engine::databases(self).await
    }

    async fn tables(&self, database: &str) -> Result<Vec<String>> {
        Engine::tables(self, database).await
    }

    async fn snapshot(&self, database: &str, table: &str) -> Result<Option<ReadSnapshot>> {
        Engine::snapshot(self, database, table).await
    }

    async fn snapshot_at(&self, database: &str, table: &str, at: At) -> Result<Past> {
        Engine::snapshot_at(self, database, table, at).await
    }

    async fn rollups(&self, database: &str) -> Result<Vec<crate::rollup::Definition>> {
        Engine::rollups(self, database).await
    }

    async fn externals(&self, database: &str) -> Result<Vec<crate::external::Definition>> {
        Engine::externals(self, database).await
    }

    async fn external(&self, database: &str, name: &str) -> Result<Option<crate::external::Definition>> {
        Engine::external(self, database, name).await
    }

    fn objects(&self) -> Arc<dyn object_store::ObjectStore> {
        self.shared.store.objects()
    }
}

impl Shared {
    pub(crate) fn journal(&self) -> Result<Arc<Journal>> {
        let journal = self.journal.read().unwrap_or_else(PoisonError::into_inner);
        journal.clone().ok_or_else(|| Error::new(Kind::Unavailable, "the engine is closed"))
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closing.load(Ordering::Acquire) {
            return Err(Error::new(Kind::Unavailable, "the engine is closing")
                .with_retry(weir_base::Retry::After(Duration::from_secs(1))));
        }
        Ok(())
    }

    /// A table that is loaded or in the store.
    pub(crate) async fn table(&self, database: &str, name: &str) -> Result<Option<Arc<TableState>>> {
        if let Some(state) = self.tables.get(database, name) {
            if state.stored().is_none()
                && let Some(stored) = self.store.table(database, name).await?
            {
                // Brought back after a drop, or made by another server meanwhile.
                state.set_stored(&stored);
                state.committed(&stored, false);
            }
            return Ok(Some(state));
        }
        let Some(stored) = self.store.table(database, name).await? else { return Ok(None) };
        Ok(Some(self.tables.insert(TableState::new(
            database,
            name,
            Some(stored),
            &self.memory,
            &self.series_limit,
            self.config.compact_rows,
        ))))
    }

    /// A table that has ever been written to and is not dropped, also by other servers.
    pub(crate) async fn find(&self, database: &str, name: &str) -> Result<Option<Arc<TableState>>> {
        let found = self.table(database, name).await?;
        // Another server may have dropped it, and made another or brought one back, since the catalog was read.
        self.notice_drops(found.as_slice()).await?;
        let found = if self.store.is_shared() { self.table(database, name).await? } else { found };
        Ok(found.filter(|state| state.exists()))
    }

    /// Whether the newest catalog known has an external table of this name.
    pub(crate) fn is_external(&self, database: &str, name: &str) -> bool {
        self.store.is_live(database, &crate::external::table_name(name))
    }

    /// A table that is loaded or in the store, or a place for a new one, which exists from its first row on.
    pub(crate) async fn table_or_new(&self, database: &str, name: &str) -> Result<Arc<TableState>> {
        if let Some(state) = self.table(database, name).await? {
            return Ok(state);
        }
        let tables = self.tables.len();
        if tables >= self.config.tables_max {
            return Err(Error::new(Kind::Limit, format!("there are already {tables} tables (setting tables_max)")));
        }
        Ok(self.tables.insert(TableState::new(
            database,
            name,
            None,
            &self.memory,
            &self.series_limit,
            self.config.compact_rows,
        )))
    }
}

fn prepare_folder(config: &Config, env: &Env) -> Result<FileLock> {
    let data = &config.data;
    let context = |what: &str| format!("cannot {what} {}", data.display());
    env.fs.create_dir_all(&data.join("wal")).map_err(|error| Error::io(context("make the folder"), error))?;
    FileLock::acquire(&data.join("lock"), &config.owner, Duration::ZERO).map_err(|error| match error {
        LockError::Held { holder, .. } => {
            Error::new(Kind::Conflict, format!("{} is in use by {holder}", data.display()))
        }
        LockError::Io(error) => Error::io(context("lock"), error),
    })
}

fn open_journal(config: &Config, env: &Env, wal: &std::path::Path) -> Result<(Journal, Option<String>)> {
    let journal_env = weir_journal::Env { fs: Arc::clone(&env.fs), clock: Arc::clone(&env.clock) };
    let defaults = weir_journal::Options::default();
    // Only whole segments are trimmed: one as large as the log may be would never make room.
    let segment_bytes_max = defaults.segment_bytes_max.min(config.wal_bytes_max.bytes().div_ceil(WAL_SEGMENTS_MIN));
    let options = weir_journal::Options {
        codec: weir_journal::Codec::Lz4,
        lock_wait: Duration::ZERO,
        segment_bytes_max,
        ..defaults
    };
    let (journal, recovery) = Journal::open(journal_env, wal, &config.owner, options).map_err(|error| {
        let kind = error.kind();
        Error::wrap(kind, "cannot open the write-ahead log ('weir doctor' says what can be saved)", error)
    })?;
    let torn = recovery.torn.map(|torn| {
        format!("{}: {} unacknowledged bytes cut at offset {}", torn.file.display(), torn.bytes, torn.offset)
    });
    Ok((journal, torn))
}

async fn open_store(config: &Config, env: &Env) -> Result<Store> {
    let (location, shared) = match &config.store {
        Some(location) => (location.clone(), true),
        None => (config.data.join("tables").to_string_lossy().into_owned(), false),
    };
    let options = StoreOptions {
        shared,
        provider: config.store_options.iter().cloned().collect(),
        limits: config.store_limits.clone(),
        retention: config.undo_window,
    };
    let seams = StoreEnv { fs: Arc::clone(&env.fs), clock: Arc::clone(&env.clock), random: Arc::clone(&env.random) };
    Store::open(&location, &options, seams).await
}
