//! The product codes of one segment of a dataset's vector index, read out of Lance's files into lists of ours.
//!
//! Lance scores codes one by one, and those of rows that a mask leaves much slower yet; ours are screened many at a time,
//! and a mask is asked only about rows that are near. A partition is read when it is first looked into and stays while
//! memory lasts.

use std::fmt;
use std::sync::{Arc, Weak};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, UInt8Type, UInt64Type};
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use lance::index::vector::ivf::v2::IvfPq;
use lance_index::metrics::NoOpMetricsCollector;
use lance_index::vector::quantizer::Quantizer;
use lance_index::vector::{PQ_CODE_COLUMN, VectorIndex};
use lance_linalg::distance::DistanceType;
use parking_lot::Mutex;

use super::ROW_ID;
use super::failure::from_plan;
use crate::cache::{MemoryBudget, MemoryLease, Reclaim};
use crate::distance::Metric;
use crate::error::{Error, Result};
use crate::store::from_lance;
use crate::task;
use crate::vector_index::{ProductCodebook, ProductList, ProductTable, Simd, Top, rank};

/// Partitions that are read at a time.
const READS: usize = 16;
/// Partitions that are held at a time where they cannot be kept.
const AT_ONCE: usize = 256;
/// Centres so many times as far apart as codes reach are not understood here.
const FAR: f32 = 1e4;
/// Bytes of codes from which on a search leaves the async workers.
const HEAVY: usize = 4 << 20;

/// Partitions of codes, those that were read.
pub(super) struct ProductCodes {
    segment: Arc<dyn VectorIndex>,
    codebook: ProductCodebook,
    fingerprint: u64,
    /// How many bits name a centroid: 4 or 8.
    bits: u32,
    /// The centres of the partitions, if codes are of what is left of vectors next to them; and a point amid these.
    centres: Option<(Vec<f32>, Vec<f32>)>,
    lists: Mutex<Vec<Option<Arc<CodedRows>>>>,
    lease: MemoryLease,
    /// Bytes held whatever was read.
    fixed: usize,
}

/// The rows of a partition.
struct CodedRows {
    ids: Vec<u64>,
    list: ProductList,
}

impl ProductCodes {
    /// The codes of `segment`, none read yet; `None` if it has others, or such as are not understood here. `budget` is
    /// charged for what is read, and asks for it back.
    pub(super) fn of(segment: &Arc<dyn VectorIndex>, budget: &Arc<MemoryBudget>) -> Option<Arc<Self>> {
        // Others may be told of the same kind and lay codes out otherwise, or compare queries that were transformed.
        if segment.num_rows() == 0 || !segment.as_any().is::<IvfPq>() {
            return None;
        }
        let Quantizer::Product(quantizer) = segment.quantizer() else { return None };
        let (pieces, bits) = (quantizer.num_sub_vectors, quantizer.num_bits);
        let names = match bits {
            4 => 16,
            8 => 256,
            _ => return None,
        };
        let codebook = ProductCodebook::new(pieces, names, &floats(quantizer.codebook.values())?)?;
        if codebook.dimension() != quantizer.dimension {
            return None;
        }
        let partitions = segment.total_partitions();
        let centres = match segment.metric_type() {
            DistanceType::Dot => None,
            DistanceType::L2 | DistanceType::Cosine => {
                let centres = floats(segment.ivf_model().centroids_array()?.values())?;
                if partitions == 0 || centres.len() != partitions * codebook.dimension() {
                    return None;
                }
                let middle = middle(&centres, codebook.dimension());
                // Far from there, sums of floats lose what codes say.
                let far = codebook.reach() * FAR;
                let is_far = |centre: &[f32]| rank(Metric::L2, Simd::detect(), centre, &middle) > far * far;
                if centres.chunks_exact(middle.len()).any(is_far) {
                    return None;
                }
                Some((centres, middle))
            }
            DistanceType::Hamming => return None,
        };
        let fixed = codebook.memory() + centres.as_ref().map_or(0, |(centres, _)| size_of_val(centres.as_slice()));
        let (lists, lease) = (Mutex::new(vec![None; partitions]), budget.lease());
        lease.set(fixed);
        let (segment, fingerprint) = (Arc::clone(segment), codebook.fingerprint());
        let codes = Arc::new(Self { segment, codebook, fingerprint, bits, centres, lists, lease, fixed });
        let holder: Weak<Self> = Arc::downgrade(&codes);
        budget.register(holder);
        Some(codes)
    }

    /// The [fingerprint](ProductCodebook::fingerprint) of their codebook.
    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Rows of these partitions that are near to `query` by their codes: the `wanted` nearest of those that are `allowed`,
    /// how far they are by their codes, and their ids.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails, `Corrupt` if a partition cannot be read.
    pub(super) async fn nearest(
        self: &Arc<Self>,
        query: &[f32],
        partitions: &[u32],
        wanted: usize,
        allowed: impl Fn(u64) -> bool + Send + Sync + 'static,
    ) -> Result<Vec<(f32, u64)>> {
        let table = match &self.centres {
            Some((_, origin)) => self.codebook.by_distance(query, origin),
            None => self.codebook.by_product(query),
        };
        let search = Arc::new(Search { codes: Arc::clone(self), query: query.to_vec(), table, wanted, allowed });
        let mut best = Vec::new();
        for partitions in partitions.chunks(AT_ONCE) {
            let parts = self.load(partitions).await?;
            let rows = parts.iter().map(|(_, part)| part.ids.len()).sum::<usize>();
            let heavy = parts.iter().map(|(_, part)| part.list.memory()).sum::<usize>() >= HEAVY;
            let threads = if heavy { task::threads_for(rows) } else { 1 };
            let found = task::split(parts.len(), threads).into_iter().map(|range| {
                let (search, parts) = (Arc::clone(&search), parts[range].to_vec());
                task::blocking_if(heavy, move || Ok(search.look(&parts)))
            });
            best.extend(try_join_all(found).await?.concat());
            if best.len() > wanted {
                best.select_nth_unstable_by(wanted, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                best.truncate(wanted);
            }
        }
        Ok(best)
    }

    /// These partitions, by their numbers, without empty ones.
    async fn load(self: &Arc<Self>, partitions: &[u32]) -> Result<Vec<(u32, Arc<CodedRows>)>> {
        let kept: Vec<(u32, Option<Arc<CodedRows>>)> = {
            let lists = self.lists.lock();
            partitions.iter().map(|number| (*number, lists.get(*number as usize).cloned().flatten())).collect()
        };
        let load = |(number, kept): (u32, Option<Arc<CodedRows>>)| async move {
            let rows = match kept {
                Some(rows) => rows,
                None => self.read(number).await?,
            };
            Ok::<_, Error>((number, rows))
        };
        let loaded = stream::iter(kept).map(load).buffered(READS).try_collect::<Vec<_>>().await?;
        Ok(loaded.into_iter().filter(|(_, rows)| !rows.ids.is_empty()).collect())
    }

    async fn read(self: &Arc<Self>, number: u32) -> Result<Arc<CodedRows>> {
        let read = self.segment.partition_reader(number as usize, true, &NoOpMetricsCollector);
        let batches = read.await.map_err(from_lance)?.try_collect::<Vec<_>>().await.map_err(from_plan)?;
        let codes = Arc::clone(self);
        let rows = task::blocking(move || {
            let damaged = || Error::corrupt(format!("partition {number} of an index is not product codes of rows"));
            let (ids, bytes) = match batches.as_slice() {
                [] => return Ok(codes.coded(number, &[], &[])),
                [batch] => {
                    let ids = batch.column_by_name(ROW_ID).and_then(|ids| ids.as_primitive_opt::<UInt64Type>());
                    let bytes = batch.column_by_name(PQ_CODE_COLUMN).and_then(|codes| codes.as_fixed_size_list_opt());
                    let bytes = bytes.and_then(|codes| codes.values().as_primitive_opt::<UInt8Type>());
                    ids.zip(bytes).ok_or_else(damaged)?
                }
                _ => return Err(damaged()),
            };
            if bytes.len() != ids.len() * codes.code_bytes() {
                return Err(damaged());
            }
            Ok(codes.coded(number, ids.values(), bytes.values()))
        });
        let rows = Arc::new(rows.await?);
        self.keep(number, &rows);
        Ok(rows)
    }

    /// Bytes of a code as Lance stores it.
    fn code_bytes(&self) -> usize {
        self.codebook.pieces() * self.bits as usize / 8
    }

    /// The rows of a partition; `bytes` has the first bytes of all codes, then the second ones, and so on. Of 4 bits the
    /// lower half of a byte comes first.
    fn coded(&self, number: u32, ids: &[u64], bytes: &[u8]) -> CodedRows {
        let rows = ids.len();
        let code = |row: usize, piece: usize| match self.bits {
            4 => bytes[piece / 2 * rows + row] >> (piece % 2 * 4) & 0xf,
            _ => bytes[piece * rows + row],
        };
        let mut list = ProductList::new(&self.codebook, rows, code);
        if let Some((_, origin)) = &self.centres {
            list = list.of_residuals(&self.codebook, self.centre(number), origin);
        }
        CodedRows { ids: ids.to_vec(), list }
    }

    fn centre(&self, number: u32) -> &[f32] {
        let dimension = self.codebook.dimension();
        let centres = self.centres.as_ref().map_or(&[][..], |(centres, _)| centres);
        centres.chunks_exact(dimension).nth(number as usize).unwrap_or_default()
    }

    /// Keeps a partition if there is memory for it.
    fn keep(&self, number: u32, rows: &Arc<CodedRows>) {
        let budget = self.lease.budget();
        if budget.is_exhausted() {
            budget.reclaim();
        }
        if budget.is_exhausted() {
            return;
        }
        let mut lists = self.lists.lock();
        if let Some(place) = lists.get_mut(number as usize)
            && place.is_none()
        {
            self.lease.grow(size_of_val(rows.ids.as_slice()) + rows.list.memory());
            *place = Some(Arc::clone(rows));
        }
    }
}

impl Reclaim for ProductCodes {
    fn reclaimable(&self) -> usize {
        self.lease.bytes().saturating_sub(self.fixed)
    }

    fn reclaim(&self) {
        let mut lists = self.lists.lock();
        lists.fill(None);
        self.lease.set(self.fixed);
    }
}

impl fmt::Debug for ProductCodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProductCodes").field("bytes", &self.lease.bytes()).finish_non_exhaustive()
    }
}

/// One search.
struct Search<A> {
    codes: Arc<ProductCodes>,
    query: Vec<f32>,
    table: ProductTable,
    wanted: usize,
    allowed: A,
}

impl<A: Fn(u64) -> bool> Search<A> {
    /// The nearest rows of these partitions, with their distances.
    fn look(&self, parts: &[(u32, Arc<CodedRows>)]) -> Vec<(f32, u64)> {
        let (simd, mut top) = (Simd::detect(), Top::new(self.wanted));
        let mut ends = Vec::with_capacity(parts.len());
        let mut first = 0;
        for (number, CodedRows { ids, list }) in parts.iter().map(|(number, rows)| (*number, rows.as_ref())) {
            let at = match &self.codes.centres {
                Some(_) => rank(Metric::L2, simd, &self.query, self.codes.centre(number)),
                None => 0.0,
            };
            list.search(simd, &self.table, at, first, |row| (self.allowed)(ids[row]), &mut top);
            first += ids.len() as u32;
            ends.push(first);
        }
        let id = |row: u32| {
            let part = ends.partition_point(|end| *end <= row);
            let ids = &parts[part].1.ids;
            ids[ids.len() - (ends[part] - row) as usize]
        };
        top.into_sorted().into_iter().map(|found| (found.distance, id(found.row))).collect()
    }
}

/// The values as `f32`.
fn floats(values: &ArrayRef) -> Option<Vec<f32>> {
    let values = cast(values, &DataType::Float32).ok()?;
    (values.null_count() == 0).then(|| values.as_primitive::<Float32Type>().values().to_vec())
}

/// A point amid points of so many dimensions, wherever few of them are: of each dimension the median.
fn middle(points: &[f32], dimensions: usize) -> Vec<f32> {
    let median = |dimension: usize| {
        let mut values: Vec<f32> = points.iter().skip(dimension).step_by(dimensions).copied().collect();
        let at = values.len() / 2;
        *values.select_nth_unstable_by(at, f32::total_cmp).1
    };
    (0..dimensions).map(median).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_far_away_does_not_move_the_middle() {
        assert_eq!(middle(&[1.0, -5.0, 2.0, 1e9, 3.0, -4.0], 2), [2.0, -4.0]);
    }
}
