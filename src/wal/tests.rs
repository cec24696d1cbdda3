//! Entries, slots, reading and quarantine under faults and damage.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, DictionaryArray, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;

use super::{EncodedEntry, WalReader, WalWriter, decode, encode, encode_sentinel, last, quarantine, tip};
use crate::error::ErrorKind;
use crate::ids::{Epoch, GenerationId, ShardId, WalPosition};
use crate::store::testing::{At, Faults, local, remote};
use crate::store::{IoOp, ObjectIo, Retry, TablePaths};

fn shard() -> ShardId {
    ShardId::unsharded()
}

fn schema() -> SchemaRef {
    let id = |n: &str| HashMap::from([("lance:field_id".to_string(), n.to_string())]);
    let item = Arc::new(Field::new("item", DataType::Float32, true).with_metadata(id("2")));
    let fields = vec![
        Field::new("id", DataType::Int64, false).with_metadata(id("0")),
        Field::new("v", DataType::FixedSizeList(item, 2), true).with_metadata(id("1")),
        Field::new("s", DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)), true),
        Field::new("_tombstone", DataType::Boolean, false),
    ];
    Arc::new(Schema::new_with_metadata(fields, HashMap::from([("owner".into(), "me".into())])))
}

/// Rows as memtables hold them: without metadata.
fn rows(ids: &[i64]) -> RecordBatch {
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let values = Arc::new(Float32Array::from(vec![0.5; ids.len() * 2]));
    let s: DictionaryArray<Int32Type> = ids.iter().map(|id| (id % 2 == 0).then_some("even")).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef, false),
        ("v", Arc::new(FixedSizeListArray::try_new(item, 2, values, None).unwrap()), true),
        ("s", Arc::new(s), true),
        ("_tombstone", Arc::new(BooleanArray::from(vec![false; ids.len()])), false),
    ])
    .unwrap()
}

fn entry(epoch: u64, ids: &[i64]) -> EncodedEntry {
    encode(Epoch(epoch), Some(GenerationId(3)), &schema(), &rows(ids)).unwrap()
}

fn ids(batch: &RecordBatch) -> Vec<i64> {
    batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec()
}

fn writer(io: &ObjectIo, epoch: u64, next: u64) -> WalWriter {
    let retry = Retry { attempts: 3, ..Retry::default() };
    WalWriter::new(io.clone(), shard(), Epoch(epoch), WalPosition(next), retry)
}

fn path(position: u64) -> String {
    TablePaths::wal_entry(shard(), WalPosition(position))
}

async fn read(io: &ObjectIo, from: u64) -> Vec<(u64, Vec<i64>)> {
    let mut reader = WalReader::new(io.clone(), shard(), WalPosition(from), 4);
    let mut read = Vec::new();
    while let Some(entry) = reader.next().await.unwrap() {
        read.push((entry.position.0, entry.batches.iter().flat_map(ids).collect()));
    }
    read
}

#[test]
fn an_entry_comes_back_with_its_schema() {
    let entry = entry(7, &[1, 2, 3]);
    let back = decode(WalPosition(9), entry.bytes().clone(), "x").unwrap();
    assert_eq!((back.position, back.epoch, back.generation), (WalPosition(9), Epoch(7), Some(GenerationId(3))));
    assert_eq!((back.sentinel, back.rows(), back.bytes), (false, 3, entry.bytes().len()));
    assert_eq!(back.schema, schema());
    assert_eq!(back.batches.len(), 1);
    assert_eq!(ids(&back.batches[0]), [1, 2, 3]);
    assert_eq!(back.batches[0].schema(), schema());
    let slice = rows(&[1, 2, 3, 4, 5]).slice(1, 2);
    let sliced = encode(Epoch(7), None, &schema(), &slice).unwrap();
    let back = decode(WalPosition(1), sliced.bytes().clone(), "x").unwrap();
    assert_eq!((ids(&back.batches[0]), back.generation), (vec![2, 3], None));
}

#[test]
fn a_sentinel_has_no_rows() {
    let sentinel = encode_sentinel(Epoch(2)).unwrap();
    let back = decode(WalPosition(1), sentinel.bytes().clone(), "x").unwrap();
    assert!(back.sentinel && sentinel.is_sentinel() && back.batches.is_empty() && back.schema.fields().is_empty());
    assert_eq!(back.epoch, Epoch(2));
}

#[test]
fn entries_that_could_not_be_read_back_are_not_made() {
    assert!(encode(Epoch(1), None, &schema(), &rows(&[])).is_err());
    let narrow = rows(&[1]).project(&[0]).unwrap();
    assert!(encode(Epoch(1), None, &schema(), &narrow).is_err());
}

#[test]
fn equal_rows_make_unlike_bytes() {
    assert_ne!(entry(1, &[1]).bytes(), entry(1, &[1]).bytes());
}

#[test]
fn other_readers_of_arrow_streams_do_not_see_the_trailer() {
    let entry = entry(7, &[1, 2]);
    let reader = StreamReader::try_new(std::io::Cursor::new(entry.bytes().clone()), None).unwrap();
    assert_eq!(reader.schema().metadata()["writer_epoch"], "7");
    assert_eq!(reader.schema().metadata()["generation"], "3");
    assert_eq!(reader.schema().metadata().len(), 3);
    assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 2);
}

/// The entry as Lance writes it.
fn lances(batches: &[RecordBatch], finish: bool) -> Bytes {
    let metadata = HashMap::from([("writer_epoch".to_string(), "4".to_string())]);
    let schema = batches[0].schema().as_ref().clone().with_metadata(metadata);
    let mut writer = StreamWriter::try_new(Vec::new(), &schema).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    if finish {
        writer.finish().unwrap();
        return writer.into_inner().unwrap().into();
    }
    writer.get_ref().clone().into()
}

#[test]
fn entries_of_lance_are_read_and_must_end_properly() {
    let plain = RecordBatch::try_from_iter([("id", Arc::new(StringArray::from(vec!["a", "b"])) as ArrayRef)]).unwrap();
    let batches = [plain.clone(), plain];
    let back = decode(WalPosition(1), lances(&batches, true), "x").unwrap();
    assert_eq!((back.rows(), back.batches.len(), back.epoch, back.generation), (4, 2, Epoch(4), None));
    assert_eq!(decode(WalPosition(1), lances(&batches, false), "x").unwrap_err().kind(), ErrorKind::Corrupt);
    let mut longer = lances(&batches, true).to_vec();
    longer.push(0);
    assert_eq!(decode(WalPosition(1), longer.into(), "x").unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn every_truncation_and_every_flipped_bit_of_ours_is_found() {
    let good = entry(7, &[1, 2, 3]).bytes().clone();
    let stream = good.len() - super::trailer::LEN;
    for length in (0..good.len()).filter(|length| *length != stream) {
        let error = decode(WalPosition(1), good.slice(..length), "the/path").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{length} bytes");
        assert!(error.to_string().contains("the/path"));
    }
    assert_eq!(decode(WalPosition(1), good.slice(..stream), "x").unwrap().rows(), 3, "only the checksum is gone");
    for bit in 0..good.len() * 8 {
        let mut bytes = good.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode(WalPosition(1), bytes.into(), "x").unwrap_err().kind(), ErrorKind::Corrupt, "bit {bit}");
    }
}

#[test]
fn a_flipped_bit_in_lances_entries_never_panics() {
    let good = lances(&[rows(&[1, 2, 3])], true);
    for byte in 0..good.len() {
        let mut bytes = good.to_vec();
        bytes[byte] ^= 1 << (byte % 8);
        if let Err(error) = decode(WalPosition(1), bytes.into(), "x") {
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }
}

async fn places() -> Vec<(Option<tempfile::TempDir>, ObjectIo, Arc<Faults>)> {
    let (dir, io, faults) = local().await;
    let (remote_io, remote_faults) = remote().await;
    vec![(Some(dir), io, faults), (None, remote_io, remote_faults)]
}

#[tokio::test]
async fn entries_are_appended_and_read_in_order() {
    for (_dir, io, _) in places().await {
        let mut writer = writer(&io, 1, 1);
        for n in 1..=40 {
            assert_eq!(writer.append(&entry(1, &[n])).await.unwrap(), WalPosition(n as u64));
        }
        let read = read(&io, 5).await;
        assert_eq!(read.len(), 36);
        assert!(read.iter().all(|(position, ids)| ids == &[*position as i64]));
        for hint in [0, 1, 17, 40] {
            assert_eq!(tip(&io, shard(), WalPosition(hint)).await.unwrap(), WalPosition(41), "from {hint}");
        }
        assert_eq!(last(&io, shard()).await.unwrap(), WalPosition(40));
        assert_eq!(tip(&io, ShardId::bucket(9), WalPosition(0)).await.unwrap(), WalPosition(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_does_not_write_twice() {
    for (_dir, io, faults) in places().await {
        let mut writer = writer(&io, 1, 1);
        faults.fail(IoOp::PutIfAbsent, "wal", At::After, 1);
        faults.fail(IoOp::Get, "wal", At::Before, 1);
        assert_eq!(writer.append(&entry(1, &[1])).await.unwrap(), WalPosition(1));
        faults.fail(IoOp::PutIfAbsent, "wal", At::Before, 2);
        assert_eq!(writer.append(&entry(1, &[2])).await.unwrap(), WalPosition(2));
        assert_eq!(read(&io, 1).await, [(1, vec![1]), (2, vec![2])]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_indeterminate_entry_is_settled_by_the_next_one() {
    for arrives in [true, false] {
        let (io, faults) = remote().await;
        let mut writer = writer(&io, 1, 1);
        faults.fail(IoOp::PutIfAbsent, "wal", if arrives { At::After } else { At::Before }, 9);
        faults.fail(IoOp::Get, "wal", At::Before, 9);
        let first = entry(1, &[1]);
        assert_eq!(writer.append(&first).await.unwrap_err().kind(), ErrorKind::Indeterminate);
        faults.heal();
        let second = writer.append(&entry(1, &[2])).await.unwrap();
        if arrives {
            assert_eq!((second, read(&io, 1).await), (WalPosition(2), vec![(1, vec![1]), (2, vec![2])]));
        } else {
            assert_eq!((second, read(&io, 1).await), (WalPosition(1), vec![(1, vec![2])]));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_indeterminate_entry_can_be_continued() {
    for at in [At::Before, At::After] {
        let (io, faults) = remote().await;
        let mut writer = writer(&io, 1, 1);
        faults.fail(IoOp::PutIfAbsent, "wal", at, 9);
        faults.fail(IoOp::Get, "wal", At::Before, 9);
        let first = entry(1, &[1]);
        assert!(writer.append(&first).await.is_err());
        faults.heal();
        assert_eq!(writer.append(&first).await.unwrap(), WalPosition(1));
        assert_eq!(read(&io, 1).await, [(1, vec![1])]);
    }
}

#[tokio::test]
async fn a_dropped_append_is_settled_by_the_next_one() {
    for (_dir, io, faults) in places().await {
        let mut writer = writer(&io, 1, 1);
        let first = entry(1, &[1]);
        faults.hang(IoOp::PutIfAbsent, "wal", At::After);
        tokio::select! {
            biased;
            _ = writer.append(&first) => unreachable!("it hangs"),
            () = arrived(&io, 1) => {}
        }
        faults.heal();
        assert_eq!(writer.append(&entry(1, &[2])).await.unwrap(), WalPosition(2));
    }
}

async fn arrived(io: &ObjectIo, position: u64) {
    while !io.exists(&path(position)).await.unwrap() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_local_disk_leaves_nothing_unsettled() {
    let (_dir, io, faults) = local().await;
    let mut writer = writer(&io, 1, 1);
    faults.fail(IoOp::PutIfAbsent, "wal", At::Before, 3);
    assert_eq!(writer.append(&entry(1, &[1])).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(writer.append(&entry(1, &[2])).await.unwrap(), WalPosition(1));
}

#[tokio::test]
async fn an_entry_whose_directory_did_not_sync_is_never_acknowledged() {
    let (_dir, io, faults) = local().await;
    let mut writer = writer(&io, 1, 1);
    writer.append(&entry(1, &[1])).await.unwrap();
    faults.fail_sync("wal");
    let lost = entry(1, &[2]);
    for _ in 0..2 {
        assert_eq!(writer.append(&lost).await.unwrap_err().kind(), ErrorKind::Indeterminate);
    }
    assert_eq!(writer.append(&entry(1, &[3])).await.unwrap_err().kind(), ErrorKind::Indeterminate);
}

#[tokio::test]
async fn the_sentinel_of_a_newer_epoch_fences_the_older_writer() {
    for (_dir, io, _) in places().await {
        let mut old = writer(&io, 1, 1);
        old.append(&entry(1, &[1])).await.unwrap();
        // The newer writer believes that slot 1 is free.
        let mut new = writer(&io, 2, 1);
        assert_eq!(new.append(&encode_sentinel(Epoch(2)).unwrap()).await.unwrap(), WalPosition(2));
        for _ in 0..2 {
            let error = old.append(&entry(1, &[2])).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Fenced);
        }
        assert_eq!(new.append(&entry(2, &[3])).await.unwrap(), WalPosition(3));
        let sentinel = encode_sentinel(Epoch(1)).unwrap();
        assert_eq!(old.append(&sentinel).await.unwrap_err().kind(), ErrorKind::Fenced);
    }
}

#[tokio::test]
async fn reading_stops_at_damage_and_says_where() {
    for (_dir, io, _) in places().await {
        let mut writer = writer(&io, 1, 1);
        for n in 1..=6 {
            writer.append(&entry(1, &[n])).await.unwrap();
        }
        let bytes = io.get(&path(3)).await.unwrap().unwrap();
        io.put(&path(3), bytes.slice(..bytes.len() / 2)).await.unwrap();
        let mut reader = WalReader::new(io.clone(), shard(), WalPosition(1), 4);
        assert!(reader.next().await.unwrap().is_some() && reader.next().await.unwrap().is_some());
        let error = reader.next().await.unwrap_err();
        assert_eq!((error.kind(), reader.position()), (ErrorKind::Corrupt, WalPosition(3)));
        assert!(error.to_string().contains(&path(3)));
        assert!(reader.next().await.unwrap().is_none());
        io.delete(&path(3)).await.unwrap();
        let mut reader = WalReader::new(io.clone(), shard(), WalPosition(2), 8);
        assert!(reader.next().await.unwrap().is_some());
        assert_eq!(reader.next().await.unwrap_err().kind(), ErrorKind::Corrupt, "a gap is no end");
    }
}

#[tokio::test]
async fn damaged_entries_are_moved_aside_with_all_later_ones() {
    for (_dir, io, faults) in places().await {
        let mut first = writer(&io, 1, 1);
        for n in 1..=5 {
            first.append(&entry(1, &[n, n])).await.unwrap();
        }
        let mut bytes = io.get(&path(3)).await.unwrap().unwrap().to_vec();
        let end = bytes.len() - 1;
        bytes[end] ^= 1;
        io.put(&path(3), bytes.into()).await.unwrap();
        // Stopped after one entry, then again.
        faults.fail(IoOp::Rename, &*path(4).leak(), At::Before, 1);
        assert!(quarantine(&io, shard(), WalPosition(3)).await.is_err());
        assert_eq!(tip(&io, shard(), WalPosition(0)).await.unwrap(), WalPosition(5));
        let report = quarantine(&io, shard(), WalPosition(3)).await.unwrap();
        assert_eq!((report.entries, report.rows, report.next), (2, Some(4), WalPosition(6)));
        let mut moved = io.list(&report.dir).await.unwrap();
        moved.sort();
        assert_eq!(moved.len(), 2);
        assert!(moved.contains(&TablePaths::wal_entry_name(WalPosition(3))));
        assert_eq!(read(&io, 1).await.len(), 2);
        assert_eq!(last(&io, shard()).await.unwrap(), WalPosition(5));
        writer(&io, 1, report.next.0).append(&entry(1, &[9])).await.unwrap();
        assert_eq!(read(&io, 6).await, [(6, vec![9])]);
    }
}

#[tokio::test]
async fn a_quarantine_that_is_stopped_leaves_no_slot_to_a_writer_that_was_fenced() {
    let (io, _) = remote().await;
    let mut old = writer(&io, 1, 1);
    for n in 1..=3 {
        old.append(&entry(1, &[n])).await.unwrap();
    }
    io.put(&path(2), Bytes::from_static(b"nonsense")).await.unwrap();
    // A claim of epoch 2 that ends when all is moved, before a slot that became free is filled.
    writer(&io, 2, 4).append(&encode_sentinel(Epoch(2)).unwrap()).await.unwrap();
    let report = quarantine(&io, shard(), WalPosition(2)).await.unwrap();
    assert_eq!((report.entries, report.next), (2, WalPosition(5)));
    assert_eq!(old.append(&entry(1, &[4])).await.unwrap_err().kind(), ErrorKind::Fenced);
    // The next claim finds the first free slot; its rows go around the sentinel that stayed.
    let mut new = writer(&io, 3, tip(&io, shard(), WalPosition(1)).await.unwrap().0);
    assert_eq!(new.append(&encode_sentinel(Epoch(3)).unwrap()).await.unwrap(), WalPosition(2));
    for (n, position) in [(5, 3), (6, 5), (7, 6)] {
        assert_eq!(new.append(&entry(3, &[n])).await.unwrap(), WalPosition(position));
    }
    let rows: Vec<_> = read(&io, 1).await.into_iter().filter(|(_, rows)| !rows.is_empty()).collect();
    assert_eq!(rows, [(1, vec![1]), (3, vec![5]), (5, vec![6]), (6, vec![7])]);
}

#[tokio::test]
async fn the_rows_of_a_quarantined_entry_are_counted_only_if_it_can_be_read() {
    let (io, _) = remote().await;
    io.put(&path(1), Bytes::from_static(b"nonsense")).await.unwrap();
    writer(&io, 1, 2).append(&entry(1, &[1])).await.unwrap();
    let report = quarantine(&io, shard(), WalPosition(1)).await.unwrap();
    assert_eq!((report.entries, report.rows, report.next), (2, None, WalPosition(3)));
    let nothing = quarantine(&io, shard(), WalPosition(3)).await.unwrap();
    assert_eq!((nothing.entries, nothing.rows, nothing.next), (0, Some(0), WalPosition(3)));
}

#[tokio::test]
async fn what_is_read_ahead_is_bounded() {
    let (io, _) = remote().await;
    let mut writer = writer(&io, 1, 1);
    for n in 1..=50 {
        writer.append(&entry(1, &[n])).await.unwrap();
    }
    let before = io.counts().gets;
    let mut reader = WalReader::new(io.clone(), shard(), WalPosition(1), 4);
    for n in 1..=10 {
        reader.next().await.unwrap().unwrap();
        assert!(io.counts().gets - before <= n + 4);
    }
}
