//! Keeps the best rows of those offered in row order.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::search::Hit;

/// What becomes of matching rows.
pub(crate) trait Collector {
    /// Only scores above are of use.
    fn threshold(&self) -> f32;

    /// Takes a row behind all others that were offered, of a score above the threshold.
    fn offer(&mut self, row: u32, score: f32);
}

/// The `k` best: by score, then by row.
#[derive(Debug)]
pub(crate) struct TopK {
    k: usize,
    /// The worst on top.
    heap: BinaryHeap<Worst>,
    threshold: f32,
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

impl TopK {
    /// Scores that are not above `floor` are not wanted.
    pub(crate) fn new(k: usize, floor: f32) -> Self {
        let threshold = if k == 0 { f32::INFINITY } else { floor };
        Self { k, heap: BinaryHeap::with_capacity(k.min(1024)), threshold }
    }

    /// The best first.
    pub(crate) fn into_hits(self) -> Vec<Hit> {
        self.heap.into_sorted_vec().into_iter().map(|worst| worst.0).collect()
    }
}

impl Collector for TopK {
    fn threshold(&self) -> f32 {
        self.threshold
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
        let mut top = TopK::new(3, f32::NEG_INFINITY);
        for (row, score) in [2.0, 1.0, 3.0, 2.0, 2.5, 2.0].into_iter().enumerate() {
            if score > top.threshold() {
                top.offer(row as u32, score);
            }
        }
        let hits: Vec<(u32, f32)> = top.into_hits().iter().map(|hit| (hit.row, hit.score)).collect();
        assert_eq!(hits, [(2, 3.0), (4, 2.5), (0, 2.0)]);
        assert_eq!(TopK::new(0, 0.0).threshold(), f32::INFINITY);
    }
}
