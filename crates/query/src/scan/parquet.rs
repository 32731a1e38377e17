//! Scans of Parquet files: plain DataFusion, with the logical layout as table schema and an adapter for each file.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Result, ScalarValue, Statistics};
use datafusion::config::TableParquetOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, lit};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_expr_adapter::PhysicalExprAdapterFactory;
use datafusion::physical_plan::ExecutionPlan;
use object_store::ObjectStore;
use object_store::path::Path;
use weir_engine::read::Times;
use weir_engine::schema::TIME;
use weir_engine::store::file::DataFile;

use super::{Columns, StoredColumns, merge_exec};

/// The place of `time` in the logical layout.
const TIME_INDEX: usize = 0;
/// Columns that carry, for each clipped file, the first and last time that may be taken from it.
const CLIP: [&str; 2] = ["weir_clip_from", "weir_clip_to"];

/// The files of one table and how to open them.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    schema: SchemaRef,
    stored: Arc<StoredColumns>,
    url: ObjectStoreUrl,
    objects: Arc<dyn ObjectStore>,
    footers: Arc<FileMetadataCache>,
}

impl Files {
    pub(crate) fn new(
        schema: SchemaRef,
        stored: StoredColumns,
        url: ObjectStoreUrl,
        objects: Arc<dyn ObjectStore>,
        footers: Arc<FileMetadataCache>,
    ) -> Self {
        Self { schema, stored: Arc::new(stored), url, objects, footers }
    }

    /// Whole files that share no key with anything: counts may be taken from what is known of them.
    pub(crate) fn scan_whole(
        &self,
        files: &[Arc<DataFile>],
        columns: &[usize],
        partitions: usize,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let opened = files.iter().map(|file| self.file(file, Vec::new())).collect::<Result<Vec<_>>>()?;
        let builder = FileScanConfigBuilder::new(self.url.clone(), Arc::new(self.source(None)))
            .with_file_groups(groups(opened, partitions))
            .with_statistics(self.statistics(&files.iter().map(Arc::as_ref).collect::<Vec<_>>()));
        self.finish(builder, columns)
    }

    /// Files from which only some times may be taken, each its own.
    pub(crate) fn scan_clipped(
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
        let builder = FileScanConfigBuilder::new(self.url.clone(), Arc::new(self.configure(source)))
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
        let builder = FileScanConfigBuilder::new(self.url.clone(), Arc::new(self.source(times)))
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
        let readers = CachedParquetFileReaderFactory::new(Arc::clone(&self.objects), Arc::clone(&self.footers));
        source.with_table_parquet_options(options).with_parquet_file_reader_factory(Arc::new(readers))
    }

    fn file(&self, file: &DataFile, clip: Vec<ScalarValue>) -> Result<PartitionedFile> {
        let mut opened = PartitionedFile::new("", file.size);
        opened.object_meta.location = Path::parse(&file.path).map_err(object_store::Error::from)?;
        Ok(opened.with_partition_values(clip).with_statistics(Arc::new(self.statistics(&[file]))))
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
