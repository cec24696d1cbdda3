//! Blocks in memory.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, LazyLock, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use moka::future::Cache;

use super::block_cache::{BlockCache, BlockId, FileName};
use super::memory_budget::{MemoryBudget, MemoryLease, Reclaim};

/// The part of the process's memory budget that the process's cache may take: one in so many.
const SHARE: usize = 4;
/// Bytes that a block takes beside its own.
const OVERHEAD: usize = 256;

type Blocks = Cache<BlockId, Bytes, foldhash::fast::RandomState>;

/// Blocks in memory, of which those that are asked for often stay: one that is read once does not drive them out.
pub struct MemoryBlocks {
    blocks: Blocks,
    lease: MemoryLease,
}

impl MemoryBlocks {
    /// At most `capacity` bytes, charged to `budget`, which may ask for them back.
    pub fn new(capacity: u64, budget: &Arc<MemoryBudget>) -> Arc<Self> {
        let weight = |_: &BlockId, bytes: &Bytes| u32::try_from(bytes.len() + OVERHEAD).unwrap_or(u32::MAX);
        let blocks = Cache::builder().max_capacity(capacity).weigher(weight);
        let blocks = blocks.build_with_hasher(foldhash::fast::RandomState::default());
        let cache = Arc::new(Self { blocks, lease: budget.lease() });
        let holder: Weak<Self> = Arc::downgrade(&cache);
        budget.register(holder);
        cache
    }

    /// Those of the process.
    pub fn global() -> Arc<Self> {
        static GLOBAL: LazyLock<Arc<MemoryBlocks>> = LazyLock::new(|| {
            let budget = MemoryBudget::global();
            MemoryBlocks::new((budget.limit() / SHARE) as u64, &budget)
        });
        Arc::clone(&GLOBAL)
    }

    fn charge(&self) {
        self.lease.set(usize::try_from(self.blocks.weighted_size()).unwrap_or(usize::MAX));
    }
}

#[async_trait]
impl BlockCache for MemoryBlocks {
    async fn get(&self, block: &BlockId) -> Option<Bytes> {
        self.blocks.get(block).await
    }

    async fn insert(&self, block: BlockId, bytes: Bytes) {
        self.blocks.insert(block, bytes).await;
        self.charge();
    }

    async fn remove(&self, file: &FileName, blocks: Range<u64>) {
        for number in blocks {
            self.blocks.invalidate(&BlockId { file: Arc::clone(file), number }).await;
        }
        self.charge();
    }

    fn bytes(&self) -> u64 {
        self.blocks.weighted_size()
    }

    fn capacity(&self) -> u64 {
        self.blocks.policy().max_capacity().unwrap_or(u64::MAX)
    }
}

impl Reclaim for MemoryBlocks {
    fn reclaimable(&self) -> usize {
        self.lease.bytes()
    }

    fn reclaim(&self) {
        self.blocks.invalidate_all();
        self.lease.set(0);
    }
}

impl fmt::Debug for MemoryBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBlocks").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn blocks_are_bounded_charged_and_given_back() {
        let budget = MemoryBudget::new(1 << 30);
        let blocks = MemoryBlocks::new(10_000, &budget);
        let file: FileName = "store/file".into();
        for number in 0..100 {
            let block = BlockId { file: Arc::clone(&file), number };
            blocks.insert(block.clone(), Bytes::from(vec![number as u8; 1000])).await;
            blocks.blocks.run_pending_tasks().await;
        }
        assert!(blocks.bytes() > 5_000 && blocks.bytes() <= 10_000, "{}", blocks.bytes());
        blocks.remove(&file, 99..100).await;
        assert_eq!(blocks.get(&BlockId { file: Arc::clone(&file), number: 99 }).await, None);
        assert!(budget.used() > 5_000);
        budget.reclaim();
        assert_eq!(budget.used(), 0);
        for number in 0..100 {
            assert_eq!(blocks.get(&BlockId { file: Arc::clone(&file), number }).await, None);
        }
    }
}
