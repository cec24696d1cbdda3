//! Keeps the best rows of those offered in row order.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU32, Ordering as Memory};

use super::search::Hit;

/// What becomes of matching rows.
pub(crate) trait Collector {
    /// Only scores above are of use.
    fn threshold(&self) -> f32;

    /// Takes a row behind all others that were offered, of a score above the threshold.
    fn offer(&mut self, row: u32, score: f32);
}

/// Scores are sums, and the same but for the order in which they were added up: by so much, for each 1.
const ROUNDING: f32 = 1e-5;

/// What the best rows score at least, as far as it is known to those who search for them side by side.
#[derive(Debug)]
pub struct Floor(AtomicU32);

impl Floor {
    /// Only scores above `score` are wanted.
    pub fn new(score: f32) -> Self {
        Self(AtomicU32::new(score.to_bits()))
    }

    /// Only scores above are wanted.
    #[inline]
    pub fn get(&self) -> f32 {
        f32::from_bits(self.0.load(Memory::Relaxed))
    }

    /// There are as many rows as are wanted that score `score` or more. Others that score as much stay wanted: which of
    /// them are taken must not depend on who was first.
    pub fn raise(&self, score: f32) {
        let floor = (score - score.abs() * ROUNDING).next_down();
        let higher = |bits: u32| (f32::from_bits(bits) < floor).then(|| floor.to_bits());
        // Nothing else depends on it, and somebody else may have raised it further.
        let _ = self.0.fetch_update(Memory::Relaxed, Memory::Relaxed, higher);
    }
}

/// The `k` best: by score, then by row.
#[derive(Debug)]
pub(crate) struct TopK<'a> {
    k: usize,
    /// The worst on top.
    heap: BinaryHeap<Worst>,
    threshold: f32,
    floor: &'a Floor,
}

#[derive(Debug)]
struct Worst(Hit);

impl Ord for Worst {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.score.total_cmp(&self.0.score).then(self.0.row.cmp(&other.0.row))
    }
}

impl PartialOrd for Worst {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Worst {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Worst {}

impl<'a> TopK<'a> {
    /// Scores that are not above `floor` are not wanted; it is raised when there are `k`.
    pub(crate) fn new(k: usize, floor: &'a Floor) -> Self {
        let threshold = if k == 0 { f32::INFINITY } else { f32::NEG_INFINITY };
        Self { k, heap: BinaryHeap::with_capacity(k.min(1024)), threshold, floor }
    }

    /// The best first.
    pub(crate) fn into_hits(self) -> Vec<Hit> {
        self.heap.into_sorted_vec().into_iter().map(|worst| worst.0).collect()
    }
}

impl Collector for TopK<'_> {
    #[inline]
    fn threshold(&self) -> f32 {
        self.threshold.max(self.floor.get())
    }

    fn offer(&mut self, row: u32, score: f32) {
        let worst = Worst(Hit { row, score });
        if self.heap.len() < self.k {
            self.heap.push(worst);
        } else if let Some(mut top) = self.heap.peek_mut() {
            *top = worst;
        }
        if self.heap.len() == self.k
            && let Some(top) = self.heap.peek()
        {
            // Rows are offered in order: of equal scores those that are there stay.
            self.threshold = self.threshold.max(top.0.score);
            self.floor.raise(top.0.score);
        }
    }
}

/// All, in row order.
#[derive(Debug, Default)]
pub(crate) struct Everything {
    pub(crate) hits: Vec<Hit>,
}

impl Collector for Everything {
    fn threshold(&self) -> f32 {
        f32::NEG_INFINITY
    }

    fn offer(&mut self, row: u32, score: f32) {
        self.hits.push(Hit { row, score });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_stay_and_earlier_rows_before_later() {
        let floor = Floor::new(f32::NEG_INFINITY);
        let mut top = TopK::new(3, &floor);
        for (row, score) in [2.0, 1.0, 3.0, 2.0, 2.5, 2.0].into_iter().enumerate() {
            if score > top.threshold() {
                top.offer(row as u32, score);
            }
        }
        let hits: Vec<(u32, f32)> = top.into_hits().iter().map(|hit| (hit.row, hit.score)).collect();
        assert_eq!(hits, [(2, 3.0), (4, 2.5), (0, 2.0)]);
        assert_eq!(TopK::new(0, &Floor::new(0.0)).threshold(), f32::INFINITY);
    }

    #[test]
    fn those_who_search_side_by_side_leave_out_what_others_beat() {
        let floor = Floor::new(0.0);
        let (mut first, mut second) = (TopK::new(2, &floor), TopK::new(2, &floor));
        first.offer(5, 3.0);
        assert_eq!((second.threshold(), floor.get()), (0.0, 0.0), "one is not enough");
        first.offer(6, 2.0);
        assert!((1.99..2.0).contains(&second.threshold()), "the same score is still wanted");
        second.offer(1, 2.0);
        second.offer(2, 1.0);
        assert!(floor.get() > 1.99 && first.threshold() == 2.0, "it never sinks");
        assert_eq!(first.into_hits().len() + second.into_hits().len(), 4);
    }
}
