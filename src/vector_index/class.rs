//! What a vector is to a metric.

use arrow::array::{Array, AsArray, FixedSizeListArray};
use arrow::datatypes::Float32Type;

use super::rank::{accepts, rank, wide_rank};
use super::simd::Simd;
use crate::distance::Metric;

/// What the vector of a row is to a metric, whatever it is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It has a rank.
    Ranked,
    /// Its distance is NULL: there is no vector, a NULL in it, or no direction.
    Missing,
    /// It holds NaN or infinity: what its distance is, only arithmetic tells.
    Odd,
}

impl Class {
    /// The class of a row's vector.
    pub fn of(metric: Metric, vector: Option<&[f32]>) -> Self {
        match vector {
            None => Self::Missing,
            Some(vector) if accepts(metric, vector) => Self::Ranked,
            Some(vector) if vector.iter().all(|value| *value == 0.0) => Self::Missing,
            Some(_) => Self::Odd,
        }
    }

    /// The class of a row's vector and, if it is ranked, its rank by `query`, which has one: as [`rank`](super::rank) says,
    /// in 64 bits where 32 are too few.
    pub fn and_rank(metric: Metric, simd: Simd, query: &[f32], vector: Option<&[f32]>) -> (Self, f64) {
        let Some(vector) = vector else { return (Self::Missing, f64::NAN) };
        let distance = rank(metric, simd, query, vector);
        // Only what has a rank is at a finite distance.
        if distance.is_finite() {
            return (Self::Ranked, f64::from(distance));
        }
        (Self::of(metric, Some(vector)), wide_rank(metric, simd, query, vector))
    }
}

/// The vector of a row of `FixedSizeList<Float32>`; `None` if it or one of its elements is NULL.
pub fn vector_of(vectors: &FixedSizeListArray, row: usize) -> Option<&[f32]> {
    if vectors.is_null(row) {
        return None;
    }
    let (from, width) = (vectors.value_offset(row) as usize, vectors.value_length() as usize);
    let values = vectors.values().as_primitive_opt::<Float32Type>()?;
    let has_null = values.nulls().is_some_and(|nulls| nulls.slice(from, width).null_count() > 0);
    (!has_null).then(|| &values.values()[from..from + width])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_ranked_missing_or_odd() {
        let vectors = [Some(vec![Some(1.0), Some(2.0)]), None, Some(vec![Some(1.0), None]), Some(vec![Some(0.0); 2])];
        let vectors = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, 2).slice(0, 4);
        assert_eq!(vector_of(&vectors.slice(3, 1), 0), Some(&[0.0, 0.0][..]));
        let class = |metric, row| Class::of(metric, vector_of(&vectors, row));
        for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
            assert_eq!([0, 1, 2].map(|row| class(metric, row)), [Class::Ranked, Class::Missing, Class::Missing]);
            assert_eq!(Class::of(metric, Some(&[f32::NAN, 1.0])), Class::Odd);
            assert_eq!(Class::of(metric, Some(&[f32::INFINITY, 0.0])), Class::Odd);
        }
        assert_eq!((class(Metric::Cosine, 3), class(Metric::L2, 3)), (Class::Missing, Class::Ranked));
    }
}
