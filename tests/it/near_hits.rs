//! A query looks for its nearest rows in many sources: those that may be among the nearest of all are compared and few
//! others, and the answer is that of brute force.
//!
//! No two rows are as far from the query, and rows that are near are much nearer than the others, whatever near means.

use std::fmt::Debug;
use std::iter::repeat_n;
use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion::physical_plan::collect;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_lsm::distance::Metric;
use datafusion_lsm::error::{Error, ErrorKind};
use datafusion_lsm::index_spec::{IndexKind, IndexSpec};
use datafusion_lsm::settings::{Bytes, Settings};
use datafusion_lsm::sql::{LsmSessionExt, LsmTableProvider};
use datafusion_lsm::table::{Components, CreateSpec, LsmTable, TableBuilder};
use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::support::place::{of_a_process, quiet, tight_budget};
use crate::support::plan::{analyzed, figure};
use crate::support::remote::{Bucket, Weather};
use crate::vector_search::{Model, WIDTH, batch, ids, rank, schema, sql_of};

const METRICS: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];
const GENERATIONS: usize = 6;
const ROWS: usize = 200;
const K: usize = 12;
/// How many rows are compared for each that is wanted, by all sources together.
const SHARE: usize = 2;
const QUERY: [f32; WIDTH] = [1.0; WIDTH];

type Rows = Vec<(i64, i64, Option<Vec<f32>>)>;

fn vector(is_near: bool, rng: &mut SmallRng) -> Vec<f32> {
    let (centre, spread) = if is_near { (1.0, 0.2) } else { (0.0, 1.0) };
    (0..WIDTH).map(|_| centre + spread * rng.random_range(-1.0..1.0_f32)).collect()
}

/// Rows of sources, of which so many are near to the query and so many are not.
fn sources(counts: &[(usize, usize)]) -> Vec<Rows> {
    let (mut rng, mut id) = (SmallRng::seed_from_u64(0x4EA2), 0);
    let mut row = |is_near: bool| {
        id += 1;
        (id, id, Some(vector(is_near, &mut rng)))
    };
    counts
        .iter()
        .map(|(near, far)| repeat_n(true, *near).chain(repeat_n(false, *far)).map(&mut row).collect())
        .collect()
}

fn vector_index(metric: Metric) -> IndexSpec {
    IndexSpec::new("e", IndexKind::vector(metric))
}

/// Whoever opens the table at `uri` as a process that keeps no rows of generations in memory.
fn builder(uri: &str, settings: Settings) -> TableBuilder {
    let components = Components { budget: tight_budget(), ..of_a_process() };
    LsmTable::builder(uri).settings(settings).components(components)
}

/// A table, and what is in it.
struct Table {
    table: Arc<LsmTable>,
    metric: Metric,
    model: Model,
}

impl Table {
    async fn created(uri: &str, settings: Settings, metric: Metric, indexes: Vec<IndexSpec>) -> Self {
        let key = vec!["id".to_string()];
        let spec =
            CreateSpec { schema: schema(), key, shards: 1, shard_column: None, indexes, defaults: Default::default() };
        let table = builder(uri, settings).create(spec).open().await.unwrap();
        Self { table, metric, model: Model::new() }
    }

    /// One whose generations have these rows, the oldest first, and an index each.
    async fn of(uri: &str, metric: Metric, generations: Vec<Rows>) -> Self {
        Self::with(uri, quiet(), metric, generations).await
    }

    /// The same with these settings.
    async fn with(uri: &str, settings: Settings, metric: Metric, generations: Vec<Rows>) -> Self {
        let mut table = Self::created(uri, settings, metric, vec![vector_index(metric)]).await;
        for rows in generations {
            table.write(rows).await;
            table.table.flush().await.unwrap();
        }
        table
    }

    /// The same in a fork of `bucket`, as a process has it that keeps nothing of what it reads.
    async fn forked(self, bucket: &Bucket) -> (Arc<Bucket>, Self) {
        self.table.close().await.unwrap();
        let (fork, uri) = bucket.fork();
        let settings = Settings { cache_memory: Some(Bytes(0)), ..quiet() };
        let table = builder(&uri, settings).open().await.unwrap();
        (fork, Self { table, ..self })
    }

    async fn write(&mut self, rows: Rows) {
        self.table.put(batch(&rows)).await.unwrap();
        self.model.extend(rows.into_iter().map(|(id, n, e)| (id, (n, e))));
    }

    /// A session that compares [`SHARE`] candidates for each row that is wanted.
    async fn session(&self, partitions: usize) -> SessionContext {
        let config = SessionConfig::new().with_target_partitions(partitions);
        let session = SessionContext::new_with_config(config).with_lsm();
        session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(&self.table)))).unwrap();
        session.sql(&format!("SET lsm.search.refine = {SHARE}")).await.unwrap().collect().await.unwrap();
        session
    }

    fn search(&self, k: usize) -> String {
        let (function, direction) = sql_of(self.metric);
        let query = QUERY.map(|x| x.to_string()).join(", ");
        format!("SELECT id FROM t ORDER BY {function}(e, [{query}]) {direction} LIMIT {k}")
    }

    /// Fails unless the `k` nearest rows are found.
    async fn check(&self, session: &SessionContext, k: usize) {
        let vectors = self.model.iter().filter_map(|(id, (_, e))| Some((rank(self.metric, e.as_ref()?, &QUERY), *id)));
        let mut nearest: Vec<(f64, i64)> = vectors.collect();
        nearest.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut expected: Vec<i64> = nearest.into_iter().take(k).map(|(_, id)| id).collect();
        let mut found = ids(session, &self.search(k)).await;
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected, "{:?}, the nearest {k}", self.metric);
    }

    /// The same, and how many rows each of these generations compared.
    async fn compared(&self, k: usize, partitions: usize, generations: RangeInclusive<usize>) -> (Vec<usize>, String) {
        let session = self.session(partitions).await;
        self.check(&session, k).await;
        let plan = analyzed(&session, &self.search(k)).await;
        let compared = |n: usize| figure(&plan, &format!("VectorTopKExec: source=generation {n},"), "distances");
        (generations.map(compared).collect(), plan)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_query_after_a_flush_finds_codes_decoded() {
    let (bucket, uri) = Bucket::new();
    let table = Table::of(&uri, Metric::L2, sources(&[(K, ROWS), (K, ROWS)])).await;
    let loads = |table: &Table| -> Vec<u64> {
        let snapshot = table.table.snapshot();
        snapshot.version().shards[0].generations.iter().map(|generation| generation.index_counts().loads).collect()
    };
    let before = loads(&table);
    table.check(&table.session(4).await, K).await;
    assert_eq!(loads(&table), before);
    // What is not in memory is not read back.
    let (_bucket, uri) = Bucket::new();
    let none = Settings { cache_memory: Some(Bytes(0)), ..quiet() };
    let apart = Table::with(&uri, none, Metric::L2, sources(&[(K, ROWS), (K, ROWS)])).await;
    let before = loads(&apart);
    apart.check(&apart.session(4).await, K).await;
    assert!(loads(&apart).iter().zip(&before).all(|(loads, before)| loads > before));
    // Who opens it loads those that its searches look into.
    let (_fork, table) = table.forked(&bucket).await;
    let before = loads(&table);
    table.check(&table.session(4).await, K).await;
    assert!(loads(&table).iter().zip(&before).all(|(loads, before)| loads > before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_one_generation_has_all_the_nearest_rows_few_others_are_compared() {
    for metric in METRICS {
        let (bucket, uri) = Bucket::new();
        let counts: Vec<_> = (0..GENERATIONS).map(|n| if n == 2 { (K, ROWS - K) } else { (0, ROWS) }).collect();
        let table = Table::of(&uri, metric, sources(&counts)).await;
        for partitions in [1, 4] {
            let (compared, plan) = table.compared(K, partitions, 1..=GENERATIONS).await;
            let all: usize = compared.iter().sum();
            assert!(compared[2] >= K, "{metric:?}: {compared:?}\n{plan}");
            assert!(all <= SHARE * K && 2 * all <= GENERATIONS * K, "{metric:?}: {compared:?}\n{plan}");
        }
        table.table.close().await.unwrap();
        bucket.remove();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_generations_are_as_good_each_compares_its_part() {
    for metric in METRICS {
        let (bucket, uri) = Bucket::new();
        let near = K / GENERATIONS;
        let table = Table::of(&uri, metric, sources(&[(near, ROWS - near); GENERATIONS])).await;
        for partitions in [1, 4] {
            let (compared, plan) = table.compared(K, partitions, 1..=GENERATIONS).await;
            assert!(compared.iter().all(|rows| (near..K).contains(rows)), "{metric:?}: {compared:?}\n{plan}");
            assert!(compared.iter().sum::<usize>() <= SHARE * K, "{metric:?}: {compared:?}\n{plan}");
        }
        table.table.close().await.unwrap();
        bucket.remove();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_rows_than_a_generation_has_are_found_in_all_of_them() {
    const FEW: usize = 40;
    const ALL: usize = GENERATIONS * FEW;
    for metric in METRICS {
        let (bucket, uri) = Bucket::new();
        let table = Table::of(&uri, metric, sources(&[(0, FEW); GENERATIONS])).await;
        // Of the first some are left out; of the others none can be.
        for k in [FEW + 20, 2 * FEW, FEW * 5 / 2, ALL, 2 * ALL] {
            for partitions in [1, 4] {
                let (compared, plan) = table.compared(k, partitions, 1..=GENERATIONS).await;
                let most = ALL.min(SHARE * k);
                assert_eq!(compared.iter().sum::<usize>(), most, "{metric:?} {k}: {compared:?}\n{plan}");
            }
        }
        table.table.close().await.unwrap();
        bucket.remove();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_sources_without_hits_are_found_beside_those_with() {
    for metric in METRICS {
        let (bucket, uri) = Bucket::new();
        let mut table = Table::created(&uri, quiet(), metric, Vec::new()).await;
        let counts: Vec<_> = [4, 0, 0, 5, 0, 0, 3].map(|near| (near, ROWS - near)).to_vec();
        for (n, rows) in sources(&counts).into_iter().enumerate() {
            table.write(rows).await;
            // The first generation is older than the index, and the last rows stay in the memtable.
            if n < GENERATIONS {
                table.table.flush().await.unwrap();
            }
            if n == 0 {
                assert!(table.table.create_index(&vector_index(metric), false).await.unwrap());
            }
        }
        for partitions in [1, 4] {
            let (compared, plan) = table.compared(K, partitions, 2..=GENERATIONS).await;
            assert!(plan.contains("source=generation 1, flat=no index"), "{plan}");
            assert!(plan.contains("VectorTopKExec: source=memtable"), "{plan}");
            assert!(compared[2] >= 5 && compared.iter().sum::<usize>() <= SHARE * K, "{compared:?}\n{plan}");
        }
        table.table.close().await.unwrap();
        bucket.remove();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_whose_index_is_damaged_is_compared_row_by_row_beside_the_others() {
    let (bucket, uri) = Bucket::new();
    let near = K / GENERATIONS;
    let table = Table::of(&uri, Metric::L2, sources(&[(near, ROWS - near); GENERATIONS])).await;
    let (bucket, table) = table.forked(&bucket).await;
    let objects: Vec<ObjectMeta> = bucket.objects().list(None).try_collect().await.unwrap();
    let mut gone = 0;
    for object in objects {
        if object.location.as_ref().contains("_gen_3/") && object.location.as_ref().ends_with("auxiliary.idx") {
            bucket.objects().delete(&object.location).await.unwrap();
            gone += 1;
        }
    }
    assert_eq!(gone, 1);
    for partitions in [1, 4] {
        let (compared, plan) = table.compared(K, partitions, 1..=GENERATIONS).await;
        assert_eq!(compared[2], ROWS, "{plan}");
        assert!(compared.iter().sum::<usize>() - ROWS <= SHARE * K, "{compared:?}\n{plan}");
    }
    table.table.close().await.unwrap();
}

/// A table all of whose nearest rows are in its third generation, on a store of its own, with nothing in memory.
async fn near_in_the_third() -> (Arc<Bucket>, Table) {
    let (bucket, uri) = Bucket::new();
    let counts: Vec<_> = (0..GENERATIONS).map(|n| if n == 2 { (K, ROWS - K) } else { (0, ROWS) }).collect();
    Table::of(&uri, Metric::L2, sources(&counts)).await.forked(&bucket).await
}

/// What `asked` comes to while the third generation cannot be read.
async fn lost<T: Debug>(bucket: &Bucket, asked: impl Future<Output = datafusion::error::Result<T>>) {
    // What is asked again waits between: nobody has to wait with it.
    tokio::time::pause();
    bucket.set_weather(Weather::Lost("_gen_3/"));
    assert_eq!(Error::from(asked.await.unwrap_err()).kind(), ErrorKind::Unavailable);
    tokio::time::resume();
    bucket.set_weather(Weather::Fine);
}

#[tokio::test]
async fn a_generation_that_cannot_be_read_fails_the_query_and_not_the_next_one() {
    let (bucket, table) = near_in_the_third().await;
    for partitions in [1, 4] {
        let session = table.session(partitions).await;
        lost(&bucket, async { session.sql(&table.search(K)).await?.collect().await }).await;
        table.check(&session, K).await;
    }
    table.table.close().await.unwrap();
}

#[tokio::test]
async fn a_plan_that_failed_is_executed_again_when_its_cause_is_gone() {
    let (bucket, table) = near_in_the_third().await;
    for partitions in [1, 4] {
        let session = table.session(partitions).await;
        let mut plan = session.sql(&table.search(K)).await.unwrap().create_physical_plan().await.unwrap();
        lost(&bucket, collect(Arc::clone(&plan), session.task_ctx())).await;
        for _ in 0..2 {
            plan = reset_plan_states(plan).unwrap();
            let rows = collect(Arc::clone(&plan), session.task_ctx()).await.unwrap();
            let found: i64 =
                rows.iter().map(|rows| rows.column(0).as_primitive::<Int64Type>().values().iter().sum::<i64>()).sum();
            // Those of the third generation come first.
            let first = 2 * ROWS as i64 + 1;
            assert_eq!(found, (first..first + K as i64).sum::<i64>());
        }
    }
    table.table.close().await.unwrap();
}
