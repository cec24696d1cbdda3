//! The hits of all sources of one query: what a source need not compare, because hits of others are nearer.
//!
//! All sources look for their hits side by side as soon as one of them is asked, each in a task of its own: who is asked
//! later, or never, keeps nobody waiting. What is left out depends on nothing but the rows.

use std::sync::{Arc, OnceLock};

use futures::future::{BoxFuture, Shared, WeakShared};
use futures::{FutureExt, StreamExt, stream};
use parking_lot::Mutex;
use tracing::Instrument;

use super::hit_search::{By, Candidates, HitSearch};
use crate::dataset::Estimates;
use crate::error::{Error, Result};
use crate::task;

/// Sources that look for hits at a time.
const AT_ONCE: usize = 64;

/// What each source found, by its place, and how far away its hits are at most that have to be compared.
type Found = Arc<Vec<Result<(Arc<Candidates>, f32)>>>;

/// The sources of a query that tell each other how far their hits are.
///
/// All that is asked of rows must be asked before they are hits: a row that is left out because of another must not be
/// missing when that one is dropped.
#[derive(Debug, Default)]
pub(super) struct NearHits {
    searches: Mutex<Vec<Arc<HitSearch>>>,
    /// Ends with the last who waits for it.
    under_way: Mutex<Option<WeakShared<BoxFuture<'static, Found>>>>,
    found: OnceLock<Found>,
}

impl NearHits {
    /// A place for one more source.
    pub(super) fn enter(&self, search: Arc<HitSearch>) -> usize {
        let mut searches = self.searches.lock();
        searches.push(search);
        searches.len() - 1
    }

    /// What the source at `place` found, and how far away its hits are at most that have to be compared.
    ///
    /// # Errors
    /// What reading the source raises.
    pub(super) async fn of(&self, place: usize) -> Result<(Arc<Candidates>, f32)> {
        let found = match self.found.get() {
            Some(found) => found,
            None => {
                let found = self.look().await;
                self.found.get_or_init(|| found)
            }
        };
        found.get(place).cloned().unwrap_or_else(|| Err(Error::internal("a source came late")))
    }

    /// Lets all sources look, unless they do.
    fn look(&self) -> Shared<BoxFuture<'static, Found>> {
        let mut under_way = self.under_way.lock();
        if let Some(looking) = under_way.as_ref().and_then(WeakShared::upgrade) {
            return looking;
        }
        let searches = self.searches.lock().clone();
        let look = stream::iter(searches)
            .map(|search| async move {
                task::driven(async move { search.candidates().await.map(Arc::new) }.in_current_span()).await.flatten()
            })
            .buffered(AT_ONCE)
            .collect::<Vec<_>>();
        let looking = look.map(|found| Arc::new(compared(found))).boxed().shared();
        *under_way = looking.downgrade();
        looking
    }
}

/// The sources, and how far each has to compare its hits.
fn compared(found: Vec<Result<Arc<Candidates>>>) -> Vec<Result<(Arc<Candidates>, f32)>> {
    let mut told: Vec<(Estimates, f32)> = Vec::new();
    for estimates in found.iter().flatten().filter_map(|candidates| candidates.estimates()) {
        if told.iter().all(|(of, _)| *of != estimates) {
            told.push((estimates, furthest(&found, estimates)));
        }
    }
    let of = |candidates: Arc<Candidates>| {
        let told = told.iter().find(|(of, _)| candidates.estimates() == Some(*of));
        (candidates, told.map_or(f32::INFINITY, |(_, furthest)| *furthest))
    };
    found.into_iter().map(|candidates| candidates.map(of)).collect()
}

/// How far the last hit is that is wanted of all sources whose distances are told alike: of two or three twice as many as
/// of one, of 16 to 31 five times as many, since each has errors of its own.
fn furthest(found: &[Result<Arc<Candidates>>], estimates: Estimates) -> f32 {
    let alike = found.iter().flatten().filter(|candidates| candidates.estimates() == Some(estimates));
    let (mut all, mut wanted, mut sources) = (Vec::new(), 0, 0_u32);
    for candidates in alike {
        if let By::Index { hits: Ok(hits), wanted: of_source, .. } = &candidates.by {
            all.extend(hits.rows.iter().map(|hit| hit.0));
            wanted = wanted.max(*of_source);
            sources += 1;
        }
    }
    wanted = wanted.saturating_mul(1 + sources.checked_ilog2().unwrap_or(0) as usize);
    match wanted.checked_sub(1).filter(|last| *last < all.len()) {
        Some(last) => *all.select_nth_unstable_by(last, f32::total_cmp).1,
        None => f32::INFINITY,
    }
}
