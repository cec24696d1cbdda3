//! A handle that is dropped takes everything it started with it.
//!
//! A test's own runtime counts tasks: nothing else runs on it. What a task holds is seen by the references to the
//! components that the handle was given.

use std::sync::Arc;
use std::time::Duration;

use datafusion_lsm::error::ErrorKind;
use datafusion_lsm::settings::{Ack, Settings};
use datafusion_lsm::store::{IoOp, TablePaths};
use datafusion_lsm::table::LsmTable;
use tokio::runtime::Handle;

use crate::support::events::Events;
use crate::support::faults::{ALWAYS, At, Faults};
use crate::support::key_type::KeyType;
use crate::support::place::{Place, numbers, quiet};
use crate::support::rows::numbered;
use crate::support::{PATIENCE, until};

struct Parts {
    faults: Arc<Faults>,
    events: Arc<Events>,
}

impl Parts {
    fn new() -> Self {
        Self { faults: Arc::new(Faults::default()), events: Arc::new(Events::default()) }
    }

    async fn open(&self, place: &Place, settings: Settings) -> Arc<LsmTable> {
        place.open_with(settings, &self.faults, &self.events).await
    }

    /// Waits until no task runs and nobody holds the components.
    async fn gone(&self) {
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let held = || Arc::strong_count(&self.faults) + Arc::strong_count(&self.events);
        let seen = || format!("{} tasks run, {} references are held beyond the test", tasks(), held() - 2);
        let ended = async {
            while tasks() > 0 || held() > 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, ended).await.is_ok(), "{}", seen());
    }
}

fn row(key: u32) -> arrow::array::RecordBatch {
    numbered(KeyType::Int64, &[(key, 1)])
}

/// Everything that happens in the background happens.
fn busy() -> Settings {
    Settings { base_refresh: Some(Duration::from_millis(1)), memtable_rows: 10, ..quiet() }
}

#[tokio::test]
async fn dropping_a_handle_ends_its_tasks() {
    for shards in [1, 3] {
        let place = Place::new(KeyType::Int64, shards);
        let parts = Parts::new();
        let table = parts.open(&place, busy()).await;
        assert!(Handle::current().metrics().num_alive_tasks() > shards as usize, "there is something to end");
        drop(table);
        parts.gone().await;

        let table = parts.open(&place, busy()).await;
        for key in 0..50 {
            table.put(row(key)).await.unwrap();
        }
        let snapshot = table.snapshot();
        place.rows(&table).await;
        drop((table, snapshot));
        parts.gone().await;
        assert_eq!(place.rows(&place.open(quiet()).await.unwrap()).await.len(), 50);
    }
}

#[tokio::test]
async fn dropping_a_handle_in_the_middle_of_things_ends_its_tasks_too() {
    for (op, path) in [(IoOp::PutIfAbsent, "/wal/"), (IoOp::Sync, "_gen_"), (IoOp::PutIfAbsent, "/manifest/")] {
        let place = Place::simple();
        let parts = Parts::new();
        let table = parts.open(&place, Settings { ack: Ack::Memory, ..busy() }).await;
        table.put(row(0)).await.unwrap();
        parts.events.until("the first append", |c| c.appends == 1).await;
        let gate = parts.faults.hold(op, path, At::Before);
        for key in 1..30 {
            table.put(row(key)).await.unwrap();
        }
        gate.reached().await;
        drop(table);
        parts.gone().await;
        let table = place.open(quiet()).await.unwrap();
        table.put(row(100)).await.unwrap();
        assert!(place.rows(&table).await.contains_key(&0));
    }
}

#[tokio::test]
async fn dropping_a_handle_whose_storage_fails_ends_its_tasks_too() {
    let place = Place::simple();
    let parts = Parts::new();
    let table = parts.open(&place, busy()).await;
    parts.faults.fail(IoOp::Sync, "_gen_", At::Before, ALWAYS);
    for key in 0..30 {
        table.put(row(key)).await.unwrap();
    }
    parts.events.until("a failed flush", |c| c.failed_flushes > 0).await;
    parts.faults.fail(IoOp::PutIfAbsent, "/wal/", At::Before, ALWAYS);
    let pending = table.put_no_wait(row(30)).await.unwrap();
    drop((table, pending));
    parts.gone().await;
    assert_eq!(place.rows(&place.open(quiet()).await.unwrap()).await.len(), 30);
}

#[tokio::test]
async fn an_open_that_fails_leaves_no_task() {
    let place = Place::simple();
    let parts = Parts::new();
    drop(place.open(quiet()).await.unwrap());
    parts.faults.fail(IoOp::Get, "", At::Before, ALWAYS);
    parts.faults.fail(IoOp::List, "", At::Before, ALWAYS);
    let opened = place.try_open_with(busy(), &parts.faults, &parts.events).await;
    drop(opened);
    parts.gone().await;
}

#[tokio::test]
async fn a_closed_handle_has_no_tasks_still_reads_and_refuses_to_write() {
    let place = Place::simple();
    let parts = Parts::new();
    let table = parts.open(&place, busy()).await;
    for key in 0..25 {
        table.put(row(key)).await.unwrap();
    }
    table.close().await.unwrap();
    until("the end of the tasks", || Handle::current().metrics().num_alive_tasks() == 0).await;
    let error = table.put(row(99)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    assert_eq!(table.delete(KeyType::Int64.batch(&[1])).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(place.rows(&table).await.len(), 25);
    drop(table);
    parts.gone().await;
}

#[tokio::test]
async fn what_a_dropped_handle_had_acknowledged_is_there() {
    let place = Place::simple();
    let mut expected = Vec::new();
    for key in 0..20 {
        let table = place.open(Settings { memtable_rows: 3, ..quiet() }).await.unwrap();
        table.put(row(key)).await.unwrap();
        expected.push((key, 1));
        assert_eq!(numbers(&place.rows(&table).await), sorted(&expected));
    }
}

#[tokio::test]
async fn what_a_dropped_handle_had_acknowledged_from_memory_is_written_before_its_tasks_end() {
    for shards in [1, 3] {
        let place = Place::new(KeyType::Int64, shards);
        let parts = Parts::new();
        let table = parts.open(&place, Settings { ack: Ack::Memory, ..quiet() }).await;
        let first: Vec<(u32, i64)> = (0..30).map(|key| (key, 0)).collect();
        table.put(numbered(KeyType::Int64, &first)).await.unwrap();
        parts.events.until("the appends", |c| c.appends == u64::from(shards)).await;
        let gates: Vec<_> = place
            .keys_by_shard(&table)
            .iter()
            .map(|(shard, _)| parts.faults.hold(IoOp::PutIfAbsent, &TablePaths::wal_dir(*shard), At::Before))
            .collect();
        for n in 1..5 {
            // The first of them is under way, the others are queued behind it.
            let rows: Vec<(u32, i64)> = (0..30).map(|key| (key, n)).collect();
            table.put(numbered(KeyType::Int64, &rows)).await.unwrap();
            for gate in gates.iter().filter(|_| n == 1) {
                gate.reached().await;
            }
        }
        let expected = place.rows(&table).await;
        assert_eq!(expected[&7].n, 4, "it was acknowledged and seen");
        drop(table);
        for gate in gates {
            gate.open();
        }
        parts.gone().await;
        assert_eq!(place.rows(&place.open(quiet()).await.unwrap()).await, expected);
    }
}

fn sorted(rows: &[(u32, i64)]) -> Vec<(u32, i64)> {
    let mut rows = rows.to_vec();
    rows.sort_unstable();
    rows
}
