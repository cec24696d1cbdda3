//! A table in an object store: what queries take right after a flush, when they are asked again, and when the table was
//! just opened.
//!
//! `cargo run --example object_store` has a store in this process that takes 10 ms for every request.
//! `cargo run --features aws --example object_store -- s3://bucket/new/path` has one of yours, reached as the
//! environment says (`AWS_REGION`, `AWS_ENDPOINT`, …). The table stays there.
#![allow(clippy::disallowed_methods, reason = "it tells how long things take")]
#![allow(clippy::print_stdout, reason = "an example shows what it gets")]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::UInt64Type;
use datafusion::prelude::SessionContext;
use datafusion_lsm::sql::{LsmEngine, LsmSessionExt};
use datafusion_lsm::store::registry;
use lance_io::object_store::{ObjectStore as LanceStore, ObjectStoreParams, ObjectStoreProvider};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use url::Url;
use uuid::Uuid;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A scheme that Lance commits to by conditional puts, and no store of this build has.
const SCHEME: &str = "tos";
const LATENCY: Duration = Duration::from_millis(10);
/// Generations of the table.
const GENERATIONS: usize = 4;
/// Rows of each, and dimensions of their vectors: more than what stays in memory as rows.
const ROWS: usize = 2_000;
const WIDTH: usize = 768;

/// A store in this process that takes its time.
#[derive(Debug)]
struct Far(Arc<ThrottledStore<InMemory>>);

impl Far {
    fn new() -> Self {
        let config = ThrottleConfig {
            wait_get_per_call: LATENCY,
            wait_put_per_call: LATENCY,
            wait_list_per_call: LATENCY,
            wait_list_with_delimiter_per_call: LATENCY,
            wait_delete_per_call: LATENCY,
            ..ThrottleConfig::default()
        };
        Self(Arc::new(ThrottledStore::new(InMemory::new(), config)))
    }
}

#[async_trait]
impl ObjectStoreProvider for Far {
    async fn new_store(&self, url: Url, _: &ObjectStoreParams) -> lance_core::Result<LanceStore> {
        Ok(LanceStore::new(Arc::clone(&self.0) as _, url, None, None, false, true, 64, 3, None))
    }

    fn extract_path(&self, url: &Url) -> lance_core::Result<Path> {
        Ok(Path::from(url.path().trim_start_matches('/')))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let location = match std::env::args().nth(1) {
        Some(location) => location,
        None => {
            registry().insert(SCHEME, Arc::new(Far::new()));
            format!("{SCHEME}://bucket/docs")
        }
    };
    println!("{location}");

    let session = SessionContext::new().with_lsm_engine(LsmEngine::new());
    let create = format!(
        "CREATE EXTERNAL TABLE docs (id BIGINT PRIMARY KEY, body VARCHAR, embedding FLOAT[{WIDTH}]) STORED AS LSM \
         LOCATION '{location}' OPTIONS ('lsm.index.body' 'fts', 'lsm.index.embedding' 'vector(l2)')"
    );
    run(&session, &create).await?;
    let start = Instant::now();
    for generation in 0..GENERATIONS {
        // Each replaces half of the rows of the one before.
        insert(&session, generation * ROWS / 2).await?;
        run(&session, "SELECT * FROM lsm_flush('docs')").await?;
    }
    println!("{GENERATIONS} generations of {ROWS} rows written in {:.1} s", start.elapsed().as_secs_f64());

    measure(&session, "asked for the first time").await?;
    insert(&session, GENERATIONS * ROWS / 2).await?;
    run(&session, "SELECT * FROM lsm_flush('docs')").await?;
    let flushed = measure(&session, "the first queries after another flush").await?;
    let again = measure(&session, "asked again").await?;

    let opened = another_process(&session, &location).await?;
    measure(&opened, "in a process that has just opened the table").await?;
    let warm = another_process(&opened, &location).await?;
    run(&warm, "SELECT * FROM lsm_warm('docs', 'all')").await?;
    let warmed = measure(&warm, "in one that has opened and warmed it").await?;

    let rows = (GENERATIONS + 2) * ROWS / 2;
    let found = run(&warm, "SELECT id, body, embedding FROM docs").await?;
    if found != rows {
        return Err(format!("{found} rows of {rows}").into());
    }
    match flushed + again + warmed {
        0 => Ok(()),
        requests => Err(format!("{requests} requests for what should be in memory").into()),
    }
}

/// The table in a session that finds nothing of it in memory: it reaches the store with options of its own.
async fn another_process(session: &SessionContext, location: &str) -> Result<SessionContext> {
    run(session, "DROP TABLE docs").await?;
    let other = SessionContext::new().with_lsm_engine(LsmEngine::new());
    let opened = Instant::now();
    let process = Uuid::new_v4();
    let create =
        format!("CREATE EXTERNAL TABLE docs STORED AS LSM LOCATION '{location}' OPTIONS ('process' '{process}')");
    run(&other, &create).await?;
    println!("opened in {:.0} ms", opened.elapsed().as_secs_f64() * 1e3);
    Ok(other)
}

async fn insert(session: &SessionContext, first: usize) -> Result<()> {
    let last = first + ROWS - 1;
    run(
        session,
        &format!(
            "INSERT INTO docs SELECT i, concat('word', i % 100, ' log'), array_repeat(CAST(i % 97 AS FLOAT), {WIDTH}) \
             FROM (SELECT value AS i FROM generate_series({first}, {last}))"
        ),
    )
    .await?;
    Ok(())
}

/// Asks one query after the other, prints what each took, and returns how many requests all of them made.
async fn measure(session: &SessionContext, when: &str) -> Result<u64> {
    let vector = format!("array_repeat(CAST(17 AS FLOAT), {WIDTH})");
    let queries = [
        ("text", "SELECT id, body FROM text_search('docs', 'body', 'word7 log', k => 10)".to_string()),
        ("vector", format!("SELECT id, body FROM docs ORDER BY l2_distance(embedding, {vector}) LIMIT 10")),
        ("key", "SELECT body FROM docs WHERE id = 1234".to_string()),
        ("scan", "SELECT count(*), max(body) FROM docs".to_string()),
    ];
    println!("{when}");
    let mut all = 0;
    for (name, sql) in queries {
        let (before, start) = (requests(session).await?, Instant::now());
        let rows = run(session, &sql).await?;
        let took = start.elapsed().as_secs_f64() * 1e3;
        let made = requests(session).await? - before;
        println!("  {name:<8} {rows:>3} rows {took:>8.1} ms {made:>4} requests");
        all += made;
    }
    Ok(all)
}

/// How many requests the table has made to read what never changes. `EXPLAIN ANALYZE` tells them for each part of a
/// query.
async fn requests(session: &SessionContext) -> Result<u64> {
    let sql = "SELECT value FROM lsm_metrics('docs') WHERE name = 'lsm.cache.requests'";
    let batches = session.sql(sql).await?.collect().await?;
    let batch = batches.iter().find(|batch| batch.num_rows() > 0).ok_or("the figure is not told")?;
    Ok(batch.column(0).as_primitive::<UInt64Type>().value(0))
}

/// How many rows a statement returns.
async fn run(session: &SessionContext, sql: &str) -> Result<usize> {
    Ok(session.sql(sql).await?.collect().await?.iter().map(|batch| batch.num_rows()).sum())
}
