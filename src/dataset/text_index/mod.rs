//! The text indexes of a dataset, which are Lance's inverted indexes, read into ours word by word.
//!
//! Lance's index is the storage: a query needs the postings of its words, which are read once and kept while memory
//! lasts, as a [`TextIndex`]. So a search is one and the same in a memtable, a generation and the base: what matches,
//! what it scores, and what counts as live. `docs/decisions/0019-text-indexes-are-read-word-by-word.md` says why.

mod dead;
mod documents;
mod open;
mod opened;
mod partition;
mod postings;

use std::sync::Arc;

use arrow::array::ArrayRef;
use futures::future::try_join_all;
use roaring::{RoaringBitmap, RoaringTreemap};

use crate::cache::MemoryBudget;
use crate::error::{Error, Result};
use crate::query_syntax::{AnalyzedClause, AnalyzedQuery};
use crate::text_index::TextIndex;
use crate::text_search::{Pattern, Survey, TextAnalyzer, index_of};
use documents::Documents;
use partition::{Loaded, Partition};

pub use dead::Dead;
pub(super) use opened::{OpenTextIndexes, no_text_indexes};

/// The text indexes of one column of a dataset version.
#[derive(Debug)]
pub struct DatasetTextIndex {
    partitions: Vec<Arc<Partition>>,
    /// An index of all rows that was made here.
    whole: Option<TextPart>,
    has_positions: bool,
    uncovered: RoaringBitmap,
}

impl DatasetTextIndex {
    /// An index of `texts`, which are those of all rows of a dataset, whose ids are `row_ids`; `budget` is charged for it.
    ///
    /// # Errors
    /// `Invalid` if it is no column of texts.
    pub(super) fn of_rows(
        texts: &ArrayRef,
        row_ids: &[u64],
        analyzer: &TextAnalyzer,
        budget: &Arc<MemoryBudget>,
    ) -> Result<Self> {
        let documents = Documents::new(row_ids, |_| true);
        let index = Loaded::new(index_of(texts, analyzer, None)?, budget.lease());
        let whole = TextPart { index: Arc::new(index), documents: Arc::new(documents) };
        Ok(Self { partitions: Vec::new(), whole: Some(whole), has_positions: true, uncovered: RoaringBitmap::new() })
    }

    /// The fragments whose rows it does not know, by their ids.
    pub fn uncovered(&self) -> &RoaringBitmap {
        &self.uncovered
    }

    /// Whether it can find all leaves of `query`: all but phrases need no positions.
    pub fn can_find(&self, query: &AnalyzedQuery) -> bool {
        self.has_positions || !has_phrase(query)
    }

    /// Its parts with all words that `query` looks for: each an index of some rows, no row in two. Words are read that
    /// no query asked for before.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails, `Corrupt` if the index is damaged, `Backpressure` if the words take more memory
    /// than there is.
    pub async fn load(&self, query: &AnalyzedQuery) -> Result<Vec<TextPart>> {
        let with_positions = self.has_positions && has_phrase(query);
        let load = |partition: &Arc<Partition>| {
            let partition = Arc::clone(partition);
            async move {
                let index = partition.load(query, with_positions).await?;
                Ok::<_, Error>(TextPart { index, documents: Arc::clone(partition.documents()) })
            }
        };
        let mut parts = try_join_all(self.partitions.iter().map(load)).await?;
        parts.extend(self.whole.clone());
        Ok(parts)
    }

    /// Bytes held for words that queries asked for, and for all else.
    pub(super) fn memory(&self) -> (usize, usize) {
        let whole = self.whole.as_ref().map_or(0, |part| part.index.memory() + part.documents.memory());
        let of = |p: &Arc<Partition>| (p.loaded_memory(), p.memory());
        self.partitions.iter().map(of).fold((0, whole), |a, b| (a.0 + b.0, a.1 + b.1))
    }
}

fn has_phrase(query: &AnalyzedQuery) -> bool {
    query.clauses().iter().any(|clause| matches!(clause, AnalyzedClause::Phrase { .. }))
}

/// Some rows of a dataset, and an index of them that has the words of one query at least.
///
/// The index numbers them anew; rows without a word are in no part.
#[derive(Debug, Clone)]
pub struct TextPart {
    index: Arc<Loaded>,
    documents: Arc<Documents>,
}

impl TextPart {
    /// The index. All its rows are below the watermark [`TextIndex::rows`].
    pub fn index(&self) -> &TextIndex {
        &self.index
    }

    /// How many rows a search for the words of `query` looks at, roughly; all if there may be many words.
    pub fn effort(&self, query: &AnalyzedQuery) -> usize {
        let mut words = Vec::new();
        for clause in query.clauses() {
            match clause {
                AnalyzedClause::Term { text, .. } => words.push(text.as_str()),
                AnalyzedClause::Phrase { tokens, .. } => words.extend(tokens.iter().map(|token| token.text.as_str())),
                AnalyzedClause::Prefix { .. } | AnalyzedClause::Fuzzy { .. } => return self.index.rows() as usize,
            }
        }
        let rows = self.index.statistics(&words, self.index.rows(), None).doc_freqs;
        // Masks take a bit a row.
        rows.into_iter().sum::<u64>() as usize + self.index.rows() as usize / 64
    }

    /// The dataset's row ids of rows of the index.
    pub fn row_id(&self, row: u32) -> u64 {
        self.documents.row_id(row)
    }

    /// The rows of the index that are not to be found: those that the dataset no longer has, and superseded ones, by their
    /// row ids.
    pub fn dead(&self, superseded: &Arc<RoaringTreemap>) -> Arc<Dead> {
        self.documents.dead(superseded)
    }

    /// What the rows have of the words of `patterns`: all of them, or those that are not superseded.
    pub fn survey(&self, patterns: &[Pattern], superseded: Option<&Arc<RoaringTreemap>>) -> Survey {
        let (index, rows) = (self.index(), self.index.rows());
        match superseded.map(|superseded| self.dead(superseded)) {
            Some(dead) => Survey::by(index, patterns, rows, |words| dead.statistics(index, words)),
            None => Survey::of(index, patterns, rows, None),
        }
    }

    /// The rows of the index that are among these row ids, as bits.
    pub fn among(&self, row_ids: &RoaringTreemap) -> Vec<u64> {
        let mut among = self.documents.none();
        self.documents.mark(row_ids, &mut among);
        among
    }

    /// The row ids of the rows whose bit is set.
    pub fn row_ids(&self, words: &[u64]) -> RoaringTreemap {
        self.documents.row_ids(words)
    }
}
