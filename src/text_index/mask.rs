//! Which rows a search may return.

use super::block::END;
use super::lengths::below;

/// The rows below a watermark, from a first one on, without dead ones, and only allowed ones if a filter says so.
#[derive(Debug, Clone, Copy)]
pub struct Mask<'a> {
    first: u32,
    watermark: u32,
    dead: &'a [u64],
    allowed: Option<&'a [u64]>,
}

impl<'a> Mask<'a> {
    /// All rows below `watermark`.
    pub fn new(watermark: u32) -> Self {
        Self { first: 0, watermark, dead: &[], allowed: None }
    }

    /// Leaves out the rows whose bit is set; those behind the bits stay.
    pub fn without(mut self, dead: &'a [u64]) -> Self {
        self.dead = dead;
        self
    }

    /// Leaves out the rows whose bit is not set, those behind the bits as well.
    pub fn within(mut self, allowed: &'a [u64]) -> Self {
        self.allowed = Some(allowed);
        self
    }

    /// Leaves out the rows before `start` and from `end` on.
    pub fn between(self, start: u32, end: u32) -> Self {
        Self { first: self.first.max(start), ..self.below(end) }
    }

    /// Also leaves out the rows from `end` on.
    pub(crate) fn below(mut self, end: u32) -> Self {
        self.watermark = self.watermark.min(end);
        self
    }

    /// Rows from here on are left out.
    pub fn watermark(&self) -> u32 {
        self.watermark
    }

    /// The rows of `64 * i` and the next 63 as bits.
    pub(crate) fn word(&self, i: usize) -> u64 {
        let dead = self.dead.get(i).copied().unwrap_or(0);
        let allowed = self.allowed.map_or(u64::MAX, |words| words.get(i).copied().unwrap_or(0));
        allowed & !dead & below(i, self.watermark) & !below(i, self.first)
    }

    /// How many words there are.
    pub(crate) fn words(&self) -> usize {
        (self.watermark as usize).div_ceil(64)
    }

    /// Whether the row, which is neither before the first one nor behind the watermark, may be returned.
    #[inline]
    pub(crate) fn is_visible(&self, row: u32) -> bool {
        let (i, bit) = (row as usize / 64, row % 64);
        self.dead.get(i).is_none_or(|word| word >> bit & 1 == 0)
            && self.allowed.is_none_or(|words| words.get(i).is_some_and(|word| word >> bit & 1 == 1))
    }

    /// The first row from `row` on that may be returned.
    pub(crate) fn next_visible(&self, row: u32) -> u32 {
        let row = row.max(self.first);
        if row >= self.watermark {
            return END;
        }
        let mut i = row as usize / 64;
        let mut word = self.word(i) & (u64::MAX << (row % 64));
        while word == 0 {
            i += 1;
            if i >= self.words() {
                return END;
            }
            word = self.word(i);
        }
        (i * 64) as u32 + word.trailing_zeros()
    }

    /// How many rows may be returned, as far as a filter says so.
    pub(crate) fn count_if_filtered(&self) -> Option<u64> {
        self.allowed?;
        Some((0..self.words()).map(|i| u64::from(self.word(i).count_ones())).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_left_out() {
        let (dead, allowed) = ([0b110_u64], [u64::MAX, 0, 0b11]);
        let mask = Mask::new(130).without(&dead).within(&allowed);
        assert!(mask.is_visible(0) && !mask.is_visible(1) && !mask.is_visible(64) && mask.is_visible(129));
        assert_eq!([0, 1, 4, 64, 129, 130].map(|row| mask.next_visible(row)), [0, 3, 4, 128, 129, END]);
        assert_eq!(mask.count_if_filtered(), Some(64));
        assert_eq!(mask.below(129).count_if_filtered(), Some(63));
        let middle = mask.between(3, 129);
        assert_eq!([0, 3, 5, 64, 128, 129].map(|row| middle.next_visible(row)), [3, 3, 5, 128, 128, END]);
        assert_eq!((middle.count_if_filtered(), middle.between(0, 64).between(60, 500).word(0)), (Some(62), 0xf << 60));
        assert_eq!(mask.between(130, 500).next_visible(0), END);
        assert_eq!(Mask::new(500).within(&allowed).next_visible(130), END);
        assert_eq!(Mask::new(500).next_visible(130), 130);
    }
}
