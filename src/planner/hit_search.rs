//! Rows of a generation or of the base that its vector index takes for near, before any of them is compared.

use std::sync::Arc;

use futures::try_join;
use roaring::RoaringTreemap;

use super::live_rows::LiveRows;
use super::reading::Reading;
use super::sources::StoredRows;
use super::stored_texts::passing;
use super::vector_search::VectorSearch;
use crate::dataset::{Allowed, DatasetVectorIndex, Estimates, Hits};
use crate::error::Result;
use crate::source::{Flat, Work};
use crate::text_search::TextSearch;
use crate::vector_index::squared_length;

/// Rows left by a filter up to which they are compared one by one.
const FEW: u64 = 1024;
/// Squared lengths of queries from which on the estimates of an index mean nothing.
const HUGE: f64 = 1e30;

/// The search for them.
#[derive(Debug)]
pub(super) struct HitSearch {
    pub(super) rows: StoredRows,
    pub(super) search: Arc<VectorSearch>,
    pub(super) texts: Arc<[TextSearch]>,
}

/// How the nearest rows are found.
#[derive(Debug)]
pub(super) enum By {
    /// Among hits of the index, `wanted` of them at first.
    Index { index: Arc<DatasetVectorIndex>, hits: Result<Hits>, wanted: usize },
    /// Among the few that pass the filter.
    Few(Vec<u64>),
    /// Among all.
    Flat(Flat),
}

/// What is known of a source before rows are compared.
#[derive(Debug)]
pub(super) struct Candidates {
    pub(super) live: LiveRows,
    /// The live rows that pass the filter, if there is one.
    pub(super) passing: Option<Arc<RoaringTreemap>>,
    pub(super) by: By,
    pub(super) work: Work,
}

impl HitSearch {
    /// Looks for them.
    ///
    /// # Errors
    /// What reading raises.
    pub(super) async fn candidates(&self) -> Result<Candidates> {
        let (handle, search) = (self.rows.handle(), &self.search);
        let reading = Reading::begin(handle);
        let index = handle.vector_index(search.column, search.metric);
        let (live, index) = try_join!(LiveRows::resolve(&self.rows), index)?;
        let mut work = Work::default();
        ["distances", "partitions", "flat"].into_iter().for_each(|kind| work.add(kind, 0));
        let dropped = live.dropped_rows().map_or(0, |rows| rows.len() as usize);
        work.add("rows_dropped", dropped);
        let (texts, predicate) = (self.texts.iter(), search.beside_texts.as_ref());
        let mut filter = Work::default();
        let passing = passing(&live, texts, predicate, &search.ranges, &mut filter).await?.map(Arc::new);
        work.filtered(&filter);
        let candidates = match &passing {
            Some(passing) => passing.len() as usize,
            None => handle.rows().saturating_sub(dropped),
        };
        work.add("candidates", candidates);
        let by = match (&passing, index) {
            (Some(passing), _) if passing.len() <= FEW.max(4 * search.k as u64) => By::Few(passing.iter().collect()),
            (_, Some(index)) if squared_length(&search.query) < HUGE => {
                let allowed = match &passing {
                    Some(passing) => Allowed::Only(Arc::clone(passing)),
                    None => Allowed::Except(live.dropped_rows().map_or_else(Arc::default, Arc::clone)),
                };
                let wanted = index.wanted(search.k, search.effort);
                let share = share(passing.as_deref(), handle.rows());
                let hits = index.hits(&search.query, wanted, search.effort, &allowed, share).await;
                By::Index { index, hits, wanted }
            }
            (_, Some(_)) => By::Flat(Flat::HugeQuery),
            (_, None) => By::Flat(Flat::NoIndex),
        };
        reading.tell(&mut work);
        Ok(Candidates { live, passing, by, work })
    }
}

impl Candidates {
    /// Whether only keys tell which rows are superseded.
    pub(super) fn is_by_key(&self) -> bool {
        self.passing.is_none() && self.live.dropped_rows().is_none()
    }

    /// What tells how far its hits are; `None` if that cannot be compared with other sources', or not all of them are live.
    pub(super) fn estimates(&self) -> Option<Estimates> {
        match &self.by {
            By::Index { index, hits: Ok(_), .. } if !self.is_by_key() => index.estimates(),
            _ => None,
        }
    }
}

/// How densely the rows lie that pass, among so many.
pub(super) fn share(passing: Option<&RoaringTreemap>, rows: usize) -> f64 {
    passing.map_or(1.0, |passing| passing.len() as f64 / rows.max(1) as f64)
}
