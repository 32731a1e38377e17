//! The rows of one unit, batch by batch.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;

use super::HotColumn;
use super::column::Rows;
use super::filter::{Filters, Rest};
use super::load::UnitColumns;
use super::select::Stretches;

/// Rows side by side from which on they are handed on as they lie.
const SLICE_ROWS_MIN: u32 = 1024;

/// How far a scan has come in one unit.
#[derive(Debug)]
pub(super) struct Cursor {
    columns: UnitColumns,
    /// Rows still to look at; each range within one stretch.
    left: std::vec::IntoIter<Rows>,
    /// Rest of a range that was too long for a batch.
    cut: Option<Rows>,
    /// Rows of short ranges, to be asked together.
    waiting: Vec<u32>,
    /// Rows that passed and wait for a batch that is worth it.
    picked: Vec<u32>,
}

/// What a scan gives.
#[derive(Debug, Clone)]
pub(super) struct Output {
    pub(super) schema: SchemaRef,
    /// Places in the logical layout.
    pub(super) columns: Vec<usize>,
    pub(super) batch_rows: u32,
}

/// Rows of a batch.
enum Taken {
    Slice(Rows),
    Rows(UInt32Array),
}

impl Cursor {
    pub(super) fn new(columns: UnitColumns, mut selected: Vec<Rows>, filters: &Filters) -> Self {
        // The first rows by a time, up or down, are at the ends of a stretch: a sort that has seen both knows a bound for all others.
        if let Some(first) =
            selected.first().filter(|first| filters.change() && first.len() as u32 > 3 * SLICE_ROWS_MIN)
        {
            let (head, tail) = (first.start + SLICE_ROWS_MIN, first.end - SLICE_ROWS_MIN);
            let ends = [tail..first.end, first.start..head, head..tail];
            selected.splice(..1, ends);
        }
        Self { columns, left: selected.into_iter(), cut: None, waiting: Vec::new(), picked: Vec::new() }
    }

    /// The next rows that pass; `None` when there are no more.
    pub(super) fn next(&mut self, filters: &Filters, output: &Output) -> Result<Option<RecordBatch>> {
        let times = filters.times_now()?;
        let narrowed = times != filters.times;
        let rest = filters.rest.as_ref();
        loop {
            let Some(rows) = self.cut.take().or_else(|| self.left.next()) else {
                self.ask_waiting(rest)?;
                return if self.picked.is_empty() { Ok(None) } else { self.picked(output).map(Some) };
            };
            let rows = if narrowed { Stretches::of(&self.columns)?.within(rows, &times) } else { rows };
            let end = rows.end.min(rows.start.saturating_add(output.batch_rows));
            if end < rows.end {
                self.cut = Some(end..rows.end);
            }
            let rows = rows.start..end;
            if (rows.len() as u32) < SLICE_ROWS_MIN {
                self.waiting.extend(rows);
                if self.waiting.len() >= output.batch_rows as usize {
                    self.ask_waiting(rest)?;
                }
            } else {
                match self.passing(rest, rows.len(), |column| column.slice(&rows))? {
                    // Rows that were picked before wait on: a scan keeps no order.
                    None => return self.batch(&Taken::Slice(rows), output).map(Some),
                    Some(passing) => {
                        self.picked.extend(passing.values().set_indices().map(|row| rows.start + row as u32));
                    }
                }
            }
            if self.picked.len() >= output.batch_rows as usize {
                return self.picked(output).map(Some);
            }
        }
    }

    /// Picks those of the waiting rows that pass.
    fn ask_waiting(&mut self, rest: Option<&Rest>) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let waiting = UInt32Array::from(std::mem::take(&mut self.waiting));
        match self.passing(rest, waiting.len(), |column| column.take(&waiting))? {
            None => self.picked.extend(waiting.values()),
            Some(passing) => self.picked.extend(passing.values().set_indices().map(|at| waiting.value(at))),
        }
        Ok(())
    }

    /// Which of some rows pass; `None`: all. `read` gives these rows of a column.
    fn passing(
        &self,
        rest: Option<&Rest>,
        rows: usize,
        read: impl Fn(&HotColumn) -> Result<ArrayRef>,
    ) -> Result<Option<BooleanArray>> {
        let Some(rest) = rest else { return Ok(None) };
        let columns = rest.columns.iter().map(|column| read(self.columns.get(*column)?));
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        rest.passing(&RecordBatch::try_new_with_options(Arc::clone(rest.schema()), columns, &options)?)
    }

    fn picked(&mut self, output: &Output) -> Result<RecordBatch> {
        let picked = std::mem::take(&mut self.picked);
        self.batch(&Taken::Rows(picked.into()), output)
    }

    fn batch(&self, taken: &Taken, output: &Output) -> Result<RecordBatch> {
        let rows = match taken {
            Taken::Slice(rows) => rows.len(),
            Taken::Rows(rows) => rows.len(),
        };
        let columns = output.columns.iter().map(|column| {
            let column = self.columns.get(*column)?;
            match taken {
                Taken::Slice(rows) => column.slice(rows),
                Taken::Rows(rows) => column.take(rows),
            }
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&output.schema), columns, &options)?)
    }
}
