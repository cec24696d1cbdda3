//! Sessions on a directory of their own, for the tests of this room.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::prelude::SessionContext;
use tempfile::TempDir;

use super::{LsmEngine, LsmSessionExt};
use crate::error::{Error, Result};

/// A directory, an engine, and sessions on both.
pub(super) struct Fixture {
    pub(super) dir: TempDir,
    pub(super) engine: Arc<LsmEngine>,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), engine: LsmEngine::new() }
    }

    /// A session that knows no table.
    pub(super) fn session(&self) -> SessionContext {
        SessionContext::new().with_lsm_engine(Arc::clone(&self.engine))
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    /// A session with the table `t (id BIGINT, n BIGINT)` of `rows` rows with `n = 0`.
    pub(super) async fn with_rows(&self, rows: usize) -> SessionContext {
        let session = self.session();
        let create = "CREATE EXTERNAL TABLE t (id BIGINT PRIMARY KEY, n BIGINT) STORED AS LSM";
        run(&session, &format!("{create} LOCATION '{}' OPTIONS ('lsm.sync' 'false')", self.path("t"))).await.unwrap();
        run(&session, &format!("INSERT INTO t SELECT value, 0 FROM generate_series(1, {rows})")).await.unwrap();
        session
    }

    /// Another session with the same table.
    pub(super) async fn another(&self) -> SessionContext {
        let session = self.session();
        run(&session, &format!("CREATE EXTERNAL TABLE t STORED AS LSM LOCATION '{}'", self.path("t"))).await.unwrap();
        session
    }
}

/// The rows that a statement returns, as text with a blank between columns.
pub(super) async fn run(session: &SessionContext, sql: &str) -> Result<Vec<String>> {
    let frame = session.sql(sql).await.map_err(Error::from)?;
    Ok(text(&frame.collect().await.map_err(Error::from)?))
}

/// Rows as text with a blank between columns.
pub(super) fn text(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join(" "));
        }
    }
    rows
}
