//! What is prepared for queries before it is committed or taken over: whatever becomes of that, the commit or the takeover
//! is not kept waiting, and much is prepared at a time, but not all.

use std::collections::BTreeSet;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::physical_plan::collect;
use datafusion_lsm::block_list::{BlockLists, SourceId};
use datafusion_lsm::error::{Error, Result};
use datafusion_lsm::events::EventListener;
use datafusion_lsm::generation::Generation;
use datafusion_lsm::ids::{GenerationId, ShardId};
use datafusion_lsm::settings::{Access, Bytes, Settings, Warmth};
use datafusion_lsm::table::{Components, LsmTable};
use datafusion_lsm::version::{GenerationWarmer, NoWarmer, VersionControl};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use tokio::sync::Barrier;
use tokio::time::Instant;

use crate::support::key_type::KeyType;
use crate::support::place::{numbers, of_a_process, quiet};
use crate::support::remote::{Bucket, Weather};
use crate::support::rows::{collected, numbered, schema, spec, stream};
use crate::support::{polled_until, soon, until};

const KEY: KeyType = KeyType::Int64;
/// How long it is waited for what is prepared.
const WAITED: Duration = Duration::from_secs(10);

fn rows(keys: Range<u32>) -> RecordBatch {
    numbered(KEY, &keys.map(|key| (key, i64::from(key))).collect::<Vec<_>>())
}

/// Opens the table at `uri`; it is created if it is not there.
async fn open(uri: &str, settings: Settings, components: Components) -> Arc<LsmTable> {
    let builder = LsmTable::builder(uri).settings(settings).components(components).create(spec(KEY, 1));
    builder.open().await.unwrap()
}

async fn keys(table: &LsmTable) -> Vec<u32> {
    let plan = table.scan(&table.snapshot(), None, &[], None).unwrap();
    let rows = collect(plan, Arc::default()).await.unwrap();
    numbers(&collected(KEY, &rows)).into_iter().map(|(key, _)| key).collect()
}

/// What `work` comes to, and how long that takes from when something `hangs`. Nobody waits for time to pass then.
async fn in_time<T>(hangs: impl FnMut() -> bool, work: impl Future<Output = T>) -> (T, Duration) {
    let mut work = pin!(work);
    tokio::select! {
        done = &mut work => return (done, Duration::ZERO),
        () = until("something that hangs", hangs) => {}
    }
    tokio::time::pause();
    let since = Instant::now();
    let done = tokio::time::timeout(10 * WAITED, work).await.expect("it waits for what hangs");
    let took = since.elapsed();
    tokio::time::resume();
    (done, took)
}

/// Changes the weather when the first generation is written.
#[derive(Debug)]
struct WhenWritten(Arc<Bucket>, Weather);

impl EventListener for WhenWritten {
    fn on_flush_written(&self, _: ShardId, generation: GenerationId) {
        if generation == GenerationId(1) {
            self.0.set_weather(self.1);
        }
    }
}

#[tokio::test]
async fn a_generation_that_cannot_be_opened_or_summarised_is_committed_in_time() {
    // Without a cache all that is opened is read.
    for (stuck, cache_memory) in [("_gen_", Some(Bytes(0))), ("summary.binpb", None)] {
        let (bucket, uri) = Bucket::new();
        let events = Arc::new(WhenWritten(Arc::clone(&bucket), Weather::Stuck(stuck)));
        let components = Components { events, ..of_a_process() };
        let table = open(&uri, Settings { cache_memory, memtable_rows: 10, ..quiet() }, components).await;
        table.put(rows(0..11)).await.unwrap();
        let committed = async {
            while table.wal().await.unwrap()[0].current_generation < 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let ((), took) = in_time(|| bucket.hanging() > 0, committed).await;
        assert!(took > WAITED / 2, "{stuck}: nothing hung");
        assert_eq!(keys(&table).await.len(), 11, "{stuck}");
        bucket.set_weather(Weather::Fine);
        table.flush().await.unwrap();
        assert!(table.sources().iter().any(|source| source.kind == "generation"), "{stuck}");
        assert_eq!(keys(&table).await.len(), 11, "{stuck}");
        let other = open(&uri, quiet(), of_a_process()).await;
        assert_eq!(keys(&other).await.len(), 11, "{stuck}");
        bucket.remove();
    }
}

#[tokio::test]
async fn a_version_of_the_base_that_cannot_be_prepared_is_taken_over_in_time() {
    for warm in [Warmth::None, Warmth::All] {
        let (bucket, uri) = Bucket::new();
        let writer = open(&uri, quiet(), of_a_process()).await;
        let settings = Settings { access: Access::Read, warm, cache_memory: Some(Bytes::mib(64)), ..quiet() };
        let reader = open(&uri, settings, of_a_process()).await;
        let files = async || {
            let dir = Path::from("table/data");
            let files: Vec<ObjectMeta> = bucket.objects().list(Some(&dir)).try_collect().await.unwrap();
            files.into_iter().map(|file| (file.location.to_string(), file.size)).collect::<BTreeSet<_>>()
        };
        let before = files().await;
        writer.replace_all(stream(schema(KEY), vec![rows(0..1_000)])).await.unwrap();
        let size: u64 = files().await.difference(&before).map(|(_, size)| size).sum();
        assert!(size > 0);

        bucket.reset();
        bucket.set_weather(Weather::Stuck("table/data/"));
        let (refreshed, took) = in_time(|| bucket.hanging() > 0, reader.refresh()).await;
        refreshed.unwrap();
        assert!(took > WAITED / 2, "{warm:?}: nothing hung");
        let version = |table: &LsmTable| table.snapshot().version().base.version();
        assert_eq!(version(&reader), version(&writer), "{warm:?}");
        bucket.set_weather(Weather::Fine);
        if warm == Warmth::All {
            // Nobody asked for a row.
            until("the files of the base are read", || bucket.bytes_read() >= size).await;
        }
        assert_eq!(keys(&reader).await.len(), 1_000, "{warm:?}");
        bucket.remove();
    }
}

#[tokio::test]
async fn a_version_of_the_base_is_taken_over_for_others_though_nobody_polls_who_looked_first() {
    let (bucket, uri) = Bucket::new();
    let writer = open(&uri, quiet(), of_a_process()).await;
    // What the writer wrote is not in its memory.
    let settings = Settings { access: Access::Read, cache_memory: Some(Bytes::mib(64)), ..quiet() };
    let reader = open(&uri, settings, of_a_process()).await;
    writer.replace_all(stream(schema(KEY), vec![rows(0..100)])).await.unwrap();
    bucket.set_weather(Weather::Stuck("table/data/"));
    let mut first = Box::pin(reader.refresh());
    polled_until("a read of the base", first.as_mut(), || bucket.hanging() > 0).await;
    bucket.set_weather(Weather::Fine);
    soon("another look", reader.refresh()).await.unwrap();
    let version = |table: &LsmTable| table.snapshot().version().base.version();
    assert_eq!(version(&reader), version(&writer));
    soon("the first look", first).await.unwrap();
    assert_eq!(keys(&reader).await.len(), 100);
    bucket.remove();
}

#[tokio::test]
async fn while_a_version_of_the_base_is_prepared_the_keys_of_the_one_before_stay() {
    let (bucket, uri) = Bucket::new();
    let table = open(&uri, quiet(), of_a_process()).await;
    let lists = BlockLists::new(1 << 30);
    let mut versions = Vec::new();
    for n in 1..4 {
        table.replace_all(stream(schema(KEY), vec![rows(0..n * 100)])).await.unwrap();
        versions.push(Arc::clone(&table.snapshot().version().base));
    }
    let keys = async |n: usize| lists.base_keys(&versions[n]).await.unwrap();
    let (first, second) = (keys(0).await, keys(1).await);
    assert!(Arc::ptr_eq(&first, &keys(0).await) && Arc::ptr_eq(&second, &keys(1).await));
    assert_eq!((first.len(), second.len()), (100, 200));
    // Of more the newest stay.
    let third = keys(2).await;
    assert!(Arc::ptr_eq(&second, &keys(1).await) && !Arc::ptr_eq(&first, &keys(0).await));
    lists.retain(&[SourceId::Base(versions[2].version())].into());
    assert!(Arc::ptr_eq(&third, &keys(2).await) && !Arc::ptr_eq(&second, &keys(1).await));
    lists.retain(&[SourceId::Base(versions[0].version())].into());
    assert!(Arc::ptr_eq(&third, &keys(2).await), "one that queries do not see yet");
    bucket.remove();
}

#[tokio::test]
async fn a_base_that_a_table_writes_itself_is_read_ahead_as_those_of_others_are() {
    let (bucket, uri) = Bucket::new();
    let table = open(&uri, quiet(), of_a_process()).await;
    table.replace_all(stream(schema(KEY), vec![rows(0..10)])).await.unwrap();
    table.close().await.unwrap();
    let settings = Settings { warm: Warmth::All, cache_memory: Some(Bytes::mib(64)), ..quiet() };
    let table = open(&uri, settings, of_a_process()).await;
    let keys = || {
        let held = table.metrics().into_iter().find(|metric| metric.name == "lsm.block_list.base_keys");
        held.unwrap().value
    };
    // The last of what is read when it is opened; nobody asks for a row.
    until("the keys of the base", || keys() > 0).await;
    let before = keys();
    assert!(before < 8 * 1_000, "{before}");
    table.replace_all(stream(schema(KEY), vec![rows(0..1_000)])).await.unwrap();
    until("the keys of the next", || keys() >= 8 * 1_000).await;
    table.close().await.unwrap();
    bucket.remove();
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Fails,
    Panics,
    Hangs,
}

/// A warmer that is in trouble.
#[derive(Debug)]
struct Troubled {
    trouble: Trouble,
    asked: AtomicU64,
}

impl Troubled {
    fn new(trouble: Trouble) -> Arc<Self> {
        Arc::new(Self { trouble, asked: AtomicU64::new(0) })
    }

    fn components(self: &Arc<Self>) -> Components {
        Components { warmer: Arc::clone(self) as _, ..of_a_process() }
    }

    fn was_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst) > 0
    }

    fn hangs(&self) -> bool {
        self.trouble == Trouble::Hangs && self.was_asked()
    }
}

#[async_trait]
impl GenerationWarmer for Troubled {
    async fn warm(&self, _: ShardId, _: &Arc<Generation>, _: &Arc<VersionControl>) -> Result<()> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match self.trouble {
            Trouble::Fails => Err(Error::unavailable("this warmer fails")),
            Trouble::Panics => panic!("this warmer panics"),
            Trouble::Hangs => std::future::pending().await,
        }
    }
}

#[tokio::test]
async fn a_warmer_that_fails_panics_or_hangs_keeps_nothing_from_being_committed_or_read() {
    for trouble in [Trouble::Fails, Trouble::Panics, Trouble::Hangs] {
        let (bucket, uri) = Bucket::new();
        let (writing, reading) = (Troubled::new(trouble), Troubled::new(trouble));
        let settings = Settings { write_timeout: Duration::from_secs(3600), ..quiet() };
        let writer = open(&uri, settings, writing.components()).await;
        let reader = open(&uri, Settings { access: Access::Read, ..quiet() }, reading.components()).await;
        writer.put(rows(0..10)).await.unwrap();
        let (flushed, took) = in_time(|| writing.hangs(), writer.flush()).await;
        flushed.unwrap();
        assert!(writing.was_asked() && (took > WAITED / 2) == (trouble == Trouble::Hangs), "{trouble:?}: {took:?}");
        let (refreshed, took) = in_time(|| reading.hangs(), reader.refresh()).await;
        refreshed.unwrap();
        assert!(reading.was_asked() && (took > WAITED / 2) == (trouble == Trouble::Hangs), "{trouble:?}: {took:?}");
        for table in [&writer, &reader] {
            assert!(table.sources().iter().any(|source| source.kind == "generation"), "{trouble:?}");
            assert_eq!(keys(table).await.len(), 10, "{trouble:?}");
        }
        bucket.remove();
    }
}

#[tokio::test]
async fn without_a_warmer_generations_are_opened_and_read() {
    let (bucket, uri) = Bucket::new();
    let components = || Components { warmer: Arc::new(NoWarmer), ..of_a_process() };
    let writer = open(&uri, quiet(), components()).await;
    for n in 0..3 {
        writer.put(rows(n * 5..n * 5 + 10)).await.unwrap();
        writer.flush().await.unwrap();
    }
    let reader = open(&uri, quiet(), components()).await;
    assert_eq!(keys(&writer).await, (0..20).collect::<Vec<_>>());
    assert_eq!(keys(&reader).await, (0..20).collect::<Vec<_>>());
    bucket.remove();
}

/// Generations that are opened at a time, and prepared at a time, at most.
const OPENED: usize = 32;
const PREPARED: u64 = 8;
/// Generations that are prepared at a time at least.
const TOGETHER: usize = 4;

/// A warmer that is asked for several generations at a time, or does not go on.
#[derive(Debug)]
struct Together {
    barrier: Barrier,
    asked: AtomicU64,
    most: AtomicU64,
}

#[async_trait]
impl GenerationWarmer for Together {
    async fn warm(&self, _: ShardId, _: &Arc<Generation>, _: &Arc<VersionControl>) -> Result<()> {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(asked, Ordering::SeqCst);
        self.barrier.wait().await;
        self.asked.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_generations_are_opened_and_prepared_at_a_time_and_not_all() {
    let (bucket, uri) = Bucket::new();
    let writer = open(&uri, quiet(), of_a_process()).await;
    let generations = OPENED as u32 + TOGETHER as u32;
    for n in 0..generations {
        writer.put(rows(n * 2..n * 2 + 2)).await.unwrap();
        writer.flush().await.unwrap();
    }
    // Requests that are made together are under way together.
    bucket.set_delay(Duration::from_millis(5));
    bucket.count_under_way("_gen_");
    let (asked, most) = (AtomicU64::new(0), AtomicU64::new(0));
    let warmer = Arc::new(Together { barrier: Barrier::new(TOGETHER), asked, most });
    let components = Components { warmer: Arc::clone(&warmer) as _, ..of_a_process() };
    let settings = Settings { access: Access::Read, cache_memory: Some(Bytes::mib(64)), ..quiet() };
    let table = open(&uri, settings, components).await;
    let opened = bucket.most_under_way();
    assert!((2..=OPENED).contains(&opened), "{opened} generations were opened at a time");

    let warmed = soon("the end of warming", table.warm(Warmth::Indexes)).await.unwrap();
    assert_eq!(warmed.sources, generations as usize + 1);
    let prepared = warmer.most.load(Ordering::SeqCst);
    assert!((TOGETHER as u64..=PREPARED).contains(&prepared), "{prepared} generations were prepared at a time");
    assert_eq!(keys(&table).await.len(), generations as usize * 2);
    bucket.remove();
}
