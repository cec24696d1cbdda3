//! Events of a table that a test can wait for.

use datafusion_lsm::error::Error;
use datafusion_lsm::events::EventListener;
use datafusion_lsm::ids::{Epoch, GenerationId, ShardId, WalPosition};
use tokio::sync::watch;

use super::soon;

/// How often each event happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) claims: u64,
    pub(crate) appends: u64,
    pub(crate) freezes: u64,
    pub(crate) flushes: u64,
    pub(crate) failed_flushes: u64,
}

/// Counts events.
#[derive(Debug, Default)]
pub(crate) struct Events(watch::Sender<Counts>);

impl Events {
    pub(crate) fn counts(&self) -> Counts {
        *self.0.borrow()
    }

    /// Waits until the counts satisfy `done`.
    pub(crate) async fn until(&self, what: &str, done: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.0.subscribe();
        *soon(what, counts.wait_for(done)).await.expect("the sender is alive")
    }

    fn note(&self, note: impl FnOnce(&mut Counts)) {
        self.0.send_modify(note);
    }
}

impl EventListener for Events {
    fn on_claim(&self, _shard: ShardId, _epoch: Epoch) {
        self.note(|c| c.claims += 1);
    }

    fn on_wal_append(&self, _shard: ShardId, _position: WalPosition, _rows: usize, _bytes: usize) {
        self.note(|c| c.appends += 1);
    }

    fn on_freeze(&self, _shard: ShardId, _generation: GenerationId, _rows: usize) {
        self.note(|c| c.freezes += 1);
    }

    fn on_flush(&self, _shard: ShardId, _generation: GenerationId, _rows: usize) {
        self.note(|c| c.flushes += 1);
    }

    fn on_flush_failed(&self, _shard: ShardId, _generation: GenerationId, _error: &Error) {
        self.note(|c| c.failed_flushes += 1);
    }
}
