//! The base drops and renames columns while rows of the old schema are in the WAL and in generations.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::display::array_value_to_string;
use datafusion_lsm::error::ErrorKind;
use datafusion_lsm::index_spec::IndexSpec;
use datafusion_lsm::table::LsmTable;
use lance::Dataset;
use lance::dataset::{ColumnAlteration, NewColumnTransform};

use super::lance_side::Lance;
use crate::support::key_type::KeyType;
use crate::support::place::{Place, quiet};
use crate::support::rows::{self, numbered};

/// Rows as text, in no order.
fn lines(batches: &[RecordBatch]) -> BTreeSet<String> {
    let line = |batch: &RecordBatch, row: usize| {
        let values = batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
        values.collect::<Vec<_>>().join("|")
    };
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| line(batch, row))).collect()
}

/// Everything we show, of any schema.
async fn shown(place: &Place) -> BTreeSet<String> {
    let table = LsmTable::open(&place.uri(), quiet()).await.unwrap();
    lines(&place.try_scan(&table, &table.snapshot()).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_and_a_renamed_column_are_told_apart_by_both() {
    let place = Place::simple();
    let written = Written::write(&place).await;
    let mut base = Dataset::open(&place.uri()).await.unwrap();
    base.drop_columns(&["n"]).await.unwrap();
    // The text takes the name of the number that went.
    base.alter_columns(&[ColumnAlteration::new("s".into()).rename("n".into())]).await.unwrap();

    let ours = shown(&place).await;
    let lance = Lance::open_at_defaults(&place).await;
    assert_eq!(lines(&[lance.scan(&["k", "n"]).await]), ours);
    assert_eq!(ours, written.expected);
    lance.close().await;
    assert_eq!(shown(&place).await, ours, "what Lance replayed and flushed");
}

/// What is in the table, as `key|text`.
struct Written {
    expected: BTreeSet<String>,
}

impl Written {
    async fn write(place: &Place) -> Self {
        let table = place.open(quiet()).await.unwrap();
        let base = numbered(KeyType::Int64, &[(0, 1), (2, 1), (4, 1)]);
        table.replace_all(rows::stream(rows::schema(KeyType::Int64), vec![base])).await.unwrap();
        table.put(numbered(KeyType::Int64, &[(2, 2), (6, 2), (8, 2)])).await.unwrap();
        table.flush().await.unwrap();
        table.put(numbered(KeyType::Int64, &[(8, 3), (10, 3)])).await.unwrap();
        table.delete(KeyType::Int64.batch(&[4])).await.unwrap();
        table.close().await.unwrap();
        let row = |key: i64, n: i64| format!("{}|row {n}", key / 2 * 1_000_003);
        Self { expected: [row(0, 1), row(2, 2), row(6, 2), row(8, 3), row(10, 3)].into() }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_whose_base_changed_is_written_under_the_new_schema() {
    let place = Place::simple();
    Written::write(&place).await;
    let mut base = Dataset::open(&place.uri()).await.unwrap();
    base.drop_columns(&["n"]).await.unwrap();
    let table = LsmTable::open(&place.uri(), quiet()).await.unwrap();
    assert_eq!(table.schema().fields().len(), 2);
    let batch = numbered(KeyType::Int64, &[(0, 9), (12, 9)]).project(&[0, 2]).unwrap();
    table.put(batch).await.unwrap();
    table.flush().await.unwrap();
    table.delete(KeyType::Int64.batch(&[2])).await.unwrap();
    let ours = lines(&place.try_scan(&table, &table.snapshot()).await.unwrap());
    table.close().await.unwrap();
    let lance = Lance::open_at_defaults(&place).await;
    assert_eq!(lines(&[lance.scan(&["k", "s"]).await]), ours);
    assert_eq!(ours.len(), 5, "{ours:?}");
    lance.abort().await;
}

#[tokio::test]
async fn who_cannot_follow_the_columns_fences_nobody() {
    let place = Place::simple();
    let writer = place.open(quiet()).await.unwrap();
    writer.put(numbered(KeyType::Int64, &[(1, 1)])).await.unwrap();
    let table = place.open(quiet()).await.unwrap();
    let mut base = Dataset::open(&place.uri()).await.unwrap();
    base.drop_columns(&["s"]).await.unwrap();
    let error = table.put(numbered(KeyType::Int64, &[(2, 2)])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert_eq!(writer.put(numbered(KeyType::Int64, &[(3, 3)])).await.unwrap(), 1);
    writer.flush().await.unwrap();
}

#[tokio::test]
async fn a_column_that_was_dropped_and_added_again_is_another_one() {
    let place = Place::simple();
    let table = place.open(quiet()).await.unwrap();
    table.put(numbered(KeyType::Int64, &[(1, 1)])).await.unwrap();
    let mut base = Dataset::open(&place.uri()).await.unwrap();
    base.drop_columns(&["s"]).await.unwrap();
    let text = Schema::new(vec![Field::new("s", DataType::Utf8, true)]);
    base.add_columns(NewColumnTransform::AllNulls(Arc::new(text)), None, None).await.unwrap();
    let opened = place.open(quiet()).await.unwrap();
    assert_eq!(opened.schema(), table.schema(), "nothing that users see was changed");
    let error = table.refresh().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.message().contains("open it again"), "{error}");
}

#[tokio::test]
async fn indexes_of_columns_that_are_gone_or_others_now_are_left_out() {
    let place = Place::simple();
    let table = place.open(quiet()).await.unwrap();
    table.put(numbered(KeyType::Int64, &[(1, 1)])).await.unwrap();
    for (column, kind) in [("s", "fts"), ("n", "btree"), ("k", "btree(name='key')")] {
        table.create_index(&IndexSpec::parse(column, kind).unwrap()[0], false).await.unwrap();
    }
    table.flush().await.unwrap();
    table.close().await.unwrap();
    let mut base = Dataset::open(&place.uri()).await.unwrap();
    base.drop_columns(&["n"]).await.unwrap();
    base.alter_columns(&[ColumnAlteration::new("s".into()).rename("n".into())]).await.unwrap();
    let table = LsmTable::open(&place.uri(), quiet()).await.unwrap();
    let names = |table: &LsmTable| -> BTreeSet<String> { table.indexes().into_iter().map(|i| i.name).collect() };
    assert_eq!(names(&table), ["key".to_string(), "n_btree".into()].into(), "the index of texts is left out");
    assert!(table.drop_index("s_fts", false).await.unwrap(), "it can be dropped");
    assert!(!table.drop_index("s_fts", true).await.unwrap());
    table.create_index(&IndexSpec::parse("n", "fts(name='s_fts')").unwrap()[0], false).await.unwrap();
    table.drop_index("n_btree", false).await.unwrap();
    table.close().await.unwrap();
    base.checkout_latest().await.unwrap();
    base.drop_columns(&["n"]).await.unwrap();
    assert_eq!(names(&LsmTable::open(&place.uri(), quiet()).await.unwrap()), ["key".to_string()].into());
}
