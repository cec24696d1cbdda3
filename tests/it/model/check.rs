//! What a run reads, compared with the oracle.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use datafusion::dataframe::DataFrame;
use datafusion::functions_aggregate::expr_fn::{count, max, min, sum};
use datafusion::logical_expr::Expr;
use datafusion::prelude::{col, lit};
use rand::Rng;
use rand::seq::SliceRandom;

use super::columns;
use super::run::Run;
use crate::support::provider::frame;
use crate::support::rows::{self, Row, Rows};

/// Whether the oracle keeps a row.
pub(super) type Passes = Box<dyn Fn(u32, &Row) -> bool>;

/// A filter for the table, and the same for the oracle.
pub(super) struct Filter {
    pub(super) expr: Expr,
    pub(super) passes: Passes,
}

impl Run {
    /// All rows that the table shows.
    pub(super) fn read(&self) -> Rows {
        let batches = self.block_on(self.place.try_scan(self.table(), &self.table().snapshot())).unwrap();
        if self.searcher.is_some() {
            batches.iter().for_each(columns::check);
        }
        rows::collected(self.config.key_type, &batches)
    }

    pub(super) fn check_scan(&self) {
        assert_same(&self.read(), &self.rows);
    }

    /// Everything that can be read.
    pub(super) fn check_all(&mut self) {
        self.check_scan();
        self.check_count();
        self.check_snapshot();
        let keys: Vec<u32> = (0..self.config.keys).collect();
        self.check_keys(&keys);
    }

    pub(super) fn check_get(&mut self) {
        let key = self.key();
        let values = self.config.key_type.values(key);
        let found = self.block_on(self.table().get(&values)).unwrap();
        let found = found.map(|batch| rows::listed(self.config.key_type, &batch));
        let expected = self.rows.get(&key).map(|row| vec![(key, row.clone())]);
        assert_eq!(found, expected, "key {key}");
    }

    pub(super) fn check_get_many(&mut self) {
        let n = self.random.random_range(1..60);
        let mut keys: Vec<u32> = (0..self.config.keys).collect();
        keys.shuffle(&mut self.random);
        keys.truncate(n);
        self.check_keys(&keys);
    }

    fn check_keys(&self, keys: &[u32]) {
        let key_type = self.config.key_type;
        let found = self.block_on(self.table().get_many(&key_type.batch(keys))).unwrap();
        let expected: Vec<(u32, Row)> =
            keys.iter().filter_map(|key| self.rows.get(key).map(|row| (*key, row.clone()))).collect();
        assert_eq!(rows::listed(key_type, &found), expected);
    }

    fn frame(&self) -> DataFrame {
        frame(self.table(), &self.table().snapshot(), self.config.partitions)
    }

    pub(super) fn filter(&mut self) -> Filter {
        let number = self.random.random_range(0..=self.rows.values().map(|row| row.n).max().unwrap_or(1));
        let text = format!("text {}", self.random.random_range(4..22));
        match self.random.random_range(0..8) {
            0 => Filter { expr: col("n").gt_eq(lit(number)), passes: Box::new(move |_, row| row.n >= number) },
            1 => Filter { expr: col("n").lt(lit(number)), passes: Box::new(move |_, row| row.n < number) },
            2 => Filter { expr: col("s").is_null(), passes: Box::new(|_, row| row.s.is_none()) },
            3 => Filter { expr: col("s").is_not_null(), passes: Box::new(|_, row| row.s.is_some()) },
            4 => Filter {
                expr: col("s").eq(lit(text.clone())),
                passes: Box::new(move |_, row| row.s.as_ref() == Some(&text)),
            },
            5 => Filter {
                // NULL is neither equal nor different.
                expr: col("s").not_eq(lit(text.clone())),
                passes: Box::new(move |_, row| row.s.as_ref().is_some_and(|s| *s != text)),
            },
            6 => Filter {
                expr: col("n").between(lit(number / 2), lit(number)).and(col("s").gt(lit("text 2"))),
                passes: Box::new(move |_, row| {
                    (number / 2..=number).contains(&row.n) && row.s.as_deref().is_some_and(|s| s > "text 2")
                }),
            },
            _ => Filter {
                // Nothing that goes down to a source.
                expr: (col("n") % lit(7i64)).eq(lit(3i64)).or(col("s").like(lit("%5"))),
                passes: Box::new(|_, row| row.n % 7 == 3 || row.s.as_ref().is_some_and(|s| s.ends_with('5'))),
            },
        }
    }

    /// Keys that are pinned, alone or with another filter.
    pub(super) fn filter_of_keys(&mut self) -> Filter {
        let keys: Vec<u32> = (0..self.random.random_range(1..5)).map(|_| self.key()).collect();
        let key_type = self.config.key_type;
        let single = key_type.names().len() == 1;
        let pinned = if single && self.random.random_bool(0.5) {
            let values = keys.iter().map(|key| lit(key_type.values(*key).remove(0))).collect();
            col(key_type.names()[0].as_str()).in_list(values, false)
        } else {
            keys.iter().map(|key| key_type.equals(*key)).reduce(Expr::or).unwrap()
        };
        let is_one = move |key: u32| keys.contains(&key);
        if self.random.random_bool(0.6) {
            return Filter { expr: pinned, passes: Box::new(move |key, _| is_one(key)) };
        }
        let other = self.filter();
        Filter {
            expr: pinned.and(other.expr),
            passes: Box::new(move |key, row| is_one(key) && (other.passes)(key, row)),
        }
    }

    pub(super) fn check_filter(&mut self) {
        let filter = self.filter();
        self.check_filtered(&filter);
    }

    pub(super) fn check_filter_of_keys(&mut self) {
        let filter = self.filter_of_keys();
        self.check_filtered(&filter);
    }

    fn passing(&self, filter: &Filter) -> Rows {
        let passing = self.rows.iter().filter(|(key, row)| (filter.passes)(**key, row));
        passing.map(|(key, row)| (*key, row.clone())).collect()
    }

    fn check_filtered(&self, filter: &Filter) {
        let frame = self.frame().filter(filter.expr.clone()).unwrap();
        let batches = self.block_on(frame.collect()).unwrap();
        assert_same(&rows::collected(self.config.key_type, &batches), &self.passing(filter));
    }

    pub(super) fn check_limit(&mut self) {
        let filter = if self.random.random_bool(0.5) { self.filter() } else { self.filter_of_keys() };
        let limit = self.random.random_range(0..30);
        let frame = self.frame().filter(filter.expr.clone()).unwrap().limit(0, Some(limit)).unwrap();
        let found = rows::collected(self.config.key_type, &self.block_on(frame.collect()).unwrap());
        let passing = self.passing(&filter);
        assert_eq!(found.len(), limit.min(passing.len()), "{}", filter.expr);
        assert!(found.iter().all(|(key, row)| passing.get(key) == Some(row)), "{}", filter.expr);
    }

    pub(super) fn check_aggregate(&mut self) {
        let filter = self.filter();
        let values = vec![count(lit(1)), count(col("s")), sum(col("n")), min(col("n")), max(col("n"))];
        let filtered = self.random.random_bool(0.5);
        let frame = if filtered { self.frame().filter(filter.expr.clone()).unwrap() } else { self.frame() };
        let batches = self.block_on(frame.aggregate(vec![], values).unwrap().collect()).unwrap();
        let batch = batches.iter().find(|batch| batch.num_rows() == 1).expect("one row");
        let found: Vec<Option<i64>> = batch
            .columns()
            .iter()
            .map(|column| column.is_valid(0).then(|| column.as_primitive::<Int64Type>().value(0)))
            .collect();
        let rows = if filtered { self.passing(&filter) } else { self.rows.clone() };
        let numbers = || rows.values().map(|row| row.n);
        let expected = [
            Some(rows.len() as i64),
            Some(rows.values().filter(|row| row.s.is_some()).count() as i64),
            (!rows.is_empty()).then(|| numbers().sum()),
            numbers().min(),
            numbers().max(),
        ];
        assert_eq!(found, expected, "filtered {filtered}: {}", filter.expr);
    }

    pub(super) fn check_projection(&mut self) {
        let filter = self.filter();
        let frame = self.frame().filter(filter.expr.clone()).unwrap().select_columns(&["s"]).unwrap();
        let batches = self.block_on(frame.collect()).unwrap();
        let mut found: Vec<Option<String>> = batches
            .iter()
            .flat_map(|batch| batch.column(0).as_string::<i32>().iter().map(|s| s.map(ToString::to_string)))
            .collect();
        let mut expected: Vec<Option<String>> = self.passing(&filter).into_values().map(|row| row.s).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{}", filter.expr);
    }

    pub(super) fn check_count(&mut self) {
        let snapshot = self.table().snapshot();
        let n = self.block_on(self.table().live_rows(&snapshot)).unwrap();
        assert_eq!(n, self.rows.len() as u64);
    }

    /// What was read then is read now.
    pub(super) fn check_snapshot(&mut self) {
        for held in &self.held {
            let rows = self.block_on(self.place.rows_of(self.table(), &held.snapshot));
            assert_same(&rows, &held.rows);
            let n = self.block_on(self.table().live_rows(&held.snapshot)).unwrap();
            assert_eq!(n, held.rows.len() as u64);
        }
    }

    /// Another process reads everything acknowledged and disturbs nobody.
    pub(super) fn check_reader(&mut self) {
        if self.config.ack == datafusion_lsm::settings::Ack::Memory {
            return;
        }
        let reader = match self.reader.take() {
            Some(reader) => {
                self.block_on(reader.refresh()).unwrap();
                reader
            }
            None => self.block_on(self.place.reader()),
        };
        let rows = self.block_on(self.place.rows(&reader));
        assert_same(&rows, &self.rows);
        self.reader = Some(Arc::clone(&reader));
    }
}

/// Fails with the difference only.
fn assert_same(found: &Rows, expected: &Rows) {
    if found == expected {
        return;
    }
    let missing: Vec<_> = expected.iter().filter(|(key, _)| !found.contains_key(key)).collect();
    let surplus: Vec<_> = found.iter().filter(|(key, _)| !expected.contains_key(key)).collect();
    let differ: Vec<_> = found
        .iter()
        .filter_map(|(key, row)| Some((key, row, expected.get(key).filter(|other| *other != row)?)))
        .collect();
    panic!("missing: {missing:?}; surplus: {surplus:?}; (key, found, expected): {differ:?}");
}
