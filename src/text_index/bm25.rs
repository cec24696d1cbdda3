//! The BM25 score of a term in a document (Robertson and Zaragoza, "The probabilistic relevance framework", 2009).
//!
//! score = idf · (k1 + 1) · tf / (tf + k1 · (1 − b + b · length / average length)), in `f32` as Lance's.

/// How soon more occurrences stop counting.
pub const K1: f32 = 1.2;
/// How much a document's length counts.
pub const B: f32 = 0.75;

/// The weight of a term that `doc_freq` of `docs` documents hold; 0 if none does.
pub fn idf(doc_freq: u64, docs: u64) -> f32 {
    if doc_freq == 0 {
        return 0.0;
    }
    let (doc_freq, docs) = (doc_freq as f32, docs as f32);
    ((docs - doc_freq + 0.5) / (doc_freq + 0.5) + 1.0).ln()
}

/// How exactly scores know a document's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LengthPrecision {
    /// To the token, as Lance's indexes with blocks of 128 documents do.
    #[default]
    Exact,
    /// The four highest bits, as Lance's indexes with blocks of 256 documents do.
    FourBits,
}

/// What the lengths of documents contribute to scores.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norms {
    base: f32,
    per_token: f32,
    precision: LengthPrecision,
}

impl Norms {
    /// `average` is in tokens; without documents it may be anything.
    pub(crate) fn new(average: f32, precision: LengthPrecision) -> Self {
        let per_token = if average.is_finite() && average > 0.0 { K1 * B / average } else { 0.0 };
        Self { base: K1 * (1.0 - B), per_token, precision }
    }

    /// What a document of `length` tokens with `tf` occurrences has for each unit of weight. Rises with `tf` and falls
    /// with `length`, but for rounding.
    #[inline]
    pub(crate) fn gain(&self, tf: u32, length: u32) -> f32 {
        let length = match self.precision {
            LengthPrecision::Exact => length,
            LengthPrecision::FourBits => four_bits(length),
        };
        let tf = tf as f32;
        (K1 + 1.0) * tf / (tf + (self.base + self.per_token * length as f32))
    }
}

/// The number with all but its four highest bits cleared.
fn four_bits(value: u32) -> u32 {
    let shift = 28_u32.saturating_sub(value.leading_zeros());
    value >> shift << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_bits_are_kept() {
        let kept = [(0, 0), (7, 7), (15, 15), (16, 16), (17, 16), (31, 30), (1000, 960), (u32::MAX, 0xF000_0000)];
        for (value, rounded) in kept {
            assert_eq!(four_bits(value), rounded);
        }
    }

    #[test]
    fn the_formula() {
        assert!((idf(3, 10) - (7.5_f32 / 3.5 + 1.0).ln()).abs() < 1e-6);
        assert_eq!(idf(0, 10), 0.0);
        let norms = Norms::new(10.0, LengthPrecision::Exact);
        assert!((norms.gain(2, 20) - 2.2 * 2.0 / (2.0 + 1.2 * (0.25 + 0.75 * 2.0))).abs() < 1e-6);
        assert!(Norms::new(f32::NAN, LengthPrecision::Exact).gain(1, 5).is_finite());
    }
}
