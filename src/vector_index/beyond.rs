//! The nearest of rows whose ranks are beyond the numbers of 32 bits.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Rows whose ranks 32 bits cannot tell apart: the `k` nearest of them by their ranks in 64 bits, of equal ones those with
/// smaller numbers.
#[derive(Debug)]
pub struct Beyond {
    k: usize,
    /// The farthest on top.
    heap: BinaryHeap<Far>,
}

#[derive(Debug, Clone, Copy)]
struct Far {
    rank: f64,
    row: u64,
}

impl Ord for Far {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank.total_cmp(&other.rank).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Far {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Far {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Far {}

impl Beyond {
    /// Nothing yet, of at most `k` rows.
    pub fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::new() }
    }

    /// Takes the row, if it is among the nearest.
    pub fn offer(&mut self, row: u64, rank: f64) {
        self.heap.push(Far { rank, row });
        if self.heap.len() > self.k {
            self.heap.pop();
        }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// The rows, in no order.
    pub fn into_rows(self) -> impl Iterator<Item = u64> {
        self.heap.into_iter().map(|far| far.row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_stay_and_of_equal_ones_the_first() {
        let mut beyond = Beyond::new(3);
        for (row, rank) in [(7, 1e40), (3, 2e40), (9, -1e39), (4, 2e40), (1, 3e40)] {
            beyond.offer(row, rank);
        }
        let mut rows: Vec<u64> = beyond.into_rows().collect();
        rows.sort_unstable();
        assert_eq!(rows, [3, 7, 9]);
        let mut none = Beyond::new(0);
        none.offer(1, 1.0);
        assert!(none.is_empty());
    }
}
