//! `lsm.recovery`: strict refuses, quarantine moves what is damaged aside and goes on.

use std::sync::Arc;

use datafusion_lsm::error::ErrorKind;
use datafusion_lsm::ids::{ShardId, WalPosition};
use datafusion_lsm::settings::{Recovery, Settings};
use datafusion_lsm::store::{IoOp, TablePaths};
use walkdir::WalkDir;

use crate::support::events::Events;
use crate::support::faults::{ALWAYS, At, Faults};
use crate::support::key_type::KeyType;
use crate::support::place::{Place, numbers, quiet};
use crate::support::rows::numbered;

fn quarantine() -> Settings {
    Settings { recovery: Recovery::Quarantine, ..quiet() }
}

fn row(key: u32) -> arrow::array::RecordBatch {
    numbered(KeyType::Int64, &[(key, 1)])
}

#[tokio::test]
async fn a_damaged_entry_and_all_later_ones_are_moved_aside() {
    let place = Place::simple();
    let table = place.open(quiet()).await.unwrap();
    for key in 1..=6 {
        table.put(row(key)).await.unwrap();
    }
    table.close().await.unwrap();
    drop(table);
    let entry = std::fs::read(place.wal_file(4)).unwrap();
    std::fs::write(place.wal_file(4), &entry[..entry.len() - 3]).unwrap();

    let strict = place.open(quiet()).await.unwrap();
    let error = strict.put(row(9)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("quarantine"), "it says what to do: {error}");
    drop(strict);

    let table = place.open(quarantine()).await.unwrap();
    table.put(row(7)).await.unwrap();
    assert_eq!(numbers(&place.rows(&table).await), [(1, 1), (2, 1), (3, 1), (7, 1)]);
    let wal = table.wal().await.unwrap();
    // The sentinel of the claim that found the damage stays.
    assert_eq!(wal[0].quarantined_entries, 3, "{wal:?}");
    assert_eq!(wal[0].quarantined_rows, Some(3), "only the trailer of the damaged one is: {wal:?}");
    let aside = place.root().join(TablePaths::quarantines(ShardId::unsharded()));
    let files = WalkDir::new(aside).into_iter().filter(|e| e.as_ref().unwrap().file_type().is_file()).count();
    assert_eq!(files, 3);
    drop(table);
    for settings in [quiet(), quarantine()] {
        let table = place.open(settings).await.unwrap();
        assert_eq!(numbers(&place.rows(&table).await), [(1, 1), (2, 1), (3, 1), (7, 1)]);
        assert_eq!(table.wal().await.unwrap()[0].quarantined_entries, 0);
    }
    let table = place.open(quiet()).await.unwrap();
    table.put(row(8)).await.unwrap();
    table.flush().await.unwrap();
    assert_eq!(place.rows(&table).await.len(), 5);
}

#[tokio::test]
async fn a_writer_whose_entries_were_moved_aside_cannot_fill_their_slots() {
    let place = Place::simple();
    let older = place.open(quiet()).await.unwrap();
    for key in 1..=3 {
        older.put(row(key)).await.unwrap();
    }
    std::fs::write(place.wal_file(2), b"damaged").unwrap();
    let table = place.open(quarantine()).await.unwrap();
    table.put(row(7)).await.unwrap();
    assert_eq!(older.put(row(4)).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(numbers(&place.rows(&table).await), [(1, 1), (7, 1)]);
    drop((older, table));
    assert_eq!(numbers(&place.rows(place.open(quiet()).await.unwrap().as_ref()).await), [(1, 1), (7, 1)]);
}

#[tokio::test]
async fn the_first_entry_can_be_the_damaged_one() {
    let place = Place::simple();
    let table = place.open(quiet()).await.unwrap();
    table.put(row(1)).await.unwrap();
    table.flush().await.unwrap();
    table.put(row(2)).await.unwrap();
    table.put(row(3)).await.unwrap();
    table.close().await.unwrap();
    std::fs::write(place.wal_file(2), b"").unwrap();
    let table = place.open(quarantine()).await.unwrap();
    table.put(row(7)).await.unwrap();
    assert_eq!(numbers(&place.rows(&table).await), [(1, 1), (7, 1)], "what was flushed is not touched");
    assert_eq!(numbers(&place.rows(place.reader().await.as_ref()).await), [(1, 1), (7, 1)]);
}

#[tokio::test]
async fn a_reader_moves_nothing_aside() {
    let place = Place::simple();
    let table = place.open(quiet()).await.unwrap();
    table.put(row(1)).await.unwrap();
    table.close().await.unwrap();
    std::fs::write(place.wal_file(1), b"damaged").unwrap();
    let reader = Settings { access: datafusion_lsm::settings::Access::Read, ..quarantine() };
    let table = place.open(reader).await.unwrap();
    let error = place.try_scan(&table, &table.snapshot()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(place.wal_slots(ShardId::unsharded()), [1]);
}

#[tokio::test]
async fn a_missing_entry_and_all_later_ones_are_moved_aside() {
    for missing in [vec![2], vec![1, 3]] {
        let place = Place::simple();
        let table = place.open(quiet()).await.unwrap();
        for key in 1..=4 {
            table.put(row(key)).await.unwrap();
        }
        table.close().await.unwrap();
        drop(table);
        for slot in &missing {
            std::fs::remove_file(place.wal_file(*slot)).unwrap();
        }
        let error = place.open(quiet()).await.unwrap().put(row(9)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");

        let table = place.open(quarantine()).await.unwrap();
        let kept: Vec<_> = (1..missing[0] as u32).map(|key| (key, 1)).collect();
        assert_eq!(numbers(&place.rows(&table).await), kept, "slots {missing:?}");
        let wal = &table.wal().await.unwrap()[0];
        let entries = 4 - kept.len() - missing.len();
        assert_eq!((wal.quarantined_entries, wal.quarantined_rows), (entries as u64, Some(entries as u64)), "{wal:?}");
        table.put(row(7)).await.unwrap();
        table.put(row(8)).await.unwrap();
        drop(table);
        for settings in [quiet(), quarantine()] {
            let rows = numbers(&place.rows(&place.open(settings).await.unwrap()).await);
            assert_eq!(rows, [kept.as_slice(), &[(7, 1), (8, 1)]].concat());
        }
    }
}

/// A table whose WAL has these rows in its slots, and is closed.
async fn closed(keys: std::ops::RangeInclusive<u32>) -> Place {
    let place = Place::simple();
    let table = place.open(quiet()).await.unwrap();
    for key in keys {
        table.put(row(key)).await.unwrap();
    }
    table.close().await.unwrap();
    place
}

#[tokio::test]
async fn a_hole_wider_than_what_is_read_ahead_is_no_end() {
    for missing in [2..=3, 1..=5, 3..=19] {
        let place = closed(1..=20).await;
        for slot in missing.clone() {
            std::fs::remove_file(place.wal_file(slot)).unwrap();
        }
        let table = place.open(quarantine()).await.unwrap();
        let kept: Vec<_> = (1..*missing.start() as u32).map(|key| (key, 1)).collect();
        let aside = 20 - *missing.end();
        assert_eq!(table.wal().await.unwrap()[0].quarantined_entries, aside, "{missing:?}");
        table.put(row(31)).await.unwrap();
        table.put(row(32)).await.unwrap();
        drop(table);
        for settings in [quiet(), quarantine()] {
            let rows = numbers(&place.rows(&place.open(settings).await.unwrap()).await);
            assert_eq!(rows, [kept.as_slice(), &[(31, 1), (32, 1)]].concat(), "{missing:?}");
        }
    }
}

#[tokio::test]
async fn a_hole_that_a_stopped_quarantine_left_is_filled() {
    let place = closed(1..=6).await;
    std::fs::write(place.wal_file(2), b"damaged").unwrap();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let gate = faults.hold(IoOp::Rename, &TablePaths::wal_entry_name(WalPosition(2)), At::After);
    {
        let open = place.try_open_with(quarantine(), &faults, &events);
        tokio::pin!(open);
        tokio::select! {
            _ = &mut open => panic!("the quarantine is held"),
            () = gate.reached() => {}
        }
        faults.fail(IoOp::PutIfAbsent, "/wal/", At::Before, ALWAYS);
        gate.open();
        assert!(open.await.is_err());
    }
    assert_eq!(place.wal_slots(ShardId::unsharded()), [1, 7], "the sentinel stays");
    let error = place.try_scan_anew(quiet()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");

    let table = place.open(quarantine()).await.unwrap();
    table.put(row(7)).await.unwrap();
    drop(table);
    for settings in [quiet(), quarantine()] {
        assert_eq!(numbers(&place.rows(&place.open(settings).await.unwrap()).await), [(1, 1), (7, 1)]);
    }
}

#[tokio::test]
async fn a_hole_is_told_by_every_reader_and_fences_nobody() {
    let place = Place::simple();
    let writer = place.open(quiet()).await.unwrap();
    writer.put(row(1)).await.unwrap();
    writer.flush().await.unwrap();
    let before = place.open(quiet()).await.unwrap();
    for key in 2..=6 {
        writer.put(row(key)).await.unwrap();
    }
    for slot in [2, 3] {
        std::fs::remove_file(place.wal_file(slot)).unwrap();
    }
    let error = place.try_scan_anew(quiet()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains(&TablePaths::wal_entry_name(WalPosition(2))), "{error}");
    for table in [before, place.open(quiet()).await.unwrap()] {
        let error = table.put(row(9)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
    assert_eq!(writer.put(row(7)).await.unwrap(), 1, "it is not fenced");
}
