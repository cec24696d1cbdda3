//! The table handle.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::Mutex;
use tracing::Instrument;

use super::builder::TableBuilder;
use super::keys;
use super::statement::{Statement, StatementKind};
use super::warm::warm_all;
use crate::clock::Clock;
use crate::error::{ErrorKind, Result};
use crate::index_spec::IndexSpec;
use crate::planner::{self, FilterSupport, ScanRequest, TextScorer};
use crate::schema::TableSchema;
use crate::settings::{Ack, SearchStats, Settings, Warmth};
use crate::source::ValueRanges;
use crate::store::ObjectIo;
use crate::task::Supervisor;
use crate::text_search::{TextAnalyzer, TextSearch};
use crate::version::{Snapshot, VersionControl};
use crate::writer::{PendingWrite, Role, ShardSet, WriterContext};

/// An open table. Dropping the last reference ends its tasks; acknowledged rows are in the WAL, but for those that were
/// acknowledged from memory: the WAL loops have some seconds to write them. [`close`](Self::close) waits.
#[derive(Debug)]
pub struct LsmTable {
    pub(super) io: ObjectIo,
    pub(super) settings: Settings,
    pub(super) control: Arc<VersionControl>,
    pub(super) shards: Arc<ShardSet>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) context: Arc<WriterContext>,
    /// Held while the table's indexes are changed, and when it is deleted.
    pub(super) index_change: Mutex<()>,
    supervisor: Supervisor,
}

/// What a table is made of.
pub(super) struct Parts {
    pub(super) io: ObjectIo,
    pub(super) settings: Settings,
    pub(super) control: Arc<VersionControl>,
    pub(super) shards: Arc<ShardSet>,
    pub(super) context: Arc<WriterContext>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) supervisor: Supervisor,
}

impl LsmTable {
    pub(super) fn start(parts: Parts) -> Arc<Self> {
        let Parts { io, settings, control, shards, context, clock, supervisor } = parts;
        if let Some(every) = settings.base_refresh.filter(|d| !d.is_zero()) {
            let refresh = Refresh { context: Arc::clone(&context), shards: Arc::clone(&shards) };
            supervisor.spawn("refresh", async move {
                loop {
                    tokio::time::sleep(every).await;
                    if let Err(error) = refresh.run().await {
                        tracing::warn!(%error, "looking for foreign commits failed");
                    }
                }
            });
        }
        if settings.warm > Warmth::None {
            let (context, warmth) = (Arc::clone(&context), settings.warm);
            supervisor.spawn("warm", async move {
                if let Err(error) = warm_all(&context, warmth).await {
                    tracing::warn!(%error, "not all was read ahead of queries");
                }
                if warmth >= Warmth::All {
                    loop {
                        context.base_adopted.notified().await;
                        context.read_base().await;
                    }
                }
            });
        }
        Arc::new(Self { io, settings, control, shards, clock, context, index_change: Mutex::default(), supervisor })
    }

    /// Opens the table at `uri` with exactly these settings: those stored with the table do not count, not even for
    /// what is left at its default. To keep them, and say something over them, use [`builder`](Self::builder) and
    /// [`TableBuilder::option`].
    ///
    /// # Errors
    /// As [`TableBuilder::open`].
    pub async fn open(uri: &str, settings: Settings) -> Result<Arc<Self>> {
        Self::builder(uri).settings(settings).open().await
    }

    /// Opens or creates the table at `uri` with more to say.
    pub fn builder(uri: &str) -> TableBuilder {
        TableBuilder::new(uri)
    }

    /// Where the table is.
    pub fn uri(&self) -> &str {
        self.io.uri()
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The table's objects.
    pub fn object_io(&self) -> &ObjectIo {
        &self.io
    }

    /// The columns users see.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(self.table_schema().logical())
    }

    /// The columns and the key.
    pub fn table_schema(&self) -> Arc<TableSchema> {
        self.control.with(|v| Arc::clone(v.base.schema()))
    }

    /// What a reader sees now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::new(self.control.snapshot())
    }

    /// Writes rows (logical schema): a row replaces the one of the same key. Returns their number when they are
    /// acknowledged as the settings say.
    ///
    /// # Errors
    /// `Invalid` if the rows are not the table's; as [`Statement::finish`].
    pub async fn put(self: &Arc<Self>, rows: RecordBatch) -> Result<u64> {
        let mut statement = self.begin(StatementKind::Upsert, None, None);
        statement.push(rows).await?;
        statement.finish().await
    }

    /// As [`put`](Self::put), but returns as soon as the rows are accepted.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub async fn put_no_wait(self: &Arc<Self>, rows: RecordBatch) -> Result<PendingWrite> {
        let mut statement = self.begin(StatementKind::Upsert, None, None);
        statement.push(rows).await?;
        statement.submit().await
    }

    /// Deletes the rows of keys: a batch of the key columns in key order. Returns the number of keys, whether they
    /// had a row or not.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub async fn delete(self: &Arc<Self>, keys: RecordBatch) -> Result<u64> {
        let mut statement = self.begin(StatementKind::Delete, None, None);
        statement.push(keys).await?;
        statement.finish().await
    }

    /// Begins a statement that decides on what `snapshot` shows (without one, on nothing) and is acknowledged as `ack`
    /// says (without one, as the settings say).
    pub fn begin(
        self: &Arc<Self>,
        kind: StatementKind,
        snapshot: Option<Arc<Snapshot>>,
        ack: Option<Ack>,
    ) -> Statement {
        Statement::new(Arc::clone(self), kind, snapshot, ack.unwrap_or(self.settings.ack))
    }

    /// The row of one key (the values of the key columns in key order), if it is there.
    ///
    /// # Errors
    /// `Invalid` if the values are not a key; what reading raises.
    pub async fn get(&self, key: &[ScalarValue]) -> Result<Option<RecordBatch>> {
        if let Some(row) = keys::find_in_memory(&self.control, key)? {
            return Ok(row);
        }
        let table = self.table_schema();
        let columns = keys::columns_of_values(table.key(), key)?;
        let row = self.lookup(&columns, &table).await?;
        Ok((row.num_rows() > 0).then_some(row))
    }

    /// The live rows of many keys (a batch of the key columns in key order), in the order of the keys; keys without a
    /// row are left out.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_many(&self, keys: &RecordBatch) -> Result<RecordBatch> {
        let table = self.table_schema();
        self.lookup(keys.columns(), &table).await
    }

    async fn lookup(&self, keys: &[ArrayRef], table: &TableSchema) -> Result<RecordBatch> {
        let projection: Vec<usize> = (0..table.logical().fields().len()).collect();
        let snapshot = self.control.snapshot();
        let (of, lookahead) = ((&snapshot, self.control.block_lists().as_ref()), self.settings.read_lookahead);
        let found = planner::lookup(of, keys, lookahead, &projection, table.logical()).await?;
        Ok(found.rows)
    }

    /// The indexes of the table's columns.
    pub fn indexes(&self) -> Vec<IndexSpec> {
        self.control.with(|version| version.base.indexes().specs().to_vec())
    }

    /// Whether the column has a text index.
    pub fn has_text_index(&self, column: &str) -> bool {
        self.control.with(|version| version.base.indexes().of_texts(column).is_some())
    }

    /// How the words of the column's texts are made: as its text index is told, else as Lance does at its defaults.
    pub fn text_analyzer(&self, column: &str) -> Arc<TextAnalyzer> {
        self.control.with(|version| version.base.indexes().text_analyzer(column))
    }

    /// Plans a scan of `snapshot`: the logical columns `projection` (all if `None`) of rows that pass `filters` as far
    /// as [`supports_filters`](Self::supports_filters) says.
    ///
    /// # Errors
    /// `Corrupt` if a shard is damaged, `Invalid` if a filter cannot be evaluated.
    pub fn scan(
        &self,
        snapshot: &Arc<Snapshot>,
        projection: Option<&[usize]>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.search(snapshot, ScanRequest { projection, filters, limit, ..ScanRequest::default() })
    }

    /// Plans a scan as [`scan`](Self::scan) does, or a search: then each source may leave out rows that are not among its
    /// own nearest, and the rows must be ranked above.
    ///
    /// # Errors
    /// As there.
    pub fn search(&self, snapshot: &Arc<Snapshot>, request: ScanRequest<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let span = request
            .search
            .map(|search| tracing::debug_span!("lsm.search", table = self.uri(), kind = search.kind(), k = search.k()));
        let request = ScanRequest { span: span.as_ref(), lookahead: self.settings.read_lookahead, ..request };
        planner::plan_scan(snapshot, self.control.block_lists(), request)
    }

    /// What scores the texts that `search` is about, by the words of the rows of `snapshot` that `stats` says.
    ///
    /// # Errors
    /// `Invalid` if there is no such column.
    pub fn text_scorer(&self, snapshot: &Arc<Snapshot>, search: TextSearch, stats: SearchStats) -> Result<TextScorer> {
        TextScorer::try_new(Arc::clone(snapshot), Arc::clone(self.control.block_lists()), search, stats)
    }

    /// What a scan does with each of `filters`, a conjunction.
    pub fn supports_filters(&self, filters: &[&Expr]) -> Vec<FilterSupport> {
        let table = self.table_schema();
        let owned: Vec<Expr> = filters.iter().map(|f| (*f).clone()).collect();
        let promised = planner::promised(table.key(), &owned);
        let pins = planner::key_filter(table.key(), &owned).map(|(_, used)| used);
        let support = |(i, filter): (usize, &&Expr)| match &pins {
            Some(_) if promised[i] => FilterSupport::Exact,
            Some(used) if used[i] => FilterSupport::Inexact,
            Some(_) => FilterSupport::Unsupported,
            None => self.support(&table, filter),
        };
        filters.iter().enumerate().map(support).collect()
    }

    /// An index of values may spare rows that sources do not look at.
    fn support(&self, table: &TableSchema, filter: &Expr) -> FilterSupport {
        let support = planner::support(table, filter);
        if support != FilterSupport::Unsupported {
            return support;
        }
        let ranges = planner::value_ranges(table, [filter]);
        let known = |column: &str| self.control.with(|version| version.base.indexes().of_values(column).is_some());
        if ranges.iter().any(|ranges| known(&ranges.column)) { FilterSupport::Inexact } else { support }
    }

    /// What `filters`, a conjunction, let columns have, as far as indexes of values can be asked for it.
    pub fn value_ranges<'a>(&self, filters: impl IntoIterator<Item = &'a Expr>) -> Vec<ValueRanges> {
        planner::value_ranges(&self.table_schema(), filters)
    }

    /// How many live rows `snapshot` has.
    ///
    /// # Errors
    /// What reading raises.
    pub async fn live_rows(&self, snapshot: &Arc<Snapshot>) -> Result<u64> {
        let plan = self.scan(snapshot, Some(&[]), &[], None)?;
        let batches = execute_stream(plan, Arc::new(TaskContext::default()))?;
        Ok(batches.try_fold(0, |n, batch| async move { Ok(n + batch.num_rows() as u64) }).await?)
    }

    /// Freezes the memtables and waits until all are generations, for each shard at most `lsm.write.timeout`.
    ///
    /// # Errors
    /// Why a flush keeps failing, or `Unavailable` if it does not end in time: it goes on. As claiming.
    pub async fn flush(&self) -> Result<()> {
        let mut result = Ok(());
        let mut frozen = Vec::new();
        for shard in self.shards.shards().iter().filter(|shard| shard.memory_rows() > 0) {
            match shard.claim().await {
                Ok(_) => {
                    shard.freeze();
                    frozen.push(shard);
                }
                // The other shards are flushed all the same.
                Err(error) => result = result.and(Err(error)),
            }
        }
        for shard in frozen {
            let drained = shard.drained(self.settings.write_timeout).await;
            result = result.and(drained);
        }
        result
    }

    /// Looks for commits of others now: to the base, and to shards that this process does not write.
    ///
    /// # Errors
    /// `Fenced` or `Invalid` if the table was replaced by another; why a shard failed, if one did; what reading raises.
    pub async fn refresh(&self) -> Result<()> {
        let refresh = Refresh { context: Arc::clone(&self.context), shards: Arc::clone(&self.shards) };
        refresh.run().await
    }

    /// Looks for what others wrote to those of the chosen shards that this process does not write yet, and returns their
    /// places. A statement that decides on rows must not decide on those of another writer's past.
    pub(crate) async fn catch_up(&self, chosen: impl Fn(usize) -> bool) -> Result<Vec<usize>> {
        let shards = self.shards.shards();
        let is_foreign = |place: &usize| matches!(shards[*place].role(), Role::Reader | Role::Claiming(_));
        let foreign: Vec<usize> = (0..shards.len()).filter(|place| chosen(*place)).filter(is_foreign).collect();
        if !foreign.is_empty() {
            self.context.refresh_base().await?;
        }
        for &place in &foreign {
            shards[place].refresh().await?;
        }
        Ok(foreign)
    }

    /// Refuses every statement from now on: the table is about to be deleted.
    pub(crate) fn retire(&self) {
        self.shards.retire();
    }

    /// Whether the table can be worked with: not closed, and no shard lost to another process.
    pub fn is_usable(&self) -> bool {
        self.shards.is_usable()
    }

    /// Waits until what was written so far is visible, or cannot come to be seen.
    pub(crate) async fn settled(&self) -> Result<()> {
        self.shards.settled().await
    }

    /// Waits until everything accepted is in the WAL and ends the table's tasks. Later writes fail with `Closed`.
    ///
    /// # Errors
    /// `Indeterminate` or `Fenced` if something accepted is not durable.
    pub async fn close(&self) -> Result<()> {
        let _nobody_writes = self.shards.pause().await;
        // Also if nobody waits for the end: without its tasks the table takes nothing.
        self.shards.begin_close();
        self.supervisor.stop().await?;
        let lost = self.shards.shards().iter().find_map(|s| s.close());
        match lost {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// Shards that are refreshed at once.
const SHARDS: usize = 8;

/// Looking for what others committed.
#[derive(Debug)]
struct Refresh {
    context: Arc<WriterContext>,
    shards: Arc<ShardSet>,
}

impl Refresh {
    /// Looks at everything, whatever is wrong, and tells the first failure. Unless the base cannot be looked at: another
    /// table may be there, whose shards have the same names.
    async fn run(&self) -> Result<()> {
        let span = tracing::debug_span!("lsm.refresh", table = self.context.io.uri());
        self.run_now().instrument(span).await
    }

    async fn run_now(&self) -> Result<()> {
        let result = self.context.refresh_base().await;
        match &result {
            Err(error) if error.kind() == ErrorKind::Fenced => {
                self.shards.lose(error);
                return result;
            }
            Err(error) if error.kind() == ErrorKind::Unavailable => return result,
            _ => {}
        }
        let refreshing: Vec<_> = self.shards.shards().iter().map(|shard| shard.refresh()).collect();
        let refreshed: Vec<Result<()>> = stream::iter(refreshing).buffered(SHARDS).collect().await;
        refreshed.into_iter().fold(result, Result::and)
    }
}
