//! Reading what others wrote: generations from the manifest, then the WAL behind them into memtables.
//!
//! A reader does this to open and to refresh, a writer to take over. Replayed rows are durable, so they are visible at
//! once. A writer flushes on the way when memory runs out; a reader holds what its writer holds.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future::{BoxFuture, join, try_join};
use futures::{StreamExt, TryStreamExt, stream};
use tracing::Instrument;

use super::shard::{Core, ShardWriter, Slot};
use super::status::Role;
use crate::dataset::conform;
use crate::error::{Error, ErrorKind, Result};
use crate::generation::{self, Generation, GenerationRecord};
use crate::ids::{Epoch, GenerationId, WalPosition};
use crate::manifest::ShardManifest;
use crate::memtable::MemTable;
use crate::size::row_bytes;
use crate::version;
use crate::wal::{self, WalEntry, WalReader};

/// Generations opened at once: each is one request, for little.
const OPENING: usize = 32;
/// WAL entries requested at once.
const PREFETCH: usize = 16;

impl ShardWriter {
    /// Brings this process up to what is stored. As a reader, `epoch` is `None`; whoever takes the shard over gives its
    /// own. `known` is a WAL slot that is known to be taken: the WAL does not end before it. The caller holds `claiming`.
    ///
    /// # Errors
    /// `Fenced` if an entry is of a later epoch than `epoch`; `Corrupt`, naming the object, if something is damaged;
    /// `Unavailable` if the storage fails.
    pub(super) async fn catch_up(self: &Arc<Self>, epoch: Option<Epoch>, known: WalPosition) -> Result<()> {
        let span = tracing::debug_span!("lsm.replay", table = self.context.io.uri(), shard = %self.shard);
        self.catch_up_now(epoch, known).instrument(span).await
    }

    async fn catch_up_now(self: &Arc<Self>, epoch: Option<Epoch>, known: WalPosition) -> Result<()> {
        let manifest = self.manifest.latest().await?;
        Box::pin(self.follow(manifest, epoch, known)).await
    }

    /// Reads what `manifest`, the newest there is, says, and the WAL behind it. What is missing of that may have been
    /// deleted since by a process that committed another manifest: then that one tells where the rows are.
    async fn follow(
        self: &Arc<Self>,
        manifest: Option<Arc<ShardManifest>>,
        epoch: Option<Epoch>,
        known: WalPosition,
    ) -> Result<()> {
        let version = |manifest: &Option<Arc<ShardManifest>>| manifest.as_ref().map(|manifest| manifest.version);
        let followed = version(&manifest);
        let error = match self.follow_once(manifest, epoch, known).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => error,
            other => return other,
        };
        match self.manifest.latest().await {
            Ok(newer) if version(&newer) > followed => {
                tracing::debug!(shard = %self.shard, %error, "the manifest is another one by now");
                self.follow_once(newer, epoch, known).await
            }
            _ => Err(error),
        }
    }

    async fn follow_once(
        self: &Arc<Self>,
        manifest: Option<Arc<ShardManifest>>,
        epoch: Option<Epoch>,
        known: WalPosition,
    ) -> Result<()> {
        let current = manifest.as_ref().map_or(GenerationId(1), |m| GenerationId(m.current_generation));
        if let Some(manifest) = &manifest
            && self.base_is_older_than(manifest)
        {
            self.context.refresh_base().await?;
        }
        // While generations are opened the WAL is asked for already.
        let from = self.core.lock().next_position.max(manifest.as_ref().map_or(WalPosition(0), |m| replayed(m).next()));
        let mut reader = WalReader::new(self.context.io.clone(), self.shard, from, PREFETCH).knowing(known);
        let mut next = match &manifest {
            None => reader.next().await?,
            Some(manifest) => {
                let (generations, first) = join(self.open_generations(manifest), reader.next()).await;
                self.adopt(manifest, generations?);
                self.context.control.release().await;
                first?
            }
        };
        while let Some(entry) = next {
            if let Some(epoch) = epoch
                && entry.epoch > epoch
            {
                return Err(Error::fenced(
                    "another process claimed the shard: open the table again if this one should write",
                )
                .with_context("shard", self.shard)
                .with_context("epoch", epoch)
                .with_context("owner", entry.epoch));
            }
            self.replay(entry, current)?;
            if epoch.is_some() {
                self.hand_over();
                self.wait_for_memory().await?;
            }
            next = reader.next().await?;
        }
        self.tell_frozen();
        Ok(())
    }

    /// As a reader, looks for what the writer did since; as the writer there is nothing to look for. What is missing
    /// behind the last entry that was read is taken for the end here: opening and claiming look closer.
    ///
    /// # Errors
    /// As opening.
    pub async fn refresh(self: &Arc<Self>) -> Result<()> {
        let _one_at_a_time = self.claiming.lock().await;
        match self.role() {
            // Whose claim is unfinished reads what a predecessor that is not fenced yet still writes.
            Role::Reader | Role::Claiming(_) => self.catch_up(None, WalPosition(0)).await,
            Role::Writer(_) => Ok(()),
            Role::Failed(error) => Err(error),
        }
    }

    /// As a reader, catches up with all that a listing shows: a WAL of which entries are missing does not seem shorter
    /// than it is. The caller holds `claiming`.
    pub(super) async fn catch_up_with_listing(self: &Arc<Self>) -> Result<()> {
        let (known, manifest) = try_join(wal::last(&self.context.io, self.shard), self.manifest.latest()).await?;
        Box::pin(self.follow(manifest, None, known)).await
    }

    /// Whether generations left the manifest that the known base does not contain: then there is a newer base.
    fn base_is_older_than(&self, manifest: &ShardManifest) -> bool {
        let compacted = self.context.control.with(|v| v.base.compacted(self.shard)).0;
        let oldest = manifest.sstables.iter().map(|t| t.generation).min().unwrap_or(manifest.current_generation);
        oldest > compacted + 1
    }

    /// Opens those generations of `manifest` that are not open: all that are not in the base, newest first.
    async fn open_generations(&self, manifest: &ShardManifest) -> Result<Vec<Arc<Generation>>> {
        let version = self.context.control.current();
        let compacted = version.base.compacted(self.shard);
        let known = &version.shards[self.index].generations;
        let is_open = self.context.is_open.load(Ordering::Acquire);
        let mut opening: Vec<BoxFuture<'static, Result<Arc<Generation>>>> = Vec::new();
        for table in manifest.sstables.iter().filter(|t| GenerationId(t.generation) > compacted) {
            let record = GenerationRecord {
                id: GenerationId(table.generation),
                path: table.path.clone(),
                bytes: table.in_memory_bytes,
                rows: table.physical_rows,
                key_bytes: table.primary_key_bytes,
            };
            let known = known.iter().find(|g| g.id() == record.id).cloned();
            // Shards of whatever table is here have the same names; generations have random ones.
            if known.as_ref().is_some_and(|known| known.record().path != record.path) {
                return Err(Error::fenced("the table was dropped: if it was created again, open it again")
                    .with_context("location", self.context.io.uri())
                    .with_context("shard", self.shard));
            }
            let (context, shard) = (Arc::clone(&self.context), self.shard);
            opening.push(Box::pin(async move {
                match known {
                    Some(generation) => Ok(generation),
                    None => {
                        if context.settings.verify {
                            generation::verify(&context.io, shard, &record).await?;
                        }
                        let uri = context.io.uri();
                        let opened = Generation::open(&context.opener, uri, shard, &record, &context.schema).await?;
                        if is_open {
                            let (warmer, deadline) = (context.warmer.as_ref(), version::deadline());
                            version::warm(warmer, shard, &opened, &context.control, deadline).await;
                        }
                        Ok(opened)
                    }
                }
            }));
        }
        let mut generations: Vec<Arc<Generation>> = stream::iter(opening).buffered(OPENING).try_collect().await?;
        generations.sort_by_key(|g| std::cmp::Reverse(g.id()));
        Ok(generations)
    }

    /// Takes the generations of `manifest` into the version and drops the memtables they came from, in one step.
    fn adopt(&self, manifest: &ShardManifest, generations: Vec<Arc<Generation>>) {
        let current = GenerationId(manifest.current_generation);
        let mut core = self.core.lock();
        let dropped = core.slots.iter().any(|s| s.memtable.generation() < current && s.memtable.rows() > 0);
        core.slots.retain(|s| s.memtable.generation() >= current);
        if core.slots.is_empty() {
            core.slots.push_back(self.new_slot(current));
        }
        core.next_position = core.next_position.max(replayed(manifest).next());
        core.last_position = core.last_position.max(replayed(manifest));
        let memtables: Vec<Arc<MemTable>> = core.slots.iter().rev().map(|s| Arc::clone(&s.memtable)).collect();
        self.context.control.update(|version| {
            let compacted = version.base.compacted(self.shard);
            let shard = &mut version.shards[self.index];
            // What this process flushed since the manifest was read stays.
            let mut now: Vec<_> = shard.generations.iter().filter(|g| g.id() >= current).cloned().collect();
            now.extend(generations.into_iter().filter(|g| g.id() > compacted));
            let foreign = now.iter().any(|g| shard.generations.iter().all(|known| known.id() != g.id()));
            shard.foreign_changes += u64::from(foreign || dropped);
            shard.generations = now;
            shard.active = Arc::clone(&memtables[0]);
            let is_flushed = |m: &Arc<MemTable>| shard.generations.iter().any(|g| g.id() == m.generation());
            shard.frozen = memtables[1..].iter().filter(|m| !is_flushed(m)).cloned().collect();
        });
    }

    pub(super) fn new_slot(&self, generation: GenerationId) -> Slot {
        Slot::new(self.context.memtable(generation))
    }

    /// Applies one entry; those of generations before `current` are flushed.
    fn replay(&self, entry: WalEntry, current: GenerationId) -> Result<()> {
        let mut core = self.core.lock();
        let generation = entry.generation.unwrap_or(core.active().generation());
        if entry.sentinel || generation < current {
            core.read(entry.position);
            return Ok(());
        }
        if generation < core.active().generation() {
            return Err(Error::corrupt("a WAL entry belongs to an older memtable than the entry before it")
                .with_context("shard", self.shard)
                .with_context("position", entry.position));
        }
        let batches = conform(&self.context.schema, &entry.schema, entry.batches).map_err(|error| {
            let error = match error.kind() {
                ErrorKind::Invalid => {
                    Error::corrupt("a WAL entry holds rows that are not the table's").with_source(error)
                }
                _ => error,
            };
            error.with_context("shard", self.shard).with_context("position", entry.position)
        })?;
        let rows: usize = batches.iter().map(|b| b.num_rows()).sum();
        if generation > core.active().generation() {
            self.start_generation(&mut core, generation);
        } else if entry.generation.is_none() && self.is_full(&core, rows, 0) {
            let next = generation.next();
            self.start_generation(&mut core, next);
        }
        let active = Arc::clone(core.active());
        for batch in batches {
            let keys = self.context.schema.key().of_batch(&batch)?;
            let bytes = row_bytes(&batch);
            active.append(batch, &keys, bytes);
        }
        let slot = core.active_slot();
        slot.entries += 1;
        slot.last = entry.position;
        core.read(entry.position);
        self.context.control.publish([(&active, active.rows())]);
        self.index_wake.notify_waiters();
        Ok(())
    }

    /// Makes the active memtable one of `generation`: in place of an empty one, behind one with rows.
    fn start_generation(&self, core: &mut Core, generation: GenerationId) {
        if core.active().rows() > 0 {
            self.freeze_active(core, generation);
            return;
        }
        let slot = self.new_slot(generation);
        let active = Arc::clone(&slot.memtable);
        *core.active_slot() = slot;
        self.context.control.update(|version| version.shards[self.index].active = active);
    }

    async fn wait_for_memory(&self) -> Result<()> {
        let limit = self.context.settings.memtable_limit.as_usize();
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
                    if core.slots.len() == 1 || core.memory() < limit {
                        return Ok(());
                    }
                }
                changed.await;
            }
        };
        tokio::time::timeout(self.context.settings.write_timeout, wait).await.unwrap_or_else(|_| {
            let failure =
                Error::backpressure("what was replayed fills the memory and is not flushed in time: try again");
            Err(match self.flush_error() {
                Some(error) => failure.with_source(error),
                None => failure,
            })
        })
    }
}

/// The last WAL entry whose rows are in generations.
fn replayed(manifest: &ShardManifest) -> WalPosition {
    WalPosition(manifest.replay_after_wal_entry_position)
}

impl Core {
    /// The entry at `position` was read.
    fn read(&mut self, position: WalPosition) {
        self.last_position = position;
        self.next_position = position.next();
    }
}
