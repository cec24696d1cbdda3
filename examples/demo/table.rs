//! The demo's table, in SQL.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{Int64Type, UInt64Type};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use datafusion_lsm::sql::{LsmEngine, LsmSessionExt};

use crate::text::Rows;
use crate::{Result, embedding};

/// The index of the embeddings: a small graph, which builds where nothing is optimised.
const VECTORS: &str = "ivf_hnsw_sq(metric = cosine, m = 8, ef_construction = 40)";

/// A connection to the table `chunks`.
pub(crate) struct Table {
    session: SessionContext,
    engine: Arc<LsmEngine>,
}

impl Table {
    /// Creates the table, or opens it if it is there.
    pub(crate) async fn open(location: &Path) -> Result<Self> {
        let engine = LsmEngine::new();
        Self::connect(location, engine).await
    }

    /// Another connection to the same table.
    pub(crate) async fn another(&self, location: &Path) -> Result<Self> {
        Self::connect(location, Arc::clone(&self.engine)).await
    }

    async fn connect(location: &Path, engine: Arc<LsmEngine>) -> Result<Self> {
        let session = SessionContext::new().with_lsm_engine(Arc::clone(&engine));
        session.register_udf(embedding::function());
        let table = Self { session, engine };
        // Such a memtable becomes a generation: small, so that the demo has some.
        let create = format!(
            "CREATE EXTERNAL TABLE chunks (
               path TEXT NOT NULL, chunk INT NOT NULL, body TEXT, bytes BIGINT, modified TIMESTAMP,
               edits INT NOT NULL, embedding FLOAT[{}], PRIMARY KEY (path, chunk)
             ) STORED AS LSM LOCATION '{}' OPTIONS (
               'lsm.memtable.bytes' '6MiB', 'lsm.index.body' 'fts', 'lsm.index.embedding' '{VECTORS}')",
            embedding::WIDTH,
            location.display().to_string().replace('\'', "''")
        );
        table.query(&create).await?;
        Ok(table)
    }

    /// The rows of a query.
    pub(crate) async fn query(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        let frame = self.session.sql(sql).await?;
        let schema = Arc::clone(frame.schema().inner());
        let rows = frame.collect().await?;
        // So that an answer always has columns.
        Ok(if rows.is_empty() { vec![RecordBatch::new_empty(schema)] } else { rows })
    }

    /// The rows of a search that looks at every row.
    pub(crate) async fn exactly(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        self.query("SET lsm.search.mode = 'exact'").await?;
        let rows = self.query(sql).await;
        self.query("SET lsm.search.mode = 'default'").await?;
        rows
    }

    /// The one number that a query or a statement gives.
    pub(crate) async fn number(&self, sql: &str) -> Result<u64> {
        let rows = self.query(sql).await?;
        let column = rows.iter().find(|b| b.num_rows() > 0).ok_or("no number")?.column(0);
        if let Some(count) = column.as_primitive_opt::<UInt64Type>() {
            return Ok(count.value(0));
        }
        let number = column.as_primitive_opt::<Int64Type>().ok_or("not a number")?;
        Ok(if number.is_null(0) { 0 } else { u64::try_from(number.value(0))? })
    }

    /// Gives the base the indexes of the table, for the rows that it has. How long that took, by the indexes' names.
    pub(crate) async fn index_base(&self) -> Result<Vec<(&'static str, Duration)>> {
        let mut took = Vec::new();
        let vectors = format!("\"{VECTORS}\" (embedding)");
        for (name, using) in [("body_fts", "fts (body)"), ("embedding_ivf_hnsw_sq", &vectors)] {
            let start = Instant::now();
            self.query(&format!("CREATE INDEX IF NOT EXISTS {name} ON chunks USING {using}")).await?;
            took.push((name, start.elapsed()));
        }
        Ok(took)
    }

    /// Writes `rows` and their embeddings; `into` is how the statement begins. How many there were.
    pub(crate) async fn write(&self, rows: Rows, into: &str) -> Result<u64> {
        let sql = format!("{into} chunks SELECT *, 0 AS edits, embed(body) AS embedding FROM incoming");
        self.number_with(rows, &sql).await
    }

    /// Runs `sql` with `rows` as the table `incoming`.
    async fn number_with(&self, rows: Rows, sql: &str) -> Result<u64> {
        let rows = rows.batch()?;
        // In two partitions, so that two threads embed.
        let half = rows.num_rows() / 2;
        let parts = vec![vec![rows.slice(0, half)], vec![rows.slice(half, rows.num_rows() - half)]];
        self.session.register_table("incoming", Arc::new(MemTable::try_new(rows.schema(), parts)?))?;
        let number = self.number(sql).await;
        self.session.deregister_table("incoming")?;
        number
    }

    /// Ends it in order: what is queued is written.
    pub(crate) async fn close(self) -> Result<()> {
        for table in self.engine.tables() {
            table.close().await?;
        }
        Ok(())
    }
}
