//! What happens to a write: checked, appended to the memtable, put into the WAL, made visible, acknowledged.
//!
//! Owns: the order of a shard's writes, its role (reader, writer, failed) and the replay of its WAL. Does not own:
//! flushing (`flush`), which it meets only through [`crate::version::FlushRequest`]. Lock order: the shards' cores in
//! the order of the version, then the version control. A unit waits for the WAL (queue); its ticket waits for its turn
//! to become visible (order); an outcome joins all of a write.

mod claim;
mod conflict;
mod index_loop;
mod index_set;
mod outcome;
mod publisher;
mod replay;
mod shard;
mod shard_set;
mod status;
mod wal_loop;

pub use conflict::Check;
pub use index_set::IndexSet;
pub use outcome::PendingWrite;
pub use publisher::Publisher;
pub use shard::{ShardWriter, WriterContext};
pub use shard_set::{ShardSet, Unit};
pub use status::{MemTableStatus, Role, ShardStatus};
