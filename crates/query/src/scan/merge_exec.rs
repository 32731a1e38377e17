//! The merge of parts that may hold the same keys, as a node of a plan.
//!
//! Below it only predicates on tags and time are right: all versions of a row share them, so a row is kept or dropped as
//! a whole. A predicate on a field must see the merged row (an old v=20 must not survive `v > 10` when its newer v=5 was
//! filtered away), and so must limits and counts. Dynamic filters (of TopK and joins) follow the same rule.

use std::collections::HashSet;
use std::fmt::Formatter;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::SortOptions;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result};
use datafusion::config::ConfigOptions;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr::{
    Distribution, EquivalenceProperties, LexOrdering, OrderingRequirements, Partitioning, PhysicalExpr,
    PhysicalSortExpr, conjunction,
};
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::distribution_requirements::InputDistributionRequirements;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::filter_pushdown::{
    ChildFilterDescription, ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
    PushedDown,
};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt;
use futures::stream::BoxStream;
use weir_engine::merge::MergeStream;

use super::Columns;

/// Merges groups of sorted inputs. Each output partition merges its groups one after the other.
#[derive(Debug, Clone)]
pub(super) struct MergeExec {
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    /// For each output partition, its groups as ranges of `inputs`, each oldest first.
    partitions: Vec<Vec<Range<usize>>>,
    columns: Columns,
    /// The schema of all inputs.
    read: SchemaRef,
    fetch: Option<usize>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl MergeExec {
    /// Merges `groups`, each with the number of rows that it has about, in at most `partitions` partitions.
    pub(super) fn try_new(
        groups: Vec<(u64, Vec<Arc<dyn ExecutionPlan>>)>,
        columns: Columns,
        partitions: usize,
    ) -> Result<Self> {
        let mut inputs = Vec::new();
        let mut spread: Vec<(u64, Vec<Range<usize>>)> = vec![(0, Vec::new()); partitions.clamp(1, groups.len().max(1))];
        for (rows, group) in groups {
            let start = inputs.len();
            inputs.extend(group);
            let (total, ranges) = spread.iter_mut().min_by_key(|part| part.0).expect("there is a partition");
            *total = total.saturating_add(rows.max(1));
            ranges.push(start..inputs.len());
        }
        let Some(first) = inputs.first() else {
            return datafusion::common::internal_err!("a merge needs an input");
        };
        let read = first.schema();
        let schema = Arc::new(read.project(&columns.output)?);
        let partitions: Vec<_> = spread.into_iter().map(|part| part.1).collect();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(partitions.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let properties = Arc::new(properties.with_scheduling_type(SchedulingType::Cooperative));
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(Self { inputs, partitions, columns, read, fetch: None, properties, metrics })
    }

    /// Output columns that are part of the key.
    fn key_columns(&self) -> HashSet<usize> {
        let of_key = |place: &usize| *place == self.columns.time || self.columns.tags.contains(place);
        self.columns.output.iter().enumerate().filter(|(_, place)| of_key(place)).map(|(index, _)| index).collect()
    }

    fn merge(&self, group: Range<usize>, context: &Arc<TaskContext>) -> Result<MergeStream<DataFusionError>> {
        let inputs = self.inputs[group].iter().map(|input| Ok(input.execute(0, Arc::clone(context))?.boxed()));
        let inputs = inputs.collect::<Result<Vec<BoxStream<'static, Result<RecordBatch>>>>>()?;
        Ok(MergeStream::new(&self.read, &self.columns.tags, inputs, context.session_config().batch_size())?)
    }
}

/// The order of rows by tags, nulls first, and time.
pub(super) fn ordering(schema: &Schema, tags: &[usize], time: usize) -> Result<LexOrdering> {
    let options = SortOptions { descending: false, nulls_first: true };
    let columns = tags.iter().chain([&time]).map(|&index| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(schema.field(index).name(), index));
        PhysicalSortExpr::new(column, options)
    });
    LexOrdering::new(columns).ok_or_else(|| DataFusionError::Internal("an order has a column".to_owned()))
}

/// The groups of one output partition, one after the other.
struct Partition {
    exec: MergeExec,
    groups: std::vec::IntoIter<Range<usize>>,
    current: Option<MergeStream<DataFusionError>>,
    context: Arc<TaskContext>,
    memory: MemoryReservation,
    metrics: BaselineMetrics,
    left: usize,
}

impl Partition {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while self.left > 0 {
            if self.current.is_none() {
                let Some(group) = self.groups.next() else { break };
                self.current = Some(self.exec.merge(group, &self.context)?);
            }
            let Some(merge) = &mut self.current else { break };
            match merge.next().await.transpose()? {
                Some(batch) => {
                    self.memory.try_resize(merge.bytes())?;
                    let batch = batch.project(&self.exec.columns.output)?;
                    let batch = batch.slice(0, batch.num_rows().min(self.left));
                    self.left -= batch.num_rows();
                    return Ok(Some(batch.record_output(&self.metrics)));
                }
                None => {
                    self.current = None;
                    self.memory.free();
                }
            }
        }
        Ok(None)
    }
}

impl DisplayAs for MergeExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        let groups: Vec<String> = self
            .partitions
            .iter()
            .map(|groups| groups.iter().map(|group| group.len().to_string()).collect::<Vec<_>>().join("+"))
            .collect();
        write!(f, "MergeExec: inputs=[{}]", groups.join(", "))?;
        match self.fetch {
            Some(fetch) => write!(f, ", fetch={fetch}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for MergeExec {
    fn name(&self) -> &'static str {
        "MergeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition; self.inputs.len()])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        let required = ordering(&self.read, &self.columns.tags, self.columns.time).ok().map(OrderingRequirements::from);
        vec![required; self.inputs.len()]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false; self.inputs.len()]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(Arc::new(Self { inputs, metrics, ..Self::clone(&self) }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let state = Partition {
            groups: self.partitions[partition].clone().into_iter(),
            current: None,
            memory: MemoryConsumer::new(format!("MergeExec[{partition}]")).register(context.memory_pool()),
            metrics: BaselineMetrics::new(&self.metrics, partition),
            left: self.fetch.unwrap_or(usize::MAX),
            exec: self.clone(),
            context,
        };
        let batches = futures::stream::try_unfold(state, |mut state| async move {
            Ok(state.next().await?.map(|batch| (batch, state)))
        });
        Ok(Box::pin(cooperative(RecordBatchStreamAdapter::new(self.schema(), Box::pin(batches)))))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    /// A limit stops the merge; it never reaches the inputs.
    fn with_fetch(&self, fetch: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(Arc::new(Self { fetch, metrics: ExecutionPlanMetricsSet::new(), ..self.clone() }))
    }

    fn fetch(&self) -> Option<usize> {
        self.fetch
    }

    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        let mut description = FilterDescription::new();
        for input in &self.inputs {
            description = description.with_child(match self.fetch {
                Some(_) => ChildFilterDescription::all_unsupported(&filters),
                None => ChildFilterDescription::from_child_with_allowed_indices(&filters, self.key_columns(), input)?,
            });
        }
        Ok(description)
    }

    /// A filter on the key that an input cannot take by itself is put on top of that input.
    fn handle_child_pushdown_result(
        &self,
        phase: FilterPushdownPhase,
        result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        if phase != FilterPushdownPhase::Pre || self.fetch.is_some() {
            return Ok(FilterPushdownPropagation::if_all(result));
        }
        let keys = self.key_columns();
        let on_key = |filter: &Arc<dyn PhysicalExpr>| {
            collect_columns(filter).iter().all(|column| keys.contains(&column.index()))
        };
        let mut left: Vec<Vec<Arc<dyn PhysicalExpr>>> = vec![Vec::new(); self.inputs.len()];
        let mut answers = Vec::with_capacity(result.parent_filters.len());
        for parent in result.parent_filters {
            if !on_key(&parent.filter) {
                answers.push(PushedDown::No);
                continue;
            }
            answers.push(PushedDown::Yes);
            for (input, taken) in parent.child_results.iter().enumerate() {
                if matches!(taken, PushedDown::No) {
                    left[input].push(reassign_expr_columns(Arc::clone(&parent.filter), &self.read)?);
                }
            }
        }
        let propagation = FilterPushdownPropagation::with_parent_pushdown_result(answers);
        if left.iter().all(Vec::is_empty) {
            return Ok(propagation);
        }
        let inputs = self.inputs.iter().zip(left).map(|(input, left)| {
            let input = Arc::clone(input);
            if left.is_empty() {
                return Ok(input);
            }
            Ok(Arc::new(FilterExec::try_new(conjunction(left), input)?) as Arc<dyn ExecutionPlan>)
        });
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        Ok(propagation.with_updated_node(Arc::new(Self { inputs, ..self.clone() })))
    }
}
