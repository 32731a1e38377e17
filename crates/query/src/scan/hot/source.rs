//! The scan as DataFusion sees it: takes filters, projections and limits in, gives batches.

use std::fmt::Formatter;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics};
use datafusion::config::ConfigOptions;
use datafusion::datasource::source::DataSource;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::{Column, DynamicFilterTracking};
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::utils::reassign_expr_columns;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr, split_conjunction};
use datafusion::physical_plan::DisplayFormatType;
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::SchedulingType;
use datafusion::physical_plan::filter_pushdown::{FilterPushdownPropagation, PushedDown};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, RecordOutput,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use weir_engine::read::Times;

use super::column::Rows;
use super::cursor::{Cursor, Output};
use super::filter::{Filters, is_bound, times_of};
use super::load::UnitColumns;
use super::select::{passing, within};
use super::{ColumnCache, HotFiles, Spare, Unit};

/// Rows are few when there are this many times as many.
const FEW: u64 = 4;

/// Row groups of one table, read through the cache of columns.
#[derive(Debug, Clone)]
pub(crate) struct HotSource {
    files: HotFiles,
    units: Arc<[Unit]>,
    /// Whether units come in the order of time, and most of them are not needed.
    narrow: bool,
    /// What reads the same when it is too much for the cache.
    pub(super) spare: Option<Arc<Spare>>,
    /// What it gives, as places in the logical layout.
    pub(super) output: Vec<usize>,
    schema: SchemaRef,
    /// Over the logical layout.
    pub(super) filters: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) partitions: usize,
    pub(super) fetch: Option<usize>,
    /// Of all rows and the columns of the logical layout, without filters.
    statistics: Arc<Statistics>,
    metrics: ExecutionPlanMetricsSet,
}

/// The units of one partition, each with the rows that are its part of it.
struct Share {
    units: Arc<[Unit]>,
    /// The unit to begin with.
    first: usize,
    partition: usize,
    partitions: usize,
    taken: usize,
}

impl Iterator for Share {
    type Item = (Unit, Rows);

    fn next(&mut self) -> Option<(Unit, Rows)> {
        if self.taken == self.units.len() {
            return None;
        }
        let unit = &self.units[(self.first + self.taken) % self.units.len()];
        self.taken += 1;
        let cut = |part: usize| (u64::from(unit.rows) * part as u64 / self.partitions as u64) as u32;
        Some((unit.clone(), cut(self.partition)..cut(self.partition + 1)))
    }
}

/// What one partition counts.
#[derive(Debug, Clone)]
struct Counts {
    cached: Count,
    decoded: Count,
    row_groups: Count,
    skipped: Count,
}

/// One partition on its way: the units to come, and the selected rows of each when its turn comes.
pub(crate) struct Selection {
    source: HotSource,
    share: Share,
    filters: Arc<Filters>,
    wanted: Vec<usize>,
    context: Arc<TaskContext>,
    counts: Counts,
}

/// The columns of a unit and its selected rows; each range lies within a stretch of ascending times.
#[derive(Debug)]
pub(crate) struct Selected {
    pub(crate) columns: UnitColumns,
    pub(crate) rows: Vec<Rows>,
}

impl HotSource {
    /// `output` are places in the logical layout; `statistics` are those of all columns of that.
    pub(crate) fn new(
        files: HotFiles,
        units: Vec<Unit>,
        output: Vec<usize>,
        partitions: usize,
        statistics: Statistics,
    ) -> Result<Self> {
        let schema = Arc::new(files.schema.project(&output)?);
        Ok(Self {
            files,
            units: units.into(),
            narrow: false,
            spare: None,
            output,
            schema,
            filters: Vec::new(),
            partitions: partitions.max(1),
            fetch: None,
            statistics: Arc::new(statistics),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    /// The same, with what reads Parquet in its place.
    pub(crate) fn with_spare(self, spare: Option<Arc<Spare>>) -> Self {
        Self { spare, ..self }
    }

    /// The same where most row groups will not be needed once the newest (or oldest) have been read.
    pub(crate) fn narrowed(&self, newest: bool) -> Self {
        let mut units = self.units.to_vec();
        match newest {
            true => units.sort_by_key(|unit| std::cmp::Reverse((*unit.times.end(), *unit.times.start()))),
            false => units.sort_by_key(|unit| (*unit.times.start(), *unit.times.end())),
        }
        let metrics = ExecutionPlanMetricsSet::new();
        Self { units: units.into(), narrow: true, spare: None, metrics, ..self.clone() }
    }

    /// Whether a filter that changes while the scan runs may bound its times.
    pub(crate) fn bounds_times(&self) -> bool {
        let dynamic =
            |filter: &Arc<dyn PhysicalExpr>| DynamicFilterTracking::classify(filter).contains_dynamic_filter();
        self.fetch.is_none() && self.filters.iter().any(dynamic)
    }

    /// Whether all of it would be too much for the cache.
    pub(crate) fn is_large(&self) -> bool {
        self.spare.is_some()
    }

    /// Whether most row groups will not be needed.
    pub(crate) fn is_narrow(&self) -> bool {
        self.narrow
    }

    /// The columns that it gives, as places in the logical layout.
    pub(crate) fn output(&self) -> &[usize] {
        &self.output
    }

    /// Whether a column of that name is a tag.
    pub(crate) fn is_tag(&self, name: &str) -> bool {
        self.files.stored.is_tag(name)
    }

    /// Whether filters leave out series.
    pub(crate) fn picks_series(&self) -> Result<bool> {
        Ok(!Filters::new(&self.filters, &self.files.schema, &self.files.stored)?.tags.is_empty())
    }

    /// What is read, one after the other.
    pub(crate) fn units(&self) -> &[Unit] {
        &self.units
    }

    /// Where columns are kept.
    pub(crate) fn cache(&self) -> &Arc<ColumnCache> {
        &self.files.cache
    }

    /// Whether it takes more than keys to tell which rows it gives.
    pub(crate) fn looks_at_rows(&self) -> Result<bool> {
        let filters = Filters::new(&self.filters, &self.files.schema, &self.files.stored)?;
        Ok(self.fetch.is_some() || filters.rest.is_some())
    }

    /// Whether the times of all units say that every row passes. What takes the place of this scan may read other rows as well.
    fn is_implied(&self, filter: &Arc<dyn PhysicalExpr>) -> bool {
        let parts = split_conjunction(filter);
        self.spare.is_none() && parts.iter().all(|part| is_bound(part)) && {
            let times = times_of(filter);
            self.units.iter().all(|unit| times.contains(unit.times.start()) && times.contains(unit.times.end()))
        }
    }

    /// The table's logical layout.
    pub(crate) fn logical(&self) -> &SchemaRef {
        &self.files.schema
    }

    /// Goes through the units of one partition.
    pub(crate) fn selection(&self, partition: usize, context: Arc<TaskContext>) -> Result<Selection> {
        let filters = Arc::new(Filters::new(&self.filters, &self.files.schema, &self.files.stored)?);
        let mut wanted: Vec<usize> = self.output.iter().copied().chain(filters.columns()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let count = |name: &'static str| MetricBuilder::new(&self.metrics).counter(name, partition);
        let counts = Counts {
            cached: count("columns_cached"),
            decoded: count("columns_decoded"),
            row_groups: count("row_groups"),
            skipped: count("row_groups_skipped"),
        };
        // Partitions begin at different units, so that one does not wait for what another decodes.
        let first = if self.narrow { partition } else { self.units.len() * partition / self.partitions };
        let (units, partitions) = (Arc::clone(&self.units), self.partitions);
        let share = Share { units, first, partition, partitions, taken: 0 };
        Ok(Selection { source: self.clone(), share, filters, wanted, context, counts })
    }
}

impl Selection {
    pub(crate) fn filters(&self) -> &Arc<Filters> {
        &self.filters
    }

    /// The next unit that has rows left; `None` when there are no more.
    async fn next(&mut self) -> Result<Option<Selected>> {
        while let Some((unit, rows)) = self.unit(&(i64::MIN..=i64::MAX))? {
            if let Some(selected) = self.read(&unit, rows).await? {
                return Ok(Some(selected));
            }
        }
        Ok(None)
    }

    /// The next unit that may have rows within `times`, and the partition's rows of it; `None` when there are no more.
    pub(crate) fn unit(&mut self, times: &Times) -> Result<Option<(Unit, Rows)>> {
        let now = self.filters.times_now()?;
        let (from, to) = (*now.start().max(times.start()), *now.end().min(times.end()));
        for (unit, rows) in self.share.by_ref() {
            if rows.is_empty() {
                continue;
            }
            if *unit.times.start() <= to && from <= *unit.times.end() {
                return Ok(Some((unit, rows)));
            }
            self.counts.skipped.add(1);
        }
        Ok(None)
    }

    /// Some tags of a unit, and its rows that pass as far as tags tell.
    pub(crate) async fn tags(&self, unit: &Unit, rows: Rows, tags: &[usize]) -> Result<(UnitColumns, Vec<Rows>)> {
        let mut wanted: Vec<usize> = tags.to_vec();
        wanted.extend(self.filters.tags.iter().map(|(column, _)| *column));
        wanted.sort_unstable();
        wanted.dedup();
        let columns = self.columns(unit, &wanted).await?;
        let passing = passing(&self.source.files, &columns, &self.filters, rows)?;
        Ok((columns, passing))
    }

    async fn columns(&self, unit: &Unit, wanted: &[usize]) -> Result<UnitColumns> {
        let pool = self.context.memory_pool();
        let (columns, cached) = self.source.files.columns(unit, wanted, pool, &self.source.metrics).await?;
        self.counts.cached.add(cached);
        self.counts.decoded.add(wanted.len() - cached);
        Ok(columns)
    }

    /// A unit is not read after all.
    pub(crate) fn skip(&self) {
        self.counts.skipped.add(1);
    }

    /// The columns of these rows of a unit and where in them the rows are: of few of `all` rows, asked for once, only these are decoded.
    async fn rows(&self, unit: &Unit, rows: Vec<Rows>, all: u64) -> Result<(UnitColumns, Vec<Rows>)> {
        let count: u64 = rows.iter().map(|rows| rows.len() as u64).sum();
        if count * FEW <= all {
            let (files, partition, pool) = (&self.source.files, self.share.partition, self.context.memory_pool());
            let part = files.part(unit, &self.wanted, &rows, partition, pool, &self.source.metrics).await?;
            if let Some((columns, cached)) = part {
                self.counts.cached.add(cached);
                self.counts.decoded.add(self.wanted.len() - cached);
                return Ok((columns, std::iter::once(0..count as u32).collect()));
            }
        }
        Ok((self.columns(unit, &self.wanted).await?, rows))
    }

    /// The rows of a unit that are selected; `None` when none are.
    pub(crate) async fn read(&self, unit: &Unit, rows: Rows) -> Result<Option<Selected>> {
        let all = rows.len() as u64;
        let (_, rows) = self.tags(unit, rows, &[]).await?;
        if rows.is_empty() {
            // Tags are small; the other columns are not read for nothing.
            self.skip();
            return Ok(None);
        }
        let (columns, rows) = self.rows(unit, rows, all).await?;
        self.counts.row_groups.add(1);
        let mut times = self.filters.times_now()?;
        if let Some(clip) = &unit.clip {
            times = *times.start().max(clip.start())..=*times.end().min(clip.end());
        }
        let rows = within(&columns, &rows, &times)?;
        Ok((!rows.is_empty()).then_some(Selected { columns, rows }))
    }
}

/// One partition of a scan.
struct Scan {
    selection: Selection,
    output: Output,
    cursor: Option<Cursor>,
    left: usize,
    metrics: BaselineMetrics,
}

impl Scan {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while self.left > 0 {
            if let Some(cursor) = &mut self.cursor {
                let timer = self.metrics.elapsed_compute().timer();
                let batch = cursor.next(self.selection.filters(), &self.output)?;
                timer.done();
                if let Some(batch) = batch {
                    let batch = batch.slice(0, batch.num_rows().min(self.left));
                    self.left -= batch.num_rows();
                    return Ok(Some(batch.record_output(&self.metrics)));
                }
                self.cursor = None;
            }
            let Some(Selected { columns, rows }) = self.selection.next().await? else { break };
            self.cursor = Some(Cursor::new(columns, rows, self.selection.filters()));
        }
        Ok(None)
    }
}

impl DataSource for HotSource {
    fn open(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let output = Output {
            schema: Arc::clone(&self.schema),
            columns: self.output.clone(),
            batch_rows: u32::try_from(context.session_config().batch_size()).unwrap_or(u32::MAX),
        };
        let scan = Scan {
            selection: self.selection(partition, context)?,
            output,
            cursor: None,
            left: self.fetch.unwrap_or(usize::MAX),
            metrics: BaselineMetrics::new(&self.metrics, partition),
        };
        let batches =
            futures::stream::try_unfold(
                scan,
                |mut scan| async move { Ok(scan.next().await?.map(|batch| (batch, scan))) },
            );
        Ok(Box::pin(cooperative(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), Box::pin(batches)))))
    }

    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter) -> std::fmt::Result {
        let rows: u64 = self.units.iter().map(|unit| u64::from(unit.rows)).sum();
        write!(f, "hot columns, row_groups={}, rows={rows}, ", self.units.len())?;
        if self.narrow {
            write!(f, "by time, ")?;
        }
        write!(f, "projection=[")?;
        for (index, field) in self.schema.fields().iter().enumerate() {
            write!(f, "{}{}", if index > 0 { ", " } else { "" }, field.name())?;
        }
        write!(f, "]")?;
        for (index, filter) in self.filters.iter().enumerate() {
            write!(f, "{}{filter}", if index > 0 { " AND " } else { ", filter=" })?;
        }
        match self.fetch {
            Some(fetch) => write!(f, ", limit={fetch}"),
            None => Ok(()),
        }
    }

    fn output_partitioning(&self) -> Partitioning {
        Partitioning::UnknownPartitioning(self.partitions)
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        EquivalenceProperties::new(Arc::clone(&self.schema))
    }

    fn scheduling_type(&self) -> SchedulingType {
        SchedulingType::Cooperative
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        if partition.is_some() {
            return Ok(Arc::new(Statistics::new_unknown(&self.schema)));
        }
        let known = Statistics::clone(&self.statistics).project(Some(&self.output));
        let exact = self.filters.is_empty() && self.units.iter().all(|unit| unit.clip.is_none());
        let mut known = if exact { known } else { known.to_inexact() };
        if let Some(fetch) = self.fetch {
            known.num_rows = match known.num_rows {
                Precision::Exact(rows) => Precision::Exact(rows.min(fetch)),
                _ => Precision::Inexact(fetch),
            };
        }
        Ok(Arc::new(known))
    }

    fn with_fetch(&self, fetch: Option<usize>) -> Option<Arc<dyn DataSource>> {
        Some(Arc::new(Self { fetch, metrics: ExecutionPlanMetricsSet::new(), ..self.clone() }))
    }

    fn fetch(&self) -> Option<usize> {
        self.fetch
    }

    fn metrics(&self) -> ExecutionPlanMetricsSet {
        self.metrics.clone()
    }

    /// Takes a choice of columns under their own names in.
    fn try_swapping_with_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn DataSource>>> {
        let mut output = Vec::new();
        for wanted in projection.iter() {
            match wanted.expr.downcast_ref::<Column>() {
                Some(column) if column.name() == wanted.alias => output.push(self.output[column.index()]),
                _ => return Ok(None),
            }
        }
        let schema = Arc::new(self.files.schema.project(&output)?);
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(Some(Arc::new(Self { output, schema, metrics, ..self.clone() })))
    }

    /// Takes every filter in: nothing overlaps these rows, so a row is whole.
    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn DataSource>>> {
        if self.fetch.is_some() {
            return Ok(FilterPushdownPropagation::with_parent_pushdown_result(vec![PushedDown::No; filters.len()]));
        }
        let answers = vec![PushedDown::Yes; filters.len()];
        let mut held = self.filters.clone();
        for filter in filters {
            let filter = reassign_expr_columns(filter, &self.files.schema)?;
            if !self.is_implied(&filter) {
                held.push(filter);
            }
        }
        let source = Self { filters: held, metrics: ExecutionPlanMetricsSet::new(), ..self.clone() };
        Ok(FilterPushdownPropagation::with_parent_pushdown_result(answers)
            .with_updated_node(Arc::new(source) as Arc<dyn DataSource>))
    }

    fn apply_expressions(
        &self,
        each: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let mut recursion = TreeNodeRecursion::Continue;
        for filter in &self.filters {
            recursion = each(filter)?;
            if recursion == TreeNodeRecursion::Stop {
                break;
            }
        }
        Ok(recursion)
    }
}
