//! What a grouping asks for, where it is one that partial aggregates by bucket can answer.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::catalog::TableProvider;
use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{Column, Result};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};
use datafusion::optimizer::OptimizerConfig;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use weir_engine::rollup::{Definition, FieldParts, Part, kind_word};
use weir_engine::schema::{FieldType, Role, TIME};

use super::spans::{END, START};
use crate::error::Error;
use crate::functions::{Buckets, Width};
use crate::gapfill::Bounds;
use crate::scan::SnapshotTable;
use crate::sql::Request;

const DAY_NANOS: i128 = 86_400_000_000_000;
const SECOND_NANOS: i128 = 1_000_000_000;

/// A grouping over one table, taken apart.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) table: Arc<dyn TableProvider>,
    /// What is grouped, with its filters.
    pub(super) input: LogicalPlan,
    /// The column `time` of `input`.
    pub(super) time: Column,
    /// Times that the filters leave, the end excluded.
    pub(super) from: i128,
    pub(super) to: i128,
    /// The filters that are about tags alone.
    pub(super) tag_filters: Vec<Expr>,
    /// Every tag that it needs.
    pub(super) tags: Vec<String>,
    /// The buckets that it groups by.
    pub(super) buckets: Vec<Buckets>,
    pub(super) measures: Vec<Measure>,
}

/// An aggregate, and what it is made of.
#[derive(Debug, Clone)]
pub(super) struct Measure {
    pub(super) kind: MeasureKind,
    /// `None` for `count(*)`.
    pub(super) field: Option<(String, FieldType)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MeasureKind {
    Count,
    Sum,
    Avg,
    Min,
    Max,
    First,
    Last,
}

impl Measure {
    /// What is kept of its field for it.
    pub(super) fn parts(&self) -> Vec<Part> {
        let average = match &self.field {
            Some((_, FieldType::F64)) => Part::Sum,
            _ => Part::Total,
        };
        match self.kind {
            MeasureKind::Count => vec![Part::Count],
            MeasureKind::Sum => vec![Part::Count, Part::Sum],
            MeasureKind::Avg => vec![Part::Count, average],
            MeasureKind::Min => vec![Part::Count, Part::Min],
            MeasureKind::Max => vec![Part::Count, Part::Max],
            MeasureKind::First => vec![Part::Count, Part::First, Part::FirstTime],
            MeasureKind::Last => vec![Part::Count, Part::Last, Part::LastTime],
        }
    }
}

impl SnapshotTableOf<'_> {
    fn role(&self, name: &str) -> Option<Role> {
        self.0.snapshot().schema.get(name).map(|(_, column)| column.role)
    }

    fn is_tag(&self, name: &str) -> bool {
        self.role(name) == Some(Role::Tag)
    }
}

/// A table of a snapshot with questions about its columns.
struct SnapshotTableOf<'a>(&'a SnapshotTable);

/// What is below the filters and aliases of a grouping.
fn scanned(plan: &LogicalPlan) -> Result<Option<Arc<dyn TableProvider>>> {
    match plan {
        LogicalPlan::Filter(filter) => scanned(&filter.input),
        LogicalPlan::SubqueryAlias(alias) => scanned(&alias.input),
        LogicalPlan::TableScan(scan)
            if scan.filters.is_empty() && scan.fetch.is_none() && scan.projection.is_none() =>
        {
            source_as_provider(&scan.source).map(Some)
        }
        _ => Ok(None),
    }
}

/// The predicates between a grouping and its table, as they read above them all; `None` when one has no such reading.
fn predicates(plan: &LogicalPlan, found: &mut Vec<(Expr, LogicalPlan)>) {
    match plan {
        LogicalPlan::Filter(filter) => {
            found.push((filter.predicate.clone(), plan.clone()));
            predicates(&filter.input, found);
        }
        LogicalPlan::SubqueryAlias(alias) => predicates(&alias.input, found),
        _ => {}
    }
}

impl Shape {
    /// Of an analyzed grouping; `None` when no rollup could answer it.
    pub(super) fn of(grouping: &Aggregate, state: &SessionState) -> Result<Option<Self>> {
        let Some(provider) = scanned(&grouping.input)? else { return Ok(None) };
        let Some(table) = provider.downcast_ref::<SnapshotTable>() else { return Ok(None) };
        let table = SnapshotTableOf(table);
        let time = grouping.input.schema().iter().find(|(_, field)| field.name() == TIME).map(Column::from);
        let Some(time) = time else { return Ok(None) };
        let (mut tags, mut buckets, mut measures) = (Vec::new(), Vec::new(), Vec::new());
        for key in &grouping.group_expr {
            match key.clone().unalias() {
                Expr::Column(column) if table.is_tag(&column.name) => tags.push(column.name),
                Expr::ScalarFunction(call) => match bucket(call.func.name(), &call.args, state)? {
                    Some(grid) => buckets.push(grid),
                    None => return Ok(None),
                },
                _ => return Ok(None),
            }
        }
        for aggregate in &grouping.aggr_expr {
            match measure(aggregate, &table) {
                Some(measure) => measures.push(measure),
                None => return Ok(None),
            }
        }
        let mut shape = Self {
            input: grouping.input.as_ref().clone(),
            table: Arc::clone(&provider),
            time,
            from: START,
            to: END,
            tag_filters: Vec::new(),
            tags,
            buckets,
            measures,
        };
        Ok(if shape.filter(&table, state)? { Some(shape) } else { None })
    }

    /// Takes the filters in; `false` when one is about anything but tags and plain bounds of time.
    fn filter(&mut self, table: &SnapshotTableOf<'_>, state: &SessionState) -> Result<bool> {
        let mut found = Vec::new();
        predicates(&self.input, &mut found);
        for (predicate, plan) in found {
            for conjunct in split_conjunction_owned(simplified(predicate, &plan, state)?) {
                let columns = conjunct.column_refs();
                let queries = conjunct.exists(|expr| {
                    Ok(matches!(
                        expr,
                        Expr::ScalarSubquery(_)
                            | Expr::InSubquery(_)
                            | Expr::Exists(_)
                            | Expr::OuterReferenceColumn(..)
                    ))
                })?;
                if columns.is_empty() || queries || conjunct.is_volatile() {
                    return Ok(false);
                }
                if columns.iter().all(|column| table.is_tag(&column.name)) {
                    self.tags.extend(columns.iter().map(|column| column.name.clone()));
                    self.tag_filters.push(conjunct.clone());
                    continue;
                }
                let [column] = Vec::from_iter(columns)[..] else { return Ok(false) };
                if column.name != TIME {
                    return Ok(false);
                }
                let bounds = Bounds::of(&conjunct, column, &plan)?;
                if bounds == Bounds::default() {
                    return Ok(false);
                }
                self.from = self.from.max(bounds.lower.unwrap_or(START));
                self.to = self.to.min(bounds.upper.map_or(END, |last| last + 1));
            }
        }
        self.tags.sort();
        self.tags.dedup();
        Ok(true)
    }

    /// Whether every bucket that it groups by is made of whole buckets of a width that divides a day.
    pub(super) fn is_made_of(&self, every_ns: i64) -> bool {
        let every = i128::from(every_ns);
        self.buckets.iter().all(|grid| match grid.width {
            Width::Nanos(width) => width % every == 0 && grid.origin % every == 0,
            Width::Months(_) => DAY_NANOS % every == 0 && grid.origin == 0,
        })
    }
}

fn simplified(expr: Expr, plan: &LogicalPlan, state: &SessionState) -> Result<Expr> {
    let context = SimplifyContext::builder()
        .with_schema(plan.schema().clone())
        .with_config_options(state.options())
        .with_query_execution_start_time(state.query_execution_start_time())
        .build();
    ExprSimplifier::new(context).simplify(expr)
}

/// The grid of a function of `time` that gives the start of a bucket. `date_trunc` is none: it rounds towards 1970.
fn bucket(name: &str, args: &[Expr], state: &SessionState) -> Result<Option<Buckets>> {
    let is_time = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == TIME);
    let constant = |expr: &Expr| match expr.any_column_refs() {
        true => Ok(None),
        false => match simplified(expr.clone(), &LogicalPlan::default(), state)? {
            Expr::Literal(value, _) => Ok::<_, datafusion::common::DataFusionError>(Some(value)),
            _ => Ok(None),
        },
    };
    let (width, origin) = match (name, args) {
        ("time_bucket" | "date_bin", [width, time]) if is_time(time) => (constant(width)?, None),
        ("time_bucket" | "date_bin", [width, time, origin]) if is_time(time) => match constant(origin)? {
            Some(origin) => (constant(width)?, Some(origin)),
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    let Some(width) = width else { return Ok(None) };
    // What is wrong with it is told where the function runs.
    let epoch = datafusion::scalar::ScalarValue::TimestampNanosecond(Some(0), None);
    let origin = if name == "date_bin" { Some(origin.unwrap_or(epoch)) } else { origin };
    Ok(Buckets::parse(name, &width, origin.as_ref()).ok())
}

fn measure(aggregate: &Expr, table: &SnapshotTableOf<'_>) -> Option<Measure> {
    let Expr::AggregateFunction(call) = aggregate.clone().unalias_nested().data else { return None };
    let params = &call.params;
    if params.distinct || params.filter.is_some() || !params.order_by.is_empty() || params.null_treatment.is_some() {
        return None;
    }
    let field = |expr: &Expr| {
        let Expr::Column(column) = expr else { return None };
        match table.role(&column.name) {
            Some(Role::Field(kind)) => Some((column.name.clone(), kind)),
            _ => None,
        }
    };
    let is_time = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == TIME);
    let number = |kind: FieldType| matches!(kind, FieldType::F64 | FieldType::I64 | FieldType::U64);
    let (kind, field) = match (call.func.name(), &params.args[..]) {
        ("count", [Expr::Literal(value, _)]) if !value.is_null() => (MeasureKind::Count, None),
        ("count", [time]) if is_time(time) => (MeasureKind::Count, None),
        ("count", [value]) => (MeasureKind::Count, Some(field(value)?)),
        ("sum", [value]) => (MeasureKind::Sum, Some(field(value)?)),
        ("avg", [Expr::Cast(cast)]) if *cast.field.data_type() == DataType::Float64 => {
            (MeasureKind::Avg, Some(field(&cast.expr)?))
        }
        ("avg", [value]) => (MeasureKind::Avg, Some(field(value)?)),
        ("min", [value]) => (MeasureKind::Min, Some(field(value)?)),
        ("max", [value]) => (MeasureKind::Max, Some(field(value)?)),
        ("first", [value, time]) if is_time(time) => (MeasureKind::First, Some(field(value)?)),
        ("last", [value, time]) if is_time(time) => (MeasureKind::Last, Some(field(value)?)),
        _ => return None,
    };
    let summed = matches!(kind, MeasureKind::Sum | MeasureKind::Avg);
    if summed && !field.as_ref().is_some_and(|(_, kind)| number(*kind)) {
        return None;
    }
    Some(Measure { kind, field })
}

/// The definition of a rollup by the plan of its query.
///
/// # Errors
/// `invalid`, saying what a rollup can be.
pub(crate) fn define(
    plan: &LogicalPlan,
    name: &str,
    on: Option<&str>,
    request: &Request,
    state: &SessionState,
) -> crate::Result<Definition> {
    let wrong = |what: &str| {
        Error::invalid(format!(
            "{what}: a rollup is SELECT tags, time_bucket('1 hour', time) AS time, count/sum/avg/min/max/first/last of fields FROM one table GROUP BY the tags and the bucket"
        ))
    };
    let mut inner = plan;
    while let LogicalPlan::Projection(projection) = inner {
        if projection.expr.iter().any(|expr| !matches!(expr.clone().unalias_nested().data, Expr::Column(_))) {
            return Err(wrong("it selects more than keys and aggregates"));
        }
        inner = projection.input.as_ref();
    }
    let LogicalPlan::Aggregate(grouping) = inner else { return Err(wrong("its query is no plain GROUP BY")) };
    let shape = Shape::of(grouping, state)?.ok_or_else(|| wrong("its query asks for something that cannot be kept"))?;
    let plain = matches!(*grouping.input, LogicalPlan::TableScan(_) | LogicalPlan::SubqueryAlias(_));
    if !plain || shape.from != START || shape.to != END {
        return Err(wrong("its query has a WHERE"));
    }
    let [grid] = shape.buckets[..] else { return Err(wrong("its query needs one bucket of time")) };
    let every = match grid.width {
        Width::Nanos(width) if DAY_NANOS % width == 0 && width % SECOND_NANOS == 0 && grid.origin == 0 => width,
        _ => return Err(wrong("its bucket must be whole seconds, divide a day and have no origin")),
    };
    let Some(table) = shape.table.downcast_ref::<SnapshotTable>() else { return Err(wrong("it has no table")) };
    if table.snapshot().database != request.database {
        return Err(wrong("its table is in another database"));
    }
    let table = table.snapshot().table.clone();
    if on.is_some_and(|on| on != table) {
        return Err(wrong("its query is about another table than it names"));
    }
    let mut fields: Vec<FieldParts> = Vec::new();
    for measure in &shape.measures {
        let Some((field, kind)) = &measure.field else { continue };
        let known = fields.iter_mut().find(|known| known.field == *field);
        let parts = measure.parts();
        match known {
            Some(known) => known.parts.extend(parts),
            None => fields.push(FieldParts { field: field.clone(), kind: kind_word(*kind).to_owned(), parts }),
        }
    }
    for field in &mut fields {
        field.parts.sort();
        field.parts.dedup();
    }
    let every = i64::try_from(every).map_err(|_| wrong("its bucket is too wide"))?;
    Ok(Definition::new(name.to_owned(), table, every, shape.tags, fields, request.sql.clone()))
}

/// The type of times.
pub(super) fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, None)
}
