//! One partition of an index: its vocabulary, its documents, and the words that queries asked for.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use arrow::array::RecordBatch;
use parking_lot::Mutex;

use super::documents::Documents;
use super::postings::{PostingFile, decode};
use crate::cache::{MemoryBudget, MemoryLease};
use crate::error::{Error, Result};
use crate::query_syntax::{AnalyzedClause, AnalyzedQuery};
use crate::task;
use crate::text_index::{PostingList, TextIndex, Vocabulary};

/// Words that are read and decoded together at most.
const WORDS: usize = 4096;
/// Postings that they have together, unless one word alone has more.
const POSTINGS: usize = 1 << 20;
/// So many words are read without asking first how many postings they have.
const FEW: usize = 64;
/// One part in so many of the memory there is, which words of one partition may have when it is short.
const SHARE: usize = 8;

/// Words to load, with their numbers.
type Words = BTreeMap<u64, String>;

/// A partition that is open.
#[derive(Debug)]
pub(super) struct Partition {
    vocabulary: Vocabulary,
    postings: PostingFile,
    documents: Arc<Documents>,
    /// Of each document its words.
    lengths: Arc<[u32]>,
    /// What was loaded: without positions, and with them.
    loaded: Mutex<[Option<Arc<Loaded>>; 2]>,
    budget: Arc<MemoryBudget>,
    /// Charged for what does not come and go.
    lease: MemoryLease,
}

/// The words of a partition that queries asked for. It is charged as long as somebody holds it.
#[derive(Debug)]
pub(super) struct Loaded {
    index: TextIndex,
    lease: MemoryLease,
}

impl Deref for Loaded {
    type Target = TextIndex;

    fn deref(&self) -> &TextIndex {
        &self.index
    }
}

impl Partition {
    pub(super) fn new(
        vocabulary: Vocabulary,
        postings: PostingFile,
        documents: Documents,
        lengths: Arc<[u32]>,
        budget: &Arc<MemoryBudget>,
    ) -> Arc<Self> {
        let lease = budget.lease();
        lease.set(size_of::<Self>() + vocabulary.memory() + documents.memory() + size_of_val(&*lengths));
        Arc::new(Self {
            vocabulary,
            postings,
            documents: Arc::new(documents),
            lengths,
            loaded: Mutex::default(),
            budget: Arc::clone(budget),
            lease,
        })
    }

    pub(super) fn documents(&self) -> &Arc<Documents> {
        &self.documents
    }

    pub(super) fn has_positions(&self) -> bool {
        self.postings.has_positions()
    }

    /// An index that has the words that `query` looks for at least, as far as they are there.
    ///
    /// # Errors
    /// `Backpressure` if they take more memory than there is.
    pub(super) async fn load(self: &Arc<Self>, query: &AnalyzedQuery, with_positions: bool) -> Result<Arc<Loaded>> {
        let is_loaded = self.loaded.lock()[usize::from(with_positions)].is_some();
        let heavy = !is_loaded || has_expansions(query);
        let (partition, query) = (Arc::clone(self), query.clone());
        let prepare = move || {
            let index = partition.index(with_positions);
            let mut words = partition.words(&query);
            words.retain(|_, word| !index.has_term(word));
            Ok((index, words))
        };
        let (index, words) = task::blocking_if(heavy, prepare).await?;
        if words.is_empty() {
            return Ok(index);
        }
        let (numbers, mut texts): (Vec<u64>, Vec<String>) = words.into_iter().unzip();
        let sizes = if numbers.len() > FEW { self.postings.lengths(&numbers).await? } else { Vec::new() };
        let mut numbers = numbers.as_slice();
        for count in batches(numbers.len(), &sizes) {
            self.check_memory(&index)?;
            let (batch, rest) = numbers.split_at(count);
            let (read, texts) = (self.postings.read(batch, with_positions).await?, texts.drain(..count).collect());
            let index = Arc::clone(&index);
            task::blocking(move || index.add(&read, texts)).await?;
            numbers = rest;
        }
        if self.budget.is_exhausted() {
            self.budget.reclaim();
        }
        Ok(index)
    }

    /// The words that `query` looks for, as far as they are there.
    fn words(&self, query: &AnalyzedQuery) -> Words {
        let mut words = Words::new();
        let mut add = |word: &str| {
            if let Some(number) = self.vocabulary.get(word) {
                words.insert(number, word.to_string());
            }
        };
        let mut found = Vec::new();
        for clause in query.clauses() {
            match clause {
                AnalyzedClause::Term { text, .. } => add(text),
                AnalyzedClause::Phrase { tokens, .. } => tokens.iter().for_each(|token| add(&token.text)),
                AnalyzedClause::Prefix { text, .. } => found.extend(self.vocabulary.prefix(text)),
                AnalyzedClause::Fuzzy { text, distance, .. } => {
                    found.extend(self.vocabulary.fuzzy(text, u32::from(distance.edits())));
                }
            }
        }
        words.extend(found.into_iter().map(|(word, number)| (number, word)));
        words
    }

    /// What is loaded.
    fn index(&self, with_positions: bool) -> Arc<Loaded> {
        let place = usize::from(with_positions);
        if let Some(index) = &self.loaded.lock()[place] {
            return Arc::clone(index);
        }
        let index = TextIndex::of_lengths(with_positions, self.lengths.iter().copied());
        let made = Arc::new(Loaded::new(index, self.budget.lease()));
        Arc::clone(self.loaded.lock()[place].get_or_insert(made))
    }

    fn check_memory(&self, index: &Loaded) -> Result<()> {
        if !self.budget.is_exhausted() {
            return Ok(());
        }
        self.budget.reclaim();
        if self.budget.is_exhausted() && index.memory() > self.budget.limit() / SHARE {
            return Err(Error::backpressure("the words that the query looks for take more memory than there is"));
        }
        Ok(())
    }

    /// Bytes that what is loaded holds.
    pub(super) fn loaded_memory(&self) -> usize {
        self.loaded.lock().iter().flatten().map(|index| index.memory()).sum()
    }

    /// Bytes held besides.
    pub(super) fn memory(&self) -> usize {
        self.lease.bytes()
    }

    /// Forgets what is loaded; who uses it goes on.
    pub(super) fn unload(&self) {
        *self.loaded.lock() = [None, None];
    }
}

/// Whether a query looks for words that only a search in the vocabulary tells.
fn has_expansions(query: &AnalyzedQuery) -> bool {
    let is_one =
        |clause: &&AnalyzedClause| matches!(clause, AnalyzedClause::Prefix { .. } | AnalyzedClause::Fuzzy { .. });
    query.clauses().iter().any(is_one)
}

impl Loaded {
    /// `index`, for which `lease` is charged.
    pub(super) fn new(index: TextIndex, lease: MemoryLease) -> Self {
        let loaded = Self { index, lease };
        loaded.charge();
        loaded
    }

    /// Adds words with the postings that were read of them.
    fn add(&self, read: &RecordBatch, texts: Vec<String>) -> Result<()> {
        let mut list = PostingList::default();
        for (i, text) in texts.iter().enumerate() {
            decode(read, i, &mut list)?;
            self.index.add_term(text, &list).map_err(damaged)?;
        }
        self.charge();
        Ok(())
    }

    fn charge(&self) {
        self.lease.set(self.index.memory());
    }
}

/// How many of `words` words to read at a time, of which `sizes` says how many postings each has, if they are many.
fn batches(words: usize, sizes: &[usize]) -> Vec<usize> {
    let (mut batches, mut postings): (Vec<usize>, usize) = (Vec::new(), 0);
    for word in 0..words {
        let size = sizes.get(word).copied().unwrap_or(0);
        match batches.last_mut().filter(|count| **count < WORDS && postings + size <= POSTINGS) {
            Some(count) => {
                *count += 1;
                postings += size;
            }
            None => {
                batches.push(1);
                postings = size;
            }
        }
    }
    batches
}

fn damaged(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::corrupt("a text index is damaged: drop it and create it anew").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_so_many_at_a_time_as_have_few_postings() {
        assert!(batches(0, &[]).is_empty());
        assert_eq!(batches(3, &[]), [3]);
        assert_eq!(batches(WORDS + 1, &[1; WORDS + 1]), [WORDS, 1]);
        assert_eq!(batches(5, &[POSTINGS - 1, 1, 1, POSTINGS + 7, 1]), [2, 1, 1, 1]);
    }
}
