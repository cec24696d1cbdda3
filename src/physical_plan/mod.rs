//! Plan nodes over the source traits and child plans. Nodes see Arrow; never a memtable, dataset or manifest.
//!
//! - [`MemTableScanExec`]: live rows of sources that need no further filter.
//! - [`AppendExec`]: sources in memory, one after the other.
//! - [`BlockListExec`]: drops the rows of its input that newer sources supersede.
//! - [`FirstMatchExec`]: the newest row of each of some keys.
//! - [`PrepareExec`]: finds out what has to be known before the rows of its input are looked at.
//! - [`TopKExec`]: the best rows of a source, as `VectorTopKExec` or `TextTopKExec`.
//! - [`BestExec`]: the best of the few rows that sources found, for a search without a statement.

mod append;
mod best;
mod block_list;
mod first_match;
mod leaf;
mod memtable_scan;
mod prepare;
mod top_k;

pub use append::AppendExec;
pub use best::{BestExec, Rank};
pub use block_list::BlockListExec;
pub use first_match::FirstMatchExec;
pub use memtable_scan::MemTableScanExec;
pub use prepare::PrepareExec;
pub use top_k::TopKExec;
