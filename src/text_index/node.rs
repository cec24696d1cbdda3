//! A query tree as cursors: where the next candidate is, how well rows can score, and what a candidate does score.

use super::block::END;
use super::cursor::{Bound, FieldView, SLACK, TermCursor, covering};
use super::phrase::{PhraseCursor, all_of, any_of};
use super::query::Query;

/// A part of a query.
#[derive(Debug)]
pub(crate) enum Node<'a> {
    Nothing,
    Term(Box<TermCursor<'a>>),
    Phrase(Box<PhraseCursor<'a>>),
    Any(Any<'a>),
    Bool(Box<Bool<'a>>),
    Boost(Box<Boost<'a>>),
}

/// Rows of any child: their sum or their best.
#[derive(Debug)]
pub(crate) struct Any<'a> {
    children: Vec<Node<'a>>,
    best: bool,
    row: u32,
    /// The bounds of the children in the current window.
    bounds: Vec<Bound>,
    /// Children that cannot make a row good enough by themselves: they are asked, but propose no rows (MaxScore:
    /// Turtle and Flood, "Query evaluation: strategies and optimizations", 1995).
    is_lazy: Vec<bool>,
    lazy_most: f64,
    scores: Vec<Option<f32>>,
}

/// Rows of all of `must`, without those of `must_not`.
#[derive(Debug)]
pub(crate) struct Bool<'a> {
    must: Vec<Node<'a>>,
    /// The children of `must`, the rarest first.
    by_cost: Vec<usize>,
    /// The children of `must`, those first whose score costs least.
    by_effort: Vec<usize>,
    should: Vec<Node<'a>>,
    must_not: Vec<Node<'a>>,
    row: u32,
    /// The bounds of the children of `must` in the current window, and that of all of `should`.
    bounds: Vec<f64>,
    should_most: f64,
    /// Where the window ends, and which scores are not good enough in it.
    up_to: u32,
    threshold: f32,
    scores: Vec<f32>,
}

/// Rows of `positive`, less `factor` times what `negative` scores.
#[derive(Debug)]
pub(crate) struct Boost<'a> {
    positive: Node<'a>,
    negative: Node<'a>,
    factor: f32,
    /// What `negative` may add at most by scoring below zero.
    gift: f64,
}

impl<'a> Node<'a> {
    /// The cursors of a checked query whose scores are multiplied by `factor`.
    pub(crate) fn new(query: &Query, fields: &'a [FieldView<'a>], factor: f32) -> Self {
        let each = |children: &[Query]| -> Vec<Self> {
            children.iter().map(|child| Self::new(child, fields, factor)).filter(|node| node.row() != END).collect()
        };
        match query {
            Query::Term(term) => {
                Self::Term(Box::new(TermCursor::new(&fields[term.field], &term.text, term.weight * factor, false)))
            }
            Query::Phrase { slots, slop } => match PhraseCursor::new(fields, slots, *slop, factor) {
                Some(phrase) => Self::Phrase(Box::new(phrase)),
                None => Self::Nothing,
            },
            Query::Any(children) => Self::any(each(children), false),
            Query::Best(children) => Self::any(each(children), true),
            Query::Bool { must, should, must_not } => {
                let (count, mut must, mut should) = (must.len(), each(must), each(should));
                if must.len() < count {
                    return Self::Nothing;
                }
                if count == 0 {
                    must.push(Self::any(std::mem::take(&mut should), false));
                }
                Bool::node(must, should, each(must_not))
            }
            Query::Boost { positive, negative, factor: less } => {
                let (positive, negative) = (Self::new(positive, fields, factor), Self::new(negative, fields, factor));
                let gift = f64::from(*less) * (-negative.floor()).max(0.0);
                Self::Boost(Box::new(Boost { positive, negative, factor: *less, gift }))
            }
            Query::Scaled { query, factor: more } => Self::new(query, fields, factor * more),
        }
    }

    fn any(mut children: Vec<Self>, best: bool) -> Self {
        if children.len() == 1
            && let Some(child) = children.pop()
        {
            return child;
        }
        let row = children.iter().map(Self::row).min().unwrap_or(END);
        Self::Any(Any {
            bounds: vec![Bound { up_to: 0, most: f64::INFINITY }; children.len()],
            is_lazy: vec![false; children.len()],
            lazy_most: 0.0,
            scores: vec![None; children.len()],
            children,
            best,
            row,
        })
    }

    /// The candidate at hand; [`END`] if there is none left. A lazy child may be behind its parent.
    pub(crate) fn row(&self) -> u32 {
        match self {
            Self::Nothing => END,
            Self::Term(term) => term.row(),
            Self::Phrase(phrase) => phrase.row(),
            Self::Any(any) => any.row,
            Self::Bool(all) => all.row,
            Self::Boost(boost) => boost.positive.row(),
        }
    }

    /// About how many candidates there are.
    pub(crate) fn cost(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Term(term) => term.cost(),
            Self::Phrase(phrase) => phrase.cost(),
            Self::Any(any) => any.children.iter().map(Self::cost).sum(),
            Self::Bool(all) => all.by_cost.first().map_or(0, |&rarest| all.must[rarest].cost()),
            Self::Boost(boost) => boost.positive.cost(),
        }
    }

    /// No row scores less, and this is not above zero.
    fn floor(&self) -> f64 {
        match self {
            Self::Nothing | Self::Term(_) | Self::Phrase(_) => 0.0,
            Self::Any(any) if any.best => any.children.iter().map(Self::floor).fold(0.0, f64::min),
            Self::Any(any) => any.children.iter().map(Self::floor).sum(),
            Self::Bool(all) => all.must.iter().chain(&all.should).map(Self::floor).sum(),
            Self::Boost(boost) => boost.positive.floor() - covering(f64::from(boost.factor) * boost.negative.ceiling()),
        }
    }

    /// No row scores more, and this is not below zero.
    fn ceiling(&self) -> f64 {
        match self {
            Self::Nothing => 0.0,
            Self::Term(term) => term.ceiling(),
            Self::Phrase(phrase) => phrase.ceiling(),
            Self::Any(any) => any.children.iter().map(Self::ceiling).sum(),
            Self::Bool(all) => all.must.iter().chain(&all.should).map(Self::ceiling).sum(),
            Self::Boost(boost) => boost.positive.ceiling() + boost.gift,
        }
    }

    /// The bound of the rows from `target` on. Targets never decrease.
    pub(crate) fn bound(&mut self, target: u32) -> Bound {
        match self {
            Self::Nothing => Bound::nothing(END),
            Self::Term(term) => term.bound(target),
            Self::Phrase(phrase) => phrase.bound(target),
            Self::Any(any) => any.bound(target),
            Self::Bool(all) => all.bound(target),
            Self::Boost(boost) => {
                let bound = boost.positive.bound(target);
                Bound { most: bound.most + boost.gift, ..bound }
            }
        }
    }

    /// Tells which scores are good enough in the window of the last bound: those above `threshold`. Candidates that
    /// cannot have one may be left out there.
    pub(crate) fn set_threshold(&mut self, threshold: f32) {
        match self {
            Self::Nothing | Self::Term(_) => {}
            Self::Phrase(phrase) => phrase.set_threshold(threshold),
            Self::Any(any) if any.best => {}
            Self::Any(any) => any.set_threshold(threshold),
            Self::Bool(all) => all.threshold = threshold,
            Self::Boost(boost) => boost.positive.set_threshold(rest_of_need(threshold, boost.gift)),
        }
    }

    /// Goes on to the first candidate that is not below `target`.
    pub(crate) fn seek(&mut self, target: u32) -> u32 {
        match self {
            Self::Nothing => END,
            Self::Term(term) => term.seek(target),
            Self::Phrase(phrase) => phrase.seek(target),
            Self::Any(any) => any.seek(target),
            Self::Bool(all) => {
                if all.row < target {
                    all.row = all.align(target);
                }
                all.row
            }
            Self::Boost(boost) => boost.positive.seek(target),
        }
    }

    /// What the candidate at hand scores, if it matches. May be `None` as well if that is not more than `need`.
    pub(crate) fn eval(&mut self, need: f32) -> Option<f32> {
        match self {
            Self::Nothing => None,
            Self::Term(term) => Some(term.score()),
            Self::Phrase(phrase) => phrase.eval(need),
            Self::Any(any) => any.eval(need),
            Self::Bool(all) => all.eval(need),
            Self::Boost(boost) => boost.eval(need),
        }
    }

    /// Goes to `row` and tells what it scores, if it matches.
    fn eval_at(&mut self, row: u32) -> Option<f32> {
        if self.seek(row) == row { self.eval(f32::NEG_INFINITY) } else { None }
    }
}

/// What is left to be needed when others score `others` at most; low enough for any rounding.
fn rest_of_need(need: f32, others: f64) -> f32 {
    let rest = f64::from(need) - covering(others);
    (rest - (f64::from(need).abs() + others.abs()) * SLACK) as f32
}

impl Any<'_> {
    fn bound(&mut self, target: u32) -> Bound {
        for (bound, child) in self.bounds.iter_mut().zip(&mut self.children) {
            *bound = child.bound(target);
        }
        let mut all = any_of(self.bounds.iter().copied());
        if self.best && !all.is_nothing() {
            all.most = self.bounds.iter().map(|bound| bound.most).fold(f64::NEG_INFINITY, f64::max);
        }
        all
    }

    fn set_threshold(&mut self, threshold: f32) {
        let mut order: Vec<usize> = (0..self.children.len()).collect();
        order.sort_by(|&a, &b| self.bounds[a].most.total_cmp(&self.bounds[b].most));
        self.lazy_most = 0.0;
        let mut lazy = true;
        for i in order {
            let most = self.lazy_most + self.bounds[i].most.max(0.0);
            lazy &= covering(most) <= f64::from(threshold);
            if lazy {
                self.lazy_most = most;
            }
            self.is_lazy[i] = lazy;
        }
        self.row = self.min_row();
    }

    fn min_row(&self) -> u32 {
        let eager = self.children.iter().zip(&self.is_lazy).filter(|(_, lazy)| !**lazy);
        eager.map(|(child, _)| child.row()).min().unwrap_or(END)
    }

    fn seek(&mut self, target: u32) -> u32 {
        let mut min = END;
        for (child, lazy) in self.children.iter_mut().zip(&self.is_lazy) {
            if !lazy {
                min = min.min(child.seek(target));
            }
        }
        self.row = min;
        min
    }

    fn eval(&mut self, need: f32) -> Option<f32> {
        let row = self.row;
        let mut sum = 0.0;
        for (i, child) in self.children.iter_mut().enumerate() {
            self.scores[i] = if !self.is_lazy[i] && child.row() == row { child.eval(f32::NEG_INFINITY) } else { None };
            sum += self.scores[i].map_or(0.0, f64::from);
        }
        if self.lazy_most > 0.0 || self.is_lazy.contains(&true) {
            if covering(sum + self.lazy_most) <= f64::from(need) {
                return None;
            }
            for (i, child) in self.children.iter_mut().enumerate() {
                if self.is_lazy[i] {
                    self.scores[i] = child.eval_at(row);
                }
            }
        }
        let scores = self.scores.iter().copied().flatten();
        if self.best { scores.reduce(f32::max) } else { scores.reduce(|sum, score| sum + score) }
    }
}

impl<'a> Bool<'a> {
    fn node(mut must: Vec<Node<'a>>, should: Vec<Node<'a>>, must_not: Vec<Node<'a>>) -> Node<'a> {
        if must.len() == 1
            && should.is_empty()
            && must_not.is_empty()
            && let Some(child) = must.pop()
        {
            return child;
        }
        let mut by_cost: Vec<usize> = (0..must.len()).collect();
        by_cost.sort_by_key(|&i| must[i].cost());
        let mut by_effort = by_cost.clone();
        by_effort.sort_by_key(|&i| !matches!(must[i], Node::Term(_)));
        let count = must.len();
        let mut all = Self {
            must,
            by_cost,
            by_effort,
            should,
            must_not,
            row: 0,
            bounds: vec![f64::INFINITY; count],
            should_most: f64::INFINITY,
            up_to: 0,
            threshold: f32::NEG_INFINITY,
            scores: vec![0.0; count],
        };
        all.row = all.align(0);
        Node::Bool(Box::new(all))
    }

    fn align(&mut self, mut target: u32) -> u32 {
        let Some((&rarest, others)) = self.by_cost.split_first() else { return END };
        let others_most = self.should_most + others.iter().map(|&i| self.bounds[i]).sum::<f64>();
        'again: loop {
            target = self.must[rarest].seek(target);
            if target == END {
                return END;
            }
            // Where the rarest is not good enough with the best of the others, these are not asked.
            if target <= self.up_to
                && self.threshold > f32::NEG_INFINITY
                && let Node::Term(term) = &mut self.must[rarest]
                && covering(f64::from(term.score()) + others_most) <= f64::from(self.threshold)
            {
                target += 1;
                continue;
            }
            for &i in others {
                let row = self.must[i].seek(target);
                if row > target {
                    target = row;
                    continue 'again;
                }
            }
            return target;
        }
    }

    fn bound(&mut self, target: u32) -> Bound {
        let bounds = &mut self.bounds;
        let must = all_of(self.must.iter_mut().zip(bounds).map(|(child, most)| {
            let bound = child.bound(target);
            *most = bound.most;
            bound
        }));
        let should = any_of(self.should.iter_mut().map(|child| child.bound(target)));
        self.should_most = should.most.max(0.0);
        if must.is_nothing() {
            return must;
        }
        self.up_to = must.up_to.min(should.up_to);
        Bound { up_to: self.up_to, most: must.most + self.should_most }
    }

    fn eval(&mut self, need: f32) -> Option<f32> {
        let row = self.row;
        // What all that is not known yet can score at most.
        let mut unknown = self.bounds.iter().sum::<f64>() + self.should_most;
        let mut known = 0.0;
        for &i in &self.by_effort {
            let others = known + unknown - self.bounds[i];
            // Without a window there are no bounds, and infinity less infinity is no number.
            let child_need = if others.is_finite() { rest_of_need(need, others) } else { f32::NEG_INFINITY };
            let score = self.must[i].eval(child_need)?;
            (self.scores[i], known, unknown) = (score, known + f64::from(score), unknown - self.bounds[i]);
        }
        if covering(known.abs() + self.should_most) - known.abs() + known <= f64::from(need) {
            return None;
        }
        if self.must_not.iter_mut().any(|child| child.eval_at(row).is_some()) {
            return None;
        }
        let mut scores = self.scores.iter().copied();
        let first = scores.next().unwrap_or(0.0);
        let mut sum = scores.fold(first, |sum, score| sum + score);
        // Those of `should` are a sum of their own.
        let optional = self.should.iter_mut().filter_map(|child| child.eval_at(row)).reduce(|sum, score| sum + score);
        if let Some(optional) = optional {
            sum += optional;
        }
        Some(sum)
    }
}

impl Boost<'_> {
    fn eval(&mut self, need: f32) -> Option<f32> {
        let row = self.positive.row();
        let positive = self.positive.eval(rest_of_need(need, self.gift))?;
        Some(match self.negative.eval_at(row) {
            Some(negative) => positive - self.factor * negative,
            None => positive,
        })
    }
}
