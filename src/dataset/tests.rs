//! Opening datasets and reading them under a table's schema.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Int64Array, ListArray, RecordBatch, RecordBatchIterator, StringArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt64Type};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::collect;
use datafusion::prelude::{col, lit};
use lance::Dataset;
use lance::dataset::WriteParams;
use lance::dataset::mem_wal::arrow_schema_with_field_ids;

use super::row_readers::RowReaders;
use super::{DatasetHandle, conform};
use crate::cache::{MemoryBudget, ReadBudget};
use crate::error::{ErrorKind, Result};
use crate::schema::TableSchema;
use crate::store::StoreOptions;
use crate::text_search::{TextAnalyzer, TextSearch, matching_counted};

async fn dataset(uri: &str, params: Option<WriteParams>) -> Arc<Dataset> {
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(vec![1, 2, 3]))]).unwrap();
    Arc::new(Dataset::write(RecordBatchIterator::new([Ok(batch)], schema), uri, params).await.unwrap())
}

async fn handle(dataset: &Arc<Dataset>) -> Arc<DatasetHandle> {
    handle_within(dataset, &MemoryBudget::global()).await
}

/// A handle whose rows are charged to `budget`.
async fn handle_within(dataset: &Arc<Dataset>, budget: &Arc<MemoryBudget>) -> Arc<DatasetHandle> {
    let numbered = arrow_schema_with_field_ids(dataset.schema());
    open(dataset, &numbered, budget).await.unwrap()
}

/// `dataset` as rows with these columns.
async fn open(dataset: &Arc<Dataset>, columns: &Schema, budget: &Arc<MemoryBudget>) -> Result<Arc<DatasetHandle>> {
    let schema = Arc::new(TableSchema::try_new(columns, &["id".into()])?);
    let (options, reads) = (StoreOptions::default(), ReadBudget::global());
    DatasetHandle::open(Arc::clone(dataset), schema, "it".into(), budget.lease(), &options, reads).await
}

#[tokio::test]
async fn deleted_rows_are_neither_counted_nor_read_nor_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut dataset = Arc::unwrap_or_clone(dataset(dir.path().to_str().unwrap(), None).await);
    dataset.delete("id = 2").await.unwrap();
    let handle = handle(&Arc::new(dataset)).await;
    assert_eq!((handle.rows(), handle.key_map().await.unwrap().len()), (2, 2));
    let plan = handle.scan(&[0], &[]).unwrap();
    let statistics = plan.partition_statistics(None).unwrap();
    assert_eq!(statistics.num_rows.get_value(), Some(&2));
    let read = collect(plan, Arc::default()).await.unwrap();
    assert_eq!(read[0].column(0).as_primitive::<Int64Type>().values(), &[1, 3]);
    assert_eq!(handle.take(&[1], &[0]).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_small_dataset_stays_in_memory_from_the_second_read_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut dataset = Arc::unwrap_or_clone(dataset(dir.path().to_str().unwrap(), None).await);
    dataset.delete("id = 2").await.unwrap();
    let dataset = Arc::new(dataset);
    let budget = MemoryBudget::new(1 << 20);
    let handle = handle_within(&dataset, &budget).await;
    let read = async |handle: &Arc<DatasetHandle>, projection: &[usize], filters: &[Expr]| {
        collect(handle.scan(projection, filters).unwrap(), Arc::default()).await.unwrap()
    };
    let first = read(&handle, &[0], &[]).await;
    assert!(!handle.is_resident() && budget.used() == 0);
    let second = read(&handle, &[0], &[]).await;
    assert!(handle.is_resident() && budget.used() > 0);
    std::fs::remove_dir_all(dir.path().join("data")).unwrap();
    assert_eq!(first, second);
    assert_eq!(first, read(&handle, &[0], &[]).await);
    let filtered = read(&handle, &[], &[col("id").gt(lit(2i64))]).await;
    assert_eq!(filtered[0].column(0).as_primitive::<UInt64Type>().values(), &[2]);
    let taken = handle.take(&[2, 0], &[0]).await.unwrap();
    assert_eq!(taken.column(0).as_primitive::<Int64Type>().values(), &[3, 1]);
    // When memory is short the rows are given back.
    budget.reclaim();
    assert!(!handle.is_resident() && budget.used() == 0);
}

#[tokio::test]
async fn texts_that_are_in_memory_get_an_index_there() {
    let dir = tempfile::tempdir().unwrap();
    let texts = ["a red fox", "", "the fox", "red"].into_iter().chain(["gone"; 2]);
    let body = StringArray::from_iter(texts.enumerate().map(|(i, text)| (i != 1).then_some(text)));
    let id = Int64Array::from_iter_values(0..6);
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(id) as ArrayRef, false),
        ("body", Arc::new(body) as ArrayRef, true),
    ])
    .unwrap();
    let reader = RecordBatchIterator::new([Ok(batch.clone())], batch.schema());
    let mut dataset = Dataset::write(reader, dir.path().to_str().unwrap(), None).await.unwrap();
    dataset.delete("id >= 4").await.unwrap();
    let budget = MemoryBudget::new(1 << 20);
    let handle = handle_within(&Arc::new(dataset), &budget).await;
    let analyzer = TextAnalyzer::default_one();
    for _ in 0..2 {
        assert!(!handle.has_text_index(1) && handle.text_index(1, &analyzer).await.unwrap().is_none());
        handle.keep_small().await;
    }
    assert!(handle.has_text_index(1));
    let of_rows = budget.used();
    let index = handle.text_index(1, &analyzer).await.unwrap().unwrap();
    assert!(index.uncovered().is_empty() && budget.used() > of_rows);
    let again = handle.text_index(1, &analyzer).await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&index, &again), "it is made once");
    for (query, expected) in [("fox", vec![0, 2]), ("\"red fox\"", vec![0]), ("gone", vec![])] {
        let search = TextSearch::parse("body", query, &analyzer).unwrap();
        assert!(index.can_find(&search.query));
        let [part] = index.load(&search.query).await.unwrap().try_into().unwrap();
        let found = matching_counted(&search, &[part.index()], part.index().rows()).0;
        assert_eq!(part.row_ids(&found).iter().collect::<Vec<_>>(), expected, "{query}");
    }
    drop((index, again));
    budget.reclaim();
    assert!(!handle.has_text_index(1) && budget.used() == 0);
    assert!(handle.text_index(1, &analyzer).await.unwrap().is_none());
}

#[tokio::test]
async fn a_dataset_stays_in_storage_while_memory_is_short() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path().to_str().unwrap(), None).await;
    let handle = handle_within(&dataset, &MemoryBudget::new(0)).await;
    for _ in 0..3 {
        let rows = collect(handle.scan(&[0], &[]).unwrap(), Arc::default()).await.unwrap();
        assert_eq!(rows[0].num_rows(), 3);
        assert!(!handle.is_resident());
    }
}

#[tokio::test]
async fn rows_are_taken_in_any_order_from_wherever_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let texts = StringArray::from_iter((0..40).map(|i| (i % 3 != 1).then(|| "x".repeat(i))));
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>((0..40).map(|i| Some((0..i % 5).map(Some))));
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from_iter_values(0..40)) as ArrayRef, false),
        ("text", Arc::new(texts) as ArrayRef, true),
        ("list", Arc::new(lists) as ArrayRef, true),
    ])
    .unwrap();
    for uri in [dir.path().to_str().unwrap(), "memory://rows_are_taken"] {
        let params = WriteParams { max_rows_per_file: 7, ..Default::default() };
        let reader = RecordBatchIterator::new([Ok(batch.clone())], batch.schema());
        let mut dataset = Dataset::write(reader, uri, Some(params)).await.unwrap();
        dataset.delete("id in (8, 39)").await.unwrap();
        let handle = handle(&Arc::new(dataset)).await;
        assert!(RowReaders::open(handle.dataset(), &StoreOptions::default()).await.unwrap().is_some());
        let row_id = |id: u64| ((id / 7) << 32) | (id % 7);
        for ids in [vec![3], vec![39 - 1, 0, 7, 6, 7, 20], (9..20).collect(), vec![5, 5, 5], vec![], vec![34, 12, 34]] {
            let row_ids: Vec<u64> = ids.iter().copied().map(row_id).collect();
            for columns in [&[0, 1, 2][..], &[1], &[2, 0]] {
                let taken = handle.take(&row_ids, columns).await.unwrap();
                for (i, column) in columns.iter().enumerate() {
                    let indices = UInt64Array::from(ids.clone());
                    let expected = arrow::compute::take(batch.column(*column), &indices, None).unwrap();
                    assert_eq!(taken.column(i).as_ref(), expected.as_ref(), "{ids:?} {columns:?}");
                }
            }
        }
        for missing in [vec![8], vec![9, 39, 0], vec![8, 8], vec![41]] {
            let row_ids: Vec<u64> = missing.iter().copied().map(row_id).collect();
            assert_eq!(handle.take(&row_ids, &[1]).await.unwrap_err().kind(), ErrorKind::Corrupt, "{missing:?}");
        }
    }
}

#[tokio::test]
async fn what_a_read_puts_in_other_words_is_left_to_lance() {
    let dataset = dataset("memory://left_to_lance", None).await;
    let readers = RowReaders::open(&dataset, &StoreOptions::default()).await.unwrap().unwrap();
    let mut fields = dataset.schema().clone();
    assert!(readers.may_take(1, &fields) && !readers.may_take(100_000, &fields));
    fields.fields[0].metadata.insert("ARROW:extension:name".into(), "lance.json".into());
    assert!(!readers.may_take(1, &fields));
}

#[tokio::test]
async fn stable_row_ids_are_taken_by() {
    let dir = tempfile::tempdir().unwrap();
    let params = WriteParams { enable_stable_row_ids: true, ..Default::default() };
    let mut dataset = Arc::unwrap_or_clone(dataset(dir.path().to_str().unwrap(), Some(params)).await);
    dataset.delete("id = 1").await.unwrap();
    let handle = handle(&Arc::new(dataset)).await;
    let taken = handle.take(&[2, 1], &[0]).await.unwrap();
    assert_eq!(taken.column(0).as_primitive::<Int64Type>().values(), &[3, 2]);
    for missing in [vec![0], vec![77], vec![1, 77]] {
        assert_eq!(handle.take(&missing, &[0]).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[tokio::test]
async fn a_file_that_vanished_is_corrupt_and_named_also_within_a_query() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path().to_str().unwrap(), None).await;
    let handle = handle(&dataset).await;
    std::fs::remove_dir_all(dir.path().join("data")).unwrap();
    let error = collect(handle.scan(&[0], &[]).unwrap(), Arc::default()).await.unwrap_err();
    let error = crate::error::Error::from(error);
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains(&dataset.fragments()[0].files[0].path), "{error}");
}

#[tokio::test]
async fn a_dataset_of_another_table_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path().to_str().unwrap(), None).await;
    let id = |number: &str, data_type| {
        Field::new("id", data_type, false)
            .with_metadata(HashMap::from([("lance:field_id".to_string(), number.to_string())]))
    };
    for (field, said) in [(id("0", DataType::Int32), "stored as Int64"), (id("5", DataType::Int64), "is missing")] {
        let error = open(&dataset, &Schema::new(vec![field]), &MemoryBudget::global()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().contains(said), "{error}");
    }
}

#[test]
fn rows_of_an_older_schema_are_brought_to_the_stored_one() {
    let field = |name: &str, id: &str, nullable| {
        Field::new(name, DataType::Int64, nullable)
            .with_metadata(HashMap::from([("lance:field_id".to_string(), id.to_string())]))
    };
    let longs = |v: i64| Arc::new(Int64Array::from(vec![v])) as ArrayRef;
    let now = Schema::new(vec![field("new", "3", true), field("id", "0", false), field("b", "1", true)]);
    let now = Arc::new(TableSchema::try_new(&now, &["id".into()]).unwrap());
    // `a` became `b`, the old `b` is gone; the `_tombstone` of then has the number of `new`.
    let tombstone = Field::new("_tombstone", DataType::Boolean, false)
        .with_metadata(HashMap::from([("lance:field_id".to_string(), "3".to_string())]));
    let then = vec![field("id", "0", false), field("a", "1", true), field("b", "2", true), tombstone];
    let then = Arc::new(Schema::new(then));
    let gone = Arc::new(arrow::array::BooleanArray::from(vec![true])) as ArrayRef;
    let batch = RecordBatch::try_new(Arc::clone(&then), vec![longs(7), longs(8), longs(9), gone]).unwrap();
    let rows = &conform(&now, &then, vec![batch.clone()]).unwrap()[0];
    assert_eq!(rows.schema_ref(), now.stored());
    assert_eq!(rows.column(0).as_ref().logical_null_count(), 1);
    assert_eq!(rows.column(2), &longs(8));
    assert!(rows.column(3).as_boolean().value(0));

    let plain =
        Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("b", DataType::Int64, true)]));
    let logical = RecordBatch::try_new(Arc::clone(&plain), vec![longs(1), longs(2)]).unwrap();
    let rows = &conform(&now, &plain, vec![logical.clone()]).unwrap()[0];
    assert_eq!((rows.column(2), rows.column(3).as_boolean().value(0)), (&longs(2), false));
    let keyless = Arc::new(Schema::new(vec![field("a", "1", true)]));
    let error = conform(&now, &keyless, vec![logical.project(&[1]).unwrap()]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}
