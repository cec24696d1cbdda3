//! Drops the rows of one source that newer sources supersede.

use std::fmt;
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{SchemaRef, UInt64Type};
use datafusion::common::{DataFusionError, Result as DfResult, Statistics, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, SendableRecordBatchStream,
};
use futures::future::try_join;
use futures::{StreamExt, TryFutureExt, TryStreamExt, future, stream};
use roaring::RoaringTreemap;

use super::leaf;
use crate::source::{Dropped, ROW_ID, RowMask};

/// Keeps the rows of its input that the mask does not drop.
///
/// ```text
///   input: generation 2          mask: rows superseded by newer sources
///   id  body   _rowid            {1}
///   1   "a"    0          ─▶     1  "a"
///   2   "b"    1
/// ```
/// Input: the output's columns, then whatever else the mask's key columns need, then `_rowid`. Output: the first
/// columns as `schema`. Filters on any column may sit below, because the mask was resolved without them; a limit may
/// not. Order and partitions are the input's.
#[derive(Debug)]
pub struct BlockListExec {
    input: Arc<dyn ExecutionPlan>,
    mask: Arc<dyn RowMask>,
    label: String,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl BlockListExec {
    /// A filter of `input`; `schema` is the output's, `label` names the source in EXPLAIN.
    pub fn new(input: Arc<dyn ExecutionPlan>, mask: Arc<dyn RowMask>, label: String, schema: SchemaRef) -> Self {
        let properties = leaf::properties(&schema, input.output_partitioning().partition_count());
        Self { input, mask, label, schema, properties, metrics: ExecutionPlanMetricsSet::new() }
    }
}

impl DisplayAs for BlockListExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockListExec: source={}, superseded_by={}", self.label, self.mask.label())
    }
}

impl ExecutionPlan for BlockListExec {
    fn name(&self) -> &str {
        "BlockListExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        let Ok([input]) = <[_; 1]>::try_from(children) else {
            return internal_err!("BlockListExec has one child");
        };
        Ok(Arc::new(Self::new(input, Arc::clone(&self.mask), self.label.clone(), Arc::clone(&self.schema))))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let mut input = self.input.execute(partition, context)?;
        let dropped_rows = MetricBuilder::new(&self.metrics).counter("rows_dropped", partition);
        let mask = Arc::clone(&self.mask);
        let schema = Arc::clone(&self.schema);
        let rows = stream::once(async move {
            // Reading begins while keys are still compared, or read.
            let (dropped, first) = try_join(mask.resolve().err_into(), input.try_next()).await?;
            let filter = Filter { dropped, schema, dropped_rows };
            Ok::<_, DataFusionError>(
                stream::iter(first.map(Ok))
                    .chain(input)
                    .and_then(move |batch| future::ready(filter.apply(&batch)))
                    .try_filter(|batch| future::ready(batch.num_rows() > 0)),
            )
        })
        .try_flatten();
        Ok(leaf::counted(Arc::clone(&self.schema), rows.boxed(), &self.metrics, partition))
    }

    fn partition_statistics(&self, partition: Option<usize>) -> DfResult<Arc<Statistics>> {
        Ok(leaf::rows_at_most(&self.schema, self.input.partition_statistics(partition)?.num_rows))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

struct Filter {
    dropped: Dropped,
    schema: SchemaRef,
    dropped_rows: Count,
}

impl Filter {
    fn apply(&self, batch: &RecordBatch) -> DfResult<RecordBatch> {
        let keep = match &self.dropped {
            Dropped::Rows(rows) => keep_rows(batch, rows)?,
            Dropped::Keys(probe) => {
                // The key columns follow the output's columns, in key order, before the row id.
                let first = batch.num_columns() - 1 - probe.columns().len();
                let superseded = probe.superseded(&batch.columns()[first..batch.num_columns() - 1])?;
                superseded.contains(&true).then(|| superseded.iter().map(|s| !s).collect())
            }
        };
        let columns = batch.columns()[..self.schema.fields().len()].to_vec();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let Some(keep) = keep else {
            return Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?);
        };
        self.dropped_rows.add(keep.len() - keep.count_set_bits());
        // A tombstone has NULL in NOT NULL columns: filter before the columns get their nullability.
        let picked = batch.project(&(0..self.schema.fields().len()).collect::<Vec<_>>())?;
        let picked = filter_record_batch(&picked, &BooleanArray::new(keep, None))?;
        let options = RecordBatchOptions::new().with_row_count(Some(picked.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), picked.columns().to_vec(), &options)?)
    }
}

/// Which rows to keep; `None` is all.
fn keep_rows(batch: &RecordBatch, dropped: &RoaringTreemap) -> DfResult<Option<BooleanBuffer>> {
    if dropped.is_empty() || batch.num_rows() == 0 {
        return Ok(None);
    }
    let Some(ids) = batch.column_by_name(ROW_ID) else {
        return internal_err!("the input of BlockListExec has no {ROW_ID}");
    };
    let ids = ids.as_primitive::<UInt64Type>().values();
    let (first, last) = (ids[0], ids[ids.len() - 1]);
    // Row ids of one fragment ascend without gaps unless something filtered: then a range tells enough.
    if last.wrapping_sub(first) as usize == ids.len() - 1 && ids.is_sorted() {
        let mut rows = dropped.iter();
        rows.advance_to(first);
        let mut rows = rows.take_while(|row| *row <= last).peekable();
        if rows.peek().is_none() {
            return Ok(None);
        }
        let mut keep = vec![true; ids.len()];
        for row in rows {
            keep[(row - first) as usize] = false;
        }
        return Ok(Some(BooleanBuffer::from(keep)));
    }
    let keep = BooleanBuffer::collect_bool(ids.len(), |i| !dropped.contains(ids[i]));
    Ok((keep.count_set_bits() < ids.len()).then_some(keep))
}
