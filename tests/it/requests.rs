//! What queries ask an object store for: nothing, once what they touch is in memory.

use datafusion::prelude::SessionContext;
use datafusion_lsm::sql::LsmSessionExt;

use crate::support::plan::{analyzed, figure};
use crate::support::remote::Bucket;
use crate::support::remote_table::{filled, queries, reopened, run};

/// Each query asks the store for nothing, and finds something.
async fn assert_no_requests(session: &SessionContext, bucket: &Bucket, when: &str) {
    for (name, sql) in queries() {
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
        for (_, sql) in queries() {
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
