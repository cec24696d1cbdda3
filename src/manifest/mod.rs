//! The single commit point of a shard: its manifest, changed by compare-and-swap only.
//!
//! Versions are gap-free and never replaced: readers scan forward and stop at the first one missing, so a gap would
//! hide everything behind it. Whoever changes a shard holds its epoch; a higher one in storage fences the holder.

mod codec;
mod store;

pub use lance_table::system_index::mem_wal::{ShardManifest, ShardStatus, SsTable};
pub use store::ManifestStore;

#[cfg(test)]
mod tests;
