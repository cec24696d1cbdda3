//! What counts the reads of a dataset.

use std::sync::Arc;

use lance::Dataset;
use lance_io::object_store::ObjectStore;

use crate::store::{ReadCounters, StoreOptions};

/// What counts reads of `dataset` in `store`, if that is not near.
pub(super) fn counters(dataset: &Dataset, store: &ObjectStore, options: &StoreOptions) -> Option<Arc<ReadCounters>> {
    let data = dataset.data_dir();
    let dir = data.parts().take(data.parts().count() - 1).collect();
    options.reads(dataset.uri(), &store.store_prefix, &dir)
}
