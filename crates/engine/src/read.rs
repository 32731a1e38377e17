//! What one query reads: one snapshot of a table, files and buffer together, and which parts must be merged.

pub mod plan;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit, TimestampNanosecondType};

use crate::error::{Error, Result};
use crate::external;
use crate::past::{At, Past};
use crate::rollup::Definition;
use crate::run::Run;
use crate::schema::{FieldType, Role, SchemaRef, TIME, TableSchema};
use crate::store::Snapshot;
use crate::store::file::DataFile;

pub use plan::{Part, ReadPlan, Source, Times};

/// The tables as queries see them: which there are, and what is in one at this moment.
#[async_trait::async_trait]
pub trait Tables: Debug + Send + Sync {
    /// Names of all databases, ascending.
    ///
    /// # Errors
    /// `unavailable` when the catalog cannot be read.
    async fn databases(&self) -> Result<Vec<String>>;

    /// Names of the tables of a database, ascending; none when there is no such database.
    ///
    /// # Errors
    /// `unavailable` when the catalog cannot be read.
    async fn tables(&self, database: &str) -> Result<Vec<String>>;

    /// What is visible of a table now; `None` when there is no such table.
    ///
    /// # Errors
    /// `unavailable` when the store does not answer, `damaged` when the table's log cannot be understood.
    async fn snapshot(&self, database: &str, table: &str) -> Result<Option<ReadSnapshot>>;

    /// What was visible of a table at a moment, or at the nearest before it that is kept.
    ///
    /// # Errors
    /// `not found` when there is no such table, or nothing of it is kept from then; otherwise as [`Tables::snapshot`].
    async fn snapshot_at(&self, database: &str, table: &str, at: At) -> Result<Past>;

    /// The rollups of a database, by name.
    ///
    /// # Errors
    /// As [`Tables::snapshot`].
    async fn rollups(&self, database: &str) -> Result<Vec<Definition>>;

    /// The external tables of a database, by name.
    ///
    /// # Errors
    /// As [`Tables::snapshot`].
    async fn externals(&self, database: &str) -> Result<Vec<external::Definition>>;

    /// The external table of a name; `None` when there is none.
    ///
    /// # Errors
    /// As [`Tables::snapshot`].
    async fn external(&self, database: &str, name: &str) -> Result<Option<external::Definition>>;

    /// The store that holds the files of all snapshots; paths are relative to its root.
    fn objects(&self) -> Arc<dyn object_store::ObjectStore>;
}

/// Rows in key order, one per key, that give any columns of any range as Arrow arrays.
pub trait SortedRows: Send + Sync + std::fmt::Debug {
    /// Number of rows.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Columns of the logical layout that these rows know; columns added to the table later are NULL in all of them.
    fn columns(&self) -> usize;
    /// Smallest and largest time in nanoseconds; `None` without rows.
    fn time_range(&self) -> Option<(i64, i64)>;
    /// The rows of `range` with the columns `projection` of the logical layout (0 is `time`), each below [`Self::columns`].
    ///
    /// # Errors
    /// `internal` when Arrow refuses the arrays.
    fn batch(&self, range: Range<usize>, projection: &[usize]) -> Result<RecordBatch>;
}

/// Rows of the buffer, of which the times are known, and the rest once they are sorted.
#[derive(Debug, Clone)]
pub struct MemoryRun {
    rows: Held,
    /// Smallest time, nanoseconds UTC.
    pub time_min: i64,
    /// Largest time, nanoseconds UTC.
    pub time_max: i64,
}

#[derive(Debug, Clone)]
enum Held {
    Sorted(SortedRun),
    Unsorted(Arc<Run>),
}

/// Rows of the buffer in the logical layout, sorted by (tags, time), one row per key.
#[derive(Debug, Clone)]
pub struct SortedRun(Arc<dyn SortedRows>);

impl MemoryRun {
    /// A run, unless it has no rows.
    pub fn new(rows: Arc<dyn SortedRows>) -> Option<Self> {
        let (time_min, time_max) = rows.time_range()?;
        Some(Self { rows: Held::Sorted(SortedRun(rows)), time_min, time_max })
    }

    /// A run of rows as they came, unless there are none.
    pub(crate) fn unsorted(run: Arc<Run>) -> Option<Self> {
        let (time_min, time_max) = run.times()?;
        Some(Self { rows: Held::Unsorted(run), time_min, time_max })
    }

    /// Rows, without a look at which of them are one; at least 1.
    pub fn rows_at_most(&self) -> usize {
        match &self.rows {
            Held::Sorted(run) => run.rows(),
            Held::Unsorted(run) => run.rows_at_most(),
        }
    }

    /// Whether [`MemoryRun::sorted`] answers at once.
    pub fn is_sorted(&self) -> bool {
        match &self.rows {
            Held::Sorted(_) => true,
            Held::Unsorted(run) => run.is_sorted(),
        }
    }

    /// The rows in key order, one per key. The first call may take a while; what it made is kept.
    ///
    /// # Errors
    /// `damaged` when a series key is malformed, which only a bug could make.
    pub fn sorted(&self) -> Result<SortedRun> {
        Ok(match &self.rows {
            Held::Sorted(run) => run.clone(),
            Held::Unsorted(run) => SortedRun(run.sorted()?),
        })
    }
}

impl SortedRun {
    /// Number of rows; at least 1.
    pub fn rows(&self) -> usize {
        self.0.len()
    }

    /// The rows of `range` with the columns `projection` of `logical`, the layout of the snapshot that the run came with.
    ///
    /// # Errors
    /// `internal` when Arrow refuses the arrays.
    pub fn batch(&self, range: Range<usize>, projection: &[usize], logical: &Schema) -> Result<RecordBatch> {
        let known: Vec<usize> = projection.iter().copied().filter(|&index| index < self.0.columns()).collect();
        let found = self.0.batch(range.clone(), &known)?;
        let mut found = found.columns().iter();
        let fields: Vec<Field> = projection.iter().map(|&index| logical.field(index).clone()).collect();
        let arrays = projection
            .iter()
            .zip(&fields)
            .map(|(&index, field)| {
                let array = if index < self.0.columns() { found.next() } else { None };
                array.map_or_else(|| new_null_array(field.data_type(), range.len()), Arc::clone)
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(range.len()));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
            .map_err(|error| Error::wrap(weir_base::Kind::Internal, "cannot build a batch of buffered rows", error))
    }
}

/// A batch that is already in key order with one row per key is a run.
impl SortedRows for RecordBatch {
    fn len(&self) -> usize {
        self.num_rows()
    }

    fn columns(&self) -> usize {
        self.num_columns()
    }

    fn time_range(&self) -> Option<(i64, i64)> {
        let times = self.column(0).as_primitive_opt::<TimestampNanosecondType>()?;
        Some((arrow::compute::min(times)?, arrow::compute::max(times)?))
    }

    fn batch(&self, range: Range<usize>, projection: &[usize]) -> Result<RecordBatch> {
        self.project(projection)
            .map(|batch| batch.slice(range.start, range.len()))
            .map_err(|error| Error::wrap(weir_base::Kind::Internal, "cannot project a batch", error))
    }
}

/// Everything that is visible of a table at one moment (Q1). Immutable; holding it keeps nothing locked.
#[derive(Debug, Clone)]
pub struct ReadSnapshot {
    /// Database.
    pub database: String,
    /// Table (measurement).
    pub table: String,
    /// Columns.
    pub schema: SchemaRef,
    /// Version of the Delta table, -1 when nothing is committed yet.
    pub version: i64,
    /// Live files, oldest in write order first.
    pub files: Vec<Arc<DataFile>>,
    /// What is not yet in files, oldest first; newer than every file.
    pub runs: Vec<MemoryRun>,
    /// The commit that the files are of; `None` before the first.
    pub committed: Option<Arc<Snapshot>>,
}

/// Merges sorted inputs in the logical layout of `schema`, the oldest first, into rows of one per key.
///
/// # Errors
/// `internal` when the layout cannot be merged.
pub fn merged(
    schema: &TableSchema,
    inputs: Vec<futures::stream::BoxStream<'static, Result<RecordBatch>>>,
) -> Result<crate::merge::MergeStream<Error>> {
    let tags: Vec<usize> = schema.tags().map(|(index, _)| index + 1).collect();
    Ok(crate::merge::MergeStream::new(&logical_schema(schema), &tags, inputs, MERGE_BATCH_ROWS)?)
}

/// Rows in a batch that a merge gives.
const MERGE_BATCH_ROWS: usize = 16 << 10;

/// The Arrow schema in which rows travel between flush, merge, compaction and query: `time` as timestamp(ns) without zone,
/// not null, then the table's columns in order under their true names: tags utf8view, fields f64, i64, u64, bool, utf8view,
/// all nullable.
pub fn logical_schema(schema: &TableSchema) -> Arc<Schema> {
    let time = Field::new(TIME, DataType::Timestamp(TimeUnit::Nanosecond, None), false);
    let columns = schema.columns().iter().map(|column| Field::new(&column.name, logical_type(column.role), true));
    Arc::new(Schema::new(std::iter::once(time).chain(columns).collect::<Vec<_>>()))
}

/// The Arrow type of a column in the logical layout.
pub fn logical_type(role: Role) -> DataType {
    match role {
        Role::Tag | Role::Field(FieldType::Str) => DataType::Utf8View,
        Role::Field(FieldType::F64) => DataType::Float64,
        Role::Field(FieldType::I64) => DataType::Int64,
        Role::Field(FieldType::U64) => DataType::UInt64,
        Role::Field(FieldType::Bool) => DataType::Boolean,
    }
}
