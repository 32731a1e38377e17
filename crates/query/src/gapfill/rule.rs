//! Replaces the markers of gap filling by a node over the grouping that they stand in.
//!
//! The plan is walked from its leaves. A grouping with a bucket marker among its keys gets the plain bucket function for
//! it and a [`GapFill`] on top. `locf` and `interpolate` are found in the nodes above; what they stand around becomes one
//! more column below the filling, and they become that column. A marker that is left over is an error.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DataFusionError, ExprSchema, Result, plan_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable, Extension, LogicalPlan, LogicalPlanBuilder, Projection, ScalarUDF,
    UserDefinedLogicalNode, lit,
};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use datafusion::scalar::ScalarValue;

use super::bounds::Bounds;
use super::markers::{DATE_BIN, INTERPOLATE, LOCF, TIME_BUCKET, is_call};
use super::node::{Fill, GapFill, Range};
use crate::functions::{Buckets, time_bucket};

/// The rule; must be the first, while the plan still is as it was written.
#[derive(Debug)]
pub(crate) struct GapFillRule {
    /// Rows that one query may fill in.
    pub(crate) rows_max: u64,
}

impl OptimizerRule for GapFillRule {
    fn name(&self) -> &str {
        "gap_fill"
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        plan.transform_up_with_subqueries(|node| {
            let node = match node {
                LogicalPlan::Aggregate(grouping) if marked(&grouping.group_expr, &[DATE_BIN, TIME_BUCKET])? > 0 => {
                    return Ok(Transformed::yes(self.fill(grouping, config)?));
                }
                node => node,
            };
            let expressions = node.expressions();
            if marked(&expressions, &[LOCF, INTERPOLATE])? > 0 {
                return Ok(Transformed::yes(replace_fills(node)?));
            }
            if marked(&expressions, &[DATE_BIN, TIME_BUCKET])? > 0 {
                return plan_err!("{DATE_BIN} and {TIME_BUCKET} may only stand as a key of GROUP BY");
            }
            Ok(Transformed::no(node))
        })
    }
}

impl GapFillRule {
    fn fill(&self, grouping: Aggregate, config: &dyn OptimizerConfig) -> Result<LogicalPlan> {
        let (name, range, bucket) = self.range(&grouping, config)?;
        let mut groups = grouping.group_expr.clone();
        let shown = groups[bucket].schema_name().to_string();
        let call = groups[bucket].clone().unalias();
        let Expr::ScalarFunction(call) = call else { return not_a_key(&name) };
        let width = call.args[0].clone();
        let origin = lit(ScalarValue::TimestampNanosecond(Some(origin_nanos(&range.buckets, &name)?), None));
        let function = Arc::new(ScalarUDF::from(time_bucket()));
        let bucket_of = ScalarFunction::new_udf(function, vec![width, call.args[1].clone(), origin]);
        groups[bucket] = Expr::ScalarFunction(bucket_of).alias(shown);
        let mut fills = vec![Fill::Key; groups.len()];
        fills[bucket] = Fill::Bucket;
        for aggregate in &grouping.aggr_expr {
            let Expr::AggregateFunction(function) = aggregate.clone().unalias_nested().data else {
                return plan_err!("{name} fills plain aggregates only");
            };
            let field = grouping.schema.field(fills.len());
            fills.push(Fill::Empty(function.func.default_value(field.data_type())?));
        }
        let aggregated = Aggregate::try_new(grouping.input, groups, grouping.aggr_expr)?;
        Ok(extension(GapFill::try_new(LogicalPlan::Aggregate(aggregated), fills, range)?))
    }

    /// The function that marks the bucket, the range to fill and the marked key.
    fn range(&self, grouping: &Aggregate, config: &dyn OptimizerConfig) -> Result<(String, Range, usize)> {
        let is_key = |expr: &Expr| is_call(unaliased(expr), &[DATE_BIN, TIME_BUCKET]);
        let Some(bucket) = grouping.group_expr.iter().position(is_key) else { return not_a_key(DATE_BIN) };
        let Expr::ScalarFunction(call) = unaliased(&grouping.group_expr[bucket]) else { return not_a_key(DATE_BIN) };
        let name = call.func.name().to_owned();
        if marked(&grouping.group_expr, &[DATE_BIN, TIME_BUCKET])? > 1 {
            return plan_err!("a query can be filled along one key, {name} stands in several");
        }
        let Expr::Column(time) = &call.args[1] else {
            return plan_err!("the time of {name} must be a column, not {}", call.args[1]);
        };
        let buckets = self.buckets(&name, call, config)?;
        let found = Bounds::find(&grouping.input, time, config)?;
        let (Some(lower), Some(upper)) = (found.lower, found.upper) else {
            let missing = match (found.lower, found.upper) {
                (None, None) => "neither a lower nor an upper bound",
                (None, _) => "no lower bound",
                _ => "no upper bound",
            };
            return plan_err!(
                "{name} needs the range to fill from WHERE, as in {0} >= a AND {0} < b with constants; there is {missing}",
                time.name
            );
        };
        let unit = match grouping.input.schema().field_from_column(time)?.data_type() {
            DataType::Timestamp(unit, _) => *unit,
            _ => TimeUnit::Nanosecond,
        };
        let range = Range::new(buckets, lower, upper, unit)?;
        if range.count > self.rows_max {
            return Err(past_limit(&format!("{name} makes {} buckets", range.count), self.rows_max));
        }
        Ok((name, range, bucket))
    }

    fn buckets(&self, name: &str, call: &ScalarFunction, config: &dyn OptimizerConfig) -> Result<Buckets> {
        let context = SimplifyContext::builder()
            .with_config_options(config.options())
            .with_query_execution_start_time(config.query_execution_start_time())
            .build();
        let simplifier = ExprSimplifier::new(context);
        let constant = |argument: &Expr, what: &str| {
            if argument.any_column_refs() {
                return plan_err!("the {what} of {name} must be the same for all rows");
            }
            match simplifier.simplify(argument.clone())? {
                Expr::Literal(value, _) => Ok(value),
                _ => plan_err!("the {what} of {name} must be a constant"),
            }
        };
        let width = constant(&call.args[0], "width")?;
        let origin = call.args.get(2).map(|origin| constant(origin, "origin")).transpose()?;
        let epoch = ScalarValue::TimestampNanosecond(Some(0), None);
        let origin = if name == DATE_BIN { Some(origin.unwrap_or(epoch)) } else { origin };
        Buckets::parse(name, &width, origin.as_ref())
    }
}

/// The error of a query that would make more rows than it may.
pub(super) fn past_limit(what: &str, rows_max: u64) -> DataFusionError {
    DataFusionError::ResourcesExhausted(format!(
        "{what} and gap filling is limited to {rows_max} rows (setting query_gapfill_rows_max)"
    ))
}

fn not_a_key<T>(name: &str) -> Result<T> {
    plan_err!("{name} must be a key of GROUP BY by itself")
}

/// An origin as the plain bucket function reads it.
fn origin_nanos(buckets: &Buckets, name: &str) -> Result<i64> {
    let nanos = i64::try_from(buckets.origin);
    nanos.map_err(|_| DataFusionError::Plan(format!("the origin of {name} is out of range")))
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

fn extension(node: GapFill) -> LogicalPlan {
    LogicalPlan::Extension(Extension { node: Arc::new(node) })
}

/// How many calls of these functions there are.
fn marked(expressions: &[Expr], names: &[&str]) -> Result<usize> {
    let mut found = 0;
    for expression in expressions {
        expression.apply(|expr| {
            found += usize::from(is_call(expr, names));
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    Ok(found)
}

/// Makes columns of the filling out of the calls of `locf` and `interpolate` in a node above it.
fn replace_fills(node: LogicalPlan) -> Result<LogicalPlan> {
    let mut calls: Vec<Expr> = Vec::new();
    for expression in node.expressions() {
        expression.apply(|expr| {
            if !is_call(expr, &[LOCF, INTERPOLATE]) {
                return Ok(TreeNodeRecursion::Continue);
            }
            if !calls.contains(expr) {
                calls.push(expr.clone());
            }
            Ok(TreeNodeRecursion::Jump)
        })?;
    }
    let (1, false) = (node.inputs().len(), matches!(node, LogicalPlan::Aggregate(_))) else { return misplaced() };
    let input = with_fills(node.inputs()[0].clone(), &calls)?;
    let names = NamePreserver::new(&node);
    let expressions = node.expressions().into_iter().map(|expression| {
        let name = names.save(&expression);
        let replaced = expression.transform_down(|expr| match calls.contains(&expr) {
            true => Ok(Transformed::new(Expr::Column(filled(&expr)), true, TreeNodeRecursion::Jump)),
            false => Ok(Transformed::no(expr)),
        });
        Ok(name.restore(replaced.data()?))
    });
    let expressions = expressions.collect::<Result<Vec<_>>>()?;
    node.with_new_exprs(expressions, vec![input])
}

fn misplaced<T>() -> Result<T> {
    plan_err!(
        "{LOCF} and {INTERPOLATE} may only stand around an aggregate, in the SELECT or HAVING of a query grouped by {DATE_BIN} or {TIME_BUCKET}"
    )
}

/// The column that a call becomes.
fn filled(call: &Expr) -> Column {
    Column::new_unqualified(call.schema_name().to_string())
}

/// Adds the columns that these calls become to the filling that lies below, through nodes that keep all columns.
fn with_fills(plan: LogicalPlan, calls: &[Expr]) -> Result<LogicalPlan> {
    match &plan {
        LogicalPlan::Filter(_) | LogicalPlan::Window(_) | LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => {
            let input = with_fills(plan.inputs()[0].clone(), calls)?;
            plan.with_new_exprs(plan.expressions(), vec![input])
        }
        LogicalPlan::Extension(Extension { node }) => match node.as_any().downcast_ref() {
            Some(node) => add_fills(node, calls),
            None => misplaced(),
        },
        _ => misplaced(),
    }
}

fn add_fills(node: &GapFill, calls: &[Expr]) -> Result<LogicalPlan> {
    let mut columns: Vec<Expr> = node.input.schema().columns().into_iter().map(Expr::Column).collect();
    let mut fills = node.fills.clone();
    for call in calls {
        let Expr::ScalarFunction(function) = call else { return misplaced() };
        let [value] = function.args.as_slice() else { return misplaced() };
        if marked(std::slice::from_ref(value), &[LOCF, INTERPOLATE])? > 0 {
            return plan_err!("{} may not stand around another filling", function.func.name());
        }
        let name = filled(call);
        if node.schema().has_column(&name) {
            continue;
        }
        let kind = call.get_type(node.input.schema())?;
        columns.push(value.clone().cast_to(&kind, node.input.schema())?.alias(name.name));
        fills.push(if function.func.name() == LOCF { Fill::Previous } else { Fill::Linear });
    }
    let input = LogicalPlan::Projection(Projection::try_new(columns, Arc::new(node.input.clone()))?);
    let input = LogicalPlanBuilder::from(input).build()?;
    Ok(extension(GapFill::try_new(input, fills, node.range)?))
}
