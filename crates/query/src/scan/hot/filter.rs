//! A scan's filters, sorted by what they need to be told: times, the runs of a tag, or rows.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, DynamicFilterTracking, IsNullExpr, Literal};
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr::{PhysicalExpr, split_conjunction};
use datafusion::physical_expr_common::physical_expr::{is_volatile, snapshot_physical_expr};
use weir_engine::read::Times;
use weir_engine::schema::TIME;

use crate::scan::StoredColumns;
use crate::scan::prune::time_comparison;

/// The columns of the logical layout where `time` is.
pub(super) const TIME_INDEX: usize = 0;

/// The filters of one scan; a row must pass all.
#[derive(Debug, Clone)]
pub(crate) struct Filters {
    /// No row outside passes.
    pub(super) times: Times,
    /// Each asks for one tag only, by its place in the logical layout; the expression is over that column alone.
    pub(super) tags: Vec<(usize, Arc<dyn PhysicalExpr>)>,
    /// What must look at rows.
    pub(super) rest: Option<Rest>,
    /// What may narrow the times while the scan runs, as of the logical layout.
    dynamic: Vec<Arc<dyn PhysicalExpr>>,
}

/// Filters over some columns of each row.
#[derive(Debug, Clone)]
pub(super) struct Rest {
    /// Places in the logical layout, ascending: the columns of the batches that it is asked for.
    pub(super) columns: Vec<usize>,
    schema: SchemaRef,
    /// Those that stay as they are, cheapest first as they came.
    fixed: Vec<Arc<dyn PhysicalExpr>>,
    /// Those that change while the scan runs.
    dynamic: Vec<Arc<dyn PhysicalExpr>>,
}

impl Filters {
    /// `filters` are over the logical layout.
    pub(crate) fn new(filters: &[Arc<dyn PhysicalExpr>], schema: &SchemaRef, stored: &StoredColumns) -> Result<Self> {
        let (mut times, mut tags) = (i64::MIN..=i64::MAX, Vec::new());
        let (mut fixed, mut dynamic) = (Vec::new(), Vec::new());
        for part in filters.iter().flat_map(split_conjunction) {
            if DynamicFilterTracking::classify(part).contains_dynamic_filter() {
                dynamic.push(Arc::clone(part));
                continue;
            }
            times = both(&times, &times_of(part));
            if is_bound(part) {
                continue;
            }
            let columns: BTreeSet<usize> = collect_columns(part).iter().map(|column| column.index()).collect();
            let single =
                columns.first().filter(|column| columns.len() == 1 && stored.is_tag(schema.field(**column).name()));
            match single {
                Some(&column) if !is_volatile(part) => {
                    let alone = schema.project(&[column])?;
                    tags.push((column, reassign_expr_columns(Arc::clone(part), &alone)?));
                }
                _ => fixed.push(Arc::clone(part)),
            }
        }
        let rest = Rest::new(&fixed, &dynamic, schema)?;
        Ok(Self { times, tags, rest, dynamic })
    }

    /// Columns that must be there to tell which rows pass.
    pub(super) fn columns(&self) -> impl Iterator<Item = usize> {
        let rest = self.rest.iter().flat_map(|rest| rest.columns.iter().copied());
        self.tags.iter().map(|(column, _)| *column).chain(rest).chain([TIME_INDEX])
    }

    /// Whether the filters change while the scan runs.
    pub(super) fn change(&self) -> bool {
        !self.dynamic.is_empty()
    }

    /// The times outside which no row passes now.
    pub(super) fn times_now(&self) -> Result<Times> {
        let mut times = self.times.clone();
        for filter in &self.dynamic {
            let now = snapshot_physical_expr(Arc::clone(filter))?;
            for part in split_conjunction(&now) {
                times = both(&times, &times_of(part));
            }
        }
        Ok(times)
    }
}

impl Rest {
    fn new(
        fixed: &[Arc<dyn PhysicalExpr>],
        dynamic: &[Arc<dyn PhysicalExpr>],
        schema: &SchemaRef,
    ) -> Result<Option<Self>> {
        let all = fixed.iter().chain(dynamic);
        let columns: BTreeSet<usize> = all.clone().flat_map(collect_columns).map(|column| column.index()).collect();
        let columns: Vec<usize> = columns.into_iter().collect();
        let schema = Arc::new(schema.project(&columns)?);
        let of = |filters: &[Arc<dyn PhysicalExpr>]| {
            filters.iter().map(|filter| reassign_expr_columns(Arc::clone(filter), &schema)).collect::<Result<Vec<_>>>()
        };
        let rest = Self { columns, fixed: of(fixed)?, dynamic: of(dynamic)?, schema: Arc::clone(&schema) };
        Ok((!rest.fixed.is_empty() || !rest.dynamic.is_empty()).then_some(rest))
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Which of these rows pass; `None`: all.
    pub(super) fn passing(&self, batch: &RecordBatch) -> Result<Option<BooleanArray>> {
        let mut passing: Option<BooleanArray> = None;
        for filter in &self.fixed {
            passing = Some(and(passing, ask(filter, batch)?)?);
        }
        for filter in &self.dynamic {
            let now = snapshot_physical_expr(Arc::clone(filter))?;
            if constant(&now) != Some(true) {
                passing = Some(and(passing, ask(&now, batch)?)?);
            }
        }
        Ok(passing)
    }
}

fn and(one: Option<BooleanArray>, other: BooleanArray) -> Result<BooleanArray> {
    Ok(match one {
        Some(one) => arrow::compute::and(&one, &other)?,
        None => other,
    })
}

/// The answer for each row; NULL is no.
pub(super) fn ask(filter: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<BooleanArray> {
    let answers = filter.evaluate(batch)?.into_array(batch.num_rows())?;
    let answers = answers.as_boolean();
    Ok(match answers.nulls() {
        Some(nulls) => BooleanArray::new(answers.values() & nulls.inner(), None),
        None => answers.clone(),
    })
}

fn constant(expr: &Arc<dyn PhysicalExpr>) -> Option<bool> {
    match expr.downcast_ref::<Literal>()?.value() {
        ScalarValue::Boolean(value) => *value,
        _ => None,
    }
}

/// Whether the expression says nothing but a bound of time.
pub(super) fn is_bound(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let bounds = [Operator::Eq, Operator::Gt, Operator::GtEq, Operator::Lt, Operator::LtEq];
    time_comparison(expr).is_some_and(|(operator, _)| bounds.contains(&operator))
}

/// A range of times outside which the expression holds for no row.
pub(crate) fn times_of(expr: &Arc<dyn PhysicalExpr>) -> Times {
    #[allow(clippy::reversed_empty_ranges, reason = "no time at all")]
    const NONE: Times = 1..=0;
    const ALL: Times = i64::MIN..=i64::MAX;
    if let Some((operator, time)) = time_comparison(expr) {
        return match operator {
            Operator::Eq => time..=time,
            Operator::Gt => time.checked_add(1).map_or(NONE, |time| time..=i64::MAX),
            Operator::GtEq => time..=i64::MAX,
            Operator::Lt => time.checked_sub(1).map_or(NONE, |time| i64::MIN..=time),
            Operator::LtEq => i64::MIN..=time,
            _ => ALL,
        };
    }
    let is_time =
        |expr: &Arc<dyn PhysicalExpr>| expr.downcast_ref::<Column>().is_some_and(|column| column.name() == TIME);
    // A time is never NULL; a sort asks for it where NULL would come first.
    if constant(expr) == Some(false) || expr.downcast_ref::<IsNullExpr>().is_some_and(|null| is_time(null.arg())) {
        return NONE;
    }
    let Some(binary) = expr.downcast_ref::<BinaryExpr>() else { return ALL };
    let sides = || (times_of(binary.left()), times_of(binary.right()));
    match binary.op() {
        Operator::And => {
            let (left, right) = sides();
            both(&left, &right)
        }
        Operator::Or => {
            let (left, right) = sides();
            match (left.is_empty(), right.is_empty()) {
                (true, _) => right,
                (_, true) => left,
                _ => *left.start().min(right.start())..=*left.end().max(right.end()),
            }
        }
        _ => ALL,
    }
}

fn both(one: &Times, other: &Times) -> Times {
    *one.start().max(other.start())..=*one.end().min(other.end())
}
