//! What rows score, and the query that ranks them.
//!
//! The score of a row that a query matches is the sum of the scores of the parts that match it, of words each its BM25
//! score; what must not match adds nothing. A row that the query does not match scores 0.

use super::leaf::leaf;
use super::matching::others;
use super::survey::Weights;
use crate::query_syntax::{AnalyzedClause, AnalyzedQuery, Query};
use crate::text_index::{self, Field, Hit, Mask, Search, TextIndex};

/// What each row of `index` below `watermark` scores.
pub fn scores(query: &AnalyzedQuery, weights: &Weights, index: &TextIndex, watermark: u32) -> Vec<f32> {
    let scorer = Scorer { weights, index, watermark: watermark.min(index.rows()) };
    match scorer.part(query) {
        Some(part) => part.scores,
        None => vec![0.0; scorer.watermark as usize],
    }
}

/// The `k` rows of `index` that `mask` lets through and that score most, if they score anything: by score, then by row.
///
/// Their words lead to them if these are not too many and the query is of a form that can be ranked; if not, all rows
/// that have one are scored.
pub fn best(query: &AnalyzedQuery, weights: &Weights, index: &TextIndex, mask: Mask<'_>, k: usize) -> Vec<Hit> {
    let field = Field { index, average_length: weights.average_length(), precision: Default::default() };
    if let Some(ranked) = ranking(query, weights, index, mask.watermark())
        && let Ok(hits) = Search::new(&[field], mask).top_k(&ranked, k, 0.0)
    {
        return hits;
    }
    let hits = (0..).zip(scores(query, weights, index, mask.watermark())).map(|(row, score)| Hit { row, score });
    let mut hits: Vec<Hit> = hits.filter(|hit| hit.score > 0.0 && mask.is_visible(hit.row)).collect();
    hits.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.row.cmp(&b.row)));
    hits.truncate(k);
    hits
}

struct Scorer<'a> {
    weights: &'a Weights,
    index: &'a TextIndex,
    watermark: u32,
}

/// The rows that a part of a query matches, and what they score; others score 0.
struct Part {
    rows: Vec<u64>,
    scores: Vec<f32>,
}

impl Part {
    fn has(&self, row: usize) -> bool {
        self.rows[row / 64] >> (row % 64) & 1 == 1
    }

    /// Adds the scores of `other`, then takes those of rows that do not match.
    fn plus(mut self, other: &Self, rows: Vec<u64>) -> Self {
        self.rows = rows;
        self.scores.iter_mut().zip(&other.scores).for_each(|(score, more)| *score += more);
        for row in 0..self.scores.len() {
            if !self.has(row) {
                self.scores[row] = 0.0;
            }
        }
        self
    }
}

impl Scorer<'_> {
    /// `None` if the part says nothing.
    fn part(&self, query: &AnalyzedQuery) -> Option<Part> {
        match query {
            Query::Empty => None,
            Query::Clause(clause) => Some(self.clause(clause)),
            Query::And(parts) => self.joined(parts, |a, b| a & b),
            Query::Or(parts) => self.joined(parts, |a, b| a | b),
            Query::Not(query) => {
                let part = self.part(query)?;
                Some(Part { rows: others(part.rows, self.watermark), scores: vec![0.0; part.scores.len()] })
            }
            Query::Prefer { must, should } => match (self.part(must), self.part(should)) {
                (Some(must), Some(should)) => {
                    let rows = must.rows.clone();
                    Some(must.plus(&should, rows))
                }
                (only, None) | (None, only) => only,
            },
            Query::Boost { query, factor } => {
                let mut part = self.part(query)?;
                part.scores.iter_mut().for_each(|score| *score *= factor.get());
                Some(part)
            }
        }
    }

    fn joined(&self, parts: &[AnalyzedQuery], join: impl Fn(u64, u64) -> u64) -> Option<Part> {
        parts.iter().filter_map(|part| self.part(part)).reduce(|sum, part| {
            let rows = sum.rows.iter().zip(&part.rows).map(|(a, b)| join(*a, *b)).collect();
            sum.plus(&part, rows)
        })
    }

    fn clause(&self, clause: &AnalyzedClause) -> Part {
        let rows = self.watermark;
        let query = leaf(clause, self.index, rows, |word| self.weights.of(word));
        let field =
            Field { index: self.index, average_length: self.weights.average_length(), precision: Default::default() };
        // The query is made here: its weights are numbers, its one field is there, and it has positions.
        let hits = Search::new(&[field], Mask::new(rows)).all(&query).unwrap_or_default();
        let mut part = Part { rows: vec![0; (rows as usize).div_ceil(64)], scores: vec![0.0; rows as usize] };
        for hit in hits {
            part.rows[hit.row as usize / 64] |= 1 << (hit.row % 64);
            part.scores[hit.row as usize] = hit.score;
        }
        part
    }
}

/// More words than this are not ranked by their postings.
const MAX_WORDS: usize = 1024;

/// The query of which `index` finds the rows that score most among those below `watermark`; `None` if it is of another
/// form, as `a OR NOT b`, which also matches rows that no word leads to.
fn ranking(query: &AnalyzedQuery, weights: &Weights, index: &TextIndex, watermark: u32) -> Option<text_index::Query> {
    let ranked = Ranking { weights, index, watermark }.part(query).ok()??;
    let mut words = 0;
    ranked.for_each_term(&mut |_| words += 1);
    (words <= MAX_WORDS).then_some(ranked)
}

struct Ranking<'a> {
    weights: &'a Weights,
    index: &'a TextIndex,
    watermark: u32,
}

/// A part matches rows that no word leads to.
struct Unranked;

impl Ranking<'_> {
    /// `None` if the part says nothing.
    fn part(&self, query: &AnalyzedQuery) -> Result<Option<text_index::Query>, Unranked> {
        use text_index::Query as Ranked;
        let all = |parts: &[AnalyzedQuery]| {
            let parts = parts.iter().map(|part| self.part(part));
            Ok::<Vec<_>, Unranked>(parts.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        };
        Ok(match query {
            Query::Empty => None,
            Query::Not(_) => return Err(Unranked),
            Query::Clause(clause) => Some(leaf(clause, self.index, self.watermark, |word| self.weights.of(word))),
            Query::Or(parts) => Some(all(parts)?).filter(|parts| !parts.is_empty()).map(Ranked::Any),
            Query::And(parts) => {
                let mut must_not = Vec::new();
                let mut must = Vec::new();
                for part in parts {
                    match part {
                        Query::Not(query) => must_not.extend(self.part(query)?),
                        other => must.extend(self.part(other)?),
                    }
                }
                match (must.is_empty(), must_not.is_empty()) {
                    (true, true) => None,
                    (true, false) => return Err(Unranked),
                    (false, _) => Some(Ranked::Bool { must, should: Vec::new(), must_not }),
                }
            }
            Query::Prefer { must, should } => match (self.part(must)?, self.part(should)?) {
                (Some(must), Some(should)) => {
                    Some(Ranked::Bool { must: vec![must], should: vec![should], must_not: Vec::new() })
                }
                (only, None) | (None, only) => only,
            },
            Query::Boost { query, factor } => {
                self.part(query)?.map(|query| Ranked::Scaled { query: Box::new(query), factor: factor.get() })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::text_search::{Survey, TextAnalyzer, TextSearch, matching, patterns};

    /// An index of texts of few words.
    fn corpus(rng: &mut StdRng, rows: u32) -> TextIndex {
        let index = TextIndex::new(true);
        let text = |rng: &mut StdRng| -> Vec<(String, u32)> {
            let words = rng.random_range(0..7);
            (0..words).map(|at| (["ab", "ac", "bd", "cd", "de"][rng.random_range(0..5)].to_string(), at)).collect()
        };
        index.append(0, (0..rows).map(|_| text(rng))).unwrap();
        index
    }

    fn query(text: &str) -> AnalyzedQuery {
        TextSearch::parse("body", text, &TextAnalyzer::default_one()).unwrap().query
    }

    #[test]
    fn a_ranking_finds_the_rows_that_score_most() {
        let mut rng = StdRng::seed_from_u64(7);
        let index = corpus(&mut rng, 300);
        for text in [
            "ab",
            "ab cd",
            "ab AND cd",
            "+ab cd de",
            "\"ab cd\"",
            "a*",
            "ab~1 de",
            "ab^3 cd",
            "ab AND NOT cd",
            "(ab AND cd) OR (de NOT bd)",
            "\"ab cd\"~2 OR bd^0.5",
            "+(ab cd) +d* -bd",
            "ab ab",
            "nothing",
        ] {
            let query = query(text);
            let asked = patterns(&query);
            let weights = Weights::new(&Survey::of(&index, &asked, 300, None), &asked);
            let scores = scores(&query, &weights, &index, 300);
            let bits = matching(&query, &index, 300);
            for (row, score) in scores.iter().enumerate() {
                assert_eq!(*score > 0.0, bits[row / 64] >> (row % 64) & 1 == 1, "{text}, row {row} scores {score}");
            }
            let ranked = ranking(&query, &weights, &index, 300).expect(text);
            let field =
                Field { index: &index, average_length: weights.average_length(), precision: Default::default() };
            let hits = Search::new(&[field], Mask::new(300)).top_k(&ranked, 20, 0.0).unwrap();
            let mut best = scores.clone();
            best.sort_by(|a, b| b.total_cmp(a));
            best.truncate(20);
            best.retain(|score| *score > 0.0);
            assert_eq!(hits.len(), best.len(), "{text}");
            for (hit, score) in hits.iter().zip(&best) {
                assert!((hit.score - score).abs() < 1e-5, "{text}: {hit:?}, not {score}");
                assert!((hit.score - scores[hit.row as usize]).abs() < 1e-5, "{text}: {hit:?}");
            }
        }
        for text in ["NOT ab", "ab OR NOT cd", "ab AND (cd OR NOT de)"] {
            let query = query(text);
            let weights = Weights::new(&Survey::default(), &[]);
            assert!(ranking(&query, &weights, &index, 300).is_none(), "{text}");
        }
    }

    #[test]
    fn the_best_rows_of_any_query_are_those_that_score_most() {
        let mut rng = StdRng::seed_from_u64(8);
        let index = corpus(&mut rng, 300);
        let many = (0..2 * MAX_WORDS).map(|i| [(format!("ab{i}"), 0), ("cd".to_string(), 1)]);
        index.append(300, many).unwrap();
        let deep = (0..31).fold("a*".to_string(), |query, _| format!("(cd AND (de OR {query}))"));
        let deep = format!("ac OR {deep}");
        assert_eq!(query(&deep).height(), crate::query_syntax::MAX_DEPTH);
        let (dead, allowed) = ([0b110, u64::MAX], [0b1111, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX]);
        for text in ["ab cd", "a*", "+cd a*", "ab OR NOT cd", "ab AND (cd OR NOT de)", "NOT ab", "the", &deep] {
            let query = query(text);
            let asked = patterns(&query);
            let weights = Weights::new(&Survey::of(&index, &asked, index.rows(), None), &asked);
            for watermark in [250, index.rows()] {
                let scores = scores(&query, &weights, &index, watermark);
                assert_eq!(scores.len(), watermark as usize);
                let masks = [
                    Mask::new(watermark),
                    Mask::new(watermark).without(&dead),
                    Mask::new(watermark).without(&dead).within(&allowed),
                ];
                for mask in masks {
                    let is_found = |(row, score): &(usize, &f32)| **score > 0.0 && mask.is_visible(*row as u32);
                    let mut expected: Vec<f32> =
                        scores.iter().enumerate().filter(is_found).map(|(_, score)| *score).collect();
                    expected.sort_by(|a, b| b.total_cmp(a));
                    expected.truncate(20);
                    let hits = best(&query, &weights, &index, mask, 20);
                    assert_eq!(hits.len(), expected.len(), "{text}");
                    for (hit, score) in hits.iter().zip(expected) {
                        assert!(mask.is_visible(hit.row), "{text}");
                        let is_near = |score: f32| (hit.score - score).abs() < 1e-4;
                        assert!(is_near(score) && is_near(scores[hit.row as usize]), "{text}: {hit:?}, not {score}");
                    }
                }
            }
        }
    }

    #[test]
    fn scores_of_trees_that_cannot_be_ranked_count_what_matches() {
        let index = TextIndex::new(true);
        let words = |text: &'static str| text.split(' ').zip(0..);
        index.append(0, ["ab", "cd", "ab cd", "de"].map(words)).unwrap();
        let of = |text: &str| {
            let query = query(text);
            let asked = patterns(&query);
            let weights = Weights::new(&Survey::of(&index, &asked, 4, None), &asked);
            scores(&query, &weights, &index, 4)
        };
        let (ab, cd) = (of("ab"), of("cd"));
        assert_eq!(of("ab OR NOT cd"), [ab[0], 0.0, ab[2], 0.0]);
        assert_eq!(of("NOT cd"), [0.0; 4]);
        assert_eq!(of("ab AND (cd OR NOT cd)"), [ab[0], 0.0, ab[2] + cd[2], 0.0]);
        assert_eq!(of("the"), [0.0; 4]);
    }
}
