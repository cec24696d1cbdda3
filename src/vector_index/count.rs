//! Bounds of rows' distances from the bits in which their codes differ from a query.

use super::code::{Bound, PLANES};
use super::simd::{Level, Simd};

/// Rows that are looked at together.
pub(crate) const GROUP: usize = 32;

/// The codes' first words and the factors of [`GROUP`] rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group<'a> {
    /// Word after word of all rows: word `w` of row `r` is at `w * GROUP + r`.
    pub(crate) heads: &'a [u64],
    pub(crate) add: &'a [f32; GROUP],
    pub(crate) scale: &'a [f32; GROUP],
}

impl Group<'_> {
    /// Only the first `words` words of the codes.
    pub(crate) fn first(self, words: usize) -> Self {
        Self { heads: self.heads.get(..words * GROUP).unwrap_or(self.heads), ..self }
    }
}

/// What a look at a group found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    /// The rows whose bound is not above the limit, one bit each.
    pub(crate) hits: u32,
    /// The lowest bound of all rows.
    pub(crate) lowest: f32,
}

/// Which rows of `group` have a bound that is not above `limit`.
#[inline]
pub(crate) fn filter(simd: Simd, group: Group<'_>, planes: &[[u64; PLANES]], bound: &Bound, limit: f32) -> Found {
    match simd.level() {
        // SAFETY: `simd` proves that the processor has these instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { filter_avx512(group, planes, bound, limit) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { filter_avx2(group, planes, bound, limit) },
        _ => filter_body(group, planes, bound, limit),
    }
}

#[inline(always)]
fn filter_body(group: Group<'_>, planes: &[[u64; PLANES]], bound: &Bound, limit: f32) -> Found {
    let mut counts = [0u32; GROUP];
    for (word, planes) in group.heads.as_chunks::<GROUP>().0.iter().zip(planes) {
        for (word, count) in word.iter().zip(&mut counts) {
            for (j, plane) in planes.iter().enumerate() {
                *count += (word ^ plane).count_ones() << j;
            }
        }
    }
    let mut found = Found { hits: 0, lowest: f32::INFINITY };
    for (i, count) in counts.into_iter().enumerate() {
        let lower = bound.lower(count, group.add[i], group.scale[i]);
        found.hits |= u32::from(lower <= limit) << i;
        found.lowest = if lower < found.lowest { lower } else { found.lowest };
    }
    found
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,popcnt")]
fn filter_avx2(group: Group<'_>, planes: &[[u64; PLANES]], bound: &Bound, limit: f32) -> Found {
    filter_body(group, planes, bound, limit)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")]
fn filter_avx512(group: Group<'_>, planes: &[[u64; PLANES]], bound: &Bound, limit: f32) -> Found {
    use std::arch::x86_64::*;
    // Sets of values that lie in a row: the compiler makes one load of each.
    let words = |w: &[u64; 8]| {
        let w = w.map(u64::cast_signed);
        _mm512_set_epi64(w[7], w[6], w[5], w[4], w[3], w[2], w[1], w[0])
    };
    let floats = |f: &[f32; 16]| {
        _mm512_set_ps(
            f[15], f[14], f[13], f[12], f[11], f[10], f[9], f[8], f[7], f[6], f[5], f[4], f[3], f[2], f[1], f[0],
        )
    };
    let mut sums = [[_mm512_setzero_si512(); PLANES]; GROUP / 8];
    for (word, planes) in group.heads.as_chunks::<GROUP>().0.iter().zip(planes) {
        for (word, sums) in word.as_chunks::<8>().0.iter().zip(&mut sums) {
            let word = words(word);
            for (sum, plane) in sums.iter_mut().zip(planes) {
                let differing = _mm512_xor_si512(word, _mm512_set1_epi64(plane.cast_signed()));
                *sum = _mm512_add_epi64(*sum, _mm512_popcnt_epi64(differing));
            }
        }
    }
    let mut counts = [_mm256_setzero_si256(); GROUP / 8];
    for (count, sums) in counts.iter_mut().zip(&sums) {
        let mut total = sums[PLANES - 1];
        for sum in sums[..PLANES - 1].iter().rev() {
            total = _mm512_add_epi64(_mm512_add_epi64(total, total), *sum);
        }
        *count = _mm512_cvtepi64_epi32(total);
    }
    let (at, weight) = (_mm512_set1_ps(bound.at), _mm512_set1_ps(bound.weight));
    let (top, step) = (_mm512_set1_ps(bound.top), _mm512_set1_ps(bound.step));
    let (mut hits, mut lowest) = (0, _mm512_set1_ps(f32::INFINITY));
    let factors = group.add.as_chunks::<16>().0.iter().zip(group.scale.as_chunks::<16>().0);
    for (i, ([low, high], (add, scale))) in counts.as_chunks::<2>().0.iter().zip(factors).enumerate() {
        let count = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(*low), *high);
        let along = _mm512_fnmadd_ps(step, _mm512_cvtepi32_ps(count), top);
        let far = _mm512_fmadd_ps(weight, floats(add), at);
        let lower = _mm512_fnmadd_ps(floats(scale), along, far);
        hits |= u32::from(_mm512_cmp_ps_mask::<_CMP_LE_OQ>(lower, _mm512_set1_ps(limit))) << (i * 16);
        // The second operand is taken if the first is no number.
        lowest = _mm512_min_ps(lower, lowest);
    }
    Found { hits, lowest: _mm512_reduce_min_ps(lowest) }
}

/// The weighted count of the bits in which a code differs: that of row `row` of a group with `heads`, and `rest`.
#[inline]
pub(crate) fn differing(simd: Simd, heads: &[u64], row: usize, rest: &[u64], planes: &[[u64; PLANES]]) -> u32 {
    match simd.level() {
        // SAFETY: `simd` proves that the processor has these instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { differing_avx512(heads, row, rest, planes) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { differing_avx2(heads, row, rest, planes) },
        _ => differing_body(heads, row, rest, planes),
    }
}

#[inline(always)]
fn differing_body(heads: &[u64], row: usize, rest: &[u64], planes: &[[u64; PLANES]]) -> u32 {
    let mut counts = [0; PLANES];
    for (word, planes) in heads.iter().skip(row).step_by(GROUP).chain(rest).zip(planes) {
        for (count, plane) in counts.iter_mut().zip(planes) {
            *count += (word ^ plane).count_ones();
        }
    }
    counts.iter().enumerate().map(|(j, count)| count << j).sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,popcnt")]
fn differing_avx2(heads: &[u64], row: usize, rest: &[u64], planes: &[[u64; PLANES]]) -> u32 {
    differing_body(heads, row, rest, planes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")]
fn differing_avx512(heads: &[u64], row: usize, rest: &[u64], planes: &[[u64; PLANES]]) -> u32 {
    use std::arch::x86_64::*;
    let mut sum = _mm256_setzero_si256();
    let (head_planes, rest_planes) = planes.split_at(planes.len().min(heads.len() / GROUP));
    for (word, planes) in heads.as_chunks::<GROUP>().0.iter().zip(head_planes) {
        let word = _mm256_set1_epi64x(word[row % GROUP].cast_signed());
        let p = planes.map(u64::cast_signed);
        let differing = _mm256_xor_si256(word, _mm256_set_epi64x(p[3], p[2], p[1], p[0]));
        sum = _mm256_add_epi64(sum, _mm256_popcnt_epi64(differing));
    }
    for (word, planes) in rest.iter().zip(rest_planes) {
        let word = _mm256_set1_epi64x(word.cast_signed());
        let p = planes.map(u64::cast_signed);
        let differing = _mm256_xor_si256(word, _mm256_set_epi64x(p[3], p[2], p[1], p[0]));
        sum = _mm256_add_epi64(sum, _mm256_popcnt_epi64(differing));
    }
    let sum = _mm256_sllv_epi64(sum, _mm256_set_epi64x(3, 2, 1, 0));
    let sum = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
    (_mm_extract_epi64::<0>(sum) + _mm_extract_epi64::<1>(sum)) as u32
}
