//! Another table, or a plain dataset, at the location of one whose files are in memory: nobody gets rows of both.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch, RecordBatchIterator};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use datafusion::prelude::SessionContext;
use datafusion_lsm::cache::ReadBudget;
use datafusion_lsm::error::{Error, ErrorKind, Result};
use datafusion_lsm::sql::{LsmEngine, LsmSessionExt};
use datafusion_lsm::store::registry;
use lance::Dataset;
use lance::dataset::WriteParams;
use lance::session::Session;

use crate::support::remote::{Bucket, Weather};
use crate::support::remote_table::run;
use crate::support::until;

/// Dimensions: rows take more than what stays in memory as rows.
const WIDTH: usize = 512;
const OLD: i64 = 1;
const NEW: i64 = 2;

/// A session that shares no open table with others, as one of another process.
fn session() -> SessionContext {
    SessionContext::new().with_lsm_engine(LsmEngine::new())
}

/// Those that are opened with the same `storage` find each other's blocks in memory.
async fn open(session: &SessionContext, uri: &str, storage: &str, columns: &str, options: &str) {
    let create = format!(
        "CREATE EXTERNAL TABLE t {columns} STORED AS LSM LOCATION '{uri}' \
         OPTIONS ('unused' '{storage}', 'lsm.base.refresh' '0' {options})"
    );
    run(session, &create).await;
}

/// A table whose rows all have `mark`: in its base, a generation and the WAL.
async fn written(uri: &str, mark: i64, wal: i64) -> SessionContext {
    let session = session();
    let columns = format!("(id BIGINT PRIMARY KEY, n BIGINT, body VARCHAR, e FLOAT[{WIDTH}])");
    open(&session, uri, &uuid::Uuid::new_v4().to_string(), &columns, ", 'lsm.index.body' 'fts'").await;
    let rows = |from: i64, to: i64| {
        format!(
            "SELECT value, {mark}, concat('word', value % 30), array_repeat(CAST(value AS FLOAT), {WIDTH}) \
             FROM generate_series({from}, {to})"
        )
    };
    run(&session, &format!("INSERT OVERWRITE t {}", rows(0, 2_999))).await;
    run(&session, &format!("INSERT INTO t {}", rows(2_000, 4_999))).await;
    run(&session, "SELECT * FROM lsm_flush('t')").await;
    for i in 0..wal {
        run(&session, &format!("INSERT INTO t {}", rows(10 * i, 10 * i + 5))).await;
    }
    session
}

/// The marks of the rows that a query finds.
async fn marks(session: &SessionContext, sql: &str) -> Result<BTreeSet<i64>> {
    let rows = session.sql(sql).await.map_err(Error::from)?.collect().await.map_err(Error::from)?;
    Ok(rows.iter().flat_map(|rows| rows.column(0).as_primitive::<Int64Type>().values().to_vec()).collect())
}

/// Queries that find rows of all sources.
fn queries() -> [String; 4] {
    let vector = vec!["2500"; WIDTH].join(", ");
    [
        "SELECT n FROM t".into(),
        "SELECT n FROM t WHERE id IN (3, 1500, 2500, 4500)".into(),
        "SELECT n FROM t WHERE text_match(body, 'word3')".into(),
        format!("SELECT n FROM t ORDER BY l2_distance(e, [{vector}]) LIMIT 10"),
    ]
}

/// All queries find rows with this mark alone.
async fn all_have(session: &SessionContext, mark: i64) {
    for sql in queries() {
        assert_eq!(marks(session, &sql).await.unwrap(), BTreeSet::from([mark]), "{sql}");
    }
}

/// Queries find what was there before, or that it is gone.
async fn old_or_gone(session: &SessionContext, when: &str) {
    for sql in queries() {
        match marks(session, &sql).await {
            Ok(found) => assert_eq!(found, BTreeSet::from([OLD]), "{when}: {sql}"),
            Err(error) => {
                let kinds = [ErrorKind::Corrupt, ErrorKind::Unavailable, ErrorKind::Fenced, ErrorKind::Invalid];
                assert!(kinds.contains(&error.kind()), "{when}: {sql}: {error}");
            }
        }
        // Tasks end soon after those who wait for them.
        let budget = ReadBudget::global();
        until(&format!("the end {when}: {sql}"), || budget.used() == 0 && budget.waiting() == 0).await;
    }
}

/// What refreshing says that fails.
async fn refused(session: &SessionContext) -> Error {
    let refresh = async { session.sql("SELECT * FROM lsm_refresh('t')").await?.collect().await };
    Error::from(refresh.await.expect_err("another table is there"))
}

/// A table and a reader that has all of it in memory; then all of its objects are gone.
async fn deleted_under_a_reader() -> (Arc<Bucket>, String, String, SessionContext) {
    let (bucket, uri) = Bucket::new();
    let storage = uuid::Uuid::new_v4().to_string();
    let writer = written(&uri, OLD, 2).await;
    run(&writer, "DROP TABLE t").await;
    let reader = session();
    open(&reader, &uri, &storage, "", "").await;
    for _ in 0..3 {
        all_have(&reader, OLD).await;
    }
    bucket.replace("", None).await.unwrap();
    (bucket, uri, storage, reader)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_in_the_place_of_another_is_read_alone() {
    let (bucket, uri, storage, reader) = deleted_under_a_reader().await;
    // It has as many versions and generations, and its shards have the same names.
    let writer = written(&uri, NEW, 3).await;
    all_have(&writer, NEW).await;
    old_or_gone(&reader, "before anybody looked").await;
    let other = session();
    open(&other, &uri, &storage, "", "").await;
    all_have(&other, NEW).await;
    // The base cannot be looked at: what is found of shards then is none of the old table's.
    bucket.set_weather(Weather::Lost("table/_versions/"));
    refused(&reader).await;
    old_or_gone(&reader, "while the base cannot be read").await;
    bucket.set_weather(Weather::Fine);
    let error = refused(&reader).await;
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    old_or_gone(&reader, "after it was noticed").await;
    all_have(&other, NEW).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_dataset_in_the_place_of_a_table_is_no_table() {
    let (_bucket, uri, storage, reader) = deleted_under_a_reader().await;
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    let rows = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(vec![NEW; 100]))]).unwrap();
    let own = Arc::new(Session::new(1 << 20, 1 << 20, registry()));
    let params = WriteParams { session: Some(own), ..WriteParams::default() };
    Dataset::write(RecordBatchIterator::new([Ok(rows)], schema), &uri, Some(params)).await.unwrap();
    old_or_gone(&reader, "before anybody looked").await;
    let error = refused(&reader).await;
    assert!(matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Invalid), "{error}");
    old_or_gone(&reader, "after it was noticed").await;
    let other = session();
    let create = format!("CREATE EXTERNAL TABLE t STORED AS LSM LOCATION '{uri}' OPTIONS ('unused' '{storage}')");
    let error = Error::from(other.sql(&create).await.expect_err("it is no table"));
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}
