//! What an acknowledged write means: entries of a shard's WAL, written once each, in slots without gaps.
//!
//! An entry's bytes are fixed before the first attempt to write it, and nothing goes to the next slot until it is known
//! who owns this one. Reading ends at the first free slot, so a gap would hide acknowledged rows.

mod entry;
mod frames;
mod quarantine;
mod reader;
mod trailer;
mod writer;

pub use entry::{EncodedEntry, WalEntry, decode, encode, encode_sentinel};
pub use quarantine::{QuarantineReport, last, quarantine};
pub use reader::{WalReader, tip};
pub use writer::WalWriter;

#[cfg(test)]
mod tests;
