//! Gap filling as a node of a logical plan.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt::Formatter;
use std::sync::Arc;

use arrow::datatypes::{Field, TimeUnit};
use datafusion::common::{DFSchema, DFSchemaRef, Result, ScalarValue, plan_err};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::functions::Buckets;

/// What a column holds in rows that are made up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Fill {
    /// A key of the series.
    Key,
    /// The start of the bucket.
    Bucket,
    /// What the aggregate gives for no rows: 0 for counts, NULL for most.
    Empty(ScalarValue),
    /// The last value before that is not NULL; rows that exist but hold NULL get it too.
    Previous,
    /// On the line between the neighbours that are not NULL; rows that exist but hold NULL get it too.
    Linear,
}

/// The buckets that every series has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Range {
    pub(crate) buckets: Buckets,
    /// The start of the first bucket, in nanoseconds since 1970.
    pub(crate) first: i128,
    pub(crate) count: u64,
    /// Nanoseconds in one step of the time's type.
    unit: i128,
}

impl Range {
    /// The buckets from the one that holds `lower` to the one that holds `upper`, as times of this unit.
    ///
    /// # Errors
    /// `invalid` when the buckets are no whole steps of the unit, or lie outside what it can express.
    pub(crate) fn new(buckets: Buckets, lower: i128, upper: i128, unit: TimeUnit) -> Result<Self> {
        let unit = unit_nanos(unit);
        let (first, last) = (buckets.start(lower), buckets.start(upper.max(lower)));
        let count = if upper < lower { 0 } else { buckets.count(first, last) };
        if [first, last].iter().any(|start| i64::try_from(start.div_euclid(unit)).is_err()) {
            return plan_err!("a bucket of the range to fill lies outside the times of its type");
        }
        if [first, buckets.after(first, 1)].iter().any(|start| start.rem_euclid(unit) != 0) {
            return plan_err!("the buckets to fill must be whole steps of the time's unit");
        }
        Ok(Self { buckets, first, count, unit })
    }

    /// The start of the bucket with this number, in the unit of the time.
    pub(crate) fn at(&self, number: u64) -> i64 {
        let start = self.buckets.after(self.first, number).div_euclid(self.unit);
        i64::try_from(start).expect("the last bucket was checked to be a time")
    }
}

pub(super) fn unit_nanos(unit: TimeUnit) -> i128 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

/// Adds the missing rows to its input, whose columns it gives back in their order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct GapFill {
    pub(crate) input: LogicalPlan,
    /// For each column what it holds in rows that are made up; one is the bucket.
    pub(crate) fills: Vec<Fill>,
    pub(crate) range: Range,
    schema: DFSchemaRef,
}

impl GapFill {
    pub(crate) fn try_new(input: LogicalPlan, fills: Vec<Fill>, range: Range) -> Result<Self> {
        let fields = input.schema().iter().zip(&fills).map(|((table, field), fill)| {
            let filled = matches!(fill, Fill::Previous | Fill::Linear);
            let nullable = field.is_nullable() || filled || matches!(fill, Fill::Empty(value) if value.is_null());
            (table.cloned(), Arc::new(Field::clone(field).with_nullable(nullable)))
        });
        let schema = DFSchema::new_with_metadata(fields.collect(), input.schema().metadata().clone())?;
        Ok(Self { input, fills, range, schema: Arc::new(schema) })
    }

    /// The column of the bucket.
    pub(crate) fn bucket(&self) -> usize {
        self.fills.iter().position(|fill| *fill == Fill::Bucket).expect("a gap filling has a bucket")
    }
}

/// Plans are compared only to be put in some order.
impl PartialOrd for GapFill {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.input.partial_cmp(&other.input).filter(|order| *order != Ordering::Equal || self == other)
    }
}

impl UserDefinedLogicalNodeCore for GapFill {
    fn name(&self) -> &str {
        "GapFill"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    /// A predicate on the keys of the series keeps or drops whole series, so it may sink.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        let columns = self.schema.fields().iter().zip(&self.fills);
        columns.filter(|(_, fill)| **fill != Fill::Key).map(|(field, _)| field.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "GapFill: bucket={}, buckets={}", self.schema.field(self.bucket()).name(), self.range.count)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        Self::try_new(inputs.swap_remove(0), self.fills.clone(), self.range)
    }
}
