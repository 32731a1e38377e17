//! Scans of Parquet files: plain DataFusion, with the logical layout as table schema and an adapter for each file.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Result, ScalarValue, Statistics, internal_err};
use datafusion::config::TableParquetOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::datasource::physical_plan::parquet::{CachedParquetFileReaderFactory, ParquetFileReaderFactory};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, lit};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_expr_adapter::PhysicalExprAdapterFactory;
use datafusion::physical_plan::ExecutionPlan;
use futures::future::try_join_all;
use object_store::ObjectStore;
use object_store::path::Path;
use weir_base::ByteSize;
use weir_engine::read::Times;
use weir_engine::schema::TIME;
use weir_engine::store::file::DataFile;

use super::hot::{ColumnCache, HotFiles, HotSource, Spare, Unit};
use super::prune::Pruning;
use super::{Columns, StoredColumns, merge_exec};

/// The place of `time` in the logical layout.
const TIME_INDEX: usize = 0;
/// Files of which the footers are read to find out what a scan needs; with more, Parquet is read as it comes.
const HOT_FILES_MAX: usize = 512;
/// Rows for which a thread of their own is worth it.
pub(super) const PARTITION_ROWS_MIN: u64 = 64 << 10;
/// Columns that carry, for each clipped file, the first and last time that may be taken from it.
const CLIP: [&str; 2] = ["weir_clip_from", "weir_clip_to"];

/// The files of one table and how to open them.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    schema: SchemaRef,
    stored: Arc<StoredColumns>,
    objects: Arc<dyn ObjectStore>,
    caches: Caches,
}

/// What all queries share to read files with.
#[derive(Debug, Clone)]
pub(crate) struct Caches {
    /// Under this URL plans name the store of the tables.
    pub(crate) url: ObjectStoreUrl,
    pub(crate) footers: Arc<FileMetadataCache>,
    pub(crate) columns: Arc<ColumnCache>,
    /// Memory of one query.
    pub(crate) memory: ByteSize,
}

impl Files {
    pub(crate) fn new(schema: SchemaRef, stored: StoredColumns, objects: Arc<dyn ObjectStore>, caches: Caches) -> Self {
        Self { schema, stored: Arc::new(stored), objects, caches }
    }

    /// The logical layout of the table.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Parts of files that share no key with anything, through the cache of columns; `None` when that cannot be. What is too much for it has
    /// a spare plan: see [`Spare`].
    pub(crate) async fn scan_hot(
        &self,
        parts: &[(Arc<DataFile>, Option<Times>)],
        pruning: &Pruning,
        filters: &[Arc<dyn PhysicalExpr>],
        columns: &[usize],
        partitions: usize,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        // Rows are counted by what is known of their files.
        let counts_only = columns.is_empty() && filters.is_empty();
        if parts.len() > HOT_FILES_MAX || counts_only {
            return Ok(None);
        }
        let hot = HotFiles {
            schema: Arc::clone(&self.schema),
            stored: Arc::clone(&self.stored),
            readers: self.readers(),
            cache: Arc::clone(&self.caches.columns),
        };
        let mut read: Vec<usize> = columns.iter().copied().chain([TIME_INDEX]).collect();
        read.sort_unstable();
        read.dedup();
        let units = parts.iter().map(|(file, clip)| self.units(&hot, file, clip.as_ref(), pruning, &read));
        let units: Vec<Unit> = try_join_all(units).await?.into_iter().flatten().collect();
        if units.is_empty() || !hot.decodes(&units, &read, self.caches.memory) {
            return Ok(None);
        }
        let spare = Spare { files: self.clone(), parts: parts.to_vec() };
        let spare = (!hot.fits(&units, &read)).then(|| Arc::new(spare));
        let rows: u64 = units.iter().map(|unit| u64::from(unit.rows)).sum();
        let files: Vec<&DataFile> = parts.iter().map(|(file, _)| &**file).collect();
        let mut statistics = self.statistics(&files);
        statistics.num_rows = Precision::Exact(to_usize(rows));
        let selected = hot.selected(&units, filters)?.unwrap_or(rows);
        let partitions = to_usize(selected.div_ceil(PARTITION_ROWS_MIN)).clamp(1, partitions);
        let source = HotSource::new(hot, units, columns.to_vec(), partitions, statistics)?.with_spare(spare);
        Ok(Some(DataSourceExec::from_data_source(source)))
    }

    /// The row groups of a file that may hold rows asked for.
    async fn units(
        &self,
        hot: &HotFiles,
        file: &DataFile,
        clip: Option<&Times>,
        pruning: &Pruning,
        columns: &[usize],
    ) -> Result<Vec<Unit>> {
        let opened = Arc::new(bare(file)?);
        let footer = hot.footer(&opened).await?;
        let kept = pruning.row_groups(&footer, &self.stored)?;
        let path: Arc<str> = Arc::from(file.path.as_str());
        let kept = footer.row_groups().iter().enumerate().zip(kept).filter(|(_, kept)| *kept);
        kept.map(|((index, group), _)| {
            let number = |number| match u32::try_from(number) {
                Ok(number) => Ok(number),
                Err(_) => internal_err!("{path} has row groups that are too large to number"),
            };
            Ok(Unit {
                file: Arc::clone(&opened),
                path: Arc::clone(&path),
                row_group: number(index as i64)?,
                rows: number(group.num_rows())?,
                times: file.time_min..=file.time_max,
                text_bytes: hot.text_bytes(group, columns),
                clip: clip.cloned(),
            })
        })
        .collect()
    }

    /// Parts of files that share no key with anything, as Parquet comes: one scan of whole files and one of clipped ones.
    pub(crate) fn scan_cold(
        &self,
        parts: &[(Arc<DataFile>, Option<Times>)],
        columns: &[usize],
        partitions: usize,
    ) -> Result<Vec<Arc<dyn ExecutionPlan>>> {
        let (mut whole, mut clipped, mut plans) = (Vec::new(), Vec::new(), Vec::new());
        for (file, times) in parts {
            match times {
                None => whole.push(Arc::clone(file)),
                Some(times) => clipped.push((Arc::clone(file), times.clone())),
            }
        }
        if !whole.is_empty() {
            plans.push(self.scan_whole(&whole, columns, partitions)?);
        }
        if !clipped.is_empty() {
            plans.push(self.scan_clipped(&clipped, columns, partitions)?);
        }
        Ok(plans)
    }

    /// Whole files that share no key with anything: counts may be taken from what is known of them.
    fn scan_whole(
        &self,
        files: &[Arc<DataFile>],
        columns: &[usize],
        partitions: usize,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let opened = files.iter().map(|file| self.file(file, Vec::new())).collect::<Result<Vec<_>>>()?;
        let builder = FileScanConfigBuilder::new(self.caches.url.clone(), Arc::new(self.source(None)))
            .with_file_groups(groups(opened, partitions))
            .with_statistics(self.statistics(&files.iter().map(Arc::as_ref).collect::<Vec<_>>()));
        self.finish(builder, columns)
    }

    /// Files from which only some times may be taken, each its own.
    fn scan_clipped(
        &self,
        files: &[(Arc<DataFile>, Times)],
        columns: &[usize],
        partitions: usize,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let nanos = DataType::Timestamp(TimeUnit::Nanosecond, None);
        let clips: Vec<_> = CLIP.iter().map(|name| Arc::new(Field::new(*name, nanos.clone(), false))).collect();
        let clip = |name: usize, operator| {
            let bound: Arc<dyn PhysicalExpr> = Arc::new(Column::new(CLIP[name], self.schema.fields().len() + name));
            compare(time(TIME_INDEX), operator, bound)
        };
        let inside = compare(clip(0, Operator::GtEq), Operator::And, clip(1, Operator::LtEq));
        let schema = TableSchema::builder(Arc::clone(&self.schema)).with_table_partition_cols(clips).build();
        let source = ParquetSource::new(schema).with_predicate(inside);
        let opened = files
            .iter()
            .map(|(file, times)| {
                let bounds = [*times.start(), *times.end()];
                let bounds = bounds.map(|bound| ScalarValue::TimestampNanosecond(Some(bound), None));
                self.file(file, bounds.to_vec())
            })
            .collect::<Result<Vec<_>>>()?;
        let builder = FileScanConfigBuilder::new(self.caches.url.clone(), Arc::new(self.configure(source)))
            .with_file_groups(groups(opened, partitions));
        self.finish(builder, columns)
    }

    /// One file as a sorted input of a merge.
    pub(crate) fn scan_sorted(
        &self,
        file: &Arc<DataFile>,
        times: Option<Times>,
        columns: &Columns,
        batch_rows: usize,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let builder = FileScanConfigBuilder::new(self.caches.url.clone(), Arc::new(self.source(times)))
            .with_file_groups(vec![FileGroup::new(vec![self.file(file, Vec::new())?])])
            .with_output_ordering(vec![self.ordering(columns)?])
            .with_batch_size(Some(batch_rows));
        self.finish(builder, &columns.read)
    }

    fn finish(&self, builder: FileScanConfigBuilder, columns: &[usize]) -> Result<Arc<dyn ExecutionPlan>> {
        let stored: Arc<dyn PhysicalExprAdapterFactory> = Arc::clone(&self.stored) as _;
        let config: FileScanConfig =
            builder.with_expr_adapter(Some(stored)).with_projection_indices(Some(columns.to_vec()))?.build();
        Ok(DataSourceExec::from_data_source(config))
    }

    fn source(&self, times: Option<Times>) -> ParquetSource {
        let source = ParquetSource::new(Arc::clone(&self.schema));
        self.configure(match times {
            Some(times) => source.with_predicate(within(time(TIME_INDEX), &times)),
            None => source,
        })
    }

    fn configure(&self, source: ParquetSource) -> ParquetSource {
        let mut options = TableParquetOptions::default();
        options.global.pushdown_filters = true;
        options.global.reorder_filters = true;
        source.with_table_parquet_options(options).with_parquet_file_reader_factory(self.readers())
    }

    fn readers(&self) -> Arc<dyn ParquetFileReaderFactory> {
        let footers = Arc::clone(&self.caches.footers);
        Arc::new(CachedParquetFileReaderFactory::new(Arc::clone(&self.objects), footers))
    }

    fn file(&self, file: &DataFile, clip: Vec<ScalarValue>) -> Result<PartitionedFile> {
        Ok(bare(file)?.with_partition_values(clip).with_statistics(Arc::new(self.statistics(&[file]))))
    }

    /// What is known of files that share no key: the number of rows exactly, the rest as bounds.
    fn statistics(&self, files: &[&DataFile]) -> Statistics {
        let nanos = |time| ScalarValue::TimestampNanosecond(Some(time), None);
        let mut statistics = Statistics::new_unknown(&self.schema);
        statistics.num_rows = Precision::Exact(sum(files, |file| file.rows));
        statistics.total_byte_size = Precision::Inexact(sum(files, |file| file.size));
        if let (Some(min), Some(max)) =
            (files.iter().map(|file| file.time_min).min(), files.iter().map(|file| file.time_max).max())
        {
            let column = ColumnStatistics::new_unknown()
                .with_min_value(Precision::Inexact(nanos(min)))
                .with_max_value(Precision::Inexact(nanos(max)))
                .with_null_count(Precision::Exact(0));
            statistics.column_statistics[TIME_INDEX] = column;
        }
        if let [file] = files {
            for tag in &file.tags {
                let Ok(index) = self.schema.index_of(&tag.name) else { continue };
                let bound = |text: &Option<String>| match text {
                    Some(text) => Precision::Inexact(ScalarValue::Utf8View(Some(text.clone()))),
                    None => Precision::Absent,
                };
                let nulls = tag.nulls.map_or(Precision::Absent, |nulls| Precision::Inexact(to_usize(nulls)));
                statistics.column_statistics[index] = ColumnStatistics::new_unknown()
                    .with_min_value(bound(&tag.min))
                    .with_max_value(bound(&tag.max))
                    .with_null_count(nulls);
            }
        }
        statistics
    }

    /// The order of every file, in terms of the logical layout.
    fn ordering(&self, columns: &Columns) -> Result<LexOrdering> {
        merge_exec::ordering(&self.schema, &columns.tags.iter().map(|&tag| columns.read[tag]).collect::<Vec<_>>(), 0)
    }
}

/// A file without what is known of it.
fn bare(file: &DataFile) -> Result<PartitionedFile> {
    let mut opened = PartitionedFile::new("", file.size);
    opened.object_meta.location = Path::parse(&file.path).map_err(object_store::Error::from)?;
    Ok(opened)
}

/// `time` within both bounds.
pub(crate) fn within(time: Arc<dyn PhysicalExpr>, times: &Times) -> Arc<dyn PhysicalExpr> {
    let nanos = |time| lit(ScalarValue::TimestampNanosecond(Some(time), None));
    let from = compare(Arc::clone(&time), Operator::GtEq, nanos(*times.start()));
    compare(from, Operator::And, compare(time, Operator::LtEq, nanos(*times.end())))
}

fn time(index: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(TIME, index))
}

fn compare(left: Arc<dyn PhysicalExpr>, operator: Operator, right: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    Arc::new(BinaryExpr::new(left, operator, right))
}

/// Spreads files over at most `partitions` groups of about equal size, keeping their order within a group.
fn groups(files: Vec<PartitionedFile>, partitions: usize) -> Vec<FileGroup> {
    let partitions = partitions.clamp(1, files.len().max(1));
    let mut groups: Vec<(u64, Vec<PartitionedFile>)> = vec![(0, Vec::new()); partitions];
    for file in files {
        let (bytes, group) = groups.iter_mut().min_by_key(|group| group.0).expect("there is a group");
        *bytes += file.object_meta.size;
        group.push(file);
    }
    groups.into_iter().filter(|group| !group.1.is_empty()).map(|group| FileGroup::new(group.1)).collect()
}

fn sum(files: &[&DataFile], pick: impl Fn(&DataFile) -> u64) -> usize {
    to_usize(files.iter().map(|file| pick(file)).fold(0, u64::saturating_add))
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
