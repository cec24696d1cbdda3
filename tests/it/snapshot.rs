//! What becomes visible together is seen together, whichever way it is read and at whatever moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion::prelude::SessionContext;
use datafusion_lsm::block_list::BlockLists;
use datafusion_lsm::cache::MemoryBudget;
use datafusion_lsm::ids::GenerationId;
use datafusion_lsm::memtable::MemTable;
use datafusion_lsm::sql::{LsmSessionExt, LsmTableProvider};
use datafusion_lsm::store::{IoOp, TablePaths};
use datafusion_lsm::table::LsmTable;
use datafusion_lsm::version::{Version, VersionControl};

use crate::support::events::Events;
use crate::support::faults::{At, Faults};
use crate::support::key_type::KeyType;
use crate::support::place::{Place, numbers, quiet};
use crate::support::rows::{listed, numbered, schema, stream};

/// A memtable with one row that is not visible yet.
fn memtable(table: &LsmTable, generation: u64) -> Arc<MemTable> {
    let schema = table.table_schema();
    let lease = MemoryBudget::new(1 << 30).lease();
    let memtable = MemTable::new(GenerationId(generation), Arc::clone(&schema), Duration::ZERO, lease);
    let rows = schema.to_stored(&numbered(KeyType::Int64, &[(generation as u32, 1)])).unwrap();
    let keys = schema.key().of_batch(&rows).unwrap();
    memtable.append(rows, &keys, 100);
    Arc::new(memtable)
}

#[tokio::test]
async fn no_snapshot_is_taken_while_rows_become_visible() {
    for shards in [1, 2] {
        let place = Place::new(KeyType::Int64, shards);
        let table = place.open(quiet()).await.unwrap();
        let mut version = Version::clone(table.snapshot().version());
        let memtables = [memtable(&table, 1), memtable(&table, 2)];
        match version.shards.as_mut_slice() {
            [only] => {
                only.frozen = vec![Arc::clone(&memtables[0])];
                only.active = Arc::clone(&memtables[1]);
            }
            several => {
                several[0].active = Arc::clone(&memtables[0]);
                several[1].active = Arc::clone(&memtables[1]);
            }
        }
        let control = VersionControl::new(version, Arc::new(BlockLists::new(1 << 20)));
        std::thread::scope(|threads| {
            let (see, seen) = channel();
            let mut reading = false;
            control.publish(memtables.iter().map(|memtable| {
                if memtables[0].visible() == 1 && !reading {
                    // One of them is visible and the other is not.
                    reading = true;
                    let (see, control) = (see.clone(), &control);
                    threads.spawn(move || {
                        let snapshot = control.snapshot();
                        let views = snapshot.shards().flat_map(|(_, views)| views);
                        see.send(views.map(|view| view.watermark()).collect::<Vec<_>>()).unwrap();
                    });
                    let early = seen.recv_timeout(Duration::from_millis(100));
                    assert!(early.is_err(), "of {shards} shards the half was seen: {early:?}");
                }
                (memtable, 1)
            }));
            assert!(reading);
            assert_eq!(seen.recv().unwrap(), [1, 1], "the snapshot that waited");
        });
    }
}

/// A session in which the table is `t`.
fn session(table: &Arc<LsmTable>) -> SessionContext {
    let session = SessionContext::new().with_lsm();
    session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(table)))).unwrap();
    session
}

async fn count(session: &SessionContext, sql: &str) -> i64 {
    let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
    batches[0].column(0).as_primitive::<Int64Type>().value(0)
}

/// The numbers of all keys below 40, which every way of reading must show alike.
async fn seen(place: &Place, table: &Arc<LsmTable>) -> BTreeMap<u32, i64> {
    let listed = |batch: &RecordBatch| -> BTreeMap<u32, i64> {
        listed(KeyType::Int64, batch).into_iter().map(|(key, row)| (key, row.n)).collect()
    };
    let scanned: BTreeMap<u32, i64> = numbers(&place.rows(table).await).into_iter().collect();
    let keys: Vec<u32> = (0..40).collect();
    assert_eq!(listed(&table.get_many(&KeyType::Int64.batch(&keys)).await.unwrap()), scanned, "get_many");
    let mut got = BTreeMap::new();
    for key in keys {
        got.extend(table.get(&KeyType::Int64.values(key)).await.unwrap().iter().flat_map(&listed));
    }
    assert_eq!(got, scanned, "get");
    let session = session(table);
    assert_eq!(count(&session, "SELECT count(*) FROM t").await, scanned.len() as i64, "SELECT");
    let pairs: usize = scanned.values().map(|n| scanned.values().filter(|m| *m == n).count()).sum();
    assert_eq!(count(&session, "SELECT count(*) FROM t a JOIN t b ON a.n = b.n").await, pairs as i64, "a self-join");
    let torn = "SELECT count(*) FROM t a FULL JOIN t b ON a.k = b.k WHERE a.n IS DISTINCT FROM b.n";
    assert_eq!(count(&session, torn).await, 0, "a self-join of rows with themselves");
    assert_eq!(table.live_rows(&table.snapshot()).await.unwrap(), scanned.len() as u64, "live_rows");
    scanned
}

fn everywhere(n: i64, keys: impl IntoIterator<Item = u32>) -> BTreeMap<u32, i64> {
    keys.into_iter().map(|key| (key, n)).collect()
}

fn some(rows: &BTreeMap<u32, i64>) -> RecordBatch {
    numbered(KeyType::Int64, &rows.iter().map(|(key, n)| (*key, *n)).collect::<Vec<_>>())
}

#[tokio::test]
async fn a_statement_over_several_shards_is_seen_whole_by_every_way_of_reading() {
    let place = Place::new(KeyType::Int64, 3);
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let table = place.open_with(quiet(), &faults, &events).await;
    let mut before = everywhere(0, 0..20);
    table.put(some(&before)).await.unwrap();
    for (n, (slow, _)) in place.keys_by_shard(&table).into_iter().enumerate() {
        let after = everywhere(n as i64 + 1, 0..30);
        let appends = events.counts().appends;
        let gate = faults.hold(IoOp::PutIfAbsent, &TablePaths::wal_dir(slow), At::Before);
        let statement = table.put_no_wait(some(&after)).await.unwrap();
        gate.reached().await;
        events.until("the appends of the other shards", |c| c.appends == appends + 2).await;
        let snapshot = table.snapshot();
        assert_eq!(seen(&place, &table).await, before, "one unit is not durable");
        gate.open();
        assert_eq!(statement.wait().await.unwrap(), 30);
        assert_eq!(seen(&place, &table).await, after);
        let pinned: BTreeMap<u32, i64> = numbers(&place.rows_of(&table, &snapshot).await).into_iter().collect();
        assert_eq!(pinned, before, "a snapshot stays");
        before = after;
    }
}

#[tokio::test]
async fn a_replacement_of_all_rows_is_seen_whole_at_every_step() {
    for (op, at) in [IoOp::PutIfAbsent, IoOp::Sync].into_iter().flat_map(|op| [(op, At::Before), (op, At::After)]) {
        let place = Place::new(KeyType::Int64, 2);
        let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
        let table = place.open_with(quiet(), &faults, &events).await;
        table.put(some(&everywhere(1, 0..10))).await.unwrap();
        table.flush().await.unwrap();
        table.put(some(&everywhere(2, 5..20))).await.unwrap();
        let mut old = seen(&place, &table).await;
        let reader = place.reader().await;
        for new in [everywhere(3, 15..40), BTreeMap::new()] {
            let batches = if new.is_empty() { Vec::new() } else { vec![some(&new)] };
            let replacement = table.replace_all(stream(schema(KeyType::Int64), batches));
            tokio::pin!(replacement);
            let mut steps = 0;
            let mut replaced = false;
            let mut gate = faults.hold(op, "", at);
            let count = loop {
                tokio::select! {
                    count = &mut replacement => break count.unwrap(),
                    () = gate.reached() => {}
                }
                steps += 1;
                let now = seen(&place, &table).await;
                assert!(now == old || now == new, "step {steps} of {op:?} {at:?}: {now:?}");
                assert!(!replaced || now == new, "step {steps} of {op:?} {at:?}: the old rows are back");
                replaced |= now == new;
                reader.refresh().await.unwrap();
                for other in [&reader, &place.reader().await] {
                    let now = seen(&place, other).await;
                    assert!(now == old || now == new, "another process, step {steps} of {op:?} {at:?}: {now:?}");
                }
                let next = faults.hold(op, "", at);
                gate.open();
                gate = next;
            };
            faults.heal();
            assert!(steps >= 2, "{op:?} {at:?}: {steps} steps");
            assert_eq!((count, seen(&place, &table).await), (new.len() as u64, new.clone()));
            // What is replaced next is in memtables and the base.
            old = new;
            old.extend(everywhere(4, 0..5));
            table.put(some(&everywhere(4, 0..5))).await.unwrap();
        }
    }
}
