//! Statements of several units whose units fare differently, and what becomes of writes when their shard fails.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion_lsm::error::{Error, ErrorKind};
use datafusion_lsm::ids::{ShardId, WalPosition};
use datafusion_lsm::settings::{Bytes, OnConflict, Settings};
use datafusion_lsm::store::{IoOp, TablePaths};
use datafusion_lsm::table::{LsmTable, StatementKind};
use tokio::runtime::Handle;

use crate::support::events::Events;
use crate::support::faults::{At, Faults};
use crate::support::key_type::KeyType;
use crate::support::place::{Place, numbers, quiet};
use crate::support::rows::{listed, numbered};
use crate::support::{soon, until};

fn some(rows: &[(u32, i64)]) -> RecordBatch {
    numbered(KeyType::Int64, rows)
}

fn broken() -> Error {
    Error::invalid("broken for good")
}

fn rows_written(error: &Error) -> Option<String> {
    error.context().iter().find(|(name, _)| *name == "rows_written_before").map(|(_, rows)| rows.clone())
}

/// A table of two shards, both claimed by one row, the keys of each, and where the WAL of each is.
struct Two {
    place: Place,
    table: Arc<LsmTable>,
    faults: Arc<Faults>,
    events: Arc<Events>,
    a: Vec<u32>,
    b: Vec<u32>,
    wal_a: String,
    wal_b: String,
}

impl Two {
    async fn new(settings: Settings) -> Self {
        let place = Place::new(KeyType::Int64, 2);
        let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
        let table = place.open_with(settings, &faults, &events).await;
        let mut shards = place.keys_by_shard(&table);
        let (shard_b, b) = shards.pop().unwrap();
        let (shard_a, a) = shards.pop().unwrap();
        let (wal_a, wal_b) = (TablePaths::wal_dir(shard_a), TablePaths::wal_dir(shard_b));
        table.put(some(&[(a[0], 0), (b[0], 0)])).await.unwrap();
        Self { place, table, faults, events, a, b, wal_a, wal_b }
    }

    /// The numbers of `keys`, as key lookups, a batch of lookups and a scan show them alike.
    async fn numbers(&self, keys: &[u32]) -> Vec<Option<i64>> {
        let rows = self.place.rows(&self.table).await;
        let scanned: Vec<Option<i64>> = keys.iter().map(|key| rows.get(key).map(|row| row.n)).collect();
        let many = self.table.get_many(&KeyType::Int64.batch(keys)).await.unwrap();
        let many = listed(KeyType::Int64, &many);
        for (key, scanned) in keys.iter().zip(&scanned) {
            let one = self.table.get(&KeyType::Int64.values(*key)).await.unwrap();
            assert_eq!(one.map(|batch| listed(KeyType::Int64, &batch)[0].1.n), *scanned, "key {key}");
            assert_eq!(many.iter().find(|(k, _)| k == key).map(|(_, row)| row.n), *scanned, "key {key}");
        }
        scanned
    }
}

#[tokio::test]
async fn a_statement_that_fails_in_one_shard_is_in_nobodys_way_in_the_other() {
    let two = Two::new(quiet()).await;
    let (a, b) = (&two.a, &two.b);
    two.faults.fail_with(IoOp::PutIfAbsent, &two.wal_b, At::Before, 1, broken());
    let error = soon("an answer", two.table.put(some(&[(a[1], 1), (b[1], 1)]))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    for n in 2..5 {
        assert_eq!(soon("the next write", two.table.put(some(&[(a[2], n)]))).await.unwrap(), 1);
        assert_eq!(two.numbers(&[a[2], b[1], b[0]]).await, [Some(n), None, Some(0)], "and it is seen");
        let error = soon("an answer", two.table.put(some(&[(a[3], n), (b[2], n)]))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "the shard stays failed: {error}");
    }
    assert_eq!(two.numbers(&[a[3], b[2]]).await, [None, None], "what could not begin left nothing");
    let rows = two.place.rows(&two.table).await;
    drop(two.table);
    assert_eq!(two.place.rows(&two.place.open(quiet()).await.unwrap()).await, rows);
}

#[tokio::test]
async fn a_unit_in_the_wal_of_a_shard_that_fails_leaves_its_statement_in_doubt() {
    let two = Two::new(quiet()).await;
    let (a, b) = (&two.a, &two.b);
    let appends = two.events.counts().appends;
    let gate = two.faults.hold(IoOp::PutIfAbsent, &two.wal_b, At::Before);
    let half = two.table.put_no_wait(some(&[(a[1], 1), (b[1], 1)])).await.unwrap();
    gate.reached().await;
    two.events.until("the append in the other shard", |c| c.appends == appends + 1).await;
    two.faults.fail_with(IoOp::PutIfAbsent, &two.wal_a, At::Before, 1, broken());
    let error = soon("an answer", two.table.put(some(&[(a[2], 2)]))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "what was not written failed: {error}");
    gate.open();
    let error = soon("an answer", half.wait()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Indeterminate, "what is in the WAL did not: {error}");
    assert_eq!(soon("the next write", two.table.put(some(&[(b[2], 2)]))).await.unwrap(), 1);
    assert_eq!(two.numbers(&[a[2], b[2]]).await, [None, Some(2)]);
    drop(two.table);
    let reopened = two.place.open(quiet()).await.unwrap();
    let mut expected = vec![(a[0], 0), (a[1], 1), (b[0], 0), (b[1], 1), (b[2], 2)];
    expected.sort_unstable();
    assert_eq!(numbers(&two.place.rows(&reopened).await), expected);
}

#[tokio::test]
async fn a_flush_that_fails_for_good_fails_its_shard_once_and_the_wal_decides_what_is_underway() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let table = place.open_with(Settings { memtable_rows: 2, ..quiet() }, &faults, &events).await;
    table.put(some(&[(1, 1), (2, 1)])).await.unwrap();
    let tasks = Handle::current().metrics().num_alive_tasks();
    let flush = faults.hold_then_fail(IoOp::Sync, "_gen_", Error::fenced("somebody else owns it"));
    table.put(some(&[(3, 1)])).await.unwrap();
    flush.reached().await;
    let append = faults.hold(IoOp::PutIfAbsent, "/wal/", At::Before);
    let underway = table.put_no_wait(some(&[(4, 1)])).await.unwrap();
    append.reached().await;
    let queued = table.put_no_wait(some(&[(5, 1)])).await.unwrap();

    flush.open();
    let error = soon("an answer", queued.wait()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    let error = soon("an answer", table.put(some(&[(6, 1)]))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert_eq!(soon("an answer", table.flush()).await.unwrap_err().kind(), ErrorKind::Fenced);
    until("the end of the flusher", || Handle::current().metrics().num_alive_tasks() == tasks - 1).await;
    assert_eq!(events.counts().failed_flushes, 1, "it is not tried again");
    append.open();
    assert_eq!(soon("an answer", underway.wait()).await.unwrap(), 1, "it is in the WAL");

    let expected = [(1, 1), (2, 1), (3, 1), (4, 1)];
    assert_eq!(numbers(&place.rows(&table).await), expected);
    assert_eq!(table.wal().await.unwrap()[0].role, "failed");
    drop(table);
    assert_eq!(numbers(&place.rows(&place.open(quiet()).await.unwrap()).await), expected);
}

#[tokio::test]
async fn a_memtable_with_rows_out_of_sight_is_not_flushed() {
    for fails in [false, true] {
        let two = Two::new(Settings { write_timeout: Duration::from_millis(400), ..quiet() }).await;
        let (a, b) = (&two.a, &two.b);
        let appends = two.events.counts().appends;
        let gate = match fails {
            true => two.faults.hold_then_fail(IoOp::PutIfAbsent, &two.wal_b, broken()),
            false => two.faults.hold(IoOp::PutIfAbsent, &two.wal_b, At::Before),
        };
        let half = two.table.put_no_wait(some(&[(a[0], 1), (a[1], 1), (b[1], 1)])).await.unwrap();
        gate.reached().await;
        two.events.until("the append in the other shard", |c| c.appends == appends + 1).await;
        let behind = two.table.put_no_wait(some(&[(a[2], 2)])).await.unwrap();
        two.events.until("an append behind it", |c| c.appends == appends + 2).await;
        // Everything of the first shard is in the WAL, and nothing of the statement may be seen yet.
        assert!(two.table.flush().await.is_err(), "it waits in vain");
        assert_eq!(two.events.counts().flushes, 0, "a flush would have shown the half of a statement");
        assert_eq!(two.numbers(&[a[0], a[1], a[2], b[1]]).await, [Some(0), None, None, None]);

        gate.open();
        let result = soon("an answer", half.wait()).await;
        assert_eq!(soon("an answer", behind.wait()).await.unwrap(), 1);
        let all = two.numbers(&[a[0], a[1], a[2], b[0]]).await;
        assert_eq!(all, [Some(1), Some(1), Some(2), Some(0)], "nothing is lost between");
        assert_eq!((result.is_ok(), two.numbers(&[b[1]]).await), (!fails, vec![(!fails).then_some(1)]));
        two.events.until("the flushes that waited", |c| c.flushes == if fails { 1 } else { 2 }).await;
        assert_eq!(two.numbers(&[a[0], a[1], a[2], b[0]]).await, all);
        let rows = two.place.rows(&two.table).await;
        drop(two.table);
        assert_eq!(two.place.rows(&two.place.open(quiet()).await.unwrap()).await, rows);
    }
}

fn many(keys: std::ops::Range<u32>, n: i64) -> RecordBatch {
    some(&keys.map(|key| (key, n)).collect::<Vec<_>>())
}

/// A statement is written whenever 4 KiB are collected, in units of 1 KiB.
fn small_units() -> Settings {
    Settings { statement_unit: Bytes(1 << 10), ..quiet() }
}

#[tokio::test]
async fn a_statement_of_many_units_counts_every_row_once() {
    for shards in [1, 3] {
        let place = Place::new(KeyType::Int64, shards);
        let table = place.open(Settings { memtable_rows: 70, ..small_units() }).await.unwrap();
        assert_eq!(table.put(many(0..1000, 1)).await.unwrap(), 1000);
        let pending = table.put_no_wait(many(500..1500, 2)).await.unwrap();
        assert_eq!((pending.rows(), pending.wait().await.unwrap()), (1000, 1000));
        let mut statement = table.begin(StatementKind::Insert(OnConflict::Ignore), None, None);
        for from in [1400, 1500, 1450] {
            statement.push(many(from..from + 100, 3)).await.unwrap();
        }
        assert_eq!(statement.finish().await.unwrap(), 100, "each new key once");
        let mut statement = table.begin(StatementKind::Update, Some(table.snapshot()), None);
        for from in (0..600).step_by(100) {
            statement.push(many(from..from + 100, 4)).await.unwrap();
        }
        assert_eq!(statement.finish().await.unwrap(), 600);
        let keys: Vec<u32> = (100..900).collect();
        assert_eq!(table.delete(KeyType::Int64.batch(&keys)).await.unwrap(), 800);
        assert_eq!(place.rows(&table).await.len(), 800);
    }
}

#[tokio::test]
async fn a_statement_that_fails_between_its_writes_says_how_many_rows_are_in() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let table = place.open_with(small_units(), &faults, &events).await;
    let mut statement = table.begin(StatementKind::Upsert, None, None);
    for from in [0, 300] {
        statement.push(many(from..from + 300, 1)).await.unwrap();
    }
    assert_eq!(events.counts().appends, 2, "it was written twice");
    faults.fail_with(IoOp::PutIfAbsent, "/wal/", At::Before, 1, broken());
    let error = statement.push(many(600..900, 1)).await.unwrap_err();
    assert_eq!((error.kind(), rows_written(&error).as_deref()), (ErrorKind::Invalid, Some("600")), "{error}");
    assert_eq!(place.rows(&table).await.len(), 600);
    drop((statement, table));
    let table = place.open_with(small_units(), &faults, &events).await;
    assert_eq!(place.rows(&table).await.len(), 600);
    faults.fail_with(IoOp::PutIfAbsent, "/wal/", At::Before, 1, broken());
    let error = table.put(some(&[(1, 1)])).await.unwrap_err();
    assert_eq!(rows_written(&error), None, "{error}");
}

#[tokio::test]
async fn a_statement_that_fails_in_one_of_two_shards_says_how_many_rows_are_in() {
    for later in [false, true] {
        let two = Two::new(quiet()).await;
        let (a, b) = (&two.a, &two.b);
        let appends = two.events.counts().appends;
        // One shard fails before the other one has written, or after.
        let fails = two.faults.hold_then_fail(IoOp::PutIfAbsent, &two.wal_b, broken());
        let writes = two.faults.hold(IoOp::PutIfAbsent, &two.wal_a, At::Before);
        let both = two.table.put_no_wait(some(&[(a[1], 1), (a[2], 1), (b[1], 1)])).await.unwrap();
        fails.reached().await;
        writes.reached().await;
        let (first, second) = if later { (&writes, &fails) } else { (&fails, &writes) };
        first.open();
        if later {
            two.events.until("the append", |c| c.appends == appends + 1).await;
        } else {
            let failed = async {
                while two.table.wal().await.unwrap()[1].role != "failed" {
                    tokio::task::yield_now().await;
                }
            };
            soon("the failure", failed).await;
        }
        second.open();
        let error = soon("an answer", both.wait()).await.unwrap_err();
        assert_eq!((error.kind(), rows_written(&error).as_deref()), (ErrorKind::Invalid, Some("2")), "{error}");
        assert_eq!(two.numbers(&[a[1], a[2], b[1]]).await, [Some(1), Some(1), None]);
    }
}

#[tokio::test]
async fn a_statement_whose_second_entry_fails_says_how_many_rows_are_in() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let settings = Settings { memtable_rows: 30, statement_unit: Bytes(1 << 20), ..quiet() };
    let table = place.open_with(settings, &faults, &events).await;
    table.put(many(0..5, 0)).await.unwrap();
    // Three memtables take a part each, and each part is an entry.
    assert_eq!(place.wal_slots(ShardId::unsharded()), [1]);
    let third = TablePaths::wal_entry_name(WalPosition(3));
    faults.fail_with(IoOp::PutIfAbsent, &third, At::Before, 1, broken());
    let error = soon("an answer", table.put(many(100..190, 1))).await.unwrap_err();
    assert_eq!((error.kind(), rows_written(&error).as_deref()), (ErrorKind::Invalid, Some("30")), "{error}");
    drop(table);
    assert_eq!(place.rows(&place.open(quiet()).await.unwrap()).await.len(), 35);
}

#[tokio::test]
async fn an_insert_that_meets_a_row_on_its_way_to_the_wal_waits_for_it() {
    for (on_conflict, outcome) in [(OnConflict::Ignore, Ok(0)), (OnConflict::Error, Err(ErrorKind::Invalid))] {
        let place = Place::simple();
        let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
        let table = place.open_with(quiet(), &faults, &events).await;
        table.put(some(&[(1, 1)])).await.unwrap();
        let held = faults.hold(IoOp::PutIfAbsent, &TablePaths::wal_entry_name(WalPosition(2)), At::Before);
        let first = table.put_no_wait(some(&[(7, 1)])).await.unwrap();
        held.reached().await;
        let mut second = Box::pin(async {
            let mut insert = table.begin(StatementKind::Insert(on_conflict), None, None);
            insert.push(some(&[(7, 2)])).await?;
            insert.finish().await
        });
        for _ in 0..50 {
            assert!(futures::poll!(second.as_mut()).is_pending(), "nobody can know yet");
            tokio::task::yield_now().await;
        }
        held.open();
        let second = soon("an answer", second).await;
        assert_eq!(second.map_err(|error| error.kind()), outcome);
        assert_eq!(first.wait().await.unwrap(), 1);
        assert_eq!(numbers(&place.rows(&table).await), [(1, 1), (7, 1)]);
    }
}

#[tokio::test]
async fn a_table_whose_closing_was_given_up_takes_nothing() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let settings = Settings { ack: datafusion_lsm::settings::Ack::Memory, ..quiet() };
    let table = place.open_with(settings, &faults, &events).await;
    table.put(some(&[(1, 1)])).await.unwrap();
    let held = faults.hold(IoOp::PutIfAbsent, &TablePaths::wal_dir(ShardId::unsharded()), At::Before);
    table.put(some(&[(2, 1)])).await.unwrap();
    held.reached().await;
    let mut close = Box::pin(table.close());
    assert!(futures::poll!(close.as_mut()).is_pending());
    drop(close);
    assert!(!table.is_usable());
    assert_eq!(table.put(some(&[(3, 1)])).await.unwrap_err().kind(), ErrorKind::Closed);
    held.open();
    soon("the end", table.close()).await.unwrap();
    assert_eq!(numbers(&place.rows(&place.open(quiet()).await.unwrap()).await), [(1, 1), (2, 1)]);
}

#[tokio::test]
async fn a_damaged_shard_keeps_no_other_from_being_flushed() {
    let Two { place, table, a, b, wal_a, .. } = Two::new(quiet()).await;
    table.put(some(&[(a[1], 1)])).await.unwrap();
    table.close().await.unwrap();
    drop(table);
    let entry = place.root().join(&wal_a).join(TablePaths::wal_entry_name(WalPosition(2)));
    std::fs::write(entry, b"damaged").unwrap();
    let table = place.open(quiet()).await.unwrap();
    assert!(table.is_usable());
    table.put(some(&[(b[1], 1)])).await.unwrap();
    assert_eq!(table.flush().await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(table.sources().iter().filter(|s| s.kind == "generation").count(), 1);
    assert_eq!(table.get(&KeyType::Int64.values(b[1])).await.unwrap().map(|row| row.num_rows()), Some(1));
}

#[tokio::test]
async fn nobody_waits_for_rows_that_will_never_be_seen() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let table = place.open_with(quiet(), &faults, &events).await;
    table.put(some(&[(1, 0)])).await.unwrap();
    let gate = faults.hold_then_fail(IoOp::PutIfAbsent, "/wal/", broken());
    let lost = table.put_no_wait(some(&[(4, 1)])).await.unwrap();
    gate.reached().await;
    let second = async {
        let mut insert = table.begin(StatementKind::Insert(OnConflict::Ignore), None, None);
        insert.push(some(&[(4, 2)])).await?;
        insert.finish().await
    };
    let opened_later = async {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        gate.open();
    };
    let (second, ()) = tokio::join!(soon("an answer", second), opened_later);
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Invalid);
    assert!(lost.wait().await.is_err());
}
