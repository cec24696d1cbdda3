//! One bit a dimension: the signs of a rotated vector, and two numbers that make a distance of them.
//!
//! The estimator is that of RaBitQ (Gao & Long, SIGMOD 2024). With `r` the rotated vector less an origin, `s` the signs
//! of `r` and `v` the rotated query less the origin, `<r, v>` is estimated as `<s, v> * |r|^2 / <s, r>`: without bias
//! over rotations, and the estimate misses by about `0.6 |v| |r|^2 / <s, r>`. The query is taken in [`PLANES`] bits a
//! dimension, so that `<s, v>` is a weighted count of bits.

use std::sync::Arc;

use super::kernels::raw_dot;
use super::simd::Simd;
use crate::distance::Metric;

/// Bits of a query a dimension.
pub(crate) const PLANES: usize = 4;
/// The step of the best uniform quantiser of a normal distribution into 16 levels (Max 1960), in standard deviations.
const STEP: f32 = 0.335;
/// The share of a normal distribution's variance that signs keep: 2 / pi.
const KEPT: f32 = std::f32::consts::FRAC_2_PI;

/// An origin with a squared length below this is as good as zero.
const SMALL: f32 = 1e-30;

/// What vectors are taken relative to, rotated.
#[derive(Debug)]
pub(crate) struct Origin {
    values: Box<[f32]>,
    square: f32,
}

impl Origin {
    pub(crate) fn new(values: Box<[f32]>) -> Arc<Self> {
        let square = raw_dot(Simd::PORTABLE, &values, &values);
        Arc::new(Self { values, square })
    }
}

/// The two numbers of a row: its distance from a query is about `at + weight * add - scale * <s, v>`, where the query
/// knows the rest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factors {
    pub(crate) add: f32,
    pub(crate) scale: f32,
}

impl Factors {
    /// Of a row that is never found.
    pub(crate) const NONE: Self = Self { add: f32::NAN, scale: 0.0 };
}

/// Writes the signs of `vector` (rotated) less `origin` to `bits`, 64 to a word.
pub(crate) fn encode(simd: Simd, metric: Metric, vector: &[f32], origin: &Origin, bits: &mut [u64]) -> Factors {
    let [norm1, square, along] = signs(simd, vector, &origin.values, bits);
    let ratio = if norm1 > 0.0 { square / norm1 } else { 0.0 };
    match metric {
        Metric::L2 => Factors { add: square, scale: 2.0 * ratio },
        // Of vectors of length one, half the squared distance.
        Metric::Cosine => Factors { add: 0.5 * square, scale: ratio },
        Metric::InnerProduct => Factors { add: along, scale: ratio },
    }
}

super::simd::dispatch! {
    /// The signs of `vector - origin`; the sums of that difference's values without signs, of their squares, and of
    /// their products with the origin.
    fn signs(vector: &[f32], origin: &[f32], bits: &mut [u64]) -> [f32; 3] = signs_body
}

#[inline(always)]
fn signs_body<const WIDE: usize>(vector: &[f32], origin: &[f32], bits: &mut [u64]) -> [f32; 3] {
    const LANES: usize = 16;
    let mut sums = [[0f32; LANES]; 3];
    let (vector, origin) = (vector.as_chunks::<64>().0, origin.as_chunks::<64>().0);
    for ((vector, origin), word) in vector.iter().zip(origin).zip(bits) {
        let mut r = [0f32; 64];
        for i in 0..64 {
            r[i] = vector[i] - origin[i];
        }
        for (r, o) in r.as_chunks::<LANES>().0.iter().zip(origin.as_chunks::<LANES>().0) {
            for i in 0..LANES {
                sums[0][i] += r[i].abs();
                sums[1][i] += r[i] * r[i];
                sums[2][i] += r[i] * o[i];
            }
        }
        let mut byte = [0u8; 8];
        for (byte, r) in byte.iter_mut().zip(r.as_chunks::<8>().0) {
            for (i, r) in r.iter().enumerate() {
                *byte |= u8::from(*r >= 0.0) << i;
            }
        }
        *word = u64::from_le_bytes(byte);
    }
    sums.map(|lanes| lanes.iter().sum())
}

super::simd::dispatch! {
    /// The odd number from -15 to 15 nearest to `scale` times each value, as bits of the number of the step that it is;
    /// the sum of the products with the values.
    fn levels(values: &[f32], scale: f32, planes: &mut [[u64; PLANES]]) -> f32 = levels_body
}

#[inline(always)]
fn levels_body<const WIDE: usize>(values: &[f32], scale: f32, planes: &mut [[u64; PLANES]]) -> f32 {
    const TOP: f32 = ((1 << PLANES) - 1) as f32;
    let mut along = [0f32; 64];
    for (values, planes) in values.as_chunks::<64>().0.iter().zip(planes) {
        let mut levels = [0u8; 64];
        for i in 0..64 {
            // Rounds: what is cast is not negative.
            let level = (((values[i] * scale + TOP) * 0.5).clamp(0.0, TOP) + 0.5) as i32;
            along[i] += values[i] * (2 * level - TOP as i32) as f32;
            levels[i] = level as u8;
        }
        for (j, plane) in planes.iter_mut().enumerate() {
            let mut bytes = [0u8; 8];
            for (byte, levels) in bytes.iter_mut().zip(levels.as_chunks::<8>().0) {
                for (i, level) in levels.iter().enumerate() {
                    *byte |= ((level >> j) & 1) << i;
                }
            }
            *plane = u64::from_le_bytes(bytes);
        }
    }
    along.iter().sum()
}

/// A query relative to one origin.
#[derive(Debug)]
pub(crate) struct Query {
    /// The bits of each word's 64 dimensions, the least significant first.
    pub(crate) planes: Box<[[u64; PLANES]]>,
    /// The distance from the query to the origin, to which the rest is added.
    at: f32,
    /// By what a row's `add` is multiplied.
    weight: f32,
    /// `<s, v>` is `unit` times how much more the weighted bits that agree are than those that differ.
    unit: f32,
    /// The length of `v`.
    length: f32,
}

/// How a weighted count of differing bits becomes a distance that is hardly larger than the real one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    /// The distance from the query to the origin.
    pub(crate) at: f32,
    /// By what a row's `add` is multiplied.
    pub(crate) weight: f32,
    /// `<s, v>` plus the error to reckon with is at most `top - step * count`.
    pub(crate) top: f32,
    pub(crate) step: f32,
}

impl Query {
    /// The query `rotated` relative to `origin`.
    pub(crate) fn new(simd: Simd, metric: Metric, rotated: &[f32], origin: &Origin) -> Self {
        let product = raw_dot(simd, rotated, &origin.values);
        let weight = match metric {
            Metric::L2 | Metric::Cosine => 1.0,
            Metric::InnerProduct if origin.square > SMALL => product / origin.square,
            Metric::InnerProduct => 0.0,
        };
        let v: Vec<f32> = rotated.iter().zip(&origin.values).map(|(q, o)| q - weight * o).collect();
        let square = raw_dot(simd, &v, &v);
        let length = square.sqrt();
        let half = 0.5 * STEP * length / (v.len() as f32).sqrt();
        let mut planes = vec![[0; PLANES]; v.len() / 64].into_boxed_slice();
        let along = levels(simd, &v, if half > 0.0 { 1.0 / half } else { 0.0 }, &mut planes);
        let unit = if along > 0.0 { square / along } else { 0.0 };
        match metric {
            Metric::L2 => Self { planes, at: square, weight, unit, length },
            Metric::Cosine => Self { planes, at: 0.5 * square, weight, unit, length },
            Metric::InnerProduct => Self { planes, at: -product, weight: -weight, unit, length },
        }
    }

    /// The bound from the first `words` words of a code, `margin` standard deviations of the error below the estimate.
    pub(crate) fn bound(&self, words: usize, margin: f32) -> Bound {
        // Of the words left out nothing is known but that a rotation makes all alike.
        let share = self.planes.len() as f32 / words.max(1) as f32;
        let slack = margin * self.length * (share - KEPT).sqrt();
        let dims = (words * 64 * ((1 << PLANES) - 1)) as f32;
        Bound { at: self.at, weight: self.weight, top: share * self.unit * dims + slack, step: 2.0 * share * self.unit }
    }
}

impl Bound {
    /// The bound of a row with these factors, whose code differs in `count`.
    #[inline(always)]
    pub(crate) fn lower(&self, count: u32, add: f32, scale: f32) -> f32 {
        // Signed numbers are converted faster.
        self.at + self.weight * add - scale * (self.top - self.step * count as i32 as f32)
    }
}
