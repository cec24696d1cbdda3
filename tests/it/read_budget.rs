//! What scans have read and not yet used, on a store that counts it; and that they give the rows that Lance gives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, ListArray, RecordBatch,
    RecordBatchIterator, StringArray, StructArray, UInt64Array,
};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt64Type};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext, col, lit};
use datafusion_lsm::cache::{MemoryBudget, ReadBudget};
use datafusion_lsm::dataset::{DatasetHandle, DatasetOpener};
use datafusion_lsm::error::{Error, ErrorKind};
use datafusion_lsm::schema::TableSchema;
use datafusion_lsm::sql::{LsmEngine, LsmSessionExt};
use datafusion_lsm::store::{StoreOptions, registry};
use datafusion_lsm::table::Components;
use futures::{StreamExt, TryStreamExt};
use lance::Dataset;
use lance::dataset::mem_wal::arrow_schema_with_field_ids;
use lance::dataset::{NewColumnTransform, WriteMode, WriteParams};
use lance::session::Session;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::gated::Gated;
use crate::support::plan::{analyzed, figure};
use crate::support::{soon, until};

/// Dimensions of the vectors of [`wide`].
const WIDTH: usize = 256;
pub(crate) const ROWS: usize = 40_000;
pub(crate) const LIMIT: usize = 8 << 20;
/// What is let in beyond the limit: for all scans together three reads, and what lies between the columns of each read,
/// and for each scan a small read.
pub(crate) const SLACK: usize = LIMIT / 16 * 3 + 19 * (64 << 10);
const LEAST: usize = LIMIT / 64;

/// Rows of a kilobyte, more than five times the limit.
pub(crate) fn wide(from: usize, rows: usize) -> RecordBatch {
    let ids = from..from + rows;
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let values =
        Float32Array::from_iter_values(ids.clone().flat_map(|id| (0..WIDTH).map(move |i| (id * 31 + i) as f32)));
    let vectors = FixedSizeListArray::new(item, WIDTH as i32, Arc::new(values), None);
    let text = StringArray::from_iter(ids.clone().map(|id| (id % 5 > 0).then(|| format!("row {id} {}", id * 7919))));
    RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from_iter_values(ids.map(|id| id as i64))) as ArrayRef, false),
        ("text", Arc::new(text) as ArrayRef, true),
        ("e", Arc::new(vectors) as ArrayRef, false),
    ])
    .unwrap()
}

fn session() -> Arc<Session> {
    Arc::new(Session::new(1 << 20, 64 << 20, registry()))
}

pub(crate) async fn write(uri: &str, batches: Vec<RecordBatch>, params: WriteParams) -> Dataset {
    let schema = batches[0].schema();
    let reader = RecordBatchIterator::new(batches.into_iter().map(Ok), schema);
    Dataset::write(reader, uri, Some(WriteParams { session: Some(session()), ..params })).await.unwrap()
}

/// The newest version at a location, read under `budget` and without any cache of blocks.
async fn handle(uri: &str, budget: &Arc<ReadBudget>) -> Arc<DatasetHandle> {
    let opener = DatasetOpener::new(StoreOptions::new(HashMap::new()).without_cache(), MemoryBudget::new(0))
        .with_read_budget(Arc::clone(budget));
    let dataset = opener.latest(uri).await.unwrap().unwrap();
    let numbered = arrow_schema_with_field_ids(dataset.schema());
    let schema = Arc::new(TableSchema::try_new(&numbered, &["id".into()]).unwrap());
    opener.handle(dataset, schema, "it".into()).await.unwrap()
}

fn scan(handle: &Arc<DatasetHandle>, projection: &[usize], filters: &[Expr]) -> SendableRecordBatchStream {
    handle.scan(projection, filters).unwrap().execute(0, Arc::new(TaskContext::default())).unwrap()
}

/// The rows of a scan, which must be all there are in their order.
async fn drain(mut scan: SendableRecordBatchStream) -> usize {
    let mut next = 0;
    while let Some(batch) = scan.next().await {
        let batch = batch.unwrap();
        for id in batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().values() {
            assert_eq!(*id, next as i64);
            next += 1;
        }
        // A consumer that takes its time, as others do their work.
        tokio::task::yield_now().await;
    }
    next
}

/// A dataset on a store that counts, whose metadata is in memory.
pub(crate) async fn counted(budget: &Arc<ReadBudget>) -> (Arc<Gated>, Arc<DatasetHandle>) {
    counted_rows(budget, ROWS).await
}

/// The same with so many rows.
async fn counted_rows(budget: &Arc<ReadBudget>, rows: usize) -> (Arc<Gated>, Arc<DatasetHandle>) {
    let (store, uri) = Gated::new();
    let params = WriteParams { max_rows_per_file: rows / 2, ..WriteParams::default() };
    write(&uri, vec![wide(0, rows)], params).await;
    let handle = handle(&uri, budget).await;
    assert_eq!(drain(scan(&handle, &[0, 1, 2], &[])).await, rows);
    assert_eq!((budget.used(), store.held.now()), (0, 0));
    store.held.peak();
    (store, handle)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_hold_no_more_than_the_budget_however_many_they_are() {
    for scans in [1, 4] {
        let budget = ReadBudget::new(LIMIT);
        let (store, handle) = counted(&budget).await;
        let running: JoinSet<_> = (0..scans).map(|_| drain(scan(&handle, &[0, 1, 2], &[]))).collect();
        assert_eq!(soon("the scans", running.join_all()).await, vec![ROWS; scans]);
        let most = LIMIT + SLACK + (scans - 1) * LEAST;
        assert!(budget.peak() <= most, "{scans}: {}", budget.peak());
        let held = store.held.peak();
        assert!((LIMIT / 2..=most).contains(&held), "{scans}: {held}");
        assert_eq!((budget.used(), budget.waiting(), store.held.now()), (0, 0, 0));
    }
}

#[tokio::test]
async fn a_scan_asks_for_nearly_the_whole_budget_at_once_where_answers_take_long() {
    let budget = ReadBudget::new(LIMIT);
    let (store, handle) = counted(&budget).await;
    store.open(false);
    let mut rows = scan(&handle, &[0, 1, 2], &[]);
    let asks = async {
        while budget.used() < LIMIT {
            assert!(futures::poll!(rows.next()).is_pending());
            tokio::task::yield_now().await;
        }
    };
    soon("all requests", asks).await;
    assert!(budget.used() <= LIMIT + SLACK, "{}", budget.used());
    until("the requests", || store.held.now() >= LIMIT).await;
    store.open(true);
    assert_eq!(drain(rows).await, ROWS);
}

#[tokio::test(start_paused = true)]
async fn a_far_store_is_read_as_fast_as_the_budget_allows() {
    let latency = Duration::from_millis(50);
    for (limit, scans) in [(LIMIT, 1), (LIMIT, 4), (64 << 20, 1)] {
        let budget = ReadBudget::new(limit);
        let (store, handle) = counted(&budget).await;
        store.delay(latency);
        let start = Instant::now();
        let rows = (0..scans).map(|_| drain(scan(&handle, &[0, 1, 2], &[])));
        assert_eq!(futures::future::join_all(rows).await, vec![ROWS; scans]);
        // Time passes here only while all wait for the store.
        let bytes = scans * ROWS * (WIDTH * 4 + 8);
        let best = latency.mul_f64((bytes as f64 / limit as f64).max(1.0));
        let took = start.elapsed();
        assert!(took <= best.div_f64(0.95), "{limit} {scans}: {took:?}, {best:?} would be best");
    }
}

#[tokio::test]
async fn a_consumer_that_stops_stops_the_reading() {
    let budget = ReadBudget::new(LIMIT);
    let (store, handle) = counted(&budget).await;
    let mut rows = scan(&handle, &[0, 1, 2], &[]);
    let first = rows.next().await.unwrap().unwrap();
    until("all answers", || store.under_way() == 0).await;
    let held = store.held.now();
    assert!(held <= LIMIT + SLACK, "{held}");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!((store.held.now(), store.under_way()), (held, 0));
    // Others have their part meanwhile.
    let other = soon("another scan", drain(scan(&handle, &[0, 1, 2], &[]))).await;
    assert_eq!(other, ROWS);
    let rest: Vec<RecordBatch> = rows.try_collect().await.unwrap();
    assert_eq!(first.num_rows() + rest.iter().map(RecordBatch::num_rows).sum::<usize>(), ROWS);
    drop((first, rest));
    assert_eq!((budget.used(), store.held.now()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_stops_keeps_no_metadata_from_others() {
    let budget = ReadBudget::new(LIMIT);
    let (store, uri) = Gated::new();
    let params = WriteParams { max_rows_per_file: ROWS / 2, ..WriteParams::default() };
    write(&uri, vec![wide(0, ROWS)], params).await;
    let handle = handle(&uri, &budget).await;
    // The first of two files is open while the second is being opened.
    store.slow_down(Duration::from_millis(1));
    let mut rows = scan(&handle, &[0, 1, 2], &[]);
    let first = rows.next().await.unwrap().unwrap();
    store.delay(Duration::ZERO);
    assert_eq!(soon("another scan", drain(scan(&handle, &[0, 1, 2], &[]))).await, ROWS);
    let rest: Vec<RecordBatch> = rows.try_collect().await.unwrap();
    assert_eq!(first.num_rows() + rest.iter().map(RecordBatch::num_rows).sum::<usize>(), ROWS);
    assert_eq!((budget.used(), budget.waiting()), (0, 0));
}

#[tokio::test]
async fn a_scan_gives_everything_back_wherever_it_is_dropped() {
    let budget = ReadBudget::new(LIMIT);
    let (store, handle) = counted(&budget).await;
    for polls in 0..60 {
        // Now and then nothing comes at all.
        store.open(polls % 3 > 0);
        let mut rows = scan(&handle, &[0, 1, 2], &[]);
        for _ in 0..polls {
            let _ = futures::poll!(rows.next());
            tokio::task::yield_now().await;
        }
        drop(rows);
        until("the end of what was under way", || budget.used() == 0 && store.held.now() == 0).await;
        assert_eq!((budget.waiting(), store.under_way()), (0, 0), "{polls}");
    }
    // Nothing is read and nothing is charged before somebody wants rows.
    drop(scan(&handle, &[0, 1, 2], &[]));
    assert_eq!(budget.used(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_that_is_cancelled_or_fails_gives_everything_back() {
    let budget = ReadBudget::new(LIMIT);
    let (store, handle) = counted(&budget).await;
    store.open(false);
    let mut cancelled: JoinSet<_> = [drain(scan(&handle, &[0, 1, 2], &[]))].into_iter().collect();
    until("the requests", || store.under_way() > 0).await;
    cancelled.shutdown().await;
    until("the end", || budget.used() == 0 && store.held.now() == 0 && store.under_way() == 0).await;

    store.open(true);
    let mut rows = scan(&handle, &[0, 1, 2], &[]);
    assert!(rows.next().await.unwrap().is_ok());
    store.fail(true);
    let failed = loop {
        match soon("an end", rows.next()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break Error::from(error),
            None => panic!("the scan ended as if nothing had failed"),
        }
    };
    assert_eq!(failed.kind(), ErrorKind::Unavailable, "{failed}");
    assert!(rows.next().await.is_none());
    until("the end", || budget.used() == 0 && store.held.now() == 0).await;
    store.fail(false);
    assert_eq!(drain(scan(&handle, &[0, 1, 2], &[])).await, ROWS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_on_a_budget_of_less_than_one_row_all_finish() {
    // Nearly a hundred reads for each scan.
    const FEW: usize = 6_000;
    let budget = ReadBudget::new(100);
    let (store, handle) = counted_rows(&budget, FEW).await;
    let running: JoinSet<_> = (0..4).map(|_| drain(scan(&handle, &[0, 1, 2], &[]))).collect();
    assert_eq!(soon("the scans", running.join_all()).await, [FEW; 4]);
    // For each scan a read, and the batch that its consumer has.
    assert!(store.held.peak() <= 4 * 4 * (64 << 10), "some kilobytes at a time");
}

#[tokio::test(start_paused = true)]
async fn scans_that_wait_for_each_other_go_on() {
    let budget = ReadBudget::new(LIMIT);
    let (_store, handle) = counted(&budget).await;
    let query = Arc::new(TaskContext::default());
    let plan = handle.scan(&[0, 1, 2], &[]).unwrap();
    // As a merge does: one batch of each at a time, and none of the others before.
    let mut arms: Vec<_> = (0..18).map(|_| plan.execute(0, Arc::clone(&query)).unwrap()).collect();
    let start = Instant::now();
    let mut rows = vec![0; arms.len()];
    while rows.iter().any(|rows| *rows < ROWS) {
        for (arm, rows) in arms.iter_mut().zip(&mut rows) {
            if let Some(batch) = arm.next().await {
                *rows += batch.unwrap().num_rows();
            }
        }
    }
    assert!(rows.iter().all(|rows| *rows == ROWS));
    assert!(budget.peak() <= LIMIT + SLACK + 18 * LEAST, "{}", budget.peak());
    assert!(start.elapsed().as_secs() < 3, "{:?}", start.elapsed());
    drop(arms);
    assert_eq!(budget.used(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sorts_and_joins_finish_on_a_budget_of_nearly_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let reads = ReadBudget::new(1);
    let components = Components { read_budget: Arc::clone(&reads), ..Components::default() };
    let engine = LsmEngine::with_components(move |_| components.clone());
    let session =
        SessionContext::new_with_config(SessionConfig::new().with_target_partitions(4)).with_lsm_engine(engine);
    let run = async |sql: &str| -> Vec<RecordBatch> {
        soon(sql, session.sql(sql).await.unwrap().collect()).await.unwrap_or_else(|e| panic!("{sql}: {e}"))
    };
    run(&format!(
        "CREATE EXTERNAL TABLE t (id BIGINT PRIMARY KEY, body VARCHAR) STORED AS LSM LOCATION '{}' \
         OPTIONS ('lsm.sync' 'false', 'lsm.base.refresh' '0')",
        dir.path().join("t").display()
    ))
    .await;
    let rows = |from: i64, to: i64| {
        let word = |i: i64| format!("encode(sha256(CAST(value + {i} AS VARCHAR)), 'hex')");
        format!("SELECT value, {} || {} FROM generate_series({from}, {to})", word(0), word(1 << 40))
    };
    run(&format!("INSERT OVERWRITE t {}", rows(0, 59_999))).await;
    for generation in 0..4 {
        let from = 50_000 + generation * 10_000;
        run(&format!("INSERT INTO t {}", rows(from, from + 14_999))).await;
        run("SELECT * FROM lsm_flush('t')").await;
    }
    let count = |rows: &[RecordBatch]| rows.iter().map(RecordBatch::num_rows).sum::<usize>();
    let sorted = run("SELECT * FROM t ORDER BY body DESC, id").await;
    assert_eq!(count(&sorted), 95_000);
    let joined = run("SELECT a.id, b.body FROM t a JOIN t b ON a.id = b.id + 1 ORDER BY a.id").await;
    assert_eq!(count(&joined), 94_999);
    let plan = analyzed(&session, "SELECT count(body), sum(id) FROM t").await;
    let node = "DatasetScanExec: source=base";
    assert!(figure(&plan, node, "iops") > 10 && figure(&plan, node, "requests") > 10, "{plan}");
    assert!(plan.contains("bytes_read=") && plan.contains("read_wait="), "{plan}");
    let metrics = "SELECT name FROM lsm_metrics('t') WHERE name LIKE 'lsm.read.%' AND name <> 'lsm.read.waits' \
                   AND value > 0 ORDER BY name";
    let metrics = run(metrics).await;
    let names: Vec<&str> = metrics.iter().flat_map(|rows| rows.column(0).as_string::<i32>().iter().flatten()).collect();
    assert_eq!(names, ["lsm.read.limit", "lsm.read.peak"]);
    assert_eq!((reads.used(), reads.waiting()), (0, 0));
}

#[tokio::test]
async fn the_limit_is_an_option_of_whoever_opens_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let reads = ReadBudget::new(LIMIT);
    let components = Components { read_budget: Arc::clone(&reads), ..Components::default() };
    let engine = LsmEngine::with_components(move |_| components.clone());
    let session = SessionContext::new().with_lsm_engine(engine);
    let create = |name: &str, options: &str| {
        format!(
            "CREATE EXTERNAL TABLE {name} (id BIGINT PRIMARY KEY) STORED AS LSM LOCATION '{}' OPTIONS ({options})",
            dir.path().join(name).display()
        )
    };
    session.sql(&create("a", "'lsm.sync' 'false'")).await.unwrap();
    assert_eq!(reads.limit(), LIMIT);
    session.sql(&create("b", "'lsm.read.budget' '8MiB'")).await.unwrap();
    assert_eq!(reads.limit(), 8 << 20);
    session.sql("SET lsm.read.budget = '16MiB'").await.unwrap();
    session.sql(&create("c", "'lsm.sync' 'false'")).await.unwrap();
    assert_eq!(reads.limit(), 16 << 20);
    assert!(session.sql(&create("d", "'lsm.read.budget' '1KiB'")).await.is_err());
}

/// All rows as Lance's own scanner gives them: the columns of `plan`, then their ids, in the order of the ids.
async fn by_lance(dataset: &Dataset, plan: &Arc<dyn ExecutionPlan>, filter: &str) -> RecordBatch {
    let schema = plan.schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let mut scanner = dataset.scan();
    scanner.project(&names[..names.len() - 1]).unwrap().with_row_id();
    if !filter.is_empty() {
        scanner.filter(filter).unwrap();
    }
    let read: Vec<RecordBatch> = scanner.try_into_stream().await.unwrap().try_collect().await.unwrap();
    let columns = |batch: &RecordBatch| {
        let columns = names
            .iter()
            .zip(schema.fields())
            .map(|(name, field)| arrow::compute::cast(batch.column_by_name(name).unwrap(), field.data_type()).unwrap());
        RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap()
    };
    let all = concat_batches(&schema, &read.iter().map(columns).collect::<Vec<_>>()).unwrap();
    let ids = all.column(names.len() - 1).as_primitive::<UInt64Type>().values();
    let mut order: Vec<u64> = (0..all.num_rows() as u64).collect();
    order.sort_by_key(|row| ids[*row as usize]);
    take_record_batch(&all, &UInt64Array::from(order)).unwrap()
}

/// Columns of many kinds.
fn mixed(from: i64, rows: i64) -> RecordBatch {
    let ids = from..from + rows;
    let of = |each: fn(i64) -> i64| ids.clone().map(each);
    let lists = of(|id| id % 7).map(|n| (n < 6).then(|| (0..n).map(move |i| (i != 3).then_some(i * n))));
    let texts = StringArray::from_iter(of(|id| id % 11).map(|n| (n > 0).then(|| "ab".repeat(n as usize * 9))));
    let items = ListArray::from_iter_primitive::<Int64Type, _, _>(lists);
    let inner = StructArray::from(vec![
        (Arc::new(Field::new("t", DataType::Utf8, true)), Arc::new(texts.clone()) as ArrayRef),
        (Arc::new(Field::new("l", items.data_type().clone(), true)), Arc::new(items.clone()) as ArrayRef),
    ]);
    let nothing = StringArray::from_iter(of(|id| id).map(|_| None::<&str>));
    let same = Int64Array::from_iter_values(of(|_| 7));
    RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from_iter_values(ids)) as ArrayRef, false),
        ("text", Arc::new(texts) as ArrayRef, true),
        ("list", Arc::new(items) as ArrayRef, true),
        ("inner", Arc::new(inner) as ArrayRef, true),
        ("nothing", Arc::new(nothing) as ArrayRef, true),
        ("same", Arc::new(same) as ArrayRef, false),
    ])
    .unwrap()
}

/// Every way to look at a dataset gives what Lance gives, in whatever pieces it is read.
async fn same_as_lance(dataset: &Dataset, what: &str) {
    let columns = dataset.schema().fields.len();
    for limit in [64 << 20, 1 << 10] {
        let budget = ReadBudget::new(limit);
        let handle = handle(dataset.uri(), &budget).await;
        let some: Vec<usize> = (0..columns).rev().step_by(2).collect();
        let all: Vec<usize> = (0..columns).collect();
        for projection in [vec![], vec![0], some, all] {
            for (filter, told) in [(None, ""), (Some(col("id").gt(lit(1_234i64))), "id > 1234")] {
                for batch_size in [100, 8192] {
                    let filters: Vec<Expr> = filter.iter().cloned().collect();
                    let plan = handle.scan(&projection, &filters).unwrap();
                    let config = SessionConfig::new().with_batch_size(batch_size);
                    let context = Arc::new(TaskContext::default().with_session_config(config));
                    let ours = collect(Arc::clone(&plan), context).await.unwrap();
                    assert!(ours.iter().all(|batch| batch.num_rows() <= batch_size && batch.num_rows() > 0));
                    let ours = concat_batches(&plan.schema(), &ours).unwrap();
                    let lance = by_lance(dataset, &plan, told).await;
                    assert_eq!(ours, lance, "{what}: {projection:?} {told} of {limit} by {batch_size}");
                }
            }
        }
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_give_the_rows_that_lance_gives() {
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("d").to_str().unwrap().to_string();
    let params = || WriteParams { max_rows_per_file: 1_500, ..WriteParams::default() };
    let mut dataset = write(&uri, vec![mixed(0, 4_000)], params()).await;
    same_as_lance(&dataset, "several fragments").await;

    dataset.delete("id % 7 = 3 OR (id >= 1600 AND id < 2500) OR id = 3999").await.unwrap();
    same_as_lance(&dataset, "rows that were deleted").await;

    let double = NewColumnTransform::SqlExpressions(vec![("double".into(), "id * 2".into())]);
    dataset.add_columns(double, None, None).await.unwrap();
    same_as_lance(&dataset, "a column in files of its own").await;

    let late = Arc::new(Schema::new(vec![Field::new("late", DataType::Utf8, true)]));
    dataset.add_columns(NewColumnTransform::AllNulls(late), None, None).await.unwrap();
    let rows = mixed(4_000, 700);
    let double = Int64Array::from_iter_values((4_000..4_700).map(|id| id * 2));
    let late = StringArray::from_iter((4_000..4_700).map(|id| (id % 3 == 0).then(|| format!("late {id}"))));
    let mut columns: Vec<(String, ArrayRef, bool)> = Vec::new();
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        columns.push((field.name().clone(), Arc::clone(column), field.is_nullable()));
    }
    columns.push(("double".into(), Arc::new(double), true));
    columns.push(("late".into(), Arc::new(late), true));
    let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let dataset = write(&uri, vec![rows], WriteParams { mode: WriteMode::Append, ..params() }).await;
    same_as_lance(&dataset, "fragments with and without a column").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_of_other_files_give_the_rows_that_lance_gives() {
    use lance_file::version::LanceFileVersion;
    let dir = tempfile::tempdir().unwrap();
    for (name, version) in [("old", LanceFileVersion::V2_0), ("new", LanceFileVersion::V2_2)] {
        let uri = dir.path().join(name).to_str().unwrap().to_string();
        let params = WriteParams { data_storage_version: Some(version), max_rows_per_file: 900, ..Default::default() };
        let dataset = write(&uri, vec![mixed(0, 2_000)], params).await;
        same_as_lance(&dataset, name).await;
    }
    let uri = dir.path().join("stable").to_str().unwrap().to_string();
    let params = WriteParams { enable_stable_row_ids: true, max_rows_per_file: 900, ..Default::default() };
    let mut dataset = write(&uri, vec![mixed(0, 2_000)], params).await;
    dataset.delete("id < 10").await.unwrap();
    same_as_lance(&dataset, "stable row ids").await;
    // A row may be larger than everything else is together.
    let texts = StringArray::from_iter_values((0..40).map(|i| "x".repeat(if i == 17 { 3 << 20 } else { i })));
    let ids = Int64Array::from_iter_values(0..40);
    let rows = [("id", Arc::new(ids) as ArrayRef, false), ("text", Arc::new(texts) as ArrayRef, true)];
    let uri = dir.path().join("large").to_str().unwrap().to_string();
    let dataset =
        write(&uri, vec![RecordBatch::try_from_iter_with_nullable(rows).unwrap()], WriteParams::default()).await;
    same_as_lance(&dataset, "a large row").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_taken_have_room_as_well() {
    let budget = ReadBudget::new(LIMIT);
    let (store, handle) = counted(&budget).await;
    let ids: Vec<u64> = (0..ROWS as u64 / 2).step_by(13).collect();
    let taken = handle.take(&ids, &[0, 2]).await.unwrap();
    assert_eq!(taken.num_rows(), ids.len());
    assert!(budget.peak() > LEAST && budget.used() == 0);
    store.open(false);
    let mut cancelled = Box::pin(handle.take(&ids, &[0, 2]));
    assert!(futures::poll!(&mut cancelled).is_pending());
    assert!(budget.used() > 0);
    drop(cancelled);
    until("the end of what was given up", || budget.used() == 0).await;
    store.open(true);
}
