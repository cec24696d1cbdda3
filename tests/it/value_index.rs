//! B-trees and bitmaps of generations and the base: written by us and by Lance, asked by both.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, RecordBatchIterator, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};
use arrow::util::pretty::pretty_format_batches;
use datafusion::common::ScalarValue;
use datafusion::prelude::{Expr, SessionContext, col, lit};
use lance::Dataset;
use lance::dataset::{WriteMode, WriteParams};
use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::scalar::{BuiltinIndexType, ScalarIndexParams};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::support::number_from_env;
use datafusion_lsm::base::{AdoptSpec, CreateSpec};
use datafusion_lsm::index_spec::IndexSpec;
use datafusion_lsm::sql::{LsmSessionExt, LsmTableProvider};
use datafusion_lsm::store::TablePaths;
use datafusion_lsm::table::LsmTable;

/// Types that have an index of values.
fn types() -> Vec<DataType> {
    use DataType::*;
    vec![
        Int8,
        Int16,
        Int32,
        Int64,
        UInt8,
        UInt16,
        UInt32,
        UInt64,
        Float16,
        Float32,
        Float64,
        Boolean,
        Utf8,
        LargeUtf8,
        Date32,
        Date64,
        Time32(TimeUnit::Second),
        Time64(TimeUnit::Microsecond),
        Timestamp(TimeUnit::Microsecond, None),
        Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
        Decimal128(20, 2),
        Decimal256(40, 2),
    ]
}

/// Small numbers as values of a type.
fn values_of(numbers: Vec<Option<i64>>, data_type: &DataType) -> ArrayRef {
    let numbers: ArrayRef = Arc::new(Int64Array::from(numbers));
    match data_type {
        DataType::Date32 | DataType::Time32(_) => cast(&cast(&numbers, &DataType::Int32).unwrap(), data_type).unwrap(),
        DataType::Boolean => cast(&numbers, data_type).unwrap(),
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            // Every kind of zero, NaN and infinity.
            let odd = |n: i64| match n {
                1 => f64::NAN,
                2 => -f64::NAN,
                3 => f64::INFINITY,
                4 => -0.0,
                n => n as f64 / 2.0,
            };
            let numbers = numbers.as_primitive::<Int64Type>().iter().map(|n| n.map(odd));
            cast(&numbers.collect::<Float64Array>(), data_type).unwrap()
        }
        _ => cast(&numbers, data_type).unwrap(),
    }
}

fn value_of(number: i64, data_type: &DataType) -> Expr {
    lit(ScalarValue::try_from_array(&values_of(vec![Some(number)], data_type), 0).unwrap())
}

/// Filters of the column `c`, most of which an index answers.
fn filters(data_type: &DataType, rng: &mut SmallRng) -> Vec<Expr> {
    let c = || col("c");
    let mut value = || value_of(rng.random_range(0..120), data_type);
    let (low, high) = (value_of(40, data_type), value_of(43, data_type));
    vec![
        c().eq(value()),
        c().eq(value_of(0, data_type)),
        c().eq(value_of(1, data_type)),
        c().eq(value_of(4, data_type)),
        c().in_list(vec![value(), value(), value_of(4, data_type), value_of(1, data_type)], false),
        c().is_null(),
        c().is_null().or(c().eq(value())),
        c().gt_eq(low.clone()).and(c().lt(high.clone())),
        c().between(low, high),
        c().lt(value_of(0, data_type)),
        c().lt_eq(value_of(0, data_type)),
        c().gt(value_of(119, data_type)),
        c().gt_eq(value_of(3, data_type)).and(c().lt_eq(value_of(1, data_type))),
        c().gt(value()),
        c().not_eq(value()),
        c().eq(value()).and(col("id").gt(lit(500i64))),
    ]
}

fn schema(data_type: &DataType) -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("c", data_type.clone(), true),
        Field::new("rest", DataType::Utf8, true),
    ]))
}

/// Rows whose values are few, and NULL every now and then.
fn rows(ids: impl IntoIterator<Item = i64>, data_type: &DataType, rng: &mut SmallRng) -> RecordBatch {
    let ids: Vec<i64> = ids.into_iter().collect();
    let numbers = ids.iter().map(|_| rng.random_bool(0.99).then(|| rng.random_range(0..120))).collect();
    let rest = StringArray::from_iter_values(ids.iter().map(|id| format!("the row {id} and what else there is of it")));
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(ids)), values_of(numbers, data_type), Arc::new(rest)];
    RecordBatch::try_new(schema(data_type), columns).unwrap()
}

async fn found(session: &SessionContext, table: &str, filter: &Expr) -> Vec<i64> {
    let rows = session.table(table).await.unwrap().filter(filter.clone()).unwrap();
    let rows = rows.select_columns(&["id"]).unwrap().collect().await.unwrap();
    let mut ids: Vec<i64> =
        rows.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
    ids.sort_unstable();
    ids
}

/// The table's rows beside it, as one that has no index.
async fn copy(session: &SessionContext) {
    let all = session.table("t").await.unwrap();
    let schema = Arc::new(all.schema().as_arrow().clone());
    let batches = all.collect().await.unwrap();
    let copy = datafusion::datasource::MemTable::try_new(schema, vec![batches]).unwrap();
    session.deregister_table("copy").unwrap();
    session.register_table("copy", Arc::new(copy)).unwrap();
}

async fn explained(session: &SessionContext, analyze: bool, filter: &Expr) -> String {
    let rows = session.table("t").await.unwrap().filter(filter.clone()).unwrap();
    pretty_format_batches(&rows.explain(false, analyze).unwrap().collect().await.unwrap()).unwrap().to_string()
}

/// Compares what the filters find with what they find in a copy of all rows.
async fn check(session: &SessionContext, data_type: &DataType, rng: &mut SmallRng) {
    copy(session).await;
    for filter in filters(data_type, rng) {
        let (ours, expected) = (found(session, "t", &filter).await, found(session, "copy", &filter).await);
        assert_eq!(ours, expected, "{data_type}: {filter}");
    }
}

fn keys(ids: Vec<i64>) -> RecordBatch {
    RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(ids)) as ArrayRef)]).unwrap()
}

#[tokio::test]
async fn generations_of_every_type_are_filtered_by_their_index_of_values_by_us_and_by_lance() {
    let seed = number_from_env("LSM_SEED", 0xB7EE);
    println!("LSM_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    for (i, data_type) in types().iter().enumerate() {
        let kind = ["btree", "bitmap"][i % 2];
        // Both kinds are of the widest use with these.
        let kinds =
            if matches!(data_type, DataType::Float64 | DataType::Utf8) { &["btree", "bitmap"][..] } else { &[kind] };
        for kind in kinds {
            one_type(data_type, kind, &mut rng).await;
        }
    }
}

async fn one_type(data_type: &DataType, kind: &str, rng: &mut SmallRng) {
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("t").to_str().unwrap().to_string();
    let spec = CreateSpec {
        schema: schema(data_type),
        key: vec!["id".into()],
        shards: 1,
        shard_column: None,
        indexes: IndexSpec::parse("c", kind).unwrap(),
        defaults: Default::default(),
    };
    let table = LsmTable::builder(&uri).create(spec).option("lsm.sync", "false").open().await.unwrap();
    let session = SessionContext::new().with_lsm();
    session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(&table)))).unwrap();
    // More than a page of a B-tree, then newer versions of some, and none but tombstones.
    table.put(rows(0..6000, data_type, rng)).await.unwrap();
    table.put(rows(100..300, data_type, rng)).await.unwrap();
    table.delete(keys((0..50).collect())).await.unwrap();
    table.flush().await.unwrap();
    let filter = col("c").eq(value_of(7, data_type));
    let plan = explained(&session, false, &filter).await;
    // Lance orders NaN and zeros in its own way.
    let is_asked = !data_type.is_floating();
    assert_eq!(plan.contains(&format!("indexes=[c_{kind}]")), is_asked, "{plan}");
    let plan = explained(&session, true, &filter).await;
    // Two values are too many rows each.
    assert_eq!(plan.contains("rows_by_value="), is_asked && *data_type != DataType::Boolean, "{plan}");
    table.put(rows((0..6000).step_by(7), data_type, rng)).await.unwrap();
    table.flush().await.unwrap();
    table.delete(keys((0..6000).step_by(11).collect())).await.unwrap();
    table.flush().await.unwrap();
    check(&session, data_type, rng).await;
    table.put(rows((0..6000).step_by(5), data_type, rng)).await.unwrap();
    check(&session, data_type, rng).await;

    let snapshot = table.snapshot();
    let shard = &snapshot.version().shards[0];
    assert_eq!(shard.generations.len(), 3);
    for generation in &shard.generations {
        let path = TablePaths::generation_dir(shard.shard, &generation.record().path);
        let lance = Dataset::open(&format!("{uri}/{path}")).await.unwrap();
        let index = lance.load_indices_by_name(&format!("c_{kind}")).await.unwrap();
        assert_eq!(index.len(), 1);
        for filter in filters(data_type, rng) {
            let scan = |by_index: bool| {
                let mut scan = lance.scan();
                scan.project(&["id"]).unwrap().filter_expr(filter.clone()).use_scalar_index(by_index);
                scan
            };
            let plan = scan(true).explain_plan(false).await.unwrap();
            assert!(plan.contains("ScalarIndexQuery"), "{data_type} {kind}: {filter}");
            let by_index = scan(true).try_into_batch().await.unwrap();
            // Lance tells NaN and zeros apart in its own way, with an index or without.
            if !data_type.is_floating() {
                let flat = scan(false).try_into_batch().await.unwrap();
                assert_eq!(by_index, flat, "{data_type} {kind}: {filter}");
            }
        }
    }
    table.close().await.unwrap();
}

#[tokio::test]
async fn a_base_is_filtered_by_the_indexes_of_values_that_lance_made() {
    for (kind, stable_row_ids, keys_held) in
        [("btree", false, "1GB"), ("bitmap", false, "1B"), ("btree", true, "1GB"), ("bitmap", true, "1B")]
    {
        let mut rng = SmallRng::seed_from_u64(0xBA5E);
        let dir = tempfile::tempdir().unwrap();
        let uri = dir.path().join("t").to_str().unwrap().to_string();
        let data_type = DataType::Int32;
        let write = async |rows: RecordBatch, mode: WriteMode| {
            let reader = RecordBatchIterator::new([Ok(rows)], schema(&data_type));
            let params = WriteParams {
                mode,
                max_rows_per_file: 2000,
                enable_stable_row_ids: stable_row_ids,
                ..Default::default()
            };
            Dataset::write(reader, uri.as_str(), Some(params)).await.unwrap()
        };
        let mut dataset = write(rows(0..8000, &data_type, &mut rng), WriteMode::Create).await;
        let (index_type, built) = match kind {
            "btree" => (IndexType::BTree, BuiltinIndexType::BTree),
            _ => (IndexType::Bitmap, BuiltinIndexType::Bitmap),
        };
        let params = ScalarIndexParams::for_builtin(built);
        dataset.create_index(&["c"], index_type, Some("by_c".into()), &params, true).await.unwrap();
        // A fragment that the index does not know, rows that are gone, and a fragment that is.
        let mut dataset = write(rows(8000..9000, &data_type, &mut rng), WriteMode::Append).await;
        dataset.delete("id % 13 = 5 OR (id >= 2000 AND id < 4000)").await.unwrap();

        let spec = AdoptSpec { key: vec!["id".into()], ..Default::default() };
        let builder = LsmTable::builder(&uri).option("lsm.base.keys", keys_held).option("lsm.sync", "false");
        let table = builder.adopt(spec).open().await.unwrap();
        let session = SessionContext::new().with_lsm();
        session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(&table)))).unwrap();
        let plan = explained(&session, true, &col("c").eq(lit(7i32))).await;
        // Addresses are of no use where rows have ids.
        let is_used = !(stable_row_ids && kind == "btree");
        assert_eq!(plan.contains("rows_by_value="), is_used, "{kind} {stable_row_ids}: {plan}");
        for round in 0..3 {
            check(&session, &data_type, &mut rng).await;
            table.put(rows((round..9000).step_by(17), &data_type, &mut rng)).await.unwrap();
            table.delete(keys((round..9000).step_by(19).collect())).await.unwrap();
            if round == 1 {
                table.flush().await.unwrap();
            }
        }
        table.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_renamed_column_keeps_its_index_of_values_and_a_new_one_of_its_name_has_none() {
    let mut rng = SmallRng::seed_from_u64(0x4E);
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("t").to_str().unwrap().to_string();
    let spec = CreateSpec {
        schema: schema(&DataType::Int64),
        key: vec!["id".into()],
        shards: 1,
        shard_column: None,
        indexes: IndexSpec::parse("c", "btree").unwrap(),
        defaults: Default::default(),
    };
    let table = LsmTable::builder(&uri).create(spec).option("lsm.sync", "false").open().await.unwrap();
    table.put(rows(0..3000, &DataType::Int64, &mut rng)).await.unwrap();
    table.flush().await.unwrap();
    table.close().await.unwrap();
    let mut dataset = Dataset::open(&uri).await.unwrap();
    use lance::dataset::{ColumnAlteration, NewColumnTransform};
    dataset.alter_columns(&[ColumnAlteration::new("c".into()).rename("was_c".into())]).await.unwrap();
    let nulls = Schema::new(vec![Field::new("c", DataType::Int64, true)]);
    dataset.add_columns(NewColumnTransform::AllNulls(Arc::new(nulls)), None, None).await.unwrap();

    let table = LsmTable::builder(&uri).option("lsm.sync", "false").open().await.unwrap();
    let session = SessionContext::new().with_lsm();
    session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(&table)))).unwrap();
    copy(&session).await;
    for column in ["c", "was_c"] {
        for filter in [col(column).eq(lit(7i64)), col(column).is_null()] {
            assert_eq!(found(&session, "t", &filter).await, found(&session, "copy", &filter).await, "{filter}");
        }
        let plan = explained(&session, false, &col(column).eq(lit(7i64))).await;
        assert_eq!(plan.contains("indexes=[c_btree]"), column == "was_c", "{plan}");
    }
    table.close().await.unwrap();
}

#[tokio::test]
async fn searches_ask_the_index_of_values_which_rows_pass() {
    const WIDTH: usize = 8;
    let dir = tempfile::tempdir().unwrap();
    let session = SessionContext::new().with_lsm();
    let run = async |sql: &str| session.sql(sql).await.unwrap().collect().await.unwrap();
    let near = ["33"; WIDTH].join(", ");
    let vector = ["CAST(value % 97 AS FLOAT)"; WIDTH].join(", ");
    // What is read whole once stays in memory, where no index of values is asked: each has a table of its own.
    for (i, (search, node)) in [
        (format!("l2_distance(e, [{near}]) FROM d WHERE n = 7 OR n IS NULL ORDER BY 1 LIMIT 3"), "VectorTopKExec"),
        ("score(body, 'w1 w3') FROM d WHERE n = 7 ORDER BY 1 DESC LIMIT 3".to_string(), "TextTopKExec"),
        ("id FROM d WHERE n IN (7, 9) AND text_match(body, 'w1') ORDER BY id".to_string(), "by text"),
    ]
    .into_iter()
    .enumerate()
    {
        let place = dir.path().join(i.to_string());
        run(&format!(
            "CREATE EXTERNAL TABLE d (id BIGINT PRIMARY KEY, n INT, body VARCHAR, e FLOAT[{WIDTH}]) STORED AS LSM \
             LOCATION '{}' OPTIONS ('lsm.sync' 'false', 'lsm.index.n' 'btree', 'lsm.index.body' 'fts', 'lsm.index.e' \
             'vector(l2)')",
            place.display()
        ))
        .await;
        run(&format!(
            "INSERT INTO d SELECT value AS id, CAST(value % 500 AS INT), 'word w' || (value % 7), [{vector}] \
             FROM generate_series(1, 4000)"
        ))
        .await;
        run("INSERT INTO d (id, n) VALUES (3, 7), (507, 8)").await;
        let answer = async || pretty_format_batches(&run(&format!("SELECT {search}")).await).unwrap().to_string();
        let expected = answer().await;
        run("SELECT * FROM lsm_flush('d')").await;
        let plan = run(&format!("EXPLAIN ANALYZE SELECT {search}")).await;
        let plan = pretty_format_batches(&plan).unwrap().to_string();
        let asked = plan.lines().find(|line| line.contains(node)).unwrap_or_else(|| panic!("{plan}"));
        assert_eq!(asked.contains("rows_by_value="), node != "by text", "{plan}");
        assert_eq!(answer().await, expected, "{search}");
        run("DROP TABLE d").await;
    }
}
