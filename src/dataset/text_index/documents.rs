//! Which rows the documents of a partition are.

use roaring::RoaringTreemap;

/// The documents of one partition, numbered from 0.
#[derive(Debug)]
pub(super) struct Documents {
    row_ids: Vec<u64>,
    /// The documents in the order of their row ids; none if that is their own.
    order: Option<Vec<u32>>,
    /// Those that the dataset no longer has, as bits.
    gone: Vec<u64>,
}

impl Documents {
    /// Of these row ids, of which the dataset has those that `is_there`, which is asked once for each.
    pub(super) fn new(row_ids: Vec<u64>, mut is_there: impl FnMut(u64) -> bool) -> Self {
        let mut gone = vec![0; row_ids.len().div_ceil(64)];
        for (i, _) in row_ids.iter().enumerate().filter(|(_, id)| !is_there(**id)) {
            gone[i / 64] |= 1 << (i % 64);
        }
        let order = (!row_ids.is_sorted()).then(|| {
            let mut order: Vec<u32> = (0..row_ids.len() as u32).collect();
            order.sort_by_key(|document| row_ids[*document as usize]);
            order
        });
        Self { row_ids, order, gone }
    }

    pub(super) fn row_id(&self, document: u32) -> u64 {
        self.row_ids[document as usize]
    }

    pub(super) fn gone(&self) -> &[u64] {
        &self.gone
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        let order = self.order.as_ref().map_or(0, Vec::capacity);
        size_of::<Self>() + self.row_ids.capacity() * 8 + order * 4 + self.gone.capacity() * 8
    }

    /// Sets the bits of the documents that are these rows.
    pub(super) fn mark(&self, row_ids: &RoaringTreemap, words: &mut [u64]) {
        let documents = self.row_ids.len();
        let mut set = |document: usize| words[document / 64] |= 1 << (document % 64);
        // A look-up in a sorted list costs about as much as some look-ups in a bitmap.
        if row_ids.len().saturating_mul(4) > documents as u64 {
            for (document, _) in self.row_ids.iter().enumerate().filter(|(_, id)| row_ids.contains(**id)) {
                set(document);
            }
            return;
        }
        for id in row_ids {
            let place = match &self.order {
                None => self.row_ids.binary_search(&id).ok(),
                Some(order) => {
                    let place = order.binary_search_by_key(&id, |document| self.row_ids[*document as usize]);
                    place.ok().map(|place| order[place] as usize)
                }
            };
            if let Some(document) = place {
                set(document);
            }
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
        for round in 0..40 {
            let mut ids: Vec<u64> = (0..rng.random_range(1..500)).map(|i| i * 3 + ((i % 5) << 32)).collect();
            ids.sort_unstable();
            if round % 2 == 0 {
                ids.shuffle(&mut rng);
            }
            let documents = Documents::new(ids.clone(), |id| id % 2 == 0);
            let share = [0.01, 0.9][round / 2 % 2];
            let some: RoaringTreemap = (0..1600).filter(|_| rng.random_bool(share)).collect();
            let mut words = vec![0; ids.len().div_ceil(64)];
            documents.mark(&some, &mut words);
            for (i, id) in ids.iter().enumerate() {
                assert_eq!(words[i / 64] >> (i % 64) & 1 == 1, some.contains(*id));
                assert_eq!(documents.gone()[i / 64] >> (i % 64) & 1 == 1, id % 2 == 1);
            }
        }
    }
}
