//! Tables for tests: rows are given as text, spread over files and runs, and asked through the SQL engine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringViewArray, TimestampNanosecondArray,
    UInt64Array,
};
use bytes::Bytes;
use futures::StreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use tokio::runtime::Runtime;
use weir_base::{OsRandom, SystemClock};
use weir_engine::external;
use weir_engine::past::{At, Past};
use weir_engine::read::{MemoryRun, ReadSnapshot, Tables, logical_schema};
use weir_engine::rollup::Definition;
use weir_engine::schema::{FieldType, Role, TableSchema};
use weir_engine::store::file::{DataFile, TagRange};
use weir_engine::store::layout::{has_sub_micro, to_stored};
use weir_query::encode::{Encoding, encode};
use weir_query::{Error, Request, Settings, SqlEngine};

/// Tags in schema order and the time.
pub(crate) type Key = (Vec<Option<String>>, i64);
/// Fields in schema order, as their text.
pub(crate) type Fields = Vec<Option<String>>;
pub(crate) type Rows = BTreeMap<Key, Fields>;

#[derive(Debug, Default)]
pub(crate) struct FakeTables {
    objects: Arc<InMemory>,
    tables: Mutex<BTreeMap<(String, String), ReadSnapshot>>,
    /// What was committed, by version; version n at n seconds. Vacuumed where a test takes it out.
    pub(crate) kept: Mutex<BTreeMap<(String, String), BTreeMap<i64, ReadSnapshot>>>,
    pub(crate) externals: Mutex<BTreeMap<(String, String), external::Definition>>,
    /// Snapshots that were taken.
    pub(crate) taken: Mutex<Vec<String>>,
}

#[async_trait::async_trait]
impl Tables for FakeTables {
    async fn databases(&self) -> weir_engine::Result<Vec<String>> {
        let mut names: Vec<_> = self.tables.lock().unwrap().keys().map(|key| key.0.clone()).collect();
        names.dedup();
        Ok(names)
    }

    async fn tables(&self, database: &str) -> weir_engine::Result<Vec<String>> {
        let tables = self.tables.lock().unwrap();
        Ok(tables.keys().filter(|key| key.0 == database).map(|key| key.1.clone()).collect())
    }

    async fn snapshot(&self, database: &str, table: &str) -> weir_engine::Result<Option<ReadSnapshot>> {
        self.taken.lock().unwrap().push(table.to_owned());
        Ok(self.tables.lock().unwrap().get(&(database.to_owned(), table.to_owned())).cloned())
    }

    async fn snapshot_at(&self, database: &str, table: &str, at: At) -> weir_engine::Result<Past> {
        let wanted = match at {
            At::Version(version) => version,
            At::Time(time) => time.div_euclid(1_000_000_000),
        };
        let kept = self.kept.lock().unwrap();
        let versions = kept.get(&(database.to_owned(), table.to_owned()));
        let found = versions.and_then(|versions| versions.range(..=wanted).next_back());
        let gone = || weir_engine::Error::new(weir_base::Kind::NotFound, format!("nothing is kept of '{table}'"));
        let (version, snapshot) = found.ok_or_else(gone)?;
        Ok(Past { snapshot: snapshot.clone(), wanted, committed_ms: version * 1000 })
    }

    async fn rollups(&self, _: &str) -> weir_engine::Result<Vec<Definition>> {
        Ok(Vec::new())
    }

    async fn externals(&self, database: &str) -> weir_engine::Result<Vec<external::Definition>> {
        let externals = self.externals.lock().unwrap();
        Ok(externals.iter().filter(|(key, _)| key.0 == database).map(|(_, external)| external.clone()).collect())
    }

    async fn external(&self, database: &str, name: &str) -> weir_engine::Result<Option<external::Definition>> {
        Ok(self.externals.lock().unwrap().get(&(database.to_owned(), name.to_owned())).cloned())
    }

    fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects) as _
    }
}

pub(crate) struct World {
    pub(crate) tables: Arc<FakeTables>,
    pub(crate) engine: SqlEngine,
    runtime: Runtime,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::new(1 << 30, 2);
        change(&mut settings);
        let tables = Arc::new(FakeTables::default());
        let clock = Arc::new(SystemClock::default());
        let engine = SqlEngine::new(Arc::clone(&tables) as _, settings, clock, Arc::new(OsRandom)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { tables, engine, runtime }
    }

    pub(crate) fn create(&self, database: &str, table: &str, schema: &TableSchema) {
        let snapshot = ReadSnapshot {
            database: database.to_owned(),
            table: table.to_owned(),
            schema: Arc::new(schema.clone()),
            version: -1,
            files: Vec::new(),
            runs: Vec::new(),
            committed: None,
        };
        self.tables.tables.lock().unwrap().insert((database.to_owned(), table.to_owned()), snapshot);
    }

    fn change(&self, database: &str, table: &str, change: impl FnOnce(&mut ReadSnapshot)) {
        change(self.tables.tables.lock().unwrap().get_mut(&(database.to_owned(), table.to_owned())).unwrap());
    }

    /// A newer file with these rows, with the first `columns` columns of the schema.
    pub(crate) fn file(&self, database: &str, table: &str, rows: &Rows, columns: usize) {
        self.change(database, table, |snapshot| {
            let mut schema = TableSchema::default();
            for column in &snapshot.schema.columns()[..columns] {
                schema.push(column.clone());
            }
            snapshot.version += 1;
            let batch = batch(&schema, rows);
            let sub_micro = has_sub_micro(&batch).unwrap();
            let stored = to_stored(&batch, &schema, sub_micro).unwrap();
            let properties = WriterProperties::builder()
                .set_max_row_group_row_count(Some(8))
                .set_data_page_row_count_limit(2)
                .set_write_batch_size(2)
                .build();
            let mut writer = ArrowWriter::try_new(Vec::new(), stored.schema(), Some(properties)).unwrap();
            writer.write(&stored).unwrap();
            let bytes = writer.into_inner().unwrap();
            let path = format!("{database}/{table}/{}.parquet", snapshot.version);
            let file = DataFile {
                path: path.clone(),
                size: bytes.len() as u64,
                rows: rows.len() as u64,
                time_min: rows.keys().map(|key| key.1).min().unwrap(),
                time_max: rows.keys().map(|key| key.1).max().unwrap(),
                tags: tag_ranges(&schema, rows),
                order: (snapshot.version, snapshot.version),
            };
            let place = Path::parse(path).unwrap();
            let put = self.tables.objects.put(&place, Bytes::from(bytes).into());
            futures::executor::block_on(put).unwrap();
            snapshot.files.push(Arc::new(file));
            let committed = ReadSnapshot { runs: Vec::new(), ..snapshot.clone() };
            let key = (database.to_owned(), table.to_owned());
            self.tables.kept.lock().unwrap().entry(key).or_default().insert(snapshot.version, committed);
        });
    }

    /// A newer run with these rows.
    pub(crate) fn run(&self, database: &str, table: &str, rows: &Rows) {
        self.change(database, table, |snapshot| {
            let batch = batch(&snapshot.schema, rows);
            snapshot.runs.push(MemoryRun::new(Arc::new(batch)).unwrap());
        });
    }

    pub(crate) fn request(&self, request: Request, encoding: Encoding) -> Result<String, Error> {
        let asked = async {
            let mut pieces = encode(self.engine.query(request).await?, encoding);
            let mut bytes = Vec::new();
            while let Some(piece) = pieces.next().await {
                bytes.extend_from_slice(&piece?);
            }
            Ok(String::from_utf8(bytes).unwrap())
        };
        let limited = async { tokio::time::timeout(Duration::from_secs(120), asked).await.expect("a query ends") };
        self.runtime.block_on(limited)
    }

    /// The answer as CSV.
    pub(crate) fn ask(&self, database: &str, sql: &str) -> Result<String, Error> {
        let request = Request { database: database.to_owned(), sql: sql.to_owned(), ..Request::default() };
        self.request(request, Encoding::Csv)
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await.expect("in time") })
    }
}

fn tag_ranges(schema: &TableSchema, rows: &Rows) -> Vec<TagRange> {
    let range = |(index, name): (usize, String)| {
        let values = || rows.keys().filter_map(move |key| key.0[index].clone());
        let nulls = rows.keys().filter(|key| key.0[index].is_none()).count() as u64;
        TagRange { name, min: values().min(), max: values().max(), nulls: Some(nulls) }
    };
    schema.tags().map(|(_, column)| column.name.clone()).enumerate().map(range).collect()
}

/// Rows in the logical layout; the keys and values may be longer than the schema.
pub(crate) fn batch(schema: &TableSchema, rows: &Rows) -> RecordBatch {
    let mut columns: Vec<ArrayRef> =
        vec![Arc::new(rows.keys().map(|key| Some(key.1)).collect::<TimestampNanosecondArray>())];
    let (mut tags, mut fields) = (0, 0);
    for column in schema.columns() {
        let (tag, field) = (tags, fields);
        match column.role {
            Role::Tag => tags += 1,
            Role::Field(_) => fields += 1,
        }
        let text = || rows.values().map(move |values| values[field].as_deref());
        columns.push(match column.role {
            Role::Tag => Arc::new(rows.keys().map(|key| key.0[tag].clone()).collect::<StringViewArray>()),
            Role::Field(FieldType::Str) => Arc::new(text().collect::<StringViewArray>()),
            Role::Field(FieldType::F64) => {
                Arc::new(text().map(|text| text.map(|text| text.parse().unwrap())).collect::<Float64Array>())
            }
            Role::Field(FieldType::I64) => {
                Arc::new(text().map(|text| text.map(|text| text.parse().unwrap())).collect::<Int64Array>())
            }
            Role::Field(FieldType::U64) => {
                Arc::new(text().map(|text| text.map(|text| text.parse().unwrap())).collect::<UInt64Array>())
            }
            Role::Field(FieldType::Bool) => {
                Arc::new(text().map(|text| text.map(|text| text == "true")).collect::<BooleanArray>())
            }
        });
    }
    RecordBatch::try_new(logical_schema(schema), columns).unwrap()
}

/// `host:tag region:tag v:float`
pub(crate) fn schema(text: &str) -> TableSchema {
    let mut schema = TableSchema::default();
    for column in text.split(';') {
        let (name, role) = column.trim().rsplit_once(':').unwrap();
        let role = match role {
            "tag" => Role::Tag,
            "float" => Role::Field(FieldType::F64),
            "integer" => Role::Field(FieldType::I64),
            "unsigned" => Role::Field(FieldType::U64),
            "boolean" => Role::Field(FieldType::Bool),
            _ => Role::Field(FieldType::Str),
        };
        schema.add(name, role).unwrap();
    }
    schema
}

/// Rows as `tag,tag | field,field | time`, one a line; `-` is NULL.
pub(crate) fn rows(text: &str) -> Rows {
    let cells = |part: &str| -> Vec<Option<String>> {
        let cells = part.trim().split(',').filter(|cell| !cell.is_empty());
        cells.map(|cell| (cell.trim() != "-").then(|| cell.trim().to_owned())).collect()
    };
    let row = |line: &str| {
        let parts: Vec<&str> = line.split('|').collect();
        ((cells(parts[0]), parts[2].trim().parse().unwrap()), cells(parts[1]))
    };
    text.lines().filter(|line| !line.trim().is_empty()).map(row).collect()
}
