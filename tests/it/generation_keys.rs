//! The keys of generations, and of the base, of a table that is opened again: a query loads those that it needs.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::common::ScalarValue;
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;
use datafusion_lsm::base::CreateSpec;
use datafusion_lsm::cache::{BlockCache, BlockId, FileName};
use datafusion_lsm::generation::Generation;
use datafusion_lsm::index_spec::{IndexKind, IndexSpec};
use datafusion_lsm::key::KeyRef;
use datafusion_lsm::settings::{self, Settings, Warmth};
use datafusion_lsm::sql::{LsmSessionExt, LsmTableProvider, TableSearch};
use datafusion_lsm::table::{Components, LsmTable};
use parking_lot::Mutex;

use crate::support::place::{of_a_process, quiet};
use crate::support::plan::{analyzed, figure};
use crate::support::remote::{Bucket, Weather};
use crate::support::rows::stream;
use crate::support::{polled_until, soon};

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("n", DataType::Int64, true),
        Field::new("body", DataType::Utf8, true),
    ]))
}

fn rows(ids: impl IntoIterator<Item = i64>, n: i64) -> RecordBatch {
    let ids: Vec<i64> = ids.into_iter().collect();
    let bodies = ids.iter().map(|id| format!("word{} log", id % 10));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids.clone())),
        Arc::new(Int64Array::from(vec![n; ids.len()])),
        Arc::new(StringArray::from_iter_values(bodies)),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn keys(ids: impl IntoIterator<Item = i64>) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, false)]);
    RecordBatch::try_new(Arc::new(schema), vec![ids]).unwrap()
}

/// Opens the table as a process does that has nothing of it.
async fn open_with(uri: &str, settings: Settings) -> Arc<LsmTable> {
    let spec = CreateSpec {
        schema: schema(),
        key: vec!["id".into()],
        shards: 1,
        shard_column: None,
        indexes: vec![IndexSpec::new("body", IndexKind::text())],
        defaults: Default::default(),
    };
    LsmTable::builder(uri).settings(settings).components(of_a_process()).create(spec).open().await.unwrap()
}

async fn open(uri: &str) -> Arc<LsmTable> {
    open_with(uri, quiet()).await
}

/// Generations of these ids, the oldest first, in each of which `n` is its number from 0.
async fn fill(uri: &str, generations: impl IntoIterator<Item = Vec<i64>>) {
    let table = open(uri).await;
    for (n, ids) in (0..).zip(generations) {
        table.put(rows(ids, n)).await.unwrap();
        table.flush().await.unwrap();
    }
    let all = generations_of(&table);
    assert!(all.iter().all(|generation| generation.known_keys().is_some()), "what was flushed is in memory");
    table.close().await.unwrap();
}

/// The oldest first.
fn generations_of(table: &LsmTable) -> Vec<Arc<Generation>> {
    table.snapshot().version().shards[0].generations.iter().rev().cloned().collect()
}

/// Whose keys are in memory, the oldest first.
fn loaded(table: &LsmTable) -> Vec<bool> {
    generations_of(table).iter().map(|generation| generation.known_keys().is_some()).collect()
}

/// The number of rows and the sum of `n`.
fn sums(batches: &[RecordBatch]) -> (usize, i64) {
    let n = |batch: &RecordBatch| {
        let n = batch.column_by_name("n").unwrap().as_primitive::<Int64Type>();
        n.values().iter().sum::<i64>()
    };
    (batches.iter().map(RecordBatch::num_rows).sum(), batches.iter().map(n).sum())
}

async fn scan(table: &LsmTable) -> (usize, i64) {
    let plan = table.scan(&table.snapshot(), None, &[], None).unwrap();
    sums(&collect(plan, Arc::default()).await.unwrap())
}

/// How many rows a search finds.
async fn matching(table: &Arc<LsmTable>, words: &str) -> usize {
    let session = SessionContext::new().with_lsm();
    let found = TableSearch::text(table, ["body"], words).k(1_000).rows(&session.state()).await.unwrap();
    found.iter().map(RecordBatch::num_rows).sum()
}

/// The `n` of the row with a key.
async fn get(table: &LsmTable, id: i64) -> Option<i64> {
    let row = table.get(&[ScalarValue::Int64(Some(id))]).await.unwrap()?;
    Some(row.column(1).as_primitive::<Int64Type>().value(0))
}

fn may_hold(generation: &Generation, id: i64) -> bool {
    let key = KeyRef::Fixed(id as u64 ^ 1 << 63);
    generation.may_hold(key, key.hash())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generations_with_keys_apart_are_read_without_loading_them() {
    let (bucket, uri) = Bucket::new();
    fill(&uri, (0..4).map(|g| (g * 200..(g + 1) * 200).collect())).await;
    bucket.reset();
    let table = open(&uri).await;
    // Nothing of their data is read when they are opened, and nothing is held of it.
    let held: usize = generations_of(&table).iter().map(|generation| generation.memory()).sum();
    assert!(held > 0 && held < 4 * 200 * 8, "{held}");
    let read = bucket.reset().1;
    let of_generations: Vec<&String> = read.iter().filter(|what| what.contains("_gen_")).collect();
    assert!(of_generations.iter().all(|what| what.contains("summary.binpb")), "{read:#?}");

    assert_eq!(scan(&table).await, (800, 200 * (1 + 2 + 3)));
    assert_eq!(matching(&table, "word3").await, 80);
    assert_eq!(loaded(&table), [false; 4]);
    // Rows that come are asked of filters.
    table.put(rows([10_000, 10_001], 0)).await.unwrap();
    assert_eq!(scan(&table).await, (802, 1200));
    assert_eq!(loaded(&table), [false; 4]);
    table.put(rows([5, 405], 100)).await.unwrap();
    assert_eq!(scan(&table).await, (802, 1200 + 200 - 2));
    assert_eq!(matching(&table, "word5").await, 80);
    assert_eq!(loaded(&table), [true, false, true, false]);
    assert_eq!(get(&table, 205).await, Some(1));
    assert!(loaded(&table)[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tombstones_and_keys_in_common_are_found_after_opening() {
    let (_bucket, uri) = Bucket::new();
    let table = open(&uri).await;
    table.put(rows(0..100, 0)).await.unwrap();
    table.flush().await.unwrap();
    table.put(rows(100..200, 1)).await.unwrap();
    table.flush().await.unwrap();
    table.delete(keys([7, 8])).await.unwrap();
    table.put(rows([9], 50)).await.unwrap();
    table.flush().await.unwrap();
    table.close().await.unwrap();

    let table = open(&uri).await;
    assert_eq!(loaded(&table), [false; 3]);
    assert_eq!((get(&table, 7).await, get(&table, 9).await, get(&table, 10).await), (None, Some(50), Some(0)));
    assert_eq!(scan(&table).await, (198, 100 + 50));
    assert_eq!(loaded(&table), [true, false, true]);
    assert_eq!((matching(&table, "word7").await, matching(&table, "word9").await), (19, 20));
    // Which source a key is in is asked of all of them.
    let session = SessionContext::new().with_lsm();
    session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(&table)))).unwrap();
    let sources = async |sql: &str| -> Vec<String> {
        let rows = session.sql(sql).await.unwrap().collect().await.unwrap();
        let names = |batch: &RecordBatch| -> Vec<String> {
            batch.column(0).as_string::<i32>().iter().flatten().map(String::from).collect()
        };
        rows.iter().flat_map(names).collect()
    };
    let names = sources("SELECT lsm_source(id) FROM t WHERE id IN (9, 10, 150) ORDER BY id").await;
    assert_eq!(names, ["generation 3", "generation 1", "generation 2"]);
    assert_eq!(loaded(&table), [true; 3]);
    table.close().await.unwrap();
    let table = open(&uri).await;
    let session = SessionContext::new().with_lsm();
    session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(&table)))).unwrap();
    let count = "SELECT lsm_source(id) AS s, count(*) FROM t GROUP BY s ORDER BY s";
    let counted = session.sql(count).await.unwrap().collect().await.unwrap();
    let counts: Vec<i64> =
        counted.iter().flat_map(|b| b.column(1).as_primitive::<Int64Type>().values().to_vec()).collect();
    assert_eq!(counts, [97, 100, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_loads_the_keys_of_candidates_alone() {
    let (_bucket, uri) = Bucket::new();
    // All ranges overlap.
    fill(&uri, (0..10).map(|g| (0..200).map(|i| i * 10 + g).collect())).await;
    for id in [3, 1237, 1999, 0] {
        let table = open_with(&uri, Settings { read_lookahead: 0, ..quiet() }).await;
        let holder = (id % 10) as usize;
        let candidates: Vec<bool> = generations_of(&table).iter().map(|g| may_hold(g, id)).collect();
        assert!(candidates[holder]);
        assert_eq!(get(&table, id).await, Some(id % 10));
        // No older one than the one that has it.
        let expected: Vec<bool> = (0..10).map(|g| g >= holder && candidates[g]).collect();
        assert_eq!(loaded(&table), expected, "{id}");
    }
    let table = open(&uri).await;
    assert_eq!(get(&table, 20_000).await, None);
    assert_eq!(loaded(&table), [false; 10], "out of range");
    let session = SessionContext::new().with_lsm();
    session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(&table)))).unwrap();
    let plan = analyzed(&session, "SELECT * FROM t WHERE id = 20001").await;
    assert_eq!(figure(&plan, "FirstMatchExec", "filters_asked"), 10, "{plan}");
    assert_eq!(figure(&plan, "FirstMatchExec", "filtered_out"), 10, "{plan}");
    let many = table.get_many(&keys(0..300)).await.unwrap();
    assert_eq!(sums(&[many]), (300, 30 * 45));
    assert_eq!(loaded(&table), [true; 10]);
    // With keys in memory no filter is asked.
    let plan = analyzed(&session, "SELECT * FROM t WHERE id = 20001").await;
    assert!(plan.contains("FirstMatchExec") && !plan.contains("filters_asked"), "{plan}");
}

/// Waits until so many reads of a stuck store are under way, and sees that they do not get more.
async fn hanging<F: Future>(bucket: &Bucket, reads: usize, mut asking: Pin<&mut F>) {
    polled_until("reads", asking.as_mut(), || bucket.hanging() >= reads).await;
    for _ in 0..1_000 {
        assert!(futures::poll!(&mut asking).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(bucket.hanging(), reads);
}

/// Keeps no blocks.
#[derive(Debug)]
struct NoBlocks;

#[async_trait]
impl BlockCache for NoBlocks {
    async fn get(&self, _: &BlockId) -> Option<Bytes> {
        None
    }

    async fn insert(&self, _: BlockId, _: Bytes) {}

    async fn remove(&self, _: &FileName, _: Range<u64>) {}

    fn bytes(&self) -> u64 {
        0
    }

    fn capacity(&self) -> u64 {
        0
    }
}

/// Opens the table by its summaries, of which no more stays in memory than the filters of keys.
async fn open_without_blocks(uri: &str, read_lookahead: usize) -> Arc<LsmTable> {
    let components = Components { block_cache: Some(Arc::new(NoBlocks)), ..of_a_process() };
    let settings = Settings { read_lookahead, ..quiet() };
    LsmTable::builder(uri).settings(settings).components(components).open().await.unwrap()
}

#[tokio::test]
async fn a_lookup_loads_the_keys_of_the_next_candidates_meanwhile() {
    let (bucket, uri) = Bucket::new();
    fill(&uri, (0..5).map(|_| (0..100).collect())).await;
    for lookahead in [0, 1, 3] {
        let table = open_without_blocks(&uri, lookahead).await;
        assert_eq!(loaded(&table), [false; 5]);
        bucket.set_weather(Weather::Stuck("/data/"));
        let mut lookup = Box::pin(get(&table, 7));
        hanging(&bucket, 1 + lookahead, lookup.as_mut()).await;
        bucket.set_weather(Weather::Fine);
        assert_eq!(soon("the row", lookup).await, Some(4), "{lookahead}");
        assert!(loaded(&table)[4] && !loaded(&table)[0], "{lookahead}");
    }
}

#[tokio::test]
async fn the_keys_of_many_generations_are_loaded_eight_at_a_time() {
    let (bucket, uri) = Bucket::new();
    fill(&uri, (0..12).map(|g| (0..50).map(|i| i * 12 + g).collect())).await;
    let table = open_without_blocks(&uri, 1).await;
    assert_eq!(loaded(&table), [false; 12]);
    bucket.set_weather(Weather::Stuck("/data/"));
    let mut loading = Box::pin(Generation::keys_of(generations_of(&table)));
    hanging(&bucket, 8, loading.as_mut()).await;
    bucket.set_weather(Weather::Fine);
    assert_eq!(soon("the keys", loading).await.unwrap().len(), 12);
    assert_eq!(loaded(&table), [true; 12]);
}

#[tokio::test]
async fn rows_are_taken_for_others_though_nobody_polls_who_asked_first() {
    let (bucket, uri) = Bucket::new();
    fill(&uri, [(0..100).collect()]).await;
    let table = open_without_blocks(&uri, 1).await;
    let generation = generations_of(&table).remove(0);
    bucket.set_weather(Weather::Stuck("/data/"));
    let mut first = Box::pin(generation.take(&[1], &[0, 1]));
    hanging(&bucket, 1, first.as_mut()).await;
    bucket.set_weather(Weather::Fine);
    for (row, take) in [(2, Box::pin(generation.take(&[2], &[0, 1]))), (1, first)] {
        let taken = soon("the row", take).await.unwrap();
        assert_eq!(taken.column(0).as_primitive::<Int64Type>().values().to_vec(), [row]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_is_wrong_costs_a_look_and_no_row() {
    let (_bucket, uri) = Bucket::new();
    let odd = (0..5_000).map(|i| i * 2 + 1).collect();
    let even = (0..10_000).map(|i| i * 2).collect();
    fill(&uri, [odd, even]).await;
    for lookahead in [0, 1, 5] {
        let table = open_with(&uri, Settings { read_lookahead: lookahead, ..quiet() }).await;
        let all = generations_of(&table);
        // The newer one seems to have some keys that only the older one has, and some that none has.
        let seeming: Vec<i64> = (0..10_000).map(|i| i * 2 + 1).filter(|id| may_hold(&all[1], *id)).collect();
        let [there, nowhere]: [Vec<i64>; 2] =
            [true, false].map(|is_there| seeming.iter().copied().filter(|id| (*id < 10_000) == is_there).collect());
        assert!(!there.is_empty() && !nowhere.is_empty());
        assert_eq!(get(&table, nowhere[0]).await, None, "{lookahead}");
        assert!(loaded(&table)[1]);
        assert_eq!(get(&table, there[0]).await, Some(0), "{lookahead}");
        assert_eq!(loaded(&table), [true, true]);

        let table = open_with(&uri, Settings { read_lookahead: lookahead, ..quiet() }).await;
        let wanted: Vec<i64> = there.iter().chain(&nowhere).copied().chain([4, 19_998]).collect();
        let found = table.get_many(&keys(wanted.clone())).await.unwrap();
        let expected: Vec<i64> = wanted.into_iter().filter(|id| id % 2 == 0 || *id < 10_000).collect();
        assert_eq!(found.column(0).as_primitive::<Int64Type>().values().to_vec(), expected, "{lookahead}");
        assert_eq!(sums(&[found]).1, 2, "4 and 19998 are of the newer one");
        // Whoever looks at the rows sees each once.
        assert_eq!(scan(&table).await, (15_000, 10_000));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_summary_keys_are_loaded_when_a_table_is_opened() {
    let (bucket, uri) = Bucket::new();
    fill(&uri, [(0..100).collect(), (50..150).collect()]).await;
    let expected = (150, 100);
    let table = open(&uri).await;
    assert_eq!(loaded(&table), [false; 2]);
    assert_eq!(scan(&table).await, expected);
    table.close().await.unwrap();
    for content in [Some(b"LSMSUM1\n nothing".as_slice()), None] {
        bucket.replace("summary.binpb", content).await.unwrap();
        let table = open(&uri).await;
        assert_eq!(loaded(&table), [true; 2], "{content:?}");
        assert_eq!(scan(&table).await, expected);
        assert_eq!((get(&table, 10).await, get(&table, 60).await, get(&table, 200).await), (Some(0), Some(1), None));
        table.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warming_loads_keys_from_indexes_on() {
    let (_bucket, uri) = Bucket::new();
    fill(&uri, [(0..100).collect(), (100..200).collect()]).await;
    for (warmth, expected) in
        [(Warmth::None, false), (Warmth::Metadata, false), (Warmth::Indexes, true), (Warmth::All, true)]
    {
        let table = open(&uri).await;
        table.warm(warmth).await.unwrap();
        assert_eq!(loaded(&table), [expected; 2], "{warmth:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_opened_again_is_written_and_flushed_as_before() {
    let (_bucket, uri) = Bucket::new();
    fill(&uri, [(0..100).collect(), (100..200).collect()]).await;
    let table = open(&uri).await;
    table.put(rows([50, 1_000], 7)).await.unwrap();
    table.flush().await.unwrap();
    // What a new generation supersedes is found out when it is flushed, where keys can be in common.
    assert!(loaded(&table)[0] && loaded(&table)[2]);
    assert_eq!(scan(&table).await, (201, 100 + 14));
    let session = SessionContext::new().with_lsm();
    session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(&table)))).unwrap();
    for sql in ["UPDATE t SET n = 9 WHERE id = 150", "DELETE FROM t WHERE id IN (3, 160)"] {
        session.sql(sql).await.unwrap().collect().await.unwrap();
        table.flush().await.unwrap();
    }
    assert_eq!(scan(&table).await, (199, 98 + 9 + 14));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_keys_are_asked_of_each_generation_together() {
    let (bucket, uri) = Bucket::new();
    fill(&uri, (0..4).map(|g| (g * 200..(g + 1) * 200).collect())).await;
    // All that is read of rows is a request.
    let table = open_with(&uri, Settings { cache_memory: Some(settings::Bytes(0)), ..quiet() }).await;
    let many = keys((0..4).flat_map(|g| g * 200 + 100..g * 200 + 150));
    assert_eq!(sums(&[table.get_many(&many).await.unwrap()]), (200, 50 * (1 + 2 + 3)));
    let mut one_by_one = 0;
    for g in 0..4 {
        bucket.reset();
        assert_eq!(sums(&[table.get_many(&keys([g * 200 + 120])).await.unwrap()]), (1, g));
        let (requests, read) = bucket.reset();
        assert!(requests.all() > 0, "{read:#?}");
        one_by_one += requests.all();
    }
    assert_eq!(sums(&[table.get_many(&many).await.unwrap()]).0, 200);
    let (requests, read) = bucket.reset();
    assert!(requests.all() >= 4 && requests.all() <= one_by_one, "{one_by_one} for one key of each: {read:#?}");
}

#[tokio::test]
async fn a_lookup_that_nobody_polls_keeps_the_keys_of_the_base_from_no_other() {
    let (bucket, uri) = Bucket::new();
    let table = open(&uri).await;
    table.replace_all(stream(schema(), vec![rows(0..1_000, 7)])).await.unwrap();
    table.close().await.unwrap();
    // As a process that has nothing in memory.
    let (bucket, uri) = bucket.fork();
    let table = open(&uri).await;
    bucket.set_delay(Duration::from_millis(1));
    let mut first = Box::pin(get(&table, 5));
    assert!(futures::poll!(&mut first).is_pending(), "the keys are read");
    assert_eq!(soon("another lookup", get(&table, 6)).await, Some(7));
    assert_eq!(soon("the first lookup", first).await, Some(7));
}

/// A summary that says of one file that it has so many bytes, with the right checksum, of the directory that `old` is of.
fn summary_of(file: &str, size: u64, old: &[u8]) -> Vec<u8> {
    let mut told = vec![0x0a, file.len() as u8];
    told.extend_from_slice(file.as_bytes());
    told.push(0x10);
    let mut left = size;
    while left >= 0x80 {
        told.push(left as u8 | 0x80);
        left >>= 7;
    }
    told.push(left as u8);
    let mut summary = b"LSMSUM1\n".to_vec();
    summary.extend([0x0a, told.len() as u8]);
    summary.extend(told);
    // The last field is the directory's name, of 14 letters.
    let directory = &old[old.len() - 20..old.len() - 4];
    assert_eq!((directory[..2].to_vec(), &directory[10..15]), (vec![0x1a, 14], b"_gen_".as_slice()));
    summary.extend(directory);
    let crc = crc32fast::hash(&summary);
    summary.extend(crc.to_le_bytes());
    summary
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_summary_that_makes_files_too_large_is_not_relied_on() {
    let (bucket, uri) = Bucket::new();
    fill(&uri, [(0..100).collect(), (50..150).collect()]).await;
    let manifest = format!("_versions/{}.manifest", u64::MAX - 1);
    for size in [1 << 40, (1 << 40) + 1, 1 << 60, u64::MAX] {
        bucket.rewrite("summary.binpb", |old| Some(summary_of(&manifest, size, &old).into())).await.unwrap();
        // As a process that has nothing in memory.
        let (_bucket, uri) = bucket.fork();
        let table = soon("opening", open(&uri)).await;
        assert_eq!(scan(&table).await, (150, 100), "{size}");
        table.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_summary_of_another_generation_is_not_relied_on() {
    let (bucket, uri) = Bucket::new();
    fill(&uri, [(0..100).collect(), (1_000..1_100).collect()]).await;
    // As a faulty copy leaves it: both have the first one's.
    let summaries = Mutex::new(Vec::new());
    let take = |old: Bytes| {
        summaries.lock().push(old.clone());
        Some(old)
    };
    bucket.rewrite("summary.binpb", take).await.unwrap();
    let summaries = summaries.into_inner();
    assert_eq!(summaries.len(), 2);
    for summary in summaries {
        bucket.rewrite("summary.binpb", |_| Some(summary.clone())).await.unwrap();
        let (_bucket, uri) = bucket.fork();
        let table = soon("opening", open(&uri)).await;
        assert_eq!(scan(&table).await, (200, 100));
        assert_eq!((get(&table, 50).await, get(&table, 1_050).await), (Some(0), Some(1)));
        table.close().await.unwrap();
    }
}
