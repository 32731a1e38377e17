//! What one query reads: one snapshot of a table, files and buffer together, and which parts must be merged.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};

use crate::schema::{FieldType, Role, SchemaRef, TIME, TableSchema};
use crate::store::file::DataFile;

/// Rows of the buffer in the logical layout, sorted by (tags, time), one row per key.
#[derive(Debug, Clone)]
pub struct MemoryRun {
    /// The rows; schema as [`logical_schema`] of the snapshot's table schema.
    pub batch: RecordBatch,
    /// Smallest time, nanoseconds UTC.
    pub time_min: i64,
    /// Largest time, nanoseconds UTC.
    pub time_max: i64,
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
}

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
