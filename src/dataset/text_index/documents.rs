//! Which rows the documents of a partition are.

use std::sync::Arc;

use arrow::buffer::BooleanBuffer;
use parking_lot::Mutex;
use roaring::RoaringTreemap;

use super::dead::Dead;

/// The documents of one partition, numbered from 0.
///
/// Indexes are built batch by batch, so that most documents are the row behind the one before.
#[derive(Debug)]
pub(super) struct Documents {
    runs: Vec<Run>,
    /// The runs in the order of their row ids; none if that is their own.
    order: Option<Vec<u32>>,
    len: u32,
    /// Those that the dataset no longer has, as bits.
    gone: Vec<u64>,
    /// Those that the last query did not want to be found.
    dead: Mutex<Option<Arc<Dead>>>,
}

/// Documents up to the next run's, whose row ids ascend by one.
#[derive(Debug, Clone, Copy)]
struct Run {
    document: u32,
    row_id: u64,
}

impl Documents {
    /// Of these row ids, of which the dataset has those that `is_there`, which is asked once for each.
    pub(super) fn new(row_ids: &[u64], mut is_there: impl FnMut(u64) -> bool) -> Self {
        let mut gone = vec![0; row_ids.len().div_ceil(64)];
        for (i, _) in row_ids.iter().enumerate().filter(|(_, id)| !is_there(**id)) {
            gone[i / 64] |= 1 << (i % 64);
        }
        let chunks = row_ids.chunk_by(|a, b| a.checked_add(1) == Some(*b));
        let runs = chunks.scan(0, |document, ids| {
            let run = Run { document: *document, row_id: ids[0] };
            *document += ids.len() as u32;
            Some(run)
        });
        let mut runs: Vec<Run> = runs.collect();
        runs.shrink_to_fit();
        let order = (!runs.is_sorted_by_key(|run| run.row_id)).then(|| {
            let mut order: Vec<u32> = (0..runs.len() as u32).collect();
            order.sort_by_key(|run| runs[*run as usize].row_id);
            order
        });
        Self { runs, order, len: row_ids.len() as u32, gone, dead: Mutex::default() }
    }

    pub(super) fn row_id(&self, document: u32) -> u64 {
        let run = self.runs[self.runs.partition_point(|run| run.document <= document) - 1];
        run.row_id + u64::from(document - run.document)
    }

    /// The row ids of the documents whose bit is set.
    pub(super) fn row_ids(&self, words: &[u64]) -> RoaringTreemap {
        let set = BooleanBuffer::new(words.to_vec().into(), 0, (self.len as usize).min(words.len() * 64));
        let mut place = 0;
        let row_id = |document: usize| {
            while self.runs.get(place + 1).is_some_and(|run| run.document as usize <= document) {
                place += 1;
            }
            let run = self.runs[place];
            run.row_id + (document - run.document as usize) as u64
        };
        set.set_indices().map(row_id).collect()
    }

    /// No document, as bits.
    pub(super) fn none(&self) -> Vec<u64> {
        vec![0; self.gone.len()]
    }

    /// Those that are gone, and those that are `superseded` rows.
    pub(super) fn dead(&self, superseded: &Arc<RoaringTreemap>) -> Arc<Dead> {
        if let Some(dead) = self.dead.lock().as_ref().filter(|dead| dead.is_of(superseded)) {
            return Arc::clone(dead);
        }
        let mut words = self.gone.clone();
        self.mark(superseded, &mut words);
        let dead = Arc::new(Dead::new(superseded, words));
        *self.dead.lock() = Some(Arc::clone(&dead));
        dead
    }

    /// Bytes of memory held, those of dead documents included.
    pub(super) fn memory(&self) -> usize {
        let order = self.order.as_ref().map_or(0, Vec::capacity);
        let dead = self.gone.len();
        size_of::<Self>() + self.runs.capacity() * size_of::<Run>() + order * 4 + (self.gone.capacity() + dead) * 8
    }

    /// Sets the bits of the documents that are these rows.
    pub(super) fn mark(&self, row_ids: &RoaringTreemap, words: &mut [u64]) {
        let mut ids = row_ids.iter();
        let (mut next, mut passed) = (ids.next(), None);
        for place in 0..self.runs.len() {
            let place = self.order.as_ref().map_or(place, |order| order[place] as usize);
            let Run { document, row_id: first } = self.runs[place];
            let end = self.runs.get(place + 1).map_or(self.len, |run| run.document);
            let last = first + u64::from(end - document - 1);
            if passed.is_some_and(|passed| first <= passed) {
                // Some document is the same row as one before.
                ids = row_ids.iter();
                next = ids.next();
            }
            let Some(id) = next else { break };
            if id < first {
                ids.advance_to(first);
                next = ids.next();
            }
            while let Some(id) = next.filter(|id| *id <= last) {
                let document = (document + (id - first) as u32) as usize;
                words[document / 64] |= 1 << (document % 64);
                next = ids.next();
            }
            passed = passed.max(Some(last));
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

    use super::*;

    #[test]
    fn documents_are_found_by_row_id_in_any_order() {
        let mut rng = StdRng::seed_from_u64(11);
        for round in 0..60 {
            let mut ids: Vec<u64> = match round % 3 {
                0 => (0..rng.random_range(1..500)).map(|i| i * 3 + ((i % 5) << 32)).collect(),
                _ => (0..1600).filter(|id| id % 100 < 70).collect(),
            };
            ids.sort_unstable();
            if round % 2 == 0 {
                // Batches that came in another order, or all rows apart.
                let mut batches: Vec<Vec<u64>> = ids.chunks([1, 64][round / 2 % 2]).map(<[u64]>::to_vec).collect();
                batches.shuffle(&mut rng);
                ids = batches.concat();
            }
            if round % 5 == 0 {
                ids.extend_from_within(..ids.len() / 3);
            }
            let documents = Documents::new(&ids, |id| id % 2 == 0);
            for share in [0.0, 0.01, 0.9] {
                let some: RoaringTreemap = (0..1600).filter(|_| rng.random_bool(share)).collect();
                let some = Arc::new(some);
                let dead = documents.dead(&some);
                assert!(Arc::ptr_eq(&dead, &documents.dead(&some)), "it is kept");
                let mut words = documents.none();
                documents.mark(&some, &mut words);
                let there = ids.iter().copied().filter(|id| some.contains(*id));
                assert_eq!(documents.row_ids(&words), there.collect::<RoaringTreemap>());
                for (i, id) in ids.iter().enumerate() {
                    assert_eq!(documents.row_id(i as u32), *id);
                    let is_set = |words: &[u64]| words[i / 64] >> (i % 64) & 1 == 1;
                    assert_eq!(is_set(&words), some.contains(*id), "round {round}");
                    assert_eq!(is_set(dead.bits()), some.contains(*id) || id % 2 == 1, "round {round}");
                }
            }
        }
    }
}
