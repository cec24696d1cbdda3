//! First writer wins: whether somebody wrote a key after the snapshot a statement decided on.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::key::Keys;
use crate::memtable::MemTable;
use crate::version::{Snapshot, Version};

/// What must hold, key by key, when a write is appended.
#[derive(Debug, Clone)]
pub enum Check {
    /// Nothing: the last writer wins.
    None,
    /// Nobody wrote the key after this snapshot.
    Unchanged(Arc<Snapshot>),
}

impl Check {
    pub(super) fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        match self {
            Self::None => None,
            Self::Unchanged(snapshot) => Some(snapshot),
        }
    }
}

/// Fails if one of `keys` was written to shard `index` after `snapshot`; `memtables` are all the shard has now.
///
/// Newer than the snapshot are the rows of its own memtables from their watermarks on (it holds them, flushed or not),
/// and whatever is in memtables and generations that it does not know.
pub(super) fn check_unchanged<'a>(
    snapshot: &Snapshot,
    now: &Version,
    index: usize,
    keys: &Keys,
    memtables: impl Iterator<Item = &'a Arc<MemTable>>,
) -> Result<()> {
    if now.shards[index].foreign_changes != snapshot.version().shards[index].foreign_changes {
        return Err(Error::conflict(
            "another process wrote to the table after the statement had read it: run it again",
        ));
    }
    let known = snapshot.memtables(index);
    let newest = known[0].generation();
    let mut unseen: Vec<(&Arc<MemTable>, usize)> = memtables
        .filter(|m| m.rows() > 0 && known.iter().all(|v| v.table().instance() != m.instance()))
        .map(|m| (m, 0))
        .collect();
    unseen.extend(known.iter().filter(|v| v.watermark() < v.table().rows()).map(|v| (v.table(), v.watermark())));
    let generations: Vec<_> = now.shards[index].generations.iter().filter(|g| g.id() > newest).collect();
    if unseen.is_empty() && generations.is_empty() {
        return Ok(());
    }
    for key in keys.iter() {
        let hash = key.hash();
        let in_memory = |(memtable, seen): &(&Arc<MemTable>, usize)| {
            memtable.find(key, hash, usize::MAX).is_some_and(|(row, _)| row >= *seen)
        };
        if unseen.iter().any(in_memory) || generations.iter().any(|g| g.keys().get(key, hash).is_some()) {
            return Err(Error::conflict(
                "a row was changed by another statement after this one had read it: run the statement again",
            ));
        }
    }
    Ok(())
}
