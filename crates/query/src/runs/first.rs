//! Finds aggregations of which only the first groups are wanted, and scans of which only the first rows are.

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

use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::union::UnionExec;
use weir_engine::schema::TIME;

use super::RunsExec;
use crate::scan::hot::HotSource;

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

/// A sort by time with a limit, above scans that come in that order: once the sort has its rows, it bounds the time of those to come.
pub(super) fn by_time(node: &Arc<dyn ExecutionPlan>) -> Option<Result<Arc<dyn ExecutionPlan>>> {
    let sort = node.downcast_ref::<SortExec>().filter(|sort| sort.fetch().is_some())?;
    let by = sort.expr().first();
    let column = by.expr.downcast_ref::<Column>()?.index();
    let below = narrowed(sort.input(), column, by.options.descending)?;
    Some(below.and_then(|below| replaced(node, below)))
}

fn narrowed(node: &Arc<dyn ExecutionPlan>, column: usize, descending: bool) -> Option<Result<Arc<dyn ExecutionPlan>>> {
    if let Some(scan) = node.downcast_ref::<DataSourceExec>() {
        let source = scan.data_source().downcast_ref::<HotSource>()?;
        let by_time = source.bounds_times() && source.logical().field(*source.output().get(column)?).name() == TIME;
        return by_time.then(|| Ok(DataSourceExec::from_data_source(source.narrowed(descending)) as _));
    }
    let column = match node.downcast_ref::<ProjectionExec>() {
        Some(projection) => projection.expr().get(column)?.expr.downcast_ref::<Column>()?.index(),
        None if node.is::<RepartitionExec>() || node.is::<CoalescePartitionsExec>() || node.is::<UnionExec>() => column,
        None => return None,
    };
    let mut children: Vec<Arc<dyn ExecutionPlan>> = node.children().into_iter().cloned().collect();
    let mut any = false;
    for child in &mut children {
        match narrowed(child, column, descending) {
            Some(Ok(better)) => (*child, any) = (better, true),
            Some(Err(error)) => return Some(Err(error)),
            None => {}
        }
    }
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    any.then(|| Arc::clone(node).replace_children(children, options))
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
        let first = (!known).then(|| runs.first(column, descending, count)).flatten();
        return first.map(|runs| runs.map(|runs| Arc::new(runs) as _));
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
