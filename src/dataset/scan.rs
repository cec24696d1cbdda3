//! The plan node that reads a dataset.
//!
//! Every execution reads anew, and holds nothing before it is polled.

use std::fmt;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DataFusionError, Result as DataFusionResult, Statistics, stats::Precision};
use datafusion::execution::context::ExecutionProps;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, create_physical_expr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder, MetricValue, MetricsSet, Time,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt, TryFutureExt, TryStreamExt, stream};

use super::handle::DatasetHandle;
use super::resident::{Residency, ResidentRows};
use super::storage_read::{ReadContext, Readers};
use crate::cache::ReadQuery;
use crate::error::{Error, Result};
use crate::source::{READ_WAIT, ValueRanges, add_wait};
use crate::store::Reads;

/// Reads the rows of a dataset that pass a filter: logical columns, then `_rowid`.
pub struct DatasetScanExec {
    handle: Arc<DatasetHandle>,
    /// The stored columns that are read: those that are returned, then those only the filter needs.
    columns: Vec<usize>,
    returned: usize,
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// What the filter lets columns have that have an index of values.
    ranges: Arc<[ValueRanges]>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    /// Lance's readers, for their metrics: where rows have to be put together.
    readers: Readers,
}

impl DatasetScanExec {
    pub(super) fn try_new(handle: Arc<DatasetHandle>, projection: Vec<usize>, filters: &[Expr]) -> Result<Self> {
        let logical = handle.schema().logical();
        let returned = projection.len();
        let mut columns = projection;
        let filter = conjunction(filters.iter().cloned());
        if let Some(filter) = &filter {
            for column in filter.column_refs() {
                let (i, _) = logical.column_with_name(&column.name).ok_or_else(|| {
                    Error::invalid(format!("a filter names column '{}', which the table does not have", column.name))
                })?;
                if !columns.contains(&i) {
                    columns.push(i);
                }
            }
        }
        let filter = filter.map(|filter| {
            let read = DFSchema::try_from(handle.origins().schema_of(&columns, false))?;
            create_physical_expr(&unqualified(filter)?, &read, &ExecutionProps::new())
        });
        let schema = handle.origins().schema_of(&columns[..returned], true);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self {
            handle,
            columns,
            returned,
            filter: filter.transpose()?,
            ranges: Arc::new([]),
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
            readers: Arc::default(),
        })
    }

    /// The same, by the indexes that there are, less rows whose values are not in all of `ranges`.
    pub(super) fn within(mut self, ranges: &[ValueRanges]) -> Self {
        let known = ranges.iter().filter(|ranges| self.handle.value_index_name(&ranges.column).is_some());
        self.ranges = known.cloned().collect();
        self
    }
}

/// Tells what was read of the files of a dataset on an object store while it lived.
struct Reading {
    handle: Arc<DatasetHandle>,
    before: Reads,
    metrics: ExecutionPlanMetricsSet,
}

impl Reading {
    fn begin(handle: &Arc<DatasetHandle>, metrics: &ExecutionPlanMetricsSet) -> Option<Self> {
        Some(Self { handle: Arc::clone(handle), before: handle.reads()?, metrics: metrics.clone() })
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let reads = self.handle.reads().map_or(Reads::default(), |now| now.since(self.before));
        for (name, much) in reads.named() {
            MetricBuilder::new(&self.metrics).counter(name, 0).add(much);
        }
    }
}

/// Tells how long reads of single rows of a dataset waited for the read budget while it lived.
struct Waiting {
    handle: Arc<DatasetHandle>,
    before: Duration,
    waited: Time,
}

impl Waiting {
    fn begin(handle: &Arc<DatasetHandle>, metrics: &ExecutionPlanMetricsSet) -> Self {
        let waited = MetricBuilder::new(metrics).subset_time(READ_WAIT, 0);
        Self { handle: Arc::clone(handle), before: handle.read_wait(), waited }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        add_wait(&self.waited, self.handle.read_wait().saturating_sub(self.before));
    }
}

/// One read from storage.
struct StorageRead {
    shape: Shape,
    ranges: Arc<[ValueRanges]>,
    metrics: ExecutionPlanMetricsSet,
    context: Arc<TaskContext>,
    readers: Readers,
    time: Time,
}

impl StorageRead {
    /// The rows, by indexes of values where these leave few.
    async fn start(self) -> DataFusionResult<BoxStream<'static, DataFusionResult<RecordBatch>>> {
        if !self.ranges.is_empty()
            && let Some(found) = self.shape.handle.find_values(&self.ranges).await?
        {
            MetricBuilder::new(&self.metrics).counter("rows_by_value", 0).add(found.rows.len() as usize);
            let (shape, time) = (self.shape, self.time);
            let batch_size = self.context.session_config().batch_size();
            let query: ReadQuery = self.context;
            let rows = shape.handle.rows_among(&shape.columns, found, batch_size, &query)?;
            let waiting = Waiting::begin(&shape.handle, &self.metrics);
            return Ok(rows
                .map(move |batch| {
                    _ = &waiting;
                    let _timer = time.timer();
                    shape.select(batch?)
                })
                .boxed());
        }
        Ok(self.all()?.boxed())
    }

    /// The rows as they are in storage.
    fn all(self) -> DataFusionResult<impl Stream<Item = DataFusionResult<RecordBatch>> + Send + use<>> {
        let Self { shape, metrics, context, readers, time, .. } = self;
        let context = ReadContext::of_scan(context, &metrics, &readers);
        let read = shape.handle.read_rows(&shape.columns, None, context)?;
        Ok(read.map(move |batch| {
            let _timer = time.timer();
            shape.of_storage(&batch?)
        }))
    }
}

/// The rows that are in memory, batch by batch.
fn in_memory(
    rows: &Arc<ResidentRows>,
    shape: Shape,
    batch_size: usize,
) -> impl Stream<Item = DataFusionResult<RecordBatch>> + Send + use<> {
    let rows = Arc::clone(rows);
    let starts = (0..rows.batch.num_rows()).step_by(batch_size);
    stream::iter(starts.map(move |start| {
        let count = batch_size.min(rows.batch.num_rows() - start);
        shape.of_memory(&rows.batch.slice(start, count))
    }))
}

/// What turns the columns that were read, and the row id behind them, into a batch of the plan's schema.
struct Shape {
    handle: Arc<DatasetHandle>,
    columns: Vec<usize>,
    read: SchemaRef,
    returned: Vec<usize>,
    filter: Option<Arc<dyn PhysicalExpr>>,
}

impl Shape {
    /// A batch as Lance read it.
    fn of_storage(&self, batch: &RecordBatch) -> DataFusionResult<RecordBatch> {
        self.select(self.handle.origins().rows(batch, &self.columns, &self.read)?)
    }

    /// Part of the rows that are in memory.
    fn of_memory(&self, rows: &RecordBatch) -> DataFusionResult<RecordBatch> {
        let row_id = rows.num_columns() - 1;
        let columns: Vec<usize> = self.columns.iter().copied().chain([row_id]).collect();
        self.select(rows.project(&columns)?)
    }

    fn select(&self, batch: RecordBatch) -> DataFusionResult<RecordBatch> {
        let Some(filter) = &self.filter else {
            return Ok(batch);
        };
        let passed = filter.evaluate(&batch)?.into_array(batch.num_rows())?;
        let passed = passed.as_boolean_opt().ok_or_else(|| Error::invalid("a filter is not a condition"))?;
        let batch = batch.project(&self.returned)?;
        Ok(filter_record_batch(&batch, passed)?)
    }
}

impl ExecutionPlan for DatasetScanExec {
    fn name(&self) -> &str {
        "DatasetScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        if partition != 0 {
            return Err(Error::internal(format!("a dataset scan has one partition, {partition} was asked for")).into());
        }
        let mut returned: Vec<usize> = (0..self.returned).collect();
        returned.push(self.columns.len());
        let shape = Shape {
            handle: Arc::clone(&self.handle),
            columns: self.columns.clone(),
            read: self.handle.origins().schema_of(&self.columns, true),
            returned,
            filter: self.filter.clone(),
        };
        let batch_size = context.session_config().batch_size().max(1);
        let baseline = BaselineMetrics::new(&self.metrics, 0);
        let (readers, time) = (Arc::clone(&self.readers), baseline.elapsed_compute().clone());
        let (ranges, metrics) = (Arc::clone(&self.ranges), self.metrics.clone());
        let read = StorageRead { shape, ranges, metrics, context, readers, time };
        let rows = match self.handle.residency() {
            Residency::Rows(rows) => in_memory(&rows, read.shape, batch_size).boxed(),
            Residency::Load(loading) => {
                let load = async move {
                    let loaded = read.shape.handle.load(loading).await?;
                    Ok::<_, DataFusionError>(match loaded {
                        Some(rows) => in_memory(&rows, read.shape, batch_size).boxed(),
                        None => read.start().await?,
                    })
                };
                load.try_flatten_stream().boxed()
            }
            Residency::Storage if read.ranges.is_empty() => read.all()?.boxed(),
            Residency::Storage => read.start().try_flatten_stream().boxed(),
        };
        let (handle, metrics) = (Arc::clone(&self.handle), self.metrics.clone());
        let rows = async move {
            let mut reading = Reading::begin(&handle, &metrics);
            rows.chain(stream::poll_fn(move |_| {
                drop(reading.take());
                Poll::Ready(None)
            }))
        };
        let rows = rows.flatten_stream().inspect_ok(move |batch| baseline.record_output(batch.num_rows()));
        let rows = rows.try_filter(|batch| std::future::ready(batch.num_rows() > 0));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        let mut all = self.metrics.clone_inner();
        for metric in self
            .readers
            .lock()
            .iter()
            .filter_map(|reader| reader.metrics())
            .flat_map(|m| m.iter().cloned().collect::<Vec<_>>())
        {
            if matches!(metric.value(), MetricValue::Count { .. } | MetricValue::Gauge { .. }) {
                all.push(metric);
            }
        }
        Some(all)
    }

    fn partition_statistics(&self, _partition: Option<usize>) -> DataFusionResult<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema());
        let rows = self.handle.rows();
        statistics.num_rows = match self.filter {
            None if self.ranges.is_empty() => Precision::Exact(rows),
            _ => Precision::Inexact(rows),
        };
        Ok(Arc::new(statistics))
    }
}

impl DisplayAs for DatasetScanExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schema = self.schema();
        let names: Vec<&str> = schema.fields()[..self.returned].iter().map(|f| f.name().as_str()).collect();
        write!(f, "DatasetScanExec: source={}, projection=[{}]", self.handle.label(), names.join(", "))?;
        let indexes: Vec<&str> =
            self.ranges.iter().filter_map(|ranges| self.handle.value_index_name(&ranges.column)).collect();
        if !indexes.is_empty() {
            write!(f, ", indexes=[{}]", indexes.join(", "))?;
        }
        match &self.filter {
            Some(filter) => write!(f, ", filter={filter}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for DatasetScanExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_as(DisplayFormatType::Verbose, f)
    }
}

/// The expression with columns named without their table.
fn unqualified(filter: Expr) -> DataFusionResult<Expr> {
    let bare = filter.transform(|e| {
        Ok(match e {
            Expr::Column(column) if column.relation.is_some() => {
                Transformed::yes(Expr::Column(Column::new_unqualified(column.name)))
            }
            other => Transformed::no(other),
        })
    })?;
    Ok(bare.data)
}
