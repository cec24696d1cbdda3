//! Finds out what has to be known before rows are looked at.

use std::fmt;
use std::sync::Arc;

use datafusion::common::{DataFusionError, Result as DfResult, Statistics, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, SendableRecordBatchStream,
};
use futures::{TryStreamExt, stream};

use crate::source::Preparation;

/// Prepares, then yields its input as it is.
///
/// Input and output: the same rows, partitions and order. Every partition waits for all preparations, each of which is
/// done once; nothing happens before a stream is polled.
#[derive(Debug)]
pub struct PrepareExec {
    input: Arc<dyn ExecutionPlan>,
    preparations: Vec<Arc<dyn Preparation>>,
    metrics: ExecutionPlanMetricsSet,
}

impl PrepareExec {
    /// `input` after `preparations`.
    pub fn new(input: Arc<dyn ExecutionPlan>, preparations: Vec<Arc<dyn Preparation>>) -> Self {
        Self { input, preparations, metrics: ExecutionPlanMetricsSet::new() }
    }
}

impl DisplayAs for PrepareExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<String> = self.preparations.iter().map(|preparation| preparation.label()).collect();
        write!(f, "PrepareExec: {}", labels.join(", "))
    }
}

impl ExecutionPlan for PrepareExec {
    fn name(&self) -> &str {
        "PrepareExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.pop()) {
            (Some(input), None) => Ok(Arc::new(Self::new(input, self.preparations.clone()))),
            _ => internal_err!("PrepareExec has one input"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        if partition >= self.input.output_partitioning().partition_count() {
            return internal_err!("PrepareExec has no partition {partition}");
        }
        let (input, preparations, metrics) = (Arc::clone(&self.input), self.preparations.clone(), self.metrics.clone());
        let rows = stream::once(async move {
            for preparation in preparations {
                for (name, count) in preparation.prepare().await.map_err(DataFusionError::from)? {
                    MetricBuilder::new(&metrics).counter(name, partition).add(count);
                }
            }
            input.execute(partition, context)
        })
        .try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }

    fn partition_statistics(&self, partition: Option<usize>) -> DfResult<Arc<Statistics>> {
        self.input.partition_statistics(partition)
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn reset_state(self: Arc<Self>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(Arc::clone(&self.input), self.preparations.clone())))
    }
}
