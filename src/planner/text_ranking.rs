//! The rows of a memtable whose texts score most, by its index.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::physical_expr::PhysicalExpr;
use roaring::RoaringTreemap;

use super::leaders::{Leaders, Seat};
use super::passing_rows::passing;
use super::text_match::{bits, matching_rows, positions, texts_of, unindexed};
use super::text_scorer::TextScorer;
use crate::block_list::MemTableRows;
use crate::error::Result;
use crate::memtable::TextFields;
use crate::source::{Best, Flat, RowSource, TopKSource, ValueRanges, Work};
use crate::task;
use crate::text_index::Mask;
use crate::text_search::{TextSearch, Weights, best};

/// Rows from which on a search leaves the async workers where their texts have to be read.
const HEAVY: usize = 1024;

/// What texts are ranked by in every source alike.
#[derive(Debug)]
pub struct TextRanking {
    /// What they score.
    pub scorer: Arc<TextScorer>,
    /// How many rows.
    pub k: usize,
    /// What rows must pass beside text queries, over the logical schema.
    pub beside_texts: Option<Arc<dyn PhysicalExpr>>,
    /// What that lets columns have.
    pub ranges: Vec<ValueRanges>,
    /// Whether some of that is asked of scores.
    asks_scores: bool,
    leaders: Arc<Leaders>,
}

impl TextRanking {
    /// The `k` rows whose texts score most by `scorer` of those that pass `beside_texts`, which lets columns have what is
    /// in `ranges`, and `asks_scores` or does not.
    pub fn new(
        scorer: Arc<TextScorer>,
        k: usize,
        beside_texts: Option<Arc<dyn PhysicalExpr>>,
        asks_scores: bool,
        ranges: Vec<ValueRanges>,
    ) -> Self {
        // What an index adds up may differ in the last bit from what a condition compares: no row makes another one
        // superfluous then, nor is its score known above.
        let leaders = Leaders::new((!asks_scores).then_some(k));
        Self { scorer, k, beside_texts, ranges, asks_scores, leaders }
    }

    /// The best of all sources.
    pub(super) fn leaders(&self) -> &Arc<Leaders> {
        &self.leaders
    }

    /// Keeps what rows score, which a source found, for those who ask above.
    pub(super) fn keep(&self, rows: &RecordBatch, scores: &[f32]) {
        if !self.asks_scores {
            self.scorer.keep(rows, scores);
        }
    }
}

/// A memtable that has an index for the ranking.
#[derive(Debug, Clone)]
pub(super) struct MemTableRanking {
    rows: MemTableRows,
    ranking: Arc<TextRanking>,
    texts: Arc<[TextSearch]>,
    seat: Seat,
}

impl MemTableRanking {
    /// The ranking of the live rows of a memtable that match `texts`; `None` if no index answers it.
    pub(super) fn try_new(rows: &MemTableRows, ranking: &Arc<TextRanking>, texts: &Arc<[TextSearch]>) -> Option<Self> {
        TextFields::of(rows.view(), ranking.scorer.search())?;
        let seat = ranking.leaders().enter_memtable();
        Some(Self { rows: rows.clone(), ranking: Arc::clone(ranking), texts: Arc::clone(texts), seat })
    }

    fn find(
        &self,
        blocked: &RoaringTreemap,
        weights: &[Weights],
        projection: &[usize],
        schema: &SchemaRef,
    ) -> Result<Best> {
        let (view, scorer) = (self.rows.view(), &self.ranking.scorer);
        let search = scorer.search();
        let TextRanking { beside_texts, ranges, .. } = self.ranking.as_ref();
        // What scores matches what it is scored for: asked before only so that less needs to be known of other rows.
        let asked = self.texts.iter().filter(|text| *text != search || beside_texts.is_some());
        let (mut allowed, mut work) = passing(view, blocked, asked, beside_texts.as_ref(), ranges)?;
        work.add("postings", 0);
        let candidates = bits(&allowed);
        let Some(texts) = TextFields::of(view, search) else {
            // Given up since the plan was made: all rows are ranked above.
            work.flat(Flat::NoIndex, candidates);
            let rows = view.take(&positions(allowed, view.watermark()), projection, schema)?;
            return Ok(Best { rows, work });
        };
        let indexed = texts.indexed().min(view.watermark());
        let mask = Mask::new(u32::try_from(indexed).unwrap_or(u32::MAX)).within(&allowed);
        let (hits, postings) = best(search, weights, &texts.indexes(), mask, self.ranking.k, &self.seat.floor());
        work.add("postings", postings);
        let mut best: Vec<(f32, usize)> = hits.into_iter().map(|hit| (hit.score, hit.row as usize)).collect();
        let tail = unindexed(&allowed, indexed, view.watermark());
        work.flat(Flat::NotIndexed, tail.len());
        if !tail.is_empty() {
            let scores = scorer.scores(&texts_of(view, &search.columns, &tail)?)?;
            best.extend(scores.values().iter().copied().zip(tail.iter().copied()).filter(|(score, _)| *score > 0.0));
            best.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            best.truncate(self.ranking.k);
        }
        self.seat.offer(best.iter().map(|(score, _)| *score).collect());
        let least = self.seat.least();
        best.retain(|(score, _)| least.is_none_or(|least| *score >= least));
        best.sort_unstable_by_key(|(_, row)| *row);
        if best.len() < self.ranking.k && least.is_none() {
            // All others score nothing: any will do that may be there.
            let same = self.texts.iter().filter(|text| *text == search);
            allowed = matching_rows(view, same, allowed, &mut Work::default())?;
            let is_other = |row: &usize| best.binary_search_by_key(row, |(_, row)| *row).is_err();
            let others = positions(allowed, view.watermark()).into_iter().filter(is_other);
            let others: Vec<(f32, usize)> = others.take(self.ranking.k - best.len()).map(|row| (0.0, row)).collect();
            best.extend(others);
            best.sort_unstable_by_key(|(_, row)| *row);
        }
        let (scores, rows): (Vec<f32>, Vec<usize>) = best.into_iter().unzip();
        let rows = view.take(&rows, projection, schema)?;
        self.ranking.keep(&rows, &scores);
        Ok(Best { rows, work })
    }
}

#[async_trait]
impl TopKSource for MemTableRanking {
    fn node(&self) -> &'static str {
        "TextTopKExec"
    }

    fn label(&self) -> String {
        format!("source={}, index=text, k={}", self.rows.label(), self.ranking.k)
    }

    fn limit(&self) -> usize {
        self.ranking.k.min(self.rows.row_count())
    }

    async fn best(&self, projection: &[usize], schema: &SchemaRef) -> Result<Best> {
        let blocked = self.rows.blocked().await?;
        let weights = self.ranking.scorer.weights().await?;
        let view = self.rows.view();
        let indexed = TextFields::of(view, self.ranking.scorer.search()).map_or(0, |texts| texts.indexed());
        let reads =
            self.ranking.beside_texts.is_some() || self.texts.iter().any(|text| TextFields::of(view, text).is_none());
        if !reads && view.watermark() < indexed + HEAVY {
            return self.find(&blocked, &weights, projection, schema);
        }
        let (ranking, projection, schema) = (self.clone(), projection.to_vec(), Arc::clone(schema));
        task::blocking(move || ranking.find(&blocked, &weights, &projection, &schema)).await
    }
}
