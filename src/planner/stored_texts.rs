//! The texts of a generation or of the base: by the text indexes that Lance's files hold, and one by one where these
//! know nothing.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{SchemaRef, UInt64Type};
use async_trait::async_trait;
use datafusion::physical_expr::PhysicalExpr;
use futures::TryStreamExt;
use roaring::{RoaringBitmap, RoaringTreemap};

use super::live_rows::LiveRows;
use super::sources::StoredRows;
use super::text_ranking::TextRanking;
use crate::dataset::{DatasetHandle, DatasetTextIndex, TextPart};
use crate::error::{ErrorKind, Result};
use crate::source::{Best, TopKSource, ValueRanges};
use crate::task;
use crate::text_index::{Hit, Mask};
use crate::text_search::{Pattern, Survey, TextSearch, Weights, best, index_of, matching};

/// The texts that one query looks at in one dataset.
#[derive(Debug)]
pub(super) struct StoredTexts<'a> {
    live: &'a LiveRows,
    superseded: Arc<RoaringTreemap>,
    search: &'a TextSearch,
    column: usize,
    /// What an index knows, with all words of the query.
    indexed: Option<Indexed>,
}

#[derive(Debug)]
struct Indexed {
    index: Arc<DatasetTextIndex>,
    parts: Arc<[TextPart]>,
}

impl Indexed {
    /// `None` if there is no index that can be used.
    async fn open(handle: &DatasetHandle, column: usize, search: &TextSearch) -> Result<Option<Self>> {
        let Some(index) = handle.text_index(column, &search.analyzer).await? else { return Ok(None) };
        match index.load(&search.query).await {
            Ok(parts) => Ok(Some(Self { index, parts: parts.into() })),
            // Read one by one, texts take little memory.
            Err(error) if error.kind() == ErrorKind::Backpressure => Ok(None),
            Err(error) => handle.give_up_text_index(column, &search.analyzer, error).await.map(|()| None),
        }
    }
}

impl<'a> StoredTexts<'a> {
    /// Opens what the query needs.
    ///
    /// # Errors
    /// What reading raises.
    pub(super) async fn open(live: &'a LiveRows, search: &'a TextSearch) -> Result<Self> {
        let handle = live.handle();
        let column = handle.schema().logical().index_of(&search.column)?;
        let indexed = Indexed::open(handle, column, search).await?;
        Ok(Self { live, superseded: live.superseded().await?, search, column, indexed })
    }

    /// The fragments whose texts no index knows; all if `None`.
    fn unknown(&self) -> Option<&RoaringBitmap> {
        self.indexed.as_ref().map(|indexed| indexed.index.uncovered())
    }

    /// What the live texts have of the words of `patterns`, and how many texts had to be read for that.
    ///
    /// # Errors
    /// What reading raises.
    pub(super) async fn survey(&self, patterns: &Arc<[Pattern]>) -> Result<(Survey, usize)> {
        let (mut survey, mut flat) = (Survey::default(), 0);
        if let Some(indexed) = &self.indexed {
            let (parts, patterns) = (Arc::clone(&indexed.parts), Arc::clone(patterns));
            let superseded = Arc::clone(&self.superseded);
            survey = task::blocking(move || Ok(survey_parts(&parts, &patterns, &superseded))).await?;
        }
        let unknown = self.unknown();
        if unknown.is_none_or(|fragments| !fragments.is_empty()) {
            let mut rows = self.live.handle().rows_of(&[self.column], unknown)?;
            while let Some(batch) = rows.try_next().await? {
                let ids = batch.column(1).as_primitive::<UInt64Type>().values();
                let dead = self.dead(ids);
                flat += ids.len() - dead.iter().map(|word| word.count_ones() as usize).sum::<usize>();
                let (texts, search, patterns) =
                    (Arc::clone(batch.column(0)), self.search.clone(), Arc::clone(patterns));
                let survey_batch = move || {
                    let index = index_of(&texts, &search.analyzer)?;
                    Ok(Survey::of(&index, &patterns, index.rows(), Some(&dead)))
                };
                survey.add(&task::blocking(survey_batch).await?);
            }
        }
        Ok((survey, flat))
    }

    /// The rows of a batch that are superseded, as bits.
    fn dead(&self, ids: &[u64]) -> Vec<u64> {
        let mut dead = vec![0; ids.len().div_ceil(64)];
        for (row, _) in ids.iter().enumerate().filter(|(_, id)| self.superseded.contains(**id)) {
            dead[row / 64] |= 1 << (row % 64);
        }
        dead
    }

    /// The live rows that match, and how many texts had to be read for that.
    ///
    /// # Errors
    /// What reading raises.
    pub(super) async fn matching(&self) -> Result<(RoaringTreemap, usize)> {
        let (mut found, mut flat) = (RoaringTreemap::new(), 0);
        let answered = self.indexed.as_ref().filter(|indexed| indexed.index.can_answer(&self.search.query));
        if let Some(indexed) = answered {
            let (parts, search, superseded) =
                (Arc::clone(&indexed.parts), self.search.clone(), Arc::clone(&self.superseded));
            let matching = move || {
                let of = |part: &TextPart| part.row_ids(&matching_part(part, &search, &superseded));
                Ok(parts.iter().map(of).fold(RoaringTreemap::new(), |all, rows| all | rows))
            };
            found = task::blocking(matching).await?;
        }
        let unknown = answered.and_then(|_| self.unknown());
        if unknown.is_none_or(|fragments| !fragments.is_empty()) {
            let mut rows = self.live.handle().rows_of(&[self.column], unknown)?;
            while let Some(batch) = rows.try_next().await? {
                let (texts, search) = (Arc::clone(batch.column(0)), self.search.clone());
                let matches = task::blocking(move || search.matching(&texts)).await?;
                let ids = batch.column(1).as_primitive::<UInt64Type>().values();
                flat += ids.len();
                let is_match = |row: &usize| matches[row / 64] >> (row % 64) & 1 == 1;
                let live = (0..ids.len()).filter(is_match).map(|row| ids[row]);
                found.extend(live.filter(|id| !self.superseded.contains(*id)));
            }
        }
        Ok((found, flat))
    }
}

fn survey_parts(parts: &[TextPart], patterns: &[Pattern], superseded: &RoaringTreemap) -> Survey {
    let mut survey = Survey::default();
    for part in parts {
        let dead = part.dead(superseded);
        survey.add(&Survey::of(part.index(), patterns, part.index().rows(), Some(&dead)));
    }
    survey
}

fn matching_part(part: &TextPart, search: &TextSearch, superseded: &RoaringTreemap) -> Vec<u64> {
    let mut found = matching(&search.query, part.index(), part.index().rows());
    found.iter_mut().zip(part.dead(superseded)).for_each(|(word, dead)| *word &= !dead);
    found
}

/// The rows that text queries and a predicate leave.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// The live rows that do; all if there was nothing to pass.
    pub(super) rows: Option<RoaringTreemap>,
    /// How many texts had to be read for that.
    pub(super) texts_read: usize,
    /// How many rows indexes of values left to the predicate, if they were asked.
    pub(super) by_value: Option<u64>,
}

/// The live rows that match all of `searches` and pass `predicate`, which lets columns have what is in `ranges`.
///
/// # Errors
/// What reading and evaluating raise.
pub(super) async fn passing(
    live: &LiveRows,
    searches: impl IntoIterator<Item = &TextSearch>,
    predicate: Option<&Arc<dyn PhysicalExpr>>,
    ranges: &[ValueRanges],
) -> Result<Passed> {
    let mut passed = Passed::default();
    if let Some(predicate) = predicate {
        let (rows, left) = live.passing(predicate, ranges).await?;
        (passed.rows, passed.by_value) = (Some(rows), left);
    }
    for search in searches {
        let (found, read) = StoredTexts::open(live, search).await?.matching().await?;
        passed.texts_read += read;
        passed.rows = Some(match passed.rows {
            Some(rows) => rows & found,
            None => found,
        });
    }
    Ok(passed)
}

/// A generation or base that has a text index for the ranking.
#[derive(Debug)]
pub(super) struct StoredRanking {
    rows: StoredRows,
    ranking: Arc<TextRanking>,
    texts: Arc<[TextSearch]>,
}

impl StoredRanking {
    /// The ranking of the live rows of a dataset that match `texts`; `None` if there is no text index.
    pub(super) fn try_new(rows: &StoredRows, ranking: &Arc<TextRanking>, texts: &Arc<[TextSearch]>) -> Option<Self> {
        let handle = rows.handle();
        let column = handle.schema().logical().index_of(&ranking.scorer.search().column).ok()?;
        let found = Self { rows: rows.clone(), ranking: Arc::clone(ranking), texts: Arc::clone(texts) };
        handle.has_text_index(column).then_some(found)
    }

    async fn find(&self, live: &LiveRows) -> Result<(Vec<u64>, Work)> {
        let (scorer, k) = (&self.ranking.scorer, self.ranking.k);
        let (search, weights) = (scorer.search(), scorer.weights().await?);
        let texts = StoredTexts::open(live, search).await?;
        // What scores matches what it is scored for.
        let (same, others): (Vec<&TextSearch>, Vec<&TextSearch>) = self.texts.iter().partition(|text| *text == search);
        let must_match = !same.is_empty();
        let passed = passing(live, others, self.ranking.beside_texts.as_ref(), &self.ranking.ranges).await?;
        let (passing, mut work) = (passed.rows, Work { flat: passed.texts_read, by_value: passed.by_value });
        let mut top = Top::new(k);
        let mut unknown = None;
        let answered = texts.indexed.as_ref().filter(|indexed| indexed.index.can_answer(&search.query));
        if let Some(indexed) = answered {
            let hits = best_of_parts(indexed, &texts, weights, &passing, k).await?;
            hits.into_iter().for_each(|(row, score)| top.offer(row, score));
            unknown = texts.unknown();
        }
        if unknown.is_none_or(|fragments| !fragments.is_empty()) {
            let mut rows = live.handle().rows_of(&[texts.column], unknown)?;
            while let Some(batch) = rows.try_next().await? {
                let (column, scorer) = (Arc::clone(batch.column(0)), Arc::clone(scorer));
                let scores = task::blocking(move || scorer.scores(&column)).await?;
                let ids = batch.column(1).as_primitive::<UInt64Type>().values();
                work.flat += ids.len();
                for (id, score) in ids.iter().zip(scores.values()).filter(|(_, score)| **score > 0.0) {
                    let passes = passing.as_ref().is_none_or(|rows| rows.contains(*id));
                    if passes && !texts.superseded.contains(*id) {
                        top.offer(*id, *score);
                    }
                }
            }
        }
        let mut rows: Vec<u64> = top.rows.iter().map(|best| best.row).collect();
        if rows.len() < k {
            // All others score nothing: any will do that may be there.
            let known: RoaringTreemap = rows.iter().copied().collect();
            let wanted = k - rows.len();
            let others = match must_match {
                true => {
                    let (found, flat) = texts.matching().await?;
                    work.flat += flat;
                    let passes = |id: &u64| passing.as_ref().is_none_or(|rows| rows.contains(*id));
                    found.iter().filter(|id| !known.contains(*id) && passes(id)).take(wanted).collect()
                }
                false => any_of(live, &texts.superseded, &passing, &known, wanted).await?,
            };
            rows.extend(others);
        }
        rows.sort_unstable();
        Ok((rows, work))
    }
}

/// Live rows that pass and are not `known`, `wanted` of them or all.
async fn any_of(
    live: &LiveRows,
    superseded: &RoaringTreemap,
    passing: &Option<RoaringTreemap>,
    known: &RoaringTreemap,
    wanted: usize,
) -> Result<Vec<u64>> {
    if let Some(passing) = passing {
        return Ok(passing.iter().filter(|id| !known.contains(*id)).take(wanted).collect());
    }
    let mut found = Vec::new();
    let mut rows = live.handle().rows_of(&[], None)?;
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

/// The rows that score most as far as an index knows them.
async fn best_of_parts(
    indexed: &Indexed,
    texts: &StoredTexts<'_>,
    weights: &Weights,
    passing: &Option<RoaringTreemap>,
    k: usize,
) -> Result<Vec<(u64, f32)>> {
    let (parts, search, weights) = (Arc::clone(&indexed.parts), texts.search.clone(), weights.clone());
    let (superseded, passing) = (Arc::clone(&texts.superseded), passing.clone());
    let find = move || {
        let mut found = Vec::new();
        for part in parts.iter() {
            let index = part.index();
            let (dead, allowed) = (part.dead(&superseded), passing.as_ref().map(|rows| part.among(rows)));
            let mask = Mask::new(index.rows()).without(&dead);
            let mask = allowed.as_deref().map_or(mask, |allowed| mask.within(allowed));
            let hits = best(&search.query, &weights, index, mask, k);
            found.extend(hits.into_iter().map(|Hit { row, score }| (part.row_id(row), score)));
        }
        Ok(found)
    };
    task::blocking(find).await
}

/// What EXPLAIN ANALYZE tells.
#[derive(Debug, Default)]
struct Work {
    flat: usize,
    /// Rows that indexes of values left to the filter, if they were asked.
    by_value: Option<u64>,
}

/// A row and its score: the worst first.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scored {
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
        let superseded_by = self.rows.mask().label();
        format!("source={}, index=text, k={}, superseded_by={superseded_by}", self.rows.label(), self.ranking.k)
    }

    fn limit(&self) -> usize {
        self.ranking.k.min(self.rows.handle().rows())
    }

    async fn best(&self, projection: &[usize], schema: &SchemaRef) -> Result<Best> {
        let live = LiveRows::resolve(&self.rows).await?;
        let (ids, work) = self.find(&live).await?;
        let dropped = live.dropped_rows().map_or(0, |rows| rows.len() as usize);
        let rows = live.take(&ids, projection, schema).await?;
        let by_value = work.by_value.map(|rows| ("rows_by_value", rows as usize));
        Ok(Best { rows, work: [("flat", work.flat), ("rows_dropped", dropped)].into_iter().chain(by_value).collect() })
    }
}
