//! What counts the reads of a dataset.

use std::sync::Arc;

use lance::Dataset;

use crate::error::Result;
use crate::store::{ReadCounters, StoreOptions, from_lance};

/// What counts reads of `dataset`, if it is not near.
pub(super) async fn counters(dataset: &Dataset, options: &StoreOptions) -> Result<Option<Arc<ReadCounters>>> {
    let store = dataset.object_store(None).await.map_err(from_lance)?;
    let data = dataset.data_dir();
    let dir = data.parts().take(data.parts().count() - 1).collect();
    Ok(options.reads(dataset.uri(), &store.store_prefix, &dir))
}
