//! Generations on a real directory: ours, Lance's, and what each makes of the other's.

mod evolution;
mod interop;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int64Type, UInt64Type};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::collect;
use datafusion::prelude::{col, lit};

use crate::place::{Place, Recorder, rows, spec, spec_of, stream, strings};
use datafusion_lsm::base::BaseTable;
use datafusion_lsm::cache::MemoryBudget;
use datafusion_lsm::dataset::DatasetOpener;
use datafusion_lsm::error::ErrorKind;
use datafusion_lsm::generation::{Generation, GenerationRecord, write};
use datafusion_lsm::ids::{GenerationId, ShardId};
use datafusion_lsm::key::KeyRef;
use datafusion_lsm::store::TablePaths;

async fn flush(place: &Place, table: &BaseTable, id: u64, batches: Vec<RecordBatch>) -> GenerationRecord {
    let shard = ShardId::unsharded();
    write(&place.opener, &place.io, shard, GenerationId(id), batches, table.schema(), table.layout()).await.unwrap()
}

async fn open(place: &Place, table: &BaseTable, record: &GenerationRecord) -> Arc<Generation> {
    let opener = DatasetOpener::new(Default::default(), MemoryBudget::global());
    Generation::open(&opener, place.io.uri(), ShardId::unsharded(), record, table.schema()).await.unwrap()
}

async fn scan(generation: &Generation, projection: &[usize], filters: &[Expr]) -> RecordBatch {
    let plan = generation.scan(projection, filters).unwrap();
    let schema = plan.schema();
    let batches = collect(plan, Arc::default()).await.unwrap();
    assert!(batches.iter().all(|batch| batch.schema() == schema));
    concat_batches(&schema, &batches).unwrap()
}

fn ids(column: &ArrayRef) -> Vec<i64> {
    column.as_primitive::<Int64Type>().values().to_vec()
}

fn longs(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

#[tokio::test]
async fn what_is_flushed_is_read_back_with_its_tombstones() {
    let place = Place::new().await;
    let table = place.create(&spec()).await;
    let live = table.schema().to_stored(&rows(vec![5, 1], vec!["five", "one"])).unwrap();
    let dead = table.schema().tombstones(&[longs(&[7])]).unwrap();
    let record = flush(&place, &table, 4, vec![live.clone(), dead, live.slice(0, 0)]).await;
    assert!(record.path.ends_with("_gen_4") && record.path.len() == 8 + 6, "{}", record.path);
    assert_eq!((record.rows, record.key_bytes), (Some(3), Some(24)));
    assert!(record.bytes.unwrap() > 0);

    let generation = open(&place, &table, &record).await;
    let keys = generation.keys().await.unwrap();
    assert_eq!((generation.id(), generation.rows(), keys.len()), (GenerationId(4), 3, 3));
    assert!(generation.memory() >= 24);
    let read = scan(&generation, &[1, 0], &[]).await;
    assert_eq!((strings(read.column(0)), ids(read.column(1))), (vec!["five", "one", "NULL"], vec![5, 1, 7]));
    let row_ids = read.column(2).as_primitive::<UInt64Type>().values();
    let key = |id: i64| KeyRef::Fixed(id as u64 ^ 1 << 63);
    assert_eq!(keys.get(key(1), key(1).hash()), Some(row_ids[1]));
    assert_eq!(keys.tombstones().iter().collect::<Vec<_>>(), [row_ids[2]]);

    assert_eq!(ids(scan(&generation, &[0], &[col("name").eq(lit("one"))]).await.column(0)), [1]);
    let nothing = scan(&generation, &[], &[col("id").gt(lit(1i64))]).await;
    assert_eq!((nothing.num_rows(), nothing.num_columns()), (2, 1));
    let taken = generation.take(&[row_ids[2], row_ids[0]], &[0, 1]).await.unwrap();
    assert_eq!((ids(taken.column(0)), strings(taken.column(1))), (vec![7, 5], vec!["NULL", "five"]));
}

#[tokio::test]
async fn all_of_a_generation_is_synced_and_one_data_file() {
    let place = Place::new().await;
    let table = place.create(&spec()).await;
    let io = place.io.clone().with_hook(Arc::new(Recorder::default()));
    let batches: Vec<_> = (0..4).map(|i| table.schema().to_stored(&rows(vec![i], vec!["x"])).unwrap()).collect();
    let shard = ShardId::unsharded();
    let record =
        write(&place.opener, &io, shard, GenerationId(1), batches, table.schema(), table.layout()).await.unwrap();
    let dir = TablePaths::generation_dir(shard, &record.path);
    assert_eq!(io.unsynced(&dir).await.unwrap(), Vec::<String>::new());
    assert!(io.synced().unwrap().files().iter().any(|f| f.starts_with(&dir) && f.contains("_pk_index")));
    assert_eq!(io.list(&format!("{dir}/data")).await.unwrap().len(), 1);
    assert_eq!(io.list(&format!("{dir}/_versions")).await.unwrap().len(), 1);
}

#[tokio::test]
async fn every_kind_of_key_is_flushed_and_loaded() {
    use arrow::array::*;
    let columns: Vec<Vec<ArrayRef>> = vec![
        vec![Arc::new(Date32Array::from(vec![1, -2]))],
        vec![Arc::new(Decimal128Array::from(vec![1, -2]))],
        vec![Arc::new(FixedSizeBinaryArray::try_from_iter([[1u8; 16], [2; 16]].iter()).unwrap())],
        vec![Arc::new(TimestampNanosecondArray::from(vec![1, 2]))],
        vec![Arc::new(BinaryArray::from_iter_values([b"a", b"b"]))],
        vec![Arc::new(BooleanArray::from(vec![true, false]))],
        vec![Arc::new(StringArray::from(vec!["a", "a"])), Arc::new(UInt16Array::from(vec![1, 2]))],
        vec![Arc::new(Date32Array::from(vec![1, 1])), Arc::new(StringArray::from(vec!["a", "b"]))],
    ];
    for key in columns {
        let place = Place::new().await;
        let fields: Vec<Field> =
            key.iter().enumerate().map(|(i, c)| Field::new(format!("k{i}"), c.data_type().clone(), false)).collect();
        let names = ["k0", "k1"];
        let table = place.create(&spec_of(fields, &names[..key.len()])).await;
        let batch = RecordBatch::try_new(Arc::clone(table.schema().logical()), key.clone()).unwrap();
        let record = flush(&place, &table, 1, vec![table.schema().to_stored(&batch).unwrap()]).await;
        let generation = open(&place, &table, &record).await;
        assert_eq!(generation.keys().await.unwrap().len(), 2);
        assert_eq!(scan(&generation, &[0], &[]).await.column(0), &key[0]);
    }
}

#[tokio::test]
async fn a_generation_that_is_not_there_or_damaged_is_corrupt() {
    let place = Place::new().await;
    let table = place.create(&spec()).await;
    let mut record = flush(&place, &table, 1, vec![table.schema().to_stored(&rows(vec![1], vec!["a"])).unwrap()]).await;
    let dir = place.io.local_root().unwrap().join(TablePaths::generation_dir(ShardId::unsharded(), &record.path));
    let data = std::fs::read_dir(dir.join("data")).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&data).unwrap();
    std::fs::write(&data, &bytes[..bytes.len() / 2]).unwrap();
    let damaged = reopen(&place, &table, &record).await;
    std::fs::remove_file(&data).unwrap();
    let without_data = reopen(&place, &table, &record).await;
    record.path = "00000000_gen_1".into();
    let missing = reopen(&place, &table, &record).await;
    for error in [damaged, without_data, missing] {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("_gen_1"), "{error}");
    }
    let error =
        write(&place.opener, &place.io, ShardId::unsharded(), GenerationId(2), vec![], table.schema(), table.layout());
    assert_eq!(error.await.unwrap_err().kind(), ErrorKind::Internal);
}

async fn reopen(place: &Place, table: &BaseTable, record: &GenerationRecord) -> datafusion_lsm::error::Error {
    let opener = DatasetOpener::new(Default::default(), MemoryBudget::global());
    Generation::open(&opener, place.io.uri(), ShardId::unsharded(), record, table.schema()).await.unwrap_err()
}

#[tokio::test]
async fn a_table_in_an_object_store_works_as_one_on_disk() {
    let opener = DatasetOpener::new(Default::default(), MemoryBudget::global());
    let io =
        datafusion_lsm::store::ObjectIo::open("memory://generations/table", &Default::default(), true).await.unwrap();
    let table = BaseTable::create(&opener, &io, &spec()).await.unwrap();
    let shard = ShardId::unsharded();
    let batch = table.schema().to_stored(&rows(vec![1], vec!["a"])).unwrap();
    let record =
        write(&opener, &io, shard, GenerationId(1), vec![batch], table.schema(), table.layout()).await.unwrap();
    let generation = Generation::open(&opener, io.uri(), shard, &record, table.schema()).await.unwrap();
    assert_eq!(strings(scan(&generation, &[1], &[]).await.column(0)), ["a"]);
    let table = table
        .replace(stream(vec![rows(vec![2], vec!["b"])]), &[(shard, record.id)], std::future::ready(Ok(())))
        .await
        .unwrap();
    assert_eq!((table.rows(), table.compacted(shard)), (1, GenerationId(1)));
    assert!(BaseTable::open(&opener, &io).await.unwrap().is_some());
}
