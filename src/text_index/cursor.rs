//! A cursor over the postings of one term of a query.

use std::cell::Cell;

use super::bits::LEN;
use super::block::{Block, END};
use super::bm25::{K1, Norms};
use super::chain::Snapshot;
use super::impact::Impacts;
use super::index::TextIndex;
use super::lengths::LengthView;

/// Sums of scores are rounded, in one order or another: bounds of sums are this much higher, which covers thousands
/// of addends.
pub(crate) const SLACK: f64 = 5e-4;

/// A bound that covers how scores are rounded.
pub(crate) fn covering(bound: f64) -> f64 {
    bound + bound.abs() * SLACK
}

/// One field of a search: what scores and cursors need of it.
#[derive(Debug)]
pub(crate) struct FieldView<'a> {
    pub(crate) index: &'a TextIndex,
    pub(crate) lengths: LengthView<'a>,
    pub(crate) norms: Norms,
    pub(crate) watermark: u32,
    /// Postings that were decoded.
    pub(crate) postings: Cell<usize>,
}

/// How well the rows from somewhere to `up_to` can score at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) up_to: u32,
    /// [`f64::NEG_INFINITY`] if none of them matches.
    pub(crate) most: f64,
}

impl Bound {
    /// Nothing matches up to `up_to`.
    pub(crate) fn nothing(up_to: u32) -> Self {
        Self { up_to, most: f64::NEG_INFINITY }
    }

    /// Whether no row matches.
    pub(crate) fn is_nothing(&self) -> bool {
        self.most == f64::NEG_INFINITY
    }
}

/// A place among the postings of a term. The tail counts as the last block.
#[derive(Debug)]
pub(crate) struct TermCursor<'a> {
    field: &'a FieldView<'a>,
    weight: f32,
    snapshot: Snapshot,
    /// How many blocks there are, the tail included.
    blocks: usize,
    /// The block at hand.
    at: usize,
    /// The row at hand, [`END`] behind the last.
    row: u32,
    /// The place of the row in its block, if the block is decoded.
    place: usize,
    /// Which block is decoded, and of which the frequencies are.
    decoded: usize,
    decoded_frequencies: usize,
    len: usize,
    rows: [u32; LEN],
    frequencies: [u32; LEN],
    /// How many positions the decoded postings in front of place `counted_to` have.
    counted: usize,
    counted_to: usize,
    /// The best gain in the block `gain_of`.
    gain: f32,
    gain_of: usize,
}

impl<'a> TermCursor<'a> {
    /// In front of the first posting of the term.
    pub(crate) fn new(field: &'a FieldView<'a>, text: &str, weight: f32, with_positions: bool) -> Self {
        let entry = field.index.dictionary().find(text).filter(|entry| entry.first_row() < field.watermark);
        let snapshot = match entry {
            Some(entry) => entry.postings.below(field.watermark, field.index.positions(with_positions)),
            None => Snapshot::empty(),
        };
        let blocks = snapshot.sealed() + usize::from(!snapshot.tail.is_empty());
        let mut cursor = Self {
            field,
            weight,
            snapshot,
            blocks,
            at: 0,
            row: END,
            place: 0,
            decoded: usize::MAX,
            decoded_frequencies: usize::MAX,
            len: 0,
            rows: [END; LEN],
            frequencies: [0; LEN],
            counted: 0,
            counted_to: 0,
            gain: 0.0,
            gain_of: usize::MAX,
        };
        if blocks > 0 {
            cursor.row = cursor.first(0);
        }
        cursor
    }

    /// The row at hand; [`END`] if there is none left.
    #[inline]
    pub(crate) fn row(&self) -> u32 {
        self.row
    }

    /// About how many postings there are.
    pub(crate) fn cost(&self) -> u64 {
        (self.snapshot.sealed() * LEN + self.snapshot.tail.len()) as u64
    }

    /// No row scores more.
    pub(crate) fn ceiling(&self) -> f64 {
        f64::from(self.weight) * f64::from(K1 + 1.0) * (1.0 + 1e-6)
    }

    fn first(&self, block: usize) -> u32 {
        match self.snapshot.block(block) {
            Some(block) => block.first(),
            None => self.snapshot.tail.rows.first().copied().unwrap_or(END),
        }
    }

    fn last(&self, block: usize) -> u32 {
        match self.snapshot.block(block) {
            Some(block) => block.last(),
            None => self.snapshot.tail.rows.last().copied().unwrap_or(END),
        }
    }

    /// Goes on to the block that may hold `target`: it is often this one or the next, or else looked for in growing steps.
    fn skip_to(&mut self, target: u32) {
        let is_before = |block: usize| self.last(block) < target;
        let (mut from, mut step) = (self.at, 1);
        if from == self.blocks || !is_before(from) {
            return;
        }
        while from + step < self.blocks && is_before(from + step) {
            from += step;
            step *= 2;
        }
        let (mut from, mut to) = (from + 1, self.blocks.min(from + step));
        while from < to {
            let middle = from.midpoint(to);
            if is_before(middle) { from = middle + 1 } else { to = middle }
        }
        self.at = from;
    }

    /// The bound of the rows from `target` on, up to the end of a block or of a gap in front of one. Targets never
    /// decrease.
    pub(crate) fn bound(&mut self, target: u32) -> Bound {
        self.skip_to(target);
        if self.at == self.blocks {
            return Bound::nothing(END);
        }
        let first = self.first(self.at);
        if target < first {
            return Bound::nothing(first - 1);
        }
        if self.gain_of != self.at {
            self.gain = match self.snapshot.block(self.at) {
                Some(block) => block.gain(&self.field.norms),
                None => self.tail_gain(),
            };
            self.gain_of = self.at;
        }
        Bound { up_to: self.last(self.at), most: f64::from(self.weight * self.gain) * (1.0 + 1e-6) }
    }

    /// What `target` scores at most. Targets never decrease.
    pub(crate) fn most_at(&mut self, target: u32) -> f64 {
        self.bound(target).most.max(0.0)
    }

    /// About how many postings there are from `start` to `end`, all within the block that the last bound was of.
    pub(crate) fn postings_in(&self, start: u32, end: u32) -> u64 {
        let len = self.snapshot.block(self.at).map_or(self.snapshot.tail.len(), Block::len) as u64;
        let (first, last) = (self.first(self.at), self.last(self.at));
        let width = |start: u32, end: u32| u64::from(end.saturating_sub(start)) + 1;
        len * width(start.max(first), end.min(last)) / width(first, last)
    }

    fn tail_gain(&self) -> f32 {
        let tail = &self.snapshot.tail;
        let postings = tail.rows.iter().zip(&tail.frequencies);
        Impacts::of(postings.map(|(&row, &frequency)| (frequency, self.field.lengths.get(row)))).gain(&self.field.norms)
    }

    /// Decodes the rows of the block at hand.
    fn decode(&mut self) {
        if self.decoded == self.at {
            return;
        }
        self.len = match self.snapshot.block(self.at) {
            Some(block) => {
                block.rows(&mut self.rows);
                let len = block.len();
                // Only the last block may reach beyond the watermark.
                let watermark = self.field.watermark;
                if block.last() < watermark { len } else { self.rows[..len].partition_point(|row| *row < watermark) }
            }
            None => {
                let tail = &self.snapshot.tail.rows;
                let len = tail.len().min(LEN);
                self.rows[..len].copy_from_slice(&tail[..len]);
                len
            }
        };
        self.rows[self.len..].fill(END);
        self.field.postings.set(self.field.postings.get() + self.len);
        self.decoded = self.at;
        self.place = 0;
    }

    fn decode_frequencies(&mut self) {
        if self.decoded_frequencies == self.at {
            return;
        }
        match self.snapshot.block(self.at) {
            Some(block) => block.frequencies(&mut self.frequencies),
            None => {
                let tail = &self.snapshot.tail.frequencies;
                let len = tail.len().min(LEN);
                self.frequencies[..len].copy_from_slice(&tail[..len]);
            }
        }
        self.decoded_frequencies = self.at;
        (self.counted, self.counted_to) = (0, 0);
    }

    /// Goes on to the first row that is not below `target`.
    #[inline]
    pub(crate) fn seek(&mut self, target: u32) -> u32 {
        if self.decoded == self.at {
            if self.row >= target {
                return self.row;
            }
            // It is often one of the next.
            for place in self.place + 1..(self.place + 4).min(self.len) {
                if self.rows[place] >= target {
                    (self.place, self.row) = (place, self.rows[place]);
                    return self.row;
                }
            }
        }
        self.seek_far(target)
    }

    fn seek_far(&mut self, target: u32) -> u32 {
        self.skip_to(target);
        if self.at == self.blocks {
            self.row = END;
            return END;
        }
        self.decode();
        self.place = self.find(target);
        match self.rows.get(self.place) {
            Some(&row) if row != END => self.row = row,
            _ => {
                // The rest of the block is beyond the watermark, or lies in the next.
                self.at += 1;
                self.row = END;
                if self.at < self.blocks {
                    self.decode();
                    self.row = self.rows[0];
                }
            }
        }
        self.row
    }

    /// The place of the first row of the decoded block, from the place at hand on, that is not below `target`.
    #[inline]
    fn find(&self, target: u32) -> usize {
        let mut place = self.place;
        for _ in 0..4 {
            if place >= LEN || self.rows[place] >= target {
                return place;
            }
            place += 1;
        }
        place + self.rows[place.min(LEN)..].partition_point(|row| *row < target)
    }

    /// What the row at hand scores.
    pub(crate) fn score(&mut self) -> f32 {
        self.decode_frequencies();
        self.score_at(self.place)
    }

    #[inline]
    fn score_at(&self, place: usize) -> f32 {
        let length = self.field.lengths.get(self.rows[place]);
        self.weight * self.field.norms.gain(self.frequencies[place], length)
    }

    /// Appends the positions of the term in the row at hand.
    pub(crate) fn positions(&mut self, into: &mut Vec<u32>) {
        self.decode_frequencies();
        let count_of = |frequencies: &[u32]| frequencies.iter().map(|frequency| *frequency as usize).sum::<usize>();
        self.counted = match self.counted_to <= self.place {
            true => self.counted + count_of(&self.frequencies[self.counted_to..self.place]),
            false => count_of(&self.frequencies[..self.place]),
        };
        self.counted_to = self.place;
        let start = self.counted;
        let count = self.frequencies[self.place] as usize;
        match self.snapshot.block(self.at) {
            Some(block) => block.positions(start, count, into),
            None => into.extend(self.snapshot.tail.positions.iter().skip(start).take(count)),
        }
    }

    /// Calls `f` with each row from `start` to `end`, all within the block that the last bound was of, and its score.
    #[inline]
    pub(crate) fn for_each_in(&mut self, start: u32, end: u32, mut f: impl FnMut(u32, f32)) {
        self.decode();
        self.decode_frequencies();
        let from = self.rows[..self.len].partition_point(|row| *row < start);
        for place in from..self.len {
            let row = self.rows[place];
            if row > end {
                break;
            }
            f(row, self.score_at(place));
        }
    }

    /// Calls `f` with each row from `start` to `end`, in whatever blocks, and its score.
    pub(crate) fn drain(&mut self, start: u32, end: u32, mut f: impl FnMut(u32, f32)) {
        self.skip_to(start);
        while self.at < self.blocks && self.first(self.at) <= end {
            self.for_each_in(start, end, &mut f);
            if self.last(self.at) > end {
                break;
            }
            self.at += 1;
        }
    }

    /// The score of a row, not before the block that the last bound was of, if it holds the term. Rows of a block may come
    /// in any order; ascending ones are found faster.
    #[inline]
    pub(crate) fn probe(&mut self, row: u32) -> Option<f32> {
        self.skip_to(row);
        if self.at == self.blocks || row < self.first(self.at) {
            return None;
        }
        self.decode();
        if self.place >= LEN || self.rows[self.place] > row {
            self.place = 0;
        }
        self.place = self.find(row);
        if self.rows.get(self.place) != Some(&row) {
            return None;
        }
        self.decode_frequencies();
        Some(self.score_at(self.place))
    }

    /// Calls `f` with the decoded rows of each block that is left.
    pub(crate) fn for_each_block(&mut self, mut f: impl FnMut(&[u32])) {
        while self.at < self.blocks {
            self.decode();
            f(&self.rows[..self.len]);
            self.at += 1;
        }
        self.row = END;
    }
}
