//! Impacts: the best a run of postings can score, whatever the statistics.
//!
//! A score rises with the term frequency and falls with the length, so the postings that no other beats in both bound
//! all of them for every average length (Ding and Suel, "Faster top-k document retrieval using block-max indexes",
//! 2011; the pairs instead of a score as the statistics are not known yet).

use super::bm25::{K1, Norms};

/// Pairs that are kept.
const PAIRS: usize = 4;
/// Scores are rounded: a bound is this much higher.
const SLACK: f32 = 1.0 + 1e-6;

/// Pairs of term frequency and length, the frequency 0 where there is none.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Impacts {
    /// [`u8::MAX`] stands for any frequency from there on.
    frequencies: [u8; PAIRS],
    /// [`u16::MAX`] stands for any length from there on.
    lengths: [u16; PAIRS],
}

impl Impacts {
    /// Of postings as frequency and length.
    pub(crate) fn of(postings: impl Iterator<Item = (u32, u32)>) -> Self {
        let mut pairs: Vec<(u8, u16)> = postings
            .map(|(tf, length)| (tf.min(u32::from(u8::MAX)) as u8, length.min(u32::from(u16::MAX)) as u16))
            .collect();
        pairs.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut shortest = None;
        pairs.retain(|&(_, length)| {
            let keep = shortest.is_none_or(|shortest| length < shortest);
            if keep {
                shortest = Some(length);
            }
            keep
        });
        while pairs.len() > PAIRS {
            // The two that lose least as one.
            let loss = |i: usize| u32::from(pairs[i].0 - pairs[i + 1].0) * u32::from(pairs[i].1 - pairs[i + 1].1);
            let at = (0..pairs.len() - 1).min_by_key(|&i| loss(i)).unwrap_or(0);
            pairs[at].1 = pairs[at + 1].1;
            pairs.remove(at + 1);
        }
        let mut impacts = Self::default();
        for (i, (frequency, length)) in pairs.into_iter().enumerate() {
            (impacts.frequencies[i], impacts.lengths[i]) = (frequency, length);
        }
        impacts
    }

    /// No posting gains more.
    pub(crate) fn gain(&self, norms: &Norms) -> f32 {
        let mut most = 0.0_f32;
        for (&frequency, &length) in self.frequencies.iter().zip(&self.lengths) {
            most = most.max(match frequency {
                0 => break,
                u8::MAX => K1 + 1.0,
                frequency => norms.gain(u32::from(frequency), u32::from(length)),
            });
        }
        most * SLACK
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text_index::bm25::LengthPrecision;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    #[test]
    fn no_posting_gains_more() {
        let mut rng = StdRng::seed_from_u64(7);
        for _ in 0..500 {
            let most = [3, 300, 100_000][rng.random_range(0..3)];
            let postings: Vec<(u32, u32)> = (0..rng.random_range(1..129))
                .map(|_| (rng.random_range(1..=most), rng.random_range(1..=most * 3)))
                .collect();
            let impacts = Impacts::of(postings.iter().copied());
            for average in [0.1, 10.0, 500.0] {
                for precision in [LengthPrecision::Exact, LengthPrecision::FourBits] {
                    let norms = Norms::new(average, precision);
                    for &(tf, length) in &postings {
                        assert!(norms.gain(tf, length) <= impacts.gain(&norms));
                    }
                }
            }
        }
    }
}
