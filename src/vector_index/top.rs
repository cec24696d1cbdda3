//! The nearest rows seen so far.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A row and its distance from a query.
#[derive(Debug, Clone, Copy)]
pub struct Neighbour {
    /// The row's number.
    pub row: u32,
    /// Its distance, as [`rank`](super::rank) says.
    pub distance: f32,
}

impl Ord for Neighbour {
    fn cmp(&self, other: &Self) -> Ordering {
        self.distance.total_cmp(&other.distance).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Neighbour {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Neighbour {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Neighbour {}

/// The `k` nearest of the rows that were offered; of rows as far as each other those with smaller numbers.
#[derive(Debug, Clone)]
pub struct Top {
    k: usize,
    heap: BinaryHeap<Neighbour>,
}

impl Top {
    /// Nothing yet, of at most `k` rows.
    pub fn new(k: usize) -> Self {
        // A caller who wants all rows may say so with a large number.
        Self { k, heap: BinaryHeap::with_capacity(k.min(1024)) }
    }

    /// Takes the row, if it is among the nearest.
    #[inline]
    pub fn offer(&mut self, neighbour: Neighbour) {
        if self.heap.len() < self.k {
            self.heap.push(neighbour);
        } else if let Some(mut last) = self.heap.peek_mut()
            && neighbour < *last
        {
            *last = neighbour;
        }
    }

    /// What a row's distance must not exceed to be taken: without limit until there are `k`.
    #[inline]
    pub fn limit(&self) -> f32 {
        match self.heap.peek() {
            Some(last) if self.heap.len() >= self.k && !last.distance.is_nan() => last.distance,
            Some(_) => f32::INFINITY,
            None if self.k == 0 => f32::NEG_INFINITY,
            None => f32::INFINITY,
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

    /// The rows, the nearest first.
    pub fn into_sorted(self) -> Vec<Neighbour> {
        self.heap.into_sorted_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_stay_in_order() {
        let mut top = Top::new(3);
        assert_eq!(top.limit(), f32::INFINITY);
        for (row, distance) in [(7, 3.0), (1, f32::NAN), (2, 5.0), (9, 1.0), (3, 3.0), (4, f32::INFINITY)] {
            top.offer(Neighbour { row, distance });
        }
        assert_eq!(top.limit(), 3.0);
        let rows: Vec<u32> = top.into_sorted().iter().map(|n| n.row).collect();
        assert_eq!(rows, [9, 3, 7]);
    }

    #[test]
    fn no_row_is_taken_when_none_is_asked_for() {
        let mut top = Top::new(0);
        top.offer(Neighbour { row: 0, distance: 0.0 });
        assert!(top.is_empty() && top.limit() < 0.0);
    }

    #[test]
    fn undefined_distances_come_last_and_set_no_limit() {
        let mut top = Top::new(2);
        for (row, distance) in [(0, f32::NAN), (1, 2.0)] {
            top.offer(Neighbour { row, distance });
        }
        assert_eq!((top.len(), top.limit()), (2, f32::INFINITY));
        assert_eq!(top.into_sorted()[0].row, 1);
    }
}
