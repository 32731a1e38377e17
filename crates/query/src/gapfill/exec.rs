//! Gap filling as a node of a physical plan: series by series over rows in the order of (other keys, bucket).

use std::fmt::Formatter;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::compute::SortOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{
    Distribution, EquivalenceProperties, LexOrdering, OrderingRequirements, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::distribution_requirements::InputDistributionRequirements;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};

use super::fill::{Filler, Shape};
use super::{Fill, GapFill};

/// Fills the gaps of its input.
#[derive(Debug, Clone)]
pub(crate) struct GapFillExec {
    input: Arc<dyn ExecutionPlan>,
    shape: Arc<Shape>,
    rows_max: u64,
    /// Rows made up so far, by all partitions.
    made: Arc<AtomicU64>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl GapFillExec {
    /// Runs `node` over `input`; no more than `rows_max` rows are made up.
    pub(crate) fn try_new(node: &GapFill, input: Arc<dyn ExecutionPlan>, rows_max: u64) -> Result<Self> {
        let shape = Shape::new(node, &input.schema())?;
        Self::over(input, Arc::new(shape), rows_max)
    }

    fn over(input: Arc<dyn ExecutionPlan>, shape: Arc<Shape>, rows_max: u64) -> Result<Self> {
        let order = order(&shape)?;
        let equivalence = EquivalenceProperties::new_with_orderings(Arc::clone(&shape.schema), [order]);
        let partitioning = input.output_partitioning().clone();
        let properties =
            PlanProperties::new(equivalence, partitioning, EmissionType::Incremental, Boundedness::Bounded)
                .with_scheduling_type(SchedulingType::Cooperative);
        let (made, metrics) = (Arc::default(), ExecutionPlanMetricsSet::new());
        Ok(Self { input, shape, rows_max, made, properties: Arc::new(properties), metrics })
    }
}

fn column(shape: &Shape, index: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(shape.schema.field(index).name(), index))
}

/// By series, then by bucket, a bucket that is NULL last.
fn order(shape: &Shape) -> Result<LexOrdering> {
    let options = SortOptions { descending: false, nulls_first: false };
    let columns = shape.keys.iter().chain([&shape.bucket]);
    let columns = columns.map(|&index| PhysicalSortExpr::new(column(shape, index), options));
    LexOrdering::new(columns).ok_or_else(|| DataFusionError::Internal("an order has a column".to_owned()))
}

impl DisplayAs for GapFillExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        let count = |kind: &Fill| self.shape.fills.iter().filter(|fill| *fill == kind).count();
        let (previous, linear) = (count(&Fill::Previous), count(&Fill::Linear));
        write!(f, "GapFillExec: buckets={}, locf={previous}, interpolate={linear}", self.shape.range.count)
    }
}

impl ExecutionPlan for GapFillExec {
    fn name(&self) -> &'static str {
        "GapFillExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    /// A series is filled in one place.
    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        let keys: Vec<_> = self.shape.keys.iter().map(|&index| column(&self.shape, index)).collect();
        InputDistributionRequirements::new(vec![match keys.is_empty() {
            true => Distribution::SinglePartition,
            false => Distribution::KeyPartitioned(keys),
        }])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        vec![order(&self.shape).ok().map(OrderingRequirements::from)]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![!self.shape.keys.is_empty()]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::over(inputs.swap_remove(0), Arc::clone(&self.shape), self.rows_max)?))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let memory = MemoryConsumer::new(format!("GapFillExec[{partition}]")).register(context.memory_pool());
        let batch_rows = context.session_config().batch_size();
        let made = (Arc::clone(&self.made), self.rows_max);
        let filler = Filler::try_new(input, Arc::clone(&self.shape), batch_rows, made, memory)?;
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let batches = futures::stream::try_unfold((filler, metrics), |(mut filler, metrics)| async move {
            Ok(filler.next().await?.map(|batch| (batch.record_output(&metrics), (filler, metrics))))
        });
        Ok(Box::pin(cooperative(RecordBatchStreamAdapter::new(self.schema(), Box::pin(batches)))))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
