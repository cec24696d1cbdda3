//! What another process did after this one had read: statements that relied on it conflict, and no row is lost.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;
use datafusion_lsm::error::{ErrorKind, Result};
use datafusion_lsm::settings::{OnConflict, Settings};
use datafusion_lsm::sql::{LsmSessionExt, LsmTableProvider};
use datafusion_lsm::store::{IoOp, TablePaths};
use datafusion_lsm::table::{LsmTable, StatementKind};
use datafusion_lsm::version::Snapshot;

use crate::support::events::Events;
use crate::support::faults::{At, Faults};
use crate::support::key_type::KeyType;
use crate::support::place::{Place, numbers, quiet};
use crate::support::rows::{numbered, schema, stream};

fn some(rows: &[(u32, i64)]) -> RecordBatch {
    numbered(KeyType::Int64, rows)
}

async fn replace(table: &Arc<LsmTable>, rows: &[(u32, i64)]) {
    let batches = if rows.is_empty() { Vec::new() } else { vec![some(rows)] };
    table.replace_all(stream(schema(KeyType::Int64), batches)).await.unwrap();
}

/// An UPDATE or DELETE of key 1 that decided on `snapshot`.
async fn change(table: &Arc<LsmTable>, kind: StatementKind, snapshot: &Arc<Snapshot>) -> Result<u64> {
    let mut statement = table.begin(kind, Some(Arc::clone(snapshot)), None);
    let rows = if kind == StatementKind::Delete { KeyType::Int64.batch(&[1]) } else { some(&[(1, 99)]) };
    statement.push(rows).await?;
    statement.finish().await
}

/// Where the rows are that a statement reads, and where what is changed after that goes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Where {
    Wal,
    Generation,
    Base,
}

const EVERYWHERE: [Where; 3] = [Where::Wal, Where::Generation, Where::Base];

/// Has `rows` there; for the base, instead of all other rows.
async fn write(table: &Arc<LsmTable>, to: Where, rows: &[(u32, i64)]) {
    if to == Where::Base {
        return replace(table, rows).await;
    }
    table.put(some(rows)).await.unwrap();
    if to == Where::Generation {
        table.flush().await.unwrap();
    }
}

#[tokio::test]
async fn an_update_or_delete_conflicts_with_what_its_claim_takes_over() {
    for (from, to) in EVERYWHERE.into_iter().flat_map(|from| EVERYWHERE.map(|to| (from, to))) {
        for kind in [StatementKind::Update, StatementKind::Delete] {
            for refreshed in [false, true] {
                let place = Place::simple();
                let other = place.open(quiet()).await.unwrap();
                write(&other, from, &[(1, 10), (2, 20)]).await;
                let table = place.open(quiet()).await.unwrap();
                let snapshot = table.snapshot();
                write(&other, to, &[(1, 11), (2, 20)]).await;
                if refreshed {
                    table.refresh().await.unwrap();
                }
                let what = format!("{kind:?} of a row in {from:?}, changed in {to:?}, refreshed: {refreshed}");
                let error = change(&table, kind, &snapshot).await.expect_err(&what);
                assert_eq!(error.kind(), ErrorKind::Conflict, "{what}: {error}");
                assert_eq!(numbers(&place.rows(&table).await), [(1, 11), (2, 20)], "{what}");
                assert_eq!(change(&table, kind, &table.snapshot()).await.unwrap(), 1, "{what}: the second time");
                let rows = numbers(&place.rows(&place.open(quiet()).await.unwrap()).await);
                let expected = if kind == StatementKind::Delete { vec![(2, 20)] } else { vec![(1, 99), (2, 20)] };
                assert_eq!(rows, expected, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn rows_that_another_process_removed_from_the_base_do_not_come_back() {
    for kind in [StatementKind::Update, StatementKind::Delete] {
        let place = Place::simple();
        let other = place.open(quiet()).await.unwrap();
        replace(&other, &[(1, 10)]).await;
        let table = place.open(quiet()).await.unwrap();
        let snapshot = table.snapshot();
        // No generation is merged by this: nothing but the base's version tells.
        replace(&other, &[]).await;
        assert_eq!(change(&table, kind, &snapshot).await.unwrap_err().kind(), ErrorKind::Conflict, "{kind:?}");
        assert_eq!(numbers(&place.rows(&table).await), []);
    }
}

#[tokio::test]
async fn keys_that_a_foreign_wal_does_not_touch_are_no_conflict() {
    let place = Place::simple();
    let other = place.open(quiet()).await.unwrap();
    write(&other, Where::Wal, &[(1, 10), (2, 20)]).await;
    let table = place.open(quiet()).await.unwrap();
    let snapshot = table.snapshot();
    write(&other, Where::Wal, &[(2, 21)]).await;
    assert_eq!(change(&table, StatementKind::Update, &snapshot).await.unwrap(), 1);
    assert_eq!(numbers(&place.rows(&table).await), [(1, 99), (2, 21)]);
}

#[tokio::test]
async fn an_insert_that_may_not_replace_sees_what_its_claim_takes_over() {
    for to in EVERYWHERE {
        for on_conflict in [OnConflict::Error, OnConflict::Ignore] {
            let place = Place::simple();
            let other = place.open(quiet()).await.unwrap();
            write(&other, Where::Wal, &[(2, 20)]).await;
            let table = place.open(quiet()).await.unwrap();
            write(&other, to, &[(1, 11), (2, 20)]).await;
            let mut statement = table.begin(StatementKind::Insert(on_conflict), None, None);
            statement.push(some(&[(1, 99), (3, 30)])).await.unwrap();
            let mut expected = vec![(1, 11), (2, 20)];
            match (on_conflict, statement.finish().await) {
                (OnConflict::Ignore, written) => {
                    assert_eq!(written.unwrap(), 1, "in {to:?}");
                    expected.push((3, 30));
                }
                (_, written) => assert_eq!(written.unwrap_err().kind(), ErrorKind::Invalid, "in {to:?}"),
            }
            assert_eq!(numbers(&place.rows(&table).await), expected, "in {to:?}");
        }
    }
}

#[tokio::test]
async fn an_insert_that_may_not_replace_takes_a_key_that_was_deleted_since() {
    for (from, on_conflict) in
        EVERYWHERE.into_iter().flat_map(|from| [(from, OnConflict::Error), (from, OnConflict::Ignore)])
    {
        let place = Place::simple();
        let other = place.open(quiet()).await.unwrap();
        write(&other, from, &[(1, 10), (2, 20)]).await;
        let table = place.open(quiet()).await.unwrap();
        other.delete(KeyType::Int64.batch(&[1])).await.unwrap();
        let mut statement = table.begin(StatementKind::Insert(on_conflict), None, None);
        statement.push(some(&[(1, 99)])).await.unwrap();
        assert_eq!(statement.finish().await.unwrap(), 1, "{on_conflict:?} of a row in {from:?}");
        assert_eq!(numbers(&place.rows(&table).await), [(1, 99), (2, 20)], "{on_conflict:?} of a row in {from:?}");
    }
}

/// What a writer does while another process is between reading the base and reading a shard's manifest.
async fn merge(writer: &Arc<LsmTable>, rows: &[(u32, i64)], and_goes_on: bool) -> Vec<(u32, i64)> {
    replace(writer, rows).await;
    let mut expected = rows.to_vec();
    if and_goes_on {
        write(writer, Where::Generation, &[(7, 70)]).await;
        write(writer, Where::Wal, &[(8, 80)]).await;
        expected.extend([(7, 70), (8, 80)]);
    }
    expected
}

#[tokio::test]
async fn a_base_that_was_read_before_a_merge_is_read_again_when_the_manifest_tells() {
    for (rows, and_goes_on) in [(&[(1, 11), (2, 20)][..], false), (&[(1, 11)][..], true), (&[][..], true)] {
        let place = Place::simple();
        let writer = place.open(quiet()).await.unwrap();
        write(&writer, Where::Generation, &[(1, 10)]).await;
        let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));

        // Opening reads the base, then the hint and the manifest.
        let gate = faults.hold(IoOp::Get, "/manifest/", At::Before);
        let opening = place.try_open_with(quiet(), &faults, &events);
        tokio::pin!(opening);
        tokio::select! {
            _ = &mut opening => panic!("opening is held"),
            () = gate.reached() => {}
        }
        let expected = Box::pin(merge(&writer, rows, and_goes_on)).await;
        gate.open();
        let table = opening.await.unwrap();
        assert_eq!(numbers(&place.rows(&table).await), expected, "opened meanwhile");

        // So does looking for what is new.
        let gate = faults.hold(IoOp::Head, "/manifest/", At::Before);
        let refresh = table.refresh();
        tokio::pin!(refresh);
        tokio::select! {
            _ = &mut refresh => panic!("refreshing is held"),
            () = gate.reached() => {}
        }
        write(&writer, Where::Generation, &[(5, 50)]).await;
        let expected = Box::pin(merge(&writer, rows, and_goes_on)).await;
        gate.open();
        refresh.await.unwrap();
        assert_eq!(numbers(&place.rows(&table).await), expected, "refreshed meanwhile");
    }
}

#[tokio::test]
async fn what_a_writer_deletes_behind_its_commit_is_looked_for_where_the_commit_says() {
    for path in ["checksums.json", "/wal/"] {
        let place = Place::simple();
        let writer = place.open(quiet()).await.unwrap();
        write(&writer, Where::Generation, &[(1, 10)]).await;
        write(&writer, Where::Wal, &[(2, 20)]).await;
        let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));

        // The manifest is read before generations and WAL entries are.
        let gate = faults.hold(IoOp::Get, path, At::Before);
        let opening = place.try_open_with(Settings { verify: true, ..quiet() }, &faults, &events);
        tokio::pin!(opening);
        tokio::select! {
            _ = &mut opening => panic!("opening is held"),
            () = gate.reached() => {}
        }
        let expected = Box::pin(merge(&writer, &[(1, 11), (2, 20)], true)).await;
        let wal = writer.wal().await.unwrap();
        let shard = place.root().join(TablePaths::shard_dir(wal[0].shard));
        let mut deleted = 0;
        for name in std::fs::read_dir(shard).unwrap().map(|entry| entry.unwrap()) {
            let number = TablePaths::parse_generation(name.file_name().to_str().unwrap());
            if number.is_some_and(|number| number.0 < 3) {
                std::fs::remove_dir_all(name.path()).unwrap();
                deleted += 1;
            }
        }
        assert_eq!(deleted, 2, "the generations that the base has now");
        for position in place.wal_slots(wal[0].shard).into_iter().filter(|position| *position <= wal[0].replay_after) {
            std::fs::remove_file(place.wal_file(position)).unwrap();
            deleted += 1;
        }
        assert!(deleted > 2, "entries whose rows are in generations");
        gate.open();
        let table = opening.await.unwrap();
        assert_eq!(numbers(&place.rows(&table).await), expected, "held at {path}");
        table.put(some(&[(9, 90)])).await.unwrap();
        assert_eq!(place.rows(&table).await.len(), expected.len() + 1);
    }
}

/// A session with the table of `place` as `t`, of an engine of its own.
fn session(table: &Arc<LsmTable>) -> SessionContext {
    let session = SessionContext::new().with_lsm();
    session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(table)))).unwrap();
    session
}

async fn written(session: &SessionContext, sql: &str) -> u64 {
    let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
    batches[0].column(0).as_primitive::<UInt64Type>().value(0)
}

#[tokio::test]
async fn a_statement_that_ran_anew_for_what_was_there_runs_anew_for_a_conflict() {
    let place = Place::simple();
    let other = place.open(quiet()).await.unwrap();
    other.put(some(&[(1, 10)])).await.unwrap();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let table = place.open_with(quiet(), &faults, &events).await;
    other.put(some(&[(1, 11)])).await.unwrap();
    let session = session(&table);
    let gate = faults.hold(IoOp::PutIfAbsent, "/manifest/", At::Before);
    let update = written(&session, "UPDATE t SET n = n + 100");
    tokio::pin!(update);
    tokio::select! {
        count = &mut update => panic!("the claim is held: {count}"),
        () = gate.reached() => {}
    }
    other.put(some(&[(1, 12)])).await.unwrap();
    gate.open();
    assert_eq!(update.await, 1);
    assert_eq!(numbers(&place.rows(&table).await), [(1, 112)]);
}

#[tokio::test]
async fn a_statement_runs_anew_only_for_what_others_wrote() {
    let place = Place::new(KeyType::Int64, 2);
    let table = place.open(quiet()).await.unwrap();
    // One shard is never claimed.
    let (_, keys) = place.keys_by_shard(&table).remove(0);
    table.put(some(&[(keys[0], 0), (keys[1], 0), (keys[2], 5)])).await.unwrap();
    let session = session(&table);
    let frame = session.sql("UPDATE t SET n = n + 1 WHERE n = 0").await.unwrap();
    let (context, plan) = (frame.task_ctx(), frame.create_physical_plan().await.unwrap());
    table.put(some(&[(keys[2], 0)])).await.unwrap();
    let count = collect(plan, Arc::new(context)).await.unwrap();
    assert_eq!(count[0].column(0).as_primitive::<UInt64Type>().value(0), 2, "what its snapshot shows");
}
