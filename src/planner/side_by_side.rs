//! The searches of all sources of one query, where each wants to know what the others found.

use std::fmt;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use futures::future::{BoxFuture, Shared, WeakShared};
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt, stream};
use parking_lot::Mutex;

use crate::error::Result;
use crate::task;

/// Sources that are searched at a time.
const AT_ONCE: usize = 64;

/// A search in one source.
#[async_trait]
pub(super) trait SourceSearch: Sized + Send + Sync + 'static {
    /// What it finds.
    type Found: Send + Sync + 'static;

    /// Finds it; `all` are the searches of the query.
    async fn find(&self, all: &[Arc<Self>]) -> Result<Self::Found>;
}

/// What each source found, in the order in which they came in.
pub(super) type AllFound<S> = Arc<Vec<Arc<<S as SourceSearch>::Found>>>;

type Looking<S> = BoxFuture<'static, Result<AllFound<S>>>;

/// The searches of a query. All begin as soon as anybody asks, each in a task of its own: who is asked later, or never,
/// keeps nobody waiting.
pub(super) struct SideBySide<S: SourceSearch> {
    searches: Mutex<Vec<Arc<S>>>,
    /// Ends with the last who waits for it.
    under_way: Mutex<Option<WeakShared<Looking<S>>>>,
    /// A failure is not kept: who asks again finds what there is by then.
    found: OnceLock<AllFound<S>>,
}

impl<S: SourceSearch> SideBySide<S> {
    /// A place for one more source.
    pub(super) fn enter(&self, search: Arc<S>) -> usize {
        let mut searches = self.searches.lock();
        searches.push(search);
        searches.len() - 1
    }

    /// What all sources found.
    ///
    /// # Errors
    /// Why one of them found nothing.
    pub(super) async fn all(&self) -> Result<&AllFound<S>> {
        if let Some(found) = self.found.get() {
            return Ok(found);
        }
        let found = self.look().await?;
        Ok(self.found.get_or_init(|| found))
    }

    /// Lets all sources look, unless they do.
    fn look(&self) -> Shared<Looking<S>> {
        let mut under_way = self.under_way.lock();
        if let Some(looking) = under_way.as_ref().and_then(WeakShared::upgrade) {
            return looking;
        }
        let searches: Arc<[Arc<S>]> = self.searches.lock().as_slice().into();
        let look = stream::iter(0..searches.len())
            .map(move |place| {
                let searches = Arc::clone(&searches);
                let find = async move { searches[place].find(&searches).await.map(Arc::new) };
                task::driven(find).map(Result::flatten)
            })
            .buffered(AT_ONCE)
            .try_collect::<Vec<_>>();
        let looking = look.map_ok(Arc::new).boxed().shared();
        *under_way = looking.downgrade();
        looking
    }
}

impl<S: SourceSearch> Default for SideBySide<S> {
    fn default() -> Self {
        Self { searches: Mutex::default(), under_way: Mutex::default(), found: OnceLock::new() }
    }
}

impl<S: SourceSearch> fmt::Debug for SideBySide<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SideBySide").field("searches", &self.searches.lock().len()).finish_non_exhaustive()
    }
}
