//! The terms of a dictionary in order: a skip list with one writer and lock-free readers.
//!
//! Pugh, "Skip lists: a probabilistic alternative to balanced trees", 1990. Nothing is ever removed, so a link once
//! followed stays valid.

use std::sync::atomic::{AtomicU32, Ordering};

/// Levels of links.
const LEVELS: usize = 12;
/// "No such term".
const NONE: u32 = u32::MAX;

/// The order. Terms are numbers whose texts the caller knows.
#[derive(Debug)]
pub(crate) struct Order {
    heads: [AtomicU32; LEVELS],
    /// For each term the next one of each of its levels.
    links: boxcar::Vec<AtomicU32>,
}

/// What the order needs to know of the terms.
pub(crate) trait Terms {
    /// The bytes of a term.
    fn text(&self, term: u32) -> &[u8];
    /// Where the term's links start.
    fn links(&self, term: u32) -> u32;
}

/// Where a new term belongs.
#[derive(Debug)]
pub(crate) struct Gap {
    before: [u32; LEVELS],
    after: [u32; LEVELS],
}

impl Order {
    pub(crate) fn new() -> Self {
        Self { heads: [const { AtomicU32::new(NONE) }; LEVELS], links: boxcar::Vec::new() }
    }

    fn link(&self, terms: &impl Terms, term: u32, level: usize) -> &AtomicU32 {
        if term == NONE { &self.heads[level] } else { &self.links[terms.links(term) as usize + level] }
    }

    fn gap(&self, terms: &impl Terms, text: &[u8]) -> Gap {
        let mut gap = Gap { before: [NONE; LEVELS], after: [NONE; LEVELS] };
        let (mut at, mut behind) = (NONE, NONE);
        for level in (0..LEVELS).rev() {
            loop {
                let next = self.link(terms, at, level).load(Ordering::Acquire);
                // Once found to lie behind, always behind.
                if next == NONE || next == behind || terms.text(next) >= text {
                    behind = next;
                    break;
                }
                at = next;
            }
            (gap.before[level], gap.after[level]) = (at, behind);
        }
        gap
    }

    /// Where a term that is not there yet belongs, and where its links start: with those this puts it in front of the
    /// terms behind it. Only the writer may call this; `hash` decides how many levels the term has.
    pub(crate) fn prepare(&self, terms: &impl Terms, text: &[u8], hash: u64) -> (Gap, u32) {
        let gap = self.gap(terms, text);
        let height = (1 + hash.trailing_zeros() as usize / 2).min(LEVELS);
        let start = self.links.count();
        for next in &gap.after[..height] {
            self.links.push(AtomicU32::new(*next));
        }
        (gap, start as u32)
    }

    /// Lets readers find a prepared term, which the caller's terms know by now. Only the writer may call this.
    pub(crate) fn publish(&self, terms: &impl Terms, term: u32, gap: &Gap) {
        let height = self.links.count() - terms.links(term) as usize;
        for level in 0..height {
            self.link(terms, gap.before[level], level).store(term, Ordering::Release);
        }
    }

    /// The first term that is not below `text`.
    pub(crate) fn seek(&self, terms: &impl Terms, text: &[u8]) -> Option<u32> {
        Some(self.gap(terms, text).after[0]).filter(|term| *term != NONE)
    }

    /// The term behind `term`.
    pub(crate) fn next(&self, terms: &impl Terms, term: u32) -> Option<u32> {
        Some(self.link(terms, term, 0).load(Ordering::Acquire)).filter(|term| *term != NONE)
    }

    /// Bytes held.
    pub(crate) fn memory(&self) -> usize {
        super::dictionary::slots(self.links.count()) * 2 * size_of::<AtomicU32>()
    }
}
