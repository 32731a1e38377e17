//! Results as bytes, streamed: JSON, JSON Lines, CSV, Parquet, an Arrow stream, or a table for people.
//!
//! Columns come in the order of the SELECT; of equal names the later ones get `_1`, `_2` and so on. Timestamps are ISO 8601
//! in UTC (`2011-07-01T00:00:01`, a fraction of 3, 6 or 9 digits only where it is not zero, `Z` only where the type carries
//! a zone). In JSON NULL is `null`, 64-bit integers are numbers, and the floats that JSON cannot spell (NaN, infinities) are
//! `null`. CSV follows RFC 4180 with LF line ends: NULL is empty, empty text is `""`.

mod cell;
mod table;
mod tags;
mod text;

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use weir_base::Kind;

use crate::error::{Error, Result};
use crate::running::Answer;
use table::TableText;
use text::Text;

/// Rows of a row group of a Parquet result.
const ROW_GROUP_ROWS: usize = 64 << 10;

/// The form of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// An array with one object a row.
    Json,
    /// One object a line.
    JsonLines,
    /// Comma-separated, with a header line.
    Csv,
    /// A Parquet file.
    Parquet,
    /// An Arrow IPC stream, tags as dictionaries.
    Arrow,
    /// A table drawn with lines.
    Table,
}

/// The bytes of an answer, piece by piece. Dropping the stream stops the query.
pub fn encode(answer: Answer, encoding: Encoding) -> BoxStream<'static, Result<Bytes>> {
    let schema = Arc::clone(answer.schema());
    encode_batches(schema, answer, encoding)
}

/// The bytes of any batches with one schema. After an error the stream ends.
pub fn encode_batches(
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch>> + Send + Unpin + 'static,
    encoding: Encoding,
) -> BoxStream<'static, Result<Bytes>> {
    let encoder = Encoder::new(&schema, encoding);
    let state = (Some(encoder), batches);
    let pieces = stream::try_unfold(state, |(encoder, mut batches)| async move {
        let Some(encoder) = encoder else { return Ok(None) };
        let mut encoder = encoder?;
        match batches.next().await.transpose()? {
            Some(batch) => {
                let piece = encoder.batch(&batch)?;
                Ok::<_, Error>(Some((piece, (Some(Ok(encoder)), batches))))
            }
            None => Ok(Some((encoder.finish()?, (None, batches)))),
        }
    });
    pieces.filter(|piece| std::future::ready(!matches!(piece, Ok(piece) if piece.is_empty()))).boxed()
}

/// Puts batches into one form.
enum Encoder {
    Text(Text),
    Table(TableText),
    Parquet { schema: SchemaRef, writer: Box<ArrowWriter<Vec<u8>>> },
    Arrow { schema: SchemaRef, writer: Box<StreamWriter<Vec<u8>>> },
}

impl Encoder {
    fn new(schema: &SchemaRef, encoding: Encoding) -> Result<Self> {
        let schema = unique_names(schema);
        Ok(match encoding {
            Encoding::Json => Self::Text(Text::json(&schema, true)),
            Encoding::JsonLines => Self::Text(Text::json(&schema, false)),
            Encoding::Csv => Self::Text(Text::csv(&schema)),
            Encoding::Table => Self::Table(TableText::new(&schema)),
            Encoding::Arrow => {
                let schema = tags::schema(&schema);
                let writer = Box::new(StreamWriter::try_new(Vec::new(), &schema)?);
                Self::Arrow { schema, writer }
            }
            Encoding::Parquet => {
                let level = ZstdLevel::try_new(1).map_err(parquet_failed)?;
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(level))
                    .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
                    .build();
                let writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties));
                Self::Parquet { schema, writer: Box::new(writer.map_err(parquet_failed)?) }
            }
        })
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<Bytes> {
        match self {
            Self::Text(text) => text.batch(batch),
            Self::Table(table) => table.batch(batch),
            Self::Parquet { schema, writer } => {
                let batch = RecordBatch::try_new(Arc::clone(schema), batch.columns().to_vec())?;
                writer.write(&batch).map_err(parquet_failed)?;
                Ok(std::mem::take(writer.inner_mut()).into())
            }
            Self::Arrow { schema, writer } => {
                let columns = batch.columns().iter().zip(schema.fields());
                let columns = columns.map(|(column, field)| tags::column(column, field)).collect::<Result<Vec<_>>>()?;
                let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                let batch = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?;
                // Columns may be parts of longer ones: what is written is about what their rows take.
                let bytes: usize = batch.columns().iter().map(|column| of_rows(&**column)).sum();
                writer.get_mut().reserve(bytes + bytes / 8);
                writer.write(&batch)?;
                Ok(std::mem::take(writer.get_mut()).into())
            }
        }
    }

    fn finish(self) -> Result<Bytes> {
        match self {
            Self::Text(text) => Ok(text.finish()),
            Self::Table(table) => table.finish(),
            Self::Arrow { mut writer, .. } => {
                writer.finish()?;
                Ok(std::mem::take(writer.get_mut()).into())
            }
            Self::Parquet { writer, .. } => Ok(writer.into_inner().map_err(parquet_failed)?.into()),
        }
    }
}

/// Bytes of a column's rows alone.
fn of_rows(column: &dyn Array) -> usize {
    column.to_data().get_slice_memory_size().unwrap_or(0)
}

fn parquet_failed(error: parquet::errors::ParquetError) -> Error {
    Error::wrap(Kind::Internal, "a result cannot be encoded as Parquet", error)
}

/// The schema with each name once.
fn unique_names(schema: &Schema) -> SchemaRef {
    let mut taken: HashSet<String> = HashSet::new();
    let all: HashSet<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let fields = schema.fields().iter().map(|field| {
        let mut name = field.name().clone();
        for number in 1.. {
            if taken.insert(name.clone()) {
                break;
            }
            name = format!("{}_{number}", field.name());
            if all.contains(name.as_str()) {
                name.push('_');
            }
        }
        field.as_ref().clone().with_name(name)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests;
