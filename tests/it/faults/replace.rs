//! TRUNCATE and INSERT OVERWRITE beside statements that had read the old rows, and when their end is not known.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion_lsm::error::{ErrorKind, Result};
use datafusion_lsm::ids::ShardId;
use datafusion_lsm::index_spec::IndexSpec;
use datafusion_lsm::manifest::ManifestStore;
use datafusion_lsm::store::IoOp;
use datafusion_lsm::table::{LsmTable, StatementKind};
use datafusion_lsm::version::Snapshot;

use crate::support::events::Events;
use crate::support::faults::{ALWAYS, At, Faults};
use crate::support::key_type::KeyType;
use crate::support::place::{Place, numbers, quiet};
use crate::support::rows::{numbered, schema, stream};

fn some(rows: &[(u32, i64)]) -> RecordBatch {
    numbered(KeyType::Int64, rows)
}

async fn replace(table: &Arc<LsmTable>, rows: &[(u32, i64)]) -> Result<u64> {
    let batches = if rows.is_empty() { Vec::new() } else { vec![some(rows)] };
    table.replace_all(stream(schema(KeyType::Int64), batches)).await
}

/// An UPDATE or DELETE of key 1 that decided on `snapshot`.
async fn change(table: &Arc<LsmTable>, kind: StatementKind, snapshot: &Arc<Snapshot>) -> Result<u64> {
    let mut statement = table.begin(kind, Some(Arc::clone(snapshot)), None);
    let rows = if kind == StatementKind::Delete { KeyType::Int64.batch(&[1]) } else { some(&[(1, 99)]) };
    statement.push(rows).await?;
    statement.finish().await
}

/// Neither statement may write what it knows of the old rows.
async fn both_conflict(table: &Arc<LsmTable>, snapshot: &Arc<Snapshot>, what: &str) {
    for kind in [StatementKind::Update, StatementKind::Delete] {
        let error = change(table, kind, snapshot).await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Conflict, "{what}, {kind:?}: {error}");
    }
}

#[tokio::test]
async fn a_statement_that_read_before_all_rows_were_replaced_conflicts() {
    for replacement in [&[][..], &[(1, 11)], &[(2, 20)]] {
        for rows_are_in in ["the memtable", "a generation", "the base"] {
            let place = Place::simple();
            let table = place.open(quiet()).await.unwrap();
            match rows_are_in {
                "the base" => assert_eq!(replace(&table, &[(1, 10)]).await.unwrap(), 1),
                _ => assert_eq!(table.put(some(&[(1, 10)])).await.unwrap(), 1),
            }
            if rows_are_in == "a generation" {
                table.flush().await.unwrap();
            }
            let snapshot = table.snapshot();
            assert_eq!(replace(&table, replacement).await.unwrap(), replacement.len() as u64);
            both_conflict(&table, &snapshot, rows_are_in).await;
            assert_eq!(numbers(&place.rows_of(&table, &snapshot).await), [(1, 10)], "what it reads stays");
            assert_eq!(numbers(&place.rows(&table).await), replacement, "rows were in {rows_are_in}");
            table.put(some(&[(3, 30)])).await.unwrap();
            change(&table, StatementKind::Delete, &table.snapshot()).await.unwrap();
            drop(table);
            let mut expected: Vec<_> = replacement.iter().copied().filter(|(key, _)| *key != 1).collect();
            expected.push((3, 30));
            assert_eq!(numbers(&place.rows(&place.open(quiet()).await.unwrap()).await), expected);
        }
    }
}

/// The syncs behind the commit of the base.
const BEHIND_THE_COMMIT: [&str; 2] = ["_transactions", "_versions"];

#[tokio::test]
async fn a_replacement_in_doubt_conflicts_with_whoever_had_read_before() {
    for path in BEHIND_THE_COMMIT {
        let place = Place::simple();
        let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
        let table = place.open_with(quiet(), &faults, &events).await;
        table.put(some(&[(1, 10)])).await.unwrap();
        let snapshot = table.snapshot();
        faults.fail(IoOp::Sync, path, At::Before, ALWAYS);
        let error = replace(&table, &[(2, 20)]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
        faults.heal();
        both_conflict(&table, &snapshot, path).await;
        assert_eq!(numbers(&place.rows(&table).await), [(2, 20)], "the commit had come through");
        table.put(some(&[(3, 30)])).await.unwrap();
        table.flush().await.unwrap();
        drop(table);
        assert_eq!(numbers(&place.rows(&place.open(quiet()).await.unwrap()).await), [(2, 20), (3, 30)]);
    }
}

#[tokio::test]
async fn rows_do_not_come_back_after_a_replacement_whose_caller_went_away() {
    for (path, at) in BEHIND_THE_COMMIT.into_iter().flat_map(|path| [(path, At::Before), (path, At::After)]) {
        for kind in [StatementKind::Update, StatementKind::Upsert] {
            let place = Place::simple();
            let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
            let table = place.open_with(quiet(), &faults, &events).await;
            table.put(some(&[(1, 10)])).await.unwrap();
            let before = table.snapshot();
            let gate = faults.hold(IoOp::Sync, path, at);
            tokio::select! {
                result = replace(&table, &[(2, 20)]) => panic!("the replacement is held: {result:?}"),
                () = gate.reached() => {}
            }
            gate.open();
            both_conflict(&table, &before, path).await;
            // Whoever reads now may still see the old rows, and then must not write them back.
            let after = table.snapshot();
            let saw = numbers(&place.rows_of(&table, &after).await);
            if kind == StatementKind::Update && saw == [(1, 10)] {
                assert_eq!(change(&table, kind, &after).await.unwrap_err().kind(), ErrorKind::Conflict);
            }
            table.put(some(&[(3, 30)])).await.unwrap();
            assert_eq!(numbers(&place.rows(&table).await), [(2, 20), (3, 30)], "{path} {at:?}");
            table.flush().await.unwrap();
            drop(table);
            let rows = numbers(&place.rows(&place.open(quiet()).await.unwrap()).await);
            assert_eq!(rows, [(2, 20), (3, 30)], "{path} {at:?}");
        }
    }
}

#[tokio::test]
async fn a_replacement_whose_shard_was_claimed_meanwhile_is_fenced_and_changes_nothing() {
    let place = Place::simple();
    let table = place.open(quiet()).await.unwrap();
    table.put(numbered(KeyType::Int64, &[(1, 1)])).await.unwrap();
    let rival = place.open(quiet()).await.unwrap();
    let new = numbered(KeyType::Int64, &[(5, 5)]);
    // The rival writes while the new rows are on their way.
    let rows = futures::stream::once(async move {
        rival.put(numbered(KeyType::Int64, &[(2, 2)])).await.unwrap();
        Ok(new)
    });
    let rows = datafusion::physical_plan::stream::RecordBatchStreamAdapter::new(schema(KeyType::Int64), rows);
    let error = table.replace_all(Box::pin(rows)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    drop(table);
    assert_eq!(numbers(&place.rows(&place.open(quiet()).await.unwrap()).await), [(1, 1), (2, 2)]);
}

#[tokio::test]
async fn generations_that_a_replacement_could_not_trim_leave_with_the_next_flush() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let table = place.open_with(quiet(), &faults, &events).await;
    table.put(some(&[(1, 10)])).await.unwrap();
    table.flush().await.unwrap();
    faults.fail(IoOp::PutIfAbsent, "/manifest/", At::Before, ALWAYS);
    assert_eq!(replace(&table, &[(2, 20)]).await.unwrap(), 1);
    faults.heal();
    table.put(some(&[(3, 30)])).await.unwrap();
    table.flush().await.unwrap();
    let manifest = ManifestStore::new(table.object_io().clone(), ShardId::unsharded(), 2).latest().await.unwrap();
    let named: Vec<u64> = manifest.unwrap().sstables.iter().map(|t| t.generation).collect();
    assert_eq!(named, [2]);
    drop(table);
    assert_eq!(numbers(&place.rows(&place.open(quiet()).await.unwrap()).await), [(2, 20), (3, 30)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_created_while_rows_are_replaced_stays() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let table = place.open_with(quiet(), &faults, &events).await;
    table.put(some(&[(1, 10)])).await.unwrap();
    let gate = faults.hold(IoOp::Sync, "_versions", At::After);
    let meanwhile = async {
        gate.reached().await;
        table.create_index(&IndexSpec::parse("s", "fts").unwrap()[0], false).await.unwrap();
        gate.open();
    };
    let (replaced, ()) = tokio::join!(replace(&table, &[(2, 20)]), meanwhile);
    assert_eq!(replaced.unwrap(), 1);
    assert_eq!(table.indexes().len(), 1);
    assert_eq!(numbers(&place.rows(&table).await), [(2, 20)]);
    table.put(some(&[(3, 30)])).await.unwrap();
    assert_eq!(numbers(&place.rows(&table).await), [(2, 20), (3, 30)]);
    assert_eq!(place.open(quiet()).await.unwrap().indexes().len(), 1);
}
