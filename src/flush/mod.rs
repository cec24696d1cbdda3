//! Frozen memtables become generations.
//!
//! Owns: when and how often a flush is tried, and its order of durable steps: files written and synced, then the
//! manifest, then the version. Does not own: what is frozen when (`writer`).

mod flusher;
mod indexes;
mod job;

pub use flusher::{FlushContext, run};
