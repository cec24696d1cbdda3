//! What queries ask an object store for: nothing, once what they touch is in memory.

use datafusion::prelude::SessionContext;
use datafusion_lsm::sql::LsmSessionExt;

use crate::support::remote::Bucket;

/// Dimensions: rows of a generation take more than what stays in memory as rows.
const WIDTH: usize = 512;
const ROWS: usize = 2_600;

async fn run(session: &SessionContext, sql: &str) -> usize {
    let rows = session.sql(sql).await.unwrap_or_else(|e| panic!("{}: {e}", &sql[..sql.len().min(200)]));
    rows.collect().await.unwrap().iter().map(|rows| rows.num_rows()).sum()
}

fn vector(seed: usize) -> String {
    let value = |i: usize| ((seed * 31 + i * 17) % 101).to_string();
    format!("[{}]", (0..WIDTH).map(value).collect::<Vec<_>>().join(", "))
}

/// A table with three generations and a memtable, each of which replaces rows of the one before.
async fn filled(session: &SessionContext, uri: &str) {
    let create = format!(
        "CREATE EXTERNAL TABLE t (id BIGINT PRIMARY KEY, n BIGINT, body VARCHAR, e FLOAT[{WIDTH}]) STORED AS LSM \
         LOCATION '{uri}' OPTIONS ('lsm.index.e' 'vector(l2)', 'lsm.index.body' 'fts', 'lsm.index.n' 'btree', \
         'lsm.base.refresh' '1h')"
    );
    run(session, &create).await;
    for generation in 0..4 {
        let vectors = format!("(array_repeat(CAST((i * 7 + {generation}) % 97 AS FLOAT), {WIDTH}))");
        let first = generation * ROWS / 2;
        let rows = if generation == 3 { 100 } else { ROWS };
        let insert = format!(
            "INSERT INTO t SELECT i, i % 50, concat('word', i % 30, ' log'), {vectors} \
             FROM (SELECT value AS i FROM generate_series({first}, {}))",
            first + rows - 1
        );
        run(session, &insert).await;
        if generation < 3 {
            run(session, "SELECT * FROM lsm_flush('t')").await;
        }
    }
}

/// The same table in another session that has nothing of it in memory, as in another process.
async fn reopened(session: &SessionContext, uri: &str, options: &str) -> SessionContext {
    run(session, "DROP TABLE t").await;
    let other = SessionContext::new().with_lsm();
    let storage = format!("'unused' '{}'", uuid::Uuid::new_v4());
    let create = format!(
        "CREATE EXTERNAL TABLE t STORED AS LSM LOCATION '{uri}' OPTIONS ({storage}, 'lsm.base.refresh' '0' {options})"
    );
    run(&other, &create).await;
    other
}

/// The queries, each by its name.
fn queries() -> Vec<(&'static str, String)> {
    let near = format!("SELECT id FROM t ORDER BY l2_distance(e, {}) LIMIT 10", vector(3));
    vec![
        ("scan", "SELECT id, n, body FROM t".to_string()),
        ("point", "SELECT * FROM t WHERE id = 17".to_string()),
        ("value", "SELECT id FROM t WHERE n = 7".to_string()),
        ("text", "SELECT id, score(body, 'word7 log') AS s FROM t ORDER BY s DESC LIMIT 10".to_string()),
        ("match", "SELECT id, body FROM t WHERE text_match(body, 'word3')".to_string()),
        ("vector", near),
    ]
}

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
    let other = reopened(&session, &uri, "").await;
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
async fn opening_reads_one_object_of_each_generation() {
    let (bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let all = run(&session, "SELECT id FROM t").await;
    // Opens the table where nothing of it is in memory; what is read of generations by that and by opening their indexes.
    let open = async |session: &SessionContext| {
        bucket.reset();
        let other = reopened(session, &uri, "").await;
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
    bucket.replace("summary.binpb", Some(b"LSMSUM1\n nothing")).await;
    let (other, read) = open(&other).await;
    assert!(read.len() > 9, "{read:#?}");
    bucket.replace("summary.binpb", None).await;
    let (_, read) = open(&other).await;
    assert!(read.len() > 9, "{read:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_warmed_asks_the_store_for_nothing() {
    let (bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let other = reopened(&session, &uri, "").await;
    bucket.reset();
    run(&other, "SELECT * FROM lsm_warm('t', 'indexes')").await;
    assert!(bucket.reset().0.all() > 0, "there was something to read");
    run(&other, "SELECT * FROM lsm_warm('t', 'all')").await;
    assert_no_requests(&other, &bucket, "after everything was read").await;
}
