//! A fixed random rotation that takes `O(d log d)`: sign flips and Walsh-Hadamard transforms in turns.
//!
//! The idea of the fast Johnson-Lindenstrauss transform (Ailon & Chazelle 2009), without its sampling step. Dimensions
//! that are no power of two are covered by two transforms that overlap, one from either end, in turns.

use super::simd::{Simd, dispatch};

/// An orthogonal map of `dim` dimensions into `padded` ones.
#[derive(Debug)]
pub(crate) struct Rotation {
    dim: usize,
    padded: usize,
    /// The power of two that one transform covers.
    span: usize,
    /// Round after round `padded` factors: random signs, and for what is transformed the scale that keeps lengths.
    factors: Box<[f32]>,
}

impl Rotation {
    /// A rotation of `dim` dimensions; the same one each time.
    pub(crate) fn new(dim: usize) -> Self {
        let padded = dim.div_ceil(64).max(1) * 64;
        let span = 1 << padded.ilog2();
        let rounds = if span == padded { 3 } else { 6 };
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let scale = 1.0 / (span as f32).sqrt();
        let mut factors = Vec::with_capacity(rounds * padded);
        for round in 0..rounds {
            let from = if round % 2 == 0 { 0 } else { padded - span };
            for i in 0..padded {
                let sign = if crate::vector_index::random::next(&mut state) >> 63 == 0 { 1.0 } else { -1.0 };
                factors.push(if (from..from + span).contains(&i) { sign * scale } else { sign });
            }
        }
        Self { dim, padded, span, factors: factors.into() }
    }

    /// How many dimensions rotated vectors have: a multiple of 64.
    pub(crate) fn padded(&self) -> usize {
        self.padded
    }

    /// Rotates `vector`, of which `scale` times is meant, into `out`, which has `padded` values.
    pub(crate) fn rotate(&self, simd: Simd, vector: &[f32], scale: f32, out: &mut [f32]) {
        for (out, value) in out.iter_mut().zip(vector) {
            *out = value * scale;
        }
        out[self.dim.min(vector.len())..].fill(0.0);
        for (round, factors) in self.factors.chunks_exact(self.padded).enumerate() {
            let from = if round % 2 == 0 { 0 } else { self.padded - self.span };
            turn(simd, out, factors, from, self.span);
        }
    }

    /// Bytes of memory held.
    pub(crate) fn memory(&self) -> usize {
        size_of_val(&*self.factors)
    }
}

#[inline(always)]
fn turn_body<const WIDE: usize>(values: &mut [f32], factors: &[f32], from: usize, span: usize) {
    for (value, factor) in values.iter_mut().zip(factors) {
        *value *= factor;
    }
    let values = &mut values[from..from + span];
    for group in values.as_chunks_mut::<16>().0 {
        butterfly::<8>(group);
        butterfly::<4>(group);
        butterfly::<2>(group);
        butterfly::<1>(group);
    }
    let mut half = 16;
    while half < span {
        for pair in values.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.as_chunks_mut::<16>().0.iter_mut().zip(high.as_chunks_mut::<16>().0) {
                for i in 0..16 {
                    (a[i], b[i]) = (a[i] + b[i], a[i] - b[i]);
                }
            }
        }
        half *= 2;
    }
}

#[inline(always)]
fn butterfly<const HALF: usize>(group: &mut [f32; 16]) {
    let old = *group;
    for i in 0..16 {
        let other = old[i ^ HALF];
        group[i] = if i & HALF == 0 { other + old[i] } else { other - old[i] };
    }
}

dispatch! {
    /// One round: factors, then the transform of `span` values from `from` on.
    fn turn(values: &mut [f32], factors: &[f32], from: usize, span: usize) = turn_body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_angles_stay() {
        for dim in [1, 3, 64, 100, 128, 384, 700, 1024, 1500] {
            let rotation = Rotation::new(dim);
            let mut state = 5;
            let mut random = || (crate::vector_index::random::next(&mut state) >> 40) as f32 / (1 << 24) as f32 - 0.5;
            let a: Vec<f32> = (0..dim).map(|_| random()).collect();
            let b: Vec<f32> = (0..dim).map(|_| random()).collect();
            for simd in Simd::all() {
                let (mut ra, mut rb) = (vec![9.0; rotation.padded()], vec![9.0; rotation.padded()]);
                rotation.rotate(simd, &a, 1.0, &mut ra);
                rotation.rotate(simd, &b, 2.0, &mut rb);
                let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
                assert!((dot(&a, &b) * 2.0 - dot(&ra, &rb)).abs() < 1e-3);
                assert!((dot(&a, &a) - dot(&ra, &ra)).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn a_single_coordinate_spreads_over_all() {
        for dim in [64, 384, 768, 1024, 1088] {
            let rotation = Rotation::new(dim);
            for at in [0, dim / 3, dim - 1] {
                let mut unit = vec![0.0; dim];
                unit[at] = 1.0;
                let mut out = vec![0.0; rotation.padded()];
                rotation.rotate(Simd::detect(), &unit, 1.0, &mut out);
                let largest = out.iter().fold(0f32, |m, v| m.max(v.abs()));
                assert!(largest < 8.0 / (dim as f32).sqrt(), "{dim} {at} {largest}");
            }
        }
    }
}
