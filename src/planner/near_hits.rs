//! The hits of all sources of one query: what a source need not compare, because hits of others are nearer. What is left
//! out depends on nothing but the rows.

use std::sync::{Arc, OnceLock};

use super::hit_search::{By, Candidates, HitSearch};
use super::side_by_side::SideBySide;
use crate::dataset::Estimates;
use crate::error::{Error, Result};

/// The sources of a query that tell each other how far their hits are.
///
/// All that is asked of rows must be asked before they are hits: a row that is left out because of another must not be
/// missing when that one is dropped.
#[derive(Debug, Default)]
pub(super) struct NearHits {
    searches: SideBySide<HitSearch>,
    /// How far away the hits of each source are at most that have to be compared.
    furthest: OnceLock<Vec<f32>>,
}

impl NearHits {
    /// A place for one more source.
    pub(super) fn enter(&self, search: Arc<HitSearch>) -> usize {
        self.searches.enter(search)
    }

    /// What the source at `place` found, and how far away its hits are at most that have to be compared.
    ///
    /// # Errors
    /// What reading one of the sources raises.
    pub(super) async fn of(&self, place: usize) -> Result<(Arc<Candidates>, f32)> {
        let found = self.searches.all().await?;
        let furthest = self.furthest.get_or_init(|| compared(found));
        let near = found.get(place).cloned().zip(furthest.get(place).copied());
        near.ok_or_else(|| Error::internal("a source came late"))
    }
}

/// How far each of the sources has to compare its hits.
fn compared(found: &[Arc<Candidates>]) -> Vec<f32> {
    let mut told: Vec<(Estimates, f32)> = Vec::new();
    for estimates in found.iter().filter_map(|candidates| candidates.estimates()) {
        if told.iter().all(|(of, _)| *of != estimates) {
            told.push((estimates, furthest(found, estimates)));
        }
    }
    let of = |candidates: &Arc<Candidates>| {
        let told = told.iter().find(|(of, _)| candidates.estimates() == Some(*of));
        told.map_or(f32::INFINITY, |(_, furthest)| *furthest)
    };
    found.iter().map(of).collect()
}

/// How far the last hit is that is wanted of all indexes whose distances are told alike: of them together as many are wanted
/// as of one that has all their rows.
fn furthest(found: &[Arc<Candidates>], estimates: Estimates) -> f32 {
    let (mut all, mut wanted) = (Vec::new(), 0);
    for candidates in found.iter().filter(|candidates| candidates.estimates() == Some(estimates)) {
        if let By::Index { hits, wanted: of_source, .. } = &candidates.by {
            all.extend(hits.rows.iter().map(|hit| hit.0));
            wanted = wanted.max(*of_source);
        }
    }
    match wanted.checked_sub(1).filter(|last| *last < all.len()) {
        Some(last) => *all.select_nth_unstable_by(last, f32::total_cmp).1,
        None => f32::INFINITY,
    }
}
