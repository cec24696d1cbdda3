//! The nearest rows of a table against brute force, wherever the rows are.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, FixedSizeListArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Float32Type, Int64Type, Schema, SchemaRef};
use datafusion::prelude::SessionContext;
use datafusion_lsm::distance::Metric;
use datafusion_lsm::index_spec::{IndexKind, IndexSpec};
use datafusion_lsm::sql::{LsmSessionExt, LsmTableProvider};
use datafusion_lsm::table::{CreateSpec, LsmTable};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::support::number_from_env;
use crate::support::plan::explained;

pub(crate) const WIDTH: usize = 24;

pub(crate) type Model = BTreeMap<i64, (i64, Option<Vec<f32>>)>;

pub(crate) fn schema() -> Arc<Schema> {
    let element = Arc::new(Field::new_list_field(DataType::Float32, true));
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("n", DataType::Int64, true),
        Field::new("e", DataType::FixedSizeList(element, WIDTH as i32), true),
    ]))
}

pub(crate) fn batch(rows: &[(i64, i64, Option<Vec<f32>>)]) -> RecordBatch {
    let vectors = rows.iter().map(|(.., e)| e.as_ref().map(|e| e.iter().map(|v| Some(*v)).collect::<Vec<_>>()));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(id, ..)| *id))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, n, _)| *n))),
        Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, WIDTH as i32)),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

pub(crate) fn vector(rng: &mut SmallRng) -> Vec<f32> {
    let centre = rng.random_range(0..8) as f32;
    (0..WIDTH).map(|i| centre * ((i % 3) as f32 - 1.0) + rng.random::<f32>() * 2.0).collect()
}

/// The function, its direction and the distance it has.
pub(crate) fn sql_of(metric: Metric) -> (&'static str, &'static str) {
    match metric {
        Metric::L2 => ("l2_distance", ""),
        Metric::Cosine => ("cosine_distance", ""),
        Metric::InnerProduct => ("inner_product", "DESC NULLS LAST"),
    }
}

pub(crate) fn rank(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    match metric {
        Metric::L2 => a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>(),
        Metric::Cosine => 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        // NaN is the largest of all numbers, and so the nearest here.
        Metric::InnerProduct if dot(a, b).is_nan() => f64::NEG_INFINITY,
        Metric::InnerProduct => -dot(a, b),
    }
}

pub(crate) async fn ids(session: &SessionContext, sql: &str) -> Vec<i64> {
    let rows = session.sql(sql).await.unwrap().collect().await.unwrap();
    rows.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

/// Searches with and without a filter; returns how many of the nearest rows were found, of how many.
pub(crate) async fn check(
    session: &SessionContext,
    model: &Model,
    metric: Metric,
    rng: &mut SmallRng,
) -> (usize, usize) {
    let (function, direction) = sql_of(metric);
    let query = vector(rng);
    let text: Vec<String> = query.iter().map(f32::to_string).collect();
    let (mut hits, mut all) = (0, 0);
    for (filter, share) in [("", 1), ("WHERE n % 4 = 1", 4), ("WHERE n % 64 = 3", 64)] {
        let k = rng.random_range(1..30);
        let sql =
            format!("SELECT id FROM t {filter} ORDER BY {function}(e, [{}]) {direction} LIMIT {k}", text.join(", "));
        let passes = |n: i64| match share {
            1 => true,
            4 => n % 4 == 1,
            _ => n % 64 == 3,
        };
        let mut ranked: Vec<(f64, i64)> = Vec::new();
        let mut missing = 0;
        for (id, (n, e)) in model.iter().filter(|(_, (n, _))| passes(*n)) {
            match e {
                Some(e) => ranked.push((rank(metric, e, &query), *id)),
                None => {
                    assert!(passes(*n));
                    missing += 1;
                }
            }
        }
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        let found = ids(session, &sql).await;
        assert_eq!(found.len(), k.min(ranked.len() + missing), "{sql}");
        let truth: Vec<i64> = ranked.iter().take(k).map(|(_, id)| *id).collect();
        hits += truth.iter().filter(|id| found.contains(id)).count();
        all += truth.len();
        for id in &found {
            assert!(model.get(id).is_some_and(|(n, _)| passes(*n)), "{id} is not there: {sql}");
        }
    }
    (hits, all)
}

/// A new table below `dir`, with the key `id`, and a session that has it as `t`.
pub(crate) async fn created(
    dir: &Path,
    schema: SchemaRef,
    shards: u32,
    indexes: Vec<IndexSpec>,
) -> (Arc<LsmTable>, SessionContext) {
    let key = vec!["id".into()];
    let spec = CreateSpec { schema, key, shards, shard_column: None, indexes, defaults: Default::default() };
    let table = LsmTable::builder(dir.join("t").to_str().unwrap()).create(spec).open().await.unwrap();
    let session = SessionContext::new().with_lsm();
    session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(&table)))).unwrap();
    (table, session)
}

#[tokio::test]
async fn the_nearest_rows_are_found_after_updates_and_deletes_in_every_source() {
    let seed = number_from_env("LSM_SEED", 0xACE);
    println!("LSM_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        let dir = tempfile::tempdir().unwrap();
        let indexes = vec![IndexSpec::new("e", IndexKind::vector(metric))];
        let (table, session) = created(dir.path(), schema(), 1 + (metric == Metric::Cosine) as u32, indexes).await;
        let mut model = Model::new();
        let (mut hits, mut all) = (0, 0);
        for round in 0..12 {
            let mut rows = Vec::new();
            for _ in 0..rng.random_range(1..400) {
                let e = (rng.random_range(0..20) > 0).then(|| vector(&mut rng));
                rows.push((rng.random_range(0..2000), rng.random_range(0..1000), e));
            }
            rows.sort_by_key(|(id, ..)| *id);
            rows.dedup_by_key(|(id, ..)| *id);
            table.put(batch(&rows)).await.unwrap();
            model.extend(rows.into_iter().map(|(id, n, e)| (id, (n, e))));
            let gone: Vec<i64> = model.keys().copied().filter(|id| id % 13 == round % 13).collect();
            let keys = RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(gone.clone())) as ArrayRef)]);
            table.delete(keys.unwrap()).await.unwrap();
            gone.iter().for_each(|id| drop(model.remove(id)));
            if round % 5 == 3 {
                table.flush().await.unwrap();
            }
            for _ in 0..4 {
                let (found, of) = check(&session, &model, metric, &mut rng).await;
                (hits, all) = (hits + found, all + of);
            }
        }
        assert!(hits as f64 >= 0.95 * all as f64, "{metric:?}: {hits} of {all}");
        session.sql("SET lsm.search.mode = 'exact'").await.unwrap().collect().await.unwrap();
        let (hits, all) = check(&session, &model, metric, &mut rng).await;
        assert_eq!(hits, all);
        table.close().await.unwrap();
    }
}

#[tokio::test]
async fn vectors_of_16_bits_are_found_without_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let element = Arc::new(Field::new_list_field(DataType::Float16, true));
    let columns =
        vec![Field::new("id", DataType::Int64, false), Field::new("h", DataType::FixedSizeList(element, 2), true)];
    let (table, session) = created(dir.path(), Arc::new(Schema::new(columns)), 1, Vec::new()).await;
    let run = async |sql: &str| session.sql(sql).await.unwrap().collect().await.unwrap();
    run("INSERT INTO t VALUES (1, [3.0, 4.0]), (2, [0.0, 1.0]), (3, NULL), (4, [0.5, 0.0])").await;
    for place in ["memtable 1", "generation 1", "base"] {
        match place {
            "generation 1" => table.flush().await.unwrap(),
            "base" => drop(run("INSERT OVERWRITE t SELECT * FROM t").await),
            _ => {}
        }
        let call = "vector_search('t', 'h', [0.0, 0.0], metric => 'l2')";
        assert_eq!(ids(&session, &format!("SELECT id FROM {call}")).await, [4, 2, 1], "{place}");
        assert_eq!(ids(&session, &format!("SELECT id FROM {call} WHERE _distance = 5")).await, [1], "{place}");
        let plan = explained(&session, &format!("SELECT id FROM {call}")).await;
        assert!(plan.contains(place) && !plan.contains("VectorTopKExec"), "{plan}");
    }
    let narrow = "SELECT id FROM vector_search('t', 'h', [0.0], metric => 'l2')";
    let refused = async { session.sql(narrow).await?.collect().await };
    let error = refused.await.unwrap_err().to_string();
    assert!(error.contains("a vector of 2 elements"), "{error}");
    table.close().await.unwrap();
}
