//! The immutable set of sources a table consists of, its atomic swap, and a query's view of it.
//!
//! Owns: what is newer than what, and what a reader sees together. A reader takes the version first and then the
//! watermarks, newest memtable first: rows become visible oldest first, so what it sees is a prefix of the writes.

mod control;
mod handoff;
mod live_paths;
mod snapshot;
mod warmer;

pub use control::{ShardVersion, Version, VersionControl};
pub use handoff::{FlushListener, FlushRequest};
pub use snapshot::Snapshot;
pub use warmer::{GenerationWarmer, IndexWarmer, NoWarmer, deadline, in_time, load, warm, warm_base, warm_generation};
