//! Searching: the best rows, all rows with scores, or all rows.

use std::cell::Cell;

use super::block::END;
use super::bm25::{LengthPrecision, Norms};
use super::collector::{Collector, Everything, Floor, TopK};
use super::cursor::{FieldView, TermCursor, covering};
use super::index::TextIndex;
use super::mask::Mask;
use super::matching::matching;
use super::node::Node;
use super::query::{Query, QueryError, Term};
use super::union::Union;

/// So many postings cost as much as finding one row in them.
const SEEK: u64 = 8;

/// A searched column.
#[derive(Debug, Clone, Copy)]
pub struct Field<'a> {
    /// Its index.
    pub index: &'a TextIndex,
    /// Tokens of an average document, over all sources that are compared.
    pub average_length: f32,
    /// How exactly scores know a document's length.
    pub precision: LengthPrecision,
}

/// A row and its score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// The row.
    pub row: u32,
    /// Its BM25 score.
    pub score: f32,
}

/// A search over columns of the same rows.
#[derive(Debug)]
pub struct Search<'a> {
    fields: Vec<FieldView<'a>>,
    mask: Mask<'a>,
}

impl<'a> Search<'a> {
    /// Over rows that the mask lets through and that all fields have indexed.
    pub fn new(fields: &[Field<'a>], mask: Mask<'a>) -> Self {
        let rows = fields.iter().map(|field| field.index.rows()).min().unwrap_or(0);
        let mask = mask.below(rows);
        let watermark = mask.watermark();
        let view = |field: &Field<'a>| FieldView {
            index: field.index,
            lengths: field.index.length_view(watermark),
            norms: Norms::new(field.average_length, field.precision),
            watermark,
            postings: Cell::new(0),
        };
        Self { fields: fields.iter().map(view).collect(), mask }
    }

    /// How many postings were decoded until now: of those that pruning spares none.
    pub fn postings(&self) -> usize {
        self.fields.iter().map(|field| field.postings.get()).sum()
    }

    fn check(&self, query: &Query) -> Result<(), QueryError> {
        let has_positions: Vec<bool> = self.fields.iter().map(|field| field.index.has_positions()).collect();
        query.check(&has_positions, 0)
    }

    /// The `k` best rows that score above `floor`: by score, then by row. The floor rises when there are so many. Without
    /// one, give [`f32::NEG_INFINITY`].
    ///
    /// # Errors
    /// If the query cannot be answered.
    pub fn top_k(&self, query: &Query, k: usize, floor: &Floor) -> Result<Vec<Hit>, QueryError> {
        let mut collector = TopK::new(k, floor);
        self.collect(query, &mut collector)?;
        Ok(collector.into_hits())
    }

    /// All rows that match, in row order.
    ///
    /// # Errors
    /// If the query cannot be answered.
    pub fn all(&self, query: &Query) -> Result<Vec<Hit>, QueryError> {
        let mut collector = Everything::default();
        self.collect(query, &mut collector)?;
        Ok(collector.hits)
    }

    /// All rows that match as bits, 64 to a word; those behind are not set.
    ///
    /// # Errors
    /// If the query cannot be answered.
    pub fn rows(&self, query: &Query) -> Result<Vec<u64>, QueryError> {
        self.check(query)?;
        let mut rows = matching(query, &self.fields, self.mask.words());
        rows.iter_mut().enumerate().for_each(|(i, word)| *word &= self.mask.word(i));
        Ok(rows)
    }

    fn collect(&self, query: &Query, collector: &mut impl Collector) -> Result<(), QueryError> {
        self.check(query)?;
        if let Some(terms) = terms_of(query) {
            let open = |&(term, factor): &(&Term, f32)| {
                TermCursor::new(&self.fields[term.field], &term.text, term.weight * factor, false)
            };
            let terms: Vec<TermCursor<'_>> = terms.iter().map(open).filter(|cursor| cursor.row() != END).collect();
            let cost: u64 = terms.iter().map(TermCursor::cost).sum();
            if self.mask.count_if_filtered().is_none_or(|rows| rows * SEEK > cost) {
                Union::new(terms).run(&self.mask, collector);
                return Ok(());
            }
        }
        self.walk(Node::new(query, &self.fields, 1.0), collector);
        Ok(())
    }

    /// Offers the rows of any tree, window by window.
    fn walk(&self, mut root: Node<'_>, collector: &mut impl Collector) {
        let mut start = self.mask.next_visible(root.row());
        while start < self.mask.watermark() {
            let bound = root.bound(start);
            let is_hopeless = |threshold: f32| covering(bound.most) <= f64::from(threshold);
            if bound.is_nothing() || is_hopeless(collector.threshold()) {
                start = self.mask.next_visible(bound.up_to.saturating_add(1));
                continue;
            }
            root.set_threshold(collector.threshold());
            let mut row = root.seek(start);
            while row <= bound.up_to && row != END {
                let visible = self.mask.next_visible(row);
                if visible != row {
                    if visible > bound.up_to {
                        row = visible;
                        break;
                    }
                    row = root.seek(visible);
                    continue;
                }
                let threshold = collector.threshold();
                if let Some(score) = root.eval(threshold)
                    && score > threshold
                {
                    collector.offer(row, score);
                    if collector.threshold() > threshold {
                        if is_hopeless(collector.threshold()) {
                            break;
                        }
                        root.set_threshold(collector.threshold());
                    }
                }
                row = root.seek(row + 1);
            }
            // Rows that only lazy terms have may lie before `row`: the next window starts behind this one.
            start = self.mask.next_visible(bound.up_to.saturating_add(1));
        }
    }
}

/// The terms of a query that is but a sum of terms, and what their weights are multiplied by.
fn terms_of(query: &Query) -> Option<Vec<(&Term, f32)>> {
    fn add<'q>(query: &'q Query, factor: f32, to: &mut Vec<(&'q Term, f32)>) -> bool {
        match query {
            Query::Term(term) => {
                to.push((term, factor));
                true
            }
            Query::Any(children) => children.iter().all(|child| add(child, factor, to)),
            Query::Bool { must, should, must_not } if must.is_empty() && must_not.is_empty() => {
                should.iter().all(|child| add(child, factor, to))
            }
            Query::Scaled { query, factor: more } => add(query, factor * more, to),
            Query::Phrase { .. } | Query::Best(_) | Query::Bool { .. } | Query::Boost { .. } => false,
        }
    }
    let mut terms = Vec::new();
    add(query, 1.0, &mut terms).then_some(terms)
}
