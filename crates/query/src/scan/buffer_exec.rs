//! Rows of the buffer as an input of a plan: made batch by batch when they are asked for.

use std::fmt::Formatter;
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{SchemaRef, TimestampNanosecondType};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use weir_engine::read::{SortedRun, Times};

use super::{Columns, merge_exec};

/// One run of the buffer, or the part of it within some times.
#[derive(Debug, Clone)]
pub(super) struct BufferExec {
    run: SortedRun,
    times: Option<Times>,
    columns: Vec<usize>,
    logical: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl BufferExec {
    /// Gives `columns` of the logical layout; only rows within `times` where that is set.
    pub(super) fn new(run: SortedRun, times: Option<Times>, columns: Vec<usize>, logical: &SchemaRef) -> Self {
        let schema = Arc::new(logical.project(&columns).expect("columns are of the logical layout"));
        let properties = properties(EquivalenceProperties::new(schema));
        Self { run, times, columns, logical: Arc::clone(logical), properties, metrics: ExecutionPlanMetricsSet::new() }
    }

    /// The same rows, with their order declared.
    pub(super) fn sorted(mut self, columns: &Columns) -> Result<Self> {
        let schema = Arc::clone(self.properties.eq_properties.schema());
        let ordering = merge_exec::ordering(&schema, &columns.tags, columns.time)?;
        self.properties = properties(EquivalenceProperties::new_with_orderings(schema, [ordering]));
        Ok(self)
    }

    /// The rows of one range of the run that lie within the times.
    fn batch(&self, from: usize, rows: usize) -> Result<RecordBatch> {
        let range = from..(from + rows).min(self.run.rows());
        let read = |columns: &[usize]| {
            self.run
                .batch(range.clone(), columns, &self.logical)
                .map_err(|error| DataFusionError::External(Box::new(error)))
        };
        let Some(times) = &self.times else { return read(&self.columns) };
        let found = read(&[0])?;
        let found = found.column(0).as_primitive::<TimestampNanosecondType>();
        let inside: BooleanArray = found.values().iter().map(|time| Some(times.contains(time))).collect();
        match inside.true_count() {
            0 => Ok(RecordBatch::new_empty(self.schema())),
            _ => Ok(filter_record_batch(&read(&self.columns)?, &inside)?),
        }
    }
}

fn properties(eq: EquivalenceProperties) -> Arc<PlanProperties> {
    let partitioning = Partitioning::UnknownPartitioning(1);
    let properties = PlanProperties::new(eq, partitioning, EmissionType::Incremental, Boundedness::Bounded);
    Arc::new(properties.with_scheduling_type(SchedulingType::Cooperative))
}

impl DisplayAs for BufferExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "BufferExec: rows={}", self.run.rows())?;
        match &self.times {
            Some(times) => write!(f, ", times=[{}, {}]", times.start(), times.end()),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for BufferExec {
    fn name(&self) -> &'static str {
        "BufferExec"
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

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (exec, rows) = (self.clone(), context.session_config().batch_size());
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let batches = (0..self.run.rows()).step_by(rows).map(move |from| {
            let timer = metrics.elapsed_compute().timer();
            let batch = exec.batch(from, rows);
            timer.done();
            batch.record_output(&metrics)
        });
        let stream = cooperative(RecordBatchStreamAdapter::new(self.schema(), futures::stream::iter(batches)));
        Ok(Box::pin(stream))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
