//! The terms that a prefix or a misspelt word stands for.

use super::index::TextIndex;
use super::signature::Signature;

/// How much an expansion may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Terms that are returned at most: the first in the order of their bytes.
    pub returned: usize,
    /// Terms that are compared at most.
    pub compared: usize,
}

/// The terms found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expansion {
    /// In the order of their bytes.
    pub terms: Vec<String>,
    /// Whether a limit left terms out: if it was that on comparisons, any of them.
    pub is_cut: bool,
}

impl TextIndex {
    /// The terms of rows below `watermark` that start with `prefix`.
    pub fn prefix(&self, prefix: &str, watermark: u32, limits: Limits) -> Expansion {
        let watermark = watermark.min(self.rows());
        let mut found = Expansion::default();
        let mut at = self.dictionary().seek(prefix.as_bytes());
        let mut compared = 0;
        while let Some(term) = at {
            let entry = self.dictionary().entry(term);
            if !entry.text().starts_with(prefix) {
                break;
            }
            let is_visible = entry.first_row() < watermark;
            if compared == limits.compared || (is_visible && found.terms.len() == limits.returned) {
                found.is_cut = true;
                break;
            }
            compared += 1;
            if is_visible {
                found.terms.push(entry.text().to_string());
            }
            at = self.dictionary().next(term);
        }
        found
    }

    /// The terms of rows below `watermark` that become `text` by at most `distance` insertions, deletions or
    /// replacements of characters, the first `prefix` characters being the same.
    pub fn fuzzy(&self, text: &str, distance: u32, prefix: usize, watermark: u32, limits: Limits) -> Expansion {
        let watermark = watermark.min(self.rows());
        let split = text.char_indices().nth(prefix).map_or(text.len(), |(at, _)| at);
        let (prefix, suffix) = text.split_at(split);
        let mut table = Table::new(suffix, distance);
        let mut found: Vec<&str> = Vec::new();
        let (mut compared, mut is_cut) = (0, false);
        for term in self.dictionary().near(Signature::of(text), distance) {
            if compared == limits.compared {
                is_cut = true;
                break;
            }
            compared += 1;
            let entry = self.dictionary().entry(term);
            if entry.first_row() < watermark
                && let Some(rest) = entry.text().strip_prefix(prefix)
                && table.is_near(rest)
            {
                found.push(entry.text());
            }
        }
        found.sort_unstable();
        is_cut |= found.len() > limits.returned;
        found.truncate(limits.returned);
        Expansion { terms: found.into_iter().map(str::to_string).collect(), is_cut }
    }
}

/// Distances between prefixes of a word and prefixes of terms (Wagner and Fischer, "The string-to-string correction
/// problem", 1974).
struct Table {
    word: Vec<char>,
    distance: u32,
    /// For each prefix of the word its distance from the prefix of the term at hand.
    row: Vec<u32>,
}

impl Table {
    fn new(word: &str, distance: u32) -> Self {
        let word: Vec<char> = word.chars().collect();
        Self { row: Vec::with_capacity(word.len() + 1), word, distance }
    }

    fn is_near(&mut self, term: &str) -> bool {
        self.row.clear();
        self.row.extend(0..=self.word.len() as u32);
        for character in term.chars() {
            let mut diagonal = self.row[0];
            self.row[0] += 1;
            let mut least = self.row[0];
            for (i, wanted) in self.word.iter().enumerate() {
                let replaced = diagonal + u32::from(*wanted != character);
                diagonal = self.row[i + 1];
                let cell = replaced.min(self.row[i] + 1).min(diagonal + 1);
                self.row[i + 1] = cell;
                least = least.min(cell);
            }
            if least > self.distance {
                return false;
            }
        }
        self.row.last().is_some_and(|distance| *distance <= self.distance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    const ALL: Limits = Limits { returned: usize::MAX, compared: usize::MAX };

    fn distance(a: &[char], b: &[char]) -> u32 {
        match (a, b) {
            ([], rest) | (rest, []) => rest.len() as u32,
            ([x, a @ ..], [y, b @ ..]) if x == y => distance(a, b),
            ([_, c @ ..], [_, d @ ..]) => 1 + distance(a, d).min(distance(c, b)).min(distance(c, d)),
        }
    }

    #[test]
    fn terms_near_a_word_and_those_with_a_prefix() {
        for seed in 0..20 {
            let mut rng = StdRng::seed_from_u64(seed);
            let alphabet: Vec<char> = if seed % 2 == 0 { "abcd" } else { "aäb日" }.chars().collect();
            let word = |rng: &mut StdRng| -> String {
                (0..rng.random_range(0..7)).map(|_| alphabet[rng.random_range(0..alphabet.len())]).collect()
            };
            let index = TextIndex::new(false);
            let words: Vec<String> = (0..1500).map(|_| word(&mut rng)).collect();
            index.append(0, words.iter().map(|word| [(word, 0)])).unwrap();
            let watermark = rng.random_range(700..1500);
            let mut vocabulary: Vec<&str> = words[..watermark].iter().map(String::as_str).collect();
            vocabulary.sort_unstable();
            vocabulary.dedup();
            for _ in 0..20 {
                let query = word(&mut rng);
                let (most, same) = (rng.random_range(0..4), rng.random_range(0..4));
                let (head, chars) = (query.chars().take(same).collect::<String>(), query.chars().collect::<Vec<_>>());
                let near: Vec<&str> = vocabulary
                    .iter()
                    .copied()
                    .filter(|term| term.starts_with(&head))
                    .filter(|term| distance(&term.chars().collect::<Vec<_>>(), &chars) <= most)
                    .collect();
                let found = index.fuzzy(&query, most, same, watermark as u32, ALL);
                assert_eq!(found.terms, near, "seed {seed}, {query:?} {most} {same}");
                let cut = Limits { returned: 2, compared: usize::MAX };
                let found = index.fuzzy(&query, most, same, watermark as u32, cut);
                assert_eq!(found.terms, near[..near.len().min(2)]);
                assert_eq!(found.is_cut, near.len() > 2);
                let found = index.prefix(&head, watermark as u32, ALL);
                let with: Vec<&str> = vocabulary.iter().copied().filter(|term| term.starts_with(&head)).collect();
                assert_eq!(found.terms, with);
            }
            assert!(index.prefix("", 1500, Limits { returned: 9, compared: 3 }).is_cut);
            assert!(index.fuzzy("a", 3, 0, 1500, Limits { returned: 9, compared: 3 }).is_cut);
        }
    }
}
