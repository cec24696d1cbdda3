//! Making a table of a plain dataset.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatchIterator;
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use lance::Dataset;
use lance::dataset::transaction::{Operation, Transaction};
use lance::dataset::{ColumnAlteration, CommitBuilder};
use lance_table::system_index::mem_wal::{MemWalIndexDetails, new_mem_wal_index_meta};

use crate::place::*;
use datafusion_lsm::base::AdoptSpec;
use datafusion_lsm::base::BaseTable;
use datafusion_lsm::error::ErrorKind;

async fn plain(place: &Place, ids: Vec<Option<i64>>) {
    let schema =
        Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("n", DataType::Int64, true)]));
    let ids: ArrayRef = Arc::new(Int64Array::from(ids));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::clone(&ids), ids]).unwrap();
    Dataset::write(RecordBatchIterator::new([Ok(batch)], schema), place.io.uri(), None).await.unwrap();
}

fn by_id() -> AdoptSpec {
    AdoptSpec { key: vec!["id".into()], shards: 1, ..Default::default() }
}

#[tokio::test]
async fn a_plain_dataset_becomes_a_table_and_stays_one() {
    let place = Place::new().await;
    assert!(BaseTable::adopt(&place.opener, &place.io, &by_id()).await.unwrap_err().message().contains("no dataset"));
    plain(&place, vec![Some(1), Some(2)]).await;
    let error = BaseTable::open(&place.opener, &place.io).await.unwrap_err();
    assert!(error.message().contains("lsm.adopt"), "{error}");

    let table = BaseTable::adopt(&place.opener, &place.io, &by_id()).await.unwrap();
    assert_eq!((table.rows(), table.schema().key().names()), (2, vec!["id".to_string()]));
    assert!(!table.schema().logical().field(0).is_nullable());
    let again = BaseTable::adopt(&place.opener, &place.io, &by_id()).await.unwrap();
    assert_eq!((again.version(), place.reopen().await.version()), (table.version(), table.version()));
    let other = AdoptSpec { key: vec!["n".into()], ..by_id() };
    assert_eq!(BaseTable::adopt(&place.opener, &place.io, &other).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_key_that_is_none_is_not_adopted() {
    for (ids, said) in [(vec![Some(1), Some(1)], "not unique"), (vec![Some(1), None], "NULL in primary key")] {
        let place = Place::new().await;
        plain(&place, ids).await;
        let error = BaseTable::adopt(&place.opener, &place.io, &by_id()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(place.lance().await.version().version, 1, "the dataset is as it was");
    }
}

#[tokio::test]
async fn a_table_of_a_newer_format_is_refused() {
    let place = Place::new().await;
    plain(&place, vec![Some(1)]).await;
    let lance = place.lance().await;
    let defaults = HashMap::from([("lsm.format".to_string(), "2".to_string())]);
    let details = MemWalIndexDetails { writer_config_defaults: defaults, ..Default::default() };
    let new_indices = vec![new_mem_wal_index_meta(1, details).unwrap()];
    let operation = Operation::CreateIndex { new_indices, removed_indices: vec![] };
    CommitBuilder::new(Arc::new(lance)).execute(Transaction::new(1, operation, None)).await.unwrap();
    let error = BaseTable::open(&place.opener, &place.io).await.unwrap_err();
    assert!(error.message().contains("format 2"), "{error}");
}

#[tokio::test]
async fn a_dataset_with_other_columns_than_declared_stays_plain() {
    let place = Place::new().await;
    plain(&place, vec![Some(1)]).await;
    let columns = |n: DataType| {
        let fields = vec![Field::new("id", DataType::Int64, false), Field::new("n", n, true)];
        AdoptSpec { columns: Some(Arc::new(Schema::new(fields))), ..by_id() }
    };
    let error = BaseTable::adopt(&place.opener, &place.io, &columns(DataType::Utf8)).await.unwrap_err();
    assert!(error.message().contains("n Utf8"), "{error}");
    assert_eq!(place.lance().await.version().version, 1, "the dataset is as it was");
    BaseTable::adopt(&place.opener, &place.io, &columns(DataType::Int64)).await.unwrap();
}

#[tokio::test]
async fn a_dataset_may_tell_its_key() {
    let place = Place::new().await;
    plain(&place, vec![Some(1)]).await;
    let error = BaseTable::adopt(&place.opener, &place.io, &AdoptSpec::default()).await.unwrap_err();
    assert!(error.message().contains("does not tell its primary key"), "{error}");
    let mut lance = place.lance().await;
    lance.alter_columns(&[ColumnAlteration::new("id".into()).set_nullable(false)]).await.unwrap();
    let mark = [("lance-schema:unenforced-primary-key".to_string(), "true".to_string())];
    lance.update_field_metadata().update("id", mark).unwrap().await.unwrap();
    let table = BaseTable::adopt(&place.opener, &place.io, &AdoptSpec::default()).await.unwrap();
    assert_eq!(table.schema().key().names(), ["id"]);
}
