//! What the texts of a column score for a query, by the words of all live rows of a snapshot.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float32Array};
use async_trait::async_trait;
use futures::future::try_join_all;
use roaring::RoaringTreemap;
use tokio::sync::OnceCell;

use super::live_rows::LiveRows;
use super::sources::{Source, StoredRows};
use super::stored_texts::StoredTexts;
use super::text_match::{texts_of, unindexed};
use crate::block_list::{BlockLists, MemTableRows};
use crate::error::{Error, Result};
use crate::memtable::TextRows;
use crate::source::{Preparation, RowSource};
use crate::task;
use crate::text_search::{Pattern, Survey, TextSearch, Weights, index_of, patterns, scores};
use crate::version::Snapshot;

/// Texts without an index that are looked at together.
const BATCH: usize = 8192;

/// Scores the texts of one column for one query.
///
/// A score is the same wherever the row is: the words' weights come from all live rows of the snapshot, and the words
/// of the text from the text itself.
pub struct TextScorer {
    snapshot: Arc<Snapshot>,
    lists: Arc<BlockLists>,
    search: TextSearch,
    patterns: Arc<[Pattern]>,
    weights: OnceCell<Known>,
}

#[derive(Debug)]
struct Known {
    weights: Weights,
    work: Vec<(&'static str, usize)>,
}

/// What one source knows, and how many of its texts had to be read for that.
type Surveyed = (Survey, usize);

impl TextScorer {
    /// A scorer of what `search` says.
    ///
    /// # Errors
    /// `Invalid` if there is no such column.
    pub(crate) fn try_new(snapshot: Arc<Snapshot>, lists: Arc<BlockLists>, search: TextSearch) -> Result<Self> {
        let columns = snapshot.version().base.schema().logical();
        columns.index_of(&search.column).map_err(|e| Error::invalid(e.to_string()))?;
        let patterns = patterns(&search.query).into();
        Ok(Self { snapshot, lists, search, patterns, weights: OnceCell::new() })
    }

    /// What is searched for.
    pub fn search(&self) -> &TextSearch {
        &self.search
    }

    /// What words weigh, found out at the first call.
    ///
    /// # Errors
    /// What reading raises.
    pub(super) async fn weights(&self) -> Result<&Weights> {
        Ok(&self.known().await?.weights)
    }

    /// What `texts` score; a text that does not match scores 0, as NULL does.
    ///
    /// # Errors
    /// `Internal` before [`prepare`](Preparation::prepare), if any text is not NULL.
    pub fn scores(&self, texts: &ArrayRef) -> Result<Float32Array> {
        // Above a side of a join that has no rows nobody counts words.
        if texts.null_count() == texts.len() {
            return Ok(vec![0.0; texts.len()].into());
        }
        let known = self.weights.get().ok_or_else(|| Error::internal("texts are scored before words are counted"))?;
        let index = index_of(texts, &self.search.analyzer)?;
        Ok(scores(&self.search.query, &known.weights, &index, index.rows()).into())
    }

    async fn known(&self) -> Result<&Known> {
        self.weights.get_or_try_init(|| self.survey()).await
    }

    async fn survey(&self) -> Result<Known> {
        self.snapshot.check()?;
        let sources = Source::all(&self.snapshot, &self.lists);
        let surveys: Vec<_> = sources.iter().map(|source| self.survey_of(source)).collect();
        let (mut all, mut flat) = (Survey::default(), 0);
        for (survey, read) in try_join_all(surveys).await? {
            all.add(&survey);
            flat += read;
        }
        let work = vec![
            ("documents", usize::try_from(all.documents).unwrap_or(usize::MAX)),
            ("words", all.words.len()),
            ("flat", flat),
        ];
        Ok(Known { weights: Weights::new(&all, &self.patterns), work })
    }

    async fn survey_of(&self, source: &Source) -> Result<Surveyed> {
        match source {
            Source::MemTable(rows) => self.survey_memtable(rows).await,
            Source::Stored(rows) => self.survey_stored(rows).await,
        }
    }

    /// Asks the memtable's index, and looks at the texts that it does not have.
    async fn survey_memtable(&self, rows: &MemTableRows) -> Result<Surveyed> {
        let blocked = rows.blocked().await?;
        let indexed = TextRows::of(rows.view(), &self.search).map_or(0, |(_, state)| state.indexed());
        let (search, patterns, heavy) = (
            self.search.clone(),
            Arc::clone(&self.patterns),
            rows.row_count() - indexed.min(rows.row_count()) > BATCH / 8,
        );
        let rows = rows.clone();
        let survey = move || of_memtable(&rows, &blocked, &search, &patterns);
        if heavy { task::blocking(survey).await } else { survey() }
    }

    /// Asks the text indexes of a dataset, and reads the texts that these do not know.
    async fn survey_stored(&self, rows: &StoredRows) -> Result<Surveyed> {
        let live = LiveRows::resolve(rows).await?;
        StoredTexts::open(&live, &self.search).await?.survey(&self.patterns).await
    }
}

fn of_memtable(
    rows: &MemTableRows,
    blocked: &RoaringTreemap,
    search: &TextSearch,
    patterns: &[Pattern],
) -> Result<Surveyed> {
    let view = rows.view();
    let live = view.live_words(blocked);
    let (mut survey, mut indexed) = Surveyed::default();
    if let Some((index, state)) = TextRows::of(view, search) {
        indexed = state.indexed().min(view.watermark());
        let all_live = live.iter().map(|word| word.count_ones() as usize).sum::<usize>() == view.watermark();
        let dead: Option<Vec<u64>> = (!all_live).then(|| live.iter().map(|word| !word).collect());
        let below = u32::try_from(indexed).unwrap_or(u32::MAX);
        survey = Survey::of(index.index(), patterns, below, dead.as_deref());
    }
    let tail = unindexed(&live, indexed, view.watermark());
    for rows in tail.chunks(BATCH) {
        survey.add(&of_texts(&texts_of(view, &search.column, rows)?, search, patterns)?.0);
    }
    Ok((survey, tail.len()))
}

fn of_texts(texts: &ArrayRef, search: &TextSearch, patterns: &[Pattern]) -> Result<Surveyed> {
    let index = index_of(texts, &search.analyzer)?;
    Ok((Survey::of(&index, patterns, index.rows(), None), texts.len()))
}

#[async_trait]
impl Preparation for TextScorer {
    fn label(&self) -> String {
        format!("words of {} in {}", self.search.query, self.search.column)
    }

    async fn prepare(&self) -> Result<Vec<(&'static str, usize)>> {
        Ok(self.known().await?.work.clone())
    }
}

impl fmt::Debug for TextScorer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextScorer").field("search", &self.search).finish_non_exhaustive()
    }
}
