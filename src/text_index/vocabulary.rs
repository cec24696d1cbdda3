//! All words of an index whose postings are elsewhere: a finite state transducer from words to numbers.
//!
//! What Lance stores (crate `fst`: Gallant, "Index 1,600,000,000 keys with automata and Rust", 2015).

use std::fmt;

use fst::{Automaton, IntoStreamer, Map, Streamer};

/// Words and their numbers.
pub struct Vocabulary(Map<Vec<u8>>);

impl Vocabulary {
    /// Of a transducer's bytes.
    ///
    /// # Errors
    /// If they are none.
    pub fn try_new(bytes: Vec<u8>) -> Result<Self, fst::Error> {
        Ok(Self(Map::new(bytes)?))
    }

    /// How many words there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no word.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        self.0.as_fst().size()
    }

    /// The number of a word.
    pub fn get(&self, word: &str) -> Option<u64> {
        self.0.get(word)
    }

    /// The words that begin with `prefix`, in the order of their bytes.
    pub fn prefix(&self, prefix: &str) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        let mut words = self.0.range().ge(prefix).into_stream();
        while let Some((word, number)) = words.next() {
            if !word.starts_with(prefix.as_bytes()) {
                break;
            }
            push(&mut found, word, number);
        }
        found
    }

    /// The words that become `text` by at most `distance` insertions, deletions or replacements of characters, in the
    /// order of their bytes.
    pub fn fuzzy(&self, text: &str, distance: u32) -> Vec<(String, u64)> {
        let near = Near { text: text.chars().collect(), distance };
        let mut found = Vec::new();
        let mut words = self.0.search(near).into_stream();
        while let Some((word, number)) = words.next() {
            push(&mut found, word, number);
        }
        found
    }
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocabulary").field("words", &self.len()).finish()
    }
}

/// Words are text.
fn push(found: &mut Vec<(String, u64)>, word: &[u8], number: u64) {
    if let Ok(word) = std::str::from_utf8(word) {
        found.push((word.to_string(), number));
    }
}

/// Accepts what is near a text: a row of the table of distances (Wagner and Fischer, 1974) for each prefix of a word.
struct Near {
    text: Vec<char>,
    distance: u32,
}

/// How far a word that begins with the bytes read is from each prefix of the text, and the bytes of a character that
/// is not read in full.
#[derive(Clone)]
struct Row {
    distances: Vec<u32>,
    bytes: [u8; 4],
    len: usize,
}

impl Near {
    fn step(&self, row: &[u32], character: char) -> Vec<u32> {
        let mut next = Vec::with_capacity(row.len());
        next.push(row[0] + 1);
        for (i, wanted) in self.text.iter().enumerate() {
            let replaced = row[i] + u32::from(*wanted != character);
            next.push(replaced.min(next[i] + 1).min(row[i + 1] + 1));
        }
        next
    }
}

impl Automaton for Near {
    type State = Option<Row>;

    fn start(&self) -> Option<Row> {
        Some(Row { distances: (0..=self.text.len() as u32).collect(), bytes: [0; 4], len: 0 })
    }

    fn is_match(&self, state: &Option<Row>) -> bool {
        let is_near = |distance: &u32| *distance <= self.distance;
        state.as_ref().is_some_and(|row| row.len == 0 && row.distances.last().is_some_and(is_near))
    }

    fn can_match(&self, state: &Option<Row>) -> bool {
        state.is_some()
    }

    fn accept(&self, state: &Option<Row>, byte: u8) -> Option<Row> {
        let mut row = state.clone()?;
        *row.bytes.get_mut(row.len)? = byte;
        row.len += 1;
        let Ok(read) = std::str::from_utf8(&row.bytes[..row.len]) else { return Some(row) };
        let distances = self.step(&row.distances, read.chars().next()?);
        let can_match = distances.iter().any(|distance| *distance <= self.distance);
        can_match.then_some(Row { distances, bytes: [0; 4], len: 0 })
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::text_index::{Limits, TextIndex};

    #[test]
    fn words_are_found_as_an_index_in_memory_finds_them() {
        const ALL: Limits = Limits { returned: usize::MAX, compared: usize::MAX };
        for seed in 0..10 {
            let mut rng = StdRng::seed_from_u64(seed);
            let alphabet: Vec<char> = if seed % 2 == 0 { "abcd" } else { "aäâ日本😀" }.chars().collect();
            let mut word = || -> String {
                (0..rng.random_range(0..6)).map(|_| alphabet[rng.random_range(0..alphabet.len())]).collect()
            };
            let mut words: Vec<String> = (0..800).map(|_| word()).collect();
            let queries: Vec<String> = (0..30).map(|_| word()).collect();
            words.sort();
            words.dedup();
            let index = TextIndex::new(false);
            index.append(0, words.iter().map(|word| [(word, 0)])).unwrap();
            let numbered = words.iter().zip(0..);
            let vocabulary = Vocabulary::try_new(Map::from_iter(numbered).unwrap().into_fst().into_inner()).unwrap();
            let texts = |found: Vec<(String, u64)>| -> Vec<String> {
                assert!(found.iter().all(|(word, number)| words[*number as usize] == *word));
                found.into_iter().map(|(word, _)| word).collect()
            };
            for query in &queries {
                assert_eq!(vocabulary.get(query).is_some(), words.contains(query));
                assert_eq!(texts(vocabulary.prefix(query)), index.prefix(query, u32::MAX, ALL).terms, "seed {seed}");
                for distance in 0..4 {
                    let expected = index.fuzzy(query, distance, 0, u32::MAX, ALL).terms;
                    assert_eq!(texts(vocabulary.fuzzy(query, distance)), expected, "seed {seed}: {query} {distance}");
                }
            }
        }
        assert!(Vocabulary::try_new(vec![1, 2, 3]).is_err());
    }
}
