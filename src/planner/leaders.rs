//! The best scores that the sources of one query found so far: a source need not read rows that are not among them.

use std::sync::Arc;

use parking_lot::Mutex;

/// Scores are sums, and the same but for the order in which they were added up: by so much, for each 1.
const ROUNDING: f32 = 1e-5;

/// What the best rows of each source score.
///
/// All that is asked of rows must have been asked before their scores are offered, and be answered alike above: a row
/// that is left out because of another must not be missing when that one is dropped.
#[derive(Debug)]
pub(super) struct Leaders {
    k: usize,
    /// Source by source: who searches twice finds the same.
    scores: Mutex<Vec<Vec<f32>>>,
}

/// One source's place among the leaders.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    leaders: Arc<Leaders>,
    number: usize,
}

impl Leaders {
    /// Of a query for the `k` best rows of all sources together.
    pub(super) fn new(k: usize) -> Arc<Self> {
        Arc::new(Self { k, scores: Mutex::default() })
    }

    /// A place for one more source.
    pub(super) fn enter(self: &Arc<Self>) -> Seat {
        let mut scores = self.scores.lock();
        scores.push(Vec::new());
        Seat { leaders: Arc::clone(self), number: scores.len() - 1 }
    }
}

impl Seat {
    /// Takes what the best rows of the source score, none below 0. Gives what the last of the `k` best of all sources
    /// scores so far: rows with less are not wanted. `None` as long as there are fewer than `k`.
    pub(super) fn offer(&self, scores: Vec<f32>) -> Option<f32> {
        let mut known = self.leaders.scores.lock();
        known[self.number] = scores;
        let mut all: Vec<f32> = known.iter().flatten().copied().collect();
        let last = self.leaders.k.checked_sub(1).filter(|last| *last < all.len())?;
        let least = *all.select_nth_unstable_by(last, |a, b| b.total_cmp(a)).1 * (1.0 - ROUNDING);
        known.iter_mut().for_each(|scores| scores.retain(|score| *score >= least));
        Some(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_the_best_of_all_sources_is_told() {
        let near = |told: Option<f32>, score: f32| told.is_some_and(|told| (score * 0.9999..=score).contains(&told));
        let leaders = Leaders::new(3);
        let (first, second) = (leaders.enter(), leaders.enter());
        assert_eq!(second.offer(vec![5.0, 1.0]), None);
        assert!(near(first.offer(vec![4.0, 3.0]), 3.0));
        assert!(near(first.offer(vec![4.0, 3.0]), 3.0), "the same rows again");
        assert!(near(leaders.enter().offer(vec![9.0]), 4.0));
        assert!(near(second.offer(vec![5.0, 1.0]), 4.0));
        assert_eq!(Leaders::new(0).enter().offer(vec![1.0]), None);
        assert_eq!(Leaders::new(usize::MAX).enter().offer(vec![1.0; 9]), None);
    }
}
