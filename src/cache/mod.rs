//! The one memory figure of a process and who holds how much of it.

mod block_cache;
mod block_reader;
mod index_cache;
mod index_tier;
mod memory_blocks;
mod memory_budget;

pub use block_cache::{BLOCK, BlockCache, BlockId, FileName};
pub use block_reader::{BlockCounts, BlockReader};
pub use index_cache::{IndexCache, IndexView};
pub use index_tier::CacheCounts;
pub use memory_blocks::MemoryBlocks;
pub use memory_budget::{MemoryBudget, MemoryLease, Reclaim};
