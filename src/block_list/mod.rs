//! Superseded rows per source: resolved once where both sides are immutable, grown where one still grows.
//!
//! Owns: the answer to "which rows of this older source do those newer sources supersede?", by comparing keys. Does not
//! own: which source is newer (`version`), what is done with the rows (`physical_plan`).

mod lists;
mod loaded;
mod mask;
mod pair;

pub use lists::{BlockLists, KeySource, SourceId};
pub use mask::{BaseMask, GenerationMask, MemTableRows};
