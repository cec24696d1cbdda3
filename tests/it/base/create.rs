//! Creating, opening, scanning and searching the base table.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::datatypes::Schema;
use arrow::datatypes::{DataType, Field};
use datafusion::physical_plan::collect;
use datafusion::prelude::{col, lit};
use lance::dataset::mem_wal::{DatasetMemWalExt, ShardWriterConfig, evaluate_sharding_spec};
use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::scalar::ScalarIndexParams;

use crate::place::*;
use datafusion_lsm::base::BaseTable;
use datafusion_lsm::base::bucket;
use datafusion_lsm::error::ErrorKind;
use datafusion_lsm::ids::{GenerationId, ShardId};

#[tokio::test]
async fn a_new_table_is_found_again_as_it_was_made() {
    let place = Place::new().await;
    assert!(BaseTable::open(&place.opener, &place.io).await.unwrap().is_none());
    let mut spec = spec_of(
        vec![
            Field::new("v", DataType::Utf8View, true),
            Field::new("b", DataType::Utf8, true),
            Field::new("a", DataType::Int32, false),
        ],
        &["b", "a"],
    );
    spec.shards = 3;
    spec.defaults.insert("lsm.wal.linger".into(), "7ms".into());
    place.create(&spec).await;
    let table = place.reopen().await;
    assert_eq!(table.schema().key().names(), ["b", "a"]);
    assert_eq!(table.schema().logical().field(0).data_type(), &DataType::Utf8);
    assert!(!table.schema().logical().field(1).is_nullable());
    assert_eq!(table.sharding().shards, [ShardId::bucket(0), ShardId::bucket(1), ShardId::bucket(2)]);
    assert_eq!(table.sharding().column.as_deref(), Some("b"));
    assert_eq!(table.defaults()["lsm.wal.linger"], "7ms");
    assert_eq!(table.compacted(ShardId::bucket(0)), GenerationId(0));
    assert_eq!((table.rows(), table.keys().await.unwrap().len()), (0, 0));
    assert_eq!(scan(&table, &[0, 1], &[]).await.num_rows(), 0);
    assert!(table.refresh().await.unwrap().is_none());
}

#[tokio::test]
async fn a_table_that_cannot_be_is_refused() {
    let place = Place::new().await;
    let id = || Field::new("id", DataType::Int64, false);
    let with = |field: Field| spec_of(vec![id(), field], &["id"]);
    let mut sharded = spec_of(vec![Field::new("id", DataType::Binary, false)], &["id"]);
    sharded.shards = 2;
    let mut elsewhere = spec();
    (elsewhere.shards, elsewhere.shard_column) = (2, Some("name".into()));
    let mut none = spec();
    none.shards = 0;
    let cases = [
        (with(Field::new("_rowid", DataType::Int64, true)), "_rowid"),
        (with(Field::new("d", DataType::Decimal32(9, 2), true)), "'d'"),
        (spec_of(vec![id()], &["nope"]), "nope"),
        (sharded, "sharded by column 'id'"),
        (elsewhere, "'name' is not"),
        (none, "1 to 1024"),
    ];
    for (spec, said) in cases {
        let error = BaseTable::create(&place.opener, &place.io, &spec).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains(said), "{error}");
    }
    assert!(BaseTable::open(&place.opener, &place.io).await.unwrap().is_none());
    place.create(&spec()).await;
    let error = BaseTable::create(&place.opener, &place.io, &spec()).await.unwrap_err();
    assert!(error.message().contains("already"), "{error}");
}

#[tokio::test]
async fn everything_a_table_is_made_of_is_synced() {
    let place = Place::new().await;
    let io = place.io.clone().with_hook(Arc::new(Recorder::default()));
    let table = BaseTable::create(&place.opener, &io, &spec()).await.unwrap();
    table.replace(stream(vec![rows(vec![1], vec!["a"])]), &[], std::future::ready(Ok(()))).await.unwrap();
    assert!(io.synced().is_some());
    assert_eq!(io.unsynced("").await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn scans_filter_project_and_can_be_repeated() {
    let place = Place::new().await;
    let table = place.create(&spec()).await;
    let table = table
        .replace(stream(vec![rows(vec![1, 2, 3], vec!["a", "b", "c"])]), &[], std::future::ready(Ok(())))
        .await
        .unwrap();
    let plan = table.scan(&[1], &[col("id").gt(lit(1i64)), col("t.id").lt(lit(9i64))]).unwrap();
    for _ in 0..2 {
        let batches = collect(Arc::clone(&plan), Arc::default()).await.unwrap();
        assert_eq!(strings(batches[0].column(0)), ["b", "c"]);
        assert_eq!(batches[0].schema().fields().len(), 2);
    }
    let ids = scan(&table, &[], &[]).await;
    assert_eq!((ids.num_rows(), ids.num_columns(), ids.schema().field(0).name().as_str()), (3, 1, "_rowid"));
    let both = scan(&table, &[1, 0], &[]).await;
    assert_eq!(both.schema().field(0).name(), "name");
    let shown = format!("{}", datafusion::physical_plan::displayable(plan.as_ref()).one_line());
    assert!(shown.contains("source=base") && shown.contains("id@1 > 1"), "{shown}");
    assert!(plan.metrics().unwrap().sum_by_name("bytes_read").is_some());
    assert!(table.scan(&[0], &[col("nope").eq(lit(1i64))]).is_err());
}

#[tokio::test]
async fn rows_are_taken_in_the_order_asked_for() {
    let place = Place::new().await;
    let table = place.create(&spec()).await;
    let table = table
        .replace(stream(vec![rows(vec![1, 2, 3], vec!["a", "b", "c"])]), &[], std::future::ready(Ok(())))
        .await
        .unwrap();
    let keys = table.keys().await.unwrap();
    let id = |i: usize| keys.get(keys.keys().get(i), keys.keys().get(i).hash()).unwrap();
    let taken = table.take(&[id(2), id(0), id(2)], &[1]).await.unwrap();
    assert_eq!(strings(taken.column(0)), ["c", "a", "c"]);
    assert_eq!(table.take(&[id(1)], &[]).await.unwrap().num_rows(), 1);
    assert_eq!(table.take(&[], &[0]).await.unwrap().num_rows(), 0);
    for missing in [id(2) + 1, 1 << 50] {
        assert_eq!(table.take(&[id(0), missing], &[0]).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[tokio::test]
async fn keys_are_found_with_an_index_and_without() {
    let place = Place::new().await;
    let table = place.create(&spec()).await;
    let table = table
        .replace(stream(vec![rows(vec![1, 2, 3], vec!["a", "b", "c"])]), &[], std::future::ready(Ok(())))
        .await
        .unwrap();
    let mut lance = place.lance().await;
    lance.create_index(&["id"], IndexType::BTree, None, &ScalarIndexParams::default(), true).await.unwrap();
    let indexed = table.refresh().await.unwrap().unwrap();
    for table in [table, indexed] {
        let (found, which) = table.find(&[Arc::new(Int64Array::from(vec![3, 9, 1]))], &[1]).await.unwrap();
        let mut found: Vec<_> = strings(found.column(0)).into_iter().zip(which).collect();
        found.sort_unstable();
        assert_eq!(found, [("a", 2), ("c", 0)]);
        let (nothing, which) = table.find(&[Arc::new(Int64Array::from(Vec::<i64>::new()))], &[1, 0]).await.unwrap();
        assert_eq!((nothing.num_columns(), which.len()), (2, 0));
    }
}

#[tokio::test]
async fn composite_keys_are_matched_as_wholes() {
    let place = Place::new().await;
    let table = place
        .create(&spec_of(
            vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, false)],
            &["name", "id"],
        ))
        .await;
    let table = table
        .replace(stream(vec![rows(vec![1, 2, 1, 2], vec!["a", "a", "b", "b"])]), &[], std::future::ready(Ok(())))
        .await
        .unwrap();
    let keys: [ArrayRef; 2] = [Arc::new(StringArray::from(vec!["a", "b"])), Arc::new(Int64Array::from(vec![2, 1]))];
    let (found, mut which) = table.find(&keys, &[0, 1]).await.unwrap();
    which.sort_unstable();
    assert_eq!((found.num_rows(), which), (2, vec![0, 1]));
}

#[tokio::test]
async fn keys_beyond_lances_work_here_and_are_refused_there() {
    use arrow::array::*;
    let decimal = Decimal128Array::from(vec![5, 7]).with_precision_and_scale(20, 2).unwrap();
    let uuids = FixedSizeBinaryArray::try_from_iter([[1u8; 16], [2u8; 16]].iter()).unwrap();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Date32Array::from(vec![-3, 20000])),
        Arc::new(Date64Array::from(vec![0, 86_400_000])),
        Arc::new(TimestampMicrosecondArray::from(vec![1, 2]).with_timezone("UTC")),
        Arc::new(TimestampSecondArray::from(vec![-1, 2])),
        Arc::new(decimal),
        Arc::new(uuids),
    ];
    for column in columns {
        let place = Place::new().await;
        let key = Field::new("k", column.data_type().clone(), false);
        let table = place.create(&spec_of(vec![key], &["k"])).await;
        let batch = RecordBatch::try_new(Arc::clone(table.schema().logical()), vec![Arc::clone(&column)]).unwrap();
        let table = table.replace(stream(vec![batch]), &[], std::future::ready(Ok(()))).await.unwrap();
        assert_eq!(table.keys().await.unwrap().len(), 2, "{}", column.data_type());
        let (found, which) = table.find(&[column.slice(1, 1)], &[0]).await.unwrap();
        assert_eq!((found.column(0), which), (&column.slice(1, 1), vec![0]));

        let config = ShardWriterConfig::default();
        let refused = place.lance().await.mem_wal_writer(ShardId::unsharded().0, config).await.err().unwrap();
        assert!(refused.to_string().contains("at most one sharding spec"), "{refused}");
    }
    let place = Place::new().await;
    place.create(&spec()).await;
    let writer = place.lance().await.mem_wal_writer(ShardId::unsharded().0, ShardWriterConfig::default()).await;
    writer.unwrap().close().await.unwrap();
}

#[tokio::test]
async fn rows_go_to_the_shards_that_lance_would_choose() {
    use arrow::array::*;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(-50..50)),
        Arc::new(UInt8Array::from_iter_values(0..100)),
        Arc::new(StringArray::from_iter_values((0..100).map(|i| format!("key {i}")))),
        Arc::new(TimestampNanosecondArray::from_iter_values(0..100)),
        Arc::new(Date32Array::from_iter_values(0..100)),
        Arc::new(BooleanArray::from_iter((0..100).map(|i| Some(i % 3 == 0)))),
    ];
    for column in columns {
        let place = Place::new().await;
        let mut spec = spec_of(
            vec![Field::new("n", DataType::Int32, true), Field::new("k", column.data_type().clone(), false)],
            &["k"],
        );
        spec.shards = 5;
        let table = place.create(&spec).await;
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![0; 100]));
        let batch = RecordBatch::try_new(Arc::clone(table.schema().logical()), vec![numbers, column]).unwrap();
        let ours = bucket(table.sharding(), &batch).unwrap();
        let lance = place.lance().await;
        let details = lance.mem_wal_index_details().await.unwrap().unwrap();
        let theirs = evaluate_sharding_spec(&batch, &details.sharding_specs[0], lance.schema()).unwrap();
        let theirs: Vec<u32> = theirs
            .column(0)
            .as_any()
            .downcast_ref::<Int32Array>()
            .unwrap()
            .values()
            .iter()
            .map(|b| *b as u32)
            .collect();
        assert_eq!(ours, theirs);
        assert!(ours.iter().all(|b| *b < 5));
        let keys_only = batch.project(&[1]).unwrap();
        assert_eq!(bucket(table.sharding(), &keys_only).unwrap(), ours);
    }
    let place = Place::new().await;
    let single = place.create(&spec()).await;
    assert_eq!(bucket(single.sharding(), &rows(vec![1, 2], vec!["a", "b"])).unwrap(), [0, 0]);
}

#[tokio::test]
async fn the_shards_of_a_table_of_lances_are_found() {
    let place = Place::new().await;
    place.create(&spec()).await;
    std::fs::remove_dir_all(place.io.local_root().unwrap()).unwrap();
    let id = Field::new("id", DataType::Int64, false).with_metadata(std::collections::HashMap::from([(
        "lance-schema:unenforced-primary-key".into(),
        "true".into(),
    )]));
    let schema = Arc::new(Schema::new(vec![id]));
    let empty = arrow::array::RecordBatchIterator::new(vec![], schema);
    let mut lance = lance::Dataset::write(empty, place.io.uri(), None).await.unwrap();
    lance.initialize_mem_wal().execute().await.unwrap();
    let table = place.reopen().await;
    assert_eq!((table.sharding().shards.clone(), table.sharding().spec_id), (vec![ShardId::unsharded()], 0));
    let theirs = uuid::Uuid::new_v4();
    lance.mem_wal_writer(theirs, ShardWriterConfig::default()).await.unwrap().close().await.unwrap();
    assert_eq!(place.reopen().await.sharding().shards, [ShardId(theirs)]);
    lance.mem_wal_writer(uuid::Uuid::new_v4(), ShardWriterConfig::default()).await.unwrap().close().await.unwrap();
    let table = place.reopen().await;
    assert_eq!(table.sharding().shards.len(), 2);
    assert_eq!(bucket(table.sharding(), &rows(vec![1], vec!["a"])).unwrap_err().kind(), ErrorKind::Invalid);
}
