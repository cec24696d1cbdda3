//! Which rows match a query, as bits.

use crate::query_syntax::{AnalyzedClause, AnalyzedQuery, Query};
use crate::text_index::{self, Limits, Mask, Search, Slot, Term, TextIndex};

/// Every word counts: a row matches or does not, whatever its score.
const ALL: Limits = Limits { returned: usize::MAX, compared: usize::MAX };

/// Which rows of `index` below `watermark` match: row `r` does if bit `r % 64` of word `r / 64` is set. A row without a
/// document is an empty one.
pub fn matching(query: &AnalyzedQuery, index: &TextIndex, watermark: u32) -> Vec<u64> {
    let rows = Rows { index, watermark: watermark.min(index.rows()) };
    rows.says(query).unwrap_or_else(|| rows.none())
}

struct Rows<'a> {
    index: &'a TextIndex,
    watermark: u32,
}

impl Rows<'_> {
    fn none(&self) -> Vec<u64> {
        vec![0; (self.watermark as usize).div_ceil(64)]
    }

    /// The rows of which the query says yes; `None` if it says nothing.
    fn says(&self, query: &AnalyzedQuery) -> Option<Vec<u64>> {
        match query {
            Query::Empty => None,
            Query::Clause(clause) => Some(self.clause(clause)),
            Query::And(parts) => self.joined(parts, |a, b| a & b),
            Query::Or(parts) => self.joined(parts, |a, b| a | b),
            Query::Not(query) => self.says(query).map(|rows| self.others(rows)),
            Query::Prefer { must, should } => self.says(must).or_else(|| self.says(should)),
            Query::Boost { query, .. } => self.says(query),
        }
    }

    fn joined(&self, parts: &[AnalyzedQuery], join: impl Fn(u64, u64) -> u64) -> Option<Vec<u64>> {
        parts.iter().filter_map(|part| self.says(part)).reduce(|mut rows, more| {
            rows.iter_mut().zip(more).for_each(|(word, other)| *word = join(*word, other));
            rows
        })
    }

    fn others(&self, mut rows: Vec<u64>) -> Vec<u64> {
        rows.iter_mut().for_each(|word| *word = !*word);
        if let Some(last) = rows.last_mut()
            && !self.watermark.is_multiple_of(64)
        {
            *last &= (1 << (self.watermark % 64)) - 1;
        }
        rows
    }

    fn clause(&self, clause: &AnalyzedClause) -> Vec<u64> {
        let any = |words: Vec<String>| text_index::Query::Any(words.into_iter().map(term).collect());
        let query = match clause {
            AnalyzedClause::Term { text, .. } => term(text.clone()),
            AnalyzedClause::Prefix { text, .. } => any(self.index.prefix(text, self.watermark, ALL).terms),
            AnalyzedClause::Fuzzy { text, distance, .. } => {
                any(self.index.fuzzy(text, u32::from(distance.edits()), 0, self.watermark, ALL).terms)
            }
            AnalyzedClause::Phrase { tokens, slop, .. } => {
                let slot = |places: &[crate::query_syntax::Token]| Slot {
                    offset: places[0].position,
                    terms: places.iter().map(|token| Term::new(token.text.clone(), 0.0)).collect(),
                };
                let slots = tokens.chunk_by(|a, b| a.position == b.position).map(slot).collect();
                text_index::Query::Phrase { slots, slop: *slop }
            }
        };
        let field = text_index::Field { index: self.index, average_length: 0.0, precision: Default::default() };
        // The query is made here: its weights are numbers, its one field is there, and it has positions.
        Search::new(&[field], Mask::new(self.watermark)).rows(&query).unwrap_or_else(|_| self.none())
    }
}

fn term(text: String) -> text_index::Query {
    text_index::Query::Term(Term::new(text, 0.0))
}
