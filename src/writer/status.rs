//! A shard's role and state, for the table and for people.

use std::sync::Arc;

use crate::error::Error;
use crate::ids::{Epoch, ShardId, WalPosition};
use crate::memtable::MemTable;
use crate::wal::QuarantineReport;

/// What this process may do with a shard.
#[derive(Debug, Clone)]
pub enum Role {
    /// Reads what others wrote; the first write claims the shard.
    Reader,
    /// Owns the shard under this epoch and still replays what its predecessor wrote.
    Claiming(Epoch),
    /// Owns the shard under this epoch.
    Writer(Epoch),
    /// Cannot write any more, for this reason; what was visible stays readable.
    Failed(Error),
}

/// A shard's state for people.
#[derive(Debug, Clone)]
pub struct ShardStatus {
    /// The shard.
    pub shard: ShardId,
    /// What this process may do with it.
    pub role: Role,
    /// The next WAL slot as far as this process knows.
    pub next_position: WalPosition,
    /// Units that wait for the WAL, and their bytes.
    pub queued: (usize, usize),
    /// The memtables, oldest first.
    pub memtables: Vec<MemTableStatus>,
    /// What was moved aside since the table was opened.
    pub quarantined: Vec<QuarantineReport>,
}

/// A memtable's state for people.
#[derive(Debug, Clone)]
pub struct MemTableStatus {
    /// The memtable.
    pub memtable: Arc<MemTable>,
    /// How many WAL entries hold its rows.
    pub entries: usize,
    /// Why its last flush failed.
    pub flush_error: Option<Error>,
}
