//! Lance's vector index of a column of a dataset, open, and asked for candidates.
//!
//! What comes out are rows that look near by the index's codes. Whoever asks compares them exactly.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float32Array, RecordBatch};
use arrow::datatypes::{Float32Type, UInt64Type};
use futures::TryStreamExt;
use futures::future::try_join_all;
use lance::dataset::scanner::{RowAddrMask, RowAddrTreeMap};
use lance::index::DatasetIndexInternalExt;
use lance_index::metrics::NoOpMetricsCollector;
use lance_index::prefilter::PreFilter;
use lance_index::vector::{ApproxMode, DEFAULT_QUERY_PARALLELISM, Query, VectorIndex};
use roaring::{RoaringBitmap, RoaringTreemap};

use super::DatasetHandle;
use super::failure::from_plan;
use super::index_catalog::{Codes, IndexEntry, IndexKind, metric_of};
use super::index_coverage::IndexCoverage;
use crate::distance::Metric;
use crate::error::{Error, Result};
use crate::settings::SearchEffort;
use crate::store::from_lance;
use crate::task;

/// Partitions that are looked into at least, of those nearest to the query.
const PARTITIONS: f64 = 8.0;
/// … and so many times the square root of their number.
const PARTITION_SHARE: f64 = 4.0;
/// Candidates that are compared exactly at least.
const CANDIDATES: usize = 32;
/// How many candidates a graph keeps in view at least.
const GRAPH_WIDTH: usize = 128;
/// The least share of rows to be allowed for an index to be asked without a mask, and what is not allowed dropped. A mask
/// keeps Lance from scoring rows of product codes in bulk, which lie column by column: a row takes 30 times as long. Rows
/// of bits are scored in bulk with a mask, too, which then takes a look-up for each.
const PRODUCT_SHARE: f64 = 1.0 / 16.0;
const RABIT_SHARE: f64 = 0.5;
/// Candidates that are asked for then, for each that is needed on average; and how many more.
const SLACK: f64 = 1.25;
const FEW_MORE: usize = 16;

/// Which rows may be found.
#[derive(Debug, Clone, Copy)]
pub enum Allowed<'a> {
    /// All but these.
    Except(&'a RoaringTreemap),
    /// None but these.
    Only(&'a RoaringTreemap),
}

/// What an index found.
#[derive(Debug)]
pub struct Candidates {
    /// Row ids, each once.
    pub rows: Vec<u64>,
    /// How many partitions were looked into.
    pub partitions: usize,
    /// Whether asking for more may bring more.
    pub more: bool,
    /// Whether too few rows were allowed among those that were found without a mask.
    pub fell_short: bool,
}

/// The vector index of one column for one metric.
pub struct DatasetVectorIndex {
    metric: Metric,
    kind: IndexKind,
    segments: Vec<Arc<dyn VectorIndex>>,
    coverage: IndexCoverage,
}

impl DatasetVectorIndex {
    /// Opens the index that `entry` names, of the stored column `column` of `handle`.
    ///
    /// # Errors
    /// `Corrupt` if it is not what its metadata says, `Unavailable` if the storage fails.
    pub(super) async fn open(handle: &Arc<DatasetHandle>, column: usize, entry: &IndexEntry) -> Result<Self> {
        let dataset = handle.dataset();
        let failed =
            |error| from_lance(error).with_context("index", &entry.name).with_context("dataset", dataset.uri());
        let name = handle.origins().name(column).unwrap_or_default();
        let mut segments = Vec::with_capacity(entry.segments.len());
        for segment in &entry.segments {
            let opened = dataset.open_vector_index_from_metadata(name, segment, &NoOpMetricsCollector);
            let segment = opened.await.map_err(failed)?;
            if metric_of(segment.metric_type()) != Some(entry.metric) {
                return Err(Error::corrupt("a vector index is of another metric than its metadata says")
                    .with_context("index", &entry.name)
                    .with_context("dataset", dataset.uri()));
            }
            segments.push(segment);
        }
        let coverage = IndexCoverage::of(handle, column, entry, &segments).await?;
        Ok(Self { metric: entry.metric, kind: entry.kind, segments, coverage })
    }

    /// Which rows it has.
    pub fn coverage(&self) -> &IndexCoverage {
        &self.coverage
    }

    /// How many candidates make `k` rows that are hardly others than the nearest.
    pub fn wanted(&self, k: usize, effort: SearchEffort) -> usize {
        let usual = match self.kind.codes {
            Codes::Flat => 1,
            Codes::Scalar => 2,
            Codes::Rabit(bits) if bits >= 4 => 2,
            Codes::Rabit(2..) => 4,
            Codes::Rabit(_) | Codes::Product => 10,
        };
        match effort.refine {
            Some(refine) => k.saturating_mul(refine),
            None => k.saturating_mul(usual).max(CANDIDATES),
        }
    }

    /// Rows near to `query`, `wanted` of each segment if there are as many; `share`, from 0 to 1, is how densely allowed
    /// ones lie, and `masked` whether it is known not to pay to drop the others afterwards.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails, `Corrupt` if a part of the index cannot be read.
    pub async fn candidates(
        &self,
        query: &[f32],
        wanted: usize,
        effort: SearchEffort,
        allowed: Allowed<'_>,
        share: f64,
        masked: bool,
    ) -> Result<Candidates> {
        let filter = self.filter(allowed);
        let without_mask = self.wanted_without_mask(wanted, allowed).filter(|_| !masked && !filter.is_empty());
        let key: ArrayRef = Arc::new(Float32Array::from(self.key(query)));
        let mut found = Candidates { rows: Vec::new(), partitions: 0, more: false, fell_short: false };
        for segment in self.segments.iter().filter(|segment| segment.num_rows() > 0) {
            let all = segment.total_partitions();
            let probes = probes(all, effort, share);
            let query = |k: usize| Query {
                column: String::new(),
                key: Arc::clone(&key),
                k,
                lower_bound: None,
                upper_bound: None,
                minimum_nprobes: probes,
                maximum_nprobes: Some(probes),
                search_effort: 0.5,
                ef: Some(effort.ef.unwrap_or(GRAPH_WIDTH.max(k + k / 2)).max(k)),
                refine_factor: None,
                metric_type: Some(segment.metric_type()),
                use_index: true,
                query_parallelism: DEFAULT_QUERY_PARALLELISM,
                dist_q_c: 0.0,
                approx_mode: ApproxMode::Normal,
            };
            let mut near = None;
            if let Some(asked) = without_mask {
                let asked = asked.min(segment.num_rows() as usize + 1);
                let everything = RowFilter::new(RowAddrMask::all_rows());
                let (mut rows, count) = self.look(segment, query(asked), &everything).await?;
                found.partitions += count;
                let are_all = rows.len() < asked;
                rows.retain(|(_, row)| filter.mask.selected(*row));
                near = (are_all || rows.len() >= wanted).then_some((rows, count));
                found.fell_short |= near.is_none();
            }
            let (mut near, count) = match near {
                Some(near) => near,
                None => {
                    let (rows, count) = self.look(segment, query(wanted), &filter).await?;
                    found.partitions += count;
                    (rows, count)
                }
            };
            keep_nearest(&mut near, wanted);
            found.more |= near.len() >= wanted || (count < all && effort.nprobes.is_none());
            found.rows.extend(near.into_iter().map(|(_, row)| row));
        }
        found.rows.sort_unstable();
        found.rows.dedup();
        Ok(found)
    }

    /// For how many candidates to ask without a mask so that probably `wanted` of them are allowed; `None` if that does
    /// not pay.
    fn wanted_without_mask(&self, wanted: usize, allowed: Allowed<'_>) -> Option<usize> {
        let least = match (self.kind.graph, self.kind.codes) {
            (false, Codes::Product) => PRODUCT_SHARE,
            (false, Codes::Rabit(_)) => RABIT_SHARE,
            _ => return None,
        };
        let all = self.segments.iter().map(|segment| segment.num_rows()).sum::<u64>().max(1);
        let there = match allowed {
            Allowed::Except(rows) => (self.coverage.ranked() as u64).saturating_sub(self.coverage.ranked_among(rows)),
            Allowed::Only(rows) => self.coverage.ranked_among(rows),
        };
        let share = there as f64 / all as f64;
        (share >= least).then(|| (wanted as f64 / share.min(1.0) * SLACK) as usize + FEW_MORE)
    }

    /// What the partitions nearest to a query give, at most as many rows as it asks for, with what the index takes for
    /// their distances; and how many partitions that are.
    async fn look(
        &self,
        segment: &Arc<dyn VectorIndex>,
        query: Query,
        filter: &RowFilter,
    ) -> Result<(Vec<(f32, u64)>, usize)> {
        let (partitions, distances) = segment.find_partitions(&query).map_err(from_lance)?;
        let (count, most) = (partitions.len(), query.k);
        let (partitions, distances) = (Arc::new(partitions), Arc::new(distances));
        let (filter, metrics) = (Arc::new(filter.clone()), Arc::new(NoOpMetricsCollector));
        // One call of Lance's is scored by one thread. It holds on to partitions: of whole vectors these are much memory.
        let rows = segment.num_rows() as usize / segment.total_partitions().max(1) * count;
        let threads = if self.kind.codes == Codes::Flat { 1 } else { task::threads_for(rows) };
        let search = |Range { start, end }| {
            let (segment, query) = (Arc::clone(segment), query.clone());
            let (partitions, distances) = (Arc::clone(&partitions), Arc::clone(&distances));
            let (filter, metrics) = (Arc::clone(&filter), Arc::clone(&metrics));
            async move {
                let found = segment.search_partitions(query, partitions, distances, start, end, filter, None, metrics);
                found.await.map_err(from_lance)?.try_collect::<Vec<RecordBatch>>().await.map_err(from_plan)
            }
        };
        let read = try_join_all(parts(count, threads).into_iter().map(search)).await?;
        let mut rows: Vec<(f32, u64)> = Vec::new();
        for batch in read.into_iter().flatten() {
            let distances = batch.column(0).as_primitive::<Float32Type>().values();
            let ids = batch.column(1).as_primitive::<UInt64Type>().values();
            rows.extend(distances.iter().copied().zip(ids.iter().copied()));
        }
        keep_nearest(&mut rows, most);
        Ok((rows, count))
    }

    /// The query as the index compares it: under cosine its direction.
    fn key(&self, query: &[f32]) -> Vec<f32> {
        if self.metric != Metric::Cosine {
            return query.to_vec();
        }
        let norm = query.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
        query.iter().map(|x| (f64::from(*x) / norm) as f32).collect()
    }

    fn filter(&self, allowed: Allowed<'_>) -> RowFilter {
        let there = self.coverage.mask().cloned().unwrap_or_else(RowAddrMask::all_rows);
        RowFilter::new(match allowed {
            Allowed::Except(rows) if rows.is_empty() => there,
            Allowed::Except(rows) => there.also_block(addresses(rows)),
            Allowed::Only(rows) => RowAddrMask::from_allowed(addresses(rows)) & there,
        })
    }
}

impl fmt::Debug for DatasetVectorIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatasetVectorIndex")
            .field("kind", &self.kind)
            .field("metric", &self.metric)
            .field("segments", &self.segments.len())
            .finish_non_exhaustive()
    }
}

/// How many of `all` partitions to look into.
fn probes(all: usize, effort: SearchEffort, share: f64) -> usize {
    let usual = PARTITIONS.max((all as f64).sqrt() * PARTITION_SHARE);
    // The fewer rows are allowed, the further apart they lie.
    let spread = (usual / share.clamp(1e-9, 1.0)).ceil() as usize;
    effort.nprobes.unwrap_or(spread).clamp(1, all.max(1))
}

/// Ranges of `count` partitions for so many threads.
fn parts(count: usize, threads: usize) -> Vec<Range<usize>> {
    let at_once = count.div_ceil(threads).max(1);
    (0..count).step_by(at_once).map(|start| start..count.min(start + at_once)).collect()
}

/// Leaves the nearest `count` rows.
fn keep_nearest(rows: &mut Vec<(f32, u64)>, count: usize) {
    if rows.len() > count {
        rows.select_nth_unstable_by(count, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        rows.truncate(count);
    }
}

/// The rows as Lance's masks hold them.
fn addresses(rows: &RoaringTreemap) -> RowAddrTreeMap {
    let mut addresses = RowAddrTreeMap::new();
    for (high, low) in rows.bitmaps() {
        addresses.insert_bitmap(high, RoaringBitmap::clone(low));
    }
    addresses
}

/// Rows that the index may find.
#[derive(Clone)]
struct RowFilter {
    mask: Arc<RowAddrMask>,
    all: bool,
}

impl RowFilter {
    fn new(mask: RowAddrMask) -> Self {
        Self { all: mask.is_select_all(), mask: Arc::new(mask) }
    }
}

#[async_trait::async_trait]
impl PreFilter for RowFilter {
    async fn wait_for_ready(&self) -> lance_core::Result<()> {
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.all
    }

    fn mask(&self) -> Arc<RowAddrMask> {
        Arc::clone(&self.mask)
    }

    fn filter_row_ids<'a>(&self, row_ids: Box<dyn Iterator<Item = &'a u64> + 'a>) -> Vec<u64> {
        self.mask.selected_indices(row_ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_shared_out_if_they_have_many_rows() {
        let ends = |count, threads| -> Vec<usize> {
            let parts = parts(count, threads);
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start) && parts[0].start == 0);
            parts.iter().map(|part| part.end).collect()
        };
        assert_eq!(ends(64, 1), [64]);
        assert_eq!(ends(64, 2), [32, 64]);
        assert_eq!(ends(7, 3), [3, 6, 7]);
        assert_eq!(ends(2, 16), [1, 2]);
        assert!(parts(0, 4).is_empty());
    }
}
