//! What tables of one process share: open generations, and what Lance keeps of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, AsArray, FixedSizeListArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Float32Type, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::physical_plan::collect;
use datafusion::prelude::{SessionContext, col, lit};
use datafusion_lsm::base::{BaseTable, CreateSpec};
use datafusion_lsm::cache::{CacheCounts, IndexCache, MemoryBudget};
use datafusion_lsm::dataset::{
    CachedDataset, DatasetCache, DatasetKey, DatasetOpener, DefaultDatasetCache, IsLive, OpenDataset, TableKey,
};
use datafusion_lsm::distance::Metric;
use datafusion_lsm::error::Result;
use datafusion_lsm::generation::{Generation, GenerationRecord};
use datafusion_lsm::index_spec::{IndexKind, IndexSpec};
use datafusion_lsm::settings::{Bytes, Settings};
use datafusion_lsm::sql::{LsmSessionExt, TableSearch};
use datafusion_lsm::store::{ObjectIo, StoreOptions};
use datafusion_lsm::table::{Components, IndexInfo, LsmTable};
use datafusion_lsm::version::Snapshot;
use futures::future::{join_all, try_join_all};

use crate::support::place::{quiet, tight_budget};
use crate::support::remote::{Bucket, Weather};
use crate::support::rows::stream;
use crate::support::{polled_until, soon, until};

const WIDTH: usize = 64;
/// Rows of a generation: their vectors get an index.
const ROWS: i64 = 1_500;

/// Caches as a process that starts has them, and so little memory beside that rows of datasets are not kept: when they come
/// into it, searches by codes become exact ones.
struct Caches {
    indexes: Arc<IndexCache>,
    datasets: Arc<DefaultDatasetCache>,
    budget: Arc<MemoryBudget>,
}

impl Caches {
    fn new() -> Self {
        let budget = MemoryBudget::new(1 << 30);
        Self {
            indexes: IndexCache::new(64 << 20, 64 << 20, &budget),
            datasets: DefaultDatasetCache::new(64 << 20, &budget),
            budget: tight_budget(),
        }
    }

    fn components(&self) -> Components {
        let (index_cache, dataset_cache) = (Arc::clone(&self.indexes), Some(Arc::clone(&self.datasets) as _));
        Components { index_cache, dataset_cache, budget: Arc::clone(&self.budget), ..Components::default() }
    }

    fn opener(&self) -> DatasetOpener {
        DatasetOpener::new(StoreOptions::default(), Arc::clone(&self.budget))
            .with_caches(Arc::clone(&self.indexes), Arc::clone(&self.datasets) as _)
    }
}

fn schema() -> SchemaRef {
    let element = Arc::new(Field::new_list_field(DataType::Float32, true));
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("n", DataType::Int64, true),
        Field::new("body", DataType::Utf8, true),
        Field::new("e", DataType::FixedSizeList(element, WIDTH as i32), true),
    ]))
}

fn spec() -> CreateSpec {
    CreateSpec {
        schema: schema(),
        key: vec!["id".into()],
        shards: 1,
        shard_column: None,
        indexes: vec![
            IndexSpec::new("n", IndexKind::BTree),
            IndexSpec::new("body", IndexKind::text()),
            IndexSpec::new("e", IndexKind::vector(Metric::L2)),
        ],
        defaults: HashMap::new(),
    }
}

fn rows(ids: impl Iterator<Item = i64>, n: i64) -> RecordBatch {
    let ids: Vec<i64> = ids.collect();
    let element = |id: i64, i: i64| ((id * 31 + i * 17) % 101) as f32 + id as f32 * 1e-3;
    let vector = |id: &i64| Some((0..WIDTH as i64).map(|i| Some(element(*id, i))).collect::<Vec<_>>());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids.clone())),
        Arc::new(Int64Array::from_iter_values(ids.iter().map(|_| n))),
        Arc::new(StringArray::from_iter_values(ids.iter().map(|id| format!("word{} log", id % 30)))),
        Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(ids.iter().map(vector), WIDTH as i32)),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

async fn open(uri: &str, components: Components) -> Arc<LsmTable> {
    LsmTable::builder(uri).settings(quiet()).components(components).create(spec()).open().await.unwrap()
}

/// Writes generations, each of other rows.
async fn fill(table: &Arc<LsmTable>, generations: i64) {
    for n in 0..generations {
        table.put(rows(n * ROWS..(n + 1) * ROWS, n)).await.unwrap();
        table.flush().await.unwrap();
    }
}

fn generations(snapshot: &Snapshot) -> Vec<Arc<Generation>> {
    snapshot.version().shards[0].generations.clone()
}

/// The sum and the number of the ids in rows.
fn ids(rows: &[RecordBatch]) -> (i64, usize) {
    let ids = rows.iter().flat_map(|b| b.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().to_vec());
    ids.fold((0, 0), |(sum, count), id| (sum + id, count + 1))
}

/// All rows of a snapshot.
async fn scan(table: &LsmTable, snapshot: &Arc<Snapshot>) -> (i64, usize) {
    ids(&collect(table.scan(snapshot, None, &[], None).unwrap(), Arc::default()).await.unwrap())
}

/// What a scan and searches by each index find in a snapshot.
async fn ask_all(table: &Arc<LsmTable>, snapshot: &Arc<Snapshot>) -> Vec<(i64, usize)> {
    let session = SessionContext::new().with_lsm();
    let near: Vec<f32> = (0..WIDTH).map(|i| (i * 17 % 101) as f32).collect();
    let searches = [
        TableSearch::nearest(table, "e", Metric::L2, &near).k(3),
        TableSearch::nearest(table, "e", Metric::L2, &near).filter(col("n").eq(lit(1i64))).k(3),
        TableSearch::text(table, ["body"], "word7").k(1000),
    ];
    let mut answers = vec![scan(table, snapshot).await];
    for search in searches {
        answers.push(ids(&search.as_of(Arc::clone(snapshot)).rows(&session.state()).await.unwrap()));
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_first_opens_of_generations_ask_for_what_one_asks() {
    let mut asked = Vec::new();
    for together in [1, 16] {
        let (bucket, uri) = Bucket::new();
        let table = open(&uri, Caches::new().components()).await;
        fill(&table, 3).await;
        let records: Vec<GenerationRecord> =
            generations(&table.snapshot()).iter().map(|g| g.record().clone()).collect();
        table.close().await.unwrap();

        let caches = Caches::new();
        let io = ObjectIo::open(&uri, &StoreOptions::default(), false).await.unwrap();
        let base = BaseTable::open(&caches.opener(), &io).await.unwrap().unwrap();
        let shard = base.sharding().shards[0];
        bucket.reset();
        let opens = (0..together).map(|_| {
            let of = |record| Generation::open(base.opener(), &uri, shard, record, base.schema());
            try_join_all(records.iter().map(of))
        });
        let opened = join_all(opens).await.into_iter().map(|opened| opened.unwrap()).collect::<Vec<_>>();
        for one in &opened {
            assert!(one.iter().zip(&opened[0]).all(|(a, b)| Arc::ptr_eq(a, b)));
        }
        let counts = caches.datasets.counts();
        assert_eq!((counts.loads, counts.hits + counts.misses, counts.entries), (3, 3 * together, 3));
        asked.push(bucket.reset());
    }
    assert_eq!(asked[0].0, asked[1].0, "{asked:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_open_or_was_shares_its_generations_with_the_next_handle() {
    let (_bucket, uri) = Bucket::new();
    let caches = Caches::new();
    let table = open(&uri, caches.components()).await;
    fill(&table, 3).await;
    let (snapshot, opened) = (table.snapshot(), caches.datasets.counts());
    assert_eq!((opened.loads, opened.entries), (3, 3));
    let answers = ask_all(&table, &snapshot).await;

    let other = open(&uri, caches.components()).await;
    let shared = generations(&other.snapshot());
    assert!(generations(&snapshot).iter().zip(&shared).all(|(a, b)| Arc::ptr_eq(a, b)));
    assert_eq!(ask_all(&other, &other.snapshot()).await, answers);
    for handle in [&other, &table] {
        handle.close().await.unwrap();
    }
    drop((table, other, snapshot, shared));

    let again = open(&uri, caches.components()).await;
    let counts = caches.datasets.counts();
    assert_eq!((counts.loads, counts.misses, counts.hits), (3, 3, 6), "nothing was opened anew");
    assert!(generations(&again.snapshot()).iter().all(|g| g.index_counts().entries > 0), "what was kept still is");
    assert_eq!(ask_all(&again, &again.snapshot()).await, answers);
    let metrics = again.metrics();
    let figure = |name: &str| metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value);
    assert_eq!(figure("lsm.dataset_cache.loads"), Some(3));
    assert_eq!(figure("lsm.dataset_cache.hits"), Some(6));
    assert!(figure("lsm.dataset_cache.bytes") > Some(0) && figure("lsm.index_cache.bytes") > Some(0));
    assert!(figure("lsm.index_cache.loads") > Some(0) && figure("lsm.index_cache.hits") > Some(0));

    let fresh = open(&uri, Caches::new().components()).await;
    assert_eq!(ask_all(&fresh, &fresh.snapshot()).await, answers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_that_left_the_table_leaves_the_caches_and_is_still_read_by_who_has_it() {
    let (_bucket, uri) = Bucket::new();
    let caches = Caches::new();
    let table = open(&uri, caches.components()).await;
    fill(&table, 2).await;
    let snapshot = table.snapshot();
    let answers = ask_all(&table, &snapshot).await;
    let old = generations(&snapshot);
    assert!(old.iter().all(|g| g.index_counts().entries > 0 && g.index_counts().bytes > 0));

    table.truncate().await.unwrap();
    let held = || old.iter().map(|g| (g.index_counts().entries, g.index_counts().bytes)).collect::<Vec<_>>();
    assert_eq!(held(), [(0, 0), (0, 0)]);
    assert_eq!(caches.datasets.counts().entries, 0);
    assert_eq!(ask_all(&table, &snapshot).await, answers);
    assert_eq!(held(), [(0, 0), (0, 0)], "a query of an old snapshot brings nothing back");

    fill(&table, 1).await;
    assert_eq!(caches.datasets.counts().entries, 1);
    assert_eq!(scan(&table, &table.snapshot()).await.1, ROWS as usize);
    assert!(generations(&table.snapshot())[0].index_counts().entries > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_that_left_one_handle_stays_in_the_caches_for_another() {
    let (_bucket, uri) = Bucket::new();
    let caches = Caches::new();
    let table = open(&uri, caches.components()).await;
    fill(&table, 2).await;
    let other = open(&uri, caches.components()).await;
    let snapshot = other.snapshot();
    let (old, answers) = (generations(&snapshot), ask_all(&other, &snapshot).await);
    assert!(generations(&table.snapshot()).iter().zip(&old).all(|(a, b)| Arc::ptr_eq(a, b)));
    let held = || old.iter().map(|g| (g.index_counts().entries, g.index_counts().bytes)).collect::<Vec<_>>();
    let (before, loads) = (held(), caches.indexes.counts().loads);
    assert!(before.iter().all(|(entries, bytes)| *entries > 0 && *bytes > 0));

    table.truncate().await.unwrap();
    assert_eq!(held(), before, "the other handle has them still");
    assert_eq!(ask_all(&other, &snapshot).await, answers);
    assert_eq!(caches.indexes.counts().loads, loads, "nothing is loaded again");
    other.refresh().await.unwrap();
    assert_eq!(held(), [(0, 0), (0, 0)]);
    assert_eq!(ask_all(&other, &snapshot).await, answers);
    assert_eq!(held(), [(0, 0), (0, 0)]);
}

#[tokio::test]
async fn a_generation_is_opened_for_others_though_nobody_polls_who_opens_it_first() {
    let (bucket, uri) = Bucket::new();
    let table = open(&uri, Caches::new().components()).await;
    fill(&table, 1).await;
    let record = generations(&table.snapshot())[0].record().clone();
    table.close().await.unwrap();

    let caches = Caches::new();
    let io = ObjectIo::open(&uri, &StoreOptions::default(), false).await.unwrap();
    let base = BaseTable::open(&caches.opener(), &io).await.unwrap().unwrap();
    let shard = base.sharding().shards[0];
    let open = || Generation::open(base.opener(), &uri, shard, &record, base.schema());
    bucket.set_weather(Weather::Stuck("_gen_"));
    let mut first = Box::pin(open());
    polled_until("a read of the generation", first.as_mut(), || bucket.hanging() > 0).await;
    bucket.set_weather(Weather::Fine);
    let second = Box::pin(soon("the generation", open())).await.unwrap();
    assert!(Arc::ptr_eq(&second, &soon("the same", first).await.unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_that_only_one_table_keeps_go_with_it() {
    let (_bucket, uri) = Bucket::new();
    let table = open(&uri, Caches::new().components()).await;
    fill(&table, 2).await;
    table.close().await.unwrap();
    drop(table);

    let budget = MemoryBudget::new(1 << 30);
    for round in 0..3 {
        let settings = Settings { cache_memory: Some(Bytes::mib(8)), ..quiet() };
        let components = Components { budget: Arc::clone(&budget), ..Components::default() };
        let table = LsmTable::builder(&uri).settings(settings).components(components).open().await.unwrap();
        ask_all(&table, &table.snapshot()).await;
        assert!(budget.used() > 1 << 19, "{round}: {}", budget.used());
        table.close().await.unwrap();
        drop(table);
        until("the end of its blocks", || budget.used() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dataset_that_nobody_has_any_more_leaves_nothing_in_the_index_cache() {
    let (_bucket, uri) = Bucket::new();
    let caches = Caches::new();
    let components = Components { dataset_cache: Some(Arc::new(Nothing::default())), ..caches.components() };
    let bare = CreateSpec { indexes: Vec::new(), ..spec() };
    let table = LsmTable::builder(&uri).settings(quiet()).components(components).create(bare).open().await.unwrap();
    table.replace_all(stream(schema(), vec![rows(0..ROWS, 0)])).await.unwrap();
    for index in spec().indexes {
        table.create_index(&index, false).await.unwrap();
    }
    table.put(rows(ROWS..2 * ROWS, 1)).await.unwrap();
    table.flush().await.unwrap();
    let indexed = |info: &IndexInfo| info.source == "memtable" || info.indexed == info.rows;
    assert!(table.index_info().await.unwrap().iter().all(indexed));
    ask_all(&table, &table.snapshot()).await;
    assert!(caches.indexes.counts().entries > 20, "{:?}", caches.indexes);
    table.close().await.unwrap();
    drop(table);
    until("the end of all views", || caches.indexes.counts().entries == 0).await;
    assert_eq!(caches.indexes.counts().bytes, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_replaces_another_sees_its_own_rows() {
    let (_bucket, uri) = Bucket::new();
    let caches = Caches::new();
    let first = open(&uri, caches.components()).await;
    fill(&first, 2).await;
    let old = ask_all(&first, &first.snapshot()).await;
    drop(first);

    let replace = LsmTable::builder(&uri).settings(quiet()).components(caches.components()).create(spec());
    let second = replace.replace(true).open().await.unwrap();
    assert_eq!(caches.datasets.counts().entries, 0, "deleting a table retires its generations");
    for n in 0..2 {
        second.put(rows((n * ROWS..(n + 1) * ROWS).map(|id| -id), n)).await.unwrap();
        second.flush().await.unwrap();
    }
    let new = ask_all(&second, &second.snapshot()).await;
    assert_eq!((new[0].0, old[0].0), (-(2 * ROWS) * (2 * ROWS - 1) / 2, 2 * ROWS * (2 * ROWS - 1) / 2));
    second.close().await.unwrap();
    drop(second);
    let again = open(&uri, caches.components()).await;
    assert_eq!(ask_all(&again, &again.snapshot()).await, new);
    let fresh = open(&uri, Caches::new().components()).await;
    assert_eq!(ask_all(&fresh, &fresh.snapshot()).await, new);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_opened_with_other_storage_options_is_not_shared() {
    let (_bucket, uri) = Bucket::new();
    let caches = Caches::new();
    fill(&open(&uri, caches.components()).await, 2).await;
    let with = async |account: &str| {
        let options = HashMap::from([("account".to_string(), account.to_string())]);
        let table = LsmTable::builder(&uri).settings(quiet()).components(caches.components());
        table.storage_options(options).open().await.unwrap()
    };
    let handles = [with("a").await, with("b").await, with("a").await];
    let [a, b, again] = handles.each_ref().map(|table| generations(&table.snapshot()));
    let is_same = |a: &[Arc<Generation>], b: &[Arc<Generation>]| a.iter().zip(b).any(|(a, b)| Arc::ptr_eq(a, b));
    assert!(is_same(&a, &again) && !is_same(&a, &b));
    assert_eq!(caches.datasets.counts().loads, 6);
}

#[tokio::test]
async fn tables_share_the_caches_of_the_process_unless_they_are_given_others() {
    let [a, b] = [Components::default(), Components::default()];
    assert!(Arc::ptr_eq(&a.index_cache, &b.index_cache));
    let (_bucket, uri) = Bucket::new();
    let table = open(&uri, Components::default()).await;
    fill(&table, 1).await;
    table.close().await.unwrap();
    let mut opened = Vec::new();
    for cache_memory in [None, None, Some(Bytes::mib(0)), Some(Bytes::mib(0)), Some(Bytes::mib(8)), Some(Bytes::mib(8))]
    {
        let settings = Settings { cache_memory, ..quiet() };
        let table = LsmTable::builder(&uri).settings(settings).components(Components::default()).open().await.unwrap();
        opened.push(generations(&table.snapshot()).remove(0));
    }
    let is_shared = |a: usize, b: usize| Arc::ptr_eq(&opened[a], &opened[b]);
    assert!(is_shared(0, 1) && is_shared(2, 3), "the process's blocks, or none at all");
    assert!(!is_shared(4, 5) && !is_shared(0, 2) && !is_shared(0, 4) && !is_shared(2, 4));
}

/// A cache that keeps nothing, as a program may bring it.
#[derive(Debug, Default)]
struct Nothing {
    opened: AtomicU64,
    retained: AtomicU64,
}

#[async_trait]
impl DatasetCache for Nothing {
    async fn get_or_open(&self, _: &DatasetKey, open: OpenDataset<'_>) -> Result<CachedDataset> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        open.await
    }

    async fn retain_paths(&self, table: &TableKey, is_live: IsLive<'_>) {
        assert!(!table.location().is_empty() && is_live("what/is_gen_1000000"));
        self.retained.fetch_add(1, Ordering::Relaxed);
    }

    fn counts(&self) -> CacheCounts {
        CacheCounts { loads: self.opened.load(Ordering::Relaxed), ..CacheCounts::default() }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_works_with_a_dataset_cache_of_another_make() {
    let (_bucket, uri) = Bucket::new();
    let cache = Arc::new(Nothing::default());
    let components = Components { dataset_cache: Some(Arc::clone(&cache) as _), ..Caches::new().components() };
    let table = open(&uri, components.clone()).await;
    fill(&table, 2).await;
    let other = open(&uri, components).await;
    assert_eq!(scan(&other, &other.snapshot()).await.1, 2 * ROWS as usize);
    assert_eq!(cache.counts().loads, 4);
    table.truncate().await.unwrap();
    assert!(cache.retained.load(Ordering::Relaxed) > 0);
}
