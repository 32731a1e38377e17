//! Sorted rows into one Parquet file in memory, with the statistics that its `add` needs.
//!
//! Encodings were chosen by measurement: delta binary packing for times and integers, a dictionary for tags, zstd over all.
//! Nothing here is beyond Spark's vectorized reader.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use weir_base::Kind;

use super::file::TagRange;
use super::layout::{stored_schema, times, to_stored};
use crate::error::{Error, Result};
use crate::schema::{FieldType, Role, SchemaRef, TIME, TIME_NS, TableSchema};

/// Rows of a row group: large enough to compress, small enough to prune.
const ROW_GROUP_ROWS: usize = 512 << 10;
const PAGE_ROWS: usize = 16 << 10;
const ZSTD_LEVEL: i32 = 1;
/// Statistics longer than this are cut.
const STAT_BYTES_MAX: usize = 64;

/// What a finished file holds.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) bytes: Bytes,
    pub(super) rows: u64,
    pub(super) time_min: i64,
    pub(super) time_max: i64,
    pub(super) tags: Vec<TagRange>,
}

/// Writes batches of sorted rows into one file.
#[derive(Debug)]
pub(super) struct Encoder {
    schema: SchemaRef,
    sub_micro: bool,
    writer: Option<ArrowWriter<Vec<u8>>>,
    rows: u64,
    time_min: i64,
    time_max: i64,
    tags: HashMap<String, Extent>,
}

#[derive(Debug, Default)]
struct Extent {
    min: Option<String>,
    max: Option<String>,
    nulls: u64,
}

fn failed(error: parquet::errors::ParquetError) -> Error {
    Error::wrap(Kind::Internal, "rows cannot be encoded as Parquet", error)
}

impl Encoder {
    pub(super) fn new(schema: SchemaRef, sub_micro: bool) -> Self {
        let (time_min, time_max) = (i64::MAX, i64::MIN);
        Self { schema, sub_micro, writer: None, rows: 0, time_min, time_max, tags: HashMap::new() }
    }

    /// Appends rows in the logical layout; they must follow all before in the sort order.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let stored = to_stored(batch, &self.schema, self.sub_micro)?;
        let nanos = times(batch)?.values();
        let (mut low, mut high) = (self.time_min, self.time_max);
        for &time in nanos {
            low = low.min(time);
            high = high.max(time);
        }
        (self.time_min, self.time_max) = (low, high);
        for (_, column) in self.schema.tags() {
            let extent = self.tags.entry(column.name.clone()).or_default();
            match batch.column_by_name(&column.name) {
                Some(array) => extent.extend(array)?,
                None => extent.nulls += batch.num_rows() as u64,
            }
        }
        self.rows += batch.num_rows() as u64;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let options = ArrowWriterOptions::new()
                    .with_properties(properties(&self.schema, self.sub_micro))
                    .with_skip_arrow_metadata(true);
                self.writer
                    .insert(ArrowWriter::try_new_with_options(Vec::new(), stored.schema(), options).map_err(failed)?)
            }
        };
        writer.write(&stored).map_err(failed)
    }

    /// Bytes that the file has so far, roughly.
    pub(super) fn bytes_so_far(&self) -> usize {
        self.writer.as_ref().map_or(0, |writer| writer.bytes_written() + writer.in_progress_size())
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn finish(self) -> Result<Encoded> {
        let writer = match self.writer {
            Some(writer) => writer,
            None => {
                ArrowWriter::try_new(Vec::new(), stored_schema(&self.schema, self.sub_micro), None).map_err(failed)?
            }
        };
        let bytes = writer.into_inner().map_err(failed)?.into();
        let mut tags = self.tags;
        let ranges = self.schema.tags().filter_map(|(_, column)| Some((column, tags.remove(&column.name)?)));
        let tags = ranges.map(|(column, extent)| extent.into_range(&column.name)).collect();
        Ok(Encoded { bytes, rows: self.rows, time_min: self.time_min, time_max: self.time_max, tags })
    }
}

impl Extent {
    fn take(&mut self, value: &str) {
        if self.min.as_deref().is_none_or(|min| value < min) {
            self.min = Some(value.to_owned());
        }
        if self.max.as_deref().is_none_or(|max| value > max) {
            self.max = Some(value.to_owned());
        }
    }

    fn extend(&mut self, array: &ArrayRef) -> Result<()> {
        self.nulls += array.logical_null_count() as u64;
        match array.data_type() {
            DataType::Utf8View => array.as_string_view().iter().flatten().for_each(|value| self.take(value)),
            DataType::Utf8 => array.as_string::<i32>().iter().flatten().for_each(|value| self.take(value)),
            DataType::Dictionary(_, _) => {
                let dictionary = array.as_any_dictionary();
                let mut used = vec![false; dictionary.values().len()];
                let keys = dictionary.normalized_keys();
                for (row, key) in keys.into_iter().enumerate() {
                    if !dictionary.keys().is_null(row) {
                        used[key] = true;
                    }
                }
                let values = arrow::compute::cast(dictionary.values(), &DataType::Utf8View)
                    .map_err(|error| Error::wrap(Kind::Internal, "a tag column is not of strings", error))?;
                let values = values.as_string_view();
                let live = used.iter().enumerate().filter(|(index, used)| **used && !values.is_null(*index));
                live.for_each(|(index, _)| self.take(values.value(index)));
            }
            other => {
                return Err(Error::new(Kind::Internal, format!("a tag column to be stored is of type {other}")));
            }
        }
        Ok(())
    }

    fn into_range(self, name: &str) -> TagRange {
        TagRange {
            name: name.to_owned(),
            min: self.min.map(cut_min),
            max: self.max.and_then(cut_max),
            nulls: Some(self.nulls),
        }
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(STAT_BYTES_MAX)]
}

/// A prefix is never larger than the text.
fn cut_min(text: String) -> String {
    if text.len() <= STAT_BYTES_MAX { text } else { cut(&text).to_owned() }
}

/// A prefix and the largest character is never smaller than the text, unless that character follows the prefix in it.
fn cut_max(text: String) -> Option<String> {
    if text.len() <= STAT_BYTES_MAX {
        return Some(text);
    }
    let prefix = cut(&text);
    (!text[prefix.len()..].starts_with(char::MAX)).then(|| format!("{prefix}{}", char::MAX))
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
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_statistics_still_bound_their_text() {
        for text in ["short".to_owned(), "é".repeat(50), "x".repeat(65), format!("{}{}", "y".repeat(64), "z\u{10FFFF}")]
        {
            assert!(cut_min(text.clone()) <= text);
            assert!(cut_max(text.clone()).unwrap() >= text);
            assert!(cut_min(text.clone()).len() <= STAT_BYTES_MAX);
        }
        assert_eq!(cut_max(format!("{}\u{10FFFF}\u{10FFFF}", "x".repeat(64))), None);
    }
}
