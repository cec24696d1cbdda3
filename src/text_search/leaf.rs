//! A leaf of a query as the index of its column sees it: prefixes and misspelt words become the words that it has.

use std::collections::HashSet;

use crate::query_syntax::{AnalyzedClause, Token};
use crate::text_index::{Limits, Query, Slot, Term, TextIndex};

/// No limit on the words of one index: what a query matches does not depend on how many words there are.
const ALL: Limits = Limits { returned: usize::MAX, compared: usize::MAX };

/// What a leaf of a query looks for among words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// This word.
    Word(String),
    /// Words that begin so.
    Prefix(String),
    /// Words so many edits away.
    Fuzzy(String, u8),
}

impl Pattern {
    /// The words of `index` that rows below `watermark` have, in the order of their bytes. A word that is looked for as
    /// it is may be none of them.
    pub(super) fn words(&self, index: &TextIndex, watermark: u32) -> Vec<String> {
        match self {
            Self::Word(text) => vec![text.clone()],
            Self::Prefix(text) => index.prefix(text, watermark, ALL).terms,
            Self::Fuzzy(text, edits) => index.fuzzy(text, u32::from(*edits), 0, watermark, ALL).terms,
        }
    }

    /// What `clause` looks for; several words of a phrase.
    pub(super) fn all_of(clause: &AnalyzedClause) -> Vec<Self> {
        match clause {
            AnalyzedClause::Term { text, .. } => vec![Self::Word(text.clone())],
            AnalyzedClause::Prefix { text, .. } => vec![Self::Prefix(text.clone())],
            AnalyzedClause::Fuzzy { text, distance, .. } => vec![Self::Fuzzy(text.clone(), distance.edits())],
            AnalyzedClause::Phrase { tokens, .. } => tokens.iter().map(|t| Self::Word(t.text.clone())).collect(),
        }
    }
}

/// The words that patterns may stand for.
#[derive(Debug, Default)]
pub(super) struct Asked<'a> {
    words: HashSet<&'a str>,
    prefixes: Vec<&'a str>,
    /// All, if misspelt words are looked for.
    all: bool,
}

impl<'a> Asked<'a> {
    pub(super) fn by(patterns: &'a [Pattern]) -> Self {
        let mut asked = Self::default();
        for pattern in patterns {
            match pattern {
                Pattern::Word(text) => drop(asked.words.insert(text)),
                Pattern::Prefix(text) => asked.prefixes.push(text),
                Pattern::Fuzzy(..) => asked.all = true,
            }
        }
        asked
    }

    pub(super) fn may_be(&self, word: &str) -> bool {
        self.all || self.words.contains(word) || self.prefixes.iter().any(|prefix| word.starts_with(prefix))
    }
}

/// The rows of `index`, that of field `field` of a search, below `watermark` that `clause` matches, each word weighing
/// what `weight` says.
pub(super) fn leaf(
    clause: &AnalyzedClause,
    (field, index): (usize, &TextIndex),
    watermark: u32,
    weight: impl Fn(&str) -> f32,
) -> Query {
    let term = |text: &str| Term { field, ..Term::new(text, weight(text)) };
    if let AnalyzedClause::Phrase { tokens, slop, .. } = clause {
        let slot = |places: &[Token]| Slot {
            offset: places[0].position,
            terms: places.iter().map(|token| term(&token.text)).collect(),
        };
        let slots = tokens.chunk_by(|a, b| a.position == b.position).map(slot).collect();
        return Query::Phrase { slots, slop: *slop };
    }
    let patterns = Pattern::all_of(clause);
    let words = patterns.iter().flat_map(|pattern| pattern.words(index, watermark));
    let mut terms: Vec<Query> = words.map(|word| Query::Term(term(&word))).collect();
    if terms.len() == 1 { terms.remove(0) } else { Query::Any(terms) }
}
