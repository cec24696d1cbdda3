//! What a run searches for, compared with the oracle: nearest vectors, texts that match, best scores.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, RecordBatch};
use arrow::datatypes::{Float32Type, Float64Type, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::dataframe::DataFrame;
use datafusion::execution::{FunctionRegistry, SessionStateBuilder};
use datafusion::logical_expr::Expr;
use datafusion::prelude::{SessionConfig, SessionContext, col, lit};
use datafusion_lsm::distance::Metric;
use datafusion_lsm::sql::{LsmSessionExt, LsmTableProvider};
use datafusion_lsm::version::Snapshot;
use rand::Rng;
use rand::seq::IndexedRandom;

use super::check::Filter;
use super::columns::{TEXT, VECTOR, around, distance, vector};
use super::run::Run;
use super::texts::{Ask, Corpus};
use crate::support::rows::Rows;

/// The share of the nearest rows that a run must find.
const RECALL: f64 = 0.95;

/// What searches a table.
pub(super) struct Searcher {
    metric: Metric,
    /// A session that searches by indexes, and one that compares all rows.
    auto: SessionContext,
    exact: SessionContext,
    /// How many of the nearest rows were found, of how many.
    found: usize,
    nearest: usize,
}

/// A search that is asked again.
enum Question {
    Nearest(Vec<f32>),
    Best(Ask),
}

/// What a table shows, now or as of a snapshot, and what is wanted of it.
struct View {
    snapshot: Option<Arc<Snapshot>>,
    rows: Rows,
    filter: Option<Filter>,
}

impl View {
    /// The rows that pass the filter, by their numbers.
    fn passing(&self) -> impl Iterator<Item = i64> {
        let passes = |(key, row): &(&u32, &_)| self.filter.as_ref().is_none_or(|filter| (filter.passes)(**key, row));
        self.rows.iter().filter(passes).map(|(_, row)| row.n)
    }

    fn corpus(&self) -> Corpus {
        Corpus::of(self.rows.values().map(|row| row.n))
    }
}

impl Searcher {
    pub(super) async fn new(metric: Metric, partitions: usize) -> Self {
        let session = || {
            let config = SessionConfig::new().with_target_partitions(partitions);
            SessionContext::new_with_config(config).with_lsm()
        };
        let exact = session();
        exact.sql("SET lsm.search.mode = 'exact'").await.unwrap();
        Self { metric, auto: session(), exact, found: 0, nearest: 0 }
    }

    fn call(&self, function: &str, column: &str, query: Expr) -> Expr {
        self.auto.udf(function).unwrap().call(vec![col(column), query])
    }

    fn distance(&self, query: &[f32]) -> Expr {
        let function = match self.metric {
            Metric::L2 => "l2_distance",
            Metric::Cosine => "cosine_distance",
            Metric::InnerProduct => "inner_product",
        };
        let one_row = [Some(query.iter().copied().map(Some))];
        let query = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(one_row, query.len() as i32);
        self.call(function, VECTOR, lit(ScalarValue::FixedSizeList(Arc::new(query))))
    }

    fn matches(&self, ask: &Ask) -> Expr {
        self.call("text_match", TEXT, lit(ask.typed()))
    }

    fn score(&self, ask: &Ask) -> Expr {
        self.call("score", TEXT, lit(ask.typed()))
    }

    /// The smallest first, whatever is near.
    fn rank(&self, distance: Option<f64>, nulls_first: bool) -> f64 {
        match distance {
            None if nulls_first => f64::NEG_INFINITY,
            None => f64::INFINITY,
            Some(distance) if self.metric.nearest_is_smallest() => distance,
            Some(distance) => -distance,
        }
    }

    pub(super) fn check_recall(&self) {
        let Self { found, nearest, .. } = self;
        assert!(*found as f64 >= RECALL * *nearest as f64, "{found} of {nearest} nearest rows were found");
    }
}

impl Run {
    fn searcher(&self) -> &Searcher {
        self.searcher.as_ref().expect("only tables that are searched draw searches")
    }

    /// What a table shows now, or, if it may be `held`, as of a snapshot that is.
    fn view(&mut self, held: bool) -> View {
        let held = if held && self.random.random_bool(0.2) { self.held.choose(&mut self.random) } else { None };
        let (snapshot, rows) = match held {
            Some(held) => (Some(Arc::clone(&held.snapshot)), held.rows.clone()),
            None => (None, self.rows.clone()),
        };
        let filter = match self.random.random_range(0..10) {
            0..5 => None,
            5..9 => Some(self.filter()),
            _ => Some(self.filter_of_keys()),
        };
        View { snapshot, rows, filter }
    }

    /// The rows of a view that pass its filter.
    fn frame_of(&self, session: &SessionContext, view: &View) -> DataFrame {
        let table = LsmTableProvider::new(Arc::clone(self.table()));
        let frame = match &view.snapshot {
            Some(snapshot) => unpinning(session).read_table(Arc::new(table.pinned(Arc::clone(snapshot)))),
            None => session.read_table(Arc::new(table)),
        };
        let frame = frame.unwrap();
        match &view.filter {
            Some(filter) => frame.filter(filter.expr.clone()).unwrap(),
            None => frame,
        }
    }

    /// The number and the value of each row, in the order of the answer.
    fn valued(&self, frame: DataFrame) -> Vec<(i64, Option<f64>)> {
        let value = |array: &ArrayRef, row: usize| -> Option<f64> {
            let array = arrow::compute::cast(array, &arrow::datatypes::DataType::Float64).unwrap();
            array.is_valid(row).then(|| array.as_primitive::<Float64Type>().value(row))
        };
        let listed = |batch: &RecordBatch| -> Vec<(i64, Option<f64>)> {
            let numbers = batch.column(0).as_primitive::<Int64Type>().values();
            (0..batch.num_rows()).map(|row| (numbers[row], value(batch.column(1), row))).collect()
        };
        self.block_on(frame.collect()).unwrap().iter().flat_map(listed).collect()
    }

    /// The nearest rows, by indexes or by comparing all.
    pub(super) fn check_nearest(&mut self) {
        let (view, query) = (self.view(true), around(&mut self.random));
        let (skip, k) = ([0, 0, 3][self.random.random_range(0..3)], self.random.random_range(1..30));
        let (exact, nulls_first) = (self.random.random_bool(0.3), self.random.random_bool(0.1));
        let searcher = self.searcher();
        let session = if exact { &searcher.exact } else { &searcher.auto };
        let by = col("d").sort(searcher.metric.nearest_is_smallest(), nulls_first);
        let frame = self.frame_of(session, &view);
        let frame = frame.select(vec![col("n"), searcher.distance(&query).alias("d")]).unwrap();
        let found = self.valued(frame.sort(vec![by]).unwrap().limit(skip, Some(k)).unwrap());

        let distance_of = |n: i64| vector(n).and_then(|v| distance(searcher.metric, &v, &query));
        let truth: BTreeMap<i64, Option<f64>> = view.passing().map(|n| (n, distance_of(n))).collect();
        let rank = |distance: &Option<f64>| searcher.rank(*distance, nulls_first);
        let mut ranks: Vec<f64> = truth.values().map(rank).collect();
        ranks.sort_unstable_by(f64::total_cmp);
        let context = format!("k {k}, skip {skip}, exact {exact}, filter {:?}", view.filter.as_ref().map(|f| &f.expr));
        let ranks: Vec<f64> = ranks.into_iter().skip(skip).take(k).collect();
        assert_eq!(found.len(), ranks.len(), "{context}");
        for (n, distance) in &found {
            let expected = truth.get(n).unwrap_or_else(|| panic!("row {n} is not there or does not pass: {context}"));
            assert!(same(*distance, *expected, 1e-4), "row {n}: {distance:?} is not {expected:?}; {context}");
        }
        let found: Vec<f64> = found.iter().map(|(_, distance)| rank(distance)).collect();
        assert!(found.is_sorted(), "{found:?}; {context}");
        let near = |rank: &f64, limit: &f64| rank <= limit || close(*rank, *limit, 1e-4);
        if exact {
            let wrong = found.iter().zip(&ranks).find(|(rank, expected)| !near(rank, expected));
            assert!(wrong.is_none(), "{wrong:?}; {context}");
        }
        let last = ranks.last().copied().unwrap_or(f64::INFINITY);
        let (hits, wanted) = (found.iter().filter(|rank| near(rank, &last)).count(), ranks.len());
        let searcher = self.searcher.as_mut().expect("it was there");
        (searcher.found, searcher.nearest) = (searcher.found + hits, searcher.nearest + wanted);
    }

    /// The rows that match a query.
    pub(super) fn check_matches(&mut self) {
        let (view, ask) = (self.view(true), Ask::random(&mut self.random));
        let searcher = self.searcher();
        let frame = self.frame_of(&searcher.auto, &view).filter(searcher.matches(&ask)).unwrap();
        let found = self.valued(frame.select(vec![col("n"), lit(1.0)]).unwrap());
        let mut found: Vec<i64> = found.into_iter().map(|(n, _)| n).collect();
        found.sort_unstable();
        let corpus = view.corpus();
        let mut expected: Vec<i64> = view.passing().filter(|n| corpus.matches(&ask, *n)).collect();
        expected.sort_unstable();
        assert_eq!(found, expected, "{}, filter {:?}", ask.typed(), view.filter.as_ref().map(|f| &f.expr));
    }

    /// The scores of a query: those of all rows, of those that match, or the best.
    pub(super) fn check_scores(&mut self) {
        let (view, ask) = (self.view(false), Ask::random(&mut self.random));
        let matching = self.random.random_bool(0.8);
        let limit = self.random.random_bool(0.7).then(|| self.random.random_range(1..30));
        let skip = if limit.is_some() { [0, 0, 3][self.random.random_range(0..3)] } else { 0 };
        let searcher = self.searcher();
        let mut frame = self.frame_of(&searcher.auto, &view);
        if matching {
            frame = frame.filter(searcher.matches(&ask)).unwrap();
        }
        let frame = frame.select(vec![col("n"), searcher.score(&ask).alias("s")]).unwrap();
        let frame = frame.sort(vec![col("s").sort(false, false)]).unwrap().limit(skip, limit).unwrap();
        let found = self.valued(frame);

        let corpus = view.corpus();
        let wanted = view.passing().filter(|n| !matching || corpus.matches(&ask, *n));
        let truth: BTreeMap<i64, f64> = wanted.map(|n| (n, corpus.score(&ask, n))).collect();
        let mut best: Vec<f64> = truth.values().copied().collect();
        best.sort_unstable_by(|a, b| b.total_cmp(a));
        let best: Vec<f64> = best.into_iter().skip(skip).take(limit.unwrap_or(usize::MAX)).collect();
        let context = format!(
            "{}, matching {matching}, limit {limit:?}, skip {skip}, filter {:?}",
            ask.typed(),
            view.filter.as_ref().map(|f| &f.expr)
        );
        assert_eq!(found.len(), best.len(), "{context}");
        for ((n, score), best) in found.iter().zip(&best) {
            let expected = truth.get(n).unwrap_or_else(|| panic!("row {n} is none of those: {context}"));
            assert!(same(*score, Some(*expected), 1e-4), "row {n}: {score:?} is not {expected}; {context}");
            assert!(close(*expected, *best, 1e-4), "row {n} scores {expected} where {best} comes; {context}");
        }
    }

    /// Does what moves rows, which changes no answer.
    pub(super) fn moving(&mut self, change: impl FnOnce(&mut Self)) {
        if self.searcher.is_none() {
            return change(self);
        }
        let questions = [Question::Nearest(around(&mut self.random)), Question::Best(Ask::random(&mut self.random))];
        let (rows, before) = (self.rows.clone(), questions.each_ref().map(|question| self.answer(question)));
        change(self);
        if self.rows != rows {
            // A crash took the end of what was acknowledged from memory.
            return;
        }
        for (question, before) in questions.iter().zip(before) {
            let after = self.answer(question);
            let is_other = |n: &&i64| match (before.get(n), after.get(n)) {
                (Some(before), Some(after)) => !same(*after, *before, 1e-6),
                _ => true,
            };
            let other: Vec<&i64> = before.keys().chain(after.keys()).filter(is_other).take(5).collect();
            let what = match question {
                Question::Nearest(_) => "the nearest rows".to_string(),
                Question::Best(ask) => ask.typed(),
            };
            let told = |n: &&i64| (**n, before.get(n).copied(), after.get(n).copied());
            assert!(other.is_empty(), "{what} changed: {:?}", other.iter().map(told).collect::<Vec<_>>());
        }
    }

    /// All rows that answer a question, and their distances or scores.
    fn answer(&self, question: &Question) -> BTreeMap<i64, Option<f64>> {
        let searcher = self.searcher();
        let view = View { snapshot: None, rows: Rows::new(), filter: None };
        let frame = match question {
            Question::Nearest(query) => {
                let value = searcher.distance(query).alias("value");
                let frame = self.frame_of(&searcher.auto, &view).select(vec![col("n"), value]).unwrap();
                let by = col("value").sort(searcher.metric.nearest_is_smallest(), false);
                // More than there are: all, in a search.
                frame.sort(vec![by]).unwrap().limit(0, Some(10_000)).unwrap()
            }
            Question::Best(ask) => {
                let frame = self.frame_of(&searcher.auto, &view).filter(searcher.matches(ask)).unwrap();
                frame.select(vec![col("n"), searcher.score(ask).alias("value")]).unwrap()
            }
        };
        self.valued(frame).into_iter().collect()
    }
}

/// The session without the rule that gives every statement the snapshot of its moment.
fn unpinning(session: &SessionContext) -> SessionContext {
    let state = session.state();
    let rules = state.analyzer().rules.iter().filter(|rule| rule.name() != "lsm_statement").cloned().collect();
    SessionContext::new_with_state(SessionStateBuilder::new_from_existing(state).with_analyzer_rules(rules).build())
}

fn same(a: Option<f64>, b: Option<f64>, tolerance: f64) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => close(a, b, tolerance),
        _ => a == b,
    }
}

/// Equal up to what sums in `f32` lose.
fn close(a: f64, b: f64, tolerance: f64) -> bool {
    a == b || (a - b).abs() <= tolerance * (1.0 + a.abs().max(b.abs()))
}
