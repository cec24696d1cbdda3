//! The best rows of one source: nearest to a vector, or those whose texts fit a query best.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::{DataFusionError, Result as DfResult, Statistics, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};
use futures::{TryStreamExt, future, stream};
use tracing::{Instrument, Span};

use super::leaf;
use crate::source::TopKSource;

/// Asks a source for its best rows: `VectorTopKExec` or `TextTopKExec`, as the source says.
///
/// Output: one partition, the projected logical schema, unordered: those of the source's best rows that may be among
/// the best of all, and maybe others. A sort above ranks the rows of all sources by what it computes itself. Nothing is
/// read before the stream is polled.
#[derive(Debug)]
pub struct TopKExec {
    source: Arc<dyn TopKSource>,
    projection: Vec<usize>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    span: Span,
}

impl TopKExec {
    /// A search; `projection` holds places in the logical schema and `schema` is that projection.
    pub fn new(source: Arc<dyn TopKSource>, projection: Vec<usize>, schema: SchemaRef) -> Self {
        let properties = leaf::properties(&schema, 1);
        Self { source, projection, schema, properties, metrics: ExecutionPlanMetricsSet::new(), span: Span::none() }
    }

    /// The same as a part of the search that `span` traces.
    #[must_use]
    pub fn within(self, span: Option<&Span>) -> Self {
        Self { span: span.cloned().unwrap_or_else(Span::none), ..self }
    }
}

impl DisplayAs for TopKExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source.node(), self.source.label())
    }
}

impl ExecutionPlan for TopKExec {
    fn name(&self) -> &str {
        self.source.node()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("{} is a leaf", self.name()) }
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("{} has no partition {partition}", self.name());
        }
        let (source, projection, schema) =
            (Arc::clone(&self.source), self.projection.clone(), Arc::clone(&self.schema));
        let (metrics, search) = (self.metrics.clone(), self.span.clone());
        let rows = stream::once(async move {
            let span = tracing::debug_span!(parent: &search, "lsm.search.source", source = %source.label());
            let best = source.best(&projection, &schema).instrument(span);
            let found = best.await.map_err(DataFusionError::from)?;
            leaf::record(&found.work, &metrics, partition);
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
        let anew = Self::new(Arc::clone(&self.source), self.projection.clone(), Arc::clone(&self.schema));
        Ok(Arc::new(anew.within(Some(&self.span))))
    }
}
