//! Opens Lance datasets with one session and one set of storage options.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use lance::Dataset;
use lance::dataset::builder::DatasetBuilder;
use lance::dataset::{ReadParams, WriteParams};
use lance::session::{CacheSpec, Session};
use lance_core::Error as LanceError;
use lance_io::object_store::ObjectStoreParams;

use super::dataset_cache::{
    CachedDataset, DatasetCache, DatasetKey, DefaultDatasetCache, IsLive, OpenedWith, TableKey,
};
use super::handle::DatasetHandle;
use crate::cache::{BlockCounts, IndexCache, IndexView, MemoryBudget, ReadBudget};
use crate::error::{Error, Result};
use crate::schema::TableSchema;
use crate::store::{Reads, Recording, StoreOptions, from_lance, registry};
use crate::task;

/// Opens datasets with one set of storage options and one part of an index cache: the versions of a base, or one
/// generation. Cheap to clone; clones share the part.
#[derive(Clone)]
pub struct DatasetOpener {
    session: Arc<Session>,
    view: IndexView,
    with: OpenedWith,
    datasets: Arc<dyn DatasetCache>,
    table: Option<TableKey>,
}

impl DatasetOpener {
    /// An opener with the caches of the process; rows that stay in memory are charged to `budget`.
    pub fn new(options: StoreOptions, budget: Arc<MemoryBudget>) -> Self {
        let (index_cache, read_budget) = (IndexCache::global(), ReadBudget::global());
        let with = OpenedWith { options, budget, index_cache, read_budget };
        Self::of(with, DefaultDatasetCache::global(), None)
    }

    /// One with these caches, which have nothing of its datasets yet.
    #[must_use]
    pub fn with_caches(self, index_cache: Arc<IndexCache>, datasets: Arc<dyn DatasetCache>) -> Self {
        Self::of(OpenedWith { index_cache, ..self.with }, datasets, self.table)
    }

    /// One whose index cache has nothing of its datasets yet: what it opens is read from storage.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self::of(self.with.clone(), Arc::clone(&self.datasets), self.table.clone())
    }

    /// The same, charging what is read to `read_budget`; without, it is that of the process.
    #[must_use]
    pub fn with_read_budget(self, read_budget: Arc<ReadBudget>) -> Self {
        Self { with: OpenedWith { read_budget, ..self.with }, ..self }
    }

    /// The same for datasets of `table`, which others in the process may have open as well.
    #[must_use]
    pub(crate) fn of_table(self, table: Option<TableKey>) -> Self {
        Self { table, ..self }
    }

    fn of(with: OpenedWith, datasets: Arc<dyn DatasetCache>, table: Option<TableKey>) -> Self {
        let view = with.index_cache.view();
        let (indexes, metadata) = view.backends();
        let session =
            Session::with_cache_backends(CacheSpec::Backend(indexes), CacheSpec::Backend(metadata), registry());
        Self { session: Arc::new(session), view, with, datasets, table }
    }

    /// What its index cache has of its datasets.
    pub fn view(&self) -> &IndexView {
        &self.view
    }

    /// Open datasets that its table shares with others.
    pub fn datasets(&self) -> &Arc<dyn DatasetCache> {
        &self.datasets
    }

    /// The index cache of its table.
    pub fn index_cache(&self) -> &Arc<IndexCache> {
        &self.with.index_cache
    }

    /// What is open of the table at `path`, or else what `open` makes of it, which takes so many `bytes`. A table that does
    /// not tell itself from others that were at its location shares nothing. Others may wait for `open`: it goes on although
    /// who asked first is not polled.
    ///
    /// # Errors
    /// What `open` returns, and those of [`task::driven`].
    pub(crate) async fn shared<T: Any + Send + Sync>(
        &self,
        path: &str,
        schema: &Arc<TableSchema>,
        bytes: impl FnOnce(&T) -> usize + Send + 'static,
        open: impl Future<Output = Result<Arc<T>>> + Send + 'static,
    ) -> Result<Arc<T>> {
        let Some(table) = &self.table else { return open.await };
        let key = DatasetKey::new(table, path, schema, &self.with);
        let datasets = Arc::clone(&self.datasets);
        let open = async move {
            let dataset = open.await?;
            let bytes = bytes(&dataset);
            Ok(CachedDataset::new(dataset, bytes))
        };
        let get = async move { datasets.get_or_open(&key, open.boxed()).await };
        let dataset = task::driven(get).await.flatten()?;
        dataset.get().ok_or_else(|| Error::internal("the dataset cache gave another thing").with_context("path", path))
    }

    /// Lets the dataset cache go of what the table had at paths that are not live.
    pub(crate) async fn retain_paths(&self, is_live: IsLive<'_>) {
        if let Some(table) = &self.table {
            self.datasets.retain_paths(table, is_live).await;
        }
    }

    /// The newest version of the dataset at `uri`; `None` if there is no dataset.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails, `Corrupt` if the dataset is damaged.
    pub async fn latest(&self, uri: &str) -> Result<Option<Arc<Dataset>>> {
        match self.builder(uri).load().await {
            Ok(dataset) => Ok(Some(Arc::new(dataset))),
            Err(LanceError::DatasetNotFound { .. }) => Ok(None),
            Err(error) => Err(from_lance(error).with_context("dataset", uri)),
        }
    }

    /// A version of the dataset at `uri`, which is known to be there: nothing is listed.
    ///
    /// # Errors
    /// `Corrupt` if it is not there or damaged, `Unavailable` if the storage fails.
    pub async fn version(&self, uri: &str, version: u64) -> Result<Arc<Dataset>> {
        let opened = self.builder(uri).with_version(version).load().await;
        opened.map(Arc::new).map_err(|error| from_lance(error).with_context("dataset", uri))
    }

    /// `dataset` as rows of `schema`; `label` names it in plans.
    ///
    /// # Errors
    /// `Corrupt` if the dataset does not hold the table's key, or holds a column under another type; `Unavailable` if
    /// the storage fails.
    pub async fn handle(
        &self,
        dataset: Arc<Dataset>,
        schema: Arc<TableSchema>,
        label: String,
    ) -> Result<Arc<DatasetHandle>> {
        let (budget, read_budget) = (self.with.budget.lease(), Arc::clone(&self.with.read_budget));
        DatasetHandle::open(dataset, schema, label, budget, &self.with.options, read_budget).await
    }

    /// What Lance needs to write at `uri`.
    pub(crate) fn write_params(&self, uri: &str) -> WriteParams {
        WriteParams {
            store_params: Some(self.store_params(uri)),
            session: Some(Arc::clone(&self.session)),
            ..Default::default()
        }
    }

    /// What Lance needs to reach the storage of `uri`.
    pub(crate) fn store_params(&self, uri: &str) -> ObjectStoreParams {
        self.with.options.params(uri)
    }

    /// The session all datasets of this opener share.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Notes what is read of the files of the dataset at `uri`, for a summary of them; `None` where none is of use.
    ///
    /// # Errors
    /// `Invalid` if the location is wrong.
    pub async fn record(&self, uri: &str) -> Result<Option<Recording>> {
        self.with.options.record(uri).await
    }

    /// Reads the summary of the files of the dataset at `uri`. Returns what else it says, which may be nothing; `None` if
    /// there is none.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged, `Unavailable` if the storage fails.
    pub async fn recall(&self, uri: &str) -> Result<Option<Bytes>> {
        self.with.options.recall(uri).await
    }

    /// How many bytes of what is at `uri` may be kept in blocks.
    pub fn cache_capacity(&self, uri: &str) -> u64 {
        self.with.options.cache_capacity(uri)
    }

    /// How often blocks of files were in the cache, and what it keeps.
    pub fn cache_counts(&self) -> BlockCounts {
        self.with.options.cache_counts()
    }

    /// What of files whose blocks are kept the stores were asked for.
    pub fn all_reads(&self) -> Reads {
        self.with.options.all_reads()
    }

    fn builder(&self, uri: &str) -> DatasetBuilder {
        DatasetBuilder::from_uri(uri).with_read_params(ReadParams {
            store_options: Some(self.store_params(uri)),
            session: Some(Arc::clone(&self.session)),
            ..Default::default()
        })
    }
}

impl fmt::Debug for DatasetOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatasetOpener").finish_non_exhaustive()
    }
}
