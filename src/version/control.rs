//! The current version and how it is replaced.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};

use super::live_paths::LivePaths;
use super::snapshot::Snapshot;
use crate::base::BaseTable;
use crate::block_list::{BlockLists, SourceId};
use crate::error::Error;
use crate::generation::Generation;
use crate::ids::ShardId;
use crate::memtable::MemTable;

/// The sources of a table at one moment. Memtables in it may still grow; everything else never changes.
#[derive(Debug, Clone)]
pub struct Version {
    /// The Lance table.
    pub base: Arc<BaseTable>,
    /// The shards, in the order of the table's sharding.
    pub shards: Vec<ShardVersion>,
    /// How often all rows of the table were replaced at once by this handle.
    pub replacements: u64,
}

/// The sources of one shard.
#[derive(Debug, Clone)]
pub struct ShardVersion {
    /// The shard.
    pub shard: ShardId,
    /// The memtable that takes new rows.
    pub active: Arc<MemTable>,
    /// Memtables on their way to generations, newest first.
    pub frozen: Vec<Arc<MemTable>>,
    /// Generations not yet in the base, newest first.
    pub generations: Vec<Arc<Generation>>,
    /// How often rows of other processes came or went in a way that tells no key: a snapshot of before proves nothing after.
    pub foreign_changes: u64,
    /// Why the shard's rows cannot be read completely.
    pub damage: Option<Error>,
}

impl Version {
    fn generations(&self) -> impl Iterator<Item = &Arc<Generation>> {
        self.shards.iter().flat_map(|shard| &shard.generations)
    }

    /// The generations that `other` has not.
    fn beside(&self, other: &Self) -> impl Iterator<Item = &Arc<Generation>> {
        let others: HashSet<*const Generation> = other.generations().map(Arc::as_ptr).collect();
        self.generations().filter(move |generation| !others.contains(&Arc::as_ptr(generation)))
    }

    fn source_ids(&self) -> HashSet<SourceId> {
        let shards = self.shards.iter().flat_map(|s| {
            let memtables = std::iter::once(&s.active).chain(&s.frozen).map(|m| SourceId::MemTable(m.instance()));
            memtables.chain(s.generations.iter().map(|g| SourceId::Generation(s.shard, g.id())))
        });
        shards.chain([SourceId::Base(self.base.version())]).collect()
    }
}

/// The one place where a table's version changes.
#[derive(Debug)]
pub struct VersionControl {
    current: ArcSwap<Version>,
    update: Mutex<()>,
    /// Held shared while rows become visible and exclusively for the moment in which a snapshot reads the version and
    /// the watermarks, so that a statement over several memtables is seen as a whole.
    gate: RwLock<()>,
    lists: Arc<BlockLists>,
}

impl VersionControl {
    /// Starts with `version`.
    pub fn new(version: Version, lists: Arc<BlockLists>) -> Self {
        version.generations().for_each(|generation| generation.enter());
        Self { current: ArcSwap::from_pointee(version), update: Mutex::new(()), gate: RwLock::new(()), lists }
    }

    /// The current version.
    pub fn current(&self) -> Arc<Version> {
        self.current.load_full()
    }

    /// Runs `read` on the current version without taking a reference to it.
    pub fn with<T>(&self, read: impl FnOnce(&Version) -> T) -> T {
        read(&self.current.load())
    }

    /// Replaces the version by what `edit` makes of it.
    pub fn update(&self, edit: impl FnOnce(&mut Version)) {
        let _one_at_a_time = self.update.lock();
        let before = self.current();
        let mut version = Version::clone(&before);
        edit(&mut version);
        let live = version.source_ids();
        let version = Arc::new(version);
        version.beside(&before).for_each(|generation| generation.enter());
        self.current.store(Arc::clone(&version));
        self.lists.retain(&live);
        before.beside(&version).for_each(|generation| generation.leave());
    }

    /// Lets the dataset cache go of generations that left the version: for whoever took some out.
    pub async fn release(&self) {
        let version = self.current();
        let live = LivePaths::of(&version);
        version.base.opener().retain_paths(&|path| live.has(path)).await;
    }

    /// Makes rows visible: `(memtable, watermark)` for each memtable, oldest first within a shard. Snapshots see all of
    /// it or nothing.
    pub fn publish<'a>(&self, rows: impl IntoIterator<Item = (&'a Arc<MemTable>, usize)>) {
        let _together = self.gate.read();
        for (memtable, watermark) in rows {
            memtable.publish(watermark);
        }
    }

    /// What a reader sees now.
    pub fn snapshot(&self) -> Snapshot {
        let _alone = self.gate.write();
        Snapshot::new(self.current())
    }

    /// The block lists of the table.
    pub fn block_lists(&self) -> &Arc<BlockLists> {
        &self.lists
    }
}

impl Drop for VersionControl {
    fn drop(&mut self) {
        self.current().generations().for_each(|generation| generation.close());
    }
}
