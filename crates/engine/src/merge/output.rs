//! The output batch under way: which row of which input batch goes where, gathered column by column at the end.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, RecordBatchOptions};
use arrow::compute::interleave;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use super::head::Head;

/// A stretch of at least this many rows leaves as a slice of its batch.
const SLICE_ROWS: usize = 1024;

#[derive(Debug)]
pub(super) struct Output {
    schema: SchemaRef,
    /// Columns that are not part of the key.
    fields: Vec<usize>,
    batch_rows: usize,
    batches: Vec<RecordBatch>,
    /// How many output batches were begun; tells whether a head's place in `batches` is still its own.
    generation: usize,
    /// For each row: batch and row in it; of several versions the newest.
    rows: Vec<(usize, usize)>,
    /// Rows that have older versions: the row, and where in `older` these are, newest first.
    versions: Vec<(usize, Range<usize>)>,
    older: Vec<(usize, usize)>,
    /// Versions of the row that is being put together, oldest first.
    group: Vec<(usize, usize)>,
}

impl Output {
    pub(super) fn new(schema: SchemaRef, fields: Vec<usize>, batch_rows: usize) -> Self {
        Self {
            schema,
            fields,
            batch_rows,
            batches: Vec::new(),
            generation: 0,
            rows: Vec::with_capacity(batch_rows.min(1 << 16)),
            versions: Vec::new(),
            older: Vec::new(),
            group: Vec::new(),
        }
    }

    /// Length from which a stretch goes out by [`Output::slices`].
    pub(super) fn slice_rows(&self) -> usize {
        SLICE_ROWS.min(self.batch_rows)
    }

    /// How many rows still fit.
    pub(super) fn room(&self) -> usize {
        self.batch_rows - self.rows.len()
    }

    /// Cuts rows of a batch into slices that need no copy.
    pub(super) fn slices(&self, batch: &RecordBatch, mut start: usize, end: usize, out: &mut VecDeque<RecordBatch>) {
        while start < end {
            let rows = (end - start).min(self.batch_rows);
            out.push_back(batch.slice(start, rows));
            start += rows;
        }
    }

    /// Adds the rows of `head` from its next one to `end`.
    pub(super) fn stretch(&mut self, head: &mut Head, end: usize) {
        let slot = self.slot(head);
        self.rows.extend((head.row..end).map(|row| (slot, row)));
    }

    /// Adds the next row of `head` as a version of the row that is being put together; versions come oldest first.
    pub(super) fn version(&mut self, head: &mut Head) {
        let slot = self.slot(head);
        self.group.push((slot, head.row));
    }

    /// All versions of the row are there.
    pub(super) fn end_versions(&mut self) {
        let Some(newest) = self.group.pop() else { return };
        let start = self.older.len();
        self.older.extend(self.group.drain(..).rev());
        self.versions.push((self.rows.len(), start..self.older.len()));
        self.rows.push(newest);
    }

    /// The rows so far as a batch; `None` when there are none.
    pub(super) fn take(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        if self.rows.is_empty() {
            return Ok(None);
        }
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for column in 0..self.schema.fields().len() {
            let arrays: Vec<&dyn Array> = self.batches.iter().map(|batch| batch.column(column).as_ref()).collect();
            let patched = if self.fields.contains(&column) { self.patch(&arrays) } else { None };
            columns.push(interleave(&arrays, patched.as_deref().unwrap_or(&self.rows))?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        self.batches.clear();
        self.generation += 1;
        self.rows.clear();
        self.versions.clear();
        self.older.clear();
        Ok(Some(batch))
    }

    /// The rows to take one field from where the newest version lacks it; `None` when no row differs.
    fn patch(&self, arrays: &[&dyn Array]) -> Option<Vec<(usize, usize)>> {
        if arrays.iter().all(|array| array.null_count() == 0) {
            return None;
        }
        let mut patched: Option<Vec<_>> = None;
        for (row, older) in &self.versions {
            let (batch, newest) = self.rows[*row];
            if arrays[batch].is_null(newest)
                && let Some(&found) =
                    self.older[older.clone()].iter().find(|(batch, row)| arrays[*batch].is_valid(*row))
            {
                patched.get_or_insert_with(|| self.rows.clone())[*row] = found;
            }
        }
        patched
    }

    fn slot(&mut self, head: &mut Head) -> usize {
        match head.slot {
            Some((generation, slot)) if generation == self.generation => slot,
            _ => {
                let slot = self.batches.len();
                self.batches.push(head.batch.clone());
                head.slot = Some((self.generation, slot));
                slot
            }
        }
    }
}
