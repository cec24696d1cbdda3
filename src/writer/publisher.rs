//! Makes appended rows visible: in the order of each shard's writes, and those of one write together.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::outcome::Outcome;
use super::shard::{ShardWriter, Ticket};
use crate::memtable::MemTable;
use crate::version::VersionControl;

/// Publishes the rows of one table.
#[derive(Debug)]
pub struct Publisher {
    control: Arc<VersionControl>,
    shards: OnceLock<Vec<Weak<ShardWriter>>>,
    publishing: Mutex<()>,
}

impl Publisher {
    /// A publisher for the table of `control`.
    pub fn new(control: Arc<VersionControl>) -> Self {
        Self { control, shards: OnceLock::new(), publishing: Mutex::new(()) }
    }

    /// Tells it the table's shards, once.
    pub(super) fn attach(&self, shards: &[Arc<ShardWriter>]) {
        // A second call would be for the same table.
        let _ = self.shards.set(shards.iter().map(Arc::downgrade).collect());
    }

    /// Publishes whatever is ready.
    pub(super) fn publish(&self) {
        let Some(shards) = self.shards.get() else { return };
        let shards: Vec<Arc<ShardWriter>> = shards.iter().filter_map(Weak::upgrade).collect();
        let _in_order = self.publishing.lock();
        let ready = ready_prefixes(&shards);
        let mut tickets: Vec<Ticket> = Vec::new();
        for (shard, count) in shards.iter().zip(ready) {
            tickets.extend(shard.core.lock().order.drain(..count));
        }
        self.control.publish(tickets.iter().map(|t| (&t.memtable, t.end)));
        for ticket in &tickets {
            ticket.outcome.published();
        }
    }

    /// Publishes rows that nothing is before.
    pub(super) fn publish_now(&self, memtable: &Arc<MemTable>, watermark: usize) {
        self.control.publish([(memtable, watermark)]);
    }
}

/// For each shard how many tickets at its front can be published: those of ready writes, all of whose tickets can be.
fn ready_prefixes(shards: &[Arc<ShardWriter>]) -> Vec<usize> {
    let mut blocked: HashSet<*const Outcome> = HashSet::new();
    loop {
        let mut found: HashMap<*const Outcome, (usize, usize)> = HashMap::new();
        let prefixes = shards
            .iter()
            .map(|shard| {
                let core = shard.core.lock();
                let ready =
                    core.order.iter().take_while(|t| t.is_ready() && !blocked.contains(&Arc::as_ptr(&t.outcome)));
                let mut count = 0;
                for ticket in ready {
                    found.entry(Arc::as_ptr(&ticket.outcome)).or_insert((0, ticket.outcome.tickets())).0 += 1;
                    count += 1;
                }
                count
            })
            .collect();
        let incomplete: Vec<_> = found.iter().filter(|(_, (n, all))| n < all).map(|(outcome, _)| *outcome).collect();
        if incomplete.is_empty() {
            return prefixes;
        }
        blocked.extend(incomplete);
    }
}
