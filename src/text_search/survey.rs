//! What the words of a query weigh: how many live rows have them, summed over all sources of a snapshot.
//!
//! A source is asked once, for the live rows alone: neither a row that was superseded nor the place of one counts, so
//! that a score is the same wherever rows are.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::leaf::Pattern;
use crate::query_syntax::{AnalyzedQuery, Query};
use crate::text_index::{Statistics, TextIndex, idf};

/// Words that prefixes and misspelt words of one query may weigh with.
const EXPANSIONS: usize = 1024;

/// What some live rows have of the words of a query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Rows with at least one word.
    pub documents: u64,
    /// Their words, repeated ones as often as they are there.
    pub tokens: u64,
    /// Words that were asked for, and how many rows have them; never 0.
    pub words: BTreeMap<String, u64>,
}

impl Survey {
    /// Of the rows of `index` below `watermark`, without those whose bit in `dead` is set.
    pub fn of(index: &TextIndex, patterns: &[Pattern], watermark: u32, dead: Option<&[u64]>) -> Self {
        Self::by(index, patterns, watermark, |words| index.statistics(words, watermark, dead))
    }

    /// Of the rows of `index` below `watermark` of which `statistics` tells.
    pub fn by(
        index: &TextIndex,
        patterns: &[Pattern],
        watermark: u32,
        statistics: impl FnOnce(&[String]) -> Statistics,
    ) -> Self {
        let words: BTreeSet<String> = patterns.iter().flat_map(|pattern| pattern.words(index, watermark)).collect();
        let words: Vec<String> = words.into_iter().collect();
        let found = statistics(&words);
        let words = words.into_iter().zip(found.doc_freqs).filter(|(_, rows)| *rows > 0).collect();
        Self { documents: found.doc_count, tokens: found.total_tokens, words }
    }

    /// Adds other rows.
    pub fn add(&mut self, other: &Self) {
        self.documents += other.documents;
        self.tokens += other.tokens;
        for (word, rows) in &other.words {
            *self.words.entry(word.clone()).or_default() += rows;
        }
    }
}

/// What a query looks for where it makes scores: all but what must not match.
pub fn patterns(query: &AnalyzedQuery) -> Vec<Pattern> {
    fn add(query: &AnalyzedQuery, to: &mut BTreeSet<Pattern>) {
        match query {
            Query::Empty | Query::Not(_) => {}
            Query::Clause(clause) => to.extend(Pattern::all_of(clause)),
            Query::And(parts) | Query::Or(parts) | Query::Best(parts) => parts.iter().for_each(|part| add(part, to)),
            Query::Prefer { must, should } => [must, should].into_iter().for_each(|part| add(part, to)),
            Query::Boost { query, .. } => add(query, to),
        }
    }
    let mut found = BTreeSet::new();
    add(query, &mut found);
    found.into_iter().collect()
}

/// What words weigh, and how long an average text is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Weights {
    words: HashMap<String, f32>,
    average_length: f32,
}

impl Weights {
    /// The weights of the words of `survey`: inverse document frequencies. Of those that only prefixes and misspelt
    /// words of `patterns` stand for, the 1,024 that most rows have; the others weigh nothing.
    pub fn new(survey: &Survey, patterns: &[Pattern]) -> Self {
        let asked = |word: &String| patterns.iter().any(|p| matches!(p, Pattern::Word(text) if text == word));
        let (mut words, mut expanded): (Vec<_>, Vec<_>) = survey.words.iter().partition(|(word, _)| asked(word));
        // A stable sort: words that equally many rows have stay in the order of their bytes.
        expanded.sort_by_key(|(_, rows)| std::cmp::Reverse(**rows));
        expanded.truncate(EXPANSIONS);
        words.append(&mut expanded);
        let average_length = if survey.documents == 0 { 0.0 } else { survey.tokens as f32 / survey.documents as f32 };
        let words = words.into_iter().map(|(word, rows)| (word.clone(), idf(*rows, survey.documents))).collect();
        Self { words, average_length }
    }

    /// What a word weighs; 0 if no live row has it.
    pub fn of(&self, word: &str) -> f32 {
        self.words.get(word).copied().unwrap_or(0.0)
    }

    /// Words of an average text.
    pub fn average_length(&self) -> f32 {
        self.average_length
    }
}
