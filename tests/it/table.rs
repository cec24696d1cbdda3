//! The life of a row through the Rust interface.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use datafusion::common::ScalarValue;
use datafusion::prelude::SessionContext;
use datafusion_lsm::base::CreateSpec;
use datafusion_lsm::error::ErrorKind;
use datafusion_lsm::settings::{Bytes, Settings};
use datafusion_lsm::table::{LsmTable, TableBuilder};

pub(crate) fn rows(ids: &[i64], body: &str) -> RecordBatch {
    let bodies = StringArray::from_iter_values(ids.iter().map(|i| format!("{body} {i}")));
    RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef),
        ("body", Arc::new(bodies)),
    ])
    .unwrap()
}

fn keys(ids: &[i64]) -> RecordBatch {
    RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef)]).unwrap()
}

pub(crate) fn spec(shards: u32) -> CreateSpec {
    CreateSpec {
        schema: Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("body", DataType::Utf8, true),
        ])),
        key: vec!["id".into()],
        shards,
        shard_column: None,
        indexes: Vec::new(),
        defaults: Default::default(),
    }
}

pub(crate) async fn scan(table: &Arc<LsmTable>) -> Vec<(i64, String)> {
    let plan = table.scan(&table.snapshot(), None, &[], None).unwrap();
    let batches = datafusion::physical_plan::collect(plan, SessionContext::new().task_ctx()).await.unwrap();
    let mut all: Vec<(i64, String)> = batches
        .iter()
        .flat_map(|b| {
            let ids = b.column(0).as_primitive::<Int64Type>().values().to_vec();
            let bodies = b.column(1).as_string::<i32>().iter().map(|s| s.unwrap().to_string()).collect::<Vec<_>>();
            ids.into_iter().zip(bodies)
        })
        .collect();
    all.sort();
    all
}

async fn body(table: &Arc<LsmTable>, id: i64) -> Option<String> {
    let row = table.get(&[ScalarValue::Int64(Some(id))]).await.unwrap()?;
    Some(row.column(1).as_string::<i32>().value(0).to_string())
}

async fn life_of_rows(shards: u32) {
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("t").to_string_lossy().to_string();
    let table = LsmTable::builder(&uri).create(spec(shards)).open().await.unwrap();
    assert_eq!(table.put(rows(&[1, 2, 3], "first")).await.unwrap(), 3);
    assert_eq!(body(&table, 2).await.unwrap(), "first 2");
    table.flush().await.unwrap();
    table.put(rows(&[2, 4], "second")).await.unwrap();
    table.delete(keys(&[3])).await.unwrap();
    let expected = vec![(1, "first 1".to_string()), (2, "second 2".into()), (4, "second 4".into())];
    assert_eq!(scan(&table).await, expected);
    drop(table);

    // A crash: nothing was closed.
    let table = LsmTable::open(&uri, Settings::default()).await.unwrap();
    assert_eq!(scan(&table).await, expected);
    assert_eq!(body(&table, 3).await, None);
    table.put(rows(&[5], "third")).await.unwrap();
    table.flush().await.unwrap();
    assert_eq!(scan(&table).await.len(), 4);
    let many = table.get_many(&keys(&[5, 3, 1])).await.unwrap();
    assert_eq!(many.column(0).as_primitive::<Int64Type>().values().to_vec(), [5, 1]);
    table.close().await.unwrap();

    let table = LsmTable::open(&uri, Settings::default()).await.unwrap();
    assert_eq!(scan(&table).await.len(), 4);
    assert_eq!(table.live_rows(&table.snapshot()).await.unwrap(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_survive_flush_crash_and_close() {
    life_of_rows(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_survive_flush_crash_and_close_in_three_shards() {
    life_of_rows(3).await;
}

#[tokio::test]
async fn a_row_that_can_never_fit_is_refused_by_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        memtable_limit: Bytes(64 << 10),
        memtable_bytes: Bytes(64 << 10),
        statement_unit: Bytes(16 << 10),
        ..Settings::default()
    };
    let builder = LsmTable::builder(dir.path().to_str().unwrap()).settings(settings).create(spec(1));
    let table = builder.open().await.unwrap();
    table.put(rows(&[1], &"x".repeat(40 << 10))).await.unwrap();
    let error = table.put(rows(&[2, 3], &"x".repeat(70 << 10))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("lsm.memtable.limit"), "{error}");
    assert_eq!(scan(&table).await.len(), 1);
}

#[tokio::test]
async fn a_value_that_is_only_near_a_key_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let table = LsmTable::builder(dir.path().to_str().unwrap()).create(spec(1)).open().await.unwrap();
    table.put(rows(&[1, 2], "a")).await.unwrap();
    for value in [ScalarValue::Int32(Some(1)), ScalarValue::Float64(Some(1.0)), ScalarValue::from("1")] {
        assert_eq!(table.get(&[value]).await.unwrap().map(|row| row.num_rows()), Some(1));
    }
    for value in [ScalarValue::Float64(Some(1.7)), ScalarValue::from("one"), ScalarValue::UInt64(Some(u64::MAX))] {
        assert_eq!(table.get(&[value]).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn a_key_that_is_asked_for_twice_is_answered_twice() {
    let dir = tempfile::tempdir().unwrap();
    for base_keys in [Bytes::mib(1), Bytes(0)] {
        let at = dir.path().join(base_keys.0.to_string());
        let settings = Settings { base_keys, ..Settings::default() };
        let builder = LsmTable::builder(at.to_str().unwrap()).settings(settings).create(spec(1));
        let table = builder.open().await.unwrap();
        let base = datafusion::physical_plan::stream::RecordBatchStreamAdapter::new(
            table.schema(),
            futures::stream::iter([Ok(rows(&[1, 2, 3], "base"))]),
        );
        table.replace_all(Box::pin(base)).await.unwrap();
        table.put(rows(&[2], "new")).await.unwrap();
        let found = table.get_many(&keys(&[3, 2, 3, 9, 2, 1])).await.unwrap();
        assert_eq!(found.column(0).as_primitive::<Int64Type>().values(), &[3, 2, 3, 2, 1]);
    }
}

#[tokio::test]
async fn what_is_told_of_a_new_table_counts_wherever_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let told = [
        LsmTable::builder(&at("a")).option("lsm.shards", "3").create(spec(1)),
        LsmTable::builder(&at("b")).create(spec(1)).settings(Settings { shards: 3, ..Settings::default() }),
        LsmTable::builder(&at("c")).create(spec(3)),
    ];
    for builder in told {
        assert_eq!(builder.open().await.unwrap().wal().await.unwrap().len(), 3);
    }
    // Whoever replaces a table fences who writes it.
    let old = LsmTable::open(&at("a"), Settings::default()).await.unwrap();
    old.put(rows(&[1], "old")).await.unwrap();
    let new = LsmTable::builder(&at("a")).replace(true).create(spec(1)).open().await.unwrap();
    assert_eq!(scan(&new).await, []);
    assert!(old.put(rows(&[2], "old")).await.is_err());
    assert_eq!(scan(&new).await, []);
}

#[tokio::test]
async fn settings_that_nobody_can_open_a_table_with_are_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("t").to_str().unwrap().to_string();
    for (name, value) in [("lsm.memtable.rows", "many"), ("lsm.memtable.rows", "0")] {
        let mut spec = spec(1);
        spec.defaults.insert(name.into(), value.into());
        let error = LsmTable::builder(&uri).create(spec).open().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(!std::path::Path::new(&uri).exists());
    }
}

#[tokio::test]
async fn whoever_has_a_replaced_table_open_notices_when_it_looks() {
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("t").to_str().unwrap().to_string();
    let never = |builder: TableBuilder| builder.option("lsm.base.refresh", "none");
    let writer = never(LsmTable::builder(&uri)).create(spec(1)).open().await.unwrap();
    writer.put(rows(&[1], "old")).await.unwrap();
    let reader = never(LsmTable::builder(&uri)).option("lsm.access", "read").open().await.unwrap();
    assert_eq!(scan(&reader).await.len(), 1);
    let new = LsmTable::builder(&uri).replace(true).create(spec(1)).open().await.unwrap();
    new.put(rows(&[2], "new")).await.unwrap();
    for old in [&reader, &writer] {
        assert_eq!(old.refresh().await.unwrap_err().kind(), ErrorKind::Fenced);
        assert!(!old.is_usable());
    }
    assert_eq!(writer.put(rows(&[3], "old")).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(scan(&new).await, [(2, "new 2".to_string())]);
    new.refresh().await.unwrap();
    assert!(new.is_usable());
}

#[tokio::test]
async fn settings_that_cannot_be_stored_replace_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("t").to_str().unwrap().to_string();
    let table = LsmTable::builder(&uri).create(spec(1)).open().await.unwrap();
    table.put(rows(&[1], "kept")).await.unwrap();
    let mut bad = spec(1);
    bad.defaults.insert("lsm.memtable.rows".into(), "0".into());
    let error = LsmTable::builder(&uri).replace(true).create(bad).open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert_eq!(scan(&table).await, [(1, "kept 1".to_string())]);
}

#[tokio::test]
async fn the_rest_of_a_deleted_table_is_not_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let uri = path.to_str().unwrap().to_string();
    let table = LsmTable::builder(&uri).create(spec(1)).open().await.unwrap();
    table.put(rows(&[1], "old")).await.unwrap();
    table.close().await.unwrap();
    for gone in ["_versions", "_transactions", "data"] {
        let _ = std::fs::remove_dir_all(path.join(gone));
    }
    let error = LsmTable::builder(&uri).create(spec(1)).open().await.unwrap_err();
    assert!(error.message().contains("deleted in part"), "{error}");
    let new = LsmTable::builder(&uri).replace(true).create(spec(1)).open().await.unwrap();
    assert_eq!(scan(&new).await, []);
}
