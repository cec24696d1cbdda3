//! By what rows are ranked, and which have a rank.

use super::kernels::{cosine, dot, l2_squared, wide};
use super::simd::Simd;
use crate::distance::Metric;

/// Values that are looked at together.
const CHUNK: usize = 64;

/// By what rows are ranked: the smaller, the nearer. Under L2 the squared distance, under cosine the distance from 0 to
/// 2, of inner products the product with the other sign. Values behind the end of the shorter vector are left out; NaN if it is
/// undefined.
#[inline]
pub fn rank(metric: Metric, simd: Simd, a: &[f32], b: &[f32]) -> f32 {
    match metric {
        Metric::L2 => l2_squared(simd, a, b),
        Metric::Cosine => cosine(simd, a, b),
        Metric::InnerProduct => -dot(simd, a, b),
    }
}

/// As [`rank`], in 64 bits: where sums are beyond the numbers of 32.
pub(super) fn wide_rank(metric: Metric, simd: Simd, a: &[f32], b: &[f32]) -> f64 {
    match metric {
        Metric::L2 => wide(a, b, |a, b| (a - b) * (a - b)),
        Metric::Cosine => f64::from(cosine(simd, a, b)),
        Metric::InnerProduct => -wide(a, b, |a, b| a * b),
    }
}

/// An estimate of a distance, the largest of all if it is undefined: that says nothing for a row.
#[inline]
pub fn known_distance(distance: f32) -> f32 {
    if distance.is_nan() { f32::INFINITY } else { distance }
}

/// The sum of the squares of a vector's values.
pub fn squared_length(vector: &[f32]) -> f64 {
    vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum()
}

/// Whether a vector of these values has a rank: all are finite, and there is a direction if the metric takes one.
pub fn accepts(metric: Metric, vector: &[f32]) -> bool {
    let has_direction = || vector.iter().any(|value| *value != 0.0);
    // Chunks are looked at without a branch for each value.
    let is_finite = |chunk: &[f32]| chunk.iter().fold(true, |all, value| all & value.is_finite());
    vector.chunks(CHUNK).all(is_finite) && (metric != Metric::Cosine || has_direction())
}
