//! The nearest of the rows that were compared, and those that have no distance.

use std::collections::HashMap;

use arrow::array::{FixedSizeListArray, RecordBatch};
use arrow::compute::interleave_record_batch;

use super::vector_search::VectorSearch;
use crate::error::Result;
use crate::vector_index::{Class, Nearest, Simd, vector_of};

/// Ranks the rows of one source, each offered once, by their distances from one query.
#[derive(Debug)]
pub(super) struct Ranking<'a> {
    search: &'a VectorSearch,
    simd: Simd,
    near: Nearest,
    /// Rows without a distance: more than are wanted are never needed, for all are alike.
    missing: Vec<u64>,
    /// Rows whose distance only arithmetic tells.
    odd: Vec<u64>,
    compared: usize,
    /// Rows with a distance of which it is known that they are not wanted.
    beyond: usize,
    /// Rows that were read whole, and their places there.
    read: Vec<RecordBatch>,
    places: HashMap<u64, (usize, usize)>,
}

impl<'a> Ranking<'a> {
    pub(super) fn new(search: &'a VectorSearch) -> Self {
        Self {
            search,
            simd: Simd::detect(),
            near: Nearest::new(search.k),
            missing: Vec::new(),
            odd: Vec::new(),
            compared: 0,
            beyond: 0,
            read: Vec::new(),
            places: HashMap::new(),
        }
    }

    /// Keeps the rows `ids`, so that those among the nearest need not be read again.
    pub(super) fn keep(&mut self, ids: &[u64], rows: RecordBatch) {
        let batch = self.read.len();
        self.places.extend(ids.iter().enumerate().map(|(row, id)| (*id, (batch, row))));
        self.read.push(rows);
    }

    /// Takes the rows `ids` with these vectors of which `allows` says that they may be found.
    pub(super) fn offer(&mut self, ids: &[u64], vectors: &FixedSizeListArray, allows: impl Fn(usize) -> bool) {
        for (row, id) in ids.iter().enumerate().filter(|(row, _)| allows(*row)) {
            match Class::and_rank(self.search.metric, self.simd, &self.search.query, vector_of(vectors, row)) {
                (Class::Ranked, rank) => {
                    self.compared += 1;
                    self.near.offer(*id, rank);
                }
                (Class::Odd, _) => self.odd.push(*id),
                (Class::Missing, _) => self.offer_missing(*id),
            }
        }
    }

    /// So many rows with a distance need not be offered: others are nearer.
    pub(super) fn leave_out(&mut self, beyond: usize) {
        self.beyond = beyond;
    }

    /// Takes a row that has no distance.
    pub(super) fn offer_missing(&mut self, id: u64) {
        if self.missing.len() < self.search.k {
            self.missing.push(id);
        }
    }

    /// How many exact distances were computed.
    pub(super) fn compared(&self) -> usize {
        self.compared
    }

    /// Whether rows without a distance are wanted.
    pub(super) fn wants_missing(&self) -> bool {
        self.search.nulls_first || self.near.len() + self.odd.len() + self.beyond < self.search.k
    }

    /// The rows: the nearest, those whose distance only arithmetic tells, and rows without a distance if they are wanted.
    pub(super) fn into_rows(self) -> Ranked {
        let wants_missing = self.wants_missing();
        let mut ids: Vec<u64> = self.near.into_rows().collect();
        ids.extend(self.odd);
        if wants_missing {
            ids.extend(self.missing);
        }
        ids.sort_unstable();
        Ranked { ids, read: self.read, places: self.places }
    }
}

/// The rows that are wanted.
#[derive(Debug)]
pub(super) struct Ranked {
    /// Their ids, in ascending order.
    pub(super) ids: Vec<u64>,
    read: Vec<RecordBatch>,
    places: HashMap<u64, (usize, usize)>,
}

impl Ranked {
    /// The rows, if all of them were kept.
    pub(super) fn kept(&self) -> Result<Option<RecordBatch>> {
        let places: Option<Vec<_>> = self.ids.iter().map(|id| self.places.get(id).copied()).collect();
        match (places, self.read.first()) {
            (Some(places), Some(first)) if first.num_columns() > 0 => {
                Ok(Some(interleave_record_batch(&self.read.iter().collect::<Vec<_>>(), &places)?))
            }
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::{Float32Type, Int64Type};

    use super::*;
    use crate::distance::Metric;
    use crate::settings::SearchEffort;

    fn search(k: usize, nulls_first: bool) -> VectorSearch {
        let effort = SearchEffort::default();
        VectorSearch {
            column: 0,
            metric: Metric::L2,
            query: vec![0.0],
            k,
            nulls_first,
            beside_texts: None,
            ranges: Vec::new(),
            effort,
            is_shared: true,
        }
    }

    /// Offers rows 10, 11 … with these vectors of one dimension.
    fn offered<'a>(search: &'a VectorSearch, vectors: &[Option<f32>]) -> Ranking<'a> {
        let ids: Vec<u64> = (10..10 + vectors.len() as u64).collect();
        let vectors = vectors.iter().map(|v| v.map(|v| vec![Some(v)]));
        let vectors = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, 1);
        let mut ranking = Ranking::new(search);
        ranking.offer(&ids, &vectors, |row| row != 0);
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(ids.iter().map(|id| *id as i64)));
        ranking.keep(&ids, RecordBatch::try_from_iter([("id", numbers)]).unwrap());
        ranking
    }

    #[test]
    fn the_nearest_rows_come_out_and_those_without_a_distance_if_they_are_wanted() {
        let vectors = [Some(0.0), Some(3.0), None, Some(1.0), Some(f32::NAN), Some(-2.0), None];
        let rows = |k, nulls_first| offered(&search(k, nulls_first), &vectors).into_rows().ids;
        assert_eq!(rows(2, false), [13, 14, 15], "what NaN is, the sort above knows");
        assert_eq!(rows(1, true), [12, 13, 14]);
        assert_eq!(rows(9, false), [11, 12, 13, 14, 15, 16]);
        assert_eq!(offered(&search(2, false), &vectors).compared(), 3);
    }

    #[test]
    fn rows_that_were_kept_need_not_be_read_again() {
        let search = search(2, false);
        let found = offered(&search, &[None, Some(5.0), Some(2.0), Some(1.0)]).into_rows();
        let kept = found.kept().unwrap().unwrap();
        assert_eq!(kept.column(0).as_primitive::<Int64Type>().values(), &[12, 13]);
        let mut ranking = offered(&search, &[None, Some(5.0)]);
        ranking.offer_missing(99);
        assert!(ranking.into_rows().kept().unwrap().is_none(), "row 99 was not read");
    }
}
