//! Turns a LEFT JOIN with the marker into an ASOF join, and lets filters on the left side sink into it.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, JoinType, Result, ScalarValue, plan_err};
use datafusion::logical_expr::expr::BinaryExpr;
use datafusion::logical_expr::type_coercion::binary::comparison_coercion;
use datafusion::logical_expr::utils::{conjunction, find_valid_equijoin_key_pair, split_conjunction_owned};
use datafusion::logical_expr::{
    Expr, ExprSchemable, Extension, Filter, Join, LogicalPlan, LogicalPlanBuilder, Operator,
};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use super::node::{AsofJoin, Match};
use super::words::MARKER;

/// The rule; must run before joins are touched by any other.
#[derive(Debug)]
pub(crate) struct AsofRule;

impl OptimizerRule for AsofRule {
    fn name(&self) -> &str {
        "asof_join"
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Join(join) if marked(&join)? => {
                Ok(Transformed::yes(LogicalPlan::Extension(Extension { node: Arc::new(asof(join)?) })))
            }
            LogicalPlan::Filter(filter) => match asof_of(&filter.input).cloned() {
                Some(join) => sink(filter, join),
                None => Ok(Transformed::no(LogicalPlan::Filter(filter))),
            },
            node => Ok(Transformed::no(node)),
        })
    }
}

fn asof_of(plan: &LogicalPlan) -> Option<&AsofJoin> {
    match plan {
        LogicalPlan::Extension(Extension { node }) => node.as_any().downcast_ref(),
        _ => None,
    }
}

fn is_marker(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(call) if call.func.name() == MARKER)
}

fn marked(join: &Join) -> Result<bool> {
    match &join.filter {
        Some(filter) => filter.exists(|expr| Ok(is_marker(expr))),
        None => Ok(false),
    }
}

fn asof(join: Join) -> Result<AsofJoin> {
    let Join { left, right, on: mut keys, filter, join_type, .. } = join;
    let mut found = None;
    for conjunct in filter.map(split_conjunction_owned).unwrap_or_default() {
        if is_marker(&conjunct) && found.is_none() {
            found = Some(conjunct);
            continue;
        }
        let pair = match &conjunct {
            Expr::BinaryExpr(BinaryExpr { left: one, op: Operator::Eq, right: other }) => {
                find_valid_equijoin_key_pair(one, other, left.schema(), right.schema())?
            }
            _ => None,
        };
        match pair {
            Some(pair) => keys.push(pair),
            None => {
                return plan_err!(
                    "the ON of an ASOF JOIN takes equalities of both tables joined by AND, not {conjunct}"
                );
            }
        }
    }
    let (Some(Expr::ScalarFunction(call)), JoinType::Left) = (found, join_type) else {
        return plan_err!("MATCH_CONDITION may only stand in an ASOF JOIN");
    };
    let [one, Expr::Literal(ScalarValue::Utf8(Some(op)), _), other] = call.args.as_slice() else {
        return plan_err!("MATCH_CONDITION may only stand in an ASOF JOIN");
    };
    let Some(nearest) = Match::of(op) else { return plan_err!("MATCH_CONDITION cannot compare by {op}") };
    let of = |expr: &Expr, schema: &DFSchema| {
        expr.any_column_refs() && expr.column_refs().iter().all(|column| schema.has_column(column))
    };
    let (times, nearest) = if of(one, left.schema()) && of(other, right.schema()) {
        ((one.clone(), other.clone()), nearest)
    } else if of(other, left.schema()) && of(one, right.schema()) {
        ((other.clone(), one.clone()), nearest.swapped())
    } else {
        return plan_err!("MATCH_CONDITION must compare a time of one table with one of the other");
    };
    let kinds = (times.0.get_type(left.schema())?, times.1.get_type(right.schema())?);
    let Some(kind) = comparison_coercion(&kinds.0, &kinds.1) else {
        return plan_err!("MATCH_CONDITION cannot compare {} with {}", kinds.0, kinds.1);
    };
    let times = (times.0.cast_to(&kind, left.schema())?, times.1.cast_to(&kind, right.schema())?);
    AsofJoin::try_new((left.as_ref().clone(), right.as_ref().clone()), keys, times, nearest)
}

/// Every left row comes out once, so what is asked of it alone may be asked before the join; what is asked of its keys
/// may also be asked of the right rows.
fn sink(filter: Filter, join: AsofJoin) -> Result<Transformed<LogicalPlan>> {
    let (mut above, mut left, mut right) = (Vec::new(), Vec::new(), Vec::new());
    for conjunct in split_conjunction_owned(filter.predicate.clone()) {
        let columns = conjunct.column_refs();
        let sinks = !columns.is_empty() && columns.iter().all(|column| join.left.schema().has_column(column));
        if !sinks || conjunct.is_volatile() || has_subquery(&conjunct)? {
            above.push(conjunct);
            continue;
        }
        right.extend(over_right_keys(&conjunct, &join)?);
        left.push(conjunct);
    }
    if left.is_empty() {
        return Ok(Transformed::no(LogicalPlan::Filter(filter)));
    }
    let filtered = |plan: LogicalPlan, predicates: Vec<Expr>| match conjunction(predicates) {
        Some(predicate) => LogicalPlanBuilder::from(plan).filter(predicate)?.build(),
        None => Ok(plan),
    };
    let inputs = (filtered(join.left, left)?, filtered(join.right, right)?);
    let join = AsofJoin::try_new(inputs, join.keys, join.times, join.nearest)?;
    let join = LogicalPlan::Extension(Extension { node: Arc::new(join) });
    Ok(Transformed::yes(filtered(join, above)?))
}

fn has_subquery(expr: &Expr) -> Result<bool> {
    expr.exists(|expr| {
        Ok(matches!(
            expr,
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::OuterReferenceColumn(..)
        ))
    })
}

/// The predicate with the right keys in place of the left, if it is one on keys.
fn over_right_keys(predicate: &Expr, join: &AsofJoin) -> Result<Option<Expr>> {
    let mut all = true;
    let replaced = predicate.clone().transform_down(|expr| {
        let Expr::Column(_) = &expr else { return Ok(Transformed::no(expr)) };
        match join.keys.iter().find(|(left, _)| *left == expr) {
            Some((_, right)) => Ok(Transformed::new(right.clone(), true, TreeNodeRecursion::Jump)),
            None => {
                all = false;
                Ok(Transformed::no(expr))
            }
        }
    });
    let replaced = replaced.data()?;
    Ok(all.then_some(replaced))
}
