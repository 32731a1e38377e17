//! Databases and tables as one query sees them: each table it names, at one moment (Q1).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arrow::datatypes::DataType;
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::{DataFusionError, Result, ScalarValue, TableReference};
use datafusion::logical_expr::TableType;
use futures::future::try_join_all;
use tokio::sync::OnceCell;
use weir_base::Kind;
use weir_engine::read::{ReadSnapshot, Tables};
use weir_engine::rollup::{Definition, PREFIX, right_until};

use crate::error::{Error, from_engine};
use crate::external::{Externals, FilesTable};
use crate::past;
use crate::rollup::Candidate;
use crate::scan::{Caches, Files, SnapshotTable, StoredColumns, table_schema};

/// The one catalog; databases are its schemas.
pub(crate) const CATALOG: &str = "weir";
const INFORMATION_SCHEMA: &str = "information_schema";

/// The tables of one query.
#[derive(Debug, Clone)]
pub(crate) struct QueryCatalog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tables: Arc<dyn Tables>,
    caches: Caches,
    default_database: String,
    /// What scans left out, in words.
    notes: Arc<Mutex<Vec<String>>>,
    /// Which versions of the past were given, in words.
    past: Mutex<Vec<String>>,
    /// Databases and their tables, listed only for a query that asks for them.
    names: OnceCell<BTreeMap<String, Vec<String>>>,
    /// Whether rollups are looked for.
    rollups: bool,
    /// The rollups of tables, taken before the tables themselves, by database and table.
    candidates: Mutex<BTreeMap<(String, String), Vec<Candidate>>>,
    /// One snapshot per table and query.
    snapshots: Mutex<BTreeMap<(String, String), Snapshot>>,
    externals: Externals,
    /// The external tables that this query has asked for.
    opened: Mutex<BTreeMap<(String, String), Opened>>,
}

/// The snapshot of one table, taken when it is first asked for; `None` when there is no such table.
type Snapshot = Arc<OnceCell<Option<Arc<SnapshotTable>>>>;

/// An external table, its files found when it is first asked for; `None` when there is no such table.
type Opened = Arc<OnceCell<Option<Arc<FilesTable>>>>;

impl QueryCatalog {
    pub(crate) fn new(
        tables: Arc<dyn Tables>,
        caches: Caches,
        externals: Externals,
        default_database: &str,
        rollups: bool,
    ) -> Self {
        let shared = Shared {
            tables,
            caches,
            default_database: default_database.to_owned(),
            notes: Arc::default(),
            past: Mutex::default(),
            names: OnceCell::new(),
            rollups,
            candidates: Mutex::default(),
            snapshots: Mutex::default(),
            externals,
            opened: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What scans left out, in words, one line a scan.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.shared.notes.lock().expect("no holder of this lock panics").clone()
    }

    /// Which versions of the past were given, in words, one line a table.
    pub(crate) fn past(&self) -> Vec<String> {
        self.shared.past.lock().expect("no holder of this lock panics").clone()
    }

    /// Takes the snapshots of all tables that a statement names, side by side.
    pub(crate) async fn take_snapshots(&self, named: &[TableReference]) -> Result<(), Error> {
        let taken = named.iter().map(|table| async move {
            let database = table.schema().unwrap_or(&self.shared.default_database);
            if database.eq_ignore_ascii_case(INFORMATION_SCHEMA) {
                return self.list().await.map(|_| ());
            }
            if self.snapshot(database, table.table()).await?.is_some() {
                return Ok(());
            }
            let found = self.external(database, table.table()).await?;
            found.map(drop).ok_or_else(|| missing(database, table.table()))
        });
        try_join_all(taken).await.map(|_| ())
    }

    /// All databases with their tables.
    pub(crate) async fn list(&self) -> Result<&BTreeMap<String, Vec<String>>, Error> {
        let list = || async {
            let databases = self.shared.tables.databases().await.map_err(from_engine)?;
            let mut names = BTreeMap::new();
            for database in databases {
                let mut tables = self.shared.tables.tables(&database).await.map_err(from_engine)?;
                let externals = self.shared.tables.externals(&database).await.map_err(from_engine)?;
                tables.extend(externals.into_iter().map(|external| external.name));
                tables.sort_unstable();
                tables.dedup();
                names.insert(database, tables);
            }
            Ok(names)
        };
        self.shared.names.get_or_try_init(list).await
    }

    /// A table of this query.
    pub(crate) async fn table(&self, database: &str, table: &str) -> Result<Arc<SnapshotTable>, Error> {
        self.snapshot(database, table).await?.ok_or_else(|| missing(database, table))
    }

    /// A table of this query that is listed; `None` for an external one.
    pub(crate) async fn stored(&self, database: &str, table: &str) -> Result<Option<Arc<SnapshotTable>>, Error> {
        match self.snapshot(database, table).await? {
            None if self.shared.tables.external(database, table).await.map_err(from_engine)?.is_none() => {
                Err(missing(database, table))
            }
            found => Ok(found),
        }
    }

    async fn snapshot(&self, database: &str, table: &str) -> Result<Option<Arc<SnapshotTable>>, Error> {
        let key = (database.to_owned(), table.to_owned());
        let cell = {
            let mut snapshots = self.shared.snapshots.lock().expect("no holder of this lock panics");
            Arc::clone(snapshots.entry(key).or_default())
        };
        let take = || async {
            let rollups = self.take_rollups(database, table).await;
            let found = self.read(database, table).await?;
            if let Some(base) = found.as_ref().and_then(|found| found.committed.as_ref()) {
                let right = |(definition, table): (Definition, Arc<SnapshotTable>)| {
                    let until = right_until(table.snapshot().committed.as_ref()?, &base.folder)?;
                    Some(Candidate { definition, table, until })
                };
                let found: Vec<Candidate> = rollups.into_iter().filter_map(right).collect();
                let mut candidates = self.shared.candidates.lock().expect("no holder of this lock panics");
                candidates.insert((database.to_owned(), table.to_owned()), found);
            }
            Ok(found.map(|snapshot| self.provide(snapshot)))
        };
        cell.get_or_try_init(take).await.cloned()
    }

    /// An external table of this query; `None` when there is no such table.
    pub(crate) async fn external(&self, database: &str, table: &str) -> Result<Option<Arc<FilesTable>>, Error> {
        let key = (database.to_owned(), table.to_owned());
        let cell = {
            let mut opened = self.shared.opened.lock().expect("no holder of this lock panics");
            Arc::clone(opened.entry(key).or_default())
        };
        let open = || async {
            let Some(definition) = self.shared.tables.external(database, table).await.map_err(from_engine)? else {
                return Ok(None);
            };
            self.shared.externals.open(&definition).await.map(|opened| Some(Arc::new(opened)))
        };
        cell.get_or_try_init(open).await.cloned()
    }

    fn provide(&self, snapshot: ReadSnapshot) -> Arc<SnapshotTable> {
        let files = Files::new(
            table_schema(&snapshot.schema),
            StoredColumns::new(&snapshot.schema),
            self.shared.tables.objects(),
            self.shared.caches.clone(),
        );
        Arc::new(SnapshotTable::new(snapshot, files, Arc::clone(&self.shared.notes)))
    }

    /// The rollups of a table. They are an aid: without them the answer is the same.
    async fn take_rollups(&self, database: &str, table: &str) -> Vec<(Definition, Arc<SnapshotTable>)> {
        if !self.shared.rollups || table.starts_with(PREFIX) || past::decoded(table).1.is_some() {
            return Vec::new();
        }
        let tables = &self.shared.tables;
        let take = async {
            let mut found = Vec::new();
            for definition in tables.rollups(database).await?.into_iter().filter(|one| one.table == table) {
                if let Some(snapshot) = tables.snapshot(database, &definition.table_name()).await? {
                    found.push((definition, self.provide(snapshot)));
                }
            }
            Ok::<_, weir_engine::Error>(found)
        };
        take.await.unwrap_or_else(|error| {
            tracing::debug!(table, error = weir_base::error::chain(&error), "rollups are left out");
            Vec::new()
        })
    }

    /// The rollups of a table as this query sees it.
    pub(crate) fn candidates(&self, table: &ReadSnapshot) -> Vec<Candidate> {
        let candidates = self.shared.candidates.lock().expect("no holder of this lock panics");
        candidates.get(&(table.database.clone(), table.table.clone())).cloned().unwrap_or_default()
    }

    /// Whether any table of this query has a rollup.
    pub(crate) fn has_candidates(&self) -> bool {
        let candidates = self.shared.candidates.lock().expect("no holder of this lock panics");
        candidates.values().any(|found| !found.is_empty())
    }

    /// The tables that this query may see.
    pub(crate) fn visible(&self) -> &dyn Tables {
        self.shared.tables.as_ref()
    }

    /// One more line for EXPLAIN.
    pub(crate) fn note(&self, note: String) {
        self.shared.notes.lock().expect("no holder of this lock panics").push(note);
    }

    /// What is visible of a table now, or was at the moment that its name carries.
    async fn read(&self, database: &str, name: &str) -> Result<Option<ReadSnapshot>, Error> {
        let (table, at) = past::decoded(name);
        let Some(at) = at else {
            return self.shared.tables.snapshot(database, table).await.map_err(from_engine);
        };
        let past = self.shared.tables.snapshot_at(database, table, at).await.map_err(from_engine)?;
        let given = past.snapshot.version;
        let committed = ScalarValue::TimestampMillisecond(Some(past.committed_ms), None).cast_to(&DataType::Utf8)?;
        let nearest = match given == past.wanted {
            true => String::new(),
            false => format!(", the nearest that is kept before version {}", past.wanted),
        };
        let told = format!("{table}: as of version {given}, committed {committed}Z{nearest}");
        self.shared.past.lock().expect("no holder of this lock panics").push(told);
        Ok(Some(past.snapshot))
    }

    fn listed(&self, database: &str) -> Vec<String> {
        self.shared.names.get().and_then(|names| names.get(database)).cloned().unwrap_or_default()
    }
}

fn missing(database: &str, table: &str) -> Error {
    Error::new(Kind::NotFound, format!("table '{table}' does not exist in database '{database}'"))
}

impl CatalogProviderList for QueryCatalog {
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG).then(|| Arc::new(self.clone()) as _)
    }
}

impl CatalogProvider for QueryCatalog {
    fn schema_names(&self) -> Vec<String> {
        self.shared.names.get().map(|names| names.keys().cloned().collect()).unwrap_or_default()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        Some(Arc::new(Database { name: name.to_owned(), catalog: self.clone() }))
    }
}

/// One database of a query.
#[derive(Debug)]
struct Database {
    name: String,
    catalog: QueryCatalog,
}

#[async_trait]
impl SchemaProvider for Database {
    fn table_names(&self) -> Vec<String> {
        self.catalog.listed(&self.name)
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let found = self.catalog.snapshot(&self.name, name).await;
        let found = found.map_err(|error| DataFusionError::External(Box::new(error)))?;
        if let Some(found) = found {
            return Ok(Some(found as _));
        }
        // What a statement names is open by now; a listing of all tables leaves out what cannot be opened.
        let external = self.catalog.external(&self.name, name).await;
        Ok(external.inspect_err(|error| self.catalog.note(error.to_string())).ok().flatten().map(|table| table as _))
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        Ok(self.table_exist(name).then_some(TableType::Base))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.catalog.listed(&self.name).iter().any(|table| table == name)
    }
}
