//! Where the rows of INSERT, UPDATE and DELETE go.
//!
//! A statement is written by one [`crate::table::Statement`]: dropping the stream drops it, and nothing more is
//! written. A conflict is answered by planning and running the statement once more on a fresh snapshot. So is a snapshot
//! that turns out to be of another writer's past, before anything is written.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::Result;
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan};
use futures::TryStreamExt;

use crate::error::{Error, ErrorKind};
use crate::settings::{Ack, OnConflict};
use crate::table::{LsmTable, StatementKind};
use crate::version::Snapshot;

/// What a statement does with its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    /// New rows replace old ones.
    Upsert,
    /// New rows; a key that exists fails or is left alone.
    Insert(OnConflict),
    /// Rows that exist get new values.
    Update,
    /// The rows are keys to delete.
    Delete,
}

impl Write {
    fn kind(self) -> StatementKind {
        match self {
            Self::Upsert => StatementKind::Upsert,
            Self::Insert(on_conflict) => StatementKind::Insert(on_conflict),
            Self::Update => StatementKind::Update,
            Self::Delete => StatementKind::Delete,
        }
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upsert => f.write_str("upsert"),
            Self::Insert(on_conflict) => write!(f, "insert or {on_conflict}"),
            Self::Update => f.write_str("update"),
            Self::Delete => f.write_str("delete"),
        }
    }
}

/// How to run a statement again.
#[derive(Clone)]
pub(super) struct Rerun {
    pub(super) session: Arc<SessionState>,
    pub(super) statement: Arc<LogicalPlan>,
}

/// Writes the rows of one statement.
pub(super) struct LsmSink {
    table: Arc<LsmTable>,
    /// Nullable throughout: that NULLs are where they may be is checked below, with a better message.
    schema: SchemaRef,
    write: Write,
    snapshot: Option<Arc<Snapshot>>,
    /// Whether the rows come from the table itself.
    reads: bool,
    ack: Option<Ack>,
    rerun: Option<Rerun>,
    metrics: ExecutionPlanMetricsSet,
}

impl LsmSink {
    pub(super) fn new(table: Arc<LsmTable>, write: Write, snapshot: Option<Arc<Snapshot>>, ack: Option<Ack>) -> Self {
        let schema = if write == Write::Delete { key_schema(&table) } else { table.schema() };
        let nullable = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
        let schema = Arc::new(Schema::new(nullable));
        Self { table, schema, write, snapshot, reads: false, ack, rerun: None, metrics: ExecutionPlanMetricsSet::new() }
    }

    /// `reads` tells whether the rows come from the table itself.
    pub(super) fn with_rerun(self, rerun: Option<Rerun>, reads: bool) -> Self {
        Self { rerun, reads, ..self }
    }

    /// The plan that writes the rows of `input` and returns their count.
    pub(super) fn plan(self, input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(DataSinkExec::new(input, Arc::new(self), None))
    }

    async fn write(&self, mut rows: SendableRecordBatchStream) -> crate::error::Result<u64> {
        let mut statement = self.table.begin(self.write.kind(), self.snapshot.clone(), self.ack);
        while let Some(batch) = rows.try_next().await? {
            if batch.num_rows() > 0 {
                statement.push(batch).await?;
            }
        }
        statement.finish().await
    }

    /// Whether the statement reads what is no longer true: another process has written, and this one did not look since.
    async fn is_outdated(&self) -> crate::error::Result<bool> {
        match &self.snapshot {
            Some(read) if self.reads => {
                let foreign = self.table.catch_up(|_| true).await?;
                let now = self.table.snapshot();
                // What this process wrote meanwhile is the conflict check's business.
                Ok(foreign.into_iter().any(|shard| !read.is_newest_of(shard, now.version())))
            }
            _ => Ok(false),
        }
    }

    /// Plans the statement anew, which takes a fresh snapshot, and writes it.
    async fn write_again(&self, rerun: &Rerun, context: &Arc<TaskContext>) -> crate::error::Result<u64> {
        // Who was first may still be on the way to the WAL: before that no snapshot shows its rows.
        self.table.settled().await?;
        let plan = rerun.session.create_physical_plan(&rerun.statement).await?;
        let (input, sink) = sink_of(&plan)
            .ok_or_else(|| Error::internal("a statement that was planned anew does not write any more"))?;
        sink.write(input.execute(0, Arc::clone(context))?).await
    }
}

/// Whether a conflict left nothing of the statement behind: an increment that is partly in must not run twice.
fn nothing_written(error: &Error) -> bool {
    error.kind() == ErrorKind::Conflict && error.rows_written() == 0
}

/// The first writing node of `plan` and its input.
fn sink_of(plan: &Arc<dyn ExecutionPlan>) -> Option<(&Arc<dyn ExecutionPlan>, &LsmSink)> {
    if let Some(exec) = plan.downcast_ref::<DataSinkExec>() {
        return exec.sink().downcast_ref::<LsmSink>().map(|sink| (exec.input(), sink));
    }
    plan.children().into_iter().find_map(sink_of)
}

/// The key columns of a table, in key order.
pub(super) fn key_schema(table: &LsmTable) -> SchemaRef {
    let schema = table.table_schema();
    let fields = schema.key().columns().iter().map(|c| schema.logical().field(c.index).clone());
    Arc::new(Schema::new(fields.collect::<Vec<Field>>()))
}

#[async_trait]
impl DataSink for LsmSink {
    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    async fn write_all(&self, data: SendableRecordBatchStream, context: &Arc<TaskContext>) -> Result<u64> {
        let count = |name: &'static str| -> Count { MetricBuilder::new(&self.metrics).counter(name, 0) };
        let first = match &self.rerun {
            Some(rerun) if Box::pin(self.is_outdated()).await? => {
                drop(data);
                Box::pin(self.write_again(rerun, context)).await
            }
            _ => Box::pin(self.write(data)).await,
        };
        let written = match (first, &self.rerun) {
            (Err(error), Some(rerun)) if nothing_written(&error) => {
                count("conflicts").add(1);
                Box::pin(self.write_again(rerun, context)).await?
            }
            (written, _) => written?,
        };
        count("rows_written").add(usize::try_from(written).unwrap_or(usize::MAX));
        Ok(written)
    }
}

impl DisplayAs for LsmSink {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match t {
            DisplayFormatType::Default | DisplayFormatType::Verbose => write!(f, "LsmSink({})", self.write),
            DisplayFormatType::TreeRender => write!(f, "write={}", self.write),
        }
    }
}

impl fmt::Debug for LsmSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LsmSink").field("table", &self.table.uri()).field("write", &self.write).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::catalog::streaming::StreamingTable;
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
    use datafusion::physical_plan::streaming::PartitionStream;
    use datafusion::prelude::SessionContext;
    use futures::{FutureExt, StreamExt, stream};

    use super::super::fixture::{Fixture, run};
    use super::*;

    async fn increment(session: SessionContext, times: usize) -> usize {
        let mut done = 0;
        for _ in 0..times {
            match run(&session, "UPDATE t SET n = n + 1 WHERE id = 1").await {
                Ok(count) => {
                    assert_eq!(count, ["1"]);
                    done += 1;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
            }
        }
        done
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_increment_of_one_row_is_lost() {
        let fixture = Fixture::new();
        let session = fixture.with_rows(1).await;
        let (a, b, c) = (fixture.another().await, fixture.another().await, fixture.another().await);
        let (a, b, c) = tokio::join!(increment(a, 30), increment(b, 30), increment(c, 30));
        assert!(a + b + c > 0);
        assert_eq!(run(&session, "SELECT n FROM t").await.unwrap(), [(a + b + c).to_string()]);
    }

    #[tokio::test]
    async fn a_conflict_is_answered_by_running_the_statement_once_more() {
        let fixture = Fixture::new();
        let session = fixture.with_rows(3).await;
        let frame = session.sql("UPDATE t SET n = n + 1").await.unwrap();
        let (context, plan) = (frame.task_ctx(), frame.create_physical_plan().await.unwrap());
        // Between the plan's snapshot and its execution somebody else writes.
        run(&session, "UPDATE t SET n = 10 WHERE id = 1").await.unwrap();
        run(&session, "DELETE FROM t WHERE id = 2").await.unwrap();
        let rows = datafusion::physical_plan::collect(Arc::clone(&plan), Arc::new(context)).await.unwrap();
        assert_eq!(super::super::fixture::text(&rows), ["2"]);
        assert_eq!(run(&session, "SELECT id, n FROM t ORDER BY id").await.unwrap(), ["1 11", "3 1"]);
        assert_eq!(plan.metrics().unwrap().sum_by_name("conflicts").unwrap().as_usize(), 1);
    }

    /// Plans `sql`, lets `meanwhile` happen, executes the plan and returns its count and whether it conflicted.
    async fn overtaken(fixture: &Fixture, sql: &str, meanwhile: &[&str]) -> (Vec<String>, bool) {
        let session = fixture.another().await;
        let frame = session.sql(sql).await.unwrap();
        let (context, plan) = (frame.task_ctx(), frame.create_physical_plan().await.unwrap());
        for statement in meanwhile {
            run(&session, statement).await.unwrap();
        }
        let rows = datafusion::physical_plan::collect(Arc::clone(&plan), Arc::new(context)).await.unwrap();
        let conflicts = plan.metrics().unwrap().sum_by_name("conflicts").is_some_and(|n| n.as_usize() > 0);
        (super::super::fixture::text(&rows), conflicts)
    }

    #[tokio::test]
    async fn a_conflict_is_seen_through_flushes_and_replacements() {
        let fixture = Fixture::new();
        let session = fixture.with_rows(3).await;
        let flush = "SELECT * FROM lsm_flush('t')";
        let increment = "UPDATE t SET n = n + 1";
        // Changed, then flushed.
        let meanwhile = ["UPDATE t SET n = 10 WHERE id = 1", flush];
        assert_eq!(overtaken(&fixture, increment, &meanwhile).await, (vec!["3".into()], true));
        assert_eq!(run(&session, "SELECT id, n FROM t ORDER BY id").await.unwrap(), ["1 11", "2 1", "3 1"]);
        // Flushed alone is no change.
        run(&session, "UPDATE t SET n = 0").await.unwrap();
        assert_eq!(overtaken(&fixture, increment, &[flush]).await, (vec!["3".into()], false));
        // Replaced by other rows, or by nothing.
        let meanwhile = ["INSERT OVERWRITE t VALUES (1, 100), (7, 700)"];
        assert_eq!(overtaken(&fixture, increment, &meanwhile).await.0, ["2"]);
        assert_eq!(run(&session, "SELECT id, n FROM t ORDER BY id").await.unwrap(), ["1 101", "7 701"]);
        assert_eq!(overtaken(&fixture, "DELETE FROM t WHERE n > 0", &["TRUNCATE TABLE t"]).await.0, ["0"]);
        assert_eq!(overtaken(&fixture, increment, &["INSERT INTO t VALUES (1, 0)"]).await.0, ["0"]);
        // Deleted and inserted again.
        let meanwhile = ["DELETE FROM t", "INSERT INTO t VALUES (1, 5)"];
        assert_eq!(overtaken(&fixture, increment, &meanwhile).await, (vec!["1".into()], true));
        assert_eq!(run(&session, "SELECT id, n FROM t").await.unwrap(), ["1 6"]);
    }

    #[tokio::test]
    async fn an_upsert_needs_no_snapshot_and_an_insert_checks_when_it_writes() {
        let fixture = Fixture::new();
        let session = fixture.with_rows(1).await;
        let insert = "INSERT INTO t VALUES (1, 7), (2, 7)";
        assert_eq!(overtaken(&fixture, insert, &["INSERT INTO t VALUES (2, 3)"]).await, (vec!["2".into()], false));
        run(&session, "DELETE FROM t").await.unwrap();
        let other = fixture.another().await;
        run(&other, "SET lsm.on_conflict = 'ignore'").await.unwrap();
        let plan = other.sql(insert).await.unwrap();
        let (context, plan) = (plan.task_ctx(), plan.create_physical_plan().await.unwrap());
        run(&session, "INSERT INTO t VALUES (2, 3)").await.unwrap();
        let rows = datafusion::physical_plan::collect(plan, Arc::new(context)).await.unwrap();
        assert_eq!(super::super::fixture::text(&rows), ["1"]);
        assert_eq!(run(&session, "SELECT id, n FROM t ORDER BY id").await.unwrap(), ["1 7", "2 3"]);
    }

    /// Gives one batch and then nothing, for ever.
    #[derive(Debug)]
    struct Stuck(SchemaRef);

    impl PartitionStream for Stuck {
        fn schema(&self) -> &SchemaRef {
            &self.0
        }

        fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
            use datafusion::arrow::array::{Int64Array, RecordBatch};
            let ids = Arc::new(Int64Array::from_iter_values(100..200));
            let batch = RecordBatch::try_new(Arc::clone(&self.0), vec![Arc::clone(&ids) as _, ids]).unwrap();
            let rows = stream::once(async move { Ok(batch) }).chain(stream::pending());
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.0), rows))
        }
    }

    #[tokio::test]
    async fn a_cancelled_statement_leaves_nothing() {
        let fixture = Fixture::new();
        let session = fixture.with_rows(3).await;
        let schema = session.table_provider("t").await.unwrap().schema();
        let stuck = StreamingTable::try_new(Arc::clone(&schema), vec![Arc::new(Stuck(schema))]).unwrap();
        session.register_table("stuck", Arc::new(stuck)).unwrap();
        let mut statement = Box::pin(run(&session, "INSERT INTO t SELECT * FROM stuck"));
        for _ in 0..1000 {
            assert!((&mut statement).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        drop(statement);
        assert_eq!(run(&session, "SELECT count(*) FROM t").await.unwrap(), ["3"]);
        assert_eq!(run(&session, "INSERT INTO t VALUES (4, 4)").await.unwrap(), ["1"]);
    }
}
