//! This crate's table, set up for a bench.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{collect, execute_stream};
use datafusion::prelude::SessionContext;
use datafusion_lsm::base::{AdoptSpec, CreateSpec};
use datafusion_lsm::settings::{Ack, Bytes, Settings};
use datafusion_lsm::sql::{LsmSessionExt, LsmTableProvider};
use datafusion_lsm::table::{Components, LsmTable};

use super::Result;
use super::indexes::Index;
use super::peer;
use super::place::uri;
use super::rows::KEY;

/// The name under which the table is registered.
pub(crate) const NAME: &str = "t";

/// A table and a session that knows it as [`NAME`].
pub(crate) struct Ours {
    /// The table.
    pub(crate) table: Arc<LsmTable>,
    /// The session.
    pub(crate) session: SessionContext,
    state: SessionState,
    task: Arc<TaskContext>,
}

/// A statement that is parsed and planned for parameters, with all that running it again needs.
pub(crate) struct Prepared<'a> {
    plan: LogicalPlan,
    ours: &'a Ours,
}

/// Settings whose memtables stay in memory while a bench fills them.
pub(crate) fn roomy() -> Settings {
    Settings {
        ack: Ack::Memory,
        interop: false,
        memtable_rows: 200_000,
        memtable_bytes: Bytes::mib(8 << 10),
        memtable_limit: Bytes::mib(16 << 10),
        memtable_entries: 100_000,
        ..Settings::default()
    }
}

/// What a write at the defaults is: in the WAL and synced before it is acknowledged.
pub(crate) fn durable() -> Settings {
    Settings::default()
}

impl Ours {
    /// Makes a table at `dir` whose base has `base`.
    pub(crate) async fn create(
        dir: &Path,
        schema: &SchemaRef,
        base: Vec<RecordBatch>,
        settings: Settings,
    ) -> Result<Self> {
        let builder = LsmTable::builder(uri(dir)?).settings(settings);
        let key = vec![KEY.to_string()];
        let table = if base.is_empty() {
            let schema = Arc::clone(schema);
            let spec = CreateSpec {
                schema,
                key,
                shards: 1,
                shard_column: None,
                indexes: Vec::new(),
                defaults: Default::default(),
            };
            Box::pin(builder.create(spec).open()).await?
        } else {
            peer::plain(uri(dir)?, schema, base, None).await?;
            Box::pin(builder.adopt(AdoptSpec { key, shards: 1, ..AdoptSpec::default() }).open()).await?
        };
        Self::with(table)
    }

    /// Makes a table at `dir` whose base has `base`, and which has these indexes of what is written.
    pub(crate) async fn searched(
        dir: &Path,
        schema: &SchemaRef,
        base: Vec<RecordBatch>,
        indexes: &[Index],
        settings: Settings,
    ) -> Result<Self> {
        peer::plain(uri(dir)?, schema, base, None).await?;
        Self::adopt(dir, indexes, settings).await
    }

    /// Makes a table with these indexes of the dataset at `dir`.
    pub(crate) async fn adopt(dir: &Path, indexes: &[Index], settings: Settings) -> Result<Self> {
        Self::adopt_with(dir, indexes, settings, Components::default()).await
    }

    /// Makes a table with these indexes of the dataset at `dir`, which tells `components` what it does.
    pub(crate) async fn adopt_with(
        dir: &Path,
        indexes: &[Index],
        settings: Settings,
        components: Components,
    ) -> Result<Self> {
        Self::adopt_at(uri(dir)?, indexes, settings, components).await
    }

    /// Makes a table of the dataset at `uri`.
    pub(crate) async fn adopt_at(
        uri: &str,
        indexes: &[Index],
        settings: Settings,
        components: Components,
    ) -> Result<Self> {
        let indexes = indexes.iter().filter_map(|index| index.spec()).collect();
        let spec = AdoptSpec { key: vec![KEY.to_string()], shards: 1, indexes, ..AdoptSpec::default() };
        let builder = LsmTable::builder(uri).settings(settings).components(components);
        Self::with(Box::pin(builder.adopt(spec).open()).await?)
    }

    /// Opens the table at `dir`.
    pub(crate) async fn open(dir: &Path, settings: Settings) -> Result<Self> {
        Self::open_at(uri(dir)?, settings).await
    }

    /// Opens the table at `uri`.
    pub(crate) async fn open_at(uri: &str, settings: Settings) -> Result<Self> {
        Self::with(Box::pin(LsmTable::open(uri, settings)).await?)
    }

    fn with(table: Arc<LsmTable>) -> Result<Self> {
        let session = SessionContext::new().with_lsm();
        session.register_table(NAME, Arc::new(LsmTableProvider::new(Arc::clone(&table))))?;
        let (state, task) = (session.state(), session.task_ctx());
        Ok(Self { table, session, state, task })
    }

    /// The same table in a session of its own.
    pub(crate) fn again(&self) -> Result<Self> {
        Self::with(Arc::clone(&self.table))
    }

    /// Sets an option of the session.
    pub(crate) async fn set(&mut self, option: &str, value: &str) -> Result<()> {
        self.session.sql(&format!("SET {option} = '{value}'")).await?.collect().await?;
        (self.state, self.task) = (self.session.state(), self.session.task_ctx());
        Ok(())
    }

    /// Sets how many partitions of a vector index are looked into, and how many candidates are compared exactly for each
    /// row asked for.
    pub(crate) async fn set_effort(&mut self, probes: &str, refine: &str) -> Result<()> {
        self.set("lsm.search.nprobes", probes).await?;
        self.set("lsm.search.refine", refine).await
    }

    /// The session's state: what plans.
    pub(crate) fn state(&self) -> &SessionState {
        &self.state
    }

    /// Prepares a statement.
    pub(crate) async fn prepare(&self, sql: &str) -> Result<Prepared<'_>> {
        Ok(Prepared { plan: self.state.create_logical_plan(sql).await?, ours: self })
    }

    /// Writes batch by batch.
    pub(crate) async fn fill(&self, rows: &[RecordBatch]) -> Result<()> {
        for batch in rows {
            self.table.put(batch.clone()).await?;
        }
        Ok(())
    }

    /// Waits until nothing is left to write in the background.
    pub(crate) async fn settle(&self) -> Result<()> {
        while self.table.wal().await?.iter().any(|shard| shard.queued_units > 0 || shard.queued_bytes > 0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// All live rows: what the provider plans, planned and started.
    pub(crate) async fn stream(&self) -> Result<SendableRecordBatchStream> {
        self.project(None).await
    }

    /// The key of all live rows.
    pub(crate) async fn keys(&self) -> Result<SendableRecordBatchStream> {
        let key = self.table.schema().index_of(KEY)?;
        self.project(Some(&vec![key])).await
    }

    async fn project(&self, projection: Option<&Vec<usize>>) -> Result<SendableRecordBatchStream> {
        let provider = self.session.table_provider(NAME).await?;
        let plan = provider.scan(&self.state, projection, &[], None).await?;
        Ok(execute_stream(plan, Arc::clone(&self.task))?)
    }
}

impl Prepared<'_> {
    /// The rows for these parameters.
    pub(crate) async fn rows(&self, parameters: Vec<ScalarValue>) -> Result<Vec<RecordBatch>> {
        let plan = self.plan.clone().with_param_values(parameters)?;
        let plan = self.ours.state.create_physical_plan(&plan).await?;
        Ok(collect(plan, Arc::clone(&self.ours.task)).await?)
    }
}
