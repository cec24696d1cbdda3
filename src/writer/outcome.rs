//! What became of a statement's write: waited for by its caller, decided by the WAL loops.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::error::{Error, Result};

/// The shared state of one write over all its units and shards.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Units that are not yet as durable as the write wants them.
    open: AtomicUsize,
    /// Tickets in the shards' orders: all are published together.
    tickets: AtomicUsize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    published: bool,
    error: Option<Error>,
}

impl Outcome {
    pub(super) fn new(open: usize, tickets: usize) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(open),
            tickets: AtomicUsize::new(tickets),
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Whether nothing is left to wait for before publication.
    pub(super) fn is_ready(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0
    }

    /// A unit is durable, or will never be.
    pub(super) fn unit_done(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }

    /// How many tickets there are to publish.
    pub(super) fn tickets(&self) -> usize {
        self.tickets.load(Ordering::Acquire)
    }

    /// A ticket's shard failed: its rows never become visible.
    pub(super) fn drop_ticket(&self) {
        self.tickets.fetch_sub(1, Ordering::AcqRel);
    }

    /// The rows are visible.
    pub(super) fn published(&self) {
        self.state.lock().published = true;
        self.changed.notify_waiters();
    }

    /// The write failed, or is in doubt; the first error counts.
    pub(super) fn fail(&self, error: &Error) {
        self.state.lock().error.get_or_insert_with(|| error.clone());
        self.changed.notify_waiters();
    }

    fn poll(&self) -> Option<Result<()>> {
        let state = self.state.lock();
        match (&state.error, state.published) {
            (Some(error), _) => Some(Err(error.clone())),
            (None, true) => Some(Ok(())),
            (None, false) => None,
        }
    }

    async fn wait(&self) -> Result<()> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(result) = self.poll() {
                return result;
            }
            changed.await;
        }
    }
}

/// A write that was accepted and is on its way.
#[derive(Debug)]
#[must_use = "a write is acknowledged only when it was waited for"]
pub struct PendingWrite {
    pub(super) rows: u64,
    /// `None` if there is nothing to wait for.
    pub(super) outcome: Option<Arc<Outcome>>,
    pub(super) timeout: Duration,
}

impl PendingWrite {
    /// How many rows were written.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The same write as the end of a larger one, of which `rows` were acknowledged before.
    pub(crate) fn behind(mut self, rows: u64) -> Self {
        self.rows += rows;
        self
    }

    /// Waits until the write is acknowledged as the table or session asks, and returns its number of rows.
    ///
    /// # Errors
    /// `Fenced` if the shard was claimed by another process: the rows are not in. `Indeterminate` if the storage does
    /// not tell, or not in time.
    pub async fn wait(self) -> Result<u64> {
        if let Some(outcome) = &self.outcome {
            tokio::time::timeout(self.timeout, outcome.wait()).await.unwrap_or_else(|_| {
                Err(Error::indeterminate("the write was not durable in time: it may still become so")
                    .with_context("timeout", humantime::format_duration(self.timeout)))
            })?;
        }
        Ok(self.rows)
    }
}
