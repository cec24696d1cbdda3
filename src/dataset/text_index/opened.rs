//! The text indexes of a dataset that searches opened. They are given back when memory is short: first the words that
//! queries asked for, then what opening read.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::DatasetTextIndex;
use crate::cache::{MemoryBudget, Reclaim};
use crate::error::Result;
use crate::index_spec::TextParams;
use crate::text_search::TextAnalyzer;

/// Opened when it is first asked for; `None` if it cannot be used.
type Lazy = Arc<OnceCell<Option<Arc<DatasetTextIndex>>>>;

/// By column and what makes its words.
#[derive(Debug, Default)]
pub(in crate::dataset) struct OpenTextIndexes(Mutex<HashMap<(usize, TextParams), Lazy>>);

impl OpenTextIndexes {
    pub(in crate::dataset) fn new(budget: &MemoryBudget) -> Arc<Self> {
        let none = Arc::new(Self::default());
        let holder: Weak<Self> = Arc::downgrade(&none);
        budget.register(holder);
        none
    }

    /// The index of `column` with the words of `analyzer`, which `open` opens if it is not.
    ///
    /// # Errors
    /// Those of `open`, which is tried again then.
    pub(in crate::dataset) async fn get<Opening>(
        &self,
        column: usize,
        analyzer: &TextAnalyzer,
        open: impl FnOnce() -> Opening,
    ) -> Result<Option<Arc<DatasetTextIndex>>>
    where
        Opening: Future<Output = Result<Option<Arc<DatasetTextIndex>>>>,
    {
        let lazy = Arc::clone(self.0.lock().entry((column, analyzer.told().clone())).or_default());
        lazy.get_or_try_init(open).await.cloned()
    }

    /// From now on there is none.
    pub(in crate::dataset) fn give_up(&self, column: usize, analyzer: &TextAnalyzer) {
        self.0.lock().insert((column, analyzer.told().clone()), Arc::new(OnceCell::new_with(Some(None))));
    }

    fn all(&self) -> Vec<Arc<DatasetTextIndex>> {
        self.0.lock().values().filter_map(|lazy| lazy.get()?.clone()).collect()
    }
}

impl Reclaim for OpenTextIndexes {
    fn reclaimable(&self) -> usize {
        self.all().iter().map(|index| index.memory()).map(|(words, rest)| words + rest).sum()
    }

    fn reclaim(&self) {
        let all = self.all();
        if all.iter().any(|index| index.memory().0 > 0) {
            return all.iter().flat_map(|index| &index.partitions).for_each(|partition| partition.unload());
        }
        // One that is being opened, or was given up, stays.
        self.0.lock().retain(|_, lazy| !matches!(lazy.get(), Some(Some(_))));
    }
}
