//! The vectors of a memtable as codes, in the order of the rows.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::block::{Block, Layout, ROWS, Tail};
use super::code::{Factors, Origin, encode};
use super::kernels::raw_dot;
use super::rank::{accepts, squared_length};
use super::rotation::Rotation;
use super::search::{Request, Search, Vectors, Work};
use super::simd::Simd;
use super::top::Neighbour;
use crate::distance::Metric;

/// Squared lengths above this are no good for estimates: products of them would overflow.
const LARGE: f32 = 1e30;

/// Each time that there are so many times more rows, the origin is taken anew.
const GROWTH: usize = 4;

/// An index of vectors that are appended row by row, for any number of readers at the same time.
///
/// Vectors are kept as one bit a dimension after a random rotation. A search looks at all codes and compares exactly
/// what may be among the nearest.
#[derive(Debug)]
pub struct VectorIndex {
    dim: usize,
    metric: Metric,
    simd: Simd,
    rotation: Rotation,
    layout: Layout,
    sealed: boxcar::Vec<Block>,
    tail: ArcSwap<Tail>,
    /// Rows whose lengths overflow: they have no code and are compared exactly.
    odd: boxcar::Vec<u32>,
    /// The length of the longest of them, the bits of an `f64`.
    longest: AtomicU64,
    appender: Mutex<Appender>,
}

/// What only the appender knows.
#[derive(Debug)]
struct Appender {
    rows: usize,
    /// Rotated vectors that have a code: how many, and their sum.
    coded: usize,
    sum: Vec<f64>,
    /// The rotated vectors of the first block, which is coded anew when it is full: only then there is an origin.
    young: Vec<f32>,
    /// With this many rows the origin is taken anew.
    renew: usize,
    rotated: Vec<f32>,
    code: Vec<u64>,
}

/// Why vectors cannot be indexed or searched for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexError {
    /// Vectors have no dimensions.
    NoDimensions,
    /// These are not so many values as vectors of this many dimensions have.
    Length {
        /// Values that were given.
        values: usize,
        /// Dimensions of the index.
        dim: usize,
    },
    /// Rows were left out or come twice, or there are more than a number of 32 bits can tell.
    Order {
        /// The row that was to come.
        expected: usize,
        /// The row that came.
        start: usize,
    },
}

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDimensions => write!(f, "vectors need at least one dimension"),
            Self::Length { values, dim } => write!(f, "{values} values are no vectors of {dim} dimensions"),
            Self::Order { expected, start } => write!(f, "rows from {start} on cannot follow row {expected}"),
        }
    }
}

impl std::error::Error for IndexError {}

impl VectorIndex {
    /// An empty index of vectors of `dim` dimensions.
    ///
    /// # Errors
    /// `NoDimensions` if `dim` is zero.
    pub fn new(dim: usize, metric: Metric) -> Result<Self, IndexError> {
        if dim == 0 {
            return Err(IndexError::NoDimensions);
        }
        let rotation = Rotation::new(dim);
        let padded = rotation.padded();
        let layout = Layout::new(padded / 64);
        let origin = Origin::new(vec![0.0; padded].into());
        let appender = Appender {
            rows: 0,
            coded: 0,
            sum: vec![0.0; padded],
            young: Vec::new(),
            renew: ROWS,
            rotated: vec![0.0; padded],
            code: vec![0; padded / 64],
        };
        Ok(Self {
            dim,
            metric,
            simd: Simd::detect(),
            rotation,
            layout,
            sealed: boxcar::Vec::new(),
            tail: ArcSwap::from_pointee(Tail::new(0, layout, origin)),
            odd: boxcar::Vec::new(),
            longest: AtomicU64::new(0),
            appender: Mutex::new(appender),
        })
    }

    /// Adds the rows from `start` on, whose values lie one vector after the other in `vectors`.
    ///
    /// The `i`-th of them has a vector if `has_vector(i)` and if the metric [accepts](super::accepts) it; the others
    /// are counted and never found.
    ///
    /// # Errors
    /// `Length` if the values are no whole vectors, `Order` if `start` is not the number of rows so far. Nothing is
    /// added then.
    pub fn append(&self, start: usize, vectors: &[f32], has_vector: impl Fn(usize) -> bool) -> Result<(), IndexError> {
        let (vectors, rest) = (vectors.chunks_exact(self.dim), vectors.len() % self.dim);
        if rest != 0 {
            return Err(IndexError::Length { values: vectors.len() * self.dim + rest, dim: self.dim });
        }
        let mut appender = self.appender.lock();
        if start != appender.rows || start + vectors.len() > u32::MAX as usize {
            return Err(IndexError::Order { expected: appender.rows, start });
        }
        for (i, vector) in vectors.enumerate() {
            let factors = if has_vector(i) { self.encode(&mut appender, vector) } else { Factors::NONE };
            self.push(&mut appender, factors);
        }
        Ok(())
    }

    /// Leaves the code of `vector` in `appender`.
    fn encode(&self, appender: &mut Appender, vector: &[f32]) -> Factors {
        let Some(scale) = self.scale(vector) else { return Factors::NONE };
        self.rotation.rotate(self.simd, vector, scale, &mut appender.rotated);
        let square = raw_dot(self.simd, &appender.rotated, &appender.rotated);
        if square.is_nan() || square > LARGE {
            if accepts(self.metric, vector) {
                self.longest.fetch_max(squared_length(vector).sqrt().to_bits(), Ordering::Relaxed);
                self.odd.push(appender.rows as u32);
            }
            return Factors::NONE;
        }
        appender.coded += 1;
        for (sum, value) in appender.sum.iter_mut().zip(&appender.rotated) {
            *sum += f64::from(*value);
        }
        let tail = self.tail.load();
        encode(self.simd, self.metric, &appender.rotated, tail.origin(), &mut appender.code)
    }

    /// By what a vector is multiplied before it is coded, if it can be found at all.
    fn scale(&self, vector: &[f32]) -> Option<f32> {
        if self.metric != Metric::Cosine {
            return Some(1.0);
        }
        let square = raw_dot(self.simd, vector, vector);
        let square = if (1e-25..1e25).contains(&square) { f64::from(square) } else { squared_length(vector) };
        (square > 0.0 && square.is_finite()).then(|| (1.0 / square.sqrt()) as f32)
    }

    fn push(&self, appender: &mut Appender, factors: Factors) {
        let tail = self.tail.load();
        if tail.sealed() == 0 && !factors.add.is_nan() {
            appender.young.extend_from_slice(&appender.rotated);
        }
        appender.rows += 1;
        if tail.push(&appender.code, factors) {
            return;
        }
        let origin = if appender.rows >= appender.renew && appender.coded > 0 {
            appender.renew = appender.renew.saturating_mul(GROWTH);
            Origin::new(appender.sum.iter().map(|sum| (sum / appender.coded as f64) as f32).collect())
        } else {
            Arc::clone(tail.origin())
        };
        let mut block = tail.block();
        let young = std::mem::take(&mut appender.young);
        let mut young = young.chunks_exact(self.rotation.padded());
        if tail.sealed() == 0 {
            block.recode(&origin, |code| young.next().map(|v| encode(self.simd, self.metric, v, &origin, code)));
        }
        self.sealed.push(block);
        self.tail.store(Arc::new(Tail::new(tail.sealed() + 1, self.layout, origin)));
    }

    /// The rows nearest to the request's vector, the nearest first: as many as it asks for, or all that may be found.
    ///
    /// # Errors
    /// `Length` if the request's vector has other dimensions.
    pub fn search(&self, request: &Request<'_>, vectors: &impl Vectors) -> Result<Vec<Neighbour>, IndexError> {
        Ok(self.search_counting(request, vectors)?.0)
    }

    /// As [`Self::search`]; tells also what there was to do.
    ///
    /// # Errors
    /// As there.
    pub fn search_counting(
        &self,
        request: &Request<'_>,
        vectors: &impl Vectors,
    ) -> Result<(Vec<Neighbour>, Work), IndexError> {
        if request.vector.len() != self.dim {
            return Err(IndexError::Length { values: request.vector.len(), dim: self.dim });
        }
        if request.k == 0 {
            return Ok((Vec::new(), Work::default()));
        }
        let tail = self.tail.load();
        let last = tail.block();
        let blocks: Vec<&Block> = (0..tail.sealed()).map_while(|i| self.sealed.get(i)).chain([&last]).collect();
        let mut rotated = vec![0.0; self.rotation.padded()];
        let scale = self.scale(request.vector);
        self.rotation.rotate(self.simd, request.vector, scale.unwrap_or(0.0), &mut rotated);
        let square = raw_dot(self.simd, &rotated, &rotated);
        let mut search = Search::new(self.simd, self.metric, request, &rotated, self.layout, &blocks);
        if scale.is_some() && square <= LARGE {
            search.run(vectors);
        } else {
            // Nothing can be estimated.
            search.run_all(vectors);
        }
        self.odd.iter().for_each(|(_, row)| search.add(*row, vectors));
        Ok(search.finish())
    }

    /// Whether ranks by this vector may be beyond the numbers of 32 bits.
    pub fn may_overflow(&self, vector: &[f32]) -> bool {
        let (square, longest) = (squared_length(vector), f64::from_bits(self.longest.load(Ordering::Relaxed)));
        match self.metric {
            // Of a long row it is known that it is far.
            Metric::L2 => square > f64::from(LARGE),
            Metric::Cosine => false,
            Metric::InnerProduct => square > f64::from(LARGE) || square.sqrt() * longest > f64::from(f32::MAX) / 2.0,
        }
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        let tail = self.tail.load();
        let padded = self.rotation.padded();
        let young = if tail.sealed() == 0 { tail.len() * padded * size_of::<f32>() } else { 0 };
        // The sum, a rotated vector and its code.
        let own = padded * (8 + 4) + self.layout.words * 8 + young;
        let origins = (2 + tail.sealed().max(1).ilog(GROWTH) as usize) * (padded * size_of::<f32>() + 64);
        let blocks = (tail.sealed() + 1) * self.layout.block_memory();
        size_of::<Self>()
            + blocks
            + own
            + origins
            + self.rotation.memory()
            + self.odd.count() * size_of::<(u32, bool)>()
    }
}
