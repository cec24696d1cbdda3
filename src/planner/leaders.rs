//! The best scores that the sources of one query found so far: a source need neither score nor read rows that are not
//! among them.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::text_index::Floor;

/// What the best rows of each source score.
///
/// All that is asked of rows must have been asked before their scores are offered, and be answered alike above: a row
/// that is left out because of another must not be missing when that one is dropped.
///
/// Stored sources leave out rows because of other stored ones alone. They all search before any of them reads rows, so which
/// it reads depends on nothing but the rows; a memtable is searched when its turn comes, and a query that is repeated would
/// read other rows when that is later.
#[derive(Debug)]
pub(super) struct Leaders {
    /// How many rows are wanted; `None` if no row may be left out because of another source's.
    k: Option<usize>,
    all: Group,
    stored: Group,
}

/// The best scores of some sources.
#[derive(Debug)]
struct Group {
    /// Source by source: who searches twice finds the same.
    scores: Mutex<Vec<Vec<f32>>>,
    floor: Arc<Floor>,
}

/// One source's place among the leaders.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    leaders: Arc<Leaders>,
    in_all: usize,
    /// `None` of a memtable.
    in_stored: Option<usize>,
}

impl Leaders {
    /// Of a query for the `k` best rows of all sources together, or for those of each on its own.
    pub(super) fn new(k: Option<usize>) -> Arc<Self> {
        Arc::new(Self { k, all: Group::new(), stored: Group::new() })
    }

    /// A place for one more memtable.
    pub(super) fn enter_memtable(self: &Arc<Self>) -> Seat {
        Seat { leaders: Arc::clone(self), in_all: self.all.enter(), in_stored: None }
    }

    /// A place for one more generation, or for the base.
    pub(super) fn enter_stored(self: &Arc<Self>) -> Seat {
        Seat { in_stored: Some(self.stored.enter()), ..self.enter_memtable() }
    }
}

impl Group {
    fn new() -> Self {
        Self { scores: Mutex::default(), floor: Arc::new(Floor::new(0.0)) }
    }

    fn enter(&self) -> usize {
        let mut scores = self.scores.lock();
        scores.push(Vec::new());
        scores.len() - 1
    }

    /// Takes what the best rows of the source at `place` score.
    fn offer(&self, place: usize, scores: Vec<f32>, k: usize) {
        let mut known = self.scores.lock();
        known[place] = scores;
        let mut all: Vec<f32> = known.iter().flatten().copied().collect();
        if let Some(last) = k.checked_sub(1).filter(|last| *last < all.len()) {
            self.floor.raise(*all.select_nth_unstable_by(last, |a, b| b.total_cmp(a)).1);
        }
        let floor = self.floor.get();
        known.iter_mut().for_each(|scores| scores.retain(|score| *score >= floor));
    }

    /// What the `k` best rows score at least, about, as far as they were offered; `None` as long as there are fewer.
    fn least(&self) -> Option<f32> {
        Some(self.floor.get()).filter(|floor| *floor > 0.0)
    }
}

impl Seat {
    /// The sources because of which the one here may leave rows out.
    fn others(&self) -> &Group {
        if self.in_stored.is_some() { &self.leaders.stored } else { &self.leaders.all }
    }

    /// What rows that are wanted score at least, for a search for as many rows as are wanted.
    pub(super) fn floor(&self) -> Arc<Floor> {
        match self.leaders.k {
            Some(_) => Arc::clone(&self.others().floor),
            None => Arc::new(Floor::new(0.0)),
        }
    }

    /// Takes what the best rows of the source score, none below 0.
    pub(super) fn offer(&self, scores: Vec<f32>) {
        let Some(k) = self.leaders.k else { return };
        if let Some(place) = self.in_stored {
            self.leaders.stored.offer(place, scores.clone(), k);
        }
        self.leaders.all.offer(self.in_all, scores, k);
    }

    /// What rows of the source score at least, about, that may be among the `k` best; `None` if all that it offered may be.
    pub(super) fn least(&self) -> Option<f32> {
        self.leaders.k.and_then(|_| self.others().least())
    }

    /// Whether all sources together are known to have `k` rows that score something.
    pub(super) fn has_enough(&self) -> bool {
        self.leaders.k.is_some() && self.leaders.all.least().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_the_best_of_all_sources_is_told() {
        let near = |told: Option<f32>, score: f32| told.is_some_and(|told| (score * 0.9999..=score).contains(&told));
        let leaders = Leaders::new(Some(3));
        let (first, second) = (leaders.enter_stored(), leaders.enter_stored());
        let told = |seat: &Seat, scores: &[f32]| {
            seat.offer(scores.to_vec());
            seat.least()
        };
        assert_eq!(told(&second, &[5.0, 1.0]), None);
        assert!(near(told(&first, &[4.0, 3.0]), 3.0));
        assert!(near(told(&first, &[4.0, 3.0]), 3.0), "the same rows again");
        assert!(near(told(&leaders.enter_stored(), &[9.0]), 4.0));
        assert!(near(second.least(), 4.0), "it is told what others offered since");
        assert!(near(told(&second, &[5.0, 1.0]), 4.0));
        assert_eq!(told(&Leaders::new(Some(0)).enter_memtable(), &[1.0]), None);
    }

    #[test]
    fn what_a_search_finds_before_it_ends_is_known_to_all() {
        let leaders = Leaders::new(Some(2));
        let (first, second) = (leaders.enter_stored(), leaders.enter_stored());
        first.floor().raise(7.0);
        second.offer(vec![1.0]);
        assert!(second.least().is_some_and(|floor| floor > 6.9));
        let apart = Leaders::new(None);
        let (first, second) = (apart.enter_stored(), apart.enter_memtable());
        first.floor().raise(7.0);
        second.offer(vec![1.0; 9]);
        assert_eq!((second.floor().get(), second.least(), second.has_enough()), (0.0, None, false));
    }

    #[test]
    fn what_stored_sources_read_does_not_depend_on_when_a_memtable_is_searched() {
        let told = |is_first: bool| {
            let leaders = Leaders::new(Some(2));
            let (memtable, first, second) = (leaders.enter_memtable(), leaders.enter_stored(), leaders.enter_stored());
            let search = || {
                memtable.floor().raise(8.0);
                memtable.offer(vec![9.0, 8.0]);
            };
            if is_first {
                search();
            }
            let floor = first.floor().get();
            first.offer(vec![5.0]);
            second.offer(vec![4.0, 3.0]);
            let told = (floor, first.least(), second.least());
            if !is_first {
                search();
            }
            assert!(memtable.has_enough() && memtable.least().is_some_and(|floor| floor > 7.9));
            told
        };
        assert_eq!(told(true), told(false));
        assert!(told(true).1.is_some_and(|floor| (3.9..4.0).contains(&floor)));
        // Whoever has too few rows need not look for others that score nothing.
        let leaders = Leaders::new(Some(2));
        let (memtable, stored) = (leaders.enter_memtable(), leaders.enter_stored());
        memtable.offer(vec![1.0]);
        assert!(!stored.has_enough());
        stored.offer(vec![1.0]);
        assert!(stored.has_enough() && stored.least().is_none());
    }
}
