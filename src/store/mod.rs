//! The objects of one table directory: their paths, reading, creating without replacing, and making them durable.
//!
//! Everything this crate itself stores (WAL entries, shard manifests) goes through [`ObjectIo`], but for summaries, which go
//! the way of the files that they repeat; Lance's own files only become durable through [`ObjectIo::sync_tree`]. Writing past it would be neither synced nor seen by fault tests.

mod block_store;
mod failure;
mod hook;
mod io;
mod kept_blocks;
mod local;
mod memory_store;
mod new_file;
mod open_files;
mod options;
mod paths;
mod reads;
mod recording;
mod remote;
mod retry;
mod summary;
mod sync_record;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod upload;
mod whole;

pub(crate) use block_store::size_now;
pub use failure::from_lance;
pub use hook::{IoCounts, IoHook, IoOp};
pub use io::{ObjectIo, Put};
pub use open_files::OpenFiles;
pub use options::{Recording, StoreOptions};
pub use paths::TablePaths;
pub use reads::{ReadCounters, Reads};
pub use remote::registry;
pub use retry::Retry;
pub use sync_record::SyncRecord;
