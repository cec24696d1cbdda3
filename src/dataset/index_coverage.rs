//! Which rows of a dataset its vector index has, and what the others are.
//!
//! An index leaves out vectors that it cannot rank, knows nothing of fragments that were written after it, and still
//! holds rows that were deleted since.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::UInt64Type;
use futures::TryStreamExt;
use lance::Dataset;
use lance::dataset::scanner::RowAddrMask;
use lance_core::Error as LanceError;
use lance_core::cache::LanceCache;
use lance_index::INDEX_AUXILIARY_FILE_NAME;
use lance_index::scalar::IndexStore;
use lance_index::scalar::lance_format::LanceIndexStore;
use lance_index::vector::VectorIndex;
use roaring::{RoaringBitmap, RoaringTreemap};

use super::index_catalog::IndexEntry;
use super::index_rows::{covered, fragments_of, live_rows};
use super::{DatasetHandle, ROW_ID};
use crate::error::{Error, Result};
use crate::store::from_lance;
use crate::vector_index::{Class, vector_of};

/// Vectors outside the index that are kept in mind at most; with more the index is of no use.
const ODD: usize = 4096;
/// Row ids of an index that are read at once.
const IDS: usize = 1 << 19;

/// Which rows an index has.
#[derive(Debug)]
pub struct IndexCoverage {
    /// Which of the rows that the index has are there; all if `None`.
    mask: Option<Arc<RowAddrMask>>,
    /// How many rows of the fragments that it covers are there and ranked.
    ranked: usize,
    missing: RoaringTreemap,
    odd: Vec<u64>,
    uncovered: RoaringBitmap,
}

impl IndexCoverage {
    pub(super) async fn of(
        handle: &Arc<DatasetHandle>,
        column: usize,
        entry: &IndexEntry,
        segments: &[Arc<dyn VectorIndex>],
    ) -> Result<Self> {
        let dataset = handle.dataset();
        let covered =
            entry.segments.iter().map(|segment| covered(dataset, segment)).fold(RoaringBitmap::new(), |a, b| a | b);
        let indexed = match is_whole(dataset, &covered, segments) {
            true => None,
            false => Some(indexed_rows(handle, entry, segments).await?),
        };
        let named = indexed.as_ref().map(|rows| rows.bitmaps().map(|(fragment, _)| fragment).collect());
        let mask = live_rows(dataset, &covered, named).await?;
        let fragments = dataset.fragments().iter().filter(|f| u32::try_from(f.id).is_ok_and(|id| covered.contains(id)));
        let ranked = fragments.map(|f| f.num_rows().unwrap_or(0)).sum();
        let uncovered = fragments_of(dataset) - &covered;
        let mask = mask.map(Arc::new);
        let mut coverage = Self { mask, ranked, missing: RoaringTreemap::new(), odd: Vec::new(), uncovered };
        if let Some(indexed) = indexed {
            coverage.classify(handle, column, entry, &indexed, &covered).await?;
        }
        Ok(coverage)
    }

    /// Finds out what the rows of the fragments `covered` are that are not among `indexed`.
    async fn classify(
        &mut self,
        handle: &Arc<DatasetHandle>,
        column: usize,
        entry: &IndexEntry,
        indexed: &RoaringTreemap,
        covered: &RoaringBitmap,
    ) -> Result<()> {
        let mut outside = RoaringTreemap::new();
        let mut ids = handle.rows_of(&[], Some(covered))?;
        while let Some(batch) = ids.try_next().await? {
            let ids = batch.column(0).as_primitive::<UInt64Type>().values();
            outside.extend(ids.iter().copied().filter(|id| !indexed.contains(*id)));
        }
        self.ranked = self.ranked.saturating_sub(usize::try_from(outside.len()).unwrap_or(usize::MAX));
        if outside.is_empty() {
            return Ok(());
        }
        let mut vectors = handle.rows_of(&[column], Some(covered))?;
        while let Some(batch) = vectors.try_next().await? {
            let ids = batch.column(1).as_primitive::<UInt64Type>().values();
            let vectors = batch.column(0).as_fixed_size_list();
            for (row, id) in ids.iter().enumerate().filter(|(_, id)| outside.contains(**id)) {
                match Class::of(entry.metric, vector_of(vectors, row)) {
                    Class::Missing => drop(self.missing.insert(*id)),
                    _ => self.odd.push(*id),
                }
            }
            if self.odd.len() > ODD {
                return Err(Error::invalid(format!("the index leaves out more than {ODD} vectors: build it anew"))
                    .with_context("index", &entry.name));
            }
        }
        Ok(())
    }

    /// Which of the rows that the index has are there.
    pub(super) fn mask(&self) -> Option<&Arc<RowAddrMask>> {
        self.mask.as_ref()
    }

    /// How many rows it finds if it looks everywhere.
    pub fn ranked(&self) -> usize {
        self.ranked
    }

    /// How many of these rows it finds if it looks everywhere, about.
    pub(super) fn ranked_among(&self, rows: &RoaringTreemap) -> u64 {
        let covered = rows.bitmaps().filter(|(fragment, _)| !self.uncovered.contains(*fragment));
        let covered: u64 = covered.map(|(_, rows)| rows.len()).sum();
        covered.saturating_sub(self.missing.intersection_len(rows))
    }

    /// Rows of covered fragments without a distance, from whatever.
    pub fn missing(&self) -> &RoaringTreemap {
        &self.missing
    }

    /// Rows of covered fragments with a vector that the index does not have.
    pub fn odd(&self) -> &[u64] {
        &self.odd
    }

    /// The fragments that the index knows nothing of.
    pub fn uncovered(&self) -> &RoaringBitmap {
        &self.uncovered
    }
}

/// Whether every row that there ever was has a place in the index, so that no other can have one. Figures alone do not
/// tell: rows that are gone may be as many as rows without a rank.
fn is_whole(dataset: &Dataset, covered: &RoaringBitmap, segments: &[Arc<dyn VectorIndex>]) -> bool {
    let [index] = segments else { return false };
    let ever = dataset.manifest().max_fragment_id().map_or(0, |id| id + 1);
    let rows = dataset.fragments().iter().map(|f| f.physical_rows).sum::<Option<usize>>();
    covered.len() == ever && rows.is_some_and(|rows| rows as u64 == index.num_rows())
}

/// The rows that have a place in the index.
async fn indexed_rows(
    handle: &Arc<DatasetHandle>,
    entry: &IndexEntry,
    segments: &[Arc<dyn VectorIndex>],
) -> Result<RoaringTreemap> {
    let dataset = handle.dataset();
    let mut indexed = RoaringTreemap::new();
    for (segment, index) in entry.segments.iter().zip(segments) {
        let rows = index.num_rows() as usize;
        if rows == 0 {
            continue;
        }
        let read = async {
            let store = dataset.object_store(segment.base_id).await?;
            let dir = dataset.indices_dir().join(segment.uuid.to_string());
            let store = LanceIndexStore::new(store, dir, Arc::new(LanceCache::no_cache()));
            let file = store.open_index_file(INDEX_AUXILIARY_FILE_NAME).await?;
            for start in (0..rows).step_by(IDS) {
                let range = start..rows.min(start + IDS);
                let _charge = handle.read_budget().take(range.len() * size_of::<u64>()).await;
                let read = file.read_range(range, Some(&[ROW_ID])).await?;
                indexed.extend(read.column(0).as_primitive::<UInt64Type>().values());
            }
            Ok::<_, LanceError>(())
        };
        read.await.map_err(|e| from_lance(e).with_context("index", &entry.name))?;
    }
    Ok(indexed)
}
