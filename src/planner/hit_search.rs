//! Rows of a generation or of the base that its vector index takes for near, before any of them is compared.

use std::sync::Arc;

use async_trait::async_trait;
use futures::try_join;
use roaring::RoaringTreemap;

use super::live_rows::LiveRows;
use super::reading::Reading;
use super::side_by_side::SourceSearch;
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
/// Hits of a source that are asked for beyond twice its share.
const FEW_MORE: usize = 8;
/// Squared lengths of queries from which on the estimates of an index mean nothing.
const HUGE: f64 = 1e30;

/// The search for them.
#[derive(Debug)]
pub(super) struct HitSearch {
    pub(super) rows: StoredRows,
    /// What the index is called.
    pub(super) kind: String,
    pub(super) search: Arc<VectorSearch>,
    pub(super) texts: Arc<[TextSearch]>,
}

/// How the nearest rows are found.
#[derive(Debug)]
pub(super) enum By {
    /// Among hits of the index: `asked` of them, `wanted` of all sources whose distances are told alike.
    Index { index: Arc<DatasetVectorIndex>, hits: Hits, asked: usize, wanted: usize },
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

#[async_trait]
impl SourceSearch for HitSearch {
    type Found = Candidates;

    async fn find(&self, all: &[Arc<Self>]) -> Result<Candidates> {
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
                let dropped = live.dropped_rows().map_or_else(Arc::default, Arc::clone);
                let allowed = allowed(passing.as_ref(), &dropped);
                let wanted = index.wanted(search.k, search.effort);
                let is_shared =
                    !is_by_key(passing.as_ref(), &live) && index.estimates().is_some() && index.segments() == 1;
                let alike = all.iter().filter(|other| is_shared && other.kind == self.kind).count();
                let asked = share_of(wanted, alike);
                let share = share(passing.as_deref(), handle.rows());
                match index.hits(&search.query, asked, search.effort, &allowed, share).await {
                    Ok(hits) => By::Index { index, hits, asked, wanted },
                    Err(error) => {
                        handle.give_up_vector_index(search.column, search.metric, error).await?;
                        By::Flat(Flat::FellShort)
                    }
                }
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
        is_by_key(self.passing.as_ref(), &self.live)
    }

    /// What tells how far its hits are; `None` if that cannot be compared with other sources', or not all of them are live.
    pub(super) fn estimates(&self) -> Option<Estimates> {
        match &self.by {
            By::Index { index, .. } if !self.is_by_key() => index.estimates(),
            _ => None,
        }
    }
}

fn is_by_key(passing: Option<&Arc<RoaringTreemap>>, live: &LiveRows) -> bool {
    passing.is_none() && live.dropped_rows().is_none()
}

/// Which rows may be found: those that pass the filter, or without one all but `stale` ones.
pub(super) fn allowed(passing: Option<&Arc<RoaringTreemap>>, stale: &Arc<RoaringTreemap>) -> Allowed {
    match passing {
        Some(passing) => Allowed::Only(Arc::clone(passing)),
        None => Allowed::Except(Arc::clone(stale)),
    }
}

/// How many hits each of so many sources is asked for at first, if so many are `wanted` of all: what one has too few of is
/// asked for again.
fn share_of(wanted: usize, sources: usize) -> usize {
    wanted.min(wanted.saturating_mul(2).div_ceil(sources.max(1)).saturating_add(FEW_MORE))
}

/// How densely the rows lie that pass, among so many.
pub(super) fn share(passing: Option<&RoaringTreemap>, rows: usize) -> f64 {
    passing.map_or(1.0, |passing| passing.len() as f64 / rows.max(1) as f64)
}
