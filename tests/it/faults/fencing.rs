//! Two writers of one table: the older one notices and nothing acknowledged is lost. A claim that cannot succeed
//! fences nobody.

use std::sync::Arc;

use datafusion_lsm::error::ErrorKind;
use datafusion_lsm::ids::WalPosition;
use datafusion_lsm::settings::{Access, Ack, Settings};
use datafusion_lsm::store::{IoOp, TablePaths};
use datafusion_lsm::table::{Components, LsmTable};
use tokio::task::JoinSet;

use crate::support::events::Events;
use crate::support::faults::{ALWAYS, At, Faults};
use crate::support::key_type::KeyType;
use crate::support::place::{Place, numbers, quiet};
use crate::support::rows::{numbered, spec};

fn row(key: u32, n: i64) -> arrow::array::RecordBatch {
    numbered(KeyType::Int64, &[(key, n)])
}

#[tokio::test]
async fn the_older_of_two_writers_is_fenced_and_loses_nothing_acknowledged() {
    let place = Place::simple();
    let older = place.open(quiet()).await.unwrap();
    older.put(row(1, 10)).await.unwrap();
    older.flush().await.unwrap();
    older.put(row(2, 20)).await.unwrap();

    let newer = place.open(quiet()).await.unwrap();
    assert_eq!(numbers(&place.rows(&newer).await), [(1, 10), (2, 20)]);
    older.put(row(3, 30)).await.unwrap();
    newer.put(row(4, 40)).await.unwrap();
    assert_eq!(numbers(&place.rows(&newer).await), [(1, 10), (2, 20), (3, 30), (4, 40)]);

    for _ in 0..3 {
        let error = older.put(row(5, 50)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    }
    assert_eq!(older.flush().await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(numbers(&place.rows(&older).await), [(1, 10), (2, 20), (3, 30)], "what it showed it still shows");
    newer.put(row(6, 60)).await.unwrap();
    newer.flush().await.unwrap();
    assert_eq!(numbers(&place.rows(&newer).await), [(1, 10), (2, 20), (3, 30), (4, 40), (6, 60)]);
    let epochs = (newer.wal().await.unwrap()[0].epoch, older.wal().await.unwrap()[0].role);
    assert_eq!(epochs, (2, "failed"));
}

#[tokio::test]
async fn a_write_underway_is_in_the_new_writers_view_exactly_if_it_was_acknowledged() {
    for at in [At::Before, At::After] {
        let place = Place::simple();
        let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
        let older = place.open_with(quiet(), &faults, &events).await;
        older.put(row(1, 10)).await.unwrap();
        let gate = faults.hold(IoOp::PutIfAbsent, "/wal/", at);
        let underway = older.put_no_wait(row(2, 20)).await.unwrap();
        gate.reached().await;
        let newer = place.open(quiet()).await.unwrap();
        newer.put(row(3, 30)).await.unwrap();
        gate.open();
        let result = underway.wait().await;
        let rows = numbers(&place.rows(&newer).await);
        match at {
            At::Before => {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::Fenced);
                assert_eq!(rows, [(1, 10), (3, 30)]);
            }
            At::After => {
                assert_eq!(result.unwrap(), 1);
                assert_eq!(rows, [(1, 10), (2, 20), (3, 30)]);
            }
        }
        drop((older, newer));
        assert_eq!(numbers(&place.rows(&place.open(quiet()).await.unwrap()).await), rows);
    }
}

#[tokio::test]
async fn a_flush_underway_is_not_committed_over_a_new_writer() {
    for at in [At::Before, At::After] {
        let place = Place::simple();
        let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
        let older = place.open_with(quiet(), &faults, &events).await;
        older.put(row(1, 10)).await.unwrap();
        let gate = faults.hold(IoOp::PutIfAbsent, "/manifest/", at);
        let newer = {
            let flush = older.flush();
            tokio::pin!(flush);
            tokio::select! {
                result = &mut flush => panic!("the flush is held: {result:?}"),
                () = gate.reached() => {}
            }
            let newer = place.open(quiet()).await.unwrap();
            newer.put(row(1, 11)).await.unwrap();
            newer.flush().await.unwrap();
            newer.put(row(2, 20)).await.unwrap();
            gate.open();
            // Committed before the claim or not at all.
            assert_eq!(flush.await.is_ok(), at == At::After);
            newer
        };
        assert_eq!(numbers(&place.rows(&newer).await), [(1, 11), (2, 20)]);
        drop((older, newer));
        assert_eq!(numbers(&place.rows(&place.open(quiet()).await.unwrap()).await), [(1, 11), (2, 20)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_claim_at_once_every_acknowledged_row_survives() {
    let place = Arc::new(Place::new(KeyType::Int64, 3));
    place.open(quiet()).await.unwrap();
    let mut running = JoinSet::new();
    for writer in 0..6u32 {
        let place = Arc::clone(&place);
        running.spawn(async move {
            let table = place.open(quiet()).await.unwrap();
            let mut acknowledged = Vec::new();
            for i in 0..20 {
                let key = writer * 20 + i;
                match table.put(row(key, 1)).await {
                    Ok(_) => acknowledged.push(key),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Fenced, "{error}"),
                }
            }
            acknowledged
        });
    }
    let mut acknowledged = Vec::new();
    while let Some(ended) = running.join_next().await {
        acknowledged.extend(ended.unwrap());
    }
    let rows = place.rows(&place.open(quiet()).await.unwrap()).await;
    let lost: Vec<_> = acknowledged.iter().filter(|key| !rows.contains_key(key)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(!acknowledged.is_empty());
}

async fn still_writes(place: &Place, writer: &Arc<LsmTable>, key: u32) {
    assert_eq!(writer.put(row(key, 1)).await.unwrap(), 1, "the writer was fenced");
    assert_eq!(writer.wal().await.unwrap()[0].epoch, 1);
    assert!(place.rows(writer).await.contains_key(&key));
}

#[tokio::test]
async fn an_open_that_cannot_succeed_fences_nobody() {
    let place = Place::simple();
    let writer = place.open(quiet()).await.unwrap();
    still_writes(&place, &writer, 0).await;
    let reader = place.reader().await;
    assert_eq!(reader.put(row(1, 1)).await.unwrap_err().kind(), ErrorKind::Invalid);
    still_writes(&place, &writer, 1).await;
    let bad = Settings { memtable_rows: 0, ..quiet() };
    assert_eq!(place.open(bad).await.unwrap_err().kind(), ErrorKind::Invalid);
    still_writes(&place, &writer, 2).await;
    let other = LsmTable::builder(&place.uri()).settings(quiet()).create(spec(KeyType::Text, 1)).open().await;
    assert_eq!(other.unwrap_err().kind(), ErrorKind::Invalid);
    still_writes(&place, &writer, 3).await;
    let opened = place.open(quiet()).await.unwrap();
    let wrong = opened.put(KeyType::Int64.batch(&[1])).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Invalid, "{wrong}");
    place.rows(&opened).await;
    opened.refresh().await.unwrap();
    opened.close().await.unwrap();
    still_writes(&place, &writer, 4).await;
}

#[tokio::test]
async fn a_claim_that_cannot_read_the_wal_fences_nobody() {
    let place = Place::simple();
    let writer = place.open(quiet()).await.unwrap();
    still_writes(&place, &writer, 0).await;
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let other = place.open_with(quiet(), &faults, &events).await;
    still_writes(&place, &writer, 1).await;
    faults.fail(IoOp::Get, "/wal/", At::Before, ALWAYS);
    assert_eq!(other.put(row(9, 9)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    still_writes(&place, &writer, 2).await;
    faults.heal();
    faults.fail(IoOp::PutIfAbsent, "/manifest/", At::Before, ALWAYS);
    assert_eq!(other.put(row(9, 9)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    still_writes(&place, &writer, 3).await;

    faults.heal();
    other.put(row(9, 9)).await.unwrap();
    assert_eq!(place.rows(&other).await.len(), 5, "a claim that failed can be tried again");
    assert_eq!(writer.put(row(5, 5)).await.unwrap_err().kind(), ErrorKind::Fenced);
}

#[tokio::test]
async fn a_claim_of_a_damaged_wal_fences_nobody() {
    let place = Place::simple();
    let writer = place.open(quiet()).await.unwrap();
    still_writes(&place, &writer, 0).await;
    still_writes(&place, &writer, 1).await;
    let entry = std::fs::read(place.wal_file(2)).unwrap();
    std::fs::write(place.wal_file(2), &entry[..entry.len() / 2]).unwrap();
    let other = place.open(quiet()).await.unwrap();
    assert_eq!(other.put(row(9, 9)).await.unwrap_err().kind(), ErrorKind::Corrupt);
    still_writes(&place, &writer, 2).await;
}

#[tokio::test]
async fn rows_acknowledged_from_memory_by_a_fenced_writer_make_its_close_fail() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let older = place.open_with(Settings { ack: Ack::Memory, ..quiet() }, &faults, &events).await;
    older.put(row(1, 10)).await.unwrap();
    events.until("the append", |c| c.appends == 1).await;
    let gate = faults.hold(IoOp::PutIfAbsent, "/wal/", At::Before);
    older.put(row(2, 20)).await.unwrap();
    gate.reached().await;
    let newer = place.open(quiet()).await.unwrap();
    newer.put(row(3, 30)).await.unwrap();
    gate.open();
    assert_eq!(older.close().await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(numbers(&place.rows(&newer).await), [(1, 10), (3, 30)]);
}

#[tokio::test]
async fn a_reader_sees_what_is_durable_and_never_claims() {
    let place = Place::simple();
    let writer = place.open(quiet()).await.unwrap();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let reader = place.open_with(Settings { access: Access::Read, ..quiet() }, &faults, &events).await;
    for key in 0..10 {
        still_writes(&place, &writer, key).await;
        if key % 4 == 3 {
            writer.flush().await.unwrap();
        }
        reader.refresh().await.unwrap();
        assert_eq!(place.rows(&reader).await.len() as u32, key + 1);
    }
    assert_eq!(events.counts().claims, 0);
    for op in [IoOp::Put, IoOp::PutIfAbsent, IoOp::Delete, IoOp::Rename] {
        assert_eq!(faults.count(op, ""), 0, "a reader writes nothing: {op:?}");
    }
    assert!(reader.flush().await.is_err() && writer.put(row(1, 1)).await.is_ok());
}

#[tokio::test]
async fn a_writer_that_outlives_its_table_makes_no_directory_again() {
    for sync in [false, true] {
        let settings = || Settings { sync, ..quiet() };
        // One that has claimed and written nothing, one that has something to flush.
        for rows in [0, 1] {
            let place = Place::simple();
            let table = place.open(settings()).await.unwrap();
            match rows {
                0 => drop(table.truncate().await.unwrap()),
                _ => drop(table.put(row(1, 1)).await.unwrap()),
            }
            std::fs::remove_dir_all(place.root()).unwrap();
            let error = if rows == 0 { table.put(row(1, 1)).await.map(drop) } else { table.flush().await };
            let error = error.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
            assert!(!place.root().exists(), "sync {sync}, {rows} rows");
            assert!(!table.is_usable());
        }
    }
}

#[tokio::test]
async fn whoever_writes_a_whole_shard_of_a_damaged_table_is_fenced_before_it_is_replaced() {
    let place = Place::new(KeyType::Int64, 2);
    let writer = place.open(quiet()).await.unwrap();
    let shards = place.keys_by_shard(&writer);
    let (damaged, whole) = (&shards[0], &shards[1]);
    writer.put(numbered(KeyType::Int64, &[(damaged.1[0], 1), (whole.1[0], 1)])).await.unwrap();
    let entry = TablePaths::wal_entry(damaged.0, WalPosition(1));
    std::fs::write(place.root().join(entry), b"damaged").unwrap();
    let faults = Arc::new(Faults::default());
    let gate = faults.hold(IoOp::Delete, "", At::Before);
    let components = Components { io_hook: Some(Arc::clone(&faults) as _), ..Components::default() };
    let replaced = place.builder(quiet()).components(components).replace(true).open();
    tokio::pin!(replaced);
    tokio::select! {
        result = &mut replaced => panic!("the deletion is held: {result:?}"),
        () = gate.reached() => {}
    }
    let error = writer.put(row(whole.1[1], 2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    gate.open();
    assert_eq!(place.rows(&replaced.await.unwrap()).await.len(), 0);
}
