//! What a text query finds in one source: an index of its rows, or one that is made of them for the purpose.
//!
//! Owns: how texts become words (Lance's tokenizers, so that they agree with Lance's indexes), what the operators of a query mean over rows, and the words that prefixes and misspelt words stand for. A source
//! without an index is answered by an index of a batch of its rows, so that there is one meaning of every query.

mod analyzer;
mod leaf;
mod matching;
mod scoring;
mod snippet;
mod survey;
mod text;

pub use analyzer::{TextAnalyzer, Tokenizer, Word};
pub use leaf::Pattern;
pub use matching::{matching, matching_counted};
pub use scoring::{Found, best, found, hits, scores};
pub use snippet::{SnippetStyle, snippet};
pub use survey::{Survey, Weights, patterns};
pub use text::{TextColumn, TextSearch, append, index_of, is_heavy, text_at};
