//! The rows of one unit, batch by batch.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;

use super::column::Rows;
use super::filter::{Filters, Rest};
use super::load::UnitColumns;
use super::select::Stretches;

/// Rows side by side from which on they are handed on as they lie.
const SLICE_ROWS_MIN: u32 = 1024;

/// How far a scan has come in one unit.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) columns: UnitColumns,
    /// Rows still to look at; each range within one stretch.
    pub(super) left: std::vec::IntoIter<Rows>,
    /// Rows that passed and wait for a batch that is worth it.
    picked: Vec<u32>,
    /// Rest of a range that was too long for a batch.
    cut: Option<Rows>,
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
    pub(super) fn new(columns: UnitColumns, selected: Vec<Rows>) -> Self {
        Self { columns, left: selected.into_iter(), picked: Vec::new(), cut: None }
    }

    /// The next rows that pass; `None` when there are no more.
    pub(super) fn next(&mut self, filters: &Filters, output: &Output) -> Result<Option<RecordBatch>> {
        let times = filters.times_now()?;
        let narrowed = times != filters.times;
        loop {
            let Some(rows) = self.cut.take().or_else(|| self.left.next()) else {
                let picked = std::mem::take(&mut self.picked);
                return if picked.is_empty() {
                    Ok(None)
                } else {
                    self.batch(Taken::Rows(picked.into()), output).map(Some)
                };
            };
            let rows = if narrowed { Stretches::of(&self.columns)?.within(rows, &times) } else { rows };
            let end = rows.end.min(rows.start.saturating_add(output.batch_rows));
            if end < rows.end {
                self.cut = Some(end..rows.end);
            }
            let rows = rows.start..end;
            if let Some(slice) = self.pick(rows, filters.rest.as_ref())? {
                // Rows that were picked before wait on: a scan keeps no order.
                return self.batch(Taken::Slice(slice), output).map(Some);
            }
            if self.picked.len() >= output.batch_rows as usize {
                let picked = std::mem::take(&mut self.picked);
                return self.batch(Taken::Rows(picked.into()), output).map(Some);
            }
        }
    }

    /// Notes which of these rows pass, or says that they all may be handed on as they lie.
    fn pick(&mut self, rows: Rows, rest: Option<&Rest>) -> Result<Option<Rows>> {
        if rows.is_empty() {
            return Ok(None);
        }
        let passing = match rest {
            Some(rest) => {
                let columns = rest.columns.iter().map(|column| self.columns.get(*column)?.slice(&rows));
                let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
                let columns = columns.collect::<Result<Vec<_>>>()?;
                rest.passing(&RecordBatch::try_new_with_options(Arc::clone(rest.schema()), columns, &options)?)?
            }
            None => None,
        };
        match passing {
            Some(passing) => {
                self.picked.extend(passing.values().set_indices().map(|row| rows.start + row as u32));
                Ok(None)
            }
            None if rows.len() as u32 >= SLICE_ROWS_MIN => Ok(Some(rows)),
            None => {
                self.picked.extend(rows);
                Ok(None)
            }
        }
    }

    fn batch(&self, taken: Taken, output: &Output) -> Result<RecordBatch> {
        let rows = match &taken {
            Taken::Slice(rows) => rows.len(),
            Taken::Rows(rows) => rows.len(),
        };
        let columns = output.columns.iter().map(|column| {
            let column = self.columns.get(*column)?;
            match &taken {
                Taken::Slice(rows) => column.slice(rows),
                Taken::Rows(rows) => column.take(rows),
            }
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&output.schema), columns, &options)?)
    }
}
