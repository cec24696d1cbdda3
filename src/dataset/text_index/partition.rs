//! One partition of an index: its vocabulary, its documents, and the words that queries asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::documents::Documents;
use super::postings::{PostingFile, decode};
use crate::cache::{MemoryBudget, MemoryLease, Reclaim};
use crate::error::{Error, Result};
use crate::query_syntax::{AnalyzedClause, AnalyzedQuery};
use crate::task;
use crate::text_index::{PostingList, TextIndex, Vocabulary};

/// Words that are read and decoded together.
const WORDS: usize = 4096;

/// Words to load, with their numbers.
pub(super) type Words = BTreeMap<u64, String>;

/// A partition that is open.
#[derive(Debug)]
pub(super) struct Partition {
    vocabulary: Vocabulary,
    postings: PostingFile,
    documents: Arc<Documents>,
    /// Of each document its words.
    lengths: Vec<u32>,
    /// What was loaded: without positions, and with them. Given back when memory is short.
    loaded: Mutex<[Option<Arc<TextIndex>>; 2]>,
    /// Charged for all of this.
    lease: MemoryLease,
}

impl Partition {
    pub(super) fn new(
        vocabulary: Vocabulary,
        postings: PostingFile,
        documents: Documents,
        lengths: Vec<u32>,
        budget: &Arc<MemoryBudget>,
    ) -> Arc<Self> {
        let (documents, loaded) = (Arc::new(documents), Mutex::default());
        let partition = Arc::new(Self { vocabulary, postings, documents, lengths, loaded, lease: budget.lease() });
        let holder: Weak<Self> = Arc::downgrade(&partition);
        budget.register(holder);
        partition.charge();
        partition
    }

    pub(super) fn documents(&self) -> &Arc<Documents> {
        &self.documents
    }

    pub(super) fn has_positions(&self) -> bool {
        self.postings.has_positions()
    }

    /// The words that `query` looks for, as far as they are there.
    pub(super) fn words(&self, query: &AnalyzedQuery) -> Words {
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

    /// An index that has these words at least.
    pub(super) async fn load(self: &Arc<Self>, mut words: Words, with_positions: bool) -> Result<Arc<TextIndex>> {
        let index = self.index(with_positions);
        words.retain(|_, word| !index.has_term(word));
        if words.is_empty() {
            return Ok(index);
        }
        let mut words = words.into_iter().peekable();
        while words.peek().is_some() {
            let (numbers, texts): (Vec<u64>, Vec<String>) = words.by_ref().take(WORDS).unzip();
            let read = self.postings.read(&numbers, with_positions).await?;
            let index = Arc::clone(&index);
            let add = move || {
                let mut list = PostingList::default();
                for (i, text) in texts.iter().enumerate() {
                    decode(&read, i, &mut list)?;
                    index.add_term(text, &list).map_err(damaged)?;
                }
                Ok(())
            };
            task::blocking(add).await?;
        }
        self.charge();
        if self.lease.budget().is_exhausted() {
            self.lease.budget().reclaim();
        }
        Ok(index)
    }

    /// What is loaded.
    fn index(&self, with_positions: bool) -> Arc<TextIndex> {
        let make = || Arc::new(TextIndex::of_lengths(with_positions, self.lengths.iter().copied()));
        Arc::clone(self.loaded.lock()[usize::from(with_positions)].get_or_insert_with(make))
    }

    fn charge(&self) {
        let fixed = size_of::<Self>()
            + self.vocabulary.memory()
            + self.documents.memory()
            + self.lengths.capacity() * size_of::<u32>();
        let loaded = self.loaded.lock();
        self.lease.set(fixed + memory(&*loaded));
    }
}

fn memory(loaded: &[Option<Arc<TextIndex>>]) -> usize {
    loaded.iter().flatten().map(|index| index.memory()).sum()
}

fn damaged(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::corrupt("a text index is damaged: drop it and create it anew").with_source(error)
}

impl Reclaim for Partition {
    fn reclaimable(&self) -> usize {
        memory(&*self.loaded.lock())
    }

    fn reclaim(&self) {
        *self.loaded.lock() = [None, None];
        self.charge();
    }
}
