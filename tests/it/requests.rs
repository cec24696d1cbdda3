//! What queries ask an object store for: nothing, once what they touch is in memory.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::prelude::SessionContext;
use datafusion_lsm::cache::{BlockCache, BlockId, FileName};
use datafusion_lsm::sql::{LsmEngine, LsmSessionExt};
use datafusion_lsm::table::Components;
use parking_lot::Mutex;
use tracing::Subscriber;
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

use crate::support::plan::{analyzed, figure};
use crate::support::remote::Bucket;
use crate::support::remote_table::{all_queries, filled, filled_by, queries, reopened, reopened_in, run};
use crate::support::until;

/// Rows of generations of all sizes: those of the small ones stay in memory, the large ones have indexes.
const SIZES: [usize; 12] = [60, 400, 26, 1_700, 130, 1, 700, 90, 300, 46, 1_200, 210];

/// Each query asks the store for nothing, and finds something.
async fn assert_no_requests(session: &SessionContext, bucket: &Bucket, when: &str) {
    for (name, sql) in all_queries() {
        bucket.reset();
        let rows = run(session, &sql).await;
        assert!(rows > 0, "{name} {when}");
        let (requests, read) = bucket.reset();
        assert_eq!(requests.all(), 0, "{name} {when}: {read:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_query_asks_the_store_for_nothing() {
    let (bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    // Another process has nothing in memory; rows that stay there are read as such from the second scan on.
    let other = reopened(&session, &uri).await;
    for _ in 0..3 {
        for (_, sql) in all_queries() {
            run(&other, &sql).await;
        }
    }
    assert_no_requests(&other, &bucket, "again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_query_after_a_flush_asks_the_store_for_nothing() {
    let (bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    assert_no_requests(&session, &bucket, "after a flush").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_tells_what_was_asked_of_the_store_and_what_was_in_memory() {
    let (bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let session = reopened(&session, &uri).await;
    let searches: Vec<String> = queries().into_iter().filter(|(name, _)| *name != "scan").map(|(_, sql)| sql).collect();
    let (vector, text) = (&searches[4], &searches[2]);
    let mut asked = 0;
    for (sql, node) in [(vector, "VectorTopKExec"), (text, "TextTopKExec")] {
        let of_sources = |plan: &str, name: &str| -> usize {
            // Words are counted before rows are ranked.
            let is_one =
                |line: &&str| line.contains(node) && line.contains("source=generation") || line.contains("PrepareExec");
            plan.lines().filter(is_one).map(|line| figure(line, "Exec", name)).sum()
        };
        bucket.reset();
        let plan = analyzed(&session, sql).await;
        let (requests, read) = bucket.reset();
        assert_eq!(of_sources(&plan, "store_requests"), requests.all() as usize, "{read:#?}\n{plan}");
        asked += requests.all();
        let again = analyzed(&session, sql).await;
        assert_eq!((of_sources(&again, "store_requests"), of_sources(&again, "store_bytes")), (0, 0), "{again}");
        assert!(of_sources(&again, "cache_hits") > 0, "{again}");
    }
    assert!(asked > 0, "not all was in memory");
    // A scan finds what was read for the keys of these small files.
    let session = reopened(&session, &uri).await;
    let scan = queries().into_iter().find(|(name, _)| *name == "scan").unwrap().1;
    let plan = analyzed(&session, &scan).await;
    let scans =
        plan.lines().filter(|line| line.contains("DatasetScanExec")).map(|line| figure(line, "Exec", "cache_hits"));
    assert!(scans.sum::<usize>() > 0, "{plan}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_tells_what_a_lookup_asked_of_the_store() {
    let (bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let session = reopened(&session, &uri).await;
    // Amid vectors, of which nothing was read for the keys.
    let point = "SELECT * FROM t WHERE id = 600";
    let of = |plan: &str, name: &str| figure(plan, "FirstMatchExec", name);
    bucket.reset();
    let plan = analyzed(&session, point).await;
    let (requests, read) = bucket.reset();
    assert!(requests.all() > 0, "not all was in memory");
    assert_eq!(of(&plan, "store_requests"), requests.all() as usize, "{read:#?}\n{plan}");
    let again = analyzed(&session, point).await;
    assert_eq!((of(&again, "store_requests"), of(&again, "store_bytes")), (0, 0), "{again}");
    assert!(of(&again, "cache_hits") > 0, "{again}");
    // What is in a memtable is no matter of the store.
    let fresh = analyzed(&session, "SELECT * FROM t WHERE id = 2555").await;
    assert!(fresh.contains("FirstMatchExec") && !fresh.contains("store_requests"), "{fresh}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_reads_one_object_of_each_generation() {
    let (bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let all = run(&session, "SELECT id FROM t").await;
    // Opens the table where nothing of it is in memory; what is read of generations by that and by opening their indexes.
    let open = async |session: &SessionContext| {
        bucket.reset();
        let other = reopened(session, &uri).await;
        run(&other, "SELECT * FROM lsm_warm('t', 'indexes')").await;
        let (_, mut read) = bucket.reset();
        read.retain(|what| what.contains("_gen_"));
        assert_eq!(run(&other, "SELECT id FROM t").await, all);
        (other, read)
    };
    let (other, read) = open(&session).await;
    assert_eq!(read.len(), 3, "{read:#?}");
    assert!(read.iter().all(|what| what.starts_with("GET") && what.contains("summary.binpb")), "{read:#?}");
    // One that is damaged or missing is not relied on.
    bucket.replace("summary.binpb", Some(b"LSMSUM1\n nothing")).await.unwrap();
    let (other, read) = open(&other).await;
    assert!(read.len() > 9, "{read:#?}");
    bucket.replace("summary.binpb", None).await.unwrap();
    let (_, read) = open(&other).await;
    assert!(read.len() > 9, "{read:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_warmed_asks_the_store_for_nothing() {
    let (bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let other = reopened(&session, &uri).await;
    bucket.reset();
    run(&other, "SELECT * FROM lsm_warm('t', 'all')").await;
    assert!(bucket.reset().0.all() > 0, "there was something to read");
    assert_no_requests(&other, &bucket, "after everything was read").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generations_of_any_number_and_size_are_asked_for_once() {
    let (bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    filled_by(&session, &uri, &SIZES).await;
    assert_no_requests(&session, &bucket, "after flushes").await;
    let other = reopened(&session, &uri).await;
    for _ in 0..3 {
        for (_, sql) in all_queries() {
            run(&other, &sql).await;
        }
    }
    assert_no_requests(&other, &bucket, "again").await;
    let warmed = reopened(&other, &uri).await;
    run(&warmed, "SELECT * FROM lsm_warm('t', 'all')").await;
    assert_no_requests(&warmed, &bucket, "after everything was read").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_with_room_for_all_files_is_warmed_with_all_of_them() {
    let (bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    let generations = [100, 100, 100, 1_700, 100, 100, 100, 100];
    filled_by(&session, &uri, &generations).await;
    let sizes = bucket.sizes("_gen_").await.unwrap();
    let capacity = sizes.iter().sum::<u64>() / 4 * 5;
    assert!(*sizes.iter().max().unwrap() > capacity / generations.len() as u64, "one has more than its share");
    let options = format!(", 'lsm.cache.memory' '{capacity}'");
    let other = reopened_in(&session, SessionContext::new().with_lsm(), &uri, &options).await;
    run(&other, "SELECT * FROM lsm_warm('t', 'all')").await;
    assert_no_requests(&other, &bucket, "after everything was read").await;
}

/// How often reading ahead began, and ended.
#[derive(Debug, Clone, Default)]
struct Warming(Arc<[AtomicU64; 2]>);

impl Warming {
    fn get(&self) -> [u64; 2] {
        [0, 1].map(|at| self.0[at].load(Ordering::SeqCst))
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Warming {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        if attributes.metadata().name() == "lsm.warm" {
            self.0[0].fetch_add(1, Ordering::SeqCst);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        if context.span(&id).is_some_and(|span| span.name() == "lsm.warm") {
            self.0[1].fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[tokio::test]
async fn a_table_reads_ahead_of_queries_what_its_option_says() {
    let (bucket, uri) = Bucket::new();
    let mut session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    // Else what indexes need to be opened comes with it.
    bucket.replace("summary.binpb", None).await.unwrap();
    // What is read of indexes until the table is warm, and by the first queries; and all that these ask for.
    let (mut ahead, mut behind, mut asked) = (Vec::new(), Vec::new(), Vec::new());
    let of_indexes = |read: &[String]| read.iter().filter(|what| what.contains("/_indices/")).count();
    for word in ["none", "metadata", "indexes", "all"] {
        let warming = Warming::default();
        // Of this thread, which runs all tasks of the test.
        let _subscriber = tracing::subscriber::set_default(Registry::default().with(warming.clone()));
        bucket.reset();
        let option = format!(", 'lsm.warm' '{word}'");
        session = reopened_in(&session, SessionContext::new().with_lsm(), &uri, &option).await;
        if word == "none" {
            for _ in 0..1_000 {
                tokio::task::yield_now().await;
            }
            assert_eq!(warming.get(), [0, 0]);
        } else {
            until("the end of reading ahead", || warming.get() == [1, 1]).await;
        }
        ahead.push(of_indexes(&bucket.reset().1));
        if word != "none" {
            run(&session, &format!("SELECT * FROM lsm_warm('t', '{word}')")).await;
            // The files of an index of Lance's are listed again: it has not noted them.
            let (requests, read) = bucket.reset();
            assert_eq!(requests.gets + requests.heads, 0, "{word} again: {read:#?}");
            assert!(requests.lists <= 1, "{word} again: {read:#?}");
        }
        for (name, sql) in queries() {
            assert!(run(&session, &sql).await > 0, "{name} after {word}");
        }
        let (requests, read) = bucket.reset();
        behind.push(of_indexes(&read));
        asked.push(requests.all());
    }
    let told = format!("{ahead:?} {behind:?} {asked:?}");
    assert_eq!((ahead[0], ahead[1]), (0, 0), "{told}");
    assert!(ahead[2] > 0 && ahead[3] > 0, "{told}");
    assert!(behind[0] > behind[2] && behind[1] > behind[2] && behind[3] == 0, "{told}");
    assert!(asked[0] > 0 && asked[1] > 0 && asked[2] > 0 && asked[3] == 0, "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_query_asks_for_nothing_after_another_process_changed_the_base() {
    let (bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let process = || SessionContext::new().with_lsm_engine(LsmEngine::new());
    let writer = reopened_in(&session, process(), &uri, "").await;
    let reader = process();
    let open = format!(
        "CREATE EXTERNAL TABLE t STORED AS LSM LOCATION '{uri}' \
         OPTIONS ('unused' '{}', 'lsm.base.refresh' '0')",
        uuid::Uuid::new_v4()
    );
    run(&reader, &open).await;
    let repeat = async || {
        for _ in 0..3 {
            for (_, sql) in all_queries() {
                run(&reader, &sql).await;
            }
        }
    };
    repeat().await;
    assert_no_requests(&reader, &bucket, "before").await;
    for rows in [2_000, 1_800] {
        run(&writer, &format!("INSERT OVERWRITE t SELECT * FROM t WHERE id < {rows}")).await;
        run(&reader, "SELECT * FROM lsm_refresh('t')").await;
        assert_eq!(run(&reader, "SELECT id FROM t").await, rows);
        repeat().await;
        assert_no_requests(&reader, &bucket, &format!("with {rows} rows in the base")).await;
    }
}

/// Keeps whatever it gets.
#[derive(Debug, Default)]
struct Own {
    blocks: Mutex<HashMap<BlockId, Bytes>>,
    found: AtomicU64,
}

#[async_trait]
impl BlockCache for Own {
    async fn get(&self, block: &BlockId) -> Option<Bytes> {
        let found = self.blocks.lock().get(block).cloned();
        self.found.fetch_add(u64::from(found.is_some()), Ordering::Relaxed);
        found
    }

    async fn insert(&self, block: BlockId, bytes: Bytes) {
        self.blocks.lock().insert(block, bytes);
    }

    async fn remove(&self, file: &FileName, blocks: Range<u64>) {
        self.blocks.lock().retain(|block, _| block.file != *file || !blocks.contains(&block.number));
    }

    fn bytes(&self) -> u64 {
        self.blocks.lock().values().map(|bytes| bytes.len() as u64).sum()
    }

    fn capacity(&self) -> u64 {
        u64::MAX
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_keeps_blocks_in_a_cache_that_it_is_given() {
    let (bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let own = Arc::new(Own::default());
    let components = Components { block_cache: Some(Arc::clone(&own) as Arc<dyn BlockCache>), ..Components::default() };
    let engine = LsmEngine::with_components(move |_| components.clone());
    let other = reopened_in(&session, SessionContext::new().with_lsm_engine(engine), &uri, "").await;
    run(&other, "SELECT * FROM lsm_warm('t', 'all')").await;
    assert_no_requests(&other, &bucket, "after everything was read").await;
    let told = format!("SELECT * FROM lsm_metrics('t') WHERE name = 'lsm.cache.bytes' AND value = {}", own.bytes());
    assert_eq!(run(&other, &told).await, 1);
    assert!(own.bytes() > 0 && own.found.load(Ordering::Relaxed) > 0);
    // Nothing else keeps them.
    own.blocks.lock().clear();
    bucket.reset();
    for (_, sql) in all_queries() {
        run(&other, &sql).await;
    }
    assert!(bucket.reset().0.all() > 0);
    assert!(own.bytes() > 0);
}
