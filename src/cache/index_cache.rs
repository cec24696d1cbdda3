//! What Lance keeps of datasets: open indexes, manifests and file footers. All of a process share one cache; each dataset
//! that is opened sees its own part of it, which goes when the dataset does.
//!
//! Lance's keys are digests that do not say whose they are, so a part keeps a list of its own.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use lance_core::Result as LanceResult;
use lance_core::cache::{CacheBackend, CacheCodec, CacheEntry, InternalCacheKey};

use super::index_tier::{CacheCounts, Part, Tier};
use super::memory_budget::MemoryBudget;

/// Bytes of open indexes at most, in the cache of the process.
const INDEXES: usize = 1 << 30;
/// Bytes of manifests and file footers at most, in the cache of the process.
const METADATA: usize = 256 << 20;
/// The part of the process's memory budget that these may take at most: one in so many.
const INDEXES_SHARE: usize = 8;
const METADATA_SHARE: usize = 32;

/// What Lance keeps of datasets, of whatever tables.
pub struct IndexCache {
    indexes: Arc<Tier>,
    metadata: Arc<Tier>,
    opened: AtomicU64,
}

impl IndexCache {
    /// A cache of at most so many bytes of open indexes, and of manifests and file footers, charged to `budget`, which may
    /// ask for them back.
    pub fn new(index_bytes: usize, metadata_bytes: usize, budget: &Arc<MemoryBudget>) -> Arc<Self> {
        Arc::new(Self {
            indexes: Tier::new(index_bytes, budget),
            metadata: Tier::new(metadata_bytes, budget),
            opened: AtomicU64::new(0),
        })
    }

    /// That of the process: 1 GiB of indexes and 256 MiB of the rest, if the memory budget is 8 GiB or more.
    pub fn global() -> Arc<Self> {
        static GLOBAL: LazyLock<Arc<IndexCache>> = LazyLock::new(|| {
            let budget = MemoryBudget::global();
            let limit = budget.limit();
            IndexCache::new(INDEXES.min(limit / INDEXES_SHARE), METADATA.min(limit / METADATA_SHARE), &budget)
        });
        Arc::clone(&GLOBAL)
    }

    /// A part of it for a dataset that is about to be opened.
    pub(crate) fn view(&self) -> IndexView {
        let id = self.opened.fetch_add(1, Ordering::Relaxed);
        IndexView { indexes: Part::new(&self.indexes, id), metadata: Part::new(&self.metadata, id) }
    }

    /// What is held of all datasets.
    pub fn counts(&self) -> CacheCounts {
        self.indexes.counts().and(self.metadata.counts())
    }
}

impl fmt::Debug for IndexCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexCache").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

/// The part of an [`IndexCache`] that one open dataset and its later versions have.
#[derive(Debug, Clone)]
pub struct IndexView {
    indexes: Part,
    metadata: Part,
}

impl IndexView {
    /// The part as Lance sees it: for indexes, and for metadata. What both hold goes when the one for indexes does: indexes
    /// that are held refer to the other one, and must not keep themselves by that.
    pub(crate) fn backends(&self) -> (Arc<dyn CacheBackend>, Arc<dyn CacheBackend>) {
        let until = Some(Until(self.clone()));
        let indexes = Backend { part: self.indexes.clone(), _until: until };
        (Arc::new(indexes), Arc::new(Backend { part: self.metadata.clone(), _until: None }))
    }

    /// Drops what is held. From now on nothing is, unless it is [revived](Self::revive): who still reads the dataset reads it
    /// from storage.
    pub(crate) fn retire(&self) {
        self.indexes.retire();
        self.metadata.retire();
    }

    /// Takes in what is held again, if it was retired.
    pub(crate) fn revive(&self) {
        self.metadata.revive();
        self.indexes.revive();
    }

    /// What is held of the dataset.
    pub fn counts(&self) -> CacheCounts {
        self.indexes.counts().and(self.metadata.counts())
    }
}

/// The end of a view.
#[derive(Debug)]
struct Until(IndexView);

impl Drop for Until {
    fn drop(&mut self) {
        self.0.retire();
    }
}

/// One part of a tier as Lance sees it.
#[derive(Debug)]
struct Backend {
    part: Part,
    _until: Option<Until>,
}

#[async_trait]
impl CacheBackend for Backend {
    async fn get_resident(&self, key: &InternalCacheKey) -> Option<CacheEntry> {
        self.part.look(key)
    }

    async fn peek_resident(&self, key: &InternalCacheKey) -> bool {
        self.part.has(key)
    }

    fn plane_admission_gated(&self) -> bool {
        false
    }

    async fn get(&self, key: &InternalCacheKey, _: Option<CacheCodec>) -> Option<CacheEntry> {
        self.part.get(key)
    }

    async fn insert(&self, key: &InternalCacheKey, entry: CacheEntry, size_bytes: usize, _: Option<CacheCodec>) {
        self.part.insert(key, entry, size_bytes);
    }

    async fn get_or_insert<'a>(
        &self,
        key: &InternalCacheKey,
        loader: Pin<Box<dyn Future<Output = LanceResult<(CacheEntry, usize)>> + Send + 'a>>,
        _: Option<CacheCodec>,
    ) -> LanceResult<(CacheEntry, bool)> {
        self.part.get_or_load(key, loader).await
    }

    async fn clear(&self) {
        self.part.clear();
    }

    async fn num_entries(&self) -> usize {
        self.approx_num_entries()
    }

    async fn size_bytes(&self) -> usize {
        self.approx_size_bytes()
    }

    fn approx_num_entries(&self) -> usize {
        self.part.counts().entries as usize
    }

    fn approx_size_bytes(&self) -> usize {
        self.part.counts().bytes as usize
    }

    fn capacity_bytes(&self) -> Option<usize> {
        usize::try_from(self.part.capacity()).ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    fn key(n: u8) -> InternalCacheKey {
        InternalCacheKey::from_bytes([n; 16])
    }

    fn cache(bytes: usize) -> (Arc<MemoryBudget>, Arc<IndexCache>) {
        let budget = MemoryBudget::new(1 << 30);
        let cache = IndexCache::new(bytes, bytes, &budget);
        (budget, cache)
    }

    async fn fill(backend: &Arc<dyn CacheBackend>, keys: impl IntoIterator<Item = u8>, bytes: usize) {
        for n in keys {
            backend.insert(&key(n), Arc::new(n), bytes, None).await;
        }
    }

    #[tokio::test]
    async fn an_entry_is_loaded_once_for_all_who_miss_it_and_one_who_stops_or_fails_strands_nobody() {
        let (_, cache) = cache(1 << 20);
        let view = cache.view();
        let (indexes, _metadata) = view.backends();
        let (gate, keys) = (Semaphore::new(0), [key(0), key(1), key(2)]);
        let load = |n: usize, value: Option<u32>| {
            let gate = &gate;
            let load = async move {
                gate.acquire().await.expect("it stays open").forget();
                let entry: CacheEntry = Arc::new(value.ok_or_else(|| lance_core::Error::io("no"))?);
                Ok((entry, 100))
            };
            indexes.get_or_insert(&keys[n], Box::pin(load), None)
        };
        for (n, value) in [(0, Some(1)), (1, None)] {
            let mut first = load(n, value);
            assert!(futures::poll!(&mut first).is_pending());
            let mut waiting: Vec<_> = (2..18).map(|value| load(n, Some(value))).collect();
            for load in &mut waiting {
                assert!(futures::poll!(load).is_pending());
            }
            if value.is_some() {
                drop(first);
            } else {
                gate.add_permits(1);
                assert!(first.await.is_err());
            }
            gate.add_permits(1);
            let loaded: Vec<_> = join_all(waiting).await.into_iter().map(|loaded| loaded.unwrap()).collect();
            let values: Vec<u32> = loaded.iter().map(|(entry, _)| *entry.downcast_ref().unwrap()).collect();
            assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
            assert_eq!(loaded.iter().filter(|(_, was_there)| !was_there).count(), 1);
        }
        let counts = view.counts();
        assert_eq!((counts.hits, counts.misses, counts.loads, counts.entries), (0, 34, 2, 2));
        assert!(indexes.get(&key(1), None).await.is_some() && indexes.get(&key(2), None).await.is_none());
        assert_eq!((view.counts().hits, view.counts().misses), (1, 35));
        assert_eq!(cache.counts(), view.counts());
    }

    #[tokio::test]
    async fn a_dataset_that_goes_takes_its_entries_along_and_nobody_elses() {
        let (budget, cache) = cache(1 << 20);
        let (going, staying) = (cache.view(), cache.view());
        let ((indexes, metadata), (others, _)) = (going.backends(), staying.backends());
        fill(&indexes, 0..10, 1000).await;
        fill(&metadata, 0..10, 1000).await;
        fill(&others, 0..3, 1000).await;
        // As an index that is held holds what it reads its files with.
        let index = Arc::new(Arc::clone(&metadata));
        let held = Arc::downgrade(&index);
        indexes.insert(&key(99), index, 10, None).await;
        assert_eq!((going.counts().entries, staying.counts().entries, cache.counts().entries), (21, 3, 24));
        assert_eq!(budget.used() as u64, cache.counts().bytes);

        let gate = Semaphore::new(0);
        let late = async {
            gate.acquire().await.expect("it stays open").forget();
            Ok((Arc::new(7u8) as CacheEntry, 10))
        };
        let (reading, key_of_late) = (Arc::clone(&metadata), key(77));
        let mut late = reading.get_or_insert(&key_of_late, Box::pin(late), None);
        assert!(futures::poll!(&mut late).is_pending());
        drop((indexes, metadata));
        assert!(held.upgrade().is_none());
        gate.add_permits(1);
        assert!(late.await.is_ok());
        fill(&reading, 0..10, 1000).await;
        assert_eq!((going.counts().entries, going.counts().bytes), (0, 0));
        assert_eq!(cache.counts().entries, 3);
        assert_eq!(budget.used() as u64, staying.counts().bytes);
    }

    #[tokio::test]
    async fn a_retired_dataset_is_read_without_being_kept() {
        let (_, cache) = cache(1 << 20);
        let view = cache.view();
        let (indexes, metadata) = view.backends();
        fill(&indexes, 0..10, 1000).await;
        fill(&metadata, 0..10, 1000).await;
        view.retire();
        assert_eq!((view.counts().entries, view.counts().bytes), (0, 0));
        for loads in 1..3 {
            let load = async { Ok((Arc::new(7u8) as CacheEntry, 10)) };
            let (entry, was_there) = indexes.get_or_insert(&key(0), Box::pin(load), None).await.unwrap();
            assert_eq!((entry.downcast_ref::<u8>(), was_there), (Some(&7), false));
            assert_eq!((view.counts().entries, view.counts().loads), (0, loads));
        }
        indexes.clear().await;
        fill(&indexes, 0..10, 1000).await;
        assert!(indexes.get(&key(0), None).await.is_none(), "clearing does not bring it back");
        assert_eq!(cache.counts().entries, 0);
        view.revive();
        for backend in [&indexes, &metadata] {
            fill(backend, 0..10, 1000).await;
        }
        assert_eq!((view.counts().entries, cache.counts().entries), (20, 20));
        view.revive();
        assert_eq!(view.counts().entries, 20, "what is not retired stays as it is");
    }

    #[tokio::test]
    async fn clearing_is_for_one_half_of_one_view() {
        let (_, cache) = cache(1 << 20);
        let (one, other) = (cache.view(), cache.view());
        let ((indexes, metadata), (others, _)) = (one.backends(), other.backends());
        for backend in [&indexes, &metadata, &others] {
            fill(backend, 0..5, 100).await;
        }
        indexes.clear().await;
        assert_eq!((indexes.num_entries().await, metadata.num_entries().await, others.num_entries().await), (0, 5, 5));
        fill(&indexes, 0..2, 100).await;
        assert_eq!(one.counts().entries, 7);
        assert!(indexes.peek_resident(&key(1)).now_or_never().expect("nothing waits"));
        assert!(indexes.get_resident(&key(3)).now_or_never().expect("nothing waits").is_none());
        assert_eq!((one.counts().hits, one.counts().misses), (0, 0), "a look is no use");
    }

    #[tokio::test]
    async fn the_bound_holds_and_what_goes_is_given_back() {
        let (budget, cache) = cache(100_000);
        let (one, other) = (cache.view(), cache.view());
        let ((indexes, _), (others, _)) = (one.backends(), other.backends());
        for round in 0..20 {
            fill(&indexes, 0..100, 1000 + round).await;
            fill(&others, 0..=255, 500).await;
        }
        let (sum, all) = (one.counts().bytes + other.counts().bytes, cache.counts());
        assert_eq!((all.bytes, all.entries), (sum, one.counts().entries + other.counts().entries));
        assert!(all.bytes <= 100_000 && all.bytes > 50_000, "{all:?}");
        assert_eq!(budget.used() as u64, all.bytes);
        fill(&indexes, [1], 1 << 30).await;
        assert!(indexes.get(&key(1), None).await.is_none(), "larger than all there is");
        budget.reclaim();
        assert_eq!((budget.used(), cache.counts().entries, one.counts().bytes), (0, 0, 0));
        fill(&indexes, [1], 1000).await;
        assert_eq!(one.counts().entries, 1);
    }
}
