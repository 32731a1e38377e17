//! The disk level: one SQLite index per namespace, large values as files beside it, every byte counted.
//!
//! - `schema` opens the index, `state` is its row of counters, `tx` one write transaction within the limit.
//! - `entry` reads, inserts and removes rows; `blob` does the files; `writers` the reservations that cover them.
//! - `evict` makes room; `check` compares index and disk, repairs, rebuilds.
//!
//! No in-process mutex is held across I/O: connections are taken out of their pool, the namespace's lock is a lease.

pub(crate) mod blob;
pub(crate) mod check;
pub(crate) mod entry;
pub(crate) mod evict;
pub(crate) mod schema;
pub(crate) mod state;
pub(crate) mod tx;
pub(crate) mod writers;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use weir_base::{Clock, File, FileSystem, Kind, OpenMode, Random};
use weir_limits::Deadline;

use crate::error::{Error, Result};
use crate::lock::NamespaceLock;
use crate::name::Namespace;
use crate::options::{CacheOptions, LIMIT_DEFAULT, LIMIT_MIN, LockWait};
use state::{State, log_budget};

/// Connections kept for the next call; more threads than this open and close their own.
const IDLE_CONNECTIONS_MAX: usize = 8;

/// See the module.
#[derive(Debug)]
pub(crate) struct Disk {
    dir: PathBuf,
    namespace: Namespace,
    fs: Arc<dyn FileSystem>,
    pub(crate) clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    read_only: bool,
    lock: NamespaceLock,
    lock_deadline: Duration,
    pub(crate) generation: Generation,
    pub(crate) blobs: blob::Blobs,
    idle: Mutex<Vec<Connection>>,
    touches: Mutex<evict::Touches>,
    writer: Mutex<Option<writers::Writer>>,
    next_version: AtomicU64,
    limit_seen: AtomicU64,
    era_seen: AtomicU64,
    /// 0 when the policy is s3fifo.
    policy_seen: AtomicU64,
    lock_wait_us_max: AtomicU64,
    /// The shard of blobs that the next collection looks at; short-lived processes begin anywhere.
    shard_next: AtomicU8,
}

impl Disk {
    /// Opens or makes the namespace's folder and index.
    pub(crate) fn open(options: &CacheOptions, namespace: &Namespace) -> Result<Self> {
        let fs = Arc::clone(&options.fs);
        let dir = prepare_folder(options, namespace)?;
        let lock = NamespaceLock::open(
            &*fs,
            dir.join("lock"),
            options.lock_wait,
            options.read_only,
            Arc::clone(&options.clock),
        )?;
        let disk = Self {
            generation: Generation::open(&*fs, &dir.join("generation"), options.read_only)?,
            blobs: blob::Blobs::new(&dir, options.dir.join("pool"), Arc::clone(&fs), options.shared),
            namespace: namespace.clone(),
            clock: Arc::clone(&options.clock),
            random: Arc::clone(&options.random),
            read_only: options.read_only,
            lock,
            lock_deadline: options.lock_deadline,
            idle: Mutex::new(Vec::new()),
            touches: Mutex::new(evict::Touches::default()),
            writer: Mutex::new(None),
            next_version: AtomicU64::new(options.random.next_u64()),
            limit_seen: AtomicU64::new(LIMIT_DEFAULT.bytes()),
            policy_seen: AtomicU64::new(0),
            era_seen: AtomicU64::new(0),
            lock_wait_us_max: AtomicU64::new(0),
            shard_next: AtomicU8::new((options.random.next_u64() & 255) as u8),
            dir,
            fs,
        };
        disk.era_seen.store(disk.generation.era(), Ordering::Release);
        disk.prepare_index(options)?;
        Ok(disk)
    }

    fn index_path(&self) -> PathBuf {
        self.dir.join("index.db")
    }

    fn prepare_index(&self, options: &CacheOptions) -> Result<()> {
        let ready = match self.connect().and_then(|sql| Ok((schema::check(&sql)?, sql))) {
            Ok((true, sql)) => State::load(&sql).map(|state| (state, sql)).map(Some),
            Ok((false, _)) => Ok(None),
            Err(error) => Err(error),
        };
        let (state, sql) = match ready {
            Ok(Some(ready)) => ready,
            Err(error) if error.kind() != Kind::Damaged || self.read_only => return Err(error),
            Ok(None) if self.read_only => return Err(Error::new(Kind::NotFound, "there is no cache to read here")),
            Ok(None) | Err(_) => self.make_index(options)?,
        };
        self.limit_seen.store(state.limit, Ordering::Relaxed);
        self.policy_seen.store(u64::from(state.policy != crate::options::Policy::S3Fifo), Ordering::Relaxed);
        self.give_back(sql, &Ok(()));
        if !self.read_only { self.adopt_settings(options, &state) } else { Ok(()) }
    }

    /// Makes an index where there is none or a damaged one; under the lock, since others may be doing the same.
    fn make_index(&self, options: &CacheOptions) -> Result<(State, Connection)> {
        let _held = self.lock.acquire(Deadline::after(&*self.clock, self.lock_deadline))?;
        let found = self.connect().and_then(|sql| Ok((schema::check(&sql)?, sql)));
        let empty = match found {
            Ok((true, sql)) => match State::load(&sql) {
                Ok(state) => return Ok((state, sql)),
                Err(_) => None,
            },
            Ok((false, sql)) => Some(sql),
            Err(error) if error.kind() == Kind::Damaged => None,
            Err(error) => return Err(error),
        };
        let limit = options.limit.unwrap_or(LIMIT_DEFAULT).bytes().max(LIMIT_MIN.bytes());
        self.limit_seen.store(limit, Ordering::Relaxed);
        let sql = match empty {
            Some(sql) => {
                schema::create(&sql, limit)?;
                sql
            }
            None => self.rebuild_locked(limit)?,
        };
        Ok((State::load(&sql)?, sql))
    }

    fn adopt_settings(&self, options: &CacheOptions, state: &State) -> Result<()> {
        let limit = options.limit.map_or(state.limit, |limit| limit.bytes().max(LIMIT_MIN.bytes()));
        let entry_limit = options.entry_limit.unwrap_or(state.entry_limit);
        let policy = options.policy.unwrap_or(state.policy);
        if (limit, entry_limit, policy) == (state.limit, state.entry_limit, state.policy) {
            return Ok(());
        }
        self.limit_seen.store(limit.min(state.limit), Ordering::Relaxed);
        self.write(|tx| {
            tx.removes = true;
            (tx.state.limit, tx.state.entry_limit) = (limit, entry_limit);
            tx.change_policy(policy)
        })?;
        self.limit_seen.store(limit, Ordering::Relaxed);
        Ok(())
    }

    fn connect(&self) -> Result<Connection> {
        schema::connect(&self.index_path(), self.read_only)
    }

    /// Takes a connection out of the pool; after another handle rebuilt the index, all of them are to the old one.
    pub(crate) fn take(&self) -> Result<Connection> {
        let era = self.generation.era();
        if self.era_seen.swap(era, Ordering::AcqRel) != era {
            let old = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
            drop(old);
            self.forget_reservation();
        }
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| self.connect(), Ok)
    }

    /// Puts it back, unless it failed.
    pub(crate) fn give_back<T>(&self, sql: Connection, outcome: &Result<T>) {
        let healthy =
            outcome.as_ref().err().is_none_or(|error| !matches!(error.kind(), Kind::Damaged | Kind::Internal));
        if healthy && sql.is_autocommit() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE_CONNECTIONS_MAX {
                idle.push(sql);
                return;
            }
        }
        drop(sql);
    }

    /// Runs reads on a pooled connection.
    pub(crate) fn read<T>(&self, body: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let sql = self.take()?;
        let outcome = body(&sql);
        self.give_back(sql, &outcome);
        outcome
    }

    /// The counters: one row, whatever the number of entries.
    pub(crate) fn state(&self) -> Result<State> {
        self.read(State::load)
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now() / 1_000_000
    }

    fn fresh_version(&self) -> i64 {
        // 63 bits from a random start: not used twice by any handle, for all that compare-and-set can tell.
        (self.next_version.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed) >> 1) as i64
    }

    fn log_budget(&self) -> u64 {
        log_budget(self.limit_seen.load(Ordering::Relaxed))
    }

    fn log_bytes(&self) -> u64 {
        std::fs::metadata(self.dir.join("index.db-wal")).map_or(0, |found| found.len())
    }

    fn note_lock_wait(&self, wait: Duration) {
        self.lock_wait_us_max.fetch_max(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Longest wait of this handle for the namespace's lock, microseconds.
    pub(crate) fn lock_wait_us_max(&self) -> u64 {
        self.lock_wait_us_max.load(Ordering::Relaxed)
    }

    pub(crate) fn lock_wait(&self) -> LockWait {
        self.lock.wait()
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn item_bytes_max(&self, wanted: Option<u64>) -> u64 {
        let quarter = self.limit_seen.load(Ordering::Relaxed) / 4;
        wanted.map_or(quarter, |wanted| wanted.min(quarter))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !self.read_only {
            self.flush_touches();
            self.release_reservation();
        }
    }
}

/// Makes the folders, refuses symbolic links, sets modes.
fn prepare_folder(options: &CacheOptions, namespace: &Namespace) -> Result<PathBuf> {
    let fs = &*options.fs;
    let io = |what: &str, path: &Path, error| Error::io(format!("cannot {what} {}", path.display()), error);
    if !options.read_only {
        fs.create_dir_all(&options.dir).map_err(|error| io("make", &options.dir, error))?;
    }
    let root = std::fs::canonicalize(&options.dir).map_err(|error| io("find", &options.dir, error))?;
    let dir = root.join("ns").join(namespace.as_str());
    let index = dir.join("index.db");
    for folder in [root.join("ns"), dir.clone()] {
        refuse_link(&folder)?;
    }
    if !options.read_only && !fs.exists(&index).unwrap_or(false) {
        for folder in [dir.join("blobs"), dir.join("staging"), dir.join("writers"), root.join("pool")] {
            fs.create_dir_all(&folder).map_err(|error| io("make", &folder, error))?;
        }
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
                .map_err(|error| io("set modes of", path, error))
        };
        if options.shared {
            for folder in [&root, &root.join("ns"), &dir, &dir.join("blobs")] {
                mode(folder, 0o750)?;
            }
        }
        // SQLite gives its log and shared memory the mode of the index, so the file is made first.
        for file in [dir.join("lock"), dir.join("generation"), index.clone()] {
            fs.open(&file, OpenMode::Create).map_err(|error| io("make", &file, error))?;
            mode(&file, if options.shared { 0o640 } else { 0o600 })?;
        }
    }
    for folder in [root.join("ns"), dir.clone(), dir.join("blobs")] {
        refuse_link(&folder)?;
        std::fs::metadata(&folder).map_err(|error| io("find", &folder, error))?;
    }
    Ok(dir)
}

/// What is there must be a folder itself: a link could lead anywhere.
fn refuse_link(folder: &Path) -> Result<()> {
    match std::fs::symlink_metadata(folder) {
        Ok(found) if !found.is_dir() => Err(Error::new(
            Kind::Damaged,
            format!("{} is not a folder (a symbolic link is not followed)", folder.display()),
        )),
        _ => Ok(()),
    }
}

/// Keys share this many counters.
const SLOTS: usize = 2048;
/// Where the counters begin in the file.
const SLOTS_AT: u64 = 8;

/// Which counters a write moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The one of a key.
    Slot(usize),
    /// All: tags, prefixes, batches, repairs.
    All,
}

impl Scope {
    pub(crate) fn of(key: &[u8]) -> Self {
        Self::Slot((xxhash_rust::xxh3::xxh3_64(key) >> 32) as usize % SLOTS)
    }
}

/// The counters that tell memory levels of all processes whether a key was written; see the format page.
#[derive(Debug)]
pub(crate) struct Generation {
    file: Option<Arc<dyn File>>,
}

impl Generation {
    fn open(fs: &dyn FileSystem, path: &Path, read_only: bool) -> Result<Self> {
        let mode = if read_only { OpenMode::Read } else { OpenMode::Create };
        match fs.open(path, mode) {
            Ok(file) => Ok(Self { file: Some(file) }),
            Err(_) if read_only => Ok(Self { file: None }),
            Err(error) => Err(Error::io("cannot open the generation file", error)),
        }
    }

    /// What lies past the end of the file is zero.
    fn load(&self, at: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        match self.file.as_ref()?.read_at(&mut bytes, at) {
            Ok(8) => Some(u64::from_le_bytes(bytes)),
            Ok(0) => Some(0),
            _ => None,
        }
    }

    fn load_slots(&self) -> Vec<u64> {
        let mut bytes = vec![0; SLOTS * 8];
        if let Some(file) = &self.file {
            let mut filled = 0;
            while let Ok(more @ 1..) = file.read_at(&mut bytes[filled..], SLOTS_AT + filled as u64) {
                filled += more;
            }
        }
        bytes.as_chunks::<8>().0.iter().map(|slot| u64::from_le_bytes(*slot)).collect()
    }

    fn store(&self, values: &[u64], at: u64) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        if let Some(file) = &self.file {
            // When this fails a counter stays odd or the write fails too: memory levels then ask the index.
            let _ = file.write_all_at(&bytes, at);
        }
    }

    /// Counts the indexes that this folder has had.
    fn era(&self) -> u64 {
        self.load(0).unwrap_or(0)
    }

    /// Another index takes the place of this one: nothing that was read from it holds.
    fn next_era(&self) {
        self.begin(Scope::All);
        self.store(&[self.era() + 1], 0);
        self.end(Scope::All);
    }

    /// The counter of `key`; `None` while a write is becoming visible or when it cannot be read.
    pub(crate) fn quiet(&self, key: &[u8]) -> Option<u64> {
        let Scope::Slot(slot) = Scope::of(key) else { return None };
        self.load(SLOTS_AT + slot as u64 * 8).filter(|value| value % 2 == 0)
    }

    fn change(&self, scope: Scope, change: impl Fn(u64) -> u64) {
        match scope {
            Scope::Slot(slot) => {
                let at = SLOTS_AT + slot as u64 * 8;
                self.store(&[change(self.load(at).unwrap_or(0))], at);
            }
            Scope::All => {
                let slots: Vec<u64> = self.load_slots().into_iter().map(change).collect();
                self.store(&slots, SLOTS_AT);
            }
        }
    }

    /// Odd: a write is becoming visible.
    fn begin(&self, scope: Scope) {
        self.change(scope, |value| value | 1);
    }

    /// Even again, and another value than before.
    fn end(&self, scope: Scope) {
        self.change(scope, |value| (value | 1).wrapping_add(1));
    }
}

impl Disk {
    /// Changes the byte limit; what is above it goes with later writes.
    pub(crate) fn set_limit(&self, limit: u64) -> Result<()> {
        let seen = self.limit_seen.load(Ordering::Relaxed);
        self.limit_seen.store(limit.min(seen), Ordering::Relaxed);
        self.write(|tx| {
            tx.removes = true;
            tx.state.limit = limit;
            Ok(())
        })?;
        self.limit_seen.store(limit, Ordering::Relaxed);
        Ok(())
    }
}
