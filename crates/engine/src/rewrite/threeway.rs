//! Takes one commit back out of rows that have changed since: a merge of three sorted streams, key by key.
//!
//! `base` are the rows after that commit, `theirs` those before it, `ours` those of now. A field that is still as the commit
//! left it becomes what it was before; any other stays. A row lives when it did before the commit, or when somebody wrote it
//! since. Holds a batch of each stream and the output under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{SortOptions, interleave};
use arrow::datatypes::SchemaRef as ArrowSchema;
use arrow::row::{Row, RowConverter, Rows, SortField};
use futures::StreamExt;

use super::RowStream;
use crate::error::{Error, Result};
use crate::read::logical_schema;
use crate::schema::TableSchema;

/// Rows of a batch that comes out.
const BATCH_ROWS: usize = 16 << 10;

/// The three states of the rows.
pub(super) struct Sides {
    pub(super) ours: RowStream,
    pub(super) base: RowStream,
    pub(super) theirs: RowStream,
}

/// The merged rows; `changed` counts those that differ from `ours`.
pub(super) fn merge(schema: &TableSchema, sides: Sides, changed: Arc<AtomicU64>) -> Result<RowStream> {
    let merge = ThreeWay::new(schema, sides, changed)?;
    let step = |mut merge: ThreeWay| async move { Ok::<_, Error>(merge.next().await?.map(|batch| (batch, merge))) };
    Ok(futures::stream::try_unfold(merge, step).boxed())
}

/// The batch of one side that is being read.
struct Head {
    batch: RecordBatch,
    keys: Rows,
    fields: Vec<Rows>,
    row: usize,
    /// Place of the batch in the output under way.
    slot: Option<usize>,
}

struct Side {
    rows: RowStream,
    head: Option<Head>,
}

struct ThreeWay {
    /// Ours, base, theirs.
    sides: [Side; 3],
    schema: ArrowSchema,
    key_columns: Vec<usize>,
    field_columns: Vec<usize>,
    keys: RowConverter,
    fields: Vec<RowConverter>,
    output: Output,
    changed: Arc<AtomicU64>,
}

/// Where each value of the rows under way lies: batch and row.
#[derive(Default)]
struct Output {
    batches: Vec<RecordBatch>,
    keys: Vec<(usize, usize)>,
    fields: Vec<Vec<(usize, usize)>>,
}

const OURS: usize = 0;
const BASE: usize = 1;
const THEIRS: usize = 2;
/// The slot of the batch whose only row is NULL in every column.
const NULLS: usize = 0;

impl ThreeWay {
    fn new(schema: &TableSchema, sides: Sides, changed: Arc<AtomicU64>) -> Result<Self> {
        let arrow = logical_schema(schema);
        let mut key_columns: Vec<usize> = schema.tags().map(|(index, _)| index + 1).collect();
        key_columns.push(0);
        let field_columns: Vec<usize> =
            (0..arrow.fields().len()).filter(|column| !key_columns.contains(column)).collect();
        let order = SortOptions { descending: false, nulls_first: true };
        let sorted = |column: &usize| SortField::new_with_options(arrow.field(*column).data_type().clone(), order);
        let keys = RowConverter::new(key_columns.iter().map(sorted).collect())?;
        let fields: Vec<RowConverter> =
            field_columns.iter().map(|column| RowConverter::new(vec![sorted(column)])).collect::<Result<_, _>>()?;
        let output = Output { fields: vec![Vec::new(); fields.len()], ..Output::default() };
        let sides = [sides.ours, sides.base, sides.theirs].map(|rows| Side { rows, head: None });
        Ok(Self { sides, schema: arrow, key_columns, field_columns, keys, fields, output, changed })
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while self.output.keys.len() < BATCH_ROWS {
            for side in 0..self.sides.len() {
                self.fill(side).await?;
            }
            if !self.step() {
                break;
            }
        }
        self.take()
    }

    /// Makes sure that a side has a row, unless it has ended.
    async fn fill(&mut self, side: usize) -> Result<()> {
        while self.sides[side].head.as_ref().is_none_or(|head| head.row >= head.batch.num_rows()) {
            self.sides[side].head = None;
            let Some(batch) = self.sides[side].rows.next().await.transpose()? else { return Ok(()) };
            let columns = |columns: &[usize]| -> Vec<ArrayRef> {
                columns.iter().map(|column| Arc::clone(batch.column(*column))).collect()
            };
            let keys = self.keys.convert_columns(&columns(&self.key_columns))?;
            let fields = self.fields.iter().zip(columns(&self.field_columns));
            let fields = fields.map(|(field, column)| field.convert_columns(&[column])).collect::<Result<_, _>>()?;
            self.sides[side].head = Some(Head { batch, keys, fields, row: 0, slot: None });
        }
        Ok(())
    }

    /// Goes past the least key of all sides; `false` when all have ended.
    fn step(&mut self) -> bool {
        let heads = || self.sides.iter().filter_map(|side| side.head.as_ref());
        let Some(least) = heads().map(Head::key).min() else { return false };
        let here: [bool; 3] =
            std::array::from_fn(|side| self.sides[side].head.as_ref().is_some_and(|head| head.key() == least));
        if let Some(sources) = self.decide(here) {
            let any = here.iter().position(|here| *here).unwrap_or(OURS);
            let key = self.place(any);
            self.output.keys.push(key);
            for (field, source) in sources.into_iter().enumerate() {
                let place = source.map_or((NULLS, 0), |side| self.place(side));
                self.output.fields[field].push(place);
            }
        }
        for (side, _) in here.iter().enumerate().filter(|(_, here)| **here) {
            if let Some(head) = &mut self.sides[side].head {
                head.row += 1;
            }
        }
        true
    }

    /// The side that each field comes from, where it is not NULL; `None` when the row does not live.
    fn decide(&self, here: [bool; 3]) -> Option<Vec<Option<usize>>> {
        let value = |side: usize, field: usize| -> Option<Row<'_>> {
            let head = self.sides[side].head.as_ref().filter(|_| here[side])?;
            let column = head.batch.column(self.field_columns[field]);
            column.is_valid(head.row).then(|| head.fields[field].row(head.row))
        };
        let mut lives = if here[OURS] == here[BASE] { here[THEIRS] } else { here[OURS] };
        let mut differs = false;
        let mut sources = Vec::with_capacity(self.fields.len());
        for field in 0..self.fields.len() {
            let ours = value(OURS, field);
            if ours == value(BASE, field) {
                let theirs = value(THEIRS, field);
                differs |= ours != theirs;
                sources.push(theirs.map(|_| THEIRS));
            } else {
                lives |= ours.is_some();
                sources.push(ours.map(|_| OURS));
            }
        }
        if lives != here[OURS] || (lives && differs) {
            self.changed.fetch_add(1, Ordering::Relaxed);
        }
        lives.then_some(sources)
    }

    fn place(&mut self, side: usize) -> (usize, usize) {
        let Some(head) = &mut self.sides[side].head else { return (NULLS, 0) };
        let batches = &mut self.output.batches;
        let slot = *head.slot.get_or_insert_with(|| {
            batches.push(head.batch.clone());
            // The slot before the first is that of the NULLs.
            batches.len()
        });
        (slot, head.row)
    }

    /// The rows under way as a batch; `None` when there are none.
    fn take(&mut self) -> Result<Option<RecordBatch>> {
        if self.output.keys.is_empty() {
            return Ok(None);
        }
        let output = std::mem::take(&mut self.output);
        self.output.fields = vec![Vec::new(); self.fields.len()];
        for side in &mut self.sides {
            if let Some(head) = &mut side.head {
                head.slot = None;
            }
        }
        let rows = output.keys.len();
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for (column, field) in self.schema.fields().iter().enumerate() {
            let nulls = new_null_array(field.data_type(), 1);
            let mut arrays: Vec<&dyn Array> = vec![nulls.as_ref()];
            arrays.extend(output.batches.iter().map(|batch| batch.column(column).as_ref()));
            let picked = self.field_columns.iter().position(|field| *field == column);
            columns.push(interleave(&arrays, picked.map_or(&output.keys, |field| &output.fields[field]))?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(Some(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?))
    }
}

impl Head {
    fn key(&self) -> Row<'_> {
        self.keys.row(self.row)
    }
}
