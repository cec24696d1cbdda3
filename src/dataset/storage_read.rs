//! How the rows of a dataset come from its storage: under the read budget, file by file where rows lie in one file, and
//! by Lance's own reader where they have to be put together.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use lance::io::exec::filtered_read::{FilteredReadExec, FilteredReadOptions};
use lance_core::datatypes::Schema as LanceSchema;
use lance_encoding::decoder::estimate_bytes_per_row;
use lance_table::format::Fragment;
use parking_lot::Mutex;
use roaring::RoaringBitmap;

use super::budgeted_io::ReadFigures;
use super::failure::{diagnose, from_plan};
use super::file_scan::{FileColumns, FileRows, FileScan};
use super::handle::DatasetHandle;
use crate::cache::{ReadCharge, ReadQuery, ReadRequest, ScanReads};
use crate::error::Result;
use crate::source::add_wait;
use crate::store::from_lance;

/// Bytes around a value that are read with it.
const AROUND: usize = 4 << 10;

/// Nodes of Lance's that a read executes.
pub(super) type Readers = Arc<Mutex<Vec<Arc<dyn ExecutionPlan>>>>;

/// For whom rows are read.
#[derive(Default)]
pub(super) struct ReadContext {
    pub(super) task: Arc<TaskContext>,
    /// What its scans have in common; a read without one is a query of its own.
    pub(super) query: Option<ReadQuery>,
    pub(super) figures: ReadFigures,
    /// Gets Lance's nodes.
    pub(super) readers: Readers,
}

impl ReadContext {
    /// A scan of a query.
    pub(super) fn of_scan(task: Arc<TaskContext>, metrics: &ExecutionPlanMetricsSet, readers: &Readers) -> Self {
        let query: ReadQuery = Arc::<TaskContext>::clone(&task);
        Self { task, query: Some(query), figures: ReadFigures::of(metrics), readers: Arc::clone(readers) }
    }
}

/// Fragments that follow each other and are read in one way.
enum Run {
    Files(Vec<FileRows>),
    Lance(Vec<Fragment>),
}

/// One read of a dataset.
struct StorageRead {
    handle: Arc<DatasetHandle>,
    wanted: LanceSchema,
    context: ReadContext,
    reads: Arc<ScanReads>,
}

impl DatasetHandle {
    /// The rows of all fragments, or of some: the stored columns `columns` as Lance lays them out, and `_rowid`. Nothing is
    /// read before the stream is polled.
    ///
    /// # Errors
    /// `Internal` if Lance cannot plan the read.
    pub(super) fn read_rows(
        self: &Arc<Self>,
        columns: &[usize],
        fragments: Option<&RoaringBitmap>,
        context: ReadContext,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let (handle, wanted, fragments) = (Arc::clone(self), self.lance_schema(columns)?, fragments.cloned());
        let read = async move {
            let runs = handle.runs(&wanted, fragments.as_ref());
            // Who has asked for nothing has no share.
            let reads = handle.read_budget().scan(context.query.clone(), handle.is_near());
            let read = Arc::new(StorageRead { handle, wanted, context, reads });
            stream::iter(runs).flat_map(move |run| {
                let read = Arc::clone(&read);
                stream::once(async move { read.run(run).await }).try_flatten()
            })
        };
        let handle = Arc::clone(self);
        let rows = stream::once(read).flatten().or_else(move |error| {
            let handle = Arc::clone(&handle);
            async move { Err(diagnose(handle.dataset(), error).await) }
        });
        Ok(rows.boxed())
    }

    /// All fragments, or some, in their order.
    fn runs(&self, wanted: &LanceSchema, chosen: Option<&RoaringBitmap>) -> Vec<Run> {
        let columns = FileColumns::new(self.dataset(), wanted);
        let mut runs = Vec::new();
        for (place, fragment) in self.dataset().fragments().iter().enumerate() {
            if chosen.is_some_and(|chosen| !u32::try_from(fragment.id).is_ok_and(|id| chosen.contains(id))) {
                continue;
            }
            match (columns.rows(self.dataset(), place), runs.last_mut()) {
                (Some(rows), Some(Run::Files(run))) => run.push(rows),
                (Some(rows), _) => runs.push(Run::Files(vec![rows])),
                (None, Some(Run::Lance(run))) => run.push(fragment.clone()),
                (None, _) => runs.push(Run::Lance(vec![fragment.clone()])),
            }
        }
        runs
    }

    /// Room in the read budget for `rows` rows of these columns that are read one by one.
    pub(super) async fn admit_take(&self, rows: usize, wanted: &LanceSchema) -> ReadCharge {
        let average = self.file_bytes().unwrap_or(0) as usize / self.rows().max(1);
        let widths = wanted.fields.iter().map(|field| {
            let data_type = field.data_type();
            // Of what has no width of its own the whole of a row is more than enough.
            let least = if has_width(&data_type) { 0 } else { average };
            (estimate_bytes_per_row(&data_type) as usize).max(least)
        });
        let bytes = widths.map(|width| (rows * width.max(AROUND)).min(width * self.rows())).sum();
        let charge = self.read_budget().take(bytes).await;
        add_wait(self.waited(), charge.waited());
        charge
    }
}

/// Whether all values of a type take as much.
fn has_width(data_type: &DataType) -> bool {
    match data_type {
        DataType::Boolean => true,
        DataType::FixedSizeList(item, _) => has_width(item.data_type()),
        DataType::Struct(fields) => fields.iter().all(|field| has_width(field.data_type())),
        other => other.primitive_width().is_some() || matches!(other, DataType::FixedSizeBinary(_)),
    }
}

impl StorageRead {
    async fn run(self: Arc<Self>, run: Run) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        match run {
            Run::Files(fragments) => {
                let scan = FileScan {
                    dataset: Arc::clone(self.handle.dataset()),
                    wanted: self.wanted.clone(),
                    batch_size: self.context.task.session_config().batch_size(),
                    reads: Arc::clone(&self.reads),
                    figures: self.context.figures.clone(),
                };
                Ok(scan.rows(fragments).await.map_err(from_lance)?.map_err(from_lance).boxed())
            }
            Run::Lance(fragments) => {
                let charge = self.reads.admit(ReadRequest::Buffer).await;
                self.context.figures.waited(charge.waited());
                let reader = self.reader(fragments, charge.bytes() as u64)?;
                self.context.readers.lock().push(Arc::clone(&reader));
                let rows = reader.execute(0, Arc::clone(&self.context.task)).map_err(from_plan)?;
                // Lance may read ahead until the last row.
                let rows = rows.map_err(from_plan).inspect(move |_| _ = &charge);
                Ok(rows.boxed())
            }
        }
    }

    /// Lance's read of some fragments.
    fn reader(&self, fragments: Vec<Fragment>, buffer: u64) -> Result<Arc<dyn ExecutionPlan>> {
        let dataset = self.handle.dataset();
        let projection = dataset.empty_projection().union_schema(&self.wanted).with_row_id();
        let batch_size = u32::try_from(self.context.task.session_config().batch_size()).unwrap_or(u32::MAX);
        let options = FilteredReadOptions::new(projection)
            .with_fragments(Arc::new(fragments))
            .with_batch_size(batch_size)
            .with_io_buffer_size(buffer);
        let reader = FilteredReadExec::try_new(Arc::clone(dataset), options, None);
        Ok(Arc::new(reader.map_err(|error| from_lance(error).with_context("dataset", dataset.uri()))?))
    }
}
