//! Readers search while documents are appended: their answers are those of their watermark.

use std::sync::atomic::{AtomicBool, Ordering};

use datafusion_lsm::text_index::{Field, Floor, LengthPrecision, Limits, Mask, Search, TextIndex};
use rand::Rng;

use super::corpus::{self, is_set};
use super::naive::{self, Source};

fn stress(seed: u64, frozen: bool) {
    println!("seed {seed}");
    let mut rng = corpus::rng(seed);
    let rows = 4000;
    let documents = corpus::documents(&mut rng, rows, 300);
    let index = TextIndex::new(true);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            corpus::append(&mut corpus::rng(seed + 1), &index, &documents);
            if frozen {
                index.freeze();
            }
            done.store(true, Ordering::Release);
        });
        for reader in 0..2 {
            let (index, documents, done) = (&index, &documents, &done);
            scope.spawn(move || {
                let mut rng = corpus::rng(seed + 10 + reader);
                let mut rounds = 0;
                loop {
                    let was_done = done.load(Ordering::Acquire);
                    let watermark = index.rows();
                    let query = corpus::query(&mut rng, 300, 1, 2);
                    let dead = corpus::bits(&mut rng, rows, 0.3);
                    let fields = [Field { index, average_length: 14.0, precision: LengthPrecision::Exact }];
                    let search = Search::new(&fields, Mask::new(watermark).without(&dead));
                    // Some time passes between the parts of the answer.
                    let top = search.top_k(&query, 7, &Floor::new(f32::NEG_INFINITY)).unwrap();
                    let bits = search.rows(&query).unwrap();
                    let all = search.all(&query).unwrap();
                    let context = format!("seed {seed}, watermark {watermark}, {query:?}");
                    let sources = [Source {
                        documents: &documents[..watermark as usize],
                        average_length: 14.0,
                        four_bits: false,
                    }];
                    let expected = naive::all(&query, &sources, |row| !is_set(&dead, row));
                    naive::check_all(&all, &expected, &context);
                    naive::check_top(&top, &all, 7, f32::NEG_INFINITY, &context);
                    let count: u32 = bits.iter().map(|word| word.count_ones()).sum();
                    assert_eq!(count as usize, expected.len(), "{context}");
                    let some = corpus::word(&mut rng, 300);
                    let near = index.fuzzy(&some, 1, 1, watermark, Limits { returned: 50, compared: 1000 });
                    assert!(near.terms.is_sorted());
                    for term in &near.terms {
                        let is_there = |d: &naive::Document| d.iter().any(|(text, _)| text == term);
                        assert!(documents[..watermark as usize].iter().any(is_there), "{term} in {context}");
                    }
                    let frequency = index.statistics(&[&some], watermark, Some(&dead)).doc_freqs[0];
                    let holds = |(row, d): &(usize, &naive::Document)| {
                        !is_set(&dead, *row) && d.iter().any(|(text, _)| *text == some)
                    };
                    let expected = documents[..watermark as usize].iter().enumerate().filter(holds).count();
                    assert_eq!(frequency, expected as u64, "{some} in {context}");
                    rounds += 1;
                    if was_done && rounds > 20 {
                        break;
                    }
                    if rng.random_bool(0.2) {
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
}

#[test]
fn readers_see_their_watermark_while_documents_are_appended() {
    for seed in [100, 200, 300, 400, 500, 600] {
        stress(seed, seed % 200 == 0);
    }
}
