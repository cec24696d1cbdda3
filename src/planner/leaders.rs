//! The best scores that the sources of one query found so far: a source need neither score nor read rows that are not
//! among them.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::text_index::Floor;

/// What the best rows of each source score.
///
/// All that is asked of rows must have been asked before their scores are offered, and be answered alike above: a row
/// that is left out because of another must not be missing when that one is dropped.
#[derive(Debug)]
pub(super) struct Leaders {
    /// How many rows are wanted; `None` if no row may be left out because of another source's.
    k: Option<usize>,
    /// Source by source: who searches twice finds the same.
    scores: Mutex<Vec<Vec<f32>>>,
    floor: Arc<Floor>,
}

/// One source's place among the leaders.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    leaders: Arc<Leaders>,
    number: usize,
}

impl Leaders {
    /// Of a query for the `k` best rows of all sources together, or for those of each on its own.
    pub(super) fn new(k: Option<usize>) -> Arc<Self> {
        Arc::new(Self { k, scores: Mutex::default(), floor: Arc::new(Floor::new(0.0)) })
    }

    /// A place for one more source.
    pub(super) fn enter(self: &Arc<Self>) -> Seat {
        let mut scores = self.scores.lock();
        scores.push(Vec::new());
        Seat { leaders: Arc::clone(self), number: scores.len() - 1 }
    }
}

impl Seat {
    /// What rows that are wanted score at least, for a search for as many rows as are wanted.
    pub(super) fn floor(&self) -> Arc<Floor> {
        match self.leaders.k {
            Some(_) => Arc::clone(&self.leaders.floor),
            None => Arc::new(Floor::new(0.0)),
        }
    }

    /// Takes what the best rows of the source score, none below 0.
    pub(super) fn offer(&self, scores: Vec<f32>) {
        let Some(k) = self.leaders.k else { return };
        let mut known = self.leaders.scores.lock();
        known[self.number] = scores;
        let mut all: Vec<f32> = known.iter().flatten().copied().collect();
        if let Some(last) = k.checked_sub(1).filter(|last| *last < all.len()) {
            self.leaders.floor.raise(*all.select_nth_unstable_by(last, |a, b| b.total_cmp(a)).1);
        }
        let floor = self.leaders.floor.get();
        known.iter_mut().for_each(|scores| scores.retain(|score| *score >= floor));
    }

    /// What the `k` best rows of all sources score at least, about, as far as they were offered: rows with less are not
    /// wanted. `None` as long as there are fewer than `k`.
    pub(super) fn least(&self) -> Option<f32> {
        let floor = self.leaders.floor.get();
        (self.leaders.k.is_some() && floor > 0.0).then_some(floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_the_best_of_all_sources_is_told() {
        let near = |told: Option<f32>, score: f32| told.is_some_and(|told| (score * 0.9999..=score).contains(&told));
        let leaders = Leaders::new(Some(3));
        let (first, second) = (leaders.enter(), leaders.enter());
        let told = |seat: &Seat, scores: &[f32]| {
            seat.offer(scores.to_vec());
            seat.least()
        };
        assert_eq!(told(&second, &[5.0, 1.0]), None);
        assert!(near(told(&first, &[4.0, 3.0]), 3.0));
        assert!(near(told(&first, &[4.0, 3.0]), 3.0), "the same rows again");
        assert!(near(told(&leaders.enter(), &[9.0]), 4.0));
        assert!(near(second.least(), 4.0), "it is told what others offered since");
        assert!(near(told(&second, &[5.0, 1.0]), 4.0));
        assert_eq!(told(&Leaders::new(Some(0)).enter(), &[1.0]), None);
    }

    #[test]
    fn what_a_search_finds_before_it_ends_is_known_to_all() {
        let leaders = Leaders::new(Some(2));
        let (first, second) = (leaders.enter(), leaders.enter());
        first.floor().raise(7.0);
        second.offer(vec![1.0]);
        assert!(second.least().is_some_and(|floor| floor > 6.9));
        let apart = Leaders::new(None);
        let (first, second) = (apart.enter(), apart.enter());
        first.floor().raise(7.0);
        second.offer(vec![1.0; 9]);
        assert_eq!((second.floor().get(), second.least()), (0.0, None));
    }
}
