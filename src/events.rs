//! Hooks for embedders and tests: every method is a no-op unless overridden.
//!
//! Hooks run inline on the engine's tasks. Do the counting there, not the exporting.

use std::fmt::Debug;

use crate::error::Error;
use crate::ids::{Epoch, GenerationId, ShardId, WalPosition};

/// What an embedder may listen to.
pub trait EventListener: Debug + Send + Sync {
    /// A shard was claimed by this process.
    fn on_claim(&self, _shard: ShardId, _epoch: Epoch) {}
    /// A WAL entry is durable.
    fn on_wal_append(&self, _shard: ShardId, _position: WalPosition, _rows: usize, _bytes: usize) {}
    /// A memtable was frozen.
    fn on_freeze(&self, _shard: ShardId, _generation: GenerationId, _rows: usize) {}
    /// A generation's files are written and synced: it is opened and prepared for queries next, then committed.
    fn on_flush_written(&self, _shard: ShardId, _generation: GenerationId) {}
    /// A generation was committed.
    fn on_flush(&self, _shard: ShardId, _generation: GenerationId, _rows: usize) {}
    /// A flush failed; the memtable stays readable and the flush is tried again.
    fn on_flush_failed(&self, _shard: ShardId, _generation: GenerationId, _error: &Error) {}
    /// The base moved to another version.
    fn on_base_refresh(&self, _version: u64) {}
}

/// Listens to nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoEvents;

impl EventListener for NoEvents {}
