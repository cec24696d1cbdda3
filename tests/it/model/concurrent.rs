//! Writers and readers at the same time: nothing acknowledged is lost, nothing old is read, statements are seen whole.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::physical_plan::collect;
use datafusion_lsm::error::ErrorKind;
use datafusion_lsm::settings::{Ack, Bytes, Settings};
use datafusion_lsm::table::{LsmTable, StatementKind};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use super::history::History;
use crate::support::key_type::KeyType;
use crate::support::number_from_env;
use crate::support::place::{Place, numbers, quiet};
use crate::support::rows;

/// Pairs of keys: `2 i` and `2 i + 1` are only ever written together.
const PAIRS: u32 = 24;
const WRITERS: u64 = 4;
const READERS: u64 = 3;

fn settings(ack: Ack) -> Settings {
    Settings { ack, memtable_rows: 64, memtable_entries: 16, memtable_bytes: Bytes::mib(1), ..quiet() }
}

fn seed() -> u64 {
    number_from_env("LSM_SEED", 0xC0FFEE)
}

async fn write_pairs(table: Arc<LsmTable>, key_type: KeyType, history: Arc<History>, seed: u64, operations: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..operations {
        let pairs: Vec<u32> = (0..random.random_range(1..4)).map(|_| random.random_range(0..PAIRS)).collect();
        let keys: Vec<u32> = pairs.iter().flat_map(|pair| [2 * pair, 2 * pair + 1]).collect();
        let number = history.number();
        let rows: Vec<(u32, i64)> = keys.iter().map(|key| (*key, number)).collect();
        let begin = history.tick();
        match table.put(rows::numbered(key_type, &rows)).await {
            Ok(n) => {
                assert_eq!(n, rows.len() as u64);
                history.wrote(&keys, number, begin);
            }
            Err(error) if error.kind() == ErrorKind::Indeterminate => history.may_have_written(&keys, number, begin),
            Err(error) => panic!("a write failed (seed {seed}): {error}"),
        }
    }
}

async fn read_pairs(table: Arc<LsmTable>, key_type: KeyType, history: Arc<History>, seed: u64, done: Arc<AtomicBool>) {
    let mut random = StdRng::seed_from_u64(seed);
    let all: Vec<u32> = (0..2 * PAIRS).collect();
    while !done.load(Ordering::SeqCst) {
        let key = random.random_range(0..2 * PAIRS);
        let begin = history.tick();
        match random.random_range(0..3) {
            0 => {
                let found = table.get(&key_type.values(key)).await.unwrap();
                let found = found.iter().flat_map(|batch| rows::listed(key_type, batch));
                history.read([key], &found.map(|(key, row)| (key, row.n)).collect(), begin);
            }
            1 => {
                let found = table.get_many(&key_type.batch(&all)).await.unwrap();
                check_whole(key_type, &history, &all, &[found], begin, seed);
            }
            _ => {
                let plan = table.scan(&table.snapshot(), None, &[], None).unwrap();
                let found = collect(plan, Arc::default()).await.unwrap();
                check_whole(key_type, &history, &all, &found, begin, seed);
            }
        }
        tokio::task::yield_now().await;
    }
}

/// One snapshot was read: both keys of a pair are of the same write.
fn check_whole(
    key_type: KeyType,
    history: &History,
    all: &[u32],
    batches: &[arrow::array::RecordBatch],
    begin: u64,
    seed: u64,
) {
    let found: HashMap<u32, i64> =
        rows::collected(key_type, batches).into_iter().map(|(key, row)| (key, row.n)).collect();
    for pair in 0..PAIRS {
        let (one, other) = (found.get(&(2 * pair)), found.get(&(2 * pair + 1)));
        assert_eq!(one, other, "half of a statement was seen for pair {pair} (seed {seed})");
    }
    history.read(all.iter().copied(), &found, begin);
}

async fn writers_and_readers(key_type: KeyType, shards: u32, ack: Ack) {
    let place = Place::new(key_type, shards);
    let table = place.open(settings(ack)).await.unwrap();
    let history = Arc::new(History::default());
    let operations = number_from_env("LSM_OPS", 250);
    let done = Arc::new(AtomicBool::new(false));
    let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
    for reader in 0..READERS {
        let (table, history, done) = (Arc::clone(&table), Arc::clone(&history), Arc::clone(&done));
        readers.spawn(read_pairs(table, key_type, history, seed() + 100 + reader, done));
    }
    for writer in 0..WRITERS {
        writers.spawn(write_pairs(Arc::clone(&table), key_type, Arc::clone(&history), seed() + writer, operations));
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    while let Some(ended) = readers.join_next().await {
        ended.unwrap();
    }
    table.flush().await.unwrap();
    let flushed = table.sources().iter().filter(|s| s.kind == "generation").count();
    assert!(flushed > 2, "memtables were frozen meanwhile and flushed: {flushed}");
    table.close().await.unwrap();
    drop(table);

    let table = place.open(settings(ack)).await.unwrap();
    let begin = history.tick();
    let found: HashMap<u32, i64> = numbers(&place.rows(&table).await).into_iter().collect();
    history.read(0..2 * PAIRS, &found, begin);
    history.check();
    let (writes, reads) = history.len();
    assert!(writes as u64 >= WRITERS * operations && reads > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writers_and_readers_of_one_shard_agree_on_a_history() {
    writers_and_readers(KeyType::Int64, 1, Ack::Durable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writers_and_readers_of_three_shards_agree_on_a_history() {
    writers_and_readers(KeyType::Text, 3, Ack::Durable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writers_and_readers_agree_on_a_history_of_writes_acknowledged_from_memory() {
    writers_and_readers(KeyType::Composite, 3, Ack::Memory).await;
}

/// Adds one to the row of `key` as an UPDATE does, again after a conflict; returns how often there was one.
async fn increment(table: &Arc<LsmTable>, key: u32) -> u64 {
    for conflicts in 0.. {
        let snapshot = table.snapshot();
        let filter = KeyType::Int64.equals(key);
        let plan = table.scan(&snapshot, None, std::slice::from_ref(&filter), None).unwrap();
        let found = rows::collected(KeyType::Int64, &collect(plan, Arc::default()).await.unwrap());
        let mut statement = table.begin(StatementKind::Update, Some(snapshot), None);
        statement.push(rows::numbered(KeyType::Int64, &[(key, found[&key].n + 1)])).await.unwrap();
        match statement.finish().await {
            Ok(n) => {
                assert_eq!(n, 1);
                return conflicts;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
        }
    }
    unreachable!("the loop ends with an increment");
}

async fn increments(shards: u32, ack: Ack) {
    let place = Place::new(KeyType::Int64, shards);
    // Memtables of a few rows: the row that a statement read is often flushed before it writes.
    let settings = Settings { memtable_rows: 8, memtable_entries: 4, ..settings(ack) };
    let table = place.open(settings.clone()).await.unwrap();
    let keys: Vec<(u32, i64)> = (0..3).map(|key| (key, 0)).collect();
    table.put(rows::numbered(KeyType::Int64, &keys)).await.unwrap();
    let (tasks, each) = (4u32, number_from_env("LSM_OPS", 40));
    let mut running = JoinSet::new();
    for task in 0..tasks {
        let table = Arc::clone(&table);
        running.spawn(async move {
            let mut conflicts = 0;
            for i in 0..each {
                conflicts += increment(&table, (task + i as u32) % 3).await;
            }
            conflicts
        });
    }
    let mut conflicts = 0;
    while let Some(ended) = running.join_next().await {
        conflicts += ended.unwrap();
    }
    let total = i64::from(tasks) * each as i64;
    let sum = |rows: &rows::Rows| rows.values().map(|row| row.n).sum::<i64>();
    assert_eq!(sum(&place.rows(&table).await), total, "an increment was lost ({conflicts} conflicts)");
    table.close().await.unwrap();
    let table = place.open(settings).await.unwrap();
    assert_eq!(sum(&place.rows(&table).await), total, "an increment was lost by reopening");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_increments_lose_nothing() {
    increments(1, Ack::Durable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_increments_acknowledged_from_memory_lose_nothing() {
    increments(3, Ack::Memory).await;
}
