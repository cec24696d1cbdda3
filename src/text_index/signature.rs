//! Signatures of terms: a few bits that rule out at a glance that two terms are near each other.
//!
//! A signature has the term's length and a bit for each character in it, as far as these fit. An insertion or a
//! deletion changes one of these bits and a replacement two, so terms at distance `d` differ in `2 d` bits at most and
//! in `d` characters of length.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Signatures of a page.
const PAGE: usize = 1024;
/// Bits for characters; the others are for the length.
const CHARACTERS: u32 = 56;
/// The longest length that is told apart, less than fits so that no signature is 0.
const LONGEST: u64 = (1 << (64 - CHARACTERS)) - 2;

/// What to know of a term.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signature(u64);

impl Signature {
    pub(crate) fn of(term: &str) -> Self {
        let (mut bits, mut length) = (0, 0);
        for character in term.chars() {
            bits |= 1_u64 << (u32::from(character) % CHARACTERS);
            length += 1;
        }
        Self((LONGEST.min(length) + 1) << CHARACTERS | bits)
    }

    /// Whether no term of the one signature is within the distance of a term of the other.
    #[inline]
    pub(crate) fn is_far(self, other: Self, distance: u32) -> bool {
        let characters = ((self.0 ^ other.0) << (64 - CHARACTERS)).count_ones();
        let lengths = (self.0 >> CHARACTERS).abs_diff(other.0 >> CHARACTERS);
        characters > distance.saturating_mul(2) || lengths > u64::from(distance)
    }
}

/// Signatures by the numbers of their terms: one writer, any number of readers.
#[derive(Debug, Default)]
pub(crate) struct Signatures {
    pages: boxcar::Vec<Box<[AtomicU64; PAGE]>>,
    held: AtomicUsize,
}

impl Signatures {
    /// Sets the signature of the next term. Only the writer may call this.
    pub(crate) fn push(&self, term: u32, signature: Signature) {
        let (page, at) = (term as usize / PAGE, term as usize % PAGE);
        if at == 0 {
            self.pages.push(Box::new([const { AtomicU64::new(0) }; PAGE]));
            self.held.fetch_add(PAGE * size_of::<AtomicU64>() + 2 * size_of::<usize>(), Ordering::Relaxed);
        }
        self.pages[page][at].store(signature.0, Ordering::Release);
    }

    /// The terms that may be near one of the given signature.
    pub(crate) fn near(&self, wanted: Signature, distance: u32) -> impl Iterator<Item = u32> {
        let pages = self.pages.iter().flat_map(|(page, signatures)| {
            signatures.iter().enumerate().map(move |(at, signature)| (page * PAGE + at, signature))
        });
        // Behind the last term there are zeros.
        let signatures = pages.map(|(term, signature)| (term as u32, Signature(signature.load(Ordering::Acquire))));
        signatures
            .take_while(|(_, signature)| signature.0 != 0)
            .filter(move |(_, signature)| !signature.is_far(wanted, distance))
            .map(|(term, _)| term)
    }

    /// Bytes held.
    pub(crate) fn memory(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}
