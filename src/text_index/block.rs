//! A sealed block of up to 128 postings: rows, frequencies and positions bit-packed, and their impacts.

use std::sync::Arc;

use super::bits::{self, LEN};
use super::bm25::Norms;
use super::impact::Impacts;
use super::posting::PostingList;

/// A row behind every other.
pub(crate) const END: u32 = u32::MAX;

/// Postings that no longer change.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    first: u32,
    last: u32,
    len: u8,
    row_bits: u8,
    frequency_bits: u8,
    position_bits: u8,
    impacts: Impacts,
    /// The distances of rows less one, the frequencies less one, the positions as a stream.
    words: Arc<[u32]>,
}

impl Block {
    /// Of the 1 to 128 postings of `list`; `length` knows the rows' tokens.
    pub(crate) fn seal(list: &PostingList, length: impl Fn(u32) -> u32) -> Self {
        let (first, last) = (list.rows[0], list.rows[list.len() - 1]);
        let mut distances = [0; LEN];
        for (i, pair) in list.rows.windows(2).enumerate() {
            distances[i + 1] = pair[1] - pair[0] - 1;
        }
        let mut frequencies = [0; LEN];
        for (packed, frequency) in frequencies.iter_mut().zip(&list.frequencies) {
            *packed = frequency - 1;
        }
        let bits_of = |values: &[u32]| bits::width(values.iter().copied().max().unwrap_or(0));
        let (row_bits, frequency_bits) = (bits_of(&distances), bits_of(&frequencies));
        let position_bits = bits_of(&list.positions);
        let mut words = Vec::new();
        bits::pack(&distances, row_bits, &mut words);
        bits::pack(&frequencies, frequency_bits, &mut words);
        bits::write_stream(&list.positions, position_bits, &mut words);
        let postings = list.rows.iter().zip(&list.frequencies);
        Self {
            first,
            last,
            len: list.len() as u8,
            row_bits: row_bits as u8,
            frequency_bits: frequency_bits as u8,
            position_bits: position_bits as u8,
            impacts: Impacts::of(postings.map(|(&row, &frequency)| (frequency, length(row)))),
            words: words.into(),
        }
    }

    pub(crate) fn first(&self) -> u32 {
        self.first
    }

    pub(crate) fn last(&self) -> u32 {
        self.last
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// No posting gains more.
    pub(crate) fn gain(&self, norms: &Norms) -> f32 {
        self.impacts.gain(norms)
    }

    /// Bytes held besides the block itself.
    pub(crate) fn memory(&self) -> usize {
        2 * size_of::<usize>() + self.words.len() * size_of::<u32>()
    }

    /// The rows, [`END`] behind them.
    pub(crate) fn rows(&self, out: &mut [u32; LEN]) {
        bits::unpack(&self.words, u32::from(self.row_bits), out);
        let mut row = self.first;
        out[0] = row;
        for distance in &mut out[1..] {
            row = row.wrapping_add(*distance).wrapping_add(1);
            *distance = row;
        }
        out[self.len()..].fill(END);
    }

    /// The frequencies.
    pub(crate) fn frequencies(&self, out: &mut [u32; LEN]) {
        let start = bits::packed_words(u32::from(self.row_bits));
        bits::unpack(&self.words[start..], u32::from(self.frequency_bits), out);
        out.iter_mut().for_each(|frequency| *frequency += 1);
    }

    /// Appends the positions from place `start` on.
    pub(crate) fn positions(&self, start: usize, count: usize, out: &mut Vec<u32>) {
        let skipped = bits::packed_words(u32::from(self.row_bits)) + bits::packed_words(u32::from(self.frequency_bits));
        let words = &self.words[skipped..];
        out.extend((start..start + count).map(|i| bits::read_stream(words, u32::from(self.position_bits), i)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    #[test]
    fn postings_come_back() {
        let mut rng = StdRng::seed_from_u64(3);
        for round in 0..300 {
            let len = [1, 2, 127, 128, rng.random_range(1..=128)][round % 5];
            let mut list = PostingList::default();
            let mut row = rng.random_range(0..1000);
            for _ in 0..len {
                let frequency = if rng.random_bool(0.05) { rng.random_range(1..400) } else { 1 };
                list.rows.push(row);
                list.frequencies.push(frequency);
                list.positions.extend((0..frequency).map(|i| i * 3));
                row += rng.random_range(1..[2, 50, 1 << 24][round % 3]);
            }
            let block = Block::seal(&list, |row| row % 77);
            let (mut rows, mut frequencies, mut positions) = ([0; LEN], [0; LEN], Vec::new());
            block.rows(&mut rows);
            block.frequencies(&mut frequencies);
            block.positions(0, list.positions.len(), &mut positions);
            assert_eq!((&rows[..len], &frequencies[..len]), (&list.rows[..], &list.frequencies[..]));
            assert!(rows[len..].iter().all(|row| *row == END));
            assert_eq!(positions, list.positions);
            assert_eq!((block.first(), block.last(), block.len()), (list.rows[0], list.rows[len - 1], len));
        }
    }
}
