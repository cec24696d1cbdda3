//! Vectors whose nearest neighbours are hard enough to tell good searches from bad ones, and what the nearest are.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Centres that vectors lie around.
const CENTRES: usize = 1024;
/// Dimensions of the space in which most of the noise of [`Noise::Shared`] is.
const SHARED: usize = 32;

/// How vectors differ from their centres.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Noise {
    /// In every dimension alike.
    Independent,
    /// Mostly in a space of few dimensions that all share, as embeddings do.
    Shared,
}

/// Makes vectors of one model.
pub(crate) struct Vectors {
    noise: Noise,
    width: usize,
    centres: Vec<f32>,
    basis: Vec<f32>,
}

impl Vectors {
    /// Vectors of `width` dimensions.
    pub(crate) fn new(noise: Noise, width: usize) -> Self {
        let mut rng = SmallRng::seed_from_u64(7);
        let (mut centres, mut basis) = (vec![0.0; CENTRES * width], vec![0.0; SHARED * width]);
        gauss(&mut rng, &mut centres);
        gauss(&mut rng, &mut basis);
        Self { noise, width, centres, basis }
    }

    /// The one that `rng` gives.
    pub(crate) fn make(&self, rng: &mut SmallRng) -> Vec<f32> {
        let centre = rng.random_range(0..CENTRES) * self.width;
        let mut vector = vec![0.0; self.width];
        gauss(rng, &mut vector);
        let independent = if self.noise == Noise::Independent { 1.0 } else { 0.1 };
        for (value, centre) in vector.iter_mut().zip(&self.centres[centre..]) {
            *value = centre + independent * *value;
        }
        if self.noise == Noise::Shared {
            let mut along = [0.0; SHARED];
            gauss(rng, &mut along);
            for (along, direction) in along.iter().zip(self.basis.chunks(self.width)) {
                let along = along / (SHARED as f32).sqrt();
                vector.iter_mut().zip(direction).for_each(|(value, d)| *value += along * d);
            }
        }
        vector
    }
}

/// Normally distributed numbers (Box and Muller 1958).
fn gauss(rng: &mut SmallRng, out: &mut [f32]) {
    for pair in out.chunks_mut(2) {
        let (u, v): (f32, f32) = (1.0 - rng.random::<f32>(), rng.random());
        let (sin, cos) = (v * std::f32::consts::TAU).sin_cos();
        let length = (-2.0 * u.ln()).sqrt();
        pair.iter_mut().zip([cos, sin]).for_each(|(value, part)| *value = length * part);
    }
}

/// The ids of the `k` rows nearest to `query` by squared distance, of those that `rows` gives.
pub(crate) fn nearest<'a>(rows: impl Iterator<Item = (i64, &'a [f32])>, query: &[f32], k: usize) -> Vec<i64> {
    let distance = |vector: &[f32]| vector.iter().zip(query).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
    let mut ranked: Vec<(f32, i64)> = rows.map(|(id, vector)| (distance(vector), id)).collect();
    let k = k.min(ranked.len());
    ranked.select_nth_unstable_by(k.saturating_sub(1), |a, b| a.0.total_cmp(&b.0));
    ranked[..k].iter().map(|(_, id)| *id).collect()
}

/// The share of `truth` that was found.
pub(crate) fn recall(truth: &[Vec<i64>], found: &[Vec<i64>]) -> f64 {
    let hits = |(truth, found): (&Vec<i64>, &Vec<i64>)| truth.iter().filter(|id| found.contains(id)).count();
    let all: usize = truth.iter().map(Vec::len).sum();
    truth.iter().zip(found).map(hits).sum::<usize>() as f64 / all.max(1) as f64
}
