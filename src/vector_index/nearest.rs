//! The nearest rows, by ranks of 64 bits.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// The `k` nearest of the rows that were offered; of rows as far as each other those with smaller numbers.
#[derive(Debug)]
pub struct Nearest {
    k: usize,
    /// The farthest on top.
    heap: BinaryHeap<Ranked>,
}

#[derive(Debug, Clone, Copy)]
struct Ranked {
    rank: f64,
    row: u64,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank.total_cmp(&other.rank).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked {}

impl Nearest {
    /// Nothing yet, of at most `k` rows.
    pub fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::new() }
    }

    /// Takes the row, if it is among the nearest.
    pub fn offer(&mut self, row: u64, rank: f64) {
        let ranked = Ranked { rank, row };
        if self.heap.len() < self.k {
            self.heap.push(ranked);
        } else if let Some(mut last) = self.heap.peek_mut()
            && ranked < *last
        {
            *last = ranked;
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
        self.heap.into_iter().map(|ranked| ranked.row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_stay_and_of_equal_ones_the_first() {
        let mut nearest = Nearest::new(3);
        for (row, rank) in [(7, 1e40), (3, 2e40), (9, -1e39), (4, 2e40), (1, 3e40)] {
            nearest.offer(row, rank);
        }
        let mut rows: Vec<u64> = nearest.into_rows().collect();
        rows.sort_unstable();
        assert_eq!(rows, [3, 7, 9]);
        let mut none = Nearest::new(0);
        none.offer(1, 1.0);
        assert!(none.is_empty());
    }
}
