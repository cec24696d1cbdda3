//! TRUNCATE and INSERT OVERWRITE: all rows of a table are replaced in one commit of its base.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::Result;
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan};

use crate::table::LsmTable;
use crate::version::Snapshot;

/// Which statement it is.
#[derive(Debug, Clone)]
pub(super) enum Replace {
    /// The input's rows, made of what a snapshot shows if they are of the table itself, come in; they are counted.
    Overwrite(Option<Arc<Snapshot>>),
    /// Nothing comes in; what goes is counted.
    Truncate,
}

/// Replaces all rows by its input's.
struct ReplaceSink {
    table: Arc<LsmTable>,
    /// Nullable throughout: see [`super::sink::LsmSink`].
    schema: SchemaRef,
    replace: Replace,
}

/// The plan that replaces all rows of `table` by those of `input`.
pub(super) fn plan(table: &Arc<LsmTable>, input: Arc<dyn ExecutionPlan>, replace: Replace) -> Arc<dyn ExecutionPlan> {
    let nullable = table.schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
    let sink = ReplaceSink { table: Arc::clone(table), schema: Arc::new(Schema::new(nullable)), replace };
    Arc::new(DataSinkExec::new(input, Arc::new(sink), None))
}

/// The plan that removes all rows of `table`.
pub(super) fn truncate(table: &Arc<LsmTable>) -> Arc<dyn ExecutionPlan> {
    plan(table, Arc::new(EmptyExec::new(table.schema())), Replace::Truncate)
}

#[async_trait]
impl DataSink for ReplaceSink {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    async fn write_all(&self, data: SendableRecordBatchStream, _context: &Arc<TaskContext>) -> Result<u64> {
        Ok(match &self.replace {
            Replace::Overwrite(None) => Box::pin(self.table.replace_all(data)).await?,
            Replace::Overwrite(Some(read)) => Box::pin(self.table.replace_all_read(data, read)).await?,
            Replace::Truncate => Box::pin(self.table.truncate()).await?,
        })
    }
}

impl DisplayAs for ReplaceSink {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.replace {
            Replace::Overwrite(_) => "overwrite",
            Replace::Truncate => "truncate",
        };
        match t {
            DisplayFormatType::Default | DisplayFormatType::Verbose => write!(f, "LsmSink({name})"),
            DisplayFormatType::TreeRender => write!(f, "write={name}"),
        }
    }
}

impl fmt::Debug for ReplaceSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ReplaceSink");
        debug.field("table", &self.table.uri()).field("replace", &self.replace).finish_non_exhaustive()
    }
}
