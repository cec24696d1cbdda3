//! What became of a statement's write: waited for by its caller, decided by the WAL loops.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::error::{Error, Result};
use crate::task::Health;

/// The shared state of one write over all its units and shards.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Units that are not yet as durable as the write wants them.
    open: AtomicUsize,
    /// Tickets in the shards' orders: all are published together.
    tickets: AtomicUsize,
    /// Rows in the WAL.
    durable: AtomicU64,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    published: bool,
    error: Option<Error>,
    /// Whether a unit is still being tried, so that nobody knows how the write ends.
    in_doubt: bool,
}

impl Outcome {
    pub(super) fn new(open: usize, tickets: usize) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(open),
            tickets: AtomicUsize::new(tickets),
            durable: AtomicU64::new(0),
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Whether nothing is left to wait for before publication.
    pub(super) fn is_ready(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0
    }

    /// A unit of `rows` rows is durable.
    pub(super) fn unit_done(&self, rows: usize) {
        self.durable.fetch_add(rows as u64, Ordering::AcqRel);
        self.decided();
    }

    /// A unit will never be durable.
    pub(super) fn unit_lost(&self) {
        self.decided();
    }

    fn decided(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_waiters();
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

    /// The write failed; the first error counts. Told when every unit is decided: then it is known what is in.
    pub(super) fn fail(&self, error: &Error) {
        self.state.lock().error.get_or_insert_with(|| error.clone());
        self.changed.notify_waiters();
    }

    /// A unit is being tried and may yet become durable. Told at once.
    pub(super) fn doubt(&self, error: &Error) {
        {
            let mut state = self.state.lock();
            state.error.get_or_insert_with(|| error.clone());
            state.in_doubt = true;
        }
        self.changed.notify_waiters();
    }

    fn error(&self) -> Option<Error> {
        self.state.lock().error.clone()
    }

    fn poll(&self) -> Option<Result<()>> {
        let state = self.state.lock();
        match (&state.error, state.published) {
            (Some(error), _) => (state.in_doubt || self.is_ready()).then(|| Err(error.clone())),
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
    /// Rows of the same statement that were acknowledged before.
    pub(super) before: u64,
    /// `None` if there is nothing to wait for.
    pub(super) outcome: Option<Arc<Outcome>>,
    pub(super) timeout: Duration,
    pub(super) health: Health,
}

impl PendingWrite {
    /// How many rows were written.
    pub fn rows(&self) -> u64 {
        self.before + self.rows
    }

    /// The same write as the end of a larger one, of which `rows` were acknowledged before.
    pub(crate) fn behind(mut self, rows: u64) -> Self {
        self.before += rows;
        self
    }

    /// Waits until the write is acknowledged as the table or session asks, and returns its number of rows.
    ///
    /// # Errors
    /// `Fenced` if the shard was claimed by another process: the rows are not in. `Indeterminate` if the storage does
    /// not tell, or not in time, or the table's tasks ended. Of a write over several units some may be in: the error
    /// says how many rows ([`Error::rows_written`]).
    pub async fn wait(mut self) -> Result<u64> {
        let Some(outcome) = self.outcome.take() else { return Ok(self.rows()) };
        let ended = tokio::select! {
            biased;
            ended = outcome.wait() => ended,
            error = self.health.failed() => outcome.poll().unwrap_or_else(|| {
                Err(Error::indeterminate("the table's tasks ended before the write was durable: it may be or not")
                    .with_source(error))
            }),
            () = tokio::time::sleep(self.timeout) => Err(outcome.error().unwrap_or_else(|| {
                Error::indeterminate("the write was not durable in time: it may still become so")
                    .with_context("timeout", humantime::format_duration(self.timeout))
            })),
        };
        ended.map_err(|error| error.with_rows_written(self.before + outcome.durable.load(Ordering::Acquire)))?;
        Ok(self.rows())
    }
}
