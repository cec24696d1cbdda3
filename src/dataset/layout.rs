//! What files that belong to a dataset's table must agree with it about.

use lance_file::version::{ConcreteFileVersion, LanceFileVersion};
use lance_table::format::DataStorageFormat;

/// How the files of a table's generations are written, so that they fit its base.
#[derive(Debug, Clone, Copy)]
pub struct FileLayout {
    pub(super) version: ConcreteFileVersion,
    /// The highest field id that any column of the base has or had.
    pub(crate) max_field_id: i32,
}

impl FileLayout {
    /// The file version, as a writer is asked for it.
    pub(crate) fn version(self) -> LanceFileVersion {
        self.version.to_selector()
    }

    /// The file version, as a manifest records it.
    pub(crate) fn format(self) -> DataStorageFormat {
        DataStorageFormat::new(self.version)
    }

    /// The file version of indexes: never the oldest, which Lance keeps for data.
    pub(crate) fn index_version(self) -> ConcreteFileVersion {
        match self.version {
            ConcreteFileVersion::V1 => ConcreteFileVersion::V2_0,
            other => other,
        }
    }
}
