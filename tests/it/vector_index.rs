//! The index against brute force.

use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion_lsm::distance::Metric;
use datafusion_lsm::vector_index::{
    Effort, IndexError, Mask, Neighbour, Request, Simd, VectorIndex, Vectors, accepts, rank,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const METRICS: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];

struct Rows {
    dim: usize,
    values: Vec<f32>,
}

impl Vectors for Rows {
    fn vector(&self, row: u32) -> &[f32] {
        &self.values[row as usize * self.dim..][..self.dim]
    }
}

impl Rows {
    /// Rows around 50 centres that are not centred on zero.
    fn clustered(dim: usize, rows: usize, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut centres = SmallRng::seed_from_u64(1);
        let centres: Vec<f32> = (0..50 * dim).map(|_| centres.random::<f32>() * 2.0 - 0.7).collect();
        let mut values = Vec::with_capacity(rows * dim);
        for _ in 0..rows {
            let centre = rng.random_range(0..50) * dim;
            values.extend((0..dim).map(|i| centres[centre + i] + rng.random::<f32>() - 0.5));
        }
        Self { dim, values }
    }

    fn index(&self, metric: Metric, batch: usize) -> VectorIndex {
        let index = VectorIndex::new(self.dim, metric).unwrap();
        for (i, values) in self.values.chunks(batch * self.dim).enumerate() {
            index.append(i * batch, values, |_| true).unwrap();
        }
        index
    }

    /// The rows that are `allowed`, the nearest first.
    fn ranked(&self, metric: Metric, query: &[f32], allowed: impl Fn(u32) -> bool) -> Vec<u32> {
        let distance = |row: u32| rank(metric, Simd::PORTABLE, query, self.vector(row));
        let rows = (0..(self.values.len() / self.dim) as u32).filter(|row| allowed(*row));
        let mut found: Vec<Neighbour> = rows.map(|row| Neighbour { row, distance: distance(row) }).collect();
        found.sort();
        found.iter().map(|neighbour| neighbour.row).collect()
    }

    fn nearest(&self, metric: Metric, query: &[f32], k: usize, allowed: impl Fn(u32) -> bool) -> Vec<u32> {
        self.ranked(metric, query, allowed).into_iter().take(k).collect()
    }
}

fn request(vector: &[f32], k: usize) -> Request<'_> {
    Request { vector, k, watermark: u32::MAX, mask: Mask::All, effort: Effort::default() }
}

fn search(index: &VectorIndex, request: &Request<'_>, rows: &Rows) -> Vec<u32> {
    let found = index.search(request, rows).unwrap();
    assert!(found.is_sorted());
    let mut numbers: Vec<u32> = found.iter().map(|neighbour| neighbour.row).collect();
    for neighbour in &found {
        assert!(neighbour.row < request.watermark && request.mask.allows(neighbour.row));
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), found.len(), "a row was found twice");
    found.iter().map(|neighbour| neighbour.row).collect()
}

fn words(rows: usize, allowed: impl Fn(u32) -> bool) -> Vec<u64> {
    let mut words = vec![0; rows.div_ceil(64)];
    (0..rows).filter(|row| allowed(*row as u32)).for_each(|row| words[row / 64] |= 1 << (row % 64));
    words
}

#[test]
fn most_of_the_nearest_rows_are_found_under_any_mask_and_watermark() {
    for (dim, count) in [(1024, 1500), (384, 3000), (100, 5000), (7, 3000)] {
        let rows = Rows::clustered(dim, count, 2);
        let queries = Rows::clustered(dim, 20, 3);
        for metric in METRICS {
            let index = rows.index(metric, 100);
            let ranked: Vec<Vec<u32>> = (0..20).map(|q| rows.ranked(metric, queries.vector(q), |_| true)).collect();
            for (percent, watermark) in
                [(100, count), (50, count), (30, count / 2 + 13), (1, count), (1, count / 2 + 1)]
            {
                let allowed =
                    |row: u32| !(row.wrapping_mul(2_654_435_761) >> 7).is_multiple_of(32) && row * 37 % 100 < percent;
                let bits = words(count, allowed);
                let visible = |row: u32| (row as usize) < watermark && allowed(row);
                let (mut hits, mut all) = (0, 0);
                for (q, ranked) in ranked.iter().enumerate() {
                    let query = queries.vector(q as u32);
                    let truth: Vec<u32> = ranked.iter().copied().filter(|row| visible(*row)).take(10).collect();
                    let with = |mask| Request { watermark: watermark as u32, mask, ..request(query, 10) };
                    let found = search(&index, &with(Mask::Bits(&bits)), &rows);
                    assert_eq!(found, search(&index, &with(Mask::Rows(&allowed)), &rows));
                    assert_eq!(found.len(), truth.len());
                    hits += truth.iter().filter(|row| found.contains(row)).count();
                    all += truth.len();
                }
                assert!(hits * 100 >= all * 95, "{metric:?} {dim} {percent}: {hits} of {all}");
            }
        }
    }
}

#[test]
fn more_effort_finds_all() {
    let (rows, queries) = (Rows::clustered(128, 4000, 2), Rows::clustered(128, 10, 3));
    for metric in METRICS {
        let index = rows.index(metric, 1000);
        for q in 0..10 {
            let effort = Effort { margin: 8.0, exact: usize::MAX };
            let found = search(&index, &Request { effort, ..request(queries.vector(q), 25) }, &rows);
            assert_eq!(found, rows.nearest(metric, queries.vector(q), 25, |_| true));
        }
    }
}

#[test]
fn as_many_rows_are_found_as_there_are() {
    let rows = Rows::clustered(70, 300, 2);
    for metric in METRICS {
        let index = rows.index(metric, 7);
        let query = rows.vector(5);
        assert!(search(&index, &request(query, 0), &rows).is_empty());
        for k in [1, 299, 300, 301, 100_000, usize::MAX] {
            assert_eq!(search(&index, &request(query, k), &rows).len(), k.min(300));
            let few = Request { effort: Effort { margin: -9.0, exact: 0 }, ..request(query, k) };
            assert_eq!(search(&index, &few, &rows).len(), k.min(300));
        }
        for (watermark, found) in [(0, 0), (1, 1), (31, 9), (255, 9), (256, 9), (257, 9), (u32::MAX, 9)] {
            assert_eq!(search(&index, &Request { watermark, ..request(query, 9) }, &rows).len(), found);
        }
        assert!(search(&index, &Request { mask: Mask::Bits(&[]), ..request(query, 9) }, &rows).is_empty());
        assert!(search(&index, &Request { mask: Mask::Rows(&|_| false), ..request(query, 9) }, &rows).is_empty());
        let one = Request { mask: Mask::Rows(&|row| row == 299), ..request(query, 9) };
        assert_eq!(search(&index, &one, &rows), [299]);
        assert!(search(&index, &Request { mask: Mask::Bits(&[4]), ..request(query, 9) }, &rows) == [2]);
    }
}

#[test]
fn an_empty_index_finds_nothing() {
    let (rows, index) = (Rows { dim: 3, values: Vec::new() }, VectorIndex::new(3, Metric::L2).unwrap());
    assert!(search(&index, &request(&[1.0; 3], 5), &rows).is_empty());
    index.append(0, &[], |_| true).unwrap();
    assert!(search(&index, &request(&[1.0; 3], 5), &rows).is_empty());
}

#[test]
fn rows_without_a_vector_are_counted_and_never_found() {
    for metric in METRICS {
        let mut rows = Rows::clustered(40, 1000, 2);
        for (row, vector) in rows.values.chunks_mut(40).enumerate() {
            match row % 10 {
                1 => vector[39] = f32::NAN,
                2 => vector[0] = f32::INFINITY,
                3 => vector[7] = f32::NEG_INFINITY,
                4 if metric == Metric::Cosine => vector.fill(0.0),
                _ => {}
            }
        }
        let there = |row: u32| !matches!(row % 10, 1 | 2 | 3 | 5) && (metric != Metric::Cosine || row % 10 != 4);
        let index = VectorIndex::new(40, metric).unwrap();
        for (i, values) in rows.values.chunks(50 * 40).enumerate() {
            index.append(i * 50, values, |row| row % 10 != 5).unwrap();
        }
        let found = search(&index, &request(rows.vector(0), 1000), &rows);
        assert_eq!(found.len(), (0..1000).filter(|row| there(*row)).count());
        assert!(found.iter().all(|row| there(*row)));
        let nearest = search(&index, &request(rows.vector(0), 5), &rows);
        assert_eq!(nearest, rows.nearest(metric, rows.vector(0), 5, there));
    }
}

#[test]
fn no_row_at_all_may_have_a_vector() {
    let (rows, index) = (Rows { dim: 2, values: vec![f32::NAN; 2000] }, VectorIndex::new(2, Metric::L2).unwrap());
    index.append(0, &rows.values, |_| true).unwrap();
    assert!(search(&index, &request(&[1.0, 2.0], 5), &rows).is_empty());
    index.append(1000, &[1.0, 2.0], |_| true).unwrap();
    let rows = Rows { dim: 2, values: [rows.values, vec![1.0, 2.0]].concat() };
    assert_eq!(search(&index, &request(&[1.0, 2.0], 5), &rows), [1000]);
}

#[test]
fn one_dimension_is_enough() {
    let rows = Rows { dim: 1, values: (0..600).map(|i| (i * 7 % 600) as f32).collect() };
    let index = rows.index(Metric::L2, 9);
    assert_eq!(search(&index, &request(&[70.2], 3), &rows), rows.nearest(Metric::L2, &[70.2], 3, |_| true));
    let index = rows.index(Metric::InnerProduct, 9);
    assert_eq!(search(&index, &request(&[1.0], 2), &rows), rows.nearest(Metric::InnerProduct, &[1.0], 2, |_| true));
    let index = rows.index(Metric::Cosine, 9);
    assert_eq!(search(&index, &request(&[1.0], 1000), &rows).len(), 599);
}

#[test]
fn equal_vectors_are_found_once_each() {
    for metric in METRICS {
        let rows = Rows { dim: 65, values: vec![0.5; 65 * 2000] };
        let index = rows.index(metric, 64);
        assert_eq!(search(&index, &request(&[0.5; 65], 50), &rows).len(), 50);
        assert_eq!(search(&index, &request(&[-3.0; 65], 2000), &rows).len(), 2000);
        let few = Request { mask: Mask::Rows(&|row| row % 400 == 7), ..request(&[0.0; 65], 50) };
        assert_eq!(search(&index, &few, &rows), [7, 407, 807, 1207, 1607]);
    }
}

#[test]
fn values_of_any_size_are_found() {
    for metric in METRICS {
        for scale in [1e-44, 1e-38, 1e-30, 1e-18, 1e-9, 1e9, 1e15, 1e19, 3e38] {
            let mut rows = Rows::clustered(33, 700, 2);
            rows.values.iter_mut().enumerate().for_each(|(i, value)| *value *= if i % 99 < 66 { scale } else { 0.4 });
            let there = |row: &u32| accepts(metric, rows.vector(*row));
            let all = (0..700).filter(there).count();
            let index = rows.index(metric, 30);
            for query in [rows.vector(0).to_vec(), rows.vector(2).to_vec(), vec![0.0; 33], vec![f32::NAN; 33]] {
                assert_eq!(search(&index, &request(&query, 1000), &rows).len(), all);
                assert_eq!(search(&index, &request(&query, 10), &rows).len(), 10);
                let few = Request { mask: Mask::Rows(&|row| row % 70 == 2), ..request(&query, 10) };
                assert_eq!(search(&index, &few, &rows).len(), (0..700).filter(|r| r % 70 == 2 && there(r)).count());
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    assert_eq!(VectorIndex::new(0, Metric::L2).unwrap_err(), IndexError::NoDimensions);
    let index = VectorIndex::new(3, Metric::L2).unwrap();
    let length = |values| Err(IndexError::Length { values, dim: 3 });
    assert_eq!(index.append(0, &[0.0; 7], |_| true), length(7));
    assert_eq!(index.append(1, &[0.0; 3], |_| true), Err(IndexError::Order { expected: 0, start: 1 }));
    assert_eq!(index.append(0, &[0.0; 6], |_| true), Ok(()));
    assert_eq!(index.append(0, &[0.0; 3], |_| true), Err(IndexError::Order { expected: 2, start: 0 }));
    let rows = Rows { dim: 3, values: vec![0.0; 6] };
    assert_eq!(index.search(&request(&[0.0; 2], 1), &rows).map(|found| found.len()), Err(length(2).unwrap_err()));
}

#[test]
fn memory_grows_with_the_rows() {
    let index = VectorIndex::new(1024, Metric::L2).unwrap();
    let empty = index.memory();
    let rows = Rows::clustered(1024, 5000, 2);
    index.append(0, &rows.values, |_| true).unwrap();
    let grown = index.memory() - empty;
    assert!(empty < 200 << 10 && (130 * 4800..160 * 5200).contains(&grown), "{empty} {grown}");
}

#[test]
fn readers_see_all_rows_below_their_watermark_while_rows_are_appended() {
    const ROWS: usize = 6000;
    let rows = Rows::clustered(64, ROWS, 2);
    for metric in METRICS {
        let (index, visible) = (VectorIndex::new(64, metric).unwrap(), AtomicUsize::new(0));
        std::thread::scope(|s| {
            s.spawn(|| {
                let mut rng = SmallRng::seed_from_u64(9);
                let mut at = 0;
                while at < ROWS {
                    let end = (at + rng.random_range(1..20)).min(ROWS);
                    index.append(at, &rows.values[at * 64..end * 64], |row| (at + row) % 11 != 3).unwrap();
                    visible.store(end, Ordering::Release);
                    at = end;
                }
            });
            for seed in 0..3 {
                let (index, rows, visible) = (&index, &rows, &visible);
                s.spawn(move || {
                    let mut rng = SmallRng::seed_from_u64(seed);
                    loop {
                        let watermark = visible.load(Ordering::Acquire);
                        let there = (0..watermark).filter(|row| row % 11 != 3).count();
                        let query = rows.vector(rng.random_range(0..ROWS as u32));
                        let all = Request { watermark: watermark as u32, ..request(query, ROWS) };
                        assert_eq!(search(index, &all, rows).len(), there);
                        let some = Request { mask: Mask::Rows(&|row| row % 3 == 0), k: 10, ..all };
                        let allowed = (0..watermark).filter(|row| row % 11 != 3 && row % 3 == 0).count();
                        assert_eq!(search(index, &some, rows).len(), allowed.min(10));
                        if watermark > 0 {
                            // What was appended last is found, too.
                            let last = (0..watermark as u32).rev().find(|row| row % 11 != 3).unwrap_or(0);
                            let nearest = search(index, &Request { k: 1, vector: rows.vector(last), ..all }, rows);
                            assert!(metric == Metric::InnerProduct || nearest == [last]);
                        }
                        if watermark == ROWS {
                            break;
                        }
                    }
                });
            }
        });
    }
}
