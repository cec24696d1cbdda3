//! By what rows are ranked, and which have a rank.

use super::kernels::{cosine, dot, l2_squared};
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

/// As [`rank`], in 64 bits: what 32 bits are too few for.
pub fn wide_rank(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let pairs = || a.iter().zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    let dot = || pairs().map(|(a, b)| a * b).sum::<f64>();
    let length = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    match metric {
        Metric::L2 => pairs().map(|(a, b)| (a - b).powi(2)).sum(),
        Metric::Cosine => 1.0 - dot() / (length(a) * length(b)),
        Metric::InnerProduct => -dot(),
    }
}

/// Whether a vector of these values has a rank: all are finite, and there is a direction if the metric takes one.
pub fn accepts(metric: Metric, vector: &[f32]) -> bool {
    let has_direction = || vector.iter().any(|value| *value != 0.0);
    // Chunks are looked at without a branch for each value.
    let is_finite = |chunk: &[f32]| chunk.iter().fold(true, |all, value| all & value.is_finite());
    vector.chunks(CHUNK).all(is_finite) && (metric != Metric::Cosine || has_direction())
}
