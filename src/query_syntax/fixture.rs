//! Random queries and documents, and what a query means, spelled out once more for the tests of this room.

use std::env;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::clause::{Distance, TextClause};
use super::factor::Factor;
use super::query::{Query, TextQuery};

/// Prints the seed if the test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat with LSM_SEED={}", self.0);
        }
    }
}

/// Runs `test` with `count` seeds, from `LSM_SEED` on; `LSM_OPS` is another count. Returns how many.
pub(super) fn with_seeds(count: u64, mut test: impl FnMut(&mut StdRng)) -> u64 {
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (first, count) = (number("LSM_SEED").unwrap_or(0x7e47_0000), number("LSM_OPS").unwrap_or(count));
    for seed in (0..count).map(|i| first.wrapping_add(i)) {
        let _told = Seed(seed);
        test(&mut StdRng::seed_from_u64(seed));
    }
    count
}

/// The tree in another notation than the one under test.
pub(super) fn shape(query: &TextQuery) -> String {
    let list = |parts: &[TextQuery]| parts.iter().map(shape).collect::<Vec<_>>().join(", ");
    match query {
        Query::Empty => "Empty".to_string(),
        Query::And(parts) => format!("And[{}]", list(parts)),
        Query::Or(parts) => format!("Or[{}]", list(parts)),
        Query::Best(parts) => format!("Best[{}]", list(parts)),
        Query::Not(query) => format!("Not[{}]", shape(query)),
        Query::Prefer { must, should } => format!("Prefer[{}, {}]", shape(must), shape(should)),
        Query::Boost { query, factor } => format!("Boost[{}, {}]", shape(query), factor.get()),
        Query::Clause(clause) => {
            let field = clause.field().map(|field| format!("{field}=")).unwrap_or_default();
            let clause = match clause {
                TextClause::Term { text, .. } => text.clone(),
                TextClause::Prefix { text, .. } => format!("Prefix({text})"),
                TextClause::Fuzzy { text, distance, .. } => format!("Fuzzy({text}, {})", distance.edits()),
                TextClause::Phrase { text, slop, .. } => format!("Phrase({text}, {slop})"),
            };
            field + &clause
        }
    }
}

/// Words that the syntax has to escape, and some that it has not.
pub(super) const ODD: &[&str] = &[
    "a", "foo-bar", "c++", "don't", "ü", "日本", "AND", "OR", "NOT", "-", "--", "+a", "-a", "a b", " ", "\n", "a:b",
    ":", "(", "a)", "\"", "a\"b", "^2", "~", "*", "a*", "\\", "\\\\", "a\\", "&&", "3.14", "\u{301}", "\u{200b}",
    "NOT ", "@1",
];

/// A query of at most `height` over `words`, in any shape that the parser makes.
pub(super) fn random_query(random: &mut StdRng, words: &[&str], height: usize) -> TextQuery {
    let inner = |random: &mut StdRng| random_query(random, words, height - 1);
    let several = |random: &mut StdRng| (0..random.random_range(2..4)).map(|_| inner(random)).collect();
    match if height < 2 { 0 } else { random.random_range(0..10) } {
        1 | 2 => Query::And(several(random)),
        3 | 4 => Query::Or(several(random)),
        5 | 6 => Query::negated(inner(random)),
        7 => Query::Prefer { must: Box::new(inner(random)), should: Box::new(inner(random)) },
        8 => {
            let factor = *[0.0, 0.5, 1.0, 2.0, 4.0].choose(random).expect("it has some");
            Query::Boost { query: Box::new(inner(random)), factor: Factor::new(factor).unwrap() }
        }
        9 => Query::Empty,
        _ => Query::Clause(random_clause(random, words)),
    }
}

fn random_clause(random: &mut StdRng, words: &[&str]) -> TextClause {
    let word = |random: &mut StdRng| words.choose(random).expect("there are words").to_string();
    let field = random.random_bool(0.3).then(|| word(random));
    let text = word(random);
    match random.random_range(0..6) {
        0 => TextClause::Prefix { field, text },
        1 => {
            let distance = if random.random() { Distance::One } else { Distance::Two };
            TextClause::Fuzzy { field, text, distance }
        }
        2 => {
            let text = format!("x{text} {}", word(random));
            TextClause::Phrase { field, text, slop: random.random_range(0..3) }
        }
        _ => TextClause::Term { field, text },
    }
}

/// What a query says of a document.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Verdict {
    /// Whether it matches, if it says anything.
    pub(super) matches: Option<bool>,
    /// How well.
    pub(super) score: f64,
}

impl Verdict {
    pub(super) const NOTHING: Self = Self { matches: None, score: 0.0 };
    pub(super) const NO: Self = Self { matches: Some(false), score: 0.0 };

    pub(super) fn yes(score: f64) -> Self {
        Self { matches: Some(true), score }
    }

    /// That of several that say something.
    fn combined(verdicts: &[Self], matches: bool) -> Self {
        let score = verdicts.iter().map(|verdict| verdict.score).sum();
        if matches { Self::yes(score) } else { Self::NO }
    }
}

/// What `query` says of a document of whose leaves `leaf` tells.
pub(super) fn judge<C>(query: &Query<C>, leaf: &impl Fn(&C) -> Verdict) -> Verdict {
    let saying = |parts: &[Query<C>]| {
        let verdicts = parts.iter().map(|part| judge(part, leaf));
        verdicts.filter(|verdict| verdict.matches.is_some()).collect::<Vec<_>>()
    };
    match query {
        Query::Empty => Verdict::NOTHING,
        Query::Clause(clause) => leaf(clause),
        Query::And(parts) | Query::Or(parts) | Query::Best(parts) => {
            let said = saying(parts);
            let mut yes = said.iter().map(|verdict| verdict.matches == Some(true));
            match query {
                _ if said.is_empty() => Verdict::NOTHING,
                Query::And(_) => Verdict::combined(&said, yes.all(|yes| yes)),
                Query::Best(_) if yes.any(|yes| yes) => {
                    Verdict::yes(said.iter().map(|verdict| verdict.score).fold(0.0, f64::max))
                }
                Query::Best(_) => Verdict::NO,
                _ => Verdict::combined(&said, yes.any(|yes| yes)),
            }
        }
        Query::Not(query) => match judge(query, leaf).matches {
            None => Verdict::NOTHING,
            Some(true) => Verdict::NO,
            Some(false) => Verdict::yes(0.0),
        },
        Query::Prefer { must, should } => match (judge(must, leaf), judge(should, leaf)) {
            (Verdict { matches: None, .. }, only) | (only, Verdict { matches: None, .. }) => only,
            (Verdict { matches: Some(false), .. }, _) => Verdict::NO,
            (must, should) => Verdict::yes(must.score + should.score),
        },
        Query::Boost { query, factor } => {
            let verdict = judge(query, leaf);
            Verdict { score: verdict.score * f64::from(factor.get()), ..verdict }
        }
    }
}

/// Whether a NOT is somewhere below a NOT: those have no score, and their normal form may have.
pub(super) fn negates_twice<C>(query: &Query<C>, below_not: bool) -> bool {
    match query {
        Query::Empty | Query::Clause(_) => false,
        Query::And(parts) | Query::Or(parts) | Query::Best(parts) => {
            parts.iter().any(|part| negates_twice(part, below_not))
        }
        Query::Not(query) => below_not || negates_twice(query, true),
        Query::Prefer { must, should } => negates_twice(must, below_not) || negates_twice(should, below_not),
        Query::Boost { query, .. } => negates_twice(query, below_not),
    }
}
