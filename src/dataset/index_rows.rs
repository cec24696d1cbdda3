//! Which rows an index has that are still there: Lance's indexes keep what was deleted, replaced or moved since.

use std::sync::Arc;

use lance::Dataset;
use lance::dataset::scanner::RowAddrMask;
use lance::index::prefilter::DatasetPreFilter;
use lance_table::format::overlay::staleness::overlay_affects_index;
use lance_table::format::{Fragment, IndexMetadata};
use roaring::RoaringBitmap;

use crate::error::Result;
use crate::store::from_lance;

/// The ids of the dataset's fragments.
pub(super) fn fragments_of(dataset: &Dataset) -> RoaringBitmap {
    dataset.fragments().iter().filter_map(|f| u32::try_from(f.id).ok()).collect()
}

/// The fragments of the dataset that `index` covers and that are as it knows them: nothing was laid over its columns
/// since.
pub(super) fn covered(dataset: &Dataset, index: &IndexMetadata) -> RoaringBitmap {
    let covered = index.fragment_bitmap.clone().unwrap_or_default();
    let (fields, version) = (&index.fields, index.dataset_version);
    let is_current = |fragment: &&Fragment| {
        !fragment.overlays.iter().any(|o| overlay_affects_index(o, fields, version, dataset.schema()))
    };
    let fragments = dataset.fragments();
    let current = fragments.iter().filter(is_current).filter_map(|f| u32::try_from(f.id).ok());
    covered & current.collect::<RoaringBitmap>()
}

/// Which of an index's rows are in the fragments `covered` and not deleted; `None` if all are. `named` are the fragments
/// that the row ids of the index name, if there can be others among them; what it says of stable ids does not matter.
///
/// # Errors
/// `Unavailable` if the storage fails.
pub(super) async fn live_rows(
    dataset: &Arc<Dataset>,
    covered: &RoaringBitmap,
    named: Option<RoaringBitmap>,
) -> Result<Option<RowAddrMask>> {
    let mut asked = covered.clone();
    if let Some(named) = named {
        let there = fragments_of(dataset);
        // Lance leaves out what a fragment had that it is asked for and that is not there. Where ids are stable it lists
        // what may be found, and does so if there is any such fragment.
        asked |= named - &there;
        asked.extend((0..=u32::MAX).find(|id| !there.contains(*id)));
    }
    match DatasetPreFilter::create_restricted_deletion_mask(Arc::clone(dataset), asked) {
        Some(mask) => Ok(Some(mask.await.map_err(from_lance)?.as_ref().clone())),
        None => Ok(None),
    }
}
