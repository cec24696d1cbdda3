//! Scores the rows that hold any of some terms, window by window.
//!
//! A window ends where a block of any term does, so each term has one block in it and one bound for it (block-max
//! indexes: Ding and Suel, 2011). What the bounds cannot lift above the threshold is skipped; of the rest, terms that
//! cannot do so together only complete the scores of rows that others propose (MaxScore: Turtle and Flood, 1995).
//!
//! Long lists of little weight end up below the threshold wherever they are. From then on their blocks no longer end
//! windows, which would be as short as these.

use super::collector::Collector;
use super::cursor::{Bound, TermCursor, covering};
use super::mask::Mask;

/// Rows of a window in which several terms propose.
const SPAN: u32 = 2048;
/// A list is long if it has so many times the postings of all stronger terms.
const LONG: u64 = 2;
/// With more terms windows would become too short to be worth their bounds.
const MANY: usize = 8;

/// The terms and what is known of them in the current window.
#[derive(Debug)]
pub(crate) struct Union<'a> {
    terms: Vec<TermCursor<'a>>,
    bounds: Vec<Bound>,
    /// Terms that propose in no window any more.
    weak: Vec<usize>,
    /// The weakest of the others, the strongest of them first, as far as they are long lists.
    long: Vec<usize>,
    /// The other terms, the weakest of the last window first.
    ranking: Vec<usize>,
    /// The terms that match in the window, the weakest first, and how many of them do not propose.
    order: Vec<usize>,
    lazy: usize,
    /// The bound of the first so many of the order.
    most: Vec<f64>,
    sums: Vec<f32>,
    marks: [u64; SPAN as usize / 64],
    scores: Vec<f32>,
}

impl<'a> Union<'a> {
    /// Of terms in front of their first row.
    pub(crate) fn new(terms: Vec<TermCursor<'a>>) -> Self {
        let count = terms.len();
        let mut strongest: Vec<usize> = (0..count).collect();
        strongest.sort_by(|&a, &b| terms[b].ceiling().total_cmp(&terms[a].ceiling()));
        let (mut long, mut stronger) = (Vec::new(), 0);
        for i in strongest {
            if terms[i].cost() >= LONG * stronger {
                long.push(i)
            } else {
                long.clear()
            }
            stronger += terms[i].cost();
        }
        Self {
            terms,
            bounds: vec![Bound::nothing(0); count],
            weak: Vec::new(),
            long,
            ranking: (0..count).collect(),
            order: Vec::with_capacity(count),
            lazy: 0,
            most: Vec::with_capacity(count + 1),
            sums: Vec::new(),
            marks: [0; SPAN as usize / 64],
            scores: vec![0.0; count],
        }
    }

    /// Offers all rows that the mask lets through and that score above the collector's threshold.
    pub(crate) fn run(&mut self, mask: &Mask<'_>, collector: &mut impl Collector) {
        let mut start = mask.next_visible(0);
        while start < mask.watermark() {
            let end = self.open(start, collector.threshold());
            let end = match self.order.len() - self.lazy {
                0 => end,
                1 => {
                    self.one(start, end, mask, collector);
                    end
                }
                _ => {
                    let span_end = start.saturating_add(SPAN - 1);
                    let is_short = self.lazy == 0 && self.order.len() > MANY && end < span_end;
                    let end = if is_short { span_end } else { end.min(span_end) };
                    self.several(start, end, is_short, mask, collector);
                    end
                }
            };
            start = mask.next_visible(end.saturating_add(1));
        }
    }

    /// Starts the window at `start` and tells where it ends. Without a term that proposes there is nothing in it.
    fn open(&mut self, start: u32, threshold: f32) -> u32 {
        self.weaken(threshold);
        let mut end = u32::MAX;
        for &i in &self.ranking {
            self.bounds[i] = self.terms[i].bound(start);
            end = end.min(self.bounds[i].up_to);
        }
        let bounds = &self.bounds;
        // Nearly in order from the last window, which this sort is fast at. What does not match comes first.
        self.ranking.sort_by(|&a, &b| bounds[a].most.total_cmp(&bounds[b].most));
        let nothing = self.ranking.partition_point(|&i| bounds[i].is_nothing());
        self.order.clear();
        self.order.extend_from_slice(&self.weak);
        self.order.extend_from_slice(&self.ranking[nothing..]);
        self.most.clear();
        self.most.push(0.0);
        self.lazy = self.weak.len();
        let mut sum = 0.0;
        for (at, &i) in self.order.iter().enumerate() {
            sum += if at < self.weak.len() { self.terms[i].ceiling() } else { bounds[i].most };
            self.most.push(sum);
            if covering(sum) <= f64::from(threshold) {
                self.lazy = at + 1;
            }
        }
        if self.lazy < self.order.len() {
            self.lazy = self.worthwhile(start, end);
        }
        end
    }

    /// How many of the lazy terms are better left lazy: asking one for each row that the others propose costs more
    /// than adding up a short list.
    fn worthwhile(&self, start: u32, end: u32) -> usize {
        let end = end.min(start.saturating_add(SPAN - 1));
        let weak = self.weak.len();
        let mut proposed: u64 = self.order[weak..].iter().map(|&i| self.terms[i].postings_in(start, end)).sum();
        let (mut saved, mut best, mut most_saved) = (0, 0, 0);
        for (at, &i) in (1..).zip(&self.order[weak..self.lazy]) {
            let postings = self.terms[i].postings_in(start, end);
            proposed = proposed.saturating_sub(postings);
            saved += postings as i64;
            let gain = saved - (proposed * at as u64) as i64;
            if gain > most_saved {
                (best, most_saved) = (at, gain);
            }
        }
        weak + best
    }

    /// Takes down which terms propose no more.
    fn weaken(&mut self, threshold: f32) {
        while let Some(&next) = self.long.last() {
            let most: f64 = self.weak.iter().chain([&next]).map(|&i| self.terms[i].ceiling()).sum();
            if covering(most) > f64::from(threshold) {
                return;
            }
            self.weak.push(next);
            self.ranking.retain(|&i| i != next);
            self.long.pop();
        }
    }

    /// A window in which one term proposes.
    fn one(&mut self, start: u32, end: u32, mask: &Mask<'_>, collector: &mut impl Collector) {
        let Self { terms, order, most, scores, weak, .. } = self;
        let Some((&eager, lazy)) = order.split_last() else { return };
        // The one that proposes is taken out so that the others can be asked meanwhile.
        let (before, rest) = terms.split_at_mut(eager);
        let Some((proposing, after)) = rest.split_first_mut() else { return };
        let others_most = most[lazy.len()];
        proposing.for_each_in(start, end, |row, score| {
            if covering(f64::from(score) + others_most) <= f64::from(collector.threshold()) || !mask.is_visible(row) {
                return;
            }
            if lazy.is_empty() {
                if score > collector.threshold() {
                    collector.offer(row, score);
                }
                return;
            }
            scores.fill(f32::NAN);
            scores[eager] = score;
            let mut sum = f64::from(score);
            for (left, &i) in lazy.iter().enumerate().rev() {
                if covering(sum + most[left + 1]) <= f64::from(collector.threshold()) {
                    return;
                }
                let term = if i < eager { &mut before[i] } else { &mut after[i - eager - 1] };
                if left < weak.len()
                    && covering(sum + term.most_at(row) + most[left]) <= f64::from(collector.threshold())
                {
                    return;
                }
                if let Some(score) = term.probe(row) {
                    scores[i] = score;
                    sum += f64::from(score);
                }
            }
            let exact = in_order(scores);
            if exact > collector.threshold() {
                collector.offer(row, exact);
            }
        });
    }

    /// A window in which several terms propose. In a wide one, which goes beyond blocks, all do.
    fn several(&mut self, start: u32, end: u32, is_wide: bool, mask: &Mask<'_>, collector: &mut impl Collector) {
        self.sums.resize(SPAN as usize, 0.0);
        let (sums, marks) = (&mut self.sums, &mut self.marks);
        let mut add = |row: u32, score: f32| {
            let at = (row - start) as usize;
            sums[at] += score;
            marks[at / 64] |= 1 << (at % 64);
        };
        let mut eager: Vec<usize> = self.order[self.lazy..].to_vec();
        if is_wide {
            self.terms.iter_mut().for_each(|term| term.drain(start, end, &mut add));
        } else {
            // In the order of the query, as the exact sum.
            eager.sort_unstable();
            eager.iter().for_each(|&i| self.terms[i].for_each_in(start, end, &mut add));
        }
        let Self { terms, order, lazy, most, scores, weak, .. } = self;
        let lazy = &order[..*lazy];
        for (word, mark) in marks.iter_mut().enumerate() {
            let mut bits = std::mem::take(mark);
            'rows: while bits != 0 {
                let at = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let (row, mut score) = (start + at as u32, std::mem::take(&mut sums[at]));
                let threshold = collector.threshold();
                if covering(f64::from(score) + most[lazy.len()]) <= f64::from(threshold) || !mask.is_visible(row) {
                    continue;
                }
                if !lazy.is_empty() {
                    scores.fill(f32::NAN);
                    let mut sum = f64::from(score);
                    for (left, &i) in lazy.iter().enumerate().rev() {
                        if covering(sum + most[left + 1]) <= f64::from(threshold) {
                            continue 'rows;
                        }
                        if left < weak.len()
                            && covering(sum + terms[i].most_at(row) + most[left]) <= f64::from(threshold)
                        {
                            continue 'rows;
                        }
                        if let Some(score) = terms[i].probe(row) {
                            scores[i] = score;
                            sum += f64::from(score);
                        }
                    }
                    if covering(sum) <= f64::from(threshold) {
                        continue;
                    }
                    for &i in &eager {
                        scores[i] = terms[i].probe(row).unwrap_or(f32::NAN);
                    }
                    score = in_order(scores);
                }
                if score > threshold {
                    collector.offer(row, score);
                }
            }
        }
    }
}

/// The sum of the scores that there are, in the order of the query: always the same for the same row.
fn in_order(scores: &[f32]) -> f32 {
    scores.iter().filter(|score| !score.is_nan()).fold(0.0, |sum, score| sum + score)
}
