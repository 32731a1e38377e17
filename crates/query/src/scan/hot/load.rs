//! Row groups and their columns: from the cache, or decoded from the file.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{Result, internal_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetFileReaderFactory;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr_adapter::PhysicalExprAdapterFactory;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::TryStreamExt;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use weir_base::ByteSize;
use weir_engine::read::Times;
use weir_engine::schema::{TIME, TIME_NS};

use super::cache::ColumnKey;
use super::column::Rows;
use super::filter::{Filters, TIME_INDEX};
use super::select::{Stretches, passing, within};
use super::{ColumnCache, HotColumn};
use crate::scan::StoredColumns;

/// The part of the cache that one scan may ask for: what is larger would push out itself.
const CACHE_SHARE: u64 = 2;
/// The part of a query's memory that the decoding of a row group may take.
const MEMORY_SHARE: u64 = 4;
/// A row of text: its view, and a short text of its own.
const TEXT_BYTES: u64 = 32;
const NUMBER_BYTES: u64 = 8;

/// A row group that a scan reads.
#[derive(Debug, Clone)]
pub(crate) struct Unit {
    pub(crate) file: Arc<PartitionedFile>,
    pub(crate) path: Arc<str>,
    pub(crate) row_group: u32,
    pub(crate) rows: u32,
    /// No row has a time outside.
    pub(crate) times: Times,
    /// Bytes of text in the columns that are read, besides what every row takes.
    pub(crate) text_bytes: u64,
    /// Only rows with these times may be taken; `None` when all may.
    pub(crate) clip: Option<Times>,
}

/// What reads the row groups of one table.
#[derive(Debug, Clone)]
pub(crate) struct HotFiles {
    pub(crate) schema: SchemaRef,
    pub(crate) stored: Arc<StoredColumns>,
    pub(crate) readers: Arc<dyn ParquetFileReaderFactory>,
    pub(crate) cache: Arc<ColumnCache>,
}

/// The columns of a row group that a scan needs, each at its place in the logical layout.
#[derive(Debug, Clone)]
pub(crate) struct UnitColumns {
    columns: Vec<Option<Arc<HotColumn>>>,
}

impl UnitColumns {
    /// Rows of the unit.
    pub(crate) fn rows(&self) -> Result<usize> {
        Ok(Stretches::of(self)?.times.len())
    }

    /// A column that was asked for.
    pub(crate) fn get(&self, column: usize) -> Result<&HotColumn> {
        match &self.columns[column] {
            Some(column) => Ok(column),
            None => internal_err!("column {column} was not read"),
        }
    }
}

impl HotFiles {
    /// Whether the cache may take all of these units.
    pub(crate) fn fits(&self, units: &[Unit], columns: &[usize]) -> bool {
        let all = self.bytes_of(units, columns).fold(0, u64::saturating_add);
        all <= self.cache.limit().bytes() / CACHE_SHARE
    }

    /// Whether any one of these units fits into the cache, and a query may take the memory to decode it: `memory` is all that it may take.
    pub(crate) fn decodes(&self, units: &[Unit], columns: &[usize], memory: ByteSize) -> bool {
        let largest = self.bytes_of(units, columns).max().unwrap_or(0);
        largest <= self.cache.limit().bytes() / CACHE_SHARE && largest <= memory.bytes() / MEMORY_SHARE
    }

    /// About how many bytes each unit takes when it is decoded.
    fn bytes_of<'a>(&self, units: &'a [Unit], columns: &[usize]) -> impl Iterator<Item = u64> + use<'a> {
        let row_bytes: u64 = columns.iter().map(|column| self.row_bytes(*column)).sum();
        units.iter().map(move |unit| u64::from(unit.rows).saturating_mul(row_bytes).saturating_add(unit.text_bytes))
    }

    /// How long the texts of a row group are together, as far as its footer says; tags are few texts.
    pub(crate) fn text_bytes(&self, group: &RowGroupMetaData, columns: &[usize]) -> u64 {
        let texts = columns.iter().map(|column| self.schema.field(*column));
        let texts = texts.filter(|field| *field.data_type() == DataType::Utf8View && !self.stored.is_tag(field.name()));
        let names: Vec<&str> = texts.map(|field| field.name().as_str()).collect();
        if names.is_empty() {
            return 0;
        }
        let meant = |held: &str| names.iter().any(|name| self.stored.is_stored_as(name, held));
        let chunks = group.columns().iter().filter(|chunk| meant(chunk.column_descr().name()));
        chunks.map(|chunk| u64::try_from(chunk.uncompressed_size()).unwrap_or(0)).sum()
    }

    /// How many rows the filters over keys leave, where that can be told at once: they ask for tags, and all that it takes is in the cache.
    pub(crate) fn selected(&self, units: &[Unit], filters: &[Arc<dyn PhysicalExpr>]) -> Result<Option<u64>> {
        let filters = Filters::new(filters, &self.schema, &self.stored)?;
        if filters.tags.is_empty() {
            return Ok(None);
        }
        let mut selected = 0;
        for unit in units {
            let mut columns = vec![None; self.schema.fields().len()];
            for (column, _) in &filters.tags {
                columns[*column] = self.cache.get(&self.key(unit, *column));
                if columns[*column].is_none() {
                    return Ok(None);
                }
            }
            let rows = passing(self, &UnitColumns { columns: columns.clone() }, &filters, 0..unit.rows)?;
            if rows.is_empty() {
                continue;
            }
            columns[TIME_INDEX] = self.cache.get(&self.key(unit, TIME_INDEX));
            if columns[TIME_INDEX].is_none() {
                return Ok(None);
            }
            let rows = within(&UnitColumns { columns }, &rows, &filters.times)?;
            selected += rows.iter().map(|rows| rows.len() as u64).sum::<u64>();
        }
        Ok(Some(selected))
    }

    fn row_bytes(&self, column: usize) -> u64 {
        let field = self.schema.field(column);
        match field.data_type() {
            DataType::Utf8View if self.stored.is_tag(field.name()) => 1,
            DataType::Utf8View => TEXT_BYTES,
            _ => NUMBER_BYTES,
        }
    }

    /// What the file's footer says.
    pub(crate) async fn footer(&self, file: &PartitionedFile) -> Result<Arc<ParquetMetaData>> {
        let metrics = ExecutionPlanMetricsSet::new();
        let mut reader = self.readers.create_reader(0, file.clone(), None, &metrics)?;
        Ok(reader.get_metadata(None).await?)
    }

    /// The columns of a unit, and how many of them were in the cache.
    pub(crate) async fn columns(
        &self,
        unit: &Unit,
        wanted: &[usize],
        memory: &Arc<dyn MemoryPool>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<(UnitColumns, usize)> {
        let mut columns = vec![None; self.schema.fields().len()];
        let mut missing = Vec::new();
        for &column in wanted {
            match self.cache.get(&self.key(unit, column)) {
                Some(found) => columns[column] = Some(found),
                None => missing.push(column),
            }
        }
        if !missing.is_empty() {
            let row_bytes: u64 = missing.iter().map(|column| self.row_bytes(*column).max(NUMBER_BYTES)).sum();
            let reservation = MemoryConsumer::new("columns being decoded").register(memory);
            let bytes = row_bytes.saturating_mul(u64::from(unit.rows)).saturating_add(unit.text_bytes);
            reservation.try_grow(usize::try_from(bytes).unwrap_or(usize::MAX))?;
            for (&column, decoded) in missing.iter().zip(self.decode(unit, &missing, None, metrics).await?) {
                let decoded = Arc::new(decoded);
                self.cache.put(self.key(unit, column), Arc::clone(&decoded));
                columns[column] = Some(decoded);
            }
        }
        Ok((UnitColumns { columns }, wanted.len() - missing.len()))
    }

    /// The columns of some rows of a unit, side by side, and how many columns were in the cache; `None` when whole columns are the better
    /// choice: all are there, or it is not the first time that one is missed by this partition.
    pub(crate) async fn part(
        &self,
        unit: &Unit,
        wanted: &[usize],
        rows: &[Rows],
        partition: usize,
        memory: &Arc<dyn MemoryPool>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Option<(UnitColumns, usize)>> {
        let found: Vec<_> = wanted.iter().map(|column| (*column, self.cache.get(&self.key(unit, *column)))).collect();
        let is_missing = |(column, found): &(usize, Option<_>)| found.is_none().then_some(*column);
        let missing: Vec<usize> = found.iter().filter_map(is_missing).collect();
        let mut first_time = !missing.is_empty();
        for column in &missing {
            first_time &= self.cache.note_miss(&self.key(unit, *column), partition);
        }
        if !first_time {
            return Ok(None);
        }
        let count: usize = rows.iter().map(|rows| rows.len()).sum();
        let reservation = MemoryConsumer::new("columns being decoded").register(memory);
        let row_bytes: u64 = wanted.iter().map(|column| self.row_bytes(*column).max(NUMBER_BYTES)).sum();
        let bytes = row_bytes.saturating_mul(count as u64).saturating_add(unit.text_bytes);
        reservation.try_grow(usize::try_from(bytes).unwrap_or(usize::MAX))?;
        let mut columns = vec![None; self.schema.fields().len()];
        for (&column, decoded) in missing.iter().zip(self.decode(unit, &missing, Some(rows), metrics).await?) {
            columns[column] = Some(Arc::new(decoded));
        }
        for (column, found) in found {
            if let Some(found) = found {
                columns[column] = Some(Arc::new(found.part(rows)?));
            }
        }
        Ok(Some((UnitColumns { columns }, wanted.len() - missing.len())))
    }

    fn key(&self, unit: &Unit, column: usize) -> ColumnKey {
        let column = self.stored.shared_name(self.schema.field(column).name());
        ColumnKey { file: Arc::clone(&unit.path), row_group: unit.row_group, column }
    }

    /// Reads columns of a unit, whole or some rows of them.
    async fn decode(
        &self,
        unit: &Unit,
        wanted: &[usize],
        rows: Option<&[Rows]>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Vec<HotColumn>> {
        let mut reader = self.readers.create_reader(0, PartitionedFile::clone(&unit.file), None, metrics)?;
        let footer = reader.get_metadata(None).await?;
        let held = ArrowReaderMetadata::try_new(Arc::clone(&footer), ArrowReaderOptions::new())?;
        let names: Vec<&str> = wanted.iter().map(|column| self.schema.field(*column).name().as_str()).collect();
        let mut roots: Vec<usize> = names.iter().filter_map(|name| self.stored.find(name, held.schema())).collect();
        if names.contains(&TIME) {
            roots.extend(held.schema().index_of(TIME_NS).ok());
        }
        roots.sort_unstable();
        roots.dedup();
        let options = ArrowReaderOptions::new().with_schema(self.read_as(held.schema()));
        let held = ArrowReaderMetadata::try_new(footer, options)?;
        let batch = match roots.is_empty() {
            true => None,
            false => Some(read(reader, held, unit, roots, rows).await?),
        };
        let count = rows.map_or(unit.rows, |rows| rows.iter().map(|rows| rows.len() as u32).sum());
        wanted.iter().map(|column| self.decoded(*column, count, batch.as_ref())).collect()
    }

    /// The types in which the columns of a file are read: tags as dictionaries, other text as views.
    fn read_as(&self, held: &Schema) -> SchemaRef {
        let tags = self.stored.tags_in(held);
        let fields = held.fields().iter().enumerate().map(|(index, field)| {
            let of = match field.data_type() {
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View if tags.contains(&index) => {
                    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
                }
                DataType::Utf8 => DataType::Utf8View,
                other => other.clone(),
            };
            Field::new(field.name(), of, field.is_nullable())
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    fn decoded(&self, column: usize, rows: u32, batch: Option<&RecordBatch>) -> Result<HotColumn> {
        let field = self.schema.field(column);
        let tag = self.stored.is_tag(field.name());
        let place = batch.and_then(|batch| Some((batch, self.stored.find(field.name(), batch.schema_ref())?)));
        let Some((batch, place)) = place else {
            return Ok(match tag {
                true => HotColumn::no_tag(),
                false => HotColumn::no_field(field.data_type(), rows),
            });
        };
        if tag {
            return HotColumn::tag(batch.column(place));
        }
        let adapter = PhysicalExprAdapterFactory::create(&*self.stored, Arc::clone(&self.schema), batch.schema())?;
        let logical = adapter.rewrite(Arc::new(Column::new(field.name(), column)))?;
        let array: ArrayRef = logical.evaluate(batch)?.into_array(batch.num_rows())?;
        match field.name() == TIME {
            true => HotColumn::time(&array),
            false => Ok(HotColumn::Field(array)),
        }
    }
}

async fn read(
    reader: Box<dyn AsyncFileReader>,
    held: ArrowReaderMetadata,
    unit: &Unit,
    roots: Vec<usize>,
    rows: Option<&[Rows]>,
) -> Result<RecordBatch> {
    let mask = ProjectionMask::roots(held.metadata().file_metadata().schema_descr(), roots);
    let count = rows.map_or(unit.rows as usize, |rows| rows.iter().map(|rows| rows.len()).sum());
    let mut builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, held)
        .with_projection(mask)
        .with_row_groups(vec![unit.row_group as usize])
        .with_batch_size(count);
    if let Some(rows) = rows {
        let rows = rows.iter().map(|rows| rows.start as usize..rows.end as usize);
        builder = builder.with_row_selection(RowSelection::from_consecutive_ranges(rows, unit.rows as usize));
    }
    let stream = builder.build()?;
    let mut batches: Vec<RecordBatch> = stream.try_collect().await?;
    let batch = match batches.len() {
        1 => batches.remove(0),
        0 => return internal_err!("row group {} of {} has no rows", unit.row_group, unit.path),
        _ => concat_batches(&batches[0].schema(), &batches)?,
    };
    match batch.num_rows() == count {
        true => Ok(batch),
        false => internal_err!("row group {} of {} has {} rows", unit.row_group, unit.path, batch.num_rows()),
    }
}
