//! First writer wins: whether somebody wrote a key after the snapshot a statement decided on.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::key::Keys;
use crate::memtable::MemTable;
use crate::version::Snapshot;

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

/// Fails if one of `keys` was written after `snapshot`. `memtables` are all of the shard's since then, oldest first.
pub(super) fn check_unchanged<'a>(
    snapshot: &Snapshot,
    shard: usize,
    keys: &Keys,
    memtables: impl Iterator<Item = &'a Arc<MemTable>> + Clone,
) -> Result<()> {
    // Rows of a memtable from its watermark in the snapshot on are newer than the snapshot; of one that the snapshot
    // does not know, all are: it is newer than the newest that it knows.
    let (newest, _) = snapshot.position(shard);
    let unseen: Vec<(&Arc<MemTable>, usize)> = memtables
        .filter_map(|memtable| {
            let seen = snapshot.memtables(shard).iter().find(|v| v.table().instance() == memtable.instance());
            match seen {
                Some(view) => (view.watermark() < memtable.rows()).then_some((memtable, view.watermark())),
                None => (memtable.generation() > newest).then_some((memtable, 0)),
            }
        })
        .collect();
    if unseen.is_empty() {
        return Ok(());
    }
    for key in keys.iter() {
        let hash = key.hash();
        for (memtable, seen) in &unseen {
            if memtable.find(key, hash, usize::MAX).is_some_and(|(row, _)| row >= *seen) {
                return Err(Error::conflict(
                    "a row was changed by another statement after this one had read it: run the statement again",
                ));
            }
        }
    }
    Ok(())
}
