//! Lance's generations read here, ours read by Lance.

use datafusion::common::ScalarValue;
use lance::dataset::mem_wal::scanner::{LsmDataSourceCollector, LsmPointLookupPlanner};
use lance::dataset::mem_wal::{DatasetMemWalExt, LsmScanner, ShardSnapshot, ShardWriterConfig};

use super::*;

#[tokio::test]
async fn what_lance_flushed_is_read_with_duplicates_hidden() {
    let place = Place::new().await;
    let table = place.create(&spec()).await;
    let lance = place.lance().await;
    let shard = ShardId::unsharded();
    let writer = lance.mem_wal_writer(shard.0, ShardWriterConfig::default()).await.unwrap();
    writer.put(vec![rows(vec![1, 2, 3], vec!["a", "b", "c"])]).await.unwrap();
    writer.put(vec![rows(vec![2, 2], vec!["older", "newer"])]).await.unwrap();
    writer.delete(vec![rows(vec![3], vec![""]).project(&[0]).unwrap()]).await.unwrap();
    writer.close().await.unwrap();
    let manifest = lance.mem_wal_writer(shard.0, ShardWriterConfig::default()).await.unwrap();
    let manifest = manifest.manifest().await.unwrap().unwrap();
    let theirs = &manifest.sstables[0];
    let record = GenerationRecord {
        id: GenerationId(theirs.generation),
        path: theirs.path.clone(),
        bytes: theirs.in_memory_bytes,
        rows: theirs.physical_rows,
        key_bytes: theirs.primary_key_bytes,
    };

    let generation = open(&place, &table, &record).await;
    let keys = generation.keys().await.unwrap();
    assert_eq!((generation.rows(), keys.len(), keys.tombstones().len()), (3, 3, 1));
    let read = scan(&generation, &[0, 1], &[]).await;
    assert_eq!((ids(read.column(0)), strings(read.column(1))), (vec![1, 2, 3], vec!["a", "newer", "NULL"]));
    let row_ids = read.column(2).as_primitive::<UInt64Type>().values();
    let taken = generation.take(&[row_ids[1]], &[1]).await.unwrap();
    assert_eq!(strings(taken.column(0)), ["newer"]);
    assert_eq!(generation.take(&[1], &[0]).await.unwrap_err().kind(), ErrorKind::Corrupt, "a hidden row");
}

#[tokio::test]
async fn what_we_flush_lance_reads() {
    for composite in [false, true] {
        let place = Place::new().await;
        let name = Field::new("name", DataType::Utf8, !composite);
        let key: &[&str] = if composite { &["name", "id"] } else { &["id"] };
        let table = place.create(&spec_of(vec![Field::new("id", DataType::Int64, false), name], key)).await;
        let logical = |ids: &[i64], names: Vec<&str>| {
            let columns: Vec<ArrayRef> = vec![longs(ids), Arc::new(StringArray::from(names))];
            RecordBatch::try_new(Arc::clone(table.schema().logical()), columns).unwrap()
        };
        let stored = |batch: RecordBatch| table.schema().to_stored(&batch).unwrap();
        let base = table
            .replace(stream(vec![logical(&[1, 9], vec!["a", "base"])]), &[], std::future::ready(Ok(())))
            .await
            .unwrap();
        let first = flush(&place, &table, 1, vec![stored(logical(&[3, 1, 2], vec!["c", "a", "b"]))]).await;
        let dead: Vec<ArrayRef> = match composite {
            true => vec![Arc::new(StringArray::from(vec!["c"])), longs(&[3])],
            false => vec![longs(&[3])],
        };
        let second = vec![table.schema().tombstones(&dead).unwrap(), stored(logical(&[2], vec!["b"]))];
        let second = flush(&place, &base, 2, second).await;

        let lance = Arc::new(place.lance().await);
        let snapshot = ShardSnapshot::new(ShardId::unsharded().0)
            .with_current_generation(3)
            .with_sstable(1, first.path)
            .with_sstable(2, second.path);
        let key: Vec<String> = key.iter().map(ToString::to_string).collect();
        let scanner = LsmScanner::new(Arc::clone(&lance), vec![snapshot.clone()], key.clone());
        let read = scanner.project(&["id", "name"]).unwrap().try_into_batch().await.unwrap();
        let mut read: Vec<_> = ids(read.column(0)).into_iter().zip(strings(read.column(1))).collect();
        read.sort_unstable();
        assert_eq!(read, [(1, "a"), (2, "b"), (9, "base")]);

        let sources = LsmDataSourceCollector::new(lance, vec![snapshot]);
        let planner = LsmPointLookupPlanner::new(sources, key, Arc::clone(table.schema().logical())).unwrap();
        let lookup = |id: i64, name: &str| match composite {
            true => vec![ScalarValue::from(name), ScalarValue::from(id)],
            false => vec![ScalarValue::from(id)],
        };
        assert!(planner.lookup(&lookup(3, "c"), None).await.unwrap().is_none());
        assert_eq!(planner.lookup(&lookup(2, "b"), None).await.unwrap().unwrap().num_rows(), 1);
    }
}

#[tokio::test]
async fn lance_finds_composite_keys_of_every_kind_in_our_sidecar() {
    use arrow::array::*;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["", "a", "a\0", "a\0b"])),
        Arc::new(BinaryArray::from_iter_values([&[0u8, 0][..], &[0], &[], &[255, 0, 1]])),
        Arc::new(BooleanArray::from(vec![true, false, true, false])),
        Arc::new(Int8Array::from(vec![-128, -1, 0, 127])),
        Arc::new(Int64Array::from(vec![i64::MIN, -1, 0, i64::MAX])),
        Arc::new(UInt16Array::from(vec![0, 1, 256, u16::MAX])),
        Arc::new(UInt64Array::from(vec![0, 1, 256, u64::MAX])),
        Arc::new(LargeStringArray::from(vec!["x", "y", "", "z"])),
    ];
    let place = Place::new().await;
    let names: Vec<String> = (0..columns.len()).map(|i| format!("k{i}")).collect();
    let fields = names.iter().zip(&columns).map(|(name, c)| Field::new(name, c.data_type().clone(), false)).collect();
    let key: Vec<&str> = names.iter().map(String::as_str).collect();
    let table = place.create(&spec_of(fields, &key)).await;
    let batch = RecordBatch::try_new(Arc::clone(table.schema().logical()), columns).unwrap();
    let stored = table.schema().to_stored(&batch).unwrap();
    let first = flush(&place, &table, 1, vec![stored.clone()]).await;
    let second = flush(&place, &table, 2, vec![stored.slice(2, 2), stored.slice(0, 2)]).await;
    let snapshot = ShardSnapshot::new(ShardId::unsharded().0)
        .with_current_generation(3)
        .with_sstable(1, first.path)
        .with_sstable(2, second.path);
    let scanner = LsmScanner::new(Arc::new(place.lance().await), vec![snapshot], names.clone());
    let read = scanner.try_into_batch().await.unwrap();
    assert_eq!(read.num_rows(), 4, "the newer generation hides every row of the older one");
}
