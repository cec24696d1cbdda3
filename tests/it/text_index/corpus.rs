//! Random documents, queries and masks.

use datafusion_lsm::text_index::{Query, Slot, Term, TextIndex};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::naive::Document;

/// A word of a vocabulary of `words`, low ones far more often.
pub(crate) fn word(rng: &mut StdRng, words: usize) -> String {
    let at = (words as f64).powf(rng.random::<f64>()) as usize - 1;
    match at % 17 {
        13 => format!("größe{at}"),
        14 => format!("日本{at}"),
        15 => format!("{at}").repeat(60),
        _ => format!("w{at}"),
    }
}

pub(crate) fn document(rng: &mut StdRng, words: usize) -> Document {
    let length = match rng.random_range(0..40) {
        0 | 1 => 0,
        2 => rng.random_range(200..900),
        _ => rng.random_range(1..30),
    };
    let mut position = 0;
    (0..length)
        .map(|_| {
            // Stop words leave gaps, synonyms share a position.
            position += [1, 1, 1, 1, 0, 2][rng.random_range(0..6)];
            (word(rng, words), position)
        })
        .collect()
}

pub(crate) fn documents(rng: &mut StdRng, rows: usize, words: usize) -> Vec<Document> {
    (0..rows).map(|_| document(rng, words)).collect()
}

/// Appends documents in batches of random sizes.
pub(crate) fn append(rng: &mut StdRng, index: &TextIndex, documents: &[Document]) {
    let mut rest = documents;
    while !rest.is_empty() {
        let size = if rng.random_bool(0.5) { 1 } else { rng.random_range(1..=rest.len().min(40)) };
        let (batch, behind) = rest.split_at(size);
        let batch = batch.iter().map(|document| document.iter().map(|(text, at)| (text, *at)));
        index.append(index.rows(), batch).unwrap();
        rest = behind;
    }
}

fn term(rng: &mut StdRng, words: usize, field: usize) -> Term {
    let text = if rng.random_bool(0.03) { "nowhere".into() } else { word(rng, words) };
    let weight = if rng.random_bool(0.03) { 0.0 } else { rng.random_range(0.1..9.0) };
    Term { field, text, weight }
}

/// A random tree over `fields` fields, the first of which keep positions.
pub(crate) fn query(rng: &mut StdRng, words: usize, fields: usize, depth: usize) -> Query {
    let field = rng.random_range(0..fields);
    let children = |rng: &mut StdRng, least: usize, most: usize| -> Vec<Query> {
        (0..rng.random_range(least..=most)).map(|_| query(rng, words, fields, depth - 1)).collect()
    };
    if depth == 0 {
        return Query::Term(term(rng, words, field));
    }
    match rng.random_range(0..13) {
        0..3 => Query::Term(term(rng, words, field)),
        3..6 => {
            let many = [5, 5, 5, 5, 12, 40, 300][rng.random_range(0..7)];
            let count = rng.random_range(0..many);
            Query::Any((0..count).map(|_| Query::Term(term(rng, words, field))).collect())
        }
        6 => Query::Any(children(rng, 1, 4)),
        7 => Query::Best(children(rng, 1, 3)),
        8 | 9 => Query::Bool { must: children(rng, 0, 3), should: children(rng, 0, 2), must_not: children(rng, 0, 1) },
        10 => Query::Boost {
            positive: Box::new(query(rng, words, fields, depth - 1)),
            negative: Box::new(query(rng, words, fields, depth - 1)),
            factor: rng.random_range(0.0..2.0),
        },
        11 => {
            Query::Scaled { query: Box::new(query(rng, words, fields, depth - 1)), factor: rng.random_range(0.0..3.0) }
        }
        _ => phrase(rng, words, field),
    }
}

/// A phrase, sometimes with repeated words, gaps, and words that stand for one another.
pub(crate) fn phrase(rng: &mut StdRng, words: usize, field: usize) -> Query {
    // Few words, or nothing would match.
    let words = words.min(12);
    let mut offset = rng.random_range(0..2);
    let slots = (0..rng.random_range(1..4))
        .map(|_| {
            let count = if rng.random_bool(0.2) { 2 } else { 1 };
            let terms = (0..count).map(|_| term(rng, words, field)).collect();
            let slot = Slot { offset, terms };
            offset += if rng.random_bool(0.2) { 2 } else { 1 };
            slot
        })
        .collect();
    Query::Phrase { slots, slop: [0, 0, 1, 3][rng.random_range(0..4)] }
}

/// Bits of `rows` rows, each set with the given chance.
pub(crate) fn bits(rng: &mut StdRng, rows: usize, chance: f64) -> Vec<u64> {
    let mut words = vec![0; rows.div_ceil(64)];
    for row in 0..rows {
        if rng.random_bool(chance) {
            words[row / 64] |= 1 << (row % 64);
        }
    }
    words
}

pub(crate) fn is_set(words: &[u64], row: usize) -> bool {
    words.get(row / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
}

pub(crate) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}
