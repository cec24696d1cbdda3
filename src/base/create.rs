//! Creating, adopting, opening and refreshing the base table.

use std::sync::Arc;

use super::{AdoptSpec, BaseTable, CreateSpec};
use crate::dataset::DatasetOpener;
use crate::error::{Error, Result};
use crate::store::ObjectIo;

impl BaseTable {
    /// Creates the table: a dataset without rows, then its MemWAL index; synced when this returns.
    ///
    /// # Errors
    /// `Invalid` if a column or the key cannot be stored, or a dataset is there already.
    pub async fn create(opener: &DatasetOpener, io: &ObjectIo, spec: &CreateSpec) -> Result<Arc<Self>> {
        let _ = (opener, io, spec);
        Err(Error::internal("not written yet"))
    }

    /// Makes a table of a plain dataset whose key is unique and without NULLs.
    ///
    /// # Errors
    /// `Invalid` if there is no dataset, or its key is not a key, or it is a table already.
    pub async fn adopt(opener: &DatasetOpener, io: &ObjectIo, spec: &AdoptSpec) -> Result<Arc<Self>> {
        let _ = (opener, io, spec);
        Err(Error::internal("not written yet"))
    }

    /// The newest version of the table; `None` if there is no dataset.
    ///
    /// # Errors
    /// `Invalid` if the dataset is not a table, or a table of a newer format.
    pub async fn open(opener: &DatasetOpener, io: &ObjectIo) -> Result<Option<Arc<Self>>> {
        let _ = (opener, io);
        Err(Error::internal("not written yet"))
    }

    /// The newest version of the table if it is newer than this one.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails.
    pub async fn refresh(&self) -> Result<Option<Arc<Self>>> {
        Err(Error::internal("not written yet"))
    }
}
