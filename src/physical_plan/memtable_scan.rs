//! A leaf over sources whose rows are live as they are: memtables with their block lists applied.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::{DataFusionError, Result as DfResult, Statistics, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};
use futures::{Stream, StreamExt, TryStreamExt, future, stream};

use super::leaf;
use crate::source::{RowSource, Work};

/// Scans one source per partition.
///
/// ```text
///   memtable 7 (active) ── partition 0 ─▶ live rows, slices of what was written
///   memtable 6 (frozen) ── partition 1 ─▶
/// ```
/// Output: the projected logical schema, unordered, batches of at most the session's batch size. Untouched runs of
/// rows are slices, not copies. Errors of a source end its partition.
#[derive(Debug)]
pub struct MemTableScanExec {
    sources: Vec<Arc<dyn RowSource>>,
    projection: Vec<usize>,
    schema: SchemaRef,
    fetch: Option<usize>,
    /// Why no index finds the rows that a search wants.
    flat: Option<&'static str>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl MemTableScanExec {
    /// A scan of `sources`; `projection` holds places in the logical schema and `schema` is that projection.
    pub fn new(sources: Vec<Arc<dyn RowSource>>, projection: Vec<usize>, schema: SchemaRef) -> Self {
        let properties = leaf::properties(&schema, sources.len());
        let metrics = ExecutionPlanMetricsSet::new();
        Self { sources, projection, schema, fetch: None, flat: None, properties, metrics }
    }

    /// The same scan, of which EXPLAIN tells why no index finds the rows that a search wants.
    #[must_use]
    pub fn because(self, flat: Option<&'static str>) -> Self {
        Self { flat, ..self }
    }

    /// The same scan with nothing counted.
    fn anew(&self) -> Self {
        let scan = Self::new(self.sources.clone(), self.projection.clone(), Arc::clone(&self.schema));
        Self { fetch: self.fetch, ..scan.because(self.flat) }
    }
}

impl DisplayAs for MemTableScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.schema.fields().iter().map(|f| f.name().as_str()).collect();
        let sources: Vec<_> = self.sources.iter().map(|s| s.label()).collect();
        write!(f, "MemTableScanExec: sources=[{}], projection=[{}]", sources.join(", "), names.join(", "))?;
        if let Some(fetch) = self.fetch {
            write!(f, ", fetch={fetch}")?;
        }
        if let Some(flat) = self.flat {
            write!(f, ", flat={flat}")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for MemTableScanExec {
    fn name(&self) -> &str {
        "MemTableScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("MemTableScanExec is a leaf") }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let Some(source) = self.sources.get(partition) else {
            return internal_err!("MemTableScanExec has no partition {partition}");
        };
        let batch_size = context.session_config().batch_size();
        let metrics = self.metrics.clone();
        let told = Arc::new(move |work: &Work| leaf::record(work, &metrics, partition));
        let rows = source.rows(&self.projection, &self.schema, batch_size, told).map_err(DataFusionError::from);
        let rows = match source.yields_all() {
            true => dropped_counted(rows, source.row_count(), &self.metrics, partition).boxed(),
            false => rows.boxed(),
        };
        let mut left = self.fetch.unwrap_or(usize::MAX);
        // A source may have batches without rows: only one that `fetch` left nothing of ends the scan.
        let rows = rows
            .try_filter(|batch| future::ready(batch.num_rows() > 0))
            .map_ok(move |batch| {
                let batch = if batch.num_rows() > left { batch.slice(0, left) } else { batch };
                left -= batch.num_rows();
                batch
            })
            .take_while(|batch| future::ready(batch.as_ref().is_ok_and(|b| b.num_rows() > 0) || batch.is_err()));
        Ok(leaf::counted(Arc::clone(&self.schema), rows, &self.metrics, partition))
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(Arc::new(Self { fetch: limit, ..self.anew() }))
    }

    fn fetch(&self) -> Option<usize> {
        self.fetch
    }

    fn supports_limit_pushdown(&self) -> bool {
        false
    }

    fn partition_statistics(&self, partition: Option<usize>) -> DfResult<Arc<Statistics>> {
        let rows = match partition {
            Some(partition) => self.sources.get(partition).map_or(0, |source| source.row_count()),
            None => self.sources.iter().map(|source| source.row_count()).sum(),
        };
        let rows = rows.min(self.fetch.unwrap_or(usize::MAX));
        Ok(leaf::rows_at_most(&self.schema, Precision::Inexact(rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn reset_state(self: Arc<Self>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(self.anew()))
    }
}

/// Counts at the end of `rows`, the live ones of `all`, how many were left out. A scan that ends earlier does not know.
fn dropped_counted(
    rows: impl Stream<Item = DfResult<RecordBatch>> + Send + 'static,
    all: usize,
    metrics: &ExecutionPlanMetricsSet,
    partition: usize,
) -> impl Stream<Item = DfResult<RecordBatch>> + Send + 'static {
    let dropped = MetricBuilder::new(metrics).counter("rows_dropped", partition);
    let live = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&live);
    let end = stream::once(async move {
        dropped.add(all.saturating_sub(live.load(Ordering::Relaxed)));
        None
    });
    rows.inspect_ok(move |batch| {
        counted.fetch_add(batch.num_rows(), Ordering::Relaxed);
    })
    .map(Some)
    .chain(end)
    .filter_map(future::ready)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use datafusion::physical_plan::collect;
    use futures::stream::BoxStream;

    use super::*;
    use crate::error::Result;
    use crate::source::WorkListener;

    /// Batches as they are.
    #[derive(Debug)]
    struct Batches(Vec<RecordBatch>);

    impl RowSource for Batches {
        fn label(&self) -> String {
            "batches".to_string()
        }

        fn row_count(&self) -> usize {
            self.0.iter().map(RecordBatch::num_rows).sum()
        }

        fn rows(
            &self,
            _: &[usize],
            _: &SchemaRef,
            _: usize,
            _: WorkListener,
        ) -> BoxStream<'static, Result<RecordBatch>> {
            stream::iter(self.0.clone().into_iter().map(Ok)).boxed()
        }
    }

    #[tokio::test]
    async fn batches_without_rows_do_not_end_a_scan() {
        let batch = |ids: &[i64]| {
            RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef)]).unwrap()
        };
        let batches: Vec<_> = [&[][..], &[1, 2], &[], &[], &[3], &[4, 5], &[]].map(batch).into();
        let schema = batches[0].schema();
        let scan = MemTableScanExec::new(vec![Arc::new(Batches(batches))], vec![0], schema);
        for (fetch, expected) in [(None, 5), (Some(9), 5), (Some(4), 4), (Some(3), 3), (Some(0), 0)] {
            let found = collect(scan.with_fetch(fetch).unwrap(), Arc::default()).await.unwrap();
            assert!(found.iter().all(|batch| batch.num_rows() > 0));
            let ids = found.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec());
            assert_eq!(ids.collect::<Vec<_>>(), [1, 2, 3, 4, 5][..expected], "{fetch:?}");
        }
    }
}
