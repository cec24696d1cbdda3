//! Open datasets that never change, by where they are.
//!
//! A path of a generation is written once: what is cached under it is never stale, and it is only dropped to free memory.

use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use tokio::runtime::{Handle, Id};

use crate::cache::{CacheCounts, IndexCache, MemoryBudget, MemoryLease, ReadBudget, Reclaim};
use crate::error::{Error, Result};
use crate::schema::TableSchema;
use crate::store::StoreOptions;

/// The part of the process's memory budget that the process's cache may take: one in so many.
const SHARE: usize = 16;
/// Bytes that an open dataset takes beside what it tells, about.
const OVERHEAD: usize = 32 << 10;

/// A table: where it is, and which of those that ever were there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableKey {
    location: Arc<str>,
    identity: Arc<str>,
}

impl TableKey {
    /// The table at `location` that calls itself `identity`.
    pub fn new(location: &str, identity: &str) -> Self {
        Self { location: location.trim_end_matches('/').into(), identity: identity.into() }
    }

    /// Where it is, as it was given to whoever opened it.
    pub fn location(&self) -> &str {
        &self.location
    }
}

/// What a dataset is opened with: nobody gets one that was opened with other credentials, for another budget or cache, or
/// by a runtime that may have ended since.
#[derive(Clone)]
pub(super) struct OpenedWith {
    pub(super) options: StoreOptions,
    pub(super) budget: Arc<MemoryBudget>,
    pub(super) index_cache: Arc<IndexCache>,
    pub(super) read_budget: Arc<ReadBudget>,
}

/// Names an open dataset: its table, its path, how it was opened and the schema it is read by.
#[derive(Clone)]
pub struct DatasetKey {
    table: TableKey,
    path: Arc<str>,
    schema: Arc<TableSchema>,
    with: OpenedWith,
    /// Lance reads by tasks of the runtime in which a dataset was opened.
    runtime: Option<Id>,
}

impl DatasetKey {
    pub(super) fn new(table: &TableKey, path: &str, schema: &Arc<TableSchema>, with: &OpenedWith) -> Self {
        let runtime = Handle::try_current().ok().map(|runtime| runtime.id());
        Self { table: table.clone(), path: path.into(), schema: Arc::clone(schema), with: with.clone(), runtime }
    }

    /// The table that it belongs to.
    pub fn table(&self) -> &TableKey {
        &self.table
    }

    /// Where it is below the table.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl PartialEq for DatasetKey {
    fn eq(&self, other: &Self) -> bool {
        let (with, others) = (&self.with, &other.with);
        self.path == other.path
            && self.table == other.table
            && self.runtime == other.runtime
            && with.options == others.options
            && Arc::ptr_eq(&with.budget, &others.budget)
            && Arc::ptr_eq(&with.index_cache, &others.index_cache)
            && Arc::ptr_eq(&with.read_budget, &others.read_budget)
            && self.schema.numbered() == other.schema.numbered()
            && self.schema.key().names() == other.schema.key().names()
    }
}

impl Eq for DatasetKey {}

impl Hash for DatasetKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.table.hash(state);
        self.path.hash(state);
    }
}

impl fmt::Debug for DatasetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatasetKey").field("table", &self.table).field("path", &self.path).finish_non_exhaustive()
    }
}

/// An open dataset, whatever it is.
#[derive(Debug, Clone)]
pub struct CachedDataset {
    dataset: Arc<dyn Any + Send + Sync>,
    bytes: usize,
}

impl CachedDataset {
    /// `dataset`, which takes `bytes` in memory.
    pub fn new<T: Any + Send + Sync>(dataset: Arc<T>, bytes: usize) -> Self {
        Self { dataset, bytes: bytes.saturating_add(OVERHEAD) }
    }

    /// Bytes of memory, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The dataset, if it is a `T`.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        Arc::clone(&self.dataset).downcast().ok()
    }
}

/// What opens a dataset that is not cached.
pub type OpenDataset<'a> = BoxFuture<'a, Result<CachedDataset>>;

/// Whether a path of a table is still needed.
pub type IsLive<'a> = &'a (dyn Fn(&str) -> bool + Send + Sync);

/// Open datasets, shared by whoever reads them.
///
/// Every table has one; those of a process share [`DefaultDatasetCache::global`] unless they are given others.
#[async_trait]
pub trait DatasetCache: fmt::Debug + Send + Sync {
    /// The dataset of `key`. If there is none, one of those who ask opens it and the others wait; if that one stops, another
    /// goes on.
    ///
    /// # Errors
    /// What `open` returns: all who wait for it are told, and it is not kept.
    async fn get_or_open(&self, key: &DatasetKey, open: OpenDataset<'_>) -> Result<CachedDataset>;

    /// Drops the datasets of `table` at paths that are not live. It frees memory and is for nothing else: who uses one goes
    /// on with it.
    async fn retain_paths(&self, table: &TableKey, is_live: IsLive<'_>);

    /// What is held, and how often that was of use.
    fn counts(&self) -> CacheCounts;
}

/// The datasets that were used last, up to some bytes.
pub struct DefaultDatasetCache {
    datasets: Cache<DatasetKey, CachedDataset>,
    lease: MemoryLease,
    hits: AtomicU64,
    misses: AtomicU64,
    loads: AtomicU64,
}

impl DefaultDatasetCache {
    /// A cache of at most `capacity` bytes, charged to `budget`, which may ask for those back that nobody uses.
    pub fn new(capacity: u64, budget: &Arc<MemoryBudget>) -> Arc<Self> {
        let weight = |_: &DatasetKey, dataset: &CachedDataset| u32::try_from(dataset.bytes()).unwrap_or(u32::MAX);
        let datasets =
            Cache::builder().max_capacity(capacity).weigher(weight).eviction_policy(EvictionPolicy::lru()).build();
        let cache = Arc::new(Self {
            datasets,
            lease: budget.lease(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            loads: AtomicU64::new(0),
        });
        let holder: Weak<Self> = Arc::downgrade(&cache);
        budget.register(holder);
        cache
    }

    /// That of the process: a sixteenth of the memory budget.
    pub fn global() -> Arc<Self> {
        static GLOBAL: LazyLock<Arc<DefaultDatasetCache>> =
            LazyLock::new(|| DefaultDatasetCache::of_share(&MemoryBudget::global()));
        Arc::clone(&GLOBAL)
    }

    /// One of a sixteenth of `budget`.
    pub fn of_share(budget: &Arc<MemoryBudget>) -> Arc<Self> {
        Self::new((budget.limit() / SHARE) as u64, budget)
    }

    /// Settles what is held now.
    async fn settle(&self) {
        self.datasets.run_pending_tasks().await;
        self.lease.set(self.datasets.weighted_size() as usize);
    }

    /// Those that nobody holds but this cache.
    fn idle(&self) -> impl Iterator<Item = (Arc<DatasetKey>, CachedDataset)> + '_ {
        // One is the cache's, the other is that of the iteration.
        self.datasets.iter().filter(|(_, dataset)| Arc::strong_count(&dataset.dataset) <= 2)
    }
}

#[async_trait]
impl DatasetCache for DefaultDatasetCache {
    async fn get_or_open(&self, key: &DatasetKey, open: OpenDataset<'_>) -> Result<CachedDataset> {
        if let Some(dataset) = self.datasets.get(key).await {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(dataset);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let open = async {
            let dataset = open.await?;
            self.loads.fetch_add(1, Ordering::Relaxed);
            Ok(dataset)
        };
        let opened = self.datasets.try_get_with(key.clone(), open).await;
        let dataset = opened.map_err(|error: Arc<Error>| Error::clone(&error))?;
        self.settle().await;
        Ok(dataset)
    }

    async fn retain_paths(&self, table: &TableKey, is_live: IsLive<'_>) {
        let dead: Vec<Arc<DatasetKey>> =
            self.datasets.iter().map(|(key, _)| key).filter(|key| key.table == *table && !is_live(&key.path)).collect();
        for key in dead {
            self.datasets.invalidate(&*key).await;
        }
        self.settle().await;
    }

    fn counts(&self) -> CacheCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheCounts {
            hits: get(&self.hits),
            misses: get(&self.misses),
            loads: get(&self.loads),
            entries: self.datasets.entry_count(),
            bytes: self.datasets.weighted_size(),
        }
    }
}

impl Reclaim for DefaultDatasetCache {
    fn reclaimable(&self) -> usize {
        self.idle().map(|(_, dataset)| dataset.bytes()).sum()
    }

    fn reclaim(&self) {
        for (key, dataset) in self.idle().collect::<Vec<_>>() {
            drop(dataset);
            // It waits for nothing but room in a queue, and what is not done at once is done later.
            let _ = self.datasets.invalidate(&*key).now_or_never();
        }
        let _ = self.settle().now_or_never();
    }
}

impl fmt::Debug for DefaultDatasetCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DefaultDatasetCache").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow::datatypes::{DataType, Field, Schema};
    use futures::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::error::ErrorKind;

    fn schema(column: &str) -> Arc<TableSchema> {
        let fields = vec![Field::new("id", DataType::Int64, false), Field::new(column, DataType::Int64, true)];
        Arc::new(TableSchema::try_new(&Schema::new(fields), &["id".into()]).unwrap())
    }

    fn with(account: &str) -> OpenedWith {
        let options = StoreOptions::new(HashMap::from([("account".to_string(), account.to_string())]));
        OpenedWith {
            options,
            budget: MemoryBudget::global(),
            index_cache: IndexCache::global(),
            read_budget: ReadBudget::global(),
        }
    }

    fn key(path: &str) -> DatasetKey {
        DatasetKey::new(&TableKey::new("there", "one"), path, &schema("n"), &with("a"))
    }

    fn cache() -> (Arc<MemoryBudget>, Arc<DefaultDatasetCache>) {
        let budget = MemoryBudget::new(1 << 30);
        let cache = DefaultDatasetCache::new(16 << 20, &budget);
        (budget, cache)
    }

    async fn put(cache: &DefaultDatasetCache, key: &DatasetKey, value: u32) -> Arc<u32> {
        let open = async move { Ok(CachedDataset::new(Arc::new(value), 1 << 20)) };
        cache.get_or_open(key, Box::pin(open)).await.unwrap().get().unwrap()
    }

    #[tokio::test]
    async fn sixteen_who_ask_together_open_once_though_the_first_stops_or_fails() {
        let (_, cache) = cache();
        let gate = Semaphore::new(0);
        for (path, fails) in [("a", false), ("b", true)] {
            let key = key(path);
            let ask = |value: Option<u32>| {
                let gate = &gate;
                let open = async move {
                    gate.acquire().await.expect("it stays open").forget();
                    let value = value.ok_or_else(|| Error::unavailable("no"))?;
                    Ok(CachedDataset::new(Arc::new(value), 10))
                };
                cache.get_or_open(&key, Box::pin(open))
            };
            let mut first = ask(None);
            assert!(futures::poll!(&mut first).is_pending());
            let mut others: Vec<_> = (0..16).map(|value| ask(Some(value))).collect();
            for other in &mut others {
                assert!(futures::poll!(other).is_pending());
            }
            if fails {
                gate.add_permits(1);
                assert_eq!(first.await.unwrap_err().kind(), ErrorKind::Unavailable);
            } else {
                drop(first);
            }
            if !fails {
                gate.add_permits(1);
            }
            let opened = join_all(others).await.into_iter();
            let values: Vec<u32> = opened.filter_map(|opened| opened.ok()?.get::<u32>()).map(|value| *value).collect();
            assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
            assert_eq!(values.len(), if fails { 0 } else { 16 }, "who waits for an open that fails is told so");
            assert_eq!(*put(&cache, &key, 99).await == 99, fails, "a failure is not kept");
        }
        let counts = cache.counts();
        assert_eq!((counts.loads, counts.misses, counts.hits), (2, 35, 1));
    }

    #[tokio::test]
    async fn nobody_gets_what_was_opened_otherwise() {
        let (_, cache) = cache();
        let table = TableKey::new("there", "one");
        let mut keys = vec![
            key("a"),
            key("b"),
            DatasetKey::new(&TableKey::new("there", "two"), "a", &schema("n"), &with("a")),
            DatasetKey::new(&TableKey::new("elsewhere", "one"), "a", &schema("n"), &with("a")),
            DatasetKey::new(&table, "a", &schema("m"), &with("a")),
            DatasetKey::new(&table, "a", &schema("n"), &with("b")),
        ];
        let budget = MemoryBudget::new(1);
        let index_cache = IndexCache::new(1, 1, &budget);
        keys.push(DatasetKey::new(&table, "a", &schema("n"), &OpenedWith { budget, ..with("a") }));
        keys.push(DatasetKey::new(&table, "a", &schema("n"), &OpenedWith { index_cache, ..with("a") }));
        let read_budget = ReadBudget::new(1);
        keys.push(DatasetKey::new(&table, "a", &schema("n"), &OpenedWith { read_budget, ..with("a") }));
        keys.push(DatasetKey { runtime: None, ..key("a") });
        for (n, key) in (0..).zip(&keys) {
            assert_eq!(*put(&cache, key, n).await, n);
        }
        for (n, key) in (0..).zip(&keys) {
            assert_eq!(*put(&cache, key, 99).await, n);
        }
        assert_eq!(*put(&cache, &key("a"), 99).await, 0, "an equal key made anew");
        let counts = cache.counts();
        assert_eq!((counts.misses, counts.loads, counts.hits), (10, 10, 11));
        assert!(!format!("{:?}", keys[5]).contains("account"));
    }

    #[tokio::test]
    async fn what_is_retired_or_idle_goes_and_what_is_used_stays() {
        let (budget, cache) = cache();
        let other = DatasetKey::new(&TableKey::new("there", "two"), "a", &schema("n"), &with("a"));
        for key in [&key("a"), &key("b"), &other] {
            put(&cache, key, 1).await;
        }
        assert_eq!((cache.counts().entries, budget.used()), (3, 3 * ((1 << 20) + OVERHEAD)));
        cache.retain_paths(&TableKey::new("there", "one"), &|path| path != "a").await;
        assert_eq!((cache.counts().entries, budget.used()), (2, 2 * ((1 << 20) + OVERHEAD)));
        let used = put(&cache, &key("b"), 99).await;
        assert_eq!(cache.reclaimable(), (1 << 20) + OVERHEAD);
        budget.reclaim();
        assert_eq!((cache.counts().entries, budget.used()), (1, (1 << 20) + OVERHEAD));
        budget.reclaim();
        assert_eq!((cache.counts().entries, *used), (1, 1));
        drop(used);
        budget.reclaim();
        assert_eq!((cache.counts().entries, budget.used()), (0, 0));
    }
}
