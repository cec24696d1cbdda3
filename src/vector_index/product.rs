//! Rows near to a query by product codes (Jégou, Douze, Schmid: Product Quantization for Nearest Neighbor Search, PAMI
//! 2011).
//!
//! A code has a byte for each piece of a vector: the number of a centroid near to the piece. How far a row is, is a sum
//! of what a table made for the query says of its bytes. The table is also kept rounded down to bytes: a sum of these
//! bounds the distance from below, and is taken of 64 rows at a time by look-ups within registers (after André, Kermarrec,
//! Le Scouarnec: Cache locality is not enough, VLDB 2015). Few rows are left to be summed up exactly.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::rank::known_distance;
use super::simd::{Level, Simd};
use super::top::{Neighbour, Top};

/// Rows that are looked at together.
const BLOCK: usize = 64;
/// Centroids that a byte can name.
const NAMES: usize = 256;

/// Bytes of codes that are on their way while others are looked at.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 4096;

/// What codes of one piece of a vector may add to a distance.
type Terms<T> = [T; NAMES];

/// The centroids that product codes name.
#[derive(Debug)]
pub struct ProductCodebook {
    pieces: usize,
    width: usize,
    /// How many centroids there are for a piece.
    names: usize,
    /// Value after value of a vector, what the centroids of its piece have there.
    values: Vec<Terms<f32>>,
}

impl ProductCodebook {
    /// Centroids for `pieces` pieces, piece after piece, `names` for each, one after the other; `None` if these are not
    /// whole centroids, or too many for a byte.
    pub fn new(pieces: usize, names: usize, centroids: &[f32]) -> Option<Self> {
        let width = centroids.len().checked_div(pieces.checked_mul(names)?)?;
        if width == 0 || centroids.len() != pieces * names * width || names > NAMES {
            return None;
        }
        let mut values = vec![[0.0; NAMES]; pieces * width];
        for (place, value) in centroids.iter().enumerate() {
            let (centroid, dimension) = (place / width, place % width);
            values[centroid / names * width + dimension][centroid % names] = *value;
        }
        Some(Self { pieces, width, names, values })
    }

    /// Dimensions of the vectors that have codes.
    pub fn dimension(&self) -> usize {
        self.pieces * self.width
    }

    /// Bytes of a code, one for each piece.
    pub fn pieces(&self) -> usize {
        self.pieces
    }

    /// Bytes it takes.
    pub fn memory(&self) -> usize {
        size_of_val(self.values.as_slice())
    }

    /// A number that is the same for equal codebooks of one process, and hardly ever for others.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.pieces, self.width, self.names).hash(&mut hasher);
        self.values.as_flattened().iter().for_each(|value| hasher.write_u32(value.to_bits()));
        hasher.finish()
    }

    /// The length of the longest vector that codes can stand for.
    pub fn reach(&self) -> f32 {
        let squares = self.terms(&vec![0.0; self.dimension()], |_, c| c * c);
        squares.iter().map(|squares| squares.iter().copied().fold(0.0, f32::max)).sum::<f32>().sqrt()
    }

    /// The sums of `term` of the values of each piece of `vector` and of each centroid for it.
    fn terms(&self, vector: &[f32], term: impl Fn(f32, f32) -> f32) -> Vec<Terms<f32>> {
        let mut terms = vec![[0.0; NAMES]; self.pieces];
        for (place, (x, centroids)) in vector.iter().zip(&self.values).enumerate() {
            for (sum, c) in terms[place / self.width].iter_mut().zip(centroids) {
                *sum += term(*x, *c);
            }
        }
        terms
    }

    /// How far vectors are from `query` by their inner product with it, negated: the nearer, the larger it is.
    pub fn by_product(&self, query: &[f32]) -> ProductTable {
        ProductTable::new(self.terms(query, |q, c| -q * c), self.names)
    }

    /// How far vectors are from `query` by their squared Euclidean distance, where codes are of what is left of a vector
    /// next to the centre of its list: what [`ProductList::of_residuals`] adds has to be among the terms of rows. `origin` is
    /// one and the same for all.
    pub fn by_distance(&self, query: &[f32], origin: &[f32]) -> ProductTable {
        // |q - (c + r)|² = |q - c|² + |r|² + 2 (c - o) r - 2 (q - o) r, of which only the last depends on both q and r.
        let from_origin: Vec<f32> = query.iter().zip(origin).map(|(q, o)| -2.0 * (q - o)).collect();
        ProductTable::new(self.terms(&from_origin, |x, c| x * c), self.names)
    }
}

/// What each byte of a code adds to a row's distance from one query.
#[derive(Debug)]
pub struct ProductTable {
    exact: Vec<Terms<f32>>,
    /// Rounded down, in steps from the lowest of each piece.
    rounded: Vec<Terms<u8>>,
    lowest: f32,
    step: f32,
}

impl ProductTable {
    fn new(exact: Vec<Terms<f32>>, names: usize) -> Self {
        let lowest = |terms: &Terms<f32>| terms[..names].iter().copied().fold(f32::INFINITY, f32::min);
        let highest = |terms: &Terms<f32>| terms[..names].iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let widest = exact.iter().map(|terms| highest(terms) - lowest(terms)).fold(0.0, f32::max);
        // Sums are taken in 16 bits.
        let most = (usize::from(u16::MAX) / exact.len().max(1)).min(usize::from(u8::MAX)) as f32;
        let (step, sum) = (widest / most, exact.iter().map(lowest).sum::<f32>());
        if !(step.is_normal() && sum.is_finite() && exact.as_flattened().iter().all(|term| term.is_finite())) {
            // Nothing is known but that no row is nearer than this: all are summed up exactly.
            let rounded = vec![[0; NAMES]; exact.len()];
            return Self { exact, rounded, lowest: f32::NEG_INFINITY, step: 0.0 };
        }
        let of_piece = |terms: &Terms<f32>| {
            let lowest = lowest(terms);
            // Conversions of floats to bytes keep to what a byte can be.
            terms.map(|term| ((term - lowest) / step).floor().min(most) as u8)
        };
        let rounded = exact.iter().map(of_piece).collect();
        // What sums of floats may be off by.
        let size = exact.iter().map(|terms| lowest(terms).abs()).sum::<f32>() + exact.len() as f32 * widest;
        let slack = exact.len() as f32 * size * f32::EPSILON * 2.0;
        Self { exact, rounded, lowest: sum - slack, step }
    }
}

/// The product codes of some rows: a list of an inverted file.
#[derive(Debug)]
pub struct ProductList {
    pieces: usize,
    rows: usize,
    /// Block after block of rows; of a block piece after piece, of a piece row after row.
    codes: Vec<[u8; BLOCK]>,
    /// What is added to a row's distance whatever the query.
    terms: Vec<[f32; BLOCK]>,
}

impl ProductList {
    /// The list of `rows` rows with `code(row, piece)`, whose distances are the sums of their codes.
    pub fn new(codebook: &ProductCodebook, rows: usize, code: impl Fn(usize, usize) -> u8) -> Self {
        let (pieces, blocks) = (codebook.pieces, rows.div_ceil(BLOCK));
        let mut codes = vec![[0; BLOCK]; blocks * pieces];
        for (place, of_piece) in codes.iter_mut().enumerate() {
            let (block, piece) = (place / pieces, place % pieces);
            for (row, byte) in (block * BLOCK..rows).zip(of_piece) {
                *byte = code(row, piece).min((codebook.names - 1) as u8);
            }
        }
        Self { pieces, rows, codes, terms: vec![[0.0; BLOCK]; blocks] }
    }

    /// The same, where codes are of what is left of a vector next to `centre`. Goes with
    /// [`ProductCodebook::by_distance`] from the same `origin`.
    #[must_use]
    pub fn of_residuals(mut self, codebook: &ProductCodebook, centre: &[f32], origin: &[f32]) -> Self {
        let from_origin: Vec<f32> = centre.iter().zip(origin).map(|(c, o)| 2.0 * (c - o)).collect();
        let terms = codebook.terms(&from_origin, |x, c| c * (c + x));
        for row in 0..self.rows {
            self.terms[row / BLOCK][row % BLOCK] = self.sum(row, &terms);
        }
        self
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes it takes.
    pub fn memory(&self) -> usize {
        size_of_val(self.codes.as_slice()) + size_of_val(self.terms.as_slice())
    }

    /// Offers `top` the rows that are `allowed`, numbered from `first` on, at their distances by `table` plus `at`; leaves
    /// out rows that `top` would not take.
    pub fn search(
        &self,
        simd: Simd,
        table: &ProductTable,
        at: f32,
        first: u32,
        allowed: impl Fn(usize) -> bool,
        top: &mut Top,
    ) {
        let blocks = self.codes.chunks_exact(self.pieces.max(1)).zip(&self.terms);
        for (block, (codes, terms)) in blocks.enumerate() {
            let rows = BLOCK.min(self.rows - block * BLOCK);
            let mut hits = screen(simd, codes, terms, table, top.limit() - at) & (u64::MAX >> (BLOCK - rows));
            while hits != 0 {
                let row = block * BLOCK + hits.trailing_zeros() as usize;
                hits &= hits - 1;
                if allowed(row) {
                    let distance = known_distance(at + terms[row % BLOCK] + self.sum(row, &table.exact));
                    top.offer(Neighbour { row: first + row as u32, distance });
                }
            }
        }
    }

    fn sum(&self, row: usize, terms: &[Terms<f32>]) -> f32 {
        let codes = &self.codes[row / BLOCK * self.pieces..][..self.pieces];
        codes.iter().zip(terms).map(|(codes, terms)| terms[usize::from(codes[row % BLOCK])]).sum()
    }
}

/// The rows of a block, one bit each, whose distance may not be above `limit`.
fn screen(simd: Simd, codes: &[[u8; BLOCK]], terms: &[f32; BLOCK], table: &ProductTable, limit: f32) -> u64 {
    match simd.level() {
        // SAFETY: `simd` proves that the processor has these instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { screen_avx512(codes, terms, table, limit) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { screen_avx2(codes, terms, table, limit) },
        _ => screen_body(codes, terms, table, limit),
    }
}

#[inline(always)]
fn screen_body(codes: &[[u8; BLOCK]], terms: &[f32; BLOCK], table: &ProductTable, limit: f32) -> u64 {
    let mut sums = [0u16; BLOCK];
    for (codes, rounded) in codes.iter().zip(&table.rounded) {
        for (sum, code) in sums.iter_mut().zip(codes) {
            *sum += u16::from(rounded[usize::from(*code)]);
        }
    }
    not_above(&sums, terms, table, limit)
}

/// A sum that is no number is not above anything: the row is summed up exactly.
#[inline(always)]
fn not_above(sums: &[u16; BLOCK], terms: &[f32; BLOCK], table: &ProductTable, limit: f32) -> u64 {
    let mut above = 0;
    for (row, (sum, term)) in sums.iter().zip(terms).enumerate() {
        let bound = f32::from(*sum) * table.step + (table.lowest + term);
        above |= u64::from(bound > limit) << row;
    }
    !above
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,popcnt")]
fn screen_avx2(codes: &[[u8; BLOCK]], terms: &[f32; BLOCK], table: &ProductTable, limit: f32) -> u64 {
    screen_body(codes, terms, table, limit)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vpopcntdq")]
fn screen_avx512(codes: &[[u8; BLOCK]], terms: &[f32; BLOCK], table: &ProductTable, limit: f32) -> u64 {
    use std::arch::x86_64::*;
    // SAFETY: the array has as many bytes as the register.
    let load = |bytes: &[u8; BLOCK]| unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
    // Rows with even numbers in one, with odd ones in the other, each in 16 bits.
    let (mut even, mut odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    let low = _mm512_set1_epi16(0xff);
    for (codes, rounded) in codes.iter().zip(&table.rounded) {
        // Lists are larger than caches, and the processor does not read ahead beyond a page. Any address will do.
        _mm_prefetch::<_MM_HINT_T0>(codes.as_ptr().wrapping_add(AHEAD).cast());
        let [a, b, c, d] = [0, 1, 2, 3].map(|quarter| load(&rounded.as_chunks::<BLOCK>().0[quarter]));
        let codes = load(codes);
        // Seven bits choose one of two registers' bytes, the eighth one of two such choices.
        let (first, second) = (_mm512_permutex2var_epi8(a, codes, b), _mm512_permutex2var_epi8(c, codes, d));
        let found = _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes), first, second);
        even = _mm512_add_epi16(even, _mm512_and_si512(found, low));
        odd = _mm512_add_epi16(odd, _mm512_srli_epi16::<8>(found));
    }
    // Pairs of an even and an odd row, four to a quarter of a register: those that begin a quarter's rows, and the others.
    let (begin, rest) = (_mm512_unpacklo_epi16(even, odd), _mm512_unpackhi_epi16(even, odd));
    let first = _mm512_permutex2var_epi64(begin, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), rest);
    let second = _mm512_permutex2var_epi64(begin, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), rest);
    let mut sums = [0u16; BLOCK];
    // SAFETY: the array has as many bytes as both registers.
    unsafe {
        _mm512_storeu_si512(sums.as_mut_ptr().cast(), first);
        _mm512_storeu_si512(sums[BLOCK / 2..].as_mut_ptr().cast(), second);
    }
    not_above(&sums, terms, table, limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector_index::random::next;

    fn values(count: usize, scale: f32, state: &mut u64) -> Vec<f32> {
        (0..count).map(|_| ((next(state) >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale).collect()
    }

    /// A codebook, codes of rows, a centre and a query.
    struct Case {
        codebook: ProductCodebook,
        codes: Vec<Vec<u8>>,
        centre: Vec<f32>,
        query: Vec<f32>,
    }

    impl Case {
        fn new((pieces, width, names): (usize, usize, usize), rows: usize, far: f32, seed: u64) -> Self {
            let mut state = seed;
            let centroids = values(pieces * names * width, 1.0, &mut state);
            let mut name = || ((next(&mut state) >> 32) as usize % names) as u8;
            let codes = (0..rows).map(|_| (0..pieces).map(|_| name()).collect()).collect();
            let centre = values(pieces * width, far, &mut state);
            let query = values(pieces * width, 1.0, &mut state).iter().zip(&centre).map(|(x, c)| x + c).collect();
            Self { codebook: ProductCodebook::new(pieces, names, &centroids).unwrap(), codes, centre, query }
        }

        /// The vector that a row's code stands for.
        fn decoded(&self, row: usize) -> Vec<f32> {
            let ProductCodebook { width, values, .. } = &self.codebook;
            let value = |(place, names): (usize, &Terms<f32>)| names[usize::from(self.codes[row][place / width])];
            values.iter().enumerate().map(value).collect()
        }

        fn list(&self) -> ProductList {
            ProductList::new(&self.codebook, self.codes.len(), |row, piece| self.codes[row][piece])
        }

        /// Compares the nearest by `list` with those of distances `exact`.
        fn check(&self, list: &ProductList, table: &ProductTable, at: f32, exact: impl Fn(&[f32]) -> f64, size: f64) {
            let allowed = |row: usize| row % 7 != 3;
            let distances: Vec<f64> = (0..self.codes.len()).map(|row| exact(&self.decoded(row))).collect();
            for k in [1, 10, self.codes.len() + 5] {
                let mut best: Vec<f64> = (0..distances.len()).filter(|r| allowed(*r)).map(|r| distances[r]).collect();
                best.sort_by(f64::total_cmp);
                best.truncate(k);
                for simd in Simd::all() {
                    let mut top = Top::new(k);
                    list.search(simd, table, at, 1_000, allowed, &mut top);
                    let found = top.into_sorted();
                    assert_eq!(found.len(), best.len(), "{simd:?}");
                    for (found, best) in found.iter().zip(&best) {
                        let row = found.row as usize - 1_000;
                        assert!(allowed(row) && (f64::from(found.distance) - distances[row]).abs() <= size, "{simd:?}");
                        assert!((distances[row] - best).abs() <= size, "{simd:?}: {} is not {best}", distances[row]);
                    }
                }
            }
        }
    }

    #[test]
    fn the_nearest_codes_are_found() {
        let shapes = [(48, 8, 256), (1, 4, 256), (7, 3, 16), (2, 1, 2), (300, 1, 256), (16, 4, 200)];
        for (seed, shape) in (1..).zip(shapes) {
            for (rows, far) in [(0, 0.0), (1, 1.0), (63, 0.0), (64, 1.0), (65, 100.0), (1_000, 1.0)] {
                let case = Case::new(shape, rows, far, seed);
                let dimension = case.codebook.dimension();
                let size = dimension as f64 * (1.0 + f64::from(far) * f64::from(far)) * 1e-5;
                let origin: Vec<f32> = case.centre.iter().map(|c| c * 0.9).collect();
                let list = case.list().of_residuals(&case.codebook, &case.centre, &origin);
                let to_centre = case.query.iter().zip(&case.centre).map(|(q, c)| (q - c) * (q - c)).sum::<f32>();
                let exact = |residual: &[f32]| {
                    let parts = case.query.iter().zip(&case.centre).zip(residual);
                    parts.map(|((q, c), r)| (f64::from(*q) - f64::from(*c) - f64::from(*r)).powi(2)).sum()
                };
                case.check(&list, &case.codebook.by_distance(&case.query, &origin), to_centre, exact, size);
                let product = |vector: &[f32]| {
                    1.0 - vector.iter().zip(&case.query).map(|(v, q)| f64::from(*v) * f64::from(*q)).sum::<f64>()
                };
                case.check(&case.list(), &case.codebook.by_product(&case.query), 1.0, product, size);
            }
        }
    }

    #[test]
    fn few_codes_are_summed_up() {
        let case = Case::new((48, 8, 256), 10_000, 1.0, 77);
        let (list, table) = (case.list(), case.codebook.by_product(&case.query));
        for simd in Simd::all() {
            let (mut top, asked) = (Top::new(10), std::cell::Cell::new(0));
            let allowed = |_| {
                asked.set(asked.get() + 1);
                true
            };
            list.search(simd, &table, 0.0, 0, allowed, &mut top);
            assert!(asked.get() < 1_000, "{simd:?}: {}", asked.get());
        }
    }

    #[test]
    fn values_without_bounds_hide_no_row() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            let mut case = Case::new((4, 2, 16), 100, 1.0, 5);
            case.codebook.values[1][3] = odd;
            let mut top = Top::new(100);
            case.list().search(Simd::detect(), &case.codebook.by_product(&case.query), 0.0, 0, |_| true, &mut top);
            assert_eq!(top.len(), 100, "{odd}");
        }
        let same = ProductCodebook::new(2, 4, &[1.0; 8]).unwrap();
        let (list, mut top) = (ProductList::new(&same, 70, |_, _| 9), Top::new(70));
        list.search(Simd::detect(), &same.by_product(&[1.0, 2.0]), 0.5, 0, |_| true, &mut top);
        assert!(top.into_sorted().iter().all(|found| found.distance == -2.5));
    }

    #[test]
    fn a_row_whose_distance_is_undefined_is_the_farthest() {
        // Sums of these are no numbers, of whatever sign.
        for odd in [[f32::INFINITY, f32::NEG_INFINITY], [-f32::NAN, 0.0], [f32::NAN, 0.0]] {
            let codebook = ProductCodebook::new(2, 2, &[1.0, odd[0], 1.0, odd[1]]).unwrap();
            let (list, mut top) = (ProductList::new(&codebook, 4, |row, _| u8::from(row < 3)), Top::new(1));
            list.search(Simd::detect(), &codebook.by_product(&[-1.0, -1.0]), 0.0, 0, |_| true, &mut top);
            let found: Vec<(u32, f32)> = top.into_sorted().iter().map(|found| (found.row, found.distance)).collect();
            assert_eq!(found, [(3, 2.0)], "{odd:?}");
        }
    }

    #[test]
    fn codebooks_are_told_apart() {
        let codebook = |pieces, names, last| {
            let mut centroids = [0.5; 16];
            centroids[15] = last;
            ProductCodebook::new(pieces, names, &centroids).unwrap().fingerprint()
        };
        assert_eq!(codebook(2, 4, 1.0), codebook(2, 4, 1.0));
        let all = [codebook(2, 4, 1.0), codebook(2, 4, 2.0), codebook(4, 4, 1.0), codebook(2, 2, 1.0)];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn centroids_have_to_be_whole() {
        assert!(ProductCodebook::new(0, 256, &[]).is_none());
        assert!(ProductCodebook::new(2, 256, &[0.0; 256]).is_none());
        assert!(ProductCodebook::new(2, 256, &[0.0; 1_030]).is_none());
        assert!(ProductCodebook::new(2, 512, &[0.0; 1_024]).is_none());
        assert_eq!(ProductCodebook::new(2, 256, &[0.0; 1_024]).unwrap().dimension(), 4);
    }
}
