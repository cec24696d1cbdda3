//! The demo's table, in SQL.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, UInt64Type};
use datafusion::prelude::SessionContext;
use datafusion_lsm::sql::{LsmEngine, LsmSessionExt};

use crate::Result;
use crate::text::Rows;

/// A connection to the table `chunks`.
pub(crate) struct Table {
    session: SessionContext,
    engine: Arc<LsmEngine>,
}

impl Table {
    /// Creates the table, or opens it if it is there.
    pub(crate) async fn open(location: &Path) -> Result<Self> {
        let engine = LsmEngine::new();
        let session = SessionContext::new().with_lsm_engine(Arc::clone(&engine));
        let table = Self { session, engine };
        // A memtable of 48 MiB becomes a generation: small, so that the demo has some.
        let create = format!(
            "CREATE EXTERNAL TABLE chunks (
               path TEXT NOT NULL, chunk INT NOT NULL, body TEXT, bytes BIGINT, modified TIMESTAMP,
               PRIMARY KEY (path, chunk)
             ) STORED AS LSM LOCATION '{}' OPTIONS ('lsm.memtable.bytes' '48MiB')",
            location.display().to_string().replace('\'', "''")
        );
        table.session.sql(&create).await?.collect().await?;
        Ok(table)
    }

    /// The rows of a query.
    pub(crate) async fn query(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        Ok(self.session.sql(sql).await?.collect().await?)
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

    /// Runs `sql` with `rows` as the table `incoming`.
    pub(crate) async fn number_with(&self, rows: Rows, sql: &str) -> Result<u64> {
        self.session.register_batch("incoming", rows.batch()?)?;
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
