//! A full-text index of rows in memory: one appender, any number of lock-free readers, BM25 with block-max pruning.

mod bits;
mod block;
mod bm25;
mod chain;
mod collector;
mod cursor;
mod dictionary;
mod expansion;
mod impact;
mod index;
mod lengths;
mod mask;
mod matching;
mod node;
mod order;
mod phrase;
mod posting;
mod query;
mod search;
mod signature;
mod union;
mod vocabulary;

pub use bm25::{B, K1, LengthPrecision, idf};
pub use collector::Floor;
pub use expansion::{Expansion, Limits};
pub use index::{AppendError, Appender, Statistics, TermEntry, TextIndex};
pub use mask::Mask;
pub use posting::PostingList;
pub use query::{Query, QueryError, Slot, Term};
pub use search::{Field, Hit, Search};
pub use vocabulary::Vocabulary;
