//! One search: a quick look at all codes, a second look at some, and exact distances of few.
//!
//! Both looks reckon with an error of the estimate, so that a row is passed over only if it is hardly among the nearest.
//! The limit is the distance of rows that were compared exactly, those that look best at first sight.

use std::sync::Arc;

use super::block::{Block, Layout, ROWS};
use super::code::{Bound, Origin, Query};
use super::count::{GROUP, Group, differing, filter};
use super::mask::Mask;
use super::rank::rank;
use super::simd::Simd;
use super::top::{Neighbour, Top};
use crate::distance::Metric;

/// Exact vectors, which the index does not keep.
pub trait Vectors {
    /// The vector of `row`, which was appended and has one.
    fn vector(&self, row: u32) -> &[f32];
}

/// How sure a search makes of what it finds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    /// How far below its estimate the distance of a row is reckoned possible, in standard deviations of the estimate's
    /// error. The more, the fewer of the nearest rows are missed and the more rows are looked at.
    pub margin: f32,
    /// How many rows are compared exactly at most; never fewer than 4 for each row that is asked for.
    pub exact: usize,
}

impl Default for Effort {
    /// Misses one or two of a hundred nearest rows.
    fn default() -> Self {
        Self { margin: 2.0, exact: 1000 }
    }
}

/// What is searched for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The query; as long as the rows' vectors.
    pub vector: &'a [f32],
    /// How many rows are wanted.
    pub k: usize,
    /// Rows from this number on are not there yet.
    pub watermark: u32,
    /// Which of the others may be found.
    pub mask: Mask<'a>,
    /// How sure to make.
    pub effort: Effort,
}

/// What a search did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Rows whose code was looked at quickly; twice for some.
    pub quick: usize,
    /// Rows whose whole code was looked at.
    pub whole: usize,
    /// Rows compared exactly.
    pub exact: usize,
}

/// A row that may be among the nearest, and what its distance is hardly below.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    lower: f32,
    row: u32,
}

fn by_lower(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    a.lower.total_cmp(&b.lower).then(a.row.cmp(&b.row))
}

/// The rows of a group that are there and allowed, as far as is known without asking.
#[derive(Debug, Clone, Copy)]
struct Slot {
    first: usize,
    allowed: u32,
    /// The lowest bound in the group.
    lowest: f32,
}

/// The query relative to an origin.
#[derive(Debug)]
struct Relative {
    query: Query,
    quick: Bound,
    head: Bound,
    whole: Bound,
}

/// A search under way.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    simd: Simd,
    metric: Metric,
    request: &'a Request<'a>,
    layout: Layout,
    blocks: &'a [&'a Block],
    /// The query relative to each origin that blocks have, and which of them belongs to a block.
    relatives: Vec<Relative>,
    relative: Vec<usize>,
    top: Top,
    work: Work,
}

impl<'a> Search<'a> {
    /// A search in `blocks`, the first of which starts with row 0, for `request`, whose rotated vector is `rotated`.
    pub(crate) fn new(
        simd: Simd,
        metric: Metric,
        request: &'a Request<'a>,
        rotated: &[f32],
        layout: Layout,
        blocks: &'a [&'a Block],
    ) -> Self {
        let margin = request.effort.margin;
        let mut relatives: Vec<Relative> = Vec::new();
        let mut relative = Vec::with_capacity(blocks.len());
        let mut last: Option<&Arc<Origin>> = None;
        for block in blocks {
            if !last.is_some_and(|last| Arc::ptr_eq(last, block.origin())) {
                let query = Query::new(simd, metric, rotated, block.origin());
                let [quick, head, whole] =
                    [layout.quick, layout.head, layout.words].map(|words| query.bound(words, margin));
                relatives.push(Relative { query, quick, head, whole });
                last = Some(block.origin());
            }
            relative.push(relatives.len() - 1);
        }
        let (top, work) = (Top::new(request.k), Work::default());
        Self { simd, metric, request, layout, blocks, relatives, relative, top, work }
    }

    /// Looks at all codes and compares exactly what may be among the nearest.
    pub(crate) fn run(&mut self, vectors: &impl Vectors) {
        let (slots, best) = self.look();
        // Those that look best set the limit.
        let whole = |n: Neighbour| Candidate { lower: self.whole(n.row), row: n.row };
        let mut first: Vec<Candidate> = best.into_sorted().into_iter().map(whole).collect();
        self.work.whole += first.len();
        first.sort_unstable_by(by_lower);
        first.truncate(self.request.k.saturating_add(self.request.k / 2));
        first.iter().for_each(|candidate| self.compare(candidate.row, vectors));
        let mut rows: Vec<u32> = first.iter().map(|candidate| candidate.row).collect();
        rows.sort_unstable();
        let candidates = self.candidates(&slots, &rows);
        for candidate in &candidates {
            if candidate.lower > self.top.limit() {
                break;
            }
            self.compare(candidate.row, vectors);
        }
        // Estimates of numbers near the limits of `f32` may be undefined, and such rows are passed over.
        let there: usize = slots.iter().map(|slot| slot.allowed.count_ones() as usize).sum();
        if self.top.len() < self.request.k && self.work.exact < there {
            self.top = Top::new(self.request.k);
            self.run_all(vectors);
        }
    }

    /// A quick look at all rows: what there is, and some rows that look best.
    fn look(&mut self) -> (Vec<Slot>, Top) {
        let mut best = Top::new(self.request.k.saturating_mul(4).saturating_add(24));
        let mut slots = self.slots();
        for slot in &mut slots {
            let Some((group, relative)) = self.group(slot.first) else { continue };
            let group = group.first(self.layout.quick);
            let found = filter(self.simd, group, &relative.query.planes, &relative.quick, best.limit());
            slot.lowest = found.lowest;
            for i in bits(found.hits & slot.allowed) {
                let row = (slot.first + i) as u32;
                if self.request.mask.confirms(row) {
                    let count = differing(self.simd, group.heads, i, &[], &relative.query.planes);
                    let distance = relative.quick.lower(count, group.add[i], group.scale[i]);
                    best.offer(Neighbour { row, distance });
                }
            }
        }
        self.work.quick += slots.len() * GROUP;
        (slots, best)
    }

    /// The rows in `slots` that may be nearer than the limit, by their bounds; without `known` ones (in order).
    fn candidates(&mut self, slots: &[Slot], known: &[u32]) -> Vec<Candidate> {
        let limit = self.top.limit();
        let room = self.request.effort.exact.max(self.request.k.saturating_mul(4));
        let mut candidates = Vec::new();
        for slot in slots.iter().filter(|slot| slot.lowest <= limit) {
            let Some((group, relative)) = self.group(slot.first) else { continue };
            let found = filter(self.simd, group, &relative.query.planes, &relative.head, limit);
            self.work.quick += GROUP;
            for i in bits(found.hits & slot.allowed) {
                let row = (slot.first + i) as u32;
                if self.request.mask.confirms(row) && known.binary_search(&row).is_err() {
                    self.work.whole += 1;
                    let lower = self.whole(row);
                    if lower <= limit {
                        candidates.push(Candidate { lower, row });
                    }
                }
            }
        }
        if candidates.len() > room {
            candidates.select_nth_unstable_by(room, by_lower);
            candidates.truncate(room);
        }
        candidates.sort_unstable_by(by_lower);
        candidates
    }

    /// Compares exactly all rows that have a code.
    pub(crate) fn run_all(&mut self, vectors: &impl Vectors) {
        for slot in self.slots() {
            for i in bits(slot.allowed) {
                let row = slot.first + i;
                if self.blocks.get(row / ROWS).is_some_and(|block| block.has(row % ROWS)) {
                    self.add(row as u32, vectors);
                }
            }
        }
    }

    /// Compares a row exactly, if it may be found.
    pub(crate) fn add(&mut self, row: u32, vectors: &impl Vectors) {
        if row < self.request.watermark && self.request.mask.allows(row) {
            self.compare(row, vectors);
        }
    }

    fn compare(&mut self, row: u32, vectors: &impl Vectors) {
        self.work.exact += 1;
        let distance = rank(self.metric, self.simd, self.request.vector, vectors.vector(row));
        self.top.offer(Neighbour { row, distance });
    }

    /// What was found, the nearest first.
    pub(crate) fn finish(self) -> (Vec<Neighbour>, Work) {
        (self.top.into_sorted(), self.work)
    }

    /// The groups that have rows to look at.
    fn slots(&self) -> Vec<Slot> {
        let watermark = self.request.watermark as usize;
        let mut slots = Vec::with_capacity(self.blocks.len() * (ROWS / GROUP));
        for (b, block) in self.blocks.iter().enumerate() {
            let end = (b * ROWS + block.len()).min(watermark);
            for first in (b * ROWS..end).step_by(GROUP) {
                let there = if end - first < GROUP { (1 << (end - first)) - 1 } else { u32::MAX };
                let allowed = there & self.request.mask.group(first);
                if allowed != 0 {
                    slots.push(Slot { first, allowed, lowest: f32::INFINITY });
                }
            }
        }
        slots
    }

    /// The group of the rows from `first` on, and the query relative to its origin.
    #[inline]
    fn group(&self, first: usize) -> Option<(Group<'a>, &Relative)> {
        let group = self.blocks.get(first / ROWS)?.group(first % ROWS / GROUP)?;
        Some((group, self.relatives.get(*self.relative.get(first / ROWS)?)?))
    }

    /// What the distance of a row is hardly below after a look at its whole code.
    #[inline]
    fn whole(&self, row: u32) -> f32 {
        let row = row as usize;
        let Some((group, relative)) = self.group(row) else { return f32::INFINITY };
        let (i, rest) = (row % GROUP, self.blocks[row / ROWS].rest(row % ROWS));
        let count = differing(self.simd, group.heads, i, rest, &relative.query.planes);
        relative.whole.lower(count, group.add[i], group.scale[i])
    }
}

/// The numbers of the bits that are set.
fn bits(mut set: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = set.trailing_zeros();
        set &= set.wrapping_sub(1);
        (lowest < u32::BITS).then_some(lowest as usize)
    })
}
