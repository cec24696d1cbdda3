//! Codes of consecutive rows: blocks that are full and one that is being filled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::code::{Factors, Origin};
use super::count::{GROUP, Group};

/// Rows of a block.
pub(crate) const ROWS: usize = 256;

/// How codes are laid out: their first words in groups, for a quick look; the rest row after row, for a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// Words of a code.
    pub(crate) words: usize,
    /// Of these, for a quick look.
    pub(crate) quick: usize,
    /// And in groups; not fewer.
    pub(crate) head: usize,
}

impl Layout {
    /// The layout of codes of `words` words.
    pub(crate) fn new(words: usize) -> Self {
        Self { words, quick: words.min(4).max(words / 4), head: words.min(8).max(words / 2) }
    }

    /// Bytes of a block with codes of this layout; of one that is being filled as well.
    pub(crate) fn block_memory(&self) -> usize {
        size_of::<Block>().max(size_of::<Tail>()) + ROWS * (self.words * 8 + 2 * size_of::<f32>())
    }

    fn head_at(&self, row: usize, word: usize) -> usize {
        (row / GROUP * self.head + word) * GROUP + row % GROUP
    }

    fn rest_at(&self, row: usize) -> usize {
        row * (self.words - self.head)
    }
}

/// Up to [`ROWS`] rows.
#[derive(Debug)]
pub(crate) struct Block {
    origin: Arc<Origin>,
    len: usize,
    layout: Layout,
    add: Box<[f32]>,
    scale: Box<[f32]>,
    heads: Box<[u64]>,
    rests: Box<[u64]>,
}

impl Block {
    /// What the rows' codes are relative to.
    pub(crate) fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The rows from `group * GROUP` on; those behind the end have any code.
    #[inline]
    pub(crate) fn group(&self, group: usize) -> Option<Group<'_>> {
        let words = self.layout.head * GROUP;
        let heads = self.heads.get(group * words..(group + 1) * words)?;
        Some(Group { heads, add: self.add.as_chunks().0.get(group)?, scale: self.scale.as_chunks().0.get(group)? })
    }

    /// The words of a row's code that are in no group.
    #[inline]
    pub(crate) fn rest(&self, row: usize) -> &[u64] {
        let from = self.layout.rest_at(row);
        self.rests.get(from..from + self.layout.words - self.layout.head).unwrap_or_default()
    }

    /// Whether a row has a code.
    pub(crate) fn has(&self, row: usize) -> bool {
        row < self.len && !self.add[row].is_nan()
    }

    /// Sets the codes of the rows that have one anew, relative to `origin`: `encode` gives one after the other.
    pub(crate) fn recode(&mut self, origin: &Arc<Origin>, mut encode: impl FnMut(&mut [u64]) -> Option<Factors>) {
        self.origin = Arc::clone(origin);
        let mut code = vec![0; self.layout.words];
        for row in 0..self.len {
            if self.has(row)
                && let Some(factors) = encode(&mut code)
            {
                self.set(row, code.iter().copied(), factors);
            }
        }
    }

    fn set(&mut self, row: usize, mut code: impl Iterator<Item = u64>, factors: Factors) {
        (self.add[row], self.scale[row]) = (factors.add, factors.scale);
        for (at, word) in code.by_ref().take(self.layout.head).enumerate() {
            self.heads[self.layout.head_at(row, at)] = word;
        }
        let rest = self.layout.rest_at(row);
        self.rests[rest..].iter_mut().zip(code).for_each(|(to, word)| *to = word);
    }
}

/// A block that is being filled. One appender, any number of readers.
#[derive(Debug)]
pub(crate) struct Tail {
    origin: Arc<Origin>,
    sealed: usize,
    layout: Layout,
    len: AtomicUsize,
    factors: Box<[[AtomicU32; 2]]>,
    codes: Box<[AtomicU64]>,
}

impl Tail {
    /// Room for [`ROWS`] rows behind `sealed` full blocks.
    pub(crate) fn new(sealed: usize, layout: Layout, origin: Arc<Origin>) -> Self {
        Self {
            origin,
            sealed,
            layout,
            len: AtomicUsize::new(0),
            factors: (0..ROWS).map(|_| [const { AtomicU32::new(0) }; 2]).collect(),
            codes: (0..ROWS * layout.words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// How many rows there are now.
    pub(crate) fn len(&self) -> usize {
        // Pairs with the store in `push`: what is below was written before.
        self.len.load(Ordering::Acquire)
    }

    /// Adds a row and tells whether there is room for another. Only the appender may call this.
    pub(crate) fn push(&self, code: &[u64], factors: Factors) -> bool {
        let at = self.len.load(Ordering::Relaxed);
        let Some([add, scale]) = self.factors.get(at) else { return false };
        add.store(factors.add.to_bits(), Ordering::Relaxed);
        scale.store(factors.scale.to_bits(), Ordering::Relaxed);
        for (to, word) in self.codes[at * self.layout.words..].iter().zip(code) {
            to.store(*word, Ordering::Relaxed);
        }
        self.len.store(at + 1, Ordering::Release);
        at + 1 < ROWS
    }

    /// The rows there are now.
    pub(crate) fn block(&self) -> Block {
        let (len, layout) = (self.len(), self.layout);
        let mut block = Block {
            origin: Arc::clone(&self.origin),
            len,
            layout,
            add: vec![0.0; ROWS].into(),
            scale: vec![0.0; ROWS].into(),
            heads: vec![0; ROWS * layout.head].into(),
            rests: vec![0; ROWS * (layout.words - layout.head)].into(),
        };
        let codes = self.codes.chunks_exact(layout.words);
        for (row, (code, factors)) in codes.zip(&self.factors).enumerate().take(len) {
            let [add, scale] = factors.each_ref().map(|factor| f32::from_bits(factor.load(Ordering::Relaxed)));
            block.set(row, code.iter().map(|word| word.load(Ordering::Relaxed)), Factors { add, scale });
        }
        block
    }

    /// What the rows' codes are relative to.
    pub(crate) fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    /// How many full blocks come before.
    pub(crate) fn sealed(&self) -> usize {
        self.sealed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(row: usize, words: usize) -> Vec<u64> {
        (0..words).map(|word| (row * 1000 + word) as u64).collect()
    }

    #[test]
    fn codes_and_factors_come_back() {
        for words in [1, 2, 4, 6, 16, 48] {
            let layout = Layout::new(words);
            let tail = Tail::new(3, layout, Origin::new(vec![0.0; words * 64].into()));
            for row in 0..ROWS {
                assert_eq!(tail.block().len(), row);
                let room = tail.push(&code(row, words), Factors { add: row as f32, scale: 0.5 });
                assert_eq!(room, row + 1 < ROWS);
            }
            assert!(!tail.push(&code(0, words), Factors::NONE));
            let block = tail.block();
            for row in 0..ROWS {
                let group = block.group(row / GROUP).unwrap();
                let head = (0..layout.head).map(|word| group.heads[word * GROUP + row % GROUP]);
                let all: Vec<u64> = head.chain(block.rest(row).iter().copied()).collect();
                assert_eq!(all, code(row, words));
                assert_eq!((group.add[row % GROUP], group.scale[row % GROUP]), (row as f32, 0.5));
            }
            assert!(block.group(ROWS / GROUP).is_none());
        }
    }

    #[test]
    fn rows_without_a_code_keep_none() {
        let origin = Origin::new(vec![0.0; 64].into());
        let tail = Tail::new(0, Layout::new(1), Arc::clone(&origin));
        tail.push(&[7], Factors { add: 1.0, scale: 1.0 });
        tail.push(&[0], Factors::NONE);
        let mut block = tail.block();
        block.recode(&origin, |code| {
            code[0] = 9;
            Some(Factors { add: 2.0, scale: 2.0 })
        });
        assert!(block.has(0) && !block.has(1) && !block.has(2));
        assert_eq!(block.group(0).unwrap().heads[..2], [9, 0]);
    }
}
