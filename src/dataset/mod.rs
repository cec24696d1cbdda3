//! Lance datasets as sources of rows: opening them, scanning them, taking rows out of them.
//!
//! Nobody above this room, `generation` and `base` names a type of Lance's: what comes out is Arrow and DataFusion.

mod handle;
mod opener;
mod origin;
mod scan;

pub use handle::DatasetHandle;
pub use opener::DatasetOpener;
pub use scan::DatasetScanExec;

use arrow::datatypes::{DataType, Field};

/// The name of the column that holds a row's id within its source.
pub const ROW_ID: &str = "_rowid";

/// The field of [`ROW_ID`].
pub fn row_id_field() -> Field {
    Field::new(ROW_ID, DataType::UInt64, false)
}
