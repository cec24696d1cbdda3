//! The newest visible row of a key, and which rows newer ones supersede.
//!
//! An open-addressing table of row numbers with one writer and lock-free readers. Each row knows the row of the same
//! key before it and after it, so every watermark has its own truth: a row is live at watermark `w` if the next row
//! of its key is not below `w`. Nothing is ever removed; a grown table leaves the old one to readers that hold it.

use std::borrow::Borrow;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use arrow::buffer::BooleanBuffer;

use crate::key::{KeyRef, Keys};

/// "No such row".
const NONE: u32 = u32::MAX;
/// Slots of the smallest table; level `n` has this many shifted left by `n`.
const SMALLEST: usize = 64;
/// Enough levels for 2^32 slots.
const LEVELS: usize = 27;
/// Words of a block of dead rows.
const WORDS: usize = 16;
/// Rows of a block of dead rows.
const BLOCK: usize = WORDS * 64;

/// The key index of a memtable.
#[derive(Debug)]
pub struct KeyIndex(Kind);

#[derive(Debug)]
enum Kind {
    Fixed(Table<u64>),
    Bytes(Table<Box<[u8]>>),
}

/// One row as the index knows it.
#[derive(Debug)]
struct Row<K> {
    key: K,
    /// The low half of the key's hash; the high half is in the slot.
    low_hash: u32,
    /// The row of the same key before this one.
    previous: u32,
    /// The row of the same key after this one.
    next: AtomicU32,
    tombstone: bool,
}

#[derive(Debug)]
struct Table<K> {
    rows: boxcar::Vec<Row<K>>,
    /// A slot is 0 or the high half of a hash and the newest row of its key plus one.
    levels: [OnceLock<Box<[AtomicU64]>>; LEVELS],
    level: AtomicUsize,
    keys: AtomicUsize,
    key_bytes: AtomicUsize,
    /// How many rows were appended: raised before a row marks another as dead.
    appended: AtomicUsize,
    /// A bit for each row that is superseded or a tombstone.
    dead: boxcar::Vec<[AtomicU64; WORDS]>,
}

impl KeyIndex {
    /// An empty index; `fixed` says of which image the keys are.
    pub fn new(fixed: bool) -> Self {
        Self(if fixed { Kind::Fixed(Table::new()) } else { Kind::Bytes(Table::new()) })
    }

    /// Adds the next rows. Only the holder of the memtable's write lock may call this.
    pub(super) fn append(&self, keys: &Keys, tombstones: impl Fn(usize) -> bool) {
        for i in 0..keys.len() {
            let key = keys.get(i);
            match (&self.0, key) {
                (Kind::Fixed(table), KeyRef::Fixed(value)) => table.append(value, key.hash(), tombstones(i)),
                (Kind::Bytes(table), KeyRef::Bytes(value)) => table.append(value.into(), key.hash(), tombstones(i)),
                _ => unreachable!("keys of one table have one image"),
            }
        }
    }

    /// The newest row of `key` below `watermark`, and whether it is a tombstone.
    pub fn get(&self, key: KeyRef<'_>, hash: u64, watermark: usize) -> Option<(usize, bool)> {
        match (&self.0, key) {
            (Kind::Fixed(table), KeyRef::Fixed(value)) => table.get(&value, hash, watermark),
            (Kind::Bytes(table), KeyRef::Bytes(value)) => table.get(value, hash, watermark),
            _ => unreachable!("keys of one table have one image"),
        }
    }

    /// The key of a row and its hash's low half are kept: calls `f` for each row in `rows` with its key and whether it
    /// is the newest of its key below `watermark`.
    pub fn for_each(&self, rows: Range<usize>, mut f: impl FnMut(usize, KeyRef<'_>)) {
        for row in rows {
            match &self.0 {
                Kind::Fixed(table) => f(row, KeyRef::Fixed(table.rows[row].key)),
                Kind::Bytes(table) => f(row, KeyRef::Bytes(&table.rows[row].key)),
            }
        }
    }

    /// Whether `row` is the newest of its key below `watermark` and no tombstone.
    pub fn is_live(&self, row: usize, watermark: usize) -> bool {
        match &self.0 {
            Kind::Fixed(table) => table.is_newest(row, watermark) && !table.rows[row].tombstone,
            Kind::Bytes(table) => table.is_newest(row, watermark) && !table.rows[row].tombstone,
        }
    }

    /// Whether `row` is the newest of its key below `watermark`, tombstone or not.
    pub fn is_newest(&self, row: usize, watermark: usize) -> bool {
        match &self.0 {
            Kind::Fixed(table) => table.is_newest(row, watermark),
            Kind::Bytes(table) => table.is_newest(row, watermark),
        }
    }

    /// Which rows of the range, all below `watermark`, are live: the newest of their keys, no tombstones and none of
    /// `blocked`. `None` if all are.
    pub fn live(
        &self,
        rows: Range<usize>,
        watermark: usize,
        blocked: impl Iterator<Item = usize>,
    ) -> Option<BooleanBuffer> {
        let (first, offset) = (rows.start / 64, rows.start % 64);
        let mut words = match &self.0 {
            Kind::Fixed(table) => table.dead_words(rows.clone(), watermark),
            Kind::Bytes(table) => table.dead_words(rows.clone(), watermark),
        };
        for row in blocked {
            words[row / 64 - first] |= 1 << (row % 64);
        }
        if words.iter().all(|word| *word == 0) {
            return None;
        }
        words.iter_mut().for_each(|word| *word = !*word);
        Some(BooleanBuffer::new(words.into(), offset, rows.len()))
    }

    /// Whether every row of the range is the newest of its key and no tombstone.
    pub fn all_live(&self, rows: Range<usize>) -> bool {
        self.live(rows, usize::MAX, std::iter::empty()).is_none()
    }

    /// How many distinct keys were appended.
    pub fn len(&self) -> usize {
        match &self.0 {
            Kind::Fixed(table) => table.keys.load(Ordering::Relaxed),
            Kind::Bytes(table) => table.keys.load(Ordering::Relaxed),
        }
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        match &self.0 {
            Kind::Fixed(table) => table.memory(),
            Kind::Bytes(table) => table.memory(),
        }
    }
}

impl<K> Table<K> {
    fn new() -> Self {
        Self {
            rows: boxcar::Vec::new(),
            levels: [const { OnceLock::new() }; LEVELS],
            level: AtomicUsize::new(0),
            keys: AtomicUsize::new(0),
            key_bytes: AtomicUsize::new(0),
            appended: AtomicUsize::new(0),
            dead: boxcar::Vec::new(),
        }
    }

    fn slots(&self, level: usize) -> &[AtomicU64] {
        self.levels[level].get_or_init(|| (0..SMALLEST << level).map(|_| AtomicU64::new(0)).collect())
    }

    fn is_newest(&self, row: usize, watermark: usize) -> bool {
        self.rows[row].next.load(Ordering::Acquire) as usize >= watermark
    }

    /// The dead rows of a range as bits, from the word that holds the first of them; other rows of the outer words are
    /// not told of.
    fn dead_words(&self, rows: Range<usize>, watermark: usize) -> Vec<u64> {
        if rows.is_empty() {
            return Vec::new();
        }
        let (first, last) = (rows.start / 64, (rows.end - 1) / 64);
        let mut words = Vec::with_capacity(last - first + 1);
        for block in first / WORDS..=last / WORDS {
            let start = block * WORDS;
            let within = first.max(start) - start..last.min(start + WORDS - 1) + 1 - start;
            words.extend(self.dead[block][within].iter().map(|word| word.load(Ordering::Acquire)));
        }
        words[0] &= u64::MAX << (rows.start % 64);
        words[last - first] &= u64::MAX >> (63 - (rows.end - 1) % 64);
        // Whoever marked these rows was counted before: without rows above the watermark, all of them are dead below it.
        if self.appended.load(Ordering::Acquire) > watermark {
            for (at, word) in words.iter_mut().enumerate() {
                let mut marked = *word;
                while marked != 0 {
                    let bit = marked.trailing_zeros() as usize;
                    marked &= marked - 1;
                    let row = (first + at) * 64 + bit;
                    if !self.rows[row].tombstone && self.is_newest(row, watermark) {
                        *word &= !(1 << bit);
                    }
                }
            }
        }
        words
    }

    fn mark_dead(&self, row: usize) {
        self.dead[row / BLOCK][row % BLOCK / 64].fetch_or(1 << (row % 64), Ordering::Release);
    }

    fn memory(&self) -> usize {
        // A grown table leaves its predecessors, together as large as itself.
        let slots = (SMALLEST << self.level.load(Ordering::Relaxed)) * 2 * size_of::<AtomicU64>();
        slots + self.rows.count() * (size_of::<Row<K>>() + 8) + self.key_bytes.load(Ordering::Relaxed)
    }

    /// The slot of a key: taken by it, or the empty one where it belongs.
    fn find<Q>(&self, slots: &[AtomicU64], key: &Q, hash: u64) -> (usize, Option<usize>)
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let mask = slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = slots[at].load(Ordering::Acquire);
            if slot == 0 {
                return (at, None);
            }
            if slot >> 32 == hash >> 32 {
                let row = (slot as u32 - 1) as usize;
                if self.rows[row].key.borrow() == key {
                    return (at, Some(row));
                }
            }
            at = (at + 1) & mask;
        }
    }

    fn get<Q>(&self, key: &Q, hash: u64, watermark: usize) -> Option<(usize, bool)>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let mut row = self.find(self.slots(self.level.load(Ordering::Acquire)), key, hash).1?;
        while row >= watermark {
            let previous = self.rows[row].previous;
            if previous == NONE {
                return None;
            }
            row = previous as usize;
        }
        Some((row, self.rows[row].tombstone))
    }
}

impl<K: Eq + KeySize> Table<K> {
    fn append(&self, key: K, hash: u64, tombstone: bool) {
        let mut level = self.level.load(Ordering::Relaxed);
        if (self.keys.load(Ordering::Relaxed) + 1) * 2 > SMALLEST << level {
            level += 1;
            self.grow(level);
        }
        let slots = self.slots(level);
        let (at, previous) = self.find(slots, &key, hash);
        let row = self.rows.count();
        self.key_bytes.fetch_add(key.heap_bytes(), Ordering::Relaxed);
        self.rows.push(Row {
            key,
            low_hash: hash as u32,
            previous: previous.map_or(NONE, |p| p as u32),
            next: AtomicU32::new(NONE),
            tombstone,
        });
        if row.is_multiple_of(BLOCK) {
            self.dead.push([const { AtomicU64::new(0) }; WORDS]);
        }
        self.appended.store(row + 1, Ordering::Release);
        if tombstone {
            self.mark_dead(row);
        }
        match previous {
            Some(previous) => {
                self.rows[previous].next.store(row as u32, Ordering::Release);
                self.mark_dead(previous);
            }
            None => {
                self.keys.fetch_add(1, Ordering::Relaxed);
            }
        }
        slots[at].store((hash >> 32 << 32) | (row as u64 + 1), Ordering::Release);
    }

    fn grow(&self, level: usize) {
        let (old, new) = (self.slots(level - 1), self.slots(level));
        let mask = new.len() - 1;
        for slot in old.iter().map(|s| s.load(Ordering::Relaxed)).filter(|s| *s != 0) {
            let mut at = self.rows[(slot as u32 - 1) as usize].low_hash as usize & mask;
            while new[at].load(Ordering::Relaxed) != 0 {
                at = (at + 1) & mask;
            }
            new[at].store(slot, Ordering::Relaxed);
        }
        self.level.store(level, Ordering::Release);
    }
}

/// What a key holds outside its row.
trait KeySize {
    fn heap_bytes(&self) -> usize;
}

impl KeySize for u64 {
    fn heap_bytes(&self) -> usize {
        0
    }
}

impl KeySize for Box<[u8]> {
    fn heap_bytes(&self) -> usize {
        self.len() + 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(index: &KeyIndex, key: u64, watermark: usize) -> Option<(usize, bool)> {
        index.get(KeyRef::Fixed(key), KeyRef::Fixed(key).hash(), watermark)
    }

    #[test]
    fn every_watermark_has_its_own_newest_row() {
        let index = KeyIndex::new(true);
        index.append(&Keys::Fixed(vec![7, 8, 7]), |_| false);
        index.append(&Keys::Fixed(vec![7]), |_| true);
        assert_eq!(get(&index, 7, 4), Some((3, true)));
        assert_eq!(get(&index, 7, 3), Some((2, false)));
        assert_eq!(get(&index, 7, 1), Some((0, false)));
        assert_eq!(get(&index, 7, 0), None);
        assert_eq!(get(&index, 9, 4), None);
        assert!(index.is_live(0, 2) && !index.is_live(0, 3));
        assert!(!index.is_live(3, 4) && index.is_newest(3, 4));
    }

    #[test]
    fn live_rows_are_told_for_every_watermark_and_range() {
        let index = KeyIndex::new(true);
        let keys: Vec<u64> = (0..3000).map(|i| i * 7919 % 1000).collect();
        for (i, chunk) in keys.chunks(37).enumerate() {
            index.append(&Keys::Fixed(chunk.to_vec()), |row| (i + row).is_multiple_of(11));
        }
        for watermark in [1, 64, 999, 1000, 1001, 2048, 2999, 3000, 5000] {
            let below = watermark.min(3000);
            for rows in [0..below, below / 3..below / 2, below - 1..below, below / 2..below / 2] {
                let blocked = rows.clone().filter(|row| row % 13 == 0);
                let expected: Vec<bool> =
                    rows.clone().map(|row| index.is_live(row, watermark) && row % 13 != 0).collect();
                let live = index.live(rows.clone(), watermark, blocked);
                let live: Vec<bool> = live.map_or(vec![true; rows.len()], |live| live.iter().collect());
                assert_eq!(live, expected, "{rows:?} below {watermark}");
            }
        }
    }

    #[test]
    fn a_growing_index_keeps_every_key() {
        let index = KeyIndex::new(true);
        let keys: Vec<u64> = (0..5000).map(|i| i * 0x9E37_79B9).collect();
        index.append(&Keys::Fixed(keys.clone()), |_| false);
        for (row, key) in keys.iter().enumerate() {
            assert_eq!(get(&index, *key, 5000), Some((row, false)));
        }
        assert!(index.all_live(0..5000));
        index.append(&Keys::Fixed(vec![keys[3000]]), |_| false);
        assert!(!index.all_live(2000..4000) && index.all_live(0..1000));
        assert_eq!(index.len(), 5000);
    }

    #[test]
    fn readers_see_whole_rows_while_a_writer_appends() {
        let index = KeyIndex::new(true);
        let visible = AtomicUsize::new(0);
        std::thread::scope(|s| {
            s.spawn(|| {
                for i in 0..20_000u64 {
                    index.append(&Keys::Fixed(vec![i % 500]), |_| false);
                    visible.store(i as usize + 1, Ordering::Release);
                }
            });
            loop {
                let watermark = visible.load(Ordering::Acquire);
                for key in (0..500).step_by(97) {
                    let newest = (0..watermark).rev().find(|r| *r as u64 % 500 == key);
                    assert_eq!(get(&index, key, watermark).map(|(r, _)| r), newest);
                }
                if watermark == 20_000 {
                    break;
                }
            }
        });
    }
}
