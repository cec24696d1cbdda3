//! The documents of a partition that are not to be found, and what is left of its words.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use roaring::RoaringTreemap;

use crate::text_index::{Statistics, TextIndex};

/// Words whose counts are kept at most.
const WORDS: usize = 1024;

/// The documents that are not to be found while certain rows are superseded.
///
/// It is kept as long as the same rows are: between two writes every query finds it made.
#[derive(Debug)]
pub struct Dead {
    /// The rows, while somebody knows them.
    superseded: Weak<RoaringTreemap>,
    bits: Vec<u64>,
    /// Whether there are such documents.
    any: bool,
    /// Documents that are left, and their tokens.
    totals: OnceLock<(u64, u64)>,
    /// How many of them have each word.
    doc_freqs: Mutex<HashMap<String, u64>>,
}

impl Dead {
    /// The documents whose bit in `bits` is set, which are gone or among `superseded`.
    pub(super) fn new(superseded: &Arc<RoaringTreemap>, bits: Vec<u64>) -> Self {
        let (superseded, any) = (Arc::downgrade(superseded), bits.iter().any(|word| *word != 0));
        Self { superseded, bits, any, totals: OnceLock::new(), doc_freqs: Mutex::default() }
    }

    /// Whether it is about these very rows.
    pub(super) fn is_of(&self, superseded: &Arc<RoaringTreemap>) -> bool {
        std::ptr::eq(self.superseded.as_ptr(), Arc::as_ptr(superseded))
    }

    /// The documents, as bits.
    pub fn bits(&self) -> &[u64] {
        &self.bits
    }

    /// Statistics of the others, of which `index` has these words.
    pub(super) fn statistics(&self, index: &TextIndex, words: &[String]) -> Statistics {
        let dead = self.any.then_some(self.bits.as_slice());
        let (doc_count, total_tokens) = *self.totals.get_or_init(|| {
            let all = index.statistics::<String>(&[], index.rows(), dead);
            (all.doc_count, all.total_tokens)
        });
        let known: Vec<Option<u64>> = {
            let doc_freqs = self.doc_freqs.lock();
            words.iter().map(|word| doc_freqs.get(word).copied()).collect()
        };
        let counted = |(word, known): (&String, Option<u64>)| {
            known.unwrap_or_else(|| {
                let doc_freq = index.doc_freq(word, index.rows(), dead);
                let mut doc_freqs = self.doc_freqs.lock();
                if doc_freqs.len() < WORDS {
                    doc_freqs.insert(word.clone(), doc_freq);
                }
                doc_freq
            })
        };
        let doc_freqs = words.iter().zip(known).map(counted).collect();
        Statistics { doc_count, total_tokens, doc_freqs }
    }
}
