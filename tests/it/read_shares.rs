//! What is read beside scans is in the read budget, and each search is one query in it: rows by their ids or keys, all
//! keys, whole files.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::Poll;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array};
use datafusion::prelude::SessionContext;
use datafusion_lsm::base::AdoptSpec;
use datafusion_lsm::block_list::BlockLists;
use datafusion_lsm::cache::{ReadBudget, ReadRequest};
use datafusion_lsm::sql::LsmSessionExt;
use datafusion_lsm::table::{Components, LsmTable};
use lance::dataset::WriteParams;
use tokio::task::JoinSet;

use crate::bad_weather::{NO_CACHE, charging};
use crate::read_budget::{LIMIT, ROWS, SLACK, counted, wide, write};
use crate::support::gated::Gated;
use crate::support::plan::analyzed;
use crate::support::remote_table::{filled, queries, reopened_in, run};
use crate::support::{polled_until, soon, until};

/// The search for vectors.
fn near() -> String {
    queries().into_iter().find(|(name, _)| *name == "vector").unwrap().1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_search_reads_of_all_its_sources_is_one_query() {
    let (store, uri) = Gated::new();
    let session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let budget = ReadBudget::new(LIMIT);
    let session = reopened_in(&session, charging(&budget), &uri, NO_CACHE).await;
    let search = near().replace("FROM t", "FROM t WHERE length(body) > 3");
    let scan = "SELECT e FROM t".to_string();
    // Keys and indexes are in memory then.
    let expected = [run(&session, &search).await, run(&session, &scan).await];
    assert!(expected[0] == 10 && expected[1] > 1_000, "{expected:?}");

    store.open(false);
    let mut running = JoinSet::new();
    let mut start = |sql: String| {
        let session = session.clone();
        running.spawn(async move { run(&session, &sql).await });
    };
    start(search);
    until("texts of three generations", || store.under_way() >= 3).await;
    assert_eq!(budget.queries(), 1);
    start(scan);
    until("vectors of three generations", || store.under_way() >= 6).await;
    assert_eq!(budget.queries(), 2);
    store.open(true);
    let mut found = soon("both", running.join_all()).await;
    found.sort_unstable();
    assert_eq!(found, expected);
    until("everything back", || budget.used() == 0 && budget.queries() == 0).await;
}

#[tokio::test]
async fn keys_are_loaded_under_the_budget_as_one_query() {
    let budget = ReadBudget::new(LIMIT);
    let (store, handle) = counted(&budget).await;
    store.open(false);
    let mut loading = [Box::pin(handle.key_map()), Box::pin(handle.key_map())];
    let asks = async {
        while store.under_way() < 2 {
            for load in &mut loading {
                assert!(futures::poll!(load).is_pending());
            }
            tokio::task::yield_now().await;
        }
    };
    soon("the reads", asks).await;
    assert!(budget.used() > 0);
    assert_eq!(budget.queries(), 1);
    drop(loading);
    until("everything back", || budget.used() == 0 && budget.queries() == 0).await;
    store.open(true);
    assert_eq!(handle.key_map().await.unwrap().len(), ROWS);
    assert_eq!((budget.used(), budget.waiting()), (0, 0));
}

#[tokio::test]
async fn files_that_are_read_ahead_have_room_as_well() {
    let budget = ReadBudget::new(LIMIT);
    let (store, handle) = counted(&budget).await;
    store.open(false);
    let room = AtomicU64::new(u64::MAX);
    let mut reading = Box::pin(handle.read_files(&room));
    polled_until("the reads", reading.as_mut(), || store.held.now() >= LIMIT / 2).await;
    for _ in 0..100 {
        assert!(futures::poll!(&mut reading).is_pending());
        tokio::task::yield_now().await;
    }
    assert!(store.held.now() <= budget.used() && budget.used() <= LIMIT + SLACK, "{}", budget.used());
    store.open(true);
    let read = soon("the files", reading).await.unwrap();
    assert!(read > ROWS as u64 * 1_024, "{read}");
    assert!(store.held.peak() <= LIMIT + SLACK);
    assert_eq!((budget.used(), budget.waiting(), store.held.now()), (0, 0, 0));
}

/// A table whose base is read under `budget`, and of which nothing is kept.
async fn adopted(budget: &Arc<ReadBudget>) -> (Arc<Gated>, Arc<LsmTable>) {
    let (store, uri) = Gated::new();
    write(&uri, vec![wide(0, ROWS)], WriteParams::default()).await;
    let components = Components { read_budget: Arc::clone(budget), ..Components::default() };
    let spec = AdoptSpec { key: vec!["id".into()], ..AdoptSpec::default() };
    let options = [("lsm.base.keys", "1B"), ("lsm.cache.memory", "0"), ("lsm.base.refresh", "0")];
    let builder = options.iter().fold(LsmTable::builder(&uri), |builder, (name, value)| builder.option(*name, *value));
    let table = builder.components(components).adopt(spec).open().await.unwrap();
    until("what opening reads", || budget.used() == 0).await;
    (store, table)
}

#[tokio::test]
async fn keys_of_the_base_are_loaded_for_others_though_nobody_polls_who_asked_first() {
    let budget = ReadBudget::new(LIMIT);
    let (store, table) = adopted(&budget).await;
    let (snapshot, lists) = (table.snapshot(), BlockLists::new(1 << 30));
    let base = &snapshot.version().base;
    store.open(false);
    let mut first = Box::pin(lists.base_keys(base));
    polled_until("the reads", first.as_mut(), || store.under_way() > 0).await;
    store.open(true);
    let second = soon("the keys", lists.base_keys(base)).await.unwrap();
    assert_eq!(second.len(), ROWS);
    assert!(Arc::ptr_eq(&second, &soon("the same", first).await.unwrap()));
    until("everything back", || budget.used() == 0 && budget.queries() == 0).await;
    // Who stops waiting ends what is loaded.
    let lists = BlockLists::new(1 << 30);
    store.open(false);
    let mut stopped = Box::pin(lists.base_keys(base));
    polled_until("the reads", stopped.as_mut(), || store.under_way() > 0).await;
    drop(stopped);
    until("everything back", || budget.used() == 0 && budget.queries() == 0).await;
    store.open(true);
    assert_eq!(soon("the keys", lists.base_keys(base)).await.unwrap().len(), ROWS);
    drop(snapshot);
    table.close().await.unwrap();
}

#[tokio::test]
async fn rows_that_are_looked_up_by_key_in_the_storage_have_room_as_well() {
    let budget = ReadBudget::new(LIMIT);
    let (store, table) = adopted(&budget).await;
    let snapshot = table.snapshot();
    let keys: [ArrayRef; 1] = [Arc::new(Int64Array::from(vec![17]))];
    let find = || Box::pin(snapshot.version().base.find(&keys, &[0]));

    store.open(false);
    let mut lookup = find();
    polled_until("the reads", lookup.as_mut(), || store.under_way() > 0).await;
    assert!(budget.used() > 0);
    drop(lookup);
    until("the end of what was given up", || budget.used() == 0).await;
    store.open(true);
    assert_eq!(find().await.unwrap().0.num_rows(), 1);
    assert_eq!((budget.used(), budget.waiting()), (0, 0));
    drop(snapshot);
    table.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_tells_how_long_rows_that_are_taken_waited_for_the_budget() {
    let (store, uri) = Gated::new();
    let session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let budget = ReadBudget::new(1 << 20);
    let session = reopened_in(&session, charging(&budget), &uri, NO_CACHE).await;
    assert_eq!(run(&session, &near()).await, 10);
    // A consumer that does not go on holds all there is.
    let cursor = budget.scan(None, true);
    let mut held = Vec::new();
    while let Poll::Ready(charge) = futures::poll!(cursor.admit(ReadRequest::Rows { rest: 1 << 30, columns: 1 })) {
        held.push(charge);
    }
    store.open(false);
    let mut running = JoinSet::new();
    running.spawn(async move { analyzed(&session, &near()).await });
    until("a search that waits", || budget.waiting() > 0).await;
    // It waits for that long at least.
    tokio::time::sleep(Duration::from_millis(5)).await;
    store.open(true);
    let plan = soon("the plan", running.join_next()).await.unwrap().unwrap();
    let searches = plan.lines().filter(|line| line.contains("VectorTopKExec") && line.contains("source=generation"));
    let waited: Vec<&str> = searches
        .map(|line| line.split("read_wait=").nth(1).unwrap_or_else(|| panic!("{plan}")))
        .map(|waited| waited.split([',', ']']).next().unwrap())
        .collect();
    let is_long = |waited: &&str| waited.ends_with("ms") || waited.trim_end_matches('s').parse::<f64>().is_ok();
    assert!(waited.len() == 3 && waited.iter().any(is_long), "{waited:?}\n{plan}");
}
