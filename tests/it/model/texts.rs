//! Texts of few words, queries over them, and what these match and score: by the definitions, over the texts of all live
//! rows, one after the other. Knows nothing of the crate.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// What stands in texts and queries, the frequent ones first, and the word that the table's index makes of it: stop words
/// and long ones make none.
const WORDS: &[(&str, Option<&str>)] = &[
    ("the", None),
    ("log", Some("log")),
    ("merge", Some("merg")),
    ("lamp", Some("lamp")),
    ("blocks", Some("block")),
    ("disk", Some("disk")),
    ("and", None),
    ("Merging", Some("merg")),
    ("rust", Some("rust")),
    ("lump", Some("lump")),
    ("v2", Some("v2")),
    ("tree", Some("tree")),
    ("Café", Some("cafe")),
    ("block", Some("block")),
    ("dust", Some("dust")),
    ("trees", Some("tree")),
    ("damp", Some("damp")),
    ("LOG", Some("log")),
    ("wolf", Some("wolf")),
    ("merger", Some("merger")),
    ("blockade", Some("blockad")),
    ("lamps", Some("lamp")),
    ("salt", Some("salt")),
    ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", None),
    ("moon", Some("moon")),
    ("moor", Some("moor")),
    ("42", Some("42")),
    ("limp", Some("limp")),
    ("wind", Some("wind")),
    ("ship", Some("ship")),
];

/// A place in [`WORDS`], low ones far more often.
fn typed(random: &mut StdRng) -> usize {
    ((WORDS.len() as f64 + 1.0).powf(random.random::<f64>()) as usize - 1).min(WORDS.len() - 1)
}

/// What is typed in the text of row `n`, which may have none.
fn document(n: i64) -> Option<Vec<usize>> {
    let mut random = StdRng::seed_from_u64(n as u64 ^ 0x7E87);
    let words = match random.random_range(0..20) {
        0 => return None,
        1 => 0,
        2 => random.random_range(30..60),
        _ => random.random_range(1..14),
    };
    Some((0..words).map(|_| typed(&mut random)).collect())
}

/// The text of row `n`.
pub(super) fn text(n: i64) -> Option<String> {
    let words: Vec<&str> = document(n)?.into_iter().map(|at| WORDS[at].0).collect();
    Some(words.join(if n % 3 == 0 { ", " } else { " " }))
}

/// The words that an index makes of what was typed, and their places.
fn words(typed: &[usize]) -> Vec<(&'static str, i64)> {
    let words = typed.iter().zip(0..).filter_map(|(at, place)| Some((WORDS[*at].1?, place)));
    words.collect()
}

/// What a query asks for.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    Word(usize),
    Prefix(String),
    Fuzzy(String, usize),
    Phrase(Vec<usize>, i64),
    All(Vec<Ask>),
    Any(Vec<Ask>),
    Not(Box<Ask>),
    /// `+must should -not`
    Signed {
        must: Vec<Ask>,
        should: Vec<Ask>,
        not: Vec<Ask>,
    },
    Boost(Box<Ask>, f32),
}

use Ask::*;

impl Ask {
    pub(super) fn random(random: &mut StdRng) -> Self {
        let depth = random.random_range(0..3);
        Self::of_depth(random, depth)
    }

    fn of_depth(random: &mut StdRng, depth: usize) -> Self {
        if depth == 0 {
            return Self::leaf(random);
        }
        let some = |random: &mut StdRng, least: usize, most: usize| -> Vec<Self> {
            (0..random.random_range(least..=most)).map(|_| Self::of_depth(random, depth - 1)).collect()
        };
        // What is not wanted has no score: none of it may be wanted after all.
        let unwanted = |random: &mut StdRng| match random.random_bool(0.7) {
            true => Self::leaf(random),
            false => Any(vec![Self::leaf(random), Self::leaf(random)]),
        };
        match random.random_range(0..12) {
            0..4 => Any(some(random, 2, 4)),
            4..6 => All(some(random, 2, 3)),
            6 => {
                let mut parts = some(random, 1, 2);
                parts.push(Not(Box::new(unwanted(random))));
                All(parts)
            }
            7 => Any(vec![Self::leaf(random), Not(Box::new(unwanted(random)))]),
            8 => Not(Box::new(unwanted(random))),
            9 | 10 => {
                let (must, should) = (some(random, 0, 2), some(random, 1, 2));
                let not = (0..random.random_range(0..2)).map(|_| unwanted(random)).collect();
                Signed { must, should, not }
            }
            _ => Boost(Box::new(Self::of_depth(random, depth - 1)), *[0.5, 2.0, 3.5].choose(random).unwrap()),
        }
    }

    fn leaf(random: &mut StdRng) -> Self {
        let word = |random: &mut StdRng| loop {
            if let Some(word) = WORDS[typed(random)].1 {
                return word.to_string();
            }
        };
        match random.random_range(0..10) {
            0..6 => Word(typed(random)),
            6 => {
                let word = word(random);
                Prefix(word[..random.random_range(1..=word.len())].to_string())
            }
            7 => {
                let mut word = word(random);
                let at = random.random_range(0..word.len());
                match random.random_range(0..4) {
                    0 => word.insert(at, 'm'),
                    1 if word.len() > 2 => drop(word.remove(at)),
                    2 => word.replace_range(at..at + 1, "u"),
                    _ => {}
                }
                Fuzzy(word, random.random_range(1..3))
            }
            _ => {
                let words = (0..random.random_range(1..4)).map(|_| typed(random)).collect();
                Phrase(words, *[0, 0, 1, 3].choose(random).unwrap())
            }
        }
    }

    /// As it is typed, in brackets where it has parts.
    pub(super) fn typed(&self) -> String {
        let list = |parts: &[Self], between: &str| -> String {
            let parts: Vec<String> = parts.iter().map(Self::typed).collect();
            format!("({})", parts.join(between))
        };
        match self {
            Word(at) => WORDS[*at].0.to_string(),
            Prefix(text) => format!("{text}*"),
            Fuzzy(text, edits) => format!("{text}~{edits}"),
            Phrase(words, slop) => {
                let words: Vec<&str> = words.iter().map(|at| WORDS[*at].0).collect();
                format!("\"{}\"{}", words.join(" "), if *slop > 0 { format!("~{slop}") } else { String::new() })
            }
            All(parts) => list(parts, " AND "),
            Any(parts) if parts.iter().any(|part| matches!(part, Not(_))) => list(parts, " OR "),
            Any(parts) => list(parts, " "),
            Not(part) => format!("(NOT {})", part.typed()),
            Signed { must, should, not } => {
                let signed = |sign: &str, parts: &[Self]| -> Vec<String> {
                    parts.iter().map(|part| format!("{sign}{}", part.typed())).collect()
                };
                let parts = [signed("+", must), signed("", should), signed("-", not)].concat();
                format!("({})", parts.join(" "))
            }
            Boost(part, factor) => match part.as_ref() {
                Boost(..) => format!("({})^{factor}", part.typed()),
                _ => format!("{}^{factor}", part.typed()),
            },
        }
    }
}

/// The texts of the live rows, by the rows' numbers; `None` is NULL.
pub(super) struct Corpus {
    documents: BTreeMap<i64, Option<Vec<(&'static str, i64)>>>,
    /// How many rows have each word.
    frequencies: BTreeMap<&'static str, f64>,
    /// How many rows have a word at all, and how many words they have on the average.
    rows: f64,
    average: f64,
}

impl Corpus {
    pub(super) fn of(numbers: impl Iterator<Item = i64>) -> Self {
        let documents: BTreeMap<_, _> = numbers.map(|n| (n, document(n).map(|typed| words(&typed)))).collect();
        let mut frequencies = BTreeMap::new();
        let (mut rows, mut total) = (0.0, 0.0);
        for document in documents.values().flatten().filter(|document| !document.is_empty()) {
            rows += 1.0;
            total += document.len() as f64;
            let distinct: BTreeSet<&str> = document.iter().map(|(word, _)| *word).collect();
            distinct.into_iter().for_each(|word| *frequencies.entry(word).or_default() += 1.0);
        }
        Self { documents, frequencies, rows, average: total / rows }
    }

    /// Whether row `n` matches; NULL does not.
    pub(super) fn matches(&self, ask: &Ask, n: i64) -> bool {
        let document = &self.documents[&n];
        document.as_ref().is_some_and(|document| self.says(ask, document) == Some(true))
    }

    /// The score of row `n`, 0 if it does not match.
    pub(super) fn score(&self, ask: &Ask, n: i64) -> f64 {
        self.documents[&n].as_ref().map_or(0.0, |document| self.sum(ask, document))
    }

    /// The words that stand for a leaf's word.
    fn expanded(&self, ask: &Ask) -> Vec<&'static str> {
        let all = self.frequencies.keys().copied();
        match ask {
            Word(at) => WORDS[*at].1.into_iter().collect(),
            Prefix(text) => all.filter(|word| word.starts_with(text.as_str())).collect(),
            Fuzzy(text, edits) => all.filter(|word| edits_between(word, text) <= *edits).collect(),
            _ => Vec::new(),
        }
    }

    /// What the query says of a document, if anything.
    fn says(&self, ask: &Ask, document: &[(&str, i64)]) -> Option<bool> {
        let has = |word: &str| document.iter().any(|(other, _)| *other == word);
        let each = |parts: &[Ask]| -> Vec<bool> { parts.iter().filter_map(|part| self.says(part, document)).collect() };
        let all = |said: Vec<bool>| (!said.is_empty()).then(|| said.iter().all(|said| *said));
        let any = |said: Vec<bool>| (!said.is_empty()).then(|| said.iter().any(|said| *said));
        match ask {
            Word(at) => WORDS[*at].1.map(has),
            Prefix(_) | Fuzzy(..) => Some(self.expanded(ask).into_iter().any(has)),
            Phrase(typed, slop) => match words(typed).as_slice() {
                [] => None,
                places => Some(in_order(places, *slop, document)),
            },
            All(parts) => all(each(parts)),
            Any(parts) => any(each(parts)),
            Not(part) => self.says(part, document).map(|said| !said),
            Signed { must, should, not } => {
                let unwanted = each(not).into_iter().map(|said| !said);
                if must.is_empty() {
                    return all(any(each(should)).into_iter().chain(unwanted).collect());
                }
                all(each(must).into_iter().chain(unwanted).collect()).or_else(|| any(each(should)))
            }
            Boost(part, _) => self.says(part, document),
        }
    }

    /// What a document scores.
    fn sum(&self, ask: &Ask, document: &[(&str, i64)]) -> f64 {
        if self.says(ask, document) != Some(true) {
            return 0.0;
        }
        let each = |parts: &[Ask]| -> f64 { parts.iter().map(|part| self.sum(part, document)).sum() };
        match ask {
            Word(_) | Prefix(_) | Fuzzy(..) => {
                self.expanded(ask).into_iter().map(|word| self.bm25(word, document)).sum()
            }
            Phrase(typed, _) => words(typed).into_iter().map(|(word, _)| self.bm25(word, document)).sum(),
            All(parts) | Any(parts) => each(parts),
            Not(_) => 0.0,
            Signed { must, should, .. } => each(must) + each(should),
            Boost(part, factor) => f64::from(*factor) * self.sum(part, document),
        }
    }

    /// BM25 with K1 = 1.2 and B = 0.75.
    fn bm25(&self, word: &str, document: &[(&str, i64)]) -> f64 {
        let times = document.iter().filter(|(other, _)| *other == word).count() as f64;
        let rows_with = self.frequencies.get(word).copied().unwrap_or(0.0);
        let weight = ((self.rows - rows_with + 0.5) / (rows_with + 0.5) + 1.0).ln();
        weight * 2.2 * times / (times + 1.2 * (0.25 + 0.75 * document.len() as f64 / self.average))
    }
}

/// Whether the words are in the document in this order, each up to `slop` places later than the one before it wants it.
fn in_order(places: &[(&str, i64)], slop: i64, document: &[(&str, i64)]) -> bool {
    let mut starts: Option<Vec<i64>> = None;
    for (word, place) in places {
        let here = document.iter().filter(|(other, _)| other == word).map(|(_, at)| at - place);
        let follows =
            |start: &i64| starts.as_ref().is_none_or(|before| before.iter().any(|b| (*b..=b + slop).contains(start)));
        starts = Some(here.filter(follows).collect());
    }
    starts.is_some_and(|starts| !starts.is_empty())
}

/// Levenshtein's distance, by its definition.
fn edits_between(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, b) in b.iter().enumerate() {
            next.push((row[j] + usize::from(a != *b)).min(row[j + 1] + 1).min(next[j] + 1));
        }
        row = next;
    }
    row[b.len()]
}
