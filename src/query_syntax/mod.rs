//! Full-text queries: from what a person types to a tree of clauses, and from there to the words of an index.
//!
//! Owns: the syntax ([`TextQuery::parse`]), its canonical spelling (`Display`), the normal form and the seam to a
//! tokenizer ([`Analyzer`]). Does not own: tokenizers, indexes, scores.
//!
//! ```text
//! query   = list ;
//! list    = [ item { [ "OR" ] item } ] ;
//! item    = operand { "AND" operand } ;
//! operand = "NOT" operand | [ "+" | "-" ] clause ;
//! clause  = [ field ":" ] atom [ "^" number ] ;
//! atom    = "(" list ")" | phrase [ "~" digits ] | word [ "*" | "~" [ "1" | "2" ] ] ;
//! field   = word | phrase ;
//! phrase  = '"' { "\" any | any - ( '"' | "\" ) } '"' ;
//! word    = wordchar { wordchar } ;
//! wordchar = "\" any | any - ( blank | "(" | ")" | '"' | "^" | "~" | "*" | ":" | "\" ) ;
//! number  = digits [ "." [ digits ] ] | "." digits ;
//! ```
//!
//! - Blanks stand between clauses and nowhere inside one.
//! - **Lists.** Clauses side by side are joined by OR. In a list `+a` must match, `-a` and a `NOT a` without an `OR`
//!   at its side must not, and beside a `+` the others only add to the score. Next to `AND` or `OR`, `NOT` is plain
//!   logic; next to `AND` so are the signs.
//! - **Signs.** `+` and `-` are operators only at the start of a clause and with a clause right behind them: `foo-bar`,
//!   `c++` and the dash of `a - b` are words.
//! - **Keywords** are in capitals and stand alone; `\AND` is the word.
//! - **Fields.** The first `:` of a word ends a field's name, further ones belong to the word: `at:12:30`. A name may be
//!   quoted: `"my title":tree`. A field of a group is the field of all clauses in it that name no other.
//! - **Escapes.** `\` takes any character literally, in words and in phrases.
//! - **Nothing.** An empty query, `()` and `""` say nothing: they are left out of what surrounds them.

mod analysis;
mod clause;
mod cursor;
mod factor;
#[cfg(test)]
mod fixture;
mod list;
mod normal_form;
mod notation;
mod parser;
mod query;
#[cfg(test)]
mod tests;

pub use analysis::{AnalyzedClause, AnalyzedQuery, Analyzer, Split, Token, analyze};
pub use clause::{Distance, TextClause};
pub use factor::Factor;
pub use parser::{MAX_CLAUSES, MAX_DEPTH};
pub use query::{Query, TextQuery};
