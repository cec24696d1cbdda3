//! What rows score, and the query that ranks them.
//!
//! The score of a row that a query matches is the sum of the scores of the parts that match it, of words each its BM25
//! score, and of a leaf that is looked for in several columns the greatest of theirs; what must not match adds nothing.
//! A row that the query does not match scores 0.

use std::cell::Cell;

use super::leaf::leaf;
use super::matching::{others, rows_of};
use super::survey::Weights;
use super::text::TextSearch;
use crate::query_syntax::{AnalyzedClause, AnalyzedQuery, Query};
use crate::text_index::{self, Field, Floor, Hit, Mask, Search, TextIndex};

/// What each row of `indexes` scores, which are those of the columns of `search`, of the same rows, as `weights` are.
pub fn scores(search: &TextSearch, weights: &[Weights], indexes: &[&TextIndex]) -> Vec<f32> {
    all(search, weights, indexes, Mask::new(rows_of(indexes))).0.scores
}

/// What matches among the rows that `mask` lets through, and how many postings that took.
fn all(search: &TextSearch, weights: &[Weights], indexes: &[&TextIndex], mask: Mask<'_>) -> (Found, usize) {
    let taken = Cell::new(0);
    let hits = |clause: &AnalyzedClause| {
        let column = search.column_of(clause);
        let (hits, postings) = hits(clause, &weights[column], indexes[column], mask);
        taken.set(taken.get() + postings);
        hits
    };
    (found(&search.query, mask.watermark(), hits), taken.get())
}

/// The rows of `index` that one leaf of a query matches, and what they score; and how many postings that took.
pub fn hits(clause: &AnalyzedClause, weights: &Weights, index: &TextIndex, mask: Mask<'_>) -> (Vec<Hit>, usize) {
    let query = leaf(clause, (0, index), mask.watermark(), |word| weights.of(word));
    let field = Field { index, average_length: weights.average_length(), precision: Default::default() };
    // The query is made here: its weights are numbers, its one field is there, and it has positions.
    let search = Search::new(&[field], mask);
    (search.all(&query).unwrap_or_default(), search.postings())
}

/// Which of `rows` rows a query matches, whose leaves find `hits`, and what they score.
pub fn found(query: &AnalyzedQuery, rows: u32, hits: impl Fn(&AnalyzedClause) -> Vec<Hit>) -> Found {
    let part = Scorer { rows, hits }.part(query);
    part.unwrap_or_else(|| Found { rows: vec![0; (rows as usize).div_ceil(64)], scores: vec![0.0; rows as usize] })
}

/// The `k` rows of `indexes`, those of the columns of `search`, that `mask` lets through and that score most, if they
/// score anything: by score, then by row; and how many postings that took.
///
/// Rows that do not score more than `floor` may be left out. Their words lead to them if these are not too many and the
/// query is of a form that can be ranked; if not, all rows that have one are scored.
pub fn best(
    search: &TextSearch,
    weights: &[Weights],
    indexes: &[&TextIndex],
    mask: Mask<'_>,
    k: usize,
    floor: &Floor,
) -> (Vec<Hit>, usize) {
    if let Some(ranked) = ranking(search, weights, indexes, mask.watermark()) {
        let search = Search::new(&fields(indexes, weights), mask);
        if let Ok(hits) = search.top_k(&ranked, k, floor) {
            return (hits, search.postings());
        }
    }
    let (found, postings) = all(search, weights, indexes, mask);
    let hits = (0..).zip(found.scores).map(|(row, score)| Hit { row, score });
    let mut hits: Vec<Hit> = hits.filter(|hit| hit.score > 0.0 && mask.is_visible(hit.row)).collect();
    hits.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.row.cmp(&b.row)));
    hits.truncate(k);
    (hits, postings)
}

struct Scorer<F> {
    rows: u32,
    hits: F,
}

/// The rows that a query or a part of it matches, a bit each, and what all rows score: 0 if they do not match.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Row `r` matches if bit `r % 64` of word `r / 64` is set.
    pub rows: Vec<u64>,
    /// A score each row.
    pub scores: Vec<f32>,
}

impl Found {
    /// Whether a row matches.
    pub fn has(&self, row: usize) -> bool {
        self.rows[row / 64] >> (row % 64) & 1 == 1
    }

    /// Joins the scores of `other` to those of the rows that match, which are `rows`.
    fn with(mut self, other: &Self, rows: Vec<u64>, join: impl Fn(f32, f32) -> f32) -> Self {
        self.rows = rows;
        self.scores.iter_mut().zip(&other.scores).for_each(|(score, more)| *score = join(*score, *more));
        for row in 0..self.scores.len() {
            if !self.has(row) {
                self.scores[row] = 0.0;
            }
        }
        self
    }
}

fn sum(a: f32, b: f32) -> f32 {
    a + b
}

impl<F: Fn(&AnalyzedClause) -> Vec<Hit>> Scorer<F> {
    /// `None` if the part says nothing.
    fn part(&self, query: &AnalyzedQuery) -> Option<Found> {
        match query {
            Query::Empty => None,
            Query::Clause(clause) => Some(self.clause(clause)),
            Query::And(parts) => self.joined(parts, |a, b| a & b, sum),
            Query::Or(parts) => self.joined(parts, |a, b| a | b, sum),
            Query::Best(parts) => self.joined(parts, |a, b| a | b, f32::max),
            Query::Not(query) => {
                let part = self.part(query)?;
                Some(Found { rows: others(part.rows, self.rows), scores: vec![0.0; part.scores.len()] })
            }
            Query::Prefer { must, should } => match (self.part(must), self.part(should)) {
                (Some(must), Some(should)) => {
                    let rows = must.rows.clone();
                    Some(must.with(&should, rows, sum))
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

    fn joined(
        &self,
        parts: &[AnalyzedQuery],
        rows: impl Fn(u64, u64) -> u64,
        scores: impl Fn(f32, f32) -> f32,
    ) -> Option<Found> {
        parts.iter().filter_map(|part| self.part(part)).reduce(|all, part| {
            let joined = all.rows.iter().zip(&part.rows).map(|(a, b)| rows(*a, *b)).collect();
            all.with(&part, joined, &scores)
        })
    }

    fn clause(&self, clause: &AnalyzedClause) -> Found {
        let mut part =
            Found { rows: vec![0; (self.rows as usize).div_ceil(64)], scores: vec![0.0; self.rows as usize] };
        for hit in (self.hits)(clause) {
            part.rows[hit.row as usize / 64] |= 1 << (hit.row % 64);
            part.scores[hit.row as usize] = hit.score;
        }
        part
    }
}

/// More words than this are not ranked by their postings.
const MAX_WORDS: usize = 1024;

/// The query of which `indexes`, those of the columns of `search`, find the rows that score most among those below
/// `watermark`; `None` if it is of another form, as `a OR NOT b`, which also matches rows that no word leads to.
fn ranking(
    search: &TextSearch,
    weights: &[Weights],
    indexes: &[&TextIndex],
    watermark: u32,
) -> Option<text_index::Query> {
    let ranked = Ranking { search, weights, indexes, watermark }.part(&search.query).ok()??;
    let mut words = 0;
    ranked.for_each_term(&mut |_| words += 1);
    (words <= MAX_WORDS).then_some(ranked)
}

/// The columns of a query as a search sees them: its terms say which one by their places.
fn fields<'a>(indexes: &[&'a TextIndex], weights: &[Weights]) -> Vec<Field<'a>> {
    let field = |(index, weights): (&&'a TextIndex, &Weights)| Field {
        index,
        average_length: weights.average_length(),
        precision: Default::default(),
    };
    indexes.iter().zip(weights).map(field).collect()
}

struct Ranking<'a> {
    search: &'a TextSearch,
    weights: &'a [Weights],
    indexes: &'a [&'a TextIndex],
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
            Query::Clause(clause) => {
                let column = self.search.column_of(clause);
                let index = self.indexes[column];
                Some(leaf(clause, (column, index), self.watermark, |word| self.weights[column].of(word)))
            }
            Query::Best(parts) => Some(all(parts)?).filter(|parts| !parts.is_empty()).map(Ranked::Best),
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

    fn search(text: &str) -> TextSearch {
        TextSearch::parse("body", text, &TextAnalyzer::default_one()).unwrap()
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
            let search = search(text);
            let asked = patterns(&search.query);
            let weights = [Weights::new(&Survey::of(&index, &asked, 300, None), &asked)];
            let scores = scores(&search, &weights, &[&index]);
            let bits = matching(&search, &[&index], 300);
            for (row, score) in scores.iter().enumerate() {
                assert_eq!(*score > 0.0, bits[row / 64] >> (row % 64) & 1 == 1, "{text}, row {row} scores {score}");
            }
            let ranked = ranking(&search, &weights, &[&index], 300).expect(text);
            let hits =
                Search::new(&fields(&[&index], &weights), Mask::new(300)).top_k(&ranked, 20, &Floor::new(0.0)).unwrap();
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
            let weights = [Weights::new(&Survey::default(), &[])];
            assert!(ranking(&search(text), &weights, &[&index], 300).is_none(), "{text}");
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
        assert_eq!(search(&deep).query.height(), crate::query_syntax::MAX_DEPTH);
        let (dead, allowed) = ([0b110, u64::MAX], [0b1111, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX]);
        for text in ["ab cd", "a*", "+cd a*", "ab OR NOT cd", "ab AND (cd OR NOT de)", "NOT ab", "the", &deep] {
            let search = search(text);
            let asked = patterns(&search.query);
            let weights = [Weights::new(&Survey::of(&index, &asked, index.rows(), None), &asked)];
            for watermark in [250, index.rows()] {
                let scores = all(&search, &weights, &[&index], Mask::new(watermark)).0.scores;
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
                    let hits = best(&search, &weights, &[&index], mask, 20, &Floor::new(0.0)).0;
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
            let search = search(text);
            let asked = patterns(&search.query);
            let weights = [Weights::new(&Survey::of(&index, &asked, 4, None), &asked)];
            scores(&search, &weights, &[&index])
        };
        let (ab, cd) = (of("ab"), of("cd"));
        assert_eq!(of("ab OR NOT cd"), [ab[0], 0.0, ab[2], 0.0]);
        assert_eq!(of("NOT cd"), [0.0; 4]);
        assert_eq!(of("ab AND (cd OR NOT cd)"), [ab[0], 0.0, ab[2] + cd[2], 0.0]);
        assert_eq!(of("the"), [0.0; 4]);
    }
}
