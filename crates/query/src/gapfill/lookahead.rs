//! The input of a filling: the batches that are needed at once, and the next value of a column.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, UInt64Type};
use arrow::row::{OwnedRow, Row, RowConverter, Rows};
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::StreamExt;

use super::fill::Shape;

/// A row of the input: the number of its batch, from the first of all, and its place in there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) batch: usize,
    pub(super) row: usize,
}

/// One batch with what its rows are compared by.
struct Loaded {
    batch: RecordBatch,
    /// `None` when there are no keys but the bucket: all rows are one series.
    keys: Option<Rows>,
    /// In the unit of the time.
    buckets: ArrayRef,
    bytes: usize,
}

/// Batches of the input from the first that is still needed.
pub(super) struct Window {
    input: SendableRecordBatchStream,
    converter: Option<RowConverter>,
    keys: Vec<usize>,
    bucket: usize,
    /// The number of the first batch that is held.
    first: usize,
    held: Vec<Loaded>,
    pub(super) ended: bool,
    memory: MemoryReservation,
}

impl Window {
    pub(super) fn try_new(input: SendableRecordBatchStream, shape: &Shape, memory: MemoryReservation) -> Result<Self> {
        let converter = shape.key_converter()?;
        let (keys, bucket) = (shape.keys.clone(), shape.bucket);
        Ok(Self { input, converter, keys, bucket, first: 0, held: Vec::new(), ended: false, memory })
    }

    /// Reads one more batch.
    pub(super) async fn load(&mut self) -> Result<()> {
        let Some(batch) = self.input.next().await.transpose()? else {
            self.ended = true;
            return Ok(());
        };
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let mut bytes = 0;
        for column in batch.columns() {
            bytes += column.to_data().get_slice_memory_size()?;
        }
        let columns: Vec<ArrayRef> = self.keys.iter().map(|&key| batch.column(key).clone()).collect();
        let keys = match &self.converter {
            Some(converter) => Some(converter.convert_columns(&columns)?),
            None => None,
        };
        bytes += keys.as_ref().map_or(0, Rows::size);
        self.memory.try_grow(bytes)?;
        let buckets = cast(batch.column(self.bucket), &DataType::Int64)?;
        self.held.push(Loaded { batch, keys, buckets, bytes });
        Ok(())
    }

    /// Lets go of the batches before a place.
    pub(super) fn release(&mut self, place: Place) {
        let done = place.batch.min(self.end()) - self.first;
        let bytes = self.held.drain(..done).map(|loaded| loaded.bytes).sum();
        self.memory.shrink(bytes);
        self.first += done;
    }

    /// The number after that of the last batch.
    fn end(&self) -> usize {
        self.first + self.held.len()
    }

    /// The number of the first batch that is held.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    /// The batches that are held, as sources of their columns.
    pub(super) fn batches(&self) -> impl Iterator<Item = &RecordBatch> {
        self.held.iter().map(|loaded| &loaded.batch)
    }

    /// Whether the row has been read.
    pub(super) fn has(&self, place: Place) -> bool {
        place.batch < self.end()
    }

    fn loaded(&self, place: Place) -> &Loaded {
        &self.held[place.batch - self.first]
    }

    /// The row after one that has been read.
    pub(super) fn after(&self, place: Place) -> Place {
        if place.row + 1 < self.loaded(place).batch.num_rows() {
            Place { row: place.row + 1, ..place }
        } else {
            Place { batch: place.batch + 1, row: 0 }
        }
    }

    fn key(&self, place: Place) -> Option<Row<'_>> {
        self.loaded(place).keys.as_ref().map(|keys| keys.row(place.row))
    }

    /// The key of a row, to compare others with; `None` when all rows are one series.
    pub(super) fn series(&self, place: Place) -> Option<OwnedRow> {
        self.key(place).map(|key| key.owned())
    }

    pub(super) fn is_of(&self, place: Place, series: Option<&OwnedRow>) -> bool {
        self.key(place) == series.map(OwnedRow::row)
    }

    /// The start of the row's bucket; `None` when it is NULL.
    pub(super) fn bucket(&self, place: Place) -> Option<i64> {
        let buckets = self.loaded(place).buckets.as_primitive::<Int64Type>();
        buckets.is_valid(place.row).then(|| buckets.value(place.row))
    }

    pub(super) fn is_valid(&self, place: Place, column: usize) -> bool {
        self.loaded(place).batch.column(column).is_valid(place.row)
    }

    /// The number in a column, `None` when it is NULL.
    pub(super) fn number(&self, place: Place, column: usize) -> Result<Option<Number>> {
        let array = self.loaded(place).batch.column(column);
        if array.is_null(place.row) {
            return Ok(None);
        }
        Ok(Some(match array.data_type() {
            DataType::Float64 => Number::Float(array.as_primitive::<Float64Type>().value(place.row)),
            DataType::Int64 => Number::Whole(array.as_primitive::<Int64Type>().value(place.row).into()),
            DataType::UInt64 => Number::Whole(array.as_primitive::<UInt64Type>().value(place.row).into()),
            other => return internal_err!("no interpolation between values of type {other}"),
        }))
    }
}

/// A value on a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Float(f64),
    Whole(i128),
}

/// A value and the bucket it stands in.
pub(super) type Point = (i64, Number);

impl Number {
    /// The value at a time from `one.0` to `other.0`. Whole numbers are rounded to the nearest, halves away from `one`.
    pub(super) fn between(one: Point, other: Point, time: i64) -> Self {
        let whole = i128::from(other.0) - i128::from(one.0);
        let part = i128::from(time) - i128::from(one.0);
        match (one.1, other.1) {
            (Self::Whole(from), Self::Whole(to)) => {
                // Both factors are below 2^64.
                let far = (to - from).unsigned_abs() * part.unsigned_abs();
                let step = (far + whole.unsigned_abs() / 2) / whole.unsigned_abs();
                let step = i128::try_from(step).expect("a part of a difference of 64-bit numbers");
                Self::Whole(if to < from { from - step } else { from + step })
            }
            (Self::Float(from), Self::Float(to)) => {
                let share = part as f64 / whole as f64;
                let step = to - from;
                // The difference of two finite numbers may be too large for one.
                let between = if step.is_finite() { from + step * share } else { from * (1.0 - share) + to * share };
                Self::Float(between)
            }
            (from, _) => from,
        }
    }
}

/// Where the next value of a column lies, seen from the row that is to be filled.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Next {
    /// Nothing before this place.
    From(Place),
    Found(Place, Point),
    /// There is none in this series.
    None,
}

/// One interpolated column as the series goes by.
#[derive(Debug)]
pub(super) struct Line {
    column: usize,
    before: Option<Point>,
    next: Next,
}

impl Line {
    pub(super) fn new(column: usize) -> Self {
        Self { column, before: None, next: Next::None }
    }

    /// A new series starts at this row.
    pub(super) fn start(&mut self, place: Place) {
        (self.before, self.next) = (None, Next::From(place));
    }

    /// Looks for the next value; `false` when more of the input must be read first.
    pub(super) fn look(&mut self, window: &Window, series: Option<&OwnedRow>) -> Result<bool> {
        while let Next::From(place) = self.next {
            if !window.has(place) {
                if !window.ended {
                    return Ok(false);
                }
                self.next = Next::None;
                break;
            }
            self.next = match (window.is_of(place, series), window.bucket(place)) {
                (true, Some(bucket)) => match window.number(place, self.column)? {
                    Some(number) => Next::Found(place, (bucket, number)),
                    None => Next::From(window.after(place)),
                },
                _ => Next::None,
            };
        }
        Ok(true)
    }

    /// The value at a time; `row` is the row of the input there, if there is one.
    pub(super) fn at(&mut self, time: i64, row: Option<Place>, window: &Window) -> Option<Number> {
        match self.next {
            Next::Found(place, point) if Some(place) == row => {
                self.before = Some(point);
                self.next = Next::From(window.after(place));
                Some(point.1)
            }
            Next::Found(_, next) => self.before.map(|before| Number::between(before, next, time)),
            _ => None,
        }
    }
}

/// What was asked for is no number of its column's type.
pub(super) fn out_of_range(error: impl std::error::Error) -> DataFusionError {
    DataFusionError::Internal(format!("an interpolated value left its type: {error}"))
}
