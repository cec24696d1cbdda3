//! Postings of a term in plain form, and their coding as bytes while there are few.

/// The postings of one term, in row order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PostingList {
    /// The rows that hold the term.
    pub rows: Vec<u32>,
    /// How often each does.
    pub frequencies: Vec<u32>,
    /// Where: those of the first row, then those of the second, each in order. Empty if the index keeps none.
    pub positions: Vec<u32>,
}

impl PostingList {
    /// How many rows hold the term.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether no row does.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether these are postings of rows below `rows`: rows ascend, each holds the term, positions are in order.
    pub(crate) fn is_sound(&self, rows: u32, with_positions: bool) -> bool {
        let count: u64 = self.frequencies.iter().map(|frequency| u64::from(*frequency)).sum();
        let mut start = 0;
        let mut in_order = |frequency: &u32| {
            let end = start + *frequency as usize;
            let is_sorted = self.positions[start..end].is_sorted();
            start = end;
            is_sorted
        };
        self.rows.len() == self.frequencies.len()
            && self.rows.is_sorted_by(|a, b| a < b)
            && self.rows.last().is_none_or(|last| *last < rows)
            && self.frequencies.iter().all(|frequency| *frequency > 0)
            && match with_positions {
                true => self.positions.len() as u64 == count && self.frequencies.iter().all(&mut in_order),
                false => self.positions.is_empty(),
            }
    }

    /// Forgets all postings.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.frequencies.clear();
        self.positions.clear();
    }
}

/// A posting that is appended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Posting<'a> {
    pub(crate) row: u32,
    pub(crate) frequency: u32,
    /// In order; empty if the index keeps none.
    pub(crate) positions: &'a [u32],
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn get(bytes: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes.next()?;
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(value);
        }
        // What `put` wrote has at most ten bytes.
        shift = (shift + 7).min(63);
    }
}

/// Appends a posting behind one of row `previous`, which is 0 in front of the first.
pub(crate) fn encode(out: &mut Vec<u8>, previous: u32, posting: Posting<'_>) {
    let delta = u64::from(posting.row - previous) << 1;
    if posting.frequency == 1 {
        put(out, delta | 1);
    } else {
        put(out, delta);
        put(out, u64::from(posting.frequency));
    }
    let mut last = 0;
    for &position in posting.positions {
        put(out, u64::from(position - last));
        last = position;
    }
}

/// What is done with the positions of coded postings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Positions {
    /// There are none.
    #[default]
    Absent,
    /// They are there and not wanted.
    Skipped,
    /// They are there and wanted.
    Kept,
}

/// Appends the postings of rows below `watermark` to `into`.
pub(crate) fn decode(
    mut bytes: impl Iterator<Item = u8>,
    positions: Positions,
    watermark: u32,
    into: &mut PostingList,
) {
    let mut row = 0;
    while let Some(word) = get(&mut bytes) {
        row += (word >> 1) as u32;
        if row >= watermark {
            return;
        }
        let frequency = if word & 1 == 1 { Some(1) } else { get(&mut bytes) };
        let Some(frequency) = frequency else { return };
        into.rows.push(row);
        into.frequencies.push(frequency as u32);
        match positions {
            Positions::Absent => {}
            Positions::Skipped => (0..frequency).for_each(|_| _ = get(&mut bytes)),
            Positions::Kept => {
                let mut position = 0;
                for _ in 0..frequency {
                    position += get(&mut bytes).unwrap_or(0) as u32;
                    into.positions.push(position);
                }
            }
        }
    }
}
