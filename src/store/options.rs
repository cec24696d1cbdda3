//! How the stores of a table are reached.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use lance_io::object_store::{ObjectStore, ObjectStoreParams, StorageOptionsAccessor};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parking_lot::Mutex;

use super::block_store::BlockStores;
use super::failure::{from_lance, from_object_store};
use super::reads::{ReadCounters, Reads};
use super::recording::Recorded;
use super::registry;
use super::summary::{self, Summary};
use crate::cache::{BlockCache, BlockCounts, MemoryBlocks};
use crate::error::{Error, Result};

/// Schemes of stores that are in memory, or on a disk that the operating system keeps blocks of.
const NEAR: [&str; 4] = ["file", "file+uring", "file-object-store", "memory"];
/// How many sets of options the process remembers the stores of, beside those that are in use.
const REMEMBERED: usize = 64;

type Options = Arc<HashMap<String, String>>;
type WeakOptions = Weak<HashMap<String, String>>;

/// What a store needs to know, and where blocks of files that never change are kept. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    options: Options,
    blocks: Arc<BlockStores>,
}

impl StoreOptions {
    /// Options in Lance's names; blocks are kept in the cache of the process.
    pub fn new(options: HashMap<String, String>) -> Self {
        let (options, blocks) = shared(options);
        Self { options, blocks }
    }

    /// The same with blocks in `cache` alone, where others with equal options that have it find them.
    #[must_use]
    pub fn with_cache(self, cache: Arc<dyn BlockCache>) -> Self {
        static OWN: Mutex<Vec<(WeakOptions, Weak<BlockStores>)>> = Mutex::new(Vec::new());
        let mut own = OWN.lock();
        own.retain(|(_, stores)| stores.strong_count() > 0);
        let alike = own.iter().filter(|(options, _)| options.upgrade().is_some_and(|known| known == self.options));
        let known = alike.filter_map(|(_, stores)| stores.upgrade()).find(|stores| stores.keep_in(&cache));
        let blocks = known.unwrap_or_else(|| {
            let new = BlockStores::new(cache);
            own.push((Arc::downgrade(&self.options), Arc::downgrade(&new)));
            new
        });
        Self { blocks, ..self }
    }

    /// The same without a cache of blocks.
    #[must_use]
    pub fn without_cache(self) -> Self {
        Self { blocks: BlockStores::keeping_nothing(), ..self }
    }

    /// How often blocks were in the cache, and what it keeps.
    pub fn cache_counts(&self) -> BlockCounts {
        self.blocks.counts()
    }

    /// What of files whose blocks are kept the stores were asked for.
    pub fn all_reads(&self) -> Reads {
        self.blocks.all_reads()
    }

    /// How many bytes of what is at `uri` may be kept in blocks.
    pub fn cache_capacity(&self, uri: &str) -> u64 {
        self.blocks_of(uri).map_or(0, |blocks| blocks.capacity())
    }

    /// What Lance needs to know to reach `uri`. Lance takes stores for the same if their options are equal and what wraps
    /// them is the same object. A store that is not near is asked again when it is busy, and its files that never change are
    /// read in blocks.
    pub fn params(&self, uri: &str) -> ObjectStoreParams {
        let wrapper = (!is_near(uri)).then(|| self.blocks.wrapper());
        let accessor = (!self.options.is_empty())
            .then(|| Arc::new(StorageOptionsAccessor::with_static_options(HashMap::clone(&self.options))));
        ObjectStoreParams { storage_options_accessor: accessor, object_store_wrapper: wrapper, ..Default::default() }
    }

    /// Notes what is read of the files in the directory at `uri` from now on; `None` if no blocks of them are kept.
    ///
    /// # Errors
    /// `Invalid` if the location or the options are wrong.
    pub async fn record(&self, uri: &str) -> Result<Option<Recording>> {
        let Some(blocks) = self.blocks_of(uri) else { return Ok(None) };
        let (store, dir) = self.store(uri).await?;
        let recorded = blocks.record(&store.store_prefix, &dir);
        Ok(Some(Recording { blocks: Arc::clone(blocks), recorded, store, dir }))
    }

    /// Keeps what the [summary](Recording::write) of the directory at `uri` repeats of its files. Returns what else it says,
    /// which may be nothing; `None` if there is none.
    ///
    /// # Errors
    /// `Corrupt` if the summary is damaged or of another directory, `Unavailable` if the storage fails.
    pub async fn recall(&self, uri: &str) -> Result<Option<Bytes>> {
        let Some(blocks) = self.blocks_of(uri) else { return Ok(None) };
        let (store, dir) = self.store(uri).await?;
        let path = dir.clone().join(summary::NAME);
        let read = async { store.inner.get(&path).await?.bytes().await };
        let bytes = match read.await {
            Ok(bytes) => bytes,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(from_object_store(error, "reading", path.as_ref())),
        };
        let summary = Summary::of_bytes(&bytes).map_err(|error| error.with_context("path", &path))?;
        if Some(summary.directory.as_str()) != dir.filename() {
            return Err(Error::corrupt("the summary is of another directory: the files are read instead")
                .with_context("path", &path)
                .with_context("directory", &summary.directory));
        }
        blocks.keep(&store.store_prefix, &dir, &summary).await;
        // Not a part of what was read, which would stay in memory with it.
        Ok(Some(Bytes::copy_from_slice(&summary.extra)))
    }

    /// What is kept in blocks of the store called `store_prefix` that `uri` is in; `None` if nothing is. Reading what is
    /// not kept fails.
    pub(crate) fn kept(&self, uri: &str, store_prefix: &str) -> Option<Arc<dyn object_store::ObjectStore>> {
        Some(Arc::new(self.blocks_of(uri)?.kept(store_prefix)))
    }

    /// Counts what is read of the dataset at `uri`, which is the directory `dir` of the store called `store_prefix`; `None`
    /// if that is near.
    pub(crate) fn reads(&self, uri: &str, store_prefix: &str, dir: &Path) -> Option<Arc<ReadCounters>> {
        (!is_near(uri)).then(|| self.blocks.reads(store_prefix, dir))
    }

    async fn store(&self, uri: &str) -> Result<(Arc<ObjectStore>, Path)> {
        ObjectStore::from_uri_and_params(registry(), uri, &self.params(uri)).await.map_err(from_lance)
    }

    /// What keeps blocks of what is at `uri`.
    fn blocks_of(&self, uri: &str) -> Option<&Arc<BlockStores>> {
        Some(&self.blocks).filter(|blocks| blocks.keeps() && !is_near(uri))
    }
}

/// Whether what is at `uri` is in memory, or on a disk that the operating system keeps blocks of.
fn is_near(uri: &str) -> bool {
    uri.split_once("://").is_none_or(|(scheme, _)| NEAR.contains(&scheme))
}

/// What is read of the files of a directory; it ends when this is dropped.
#[derive(Debug)]
pub struct Recording {
    blocks: Arc<BlockStores>,
    recorded: Arc<Recorded>,
    store: Arc<ObjectStore>,
    dir: Path,
}

impl Recording {
    /// Writes a summary of the files beside them: the parts that were read, of each file at most 1 MiB and of all at most
    /// 4 MiB, and `extra`, which means something to who gives it.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails.
    pub async fn write(self, extra: Bytes) -> Result<()> {
        let directory = self.dir.filename().unwrap_or_default().to_string();
        let summary = Summary { extra, directory, ..self.blocks.summary(&self.recorded).await };
        let path = self.dir.clone().join(summary::NAME);
        let put = self.store.inner.put(&path, summary.to_bytes().into()).await;
        put.map(|_| ()).map_err(|error| from_object_store(error, "writing", path.as_ref()))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.blocks.forget(&self.recorded);
    }
}

impl PartialEq for StoreOptions {
    /// Whether the same stores are reached.
    fn eq(&self, other: &Self) -> bool {
        self.options == other.options && Arc::ptr_eq(&self.blocks, &other.blocks)
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self::new(HashMap::new())
    }
}

/// Equal options, and the stores of the process that are reached with them.
fn shared(options: HashMap<String, String>) -> (Options, Arc<BlockStores>) {
    static SHARED: Mutex<Vec<(Options, Arc<BlockStores>)>> = Mutex::new(Vec::new());
    let mut shared = SHARED.lock();
    if let Some((options, stores)) = shared.iter().find(|(known, _)| **known == options) {
        return (Arc::clone(options), Arc::clone(stores));
    }
    // Who has a set in use must find its stores again: those that nobody has go, the oldest first.
    if shared.len() >= REMEMBERED
        && let Some(idle) = shared.iter().position(|(options, _)| Arc::strong_count(options) == 1)
    {
        shared.remove(idle);
    }
    let new = (Arc::new(options), BlockStores::new(MemoryBlocks::global()));
    shared.push((Arc::clone(&new.0), Arc::clone(&new.1)));
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::MemoryBudget;

    #[test]
    fn equal_options_share_stores_and_others_do_not() {
        let of = |key: &str| StoreOptions::new(HashMap::from([("access_key_id".to_string(), key.to_string())]));
        let is_same = |a: &StoreOptions, b: &StoreOptions| a.params("s3://x/y") == b.params("s3://x/y");
        assert!(is_same(&of("a"), &of("a")));
        assert!(!is_same(&of("a"), &of("b")));
        assert!(!is_same(&of("a"), &of("a").without_cache()));
        let budget = MemoryBudget::new(1 << 20);
        let [one, other] = [1, 1].map(|capacity| MemoryBlocks::new(capacity, &budget));
        let own = of("a").with_cache(Arc::clone(&one) as _);
        assert!(is_same(&own, &own.clone()) && !is_same(&own, &of("a")));
        assert!(is_same(&own, &of("a").with_cache(Arc::clone(&one) as _)));
        assert!(!is_same(&own, &of("b").with_cache(one)) && !is_same(&own, &of("a").with_cache(other)));
        assert!(is_same(&of("a").without_cache(), &of("a").without_cache()));
        assert!(of("a").params("memory://x").object_store_wrapper.is_none());
    }

    #[test]
    fn stores_that_are_in_use_are_remembered_whatever_else_is_opened() {
        let of = |key: &str| StoreOptions::new(HashMap::from([("token".to_string(), key.to_string())]));
        let (live, idle) = (of("live"), of("idle").params("s3://x/y"));
        for other in 0..=REMEMBERED {
            of(&other.to_string());
        }
        assert!(live == of("live"));
        assert!(live.params("s3://x/y") == of("live").params("s3://x/y"));
        assert!(idle != of("idle").params("s3://x/y"), "what nobody has is forgotten in the end");
    }
}
