//! Random trees over random documents, masks, watermarks and limits, frozen and not.

use crate::support::number_from_env;
use datafusion_lsm::text_index::{
    Field, Floor, Hit, LengthPrecision, Mask, PostingList, Query, Search, Term, TextIndex,
};
use rand::Rng;

use super::corpus::{self, is_set};
use super::naive::{self, Source};

fn round(seed: u64) {
    let mut rng = corpus::rng(seed);
    let rows = [0, 1, 70, 400, 1500, 3000][rng.random_range(0..6)];
    let words = [5, 60, 2000][rng.random_range(0..3)];
    let field_count = rng.random_range(1..3);
    let documents: Vec<_> = (0..field_count).map(|_| corpus::documents(&mut rng, rows, words)).collect();
    let indexes: Vec<TextIndex> = (0..field_count).map(|_| TextIndex::new(true)).collect();
    for (index, documents) in indexes.iter().zip(&documents) {
        corpus::append(&mut rng, index, documents);
    }
    let four_bits = rng.random_bool(0.2);
    let precision = if four_bits { LengthPrecision::FourBits } else { LengthPrecision::Exact };
    let averages: Vec<f32> = indexes.iter().map(|_| rng.random_range(0.5..60.0)).collect();
    for frozen in [false, true] {
        if frozen {
            let before: Vec<usize> = indexes.iter().map(TextIndex::memory).collect();
            indexes.iter().for_each(TextIndex::freeze);
            for (index, before) in indexes.iter().zip(before) {
                assert!(index.memory() <= before, "seed {seed}");
            }
        }
        for _ in 0..12 {
            let query = corpus::query(&mut rng, words, field_count, 3);
            let watermark = if rng.random_bool(0.5) { rows as u32 + 10 } else { rng.random_range(0..=rows) as u32 };
            let dead_chance = [0.0, 0.1, 0.5, 0.95][rng.random_range(0..4)];
            let dead = corpus::bits(&mut rng, rows, dead_chance);
            let allowed_chance = [0.3, 0.02, 0.9][rng.random_range(0..3)];
            let allowed = rng.random_bool(0.5).then(|| corpus::bits(&mut rng, rows, allowed_chance));
            let mut mask = Mask::new(watermark).without(&dead);
            if let Some(allowed) = &allowed {
                mask = mask.within(allowed);
            }
            let visible = |row: usize| {
                (row as u32) < watermark && !is_set(&dead, row) && allowed.as_ref().is_none_or(|a| is_set(a, row))
            };
            let sources: Vec<Source<'_>> = documents
                .iter()
                .zip(&averages)
                .map(|(documents, average)| Source { documents, average_length: *average, four_bits })
                .collect();
            let fields: Vec<Field<'_>> = indexes
                .iter()
                .zip(&averages)
                .map(|(index, average)| Field { index, average_length: *average, precision })
                .collect();
            let context = format!("seed {seed}, frozen {frozen}, watermark {watermark} of {rows}, {query:?}");
            let search = Search::new(&fields, mask);
            let expected = naive::all(&query, &sources, visible);
            let all = search.all(&query).unwrap();
            naive::check_all(&all, &expected, &context);
            let k = [0, 1, 3, 10, 100, usize::MAX][rng.random_range(0..6)];
            let floor = if rng.random_bool(0.2) { rng.random_range(-1.0..20.0) } else { f32::NEG_INFINITY };
            let top = search.top_k(&query, k, &Floor::new(floor)).unwrap();
            naive::check_top(&top, &all, k, floor, &format!("k {k}, floor {floor}, {context}"));
            let (cut, shared) = (rng.random_range(0..=rows) as u32, Floor::new(floor));
            let slices = [(0, cut), (cut, u32::MAX)].map(|(start, end)| Search::new(&fields, mask.between(start, end)));
            let mut best: Vec<Hit> =
                slices.iter().rev().flat_map(|slice| slice.top_k(&query, k, &shared).unwrap()).collect();
            best.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.row.cmp(&b.row)));
            best.truncate(k);
            naive::check_top(&best, &all, k, floor, &format!("cut at {cut}, k {k}, floor {floor}, {context}"));
            let bits = search.rows(&query).unwrap();
            let matching: Vec<u32> = (0..rows).filter(|row| is_set(&bits, *row)).map(|row| row as u32).collect();
            let expected: Vec<u32> = expected.iter().map(|(row, _)| *row).collect();
            assert_eq!(matching, expected, "{context}");
            check_statistics(&query, &indexes, &documents, watermark, &dead, &context);
        }
    }
    for (index, documents) in indexes.iter().zip(&documents) {
        check_export(index, documents, seed);
    }
}

fn check_statistics(
    query: &Query,
    indexes: &[TextIndex],
    documents: &[Vec<naive::Document>],
    watermark: u32,
    dead: &[u64],
    context: &str,
) {
    for (field, (index, documents)) in indexes.iter().zip(documents).enumerate() {
        let mut terms = Vec::new();
        query.for_each_term(&mut |term| {
            if term.field == field {
                terms.push(term.text.clone());
            }
        });
        for dead in [None, Some(dead)] {
            let statistics = index.statistics(&terms, watermark, dead);
            let live: Vec<_> = documents
                .iter()
                .enumerate()
                .filter(|(row, _)| (*row as u32) < watermark && !dead.is_some_and(|dead| is_set(dead, *row)))
                .map(|(_, document)| document)
                .collect();
            assert_eq!(statistics.doc_count, live.iter().filter(|d| !d.is_empty()).count() as u64, "{context}");
            assert_eq!(statistics.total_tokens, live.iter().map(|d| d.len() as u64).sum::<u64>(), "{context}");
            for (term, frequency) in terms.iter().zip(&statistics.doc_freqs) {
                let expected = live.iter().filter(|d| d.iter().any(|(text, _)| text == term)).count() as u64;
                assert_eq!(*frequency, expected, "{term} in {context}");
            }
        }
    }
}

fn check_export(index: &TextIndex, documents: &[naive::Document], seed: u64) {
    let mut expected = std::collections::BTreeMap::<&str, PostingList>::new();
    for (row, document) in documents.iter().enumerate() {
        let mut tokens: Vec<(&str, u32)> = document.iter().map(|(text, at)| (text.as_str(), *at)).collect();
        tokens.sort_unstable();
        for group in tokens.chunk_by(|a, b| a.0 == b.0) {
            let list = expected.entry(group[0].0).or_default();
            list.rows.push(row as u32);
            list.frequencies.push(group.len() as u32);
            list.positions.extend(group.iter().map(|(_, at)| *at));
        }
    }
    let mut list = PostingList::default();
    let mut terms = index.terms(u32::MAX);
    for (text, postings) in &expected {
        let term = terms.next().unwrap();
        term.read(&mut list);
        assert_eq!((term.text(), &list), (*text, postings), "seed {seed}");
    }
    assert!(terms.next().is_none());
    let lengths: Vec<u32> = documents.iter().map(|document| document.len() as u32).collect();
    assert_eq!(index.lengths(u32::MAX).collect::<Vec<_>>(), lengths);
}

#[test]
fn random_trees_score_as_the_formula_says() {
    let start = number_from_env("LSM_SEED", 0);
    for seed in start..start + 24 {
        println!("LSM_SEED={seed}");
        round(seed);
    }
}

#[test]
fn phrases_with_slop_and_repeated_words() {
    for seed in 1000..1020 {
        println!("seed {seed}");
        let mut rng = corpus::rng(seed);
        let documents = corpus::documents(&mut rng, 600, 6);
        let index = TextIndex::new(true);
        corpus::append(&mut rng, &index, &documents);
        let fields = [Field { index: &index, average_length: 12.0, precision: LengthPrecision::Exact }];
        let sources = [Source { documents: &documents, average_length: 12.0, four_bits: false }];
        let search = Search::new(&fields, Mask::new(600));
        for _ in 0..20 {
            let query = corpus::phrase(&mut rng, 6, 0);
            let expected = naive::all(&query, &sources, |_| true);
            let all = search.all(&query).unwrap();
            naive::check_all(&all, &expected, &format!("seed {seed}, {query:?}"));
            naive::check_top(
                &search.top_k(&query, 5, &Floor::new(f32::NEG_INFINITY)).unwrap(),
                &all,
                5,
                f32::NEG_INFINITY,
                "",
            );
        }
    }
}

#[test]
fn a_frozen_index_takes_as_little_as_one_that_was_made_at_once() {
    // Long lists, none of which fills its last block.
    let words = |row: u32| {
        [("each", 1_u32), ("second", 2), ("third", 3)].into_iter().filter(move |(_, n)| row.is_multiple_of(*n))
    };
    let index = TextIndex::new(true);
    index.append(0, (0..4300).map(words)).unwrap();
    let found = |index: &TextIndex| -> Vec<Hit> {
        let query = ["each", "second", "third"].map(|text| Query::Term(Term::new(text, 1.0)));
        let fields = [Field { index, average_length: 2.0, precision: LengthPrecision::Exact }];
        Search::new(&fields, Mask::new(u32::MAX)).all(&Query::Any(query.to_vec())).unwrap()
    };
    let (before, expected) = (index.memory(), found(&index));
    index.freeze();
    assert!(index.memory() < before, "{} of {before} bytes are left", index.memory());
    assert_eq!(found(&index), expected);
    let at_once = TextIndex::of_lengths(true, index.lengths(u32::MAX));
    let mut list = PostingList::default();
    for term in index.terms(u32::MAX) {
        term.read(&mut list);
        at_once.add_term(term.text(), &list).unwrap();
    }
    assert_eq!(found(&at_once), expected);
    assert_eq!(index.memory(), at_once.memory(), "no room is left in tails and lists of blocks");
}
