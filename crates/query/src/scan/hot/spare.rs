//! What takes the place of a scan that would be too much for the cache of columns: Parquet as it comes.
//!
//! Whether a scan needs all of its row groups shows only when the plan above it is known: the last row of each series, the first buckets and
//! the newest rows need few of many ([`HotSource::narrowed`]). So a scan that is too large begins as one through the cache, with this
//! plan to spare, and keeps that place only where few row groups are needed.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::config::ConfigOptions;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_expr::conjunction;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::filter_pushdown::PushedDown;
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use weir_engine::read::Times;
use weir_engine::store::file::DataFile;

use super::HotSource;
use crate::scan::Files;

/// The files of a scan that is too large for the cache.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) files: Files,
    pub(crate) parts: Vec<(Arc<DataFile>, Option<Times>)>,
}

impl HotSource {
    /// What takes the place of this scan with its columns, filters, limit and partitions; `None` when it may stay.
    pub(crate) fn spare_plan(&self, config: &ConfigOptions) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(spare) = &self.spare else { return Ok(None) };
        let mut read = self.output.clone();
        for column in self.filters.iter().flat_map(collect_columns) {
            if !read.contains(&column.index()) {
                read.push(column.index());
            }
        }
        let schema = self.logical().project(&read)?;
        let filters = self.filters.iter().map(|filter| reassign_expr_columns(Arc::clone(filter), &schema));
        let filters = filters.collect::<Result<Vec<_>>>()?;
        let mut plans = spare.files.scan_cold(&spare.parts, &read, self.partitions)?;
        for plan in &mut plans {
            let scan = filtered(plan, &filters, config)?;
            *plan = scan.repartitioned(self.partitions, config)?.unwrap_or(scan);
        }
        let mut plan = if plans.len() == 1 { plans.remove(0) } else { UnionExec::try_new(plans)? };
        if read.len() > self.output.len() {
            let columns = schema.fields().iter().take(self.output.len()).enumerate().map(|(index, field)| {
                let expr: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), index));
                ProjectionExpr { expr, alias: field.name().clone() }
            });
            plan = Arc::new(ProjectionExec::try_new(columns.collect::<Vec<_>>(), plan)?);
        }
        if let Some(fetch) = self.fetch {
            plan = Arc::new(LocalLimitExec::new(plan, fetch));
        }
        let same = plan.output_partitioning().partition_count() == self.partitions;
        Ok(Some(match self.partitions {
            _ if same => plan,
            1 => {
                // Of one partition the limit above is gone: this is the only one.
                let plan: Arc<dyn ExecutionPlan> = Arc::new(CoalescePartitionsExec::new(plan));
                self.fetch.map_or(Arc::clone(&plan), |fetch| Arc::new(GlobalLimitExec::new(plan, 0, Some(fetch))))
            }
            partitions => Arc::new(RepartitionExec::try_new(plan, Partitioning::RoundRobinBatch(partitions))?),
        }))
    }
}

/// The scan with filters that it takes in, and above it what it does not.
fn filtered(
    plan: &Arc<dyn ExecutionPlan>,
    filters: &[Arc<dyn PhysicalExpr>],
    config: &ConfigOptions,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut plan = Arc::clone(plan);
    let mut left = filters.to_vec();
    if let Some(scan) = plan.downcast_ref::<DataSourceExec>().filter(|_| !filters.is_empty()) {
        let pushed = scan.data_source().try_pushdown_filters(filters.to_vec(), config)?;
        let answers = pushed.filters.into_iter().zip(filters);
        left = answers.filter(|(answer, _)| matches!(answer, PushedDown::No)).map(|(_, one)| Arc::clone(one)).collect();
        if let Some(source) = pushed.updated_node {
            plan = Arc::new(DataSourceExec::new(source));
        }
    }
    Ok(match left.is_empty() {
        true => plan,
        false => Arc::new(FilterExec::try_new(conjunction(left), plan)?),
    })
}
