//! All shards of a table, and a write over several of them: checked and appended as a whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow::array::RecordBatch;
use parking_lot::MutexGuard;
use tokio::sync::RwLock;
use tokio::time::{Instant, timeout_at};

use super::conflict::{Check, check_unchanged};
use super::outcome::{Outcome, PendingWrite};
use super::shard::{Core, Queued, ShardWriter, Ticket, WriterContext};
use super::status::Role;
use crate::cache::Reclaim;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Keys;
use crate::settings::Ack;

/// Rows of one shard that become one part of one WAL entry: all or none of them survive a crash.
#[derive(Debug, Clone)]
pub struct Unit {
    /// The shard's place in the table's sharding.
    pub shard: usize,
    /// The rows, of the stored schema.
    pub rows: RecordBatch,
    /// Their keys.
    pub keys: Keys,
    /// Their bytes.
    pub bytes: usize,
}

/// The shards of one table handle.
#[derive(Debug)]
pub struct ShardSet {
    context: Arc<WriterContext>,
    shards: Vec<Arc<ShardWriter>>,
    /// Held shared by writes and exclusively by whoever needs the table to stand still.
    pause: RwLock<()>,
    rows_written: AtomicU64,
    writes: AtomicU64,
    /// The table is being closed, or is closed.
    closing: AtomicBool,
    /// The table is about to be deleted: only what deletes it still works.
    retired: AtomicBool,
}

/// What a unit takes in the queue besides its rows.
const UNIT_BYTES: usize = 512;

impl ShardSet {
    /// The shards in the order of the table's sharding.
    pub fn new(context: Arc<WriterContext>, shards: Vec<Arc<ShardWriter>>) -> Self {
        context.publisher.attach(&shards);
        Self {
            context,
            shards,
            pause: RwLock::new(()),
            rows_written: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            retired: AtomicBool::new(false),
        }
    }

    /// The shards.
    pub fn shards(&self) -> &[Arc<ShardWriter>] {
        &self.shards
    }

    /// Writes and rows since the table was opened.
    pub fn written(&self) -> (u64, u64) {
        (self.writes.load(Ordering::Relaxed), self.rows_written.load(Ordering::Relaxed))
    }

    /// Refuses every write from now on; what was accepted goes its way.
    pub fn begin_close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Ends the writing of every shard that has not failed: another table is at the location.
    pub fn lose(&self, error: &Error) {
        let works = |shard: &&Arc<ShardWriter>| !matches!(shard.role(), Role::Failed(_));
        self.shards.iter().filter(works).for_each(|shard| shard.fail(&[], error.clone()));
    }

    /// Whether the table can be worked with: it is not closed, none of its tasks panicked, and no shard has failed but
    /// for damage that was there.
    pub fn is_usable(&self) -> bool {
        let failed = |shard: &Arc<ShardWriter>| matches!(shard.role(), Role::Failed(error) if error.kind() != ErrorKind::Corrupt);
        self.check_open().is_ok() && self.context.health.check().is_ok() && !self.shards.iter().any(failed)
    }

    /// Waits until the rows that were accepted before are visible, or cannot come to be seen; at most so long as a write
    /// may take.
    ///
    /// # Errors
    /// `Closed` if a task of the table panicked.
    pub async fn settled(&self) -> Result<()> {
        let rows_of = |shard: &Arc<ShardWriter>| {
            let core = shard.core.lock();
            core.slots.iter().map(|s| (Arc::clone(&s.memtable), s.memtable.rows())).collect::<Vec<_>>()
        };
        let accepted: Vec<_> = self.shards.iter().flat_map(rows_of).collect();
        let deadline = Instant::now() + self.context.settings.write_timeout;
        let mut health = self.context.health.clone();
        loop {
            let changed = self.context.room.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let failed = self.shards.iter().any(|s| matches!(s.role(), Role::Failed(_)));
            if failed || accepted.iter().all(|(memtable, rows)| memtable.visible() >= *rows) {
                return Ok(());
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(deadline) => return Ok(()),
                error = health.failed() => return Err(error),
            }
        }
    }

    /// Refuses every write from now on: the table is about to be deleted.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Nothing, if statements may write.
    ///
    /// # Errors
    /// `Closed`.
    pub fn check_open(&self) -> Result<()> {
        if self.retired.load(Ordering::Acquire) {
            return Err(Error::closed("the table was dropped: create it again"));
        }
        if self.closing.load(Ordering::Acquire) {
            return Err(Error::closed("the table was closed: open it again"));
        }
        Ok(())
    }

    /// Keeps every write out until the guard is dropped.
    pub async fn pause(&self) -> tokio::sync::RwLockWriteGuard<'_, ()> {
        self.pause.write().await
    }

    /// Appends `units`, all or none of them, and queues them for the WAL. They become visible together.
    ///
    /// Waiting for the result is [`PendingWrite::wait`]. If the future is dropped before it returns, nothing was
    /// written.
    ///
    /// # Errors
    /// `Conflict` if `check` does not hold; `Backpressure` if there was no room in time; what claiming the shards
    /// raises; `Closed` if the table was closed.
    pub async fn write(&self, units: Vec<Unit>, check: &Check, ack: Ack) -> Result<PendingWrite> {
        let _running = self.pause.read().await;
        self.check_open()?;
        let (timeout, health) = (self.context.settings.write_timeout, self.context.health.clone());
        let rows = units.iter().map(|u| u.rows.num_rows() as u64).sum();
        if rows == 0 {
            return Ok(PendingWrite { rows: 0, before: 0, outcome: None, timeout, health });
        }
        let mut touched: Vec<usize> = units.iter().map(|u| u.shard).collect();
        touched.sort_unstable();
        touched.dedup();
        let deadline = Instant::now() + timeout;
        let outcome = loop {
            for &shard in &touched {
                self.shards[shard].claim().await?;
            }
            self.context.settle_base().await?;
            self.wait_for_room(&touched, deadline).await?;
            if let Some(outcome) = self.append(&units, &touched, check, ack)? {
                break outcome;
            }
        };
        for &shard in &touched {
            self.shards[shard].wal_wake.notify_one();
            self.shards[shard].index_wake.notify_waiters();
        }
        if ack == Ack::Memory && outcome.is_some() {
            self.context.publisher.publish();
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.rows_written.fetch_add(rows, Ordering::Relaxed);
        Ok(PendingWrite { rows, before: 0, outcome, timeout, health })
    }

    /// Appends under the locks of all touched shards. `None` if a shard's role changed since it was claimed.
    fn append(
        &self,
        units: &[Unit],
        touched: &[usize],
        check: &Check,
        ack: Ack,
    ) -> Result<Option<Option<Arc<Outcome>>>> {
        let mut frozen = Vec::new();
        let outcome = {
            let mut cores: Vec<MutexGuard<'_, Core>> = touched.iter().map(|&s| self.shards[s].core.lock()).collect();
            if cores.iter().any(|c| !matches!(c.role, Role::Writer(_))) {
                return Ok(None);
            }
            let place = |shard: usize| touched.binary_search(&shard).expect("every unit's shard is touched");
            if let Some(snapshot) = check.snapshot() {
                let now = self.context.control.current();
                if now.replacements != snapshot.version().replacements {
                    return Err(Error::conflict(
                        "all rows of the table were replaced after the statement had read them: run it again",
                    ));
                }
                for unit in units {
                    let memtables = cores[place(unit.shard)].slots.iter().map(|s| &s.memtable);
                    check_unchanged(snapshot, &now, unit.shard, &unit.keys, memtables)?;
                }
            }
            let alone = self.shards.len() == 1
                && ack == Ack::Memory
                && units.len() == 1
                && cores[0].order.is_empty()
                && cores[0].slots.iter().all(|s| s.memtable.visible() == s.memtable.rows())
                && (!self.context.indexes.is_sync() || self.context.indexes.all().is_empty());
            let waits_for = if ack == Ack::Durable { units.len() } else { 0 };
            let outcome = (!alone).then(|| Outcome::new(waits_for, units.len()));
            for unit in units {
                let (shard, core) = (&self.shards[unit.shard], &mut *cores[place(unit.shard)]);
                if shard.is_full(core, unit.rows.num_rows(), unit.bytes) {
                    let next = core.active().generation().next();
                    shard.freeze_active(core, next);
                    frozen.push(unit.shard);
                }
                let memtable = Arc::clone(core.active());
                let end = memtable.append(unit.rows.clone(), &unit.keys, unit.bytes);
                match &outcome {
                    None => self.context.publisher.publish_now(&memtable, end),
                    Some(outcome) => core.order.push_back(Ticket {
                        memtable: Arc::clone(&memtable),
                        end,
                        outcome: Arc::clone(outcome),
                    }),
                }
                core.queued_bytes += unit.bytes + UNIT_BYTES;
                core.active_slot().waiting += 1;
                core.queue.push_back(Queued {
                    memtable,
                    rows: unit.rows.clone(),
                    bytes: unit.bytes + UNIT_BYTES,
                    outcome: outcome.clone().filter(|_| ack == Ack::Durable),
                });
            }
            for &s in touched {
                let core = &mut *cores[place(s)];
                if self.shards[s].is_full(core, 0, 0) {
                    let next = core.active().generation().next();
                    self.shards[s].freeze_active(core, next);
                    frozen.push(s);
                }
            }
            outcome
        };
        for shard in frozen {
            self.shards[shard].hand_over();
        }
        Ok(Some(outcome))
    }

    /// Waits until the queues and memtables have room.
    async fn wait_for_room(&self, touched: &[usize], deadline: Instant) -> Result<()> {
        let settings = &self.context.settings;
        let mut health = self.context.health.clone();
        loop {
            let changed = self.context.room.notified();
            let freed = self.context.budget.freed();
            tokio::pin!(changed, freed);
            changed.as_mut().enable();
            freed.as_mut().enable();
            let queue_is_full = touched.iter().any(|&s| {
                let core = self.shards[s].core.lock();
                core.queued_bytes > 0 && core.queued_bytes >= settings.wal_queue.as_usize()
            });
            let held: usize = self.shards.iter().map(|s| s.memory()).sum();
            let memory_is_full = held >= settings.memtable_limit.as_usize();
            let budget_is_full = self.context.budget.is_exhausted();
            if budget_is_full {
                self.context.budget.reclaim();
            }
            if !queue_is_full && !memory_is_full && !budget_is_full {
                return Ok(());
            }
            if memory_is_full && let Some(largest) = self.shards.iter().max_by_key(|s| s.active_memory()) {
                largest.freeze_if_alone();
            }
            let changed = async {
                tokio::select! {
                    () = changed => Ok(()),
                    () = freed => Ok(()),
                    error = health.failed() => Err(error),
                }
            };
            let Ok(changed) = timeout_at(deadline, changed).await else {
                let why = match (queue_is_full, memory_is_full) {
                    (true, _) => "the WAL is behind",
                    (_, true) => "the memtables are full and not yet flushed",
                    _ => "the tables of the process hold all the memory they may",
                };
                let error = self.shards.iter().find_map(|s| s.flush_error());
                let failure = Error::backpressure(format!("{why}: write less at a time or later"));
                return Err(match error {
                    Some(error) => failure.with_source(error),
                    None => failure,
                });
            };
            changed?;
        }
    }
}

impl Reclaim for ShardSet {
    /// Active memtables; frozen ones are on their way already.
    fn reclaimable(&self) -> usize {
        self.shards.iter().map(|s| s.active_memory()).max().unwrap_or(0)
    }

    fn reclaim(&self) {
        if let Some(largest) = self.shards.iter().max_by_key(|s| s.active_memory()) {
            largest.freeze();
        }
    }
}
