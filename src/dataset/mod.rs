//! Lance datasets as sources of rows: opening them, scanning them, taking rows out of them.
//!
//! Nobody above this room, `generation` and `base` names a type of Lance's: what comes out is Arrow and DataFusion.

mod budgeted_io;
mod conform;
mod counters;
mod dataset_cache;
mod failure;
mod file_scan;
mod files;
mod handle;
mod index_catalog;
mod index_coverage;
mod index_rows;
mod layout;
mod lazy_indexes;
mod opener;
mod origin;
mod product_codes;
mod resident;
mod row_readers;
mod row_reads;
mod row_windows;
mod scan;
mod storage_read;
#[cfg(test)]
mod tests;
mod text_index;
mod value_index;
mod vector_index;
mod warm;

pub use conform::conform;
pub use dataset_cache::{CachedDataset, DatasetCache, DatasetKey, DefaultDatasetCache, IsLive, OpenDataset, TableKey};
pub use handle::DatasetHandle;
pub use index_coverage::IndexCoverage;
pub use layout::FileLayout;
pub use opener::DatasetOpener;
pub use scan::DatasetScanExec;
pub use text_index::{DatasetTextIndex, Dead, TextPart};
pub use value_index::ValueCandidates;
pub use vector_index::{Allowed, DatasetVectorIndex, Estimates, Hits};

pub(crate) use origin::field_id;

use arrow::datatypes::{DataType, Field};

pub use crate::source::ROW_ID;

/// The field of [`ROW_ID`].
pub fn row_id_field() -> Field {
    Field::new(ROW_ID, DataType::UInt64, false)
}
