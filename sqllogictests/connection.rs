//! What sqllogictest talks to: the connections of a file, their processes and the machine these share.
//!
//! Sessions are kept by the machine and not by their connections, so that a crash takes all of a process at once: a
//! session that lived on would go on writing.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::common::DataFusionError;
use datafusion::physical_plan::common::collect;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionContext;
use datafusion_lsm::sql::LsmSqlExt;
use datafusion_sqllogictest::{DFColumnType, DFSqlLogicTestError, convert_batches, convert_schema_to_types};
use sqllogictest::{AsyncDB, DBOutput};

use crate::control::Control;
use crate::engine::Engine;

/// The process of a connection that was not told otherwise.
const FIRST: &str = "first";
/// What takes longer hangs: better told than waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// An engine and the sessions on it: one for each connection, none after a crash until the connection speaks again.
pub(crate) struct Machine<E> {
    engine: E,
    dir: String,
    seats: Mutex<Vec<Seat>>,
}

/// Where a connection is.
struct Seat {
    process: String,
    session: Option<SessionContext>,
}

impl<E: Engine> Machine<E> {
    pub(crate) fn new(engine: E, dir: &Path) -> Self {
        Self { engine, dir: dir.to_string_lossy().into_owned(), seats: Mutex::default() }
    }

    fn seats(&self) -> MutexGuard<'_, Vec<Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self, slot: usize) -> SessionContext {
        let mut seats = self.seats();
        let Seat { process, session } = &mut seats[slot];
        session.get_or_insert_with(|| self.engine.session(process)).clone()
    }

    /// Takes the sessions of a process, or of all.
    fn take_sessions(&self, process: Option<&str>) -> Vec<SessionContext> {
        let mut seats = self.seats();
        let ours = seats.iter_mut().filter(|seat| process.is_none_or(|p| seat.process == p));
        ours.filter_map(|seat| seat.session.take()).collect()
    }

    /// Closes what is open, in order.
    pub(crate) async fn close(&self) -> Result<(), DataFusionError> {
        let sessions = self.take_sessions(None);
        self.engine.close(None, sessions).await
    }
}

/// One connection.
pub(crate) struct Connection<E> {
    machine: Arc<Machine<E>>,
    slot: usize,
}

impl<E: Engine> Connection<E> {
    pub(crate) fn new(machine: Arc<Machine<E>>) -> Self {
        let slot = {
            let mut seats = machine.seats();
            seats.push(Seat { process: FIRST.to_string(), session: None });
            seats.len() - 1
        };
        Self { machine, slot }
    }

    async fn control(&self, control: Control) -> Result<(), DataFusionError> {
        let machine = &self.machine;
        let process = machine.seats()[self.slot].process.clone();
        match control {
            Control::Flush(table) => machine.engine.flush(&machine.session(self.slot), &table).await,
            Control::Refresh(table) => machine.engine.refresh(&machine.session(self.slot), &table).await,
            Control::Crash { power } => {
                let process = (!power).then_some(process.as_str());
                machine.engine.crash(process, machine.take_sessions(process)).await
            }
            Control::Reopen => machine.engine.close(Some(&process), machine.take_sessions(Some(&process))).await,
            Control::Process(name) => {
                machine.seats()[self.slot] = Seat { process: name, session: None };
                Ok(())
            }
        }
    }

    async fn answer(&self, text: &str) -> Result<DBOutput<DFColumnType>, Failure> {
        let dir = &self.machine.dir;
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

    async fn query(&self, sql: &str) -> Result<DBOutput<DFColumnType>, DFSqlLogicTestError> {
        let frame = self.machine.session(self.slot).lsm_sql(sql).await?;
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
        let late = |_| Failure(format!("it did not end within {PATIENCE:?}"));
        tokio::time::timeout(PATIENCE, self.answer(text)).await.map_err(late)?
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
