//! What the files run on: where sessions come from and what the control statements do.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use datafusion::common::{DataFusionError, Result, plan_err};
use datafusion::prelude::{SessionConfig, SessionContext};

/// The engine of one file.
#[async_trait]
pub(crate) trait Engine: Send + Sync + 'static {
    /// A new session that knows no table yet.
    fn session(&self) -> SessionContext;
    /// Turns the memtable of `table` into a generation.
    async fn flush(&self, session: &SessionContext, table: &str) -> Result<()>;
    /// Makes `table` see what others wrote.
    async fn refresh(&self, session: &SessionContext, table: &str) -> Result<()>;
    /// Closes the tables of these sessions, which are all there are, in order.
    async fn close(&self, sessions: Vec<SessionContext>) -> Result<()>;
    /// Drops these sessions, which are all there are, without closing anything; with `power` also whatever below the
    /// directory was never synced.
    async fn crash(&self, sessions: Vec<SessionContext>, power: bool) -> Result<()>;
}

/// Sessions over tables below one directory.
pub(crate) struct SessionEngine {
    dir: PathBuf,
    partitions: usize,
}

impl SessionEngine {
    pub(crate) fn new(dir: &Path, partitions: usize) -> Self {
        Self { dir: dir.to_path_buf(), partitions }
    }
}

/// A session of `engine`.
fn session(engine: &SessionEngine) -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(engine.partitions).with_information_schema(true);
    SessionContext::new_with_config(config)
}

#[async_trait]
impl Engine for SessionEngine {
    fn session(&self) -> SessionContext {
        session(self)
    }

    async fn flush(&self, _session: &SessionContext, table: &str) -> Result<()> {
        plan_err!("'{table}' is not an LSM table")
    }

    async fn refresh(&self, _session: &SessionContext, table: &str) -> Result<()> {
        plan_err!("'{table}' is not an LSM table")
    }

    async fn close(&self, sessions: Vec<SessionContext>) -> Result<()> {
        drop(sessions);
        Ok(())
    }

    async fn crash(&self, sessions: Vec<SessionContext>, power: bool) -> Result<()> {
        drop(sessions);
        if power && !self.dir.exists() {
            return Err(DataFusionError::Execution("the directory of the file is gone".into()));
        }
        Ok(())
    }
}
