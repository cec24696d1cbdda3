//! The newest row of each of some keys.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result as DfResult, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};
use futures::{TryStreamExt, future, stream};

use super::leaf;
use crate::source::PointSource;

/// Looks keys up, newest source first, and stops for each key at the first source that holds it.
///
/// Output: one partition, the projected logical schema, at most one row a key, in the order of the keys. Nothing is
/// read before the stream is polled.
#[derive(Debug)]
pub struct FirstMatchExec {
    source: Arc<dyn PointSource>,
    projection: Vec<usize>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl FirstMatchExec {
    /// A lookup; `projection` holds places in the logical schema and `schema` is that projection.
    pub fn new(source: Arc<dyn PointSource>, projection: Vec<usize>, schema: SchemaRef) -> Self {
        let properties = leaf::properties(&schema, 1);
        Self { source, projection, schema, properties, metrics: ExecutionPlanMetricsSet::new() }
    }
}

impl DisplayAs for FirstMatchExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FirstMatchExec: {}", self.source.label())
    }
}

impl ExecutionPlan for FirstMatchExec {
    fn name(&self) -> &str {
        "FirstMatchExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("FirstMatchExec is a leaf") }
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("FirstMatchExec has no partition {partition}");
        }
        let (source, projection, schema) =
            (Arc::clone(&self.source), self.projection.clone(), Arc::clone(&self.schema));
        let probed = MetricBuilder::new(&self.metrics).counter("sources_probed", partition);
        let skipped = MetricBuilder::new(&self.metrics).counter("sources_skipped", partition);
        let metrics = self.metrics.clone();
        let rows = stream::once(async move {
            let found = source.lookup(&projection, &schema).await.map_err(DataFusionError::from)?;
            probed.add(found.probed);
            skipped.add(found.skipped);
            leaf::record(&found.work, &metrics, partition);
            Ok(found.rows)
        })
        .try_filter(|batch| future::ready(batch.num_rows() > 0));
        Ok(leaf::counted(Arc::clone(&self.schema), rows, &self.metrics, partition))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn reset_state(self: Arc<Self>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(Arc::clone(&self.source), self.projection.clone(), Arc::clone(&self.schema))))
    }
}
