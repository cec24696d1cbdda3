//! The objects of a table directory: the signatures this branch needs of a room that is built elsewhere.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// One table directory's objects.
#[derive(Debug, Clone)]
pub struct ObjectIo {
    uri: String,
    sync: bool,
}

impl ObjectIo {
    /// Opens the directory at `uri`.
    ///
    /// # Errors
    /// None yet.
    pub async fn open(uri: &str, _storage_options: &HashMap<String, String>, sync: bool) -> Result<Self> {
        Ok(Self { uri: uri.to_string(), sync })
    }

    /// Where the directory is.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The names of the directories directly in `dir`.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails.
    pub async fn list_dirs(&self, dir: &str) -> Result<Vec<String>> {
        let Ok(entries) = std::fs::read_dir(std::path::Path::new(&self.uri).join(dir)) else {
            return Ok(Vec::new());
        };
        Ok(entries.flatten().filter(|e| e.path().is_dir()).map(|e| e.file_name().to_string_lossy().into()).collect())
    }

    /// Syncs every file below `dir`, then the directories up to the root.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails.
    pub async fn sync_tree(&self, dir: &str) -> Result<()> {
        tracing::trace!(dir, sync = self.sync, "sync");
        Ok(())
    }
}

/// An error of Lance's as one of ours.
pub fn from_lance(error: lance_core::Error) -> Error {
    use lance_core::Error as L;
    match &error {
        L::InvalidInput { .. } | L::NotSupported { .. } | L::SchemaMismatch { .. } | L::Schema { .. } => {
            Error::invalid("Lance refused the request").with_source(error)
        }
        L::CorruptFile { .. } | L::NotFound { .. } | L::DatasetNotFound { .. } => {
            Error::corrupt("stored data is missing or damaged").with_source(error)
        }
        L::CommitConflict { .. } | L::RetryableCommitConflict { .. } | L::TooMuchWriteContention { .. } => {
            Error::conflict("another commit came first").with_source(error)
        }
        L::IO { .. } | L::Timeout { .. } => Error::unavailable("the storage failed").with_source(error),
        _ => Error::internal("Lance failed").with_source(error),
    }
}
