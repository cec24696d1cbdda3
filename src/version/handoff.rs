//! A frozen memtable on its way from the writer to the flusher: they meet only through this message.

use std::fmt::Debug;
use std::sync::Arc;

use crate::error::Error;
use crate::ids::{Epoch, ShardId, WalPosition};
use crate::memtable::MemTable;

/// A frozen memtable whose rows are all in the WAL.
#[derive(Debug, Clone)]
pub struct FlushRequest {
    /// The shard and its place in the version.
    pub shard: ShardId,
    /// The shard's place in [`super::Version::shards`].
    pub index: usize,
    /// What is to become a generation.
    pub memtable: Arc<MemTable>,
    /// The writer's epoch.
    pub epoch: Epoch,
    /// The last WAL entry that holds rows of the memtable or of an older one.
    pub covered: WalPosition,
    /// The last WAL entry the writer knows of.
    pub last_seen: WalPosition,
    /// Who waits for the outcome.
    pub listener: Arc<dyn FlushListener>,
}

/// Whoever handed a memtable over.
pub trait FlushListener: Debug + Send + Sync {
    /// The generation is committed and in the current version.
    fn flushed(&self, memtable: &Arc<MemTable>);
    /// An attempt failed. Unless `finally`, it is tried again.
    fn flush_failed(&self, memtable: &Arc<MemTable>, error: &Error, finally: bool);
}
