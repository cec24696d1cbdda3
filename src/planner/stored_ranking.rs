//! The rows of a generation or of the base whose texts score most.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float32Array};
use arrow::datatypes::{SchemaRef, UInt64Type};
use async_trait::async_trait;
use futures::TryStreamExt;
use roaring::RoaringTreemap;

use super::leaders::Seat;
use super::live_rows::LiveRows;
use super::reading::Reading;
use super::side_by_side::{SideBySide, SourceSearch};
use super::sources::StoredRows;
use super::stored_texts::{StoredTexts, passing};
use super::text_columns::{Answered, Findable};
use super::text_ranking::TextRanking;
use crate::error::{Error, Result};
use crate::source::{Best, Flat, TopKSource, Work};
use crate::text_search::TextSearch;

/// The stored sources of one query: none reads rows before all have found theirs, since those of others may be better.
pub(super) type BestTexts = SideBySide<BestSearch>;

/// A generation or base that has a text index for the ranking.
#[derive(Debug)]
pub(super) struct StoredRanking {
    search: Arc<BestSearch>,
    kind: &'static str,
    best_texts: Arc<BestTexts>,
    place: usize,
}

impl StoredRanking {
    /// The ranking of the live rows of a dataset that match `texts`, one of those that `best_texts` are of; `None` if a
    /// column has no text index.
    pub(super) fn try_new(
        rows: &StoredRows,
        ranking: &Arc<TextRanking>,
        texts: &Arc<[TextSearch]>,
        best_texts: &Arc<BestTexts>,
    ) -> Option<Self> {
        let handle = rows.handle();
        let columns = ranking.scorer.search().columns.iter();
        let columns = columns.map(|column| handle.schema().logical().index_of(&column.name));
        let columns = columns.collect::<Result<Vec<_>, _>>().ok()?;
        if !columns.iter().all(|column| handle.has_text_index(*column)) {
            return None;
        }
        let is_stored = columns.iter().all(|column| handle.has_stored_text_index(*column));
        let search = Arc::new(BestSearch {
            rows: rows.clone(),
            ranking: Arc::clone(ranking),
            texts: Arc::clone(texts),
            seat: ranking.leaders().enter_stored(),
        });
        let (best_texts, place) = (Arc::clone(best_texts), best_texts.enter(Arc::clone(&search)));
        Some(Self { search, kind: if is_stored { "text" } else { "text in memory" }, best_texts, place })
    }
}

/// The search for the rows of a dataset whose texts score most.
#[derive(Debug)]
pub(super) struct BestSearch {
    rows: StoredRows,
    ranking: Arc<TextRanking>,
    texts: Arc<[TextSearch]>,
    seat: Seat,
}

/// What it finds.
#[derive(Debug)]
pub(super) struct FoundBest {
    live: LiveRows,
    texts: StoredTexts,
    /// The live rows that pass the filter, if there is one.
    passing: Option<Arc<RoaringTreemap>>,
    rows: Vec<Scored>,
    work: Work,
}

#[async_trait]
impl SourceSearch for BestSearch {
    type Found = FoundBest;

    async fn find(&self, _: &[Arc<Self>]) -> Result<FoundBest> {
        self.rows.handle().keep_small().await;
        let reading = Reading::begin(self.rows.handle());
        let live = LiveRows::resolve(&self.rows).await?;
        let (scorer, k) = (&self.ranking.scorer, self.ranking.k);
        let (search, weights) = (scorer.search(), scorer.weights().await?);
        let texts = StoredTexts::open(&live, search).await?;
        let mut work = Work::default();
        work.add("postings", 0);
        work.add("rows_dropped", usize::try_from(texts.superseded.len()).unwrap_or(usize::MAX));
        let TextRanking { beside_texts, ranges, .. } = self.ranking.as_ref();
        // What scores matches what it is scored for: asked before only so that less needs to be known of other rows, unless
        // all texts would be read for that.
        let answered = texts.columns.answered();
        let matches_first = beside_texts.is_some() && answered.is_ok();
        let needed: Vec<&TextSearch> = self.texts.iter().filter(|text| *text != search || matches_first).collect();
        let mut filter = Work::default();
        let passing = passing(&live, needed, beside_texts.as_ref(), ranges, &mut filter).await?.map(Arc::new);
        work.filtered(&filter);
        let mut top = Top::new(k);
        let mut read = RoaringTreemap::new();
        let candidates = match &passing {
            Some(passing) => passing.len(),
            None => (live.handle().rows() as u64).saturating_sub(texts.superseded.len()),
        };
        work.add("candidates", usize::try_from(candidates).unwrap_or(usize::MAX));
        let why = answered.as_ref().err().copied().unwrap_or(Flat::NotIndexed);
        let answered = answered.ok();
        self.look(&texts, answered.as_ref(), &passing, &mut top, &mut read).await?;
        work.flat(why, usize::try_from(read.len()).unwrap_or(usize::MAX));
        if let Some(answered) = answered {
            let (superseded, passing) = (Arc::clone(&texts.superseded), passing.clone());
            let findable = Findable { superseded, passing, read: Arc::new(read) };
            let best = Arc::new(answered).best(search, &weights, &findable, (k, &self.seat.floor()), &mut work).await?;
            best.into_iter().for_each(|(row, score)| top.offer(row, score));
        }
        let rows = top.rows.into_vec();
        self.seat.offer(rows.iter().map(|best| best.score).collect());
        reading.tell(&mut work);
        Ok(FoundBest { live, texts, passing, rows, work })
    }
}

impl BestSearch {
    /// Those of the rows that were found that may be among the best of all sources, in order.
    async fn wanted(&self, found: &FoundBest) -> Result<Vec<Scored>> {
        let (FoundBest { live, texts, passing, .. }, k) = (found, self.ranking.k);
        let mut rows = found.rows.clone();
        let least = self.seat.least();
        rows.retain(|best| least.is_none_or(|least| best.score >= least));
        if rows.len() < k && !self.seat.has_enough() {
            // All others score nothing: any will do that may be there.
            let known: RoaringTreemap = rows.iter().map(|best| best.row).collect();
            let wanted = k - rows.len();
            let others: Vec<u64> = match self.texts.contains(self.ranking.scorer.search()) {
                true => {
                    let found = texts.matching(&mut Work::default()).await?;
                    let passes = |id: &u64| passing.as_ref().is_none_or(|rows| rows.contains(*id));
                    found.iter().filter(|id| !known.contains(*id) && passes(id)).take(wanted).collect()
                }
                false => any_of(live, &texts.superseded, passing, &known, wanted).await?,
            };
            rows.extend(others.into_iter().map(|row| Scored { score: 0.0, row }));
        }
        rows.sort_unstable_by_key(|best| best.row);
        Ok(rows)
    }

    /// Scores the texts of the rows that `answered` does not know.
    async fn look(
        &self,
        texts: &StoredTexts,
        answered: Option<&Answered>,
        passing: &Option<Arc<RoaringTreemap>>,
        top: &mut Top,
        read: &mut RoaringTreemap,
    ) -> Result<()> {
        let scorer = Arc::clone(&self.ranking.scorer);
        let scores = move |texts: &[ArrayRef]| scorer.scores(texts);
        let take = |ids: &[u64], scores: Float32Array| {
            read.extend(ids);
            for (id, score) in ids.iter().zip(scores.values()).filter(|(_, score)| **score > 0.0) {
                let passes = passing.as_ref().is_none_or(|rows| rows.contains(*id));
                if passes && !texts.superseded.contains(*id) {
                    top.offer(*id, *score);
                }
            }
        };
        texts.columns.look(answered, scores, take).await
    }
}

/// Live rows that pass and are not `known`, `wanted` of them or all.
async fn any_of(
    live: &LiveRows,
    superseded: &RoaringTreemap,
    passing: &Option<Arc<RoaringTreemap>>,
    known: &RoaringTreemap,
    wanted: usize,
) -> Result<Vec<u64>> {
    if let Some(passing) = passing {
        return Ok(passing.iter().filter(|id| !known.contains(*id)).take(wanted).collect());
    }
    let mut found = Vec::new();
    let mut rows = live.rows_of(&[], None)?;
    while let Some(batch) = rows.try_next().await? {
        let ids = batch.column(0).as_primitive::<UInt64Type>().values().iter().copied();
        found.extend(ids.filter(|id| !known.contains(*id) && !superseded.contains(*id)));
        if found.len() >= wanted {
            break;
        }
    }
    found.truncate(wanted);
    Ok(found)
}

/// A row and its score: the worst first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scored {
    score: f32,
    row: u64,
}

impl Eq for Scored {}

impl Ord for Scored {
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Scored {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The rows that score most.
struct Top {
    k: usize,
    rows: std::collections::BinaryHeap<Scored>,
}

impl Top {
    fn new(k: usize) -> Self {
        Self { k, rows: std::collections::BinaryHeap::with_capacity(k + 1) }
    }

    fn offer(&mut self, row: u64, score: f32) {
        self.rows.push(Scored { score, row });
        if self.rows.len() > self.k {
            self.rows.pop();
        }
    }
}

#[async_trait]
impl TopKSource for StoredRanking {
    fn node(&self) -> &'static str {
        "TextTopKExec"
    }

    fn label(&self) -> String {
        let BestSearch { rows, ranking, .. } = self.search.as_ref();
        let (superseded_by, source, k) = (rows.mask().label(), rows.label(), ranking.k);
        format!("source={source}, index={}, k={k}, superseded_by={superseded_by}", self.kind)
    }

    fn limit(&self) -> usize {
        self.search.ranking.k.min(self.search.rows.handle().rows())
    }

    async fn best(&self, projection: &[usize], schema: &SchemaRef) -> Result<Best> {
        let all = self.best_texts.all().await?;
        let found = all.get(self.place).ok_or_else(|| Error::internal("a source came late"))?;
        let (mut work, reading) = (found.work.clone(), Reading::begin(self.search.rows.handle()));
        let wanted = self.search.wanted(found).await?;
        let (ids, scores): (Vec<u64>, Vec<f32>) = wanted.into_iter().map(|best| (best.row, best.score)).unzip();
        let rows = found.live.take(&ids, projection, schema).await?;
        self.search.ranking.keep(&rows, &scores);
        reading.tell(&mut work);
        Ok(Best { rows, work })
    }
}
