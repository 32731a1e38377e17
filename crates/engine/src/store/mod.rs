//! Tables on disk or in an object store: Delta Lake tables of sorted Parquet files, and the catalog of them.
//!
//! A [`Store`] is a folder or a prefix in an object store. Its [`Table`]s keep their snapshot in memory; their commits and those of
//! other writers on the same store are ordered by conditional puts alone. The format and the argument why a crash at any step is
//! safe are in `docs/formats/store.md`.

mod action;
mod bounded;
mod catalog;
mod check;
mod checkpoint;
mod encode;
pub mod file;
pub mod foreign;
pub mod layout;
pub mod local;
mod log;
mod names;
mod reader;
mod remote;
mod state;
mod table;
mod tags;
#[cfg(test)]
mod tests;
mod upload;

use std::collections::{BTreeMap, HashMap};
use std::path::Path as OsPath;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use object_store::ObjectStore;
use url::Url;
use weir_base::{Clock, FileSystem, Kind, Random, Retry};

use crate::error::{Error, Result};
use catalog::Catalog;
use local::LocalStore;

pub use bounded::RemoteStats;
pub use catalog::{CatalogEntry, TableState};
pub(crate) use encode::ROW_GROUP_ROWS;
pub use log::{Committed, HOUR_MS, Vacuumed};
pub use remote::RemoteLimits;
pub(crate) use table::READ_BATCH_ROWS;
pub use table::{Change, FileWriter, NewFile, Operation, Snapshot, Step, Table};

/// The URL under which [`Store::objects`] is registered with query engines; the paths of data files follow it.
pub const ROOT_URL: &str = "weir://store/";

/// A server that has not looked at a log for this long must still find the commits it has missed.
const SHARED_RETENTION_MIN: Duration = Duration::from_secs(3600);

/// What the store takes from outside.
#[derive(Debug, Clone)]
pub struct StoreEnv {
    /// The disk of a local store.
    pub fs: Arc<dyn FileSystem>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Names of files and commits; jitter.
    pub random: Arc<dyn Random>,
}

/// Settings of a store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Settings of the provider, spelled as its environment variables (`AWS_REGION`).
    pub provider: BTreeMap<String, String>,
    /// Whether other servers write to the store too. A URL with a scheme other than `file` always counts as shared.
    pub shared: bool,
    /// Bounds of calls to a remote store.
    pub limits: RemoteLimits,
    /// How long removed files and old commits are kept; at least an hour on a shared store, where a server may lag behind.
    pub retention: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            provider: BTreeMap::new(),
            shared: false,
            limits: RemoteLimits::default(),
            retention: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// What all parts of an open store share.
#[derive(Debug)]
pub(crate) struct Env {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    remote: bool,
    retention: Duration,
}

impl Env {
    fn now_ms(&self) -> i64 {
        self.clock.now().div_euclid(1_000_000)
    }

    fn retention_ms(&self) -> i64 {
        i64::try_from(self.retention.as_millis()).unwrap_or(i64::MAX)
    }

    fn is_remote(&self) -> bool {
        self.remote
    }
}

/// The tables of one folder or object store prefix.
#[derive(Debug)]
pub struct Store {
    env: Arc<Env>,
    shared: bool,
    /// The bounds of a remote store and its figures.
    line: Option<Arc<bounded::Line>>,
    root_url: Url,
    catalog: Catalog,
    /// Open tables by folder. The lock is never held across I/O.
    tables: Mutex<HashMap<String, Arc<Table>>>,
}

impl Store {
    /// Opens the store at `location`, a path or a URL (`s3://`, `gs://`, `az://`, `file://`), making a folder when missing.
    ///
    /// # Errors
    /// `invalid` for a location or setting that is not known and for a store that cannot order commits; those of the store.
    pub async fn open(location: &str, options: &StoreOptions, env: StoreEnv) -> Result<Self> {
        let remote_url = remote_url(location)?;
        let Some(url) = remote_url else {
            let objects = open_local(location, &env).await?;
            return Self::with_objects(objects, None, options.shared, options, env).await;
        };
        let limits = &options.limits;
        let line = bounded::Line::new(limits.clone(), Arc::clone(&env.clock), Arc::clone(&env.random));
        let line = Arc::new(line);
        let objects = remote::open(&url, &options.provider, limits, Arc::clone(&line))?;
        remote::probe_conditional_put(objects.as_ref(), env.random.as_ref()).await?;
        Self::with_objects(objects, Some(line), true, options, env).await
    }

    /// Opens a store in a given object store, which must refuse the second of two conditional puts.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_objects(objects: Arc<dyn ObjectStore>, options: &StoreOptions, env: StoreEnv) -> Result<Self> {
        Self::with_objects(objects, None, options.shared, options, env).await
    }

    async fn with_objects(
        objects: Arc<dyn ObjectStore>,
        line: Option<Arc<bounded::Line>>,
        shared: bool,
        options: &StoreOptions,
        env: StoreEnv,
    ) -> Result<Self> {
        if shared && options.retention < SHARED_RETENTION_MIN {
            return Err(Error::invalid("a shared store must keep old versions for at least an hour"));
        }
        let StoreEnv { fs: _, clock, random } = env;
        let env = Arc::new(Env { objects, clock, random, remote: line.is_some(), retention: options.retention });
        let catalog = Catalog::open(Arc::clone(&env)).await?;
        let root_url = Url::parse(ROOT_URL)
            .map_err(|error| Error::wrap(Kind::Internal, "the root of the store is not a URL", error))?;
        Ok(Self { env, shared, line, root_url, catalog, tables: Mutex::new(HashMap::new()) })
    }

    /// Whether other servers may write to this store, so that schema must be committed before a row is acknowledged.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// How the calls to a remote store went; `None` for a local one.
    pub fn remote_stats(&self) -> Option<RemoteStats> {
        self.line.as_ref().map(|line| line.stats())
    }

    /// The objects, named by [`file::DataFile::path`].
    pub fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.env.objects)
    }

    /// The URL under which to register [`Store::objects`] with a query engine.
    pub fn root_url(&self) -> &Url {
        &self.root_url
    }

    /// All tables that are not dropped, as of the newest catalog known.
    pub fn tables(&self) -> Vec<CatalogEntry> {
        self.catalog.listing().entries().filter(|entry| entry.state == TableState::Live).cloned().collect()
    }

    /// The names of live tables of a database that begin with `prefix`, which is plain: of `a-z`, `0-9`, `_` and `-`.
    pub fn tables_beginning(&self, database: &str, prefix: &str) -> Vec<String> {
        let listing = self.catalog.listing();
        let folder = names::table_folder(database, prefix, 1);
        let found = listing.beginning(&folder);
        found.filter(|entry| entry.state == TableState::Live).map(|entry| entry.table.clone()).collect()
    }

    /// All tables, also dropped ones.
    pub fn tables_with_dropped(&self) -> Vec<CatalogEntry> {
        self.catalog.listing().entries().cloned().collect()
    }

    /// Files that the catalog consists of.
    #[cfg(test)]
    fn catalog_files(&self) -> usize {
        self.catalog.files()
    }

    /// Reads what other writers have changed in the catalog.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn refresh(&self) -> Result<()> {
        self.catalog.refresh().await.map(|_| ())
    }

    /// The table, or `None` when the newest catalog known does not have it.
    ///
    /// # Errors
    /// Those of the store, when it is not open yet.
    pub async fn table(&self, database: &str, table: &str) -> Result<Option<Arc<Table>>> {
        let listing = self.catalog.listing();
        match listing.live(database, table) {
            Some(entry) => Ok(Some(self.open_table(entry).await?)),
            None => Ok(None),
        }
    }

    /// The table in a folder, also a dropped one.
    ///
    /// # Errors
    /// `not found` when the catalog has no such folder; those of the store.
    pub async fn table_in(&self, folder: &str) -> Result<Arc<Table>> {
        let listing = self.catalog.listing();
        let missing = || Error::new(Kind::NotFound, format!("the catalog has no table in folder '{folder}'"));
        let entry = listing.entries().find(|entry| entry.folder == folder).ok_or_else(missing)?;
        self.open_table(entry).await
    }

    /// Makes sure that the tables (database, table) exist and returns them in the same order. Those that are new share one commit of
    /// the catalog; each has version -1 until its first commit.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn create_tables(&self, tables: &[(String, String)]) -> Result<Vec<Arc<Table>>> {
        let entries = self.catalog.create(tables).await?;
        let mut opened = Vec::with_capacity(entries.len());
        for (entry, new) in entries {
            if new {
                // Nobody else has had the time to write a log; if somebody had, the first commit would lose the race and read it.
                let table = Table::create(Arc::clone(&self.env), &entry.database, &entry.table, &entry.folder);
                opened.push(self.remember(table));
            } else {
                opened.push(self.open_table(&entry).await?);
            }
        }
        Ok(opened)
    }

    /// Makes sure that one table exists.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn create_table(&self, database: &str, table: &str) -> Result<Arc<Table>> {
        let mut created = self.create_tables(&[(database.to_owned(), table.to_owned())]).await?;
        created.pop().ok_or_else(|| Error::new(Kind::Internal, "a created table is missing"))
    }

    /// Marks a table as dropped by `operation`; its folder stays. Returns its entry, whose folder an undo needs.
    ///
    /// # Errors
    /// `not found` when there is no such table; those of the store.
    pub async fn drop_table(&self, database: &str, table: &str, operation: &str) -> Result<CatalogEntry> {
        let missing = || Error::new(Kind::NotFound, format!("database '{database}' has no table '{table}'"));
        self.catalog.refresh().await?;
        let folder = self.catalog.listing().live(database, table).ok_or_else(missing)?.folder.clone();
        self.catalog.drop_folder(&folder, operation).await
    }

    /// Marks the table in a folder as dropped by `operation`; one that is so already stays as it is.
    ///
    /// # Errors
    /// `not found` when the catalog has no such folder; those of the store.
    pub async fn drop_folder(&self, folder: &str, operation: &str) -> Result<CatalogEntry> {
        self.catalog.drop_folder(folder, operation).await
    }

    /// What the newest catalog known says of a folder.
    pub fn entry(&self, folder: &str) -> Option<CatalogEntry> {
        self.catalog.listing().entry(folder).cloned()
    }

    /// Whether the newest catalog known has the table in a folder as dropped.
    pub fn is_dropped(&self, folder: &str) -> bool {
        self.catalog.listing().entry(folder).is_some_and(|entry| entry.state == TableState::Dropped)
    }

    /// Whether the newest catalog known has a live table of this name.
    pub fn is_live(&self, database: &str, table: &str) -> bool {
        self.catalog.listing().live(database, table).is_some()
    }

    /// Deletes the files of a table that no kept version needs, or all of one that was dropped longer ago than the retention.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn vacuum(&self, entry: &CatalogEntry) -> Result<Vacuumed> {
        // A server whose clock is behind may still bring it back.
        let gone_ms = entry.changed_us.div_euclid(1000).saturating_add(self.env.retention_ms()).saturating_add(HOUR_MS);
        if entry.state == TableState::Live || self.env.now_ms() <= gone_ms {
            return self.open_table(entry).await?.vacuum().await;
        }
        self.tables.lock().expect("no panic under this lock").remove(&entry.folder);
        log::purge(&self.env, &entry.folder).await
    }

    /// Deletes the files of the catalog that no kept version needs.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn vacuum_catalog(&self) -> Result<Vacuumed> {
        self.catalog.vacuum().await
    }

    /// Makes the dropped table in `folder` live again.
    ///
    /// # Errors
    /// `conflict` when its name is in use again; `not found`; those of the store.
    pub async fn undrop_table(&self, folder: &str, operation: &str) -> Result<CatalogEntry> {
        self.catalog.undrop(folder, operation).await
    }

    async fn open_table(&self, entry: &CatalogEntry) -> Result<Arc<Table>> {
        let known = self.tables.lock().expect("no panic under this lock").get(&entry.folder).cloned();
        if let Some(table) = known {
            return Ok(table);
        }
        let table = Table::open(Arc::clone(&self.env), &entry.database, &entry.table, &entry.folder).await?;
        Ok(self.remember(table))
    }

    /// Keeps one `Table` per folder; where two callers opened it at once, the first one is kept.
    fn remember(&self, table: Table) -> Arc<Table> {
        let mut tables = self.tables.lock().expect("no panic under this lock");
        Arc::clone(tables.entry(table.folder().to_owned()).or_insert_with(|| Arc::new(table)))
    }
}

/// `location` as a URL of a remote store; `None` for a local one.
fn remote_url(location: &str) -> Result<Option<Url>> {
    if !location.contains("://") || location.starts_with("file://") {
        return Ok(None);
    }
    let wrong = |error| Error::wrap(Kind::Invalid, format!("store '{location}' is not a URL"), error);
    Url::parse(location).map(Some).map_err(wrong)
}

async fn open_local(location: &str, env: &StoreEnv) -> Result<Arc<dyn ObjectStore>> {
    let root = if location.starts_with("file://") {
        let wrong = || Error::invalid(format!("store '{location}' is not the URL of a folder"));
        Url::parse(location).ok().and_then(|url| url.to_file_path().ok()).ok_or_else(wrong)?
    } else {
        OsPath::new(location).to_owned()
    };
    let env = env.clone();
    let shown = root.display().to_string();
    let open = move || LocalStore::open(root, env.fs, env.clock.as_ref(), env.random.as_ref());
    let opened = tokio::task::spawn_blocking(open)
        .await
        .map_err(|error| Error::wrap(Kind::Internal, "opening a store panicked", error))?;
    Ok(Arc::new(opened.map_err(|error| Error::io(format!("store '{shown}' cannot be opened"), error))?))
}

/// An error of the object store in the engine's words.
pub(crate) fn object_error(what: impl Into<String>, error: object_store::Error) -> Error {
    use object_store::Error as E;
    let (kind, retry) = match &error {
        E::NotFound { .. } => (Kind::NotFound, Retry::Never),
        E::AlreadyExists { .. } | E::Precondition { .. } => (Kind::Conflict, Retry::Never),
        E::InvalidPath { .. }
        | E::NotSupported { .. }
        | E::NotImplemented { .. }
        | E::UnknownConfigurationKey { .. } => (Kind::Invalid, Retry::Never),
        _ => (Kind::Unavailable, Retry::Backoff),
    };
    Error::wrap(kind, what, error).with_retry(retry)
}
