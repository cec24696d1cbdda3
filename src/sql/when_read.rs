//! What happens when rows are read, and not when a statement is planned.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt, future, stream};

type Act = dyn Fn() -> BoxFuture<'static, crate::error::Result<Option<RecordBatch>>> + Send + Sync;

/// A plan that does `act` each time it is read and returns what that returns, rows of `schema`.
pub(super) fn plan(
    schema: SchemaRef,
    projection: Option<&Vec<usize>>,
    limit: Option<usize>,
    act: impl Fn() -> BoxFuture<'static, crate::error::Result<Option<RecordBatch>>> + Send + Sync + 'static,
) -> Result<Arc<dyn ExecutionPlan>> {
    let partition = Arc::new(Partition { schema: Arc::clone(&schema), act: Box::new(act) });
    Ok(Arc::new(StreamingTableExec::try_new(schema, vec![partition], projection, None, false, limit)?))
}

struct Partition {
    schema: SchemaRef,
    act: Box<Act>,
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl PartitionStream for Partition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let done = (self.act)().map(|rows| Ok(rows?));
        let rows = stream::once(done).try_filter_map(future::ok);
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}
