//! The merge of one partition of an ASOF join: both sides in the order of (keys, time), each read once.
//!
//! `next` is the first row of the right side that may still matter. To find the latest row before a left one it passes all
//! that are not later and remembers the last of them; to find the earliest after, it stops at the first that is not
//! earlier. A few batches of the right side are held: when there are more, the rows found so far go out first.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::compute::interleave;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_expr::PhysicalExpr;
use futures::StreamExt;

use super::Match;
use super::exec::ORDER;

/// Batches of the right side that are held before rows go out.
const HELD_MAX: usize = 4;

/// One input.
pub(super) struct Side {
    input: SendableRecordBatchStream,
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    keys: Option<RowConverter>,
    time: RowConverter,
    memory: MemoryReservation,
}

/// A batch with what its rows are compared by.
struct Loaded {
    batch: RecordBatch,
    /// `None` when there are no keys: all are equal.
    keys: Option<Rows>,
    times: Rows,
    /// Rows whose time and keys all have a value; others match nothing.
    complete: Option<NullBuffer>,
    bytes: usize,
}

impl Loaded {
    fn is_complete(&self, row: usize) -> bool {
        self.complete.as_ref().is_none_or(|complete| complete.is_valid(row))
    }

    fn compare_keys(&self, row: usize, other: &Self, other_row: usize) -> Ordering {
        match (&self.keys, &other.keys) {
            (Some(keys), Some(others)) => keys.row(row).cmp(&others.row(other_row)),
            _ => Ordering::Equal,
        }
    }

    fn compare_times(&self, row: usize, other: &Self, other_row: usize) -> Ordering {
        self.times.row(row).cmp(&other.times.row(other_row))
    }
}

impl Side {
    /// An input and its keys and, last, its time.
    pub(super) fn try_new(
        input: SendableRecordBatchStream,
        exprs: &[Arc<dyn PhysicalExpr>],
        memory: MemoryReservation,
    ) -> Result<Self> {
        let schema = input.schema();
        let field = |expr: &Arc<dyn PhysicalExpr>| Ok(SortField::new_with_options(expr.data_type(&schema)?, ORDER));
        let mut fields = exprs.iter().map(field).collect::<Result<Vec<_>>>()?;
        let time = fields.split_off(exprs.len() - 1);
        let keys = if fields.is_empty() { None } else { Some(RowConverter::new(fields)?) };
        Ok(Self { input, exprs: exprs.to_vec(), keys, time: RowConverter::new(time)?, memory })
    }

    /// The next batch that has rows.
    async fn load(&mut self) -> Result<Option<Loaded>> {
        while let Some(batch) = self.input.next().await.transpose()? {
            if batch.num_rows() > 0 {
                return self.prepare(batch).map(Some);
            }
        }
        Ok(None)
    }

    fn prepare(&self, batch: RecordBatch) -> Result<Loaded> {
        let column = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(&batch)?.into_array(batch.num_rows());
        let mut columns = self.exprs.iter().map(column).collect::<Result<Vec<_>>>()?;
        let nulls = columns.iter().map(|column| column.logical_nulls());
        let complete = nulls.fold(None, |all, nulls| NullBuffer::union(all.as_ref(), nulls.as_ref()));
        let time = columns.split_off(columns.len() - 1);
        let keys = match &self.keys {
            Some(converter) => Some(converter.convert_columns(&columns)?),
            None => None,
        };
        let times = self.time.convert_columns(&time)?;
        let mut bytes = keys.as_ref().map_or(0, Rows::size) + times.size();
        for column in batch.columns() {
            bytes += column.to_data().get_slice_memory_size()?;
        }
        self.memory.try_grow(bytes)?;
        Ok(Loaded { batch, keys, times, complete, bytes })
    }
}

/// A row of the right side: the number of its batch, from the first of all, and its place in there.
type Place = (usize, usize);

/// Both sides of one partition.
pub(super) struct Merge {
    left: Side,
    right: Side,
    nearest: Match,
    schema: SchemaRef,
    /// One row of NULLs for each column of the right side.
    nulls: Vec<ArrayRef>,
    current: Option<Loaded>,
    /// Rows of `current` that are done, and of those how many went out.
    done: usize,
    out: usize,
    /// For each row that is done and has not gone out, its match.
    found: Vec<Option<Place>>,
    held: VecDeque<Loaded>,
    /// The number of the first batch that is held.
    first: usize,
    next: Place,
    last: Option<Place>,
    ended: bool,
}

impl Merge {
    pub(super) fn try_new(
        (left, right): (Side, Side),
        nearest: Match,
        schema: SchemaRef,
        right_schema: &SchemaRef,
    ) -> Result<Self> {
        let nulls = right_schema.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
        let held = VecDeque::new();
        let (found, next) = (Vec::new(), (0, 0));
        Ok(Self {
            left,
            right,
            nearest,
            schema,
            nulls,
            current: None,
            done: 0,
            out: 0,
            found,
            held,
            first: 0,
            next,
            last: None,
            ended: false,
        })
    }

    /// The next rows; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if self.current.is_none() {
                let Some(loaded) = self.left.load().await? else { return Ok(None) };
                (self.current, self.done, self.out) = (Some(loaded), 0, 0);
            }
            let finished = self.advance();
            if finished || (self.held.len() >= HELD_MAX && self.done > self.out) {
                return self.put_together(finished).map(Some);
            }
            self.release();
            match self.right.load().await? {
                Some(loaded) => self.held.push_back(loaded),
                None => self.ended = true,
            }
        }
    }

    fn at(&self, place: Place) -> Option<&Loaded> {
        self.held.get(place.0 - self.first)
    }

    /// Finds matches; `false` when more of the right side must be read first.
    fn advance(&mut self) -> bool {
        let Some(current) = self.current.take() else { return true };
        while self.done < current.batch.num_rows() {
            if current.is_complete(self.done) {
                if !self.pass(&current) {
                    self.current = Some(current);
                    return false;
                }
                let candidate = if self.nearest.before { self.last } else { Some(self.next) };
                let matched = candidate.filter(|place| self.matches(&current, *place));
                self.found.push(matched);
            } else {
                self.found.push(None);
            }
            self.done += 1;
        }
        self.current = Some(current);
        true
    }

    /// Whether the keys of a right row are those of the left row at hand.
    fn matches(&self, current: &Loaded, place: Place) -> bool {
        self.at(place)
            .is_some_and(|right| right.is_complete(place.1) && right.compare_keys(place.1, current, self.done).is_eq())
    }

    /// Passes the right rows that lie before what the left row is looking for; `false` when there may be more of them.
    fn pass(&mut self, current: &Loaded) -> bool {
        loop {
            let Some(right) = self.at(self.next) else { return self.ended };
            let row = self.next.1;
            let keys = right.compare_keys(row, current, self.done);
            let order = keys.then_with(|| right.compare_times(row, current, self.done));
            // To look back, a row at the same time is passed when it counts; to look ahead, when it does not.
            let passes = order.is_lt() || (order.is_eq() && self.nearest.before == self.nearest.equal);
            if !passes {
                return true;
            }
            let (complete, more) = (right.is_complete(row), row + 1 < right.batch.num_rows());
            if complete {
                self.last = Some(self.next);
            }
            self.next = if more { (self.next.0, row + 1) } else { (self.next.0 + 1, 0) };
        }
    }

    /// The left rows that are done, with their matches.
    fn put_together(&mut self, finished: bool) -> Result<RecordBatch> {
        let Some(current) = &self.current else {
            return datafusion::common::internal_err!("rows are put together while their batch is held");
        };
        let mut columns = current.batch.slice(self.out, self.done - self.out).columns().to_vec();
        let found = std::mem::take(&mut self.found);
        let source = |found: Option<Place>| found.map_or((0, 0), |(batch, row)| (batch - self.first + 1, row));
        let sources: Vec<_> = found.into_iter().map(source).collect();
        for (column, nulls) in self.nulls.iter().enumerate() {
            let held = self.held.iter().map(|loaded| loaded.batch.column(column).as_ref());
            let arrays: Vec<&dyn Array> = std::iter::once(nulls.as_ref()).chain(held).collect();
            columns.push(interleave(&arrays, &sources)?);
        }
        self.out = self.done;
        if finished && let Some(current) = self.current.take() {
            self.left.memory.shrink(current.bytes);
        }
        self.release();
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    /// Lets go of the batches that nothing points to any more.
    fn release(&mut self) {
        let found = self.found.iter().flatten().chain(&self.last).map(|place| place.0);
        let needed = found.chain([self.next.0]).min().unwrap_or(self.next.0);
        while self.first < needed {
            let Some(loaded) = self.held.pop_front() else { break };
            self.right.memory.shrink(loaded.bytes);
            self.first += 1;
        }
    }
}
