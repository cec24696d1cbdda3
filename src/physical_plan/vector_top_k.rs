//! The rows of one source that are nearest to a vector.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::{DataFusionError, Result as DfResult, Statistics, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};
use futures::{TryStreamExt, future, stream};

use super::leaf;
use crate::source::VectorSource;

/// Asks a source for its rows nearest to a vector.
///
/// Output: one partition, the projected logical schema, unordered: the source's nearest rows are among them, others may
/// be. A sort above ranks the rows of all sources by distances it computes itself. Nothing is read before the stream is
/// polled.
#[derive(Debug)]
pub struct VectorTopKExec {
    source: Arc<dyn VectorSource>,
    projection: Vec<usize>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl VectorTopKExec {
    /// A search; `projection` holds places in the logical schema and `schema` is that projection.
    pub fn new(source: Arc<dyn VectorSource>, projection: Vec<usize>, schema: SchemaRef) -> Self {
        let properties = leaf::properties(&schema, 1);
        Self { source, projection, schema, properties, metrics: ExecutionPlanMetricsSet::new() }
    }
}

impl DisplayAs for VectorTopKExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VectorTopKExec: {}", self.source.label())
    }
}

impl ExecutionPlan for VectorTopKExec {
    fn name(&self) -> &str {
        "VectorTopKExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("VectorTopKExec is a leaf") }
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("VectorTopKExec has no partition {partition}");
        }
        let (source, projection, schema) =
            (Arc::clone(&self.source), self.projection.clone(), Arc::clone(&self.schema));
        let count = |name: &'static str| MetricBuilder::new(&self.metrics).counter(name, partition);
        let (candidates, distances, flat) = (count("candidates"), count("distances"), count("flat"));
        let rows = stream::once(async move {
            let found = source.nearest(&projection, &schema).await.map_err(DataFusionError::from)?;
            candidates.add(found.candidates);
            distances.add(found.distances);
            flat.add(found.flat);
            Ok(found.rows)
        })
        .try_filter(|batch| future::ready(batch.num_rows() > 0));
        Ok(leaf::counted(Arc::clone(&self.schema), rows, &self.metrics, partition))
    }

    fn partition_statistics(&self, _: Option<usize>) -> DfResult<Arc<Statistics>> {
        Ok(leaf::rows_at_most(&self.schema, Precision::Inexact(self.source.limit())))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn reset_state(self: Arc<Self>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(Arc::clone(&self.source), self.projection.clone(), Arc::clone(&self.schema))))
    }
}
