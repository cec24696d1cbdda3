//! The postings of a term while others read them: a few bytes in the dictionary, then sealed blocks and a tail.
//!
//! A tail's bytes are written once and then published by its length; at 128 postings it becomes a block. What readers
//! hold never changes: a fuller tail or a longer list of blocks is a new chain, published as a whole.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;

use super::bits::LEN;
use super::block::Block;
use super::posting::{self, Positions, Posting, PostingList};

/// Bytes of postings that need no chain.
const HEAD: usize = 15;
/// Bytes of the smallest tail.
const SMALLEST: usize = 32;
/// Bytes of a tail that are sealed though there are less than 128 postings: readers decode tails.
const LARGEST: usize = 4096;

/// The postings of one term.
#[derive(Debug)]
pub(crate) struct Postings {
    chain: ArcSwapOption<Chain>,
    head_len: AtomicU8,
    /// All postings until there is a chain, stale then.
    head: [AtomicU8; HEAD],
}

/// One state of the postings.
#[derive(Debug)]
pub(crate) struct Chain {
    /// The first `sealed` are set.
    blocks: Arc<[OnceLock<Block>]>,
    sealed: usize,
    /// The tail: postings behind the blocks.
    bytes: Box<[AtomicU8]>,
    len: AtomicU32,
}

/// What the writer knows of a term.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pen {
    last_row: u32,
    /// Postings in the head or the tail.
    pending: u32,
}

/// What the writer needs to append postings: what is the same for every term, and buffers.
#[derive(Debug, Default)]
pub(crate) struct Ink {
    pub(crate) positions: Positions,
    bytes: Vec<u8>,
    list: PostingList,
    /// Bytes held by chains; what readers still hold of replaced ones is not counted.
    pub(crate) held: usize,
}

impl Ink {
    /// For postings coded so; `held` bytes are held already.
    pub(crate) fn new(positions: Positions, held: usize) -> Self {
        Self { positions, bytes: Vec::new(), list: PostingList::default(), held }
    }
}

fn zeros(len: usize) -> Box<[AtomicU8]> {
    (0..len).map(|_| AtomicU8::new(0)).collect()
}

fn write(bytes: &[u8], to: &[AtomicU8]) {
    for (byte, slot) in bytes.iter().zip(to) {
        slot.store(*byte, Ordering::Relaxed);
    }
}

fn read(bytes: &[AtomicU8], len: usize) -> impl Iterator<Item = u8> {
    bytes[..len].iter().map(|byte| byte.load(Ordering::Relaxed))
}

impl Chain {
    fn new(blocks: Arc<[OnceLock<Block>]>, sealed: usize, capacity: usize) -> Self {
        Self { blocks, sealed, bytes: zeros(capacity), len: AtomicU32::new(0) }
    }

    /// With the same postings and another capacity of the tail.
    fn resized(&self, capacity: usize) -> Self {
        let resized = Self::new(Arc::clone(&self.blocks), self.sealed, capacity);
        let len = self.len.load(Ordering::Relaxed);
        for (to, from) in resized.bytes.iter().zip(&self.bytes[..len as usize]) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        resized.len.store(len, Ordering::Relaxed);
        resized
    }

    /// Appends to the tail, which has the room. Only the writer may call this.
    fn push(&self, bytes: &[u8]) {
        let len = self.len.load(Ordering::Relaxed) as usize;
        write(bytes, &self.bytes[len..]);
        self.len.store((len + bytes.len()) as u32, Ordering::Release);
    }

    /// Bytes held besides the blocks.
    fn own_memory(&self) -> usize {
        size_of::<Self>() + 2 * size_of::<usize>() + self.bytes.len()
    }

    fn table_memory(&self) -> usize {
        if self.blocks.is_empty() { 0 } else { 2 * size_of::<usize>() + size_of_val::<[_]>(&self.blocks) }
    }

    /// The blocks.
    pub(crate) fn block(&self, i: usize) -> Option<&Block> {
        self.blocks.get(i).and_then(OnceLock::get)
    }
}

impl Postings {
    pub(crate) fn new() -> Self {
        Self { chain: ArcSwapOption::empty(), head_len: AtomicU8::new(0), head: [const { AtomicU8::new(0) }; HEAD] }
    }

    /// All postings of a term at once: `list` in row order, with positions if the ink keeps them. `length` knows the
    /// rows' tokens.
    pub(crate) fn of(list: &PostingList, ink: &mut Ink, length: impl Fn(u32) -> u32) -> Self {
        let with_positions = ink.positions == Positions::Kept;
        let (mut blocks, mut tail) = (Vec::new(), Vec::new());
        let (mut previous, mut position) = (0, 0);
        for start in (0..list.len()).step_by(LEN) {
            let end = list.len().min(start + LEN);
            let frequencies = &list.frequencies[start..end];
            let count = if with_positions { frequencies.iter().map(|f| *f as usize).sum() } else { 0 };
            let positions = &list.positions[position..position + count];
            position += count;
            if end - start < LEN {
                let mut from = 0;
                for (&row, &frequency) in list.rows[start..end].iter().zip(frequencies) {
                    let to = if with_positions { from + frequency as usize } else { from };
                    posting::encode(&mut tail, previous, Posting { row, frequency, positions: &positions[from..to] });
                    (previous, from) = (row, to);
                }
                if tail.len() <= LARGEST {
                    break;
                }
                tail.clear();
            }
            ink.list.clear();
            ink.list.rows.extend_from_slice(&list.rows[start..end]);
            ink.list.frequencies.extend_from_slice(frequencies);
            ink.list.positions.extend_from_slice(positions);
            let block = Block::seal(&ink.list, &length);
            ink.held += block.memory();
            blocks.push(OnceLock::from(block));
        }
        let postings = Self::new();
        if blocks.is_empty() && tail.len() <= HEAD {
            write(&tail, &postings.head);
            postings.head_len.store(tail.len() as u8, Ordering::Release);
        } else {
            let sealed = blocks.len();
            let chain = Chain::new(blocks.into(), sealed, tail.len());
            chain.push(&tail);
            ink.held += chain.own_memory() + chain.table_memory();
            postings.chain.store(Some(Arc::new(chain)));
        }
        postings
    }

    /// Appends a posting behind all others. `length` knows the rows' tokens. Only the writer may call this.
    pub(crate) fn append(&self, posting: Posting<'_>, pen: &mut Pen, ink: &mut Ink, length: impl Fn(u32) -> u32) {
        ink.bytes.clear();
        let previous = if pen.pending == 0 { 0 } else { pen.last_row };
        posting::encode(&mut ink.bytes, previous, posting);
        pen.last_row = posting.row;
        pen.pending += 1;
        let loaded = self.chain.load();
        let Some(chain) = loaded.as_deref() else {
            let len = usize::from(self.head_len.load(Ordering::Relaxed));
            if len + ink.bytes.len() <= HEAD {
                write(&ink.bytes, &self.head[len..]);
                self.head_len.store((len + ink.bytes.len()) as u8, Ordering::Release);
                return;
            }
            let capacity = (len + ink.bytes.len()).next_power_of_two().max(SMALLEST);
            let chain = Chain::new(Arc::new([]), 0, capacity);
            let head: Vec<u8> = read(&self.head, len).collect();
            chain.push(&head);
            chain.push(&ink.bytes);
            ink.held += chain.own_memory();
            self.chain.store(Some(Arc::new(chain)));
            return;
        };
        let len = chain.len.load(Ordering::Relaxed) as usize + ink.bytes.len();
        if pen.pending as usize == LEN || len > LARGEST {
            let sealed = Self::seal(chain, ink, length);
            pen.pending = 0;
            self.chain.store(Some(Arc::new(sealed)));
        } else if len > chain.bytes.len() {
            let grown = chain.resized(len.next_power_of_two());
            grown.push(&ink.bytes);
            ink.held = ink.held + grown.own_memory() - chain.own_memory();
            self.chain.store(Some(Arc::new(grown)));
        } else {
            chain.push(&ink.bytes);
        }
    }

    /// The chain with the tail and what is in the ink's bytes as one more block.
    fn seal(chain: &Chain, ink: &mut Ink, length: impl Fn(u32) -> u32) -> Chain {
        let len = chain.len.load(Ordering::Relaxed) as usize;
        ink.list.clear();
        let bytes = read(&chain.bytes, len).chain(ink.bytes.iter().copied());
        posting::decode(bytes, ink.positions, u32::MAX, &mut ink.list);
        let block = Block::seal(&ink.list, length);
        ink.held += block.memory();
        let mut blocks = Arc::clone(&chain.blocks);
        if chain.sealed == blocks.len() {
            let mut longer: Vec<OnceLock<Block>> = blocks.to_vec();
            longer.resize_with((2 * blocks.len()).max(1), OnceLock::new);
            blocks = longer.into();
        }
        // The slot is free: only this writer sets them, and in order.
        let _ = blocks[chain.sealed].set(block);
        let capacity = (chain.bytes.len() / 2).clamp(SMALLEST, LARGEST / 4);
        let sealed = Chain::new(blocks, chain.sealed + 1, capacity);
        ink.held = ink.held + sealed.own_memory() + sealed.table_memory() - chain.own_memory() - chain.table_memory();
        sealed
    }

    /// Gives back the room that no posting will need. Only the writer may call this.
    pub(crate) fn shrink(&self, ink: &mut Ink) {
        let loaded = self.chain.load();
        let Some(chain) = loaded.as_deref() else { return };
        let len = chain.len.load(Ordering::Relaxed) as usize;
        if len < chain.bytes.len() || chain.sealed < chain.blocks.len() {
            let mut shrunk = chain.resized(len);
            if chain.sealed < chain.blocks.len() {
                shrunk.blocks = chain.blocks[..chain.sealed].to_vec().into();
            }
            let (old, new) = (chain.own_memory() + chain.table_memory(), shrunk.own_memory() + shrunk.table_memory());
            ink.held = ink.held + new - old;
            self.chain.store(Some(Arc::new(shrunk)));
        }
    }

    /// The postings of rows below `watermark`, all of which were appended before.
    pub(crate) fn below(&self, watermark: u32, positions: Positions) -> Snapshot {
        let mut tail = PostingList::default();
        let chain = self.chain.load_full();
        let mut sealed = 0;
        match &chain {
            None => {
                let len = usize::from(self.head_len.load(Ordering::Acquire));
                posting::decode(read(&self.head, len), positions, watermark, &mut tail);
            }
            Some(chain) => {
                // The count of postings that a reader may see is that of its watermark, not that of the moment.
                let starts_below = |i: usize| chain.block(i).is_some_and(|block| block.first() < watermark);
                sealed = chain.sealed;
                if sealed > 0 && !starts_below(sealed - 1) {
                    let (mut low, mut high) = (0, sealed);
                    while low < high {
                        let middle = (low + high) / 2;
                        if starts_below(middle) { low = middle + 1 } else { high = middle }
                    }
                    sealed = low;
                } else {
                    let len = chain.len.load(Ordering::Acquire) as usize;
                    posting::decode(read(&chain.bytes, len), positions, watermark, &mut tail);
                }
            }
        }
        Snapshot { chain, sealed, tail }
    }
}

/// The postings of a term below a watermark: blocks, of which the last may reach beyond it, and a tail.
#[derive(Debug)]
pub(crate) struct Snapshot {
    chain: Option<Arc<Chain>>,
    sealed: usize,
    pub(crate) tail: PostingList,
}

impl Snapshot {
    /// Without a posting.
    pub(crate) fn empty() -> Self {
        Self { chain: None, sealed: 0, tail: PostingList::default() }
    }

    /// How many blocks there are.
    pub(crate) fn sealed(&self) -> usize {
        self.sealed
    }

    /// One of the blocks.
    pub(crate) fn block(&self, i: usize) -> Option<&Block> {
        if i < self.sealed { self.chain.as_deref().and_then(|chain| chain.block(i)) } else { None }
    }

    /// Appends all postings of rows below `watermark` to `into`.
    pub(crate) fn read(&self, watermark: u32, positions: Positions, into: &mut PostingList) {
        let (mut rows, mut frequencies) = ([0; LEN], [0; LEN]);
        for block in (0..self.sealed).map_while(|i| self.block(i)) {
            block.rows(&mut rows);
            block.frequencies(&mut frequencies);
            let len = rows[..block.len()].partition_point(|row| *row < watermark);
            into.rows.extend_from_slice(&rows[..len]);
            into.frequencies.extend_from_slice(&frequencies[..len]);
            if positions == Positions::Kept {
                let positions: usize = frequencies[..len].iter().map(|frequency| *frequency as usize).sum();
                block.positions(0, positions, &mut into.positions);
            }
        }
        into.rows.extend_from_slice(&self.tail.rows);
        into.frequencies.extend_from_slice(&self.tail.frequencies);
        into.positions.extend_from_slice(&self.tail.positions);
    }

    /// How many postings there are of rows below `watermark`.
    pub(crate) fn len(&self, watermark: u32) -> usize {
        let mut len = self.tail.len();
        for i in 0..self.sealed {
            let Some(block) = self.block(i) else { break };
            len += if block.last() < watermark {
                block.len()
            } else {
                let mut rows = [0; LEN];
                block.rows(&mut rows);
                rows[..block.len()].partition_point(|row| *row < watermark)
            };
        }
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    #[test]
    fn postings_come_back_below_every_watermark() {
        for seed in 0..40 {
            let mut rng = StdRng::seed_from_u64(seed);
            let positions = if seed % 2 == 0 { Positions::Kept } else { Positions::Absent };
            let (postings, mut pen) = (Postings::new(), Pen::default());
            let mut ink = Ink::new(positions, 0);
            let (mut all, mut row) = (PostingList::default(), 0);
            let count = [3, 5, 127, 128, 129, 1000][seed as usize % 6];
            let check = |postings: &Postings, all: &PostingList, watermark: u32| {
                let mut read = PostingList::default();
                let snapshot = postings.below(watermark, positions);
                snapshot.read(watermark, positions, &mut read);
                let len = all.rows.partition_point(|row| *row < watermark);
                assert_eq!(read.rows, all.rows[..len], "seed {seed}");
                assert_eq!(read.frequencies, all.frequencies[..len]);
                let count: u32 = all.frequencies[..len].iter().sum();
                let expected = if positions == Positions::Kept { &all.positions[..count as usize] } else { &[] };
                assert_eq!(read.positions, expected);
                assert_eq!(snapshot.len(watermark), len);
            };
            for _ in 0..count {
                let frequency = if rng.random_bool(0.02) { 900 } else { rng.random_range(1..4) };
                let places: Vec<u32> = (0..frequency).map(|i| i * 7).collect();
                let kept = if positions == Positions::Kept { &places[..] } else { &[] };
                postings.append(Posting { row, frequency, positions: kept }, &mut pen, &mut ink, |row| row + 1);
                all.rows.push(row);
                all.frequencies.push(frequency);
                all.positions.extend(places);
                row += rng.random_range(1..300);
                if rng.random_bool(0.1) {
                    check(&postings, &all, rng.random_range(0..=row));
                }
            }
            let held = ink.held;
            postings.shrink(&mut ink);
            assert!(ink.held <= held);
            let at_once = Postings::of(&all, &mut ink, |row| row + 1);
            for watermark in [0, 1, row / 3, row] {
                check(&postings, &all, watermark);
                check(&at_once, &all, watermark);
            }
        }
    }
}
