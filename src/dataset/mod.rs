//! Lance datasets as sources of rows: opening them, scanning them, taking rows out of them.
//!
//! Nobody above this room, `generation` and `base` names a type of Lance's: what comes out is Arrow and DataFusion.

mod conform;
mod failure;
mod handle;
mod layout;
mod opener;
mod origin;
mod resident;
mod scan;
#[cfg(test)]
mod tests;

pub use conform::conform;
pub use handle::DatasetHandle;
pub use layout::FileLayout;
pub use opener::{DatasetOpener, LanceSession};
pub use scan::DatasetScanExec;

pub(crate) use origin::field_id;

use arrow::datatypes::{DataType, Field};

pub use crate::source::ROW_ID;

/// The field of [`ROW_ID`].
pub fn row_id_field() -> Field {
    Field::new(ROW_ID, DataType::UInt64, false)
}
