//! The ASOF join as a node of a logical plan.

use std::cmp::Ordering;
use std::fmt::Formatter;
use std::sync::Arc;

use datafusion::common::{DFSchemaRef, JoinType, Result};
use datafusion::logical_expr::builder::build_join_schema;
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

/// Which row is the nearest, seen from the left one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Match {
    /// The latest before it; else the earliest after it.
    pub(crate) before: bool,
    /// A row at the same time counts.
    pub(crate) equal: bool,
}

impl Match {
    /// Of `left op right`.
    pub(super) fn of(op: &str) -> Option<Self> {
        let (before, equal) = match op {
            ">=" => (true, true),
            ">" => (true, false),
            "<=" => (false, true),
            "<" => (false, false),
            _ => return None,
        };
        Some(Self { before, equal })
    }

    /// Of `right op left`.
    pub(super) fn swapped(self) -> Self {
        Self { before: !self.before, ..self }
    }

    pub(super) fn sign(self) -> &'static str {
        match (self.before, self.equal) {
            (true, true) => ">=",
            (true, false) => ">",
            (false, true) => "<=",
            (false, false) => "<",
        }
    }
}

/// Each row of the left input once, with the nearest of the right that has the same keys, or NULLs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct AsofJoin {
    pub(crate) left: LogicalPlan,
    pub(crate) right: LogicalPlan,
    /// What must be equal, left and right.
    pub(crate) keys: Vec<(Expr, Expr)>,
    /// The times that are compared, left and right, of one type.
    pub(crate) times: (Expr, Expr),
    pub(crate) nearest: Match,
    schema: DFSchemaRef,
}

impl AsofJoin {
    pub(super) fn try_new(
        (left, right): (LogicalPlan, LogicalPlan),
        keys: Vec<(Expr, Expr)>,
        times: (Expr, Expr),
        nearest: Match,
    ) -> Result<Self> {
        let schema = Arc::new(build_join_schema(left.schema(), right.schema(), &JoinType::Left)?);
        Ok(Self { left, right, keys, times, nearest, schema })
    }
}

/// Plans are compared only to be put in some order.
impl PartialOrd for AsofJoin {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let order = self.left.partial_cmp(&other.left)?.then(self.right.partial_cmp(&other.right)?);
        Some(order).filter(|order| *order != Ordering::Equal || self == other)
    }
}

impl UserDefinedLogicalNodeCore for AsofJoin {
    fn name(&self) -> &str {
        "AsofJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let pairs = self.keys.iter().chain([&self.times]);
        pairs.flat_map(|(left, right)| [left.clone(), right.clone()]).collect()
    }

    fn fmt_for_explain(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "AsofJoin: {} {} {}", self.times.0, self.nearest.sign(), self.times.1)?;
        self.keys.iter().try_for_each(|(left, right)| write!(f, ", {left} = {right}"))
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let mut pairs: Vec<(Expr, Expr)> = Vec::with_capacity(exprs.len() / 2);
        let mut exprs = exprs.into_iter();
        while let (Some(left), Some(right)) = (exprs.next(), exprs.next()) {
            pairs.push((left, right));
        }
        let mut inputs = inputs.into_iter();
        let (Some(left), Some(right), Some(times)) = (inputs.next(), inputs.next(), pairs.pop()) else {
            return datafusion::common::internal_err!("an ASOF JOIN has two inputs and compares two times");
        };
        Self::try_new((left, right), pairs, times, self.nearest)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let left = self.left.schema().fields().len();
        let (of_left, of_right): (Vec<_>, Vec<_>) = output_columns.iter().partition(|&&column| column < left);
        Some(vec![of_left, of_right.into_iter().map(|column| column - left).collect()])
    }
}
