//! The filling of one partition: which rows come out, and from where each of their values is taken.
//!
//! A row that comes out is a list of places: for every column the batch and row that its value is copied from. Source 0
//! is one row with what empty buckets hold, source 1 one row with what is remembered of batches that are gone, then come
//! the batches of the [`Window`]. Only buckets and interpolated values are computed. So a gap of any length costs memory
//! for one batch of output.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::{cast, interleave, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::common::{Result, ScalarValue};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryReservation;

use super::lookahead::{Line, Number, Place, Window, out_of_range};
use super::rule::past_limit;
use super::{Fill, GapFill, Range};

/// Sources of values that are no batch of the input.
const EMPTY: usize = 0;
const KEPT: usize = 1;
const BATCHES: usize = 2;

/// The columns of a filling.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) schema: SchemaRef,
    pub(super) fills: Vec<Fill>,
    /// Columns that tell series apart.
    pub(super) keys: Vec<usize>,
    pub(super) bucket: usize,
    pub(super) range: Range,
}

impl Shape {
    pub(super) fn new(node: &GapFill, input: &SchemaRef) -> Result<Self> {
        let keys = (0..node.fills.len()).filter(|&index| node.fills[index] == Fill::Key).collect();
        let fields = input.fields().iter().zip(&node.fills).map(|(field, fill)| {
            let made_null = match fill {
                Fill::Key | Fill::Bucket => false,
                Fill::Empty(value) => value.is_null(),
                Fill::Previous | Fill::Linear => true,
            };
            Field::clone(field).with_nullable(field.is_nullable() || made_null)
        });
        let schema = Schema::new_with_metadata(fields.collect::<Vec<_>>(), input.metadata().clone());
        let (fills, bucket, range) = (node.fills.clone(), node.bucket(), node.range);
        Ok(Self { schema: Arc::new(schema), fills, keys, bucket, range })
    }

    pub(super) fn key_converter(&self) -> Result<Option<RowConverter>> {
        let fields = self.keys.iter().map(|&key| SortField::new(self.schema.field(key).data_type().clone()));
        Ok(if self.keys.is_empty() { None } else { Some(RowConverter::new(fields.collect())?) })
    }

    /// What an empty bucket holds.
    fn empty(&self) -> Result<Vec<ArrayRef>> {
        let value = |(field, fill): (&Arc<Field>, &Fill)| match fill {
            Fill::Empty(value) => value.cast_to(field.data_type())?.to_array(),
            _ => ScalarValue::try_from(field.data_type())?.to_array(),
        };
        self.schema.fields().iter().zip(&self.fills).map(value).collect()
    }
}

/// Where a value comes from: a source and a row in it.
type Source = (usize, usize);

/// The series that is being filled.
struct Series {
    key: Option<OwnedRow>,
    /// The bucket that comes next.
    next: u64,
    /// A row with the values of the keys.
    sample: Source,
    /// For each column the last value, of those that are carried forward.
    previous: Vec<Source>,
}

/// Fills one partition.
pub(super) struct Filler {
    shape: Arc<Shape>,
    window: Window,
    cursor: Place,
    series: Option<Series>,
    lines: Vec<Line>,
    empty: Vec<ArrayRef>,
    kept: Vec<ArrayRef>,
    out: Output,
    batch_rows: usize,
    made: Arc<AtomicU64>,
    rows_max: u64,
}

/// Rows that wait to be put together.
#[derive(Default)]
struct Output {
    /// For each column, where its values come from; empty for those that are computed.
    sources: Vec<Vec<Source>>,
    buckets: Vec<Option<i64>>,
    /// For each interpolated column its values.
    numbers: VecDeque<Vec<Option<Number>>>,
    /// Rows that were made up.
    made: u64,
}

impl Filler {
    pub(super) fn try_new(
        input: SendableRecordBatchStream,
        shape: Arc<Shape>,
        batch_rows: usize,
        (made, rows_max): (Arc<AtomicU64>, u64),
        memory: MemoryReservation,
    ) -> Result<Self> {
        let linear = (0..shape.fills.len()).filter(|&index| shape.fills[index] == Fill::Linear);
        let empty = shape.empty()?;
        let mut filler = Self {
            window: Window::try_new(input, &shape, memory)?,
            cursor: Place { batch: 0, row: 0 },
            series: None,
            lines: linear.map(Line::new).collect(),
            kept: empty.clone(),
            empty,
            out: Output::default(),
            batch_rows: batch_rows.max(1),
            made,
            rows_max,
            shape,
        };
        filler.out = filler.no_output();
        Ok(filler)
    }

    fn no_output(&self) -> Output {
        Output {
            sources: vec![Vec::new(); self.shape.fills.len()],
            numbers: self.lines.iter().map(|_| Vec::new()).collect(),
            ..Output::default()
        }
    }

    /// The next rows; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while self.out.buckets.len() < self.batch_rows {
            match self.step()? {
                Step::Went => {}
                Step::NeedsInput => self.window.load().await?,
                Step::Ended => break,
            }
        }
        if self.out.buckets.is_empty() {
            return Ok(None);
        }
        self.put_together().map(Some)
    }

    /// Goes on by one row.
    fn step(&mut self) -> Result<Step> {
        let read = self.window.has(self.cursor);
        if !read && !self.window.ended {
            return Ok(Step::NeedsInput);
        }
        let Some(series) = &self.series else {
            if !read {
                return Ok(Step::Ended);
            }
            self.start_series();
            return Ok(Step::Went);
        };
        for line in &mut self.lines {
            if !line.look(&self.window, series.key.as_ref())? {
                return Ok(Step::NeedsInput);
            }
        }
        let row = (read && self.window.is_of(self.cursor, series.key.as_ref())).then_some(self.cursor);
        let wanted = (series.next < self.shape.range.count).then(|| self.shape.range.at(series.next));
        let bucket = row.and_then(|row| self.window.bucket(row));
        match (row, wanted) {
            (Some(_), Some(wanted)) if bucket.is_none_or(|bucket| wanted < bucket) => self.make_row(wanted)?,
            (Some(row), wanted) => self.copy_row(row, bucket, wanted),
            (None, Some(wanted)) => self.make_row(wanted)?,
            (None, None) => self.series = None,
        }
        Ok(Step::Went)
    }

    fn start_series(&mut self) {
        let key = self.window.series(self.cursor);
        let previous = vec![(EMPTY, 0); self.shape.fills.len()];
        for line in &mut self.lines {
            line.start(self.cursor);
        }
        let sample = self.source(self.cursor);
        self.series = Some(Series { key, next: 0, sample, previous });
    }

    fn source(&self, place: Place) -> Source {
        (BATCHES + place.batch - self.window.first(), place.row)
    }

    /// An empty bucket.
    fn make_row(&mut self, bucket: i64) -> Result<()> {
        if self.made.load(Ordering::Relaxed).saturating_add(self.out.made) >= self.rows_max {
            return Err(past_limit("the query fills more rows", self.rows_max));
        }
        self.out.made += 1;
        self.add_row(None, Some(bucket));
        if let Some(series) = &mut self.series {
            series.next += 1;
        }
        Ok(())
    }

    /// A row of the input, whose bucket may be the one that comes next.
    fn copy_row(&mut self, row: Place, bucket: Option<i64>, wanted: Option<i64>) {
        let source = self.source(row);
        if let Some(series) = &mut self.series {
            series.sample = source;
            series.next += u64::from(bucket.is_some() && bucket == wanted);
            for (column, fill) in self.shape.fills.iter().enumerate() {
                if *fill == Fill::Previous && self.window.is_valid(row, column) {
                    series.previous[column] = source;
                }
            }
        }
        self.add_row(Some(row), bucket);
        self.cursor = self.window.after(row);
    }

    fn add_row(&mut self, row: Option<Place>, bucket: Option<i64>) {
        let Some(series) = &self.series else { return };
        let own = row.map(|row| self.source(row));
        for (column, fill) in self.shape.fills.iter().enumerate() {
            self.out.sources[column].push(match fill {
                Fill::Key => own.unwrap_or(series.sample),
                Fill::Empty(_) => own.unwrap_or((EMPTY, 0)),
                Fill::Previous => series.previous[column],
                Fill::Bucket | Fill::Linear => continue,
            });
        }
        for (line, numbers) in self.lines.iter_mut().zip(&mut self.out.numbers) {
            numbers.push(bucket.and_then(|bucket| line.at(bucket, row, &self.window)));
        }
        self.out.buckets.push(bucket);
    }

    fn put_together(&mut self) -> Result<RecordBatch> {
        let empty = self.no_output();
        let mut out = std::mem::replace(&mut self.out, empty);
        self.made.fetch_add(out.made, Ordering::Relaxed);
        let mut columns = Vec::with_capacity(self.shape.fills.len());
        for (column, fill) in self.shape.fills.iter().enumerate() {
            let kind = self.shape.schema.field(column).data_type();
            columns.push(match fill {
                Fill::Bucket => cast(&Int64Array::from(std::mem::take(&mut out.buckets)), kind)?,
                Fill::Linear => numbers(&out.numbers.pop_front().unwrap_or_default(), kind)?,
                _ => interleave(&self.sources(column), &out.sources[column])?,
            });
        }
        self.forget()?;
        Ok(RecordBatch::try_new(Arc::clone(&self.shape.schema), columns)?)
    }

    fn sources(&self, column: usize) -> Vec<&dyn Array> {
        let own = [self.empty[column].as_ref(), self.kept[column].as_ref()];
        own.into_iter().chain(self.window.batches().map(|batch| batch.column(column).as_ref())).collect()
    }

    /// Copies what later rows need out of the batches that are done, and lets go of those.
    fn forget(&mut self) -> Result<()> {
        if let Some(mut series) = self.series.take() {
            let mut kept = self.kept.clone();
            for (column, fill) in self.shape.fills.iter().enumerate() {
                let source = match fill {
                    Fill::Key => &mut series.sample.clone(),
                    Fill::Previous => &mut series.previous[column],
                    _ => continue,
                };
                if source.0 != EMPTY {
                    let row = Int64Array::from(vec![source.1 as i64]);
                    kept[column] = take(self.sources(column)[source.0], &row, None)?;
                    *source = (KEPT, 0);
                }
            }
            series.sample = (KEPT, 0);
            self.kept = kept;
            self.series = Some(series);
        }
        self.window.release(self.cursor);
        Ok(())
    }
}

/// What a step did.
enum Step {
    Went,
    NeedsInput,
    Ended,
}

fn numbers(values: &[Option<Number>], kind: &DataType) -> Result<ArrayRef> {
    let whole = |number: &Option<Number>| match number {
        Some(Number::Whole(whole)) => Some(*whole),
        _ => None,
    };
    Ok(match kind {
        DataType::Int64 => {
            let values = values.iter().map(|number| whole(number).map(i64::try_from).transpose());
            Arc::new(values.collect::<Result<Int64Array, _>>().map_err(out_of_range)?)
        }
        DataType::UInt64 => {
            let values = values.iter().map(|number| whole(number).map(u64::try_from).transpose());
            Arc::new(values.collect::<Result<UInt64Array, _>>().map_err(out_of_range)?)
        }
        _ => Arc::new(Float64Array::from_iter(values.iter().map(|number| match number {
            Some(Number::Float(value)) => Some(*value),
            _ => None,
        }))),
    })
}
