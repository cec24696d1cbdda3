//! Claims, commits, races, lost answers and damage, on a file system and on an object store.

use std::sync::Arc;

use bytes::Bytes;

use super::{ManifestStore, ShardManifest, ShardStatus, SsTable};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, ManifestVersion, ShardId};
use crate::store::testing::{At, local, remote};
use crate::store::{IoOp, ObjectIo, Retry, TablePaths};

fn open(io: &ObjectIo) -> ManifestStore {
    ManifestStore::new(io.clone(), ShardId::unsharded(), 2)
}

fn path(version: u64) -> String {
    TablePaths::manifest(ShardId::unsharded(), ManifestVersion(version))
}

fn seen(position: u64) -> impl Fn(&ShardManifest) -> Result<ShardManifest> {
    move |m| Ok(ShardManifest { wal_entry_position_last_seen: position, ..m.clone() })
}

#[tokio::test]
async fn a_shard_is_claimed_committed_and_found_again() {
    let (_dir, local, _) = local().await;
    for io in [local, remote().await.0] {
        let store = open(&io);
        assert!(store.latest().await.unwrap().is_none() && store.cached().is_none());
        let (epoch, first) = store.claim(1).await.unwrap();
        assert_eq!((epoch, first.version, first.current_generation, first.shard_spec_id), (Epoch(1), 1, 1, 1));
        for position in 1..=7 {
            store.commit(epoch, seen(position)).await.unwrap();
        }
        let again = open(&io).latest().await.unwrap().unwrap();
        assert_eq!((again.version, again.wal_entry_position_last_seen), (8, 7));
        assert_eq!(store.cached(), Some(again));
        let hint = io.get(&TablePaths::version_hint(ShardId::unsharded())).await.unwrap().unwrap();
        assert_eq!(hint, Bytes::from_static(br#"{"version":8}"#));
    }
}

#[tokio::test]
async fn a_damaged_manifest_with_newer_ones_behind_it_is_nobodys_matter() {
    let (_dir, local, _) = local().await;
    for io in [local, remote().await.0] {
        let store = open(&io);
        let (epoch, _) = store.claim(1).await.unwrap();
        for position in 1..=2 {
            store.commit(epoch, seen(position)).await.unwrap();
        }
        // The hint is as old as if no later one could have been written.
        let hint = TablePaths::version_hint(ShardId::unsharded());
        io.put(&hint, Bytes::from_static(br#"{"version":1}"#)).await.unwrap();
        io.put(&path(1), Bytes::from_static(b"not a manifest")).await.unwrap();
        assert_eq!(open(&io).latest().await.unwrap().unwrap().version, 3);
        // That the newest one is damaged matters.
        io.put(&path(3), Bytes::from_static(b"not a manifest")).await.unwrap();
        assert_eq!(open(&io).latest().await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[tokio::test]
async fn the_newer_claim_fences_the_older() {
    let (io, _) = remote().await;
    let (old, new) = (open(&io), open(&io));
    let (first, _) = old.claim(1).await.unwrap();
    old.check_fenced(first).await.unwrap();
    let (second, _) = new.claim(1).await.unwrap();
    assert_eq!(second, Epoch(2));
    assert_eq!(old.check_fenced(first).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(old.commit(first, seen(1)).await.unwrap_err().kind(), ErrorKind::Fenced);
    new.commit(second, seen(1)).await.unwrap();
}

#[tokio::test]
async fn of_two_claims_at_once_one_wins_and_the_other_knows() {
    let (_dir, local, _) = local().await;
    for io in [local, remote().await.0] {
        for round in 0..20 {
            let (a, b) = (open(&io), open(&io));
            let (x, y) = tokio::join!(a.claim(1), b.claim(1));
            let won: Vec<_> = [&x, &y].into_iter().filter_map(|r| r.as_ref().ok().map(|(e, _)| *e)).collect();
            for lost in [&x, &y].into_iter().filter_map(|r| r.as_ref().err()) {
                assert_eq!(lost.kind(), ErrorKind::Fenced, "round {round}");
            }
            let latest = open(&io).latest().await.unwrap().unwrap();
            assert!(won.contains(&Epoch(latest.writer_epoch)));
            assert!(won.len() == 1 || won[0] != won[1]);
        }
    }
}

#[tokio::test]
async fn an_edit_runs_again_on_what_came_first() {
    let (io, _) = remote().await;
    let (a, b) = (open(&io), open(&io));
    let (epoch, _) = a.claim(1).await.unwrap();
    b.latest().await.unwrap();
    let add = |generation: u64| {
        move |m: &ShardManifest| {
            let mut next = m.clone();
            next.current_generation = next.current_generation.max(generation + 1);
            next.sstables.push(SsTable::unmeasured(generation, format!("g{generation}")));
            Ok(next)
        }
    };
    a.commit(epoch, add(1)).await.unwrap();
    let both = b.commit(epoch, add(2)).await.unwrap();
    assert_eq!(both.sstables.iter().map(|s| s.generation).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(both.version, 3);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_resolved_by_reading_back() {
    let (_dir, local_io, local_faults) = local().await;
    let (remote_io, remote_faults) = remote().await;
    for (io, faults) in [(local_io, local_faults), (remote_io, remote_faults)] {
        let store = open(&io);
        faults.fail(IoOp::PutIfAbsent, "manifest", At::After, 1);
        let (epoch, _) = store.claim(1).await.unwrap();
        assert_eq!(epoch, Epoch(1));
        // Neither the answer nor the slot can be read at first.
        faults.fail(IoOp::PutIfAbsent, "manifest", At::After, 1);
        faults.fail(IoOp::Get, "manifest", At::Before, 1);
        assert_eq!(store.commit(epoch, seen(1)).await.unwrap().version, 2);
        faults.fail(IoOp::PutIfAbsent, "manifest", At::Before, 2);
        assert_eq!(store.commit(epoch, seen(2)).await.unwrap().version, 3);
        assert_eq!(open(&io).latest().await.unwrap().unwrap().version, 3);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_indeterminate_and_found_out_later() {
    let (io, faults) = remote().await;
    let store = open(&io).with_retry(Retry { attempts: 2, ..Retry::default() });
    let (epoch, _) = store.claim(1).await.unwrap();
    faults.fail(IoOp::PutIfAbsent, "manifest", At::After, 9);
    faults.fail(IoOp::Get, "manifest", At::Before, 9);
    assert_eq!(store.commit(epoch, seen(5)).await.unwrap_err().kind(), ErrorKind::Indeterminate);
    faults.heal();
    let found = store.commit(epoch, seen(5)).await.unwrap();
    assert_eq!((found.version, found.wal_entry_position_last_seen), (2, 5), "it had arrived: nothing new is written");
}

#[tokio::test(start_paused = true)]
async fn a_full_local_disk_is_no_riddle() {
    let (_dir, io, faults) = local().await;
    let store = open(&io);
    let (epoch, _) = store.claim(1).await.unwrap();
    faults.fail_with(IoOp::PutIfAbsent, "manifest", At::Before, 99, Error::unavailable("the disk is full"));
    assert_eq!(store.commit(epoch, seen(1)).await.unwrap_err().message(), "the disk is full");
    faults.heal();
    store.commit(epoch, seen(1)).await.unwrap();
}

#[tokio::test]
async fn a_manifest_that_may_not_be_durable_is_not_built_upon() {
    let (_dir, io, faults) = local().await;
    let store = open(&io);
    let (epoch, _) = store.claim(1).await.unwrap();
    faults.fail_sync("manifest");
    assert_eq!(store.commit(epoch, seen(1)).await.unwrap_err().kind(), ErrorKind::Indeterminate);
    assert_eq!(store.commit(epoch, seen(1)).await.unwrap_err().kind(), ErrorKind::Indeterminate);
    assert_eq!(store.claim(1).await.unwrap_err().kind(), ErrorKind::Indeterminate);
}

#[tokio::test]
async fn a_useless_hint_costs_time_only() {
    let (io, faults) = remote().await;
    faults.fail(IoOp::Put, "version_hint", At::Before, 1);
    let (epoch, _) = open(&io).claim(1).await.unwrap();
    open(&io).commit(epoch, seen(1)).await.unwrap();
    let hint = TablePaths::version_hint(ShardId::unsharded());
    for bad in ["{", r#"{"version":99}"#, r#"{"version":1}"#] {
        io.put(&hint, Bytes::from(bad)).await.unwrap();
        assert_eq!(open(&io).latest().await.unwrap().unwrap().version, 2, "{bad}");
    }
    faults.fail(IoOp::Get, "version_hint", At::Before, 1);
    assert_eq!(open(&io).latest().await.unwrap().unwrap().version, 2);
    io.delete(&hint).await.unwrap();
    assert_eq!(open(&io).latest().await.unwrap().unwrap().version, 2);
}

#[tokio::test]
async fn a_warm_read_asks_only_for_the_versions_ahead() {
    let (io, _) = remote().await;
    let store = open(&io);
    let (epoch, _) = store.claim(1).await.unwrap();
    let before = io.counts();
    store.latest().await.unwrap();
    let after = io.counts();
    assert_eq!((after.gets - before.gets, after.heads - before.heads, after.lists - before.lists), (0, 2, 0));
    store.commit(epoch, seen(1)).await.unwrap();
    let committed = io.counts();
    assert_eq!((committed.gets, committed.heads, committed.puts - after.puts), (after.gets, after.heads, 2));
}

#[tokio::test]
async fn a_sealed_shard_refuses_claims() {
    let (io, _) = remote().await;
    let store = open(&io);
    let (epoch, _) = store.claim(1).await.unwrap();
    let seal = |status| move |m: &ShardManifest| Ok(ShardManifest { status, ..m.clone() });
    store.commit(epoch, seal(ShardStatus::Sealed)).await.unwrap();
    let error = store.claim(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("sealed"));
    store.commit(epoch, seal(ShardStatus::Active)).await.unwrap();
    assert_eq!(store.claim(2).await.unwrap_err().kind(), ErrorKind::Invalid, "another sharding");
    assert_eq!(store.claim(1).await.unwrap().0, Epoch(2));
}

#[tokio::test]
async fn damage_is_reported_with_the_name_of_the_object() {
    let (io, _) = remote().await;
    let (epoch, _) = open(&io).claim(1).await.unwrap();
    open(&io).commit(epoch, seen(1)).await.unwrap();
    let good = io.get(&path(2)).await.unwrap().unwrap();
    let corrupt = async |bytes: Vec<u8>| {
        io.put(&path(2), bytes.into()).await.unwrap();
        match open(&io).latest().await {
            Ok(manifest) => Err(manifest),
            Err(error) => Ok((error.kind(), error.to_string().contains(&path(2)))),
        }
    };
    let intact = open(&io).latest().await.unwrap();
    for bit in 0..good.len() * 8 {
        let mut bytes = good.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        match corrupt(bytes).await {
            Ok(found) => assert_eq!(found, (ErrorKind::Corrupt, true)),
            // A flip in the name of our own field: what Lance reads is whole.
            Err(manifest) => assert_eq!(manifest, intact),
        }
    }
    assert!(corrupt(Vec::new()).await.is_ok());
    let other = io.get(&path(1)).await.unwrap().unwrap();
    assert!(corrupt(other.to_vec()).await.is_ok(), "another version under this name");
}

#[tokio::test]
async fn a_missing_manifest_is_an_error_and_not_a_new_shard() {
    let (io, _) = remote().await;
    let store = Arc::new(open(&io));
    let (epoch, _) = store.claim(1).await.unwrap();
    store.commit(epoch, seen(1)).await.unwrap();
    let reader = open(&io);
    reader.latest().await.unwrap();
    store.commit(epoch, seen(2)).await.unwrap();
    io.delete(&path(1)).await.unwrap();
    io.delete(&path(2)).await.unwrap();
    assert_eq!(open(&io).latest().await.unwrap().unwrap().version, 3, "old ones may be pruned");
    assert_eq!(reader.latest().await.unwrap().unwrap().version, 3);
}

#[tokio::test]
async fn edits_that_break_the_format_are_refused() {
    let (dir, io, _) = local().await;
    let store = open(&io);
    let (epoch, _) = store.claim(1).await.unwrap();
    store.commit(epoch, seen(3)).await.unwrap();
    let refused = async |edit: fn(&mut ShardManifest)| {
        let edit = |m: &ShardManifest| {
            let mut next = m.clone();
            edit(&mut next);
            Ok(next)
        };
        assert_eq!(store.commit(epoch, edit).await.unwrap_err().kind(), ErrorKind::Internal);
    };
    refused(|m| m.writer_epoch += 1).await;
    refused(|m| m.wal_entry_position_last_seen = 2).await;
    refused(|m| m.sstables.push(SsTable::unmeasured(1, "x".into()))).await;
    let generation = dir.path().join("table").join(TablePaths::generation_dir(store.shard(), "x"));
    std::fs::create_dir_all(&generation).unwrap();
    std::fs::write(generation.join("data"), "rows").unwrap();
    let add = |m: &mut ShardManifest| {
        m.current_generation = 2;
        m.sstables.push(SsTable::unmeasured(1, "x".into()));
    };
    refused(add).await;
    io.sync_tree(&TablePaths::generation_dir(store.shard(), "x")).await.unwrap();
    let edited = store.commit(epoch, |m| {
        let mut next = m.clone();
        add(&mut next);
        Ok(next)
    });
    assert_eq!(edited.await.unwrap().sstables.len(), 1);
}
