//! Puts a rollup under a grouping that it can answer.
//!
//! Over the buckets in which nothing changed since they were summed up the partial aggregates of the rollup are taken, over
//! all other times those of the table itself, grouped as the query groups; one grouping above both adds them up. Every
//! aggregate is merged as DataFusion's own two phases would merge it.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, Result, TableReference, plan_datafusion_err};
use datafusion::execution::session_state::SessionState;
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::functions_aggregate::expr_fn::{count, max, min, sum};
use datafusion::logical_expr::utils::{conjunction, disjunction};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, cast, col, lit, when};
use datafusion::optimizer::OptimizerConfig;
use datafusion::scalar::ScalarValue;
use weir_engine::read::ReadSnapshot;
use weir_engine::rollup::{Definition, FieldParts, Part, ROWS, changed};
use weir_engine::schema::TIME;

use super::shape::{Measure, MeasureKind, Shape, time_type};
use super::spans::{END, START, Spans};
use crate::scan::SnapshotTable;

/// A rollup of a table, as a query sees it.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) definition: Definition,
    pub(crate) table: Arc<SnapshotTable>,
    /// The version of the base table that it is right for.
    pub(crate) until: i64,
}

/// The plan with rollups where they answer, and what is to be said of it; `None` where none does.
pub(crate) fn rewrite(
    plan: &LogicalPlan,
    candidates: &dyn Fn(&ReadSnapshot) -> Vec<Candidate>,
    state: &SessionState,
) -> Result<Option<(LogicalPlan, Vec<String>)>> {
    let analyzed = state.analyzer().execute_and_check(plan.clone(), &state.options(), |_, _| {})?;
    let mut notes = Vec::new();
    let placed = analyzed.transform_up_with_subqueries(|node| {
        if let LogicalPlan::Aggregate(grouping) = &node
            && let Some((answer, note)) = answered(grouping, candidates, state)?
        {
            notes.push(note);
            return Ok(Transformed::yes(answer));
        }
        Ok(Transformed::no(node))
    })?;
    if !placed.transformed {
        return Ok(None);
    }
    let placed = placed.data.transform_up_with_subqueries(|node| node.recompute_schema().map(Transformed::yes));
    Ok(Some((placed.data()?, notes)))
}

fn answered(
    grouping: &Aggregate,
    candidates: &dyn Fn(&ReadSnapshot) -> Vec<Candidate>,
    state: &SessionState,
) -> Result<Option<(LogicalPlan, String)>> {
    let Some(shape) = Shape::of(grouping, state)? else { return Ok(None) };
    let Some(table) = shape.table.downcast_ref::<SnapshotTable>() else { return Ok(None) };
    let base = table.snapshot();
    let mut fitting: Vec<Candidate> = candidates(base).into_iter().filter(|one| fits(one, &shape)).collect();
    // The widest buckets are the fewest rows.
    fitting.sort_by_key(|one| std::cmp::Reverse(one.definition.every_ns));
    for candidate in fitting {
        let Some((covered, rest)) = divided(&candidate, &shape, base) else { continue };
        let answer = Answer { grouping, shape: &shape, candidate: &candidate, state };
        let plan = answer.plan(&covered, &rest)?;
        let mut fields = plan.schema().fields().iter().zip(grouping.schema.fields());
        if !fields.all(|(one, other)| one.data_type() == other.data_type()) {
            continue;
        }
        let note = format!(
            "{}.{}: rollup {} answers {} spans of time, the table {} (right until version {})",
            base.database,
            base.table,
            candidate.definition.name,
            covered.iter().count(),
            rest.iter().count(),
            candidate.until
        );
        return Ok(Some((plan, note)));
    }
    Ok(None)
}

/// Whether a rollup keeps what a grouping asks for.
fn fits(candidate: &Candidate, shape: &Shape) -> bool {
    let definition = &candidate.definition;
    shape.is_made_of(definition.every_ns)
        && shape.tags.iter().all(|tag| definition.tags.contains(tag))
        && shape.measures.iter().all(|measure| match &measure.field {
            None => true,
            Some((name, _)) => {
                let kept = definition.fields.iter().find(|kept| kept.field == *name);
                kept.is_some_and(|kept| measure.parts().iter().all(|part| kept.parts.contains(part)))
            }
        })
}

/// The times of a query that a rollup answers, and those that the table must.
fn divided(candidate: &Candidate, shape: &Shape, base: &ReadSnapshot) -> Option<(Spans, Spans)> {
    // One that knows more than the query's snapshot would show rows that the query does not see (Q1).
    if candidate.until > base.version {
        return None;
    }
    let every = i128::from(candidate.definition.every_ns);
    let definition = &candidate.definition;
    let stale = Spans::around(&changed(base, candidate.until, definition.retention_ns.is_some())?, definition.every_ns);
    // What the table has let go of for its age the rollup keeps, until it lets go of it itself.
    let open_from = base.committed.as_ref().and_then(|base| definition.open_from(base));
    let stale = open_from.map_or(stale.clone(), |from| stale.within(i128::from(from), END));
    let kept_from = candidate.table.snapshot().committed.as_ref().and_then(|rolled| rolled.retained_until());
    let kept_from = kept_from.map_or(START, i128::from);
    let first = if shape.from == START { START } else { shape.from + (-shape.from).rem_euclid(every) };
    let last = if shape.to == END { END } else { shape.to - shape.to.rem_euclid(every) };
    let covered = Spans::one(START, END).without(&stale).within(first.max(kept_from), last);
    if covered.is_empty() {
        return None;
    }
    let rest = Spans::one(shape.from, shape.to).without(&covered);
    let held = base.sources().into_iter().map(|source| source.times());
    let held: Vec<(i64, i64)> = held.map(|times| (*times.start(), *times.end())).collect();
    Some((covered, rest.touching(&held)))
}

/// A grouping, and the rollup that answers it.
struct Answer<'a> {
    grouping: &'a Aggregate,
    shape: &'a Shape,
    candidate: &'a Candidate,
    state: &'a SessionState,
}

/// A part of a field, or `None` for the number of rows.
type Wanted = Option<(String, Part)>;

impl Answer<'_> {
    fn plan(&self, covered: &Spans, rest: &Spans) -> Result<LogicalPlan> {
        let wanted = self.wanted();
        let mut both = LogicalPlanBuilder::from(self.of_rollup(covered, &wanted)?);
        if !rest.is_empty() {
            both = both.union(self.of_table(rest, &wanted)?)?;
        }
        let keys = (0..self.grouping.group_expr.len()).map(|index| col(key(index)));
        let merged: Vec<Expr> =
            wanted.iter().enumerate().map(|(index, part)| self.merged(index, part, &wanted)).collect::<Result<_>>()?;
        let added = both.aggregate(keys, merged)?;
        let mut shown = self.grouping.schema.iter();
        let mut outputs = Vec::new();
        let keys = (0..self.grouping.group_expr.len()).map(|index| col(key(index)));
        let measures = self.shape.measures.iter().map(|measure| finished(measure, &wanted));
        for output in keys.chain(measures) {
            let (qualifier, field) = shown
                .next()
                .ok_or_else(|| plan_datafusion_err!("a grouping has fewer columns than keys and aggregates"))?;
            outputs.push(output.alias_qualified(qualifier.cloned(), field.name()));
        }
        added.project(outputs)?.build()
    }

    /// Every part that any aggregate needs, once.
    fn wanted(&self) -> Vec<Wanted> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for measure in &self.shape.measures {
            let parts: Vec<Wanted> = match &measure.field {
                None => vec![None],
                Some((field, _)) => measure.parts().into_iter().map(|part| Some((field.clone(), part))).collect(),
            };
            for part in parts {
                if !wanted.contains(&part) {
                    wanted.push(part);
                }
            }
        }
        wanted
    }

    /// The partial aggregates that the rollup has.
    fn of_rollup(&self, covered: &Spans, wanted: &[Wanted]) -> Result<LogicalPlan> {
        let snapshot = self.candidate.table.snapshot();
        let name = TableReference::partial(snapshot.database.clone(), snapshot.table.clone());
        let column = |column: &str| Expr::Column(Column::new(Some(name.clone()), column));
        let moved = |expr: &Expr| {
            let there = |expr: Expr| match expr {
                Expr::Column(found) => Ok(Transformed::yes(column(&found.name))),
                expr => Ok(Transformed::no(expr)),
            };
            expr.clone().transform(there).data()
        };
        let mut filters = vec![column(ROWS).gt(lit(0_i64))];
        filters.extend(within(&column(TIME), covered));
        for filter in &self.shape.tag_filters {
            filters.push(moved(filter)?);
        }
        let filter = conjunction(filters).ok_or_else(|| plan_datafusion_err!("a rollup is always filtered"))?;
        let mut outputs = Vec::new();
        for (index, expr) in self.grouping.group_expr.iter().enumerate() {
            outputs.push(moved(&expr.clone().unalias())?.alias(key(index)));
        }
        for (index, part) in wanted.iter().enumerate() {
            let value = match part {
                None => column(ROWS),
                Some((field, part)) => {
                    let kept = self.kept(field)?;
                    let count = column(&kept.column(Part::Count));
                    let value = column(&kept.column(*part));
                    match part {
                        Part::Count => count,
                        Part::FirstTime | Part::LastTime => {
                            when(count.gt(lit(0_i64)), cast(value, time_type())).end()?
                        }
                        _ => when(count.gt(lit(0_i64)), value).end()?,
                    }
                }
            };
            outputs.push(value.alias(part_name(index)));
        }
        let provider = Arc::clone(&self.candidate.table) as Arc<dyn TableProvider>;
        let scan = LogicalPlanBuilder::scan(name.clone(), provider_as_source(provider), None)?;
        scan.filter(filter)?.project(outputs)?.build()
    }

    /// The same of the table, where the rollup is not right.
    fn of_table(&self, rest: &Spans, wanted: &[Wanted]) -> Result<LogicalPlan> {
        let input = &self.shape.input;
        let time = Expr::Column(self.shape.time.clone());
        let column = |name: &str| {
            let found = input.schema().iter().find(|(_, field)| field.name() == name);
            found.map(|found| Expr::Column(Column::from(found))).ok_or_else(|| plan_datafusion_err!("no column {name}"))
        };
        let keys =
            self.grouping.group_expr.iter().enumerate().map(|(index, expr)| expr.clone().unalias().alias(key(index)));
        let mut parts = Vec::new();
        for (index, part) in wanted.iter().enumerate() {
            let value = match part {
                None => count(lit(1_i64)),
                Some((field, part)) => {
                    let value = column(field)?;
                    let timed = || when(value.clone().is_not_null(), time.clone()).end();
                    match part {
                        Part::Count => count(value),
                        Part::Sum => sum(value),
                        Part::Total => sum(cast(value, DataType::Float64)),
                        Part::Min => min(value),
                        Part::Max => max(value),
                        Part::FirstTime => min(timed()?),
                        Part::LastTime => max(timed()?),
                        Part::First => self.by_time("first", value, time.clone())?,
                        Part::Last => self.by_time("last", value, time.clone())?,
                    }
                }
            };
            parts.push(value.alias(part_name(index)));
        }
        let mut builder = LogicalPlanBuilder::from(input.clone());
        if let Some(filter) = within(&time, rest) {
            builder = builder.filter(filter)?;
        }
        builder.aggregate(keys, parts)?.build()
    }

    /// The parts of all sides put together.
    fn merged(&self, index: usize, part: &Wanted, wanted: &[Wanted]) -> Result<Expr> {
        let value = col(part_name(index));
        let Some((field, part)) = part else { return Ok(sum(value).alias(whole_name(index))) };
        let time = |part: Part| {
            let place = wanted.iter().position(|other| *other == Some((field.clone(), part)));
            place.map(|place| col(part_name(place))).ok_or_else(|| plan_datafusion_err!("a part without its time"))
        };
        let merged = match part {
            Part::Count | Part::Sum | Part::Total => sum(value),
            Part::Min | Part::FirstTime => min(value),
            Part::Max | Part::LastTime => max(value),
            Part::First => self.by_time("first", value, time(Part::FirstTime)?)?,
            Part::Last => self.by_time("last", value, time(Part::LastTime)?)?,
        };
        Ok(merged.alias(whole_name(index)))
    }

    fn by_time(&self, function: &str, value: Expr, time: Expr) -> Result<Expr> {
        let known = self.state.aggregate_functions().get(function);
        known.map(|known| known.call(vec![value, time])).ok_or_else(|| plan_datafusion_err!("no function {function}"))
    }

    fn kept(&self, field: &str) -> Result<&FieldParts> {
        let kept = self.candidate.definition.fields.iter().find(|kept| kept.field == field);
        kept.ok_or_else(|| plan_datafusion_err!("the rollup does not keep {field}"))
    }
}

/// The aggregate from its parts.
fn finished(measure: &Measure, wanted: &[Wanted]) -> Expr {
    let whole = |part: Part| {
        let wanted_part = measure.field.as_ref().map(|(field, _)| (field.clone(), part));
        let place = wanted.iter().position(|other| *other == wanted_part).unwrap_or_default();
        col(whole_name(place))
    };
    match measure.kind {
        MeasureKind::Count => coalesce(vec![whole(Part::Count), lit(0_i64)]),
        MeasureKind::Sum => whole(Part::Sum),
        MeasureKind::Avg => {
            let total = measure.parts().into_iter().find(|part| *part != Part::Count).unwrap_or(Part::Total);
            whole(total) / cast(whole(Part::Count), DataType::Float64)
        }
        MeasureKind::Min => whole(Part::Min),
        MeasureKind::Max => whole(Part::Max),
        MeasureKind::First => whole(Part::First),
        MeasureKind::Last => whole(Part::Last),
    }
}

/// The predicate that a time lies in one of the spans; `None` when all do.
fn within(time: &Expr, spans: &Spans) -> Option<Expr> {
    let at =
        |nanos: i128| i64::try_from(nanos).ok().map(|nanos| lit(ScalarValue::TimestampNanosecond(Some(nanos), None)));
    let one = |(from, to): (i128, i128)| {
        let lower = at(from).map(|from| time.clone().gt_eq(from));
        let upper = at(to).map(|to| time.clone().lt(to));
        conjunction(lower.into_iter().chain(upper))
    };
    let each: Option<Vec<Expr>> = spans.iter().map(one).collect();
    disjunction(each?)
}

fn key(index: usize) -> String {
    format!("weir_key_{index}")
}

fn part_name(index: usize) -> String {
    format!("weir_part_{index}")
}

fn whole_name(index: usize) -> String {
    format!("weir_whole_{index}")
}
