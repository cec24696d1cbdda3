//! The nearest rows of a source, by its index.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::physical_expr::PhysicalExpr;
use futures::future::try_join_all;
use futures::try_join;
use roaring::RoaringTreemap;

use super::passing_rows::matching;
use super::text_match::{bits, positions};
use crate::block_list::MemTableRows;
use crate::distance::Metric;
use crate::error::Result;
use crate::memtable::{NearestRequest, NearestRows, VectorRows};
use crate::settings::SearchEffort;
use crate::source::{Best, Flat, RowSource, TopKSource, ValueRanges, Work};
use crate::task;
use crate::text_search::TextSearch;

/// Rows from which on a search leaves the async workers.
const HEAVY: usize = 4096;
/// Codes up to which the worker that asks looks at them itself: a third of a millisecond.
const LARGE: usize = 64 * 1024;

/// What is searched for in every source alike.
#[derive(Debug)]
pub struct VectorSearch {
    /// The column, by its place in the logical schema.
    pub column: usize,
    /// What nearness means.
    pub metric: Metric,
    /// The query: finite, and not zero under cosine.
    pub query: Vec<f32>,
    /// How many rows.
    pub k: usize,
    /// Whether rows without a distance come first.
    pub nulls_first: bool,
    /// What rows must pass beside text queries, over the logical schema.
    pub beside_texts: Option<Arc<dyn PhysicalExpr>>,
    /// What that lets columns have.
    pub ranges: Vec<ValueRanges>,
    /// How thoroughly indexes of generations and base are searched.
    pub effort: SearchEffort,
    /// Whether a row that is nearer than another makes that one superfluous, whichever source it is in.
    pub is_shared: bool,
}

/// A memtable that has an index for the search.
#[derive(Debug, Clone)]
pub(super) struct MemTableSearch {
    rows: MemTableRows,
    search: Arc<VectorSearch>,
    texts: Arc<[TextSearch]>,
}

impl MemTableSearch {
    /// The search in the live rows of a memtable that match `texts`; `None` if no index answers it.
    pub(super) fn try_new(rows: &MemTableRows, search: &Arc<VectorSearch>, texts: &Arc<[TextSearch]>) -> Option<Self> {
        VectorRows::of(rows.view(), search.column, search.metric)?;
        Some(Self { rows: rows.clone(), search: Arc::clone(search), texts: Arc::clone(texts) })
    }

    /// The live rows that may be found, as bits, and what finding them took. Off the async workers if it is `heavy`.
    async fn allowed(&self, blocked: Arc<RoaringTreemap>, heavy: bool) -> Result<(Vec<u64>, Work)> {
        let search = self.clone();
        let matching = move || matching(search.rows.view(), &blocked, search.texts.iter(), &search.search.ranges);
        let (mut allowed, mut work) =
            task::blocking_if(heavy && !(self.texts.is_empty() && self.search.ranges.is_empty()), matching).await?;
        if let Some(predicate) = &self.search.beside_texts {
            let (search, predicate) = (self.clone(), Arc::clone(predicate));
            let passing = move |slice: Vec<u64>| search.rows.view().passing(slice, &predicate);
            let mut passed = side_by_side(slices(allowed), heavy, 0, passing).await?.into_iter();
            allowed = passed.next().unwrap_or_default();
            passed.for_each(|slice| allowed.iter_mut().zip(slice).for_each(|(all, slice)| *all |= slice));
        }
        work.add("candidates", bits(&allowed));
        Ok((allowed, work))
    }

    fn request<'a>(&'a self, allowed: &'a [u64]) -> NearestRequest<'a> {
        let VectorSearch { query, k, nulls_first, .. } = self.search.as_ref();
        NearestRequest { query, k: *k, nulls_first: *nulls_first, allowed }
    }

    /// Rows up to which the worker that asks looks at them itself.
    fn here(&self) -> usize {
        let (view, search) = (self.rows.view(), &self.search);
        let index = VectorRows::of(view, search.column, search.metric);
        let is_quick = index.is_some_and(|(index, state)| index.is_quick(view, state.indexed(), &self.request(&[])));
        if is_quick { LARGE } else { 0 }
    }

    /// The nearest of the rows whose bit is set.
    fn nearest(&self, allowed: &[u64]) -> Result<NearestRows> {
        let (view, search, request) = (self.rows.view(), &self.search, self.request(allowed));
        match VectorRows::of(view, search.column, search.metric) {
            Some((index, state)) => index.nearest(view, state.indexed(), &request),
            None => {
                // Given up since the plan was made: all rows are compared above.
                let rows = positions(allowed.to_vec(), view.watermark());
                let flat = (Flat::NoIndex, rows.len());
                Ok(NearestRows { rows, estimated: 0, compared: 0, flat })
            }
        }
    }
}

/// Looks at all slices at the same time, and off the async workers if they are `heavy`: but for the last, if it has at most
/// `here` rows. The way to another thread takes as long as looking at thousands of codes.
async fn side_by_side<T, F>(mut slices: Vec<Vec<u64>>, heavy: bool, here: usize, look: F) -> Result<Vec<T>>
where
    T: Send + 'static,
    F: Fn(Vec<u64>) -> Result<T> + Clone + Send + 'static,
{
    let Some(own) = slices.pop() else { return Ok(Vec::new()) };
    let of = |slice: Vec<u64>, heavy: bool| {
        let look = look.clone();
        task::blocking_if(heavy, move || look(slice))
    };
    let is_heavy = heavy && bits(&own) > here;
    let others = try_join_all(slices.into_iter().map(|slice| of(slice, heavy)));
    // The others start first.
    let (mut found, own) = try_join!(others, of(own, is_heavy))?;
    found.push(own);
    Ok(found)
}

/// Disjoint slices of `rows`, a bit a row, as many as threads that they are worth.
fn slices(rows: Vec<u64>) -> Vec<Vec<u64>> {
    let count = task::threads_for(bits(&rows));
    if count == 1 {
        return vec![rows];
    }
    let own = |slice: Range<usize>| {
        let mut own = vec![0; rows.len()];
        own[slice.clone()].copy_from_slice(&rows[slice]);
        own
    };
    task::split(rows.len(), count).into_iter().map(own).collect()
}

#[async_trait]
impl TopKSource for MemTableSearch {
    fn node(&self) -> &'static str {
        "VectorTopKExec"
    }

    fn label(&self) -> String {
        format!("source={}, index=vector, k={}", self.rows.label(), self.search.k)
    }

    fn limit(&self) -> usize {
        self.search.k.min(self.rows.row_count())
    }

    async fn best(&self, projection: &[usize], schema: &SchemaRef) -> Result<Best> {
        let blocked = self.rows.blocked().await?;
        let heavy = self.rows.row_count() >= HEAVY;
        let (allowed, mut work) = self.allowed(blocked, heavy).await?;
        let search = self.clone();
        let nearest = move |slice: Vec<u64>| search.nearest(&slice);
        let mut rows = Vec::new();
        for mut found in side_by_side(slices(allowed), heavy, self.here(), nearest).await? {
            rows.append(&mut found.rows);
            work.add("estimates", found.estimated);
            work.add("distances", found.compared);
            let (why, flat) = found.flat;
            work.flat(why, flat);
        }
        Ok(Best { rows: self.rows.view().take(&rows, projection, schema)?, work })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_in_one_of_as_many_slices_as_threads_are_worth() {
        let few = vec![0b1011; 100];
        assert_eq!(slices(few.clone()), [few]);
        for words in [2047, 2048, 5001] {
            let rows: Vec<u64> = (1..=words).map(|i: u64| i.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
            let (found, threads) = (slices(rows.clone()), task::threads_for(bits(&rows)));
            assert!(found.len() <= threads && (found.len() > 1 || threads == 1), "{} of {threads}", found.len());
            let mut all: Vec<u64> = vec![0; rows.len()];
            for slice in &found {
                assert!(slice.len() == rows.len() && bits(slice) > 0);
                for (word, more) in all.iter_mut().zip(slice) {
                    assert_eq!(*word & more, 0, "a row is in two slices");
                    *word |= more;
                }
            }
            assert_eq!(all, rows);
        }
    }
}
