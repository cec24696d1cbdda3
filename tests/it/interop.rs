//! One table, two engines: Lance 14's own writer and scanner are the oracle for what we read and the reader of what we
//! write. They meet only through the files.

mod exchange;
mod indexes;
mod lance_side;
mod schema_change;
mod summary;

use datafusion_lsm::ids::ShardId;
use datafusion_lsm::settings::Settings;
use lance_side::Lance;

use crate::support::key_type::KeyType;
use crate::support::place::{Place, quiet};
use crate::support::rows::{self, numbered};

fn range(keys: std::ops::Range<u32>, n: i64) -> Vec<(u32, i64)> {
    keys.map(|key| (key, n)).collect()
}

/// A table that Lance wrote: rows in the base, two generations with duplicates and tombstones, and a WAL tail.
async fn written_by_lance(place: &Place) -> Lance {
    let key_type = place.key_type;
    Lance::create(place, &numbered(key_type, &range(0..40, 0))).await;
    let lance = Lance::open(place).await;
    lance.put(&numbered(key_type, &range(5..15, 1))).await;
    lance.put(&numbered(key_type, &[(7, 2), (8, 2), (7, 3)])).await;
    lance.delete(&[9, 20, 100]).await;
    lance.freeze().await;
    lance.put(&numbered(key_type, &range(10..12, 4))).await;
    lance.delete(&[10, 30]).await;
    lance.put(&numbered(key_type, &[(9, 5), (50, 5)])).await;
    lance.freeze().await;
    lance.put(&numbered(key_type, &[(10, 6), (50, 6), (60, 6)])).await;
    lance.delete(&[11, 0, 60]).await;
    lance
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lance_wrote_reads_here_as_there() {
    for key_type in [KeyType::Int64, KeyType::Text, KeyType::Composite] {
        let place = Place::new(key_type, 1);
        let lance = written_by_lance(&place).await;
        let expected = lance.rows().await;
        assert_eq!((expected.get(&7).unwrap().n, expected.get(&10).unwrap().n, expected.get(&0)), (3, 6, None));

        // Beside the running writer, then in its place.
        let reader = place.reader().await;
        assert_eq!(place.rows(&reader).await, expected, "{key_type:?}");
        let generations = reader.sources().iter().filter(|s| s.kind == "generation").count();
        assert_eq!(generations, 2);
        lance.put(&numbered(key_type, &[(70, 7)])).await;
        reader.refresh().await.unwrap();
        let expected = lance.rows().await;
        assert_eq!(place.rows(&reader).await, expected, "{key_type:?}");

        let table = place.open(quiet()).await.unwrap();
        let keys: Vec<u32> = (0..110).collect();
        let found = table.get_many(&key_type.batch(&keys)).await.unwrap();
        assert_eq!(rows::collected(key_type, &[found]), expected, "{key_type:?}");
        table.put(numbered(key_type, &[(70, 8), (71, 8)])).await.unwrap();
        assert!(lance.try_put(&numbered(key_type, &[(72, 9)])).await.is_err(), "Lance's writer is fenced");
        lance.abort().await;
        let mut expected = expected;
        expected.extend([(70, rows::Row::new(8)), (71, rows::Row::new(8))]);
        assert_eq!(place.rows(&table).await, expected, "{key_type:?}");
        table.flush().await.unwrap();
        assert_eq!(place.rows(&table).await, expected, "{key_type:?}");
        drop(table);
        let lance = Lance::open(&place).await;
        assert_eq!(lance.rows().await, expected, "{key_type:?}");
        lance.abort().await;
    }
}

/// Base, generations with duplicates and tombstones, and a WAL tail, written here.
async fn written_here(place: &Place) -> rows::Rows {
    let key_type = place.key_type;
    let table = place.open(quiet()).await.unwrap();
    let base = numbered(key_type, &range(0..40, 0));
    table.replace_all(rows::stream(rows::schema(key_type), vec![base])).await.unwrap();
    table.put(numbered(key_type, &range(5..15, 1))).await.unwrap();
    table.put(numbered(key_type, &[(7, 2), (8, 2), (7, 3)])).await.unwrap();
    table.delete(key_type.batch(&[9, 20, 100])).await.unwrap();
    table.flush().await.unwrap();
    table.put(numbered(key_type, &range(10..12, 4))).await.unwrap();
    table.delete(key_type.batch(&[10, 30])).await.unwrap();
    table.put(numbered(key_type, &[(9, 5), (50, 5)])).await.unwrap();
    table.flush().await.unwrap();
    table.put(numbered(key_type, &[(10, 6), (50, 6), (60, 6)])).await.unwrap();
    table.delete(key_type.batch(&[11, 0, 60])).await.unwrap();
    // Three writes in one entry.
    let pending = [
        table.put_no_wait(numbered(key_type, &[(80, 1)])).await.unwrap(),
        table.put_no_wait(numbered(key_type, &[(80, 2), (81, 2)])).await.unwrap(),
        table.put_no_wait(numbered(key_type, &[(81, 3)])).await.unwrap(),
    ];
    for write in pending {
        write.wait().await.unwrap();
    }
    let rows = place.rows(&table).await;
    table.close().await.unwrap();
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_we_wrote_lances_writer_takes_over_and_its_scanner_reads() {
    for (key_type, shards) in
        [(KeyType::Int64, 1), (KeyType::Text, 1), (KeyType::Composite, 1), (KeyType::Int64, 3), (KeyType::Text, 3)]
    {
        let place = Place::new(key_type, shards);
        let expected = written_here(&place).await;
        let lance = Lance::open_at_defaults(&place).await;
        assert_eq!(lance.rows().await, expected, "{key_type:?} on {shards} shards");
        for key in [0, 7, 9, 10, 50, 80, 99] {
            let found = lance.lookup(key).await.map(|row| row.n);
            assert_eq!(found, expected.get(&key).map(|row| row.n), "key {key} of {key_type:?} on {shards} shards");
        }
        if shards == 1 {
            lance.put(&numbered(key_type, &[(1, 9), (90, 9)])).await;
            lance.delete(&[2, 80]).await;
        }
        let expected = lance.rows().await;
        lance.close().await;
        let table = place.open(quiet()).await.unwrap();
        assert_eq!(place.rows(&table).await, expected, "{key_type:?} on {shards} shards");
        let wal = table.wal().await.unwrap();
        assert!(wal.iter().all(|w| w.epoch >= 1 && w.role == "reader"), "{wal:?}");
        table.put(numbered(key_type, &[(1, 10)])).await.unwrap();
        assert_eq!(place.rows(&table).await[&1].n, 10);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memtable_as_large_as_lances_defaults_allow_is_taken_over() {
    let place = Place::simple();
    let table = place.open(quiet()).await.unwrap();
    let settings = Settings { memtable_entries: 8_000, ..quiet() };
    assert_eq!(table.settings().memtable_rows, settings.memtable_rows);
    // One row more than a memtable takes, in writes that do not divide it evenly.
    let mut key = 0;
    while key < 100_001 {
        let end = (key + 7_777).min(100_001);
        table.put(numbered(KeyType::Int64, &range(key..end, 1))).await.unwrap();
        key = end;
    }
    table.close().await.unwrap();
    let lance = Lance::open_at_defaults(&place).await;
    assert_eq!(lance.rows().await.len(), 100_001);
    lance.close().await;
    assert_eq!(place.rows(&place.open(quiet()).await.unwrap()).await.len(), 100_001);
}

#[tokio::test]
async fn lance_refuses_tables_with_keys_that_it_does_not_know() {
    for key_type in [KeyType::Date, KeyType::Decimal, KeyType::Uuid] {
        let place = Place::new(key_type, 1);
        let table = place.open(quiet()).await.unwrap();
        table.put(numbered(key_type, &range(0..20, 1))).await.unwrap();
        table.flush().await.unwrap();
        table.put(numbered(key_type, &range(10..30, 2))).await.unwrap();
        let rows = place.rows(&table).await;
        table.close().await.unwrap();
        for _ in 0..2 {
            let error = Lance::try_open(&place).await.err().expect("Lance must refuse");
            assert!(error.contains("sharding spec") || error.contains("primary key"), "{key_type:?}: {error}");
        }
        let table = place.open(quiet()).await.unwrap();
        assert_eq!(table.wal().await.unwrap()[0].epoch, 1, "nobody claimed the shard");
        assert_eq!(place.rows(&table).await, rows);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lance_finds_our_shards_and_reads_our_manifests() {
    let place = Place::simple();
    written_here(&place).await;
    let table = place.open(quiet()).await.unwrap();
    let wal = table.wal().await.unwrap().remove(0);
    let lance = Lance::open_at_defaults(&place).await;
    assert_eq!(lance.shards().await, [ShardId::unsharded().0]);
    let manifest = lance.manifest().await;
    assert_eq!(manifest.writer_epoch, wal.epoch + 1);
    assert_eq!(manifest.current_generation, wal.current_generation);
    assert_eq!(manifest.replay_after_wal_entry_position, wal.replay_after);
    assert_eq!(manifest.sstables.len(), table.sources().iter().filter(|s| s.kind == "generation").count());
    lance.abort().await;
    drop(table);
    let table = place.open(quiet()).await.unwrap();
    assert_eq!(place.rows(&table).await.len(), 39);
}
