//! What the text indexes of a generation or of the base know of the columns of a query.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::UInt64Type;
use futures::TryStreamExt;
use futures::future::try_join_all;
use roaring::{RoaringBitmap, RoaringTreemap};

use super::sources::StoredRows;
use super::text_scorer::Surveyed;
use crate::dataset::{DatasetHandle, DatasetTextIndex, Dead, TextPart};
use crate::error::{Error, ErrorKind, Result};
use crate::query_syntax::{AnalyzedClause, AnalyzedQuery, Query};
use crate::source::{Flat, Work};
use crate::task;
use crate::text_index::{Floor, Hit, Mask};
use crate::text_search::{
    Found, Pattern, Survey, TextAnalyzer, TextSearch, Weights, best, found, hits, index_of, is_heavy, matching_counted,
};

/// Rows from which on a search leaves the async workers.
const HEAVY: usize = 4096;
/// Postings that are looked at while one vector is.
const POSTINGS: usize = 8;

/// The columns of one query in one dataset.
#[derive(Debug)]
pub(super) struct TextColumns {
    rows: StoredRows,
    search: TextSearch,
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    /// Its place in the logical schema.
    at: usize,
    /// What the query looks for in it.
    asked: AnalyzedQuery,
    /// What an index knows, with all these words.
    indexed: Option<Indexed>,
}

#[derive(Debug)]
struct Indexed {
    index: Arc<DatasetTextIndex>,
    parts: Arc<[TextPart]>,
}

impl Indexed {
    /// `None` if there is no index that can be used.
    async fn open(
        handle: &Arc<DatasetHandle>,
        column: usize,
        analyzer: &TextAnalyzer,
        asked: &AnalyzedQuery,
    ) -> Result<Option<Self>> {
        let Some(index) = handle.text_index(column, analyzer).await? else { return Ok(None) };
        match index.load(asked).await {
            Ok(parts) => Ok(Some(Self { index, parts: parts.into() })),
            // Read one by one, texts take little memory.
            Err(error) if error.kind() == ErrorKind::Backpressure => Ok(None),
            Err(error) => handle.give_up_text_index(column, analyzer, error).await.map(|()| None),
        }
    }
}

impl TextColumns {
    /// Opens what the query needs.
    ///
    /// # Errors
    /// What reading raises.
    pub(super) async fn open(rows: &StoredRows, search: &TextSearch) -> Result<Self> {
        let handle = rows.handle();
        let opening = search.columns.iter().enumerate().map(|(place, column)| async move {
            let (at, asked) = (handle.schema().logical().index_of(&column.name)?, search.asked_of(place));
            let indexed = Indexed::open(handle, at, &column.analyzer, &asked).await?;
            Ok::<_, Error>(Column { at, asked, indexed })
        });
        let columns = try_join_all(opening).await?;
        Ok(Self { rows: rows.clone(), search: search.clone(), columns })
    }

    /// What is searched for.
    pub(super) fn search(&self) -> &TextSearch {
        &self.search
    }

    /// The indexes of all columns if they can answer the query, else why they cannot.
    pub(super) fn answered(&self) -> Result<Answered, Flat> {
        if matches!(self.search.query, Query::Empty) {
            // It says nothing and matches nothing.
            let parts = self.columns.iter().map(|_| Arc::from([])).collect();
            return Ok(Answered { parts, unknown: RoaringBitmap::new() });
        }
        if !self.search.query.has_positive() {
            return Err(Flat::Wordless);
        }
        let (mut parts, mut unknown) = (Vec::new(), RoaringBitmap::new());
        for Column { asked, indexed, .. } in &self.columns {
            let indexed = indexed.as_ref().ok_or(Flat::NoIndex)?;
            if !indexed.index.can_find(asked) {
                return Err(Flat::NoPositions);
            }
            unknown |= indexed.index.uncovered();
            parts.push(Arc::clone(&indexed.parts));
        }
        Ok(Answered { parts, unknown })
    }

    /// What the texts of each column have of the words of `patterns`: of all rows, or of those that are not superseded.
    ///
    /// # Errors
    /// What reading raises.
    pub(super) async fn survey(
        &self,
        patterns: &[Arc<[Pattern]>],
        superseded: Option<&Arc<RoaringTreemap>>,
    ) -> Result<Surveyed> {
        let (mut surveys, mut work) = (Vec::with_capacity(self.columns.len()), Work::default());
        for ((column, told), patterns) in self.columns.iter().zip(&self.search.columns).zip(patterns) {
            surveys.push(self.survey_column(column, &told.analyzer, patterns, superseded, &mut work).await?);
        }
        Ok((surveys, work))
    }

    async fn survey_column(
        &self,
        column: &Column,
        analyzer: &Arc<TextAnalyzer>,
        patterns: &Arc<[Pattern]>,
        superseded: Option<&Arc<RoaringTreemap>>,
        work: &mut Work,
    ) -> Result<Survey> {
        let (mut survey, mut unknown, mut why) = (Survey::default(), None, Flat::NoIndex);
        if let Some(indexed) = &column.indexed {
            let (parts, patterns, superseded) =
                (Arc::clone(&indexed.parts), Arc::clone(patterns), superseded.map(Arc::clone));
            let heavy = effort(&parts, &column.asked) > HEAVY;
            let survey_all = move || Ok(survey_parts(&parts, &patterns, superseded.as_ref()));
            survey = task::blocking_if(heavy, survey_all).await?;
            (unknown, why) = (Some(indexed.index.uncovered()), Flat::NotIndexed);
        }
        if unknown.is_some_and(RoaringBitmap::is_empty) {
            return Ok(survey);
        }
        let mut rows = self.rows.rows_of(&[column.at], unknown)?;
        while let Some(batch) = rows.try_next().await? {
            let ids = batch.column(1).as_primitive::<UInt64Type>().values();
            let dead = superseded.map(|superseded| dead(ids, superseded));
            let left_out = dead.iter().flatten().map(|word| word.count_ones() as usize).sum::<usize>();
            work.flat(why, ids.len() - left_out);
            let (texts, analyzer, patterns) = (Arc::clone(batch.column(0)), Arc::clone(analyzer), Arc::clone(patterns));
            let survey_batch = move || {
                let index = index_of(&texts, &analyzer, Some(&patterns))?;
                Ok(Survey::of(&index, &patterns, index.rows(), dead.as_deref()))
            };
            survey.add(&task::blocking_if(is_heavy(batch.column(0)), survey_batch).await?);
        }
        Ok(survey)
    }

    /// Reads the texts of the rows that `answered` does not know, all if it is none: `look` gets the texts of a batch,
    /// column by column, off the async workers if they are many, and `take` what it says with the row ids.
    ///
    /// # Errors
    /// What reading and looking raise.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        answered: Option<&Answered>,
        look: impl Fn(&[ArrayRef]) -> Result<T> + Clone + Send + 'static,
        mut take: impl FnMut(&[u64], T),
    ) -> Result<()> {
        let unknown = answered.map(|answered| &answered.unknown);
        if unknown.is_some_and(RoaringBitmap::is_empty) {
            return Ok(());
        }
        let columns: Vec<usize> = self.columns.iter().map(|column| column.at).collect();
        let mut rows = self.rows.rows_of(&columns, unknown)?;
        while let Some(batch) = rows.try_next().await? {
            let (texts, ids) = batch.columns().split_at(columns.len());
            let (texts, look) = (texts.to_vec(), look.clone());
            let said = task::blocking_if(texts.iter().any(is_heavy), move || look(&texts)).await?;
            take(ids[0].as_primitive::<UInt64Type>().values(), said);
        }
        Ok(())
    }
}

/// The rows of a batch that are superseded, as bits.
fn dead(ids: &[u64], superseded: &RoaringTreemap) -> Vec<u64> {
    let mut dead = vec![0; ids.len().div_ceil(64)];
    for (row, _) in ids.iter().enumerate().filter(|(_, id)| superseded.contains(**id)) {
        dead[row / 64] |= 1 << (row % 64);
    }
    dead
}

fn effort(parts: &[TextPart], asked: &AnalyzedQuery) -> usize {
    parts.iter().map(|part| part.effort(asked)).sum()
}

fn survey_parts(parts: &[TextPart], patterns: &[Pattern], superseded: Option<&Arc<RoaringTreemap>>) -> Survey {
    let mut survey = Survey::default();
    parts.iter().for_each(|part| survey.add(&part.survey(patterns, superseded)));
    survey
}

/// The indexes of all columns of a query, which can answer it.
#[derive(Debug)]
pub(super) struct Answered {
    /// The parts of each column.
    parts: Vec<Arc<[TextPart]>>,
    /// The fragments whose texts one of them does not know.
    unknown: RoaringBitmap,
}

impl Answered {
    /// Whether so many rows are looked at for `search` that other tasks should not wait for that.
    pub(super) fn is_heavy(&self, search: &TextSearch) -> bool {
        self.parts.iter().map(|parts| effort(parts, &search.query)).sum::<usize>() > HEAVY
    }

    /// The rows that match.
    ///
    /// # Errors
    /// `Internal` if they are too many.
    pub(super) fn matching(&self, search: &TextSearch, rows: &Findable, work: &mut Work) -> Result<RoaringTreemap> {
        let [parts] = self.parts.as_slice() else {
            let weights = vec![Weights::default(); self.parts.len()];
            let (ids, found) = self.found(search, &weights, rows, work)?;
            return Ok((0..ids.len()).filter(|row| found.has(*row)).map(|row| ids[row]).collect());
        };
        let mut all = RoaringTreemap::new();
        for part in parts.iter() {
            let (mut found, postings) = matching_counted(search, &[part.index()], part.index().rows());
            work.add("postings", postings);
            let dead = part.dead(&rows.superseded);
            found.iter_mut().zip(dead.bits()).for_each(|(word, dead)| *word &= !dead);
            all |= part.row_ids(&found);
        }
        Ok(all)
    }

    /// Rows among which are the `k` that score most, more than `floor`, in parts that are searched side by side if they are
    /// large.
    ///
    /// # Errors
    /// `Internal` if too many rows match.
    pub(super) async fn best(
        self: &Arc<Self>,
        search: &TextSearch,
        weights: &[Weights],
        rows: &Findable,
        (k, floor): (usize, &Arc<Floor>),
        work: &mut Work,
    ) -> Result<Vec<(u64, f32)>> {
        let (heavy, weights) = (self.is_heavy(search), Arc::<[Weights]>::from(weights));
        let [parts] = self.parts.as_slice() else {
            let (answered, search, rows) = (Arc::clone(self), search.clone(), rows.clone());
            let found = move || {
                let mut work = Work::default();
                let (ids, found) = answered.found(&search, &weights, &rows, &mut work)?;
                let scored = ids.into_iter().zip(found.scores).filter(|(_, score)| *score > 0.0);
                Ok((scored.collect(), work))
            };
            let (found, postings) = task::blocking_if(heavy, found).await?;
            work.extend(&postings);
            return Ok(found);
        };
        let slices = parts.iter().enumerate().flat_map(|(place, part)| {
            let threads = task::threads_for(part.effort(&search.query) / POSTINGS);
            // A filter is made bits of the whole part.
            let threads = if rows.passing.is_some() { 1 } else { threads };
            task::split(part.index().rows() as usize, threads).into_iter().map(move |rows| (place, rows))
        });
        let looks = slices.map(|(place, Range { start, end })| {
            let (parts, search, weights) = (Arc::clone(parts), search.clone(), Arc::clone(&weights));
            let (rows, floor) = (rows.clone(), Arc::clone(floor));
            task::blocking_if(heavy, move || {
                let (part, masks) = (&parts[place], Masks::of(&parts[place], &rows));
                let mask = masks.mask(part).between(start as u32, end as u32);
                let (hits, postings) = best(&search, &weights, &[part.index()], mask, k, &floor);
                let hits = hits.into_iter().map(|Hit { row, score }| (part.row_id(row), score));
                Ok((hits.collect::<Vec<_>>(), postings))
            })
        });
        let mut found = Vec::new();
        for (hits, postings) in try_join_all(looks).await? {
            work.add("postings", postings);
            found.extend(hits);
        }
        Ok(found)
    }

    /// All rows that have something of the query, and what it makes of them. The parts of one column have other rows than
    /// those of another: what each leaf finds is put together by row id.
    fn found(
        &self,
        search: &TextSearch,
        weights: &[Weights],
        findable: &Findable,
        work: &mut Work,
    ) -> Result<(Vec<u64>, Found)> {
        let masks = |parts: &Arc<[TextPart]>| parts.iter().map(|part| Masks::of(part, findable)).collect();
        let masks: Vec<Vec<Masks>> = self.parts.iter().map(masks).collect();
        let mut leaves: HashMap<&AnalyzedClause, Vec<(u64, f32)>> = HashMap::new();
        for clause in search.query.clauses() {
            let column = search.column_of(clause);
            leaves.entry(clause).or_insert_with(|| {
                let mut rows = Vec::new();
                for (part, masks) in self.parts[column].iter().zip(&masks[column]) {
                    let (hits, postings) = hits(clause, &weights[column], part.index(), masks.mask(part));
                    work.add("postings", postings);
                    let hits = hits.into_iter().map(|hit| (part.row_id(hit.row), hit.score));
                    rows.extend(hits.filter(|(id, _)| !findable.read.contains(*id)));
                }
                rows
            });
        }
        let mut ids: Vec<u64> = leaves.values().flatten().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        let rows = u32::try_from(ids.len()).map_err(|_| Error::internal("a query finds too many rows"))?;
        let leaf = |clause: &AnalyzedClause| {
            let place = |id: &u64| ids.partition_point(|other| other < id) as u32;
            let hits = leaves.get(clause).into_iter().flatten();
            hits.map(|(id, score)| Hit { row: place(id), score: *score }).collect()
        };
        let found = found(&search.query, rows, leaf);
        Ok((ids, found))
    }
}

/// The rows that may be found.
#[derive(Debug, Clone)]
pub(super) struct Findable {
    /// None of these.
    pub(super) superseded: Arc<RoaringTreemap>,
    /// Only these, if a filter says so and only the best are wanted.
    pub(super) passing: Option<Arc<RoaringTreemap>>,
    /// None of these, whose texts were read: an index may know some of their columns.
    pub(super) read: Arc<RoaringTreemap>,
}

/// The rows of a part that are not to be found, and those that may be, as bits.
struct Masks {
    dead: Arc<Dead>,
    allowed: Option<Vec<u64>>,
}

impl Masks {
    fn of(part: &TextPart, rows: &Findable) -> Self {
        Self { dead: part.dead(&rows.superseded), allowed: rows.passing.as_ref().map(|rows| part.among(rows)) }
    }

    fn mask(&self, part: &TextPart) -> Mask<'_> {
        let mask = Mask::new(part.index().rows()).without(self.dead.bits());
        self.allowed.as_deref().map_or(mask, |allowed| mask.within(allowed))
    }
}
