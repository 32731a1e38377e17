//! Sorted rows into one Parquet file in memory, with the statistics that its `add` needs.
//!
//! Encodings were chosen by measurement: delta binary packing for times and integers, runs over a dictionary for tags, zstd over
//! all. Nothing here is beyond Spark's vectorized reader.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use weir_base::Kind;

use super::file::TagRange;
use super::layout::{stored_schema, times, to_stored};
use super::tags::{Extent, TagChunk, cut_max, cut_min};
use crate::error::{Error, Result};
use crate::schema::{FieldType, Role, SchemaRef, TIME, TIME_NS, TableSchema};

/// Rows of a row group: large enough to compress, small enough to prune.
pub(crate) const ROW_GROUP_ROWS: usize = 128 << 10;
const PAGE_ROWS: usize = 16 << 10;
const ZSTD_LEVEL: i32 = 1;

/// What a finished file holds.
#[derive(Debug)]
pub(super) struct Encoded {
    /// All that was not taken before.
    pub(super) bytes: Bytes,
    pub(super) rows: u64,
    pub(super) time_min: i64,
    pub(super) time_max: i64,
    pub(super) tags: Vec<TagRange>,
}

/// Writes batches of sorted rows into one file.
pub(super) struct Encoder {
    schema: SchemaRef,
    sub_micro: bool,
    /// The stored layout, with the string type that the rows come in.
    stored: Arc<Schema>,
    file: Option<SerializedFileWriter<Vec<u8>>>,
    group: Option<Group>,
    rows: u64,
    time_min: i64,
    time_max: i64,
    /// One for each tag of the schema.
    extents: Vec<Extent>,
}

/// A row group in progress: one part for each column.
struct Group {
    columns: Vec<Part>,
    rows: usize,
}

enum Part {
    Tag(TagChunk),
    Other(Box<ArrowColumnWriter>),
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("rows", &self.rows).finish_non_exhaustive()
    }
}

fn failed(error: parquet::errors::ParquetError) -> Error {
    Error::wrap(Kind::Internal, "rows cannot be encoded as Parquet", error)
}

impl Encoder {
    pub(super) fn new(schema: SchemaRef, sub_micro: bool) -> Self {
        let views = |field: &Arc<Field>| match field.data_type() {
            DataType::Utf8 => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
            _ => Arc::clone(field),
        };
        let stored = stored_schema(&schema, sub_micro).fields().iter().map(views).collect::<Vec<_>>();
        let extents = vec![Extent::default(); schema.tags().count()];
        Self {
            schema,
            sub_micro,
            stored: Arc::new(Schema::new(stored)),
            file: None,
            group: None,
            rows: 0,
            time_min: i64::MAX,
            time_max: i64::MIN,
            extents,
        }
    }

    /// Appends rows in the logical layout; they must follow all before in the sort order.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let nanos = times(batch)?.values();
        let (mut low, mut high) = (self.time_min, self.time_max);
        for &time in nanos {
            low = low.min(time);
            high = high.max(time);
        }
        (self.time_min, self.time_max) = (low, high);
        let stored = to_stored(batch, &self.schema, self.sub_micro)?;
        let mut start = 0;
        while start < stored.num_rows() {
            let held = self.group.as_ref().map_or(0, |group| group.rows);
            let rows = (stored.num_rows() - start).min(ROW_GROUP_ROWS - held);
            self.write_part(&stored.slice(start, rows))?;
            start += rows;
            if held + rows == ROW_GROUP_ROWS {
                self.close_group()?;
            }
        }
        Ok(())
    }

    /// Appends rows that fit into the row group.
    fn write_part(&mut self, stored: &RecordBatch) -> Result<()> {
        let mut group = match self.group.take() {
            Some(group) => group,
            None => self.open_group().map_err(failed)?,
        };
        for ((part, field), array) in group.columns.iter_mut().zip(self.stored.fields()).zip(stored.columns()) {
            part.write(field, array).map_err(failed)?;
        }
        group.rows += stored.num_rows();
        self.rows += stored.num_rows() as u64;
        self.group = Some(group);
        Ok(())
    }

    fn open_group(&mut self) -> parquet::errors::Result<Group> {
        let stored = Arc::clone(&self.stored);
        let file = self.open_file()?;
        let index = file.flushed_row_groups().len();
        let factory = ArrowRowGroupWriterFactory::new(file, stored);
        let writers = factory.create_column_writers(index)?;
        let first = 1 + usize::from(self.sub_micro);
        let is_tag = |index: usize| index >= first && self.schema.columns()[index - first].role == Role::Tag;
        let part = |(index, writer)| {
            if is_tag(index) { Part::Tag(TagChunk::default()) } else { Part::Other(Box::new(writer)) }
        };
        Ok(Group { columns: writers.into_iter().enumerate().map(part).collect(), rows: 0 })
    }

    fn open_file(&mut self) -> parquet::errors::Result<&mut SerializedFileWriter<Vec<u8>>> {
        if self.file.is_none() {
            let properties = properties(&self.schema, self.sub_micro);
            let schema = ArrowSchemaConverter::new().convert(&self.stored)?;
            let file = SerializedFileWriter::new(Vec::new(), schema.root_schema_ptr(), Arc::new(properties))?;
            self.file = Some(file);
        }
        Ok(self.file.as_mut().expect("made above"))
    }

    fn close_group(&mut self) -> Result<()> {
        let Some(group) = self.group.take() else { return Ok(()) };
        let mut extents = self.extents.iter_mut();
        for part in &group.columns {
            if let Part::Tag(chunk) = part {
                chunk.widen(extents.next().expect("one for each tag"));
            }
        }
        self.append_group(group).map_err(failed)
    }

    fn append_group(&mut self, group: Group) -> parquet::errors::Result<()> {
        let file = self.open_file()?;
        let columns = file.schema_descr().columns().to_vec();
        let mut row_group = file.next_row_group()?;
        for (part, column) in group.columns.into_iter().zip(&columns) {
            match part {
                Part::Tag(chunk) => {
                    let (bytes, close) = chunk.finish(column, PAGE_ROWS, ZSTD_LEVEL)?;
                    row_group.append_column(&bytes, close)?;
                }
                Part::Other(writer) => writer.close()?.append_to_row_group(&mut row_group)?,
            }
        }
        row_group.close().map(|_| ())
    }

    /// Bytes that the file has so far, roughly.
    pub(super) fn bytes_so_far(&self) -> usize {
        let open = self.group.as_ref().map_or(0, |group| group.columns.iter().map(Part::bytes).sum());
        self.file.as_ref().map_or(0, SerializedFileWriter::bytes_written) + open
    }

    /// Takes the first `bytes` of what is encoded and not taken yet, if there are so many. What [`Encoder::finish`] gives follows it.
    pub(super) fn take(&mut self, bytes: usize) -> Option<Bytes> {
        // Only taken from, never written to: the offsets in the footer count what was written.
        let ready = self.file.as_mut()?.inner_mut();
        if ready.len() < bytes {
            return None;
        }
        let rest = ready.split_off(bytes);
        Some(std::mem::replace(ready, rest).into())
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn finish(mut self) -> Result<Encoded> {
        self.close_group()?;
        self.open_file().map_err(failed)?;
        let file = self.file.take().expect("opened above");
        let bytes = file.into_inner().map_err(failed)?.into();
        let range = |((_, column), extent): ((usize, &crate::schema::Column), &Extent)| TagRange {
            name: column.name.clone(),
            min: extent.min.as_deref().map(cut_min),
            max: extent.max.as_deref().and_then(cut_max),
            nulls: Some(extent.nulls),
        };
        let tags = self.schema.tags().zip(&self.extents).map(range).collect();
        Ok(Encoded { bytes, rows: self.rows, time_min: self.time_min, time_max: self.time_max, tags })
    }
}

impl Part {
    fn write(&mut self, field: &Field, array: &ArrayRef) -> parquet::errors::Result<()> {
        match self {
            Part::Tag(chunk) if *array.data_type() == DataType::Null => {
                chunk.extend_nulls(array.len());
                Ok(())
            }
            Part::Tag(chunk) => chunk.extend(array),
            Part::Other(writer) => {
                let cast =
                    (array.data_type() != field.data_type()).then(|| arrow::compute::cast(array, field.data_type()));
                let array = cast.transpose()?.unwrap_or_else(|| Arc::clone(array));
                compute_leaves(field, &array)?.iter().try_for_each(|leaf| writer.write(leaf))
            }
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Part::Tag(chunk) => chunk.bytes(),
            Part::Other(writer) => writer.get_estimated_total_bytes(),
        }
    }
}

fn properties(schema: &TableSchema, sub_micro: bool) -> WriterProperties {
    let packed = |builder: WriterPropertiesBuilder, name: &str| {
        let path = ColumnPath::from(name.to_owned());
        builder
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED)
    };
    let mut builder = WriterProperties::builder()
        .set_created_by(concat!("weir ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL).unwrap_or_default()))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_sorting_columns(Some(sorting(schema, sub_micro)));
    builder = packed(builder, TIME);
    if sub_micro {
        builder = packed(builder, TIME_NS);
    }
    for (_, column, kind) in schema.fields() {
        if kind == FieldType::I64 {
            builder = packed(builder, &column.stored);
        }
    }
    builder.build()
}

/// The sort order of a file: tags, nulls first, then the time. Positions are those of [`stored_schema`].
fn sorting(schema: &TableSchema, sub_micro: bool) -> Vec<SortingColumn> {
    let ascending = |column_idx| SortingColumn { column_idx, descending: false, nulls_first: true };
    let first = 1 + i32::from(sub_micro);
    let tags = (first..).zip(schema.columns()).filter(|(_, column)| column.role == Role::Tag);
    tags.map(|(index, _)| ascending(index)).chain((0..first).map(ascending)).collect()
}
