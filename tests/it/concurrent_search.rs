//! Searches while rows are written, deleted and flushed: every answer is whole, and of a moment that is not past.
//!
//! The text and the vector of a row are made of its key and its version, so that each answer can be checked alone. What
//! is searched for is the row of one key, as it was written last: if nobody deletes it meanwhile, it comes first.
#![allow(clippy::print_stdout, reason = "a test that fails tells its seed")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use arrow::array::{ArrayRef, AsArray, FixedSizeListArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Int64Type, Schema, SchemaRef};
use datafusion::prelude::SessionContext;
use datafusion_lsm::distance::Metric;
use datafusion_lsm::index_spec::{IndexKind, IndexSpec};
use datafusion_lsm::settings::Settings;
use datafusion_lsm::sql::{LsmSessionExt, LsmTableProvider};
use datafusion_lsm::table::{CreateSpec, LsmTable};
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use crate::support::documents::fields;
use crate::support::number_from_env;
use crate::support::place::quiet;
use crate::support::plan::explained;

const KEYS: usize = 120;
/// Keys that always live at least.
const FEWEST: usize = 60;
/// Rows that are searched for.
const K: usize = 10;
const WIDTH: usize = 16;
const OPERATIONS: i64 = 250;
const SEARCHERS: u64 = 2;

/// The vector of a row: those of one key lie close together, those of others far away.
fn vector(key: usize, version: i64) -> Vec<f32> {
    let mut centre = SmallRng::seed_from_u64(key as u64);
    let mut around = SmallRng::seed_from_u64(version as u64 * KEYS as u64 + key as u64);
    (0..WIDTH).map(|_| 10.0 * centre.random_range(-1.0f32..1.0) + 0.1 * around.random_range(-1.0f32..1.0)).collect()
}

/// The text of a row: its key, its version, and a word that others have too.
fn text(key: usize, version: i64) -> String {
    let word = ["fox", "dog", "cat"][version as usize % 3];
    format!("key{key} v{version} {}", vec![word; 1 + version as usize % 4].join(" "))
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(fields(WIDTH)))
}

/// Rows of keys in their versions.
fn batch(rows: &[(usize, i64)]) -> RecordBatch {
    let vectors = rows.iter().map(|(key, version)| Some(vector(*key, *version).into_iter().map(Some)));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(key, _)| *key as i64))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, version)| *version))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(key, version)| text(*key, *version)))),
        Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, WIDTH as i32)),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// The version that a key has when all begins.
fn first(key: usize) -> i64 {
    key as i64 + 1
}

/// What was acknowledged of a key.
#[derive(Debug)]
struct Known {
    /// Twice the version of the last operation, and one more if it was no deletion.
    last: AtomicI64,
    /// Counts the beginnings of deletions and their ends: odd while there is one.
    deletions: AtomicU64,
}

impl Known {
    fn wrote(&self, version: i64) {
        self.last.store(2 * version + 1, Ordering::SeqCst);
    }
}

type Keys = Arc<Vec<Known>>;

/// Writes, deletes and flushes, and returns the versions of the keys that live then.
async fn write(table: &Arc<LsmTable>, keys: &[Known], seed: u64) -> BTreeMap<usize, i64> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut live: BTreeMap<usize, i64> = (0..KEYS).map(|key| (key, first(key))).collect();
    for version in first(KEYS)..first(KEYS) + OPERATIONS {
        match rng.random_range(0..40) {
            0 => table.flush().await.unwrap(),
            1..8 if live.len() > FEWEST => {
                let key = live.keys().copied().choose(&mut rng).unwrap();
                let column = Arc::new(Int64Array::from(vec![key as i64])) as ArrayRef;
                keys[key].deletions.fetch_add(1, Ordering::SeqCst);
                table.delete(RecordBatch::try_from_iter([("id", column)]).unwrap()).await.unwrap();
                keys[key].last.store(2 * version, Ordering::SeqCst);
                keys[key].deletions.fetch_add(1, Ordering::SeqCst);
                live.remove(&key);
            }
            _ => {
                let written: BTreeSet<usize> = (0..rng.random_range(1..6)).map(|_| rng.random_range(0..KEYS)).collect();
                let rows: Vec<(usize, i64)> = written.into_iter().map(|key| (key, version)).collect();
                assert_eq!(table.put(batch(&rows)).await.unwrap(), rows.len() as u64);
                rows.iter().for_each(|(key, version)| keys[*key].wrote(*version));
                live.extend(rows);
            }
        }
        tokio::task::yield_now().await;
    }
    live
}

/// How the rows of a key are searched for.
#[derive(Debug, Clone, Copy)]
enum Search {
    Vector,
    Text,
    Hybrid,
}

impl Search {
    /// The statement; the fifth column is what it ranks by.
    fn sql(self, key: usize, query: &[f32]) -> String {
        let query = format!("[{}]", query.iter().map(f32::to_string).collect::<Vec<_>>().join(", "));
        // The key outweighs the word, however rare that is.
        let words = format!("'key{key}^9 fox'");
        match self {
            Self::Vector => {
                format!("SELECT id, n, body, e, l2_distance(e, {query}) AS far FROM t ORDER BY far LIMIT {K}")
            }
            Self::Text => {
                format!("SELECT id, n, body, e, score(body, {words}) AS s FROM t ORDER BY s DESC LIMIT {K}")
            }
            Self::Hybrid => format!(
                "SELECT id, n, body, e, _score, _distance, _text_score \
                 FROM hybrid_search('t', 'e', {query}, 'body', {words}, {K})"
            ),
        }
    }
}

/// A row of an answer, whose columns belong together.
#[derive(Debug)]
struct Row {
    key: usize,
    version: i64,
    rank: f64,
    distance: Option<f64>,
}

/// The numbers in a column.
fn numbers(column: &ArrayRef) -> Vec<Option<f64>> {
    cast(column, &DataType::Float64).unwrap().as_primitive::<Float64Type>().iter().collect()
}

fn rows_of(search: Search, batch: &RecordBatch, told: &str) -> Vec<Row> {
    let (keys, versions) =
        (batch.column(0).as_primitive::<Int64Type>().values(), batch.column(1).as_primitive::<Int64Type>().values());
    let texts = cast(batch.column(2), &DataType::Utf8).unwrap();
    let element = Arc::new(Field::new_list_field(DataType::Float32, true));
    let vectors = cast(batch.column(3), &DataType::FixedSizeList(element, WIDTH as i32)).unwrap();
    let ranks = numbers(batch.column(4));
    let distances = match search {
        Search::Vector => ranks.clone(),
        Search::Text => vec![None; batch.num_rows()],
        Search::Hybrid => numbers(batch.column(5)),
    };
    let row = |i: usize| {
        let (key, version) = (usize::try_from(keys[i]).unwrap(), versions[i]);
        assert_eq!(texts.as_string::<i32>().value(i), text(key, version), "a torn row: {told}");
        let there = vectors.as_fixed_size_list().value(i);
        assert_eq!(there.as_primitive::<Float32Type>().values().to_vec(), vector(key, version), "a torn row: {told}");
        Row { key, version, rank: ranks[i].unwrap_or_else(|| panic!("no rank: {told}")), distance: distances[i] }
    };
    (0..batch.num_rows()).map(row).collect()
}

fn l2(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
}

/// Searches until nobody writes, and returns how often.
async fn search(session: SessionContext, keys: Keys, seed: u64, done: Arc<AtomicBool>) -> usize {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut searches = 0;
    while !done.load(Ordering::SeqCst) {
        let key = rng.random_range(0..KEYS);
        // In this order: a deletion between the two is seen in the count when the search has ended.
        let deletions = keys[key].deletions.load(Ordering::SeqCst);
        let before: Vec<i64> = keys.iter().map(|known| known.last.load(Ordering::SeqCst)).collect();
        let query = vector(key, before[key] / 2);
        let search = [Search::Vector, Search::Text, Search::Hybrid][searches % 3];
        let told = format!("{search:?} of key {key}, seed {seed}, search {searches}");
        let found = session.sql(&search.sql(key, &query)).await.unwrap().collect().await;
        let found = found.unwrap_or_else(|error| panic!("{told}: {error}"));
        let undeleted = deletions.is_multiple_of(2) && keys[key].deletions.load(Ordering::SeqCst) == deletions;

        let rows: Vec<Row> = found.iter().flat_map(|batch| rows_of(search, batch, &told)).collect();
        assert_eq!(rows.len(), K, "{told}: {rows:?}");
        assert_eq!(rows.iter().map(|row| row.key).collect::<BTreeSet<_>>().len(), K, "a key twice: {told}: {rows:?}");
        for row in &rows {
            // A row is of a later version than the deletion of its key.
            let least = before[row.key] / 2;
            assert!(row.version >= least, "older than {least}: {told}: {row:?}");
            let distance = l2(&vector(row.key, row.version), &query);
            let is_right = row.distance.is_none_or(|told| (told - distance).abs() < 1e-3 * (1.0 + distance));
            assert!(is_right, "{distance} away: {told}: {row:?}");
        }
        let in_order = |pair: &[Row]| match search {
            Search::Vector => pair[0].rank <= pair[1].rank,
            Search::Text | Search::Hybrid => pair[0].rank >= pair[1].rank,
        };
        assert!(rows.windows(2).all(in_order), "{told}: {rows:?}");
        if undeleted && before[key] % 2 == 1 {
            assert_eq!(rows[0].key, key, "it is there and not found: {told}: {rows:?}");
        }
        searches += 1;
    }
    searches
}

async fn searches_beside_writes(shards: u32) {
    let seed = number_from_env("LSM_SEED", 0x5EA);
    println!("LSM_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let spec = CreateSpec {
        schema: schema(),
        key: vec!["id".into()],
        shards,
        shard_column: None,
        indexes: vec![IndexSpec::new("e", IndexKind::vector(Metric::L2)), IndexSpec::new("body", IndexKind::text())],
        defaults: Default::default(),
    };
    let settings = Settings { memtable_rows: 200, ..quiet() };
    let builder = LsmTable::builder(dir.path().join("t").to_str().unwrap()).settings(settings).create(spec);
    let table = builder.open().await.unwrap();
    let session = SessionContext::new().with_lsm();
    session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(&table)))).unwrap();

    let rows: Vec<(usize, i64)> = (0..KEYS).map(|key| (key, first(key))).collect();
    table.put(batch(&rows)).await.unwrap();
    let known = |key| Known { last: AtomicI64::new(2 * first(key) + 1), deletions: AtomicU64::new(0) };
    let keys: Keys = Arc::new((0..KEYS).map(known).collect());
    for (search, nodes) in [
        (Search::Vector, &["VectorTopKExec"][..]),
        (Search::Text, &["TextTopKExec"]),
        (Search::Hybrid, &["VectorTopKExec", "TextTopKExec"]),
    ] {
        let plan = explained(&session, &search.sql(7, &vector(7, 8))).await;
        assert!(nodes.iter().all(|node| plan.contains(node)), "{plan}");
    }

    let done = Arc::new(AtomicBool::new(false));
    let mut searchers = JoinSet::new();
    for n in 1..=SEARCHERS {
        searchers.spawn(search(session.clone(), Arc::clone(&keys), seed + n, Arc::clone(&done)));
    }
    let live = write(&table, &keys, seed).await;
    done.store(true, Ordering::SeqCst);
    let mut searches = 0;
    while let Some(ended) = searchers.join_next().await {
        searches += ended.unwrap();
    }
    assert!(searches > 3, "{searches} searches");
    table.flush().await.unwrap();
    let flushed = table.sources().iter().filter(|source| source.kind == "generation").count();
    assert!(flushed > 2, "memtables were flushed meanwhile: {flushed}");

    let found = session.sql("SELECT id, n FROM t ORDER BY id").await.unwrap().collect().await.unwrap();
    let of = |batch: &RecordBatch, column: usize| batch.column(column).as_primitive::<Int64Type>().values().to_vec();
    let found: Vec<(i64, i64)> = found.iter().flat_map(|batch| of(batch, 0).into_iter().zip(of(batch, 1))).collect();
    let expected: Vec<(i64, i64)> = live.into_iter().map(|(key, version)| (key as i64, version)).collect();
    assert_eq!(found, expected, "seed {seed}");
    table.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn searches_beside_a_writer_find_whole_rows_that_are_not_past() {
    searches_beside_writes(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn searches_beside_a_writer_of_three_shards_find_whole_rows_that_are_not_past() {
    searches_beside_writes(3).await;
}
