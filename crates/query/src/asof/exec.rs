//! The ASOF join as a node of a physical plan.

use std::fmt::Formatter;
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{
    Distribution, EquivalenceProperties, LexOrdering, OrderingRequirements, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::distribution_requirements::InputDistributionRequirements;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};

use super::Match;
use super::merge::{Merge, Side};

/// NULLs last, where they stop no search.
pub(super) const ORDER: SortOptions = SortOptions { descending: false, nulls_first: false };

/// Merges two inputs in the order of (keys, time).
#[derive(Debug, Clone)]
pub(crate) struct AsofJoinExec {
    left: Arc<dyn ExecutionPlan>,
    right: Arc<dyn ExecutionPlan>,
    /// For each side its keys and, last, its time.
    exprs: [Vec<Arc<dyn PhysicalExpr>>; 2],
    nearest: Match,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl AsofJoinExec {
    /// Joins on these keys and, last, times; the schema has the columns of the left and then of the right input.
    pub(crate) fn new(
        left: Arc<dyn ExecutionPlan>,
        right: Arc<dyn ExecutionPlan>,
        exprs: [Vec<Arc<dyn PhysicalExpr>>; 2],
        nearest: Match,
        schema: SchemaRef,
    ) -> Self {
        let partitioning = left.output_partitioning().clone();
        let equivalence = EquivalenceProperties::new(schema);
        let properties =
            PlanProperties::new(equivalence, partitioning, EmissionType::Incremental, Boundedness::Bounded)
                .with_scheduling_type(SchedulingType::Cooperative);
        Self { left, right, exprs, nearest, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() }
    }

    fn order(&self, side: usize) -> Option<LexOrdering> {
        LexOrdering::new(self.exprs[side].iter().map(|expr| PhysicalSortExpr::new(Arc::clone(expr), ORDER)))
    }

    fn keys(&self, side: usize) -> Vec<Arc<dyn PhysicalExpr>> {
        let exprs = &self.exprs[side];
        exprs[..exprs.len() - 1].to_vec()
    }
}

impl DisplayAs for AsofJoinExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        let [left, right] = &self.exprs;
        let (Some(time), Some(other)) = (left.last(), right.last()) else { return Ok(()) };
        write!(f, "AsofJoinExec: {time} {} {other}, keys={}", self.nearest.sign(), left.len() - 1)
    }
}

impl ExecutionPlan for AsofJoinExec {
    fn name(&self) -> &'static str {
        "AsofJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.left, &self.right]
    }

    /// Rows with equal keys meet in one partition.
    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        match self.keys(0).is_empty() {
            true => InputDistributionRequirements::new(vec![Distribution::SinglePartition; 2]),
            false => {
                let keyed = |side| Distribution::KeyPartitioned(self.keys(side));
                InputDistributionRequirements::co_partitioned(vec![keyed(0), keyed(1)])
            }
        }
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        vec![self.order(0).map(OrderingRequirements::from), self.order(1).map(OrderingRequirements::from)]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![!self.keys(0).is_empty(); 2]
    }

    fn apply_expressions(
        &self,
        apply: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for expr in self.exprs.iter().flatten() {
            if apply(expr)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let Ok([left, right]) = <[_; 2]>::try_from(inputs) else {
            return Err(DataFusionError::Internal("an ASOF JOIN has two inputs".to_owned()));
        };
        Ok(Arc::new(Self::new(left, right, self.exprs.clone(), self.nearest, self.schema())))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let memory = |side: &str| {
            MemoryConsumer::new(format!("AsofJoinExec[{partition}] {side}")).register(context.memory_pool())
        };
        let side = |input: &Arc<dyn ExecutionPlan>, index: usize, name: &str| {
            let stream = input.execute(partition, Arc::clone(&context))?;
            Side::try_new(stream, &self.exprs[index], memory(name))
        };
        let sides = (side(&self.left, 0, "left")?, side(&self.right, 1, "right")?);
        let right = self.right.schema();
        let merge = Merge::try_new(sides, self.nearest, self.schema(), &right)?;
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let batches = futures::stream::try_unfold((merge, metrics), |(mut merge, metrics)| async move {
            Ok(merge.next().await?.map(|batch| (batch.record_output(&metrics), (merge, metrics))))
        });
        Ok(Box::pin(cooperative(RecordBatchStreamAdapter::new(self.schema(), Box::pin(batches)))))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
