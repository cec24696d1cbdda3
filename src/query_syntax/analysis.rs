//! From clauses as typed to the words of an index: the seam to a tokenizer.

use std::fmt::{self, Display, Formatter, Write};

use super::clause::{Distance, TextClause};
use super::notation::{write_distance, write_field, write_quoted, write_slop, write_word};
use super::query::{Query, TextQuery};

/// A word as an index has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Token {
    /// The word.
    pub text: String,
    /// Its place in the text. Words at one place stand for each other; a place without one had a stop word.
    pub position: u32,
}

/// What made the words of an index, and makes those of a query in the same way.
pub trait Analyzer {
    /// The words of `text` for `field`, stemmed and without stop words if the index is.
    fn analyze(&self, field: Option<&str>, text: &str) -> Vec<Token>;

    /// `text` in the case and folding of the words of `field`, but neither split nor stemmed: it is a piece of a word.
    fn normalize(&self, field: Option<&str>, text: &str) -> String;
}

/// What becomes of a [`TextClause::Term`] that a tokenizer splits, as `foo-bar` or `user@example.com`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Split {
    /// The words in this order, side by side.
    Phrase,
    /// All of the words, anywhere.
    And,
    /// Any of the words. The default because it is what Lance's match query does unless it is told otherwise: a query
    /// without operators finds the same documents as Lance's match of the same text.
    #[default]
    Or,
}

/// A leaf of an [`AnalyzedQuery`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AnalyzedClause {
    /// This word.
    Term {
        /// Where to look.
        field: Option<String>,
        /// The word.
        text: String,
    },
    /// The words that begin so.
    Prefix {
        /// Where to look.
        field: Option<String>,
        /// How the words begin.
        text: String,
    },
    /// The words that are spelled nearly so.
    Fuzzy {
        /// Where to look.
        field: Option<String>,
        /// The word.
        text: String,
        /// How far a word may be from it.
        distance: Distance,
    },
    /// A word at each position, as far apart as the positions are.
    Phrase {
        /// Where to look.
        field: Option<String>,
        /// The words by position, at two positions or more, the first of which is 0. Of several at one position any
        /// will do.
        tokens: Vec<Token>,
        /// How many places each word may be behind where it stands in the phrase, after the word before it.
        slop: u32,
    },
}

/// A query in the words of an index, in normal form. `Display` shows it to people and need not parse.
pub type AnalyzedQuery = Query<AnalyzedClause>;

/// Asks `analyzer` for the words of `query`.
///
/// A term or a phrase without a word left, as of stop words only, says nothing and makes no AND fail. A phrase of one
/// word is a term. Words that stand for each other are joined by OR.
pub fn analyze(query: &TextQuery, analyzer: &dyn Analyzer, split: Split) -> AnalyzedQuery {
    query.map_clauses(|clause| analyze_clause(clause, analyzer, split)).normalize()
}

fn analyze_clause(clause: &TextClause, analyzer: &dyn Analyzer, split: Split) -> AnalyzedQuery {
    let name = clause.field();
    let field = name.map(String::from);
    let (text, slop) = match clause {
        TextClause::Term { text, .. } => (text, None),
        TextClause::Phrase { text, slop, .. } => (text, Some(*slop)),
        TextClause::Prefix { text, .. } => {
            return unless_empty(analyzer.normalize(name, text), |text| AnalyzedClause::Prefix { field, text });
        }
        TextClause::Fuzzy { text, distance, .. } => {
            let fuzzy = |text| AnalyzedClause::Fuzzy { field, text, distance: *distance };
            return unless_empty(analyzer.normalize(name, text), fuzzy);
        }
    };
    let mut tokens = analyzer.analyze(name, text);
    tokens.retain(|token| !token.text.is_empty());
    tokens.sort_by_key(|token| token.position);
    tokens.dedup();
    let first = tokens.first().map_or(0, |token| token.position);
    for token in &mut tokens {
        token.position -= first;
    }
    let places: Vec<&[Token]> = tokens.chunk_by(|a, b| a.position == b.position).collect();
    let any = |tokens: &[Token]| {
        let term = |token: &Token| AnalyzedClause::Term { field: field.clone(), text: token.text.clone() };
        Query::any(tokens.iter().map(term).map(Query::Clause).collect())
    };
    match (slop, split) {
        _ if places.len() < 2 => any(&tokens),
        (Some(slop), _) => Query::Clause(AnalyzedClause::Phrase { field, tokens, slop }),
        (None, Split::Phrase) => Query::Clause(AnalyzedClause::Phrase { field, tokens, slop: 0 }),
        (None, Split::And) => Query::all(places.into_iter().map(any).collect()),
        (None, Split::Or) => any(&tokens),
    }
}

/// A piece of a word; every word begins with the empty one.
fn unless_empty(text: String, clause: impl FnOnce(String) -> AnalyzedClause) -> AnalyzedQuery {
    if text.is_empty() { Query::Empty } else { Query::Clause(clause(text)) }
}

impl AnalyzedClause {
    /// Where to look, if the query says.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Term { field, .. }
            | Self::Prefix { field, .. }
            | Self::Fuzzy { field, .. }
            | Self::Phrase { field, .. } => field.as_deref(),
        }
    }
}

impl Display for AnalyzedClause {
    /// As the syntax spells it; `@n` in a phrase tells a position that is not the next one.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write_field(f, self.field())?;
        match self {
            Self::Term { text, .. } => write_word(f, text),
            Self::Prefix { text, .. } => {
                write_word(f, text)?;
                f.write_char('*')
            }
            Self::Fuzzy { text, distance, .. } => {
                write_word(f, text)?;
                write_distance(f, *distance)
            }
            Self::Phrase { tokens, slop, .. } => {
                f.write_char('"')?;
                let mut next = 0;
                for (i, token) in tokens.iter().enumerate() {
                    f.write_str(if i > 0 { " " } else { "" })?;
                    write_quoted(f, &token.text)?;
                    if token.position != next {
                        write!(f, "@{}", token.position)?;
                    }
                    next = token.position.saturating_add(1);
                }
                f.write_char('"')?;
                write_slop(f, *slop)
            }
        }
    }
}
