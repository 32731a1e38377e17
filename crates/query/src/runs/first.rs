//! Finds aggregations of which only the first groups are wanted.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;

use super::RunsExec;

/// The node with an aggregation below it that knows how many of its groups are wanted; `None` where there is none.
///
/// A sort with a limit of n takes the groups of the n first values of its first key at most, for each of them has a row.
pub(super) fn wanted(node: &Arc<dyn ExecutionPlan>) -> Option<Result<Arc<dyn ExecutionPlan>>> {
    let sort = node.downcast_ref::<SortExec>()?;
    let (count, by) = (sort.fetch()?, sort.expr().first());
    let column = by.expr.downcast_ref::<Column>()?.index();
    let below = below(sort.input(), column, by.options.descending, count)?;
    Some(below.and_then(|below| replaced(node, below)))
}

fn replaced(node: &Arc<dyn ExecutionPlan>, below: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    Arc::clone(node).replace_children(vec![below], options)
}

fn below(
    node: &Arc<dyn ExecutionPlan>,
    column: usize,
    descending: bool,
    count: usize,
) -> Option<Result<Arc<dyn ExecutionPlan>>> {
    if let Some(runs) = node.downcast_ref::<RunsExec>() {
        // A sort further down may have asked before.
        let known = runs.direct.as_ref()?.skips().is_some();
        return (!known).then(|| runs.first(column, descending, count)).flatten().map(|runs| Ok(Arc::new(runs) as _));
    }
    if node.fetch().is_some() {
        return None;
    }
    let column = if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
        projection.expr().get(column)?.expr.downcast_ref::<Column>()?.index()
    } else if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        if aggregate.group_expr().has_grouping_set() {
            return None;
        }
        // Groups come first among the columns.
        aggregate.group_expr().expr().get(column)?.0.downcast_ref::<Column>()?.index()
    } else if node.is::<RepartitionExec>()
        || node.is::<CoalescePartitionsExec>()
        || node.is::<SortPreservingMergeExec>()
    {
        column
    } else {
        return None;
    };
    let child = Arc::clone(*node.children().first()?);
    let below = below(&child, column, descending, count)?;
    Some(below.and_then(|below| replaced(node, below)))
}
