//! Which rows a search may find.

use std::fmt;

use super::count::GROUP;

/// The rows that a search may find.
#[derive(Clone, Copy, Default)]
pub enum Mask<'a> {
    /// All.
    #[default]
    All,
    /// Those whose bit is set: row `r` has bit `r % 64` of word `r / 64`. Rows behind the last word have none.
    Bits(&'a [u64]),
    /// Those for which this is true. It is asked about few rows more than are compared exactly.
    Rows(&'a dyn Fn(u32) -> bool),
}

impl Mask<'_> {
    /// Whether `row` may be found.
    #[inline]
    pub fn allows(&self, row: u32) -> bool {
        match self {
            Self::All => true,
            Self::Bits(words) => words.get(row as usize / 64).is_some_and(|word| (word >> (row % 64)) & 1 == 1),
            Self::Rows(allowed) => allowed(row),
        }
    }

    /// Of the rows from `first` (a multiple of [`GROUP`]) on, one bit each, those that may be found as far as is known
    /// without asking.
    #[inline]
    pub(crate) fn group(&self, first: usize) -> u32 {
        const _: () = assert!(GROUP == u32::BITS as usize);
        match self {
            Self::Bits(words) => words.get(first / 64).map_or(0, |word| (word >> (first % 64)) as u32),
            Self::All | Self::Rows(_) => u32::MAX,
        }
    }

    /// As [`Self::allows`] for a row whose bit [`Self::group`] had.
    #[inline]
    pub(crate) fn confirms(&self, row: u32) -> bool {
        match self {
            Self::Rows(allowed) => allowed(row),
            Self::All | Self::Bits(_) => true,
        }
    }
}

impl fmt::Debug for Mask<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "All",
            Self::Bits(_) => "Bits",
            Self::Rows(_) => "Rows",
        })
    }
}
