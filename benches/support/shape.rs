//! Which ids are in which source of a table.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::index::sample;

/// What a table consists of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) base: usize,
    pub(crate) generations: usize,
    pub(crate) generation: usize,
    pub(crate) memtable: usize,
    /// How many of a hundred rows of each source behind the base replace a row of an older source.
    pub(crate) overlap: usize,
}

impl Shape {
    /// A name for cached data of this shape.
    pub(crate) fn label(&self, bench: &str, side: &str) -> String {
        let Self { base, generations, generation, memtable, overlap } = self;
        format!("{bench}-{base}-{generations}x{generation}-{memtable}-{overlap}-{side}")
    }

    /// The ids of each source, the base first and the memtable last. A row's version is its source's place.
    pub(crate) fn ids(&self) -> Vec<Vec<i64>> {
        let mut rng = SmallRng::seed_from_u64(17);
        let mut sources: Vec<Vec<i64>> = vec![(0..self.base as i64).collect()];
        let mut known = self.base;
        for i in 0..=self.generations {
            let rows = if i < self.generations { self.generation } else { self.memtable };
            let old = rows * self.overlap / 100;
            let mut ids: Vec<i64> = sample(&mut rng, known, old).into_iter().map(|i| i as i64).collect();
            ids.extend((known..known + rows - old).map(|i| i as i64));
            known += rows - old;
            sources.push(ids);
        }
        sources
    }
}

/// The live rows in the order of their ids, each with its version.
pub(crate) fn newest(sources: &[Vec<i64>]) -> Vec<(i64, u64)> {
    let mut newest = BTreeMap::new();
    for (version, ids) in (0..).zip(sources) {
        newest.extend(ids.iter().map(|id| (*id, version)));
    }
    newest.into_iter().collect()
}
