//! The number of rows of a table, from what is known of its files: a question asked so often that it need not be planned.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::DataType;
use datafusion::common::TableReference;
use datafusion::logical_expr::{Expr, LogicalPlan};
use weir_engine::read::{ReadPlan, Source};

use crate::error::{Result, from_engine};
use crate::scan::{self, SnapshotTable};

/// The table whose rows a plan counts, when it does nothing else.
pub(crate) fn counted(plan: &LogicalPlan) -> Option<&TableReference> {
    let LogicalPlan::Projection(projection) = plan else { return None };
    let LogicalPlan::Aggregate(aggregate) = &*projection.input else { return None };
    let LogicalPlan::TableScan(scan) = &*aggregate.input else { return None };
    let ([shown], [count], []) = (&projection.expr[..], &aggregate.aggr_expr[..], &aggregate.group_expr[..]) else {
        return None;
    };
    let is_count = matches!(unnamed(shown), Expr::Column(_)) && counts_rows(unnamed(count));
    (is_count && scan.filters.is_empty() && scan.fetch.is_none()).then_some(&scan.table_name)
}

/// The one row of the answer; `None` where rows must be merged before they can be counted.
pub(crate) async fn answer(plan: &LogicalPlan, table: &SnapshotTable) -> Result<Option<RecordBatch>> {
    let schema = Arc::clone(plan.schema().inner());
    let read = ReadPlan::new(table.snapshot().sources(), &(i64::MIN..=i64::MAX));
    let whole = read.merged.is_empty() && read.plain.iter().all(|part| part.times.is_none());
    if !whole || schema.fields().len() != 1 || *schema.field(0).data_type() != DataType::Int64 {
        return Ok(None);
    }
    scan::sort(&table.snapshot().sources()).await?;
    let mut rows = 0;
    for part in &read.plain {
        rows += match &part.source {
            Source::File(file) => file.rows,
            Source::Run(run) => run.sorted().map_err(from_engine)?.rows() as u64,
        };
    }
    let column = Arc::new(Int64Array::from(vec![i64::try_from(rows).unwrap_or(i64::MAX)]));
    Ok(Some(RecordBatch::try_new(schema, vec![column])?))
}

fn unnamed(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unnamed(&alias.expr),
        other => other,
    }
}

/// Whether an aggregate counts rows, as `count(*)` and `count(1)` do.
fn counts_rows(expr: &Expr) -> bool {
    let Expr::AggregateFunction(call) = expr else { return false };
    let plain = !call.params.distinct && call.params.filter.is_none() && call.params.order_by.is_empty();
    let all = matches!(&call.params.args[..], [Expr::Literal(value, _)] if !value.is_null());
    call.func.name() == "count" && plain && all
}
