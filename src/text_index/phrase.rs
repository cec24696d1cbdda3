//! A cursor over the rows that hold a phrase.

use super::block::END;
use super::cursor::{Bound, FieldView, TermCursor, covering};
use super::query::Slot;

/// The rows that hold a term of each slot, and whether these stand where they should.
#[derive(Debug)]
pub(crate) struct PhraseCursor<'a> {
    /// In the order of their offsets.
    places: Vec<Place<'a>>,
    /// The places, the rarest first.
    by_cost: Vec<usize>,
    slop: u32,
    row: u32,
    /// The best that the places but the rarest can add in the current window, where that ends, and which scores are
    /// not good enough in it.
    others_most: f64,
    up_to: u32,
    threshold: f32,
    positions: Vec<u32>,
    /// Where the phrase may begin, or with slop where its last slot so far puts its beginning.
    starts: Vec<i64>,
    next_starts: Vec<i64>,
}

#[derive(Debug)]
struct Place<'a> {
    offset: u32,
    terms: Vec<TermCursor<'a>>,
}

impl Place<'_> {
    fn row(&self) -> u32 {
        self.terms.iter().map(TermCursor::row).min().unwrap_or(END)
    }

    fn seek(&mut self, target: u32) -> u32 {
        self.terms.iter_mut().map(|term| term.seek(target)).min().unwrap_or(END)
    }

    fn bound(&mut self, target: u32) -> Bound {
        any_of(self.terms.iter_mut().map(|term| term.bound(target)))
    }

    fn score(&mut self, row: u32) -> f32 {
        self.terms.iter_mut().filter(|term| term.row() == row).fold(0.0, |sum, term| sum + term.score())
    }

    fn cost(&self) -> u64 {
        self.terms.iter().map(TermCursor::cost).sum()
    }
}

/// The bound of a sum over those that match.
pub(crate) fn any_of(bounds: impl Iterator<Item = Bound>) -> Bound {
    let mut all = Bound::nothing(END);
    for bound in bounds {
        all.up_to = all.up_to.min(bound.up_to);
        if !bound.is_nothing() {
            all.most = if all.is_nothing() { bound.most.max(0.0) } else { all.most + bound.most.max(0.0) };
        }
    }
    all
}

/// The bound of a sum over all, each of which must match.
pub(crate) fn all_of(bounds: impl Iterator<Item = Bound>) -> Bound {
    let (mut all, mut nothing) = (Bound { up_to: END, most: 0.0 }, None);
    for bound in bounds {
        if bound.is_nothing() {
            nothing = nothing.max(Some(bound.up_to));
        }
        all.up_to = all.up_to.min(bound.up_to);
        all.most += bound.most;
    }
    // Where one has nothing, the others need not be asked.
    nothing.map_or(all, Bound::nothing)
}

impl<'a> PhraseCursor<'a> {
    /// In front of the first row; `None` if there is no slot.
    pub(crate) fn new(fields: &'a [FieldView<'a>], slots: &[Slot], slop: u32, factor: f32) -> Option<Self> {
        let mut places: Vec<Place<'a>> = slots
            .iter()
            .map(|slot| Place {
                offset: slot.offset,
                terms: slot
                    .terms
                    .iter()
                    .map(|term| TermCursor::new(&fields[term.field], &term.text, term.weight * factor, true))
                    .collect(),
            })
            .collect();
        places.sort_by_key(|place| place.offset);
        let mut by_cost: Vec<usize> = (0..places.len()).collect();
        by_cost.sort_by_key(|&i| places[i].cost());
        let row = places.iter().map(Place::row).max()?;
        let mut cursor = Self {
            places,
            by_cost,
            slop,
            row,
            others_most: f64::INFINITY,
            up_to: 0,
            threshold: f32::NEG_INFINITY,
            positions: Vec::new(),
            starts: Vec::new(),
            next_starts: Vec::new(),
        };
        cursor.row = cursor.align(0);
        Some(cursor)
    }

    pub(crate) fn row(&self) -> u32 {
        self.row
    }

    pub(crate) fn cost(&self) -> u64 {
        self.by_cost.first().map_or(0, |&rarest| self.places[rarest].cost())
    }

    /// No row scores more.
    pub(crate) fn ceiling(&self) -> f64 {
        self.places.iter().flat_map(|place| &place.terms).map(TermCursor::ceiling).sum()
    }

    pub(crate) fn bound(&mut self, target: u32) -> Bound {
        let (rarest, mut others_most) = (self.by_cost.first().copied(), 0.0);
        let bound = all_of(self.places.iter_mut().enumerate().map(|(i, place)| {
            let bound = place.bound(target);
            if Some(i) != rarest {
                others_most += bound.most.max(0.0);
            }
            bound
        }));
        (self.others_most, self.up_to) = (others_most, bound.up_to);
        bound
    }

    /// Rows that cannot score above `threshold` may be left out in the window of the last bound.
    pub(crate) fn set_threshold(&mut self, threshold: f32) {
        self.threshold = threshold;
    }

    /// Goes on to the first row not below `target` that holds a term of each slot.
    pub(crate) fn seek(&mut self, target: u32) -> u32 {
        if self.row < target {
            self.row = self.align(target);
        }
        self.row
    }

    fn align(&mut self, mut target: u32) -> u32 {
        let Some((&rarest, others)) = self.by_cost.split_first() else { return END };
        'again: loop {
            target = self.places[rarest].seek(target);
            if target == END {
                return END;
            }
            // Where the rarest is not good enough with the best of the others, these are not asked.
            if target <= self.up_to && self.threshold > f32::NEG_INFINITY {
                let score = f64::from(self.places[rarest].score(target));
                if covering(score + self.others_most) <= f64::from(self.threshold) {
                    target += 1;
                    continue;
                }
            }
            for &i in others {
                let row = self.places[i].seek(target);
                if row > target {
                    target = row;
                    continue 'again;
                }
            }
            return target;
        }
    }

    /// What the row at hand scores, if the terms stand where they should. May be `None` as well if that is not more
    /// than `need`.
    pub(crate) fn eval(&mut self, need: f32) -> Option<f32> {
        if need > f32::NEG_INFINITY {
            // Scores cost less than positions.
            let score = self.score();
            return (score > need && self.stands()).then_some(score);
        }
        if self.stands() { Some(self.score()) } else { None }
    }

    fn score(&mut self) -> f32 {
        let row = self.row;
        self.places.iter_mut().fold(0.0, |sum, place| sum + place.score(row))
    }

    /// Whether the terms stand where they should. Starting with the positions of the first slot, each slot keeps those
    /// of its positions that continue a kept one of the slot before.
    fn stands(&mut self) -> bool {
        for (i, place) in self.places.iter_mut().enumerate() {
            self.positions.clear();
            let mut lists = 0;
            for term in place.terms.iter_mut().filter(|term| term.row() == self.row) {
                term.positions(&mut self.positions);
                lists += 1;
            }
            if lists > 1 {
                self.positions.sort_unstable();
            }
            let starts = self.positions.iter().map(|position| i64::from(*position) - i64::from(place.offset));
            self.next_starts.clear();
            if i == 0 {
                self.next_starts.extend(starts);
            } else {
                let mut before = 0;
                for start in starts {
                    while self.starts.get(before).is_some_and(|b| *b < start - i64::from(self.slop)) {
                        before += 1;
                    }
                    match self.starts.get(before) {
                        Some(b) if *b <= start => self.next_starts.push(start),
                        Some(_) => {}
                        None => break,
                    }
                }
            }
            std::mem::swap(&mut self.starts, &mut self.next_starts);
            if self.starts.is_empty() {
                return false;
            }
        }
        !self.starts.is_empty()
    }
}
