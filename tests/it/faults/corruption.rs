//! Damaged files: the error names the object, nothing wrong is read, other shards stay usable.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion_lsm::error::{Error, ErrorKind, Result};
use datafusion_lsm::ids::{ShardId, WalPosition};
use datafusion_lsm::store::TablePaths;
use datafusion_lsm::table::LsmTable;
use walkdir::WalkDir;

use crate::support::key_type::KeyType;
use crate::support::place::{Place, quiet};
use crate::support::rows::{Rows, collected, numbered};

/// Opens the table as a new process does and reads all of it.
async fn read(place: &Place) -> Result<Rows> {
    let table = place.open(quiet()).await?;
    let batches = place.try_scan(&table, &table.snapshot()).await?;
    Ok(collected(place.key_type, &batches))
}

fn names(error: &Error, object: &Path) -> bool {
    error.to_string().contains(object.file_name().unwrap().to_str().unwrap())
}

fn some_rows(from: u32) -> arrow::array::RecordBatch {
    let rows: Vec<(u32, i64)> = (from..from + 20).map(|key| (key, i64::from(key))).collect();
    numbered(KeyType::Int64, &rows)
}

/// Positions in a file: all of a short one, some of a long one, the ends always.
fn some_positions(len: usize) -> Vec<usize> {
    let step = (len / 60).max(1);
    let mut positions: Vec<usize> = (0..len).step_by(step).chain(len.saturating_sub(12)..len).collect();
    positions.sort_unstable();
    positions.dedup();
    positions
}

/// A table with three entries in its WAL.
async fn with_wal() -> (Place, Rows) {
    let place = Place::simple();
    let table = place.open(quiet()).await.unwrap();
    for i in 0..3 {
        table.put(some_rows(i * 10)).await.unwrap();
    }
    let rows = place.rows(&table).await;
    table.close().await.unwrap();
    (place, rows)
}

#[tokio::test]
async fn a_truncated_wal_entry_is_corrupt_wherever_it_was_cut() {
    let (place, rows) = with_wal().await;
    for position in [2, 3] {
        let file = place.wal_file(position);
        let whole = std::fs::read(&file).unwrap();
        let mut accepted = 0;
        for len in some_positions(whole.len()) {
            std::fs::write(&file, &whole[..len]).unwrap();
            match read(&place).await {
                Ok(found) => {
                    // Only the trailer is missing: it is an entry as Lance writes them.
                    assert_eq!(found, rows, "cut at {len} of {}", whole.len());
                    accepted += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "cut at {len}: {error}");
                    assert!(names(&error, &file), "cut at {len}: {error}");
                }
            }
        }
        assert!(accepted <= 1, "{accepted} of the cuts went unnoticed");
        std::fs::write(&file, &whole).unwrap();
    }
    assert_eq!(read(&place).await.unwrap(), rows);
}

#[tokio::test]
async fn a_flipped_bit_in_a_wal_entry_is_found() {
    let (place, rows) = with_wal().await;
    let file = place.wal_file(2);
    let whole = std::fs::read(&file).unwrap();
    for at in some_positions(whole.len()) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(&file, &flipped).unwrap();
        let error = read(&place).await.expect_err(&format!("byte {at} of {} was flipped", whole.len()));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error}");
        assert!(names(&error, &file), "byte {at}: {error}");
    }
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(read(&place).await.unwrap(), rows);
}

#[tokio::test]
async fn bytes_behind_a_wal_entry_are_found() {
    let (place, _) = with_wal().await;
    let file = place.wal_file(1);
    let mut longer = std::fs::read(&file).unwrap();
    longer.push(0);
    std::fs::write(&file, &longer).unwrap();
    assert_eq!(read(&place).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

fn only_file(dir: &Path, suffix: &str) -> PathBuf {
    let files = WalkDir::new(dir).into_iter().map(|entry| entry.unwrap().into_path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.to_str().unwrap().ends_with(suffix)).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

/// A table with a generation, and its shard's directory.
async fn with_generation() -> (Place, Rows, PathBuf) {
    let place = Place::simple();
    let table = place.open(quiet()).await.unwrap();
    table.put(some_rows(0)).await.unwrap();
    table.flush().await.unwrap();
    table.put(some_rows(10)).await.unwrap();
    let rows = place.rows(&table).await;
    table.close().await.unwrap();
    let shard = place.root().join(TablePaths::shard_dir(ShardId::unsharded()));
    (place, rows, shard)
}

fn latest_manifest(shard: &Path) -> PathBuf {
    let files = std::fs::read_dir(shard.join("manifest")).unwrap().map(|entry| entry.unwrap().path());
    let version = |path: &PathBuf| TablePaths::parse_manifest(path.file_name().unwrap().to_str().unwrap());
    files.filter(|path| version(path).is_some()).max_by_key(version).unwrap()
}

#[tokio::test]
async fn a_damaged_shard_manifest_is_corrupt_or_harmless() {
    let (place, rows, shard) = with_generation().await;
    let file = latest_manifest(&shard);
    let whole = std::fs::read(&file).unwrap();
    for len in 0..whole.len() {
        std::fs::write(&file, &whole[..len]).unwrap();
        match read(&place).await {
            Ok(found) => assert_eq!(found, rows, "cut at {len} of {}", whole.len()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "cut at {len}: {error}");
                assert!(names(&error, &file), "cut at {len}: {error}");
            }
        }
    }
    for garbage in [&b"not a manifest"[..], &[0xFF; 64]] {
        std::fs::write(&file, garbage).unwrap();
        let error = read(&place).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && names(&error, &file), "{error}");
    }
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(read(&place).await.unwrap(), rows);
}

#[tokio::test]
async fn a_version_hint_is_only_a_hint() {
    let (place, rows, shard) = with_generation().await;
    let hint = shard.join("manifest/version_hint.json");
    for text in ["", "{", "{\"version\":1}", "{\"version\":99999}", "{\"version\":-1}", "[]"] {
        std::fs::write(&hint, text).unwrap();
        assert_eq!(read(&place).await.unwrap(), rows, "hint {text}");
    }
    std::fs::remove_file(&hint).unwrap();
    assert_eq!(read(&place).await.unwrap(), rows);
}

/// Cuts, then removes a file of a generation: both must be found, and told of the generation.
async fn check_damage(file: impl Fn(&Path) -> PathBuf, lengths: impl Fn(usize) -> Vec<usize>) {
    let (place, rows, shard) = with_generation().await;
    let dir = generation_dir(&shard);
    let file = file(&dir);
    let whole = std::fs::read(&file).unwrap();
    let mut wrong = Vec::new();
    for len in lengths(whole.len()) {
        std::fs::write(&file, &whole[..len]).unwrap();
        let error = read(&place).await.expect_err(&format!("{file:?} was cut at {len} of {}", whole.len()));
        if error.kind() != ErrorKind::Corrupt || !error.to_string().contains("_gen_1") {
            wrong.push(format!("cut at {len} of {}: {error}", whole.len()));
        }
    }
    std::fs::remove_file(&file).unwrap();
    let error = read(&place).await.unwrap_err();
    if error.kind() != ErrorKind::Corrupt || !error.to_string().contains("_gen_1") {
        wrong.push(format!("removed: {error}"));
    }
    assert!(wrong.is_empty(), "{file:?}: {wrong:#?}");
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(read(&place).await.unwrap(), rows);
}

fn generation_dir(shard: &Path) -> PathBuf {
    let dirs = std::fs::read_dir(shard).unwrap().map(|entry| entry.unwrap().path());
    dirs.into_iter().find(|path| path.to_str().unwrap().contains("_gen_")).unwrap()
}

#[tokio::test]
async fn a_damaged_data_file_of_a_generation_is_corrupt() {
    check_damage(|dir| only_file(&dir.join("data"), ".lance"), some_positions).await;
}

#[tokio::test]
async fn a_flipped_bit_in_a_generation_is_found() {
    let (place, rows, shard) = with_generation().await;
    let dir = generation_dir(&shard);
    for file in WalkDir::new(&dir).into_iter().map(Result::unwrap).filter(|e| e.file_type().is_file()) {
        let whole = std::fs::read(file.path()).unwrap();
        for position in some_positions(whole.len()) {
            let mut changed = whole.clone();
            changed[position.min(whole.len() - 1)] ^= 1 << (position % 8);
            std::fs::write(file.path(), &changed).unwrap();
            let error = read(&place).await.expect_err(&format!("{file:?} was changed at {position}"));
            assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("_gen_1"), "{error}");
        }
        std::fs::write(file.path(), &whole).unwrap();
    }
    assert_eq!(read(&place).await.unwrap(), rows);
}

#[tokio::test]
async fn a_generation_that_is_gone_is_corrupt() {
    let (place, _, shard) = with_generation().await;
    std::fs::rename(generation_dir(&shard), shard.join("elsewhere")).unwrap();
    let error = read(&place).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("_gen_1"), "{error}");
}

#[tokio::test]
async fn other_shards_stay_usable_beside_a_damaged_one() {
    let place = Place::new(KeyType::Int64, 3);
    let table = place.open(quiet()).await.unwrap();
    // Which shard a key belongs to shows in whose WAL grows.
    let mut shard_of = Vec::new();
    for key in 0..30 {
        let before: Vec<usize> = (0..3).map(|n| place.wal_slots(ShardId::bucket(n)).len()).collect();
        table.put(numbered(KeyType::Int64, &[(key, 1)])).await.unwrap();
        shard_of.push((0..3).find(|n| place.wal_slots(ShardId::bucket(*n)).len() > before[*n as usize]).unwrap());
    }
    table.close().await.unwrap();
    let damaged = shard_of[0];
    let entry = place.root().join(TablePaths::wal_dir(ShardId::bucket(damaged)));
    let first = entry.join(TablePaths::wal_entry_name(WalPosition(1)));
    std::fs::write(&first, b"").unwrap();

    let table = place.open(quiet()).await.unwrap();
    for (key, shard) in (0..30).zip(&shard_of) {
        let found = table.get(&KeyType::Int64.values(key)).await;
        let written = table.put(numbered(KeyType::Int64, &[(key, 2)])).await;
        if *shard == damaged {
            check_refused(&found.unwrap_err(), &first);
            check_refused(&written.unwrap_err(), &first);
        } else {
            assert_eq!((found.unwrap().unwrap().num_rows(), written.unwrap()), (1, 1), "key {key}");
        }
    }
    check_refused(&place.try_scan(&table, &table.snapshot()).await.unwrap_err(), &first);
    let shown: Vec<_> = table.sources().into_iter().filter(|s| s.error.is_some()).collect();
    assert!(shown.iter().all(|s| s.shard == Some(ShardId::bucket(damaged))) && !shown.is_empty(), "{shown:?}");
    still_flushes(&table, ShardId::bucket(damaged)).await;
}

#[tokio::test]
async fn a_shard_that_is_damaged_behind_rows_is_in_no_others_way() {
    let place = Place::new(KeyType::Int64, 3);
    let table = place.open(quiet()).await.unwrap();
    put_all(&table, 1).await;
    put_all(&table, 2).await;
    table.close().await.unwrap();
    let second = place.root().join(TablePaths::wal_entry(ShardId::bucket(0), WalPosition(2)));
    std::fs::write(&second, b"").unwrap();
    let table = place.open(quiet()).await.unwrap();
    check_refused(&table.flush().await.unwrap_err(), &second);
    still_flushes(&table, ShardId::bucket(0)).await;
    assert!(table.is_usable(), "another handle would meet the same damage");
}

/// A table of three shards, of which each has a generation and rows in its WAL, and the keys of each.
async fn sharded() -> (Place, Arc<LsmTable>, Vec<(ShardId, Vec<u32>)>) {
    let place = Place::new(KeyType::Int64, 3);
    let table = place.open(quiet()).await.unwrap();
    let keys = place.keys_by_shard(&table);
    for _ in 0..2 {
        table.flush().await.unwrap();
        put_all(&table, 1).await;
    }
    put_all(&table, 2).await;
    (place, table, keys)
}

async fn put_all(table: &Arc<LsmTable>, n: i64) {
    let rows: Vec<(u32, i64)> = (0..100).map(|key| (key, n)).collect();
    table.put(numbered(KeyType::Int64, &rows)).await.unwrap();
}

/// An object of the shard that a process which opens the table must read.
fn object_of(place: &Place, shard: ShardId, kind: &str) -> PathBuf {
    let dir = place.root().join(TablePaths::shard_dir(shard));
    match kind {
        "manifest" => latest_manifest(&dir),
        "generation" => only_file(&generation_dir(&dir).join("data"), ".lance"),
        _ => {
            let last = place.wal_slots(shard).pop().unwrap();
            place.root().join(TablePaths::wal_entry(shard, WalPosition(last)))
        }
    }
}

#[tokio::test]
async fn whatever_is_damaged_in_a_shard_its_keys_are_refused_and_the_others_found() {
    for kind in ["manifest", "generation", "WAL entry"] {
        let (place, table, keys) = sharded().await;
        drop(table);
        let (damaged, _) = keys[1];
        let object = object_of(&place, damaged, kind);
        std::fs::write(&object, b"damaged").unwrap();
        let object = if kind == "generation" { generation_dir(object.ancestors().nth(3).unwrap()) } else { object };
        let table = place.open(quiet()).await.unwrap();
        for (shard, keys) in &keys {
            let one = table.get(&KeyType::Int64.values(keys[0])).await;
            let many = table.get_many(&KeyType::Int64.batch(keys)).await;
            if *shard == damaged {
                check_refused(&one.unwrap_err(), &object);
                check_refused(&many.unwrap_err(), &object);
            } else {
                assert_eq!(one.unwrap().unwrap().num_rows(), 1, "{kind}");
                assert_eq!(many.unwrap().num_rows(), keys.len(), "{kind}");
            }
        }
        let all: Vec<u32> = (0..100).collect();
        check_refused(&table.get_many(&KeyType::Int64.batch(&all)).await.unwrap_err(), &object);
        check_refused(&place.try_scan(&table, &table.snapshot()).await.unwrap_err(), &object);
    }
}

#[tokio::test]
async fn refreshing_goes_on_beside_a_shard_that_is_damaged() {
    for kind in ["manifest", "generation", "WAL entry"] {
        for open_before in [true, false] {
            let place = Place::new(KeyType::Int64, 3);
            let writer = place.open(quiet()).await.unwrap();
            let keys = place.keys_by_shard(&writer);
            put_all(&writer, 1).await;
            let mut reader = place.reader().await;
            if kind != "WAL entry" {
                writer.flush().await.unwrap();
            }
            put_all(&writer, 2).await;
            let (damaged, _) = keys[1];
            let object = object_of(&place, damaged, kind);
            std::fs::write(&object, b"damaged").unwrap();
            let object = if kind == "generation" { generation_dir(object.ancestors().nth(3).unwrap()) } else { object };
            if !open_before {
                reader = place.reader().await;
            }
            for n in 2..5 {
                check_refused(&reader.refresh().await.unwrap_err(), &object);
                for (_, keys) in keys.iter().filter(|(shard, _)| *shard != damaged) {
                    let found = reader.get_many(&KeyType::Int64.batch(keys)).await.unwrap();
                    let found = collected(KeyType::Int64, &[found]);
                    assert!(found.len() == keys.len() && found.values().all(|row| row.n == n), "{kind}: {found:?}");
                }
                put_all(&writer, n + 1).await;
            }
        }
    }
}

fn check_refused(error: &Error, object: &Path) {
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(names(error, object), "{error}");
}

async fn still_flushes(table: &Arc<LsmTable>, damaged: ShardId) {
    // The damaged shard may fail the whole; the others become generations all the same.
    let _ = table.flush().await;
    let sources = table.sources();
    let generations = sources.iter().filter(|s| s.kind == "generation" && s.shard != Some(damaged)).count();
    assert_eq!(generations, 2, "{sources:?}");
}

#[tokio::test]
async fn a_place_that_is_no_table_is_invalid() {
    let place = Place::simple();
    let error = LsmTable::open(&place.uri(), quiet()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    std::fs::create_dir_all(place.root()).unwrap();
    std::fs::write(place.root().join("a file"), "of somebody").unwrap();
    assert_eq!(LsmTable::open(&place.uri(), quiet()).await.unwrap_err().kind(), ErrorKind::Invalid);
    let file = Place::simple();
    std::fs::write(file.root(), "a file").unwrap();
    let error = file.open(quiet()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unavailable), "{error}");
}
