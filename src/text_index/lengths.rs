//! How many tokens each row has, and sums of them up to any row.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Rows of a page.
const PAGE: usize = 1024;

/// Append-only lengths: one writer, any number of readers.
#[derive(Debug, Default)]
pub(crate) struct Lengths {
    pages: boxcar::Vec<Box<Page>>,
    held: AtomicUsize,
}

#[derive(Debug)]
struct Page {
    /// Of the rows before this page.
    before: Totals,
    tokens: [AtomicU32; PAGE],
}

/// Sums over rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Rows with tokens.
    pub(crate) documents: u64,
    pub(crate) tokens: u64,
}

impl Totals {
    fn add(&mut self, tokens: u32) {
        self.documents += u64::from(tokens > 0);
        self.tokens += u64::from(tokens);
    }
}

impl Lengths {
    /// Sets the length of the next row. Only the writer may call this.
    pub(crate) fn push(&self, row: u32, tokens: u32) {
        let (page, at) = (row as usize / PAGE, row as usize % PAGE);
        if at == 0 {
            let page = Page { before: self.totals(row), tokens: [const { AtomicU32::new(0) }; PAGE] };
            self.pages.push(Box::new(page));
            self.held.fetch_add(size_of::<Page>() + 2 * size_of::<usize>(), Ordering::Relaxed);
        }
        self.pages[page].tokens[at].store(tokens, Ordering::Relaxed);
    }

    /// Of a row that was pushed.
    pub(crate) fn get(&self, row: u32) -> u32 {
        self.pages[row as usize / PAGE].tokens[row as usize % PAGE].load(Ordering::Relaxed)
    }

    /// Over the rows below `end`, all of which were pushed.
    pub(crate) fn totals(&self, end: u32) -> Totals {
        let Some(last) = (end as usize).checked_sub(1) else { return Totals::default() };
        let page = &self.pages[last / PAGE];
        let mut totals = page.before;
        page.tokens[..=last % PAGE].iter().for_each(|tokens| totals.add(tokens.load(Ordering::Relaxed)));
        totals
    }

    /// Over the rows below `end` whose bit in `words` is set.
    pub(crate) fn totals_of(&self, words: &[u64], end: u32) -> Totals {
        let mut totals = Totals::default();
        let view = self.view(end);
        for (i, &word) in words.iter().enumerate().take((end as usize).div_ceil(64)) {
            let mut word = word & below(i, end);
            while word != 0 {
                totals.add(view.get((i * 64) as u32 + word.trailing_zeros()));
                word &= word - 1;
            }
        }
        totals
    }

    /// The lengths of the rows below `end`, for many reads.
    pub(crate) fn view(&self, end: u32) -> LengthView<'_> {
        let pages = (end as usize).div_ceil(PAGE);
        LengthView { pages: (0..pages).map(|page| &self.pages[page].tokens).collect() }
    }

    /// Bytes held.
    pub(crate) fn memory(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// The bits of word `i` that are rows below `end`.
pub(crate) fn below(i: usize, end: u32) -> u64 {
    match (end as usize).saturating_sub(i * 64) {
        0 => 0,
        bits @ 1..64 => (1 << bits) - 1,
        _ => u64::MAX,
    }
}

/// Lengths of the rows below some end.
#[derive(Debug)]
pub(crate) struct LengthView<'a> {
    pages: Vec<&'a [AtomicU32; PAGE]>,
}

impl LengthView<'_> {
    #[inline]
    pub(crate) fn get(&self, row: u32) -> u32 {
        self.pages[row as usize / PAGE][row as usize % PAGE].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_up_to_any_row() {
        let lengths = Lengths::default();
        let mut expected = vec![Totals::default()];
        let mut words = vec![0; 50];
        let mut marked = Totals::default();
        for row in 0..3000_u32 {
            let tokens = row % 7;
            lengths.push(row, tokens);
            let mut totals = expected[row as usize];
            totals.add(tokens);
            expected.push(totals);
            if row % 3 == 0 {
                words[row as usize / 64] |= 1 << (row % 64);
                if row < 2500 {
                    marked.add(tokens);
                }
            }
        }
        for end in [0, 1, 1023, 1024, 1025, 2048, 3000] {
            assert_eq!(lengths.totals(end), expected[end as usize]);
        }
        assert_eq!(lengths.totals_of(&words, 2500), marked);
        assert_eq!(lengths.view(3000).get(2999), 2999 % 7);
    }
}
