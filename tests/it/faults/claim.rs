//! Claims that stop half-way: the same handle goes on with its epoch, and fences neither itself nor anybody twice.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion_lsm::error::ErrorKind;
use datafusion_lsm::ids::ShardId;
use datafusion_lsm::store::IoOp;
use datafusion_lsm::table::LsmTable;

use crate::support::events::Events;
use crate::support::faults::{ALWAYS, At, Faults};
use crate::support::key_type::KeyType;
use crate::support::place::{Place, numbers, quiet};
use crate::support::rows::numbered;

fn row(key: u32, n: i64) -> RecordBatch {
    numbered(KeyType::Int64, &[(key, n)])
}

/// A table with a writer of epoch 1, and another handle that has read it.
struct Beside {
    place: Place,
    writer: Arc<LsmTable>,
    table: Arc<LsmTable>,
    faults: Arc<Faults>,
    events: Arc<Events>,
}

async fn beside() -> Beside {
    let place = Place::simple();
    let writer = place.open(quiet()).await.unwrap();
    writer.put(row(1, 10)).await.unwrap();
    writer.flush().await.unwrap();
    writer.put(row(2, 20)).await.unwrap();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let table = place.open_with(quiet(), &faults, &events).await;
    writer.put(row(3, 30)).await.unwrap();
    Beside { place, writer, table, faults, events }
}

impl Beside {
    /// Puts a row as soon as the epoch is committed, which `fault` then happens to.
    async fn put_with(&self, fault: impl FnOnce(&Faults)) -> datafusion_lsm::error::Result<u64> {
        let gate = self.faults.hold(IoOp::PutIfAbsent, "/manifest/", At::After);
        let put = self.table.put(row(4, 40));
        tokio::pin!(put);
        tokio::select! {
            result = &mut put => panic!("the claim is held: {result:?}"),
            () = gate.reached() => {}
        }
        fault(&self.faults);
        gate.open();
        put.await
    }

    async fn is(&self, role: &str, epoch: u64) {
        let wal = self.table.wal().await.unwrap();
        assert_eq!((wal[0].role, wal[0].epoch), (role, epoch), "{wal:?}");
    }

    /// The handle writes as the owner, and everything acknowledged is there.
    async fn writes(&self) {
        assert_eq!(self.table.put(row(5, 50)).await.unwrap(), 1);
        assert_eq!(self.events.counts().claims, 1);
        assert_eq!(self.writer.put(row(9, 90)).await.unwrap_err().kind(), ErrorKind::Fenced);
        self.table.flush().await.unwrap();
        self.table.put(row(6, 60)).await.unwrap();
        for table in [&self.table, &self.place.reader().await] {
            let rows = numbers(&self.place.rows(table).await);
            assert_eq!(rows, [(1, 10), (2, 20), (3, 30), (5, 50), (6, 60)]);
        }
    }
}

#[tokio::test]
async fn a_claim_that_fails_behind_its_epoch_goes_on_with_it() {
    type Fault = (IoOp, &'static str, At);
    let no_tip: &[Fault] = &[(IoOp::Head, "/wal/", At::Before)];
    let no_sentinel: &[Fault] = &[(IoOp::PutIfAbsent, "/wal/", At::Before)];
    let sentinel_in_doubt: &[Fault] = &[(IoOp::PutIfAbsent, "/wal/", At::After), (IoOp::Get, "/wal/", At::Before)];
    let no_catch_up: &[Fault] = &[(IoOp::Get, "/wal/", At::Before)];
    let no_manifest: &[Fault] = &[(IoOp::Head, "/manifest/", At::Before)];
    for stopped in [no_tip, no_sentinel, sentinel_in_doubt, no_catch_up, no_manifest] {
        let beside = beside().await;
        let first = beside.put_with(|faults| {
            for (op, path, at) in stopped {
                faults.fail(*op, path, *at, ALWAYS);
            }
        });
        let error = first.await.expect_err("the claim cannot succeed");
        assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Indeterminate), "{stopped:?}: {error}");
        beside.is("claiming", 2).await;
        assert!(beside.table.put(row(4, 41)).await.is_err(), "{stopped:?}");
        beside.is("claiming", 2).await;
        assert!(numbers(&beside.place.rows(&beside.table).await).contains(&(1, 10)), "{stopped:?}: it reads");

        beside.faults.heal();
        beside.writes().await;
        beside.is("writer", 2).await;
    }
}

#[tokio::test]
async fn a_claim_whose_caller_went_away_is_in_nobodys_way() {
    let steps = [(IoOp::Get, "/wal/"), (IoOp::PutIfAbsent, "/manifest/"), (IoOp::PutIfAbsent, "/wal/")];
    for (op, path) in steps {
        for at in [At::Before, At::After] {
            let beside = beside().await;
            let gate = beside.faults.hold(op, path, at);
            tokio::select! {
                result = beside.table.put(row(4, 40)) => panic!("the claim is held: {result:?}"),
                () = gate.reached() => {}
            }
            beside.writes().await;
            // Only whoever does not know that its epoch was committed takes another one.
            let unknown = op == IoOp::PutIfAbsent && path == "/manifest/" && at == At::After;
            beside.is("writer", if unknown { 3 } else { 2 }).await;
        }
    }
}

#[tokio::test]
async fn an_unfinished_claim_that_another_process_overtakes_is_fenced_for_good() {
    let beside = beside().await;
    let first = beside.put_with(|faults| faults.fail(IoOp::PutIfAbsent, "/wal/", At::Before, ALWAYS));
    assert_eq!(first.await.unwrap_err().kind(), ErrorKind::Unavailable);
    let third = beside.place.open(quiet()).await.unwrap();
    third.put(row(7, 70)).await.unwrap();
    beside.faults.heal();
    for _ in 0..3 {
        let error = beside.table.put(row(4, 40)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    }
    assert!(!beside.table.is_usable(), "whoever opens the table in this process gets another handle");
    third.put(row(8, 80)).await.unwrap();
    assert_eq!(third.wal().await.unwrap()[0].epoch, 3);
    assert_eq!(beside.events.counts().claims, 0);
    let rows = numbers(&beside.place.rows(&third).await);
    assert_eq!(rows, [(1, 10), (2, 20), (3, 30), (7, 70), (8, 80)]);
    let slots = beside.place.wal_slots(ShardId::unsharded());
    assert_eq!(slots, (1..=slots.len() as u64).collect::<Vec<_>>(), "no slot is left out");
}

#[tokio::test]
async fn an_unfinished_claim_still_reads_what_its_predecessor_writes() {
    let beside = beside().await;
    let first = beside.put_with(|faults| faults.fail(IoOp::PutIfAbsent, "/wal/", At::Before, ALWAYS));
    assert_eq!(first.await.unwrap_err().kind(), ErrorKind::Unavailable);
    beside.is("claiming", 2).await;
    // It is not fenced before the sentinel is in its WAL.
    beside.writer.put(row(7, 70)).await.unwrap();
    beside.table.refresh().await.unwrap();
    let rows = numbers(&beside.place.rows(&beside.table).await);
    assert_eq!(rows, [(1, 10), (2, 20), (3, 30), (7, 70)]);
    beside.faults.heal();
    beside.table.put(row(8, 80)).await.unwrap();
    beside.is("writer", 2).await;
    for table in [&beside.table, &beside.place.reader().await] {
        let rows = numbers(&beside.place.rows(table).await);
        assert_eq!(rows, [(1, 10), (2, 20), (3, 30), (7, 70), (8, 80)]);
    }
}

#[tokio::test]
async fn a_claim_of_a_table_that_was_closed_meanwhile_ends_there() {
    let beside = beside().await;
    let gate = beside.faults.hold(IoOp::PutIfAbsent, "/manifest/", At::After);
    let error = {
        let flush = beside.table.flush();
        tokio::pin!(flush);
        tokio::select! {
            result = &mut flush => panic!("the claim is held: {result:?}"),
            () = gate.reached() => {}
        }
        beside.table.close().await.unwrap();
        gate.open();
        flush.await.unwrap_err()
    };
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    assert_eq!(beside.events.counts().claims, 0);
    beside.is("failed", 2).await;
    // The epoch is taken, but no sentinel follows it.
    assert_eq!(beside.writer.put(row(7, 70)).await.unwrap(), 1);
}
