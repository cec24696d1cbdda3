//! Texts whose words are as frequent as Zipf's law says, queries of words of known frequency, and what scores best.

use std::collections::{HashMap, HashSet};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// How many words there are.
const VOCABULARY: usize = 30_000;
/// How many words a text has.
const LENGTH: std::ops::RangeInclusive<usize> = 30..=80;

/// The law: the word of rank `r` comes up `1 / r` as often as the first.
pub(crate) struct Zipf {
    bounds: Vec<f64>,
}

impl Zipf {
    /// The law.
    pub(crate) fn new() -> Self {
        let mut sum = 0.0;
        let shares = (1..=VOCABULARY).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Self { bounds: shares.collect() }
    }

    /// The words of a text, by their ranks.
    pub(crate) fn text(&self, rng: &mut SmallRng) -> Vec<u32> {
        let total = self.bounds.last().copied().unwrap_or(0.0);
        let word = |rng: &mut SmallRng| {
            let at = rng.random_range(0.0..total);
            self.bounds.partition_point(|bound| *bound <= at) as u32
        };
        (0..rng.random_range(LENGTH)).map(|_| word(rng)).collect()
    }
}

/// Words as they are written. No tokenizer stems them or leaves them out.
pub(crate) fn written(words: &[u32]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("w{word}")).collect();
    words.join(" ")
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) enum TextQuery {
    /// Any of these words.
    Any(Vec<u32>),
    /// These words side by side.
    Phrase(Vec<u32>),
}

impl AsRef<Self> for TextQuery {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// A kind of queries.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Class {
    /// A word that a few rows in 62,000 have.
    Rare,
    /// A word that about two rows in a hundred have.
    Mid,
    /// Three words: one that every other row has, one of one row in thirty, one of one in two hundred.
    Or3,
    /// Two words that stand side by side in some text.
    Phrase,
}

impl Class {
    /// `count` queries; phrases are taken from `texts`.
    pub(crate) fn queries(self, count: usize, texts: &[Vec<u32>]) -> Vec<TextQuery> {
        let mut rng = SmallRng::seed_from_u64(23);
        let phrases =
            |text: &[u32]| text.windows(2).find(|pair| pair.iter().all(|w| (4..300).contains(w))).map(<[_]>::to_vec);
        let mut phrases = texts.iter().filter_map(|text| phrases(text));
        let mut next = || match self {
            Self::Rare => Some(TextQuery::Any(vec![rng.random_range(9_000..12_000)])),
            Self::Mid => Some(TextQuery::Any(vec![rng.random_range(200..300)])),
            Self::Or3 => {
                let ranks = [4..12, 100..200, 1_000..1_500];
                Some(TextQuery::Any(ranks.map(|ranks| rng.random_range(ranks)).to_vec()))
            }
            Self::Phrase => phrases.next().map(TextQuery::Phrase),
        };
        (0..count).map_while(|_| next()).collect()
    }
}

impl TextQuery {
    /// The words.
    pub(crate) fn words(&self) -> &[u32] {
        match self {
            Self::Any(words) | Self::Phrase(words) => words,
        }
    }

    /// As it is typed.
    pub(crate) fn typed(&self) -> String {
        match self {
            Self::Any(words) => written(words),
            Self::Phrase(words) => format!("\"{}\"", written(words)),
        }
    }
}

/// Where some words are in some texts, and what it takes to score them: BM25 with K1 = 1.2 and B = 0.75.
pub(crate) struct Corpus {
    /// The id of each text and how many words it has.
    texts: Vec<(i64, f64)>,
    average: f64,
    /// For each word the texts that have it, and where.
    places: HashMap<u32, HashMap<usize, Vec<usize>>>,
}

impl Corpus {
    /// The texts of the rows with these ids, of which only the words of `queries` are kept.
    pub(crate) fn of(rows: impl Iterator<Item = (i64, Vec<u32>)>, queries: &[TextQuery]) -> Self {
        let wanted: HashSet<u32> = queries.iter().flat_map(TextQuery::words).copied().collect();
        let (mut texts, mut places) = (Vec::new(), HashMap::<u32, HashMap<usize, Vec<usize>>>::new());
        for (id, words) in rows {
            for (place, word) in words.iter().enumerate().filter(|(_, word)| wanted.contains(word)) {
                places.entry(*word).or_default().entry(texts.len()).or_default().push(place);
            }
            texts.push((id, words.len() as f64));
        }
        let average = texts.iter().map(|(_, length)| length).sum::<f64>() / texts.len().max(1) as f64;
        Self { texts, average, places }
    }

    /// The scores of all rows that match and whose ids pass.
    pub(crate) fn scores(&self, query: &TextQuery, passes: impl Fn(i64) -> bool) -> HashMap<i64, f64> {
        let mut scores = HashMap::new();
        for word in query.words() {
            let Some(texts) = self.places.get(word) else { continue };
            let (all, with) = (self.texts.len() as f64, texts.len() as f64);
            let weight = ((all - with + 0.5) / (with + 0.5) + 1.0).ln();
            for (text, places) in texts {
                let ((id, length), times) = (self.texts[*text], places.len() as f64);
                if passes(id) && self.matches(query, *text) {
                    let score = weight * 2.2 * times / (times + 1.2 * (0.25 + 0.75 * length / self.average));
                    *scores.entry(id).or_default() += score;
                }
            }
        }
        scores
    }

    fn matches(&self, query: &TextQuery, text: usize) -> bool {
        let TextQuery::Phrase(words) = query else { return true };
        let places =
            |word: &u32| self.places.get(word).and_then(|texts| texts.get(&text)).map_or(&[][..], Vec::as_slice);
        let Some((first, rest)) = words.split_first() else { return false };
        let follow = |start: &usize| rest.iter().zip(1..).all(|(word, after)| places(word).contains(&(start + after)));
        places(first).iter().any(follow)
    }
}

/// Scores that differ by no more than sums in `f32` do.
pub(crate) fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-4 * (1.0 + a.abs().max(b.abs()))
}
