//! What sqllogictest talks to: the connections of a file and the process they share.
//!
//! Sessions are kept by the process and not by their connections, so that a crash takes all of them at once: a
//! session that lived on would go on writing.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::common::DataFusionError;
use datafusion::physical_plan::common::collect;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionContext;
use datafusion_sqllogictest::{DFColumnType, DFSqlLogicTestError, convert_batches, convert_schema_to_types};
use sqllogictest::{AsyncDB, DBOutput};

use crate::control::Control;
use crate::engine::Engine;

/// An engine and the sessions on it: one for each connection, none after a crash until the connection speaks again.
pub(crate) struct Process<E> {
    engine: E,
    dir: String,
    sessions: Mutex<Vec<Option<SessionContext>>>,
}

impl<E: Engine> Process<E> {
    pub(crate) fn new(engine: E, dir: &Path) -> Self {
        Self { engine, dir: dir.to_string_lossy().into_owned(), sessions: Mutex::default() }
    }

    fn session(&self, slot: usize) -> SessionContext {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions[slot].get_or_insert_with(|| self.engine.session()).clone()
    }

    fn take_sessions(&self) -> Vec<SessionContext> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.iter_mut().filter_map(Option::take).collect()
    }

    /// Closes what is open, in order.
    pub(crate) async fn close(&self) -> Result<(), DataFusionError> {
        self.engine.close(self.take_sessions()).await
    }
}

/// One connection.
pub(crate) struct Connection<E> {
    process: Arc<Process<E>>,
    slot: usize,
}

impl<E: Engine> Connection<E> {
    pub(crate) fn new(process: Arc<Process<E>>) -> Self {
        let slot = {
            let mut sessions = process.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.push(None);
            sessions.len() - 1
        };
        Self { process, slot }
    }

    async fn control(&self, control: Control) -> Result<(), DataFusionError> {
        let engine = &self.process.engine;
        match control {
            Control::Flush(table) => engine.flush(&self.process.session(self.slot), &table).await,
            Control::Refresh(table) => engine.refresh(&self.process.session(self.slot), &table).await,
            Control::Crash { power } => engine.crash(self.process.take_sessions(), power).await,
            Control::Reopen => self.process.close().await,
        }
    }

    async fn query(&self, sql: &str) -> Result<DBOutput<DFColumnType>, DFSqlLogicTestError> {
        let frame = self.process.session(self.slot).sql(sql).await?;
        let context = Arc::new(frame.task_ctx());
        let plan = frame.create_physical_plan().await?;
        let schema = plan.schema();
        let types = convert_schema_to_types(schema.fields());
        let batches = collect(execute_stream(plan, context)?).await?;
        let rows = convert_batches(&schema, batches, false)?;
        if rows.is_empty() && types.is_empty() {
            return Ok(DBOutput::StatementComplete(0));
        }
        Ok(DBOutput::Rows { types, rows })
    }
}

#[async_trait]
impl<E: Engine> AsyncDB for Connection<E> {
    type Error = Failure;
    type ColumnType = DFColumnType;

    async fn run(&mut self, text: &str) -> Result<DBOutput<DFColumnType>, Failure> {
        let dir = &self.process.dir;
        let hide = |message: String| Failure(message.replace(dir, "$DIR"));
        if let Some(control) = Control::parse(text) {
            self.control(control.map_err(Failure)?).await.map_err(|e| hide(e.to_string()))?;
            return Ok(DBOutput::StatementComplete(0));
        }
        let mut output = self.query(&text.replace("$DIR", dir)).await.map_err(|e| hide(e.to_string()))?;
        if let DBOutput::Rows { rows, .. } = &mut output {
            rows.iter_mut().flatten().for_each(|cell| *cell = cell.replace(dir, "$DIR"));
        }
        Ok(output)
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "lsm"
    }

    async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// A statement that failed, with `$DIR` for the file's directory.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}
