//! Databases and tables as one query sees them: each table it names, at one moment (Q1).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arrow::datatypes::DataType;
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::{DataFusionError, Result, ScalarValue, TableReference};
use futures::future::try_join_all;
use tokio::sync::OnceCell;
use weir_base::Kind;
use weir_engine::read::{ReadSnapshot, Tables};

use crate::error::{Error, from_engine};
use crate::past;
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
    /// One snapshot per table and query.
    snapshots: Mutex<BTreeMap<(String, String), Snapshot>>,
}

/// The snapshot of one table, taken when it is first asked for; `None` when there is no such table.
type Snapshot = Arc<OnceCell<Option<Arc<SnapshotTable>>>>;

impl QueryCatalog {
    pub(crate) fn new(tables: Arc<dyn Tables>, caches: Caches, default_database: &str) -> Self {
        let shared = Shared {
            tables,
            caches,
            default_database: default_database.to_owned(),
            notes: Arc::default(),
            past: Mutex::default(),
            names: OnceCell::new(),
            snapshots: Mutex::default(),
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
            match self.snapshot(database, table.table()).await? {
                Some(_) => Ok(()),
                None => Err(missing(database, table.table())),
            }
        });
        try_join_all(taken).await.map(|_| ())
    }

    /// All databases with their tables.
    pub(crate) async fn list(&self) -> Result<&BTreeMap<String, Vec<String>>, Error> {
        let list = || async {
            let databases = self.shared.tables.databases().await.map_err(from_engine)?;
            let mut names = BTreeMap::new();
            for database in databases {
                let tables = self.shared.tables.tables(&database).await.map_err(from_engine)?;
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

    async fn snapshot(&self, database: &str, table: &str) -> Result<Option<Arc<SnapshotTable>>, Error> {
        let key = (database.to_owned(), table.to_owned());
        let cell = {
            let mut snapshots = self.shared.snapshots.lock().expect("no holder of this lock panics");
            Arc::clone(snapshots.entry(key).or_default())
        };
        let take = || async {
            Ok(self.read(database, table).await?.map(|snapshot| {
                let files = Files::new(
                    table_schema(&snapshot.schema),
                    StoredColumns::new(&snapshot.schema),
                    self.shared.tables.objects(),
                    self.shared.caches.clone(),
                );
                Arc::new(SnapshotTable::new(snapshot, files, Arc::clone(&self.shared.notes)))
            }))
        };
        cell.get_or_try_init(take).await.cloned()
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
        Ok(found.map(|table| table as Arc<dyn TableProvider>))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.catalog.listed(&self.name).iter().any(|table| table == name)
    }
}
