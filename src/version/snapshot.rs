//! One query's view of a table.

use std::sync::Arc;

use super::control::{ShardVersion, Version};
use crate::block_list::KeySource;
use crate::error::Result;
use crate::memtable::{MemTable, MemTableView};

/// A version and the watermarks of its memtables: whatever is frozen, flushed or replaced meanwhile, it sees each row
/// once, in the version it had when the snapshot was taken. Holds its sources until it is dropped.
#[derive(Debug, Clone)]
pub struct Snapshot {
    version: Arc<Version>,
    /// For each shard its memtables, newest first.
    memtables: Vec<Vec<MemTableView>>,
}

impl Snapshot {
    /// Reads the watermarks, newest memtable first: a frozen memtable is wholly visible before a newer one shows rows.
    pub(super) fn new(version: Arc<Version>) -> Self {
        let view = |memtable: &Arc<MemTable>| MemTableView::new(Arc::clone(memtable), memtable.visible());
        let memtables = version
            .shards
            .iter()
            .map(|shard| std::iter::once(&shard.active).chain(&shard.frozen).map(view).collect())
            .collect();
        Self { version, memtables }
    }

    /// The version.
    pub fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// The shards with their memtables, newest first.
    pub fn shards(&self) -> impl Iterator<Item = (&ShardVersion, &[MemTableView])> {
        self.version.shards.iter().zip(self.memtables.iter().map(Vec::as_slice))
    }

    /// The memtables of a shard, newest first.
    pub fn memtables(&self, shard: usize) -> &[MemTableView] {
        &self.memtables[shard]
    }

    /// Nothing if the rows of every shard can be read.
    ///
    /// # Errors
    /// The damage of a shard.
    pub fn check(&self) -> Result<()> {
        match self.version.shards.iter().find_map(|s| s.damage.clone()) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Whether nothing was written since, as far as `now`, a later version of the table, tells.
    ///
    /// A memtable that was flushed meanwhile is held by this snapshot: it knows how many rows came in after it.
    pub fn is_newest(&self, now: &Version) -> bool {
        self.version.replacements == now.replacements
            && self.version.base.version() == now.base.version()
            && (0..now.shards.len()).all(|shard| self.is_newest_of(shard, now))
    }

    /// As [`is_newest`](Self::is_newest), of one shard and of what other processes did to the base.
    pub fn is_newest_of(&self, shard: usize, now: &Version) -> bool {
        let (seen, now) = (&self.version.shards[shard], &now.shards[shard]);
        let known = self.memtables(shard);
        let newest = known[0].generation();
        let later = std::iter::once(&now.active).chain(&now.frozen).filter(|m| m.generation() > newest);
        seen.foreign_changes == now.foreign_changes
            && known.iter().all(|view| view.table().rows() == view.watermark())
            && later.map(|memtable| memtable.rows()).sum::<usize>() == 0
            && now.generations.iter().all(|g| g.id() <= newest)
    }

    /// The sources of a shard that may supersede rows, newest first; memtables without rows are left out.
    pub fn key_sources(&self, shard: usize) -> Vec<KeySource> {
        let sources = &self.version.shards[shard];
        let memtables = self.memtables[shard].iter().filter(|m| m.watermark() > 0).cloned().map(KeySource::MemTable);
        let generations = sources.generations.iter().map(|g| KeySource::Generation(sources.shard, Arc::clone(g)));
        memtables.chain(generations).collect()
    }
}
