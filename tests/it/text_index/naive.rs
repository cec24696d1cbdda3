//! The oracle: scores every document by the formula and keeps what matches. It knows nothing of postings.

use datafusion_lsm::text_index::{Hit, Query, Term};

/// The tokens of a row, as text and position.
pub(crate) type Document = Vec<(String, u32)>;

/// Documents of one field and what is injected for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) documents: &'a [Document],
    pub(crate) average_length: f32,
    pub(crate) four_bits: bool,
}

impl Source<'_> {
    fn frequency(&self, row: usize, term: &str) -> u32 {
        self.documents[row].iter().filter(|(text, _)| text == term).count() as u32
    }

    fn positions(&self, row: usize, term: &str) -> Vec<i64> {
        self.documents[row].iter().filter(|(text, _)| text == term).map(|(_, at)| i64::from(*at)).collect()
    }

    fn score(&self, row: usize, term: &Term) -> Option<f64> {
        let tf = self.frequency(row, &term.text);
        let mut length = self.documents[row].len() as u32;
        if self.four_bits && length > 15 {
            let shift = 32 - length.leading_zeros() - 4;
            length = (length >> shift) << shift;
        }
        let (tf, length) = (f64::from(tf), f64::from(length));
        let average = f64::from(self.average_length);
        let norm = 1.2 * (1.0 - 0.75 + 0.75 * length / average);
        (tf > 0.0).then_some(f64::from(term.weight) * 2.2 * tf / (tf + norm))
    }
}

/// What a row scores, if it matches.
pub(crate) fn score(query: &Query, fields: &[Source<'_>], row: usize) -> Option<f64> {
    let each = |children: &[Query]| -> Vec<Option<f64>> { children.iter().map(|c| score(c, fields, row)).collect() };
    let sum = |scores: Vec<Option<f64>>| scores.into_iter().flatten().reduce(|a, b| a + b);
    match query {
        Query::Term(term) => fields[term.field].score(row, term),
        Query::Phrase { slots, slop } => {
            let mut slots = slots.clone();
            slots.sort_by_key(|slot| slot.offset);
            // Every choice of positions, one slot after the other.
            let mut last: Option<Vec<i64>> = None;
            let mut total = 0.0;
            for slot in &slots {
                let mut starts = Vec::new();
                for term in &slot.terms {
                    total += fields[term.field].score(row, term).unwrap_or(0.0);
                    let positions = fields[term.field].positions(row, &term.text);
                    starts.extend(positions.iter().map(|at| at - i64::from(slot.offset)));
                }
                let continues = |start: &i64| {
                    last.as_ref().is_none_or(|last| {
                        let from = last.partition_point(|l| l + i64::from(*slop) < *start);
                        last.get(from).is_some_and(|l| l <= start)
                    })
                };
                starts.retain(continues);
                starts.sort_unstable();
                last = Some(starts);
            }
            last.is_some_and(|last| !last.is_empty()).then_some(total)
        }
        Query::Any(children) => sum(each(children)),
        Query::Best(children) => each(children).into_iter().flatten().reduce(f64::max),
        Query::Bool { must, should, must_not } => {
            let count = must.len();
            let must: Vec<f64> = each(must).into_iter().flatten().collect();
            let should = sum(each(should));
            if must.len() < count
                || (count == 0 && should.is_none())
                || each(must_not).into_iter().any(|score| score.is_some())
            {
                return None;
            }
            Some(must.iter().sum::<f64>() + should.unwrap_or(0.0))
        }
        Query::Boost { positive, negative, factor } => {
            let positive = score(positive, fields, row)?;
            Some(positive - f64::from(*factor) * score(negative, fields, row).unwrap_or(0.0))
        }
        Query::Scaled { query, factor } => Some(f64::from(*factor) * score(query, fields, row)?),
    }
}

/// All rows that match and that `visible` lets through.
pub(crate) fn all(query: &Query, fields: &[Source<'_>], visible: impl Fn(usize) -> bool) -> Vec<(u32, f64)> {
    let rows = fields[0].documents.len();
    (0..rows)
        .filter(|row| visible(*row))
        .filter_map(|row| score(query, fields, row).map(|score| (row as u32, score)))
        .collect()
}

pub(crate) fn is_close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-4 * (1.0 + a.abs().max(b.abs())) / 2.0
}

/// Fails unless `hits` are all of `expected`.
pub(crate) fn check_all(hits: &[Hit], expected: &[(u32, f64)], context: &str) {
    let rows: Vec<u32> = hits.iter().map(|hit| hit.row).collect();
    let expected_rows: Vec<u32> = expected.iter().map(|(row, _)| *row).collect();
    assert_eq!(rows, expected_rows, "{context}");
    for (hit, (row, score)) in hits.iter().zip(expected) {
        assert!(is_close(f64::from(hit.score), *score), "row {row}: {} is not {score}; {context}", hit.score);
    }
}

/// Fails unless `hits` are the first `k` of `all` by score, then by row, to the bit.
pub(crate) fn check_top(hits: &[Hit], all: &[Hit], k: usize, floor: f32, context: &str) {
    let mut best: Vec<Hit> = all.iter().copied().filter(|hit| hit.score > floor).collect();
    best.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.row.cmp(&b.row)));
    best.truncate(k);
    assert_eq!(hits.len(), best.len(), "{context}");
    let wrong = hits.iter().zip(&best).position(|(a, b)| a != b);
    assert!(wrong.is_none_or(|i| panic!("{:?} is not {:?} at {i}; {context}", hits[i], best[i])));
}
