//! The range of time that a query asks for, from the predicates below a grouping.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{Column, ExprSchema, Result};
use datafusion::logical_expr::expr::{Between, BinaryExpr};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator};
use datafusion::optimizer::OptimizerConfig;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

use super::node::unit_nanos;
use crate::functions::time_nanos;

/// The first and last time that rows can have, in nanoseconds since 1970, as far as predicates say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) lower: Option<i128>,
    pub(crate) upper: Option<i128>,
}

impl Bounds {
    /// What one predicate says, which is simplified and about the column `time` alone; nothing when it is no comparison with a
    /// constant. What is said is all that it says.
    pub(crate) fn of(predicate: &Expr, time: &Column, plan: &LogicalPlan) -> Result<Self> {
        let mut bounds = Self::default();
        bounds.narrow(predicate, time, plan)?;
        Ok(bounds)
    }

    /// Of the column `time` of a plan. Every row of the plan satisfies the predicates that are looked at.
    pub(super) fn find(plan: &LogicalPlan, time: &Column, config: &dyn OptimizerConfig) -> Result<Self> {
        let mut bounds = Self::default();
        let (mut plan, mut time) = (plan, time.clone());
        loop {
            match plan {
                LogicalPlan::Filter(filter) => {
                    bounds.narrow_all(filter.predicate.clone(), &time, plan, config)?;
                    plan = filter.input.as_ref();
                }
                LogicalPlan::SubqueryAlias(alias) => {
                    let place = alias.schema.index_of_column(&time)?;
                    time = Column::from(alias.input.schema().qualified_field(place));
                    plan = alias.input.as_ref();
                }
                LogicalPlan::Projection(projection) => {
                    let place = projection.schema.index_of_column(&time)?;
                    let Expr::Column(below) = projection.expr[place].clone().unalias_nested().data else { break };
                    time = below;
                    plan = projection.input.as_ref();
                }
                LogicalPlan::Join(join) => {
                    let on_left = join.left.schema().has_column(&time);
                    plan = if on_left { join.left.as_ref() } else { join.right.as_ref() };
                }
                LogicalPlan::Sort(_) | LogicalPlan::Limit(_) | LogicalPlan::Distinct(_) | LogicalPlan::Window(_)
                    if plan.inputs()[0].schema().has_column(&time) =>
                {
                    plan = plan.inputs()[0];
                }
                _ => break,
            }
        }
        Ok(bounds)
    }

    fn narrow_all(
        &mut self,
        predicate: Expr,
        time: &Column,
        plan: &LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<()> {
        let context = SimplifyContext::builder()
            .with_schema(plan.schema().clone())
            .with_config_options(config.options())
            .with_query_execution_start_time(config.query_execution_start_time())
            .build();
        let simplifier = ExprSimplifier::new(context);
        for conjunct in split_conjunction_owned(predicate) {
            for conjunct in split_conjunction_owned(simplifier.simplify(conjunct)?) {
                self.narrow(&conjunct, time, plan)?;
            }
        }
        Ok(())
    }

    fn narrow(&mut self, conjunct: &Expr, time: &Column, plan: &LogicalPlan) -> Result<()> {
        let kind = plan.schema().field_from_column(time)?.data_type().clone();
        let is_time = |expr: &Expr| match expr {
            Expr::Cast(cast) => {
                cast.expr.as_ref() == &Expr::Column(time.clone()) && same_time(&kind, cast.field.data_type())
            }
            other => matches!(other, Expr::Column(column) if column == time),
        };
        match conjunct {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_time(left) => {
                self.compare(*op, right, time, plan)?;
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_time(right) => {
                if let Some(op) = op.swap() {
                    self.compare(op, left, time, plan)?;
                }
            }
            Expr::Between(Between { expr, negated: false, low, high }) if is_time(expr) => {
                self.compare(Operator::GtEq, low, time, plan)?;
                self.compare(Operator::LtEq, high, time, plan)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn compare(&mut self, op: Operator, value: &Expr, time: &Column, plan: &LogicalPlan) -> Result<()> {
        let Expr::Literal(value, _) = value else { return Ok(()) };
        let Some(value) = time_nanos(value)? else { return Ok(()) };
        let step = match plan.schema().field_from_column(time)?.data_type() {
            DataType::Timestamp(unit, _) => unit_nanos(*unit),
            _ => return Ok(()),
        };
        let (lower, upper) = match op {
            Operator::Eq => (Some(value), Some(value)),
            Operator::GtEq => (Some(value), None),
            Operator::Gt => (Some(value + step), None),
            Operator::LtEq => (None, Some(value)),
            Operator::Lt => (None, Some(value - step)),
            _ => (None, None),
        };
        self.lower = self.lower.max(lower);
        self.upper = match (self.upper, upper) {
            (Some(old), Some(new)) => Some(old.min(new)),
            (old, new) => old.or(new),
        };
        Ok(())
    }
}

/// Whether a cast from one type to the other changes no time; comparing with `now()` makes one to UTC.
fn same_time(from: &DataType, to: &DataType) -> bool {
    let utc = |zone: &Option<Arc<str>>| zone.as_deref().is_none_or(|zone| matches!(zone, "UTC" | "+00:00" | "Z"));
    match (from, to) {
        (DataType::Timestamp(unit, zone), DataType::Timestamp(other, to)) => unit == other && utc(zone) && utc(to),
        _ => false,
    }
}
