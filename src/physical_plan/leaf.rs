//! What every node of this crate does alike: properties of lazy, bounded streams, and counting what they yield.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::{Result as DfResult, Statistics};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::metrics::{BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{PlanProperties, SendableRecordBatchStream};
use futures::{Stream, StreamExt};

use crate::size::row_bytes;
use crate::source::{READ_WAIT, Work, add_wait};

/// Properties of a leaf with `partitions` unordered partitions that yields as it goes.
pub(super) fn properties(schema: &SchemaRef, partitions: usize) -> Arc<PlanProperties> {
    Arc::new(
        PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(schema)),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative),
    )
}

/// Statistics of a node that yields this many rows or fewer: never exact, so that no count is answered from them.
pub(super) fn rows_at_most(schema: &SchemaRef, rows: Precision<usize>) -> Arc<Statistics> {
    Arc::new(Statistics { num_rows: rows.to_inexact(), ..Statistics::new_unknown(schema) })
}

/// Counts rows, bytes and time of a stream and lets other tasks run between its batches.
pub(super) fn counted(
    schema: SchemaRef,
    stream: impl Stream<Item = DfResult<RecordBatch>> + Send + 'static,
    metrics: &ExecutionPlanMetricsSet,
    partition: usize,
) -> SendableRecordBatchStream {
    let baseline = BaselineMetrics::new(metrics, partition);
    let bytes = bytes_counter(metrics, partition);
    let stream = stream.inspect(move |batch| {
        if let Ok(batch) = batch {
            baseline.record_output(batch.num_rows());
            bytes.add(row_bytes(batch));
        }
    });
    Box::pin(datafusion::physical_plan::coop::cooperative(RecordBatchStreamAdapter::new(schema, stream.boxed())))
}

/// Shows the work of a source among the metrics.
pub(super) fn record(work: &Work, metrics: &ExecutionPlanMetricsSet, partition: usize) {
    for (kind, much) in work.iter() {
        match kind {
            READ_WAIT => {
                let waited = MetricBuilder::new(metrics).subset_time(kind, partition);
                add_wait(&waited, Duration::from_nanos(much as u64));
            }
            _ => MetricBuilder::new(metrics).counter(kind, partition).add(much),
        }
    }
}

fn bytes_counter(metrics: &ExecutionPlanMetricsSet, partition: usize) -> Count {
    MetricBuilder::new(metrics).counter("bytes", partition)
}
