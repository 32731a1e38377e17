//! CSV, JSON lines and Parquet as line protocol: read as Arrow columns, written row by row.

use std::io::{BufReader, Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampNanosecondType, UInt64Type,
};
use clap::Args;

use super::lines::Batch;

/// Rows of a batch.
const BATCH_ROWS: usize = 10_000;
/// Text from which the types of CSV and JSON columns are inferred.
const SAMPLE_BYTES: usize = 1 << 20;

/// Which column is what; not for line protocol, which says so itself.
#[derive(Debug, Clone, Args)]
pub(crate) struct Mapping {
    /// The table to write (csv, jsonl, parquet).
    #[arg(long, value_name = "NAME")]
    pub(super) table: Option<String>,
    /// Columns that are tags; all others are fields (csv, jsonl, parquet).
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(super) tags: Vec<String>,
    /// The column with the time: a timestamp, RFC 3339 text, or a number in --precision (csv, jsonl, parquet).
    #[arg(long, value_name = "COLUMN", default_value = "time")]
    pub(super) time: String,
}

/// Line protocol from columns, a batch at a time.
pub(super) type Lines<'a> = Box<dyn Iterator<Item = Result<Batch>> + 'a>;

/// Of CSV with a header line.
pub(super) fn of_csv<'a>(input: Box<dyn Read + Send + 'a>, mapping: &Mapping, unit: i64) -> Result<Lines<'a>> {
    let Begun { sample, whole } = begin(input)?;
    let format = arrow::csv::reader::Format::default().with_header(true);
    let (schema, _) = format.infer_schema(&sample[..], None).context("cannot read the CSV header")?;
    let reader = arrow::csv::ReaderBuilder::new(Arc::new(schema))
        .with_header(true)
        .with_batch_size(BATCH_ROWS)
        .build(whole)
        .context("cannot read the CSV file")?;
    lines(reader.schema(), reader.map(|batch| batch.context("cannot read the CSV file on")), mapping, unit)
}

/// Of one JSON object a line.
pub(super) fn of_jsonl<'a>(input: Box<dyn Read + Send + 'a>, mapping: &Mapping, unit: i64) -> Result<Lines<'a>> {
    let Begun { sample, whole } = begin(input)?;
    let (schema, _) = arrow::json::reader::infer_json_schema(BufReader::new(&sample[..]), None)
        .context("cannot read the JSON lines")?;
    let reader = arrow::json::ReaderBuilder::new(Arc::new(schema))
        .with_batch_size(BATCH_ROWS)
        .build(BufReader::new(whole))
        .context("cannot read the JSON lines")?;
    lines(
        arrow::array::RecordBatchReader::schema(&reader),
        reader.map(|batch| batch.context("cannot read the JSON lines on")),
        mapping,
        unit,
    )
}

/// Of a Parquet file, which must be a file: its index is at its end.
#[allow(clippy::disallowed_methods, reason = "a file of the user's, not of the database")]
pub(super) fn of_parquet(path: &Path, mapping: &Mapping, unit: i64) -> Result<Lines<'static>> {
    if path == Path::new("-") {
        bail!("a Parquet file cannot come from standard input");
    }
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.with_batch_size(BATCH_ROWS).build())
        .context("cannot read the Parquet file")?;
    let schema = arrow::array::RecordBatchReader::schema(&reader);
    lines(schema, reader.map(|batch| batch.context("cannot read the Parquet file on")), mapping, unit)
}

/// Text of which the beginning was looked at: the types of its columns come from there.
struct Begun<'a> {
    /// Whole lines from the beginning.
    sample: Vec<u8>,
    /// All of it, still to be read.
    whole: Box<dyn Read + Send + 'a>,
}

/// Only the sample is held; the rest is read as it is needed.
fn begin<'a>(mut input: Box<dyn Read + Send + 'a>) -> Result<Begun<'a>> {
    let mut begun = Vec::new();
    let read = input.by_ref().take(SAMPLE_BYTES as u64).read_to_end(&mut begun).context("cannot read the file")?;
    let mut sample = begun.clone();
    if read == SAMPLE_BYTES {
        sample.truncate(memchr::memrchr(b'\n', &begun).map_or(SAMPLE_BYTES, |end| end + 1));
    }
    Ok(Begun { sample, whole: Box::new(Cursor::new(begun).chain(input)) })
}

fn lines<'a>(
    schema: SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch>> + 'a,
    mapping: &Mapping,
    unit: i64,
) -> Result<Lines<'a>> {
    let writer = RowWriter::new(&schema, mapping, unit)?;
    let mut first_line = 1;
    Ok(Box::new(batches.map(move |batch| {
        let batch = batch?;
        let text = writer.write(&batch)?;
        let numbered = Batch { text, first_line };
        first_line += batch.num_rows() as u64;
        Ok(numbered)
    })))
}

/// Writes rows of one schema.
pub(crate) struct RowWriter {
    head: Vec<u8>,
    /// Index and `,name=`, in order of name: the canonical form, which the server recognises without sorting.
    tags: Vec<(usize, Vec<u8>)>,
    /// Index, `name=`, and the type to cast to.
    fields: Vec<(usize, Vec<u8>, DataType)>,
    time: usize,
    unit: i64,
}

impl RowWriter {
    /// Of a table of Weir's.
    pub(crate) fn of_table(schema: &Schema, table: &str, tags: &[String]) -> Result<Self> {
        let time = weir_engine::schema::TIME.to_owned();
        Self::new(schema, &Mapping { table: Some(table.to_owned()), tags: tags.to_vec(), time }, 1)
    }

    fn new(schema: &Schema, mapping: &Mapping, unit: i64) -> Result<Self> {
        let table = mapping.table.as_deref().context("--table is needed")?;
        let index = |name: &str| {
            let known = || schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
            schema.index_of(name).map_err(|_| anyhow::anyhow!("there is no column '{name}' (columns: {})", known()))
        };
        let time = index(&mapping.time)?;
        let mut names: Vec<&str> = mapping.tags.iter().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        let mut tags = Vec::new();
        for name in names {
            tags.push((index(name)?, [b",".as_slice(), &escaped(name, b",= "), b"="].concat()));
        }
        let is_field = |at: usize| at != time && tags.iter().all(|(tag, _)| *tag != at);
        let fields: Vec<_> = schema
            .fields()
            .iter()
            .enumerate()
            .filter(|(at, _)| is_field(*at))
            .map(|(at, field)| {
                (at, [escaped(field.name(), b",= ").as_slice(), b"="].concat(), field_type(field.data_type()))
            })
            .collect();
        if fields.is_empty() {
            bail!("there is no column left for a field");
        }
        Ok(Self { head: escaped(table, b", "), tags, fields, time, unit })
    }

    /// The rows as lines. One without any value has none that the server takes.
    pub(crate) fn write(&self, batch: &RecordBatch) -> Result<Vec<u8>> {
        let cast = |at: usize, to: &DataType| -> Result<ArrayRef> {
            let options = CastOptions { safe: false, ..CastOptions::default() };
            cast_with_options(batch.column(at), to, &options)
                .with_context(|| format!("column '{}' does not read as {to}", batch.schema().field(at).name()))
        };
        let times = self.times(batch, &cast)?;
        let tags: Vec<_> =
            self.tags.iter().map(|(at, head)| Ok((cast(*at, &DataType::Utf8)?, head))).collect::<Result<_>>()?;
        let fields: Vec<_> =
            self.fields.iter().map(|(at, head, to)| Ok((cast(*at, to)?, head))).collect::<Result<_>>()?;
        let mut text = Vec::with_capacity(batch.num_rows() * 64);
        for (row, time) in times.iter().enumerate() {
            text.extend_from_slice(&self.head);
            for (tag, head) in &tags {
                let value = tag.as_string::<i32>();
                if value.is_valid(row) && !value.value(row).is_empty() {
                    text.extend_from_slice(head);
                    text.extend_from_slice(&escaped(value.value(row), b",= "));
                }
            }
            let mut separator = b' ';
            for (field, head) in &fields {
                if let Some(value) = field_text(field.as_ref(), row) {
                    text.push(separator);
                    text.extend_from_slice(head);
                    text.extend_from_slice(&value);
                    separator = b',';
                }
            }
            text.extend_from_slice(format!(" {time}\n").as_bytes());
        }
        Ok(text)
    }

    /// Times in nanoseconds; a bare number counts in the unit that was given.
    fn times(&self, batch: &RecordBatch, cast: &dyn Fn(usize, &DataType) -> Result<ArrayRef>) -> Result<Vec<i64>> {
        let (values, unit) = match batch.column(self.time).data_type() {
            number if number.is_integer() => (cast(self.time, &DataType::Int64)?, self.unit),
            _ => {
                let stamps = cast(self.time, &DataType::Timestamp(TimeUnit::Nanosecond, None))?;
                let stamps = stamps.as_primitive::<TimestampNanosecondType>().reinterpret_cast::<Int64Type>();
                (Arc::new(stamps) as ArrayRef, 1)
            }
        };
        if values.null_count() > 0 {
            bail!("column '{}' has rows without a time", batch.schema().field(self.time).name());
        }
        values
            .as_primitive::<Int64Type>()
            .values()
            .iter()
            .map(|value| value.checked_mul(unit).with_context(|| format!("time {value} is out of range")))
            .collect()
    }
}

/// The type that a field of a column's type gets.
fn field_type(from: &DataType) -> DataType {
    match from {
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => DataType::UInt64,
        signed if signed.is_signed_integer() => DataType::Int64,
        number if number.is_numeric() => DataType::Float64,
        DataType::Boolean => DataType::Boolean,
        _ => DataType::Utf8,
    }
}

/// A value as line protocol spells it; none for NULL and for floats that it cannot spell.
fn field_text(field: &dyn Array, row: usize) -> Option<Vec<u8>> {
    if field.is_null(row) {
        return None;
    }
    match field.data_type() {
        DataType::Int64 => Some(format!("{}i", field.as_primitive::<Int64Type>().value(row)).into_bytes()),
        DataType::UInt64 => Some(format!("{}u", field.as_primitive::<UInt64Type>().value(row)).into_bytes()),
        DataType::Float64 => {
            let value = field.as_primitive::<Float64Type>().value(row);
            value.is_finite().then(|| value.to_string().into_bytes())
        }
        DataType::Boolean => Some(field.as_boolean().value(row).to_string().into_bytes()),
        _ => {
            let value = escaped(field.as_string_opt::<i32>()?.value(row), b"\"\\");
            Some([b"\"".as_slice(), &value, b"\""].concat())
        }
    }
}

/// `text` with a backslash before each of `special`. Newlines in keys cannot be spelled and become spaces.
fn escaped(text: &str, special: &[u8]) -> Vec<u8> {
    let in_quotes = special.contains(&b'"');
    let mut out = Vec::with_capacity(text.len() + 2);
    for byte in text.bytes() {
        let byte = if byte == b'\n' && !in_quotes { b' ' } else { byte };
        if special.contains(&byte) {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(tags: &[&str], time: &str) -> Mapping {
        Mapping {
            table: Some("my table".into()),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            time: time.into(),
        }
    }

    fn text_of(lines: Lines) -> String {
        lines.map(|batch| String::from_utf8(batch.unwrap().text).unwrap()).collect()
    }

    #[test]
    fn csv_becomes_lines() {
        let csv = "time,host,v,n,ok,note\n\
            2024-01-01T00:00:00.5Z,a b,1.5,3,true,\"say \"\"hi\"\"\"\n\
            2024-01-01T00:00:01Z,,2,,false,\n";
        let lines = of_csv(Box::new(csv.as_bytes()), &mapping(&["host"], "time"), 1).unwrap();
        assert_eq!(
            text_of(lines),
            "my\\ table,host=a\\ b v=1.5,n=3i,ok=true,note=\"say \\\"hi\\\"\" 1704067200500000000\n\
             my\\ table v=2,ok=false 1704067201000000000\n"
        );
    }

    /// A batch that begins behind the sample, and a line that lies across its end.
    #[test]
    fn text_past_the_sample_is_read_as_it_comes() {
        let rows = 3 * SAMPLE_BYTES / 20;
        let csv: String = std::iter::once("time,v\n".to_owned())
            .chain((0..rows).map(|row| format!("{row},1.25000000000\n")))
            .collect();
        assert!(csv.len() > 2 * SAMPLE_BYTES);
        let text = text_of(of_csv(Box::new(csv.as_bytes()), &mapping(&[], "time"), 1).unwrap());
        assert_eq!(text.lines().count(), rows);
        assert_eq!(text.lines().last().unwrap(), format!("my\\ table v=1.25 {}", rows - 1));
        let json: String = (0..rows).map(|row| format!("{{\"time\": {row}, \"v\": 1.5}}\n")).collect();
        let text = text_of(of_jsonl(Box::new(json.as_bytes()), &mapping(&[], "time"), 1).unwrap());
        assert_eq!(text.lines().count(), rows);
    }

    #[test]
    fn json_lines_become_lines_with_times_in_the_given_unit() {
        let json = "{\"t\": 5, \"z\": \"q\", \"a\": \"x=y\", \"v\": -1}\n{\"t\": 6, \"a\": \"b\", \"v\": 7}\n";
        let lines = of_jsonl(Box::new(json.as_bytes()), &mapping(&["z", "a"], "t"), 1_000_000_000).unwrap();
        assert_eq!(text_of(lines), "my\\ table,a=x\\=y,z=q v=-1i 5000000000\nmy\\ table,a=b v=7i 6000000000\n");
    }

    #[test]
    fn a_missing_column_is_named_with_those_that_are_there() {
        let error = of_csv(Box::new(&b"a,b\n1,2\n"[..]), &mapping(&[], "time"), 1).err().unwrap();
        assert_eq!(error.to_string(), "there is no column 'time' (columns: a, b)");
    }
}
