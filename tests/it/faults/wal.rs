//! WAL writes that fail, hang or lose their answer.

use std::sync::Arc;
use std::time::Duration;

use datafusion_lsm::cache::MemoryBudget;
use datafusion_lsm::error::{Error, ErrorKind};
use datafusion_lsm::events::EventListener;
use datafusion_lsm::ids::{ShardId, WalPosition};
use datafusion_lsm::settings::{Ack, Bytes, Settings};
use datafusion_lsm::store::{IoOp, TablePaths};
use datafusion_lsm::table::{Components, LsmTable};

use crate::support::events::Events;
use crate::support::faults::{ALWAYS, At, Faults};
use crate::support::key_type::KeyType;
use crate::support::place::{Place, numbers, quiet};
use crate::support::rows::{numbered, spec};
use crate::support::{soon, until};

const WAL: &str = "/wal/";

fn row(key: u32, n: i64) -> arrow::array::RecordBatch {
    numbered(KeyType::Int64, &[(key, n)])
}

/// What the path of this slot's entry ends with.
fn slot(position: u64) -> String {
    TablePaths::wal_entry_name(WalPosition(position))
}

#[tokio::test]
async fn a_wal_write_whose_answer_is_lost_is_found_in_its_slot() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let table = place.open_with(quiet(), &faults, &events).await;
    table.put(row(1, 10)).await.unwrap();
    faults.fail(IoOp::PutIfAbsent, WAL, At::After, 1);
    table.put(row(2, 20)).await.unwrap();
    table.put(row(3, 30)).await.unwrap();
    assert_eq!(place.wal_slots(ShardId::unsharded()), [1, 2, 3], "no entry is written twice");
    drop(table);
    let table = place.open(quiet()).await.unwrap();
    assert_eq!(numbers(&place.rows(&table).await), [(1, 10), (2, 20), (3, 30)]);
}

#[tokio::test]
async fn a_wal_write_that_fails_for_a_while_is_repeated() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let table = place.open_with(quiet(), &faults, &events).await;
    faults.fail(IoOp::PutIfAbsent, WAL, At::Before, 3);
    faults.fail(IoOp::PutIfAbsent, WAL, At::After, 2);
    table.put(row(1, 10)).await.unwrap();
    assert_eq!(place.wal_slots(ShardId::unsharded()), [1]);
}

#[tokio::test]
async fn a_write_in_doubt_is_indeterminate_and_settled_before_the_next_one() {
    for applied in [true, false] {
        let place = Place::simple();
        let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
        let table = place.open_with(quiet(), &faults, &events).await;
        table.put(row(1, 10)).await.unwrap();
        faults.fail(IoOp::PutIfAbsent, WAL, if applied { At::After } else { At::Before }, ALWAYS);
        faults.fail(IoOp::Get, WAL, At::Before, ALWAYS);
        let error = table.put(row(2, 20)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
        assert_eq!(numbers(&place.rows(&table).await), [(1, 10)], "it is not visible as long as it is in doubt");
        faults.heal();
        table.put(row(3, 30)).await.unwrap();
        assert_eq!(numbers(&place.rows(&table).await), [(1, 10), (2, 20), (3, 30)], "it was tried until it was in");
        assert_eq!(place.wal_slots(ShardId::unsharded()), [1, 2, 3]);
        table.close().await.unwrap();
        let table = place.open(quiet()).await.unwrap();
        assert_eq!(numbers(&place.rows(&table).await), [(1, 10), (2, 20), (3, 30)]);
    }
}

#[tokio::test]
async fn nothing_goes_to_the_next_slot_before_it_is_known_whose_this_one_is() {
    for applied in [true, false] {
        let place = Place::simple();
        let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
        let table = place.open_with(quiet(), &faults, &events).await;
        table.put(row(1, 10)).await.unwrap();
        faults.fail(IoOp::PutIfAbsent, WAL, if applied { At::After } else { At::Before }, ALWAYS);
        faults.fail(IoOp::Get, WAL, At::Before, ALWAYS);
        let first = table.put_no_wait(row(2, 20)).await.unwrap();
        until("the first attempt", || faults.count(IoOp::PutIfAbsent, &slot(2)) > 0).await;
        let behind = table.put_no_wait(row(3, 30)).await.unwrap();
        assert_eq!(first.wait().await.unwrap_err().kind(), ErrorKind::Indeterminate);
        until("more attempts", || faults.count(IoOp::PutIfAbsent, &slot(2)) > 6).await;
        assert_eq!(faults.count(IoOp::PutIfAbsent, &slot(3)), 0, "applied: {applied}");
        faults.heal();
        assert_eq!(behind.wait().await.unwrap(), 1);
        assert_eq!(numbers(&place.rows(&table).await), [(1, 10), (2, 20), (3, 30)]);
        assert_eq!(faults.count(IoOp::PutIfAbsent, &slot(3)), 1);
    }
}

#[tokio::test]
async fn a_write_in_doubt_whose_slot_a_rival_took_is_fenced() {
    for applied in [true, false] {
        let place = Place::simple();
        let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
        let older = place.open_with(quiet(), &faults, &events).await;
        older.put(row(1, 10)).await.unwrap();
        faults.fail(IoOp::PutIfAbsent, WAL, if applied { At::After } else { At::Before }, ALWAYS);
        faults.fail(IoOp::Get, WAL, At::Before, ALWAYS);
        let error = older.put(row(2, 20)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
        let behind = older.put_no_wait(row(3, 30)).await.unwrap();
        // The rival's sentinel goes behind what arrived, or into the slot.
        let rival = place.open(quiet()).await.unwrap();
        rival.put(row(4, 40)).await.unwrap();
        let mut expected = vec![(1, 10), (4, 40)];
        expected.extend(applied.then_some((2, 20)));
        expected.sort_unstable();
        assert_eq!(numbers(&place.rows(&rival).await), expected);
        faults.heal();
        let error = soon("an answer", behind.wait()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        assert_eq!(older.put(row(5, 50)).await.unwrap_err().kind(), ErrorKind::Fenced);
        assert_eq!(older.close().await.unwrap_err().kind(), ErrorKind::Fenced);
        let beyond = if applied { 4 } else { 3 };
        assert_eq!(faults.count(IoOp::PutIfAbsent, &slot(beyond)), 0, "applied: {applied}");
        drop((older, rival));
        assert_eq!(numbers(&place.rows(&place.open(quiet()).await.unwrap()).await), expected);
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_synced_ends_its_shard_until_the_table_is_opened_again() {
    // The WAL's own directory while it is in use, or the one above it while it is made.
    let above = TablePaths::shard_dir(ShardId::unsharded());
    for (dir, rows) in [("/wal", vec![(1, 10)]), (above.as_str(), Vec::new())] {
        let place = Place::simple();
        let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
        let table = place.open_with(Settings { sync: true, ..quiet() }, &faults, &events).await;
        for (key, n) in &rows {
            table.put(row(*key, *n)).await.unwrap();
        }
        let gate = faults.hold(IoOp::PutIfAbsent, WAL, At::Before);
        let write = table.put_no_wait(row(2, 20)).await.unwrap();
        gate.reached().await;
        faults.fail_syncs(dir);
        gate.open();
        let error = soon("an answer", write.wait()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
        assert!(error.to_string().contains("check the disk"), "{error}");
        faults.heal();
        let requests = faults.count(IoOp::PutIfAbsent, WAL);
        let error = soon("an answer", table.put(row(3, 30))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
        assert!(!table.is_usable());
        assert_eq!(faults.count(IoOp::PutIfAbsent, WAL), requests, "nothing is tried in vain");
        assert_eq!(numbers(&place.rows(&table).await), rows);
        drop(table);
        let table = place.open(quiet()).await.unwrap();
        table.put(row(3, 30)).await.unwrap();
        assert!(place.rows(&table).await.contains_key(&3));
    }
}

#[tokio::test]
async fn a_write_that_is_not_durable_in_time_is_indeterminate() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let settings = Settings { write_timeout: Duration::from_millis(50), ..quiet() };
    let table = place.open_with(settings, &faults, &events).await;
    let gate = faults.hold(IoOp::PutIfAbsent, WAL, At::Before);
    let error = table.put(row(1, 10)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
    gate.open();
    events.until("the append", |c| c.appends == 1).await;
    until("the row", || table.sources()[0].rows == 1).await;
}

#[tokio::test]
async fn a_full_queue_is_backpressure_after_the_deadline_and_writes_nothing() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let settings = Settings { write_timeout: Duration::from_millis(100), wal_queue: Bytes(64), ..quiet() };
    let table = place.open_with(settings, &faults, &events).await;
    for ack in [Ack::Durable, Ack::Memory] {
        let gate = faults.hold(IoOp::PutIfAbsent, WAL, At::Before);
        let many: Vec<(u32, i64)> = (0..100).map(|key| (key, 1)).collect();
        let first = table.put_no_wait(numbered(KeyType::Int64, &many)).await.unwrap();
        gate.reached().await;
        let mut statement = table.begin(datafusion_lsm::table::StatementKind::Upsert, None, Some(ack));
        statement.push(row(7, 777)).await.unwrap();
        let error = statement.finish().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Backpressure, "{error}");
        gate.open();
        first.wait().await.unwrap();
        assert_eq!(place.rows(&table).await[&7].n, 1, "what was refused is not written");
        table.put(row(7, 1)).await.unwrap();
    }
}

#[tokio::test]
async fn rows_acknowledged_from_memory_are_seen_before_they_are_durable() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let table = place.open_with(Settings { ack: Ack::Memory, ..quiet() }, &faults, &events).await;
    table.put(row(1, 10)).await.unwrap();
    events.until("the append", |c| c.appends == 1).await;
    let gate = faults.hold(IoOp::PutIfAbsent, WAL, At::Before);
    table.put(row(2, 20)).await.unwrap();
    gate.reached().await;
    table.put(row(2, 21)).await.unwrap();
    assert_eq!(numbers(&place.rows(&table).await), [(1, 10), (2, 21)]);
    assert_eq!(place.wal_slots(ShardId::unsharded()), [1]);
    gate.open();
    table.close().await.unwrap();
    let table = place.open(quiet()).await.unwrap();
    assert_eq!(numbers(&place.rows(&table).await), [(1, 10), (2, 21)], "closing waits for the WAL");
}

#[tokio::test]
async fn a_table_whose_close_was_given_up_accepts_nothing_and_closes_later() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let table = place.open_with(Settings { ack: Ack::Memory, ..quiet() }, &faults, &events).await;
    table.put(row(1, 10)).await.unwrap();
    events.until("the append", |c| c.appends == 1).await;
    let gate = faults.hold(IoOp::PutIfAbsent, WAL, At::Before);
    table.put(row(2, 20)).await.unwrap();
    gate.reached().await;
    assert!(table.is_usable());
    for n in 0..3 {
        let mut closing = Box::pin(table.close());
        assert!(futures::poll!(&mut closing).is_pending(), "the WAL is held");
        drop(closing);
        let error = table.put(row(3, n)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        assert!(!table.is_usable());
        assert_eq!(numbers(&place.rows(&table).await), [(1, 10), (2, 20)]);
    }
    gate.open();
    soon("the end", table.close()).await.unwrap();
    let table = place.open(quiet()).await.unwrap();
    assert_eq!(numbers(&place.rows(&table).await), [(1, 10), (2, 20)], "what was accepted is there");
}

#[tokio::test]
async fn what_queues_while_a_write_is_underway_becomes_one_entry() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let table = place.open_with(quiet(), &faults, &events).await;
    let gate = faults.hold(IoOp::PutIfAbsent, WAL, At::Before);
    let mut pending = vec![table.put_no_wait(row(0, 0)).await.unwrap()];
    gate.reached().await;
    for key in 1..50 {
        pending.push(table.put_no_wait(row(key, 1)).await.unwrap());
    }
    gate.open();
    for write in pending {
        write.wait().await.unwrap();
    }
    assert_eq!(place.wal_slots(ShardId::unsharded()), [1, 2]);
    assert_eq!(faults.count(IoOp::PutIfAbsent, WAL), 2);
}

#[tokio::test]
async fn a_write_whose_caller_went_away_is_whole_and_in_nobodys_way() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let table = place.open_with(quiet(), &faults, &events).await;
    let gate = faults.hold(IoOp::PutIfAbsent, WAL, At::Before);
    let batch = numbered(KeyType::Int64, &[(1, 1), (2, 1)]);
    tokio::select! {
        result = table.put(batch) => panic!("the write cannot have ended: {result:?}"),
        () = gate.reached() => {}
    }
    gate.open();
    table.put(row(3, 1)).await.unwrap();
    assert_eq!(numbers(&place.rows(&table).await), [(1, 1), (2, 1), (3, 1)]);
}

#[tokio::test]
async fn a_full_disk_is_survived() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let settings = Settings { memtable_rows: 10, ..quiet() };
    let table = place.open_with(settings.clone(), &faults, &events).await;
    table.put(row(1, 10)).await.unwrap();
    let full = Error::unavailable("no space left on device");
    for (op, path) in [(IoOp::PutIfAbsent, ""), (IoOp::Put, ""), (IoOp::Sync, "")] {
        faults.fail_with(op, path, At::Before, ALWAYS, full.clone());
    }
    let error = table.put(row(2, 20)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Indeterminate | ErrorKind::Unavailable), "{error}");
    assert!(error.to_string().contains("no space left"), "{error}");
    assert_eq!(numbers(&place.rows(&table).await), [(1, 10)], "reading goes on");
    faults.heal();
    for key in 3..30 {
        table.put(row(key, 30)).await.unwrap();
    }
    table.flush().await.unwrap();
    assert_eq!(place.rows(&table).await.len(), 29);
    table.close().await.unwrap();
    assert_eq!(place.rows(&place.open(settings).await.unwrap()).await.len(), 29);
}

/// Panics when an entry is durable, on the WAL's task.
#[derive(Debug)]
struct Panics;

impl EventListener for Panics {
    fn on_wal_append(&self, _shard: ShardId, _position: WalPosition, _rows: usize, _bytes: usize) {
        panic!("no index can be built of this");
    }
}

#[tokio::test]
async fn a_background_task_that_panics_closes_the_table_and_hangs_nobody() {
    let place = Place::simple();
    let components = Components { events: Arc::new(Panics), ..Components::default() };
    // Nobody waits for the end of a timeout.
    let settings = Settings { write_timeout: Duration::from_secs(3600), ..quiet() };
    let table = place.builder(settings).components(components).open().await.unwrap();
    let error = soon("an answer", table.put(row(1, 10))).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Closed | ErrorKind::Indeterminate), "{error}");
    let error = soon("an answer", table.put(row(2, 20))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    assert!(error.message().contains("no index can be built"), "{error}");
    assert!(soon("an answer", table.close()).await.is_err());
    drop(table);
    let table = place.open(quiet()).await.unwrap();
    assert_eq!(numbers(&place.rows(&table).await), [(1, 10)], "what is durable is there");
}

#[tokio::test]
async fn a_write_that_waits_for_room_learns_that_the_table_is_closed() {
    let place = Place::simple();
    let faults = Arc::new(Faults::default());
    let components = Components {
        events: Arc::new(Panics),
        io_hook: Some(Arc::clone(&faults) as _),
        budget: MemoryBudget::new(1 << 30),
        ..Components::default()
    };
    let settings = Settings { write_timeout: Duration::from_secs(3600), wal_queue: Bytes(1), ..quiet() };
    let table = place.builder(settings).components(components).open().await.unwrap();
    let gate = faults.hold(IoOp::PutIfAbsent, WAL, At::Before);
    let underway = table.put_no_wait(row(1, 10)).await.unwrap();
    gate.reached().await;
    let mut waiting = Box::pin(table.put(row(2, 20)));
    assert!(futures::poll!(&mut waiting).is_pending(), "the queue is full");
    gate.open();
    let error = soon("an answer", waiting).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    let error = soon("an answer", underway.wait()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Indeterminate, "it may be in the WAL: {error}");
    drop(table);
    assert_eq!(numbers(&place.rows(&place.open(quiet()).await.unwrap()).await), [(1, 10)]);
}

#[tokio::test]
async fn an_object_store_is_as_good_as_a_disk() {
    let uri = format!("shared-memory://{}/table", uuid::Uuid::new_v4().simple());
    let faults = Arc::new(Faults::default());
    let settings = Settings { memtable_rows: 20, ..quiet() };
    let open = |hook: bool| {
        let io_hook = hook.then(|| Arc::clone(&faults) as _);
        let components = Components { io_hook, ..Components::default() };
        let builder = LsmTable::builder(&uri).settings(settings.clone()).components(components);
        builder.create(spec(KeyType::Int64, 3)).open()
    };
    let place = Place::new(KeyType::Int64, 3);
    let table = open(true).await.unwrap();
    for key in 0..100 {
        if key % 10 == 0 {
            faults.fail(IoOp::PutIfAbsent, "", if key % 20 == 0 { At::After } else { At::Before }, 1);
        }
        table.put(numbered(KeyType::Int64, &[(key, 1), (key / 2, 2)])).await.unwrap();
    }
    table.flush().await.unwrap();
    let rows = place.rows(&table).await;
    assert_eq!((rows.len(), rows[&49].n, rows[&50].n), (100, 2, 1));
    drop(table);
    let table = open(false).await.unwrap();
    assert_eq!(place.rows(&table).await, rows);
    table.put(numbered(KeyType::Int64, &[(0, 3)])).await.unwrap();
    assert_eq!(place.rows(&table).await[&0].n, 3);
}
