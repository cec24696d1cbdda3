//! Makes appended rows visible: in the order of each shard's writes, and those of one write together.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, MutexGuard};

use super::outcome::Outcome;
use super::shard::{Core, ShardWriter, Ticket};
use crate::base::BaseTable;
use crate::memtable::{MemTable, RowIndexFactory};
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

    fn shards(&self) -> Vec<Arc<ShardWriter>> {
        self.shards.get().into_iter().flatten().filter_map(Weak::upgrade).collect()
    }

    /// Publishes whatever is ready, and lets go to the flusher what is complete by that.
    pub(super) fn publish(&self) {
        let shards = self.shards();
        {
            let _in_order = self.publishing.lock();
            let ready = ready_prefixes(&shards);
            let mut tickets: Vec<Ticket> = Vec::new();
            // One watermark a memtable: a write of several units is seen as a whole.
            let mut watermarks: Vec<(Arc<MemTable>, usize)> = Vec::new();
            for (shard, count) in shards.iter().zip(ready) {
                for ticket in shard.core.lock().order.drain(..count) {
                    match watermarks.last_mut().filter(|(m, _)| Arc::ptr_eq(m, &ticket.memtable)) {
                        Some((_, watermark)) => *watermark = ticket.end,
                        None => watermarks.push((Arc::clone(&ticket.memtable), ticket.end)),
                    }
                    tickets.push(ticket);
                }
            }
            self.control.publish(watermarks.iter().map(|(memtable, watermark)| (memtable, *watermark)));
            for ticket in &tickets {
                ticket.outcome.published();
            }
        }
        for shard in &shards {
            shard.hand_over();
        }
    }

    /// Takes the chosen tickets of a shard that failed out of its order, while nothing is being published.
    pub(super) fn withdraw(&self, shard: &ShardWriter, choose: impl Fn(&Ticket) -> bool) -> Vec<Ticket> {
        let _in_order = self.publishing.lock();
        let mut core = shard.core.lock();
        let (withdrawn, kept): (VecDeque<Ticket>, VecDeque<Ticket>) =
            core.order.drain(..).partition(|ticket| choose(ticket));
        core.order = kept;
        withdrawn.into()
    }

    /// Takes another version of the base and drops what it contains of generations and of memtables that were read from
    /// other processes' WALs, in one step.
    pub(super) fn adopt_base(&self, newer: Arc<BaseTable>) {
        let shards = self.shards();
        let mut cores: Vec<MutexGuard<'_, Core>> = shards.iter().map(|s| s.core.lock()).collect();
        for (shard, core) in shards.iter().zip(&mut cores) {
            let compacted = newer.compacted(shard.shard());
            core.slots.retain(|s| s.memtable.generation() > compacted);
            if core.slots.is_empty() {
                core.slots.push_back(shard.new_slot(compacted.next()));
            }
        }
        self.control.update(|version| {
            if newer.version() <= version.base.version() {
                return;
            }
            let other_rows = !newer.has_rows_of(&version.base);
            for (shard, core) in version.shards.iter_mut().zip(&cores) {
                let compacted = newer.compacted(shard.shard);
                // One that was flushed this moment is a generation already, though its shard has yet to let go of it.
                let flushed: Vec<_> = shard.generations.iter().map(|g| g.id()).collect();
                shard.generations.retain(|g| g.id() > compacted);
                // Which rows came or went, nobody says.
                shard.foreign_changes += u64::from(other_rows);
                let mut memtables = core.slots.iter().rev().map(|s| Arc::clone(&s.memtable));
                shard.active = memtables.next().expect("a shard has an active memtable");
                shard.frozen = memtables.filter(|m| !flushed.contains(&m.generation())).collect();
            }
            version.base = newer;
        });
    }

    /// Makes these the indexes of every memtable; nobody waits any more for one that is gone.
    pub(super) fn set_indexes(&self, all: &[Arc<dyn RowIndexFactory>], sync: bool) {
        for shard in self.shards() {
            shard.core.lock().slots.iter().for_each(|slot| slot.memtable.set_indexes(all, sync));
            shard.index_wake.notify_waiters();
        }
        self.publish();
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
