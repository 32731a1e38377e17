//! Checkpoints: the state of a table as one Parquet file, so that opening it does not read every commit.
//!
//! The rows are the same actions as the lines of a commit, so both directions go through their JSON form; that costs microseconds
//! an action and keeps one definition of what an action is.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use weir_base::Kind;

use super::action::{Line, parse, serialise};
use crate::error::{Error, Result};

fn map(name: &str) -> Field {
    let entries =
        Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)]);
    Field::new(name, DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries), false)), false), true)
}

fn group(name: &str, fields: Vec<Field>) -> Field {
    Field::new(name, DataType::Struct(fields.into()), true)
}

fn schema() -> Arc<Schema> {
    use DataType::{Boolean, Int32, Int64, List, Utf8};
    let field = |name: &str, kind: DataType| Field::new(name, kind, true);
    let txn = vec![field("appId", Utf8), field("version", Int64), field("lastUpdated", Int64)];
    let add = vec![
        field("path", Utf8),
        map("partitionValues"),
        field("size", Int64),
        field("modificationTime", Int64),
        field("dataChange", Boolean),
        map("tags"),
        field("stats", Utf8),
    ];
    let remove = vec![
        field("path", Utf8),
        field("deletionTimestamp", Int64),
        field("dataChange", Boolean),
        field("extendedFileMetadata", Boolean),
        map("partitionValues"),
        field("size", Int64),
        map("tags"),
    ];
    let metadata = vec![
        field("id", Utf8),
        field("name", Utf8),
        group("format", vec![field("provider", Utf8), map("options")]),
        field("schemaString", Utf8),
        field("partitionColumns", List(Arc::new(Field::new("element", Utf8, true)))),
        map("configuration"),
        field("createdTime", Int64),
    ];
    let protocol = vec![field("minReaderVersion", Int32), field("minWriterVersion", Int32)];
    Arc::new(Schema::new(vec![
        group("txn", txn),
        group("add", add),
        group("remove", remove),
        group("metaData", metadata),
        group("protocol", protocol),
    ]))
}

/// The checkpoint file that holds `lines`.
pub(super) fn encode(lines: &[Line]) -> Result<Vec<u8>> {
    let internal = |what: &'static str| move |error| Error::wrap(Kind::Internal, what, error);
    let schema = schema();
    let decoder = arrow::json::ReaderBuilder::new(Arc::clone(&schema));
    let json = serialise(lines)?;
    let reader = decoder.build(json.as_slice()).map_err(internal("a checkpoint cannot be built"))?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let parquet_failed = |error| Error::wrap(Kind::Internal, "a checkpoint cannot be written", error);
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).map_err(parquet_failed)?;
    for batch in reader {
        let batch: RecordBatch = batch.map_err(internal("a checkpoint cannot be built"))?;
        writer.write(&batch).map_err(parquet_failed)?;
    }
    writer.into_inner().map_err(parquet_failed)
}

/// The opposite of [`encode`], also for checkpoints of other programs. `what` names the object in errors.
pub(super) fn decode(bytes: Bytes, what: &str) -> Result<Vec<Line>> {
    let damaged = |error| Error::wrap(Kind::Damaged, format!("{what} is not a Delta checkpoint"), error);
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(|builder| builder.with_batch_size(8192).build())
        .map_err(|error| damaged(arrow::error::ArrowError::from(error)))?;
    let mut lines = Vec::new();
    for batch in reader {
        let batch = batch.map_err(damaged)?;
        let mut json = arrow::json::LineDelimitedWriter::new(Vec::new());
        json.write(&batch).and_then(|()| json.finish()).map_err(damaged)?;
        lines.extend(parse(&json.into_inner(), what)?);
    }
    Ok(lines)
}
