//! Exact distances between vectors of `f32`.
//!
//! Sums are taken in `f32` in many lanes. Where that overflows, or where a cosine's lengths are so small or large that
//! their squares lose digits, the sum is taken again in `f64`.

use super::simd::{Simd, dispatch};

/// Lanes that are summed on their own: the sum of a long vector loses little to rounding, and registers stay busy.
const LANES: usize = 64;
/// Squared lengths from here to its inverse are good for a division.
const SMALL: f32 = 1e-25;

/// The squared Euclidean distance between `a` and `b`; values behind the end of the shorter are left out.
#[inline]
pub(super) fn l2_squared(simd: Simd, a: &[f32], b: &[f32]) -> f32 {
    // An overflow stays one: no term is negative.
    raw_l2(simd, a, b)
}

/// The inner product of `a` and `b`; values behind the end of the shorter are left out.
#[inline]
pub(super) fn dot(simd: Simd, a: &[f32], b: &[f32]) -> f32 {
    let sum = raw_dot(simd, a, b);
    if sum.is_finite() { sum } else { wide(a, b, |a, b| a * b) as f32 }
}

/// One minus the cosine of the angle between `a` and `b`, from 0 to 2; NaN if one of them has length zero.
#[inline]
pub(super) fn cosine(simd: Simd, a: &[f32], b: &[f32]) -> f32 {
    let [product, a_square, b_square] = raw_cosine(simd, a, b);
    let good = SMALL..1.0 / SMALL;
    if good.contains(&a_square) && good.contains(&b_square) {
        return (1.0 - product / (a_square.sqrt() * b_square.sqrt())).clamp(0.0, 2.0);
    }
    let lengths = wide(a, a, |a, b| a * b).sqrt() * wide(b, b, |a, b| a * b).sqrt();
    (1.0 - wide(a, b, |a, b| a * b) / lengths).clamp(0.0, 2.0) as f32
}

/// A sum over pairs in `f64`.
#[cold]
pub(super) fn wide(a: &[f32], b: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
    a.iter().zip(b).map(|(a, b)| term(f64::from(*a), f64::from(*b))).sum()
}

#[inline(always)]
fn fma<const WIDE: usize>(a: f32, b: f32, c: f32) -> f32 {
    // Without the instruction a fused multiply-add is a call.
    if WIDE > 0 { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn sum(lanes: &[f32; LANES]) -> f32 {
    let mut lanes = *lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn fold(a: &[f32], b: &[f32], step: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] = step(a[i], b[i], lanes[i]);
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane = step(*a, *b, *lane);
    }
    sum(&lanes)
}

#[inline(always)]
fn l2_body<const WIDE: usize>(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    fold(&a[..len], &b[..len], |a, b, c| fma::<WIDE>(a - b, a - b, c))
}

#[inline(always)]
fn dot_body<const WIDE: usize>(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    fold(&a[..len], &b[..len], fma::<WIDE>)
}

#[inline(always)]
fn cosine_body<const WIDE: usize>(a: &[f32], b: &[f32]) -> [f32; 3] {
    [dot_body::<WIDE>(a, b), dot_body::<WIDE>(a, a), dot_body::<WIDE>(b, b)]
}

dispatch! {
    /// The squared Euclidean distance as `f32` has it.
    fn raw_l2(a: &[f32], b: &[f32]) -> f32 = l2_body
}
dispatch! {
    /// The inner product as `f32` has it.
    pub(crate) fn raw_dot(a: &[f32], b: &[f32]) -> f32 = dot_body
}
dispatch! {
    /// The inner product and both squared lengths as `f32` has them.
    fn raw_cosine(a: &[f32], b: &[f32]) -> [f32; 3] = cosine_body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(len: usize, seed: u64, scale: f32) -> Vec<f32> {
        let mut state = seed;
        let mut one = || (crate::vector_index::random::next(&mut state) >> 40) as f32 / (1 << 23) as f32 - 1.0;
        (0..len).map(|_| one() * scale).collect()
    }

    fn exact(a: &[f32], b: &[f32]) -> [f64; 3] {
        let pairs = || a.iter().zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b)));
        let l2 = pairs().map(|(a, b)| (a - b).powi(2)).sum();
        let dot: f64 = pairs().map(|(a, b)| a * b).sum();
        let lengths: [f64; 2] = [a, b].map(|v| v.iter().map(|v| f64::from(*v).powi(2)).sum());
        [l2, dot, 1.0 - dot / lengths[0].sqrt() / lengths[1].sqrt()]
    }

    fn check(a: &[f32], b: &[f32]) {
        let [l2, product, angle] = exact(a, b);
        for simd in Simd::all() {
            // What rounding may make of a sum that is near zero is relative to its terms.
            let size: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) * f64::from(*b)).abs()).sum();
            assert_eq!(l2_squared(simd, a, a), 0.0);
            let got = f64::from(l2_squared(simd, a, b));
            assert!(got == f64::from(l2 as f32) || (got - l2).abs() <= l2 * 1e-5 + 1e-44, "{simd:?} {got} {l2}");
            let got = f64::from(dot(simd, a, b));
            let near = (got - product).abs() <= size * 1e-5 + 1e-44;
            assert!(got == f64::from(product as f32) || near, "{simd:?} {got} {product}");
            let got = f64::from(cosine(simd, a, b));
            assert!((got.is_nan() && angle.is_nan()) || (got - angle).abs() <= 1e-5, "{simd:?} {got} {angle}");
        }
    }

    #[test]
    fn kernels_agree_with_f64() {
        for len in (0..140).chain([191, 192, 193, 1000, 1024, 1025, 4099]) {
            check(&values(len, 1, 1.0), &values(len, 2, 1.0));
            check(&values(len, 3, 1e-3), &values(len, 4, 1e4));
        }
    }

    #[test]
    fn denormal_values_keep_their_direction() {
        for scale in [1e-38, 1e-40, 1e-44, 1e-20] {
            check(&values(100, 1, scale), &values(100, 2, scale));
            check(&values(100, 1, scale), &values(100, 2, 1.0));
        }
        assert_eq!(cosine(Simd::detect(), &[1e-45, 0.0], &[0.0, 3.0]), 1.0);
    }

    #[test]
    fn huge_values_overflow_only_where_the_result_does() {
        for scale in [1e18, 1e19, 1e30, 3e38] {
            check(&values(100, 1, scale), &values(100, 2, scale));
            check(&values(100, 1, scale), &values(100, 2, 1e-9));
        }
        // The terms overflow, the sum does not.
        let (a, b) = ([1e30, 1e30, 2.0], [1e30, -1e30, 2.0]);
        Simd::all().into_iter().for_each(|simd| assert_eq!(dot(simd, &a, &b), 4.0));
    }

    #[test]
    fn a_vector_of_length_zero_has_no_angle() {
        for simd in Simd::all() {
            assert!(cosine(simd, &[0.0; 5], &[1.0; 5]).is_nan());
            assert!(cosine(simd, &[1.0; 5], &[f32::NAN; 5]).is_nan());
            assert!(l2_squared(simd, &[f32::NAN], &[1.0]).is_nan());
        }
    }
}
