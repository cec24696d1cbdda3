//! How far two vectors are apart: the metrics, as SQL means them.
//!
//! A distance is `None` where SQL says NULL: under cosine, if one of the vectors has only zeros. A vector that holds NaN
//! or infinity has whatever distance arithmetic gives.

use serde::{Deserialize, Serialize};

use lance_linalg::distance::{dot_f32, l2_f32};

/// What nearness means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The Euclidean distance, the square root of the sum of squared differences.
    L2,
    /// One minus the cosine of the angle between the vectors: 0 to 2.
    Cosine,
    /// The sum of products: a similarity, the larger the nearer.
    InnerProduct,
}

impl Metric {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::L2, Self::Cosine, Self::InnerProduct];

    /// Whether the smallest value is the nearest.
    pub fn nearest_is_smallest(self) -> bool {
        self != Self::InnerProduct
    }
}

/// A type of vector elements.
pub trait Element: Copy {
    /// The distance between two vectors of one length.
    fn distance(metric: Metric, x: &[Self], y: &[Self]) -> Option<f64>;
}

impl Element for f32 {
    fn distance(metric: Metric, x: &[f32], y: &[f32]) -> Option<f64> {
        match metric {
            Metric::L2 => Some(f64::from(l2_f32(x, y)).sqrt()),
            Metric::InnerProduct => {
                let product = dot_f32(x, y);
                Some(if product.is_finite() { f64::from(product) } else { wide_dot(x, y) })
            }
            Metric::Cosine if is_zero(x) || is_zero(y) => None,
            Metric::Cosine => {
                let (product, xx, yy) = (dot_f32(x, y), dot_f32(x, x), dot_f32(y, y));
                // Squares beyond this lose digits, or overflow.
                let good = 1e-25..1e25;
                let cosine = if good.contains(&xx) && good.contains(&yy) {
                    f64::from(product / (xx.sqrt() * yy.sqrt()))
                } else {
                    wide_dot(x, y) / (wide_dot(x, x).sqrt() * wide_dot(y, y).sqrt())
                };
                Some((1.0 - cosine).clamp(0.0, 2.0))
            }
        }
    }
}

/// The sum of products where `f32` has no room for it.
#[cold]
fn wide_dot(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

impl Element for f64 {
    fn distance(metric: Metric, x: &[f64], y: &[f64]) -> Option<f64> {
        let pairs = || x.iter().zip(y);
        let dot = || pairs().map(|(x, y)| x * y).sum::<f64>();
        match metric {
            Metric::L2 => Some(pairs().map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt()),
            Metric::InnerProduct => Some(dot()),
            Metric::Cosine if is_zero(x) || is_zero(y) => None,
            Metric::Cosine => {
                let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
                Some(1.0 - dot() / (norm(x) * norm(y)))
            }
        }
    }
}

fn is_zero<T: Default + PartialEq>(vector: &[T]) -> bool {
    let zero = T::default();
    vector.iter().all(|x| *x == zero)
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: [f64; 3] = [1.0, 2.0, 2.0];
    const Y: [f64; 3] = [3.0, 0.0, 4.0];

    fn both(metric: Metric, x: &[f64], y: &[f64]) -> Option<f64> {
        let single = |v: &[f64]| v.iter().map(|x| *x as f32).collect::<Vec<_>>();
        let narrow = f32::distance(metric, &single(x), &single(y));
        let wide = f64::distance(metric, x, y);
        assert_eq!(narrow.is_some(), wide.is_some());
        if let (Some(narrow), Some(wide)) = (narrow, wide) {
            assert!((narrow - wide).abs() <= 1e-6 * wide.abs().max(1.0), "{narrow} {wide}");
        }
        wide
    }

    #[test]
    fn distances_are_what_sql_calls_them() {
        assert_eq!(both(Metric::L2, &X, &Y), Some(12f64.sqrt()));
        assert_eq!(both(Metric::InnerProduct, &X, &Y), Some(11.0));
        assert_eq!(both(Metric::Cosine, &X, &Y), Some(1.0 - 11.0 / 15.0));
        assert_eq!(both(Metric::L2, &X, &X), Some(0.0));
        assert_eq!(both(Metric::L2, &[], &[]), Some(0.0));
    }

    #[test]
    fn tiny_and_huge_vectors_have_a_direction() {
        for scale in [1e-38, 1e-23, 1e20, 1e38] {
            let x = [scale, scale];
            for (y, expected) in [([1.0, 1.0], 0.0), ([1.0, -1.0], 1.0), ([-1.0, -1.0], 2.0)] {
                let distance = f32::distance(Metric::Cosine, &x, &y).unwrap();
                assert!((distance - expected).abs() < 1e-6, "{scale} {distance}");
            }
        }
        assert_eq!(f32::distance(Metric::InnerProduct, &[3e38, 3e38, 1.0], &[3e38, -3e38, 2.0]), Some(2.0));
    }

    #[test]
    fn a_vector_of_zeros_has_no_direction() {
        assert_eq!(both(Metric::Cosine, &X, &[0.0; 3]), None);
        assert_eq!(both(Metric::Cosine, &[0.0; 3], &X), None);
        assert_eq!(both(Metric::L2, &[0.0; 3], &X), Some(3.0));
    }
}
