//! Which rows match a query, as bits.

use super::leaf::leaf;
use crate::query_syntax::{AnalyzedClause, AnalyzedQuery, Query};
use crate::text_index::{Field, Mask, Search, TextIndex};

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

    /// The rows that match; `None` if the query says nothing, and so leaves out nothing beside others.
    fn says(&self, query: &AnalyzedQuery) -> Option<Vec<u64>> {
        match query {
            Query::Empty => None,
            Query::Clause(clause) => Some(self.clause(clause)),
            Query::And(parts) => self.joined(parts, |a, b| a & b),
            Query::Or(parts) => self.joined(parts, |a, b| a | b),
            Query::Not(query) => self.says(query).map(|rows| others(rows, self.watermark)),
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

    fn clause(&self, clause: &AnalyzedClause) -> Vec<u64> {
        let query = leaf(clause, self.index, self.watermark, |_| 0.0);
        let field = Field { index: self.index, average_length: 0.0, precision: Default::default() };
        // The query is made here: its weights are numbers, its one field is there, and it has positions.
        Search::new(&[field], Mask::new(self.watermark)).rows(&query).unwrap_or_else(|_| self.none())
    }
}

/// The rows below `watermark` that are not in `rows`.
pub(super) fn others(mut rows: Vec<u64>, watermark: u32) -> Vec<u64> {
    rows.iter_mut().for_each(|word| *word = !*word);
    if let Some(last) = rows.last_mut()
        && !watermark.is_multiple_of(64)
    {
        *last &= (1 << (watermark % 64)) - 1;
    }
    rows
}
