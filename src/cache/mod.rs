//! The one memory figure of a process and who holds how much of it, and what queries read ahead.

mod admission;
mod block_cache;
mod block_reader;
mod index_cache;
mod index_tier;
mod memory_blocks;
mod memory_budget;
mod read_ahead;
mod read_budget;
mod read_queue;

pub use admission::{Admission, ReadCharge};
pub use block_cache::{BLOCK, BlockCache, BlockId, FileName};
pub use block_reader::{BlockCounts, BlockReader};
pub use index_cache::{IndexCache, IndexView};
pub use index_tier::CacheCounts;
pub use memory_blocks::MemoryBlocks;
pub use memory_budget::{MemoryBudget, MemoryLease, Reclaim};
pub use read_budget::{READ_LIMIT, ReadBudget, ReadQuery, ScanReads};
pub use read_queue::ReadRequest;
