//! Rows in memory: a memtable is active, then frozen, then flushed, then dropped.
//!
//! Owns: the rows of one generation before it is one, their key index, and what a reader may see of them. One writer
//! at a time appends (the shard's write lock); any number of readers read without locks up to a watermark, the number
//! of rows visible to them. Does not own: durability (`wal`), the choice of watermarks (`version`), flushing (`flush`).

mod batch_list;
mod filter;
mod key_index;
mod row_index;
mod scalar_rows;
mod selection;
mod table;
mod text_rows;
mod vector_rows;
mod view;

pub use key_index::KeyIndex;
pub use row_index::{IndexState, Indexed, RowIndex, RowIndexFactory};
pub use scalar_rows::{ScalarRows, ScalarRowsFactory};
pub use table::MemTable;
pub use text_rows::{TextFields, TextRows, TextRowsFactory};
pub use vector_rows::{NearestRequest, NearestRows, VectorRows, VectorRowsFactory};
pub use view::MemTableView;
