//! Opens Lance datasets with one session and one set of storage options.

use std::fmt;
use std::sync::Arc;

use lance::Dataset;
use lance::dataset::builder::DatasetBuilder;
use lance::dataset::{ReadParams, WriteParams};
use lance::session::Session;
use lance_core::Error as LanceError;
use lance_io::object_store::ObjectStoreParams;

use super::handle::DatasetHandle;
use crate::cache::{BlockCounts, MemoryBudget};
use crate::error::Result;
use crate::schema::TableSchema;
use crate::store::{Recording, StoreOptions, from_lance, registry};

/// Bytes of Lance's cache of open indexes.
const INDEX_CACHE: usize = 1 << 30;
/// Bytes of Lance's cache of manifests and file footers.
const METADATA_CACHE: usize = 256 << 20;

/// Lance's caches of manifests, file footers and open indexes. Tables that are given the same one share its memory; a
/// location whose table was deleted and made anew needs another one.
#[derive(Clone)]
pub struct LanceSession(Arc<Session>);

impl LanceSession {
    /// Caches of at most so many bytes for indexes, and for manifests and footers.
    pub fn new(index_bytes: usize, metadata_bytes: usize) -> Self {
        Self(Arc::new(Session::new(index_bytes, metadata_bytes, registry())))
    }
}

impl Default for LanceSession {
    /// 1 GiB for indexes, 256 MiB for manifests and footers.
    fn default() -> Self {
        Self::new(INDEX_CACHE, METADATA_CACHE)
    }
}

impl fmt::Debug for LanceSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LanceSession").finish_non_exhaustive()
    }
}

/// Opens datasets with one set of storage options and one session. Cheap to clone.
#[derive(Clone)]
pub struct DatasetOpener {
    session: Arc<Session>,
    options: StoreOptions,
    budget: Arc<MemoryBudget>,
}

impl DatasetOpener {
    /// An opener with a session of its own; rows that stay in memory are charged to `budget`.
    pub fn new(options: StoreOptions, budget: Arc<MemoryBudget>) -> Self {
        Self { session: LanceSession::default().0, options, budget }
    }

    /// The same with the caches of `session`.
    #[must_use]
    pub fn with_session(self, session: &LanceSession) -> Self {
        Self { session: Arc::clone(&session.0), ..self }
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
        DatasetHandle::open(dataset, schema, label, self.budget.lease(), &self.options).await
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
        self.options.params(uri)
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
        self.options.record(uri).await
    }

    /// Reads the summary of the files of the dataset at `uri`; whether there is one.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged, `Unavailable` if the storage fails.
    pub async fn recall(&self, uri: &str) -> Result<bool> {
        self.options.recall(uri).await
    }

    /// How many bytes of what is at `uri` may be kept in blocks.
    pub fn cache_capacity(&self, uri: &str) -> u64 {
        self.options.cache_capacity(uri)
    }

    /// How often blocks of files were in the cache, and what it keeps.
    pub fn cache_counts(&self) -> BlockCounts {
        self.options.cache_counts()
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
