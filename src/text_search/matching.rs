//! Which rows match a query, as bits.

use std::cell::Cell;

use super::leaf::leaf;
use super::text::TextSearch;
use crate::query_syntax::{AnalyzedClause, AnalyzedQuery, Query};
use crate::text_index::{Field, Mask, Search, TextIndex};

/// Which rows below `watermark` match: row `r` does if bit `r % 64` of word `r / 64` is set. `indexes` are those of the
/// columns of `search`, of the same rows. A row without a document is an empty one.
pub fn matching(search: &TextSearch, indexes: &[&TextIndex], watermark: u32) -> Vec<u64> {
    matching_counted(search, indexes, watermark).0
}

/// The same, and how many postings that took.
pub fn matching_counted(search: &TextSearch, indexes: &[&TextIndex], watermark: u32) -> (Vec<u64>, usize) {
    let rows = Rows { search, indexes, watermark: watermark.min(rows_of(indexes)), postings: Cell::new(0) };
    (rows.says(&search.query).unwrap_or_else(|| rows.none()), rows.postings.get())
}

/// The rows that all of `indexes` have.
pub(super) fn rows_of(indexes: &[&TextIndex]) -> u32 {
    indexes.iter().map(|index| index.rows()).min().unwrap_or(0)
}

struct Rows<'a> {
    search: &'a TextSearch,
    indexes: &'a [&'a TextIndex],
    watermark: u32,
    postings: Cell<usize>,
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
            Query::Or(parts) | Query::Best(parts) => self.joined(parts, |a, b| a | b),
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
        let index = self.indexes[self.search.column_of(clause)];
        let query = leaf(clause, (0, index), self.watermark, |_| 0.0);
        let field = Field { index, average_length: 0.0, precision: Default::default() };
        // The query is made here: its weights are numbers, its one field is there, and it has positions.
        let search = Search::new(&[field], Mask::new(self.watermark));
        let rows = search.rows(&query).unwrap_or_else(|_| self.none());
        self.postings.set(self.postings.get() + search.postings());
        rows
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
