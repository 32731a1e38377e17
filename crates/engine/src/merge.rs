//! Many sorted inputs become one: equal keys become one row in which the last non-NULL write of each field wins (E3).
//!
//! [`Merge`] does no I/O: it says which inputs it waits for, takes their batches and gives batches back, so that the same
//! code serves compaction (blocking) and queries ([`MergeStream`]). It holds one batch an input and the output under way.
//!
//! A batch is cut into runs of one series (tag set) first, by comparing neighbouring rows column by column; each run is
//! given one comparable byte string ([`arrow::row`]). Everything after that compares byte strings once a run and plain
//! integers within a run, and moves stretches: all rows of the least input that lie before the next input's row go out
//! together. A long stretch leaves as a slice without a copy; short ones are gathered by one kernel call a column.

mod head;
mod output;
mod stream;

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};

use crate::merge::head::Head;
use crate::merge::output::Output;
use crate::schema::TIME;
pub use stream::MergeStream;

/// Merges `k` inputs in the logical layout, each sorted by (tags in the given order, nulls first; time) with one row a
/// key. Inputs are numbered from the oldest to the newest.
#[derive(Debug)]
pub struct Merge {
    keys: Keys,
    inputs: Vec<Input>,
    /// Inputs that have a row, as a binary heap with the least key at the front.
    heap: Vec<usize>,
    waiting: Vec<usize>,
    output: Output,
    ready: VecDeque<RecordBatch>,
}

/// Where the key lies in a batch and how tags are made comparable.
#[derive(Debug)]
struct Keys {
    tags: Vec<usize>,
    time: usize,
    converter: Option<RowConverter>,
}

#[derive(Debug)]
enum Input {
    Waiting,
    Ready(Box<Head>),
    Ended,
}

impl Merge {
    /// Merges `inputs` inputs whose batches have `schema`; `tags` are the positions of the tag columns in the order in
    /// which rows are sorted. Batches of at most `batch_rows` rows come out.
    ///
    /// # Errors
    /// When there is no `time` column or a tag's type has no order.
    pub fn new(schema: &SchemaRef, tags: &[usize], inputs: usize, batch_rows: usize) -> Result<Self, ArrowError> {
        let keys = Keys::new(schema, tags)?;
        let fields = (0..schema.fields().len()).filter(|index| *index != keys.time && !tags.contains(index)).collect();
        Ok(Self {
            keys,
            inputs: (0..inputs).map(|_| Input::Waiting).collect(),
            heap: Vec::with_capacity(inputs),
            waiting: (0..inputs).rev().collect(),
            output: Output::new(Arc::clone(schema), fields, batch_rows.max(1)),
            ready: VecDeque::new(),
        })
    }

    /// Inputs that must be given a batch ([`Merge::push`]) or be ended ([`Merge::end`]) before the next row can be known.
    pub fn waiting(&self) -> &[usize] {
        &self.waiting
    }

    /// The next batch of an input that waits. An empty batch changes nothing.
    ///
    /// # Errors
    /// When the batch has another layout than was promised.
    pub fn push(&mut self, input: usize, batch: RecordBatch) -> Result<(), ArrowError> {
        debug_assert!(matches!(self.inputs[input], Input::Waiting), "input {input} does not wait");
        if batch.num_rows() > 0 {
            self.inputs[input] = Input::Ready(Box::new(Head::new(batch, &self.keys)?));
            self.waiting.retain(|&waits| waits != input);
            self.enter(input);
        }
        Ok(())
    }

    /// Says that an input that waits has no more batches.
    pub fn end(&mut self, input: usize) {
        debug_assert!(matches!(self.inputs[input], Input::Waiting), "input {input} does not wait");
        self.inputs[input] = Input::Ended;
        self.waiting.retain(|&waits| waits != input);
    }

    /// The next merged batch; `None` while inputs wait, and for good when all have ended.
    ///
    /// # Errors
    /// When a column cannot be gathered (its offsets overflow).
    pub fn pull(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            if self.output.room() == 0 {
                return self.output.take();
            }
            if !self.waiting.is_empty() {
                return Ok(None);
            }
            let Some(least) = self.leave() else {
                return self.output.take();
            };
            match self.heap.first().map(|&next| (next, self.compare_keys(least, next))) {
                Some((_, Ordering::Equal)) => self.emit_equal(least),
                Some((next, _)) => self.emit_before(least, Some(next))?,
                None => self.emit_before(least, None)?,
            }
        }
    }

    /// Bytes held in batches of inputs, each counted by what its rows take.
    pub fn bytes(&self) -> usize {
        self.inputs
            .iter()
            .map(|input| match input {
                Input::Ready(head) => head.bytes,
                _ => 0,
            })
            .sum()
    }

    /// Emits all rows of `least` that lie before the row of `bound`.
    fn emit_before(&mut self, least: usize, bound: Option<usize>) -> Result<(), ArrowError> {
        let end = match bound {
            Some(bound) => self.head(least).stretch(self.head(bound)),
            None => self.head(least).rows(),
        };
        let Input::Ready(head) = &mut self.inputs[least] else { unreachable!("an input in the heap has a row") };
        let start = head.row;
        if end - start >= self.output.slice_rows() {
            self.ready.extend(self.output.take()?);
            self.output.slices(&head.batch, start, end, &mut self.ready);
            self.advance(least, end);
        } else {
            let end = end.min(start + self.output.room());
            self.output.stretch(head, end);
            self.advance(least, end);
        }
        Ok(())
    }

    /// Emits one row for all inputs whose key equals that of `least`, the newest of them deciding field by field.
    fn emit_equal(&mut self, least: usize) {
        let mut equal = vec![least];
        while let Some(&next) = self.heap.first()
            && self.compare_keys(least, next) == Ordering::Equal
        {
            self.leave();
            equal.push(next);
        }
        for &input in &equal {
            let Input::Ready(head) = &mut self.inputs[input] else { unreachable!("an input in the heap has a row") };
            self.output.version(head);
        }
        self.output.end_versions();
        for input in equal {
            let row = self.head(input).row + 1;
            self.advance(input, row);
        }
    }

    fn advance(&mut self, input: usize, row: usize) {
        let Input::Ready(head) = &mut self.inputs[input] else { unreachable!("an input in the heap has a row") };
        if head.advance(row) {
            self.enter(input);
        } else {
            self.inputs[input] = Input::Waiting;
            self.waiting.push(input);
        }
    }

    fn head(&self, input: usize) -> &Head {
        match &self.inputs[input] {
            Input::Ready(head) => head,
            _ => unreachable!("an input in the heap has a row"),
        }
    }

    fn compare_keys(&self, left: usize, right: usize) -> Ordering {
        self.head(left).compare(self.head(right))
    }

    /// Whether `left` comes out before `right`: the lesser key, of equal keys the older input.
    fn before(&self, left: usize, right: usize) -> bool {
        self.compare_keys(left, right).then(left.cmp(&right)) == Ordering::Less
    }

    /// Puts an input that has a row into the heap.
    fn enter(&mut self, input: usize) {
        self.heap.push(input);
        let mut child = self.heap.len() - 1;
        while child > 0 {
            let parent = (child - 1) / 2;
            if !self.before(self.heap[child], self.heap[parent]) {
                break;
            }
            self.heap.swap(child, parent);
            child = parent;
        }
    }

    /// Takes the input with the least key out of the heap.
    fn leave(&mut self) -> Option<usize> {
        if self.heap.is_empty() {
            return None;
        }
        let least = self.heap.swap_remove(0);
        let mut parent = 0;
        loop {
            let (left, right) = (2 * parent + 1, 2 * parent + 2);
            if left >= self.heap.len() {
                return Some(least);
            }
            let right_first = right < self.heap.len() && self.before(self.heap[right], self.heap[left]);
            let child = if right_first { right } else { left };
            if !self.before(self.heap[child], self.heap[parent]) {
                return Some(least);
            }
            self.heap.swap(child, parent);
            parent = child;
        }
    }
}

impl Keys {
    fn new(schema: &Schema, tags: &[usize]) -> Result<Self, ArrowError> {
        let sort = arrow::compute::SortOptions { descending: false, nulls_first: true };
        let fields: Vec<_> =
            tags.iter().map(|&tag| SortField::new_with_options(schema.field(tag).data_type().clone(), sort)).collect();
        let converter = if fields.is_empty() { None } else { Some(RowConverter::new(fields)?) };
        Ok(Self { tags: tags.to_vec(), time: schema.index_of(TIME)?, converter })
    }
}

#[cfg(test)]
mod tests;
