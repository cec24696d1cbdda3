//! Plan nodes over the source traits and child plans. Nodes see Arrow; never a memtable, dataset or manifest.
//!
//! - [`MemTableScanExec`]: live rows of sources that need no further filter.
//! - [`AppendExec`]: sources in memory, one after the other.
//! - [`BlockListExec`]: drops the rows of its input that newer sources supersede.
//! - [`FirstMatchExec`]: the newest row of each of some keys.
//! - [`VectorTopKExec`]: the rows of a source that are nearest to a vector.

mod append;
mod block_list;
mod first_match;
mod leaf;
mod memtable_scan;
mod vector_top_k;

pub use append::AppendExec;
pub use block_list::BlockListExec;
pub use first_match::FirstMatchExec;
pub use memtable_scan::MemTableScanExec;
pub use vector_top_k::VectorTopKExec;
