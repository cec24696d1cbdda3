//! Pruning spares postings whatever rows a mask leaves out, and while documents are still appended.

use rand::Rng;

use datafusion_lsm::text_index::{Field, Floor, LengthPrecision, Mask, Query, Search, Term, TextIndex};

use super::{corpus, naive};

/// Rows that searches see; a few more are appended.
const ROWS: u32 = 20_000;
/// The first rows, whose short documents score more than all others.
const SHORT: u32 = 1280;

/// Documents that all hold one word, and some of them another.
fn index() -> TextIndex {
    let index = TextIndex::new(false);
    let mut appender = index.appender(0).unwrap();
    for row in 0..ROWS + 50 {
        let (one_in, others) = if row < SHORT { (10_u32, 2) } else { (100, 30) };
        appender.token("often", 0);
        if row.is_multiple_of(one_in) {
            appender.token("seldom", 1);
        }
        (0..others).for_each(|_| appender.count_token());
        appender.end_document().unwrap();
    }
    drop(appender);
    index
}

/// Fails unless the best rows are found and take far fewer postings than all rows.
fn check(index: &TextIndex, mask: Mask<'_>, what: &str) {
    let fields = [Field { index, average_length: 20.0, precision: LengthPrecision::Exact }];
    let words = vec![Query::Term(Term::new("often", 0.1)), Query::Term(Term::new("seldom", 5.0))];
    let both = Query::Bool { must: words.clone(), should: Vec::new(), must_not: Vec::new() };
    for query in [Query::Any(words), both] {
        let (everything, best) = (Search::new(&fields, mask), Search::new(&fields, mask));
        let all = everything.all(&query).unwrap();
        let top = best.top_k(&query, 5, &Floor::new(f32::NEG_INFINITY)).unwrap();
        naive::check_top(&top, &all, 5, f32::NEG_INFINITY, what);
        let (all, few) = (everything.postings(), best.postings());
        assert!(all > 19_000 && (5..all / 8).contains(&few), "{what}: {few} of {all} postings, {query:?}");
    }
}

/// Long lists of little weight beside short ones of much: what becomes of them depends on the threshold.
#[test]
fn words_that_most_rows_have_only_complete_the_scores_of_others() {
    let mut rng = corpus::rng(0x10E6);
    // One row in so many has each word, some of them several times.
    const WORDS: [(&str, u32); 5] = [("a", 1), ("b", 2), ("c", 7), ("d", 60), ("e", 900)];
    let index = TextIndex::new(false);
    let mut appender = index.appender(0).unwrap();
    for _ in 0..ROWS {
        let mut position = 0;
        for (word, one_in) in WORDS {
            if rng.random_ratio(1, one_in) {
                for _ in 0..rng.random_range(1..4) {
                    appender.token(word, position);
                    position += 1;
                }
            }
        }
        (0..rng.random_range(0..20)).for_each(|_| appender.count_token());
        appender.end_document().unwrap();
    }
    drop(appender);
    let fields = [Field { index: &index, average_length: 14.0, precision: LengthPrecision::Exact }];
    let mut spared = 0;
    for round in 0..300 {
        let mut words = Vec::new();
        for (word, one_in) in WORDS {
            // Mostly what BM25 would say, now and then anything else.
            let weight = if round % 5 == 4 { rng.random_range(0.1..9.0) } else { (1.0 + one_in as f32).ln() };
            if rng.random_bool(0.7) {
                words.push(Query::Term(Term::new(word, weight)));
            }
        }
        words.sort_by_key(|_| rng.random::<u32>());
        let (allowed, chance) = (rng.random_bool(0.3), [0.02, 0.5, 0.95][rng.random_range(0..3)]);
        let allowed = allowed.then(|| corpus::bits(&mut rng, ROWS as usize, chance));
        let (start, end) = (rng.random_range(0..ROWS / 2), rng.random_range(ROWS / 2..=ROWS + 9));
        let mask = Mask::new(ROWS).between(start, end);
        let mask = allowed.as_ref().map_or(mask, |allowed| mask.within(allowed));
        let (query, k) = (Query::Any(words), [1, 3, 10, 100][rng.random_range(0..4)]);
        let (everything, best) = (Search::new(&fields, mask), Search::new(&fields, mask));
        let all = everything.all(&query).unwrap();
        let top = best.top_k(&query, k, &Floor::new(f32::NEG_INFINITY)).unwrap();
        naive::check_top(&top, &all, k, f32::NEG_INFINITY, &format!("round {round}, k {k}, {query:?}"));
        spared += usize::from(best.postings() * 2 < everything.postings());
    }
    assert!(spared > 60, "{spared} of 300 decoded less than half of the postings");
}

#[test]
fn the_best_rows_take_few_postings_whatever_is_left_out() {
    let mut rng = corpus::rng(0xB10C);
    let (allowed, dead) = (corpus::bits(&mut rng, ROWS as usize, 0.3), corpus::bits(&mut rng, ROWS as usize, 0.5));
    let index = index();
    let masks = [
        ("all rows", Mask::new(ROWS)),
        ("a filter", Mask::new(ROWS).within(&allowed)),
        ("superseded rows", Mask::new(ROWS).without(&dead)),
        ("both", Mask::new(ROWS).without(&dead).within(&allowed)),
    ];
    let mut unfinished = index.appender(ROWS + 50).unwrap();
    unfinished.token("often", 0);
    for (what, mask) in masks {
        check(&index, mask, &format!("{what}, before the end of a document"));
    }
    drop(unfinished);
    index.freeze();
    for (what, mask) in masks {
        check(&index, mask, &format!("{what}, frozen"));
    }
}
