//! Finds out what has to be known before rows are looked at.

use std::fmt;
use std::sync::Arc;

use datafusion::common::{DataFusionError, Result as DfResult, Statistics, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, SendableRecordBatchStream,
};
use futures::{TryStreamExt, stream};
use tokio::sync::OnceCell;
use tracing::{Instrument, Span};

use super::leaf;
use crate::source::{Preparation, Work};
use crate::task;

/// Prepares, then yields its input as it is.
///
/// Input and output: the same rows, partitions and order. Every partition waits for all preparations, each of which is
/// done once; nothing happens before a stream is polled.
#[derive(Debug)]
pub struct PrepareExec {
    input: Arc<dyn ExecutionPlan>,
    preparations: Vec<Arc<dyn Preparation>>,
    metrics: ExecutionPlanMetricsSet,
    /// Whether all is prepared, once for all partitions.
    prepared: Arc<OnceCell<()>>,
    span: Span,
}

impl PrepareExec {
    /// `input` after `preparations`.
    pub fn new(input: Arc<dyn ExecutionPlan>, preparations: Vec<Arc<dyn Preparation>>) -> Self {
        let (metrics, prepared) = (ExecutionPlanMetricsSet::new(), Arc::default());
        Self { input, preparations, metrics, prepared, span: Span::none() }
    }

    /// The same as a part of the search that `span` traces.
    #[must_use]
    pub fn within(self, span: Option<&Span>) -> Self {
        Self { span: span.cloned().unwrap_or_else(Span::none), ..self }
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
            (Some(input), None) => Ok(Arc::new(Self::new(input, self.preparations.clone()).within(Some(&self.span)))),
            _ => internal_err!("PrepareExec has one input"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        if partition >= self.input.output_partitioning().partition_count() {
            return internal_err!("PrepareExec has no partition {partition}");
        }
        let (input, preparations, metrics) = (Arc::clone(&self.input), self.preparations.clone(), self.metrics.clone());
        let (prepared, search) = (Arc::clone(&self.prepared), self.span.clone());
        let prepare = move || async move {
            let mut work = Work::default();
            for preparation in preparations {
                let span = tracing::debug_span!(parent: &search, "lsm.search.prepare", what = %preparation.label());
                work.extend(&preparation.prepare().instrument(span).await?);
            }
            leaf::record(&work, &metrics, partition);
            Ok(())
        };
        let rows = stream::once(async move {
            task::once(&prepared, prepare).await.map_err(DataFusionError::from)?;
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
        let anew = Self::new(Arc::clone(&self.input), self.preparations.clone());
        Ok(Arc::new(anew.within(Some(&self.span))))
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Schema;
    use async_trait::async_trait;
    use datafusion::physical_plan::collect;
    use datafusion::physical_plan::empty::EmptyExec;

    use super::*;
    use crate::error::Result;

    #[derive(Debug)]
    struct Words(usize);

    #[async_trait]
    impl Preparation for Words {
        fn label(&self) -> String {
            format!("{} words", self.0)
        }

        async fn prepare(&self) -> Result<Work> {
            let mut work = Work::default();
            work.add("words", self.0);
            Ok(work)
        }
    }

    #[tokio::test]
    async fn work_that_is_done_once_is_told_once() {
        let input = Arc::new(EmptyExec::new(Arc::new(Schema::empty())).with_partitions(3));
        let prepare = Arc::new(PrepareExec::new(input, vec![Arc::new(Words(5)), Arc::new(Words(2))]));
        let words = |plan: &dyn ExecutionPlan| plan.metrics().unwrap().sum_by_name("words").map(|sum| sum.as_usize());
        collect(Arc::clone(&prepare) as _, Arc::default()).await.unwrap();
        assert_eq!(words(prepare.as_ref()), Some(7));
        let again = prepare.reset_state().unwrap();
        collect(Arc::clone(&again), Arc::default()).await.unwrap();
        assert_eq!(words(again.as_ref()), Some(7));
    }
}
