//! Plan nodes over the source traits and child plans. Nodes see Arrow; never a memtable, dataset or manifest.
//!
//! - [`MemTableScanExec`]: live rows of sources that need no further filter.
//! - [`AppendExec`]: sources in memory, one after the other.
//! - [`BlockListExec`]: drops the rows of its input that newer sources supersede.
//! - [`FirstMatchExec`]: the newest row of each of some keys.

mod append;
mod block_list;
mod first_match;
mod leaf;
mod memtable_scan;

pub use append::AppendExec;
pub use block_list::BlockListExec;
pub use first_match::FirstMatchExec;
pub use memtable_scan::MemTableScanExec;
