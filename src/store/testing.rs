//! Faults for the unit tests of this and higher rooms: a hook told which requests fail, and tables in temporary places.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::{IoHook, IoOp, ObjectIo, StoreOptions, SyncRecord};
use crate::error::{Error, Result};

/// Where in a request a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// Nothing is done.
    Before,
    /// It is done, but the answer is lost.
    After,
}

#[derive(Debug)]
struct Fault {
    op: IoOp,
    path: &'static str,
    at: At,
    times: usize,
    error: Option<Error>,
}

/// A hook that fails what it is told to, and records what is synced.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    faults: Mutex<Vec<Fault>>,
    syncs: Mutex<Vec<&'static str>>,
    asked: Mutex<Vec<String>>,
    record: SyncRecord,
}

impl Faults {
    /// Fails the next `times` requests whose path contains `path` with `Unavailable`.
    pub(crate) fn fail(&self, op: IoOp, path: &'static str, at: At, times: usize) {
        self.fail_with(op, path, at, times, Error::unavailable("injected"));
    }

    pub(crate) fn fail_with(&self, op: IoOp, path: &'static str, at: At, times: usize, error: Error) {
        self.faults.lock().push(Fault { op, path, at, times, error: Some(error) });
    }

    /// Never answers the next request; it is carried out if `at` is after.
    pub(crate) fn hang(&self, op: IoOp, path: &'static str, at: At) {
        self.faults.lock().push(Fault { op, path, at, times: 1, error: None });
    }

    /// Fails the next sync of a path that ends with `path`.
    pub(crate) fn fail_sync(&self, path: &'static str) {
        self.syncs.lock().push(path);
    }

    pub(crate) fn heal(&self) {
        self.faults.lock().clear();
        self.syncs.lock().clear();
    }

    /// The paths that were synced since the last call.
    pub(crate) fn take_syncs(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock())
    }

    pub(crate) fn record(&self) -> SyncRecord {
        self.record.clone()
    }

    fn strike(&self, op: IoOp, path: &str, at: At) -> BoxFuture<'_, Result<()>> {
        let mut faults = self.faults.lock();
        let hit = faults.iter_mut().find(|f| f.times > 0 && f.op == op && f.at == at && path.contains(f.path));
        let Some(fault) = hit else { return async { Ok(()) }.boxed() };
        fault.times -= 1;
        match fault.error.clone() {
            Some(error) => async move { Err(error) }.boxed(),
            None => futures::future::pending().boxed(),
        }
    }
}

impl IoHook for Faults {
    fn before(&self, op: IoOp, path: &str) -> BoxFuture<'_, Result<()>> {
        self.strike(op, path, At::Before)
    }

    fn after(&self, op: IoOp, path: &str) -> BoxFuture<'_, Result<()>> {
        self.strike(op, path, At::After)
    }

    fn before_sync(&self, path: &str) -> Result<()> {
        self.asked.lock().push(path.to_string());
        let mut syncs = self.syncs.lock();
        match syncs.iter().position(|end| path.ends_with(end)) {
            Some(hit) => {
                syncs.remove(hit);
                Err(Error::unavailable("the disk is dying"))
            }
            None => Ok(()),
        }
    }

    fn sync_record(&self) -> Option<SyncRecord> {
        Some(self.record.clone())
    }
}

/// A local table directory that goes with the returned guard, with faults.
pub(crate) async fn local() -> (TempDir, ObjectIo, Arc<Faults>) {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let root = dir.path().join("table");
    let io = ObjectIo::open(root.to_str().unwrap(), &StoreOptions::default(), true).await.unwrap();
    (dir, io.with_hook(Arc::clone(&faults) as _), faults)
}

/// A table directory in memory of its own, which behaves like an object store, with faults.
pub(crate) async fn remote() -> (ObjectIo, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    let uri = format!("shared-memory://{}/table", uuid::Uuid::new_v4().simple());
    let io = ObjectIo::open(&uri, &StoreOptions::default(), true).await.unwrap();
    (io.with_hook(Arc::clone(&faults) as _), faults)
}
