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

#[cfg(test)]
mod tests {
    use datafusion::physical_plan::collect;

    use super::super::fixture::{Fixture, run};
    use crate::error::{Error, ErrorKind};

    #[tokio::test]
    async fn an_overwrite_from_the_table_itself_conflicts_with_rows_written_after_it_read() {
        let fixture = Fixture::new();
        let session = fixture.with_rows(3).await;
        let overwrite = "INSERT OVERWRITE t SELECT id, n + 1 FROM t";
        let plan = async || session.sql(overwrite).await.unwrap().create_physical_plan().await.unwrap();
        for (write, moved) in [("INSERT INTO t VALUES (4, 0)", false), ("UPDATE t SET n = 7 WHERE id = 1", true)] {
            let read = plan().await;
            run(&session, write).await.unwrap();
            if moved {
                run(&session, "SELECT * FROM lsm_flush('t')").await.unwrap();
            }
            let error = Error::from(collect(read, session.task_ctx()).await.unwrap_err());
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        }
        assert_eq!(run(&session, "SELECT * FROM t ORDER BY id").await.unwrap(), ["1 7", "2 0", "3 0", "4 0"]);
        // A flush alone changes nothing, and neither does what the statement itself does.
        let read = plan().await;
        run(&session, "SELECT * FROM lsm_flush('t')").await.unwrap();
        collect(read, session.task_ctx()).await.unwrap();
        assert_eq!(run(&session, overwrite).await.unwrap(), ["4"]);
        assert_eq!(run(&session, "SELECT sum(n) FROM t").await.unwrap(), ["15"]);
        // One that reads other tables replaces whatever is there.
        let other = session.sql("INSERT OVERWRITE t SELECT 1 AS id, 1 AS n").await.unwrap();
        let other = other.create_physical_plan().await.unwrap();
        run(&session, "INSERT INTO t VALUES (9, 0)").await.unwrap();
        collect(other, session.task_ctx()).await.unwrap();
        assert_eq!(run(&session, "SELECT * FROM t").await.unwrap(), ["1 1"]);
    }
}
