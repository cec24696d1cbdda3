//! The behaviour of [`ObjectIo`] on a file system and on an object store.

use std::fs;
use std::sync::Arc;

use bytes::Bytes;

use super::testing::{At, local, remote};
use super::{IoHook, IoOp, ObjectIo, Put, StoreOptions, TablePaths, registry};
use crate::error::{ErrorKind, Result};

async fn both() -> Vec<(Option<tempfile::TempDir>, ObjectIo)> {
    let (dir, local, _) = local().await;
    let (remote, _) = remote().await;
    vec![(Some(dir), local), (None, remote)]
}

#[tokio::test]
async fn objects_are_created_once_and_read_listed_moved_and_deleted() {
    for (_dir, io) in both().await {
        let bytes = Bytes::from_static(b"one");
        assert_eq!(io.get("a/b/x").await.unwrap(), None);
        assert!(io.list("a/b").await.unwrap().is_empty());
        assert_eq!(io.put_if_absent("a/b/x", bytes.clone()).await.unwrap(), Put::Created);
        assert_eq!(io.put_if_absent("a/b/x", Bytes::from_static(b"two")).await.unwrap(), Put::Exists);
        assert_eq!(io.get("a/b/x").await.unwrap(), Some(bytes.clone()));
        assert!(io.exists("a/b/x").await.unwrap() && !io.exists("a/b/y").await.unwrap());
        io.put("a/hint", Bytes::from_static(b"1")).await.unwrap();
        io.put("a/hint", Bytes::from_static(b"2")).await.unwrap();
        assert_eq!(io.get("a/hint").await.unwrap(), Some(Bytes::from_static(b"2")));
        assert_eq!(io.list("a").await.unwrap(), ["hint"]);
        assert_eq!(io.list_dirs("a").await.unwrap(), ["b"]);
        assert_eq!(io.list("a/b").await.unwrap(), ["x"]);
        io.rename("a/b/x", "c/y").await.unwrap();
        assert_eq!((io.get("c/y").await.unwrap(), io.get("a/b/x").await.unwrap()), (Some(bytes), None));
        io.delete("a/hint").await.unwrap();
        io.delete("a/hint").await.unwrap();
        assert!(!io.exists("a/hint").await.unwrap());
        io.delete_dir("c").await.unwrap();
        io.delete_dir("c").await.unwrap();
        assert!(!io.exists("c/y").await.unwrap());
        assert_eq!(io.put_if_absent("c/y", Bytes::new()).await.unwrap(), Put::Created);
        let counts = io.counts();
        assert_eq!((counts.gets, counts.heads, counts.lists), (5, 4, 4));
        assert_eq!((counts.puts, counts.deletes), (6, 5));
        assert_eq!((counts.bytes_read, counts.bytes_written), (7, 8));
    }
}

#[tokio::test]
async fn a_created_file_is_synced_with_every_directory_above() {
    let (dir, io, faults) = local().await;
    io.put_if_absent("a/b/x", Bytes::from_static(b"1")).await.unwrap();
    io.put("a/b/hint", Bytes::from_static(b"1")).await.unwrap();
    let record = io.synced().unwrap();
    assert!(record.has_file("a/b/x") && !record.has_file("a/b/hint"));
    assert_eq!(io.unsynced("a").await.unwrap(), ["a/b/hint"]);
    fs::create_dir(dir.path().join("table/a/g")).unwrap();
    fs::write(dir.path().join("table/a/g/data"), "x").unwrap();
    io.sync_files(vec!["a/g/data".into()]).await.unwrap();
    assert_eq!(io.unsynced("a").await.unwrap(), ["a/b/hint"]);
    io.sync_tree("a").await.unwrap();
    assert!(io.unsynced("").await.unwrap().is_empty());
    assert_eq!(faults.record().files().len(), 3);
    let mut names = io.list("a/b").await.unwrap();
    names.sort();
    assert_eq!(names, ["hint", "x"], "no temporary file stays behind");
}

/// Deletes a file just before it is synced.
#[derive(Debug)]
struct Deleting(std::path::PathBuf);

impl IoHook for Deleting {
    fn before_sync(&self, path: &str) -> Result<()> {
        if path == "a/x" {
            fs::remove_file(&self.0).unwrap();
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_file_that_others_delete_is_not_missed_in_a_tree_but_by_name() {
    let (dir, io, _) = local().await;
    let file = dir.path().join("table/a/x");
    let io = io.with_hook(Arc::new(Deleting(file.clone())));
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    for name in ["x", "y"] {
        fs::write(file.with_file_name(name), "x").unwrap();
    }
    io.sync_tree("a").await.unwrap();
    assert!(!file.exists());
    fs::write(&file, "x").unwrap();
    assert!(io.sync_files(vec!["a/x".into()]).await.is_err());
}

#[tokio::test]
async fn nothing_is_created_where_the_table_is_gone() {
    let (dir, io, _) = local().await;
    let root = dir.path().join("table");
    io.put_if_absent("a/x", Bytes::from_static(b"1")).await.unwrap();
    io.expect_table();
    fs::create_dir_all(root.join(TablePaths::VERSIONS)).unwrap();
    io.put_if_absent("b/x", Bytes::from_static(b"1")).await.unwrap();
    fs::remove_dir_all(&root).unwrap();
    let fenced = [
        io.put_if_absent("b/y", Bytes::from_static(b"1")).await.unwrap_err(),
        io.put_if_absent("c/x", Bytes::from_static(b"1")).await.unwrap_err(),
        io.put("d/x", Bytes::from_static(b"1")).await.unwrap_err(),
    ];
    assert!(fenced.iter().all(|error| error.kind() == ErrorKind::Fenced), "{fenced:?}");
    assert!(!root.exists());
}

#[tokio::test]
async fn nothing_is_synced_when_sync_is_off() {
    let (dir, io, faults) = local().await;
    let lazy =
        ObjectIo::open(io.uri(), &StoreOptions::default(), false).await.unwrap().with_hook(Arc::clone(&faults) as _);
    faults.fail_sync("");
    lazy.put_if_absent("a/x", Bytes::from_static(b"1")).await.unwrap();
    lazy.sync_tree("a").await.unwrap();
    assert!(dir.path().join("table/a/x").exists());
    assert!(faults.record().files().is_empty());
}

#[tokio::test]
async fn a_file_that_did_not_sync_does_not_appear() {
    let (_dir, io, faults) = local().await;
    faults.fail_sync("/x");
    let error = io.put_if_absent("a/x", Bytes::from_static(b"1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(io.list("a").await.unwrap().is_empty());
    assert_eq!(io.put_if_absent("a/x", Bytes::from_static(b"1")).await.unwrap(), Put::Created);
}

#[tokio::test]
async fn a_directory_that_did_not_sync_is_never_trusted_again() {
    let (_dir, io, faults) = local().await;
    io.put_if_absent("a/x", Bytes::from_static(b"1")).await.unwrap();
    io.check_synced("a").unwrap();
    faults.fail_sync("a");
    let error = io.put_if_absent("a/y", Bytes::from_static(b"1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Indeterminate);
    assert!(io.check_synced("a").is_err() && !faults.record().has_file("a/y"));
    let error = io.put_if_absent("a/z", Bytes::from_static(b"1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Indeterminate);
    assert!(!io.exists("a/z").await.unwrap());
    assert_eq!(io.put_if_absent("b/z", Bytes::from_static(b"1")).await.unwrap(), Put::Created);
}

#[tokio::test]
async fn a_known_directory_is_not_made_again() {
    let (_dir, io, faults) = local().await;
    io.put_if_absent("a/b/x", Bytes::from_static(b"1")).await.unwrap();
    assert_eq!(faults.take_syncs(), ["a", "", "a/b/x", "a/b"]);
    io.put_if_absent("a/b/y", Bytes::from_static(b"1")).await.unwrap();
    assert_eq!(faults.take_syncs(), ["a/b/y", "a/b"]);
    io.delete_dir("a").await.unwrap();
    io.put_if_absent("a/b/x", Bytes::from_static(b"1")).await.unwrap();
    assert!(faults.record().has_file("a/b/x"));
}

#[tokio::test]
async fn locations_of_all_kinds_open_and_wrong_ones_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("with space").to_str().unwrap().to_string();
    let plain = ObjectIo::open(&path, &StoreOptions::default(), true).await.unwrap();
    plain.put_if_absent("x", Bytes::from_static(b"1")).await.unwrap();
    for uri in
        [format!("file://{}", path.replace(' ', "%20")), format!("file-object-store://{}", path.replace(' ', "%20"))]
    {
        let io = ObjectIo::open(&uri, &StoreOptions::default(), true).await.unwrap();
        assert!(io.is_local() && io.exists("x").await.unwrap(), "{uri}");
        assert_eq!(io.local_root(), plain.local_root().map(|p| p.to_path_buf()).as_deref());
    }
    let memory = ObjectIo::open("memory://table", &StoreOptions::default(), true).await.unwrap();
    assert!(!memory.is_local() && memory.local_root().is_none());
    memory.put("x", Bytes::new()).await.unwrap();
    assert!(ObjectIo::open("memory://table", &StoreOptions::default(), true).await.unwrap().exists("x").await.unwrap());
    assert!(!registry().active_stores().is_empty());
    let error = ObjectIo::open("nonsense://x/y", &StoreOptions::default(), true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    fs::write(dir.path().join("file"), "").unwrap();
    let io = ObjectIo::open(dir.path().join("file").to_str().unwrap(), &StoreOptions::default(), true).await.unwrap();
    assert_eq!(io.put_if_absent("a/x", Bytes::new()).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn hooks_fail_requests_and_lose_answers() {
    for before in [true, false] {
        let (io, faults) = remote().await;
        faults.fail(IoOp::PutIfAbsent, "x", if before { At::Before } else { At::After }, 1);
        assert!(io.put_if_absent("a/x", Bytes::from_static(b"1")).await.is_err());
        assert_eq!(io.exists("a/x").await.unwrap(), !before);
    }
}

#[tokio::test]
async fn paths_cannot_leave_the_table() {
    let (_dir, io, _) = local().await;
    assert_eq!(io.put("a/../../x", Bytes::new()).await.unwrap_err().kind(), ErrorKind::Internal);
}
