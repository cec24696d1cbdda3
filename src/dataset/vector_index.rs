//! Lance's vector index of a column of a dataset, open, and asked for hits.
//!
//! What comes out are rows that look near by the index's codes. Whoever asks compares them exactly.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float32Array, RecordBatch, UInt32Array};
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
use super::product_codes::ProductCodes;
use crate::distance::Metric;
use crate::error::{Error, Result};
use crate::settings::SearchEffort;
use crate::store::from_lance;
use crate::task;
use crate::vector_index::{known_distance, squared_length};

/// Partitions that are looked into at least, of those nearest to the query.
const PARTITIONS: f64 = 8.0;
/// … and so many times the square root of their number.
const PARTITION_SHARE: f64 = 4.0;
/// Hits that are compared exactly at least.
const HITS: usize = 32;
/// How many hits a graph keeps in view at least.
const GRAPH_WIDTH: usize = 128;
/// The least share of rows to be allowed for codes of bits to be scored without a mask, and what is not allowed dropped:
/// Lance looks up each row in a mask, which takes longer than scoring it.
const BITS_SHARE: f64 = 0.5;
/// Calls of Lance's at a time where partitions are far away.
const READS: usize = 8;
/// Hits that are asked for then, for each that is needed on average; and how many more.
const SLACK: f64 = 1.25;
const FEW_MORE: usize = 16;

/// Which rows may be found.
#[derive(Debug, Clone)]
pub enum Allowed {
    /// All but these.
    Except(Arc<RoaringTreemap>),
    /// None but these.
    Only(Arc<RoaringTreemap>),
}

impl Allowed {
    /// Whether a row may be found.
    pub fn has(&self, row: u64) -> bool {
        match self {
            Self::Except(rows) => !rows.contains(row),
            Self::Only(rows) => rows.contains(row),
        }
    }
}

/// What tells how far hits are. What the same estimates say of rows of different datasets can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Estimates {
    /// Product codes by the codebook with this fingerprint: how much codes leave out of distances depends on it.
    Product(u64),
    /// Codes of so many bits a dimension (RQ): estimates of distances that are right on average.
    Rabit(u32),
    /// The vectors themselves.
    Exact,
}

/// What an index found.
#[derive(Debug, Clone)]
pub struct Hits {
    /// How far rows are by the index, and their ids, each once and in ascending order.
    pub rows: Vec<(f32, u64)>,
    /// How many partitions were looked into.
    pub partitions: usize,
    /// Whether asking for more may bring more.
    pub more: bool,
}

/// Numbers of partitions, and how far their centres are from a query.
type Partitions = (Arc<UInt32Array>, Arc<Float32Array>);

/// The vector index of one column for one metric.
pub struct DatasetVectorIndex {
    metric: Metric,
    kind: IndexKind,
    segments: Vec<Arc<dyn VectorIndex>>,
    /// Those of each segment that can be read.
    codes: Vec<Option<Arc<ProductCodes>>>,
    coverage: IndexCoverage,
    /// Whether the storage answers at once.
    is_near: bool,
}

/// What is looked for.
struct Asked<'a> {
    key: Vec<f32>,
    values: ArrayRef,
    wanted: usize,
    effort: SearchEffort,
    allowed: &'a Allowed,
    share: f64,
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
        let open = |segment| dataset.open_vector_index_from_metadata(name, segment, &NoOpMetricsCollector);
        let segments = try_join_all(entry.segments.iter().map(open)).await.map_err(failed)?;
        if segments.iter().any(|segment| metric_of(segment.metric_type()) != Some(entry.metric)) {
            return Err(Error::corrupt("a vector index is of another metric than its metadata says")
                .with_context("index", &entry.name)
                .with_context("dataset", dataset.uri()));
        }
        let coverage = IndexCoverage::of(handle, column, entry, &segments).await?;
        let codes = segments.iter().map(|segment| ProductCodes::of(segment, handle.budget())).collect();
        let is_near = handle.is_near();
        Ok(Self { metric: entry.metric, kind: entry.kind, segments, codes, coverage, is_near })
    }

    /// Which rows it has.
    pub fn coverage(&self) -> &IndexCoverage {
        &self.coverage
    }

    /// What tells how far its hits are; `None` if that cannot be compared with what other indexes tell.
    pub fn estimates(&self) -> Option<Estimates> {
        match self.kind.codes {
            Codes::Product => self.codebook().map(Estimates::Product),
            Codes::Rabit(bits) => Some(Estimates::Rabit(bits)),
            Codes::Flat => Some(Estimates::Exact),
            _ => None,
        }
    }

    /// The fingerprint of the codebook that all its product codes are by; `None` if there are several, or codes of one
    /// cannot be read.
    fn codebook(&self) -> Option<u64> {
        let mut codebooks = self.with_rows().map(|(_, codes)| codes.map(|codes| codes.fingerprint()));
        let first = codebooks.next()??;
        codebooks.all(|codebook| codebook == Some(first)).then_some(first)
    }

    /// Loads its codes, which searches then find decoded as long as the index cache keeps them. Whole vectors are too much
    /// for it, and product codes are kept elsewhere.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails, `Corrupt` if a part of the index cannot be read.
    pub(super) async fn load_codes(&self) -> Result<()> {
        if matches!(self.kind.codes, Codes::Scalar | Codes::Rabit(_)) {
            try_join_all(self.with_rows().map(|(segment, _)| segment.prewarm())).await.map_err(from_lance)?;
        }
        Ok(())
    }

    /// How many segments give hits.
    pub fn segments(&self) -> usize {
        self.with_rows().count()
    }

    /// The segments that have rows, and their codes.
    fn with_rows(&self) -> impl Iterator<Item = (&Arc<dyn VectorIndex>, Option<&Arc<ProductCodes>>)> {
        let all = self.segments.iter().zip(self.codes.iter().map(Option::as_ref));
        all.filter(|(segment, _)| segment.num_rows() > 0)
    }

    /// How many hits make `k` rows that are hardly others than the nearest.
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
            None => k.saturating_mul(usual).max(HITS),
        }
    }

    /// Rows near to `query`, `wanted` of each segment if there are as many; `share`, from 0 to 1, is how densely allowed
    /// ones lie.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails, `Corrupt` if a part of the index cannot be read.
    pub async fn hits(
        &self,
        query: &[f32],
        wanted: usize,
        effort: SearchEffort,
        allowed: &Allowed,
        share: f64,
    ) -> Result<Hits> {
        let key = self.key(query);
        let values: ArrayRef = Arc::new(Float32Array::from(key.clone()));
        let asked = Asked { key, values, wanted, effort, allowed, share };
        let of_segments = self.with_rows().map(|(segment, codes)| self.hits_of(segment, codes, &asked));
        let mut found = Hits { rows: Vec::new(), partitions: 0, more: false };
        for hits in try_join_all(of_segments).await? {
            found.partitions += hits.partitions;
            found.more |= hits.more;
            found.rows.extend(hits.rows);
        }
        found.rows.sort_unstable_by(|a, b| a.1.cmp(&b.1).then(a.0.total_cmp(&b.0)));
        found.rows.dedup_by_key(|hit| hit.1);
        Ok(found)
    }

    /// The hits of one segment.
    async fn hits_of(
        &self,
        segment: &Arc<dyn VectorIndex>,
        codes: Option<&Arc<ProductCodes>>,
        asked: &Asked<'_>,
    ) -> Result<Hits> {
        let all = segment.total_partitions();
        let probes = probes(all, asked.effort, asked.share);
        let query = Query {
            column: String::new(),
            key: Arc::clone(&asked.values),
            k: asked.wanted,
            lower_bound: None,
            upper_bound: None,
            minimum_nprobes: probes,
            maximum_nprobes: Some(probes),
            search_effort: 0.5,
            ef: Some(asked.effort.ef.unwrap_or(GRAPH_WIDTH.max(asked.wanted + asked.wanted / 2)).max(asked.wanted)),
            refine_factor: None,
            metric_type: Some(segment.metric_type()),
            use_index: true,
            query_parallelism: DEFAULT_QUERY_PARALLELISM,
            dist_q_c: 0.0,
            approx_mode: ApproxMode::Normal,
        };
        let (partitions, distances) = segment.find_partitions(&query).map_err(from_lance)?;
        let count = partitions.len();
        let near = match codes {
            Some(codes) => {
                let (allowed, there) = (asked.allowed.clone(), self.coverage.mask().cloned());
                let may_be_found =
                    move |row| allowed.has(row) && there.as_ref().is_none_or(|there| there.selected(row));
                codes.nearest(&asked.key, partitions.values(), asked.wanted, may_be_found).await?
            }
            None => {
                let (partitions, filter) = ((Arc::new(partitions), Arc::new(distances)), self.filter(asked.allowed));
                match self.look_without_mask(segment, &query, &partitions, asked.allowed, &filter).await? {
                    Some(near) => near,
                    None => self.look(segment, query, &partitions, &filter).await?,
                }
            }
        };
        let more = near.len() >= asked.wanted || (count < all && asked.effort.nprobes.is_none());
        Ok(Hits { rows: near, partitions: count, more })
    }

    /// The same as with a mask, where most rows are allowed; `None` where they are not, or too few of those that were
    /// found.
    async fn look_without_mask(
        &self,
        segment: &Arc<dyn VectorIndex>,
        query: &Query,
        partitions: &Partitions,
        allowed: &Allowed,
        filter: &Arc<RowFilter>,
    ) -> Result<Option<Vec<(f32, u64)>>> {
        if self.kind.graph || !matches!(self.kind.codes, Codes::Rabit(_)) || filter.is_empty() {
            return Ok(None);
        }
        let all = self.segments.iter().map(|segment| segment.num_rows()).sum::<u64>().max(1);
        let there = match allowed {
            Allowed::Except(rows) => (self.coverage.ranked() as u64).saturating_sub(self.coverage.ranked_among(rows)),
            Allowed::Only(rows) => self.coverage.ranked_among(rows),
        };
        let share = there as f64 / all as f64;
        if share < BITS_SHARE {
            return Ok(None);
        }
        let asked = (query.k as f64 / share.min(1.0) * SLACK) as usize + FEW_MORE;
        let asked = asked.min(segment.num_rows() as usize + 1);
        let everything = Arc::new(RowFilter::new(RowAddrMask::all_rows()));
        let mut found = self.look(segment, Query { k: asked, ..query.clone() }, partitions, &everything).await?;
        let are_all = found.len() < asked;
        found.retain(|(_, row)| filter.mask.selected(*row));
        let are_enough = are_all || found.len() >= query.k;
        found.truncate(query.k);
        Ok(are_enough.then_some(found))
    }

    /// What Lance finds in these partitions, the nearest first, at most as many rows as the query asks for.
    async fn look(
        &self,
        segment: &Arc<dyn VectorIndex>,
        query: Query,
        (partitions, distances): &Partitions,
        filter: &Arc<RowFilter>,
    ) -> Result<Vec<(f32, u64)>> {
        let (count, most) = (partitions.len(), query.k);
        let metrics = Arc::new(NoOpMetricsCollector);
        // One call of Lance's is scored by one thread. It holds on to partitions: of whole vectors these are much memory.
        let rows = segment.num_rows() as usize / segment.total_partitions().max(1) * count;
        let threads = match self.kind.codes {
            Codes::Flat if self.is_near => 1,
            // Far away it reads few at a time.
            Codes::Flat => READS,
            _ => task::threads_for(rows),
        };
        let search = |Range { start, end }| {
            let (segment, query) = (Arc::clone(segment), query.clone());
            let (partitions, distances) = (Arc::clone(partitions), Arc::clone(distances));
            let (filter, metrics) = (Arc::clone(filter), Arc::clone(&metrics));
            async move {
                let found = segment.search_partitions(query, partitions, distances, start, end, filter, None, metrics);
                found.await.map_err(from_lance)?.try_collect::<Vec<RecordBatch>>().await.map_err(from_plan)
            }
        };
        let read = try_join_all(task::split(count, threads).into_iter().map(search)).await?;
        let mut rows: Vec<(f32, u64)> = Vec::new();
        for batch in read.into_iter().flatten() {
            let distances = batch.column(0).as_primitive::<Float32Type>().values();
            let ids = batch.column(1).as_primitive::<UInt64Type>().values();
            rows.extend(distances.iter().copied().map(known_distance).zip(ids.iter().copied()));
        }
        rows.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        rows.truncate(most);
        Ok(rows)
    }

    /// The query as the index compares it: under cosine its direction.
    fn key(&self, query: &[f32]) -> Vec<f32> {
        if self.metric != Metric::Cosine {
            return query.to_vec();
        }
        let norm = squared_length(query).sqrt();
        query.iter().map(|x| (f64::from(*x) / norm) as f32).collect()
    }

    fn filter(&self, allowed: &Allowed) -> Arc<RowFilter> {
        let there = self.coverage.mask().map_or_else(RowAddrMask::all_rows, |there| there.as_ref().clone());
        Arc::new(RowFilter::new(match allowed {
            Allowed::Except(rows) if rows.is_empty() => there,
            Allowed::Except(rows) => there.also_block(addresses(rows)),
            Allowed::Only(rows) => RowAddrMask::from_allowed(addresses(rows)) & there,
        }))
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
