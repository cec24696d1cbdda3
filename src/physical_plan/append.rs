//! Sources that are in memory, one after the other.

use std::fmt;
use std::sync::Arc;

use datafusion::common::stats::Precision;
use datafusion::common::{Result as DfResult, Statistics, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};
use futures::{StreamExt, TryStreamExt, stream};

use super::leaf;

/// Yields the rows of its inputs, each when the one before has ended, as one partition.
///
/// A union would give each input a partition, and whoever collects several partitions hands every batch from thread to
/// thread: for batches that are slices of memory that costs more than reading them.
///
/// Inputs: one partition each, of one schema. Output: that schema, one partition, unordered.
#[derive(Debug)]
pub struct AppendExec {
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
}

impl AppendExec {
    /// The rows of `inputs`, of which there is at least one.
    ///
    /// # Errors
    /// `Internal` if there is no input.
    pub fn try_new(inputs: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Self> {
        let Some(first) = inputs.first() else { return internal_err!("AppendExec has at least one input") };
        let properties = leaf::properties(&first.schema(), 1);
        Ok(Self { inputs, properties })
    }
}

impl DisplayAs for AppendExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AppendExec")
    }
}

impl ExecutionPlan for AppendExec {
    fn name(&self) -> &str {
        "AppendExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false; self.inputs.len()]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::try_new(children)?))
    }

    fn partition_statistics(&self, _: Option<usize>) -> DfResult<Arc<Statistics>> {
        let mut rows = Precision::Exact(0);
        for input in &self.inputs {
            rows = rows.add(&input.partition_statistics(None)?.num_rows);
        }
        Ok(leaf::rows_at_most(&self.schema(), rows))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("AppendExec has no partition {partition}");
        }
        let rows =
            stream::iter(self.inputs.clone()).map(move |input| input.execute(0, Arc::clone(&context))).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}
