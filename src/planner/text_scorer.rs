//! What texts score for a query, by the words of all live rows of a snapshot, or of all rows that its sources hold.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, ArrayRef, Float32Array, RecordBatch};
use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::found_texts::FoundTexts;
use super::live_rows::LiveRows;
use super::reading::Reading;
use super::sources::{Source, StoredRows};
use super::text_columns::TextColumns;
use super::text_match::{bits, texts_of, unindexed};
use crate::block_list::{BlockLists, MemTableRows};
use crate::error::{Error, Result};
use crate::memtable::{TextFields, TextRows};
use crate::query_syntax::Query;
use crate::settings::SearchStats;
use crate::source::{Flat, Preparation, RowSource, Work};
use crate::task;
use crate::text_index::TextIndex;
use crate::text_search::{Pattern, Survey, TextColumn, TextSearch, Weights, index_of, patterns, scores};
use crate::version::Snapshot;

/// Texts without an index that are looked at together.
const BATCH: usize = 8192;
/// Sources whose words a task of its own is worth.
const SOURCES: usize = 6;
/// Sources that are asked for words at a time, about: text indexes may have to be opened.
const AT_ONCE: usize = 32;

/// Scores the texts of some columns for one query.
///
/// A score is the same wherever the row is: the words' weights come from all rows of the snapshot, and the words
/// of the text from the text itself.
pub struct TextScorer {
    snapshot: Arc<Snapshot>,
    lists: Arc<BlockLists>,
    asked: Arc<Asked>,
    known: Arc<OnceCell<Arc<Known>>>,
    /// Whether somebody was told what that took.
    told: AtomicBool,
    found: FoundTexts,
}

/// What is asked of every source.
#[derive(Debug)]
struct Asked {
    search: TextSearch,
    stats: SearchStats,
    /// What is looked for in each column.
    patterns: Vec<Arc<[Pattern]>>,
}

#[derive(Debug)]
struct Known {
    /// Of each column.
    weights: Arc<[Weights]>,
    work: Work,
}

/// What one source knows of each column, and what that took.
pub(super) type Surveyed = (Vec<Survey>, Work);

impl TextScorer {
    /// A scorer of what `search` says, by the words of the rows that `stats` says.
    ///
    /// # Errors
    /// `Invalid` if there is no such column.
    pub(crate) fn try_new(
        snapshot: Arc<Snapshot>,
        lists: Arc<BlockLists>,
        search: TextSearch,
        stats: SearchStats,
    ) -> Result<Self> {
        let columns = snapshot.version().base.schema().logical();
        for column in &search.columns {
            columns.index_of(&column.name).map_err(|e| Error::invalid(e.to_string()))?;
        }
        let patterns = (0..search.columns.len()).map(|column| patterns(&search.asked_of(column)).into()).collect();
        Ok(Self {
            snapshot,
            lists,
            asked: Arc::new(Asked { search, stats, patterns }),
            known: Arc::default(),
            told: AtomicBool::new(false),
            found: FoundTexts::default(),
        })
    }

    /// What is searched for.
    pub fn search(&self) -> &TextSearch {
        &self.asked.search
    }

    /// Which rows say what words weigh.
    pub fn stats(&self) -> SearchStats {
        self.asked.stats
    }

    /// What words weigh in each column, found out at the first call.
    ///
    /// # Errors
    /// What reading raises.
    pub(super) async fn weights(&self) -> Result<Arc<[Weights]>> {
        Ok(Arc::clone(&self.known().await?.weights))
    }

    /// What rows score whose texts are `texts`, those of the columns of the search; a row that does not match scores 0, and
    /// NULL is a text without words.
    ///
    /// # Errors
    /// `Internal` before [`prepare`](Preparation::prepare), if any text is not NULL.
    pub fn scores(&self, texts: &[ArrayRef]) -> Result<Float32Array> {
        // Above a side of a join that has no rows nobody counts words.
        let says_nothing = matches!(self.asked.search.query, Query::Empty);
        if says_nothing || texts.iter().all(|texts| texts.null_count() == texts.len()) {
            return Ok(vec![0.0; texts.first().map_or(0, |texts| texts.len())].into());
        }
        if let Some(scores) = self.found.scores(texts) {
            return Ok(scores.into());
        }
        let known = self.known.get().ok_or_else(|| Error::internal("texts are scored before words are counted"))?;
        let indexes = self.asked.search.indexes_of(texts)?;
        let indexes: Vec<&TextIndex> = indexes.iter().collect();
        Ok(scores(&self.asked.search, &known.weights, &indexes).into())
    }

    /// Keeps what the rows of `batch` score, which a source found, for those who ask for [`scores`](Self::scores) again.
    pub(super) fn keep(&self, batch: &RecordBatch, scores: &[f32]) {
        let columns = self.asked.search.columns.iter().map(|column| batch.column_by_name(&column.name).cloned());
        if let Some(texts) = columns.collect::<Option<Vec<_>>>() {
            self.found.keep(&texts, scores);
        }
    }

    /// Whether a source found that texts match, all of them; if not, some may.
    pub(crate) fn matches_all(&self, texts: &[ArrayRef]) -> bool {
        self.found.scores(texts).is_some_and(|scores| scores.iter().all(|score| *score > 0.0))
    }

    async fn known(&self) -> Result<Arc<Known>> {
        let survey = || {
            let (asked, snapshot, lists) =
                (Arc::clone(&self.asked), Arc::clone(&self.snapshot), Arc::clone(&self.lists));
            async move { asked.survey(&snapshot, &lists).await.map(Arc::new) }
        };
        task::once(&self.known, survey).await
    }
}

impl Asked {
    /// What all sources know of each column.
    async fn survey(self: Arc<Self>, snapshot: &Arc<Snapshot>, lists: &Arc<BlockLists>) -> Result<Known> {
        snapshot.check()?;
        let survey_of = |source: Source| {
            let asked = Arc::clone(&self);
            async move { asked.survey_of(&source).await }
        };
        let sources = Source::all(snapshot, lists).into_iter();
        let surveyed = task::shared_out(sources.map(survey_of).collect(), SOURCES, AT_ONCE).await?;
        let patterns = &self.patterns;
        let (mut all, mut work) = (vec![Survey::default(); patterns.len()], Work::default());
        for (surveys, _) in &surveyed {
            all.iter_mut().zip(surveys).for_each(|(all, survey)| all.add(survey));
        }
        work.add("documents", all.iter().map(|survey| usize::try_from(survey.documents).unwrap_or(usize::MAX)).sum());
        work.add("words", all.iter().map(|survey| survey.words.len()).sum());
        work.add("flat", 0);
        surveyed.iter().for_each(|(_, more)| work.extend(more));
        let weights = all.iter().zip(patterns).map(|(survey, patterns)| Weights::new(survey, patterns)).collect();
        Ok(Known { weights, work })
    }

    /// What a source knows of each column.
    async fn survey_of(&self, source: &Source) -> Result<Surveyed> {
        match source {
            Source::MemTable(rows) => self.survey_memtable(rows).await,
            Source::Stored(rows) => self.survey_stored(rows).await,
        }
    }

    /// Asks the memtable's indexes, and looks at the texts that they do not have.
    async fn survey_memtable(&self, rows: &MemTableRows) -> Result<Surveyed> {
        let blocked = match self.stats {
            SearchStats::Live => Some(rows.blocked().await?),
            SearchStats::Physical => None,
        };
        let indexed = TextFields::of(rows.view(), &self.search).map_or(0, |texts| texts.indexed());
        let heavy = rows.row_count() - indexed.min(rows.row_count()) > BATCH / 8;
        let (rows, search, patterns) = (rows.clone(), self.search.clone(), self.patterns.clone());
        let survey = move || {
            let live = match &blocked {
                Some(blocked) => rows.view().live_words(blocked),
                None => vec![u64::MAX; rows.row_count().div_ceil(64)],
            };
            let (mut surveys, mut work) = (Vec::new(), Work::default());
            for (column, patterns) in search.columns.iter().zip(&patterns) {
                surveys.push(of_memtable(&rows, &live, column, patterns, &mut work)?);
            }
            Ok((surveys, work))
        };
        task::blocking_if(heavy, survey).await
    }

    /// Asks the text indexes of a dataset, and reads the texts that these do not know.
    async fn survey_stored(&self, rows: &StoredRows) -> Result<Surveyed> {
        let reading = Reading::begin(rows.handle());
        let texts = TextColumns::open(rows, &self.search).await?;
        let superseded = match self.stats {
            SearchStats::Live => Some(LiveRows::resolve(rows).await?.superseded().await?),
            SearchStats::Physical => None,
        };
        let (surveys, mut work) = texts.survey(&self.patterns, superseded.as_ref()).await?;
        reading.tell(&mut work);
        Ok((surveys, work))
    }
}

/// What the rows of a memtable whose bit is set in `live` have in one column.
fn of_memtable(
    rows: &MemTableRows,
    live: &[u64],
    column: &TextColumn,
    patterns: &[Pattern],
    work: &mut Work,
) -> Result<Survey> {
    let view = rows.view();
    let (mut survey, mut indexed, mut why) = (Survey::default(), 0, Flat::NoIndex);
    if let Some((texts, state)) = TextRows::of(view, column) {
        (indexed, why) = (state.indexed().min(view.watermark()), Flat::NotIndexed);
        let all_live = bits(live) >= view.watermark();
        let dead: Option<Vec<u64>> = (!all_live).then(|| live.iter().map(|word| !word).collect());
        let below = u32::try_from(indexed).unwrap_or(u32::MAX);
        survey = Survey::of(texts.index(), patterns, below, dead.as_deref());
    }
    let tail = unindexed(live, indexed, view.watermark());
    work.flat(why, tail.len());
    for rows in tail.chunks(BATCH) {
        for texts in texts_of(view, std::slice::from_ref(column), rows)? {
            let index = index_of(&texts, &column.analyzer, Some(patterns))?;
            survey.add(&Survey::of(&index, patterns, index.rows(), None));
        }
    }
    Ok(survey)
}

#[async_trait]
impl Preparation for TextScorer {
    fn label(&self) -> String {
        let stats = if self.stats() == SearchStats::Live { "" } else { ", physical" };
        format!("words of {}{stats}", self.search())
    }

    async fn prepare(&self) -> Result<Work> {
        let known = self.known().await?;
        // Whoever else prepares finds it done.
        Ok(if self.told.swap(true, Ordering::Relaxed) { Work::default() } else { known.work.clone() })
    }
}

impl fmt::Debug for TextScorer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextScorer").field("search", self.search()).finish_non_exhaustive()
    }
}
