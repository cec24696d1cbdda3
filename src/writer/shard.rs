//! One shard as this process sees it: a reader of what others wrote, its writer, or what is left of a failed one.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::index_set::IndexSet;
use super::outcome::Outcome;
use super::publisher::Publisher;
use super::status::{MemTableStatus, Role, ShardStatus};
use crate::base::BaseTable;
use crate::cache::{MemoryBudget, ReadBudget};
use crate::clock::Clock;
use crate::dataset::DatasetOpener;
use crate::error::{Error, ErrorKind, Result};
use crate::events::EventListener;
use crate::ids::{GenerationId, ShardId, WalPosition};
use crate::manifest::ManifestStore;
use crate::memtable::MemTable;
use crate::metrics::TableMetrics;
use crate::schema::TableSchema;
use crate::settings::{Settings, Warmth};
use crate::store::ObjectIo;
use crate::task::{self, Health};
use crate::version::{self, FlushListener, FlushRequest, GenerationWarmer, VersionControl};
use crate::wal::{QuarantineReport, WalWriter};

/// More entries than what waits for the WAL at one time can become.
const ENTRIES_AHEAD: usize = 8;

/// What the shards of a table share.
#[derive(Debug)]
pub struct WriterContext {
    /// The table's objects.
    pub io: ObjectIo,
    /// Opens generations.
    pub opener: DatasetOpener,
    /// The table's current version.
    pub control: Arc<VersionControl>,
    /// The table's settings.
    pub settings: Settings,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Who listens.
    pub events: Arc<dyn EventListener>,
    /// Who is told figures.
    pub metrics: Arc<TableMetrics>,
    /// The columns.
    pub schema: Arc<TableSchema>,
    /// Whether the table's tasks are alive.
    pub health: Health,
    /// Makes rows visible.
    pub publisher: Publisher,
    /// A queue or a memtable shrank, or a shard failed.
    pub room: Notify,
    /// Held while it is looked for a newer base.
    pub refreshing: tokio::sync::Mutex<()>,
    /// Another version of the base was taken over.
    pub base_adopted: Notify,
    /// A commit of the base whose end nobody saw: what is known of its rows may be old.
    pub base_in_doubt: AtomicBool,
    /// What the tables of the process may hold together.
    pub budget: Arc<MemoryBudget>,
    /// What queries may have read and not yet used.
    pub read_budget: Arc<ReadBudget>,
    /// Makes the indexes of memtables.
    pub indexes: IndexSet,
    /// Prepares the generations of other processes before queries see them, once the table is open.
    pub warmer: Arc<dyn GenerationWarmer>,
    /// Whether all shards are open.
    pub is_open: AtomicBool,
}

impl WriterContext {
    /// Takes a newer base over, if there is one. Others wait for it, so it goes on though nobody polls this.
    ///
    /// # Errors
    /// `Invalid` if its columns are others; what reading raises.
    pub async fn refresh_base(self: &Arc<Self>) -> Result<()> {
        let context = Arc::clone(self);
        let refresh = async move { context.refresh_base_now().await };
        task::driven(refresh).await.flatten()
    }

    async fn refresh_base_now(&self) -> Result<()> {
        // Shards that look for the same version do not all prepare it.
        let _one_at_a_time = self.refreshing.lock().await;
        let known = Arc::clone(&self.control.current().base);
        if let Some(newer) = known.refresh().await? {
            // One that is refused is of no use to anybody.
            if newer.schema().is_same(&self.schema) {
                self.warm_base(&newer).await;
            }
            self.adopt_base(newer)?;
            self.control.release().await;
        }
        Ok(())
    }

    /// Prepares a newer base before queries see it, as far as can be in time: those of now have its predecessor's indexes
    /// open.
    async fn warm_base(&self, newer: &BaseTable) {
        let warming = version::warm_base(newer, &self.control, Warmth::Indexes, 0);
        if let Err(error) = version::in_time(version::deadline(), warming).await {
            tracing::warn!(version = newer.version(), %error, "a version of the base is not warm");
        }
    }

    /// Reads the files of the base as they are, up to what is kept of files: after it was taken over, since that may take
    /// long.
    pub async fn read_base(&self) {
        let base = Arc::clone(&self.control.current().base);
        let most = self.opener.cache_capacity(self.io.uri());
        if let Err(error) = version::warm_base(&base, &self.control, Warmth::All, most).await {
            tracing::warn!(version = base.version(), %error, "a version of the base was not read ahead of queries");
        }
    }

    /// Takes over a newer base, and the indexes that it declares.
    ///
    /// # Errors
    /// `Invalid` if its columns are others, or it declares what cannot be.
    pub fn adopt_base(&self, newer: Arc<BaseTable>) -> Result<()> {
        if !newer.schema().is_same(&self.schema) {
            return Err(Error::invalid("the columns of the table were changed: open it again")
                .with_context("version", newer.version()));
        }
        let version = newer.version();
        self.publisher.adopt_base(newer);
        self.base_adopted.notify_one();
        self.adopt_indexes()?;
        self.events.on_base_refresh(version);
        Ok(())
    }

    /// Reads the base again if a commit of this handle ended unseen: before a write relies on what is known of it.
    ///
    /// # Errors
    /// As [`refresh_base`](Self::refresh_base).
    pub async fn settle_base(self: &Arc<Self>) -> Result<()> {
        if self.base_in_doubt.load(Ordering::Acquire) {
            self.refresh_base().await?;
            self.base_in_doubt.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// An empty memtable.
    pub fn memtable(&self, generation: GenerationId) -> Arc<MemTable> {
        let lease = self.budget.lease();
        let memtable = MemTable::new(generation, Arc::clone(&self.schema), self.clock.now(), lease);
        memtable.set_indexes(&self.indexes.all(), self.indexes.is_sync());
        Arc::new(memtable)
    }

    /// Gives the memtables the indexes that the base declares by now.
    ///
    /// # Errors
    /// `Invalid` if one cannot be.
    pub fn adopt_indexes(&self) -> Result<()> {
        let (base, sync) = (|| Arc::clone(&self.control.current().base), self.indexes.is_sync());
        self.indexes.adopt(base, |all| self.publisher.set_indexes(all, sync))?;
        self.room.notify_waiters();
        Ok(())
    }
}

/// A memtable and where its rows are in the WAL.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) memtable: Arc<MemTable>,
    /// Entries that hold rows of it, and the last of them.
    pub(super) entries: usize,
    pub(super) last: WalPosition,
    /// Units of it that wait for the WAL or are being written.
    pub(super) waiting: usize,
    /// Whether it was handed to the flusher.
    pub(super) handed_over: bool,
    pub(super) flush_error: Option<Error>,
}

impl Slot {
    pub(super) fn new(memtable: Arc<MemTable>) -> Self {
        Self { memtable, entries: 0, last: WalPosition(0), waiting: 0, handed_over: false, flush_error: None }
    }
}

/// A unit on its way to the WAL.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) memtable: Arc<MemTable>,
    pub(super) rows: RecordBatch,
    pub(super) bytes: usize,
    /// Whom to tell; `None` if nobody waits for durability.
    pub(super) outcome: Option<Arc<Outcome>>,
}

/// Rows that are appended and not yet visible.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) memtable: Arc<MemTable>,
    pub(super) end: usize,
    pub(super) outcome: Arc<Outcome>,
}

impl Ticket {
    /// Whether the rows are as durable as their writer wants them, and indexed.
    pub(super) fn is_ready(&self) -> bool {
        self.outcome.is_ready() && self.memtable.indexed() >= self.end
    }
}

/// What the shard's lock guards.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) role: Role,
    /// Oldest first; the last one is active.
    pub(super) slots: VecDeque<Slot>,
    pub(super) queue: VecDeque<Queued>,
    pub(super) queued_bytes: usize,
    /// Whether a group is on its way to the WAL.
    pub(super) in_flight: bool,
    /// Appended rows in order: they become visible in this order.
    pub(super) order: VecDeque<Ticket>,
    /// The next WAL slot to read (as a reader) or write (as the writer).
    pub(super) next_position: WalPosition,
    /// Every entry up to this one holds rows of memtables that are gone or in `slots`.
    pub(super) last_position: WalPosition,
    /// What was moved aside since the table was opened.
    pub(super) quarantined: Vec<QuarantineReport>,
    /// Memtables that were frozen, how many rows they have and how long that took, for those who listen: told without
    /// this lock.
    pub(super) frozen: Vec<(GenerationId, usize, Duration)>,
}

impl Core {
    pub(super) fn active(&self) -> &Arc<MemTable> {
        &self.slots.back().expect("a shard has an active memtable").memtable
    }

    pub(super) fn active_slot(&mut self) -> &mut Slot {
        self.slots.back_mut().expect("a shard has an active memtable")
    }

    pub(super) fn slot(&mut self, memtable: &MemTable) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|s| s.memtable.instance() == memtable.instance())
    }

    /// Bytes held by the shard's memtables.
    pub(super) fn memory(&self) -> usize {
        self.slots.iter().map(|s| s.memtable.memory()).sum()
    }
}

/// The shard of one table handle.
pub struct ShardWriter {
    pub(super) index: usize,
    pub(super) shard: ShardId,
    pub(super) spec_id: u32,
    pub(super) context: Arc<WriterContext>,
    pub(super) manifest: Arc<ManifestStore>,
    pub(super) core: Mutex<Core>,
    /// One claim or refresh at a time.
    pub(super) claiming: tokio::sync::Mutex<()>,
    /// Something was queued for the WAL, or the role changed.
    pub(super) wal_wake: Notify,
    /// Rows were appended.
    pub(super) index_wake: Notify,
    pub(super) flusher: mpsc::UnboundedSender<FlushRequest>,
    /// The WAL writer between the claim and the WAL loop.
    pub(super) appender: Mutex<Option<WalWriter>>,
}

impl fmt::Debug for ShardWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardWriter").field("shard", &self.shard).finish_non_exhaustive()
    }
}

impl ShardWriter {
    /// A shard whose version has the empty memtable `active`; `replay_from` is the first WAL slot to read. Frozen
    /// memtables go to `flusher`.
    pub fn new(
        index: usize,
        spec_id: u32,
        context: Arc<WriterContext>,
        manifest: Arc<ManifestStore>,
        active: Arc<MemTable>,
        replay_from: WalPosition,
        flusher: mpsc::UnboundedSender<FlushRequest>,
    ) -> Arc<Self> {
        let slot = Slot::new(active);
        Arc::new(Self {
            index,
            shard: manifest.shard(),
            spec_id,
            context,
            manifest,
            core: Mutex::new(Core {
                role: Role::Reader,
                slots: VecDeque::from([slot]),
                queue: VecDeque::new(),
                queued_bytes: 0,
                in_flight: false,
                order: VecDeque::new(),
                next_position: replay_from,
                last_position: WalPosition(replay_from.0.saturating_sub(1)),
                quarantined: Vec::new(),
                frozen: Vec::new(),
            }),
            claiming: tokio::sync::Mutex::new(()),
            wal_wake: Notify::new(),
            index_wake: Notify::new(),
            flusher,
            appender: Mutex::new(None),
        })
    }

    /// The shard's identity.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The shard's manifests.
    pub fn manifest(&self) -> &Arc<ManifestStore> {
        &self.manifest
    }

    /// What this process may do with the shard.
    pub fn role(&self) -> Role {
        self.core.lock().role.clone()
    }

    /// The shard's state for people.
    pub fn status(&self) -> ShardStatus {
        let core = self.core.lock();
        ShardStatus {
            shard: self.shard,
            role: core.role.clone(),
            next_position: core.next_position,
            queued: (core.queue.len(), core.queued_bytes),
            memtables: core
                .slots
                .iter()
                .map(|s| MemTableStatus {
                    memtable: Arc::clone(&s.memtable),
                    entries: s.entries,
                    flush_error: s.flush_error.clone(),
                })
                .collect(),
            quarantined: core.quarantined.clone(),
        }
    }

    /// Bytes held by the shard's memtables.
    pub fn memory(&self) -> usize {
        self.core.lock().memory()
    }

    /// Freezes the active memtable if it has rows: an instant swap; the WAL catches up later. Only a writer freezes.
    pub fn freeze(self: &Arc<Self>) {
        let mut core = self.core.lock();
        if matches!(core.role, Role::Writer(_)) && core.active().rows() > 0 {
            let next = core.active().generation().next();
            self.freeze_active(&mut core, next);
        }
        drop(core);
        self.hand_over();
    }

    /// Ends the shard: nothing can be written any more. Returns why accepted rows are not in the WAL, if some are not.
    pub fn close(&self) -> Option<Error> {
        let mut core = self.core.lock();
        let lost = match &core.role {
            Role::Failed(error) if error.kind() != ErrorKind::Corrupt => Some(error.clone()),
            _ => None,
        };
        core.role = Role::Failed(Error::closed("the table was closed: open it again"));
        drop(core);
        self.context.room.notify_waiters();
        lost
    }

    /// Bytes held by the active memtable, if it has rows that a flush would free.
    pub(super) fn active_memory(&self) -> usize {
        let core = self.core.lock();
        let flushable = matches!(core.role, Role::Writer(_)) && core.active().rows() > 0;
        if flushable { core.active().memory() } else { 0 }
    }

    /// Rows in the shard's memtables.
    pub fn memory_rows(&self) -> usize {
        self.core.lock().slots.iter().map(|s| s.memtable.rows()).sum()
    }

    /// Freezes the active memtable unless one is on its way already: what to do when memory is short.
    pub(super) fn freeze_if_alone(self: &Arc<Self>) {
        let alone = self.core.lock().slots.len() == 1;
        if alone {
            self.freeze();
        }
    }

    /// Why the oldest memtable is not flushed.
    pub(super) fn flush_error(&self) -> Option<Error> {
        self.core.lock().slots.iter().find_map(|s| s.flush_error.clone())
    }

    /// Whether the active memtable has no room for another `rows` rows of `bytes` bytes, or is too old.
    pub(super) fn is_full(&self, core: &Core, rows: usize, bytes: usize) -> bool {
        let Some(slot) = core.slots.back().filter(|s| s.memtable.rows() > 0) else { return false };
        let (settings, memtable) = (&self.context.settings, &slot.memtable);
        // What waits becomes at most a few entries: a group takes all of it up to its own limits.
        memtable.rows() + rows > settings.memtable_rows
            || memtable.row_bytes() + bytes > settings.memtable_bytes.as_usize()
            || slot.entries + slot.waiting.min(ENTRIES_AHEAD) >= settings.memtable_entries
            || settings
                .memtable_age
                .is_some_and(|age| self.context.clock.now().saturating_sub(memtable.created()) >= age)
    }

    /// Freezes the active memtable: swaps in an empty one for generation `next`.
    pub(super) fn freeze_active(&self, core: &mut Core, next: GenerationId) {
        let since = Instant::now();
        let old = Arc::clone(core.active());
        old.freeze();
        let active = self.context.memtable(next);
        core.slots.push_back(Slot::new(Arc::clone(&active)));
        self.context.control.update(|version| {
            let shard = &mut version.shards[self.index];
            shard.frozen.insert(0, std::mem::replace(&mut shard.active, active));
        });
        core.frozen.push((old.generation(), old.rows(), since.elapsed()));
        // Its indexes are complete once they have its rows.
        self.index_wake.notify_waiters();
    }

    /// Tells the listener of memtables that were frozen.
    pub(super) fn tell_frozen(&self) {
        let frozen = std::mem::take(&mut self.core.lock().frozen);
        for (generation, rows, took) in frozen {
            self.context.metrics.frozen(took);
            let table = self.context.io.uri();
            tracing::debug!(table, shard = %self.shard, %generation, rows, ?took, "froze a memtable");
            self.context.events.on_freeze(self.shard, generation, rows);
        }
    }

    /// Hands frozen memtables whose rows are all in the WAL to the flusher, oldest first.
    pub(super) fn hand_over(self: &Arc<Self>) {
        self.tell_frozen();
        let mut core = self.core.lock();
        let (Role::Writer(epoch) | Role::Claiming(epoch)) = core.role else { return };
        let last_seen = core.last_position;
        let frozen = core.slots.len() - 1;
        for i in 0..frozen {
            let slot = &mut core.slots[i];
            // A generation shows all its rows: those of a write that is not published yet must not be among them.
            if slot.waiting > 0 || slot.memtable.visible() < slot.memtable.rows() {
                break;
            }
            if slot.handed_over {
                continue;
            }
            slot.handed_over = true;
            let request = FlushRequest {
                shard: self.shard,
                index: self.index,
                memtable: Arc::clone(&slot.memtable),
                epoch,
                covered: slot.last,
                last_seen,
                listener: Arc::clone(self) as Arc<dyn FlushListener>,
            };
            // A closed channel means that the table is closing: the rows are in the WAL.
            let _ = self.flusher.send(request);
        }
    }

    /// Waits until the memtables that are frozen now are generations.
    ///
    /// # Errors
    /// The last error of a flush that keeps failing until `timeout`, or what ended the shard.
    pub async fn drained(&self, timeout: Duration) -> Result<()> {
        let frozen: Vec<u64> = {
            let core = self.core.lock();
            core.slots.iter().rev().skip(1).map(|s| s.memtable.instance()).collect()
        };
        let wait = async {
            loop {
                let changed = self.context.room.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                {
                    let core = self.core.lock();
                    if let Role::Failed(error) = &core.role {
                        return Err(error.clone());
                    }
                    if !core.slots.iter().any(|s| frozen.contains(&s.memtable.instance())) {
                        return Ok(());
                    }
                }
                changed.await;
            }
        };
        let mut health = self.context.health.clone();
        let failed = async move { Err(health.failed().await) };
        let both = async {
            tokio::select! { done = wait => done, failed = failed => failed }
        };
        match tokio::time::timeout(timeout, both).await {
            Ok(result) => result,
            Err(_) => {
                let error = self.core.lock().slots.iter().find_map(|s| s.flush_error.clone());
                Err(error.unwrap_or_else(|| Error::unavailable("the flush did not finish in time: try again")))
            }
        }
    }
}

impl FlushListener for ShardWriter {
    fn flushed(&self, memtable: &Arc<MemTable>) {
        let mut core = self.core.lock();
        core.slots.retain(|s| s.memtable.instance() != memtable.instance());
        drop(core);
        self.context.room.notify_waiters();
    }

    fn flush_failed(&self, memtable: &Arc<MemTable>, error: &Error, finally: bool) {
        let mut core = self.core.lock();
        if let Some(slot) = core.slot(memtable) {
            slot.flush_error = Some(error.clone());
        }
        drop(core);
        if finally {
            self.fail(&[], error.clone());
        }
        self.context.events.on_flush_failed(self.shard, memtable.generation(), error);
        self.context.room.notify_waiters();
    }
}
