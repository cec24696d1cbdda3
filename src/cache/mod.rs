//! The one memory figure of a process and who holds how much of it.

mod block_cache;
mod block_reader;
mod memory_blocks;
mod memory_budget;

pub use block_cache::{BLOCK, BlockCache, BlockId, FileName};
pub use block_reader::{BlockCounts, BlockReader};
pub use memory_blocks::MemoryBlocks;
pub use memory_budget::{MemoryBudget, MemoryLease, Reclaim};
