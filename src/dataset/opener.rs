//! Opens Lance datasets with one session and one set of storage options.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use lance::Dataset;
use lance::dataset::builder::DatasetBuilder;
use lance::dataset::{ReadParams, WriteParams};
use lance::session::Session;
use lance_core::Error as LanceError;
use lance_io::object_store::ObjectStoreParams;

use super::handle::DatasetHandle;
use crate::cache::MemoryBudget;
use crate::error::Result;
use crate::schema::TableSchema;
use crate::store::{from_lance, registry, store_params};

/// Bytes of Lance's cache of open indexes.
const INDEX_CACHE: usize = 1 << 30;
/// Bytes of Lance's cache of manifests and file footers.
const METADATA_CACHE: usize = 256 << 20;

/// Opens datasets with one set of storage options and one session. Cheap to clone.
#[derive(Clone)]
pub struct DatasetOpener {
    session: Arc<Session>,
    storage_options: Arc<HashMap<String, String>>,
    budget: Arc<MemoryBudget>,
}

impl DatasetOpener {
    /// An opener with a session of its own; rows that stay in memory are charged to `budget`.
    pub fn new(storage_options: HashMap<String, String>, budget: Arc<MemoryBudget>) -> Self {
        Self {
            session: Arc::new(Session::new(INDEX_CACHE, METADATA_CACHE, registry())),
            storage_options: Arc::new(storage_options),
            budget,
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

    /// `dataset` as rows of `schema`; `label` names it in plans.
    ///
    /// # Errors
    /// `Corrupt` if the dataset does not hold the table's key, or holds a column under another type.
    pub fn handle(&self, dataset: Arc<Dataset>, schema: Arc<TableSchema>, label: String) -> Result<Arc<DatasetHandle>> {
        DatasetHandle::try_new(dataset, schema, label, self.budget.lease())
    }

    /// What Lance needs to write where this opener reads.
    pub(crate) fn write_params(&self) -> WriteParams {
        WriteParams {
            store_params: Some(self.store_params()),
            session: Some(Arc::clone(&self.session)),
            ..Default::default()
        }
    }

    /// What Lance needs to reach the storage.
    pub(crate) fn store_params(&self) -> ObjectStoreParams {
        store_params(&self.storage_options)
    }

    /// The session all datasets of this opener share.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    fn builder(&self, uri: &str) -> DatasetBuilder {
        DatasetBuilder::from_uri(uri).with_read_params(ReadParams {
            store_options: Some(self.store_params()),
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
