//! The predicate of a DELETE as a filter of rows: the same expressions, with the same meaning, as in a WHERE.

use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::DataType;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_plan::PhysicalExpr;
use weir_base::Kind;
use weir_engine::operations::FilterOf;
use weir_engine::read::logical_schema;
use weir_engine::rewrite::RowFilter;
use weir_engine::schema::{TIME, TableSchema};

use crate::error::{Error, Result};

/// Makes filters with the functions of `state`.
pub(crate) fn filters(state: SessionState) -> FilterOf {
    let failed = |error: Error| weir_engine::Error::new(error.kind(), weir_base::error::chain(&error));
    Arc::new(move |schema, predicate| filter(&state, schema, predicate).map_err(failed))
}

/// The filter of the rows for which `predicate` is true; where it is NULL a row is not meant.
fn filter(state: &SessionState, schema: &TableSchema, predicate: &str) -> Result<RowFilter> {
    let arrow = logical_schema(schema);
    let columns = Arc::new(DFSchema::try_from(Arc::clone(&arrow))?);
    let expr = state.create_logical_expr(predicate, &columns)?;
    check(&expr, &columns)?;
    let context = SimplifyContext::builder()
        .with_schema(Arc::clone(&columns))
        .with_config_options(Arc::clone(state.config_options()))
        .build();
    let simplifier = ExprSimplifier::new(context);
    let coerced = simplifier.coerce(expr, &columns)?;
    if coerced.get_type(&columns)? != DataType::Boolean && coerced.get_type(&columns)? != DataType::Null {
        return Err(Error::invalid(format!("'{predicate}' is neither true nor false")));
    }
    let times = times(&simplifier.simplify(coerced.clone())?);
    let physical = state.create_physical_expr(coerced, &columns)?;
    let evaluate = move |batch: &RecordBatch| {
        evaluate(&*physical, batch)
            .map_err(|error| weir_engine::Error::new(error.kind(), weir_base::error::chain(&error)))
    };
    Ok(RowFilter { times, ..RowFilter::new(evaluate) })
}

fn check(expr: &Expr, columns: &DFSchema) -> Result<()> {
    if expr.is_volatile() {
        return Err(Error::invalid("a DELETE's predicate must give the same answer each time it is asked"));
    }
    let whole = expr.exists(|part| Ok(matches!(part, Expr::AggregateFunction(_) | Expr::WindowFunction(_))))?;
    if whole {
        return Err(Error::invalid(
            "a DELETE decides on each row by itself: aggregates and windows have no meaning there",
        ));
    }
    let unknown = expr.column_refs().into_iter().find(|column| !columns.has_column(column));
    match unknown {
        Some(column) => Err(Error::invalid(format!("the table has no column '{}'", column.name))),
        None => Ok(()),
    }
}

fn evaluate(physical: &dyn PhysicalExpr, batch: &RecordBatch) -> Result<BooleanArray> {
    let array = physical.evaluate(batch)?.into_array(batch.num_rows())?;
    if *array.data_type() == DataType::Null {
        return Ok(BooleanArray::new_null(batch.num_rows()));
    }
    let answers = array.as_boolean_opt().cloned();
    answers.ok_or_else(|| Error::new(Kind::Internal, "a predicate gave something else than true and false"))
}

/// Times outside of which no row is meant, as far as a predicate says so with plain comparisons.
fn times(expr: &Expr) -> Option<RangeInclusive<i64>> {
    let (mut from, mut to) = (i64::MIN, i64::MAX);
    for part in split_conjunction(expr) {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = part else { continue };
        let (op, value) = match (&**left, &**right) {
            (Expr::Column(column), Expr::Literal(value, _)) if column.name == TIME => (*op, value),
            (Expr::Literal(value, _), Expr::Column(column)) if column.name == TIME => match op.swap() {
                Some(op) => (op, value),
                None => continue,
            },
            _ => continue,
        };
        let ScalarValue::TimestampNanosecond(Some(value), None) = value else { continue };
        match op {
            Operator::Eq => (from, to) = (from.max(*value), to.min(*value)),
            Operator::Lt => to = to.min(value.saturating_sub(1)),
            Operator::LtEq => to = to.min(*value),
            Operator::Gt => from = from.max(value.saturating_add(1)),
            Operator::GtEq => from = from.max(*value),
            _ => {}
        }
    }
    ((from, to) != (i64::MIN, i64::MAX)).then_some(from..=to)
}
