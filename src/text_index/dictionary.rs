//! The terms of an index: found by text through a hash table, and in order.
//!
//! One writer, any number of lock-free readers. A term's number never changes; a grown table leaves the old one to
//! readers that hold it.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;

use super::chain::Postings;
use super::order::{Order, Terms};
use super::signature::{Signature, Signatures};

/// Slots of the smallest table.
const SMALLEST: usize = 64;
/// Slots that a boxcar allocates first.
const FIRST_SLOTS: usize = 32;

/// A term and its postings.
#[derive(Debug)]
pub(crate) struct Entry {
    text: Box<str>,
    /// The first row that holds the term.
    first_row: u32,
    /// Where its links in the order start.
    links: u32,
    pub(crate) postings: Postings,
}

impl Entry {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn first_row(&self) -> u32 {
        self.first_row
    }
}

/// Terms by text.
#[derive(Debug)]
pub(crate) struct Dictionary {
    entries: boxcar::Vec<Entry>,
    /// A slot is 0 or the upper half of a hash and a term's number plus one.
    table: ArcSwap<Box<[AtomicU64]>>,
    hasher: RandomState,
    order: Order,
    signatures: Signatures,
    text_bytes: AtomicU64,
}

/// Slots that a boxcar of `count` elements allocated: its parts double.
pub(crate) fn slots(count: usize) -> usize {
    if count == 0 { 0 } else { (count + FIRST_SLOTS).next_power_of_two() - FIRST_SLOTS }
}

fn table(slots: usize) -> Box<[AtomicU64]> {
    (0..slots).map(|_| AtomicU64::new(0)).collect()
}

/// Writes into the first free slot from the hash's on.
fn settle(table: &[AtomicU64], slot: u64) {
    let mask = table.len() - 1;
    let mut at = (slot >> 32) as usize & mask;
    while table[at].load(Ordering::Relaxed) != 0 {
        at = (at + 1) & mask;
    }
    table[at].store(slot, Ordering::Release);
}

impl Terms for boxcar::Vec<Entry> {
    fn text(&self, term: u32) -> &[u8] {
        self[term as usize].text.as_bytes()
    }

    fn links(&self, term: u32) -> u32 {
        self[term as usize].links
    }
}

impl Dictionary {
    pub(crate) fn new() -> Self {
        Self {
            entries: boxcar::Vec::new(),
            table: ArcSwap::from_pointee(table(SMALLEST)),
            hasher: RandomState::default(),
            order: Order::new(),
            signatures: Signatures::default(),
            text_bytes: AtomicU64::new(0),
        }
    }

    /// How many terms there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.count()
    }

    /// The entry of a number that was handed out.
    pub(crate) fn entry(&self, term: u32) -> &Entry {
        &self.entries[term as usize]
    }

    fn lookup(&self, text: &str, hash: u64) -> Option<u32> {
        let table = self.table.load();
        let mask = table.len() - 1;
        let mut at = (hash >> 32) as usize & mask;
        loop {
            let slot = table[at].load(Ordering::Acquire);
            // A free slot ends each run: at most two thirds of the slots are taken.
            let number = (slot as u32).checked_sub(1)?;
            if slot >> 32 == hash >> 32 && &*self.entries[number as usize].text == text {
                return Some(number);
            }
            at = (at + 1) & mask;
        }
    }

    /// The entry of a term.
    pub(crate) fn find(&self, text: &str) -> Option<&Entry> {
        self.lookup(text, self.hasher.hash_one(text)).map(|term| self.entry(term))
    }

    /// The number of a term that `row` holds; `None` if numbers are exhausted. Only the writer may call this.
    pub(crate) fn intern(&self, text: &str, row: u32) -> Option<u32> {
        let hash = self.hasher.hash_one(text);
        self.lookup(text, hash).or_else(|| self.push(text, hash, row, Postings::new()))
    }

    /// Adds a term with all its postings, the first of `row`, unless it is there; `None` if numbers are exhausted. Only
    /// the writer may call this.
    pub(crate) fn insert(&self, text: &str, row: u32, postings: impl FnOnce() -> Postings) -> Option<u32> {
        let hash = self.hasher.hash_one(text);
        self.lookup(text, hash).or_else(|| self.push(text, hash, row, postings()))
    }

    fn push(&self, text: &str, hash: u64, row: u32, postings: Postings) -> Option<u32> {
        let term = u32::try_from(self.len()).ok().filter(|term| *term < u32::MAX - 1)?;
        let (gap, links) = self.order.prepare(&self.entries, text.as_bytes(), hash);
        self.entries.push(Entry { text: text.into(), first_row: row, links, postings });
        self.text_bytes.fetch_add(text.len() as u64, Ordering::Relaxed);
        self.signatures.push(term, Signature::of(text));
        self.order.publish(&self.entries, term, &gap);
        let slot = hash >> 32 << 32 | u64::from(term + 1);
        let current = self.table.load();
        if (self.len() + 1) * 3 > current.len() * 2 {
            let grown = table(current.len() * 2);
            for old in current.iter().map(|slot| slot.load(Ordering::Relaxed)).filter(|slot| *slot != 0) {
                settle(&grown, old);
            }
            settle(&grown, slot);
            self.table.store(grown.into());
        } else {
            settle(&current, slot);
        }
        Some(term)
    }

    /// The first term that is not below `text` in the order of bytes.
    pub(crate) fn seek(&self, text: &[u8]) -> Option<u32> {
        self.order.seek(&self.entries, text)
    }

    /// The term behind `term`.
    pub(crate) fn next(&self, term: u32) -> Option<u32> {
        self.order.next(&self.entries, term)
    }

    /// The terms that may be within `distance` of one of this signature, in no order.
    pub(crate) fn near(&self, signature: Signature, distance: u32) -> impl Iterator<Item = u32> {
        self.signatures.near(signature, distance)
    }

    /// Bytes held, those of chains not included.
    pub(crate) fn memory(&self) -> usize {
        slots(self.len()) * (size_of::<Entry>() + size_of::<usize>())
            + self.text_bytes.load(Ordering::Relaxed) as usize
            + self.table.load().len() * size_of::<AtomicU64>()
            + self.order.memory()
            + self.signatures.memory()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_found_and_in_order() {
        let dictionary = Dictionary::new();
        let mut texts: Vec<String> = (0..5000_u32).map(|i| format!("{:x}", i.wrapping_mul(2_654_435_761))).collect();
        texts.extend(["", "ä", "äß", "日本", "\u{10FFFF}"].map(String::from));
        for (i, text) in texts.iter().enumerate() {
            assert_eq!(dictionary.intern(text, i as u32), Some(i as u32));
            assert_eq!(dictionary.intern(text, 9999), Some(i as u32));
        }
        for (i, text) in texts.iter().enumerate() {
            let entry = dictionary.find(text).unwrap();
            assert_eq!((entry.text(), entry.first_row()), (text.as_str(), i as u32));
        }
        assert!(dictionary.find("nothing").is_none());
        texts.sort();
        let mut at = dictionary.seek(b"");
        for text in &texts {
            let term = at.unwrap();
            assert_eq!(dictionary.entry(term).text(), text);
            at = dictionary.next(term);
        }
        assert_eq!(at, None);
        let position = texts.partition_point(|text| text.as_str() < "8zz");
        assert_eq!(dictionary.entry(dictionary.seek(b"8zz").unwrap()).text(), texts[position]);
    }
}
