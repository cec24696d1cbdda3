//! What the files run on: where sessions come from and what the control statements do.
//!
//! Each process has an engine of its own, so that two processes share nothing but the directory. What is synced is
//! recorded by location over all of them: a power failure takes the rest.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use datafusion::common::{DataFusionError, Result};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_lsm::error::Error;
use datafusion_lsm::sql::{LsmEngine, LsmSessionExt, LsmTableProvider};
use datafusion_lsm::store::{IoHook, SyncRecord};
use datafusion_lsm::table::{Components, LsmTable};
use walkdir::WalkDir;

/// The engine of one file.
#[async_trait]
pub(crate) trait Engine: Send + Sync + 'static {
    /// A new session of a process; it knows no table yet.
    fn session(&self, process: &str) -> SessionContext;
    /// Turns the memtable of `table` into a generation.
    async fn flush(&self, session: &SessionContext, table: &str) -> Result<()>;
    /// Makes `table` see what others wrote.
    async fn refresh(&self, session: &SessionContext, table: &str) -> Result<()>;
    /// Closes, in order, the tables of a process, or of all; `sessions` are its sessions.
    async fn close(&self, process: Option<&str>, sessions: Vec<SessionContext>) -> Result<()>;
    /// Ends a process without closing anything; `sessions` are its sessions. Without a process the machine ends: all
    /// processes, and whatever below the directory was never synced.
    async fn crash(&self, process: Option<&str>, sessions: Vec<SessionContext>) -> Result<()>;
}

/// Sessions over tables below one directory.
pub(crate) struct SessionEngine {
    partitions: usize,
    processes: Mutex<HashMap<String, Arc<LsmEngine>>>,
    recorders: Recorders,
}

/// What is synced, by table.
type Recorders = Arc<Mutex<HashMap<String, Arc<Recorder>>>>;

/// Records what is synced.
#[derive(Debug, Default)]
struct Recorder(SyncRecord);

impl IoHook for Recorder {
    fn sync_record(&self) -> Option<SyncRecord> {
        Some(self.0.clone())
    }
}

impl SessionEngine {
    pub(crate) fn new(partitions: usize) -> Self {
        Self { partitions, processes: Mutex::default(), recorders: Recorders::default() }
    }

    fn process(&self, name: &str) -> Arc<LsmEngine> {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || {
            let recorders = Arc::clone(&self.recorders);
            LsmEngine::with_components(move |uri| {
                let mut recorders = recorders.lock().unwrap_or_else(PoisonError::into_inner);
                let recorder = Arc::clone(recorders.entry(uri.to_string()).or_default());
                Components { io_hook: Some(recorder), ..Components::default() }
            })
        };
        Arc::clone(processes.entry(name.to_string()).or_insert_with(start))
    }

    /// Ends a process, or all: what its sessions had is nobody's any more.
    fn take_processes(&self, name: Option<&str>) -> Vec<Arc<LsmEngine>> {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        match name {
            Some(name) => processes.remove(name).into_iter().collect(),
            None => processes.drain().map(|(_, engine)| engine).collect(),
        }
    }
}

#[async_trait]
impl Engine for SessionEngine {
    fn session(&self, process: &str) -> SessionContext {
        let config = SessionConfig::new().with_target_partitions(self.partitions).with_information_schema(true);
        SessionContext::new_with_config(config).with_lsm_engine(self.process(process))
    }

    async fn flush(&self, session: &SessionContext, table: &str) -> Result<()> {
        Ok(table_of(session, table).await?.flush().await?)
    }

    async fn refresh(&self, session: &SessionContext, table: &str) -> Result<()> {
        Ok(table_of(session, table).await?.refresh().await?)
    }

    async fn close(&self, process: Option<&str>, sessions: Vec<SessionContext>) -> Result<()> {
        let engines = self.take_processes(process);
        let mut outcome = Ok(());
        for engine in engines {
            outcome = outcome.and(engine.close().await);
        }
        drop(sessions);
        Ok(outcome?)
    }

    async fn crash(&self, process: Option<&str>, sessions: Vec<SessionContext>) -> Result<()> {
        let engines = self.take_processes(process);
        let tables: Vec<Weak<LsmTable>> =
            engines.iter().flat_map(|e| e.tables()).map(|table| Arc::downgrade(&table)).collect();
        drop((sessions, engines));
        // Aborted tasks let go at their next step.
        for _ in 0..10_000 {
            if tables.iter().all(|table| table.strong_count() == 0) {
                break;
            }
            tokio::task::yield_now().await;
        }
        if tables.iter().any(|table| table.strong_count() > 0) {
            return Err(DataFusionError::Execution("a table is still held after its process has crashed".into()));
        }
        if process.is_none() {
            let recorders = self.recorders.lock().unwrap_or_else(PoisonError::into_inner);
            for (uri, recorder) in recorders.iter() {
                lose_unsynced(Path::new(uri), &recorder.0)?;
            }
        }
        Ok(())
    }
}

/// Deletes what a power failure would take: files whose bytes or names were not synced, and directories likewise.
fn lose_unsynced(root: &Path, synced: &SyncRecord) -> Result<()> {
    for entry in WalkDir::new(root).min_depth(1).contents_first(true).into_iter().filter_map(Result::ok) {
        let path = entry.path().strip_prefix(root).unwrap_or(entry.path()).to_string_lossy().replace('\\', "/");
        if entry.file_type().is_dir() {
            if !synced.has_dir(&path) {
                std::fs::remove_dir_all(entry.path())?;
            }
        } else if !synced.has_file(&path) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The LSM table of this name.
async fn table_of(session: &SessionContext, name: &str) -> Result<Arc<LsmTable>> {
    let provider = session.table_provider(name).await?;
    let lsm = provider.downcast_ref::<LsmTableProvider>();
    let lsm = lsm.ok_or_else(|| Error::invalid(format!("'{name}' is not an LSM table")))?;
    Ok(Arc::clone(lsm.table()))
}
