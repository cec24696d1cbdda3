//! Lance's vector index of a column of a dataset, open, and asked for candidates.
//!
//! What comes out are rows that look near by the index's codes. Whoever asks compares them exactly.

use std::fmt;
use std::sync::Arc;

use arrow::array::{AsArray, Float32Array, RecordBatch};
use arrow::datatypes::{Float32Type, UInt64Type};
use futures::TryStreamExt;
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

/// Partitions that are looked into at least, of those nearest to the query.
const PARTITIONS: f64 = 8.0;
/// … and so many times the square root of their number.
const PARTITION_SHARE: f64 = 4.0;
/// Candidates that are compared exactly at least.
const CANDIDATES: usize = 32;
/// How many candidates a graph keeps in view at least.
const GRAPH_WIDTH: usize = 128;

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

    /// Rows near to `query`, `wanted` of each segment if there are as many; `share` is how many of its rows are allowed,
    /// from 0 to 1.
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
    ) -> Result<Candidates> {
        let filter: Arc<dyn PreFilter> = Arc::new(self.filter(allowed));
        let key = Arc::new(Float32Array::from(self.key(query)));
        let mut found = Candidates { rows: Vec::new(), partitions: 0, more: false };
        for segment in self.segments.iter().filter(|segment| segment.num_rows() > 0) {
            let all = segment.total_partitions();
            let probes = probes(all, effort, share);
            let query = Query {
                column: String::new(),
                key: Arc::clone(&key) as _,
                k: wanted,
                lower_bound: None,
                upper_bound: None,
                minimum_nprobes: probes,
                maximum_nprobes: Some(probes),
                search_effort: 0.5,
                ef: Some(effort.ef.unwrap_or(GRAPH_WIDTH.max(wanted + wanted / 2)).max(wanted)),
                refine_factor: None,
                metric_type: Some(segment.metric_type()),
                use_index: true,
                query_parallelism: DEFAULT_QUERY_PARALLELISM,
                dist_q_c: 0.0,
                approx_mode: ApproxMode::Normal,
            };
            let (partitions, distances) = segment.find_partitions(&query).map_err(from_lance)?;
            let count = partitions.len();
            let (partitions, distances) = (Arc::new(partitions), Arc::new(distances));
            let metrics = Arc::new(NoOpMetricsCollector);
            let search = Arc::clone(segment).search_partitions(
                query,
                partitions,
                distances,
                0,
                count,
                Arc::clone(&filter),
                None,
                metrics,
            );
            let read = search.await.map_err(from_lance)?.try_collect::<Vec<RecordBatch>>().await.map_err(from_plan)?;
            let mut near = nearest(&read, wanted);
            found.partitions += count;
            found.more |= near.len() >= wanted || (count < all && effort.nprobes.is_none());
            found.rows.append(&mut near);
        }
        found.rows.sort_unstable();
        found.rows.dedup();
        Ok(found)
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

/// The nearest `count` rows of what the partitions gave.
fn nearest(read: &[RecordBatch], count: usize) -> Vec<u64> {
    let mut rows: Vec<(f32, u64)> = Vec::new();
    for batch in read {
        let distances = batch.column(0).as_primitive::<Float32Type>().values();
        let ids = batch.column(1).as_primitive::<UInt64Type>().values();
        rows.extend(distances.iter().copied().zip(ids.iter().copied()));
    }
    if rows.len() > count {
        rows.select_nth_unstable_by(count, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        rows.truncate(count);
    }
    rows.into_iter().map(|(_, row)| row).collect()
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
