//! The indexes of a dataset that searches opened, each when it was first asked for.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::error::Result;
use crate::task;

/// `None` if it cannot be used.
type Lazy<T> = Arc<OnceCell<Option<Arc<T>>>>;

/// Indexes by what tells them apart.
#[derive(Debug)]
pub(super) struct LazyIndexes<K, T>(Mutex<HashMap<K, Lazy<T>>>);

impl<K, T> Default for LazyIndexes<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, T> LazyIndexes<K, T> {
    /// The index, which `open` opens if it is not. Others may wait for it, so it is opened though nobody polls this.
    ///
    /// # Errors
    /// Those of `open`, which is tried again then.
    pub(super) async fn get<Opening>(&self, key: K, open: impl FnOnce() -> Opening) -> Result<Option<Arc<T>>>
    where
        T: Send + Sync + 'static,
        Opening: Future<Output = Result<Option<Arc<T>>>> + Send + 'static,
    {
        let lazy = Arc::clone(self.0.lock().entry(key).or_default());
        task::once(&lazy, open).await
    }

    /// From now on there is none.
    pub(super) fn give_up(&self, key: K) {
        self.0.lock().insert(key, Arc::new(OnceCell::new_with(Some(None))));
    }

    /// Those that are open.
    pub(super) fn opened(&self) -> Vec<Arc<T>> {
        self.0.lock().values().filter_map(|lazy| lazy.get()?.clone()).collect()
    }

    /// Closes those that are open: what is being opened, or was given up, stays.
    pub(super) fn close(&self) {
        self.0.lock().retain(|_, lazy| !matches!(lazy.get(), Some(Some(_))));
    }
}
