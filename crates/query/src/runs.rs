//! Partial aggregation of rows whose groups come side by side, as those of files sorted by series and time mostly do.
//!
//! DataFusion's partial aggregation finds the group of each row by hashing and adds to it there: one dependent access to memory for each
//! value. Rows of one host and hour lie next to each other, so it is enough to find where the group changes, and to add up what lies
//! between, which the processor does many values at a time. [`RunsRule`] puts a [`RunsExec`] in the place of a partial aggregation
//! that allows it; the final one above it merges runs of the same group, wherever they come from, as it merges partitions. Nothing is kept between
//! batches. Where runs turn out to be short, the rest of the input goes through the aggregation that was there before.

mod census;
mod direct;
mod first;
mod newest;
mod states;

use std::fmt::Formatter;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{partition, take};
use arrow::datatypes::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, InputOrderMode, PlanProperties};
use futures::StreamExt;

use direct::Direct;
use states::State;

use crate::scan::hot::{HotSource, Selection};

/// Rows of a run, in the mean over a batch, below which runs do not pay.
const RUN_ROWS_MIN: usize = 8;
/// Rows below which it does not matter.
const SHORT_ROWS_MIN: usize = 8192;

/// Puts [`RunsExec`] where it can be.
#[derive(Debug)]
pub(crate) struct RunsRule;

impl PhysicalOptimizerRule for RunsRule {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let replace = |node: Arc<dyn ExecutionPlan>| {
            if let Some(wanted) = first::wanted(&node) {
                return Ok(Transformed::yes(wanted?));
            }
            if let Some(narrowed) = first::by_time(&node) {
                return Ok(Transformed::yes(narrowed?));
            }
            let Some(aggregate) = node.downcast_ref::<AggregateExec>() else { return Ok(Transformed::no(node)) };
            if let Some(parts) = RunsExec::apart(aggregate)? {
                return Ok(Transformed::yes(parts));
            }
            if let Some(runs) = RunsExec::of(aggregate)? {
                return Ok(Transformed::yes(Arc::new(runs) as _));
            }
            if let Some(last) = RunsExec::unspread(aggregate)? {
                return Ok(Transformed::yes(last));
            }
            Ok(RunsExec::in_two(aggregate)?.map_or_else(|| Transformed::no(node), Transformed::yes))
        };
        let plan = plan.transform_up(replace).data()?;
        // What needs few of its row groups is known now.
        plan.transform_up(|node| {
            let spare = hot_source(&node).map(|scan| scan.spare_plan(config)).transpose()?.flatten();
            Ok(spare.map_or_else(|| Transformed::no(Arc::clone(&node)), Transformed::yes))
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "runs"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// A partial aggregation by runs.
#[derive(Debug, Clone)]
struct RunsExec {
    /// What it stands for, and what goes on where runs are short.
    aggregate: AggregateExec,
    states: Vec<State>,
    /// Where the rows are in the cache of columns.
    direct: Option<Direct>,
    metrics: ExecutionPlanMetricsSet,
}

impl RunsExec {
    /// In the place of `aggregate`; `None` where that is of another kind.
    fn of(aggregate: &AggregateExec) -> Result<Option<Self>> {
        let groups = aggregate.group_expr();
        let plain = *aggregate.mode() == AggregateMode::Partial
            && groups.is_single()
            && !groups.has_grouping_set()
            && aggregate.limit_options().is_none()
            && aggregate.dynamic_expressions_produced().is_empty()
            && *aggregate.input_order_mode() == InputOrderMode::Linear
            && aggregate.filter_expr().iter().all(Option::is_none);
        if !plain {
            return Ok(None);
        }
        let states: Option<Vec<State>> = aggregate.aggr_expr().iter().map(|one| State::of(one)).collect();
        let Some(states) = states else { return Ok(None) };
        let direct = Direct::of(aggregate, &states)?;
        if direct.is_none() && groups.expr().is_empty() {
            return Ok(None);
        }
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(Some(Self { aggregate: over(aggregate, direct.as_ref())?, states, direct, metrics }))
    }

    /// A partial aggregation over some inputs as one over each of them, where one can read the cache of columns: beside it are rows that are
    /// not yet in files, or that must be merged.
    fn apart(aggregate: &AggregateExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(union) = aggregate.input().downcast_ref::<UnionExec>() else { return Ok(None) };
        if *aggregate.mode() != AggregateMode::Partial {
            return Ok(None);
        }
        let mut parts = Vec::new();
        let mut gained = false;
        for input in union.children() {
            let part = replaced(aggregate, vec![Arc::clone(input)])?;
            let runs = part.downcast_ref::<AggregateExec>().map(Self::of).transpose()?.flatten();
            gained |= runs.as_ref().is_some_and(|runs| runs.direct.is_some());
            parts.push(runs.map_or(part, |runs| Arc::new(runs)));
        }
        if gained { UnionExec::try_new(parts).map(Some) } else { Ok(None) }
    }

    /// A final aggregation over one partition of runs without spreading these over several first.
    fn unspread(aggregate: &AggregateExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(spread) = aggregate.input().downcast_ref::<RepartitionExec>() else { return Ok(None) };
        let runs = spread.input();
        let direct = runs.downcast_ref::<Self>().is_some_and(|runs| runs.direct.is_some());
        let one = runs.properties().partitioning.partition_count() == 1;
        if *aggregate.mode() != AggregateMode::FinalPartitioned || !direct || !one || spread.fetch().is_some() {
            return Ok(None);
        }
        let last = AggregateExec::try_new(
            AggregateMode::Final,
            aggregate.group_expr().clone(),
            aggregate.aggr_expr().to_vec(),
            aggregate.filter_expr().to_vec(),
            Arc::clone(runs),
            aggregate.input_schema(),
        )?;
        Ok(aggregate.limit_options().is_none().then(|| Arc::new(last) as _))
    }

    /// An aggregation in one step as one in two, where the first can read the cache of columns.
    fn in_two(aggregate: &AggregateExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if *aggregate.mode() != AggregateMode::Single || aggregate.limit_options().is_some() {
            return Ok(None);
        }
        let (groups, functions) = (aggregate.group_expr().clone(), aggregate.aggr_expr().to_vec());
        let (none, schema) = (vec![None; functions.len()], aggregate.input_schema());
        if aggregate.filter_expr().iter().any(Option::is_some) {
            return Ok(None);
        }
        let input = Arc::clone(aggregate.input());
        let last = groups.as_final();
        let partial = AggregateExec::try_new(
            AggregateMode::Partial,
            groups,
            functions.clone(),
            none.clone(),
            input,
            Arc::clone(&schema),
        )?;
        let Some(runs) = Self::of(&partial)?.filter(|runs| runs.direct.is_some()) else { return Ok(None) };
        let last = AggregateExec::try_new(AggregateMode::Final, last, functions, none, Arc::new(runs), schema)?;
        Ok(Some(Arc::new(last)))
    }

    /// The same where only the groups of the `count` first buckets of one group are wanted.
    fn first(&self, group: usize, descending: bool, count: usize) -> Option<Result<Self>> {
        let direct = self.direct.as_ref()?.first(group, descending, count)?;
        let aggregate = over(&self.aggregate, Some(&direct));
        let metrics = ExecutionPlanMetricsSet::new();
        Some(aggregate.map(|aggregate| Self { aggregate, direct: Some(direct), metrics, ..self.clone() }))
    }

    /// The states of the runs of all units of a partition.
    fn direct(&self, direct: Direct, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let selection = Box::new(direct.selection(partition, Arc::clone(&context))?);
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let state = (self.clone(), direct, Stage::Units { selection, begun: false }, metrics);
        let batches = futures::stream::try_unfold(state, move |(runs, direct, stage, metrics)| {
            let context = Arc::clone(&context);
            async move {
                let mut stage = stage;
                loop {
                    let (mut selection, begun) = match stage {
                        Stage::Units { selection, begun } => (selection, begun),
                        Stage::Rest(mut rest) => {
                            let batch = rest.next().await.transpose()?;
                            return Ok(batch.map(|batch| (batch, (runs, direct, Stage::Rest(rest), metrics))));
                        }
                    };
                    let Some(selected) = direct.next(&mut selection).await? else { return Ok(None) };
                    let timer = metrics.elapsed_compute().timer();
                    let found = direct.runs(&selected)?;
                    let rows: usize = found.iter().map(ExactSizeIterator::len).sum();
                    let short = !begun && !direct.stays() && found.len() * RUN_ROWS_MIN > rows;
                    if short && !runs.aggregate.group_expr().expr().is_empty() && rows > SHORT_ROWS_MIN {
                        stage = Stage::Rest(runs.batches(partition, &context)?);
                        continue;
                    }
                    stage = Stage::Units { selection, begun: true };
                    if found.is_empty() {
                        continue;
                    }
                    let states = direct.states(&selected, &found, &runs.schema())?;
                    timer.done();
                    return Ok(Some((states.record_output(&metrics), (runs, direct, stage, metrics))));
                }
            }
        });
        Ok(Box::pin(cooperative(RecordBatchStreamAdapter::new(self.schema(), Box::pin(batches)))))
    }

    /// The states of the runs of a batch; `None` where they are short, or cannot be told.
    fn runs(&self, batch: &RecordBatch) -> Result<Option<RecordBatch>> {
        let rows = batch.num_rows();
        let evaluate = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(batch)?.into_array(rows);
        let groups: Vec<ArrayRef> =
            self.aggregate.group_expr().expr().iter().map(|(expr, _)| evaluate(expr)).collect::<Result<_>>()?;
        let ranges = partition(&groups)?.ranges();
        if ranges.len() * RUN_ROWS_MIN > rows {
            return Ok(None);
        }
        let starts = UInt32Array::from_iter_values(ranges.iter().map(|range| range.start as u32));
        let mut columns = groups.iter().map(|group| take(group, &starts, None)).collect::<Result<Vec<_>, _>>()?;
        for state in &self.states {
            if !state.of_runs(batch, &ranges, false, &mut columns)? {
                return Ok(None);
            }
        }
        Ok(Some(RecordBatch::try_new(self.schema(), columns)?))
    }

    /// The aggregation that was there before, over what is left of the input.
    fn rest(
        &self,
        first: RecordBatch,
        input: SendableRecordBatchStream,
        context: &Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let schema = input.schema();
        let rest = futures::stream::iter([Ok(first)]).chain(input);
        let stream: SendableRecordBatchStream = Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), rest));
        let properties = Arc::clone(self.aggregate.input().properties());
        let input = Arc::new(Rest { schema, properties, stream: Mutex::new(Some(stream)) });
        replaced(&self.aggregate, vec![input])?.execute(0, Arc::clone(context))
    }
}

fn hot_source(node: &Arc<dyn ExecutionPlan>) -> Option<&HotSource> {
    node.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref()
}

/// The same over what is read in the place of its input.
fn over(aggregate: &AggregateExec, direct: Option<&Direct>) -> Result<AggregateExec> {
    let Some(source) = direct.and_then(Direct::narrow) else { return Ok(aggregate.clone()) };
    let replaced = replaced(aggregate, vec![DataSourceExec::from_data_source(source.clone())])?;
    match replaced.downcast_ref::<AggregateExec>() {
        Some(aggregate) => Ok(aggregate.clone()),
        None => internal_err!("an aggregation over another input is none"),
    }
}

fn replaced(aggregate: &AggregateExec, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    Arc::new(aggregate.clone()).replace_children(children, options)
}

/// How far one partition has come.
enum Stage {
    /// Units of the cache of columns; whether states of one were handed on.
    Units {
        selection: Box<Selection>,
        begun: bool,
    },
    Rest(SendableRecordBatchStream),
}

/// How far one partition has come with batches.
enum Batches {
    Runs(SendableRecordBatchStream),
    Rest(SendableRecordBatchStream),
}

impl DisplayAs for RunsExec {
    fn fmt_as(&self, form: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "RunsExec: ")?;
        if let Some(direct) = &self.direct {
            write!(f, "from columns, ")?;
            if let Some(count) = direct.skips() {
                write!(f, "first={count}, ")?;
            }
        }
        self.aggregate.fmt_as(form, f)
    }
}

impl ExecutionPlan for RunsExec {
    fn name(&self) -> &'static str {
        "RunsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.aggregate.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![self.aggregate.input()]
    }

    fn apply_expressions(
        &self,
        each: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.aggregate.apply_expressions(each)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let aggregate = replaced(&self.aggregate, children)?;
        let Some(rows) = aggregate.downcast_ref::<AggregateExec>() else { return Ok(aggregate) };
        // What was narrowed stays so over the same rows. What was found so far is forgotten: a recursive query runs its plan again.
        let narrow = self.direct.as_ref().filter(|direct| direct.narrow().is_some());
        if let (Some(direct), Some(source)) = (narrow, hot_source(rows.input())) {
            let direct = Some(direct.anew(source));
            return Ok(Arc::new(Self { aggregate: rows.clone(), direct, ..Self::clone(&self) }));
        }
        Ok(Self::of(rows)?.map_or(aggregate, |runs| Arc::new(runs)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        match &self.direct {
            Some(direct) => self.direct(direct.clone(), partition, context),
            None => self.batches(partition, &context),
        }
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

impl RunsExec {
    /// The states of the runs in batches of rows.
    fn batches(&self, partition: usize, context: &Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let context = Arc::clone(context);
        let input = self.aggregate.input().execute(partition, Arc::clone(&context))?;
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let state = (self.clone(), Batches::Runs(input), metrics);
        let batches = futures::stream::try_unfold(state, move |(runs, stage, metrics)| {
            let context = Arc::clone(&context);
            async move {
                let mut stage = stage;
                loop {
                    let mut input = match stage {
                        Batches::Runs(input) => input,
                        Batches::Rest(mut rest) => {
                            let batch = rest.next().await.transpose()?;
                            return Ok(batch
                                .map(|batch| (batch.record_output(&metrics), (runs, Batches::Rest(rest), metrics))));
                        }
                    };
                    let Some(batch) = input.next().await.transpose()? else { return Ok(None) };
                    if batch.num_rows() == 0 {
                        stage = Batches::Runs(input);
                        continue;
                    }
                    let timer = metrics.elapsed_compute().timer();
                    let found = runs.runs(&batch)?;
                    timer.done();
                    match found {
                        Some(states) => {
                            return Ok(Some((states.record_output(&metrics), (runs, Batches::Runs(input), metrics))));
                        }
                        None => stage = Batches::Rest(runs.rest(batch, input, &context)?),
                    }
                }
            }
        });
        Ok(Box::pin(cooperative(RecordBatchStreamAdapter::new(self.schema(), Box::pin(batches)))))
    }
}

/// A stream that has begun, as the input of a plan; it can be executed once.
struct Rest {
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    stream: Mutex<Option<SendableRecordBatchStream>>,
}

impl std::fmt::Debug for Rest {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rest").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl DisplayAs for Rest {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rest")
    }
}

impl ExecutionPlan for Rest {
    fn name(&self) -> &'static str {
        "Rest"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let stream = self.stream.lock().expect("no holder of this lock panics").take();
        stream.map_or_else(|| internal_err!("the rest of a stream is read twice"), Ok)
    }
}

#[cfg(test)]
mod tests;
