//! Which tables exist: a Delta table of events, read whole, never a directory listing.
//!
//! Each file holds rows of (database, table, folder, state, operation, time). They are read in write order and the last row of a
//! folder counts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, RwLock};

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::TimestampMicrosecondType;
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use weir_base::checksum::hex;
use weir_base::{Kind, Retry};

use super::action::{Add, CommitInfo, Format, Line, Metadata};
use super::log::{Committed, DeltaLog, Planned, Vacuumed};
use super::state::{LogState, PROTOCOL, Tombstone, remove_of};
use super::{Env, names, object_error};
use crate::error::{Error, Result};

/// The catalog's folder.
pub(super) const FOLDER: &str = "_weir/catalog";
const FILES_MAX: usize = 64;
const CHECKPOINT_EVERY: i64 = 50;
const READS_IN_FLIGHT: usize = 16;

/// Whether a table can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableState {
    /// In use.
    Live,
    /// Dropped; its folder is kept.
    Dropped,
}

impl TableState {
    fn word(self) -> &'static str {
        match self {
            TableState::Live => "live",
            TableState::Dropped => "dropped",
        }
    }
}

/// A table as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogEntry {
    /// The database.
    pub database: String,
    /// The measurement.
    pub table: String,
    /// The folder from the root of the store; identifies this incarnation of the table.
    pub folder: String,
    /// Live or dropped.
    pub state: TableState,
    /// What brought it to this state: `create`, or the id of an operation.
    pub operation: String,
    /// When, microseconds since 1970 UTC.
    pub changed_us: i64,
}

/// All tables at one version of the catalog.
#[derive(Debug, Default)]
pub(super) struct Listing {
    version: i64,
    by_folder: BTreeMap<String, CatalogEntry>,
    live: HashMap<(String, String), String>,
}

impl Listing {
    fn apply(&mut self, entry: CatalogEntry) {
        let key = (entry.database.clone(), entry.table.clone());
        match entry.state {
            TableState::Live => {
                self.live.insert(key, entry.folder.clone());
            }
            TableState::Dropped => {
                if self.live.get(&key) == Some(&entry.folder) {
                    self.live.remove(&key);
                }
            }
        }
        self.by_folder.insert(entry.folder.clone(), entry);
    }

    pub(super) fn live(&self, database: &str, table: &str) -> Option<&CatalogEntry> {
        let folder = self.live.get(&(database.to_owned(), table.to_owned()))?;
        self.by_folder.get(folder)
    }

    pub(super) fn entry(&self, folder: &str) -> Option<&CatalogEntry> {
        self.by_folder.get(folder)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &CatalogEntry> {
        self.by_folder.values()
    }

    /// Those whose folder begins so.
    pub(super) fn beginning(&self, folder: &str) -> impl Iterator<Item = &CatalogEntry> {
        let from = self.by_folder.range(folder.to_owned()..);
        from.take_while(move |(found, _)| found.starts_with(folder)).map(|(_, entry)| entry)
    }

    /// The folder of the next incarnation of a table.
    fn free_folder(&self, database: &str, table: &str) -> String {
        (1..)
            .map(|number| names::table_folder(database, table, number))
            .find(|folder| !self.by_folder.contains_key(folder))
            .unwrap_or_default()
    }
}

/// The catalog with its newest known content.
#[derive(Debug)]
pub(super) struct Catalog {
    env: Arc<Env>,
    log: DeltaLog,
    listing: RwLock<Arc<Listing>>,
}

impl Catalog {
    pub(super) async fn open(env: Arc<Env>) -> Result<Self> {
        let log = DeltaLog::open(Arc::clone(&env), FOLDER).await?;
        let listing = read_listing(&env, &log.state()).await?;
        Ok(Self { env, log, listing: RwLock::new(Arc::new(listing)) })
    }

    pub(super) fn listing(&self) -> Arc<Listing> {
        Arc::clone(&self.listing.read().expect("no panic under this lock"))
    }

    #[cfg(test)]
    pub(super) fn files(&self) -> usize {
        self.log.state().files.len()
    }

    /// Deletes files that the catalog does not need any more.
    pub(super) async fn vacuum(&self) -> Result<Vacuumed> {
        self.log.vacuum().await
    }

    /// Reads what other writers have committed since.
    pub(super) async fn refresh(&self) -> Result<Arc<Listing>> {
        let state = self.log.refresh().await?;
        self.catch_up(&state).await
    }

    async fn catch_up(&self, state: &LogState) -> Result<Arc<Listing>> {
        let known = self.listing();
        if known.version >= state.version {
            return Ok(known);
        }
        let listing = Arc::new(read_listing(&self.env, state).await?);
        let mut slot = self.listing.write().expect("no panic under this lock");
        if listing.version > slot.version {
            *slot = listing;
        }
        Ok(Arc::clone(&slot))
    }

    /// Makes sure that all of `tables` are live, in one commit, and returns their entries in the same order, each with whether this
    /// call made it.
    pub(super) async fn create(&self, tables: &[(String, String)]) -> Result<Vec<(CatalogEntry, bool)>> {
        let made = self
            .change("create", |listing| {
                let mut seen = HashSet::new();
                let missing = tables.iter().filter(|key| listing.live(&key.0, &key.1).is_none() && seen.insert(*key));
                let entry = |key: &(String, String)| self.entry(listing, key, TableState::Live, "create");
                Ok(missing.map(entry).collect())
            })
            .await?;
        let made: HashSet<&str> = made.iter().map(|entry| entry.folder.as_str()).collect();
        let listing = self.listing();
        let found = |(database, table): &(String, String)| {
            let dropped = || conflict(format!("table '{table}' of database '{database}' was dropped meanwhile"));
            let entry = listing.live(database, table).cloned().ok_or_else(dropped)?;
            let new = made.contains(entry.folder.as_str());
            Ok((entry, new))
        };
        tables.iter().map(found).collect()
    }

    fn entry(&self, listing: &Listing, key: &(String, String), state: TableState, operation: &str) -> CatalogEntry {
        CatalogEntry {
            database: key.0.clone(),
            table: key.1.clone(),
            folder: listing.free_folder(&key.0, &key.1),
            state,
            operation: operation.to_owned(),
            changed_us: self.env.clock.now().div_euclid(1000),
        }
    }

    /// Marks the table in a folder as dropped; one that is so already stays as it is.
    pub(super) async fn drop_folder(&self, folder: &str, operation: &str) -> Result<CatalogEntry> {
        let changed_us = self.env.clock.now().div_euclid(1000);
        self.change("drop", |listing| {
            let missing = || Error::new(Kind::NotFound, format!("the catalog has no table in folder '{folder}'"));
            let found = listing.by_folder.get(folder).ok_or_else(missing)?.clone();
            if found.state == TableState::Dropped {
                return Ok(Vec::new());
            }
            let operation = operation.to_owned();
            Ok(vec![CatalogEntry { state: TableState::Dropped, operation, changed_us, ..found }])
        })
        .await?;
        let dropped = self.listing().by_folder.get(folder).cloned();
        dropped.ok_or_else(|| Error::new(Kind::Internal, "a dropped table is missing"))
    }

    /// Makes a dropped table live again.
    pub(super) async fn undrop(&self, folder: &str, operation: &str) -> Result<CatalogEntry> {
        let changed_us = self.env.clock.now().div_euclid(1000);
        let revived = self
            .change("undrop", |listing| {
                let missing = || Error::new(Kind::NotFound, format!("the catalog has no table in folder '{folder}'"));
                let found = listing.by_folder.get(folder).ok_or_else(missing)?.clone();
                if found.state == TableState::Live {
                    return Err(Error::new(Kind::Conflict, format!("table '{}' is not dropped", found.table)));
                }
                if listing.live(&found.database, &found.table).is_some() {
                    return Err(Error::new(Kind::Conflict, format!("the name '{}' is in use again", found.table)));
                }
                let operation = operation.to_owned();
                Ok(vec![CatalogEntry { state: TableState::Live, operation, changed_us, ..found }])
            })
            .await?;
        revived.into_iter().next().ok_or_else(|| Error::new(Kind::Internal, "an undo of a drop changed nothing"))
    }

    /// Commits the entries that `decide` makes of the newest listing; asked again when another writer was faster.
    async fn change(
        &self,
        word: &str,
        decide: impl Fn(&Listing) -> Result<Vec<CatalogEntry>>,
    ) -> Result<Vec<CatalogEntry>> {
        for _ in 0..RACES_MAX {
            let state = self.log.state();
            let listing = self.catch_up(&state).await?;
            let entries = decide(&listing)?;
            if entries.is_empty() {
                return Ok(entries);
            }
            let compact = state.files.len() >= FILES_MAX;
            let mut rows: Vec<&CatalogEntry> = entries.iter().collect();
            if compact {
                let changed: HashSet<&str> = entries.iter().map(|entry| entry.folder.as_str()).collect();
                rows.splice(0..0, listing.entries().filter(|entry| !changed.contains(entry.folder.as_str())));
            }
            let (base, size) = self.put_rows(&rows).await?;
            let expected = listing.version;
            let info = CommitInfo { operation: word.to_uppercase(), ..CommitInfo::default() };
            let put = (base.as_str(), size, rows.len());
            let done = self.log.commit(info, |state, now_ms| self.plan(state, now_ms, expected, put, compact)).await?;
            if done.already {
                self.forget(&base).await;
                self.refresh().await?;
                continue;
            }
            self.committed(done, &entries).await?;
            return Ok(entries);
        }
        Err(conflict("other writers keep changing the catalog"))
    }

    /// The actions of a change decided on version `expected`; another version means that it has to be decided again.
    fn plan(
        &self,
        state: &LogState,
        now_ms: i64,
        expected: i64,
        (base, size, rows): (&str, u64, usize),
        compact: bool,
    ) -> Result<Planned> {
        if state.version != expected {
            return Ok(Planned::Done);
        }
        let mut lines = Vec::new();
        if state.version < 0 {
            lines.push(Line { protocol: Some(PROTOCOL), ..Line::default() });
            lines.push(Line { meta_data: Some(self.metadata()), ..Line::default() });
        }
        if compact {
            lines.extend(state.files.iter().map(|live| {
                let (base, size) = (live.base.clone(), Some(live.file.size));
                let tombstone = Tombstone { base, deleted_ms: now_ms, added_ms: Some(live.modified_ms), size };
                Line { remove: Some(remove_of(&tombstone, true)), ..Line::default() }
            }));
        }
        let order = format!("{0},{0}", state.version + 1);
        let add = Add {
            path: base.to_owned(),
            size,
            modification_time: now_ms,
            data_change: true,
            stats: Some(format!("{{\"numRecords\":{rows}}}")),
            tags: Some(BTreeMap::from([("weir.order".to_owned(), Some(order))])),
            ..Add::default()
        };
        lines.push(Line { add: Some(add), ..Line::default() });
        Ok(Planned::Write(lines))
    }

    async fn committed(&self, done: Committed, entries: &[CatalogEntry]) -> Result<()> {
        {
            let mut slot = self.listing.write().expect("no panic under this lock");
            if slot.version == done.version - 1 {
                let mut next =
                    Listing { version: done.version, by_folder: slot.by_folder.clone(), live: slot.live.clone() };
                entries.iter().for_each(|entry| next.apply(entry.clone()));
                *slot = Arc::new(next);
            }
        }
        self.catch_up(&self.log.state()).await?;
        if done.version > 0
            && done.version % CHECKPOINT_EVERY == 0
            && let Err(error) = self.log.checkpoint().await
        {
            tracing::warn!(error = weir_base::error::chain(&error), "checkpoint of the catalog failed");
        }
        Ok(())
    }

    async fn put_rows(&self, rows: &[&CatalogEntry]) -> Result<(String, u64)> {
        let mut name = [0; 16];
        self.env.random.fill(&mut name);
        let base = format!("{}.us.parquet", hex(&name));
        let bytes = encode(rows)?;
        let size = bytes.len() as u64;
        let path = Path::from(format!("{FOLDER}/{base}"));
        let failed = |error| object_error("the catalog cannot be written", error);
        self.env.objects.put(&path, bytes.into()).await.map_err(failed)?;
        Ok((base, size))
    }

    /// Deletes a file that was never committed; one that stays is removed by vacuum.
    async fn forget(&self, base: &str) {
        let _ = self.env.objects.delete(&Path::from(format!("{FOLDER}/{base}"))).await;
    }

    fn metadata(&self) -> Metadata {
        let field =
            |name: &str, kind: &str| serde_json::json!({"name": name, "type": kind, "nullable": false, "metadata": {}});
        let mut fields: Vec<_> =
            ["database", "table", "folder", "state", "operation"].iter().map(|name| field(name, "string")).collect();
        fields.push(field("time", "timestamp"));
        Metadata {
            id: weir_base::id::uuid_v7(self.env.clock.as_ref(), self.env.random.as_ref()).to_string(),
            name: Some("catalog".to_owned()),
            format: Format { provider: "parquet".to_owned(), options: BTreeMap::new() },
            schema_string: serde_json::json!({"type": "struct", "fields": fields}).to_string(),
            partition_columns: Vec::new(),
            configuration: BTreeMap::new(),
            created_time: Some(self.env.now_ms()),
        }
    }
}

const RACES_MAX: usize = 100;

fn conflict(what: impl Into<String>) -> Error {
    Error::new(Kind::Conflict, what).with_retry(Retry::Backoff)
}

fn encode(rows: &[&CatalogEntry]) -> Result<Vec<u8>> {
    let text = |value: fn(&CatalogEntry) -> &str| {
        Arc::new(rows.iter().map(|row| Some(value(row))).collect::<StringArray>()) as ArrayRef
    };
    let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.changed_us)).with_timezone("UTC");
    let internal = |error| Error::wrap(Kind::Internal, "the catalog cannot be encoded", error);
    let batch = RecordBatch::try_from_iter([
        ("database", text(|row| &row.database)),
        ("table", text(|row| &row.table)),
        ("folder", text(|row| &row.folder)),
        ("state", text(|row| row.state.word())),
        ("operation", text(|row| &row.operation)),
        ("time", Arc::new(times) as ArrayRef),
    ])
    .map_err(|error| internal(parquet::errors::ParquetError::from(error)))?;
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).map_err(internal)?;
    writer.write(&batch).map_err(internal)?;
    writer.into_inner().map_err(internal)
}

fn decode(bytes: Bytes, path: &str) -> Result<Vec<CatalogEntry>> {
    let damaged = || Error::new(Kind::Damaged, format!("'{path}' is not a file of the catalog"));
    let failed = |error| Error::wrap(Kind::Damaged, format!("'{path}' cannot be read"), error);
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|builder| builder.build()).map_err(failed)?;
    let mut entries = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| failed(parquet::errors::ParquetError::from(error)))?;
        let text = |name: &str| batch.column_by_name(name).and_then(|array| array.as_string_opt::<i32>());
        let columns = ["database", "table", "folder", "state", "operation"].map(text);
        let times = batch.column_by_name("time").and_then(|array| array.as_primitive_opt::<TimestampMicrosecondType>());
        let ([Some(databases), Some(tables), Some(folders), Some(states), Some(operations)], Some(times)) =
            (columns, times)
        else {
            return Err(damaged());
        };
        for row in 0..batch.num_rows() {
            entries.push(CatalogEntry {
                database: databases.value(row).to_owned(),
                table: tables.value(row).to_owned(),
                folder: folders.value(row).to_owned(),
                state: match states.value(row) {
                    "live" => TableState::Live,
                    "dropped" => TableState::Dropped,
                    _ => return Err(damaged()),
                },
                operation: operations.value(row).to_owned(),
                changed_us: times.value(row),
            });
        }
    }
    Ok(entries)
}

async fn read_listing(env: &Env, state: &LogState) -> Result<Listing> {
    let read = |path: String| async move {
        let failed = |error| object_error(format!("'{path}' cannot be read"), error);
        let found = env.objects.get(&Path::from(path.as_str())).await.map_err(failed)?;
        decode(found.bytes().await.map_err(failed)?, &path)
    };
    let mut listing = Listing { version: state.version, ..Listing::default() };
    let paths: Vec<String> = state.files.iter().map(|live| live.file.path.clone()).collect();
    let mut files = stream::iter(paths).map(read).buffered(READS_IN_FLIGHT);
    while let Some(entries) = files.try_next().await? {
        entries.into_iter().for_each(|entry| listing.apply(entry));
    }
    Ok(listing)
}
