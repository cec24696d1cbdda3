//! Blocks in memory.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, LazyLock, Weak};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use moka::future::Cache;
use tokio::task::coop::consume_budget;

use super::block_cache::{BlockCache, BlockId, FileName};
use super::memory_budget::{MemoryBudget, MemoryLease, Reclaim};

/// The part of the process's memory budget that the process's cache may take: one in so many.
const SHARE: usize = 4;
/// Bytes that a block takes beside its own.
const OVERHEAD: usize = 256;

type Blocks = Cache<BlockId, Bytes, foldhash::fast::RandomState>;

/// Blocks in memory, of which those that are asked for often stay: one that is read once does not drive them out.
pub struct MemoryBlocks {
    /// Another one once memory was asked back: invalidating would drop the blocks only when somebody uses the cache.
    blocks: ArcSwap<Blocks>,
    capacity: u64,
    lease: MemoryLease,
}

impl MemoryBlocks {
    /// At most `capacity` bytes, charged to `budget`, which may ask for them back.
    pub fn new(capacity: u64, budget: &Arc<MemoryBudget>) -> Arc<Self> {
        let blocks = ArcSwap::from_pointee(empty(capacity));
        let cache = Arc::new(Self { blocks, capacity, lease: budget.lease() });
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
        self.lease.set(usize::try_from(self.bytes()).unwrap_or(usize::MAX));
    }
}

/// At most `capacity` bytes of blocks.
fn empty(capacity: u64) -> Blocks {
    let weight = |_: &BlockId, bytes: &Bytes| u32::try_from(bytes.len() + OVERHEAD).unwrap_or(u32::MAX);
    let blocks = Cache::builder().max_capacity(capacity).weigher(weight);
    blocks.build_with_hasher(foldhash::fast::RandomState::default())
}

#[async_trait]
impl BlockCache for MemoryBlocks {
    async fn get(&self, block: &BlockId) -> Option<Bytes> {
        self.blocks.load_full().get(block).await
    }

    async fn insert(&self, block: BlockId, bytes: Bytes) {
        self.blocks.load_full().insert(block, bytes).await;
        self.charge();
    }

    async fn remove(&self, file: &FileName, numbers: Range<u64>) {
        let blocks = self.blocks.load_full();
        // Of a large file fewer may be here than it has.
        if numbers.end.saturating_sub(numbers.start) > blocks.entry_count() {
            let here = blocks.iter().map(|(block, _)| block);
            let here: Vec<Arc<BlockId>> =
                here.filter(|block| block.file == *file && numbers.contains(&block.number)).collect();
            for block in here {
                blocks.invalidate(&*block).await;
                consume_budget().await;
            }
        } else {
            for number in numbers {
                blocks.invalidate(&BlockId { file: Arc::clone(file), number }).await;
                consume_budget().await;
            }
        }
        self.charge();
    }

    fn bytes(&self) -> u64 {
        self.blocks.load().weighted_size()
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }
}

impl Reclaim for MemoryBlocks {
    fn reclaimable(&self) -> usize {
        self.lease.bytes()
    }

    fn reclaim(&self) {
        drop(self.blocks.swap(Arc::new(empty(self.capacity))));
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
    use crate::cache::BLOCK;

    /// Bytes that are held as long as this is.
    struct Held {
        bytes: Vec<u8>,
        _held: Arc<()>,
    }

    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }

    #[tokio::test]
    async fn blocks_are_bounded_charged_and_given_back() {
        let budget = MemoryBudget::new(1 << 30);
        let blocks = MemoryBlocks::new(10_000, &budget);
        let file: FileName = "store/file".into();
        for number in 0..100 {
            let block = BlockId { file: Arc::clone(&file), number };
            blocks.insert(block.clone(), Bytes::from(vec![number as u8; 1000])).await;
            blocks.blocks.load_full().run_pending_tasks().await;
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

    #[tokio::test]
    async fn what_is_asked_back_is_given_back_at_once() {
        let budget = MemoryBudget::new(1 << 30);
        let blocks = MemoryBlocks::new(64 << 20, &budget);
        let file: FileName = "store/file".into();
        let held = Arc::new(());
        let insert = async |number: u64| {
            let block = BlockId { file: Arc::clone(&file), number };
            blocks
                .insert(block, Bytes::from_owner(Held { bytes: vec![0; BLOCK as usize], _held: Arc::clone(&held) }))
                .await;
        };
        for number in 0..100 {
            insert(number).await;
        }
        blocks.blocks.load_full().run_pending_tasks().await;
        insert(100).await;
        let one = BLOCK as usize + OVERHEAD;
        assert!(budget.used() >= 100 * one, "{}", budget.used());
        budget.reclaim();
        // Nobody uses the cache meanwhile.
        assert_eq!((Arc::strong_count(&held), budget.used()), (1, 0));
        for number in [200, 201] {
            insert(number).await;
            blocks.blocks.load_full().run_pending_tasks().await;
        }
        assert!(budget.used() <= 2 * one, "{}", budget.used());
        assert_eq!((blocks.bytes(), blocks.capacity()), (2 * one as u64, 64 << 20));
        assert!(blocks.get(&BlockId { file: Arc::clone(&file), number: 200 }).await.is_some());
    }

    #[tokio::test]
    async fn blocks_of_one_file_go_however_many_it_has() {
        let blocks = MemoryBlocks::new(1 << 20, &MemoryBudget::new(1 << 30));
        let block = |file: &str, number| BlockId { file: file.into(), number };
        for number in [0, 7, 1 << 40] {
            for file in ["a", "b"] {
                blocks.insert(block(file, number), Bytes::from_static(b"bytes")).await;
            }
        }
        blocks.remove(&"a".into(), 0..u64::MAX).await;
        blocks.remove(&"b".into(), 7..8).await;
        for (file, number, is_there) in [
            ("a", 0, false),
            ("a", 7, false),
            ("a", 1 << 40, false),
            ("b", 0, true),
            ("b", 7, false),
            ("b", 1 << 40, true),
        ] {
            assert_eq!(blocks.get(&block(file, number)).await.is_some(), is_there, "{file} {number}");
        }
    }
}
