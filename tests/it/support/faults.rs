//! An I/O hook that fails, loses, holds, counts, and records what is synced.

use std::sync::{Arc, Mutex, PoisonError};

use datafusion_lsm::error::{Error, Result};
use datafusion_lsm::store::{IoHook, IoOp, SyncRecord};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::soon;

/// Where in a request a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// Nothing is done.
    Before,
    /// It is done; only the answer is affected.
    After,
}

/// Holds a request until it is opened.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    reached: watch::Sender<bool>,
    open: watch::Sender<bool>,
}

impl Gate {
    fn new() -> Self {
        Self { reached: watch::Sender::new(false), open: watch::Sender::new(false) }
    }

    /// Waits until a request has come.
    pub(crate) async fn reached(&self) {
        soon("the request that a gate waits for", self.reached.subscribe().wait_for(|r| *r)).await.expect("alive");
    }

    /// Lets it go on.
    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    async fn pass(self) {
        self.reached.send_replace(true);
        self.open.subscribe().wait_for(|o| *o).await.expect("alive");
    }
}

#[derive(Debug)]
enum Action {
    Fail(Error),
    Hold(Gate),
    HoldThenFail(Gate, Error),
}

#[derive(Debug)]
struct Rule {
    op: IoOp,
    path: String,
    at: At,
    times: usize,
    action: Action,
}

/// The hook.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    rules: Mutex<Vec<Rule>>,
    log: Mutex<Vec<(IoOp, String)>>,
    syncs: Mutex<Option<String>>,
    record: Option<SyncRecord>,
}

/// As often as it comes.
pub(crate) const ALWAYS: usize = usize::MAX;

impl Faults {
    /// Fails the next `times` requests whose path contains `path`, at that place, with `Unavailable`.
    pub(crate) fn fail(&self, op: IoOp, path: &str, at: At, times: usize) {
        self.fail_with(op, path, at, times, Error::unavailable("injected"));
    }

    pub(crate) fn fail_with(&self, op: IoOp, path: &str, at: At, times: usize, error: Error) {
        self.add(Rule { op, path: path.to_string(), at, times, action: Action::Fail(error) });
    }

    /// Holds the next request whose path contains `path`.
    pub(crate) fn hold(&self, op: IoOp, path: &str, at: At) -> Gate {
        let gate = Gate::new();
        self.add(Rule { op, path: path.to_string(), at, times: 1, action: Action::Hold(gate.clone()) });
        gate
    }

    /// Holds the next request whose path contains `path` before anything is done, and fails it when the gate opens.
    pub(crate) fn hold_then_fail(&self, op: IoOp, path: &str, error: Error) -> Gate {
        let gate = Gate::new();
        let action = Action::HoldThenFail(gate.clone(), error);
        self.add(Rule { op, path: path.to_string(), at: At::Before, times: 1, action });
        gate
    }

    /// Fails every sync of a file or directory whose path ends with `path`.
    pub(crate) fn fail_syncs(&self, path: &str) {
        *self.syncs.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.to_string());
    }

    /// Ends all faults; what is held stays held until its gate opens.
    pub(crate) fn heal(&self) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *self.syncs.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How many requests of this kind were made for paths that contain `path`.
    pub(crate) fn count(&self, op: IoOp, path: &str) -> usize {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().filter(|(o, p)| *o == op && p.contains(path)).count()
    }

    fn add(&self, rule: Rule) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).push(rule);
    }

    fn strike(&self, op: IoOp, path: &str, at: At) -> BoxFuture<'_, Result<()>> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let hit = rules.iter_mut().find(|r| r.times > 0 && r.op == op && r.at == at && path.contains(&r.path));
        let Some(rule) = hit else { return async { Ok(()) }.boxed() };
        rule.times = if rule.times == ALWAYS { ALWAYS } else { rule.times - 1 };
        match &rule.action {
            Action::Fail(error) => {
                let error = error.clone().with_context("path", path);
                async move { Err(error) }.boxed()
            }
            Action::Hold(gate) => {
                let gate = gate.clone();
                async move {
                    gate.pass().await;
                    Ok(())
                }
                .boxed()
            }
            Action::HoldThenFail(gate, error) => {
                let (gate, error) = (gate.clone(), error.clone().with_context("path", path));
                async move {
                    gate.pass().await;
                    Err(error)
                }
                .boxed()
            }
        }
    }
}

impl IoHook for Faults {
    fn before(&self, op: IoOp, path: &str) -> BoxFuture<'_, Result<()>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push((op, path.to_string()));
        self.strike(op, path, At::Before)
    }

    fn after(&self, op: IoOp, path: &str) -> BoxFuture<'_, Result<()>> {
        self.strike(op, path, At::After)
    }

    fn before_sync(&self, path: &str) -> Result<()> {
        match self.syncs.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(end) if path.ends_with(end) => Err(Error::unavailable("injected").with_context("path", path)),
            _ => Ok(()),
        }
    }

    fn sync_record(&self) -> Option<SyncRecord> {
        self.record.clone()
    }
}

/// Records what is synced and does nothing else.
#[derive(Debug)]
pub(crate) struct Recorder(pub(crate) SyncRecord);

impl IoHook for Recorder {
    fn sync_record(&self) -> Option<SyncRecord> {
        Some(self.0.clone())
    }
}

impl Recorder {
    pub(crate) fn hook(record: &SyncRecord) -> Arc<dyn IoHook> {
        Arc::new(Self(record.clone()))
    }
}
