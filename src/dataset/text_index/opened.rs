//! The text indexes of a dataset that searches opened. They are given back when memory is short: first the words that
//! queries asked for, then what opening read.

use std::sync::{Arc, Weak};

use super::DatasetTextIndex;
use crate::cache::{MemoryBudget, Reclaim};
use crate::dataset::lazy_indexes::LazyIndexes;
use crate::index_spec::TextParams;

/// By column and what makes its words.
pub(in crate::dataset) type OpenTextIndexes = LazyIndexes<(usize, TextParams), DatasetTextIndex>;

/// None yet; `budget` asks for what will be open.
pub(in crate::dataset) fn no_text_indexes(budget: &MemoryBudget) -> Arc<OpenTextIndexes> {
    let none = Arc::<OpenTextIndexes>::default();
    let holder: Weak<OpenTextIndexes> = Arc::downgrade(&none);
    budget.register(holder);
    none
}

impl Reclaim for OpenTextIndexes {
    fn reclaimable(&self) -> usize {
        self.opened().iter().map(|index| index.memory()).map(|(words, rest)| words + rest).sum()
    }

    fn reclaim(&self) {
        let all = self.opened();
        if all.iter().any(|index| index.memory().0 > 0) {
            return all.iter().flat_map(|index| &index.partitions).for_each(|partition| partition.unload());
        }
        self.close();
    }
}
