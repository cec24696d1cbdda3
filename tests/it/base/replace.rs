//! TRUNCATE and OVERWRITE, and commits of others.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::array::Int64Array;
use lance::dataset::mem_wal::DatasetMemWalExt;
use lance::dataset::{InsertBuilder, WriteMode, WriteParams};
use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::scalar::ScalarIndexParams;

use crate::place::*;
use datafusion_lsm::error::ErrorKind;
use datafusion_lsm::ids::{GenerationId, ShardId};

#[tokio::test]
async fn one_commit_replaces_rows_and_marks_generations() {
    let place = Place::new().await;
    let table = place.create(&spec()).await;
    let table =
        table.replace(stream(vec![rows(vec![1, 2], vec!["a", "b"])]), &[], std::future::ready(Ok(()))).await.unwrap();
    let mut lance = place.lance().await;
    lance
        .create_index(&["id"], IndexType::BTree, Some("by_id".into()), &ScalarIndexParams::default(), true)
        .await
        .unwrap();
    let table = table.refresh().await.unwrap().unwrap();

    let shard = ShardId::unsharded();
    let marks = [(shard, GenerationId(3)), (shard, GenerationId(2))];
    let after = table
        .replace(stream(vec![rows(vec![7], vec!["z"]), rows(vec![8], vec!["y"])]), &marks, std::future::ready(Ok(())))
        .await
        .unwrap();
    assert_eq!(after.version(), table.version() + 1);
    assert_eq!(table.rows(), 2, "the old version stays readable");
    assert_eq!(scan(&table, &[0], &[]).await.num_rows(), 2);

    let reopened = place.reopen().await;
    assert_eq!(reopened.version(), after.version());
    assert_eq!(reopened.compacted(shard), GenerationId(3));
    assert_eq!(
        scan(&reopened, &[0], &[]).await.column(0).as_primitive::<arrow::datatypes::Int64Type>().values(),
        &[7, 8]
    );
    assert_eq!(reopened.defaults()["lsm.format"], "1");
    let lance = place.lance().await;
    let names: Vec<_> = lance.load_indices().await.unwrap().iter().map(|i| i.name.clone()).collect();
    assert!(names.contains(&"by_id".to_string()), "{names:?}");
    let (found, _) = reopened.find(&[Arc::new(Int64Array::from(vec![8, 1]))], &[1]).await.unwrap();
    assert_eq!(strings(found.column(0)), ["y"], "rows that the index does not cover are found, removed ones are not");
    lance.validate().await.unwrap();
    assert_eq!(lance.mem_wal_index_details().await.unwrap().unwrap().sharding_specs.len(), 1);
}

#[tokio::test]
async fn a_table_is_emptied_and_marks_never_go_back() {
    let place = Place::new().await;
    let shard = ShardId::unsharded();
    let table = place.create(&spec()).await;
    let table = table
        .replace(stream(vec![rows(vec![1], vec!["a"])]), &[(shard, GenerationId(5))], std::future::ready(Ok(())))
        .await
        .unwrap();
    let empty = rows(vec![], vec![]);
    let table =
        table.replace(stream(vec![empty]), &[(shard, GenerationId(4))], std::future::ready(Ok(()))).await.unwrap();
    assert_eq!((table.rows(), table.compacted(shard)), (0, GenerationId(5)));
    assert_eq!((place.reopen().await.rows(), scan(&table, &[0], &[]).await.num_rows()), (0, 0));
    let table = table
        .replace(stream(vec![rows(vec![2], vec!["b"])]), &[(shard, GenerationId(6))], std::future::ready(Ok(())))
        .await
        .unwrap();
    assert_eq!((table.rows(), table.compacted(shard)), (1, GenerationId(6)));
}

#[tokio::test]
async fn rows_that_are_not_the_tables_change_nothing() {
    let place = Place::new().await;
    let table = place.create(&spec()).await;
    let wrong = rows(vec![1], vec!["a"]).project(&[1, 0]).unwrap();
    let error = table.replace(stream(vec![wrong]), &[], std::future::ready(Ok(()))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(place.reopen().await.version(), table.version());
}

#[tokio::test]
async fn a_commit_that_changed_the_same_rows_first_wins() {
    let place = Place::new().await;
    let table = place.create(&spec()).await;
    let table =
        table.replace(stream(vec![rows(vec![1, 2], vec!["a", "b"])]), &[], std::future::ready(Ok(()))).await.unwrap();
    let newer = table.replace(stream(vec![rows(vec![3], vec!["c"])]), &[], std::future::ready(Ok(()))).await.unwrap();
    let error =
        table.replace(stream(vec![rows(vec![4], vec!["d"])]), &[], std::future::ready(Ok(()))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(place.reopen().await.version(), newer.version());
}

#[tokio::test]
async fn commits_of_others_are_seen_by_refresh() {
    let place = Place::new().await;
    let table = place.create(&spec()).await;
    let params = WriteParams { mode: WriteMode::Append, ..Default::default() };
    let appended =
        InsertBuilder::new(place.io.uri()).with_params(&params).execute(vec![rows(vec![1], vec!["a"])]).await;
    appended.unwrap();
    let newer = table.refresh().await.unwrap().unwrap();
    assert_eq!((newer.version(), newer.rows(), table.rows()), (table.version() + 1, 1, 0));
    assert!(newer.refresh().await.unwrap().is_none());
}
