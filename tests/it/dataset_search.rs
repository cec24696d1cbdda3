//! The nearest rows of a base by the vector indexes that Lance made of it, against brute force.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchIterator};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionContext;
use datafusion_lsm::base::AdoptSpec;
use datafusion_lsm::distance::Metric;
use datafusion_lsm::index_spec::{IndexKind, IndexSpec};
use datafusion_lsm::sql::{LsmSessionExt, LsmTableProvider};
use datafusion_lsm::table::LsmTable;
use lance::Dataset;
use lance::dataset::{WriteMode, WriteParams};
use lance::index::DatasetIndexExt;
use lance::index::vector::VectorIndexParams;
use lance_index::IndexType;
use lance_index::vector::bq::RQBuildParams;
use lance_index::vector::hnsw::builder::HnswBuildParams;
use lance_index::vector::ivf::IvfBuildParams;
use lance_index::vector::pq::PQBuildParams;
use lance_index::vector::sq::builder::SQBuildParams;
use lance_linalg::distance::DistanceType;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::support::number_from_env;
use crate::support::plan::{analyzed, explained, figure};
use crate::vector_search::{Model, WIDTH, batch, check, created, ids, rank, schema, sql_of, vector};

const PARTITIONS: usize = 8;

pub(crate) fn distance(metric: Metric) -> DistanceType {
    match metric {
        Metric::L2 => DistanceType::L2,
        Metric::Cosine => DistanceType::Cosine,
        Metric::InnerProduct => DistanceType::Dot,
    }
}

fn params(kind: &str, metric: Metric) -> VectorIndexParams {
    let metric = distance(metric);
    let ivf = IvfBuildParams { max_iters: 5, sample_rate: 64, ..IvfBuildParams::new(PARTITIONS) };
    let pq = PQBuildParams { num_sub_vectors: 12, num_bits: 8, max_iters: 5, ..Default::default() };
    let graph = HnswBuildParams { ef_construction: 60, ..Default::default() };
    match kind {
        "IVF_FLAT" => VectorIndexParams::with_ivf_flat_params(metric, ivf),
        "IVF_PQ" => VectorIndexParams::with_ivf_pq_params(metric, ivf, pq),
        "IVF_SQ" => VectorIndexParams::with_ivf_sq_params(metric, ivf, SQBuildParams::default()),
        "IVF_RQ" => VectorIndexParams::with_ivf_rq_params(metric, ivf, RQBuildParams::new(5)),
        "IVF_HNSW_SQ" => VectorIndexParams::with_ivf_hnsw_sq_params(metric, ivf, graph, SQBuildParams::default()),
        _ => VectorIndexParams::with_ivf_hnsw_pq_params(metric, ivf, graph, pq),
    }
}

/// A table whose base was written, indexed, appended to and deleted from by Lance.
struct Adopted {
    dir: tempfile::TempDir,
    table: Arc<LsmTable>,
    session: SessionContext,
    model: Model,
}

impl Adopted {
    async fn new(kind: &str, metric: Metric, option: (&str, &str), rng: &mut SmallRng) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let uri = dir.path().join("t").to_str().unwrap().to_string();
        let mut model = Model::new();
        let mut write = async |from: i64, to: i64, mode: WriteMode, rng: &mut SmallRng| {
            let rows: Vec<_> = (from..to)
                .map(|id| {
                    let e = match id % 200 {
                        3 | 4 => None,
                        5 => Some([&[f32::NAN], &vector(rng)[1..]].concat()),
                        6 if metric == Metric::Cosine => Some(vec![0.0; WIDTH]),
                        _ => Some(vector(rng)),
                    };
                    (id, rng.random_range(0..1000), e)
                })
                .collect();
            let reader = RecordBatchIterator::new([Ok(batch(&rows))], schema());
            let enable_stable_row_ids = kind == "IVF_SQ";
            let params = WriteParams { mode, max_rows_per_file: 1000, enable_stable_row_ids, ..Default::default() };
            let dataset = Dataset::write(reader, uri.as_str(), Some(params)).await.unwrap();
            // Under cosine a vector of zeros is as good as none.
            let distant = |e: &Vec<f32>| metric != Metric::Cosine || e.iter().any(|x| *x != 0.0);
            model.extend(rows.into_iter().map(|(id, n, e)| (id, (n, e.filter(distant)))));
            dataset
        };
        let mut dataset = write(0, 2400, WriteMode::Create, rng).await;
        let params = params(kind, metric);
        dataset.create_index(&["e"], IndexType::Vector, Some("near".into()), &params, true).await.unwrap();
        let mut dataset = write(2400, 2700, WriteMode::Append, rng).await;
        dataset.delete("id % 17 = 5").await.unwrap();
        model.retain(|id, _| id % 17 != 5);

        let spec = AdoptSpec {
            key: vec!["id".into()],
            indexes: vec![IndexSpec::new("e", IndexKind::vector(metric))],
            ..Default::default()
        };
        let table = LsmTable::builder(&uri).option(option.0, option.1).adopt(spec).open().await.unwrap();
        let session = SessionContext::new().with_lsm();
        session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(&table)))).unwrap();
        Self { dir, table, session, model }
    }

    fn uri(&self) -> String {
        self.dir.path().join("t").to_str().unwrap().to_string()
    }

    async fn set(&self, sql: &str) {
        self.session.sql(sql).await.unwrap().collect().await.unwrap();
    }

    /// The plan of a search with its figures, or without.
    async fn explain(&self, explain: &str, metric: Metric, filter: &str, k: usize) -> String {
        let (function, direction) = sql_of(metric);
        let query = vec!["1.5"; WIDTH].join(", ");
        let sql =
            format!("{explain} SELECT id FROM t {filter} ORDER BY {function}(e, [{query}]) {direction} LIMIT {k}");
        let rows = self.session.sql(&sql).await.unwrap().collect().await.unwrap();
        rows.iter().flat_map(|b| b.column(1).as_string::<i32>().iter().flatten().collect::<Vec<_>>()).collect()
    }

    async fn change(&mut self, rng: &mut SmallRng) {
        let rows: Vec<_> = (0..200)
            .map(|i| (i * 14 + rng.random_range(0..14), rng.random_range(0..1000), Some(vector(rng))))
            .collect();
        self.table.put(batch(&rows)).await.unwrap();
        self.model.extend(rows.into_iter().map(|(id, n, e)| (id, (n, e))));
        let gone: Vec<i64> = self.model.keys().copied().filter(|id| id % 11 == 2).collect();
        let keys = RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(gone.clone())) as ArrayRef)]);
        self.table.delete(keys.unwrap()).await.unwrap();
        gone.iter().for_each(|id| drop(self.model.remove(id)));
    }
}

/// A base is searched by an index of this kind, before and after rows of it are superseded.
async fn searches_by(kind: &str, metric: Metric) {
    let seed = number_from_env("LSM_SEED", 0xBA5E);
    eprintln!("LSM_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut table = Adopted::new(kind, metric, ("lsm.ack", "memory"), &mut rng).await;
    let plan = table.explain("EXPLAIN", metric, "", 10).await;
    assert!(plan.contains(&format!("index={kind}")), "{plan}");
    let (mut hits, mut all) = (0, 0);
    for _ in 0..2 {
        for _ in 0..6 {
            let (found, of) = check(&table.session, &table.model, metric, &mut rng).await;
            (hits, all) = (hits + found, all + of);
        }
        table.change(&mut rng).await;
    }
    assert!(hits as f64 >= 0.95 * all as f64, "{kind} {metric:?}: {hits} of {all}");
    table.table.close().await.unwrap();
}

macro_rules! each_kind {
    ($($name:ident: $kind:literal, $metric:ident;)*) => {$(
        #[tokio::test]
        async fn $name() {
            searches_by($kind, Metric::$metric).await;
        }
    )*};
}

// Lance's indexes of a base.
each_kind! {
    a_base_with_ivf_flat_is_searched_by_it: "IVF_FLAT", Cosine;
    a_base_with_ivf_pq_is_searched_by_it: "IVF_PQ", L2;
    a_base_with_ivf_sq_and_stable_row_ids_is_searched_by_it: "IVF_SQ", InnerProduct;
    a_base_with_ivf_rq_is_searched_by_it: "IVF_RQ", Cosine;
    a_base_with_ivf_hnsw_sq_is_searched_by_it: "IVF_HNSW_SQ", L2;
    a_base_with_ivf_hnsw_pq_is_searched_by_it: "IVF_HNSW_PQ", Cosine;
}

#[tokio::test]
async fn superseded_rows_of_a_base_without_resident_keys_are_replaced_by_others() {
    let mut rng = SmallRng::seed_from_u64(0xFEED);
    let mut table = Adopted::new("IVF_SQ", Metric::L2, ("lsm.base.keys", "1B"), &mut rng).await;
    let (mut hits, mut all) = (0, 0);
    for _ in 0..3 {
        table.change(&mut rng).await;
        for _ in 0..8 {
            let (found, of) = check(&table.session, &table.model, Metric::L2, &mut rng).await;
            (hits, all) = (hits + found, all + of);
        }
    }
    assert!(hits as f64 >= 0.95 * all as f64, "{hits} of {all}");
    table.table.close().await.unwrap();
}

#[tokio::test]
async fn rows_behind_many_superseded_ones_are_found() {
    let mut rng = SmallRng::seed_from_u64(0xD0C);
    let mut table = Adopted::new("IVF_PQ", Metric::L2, ("lsm.ack", "memory"), &mut rng).await;
    let query = [0.1; WIDTH];
    let sql = format!("SELECT id FROM t ORDER BY l2_distance(e, [{}]) LIMIT 10", vec!["0.1"; WIDTH].join(", "));
    // Far more than the candidates that the index would give.
    for gone in [0, 700] {
        let distance = |e: &[f32]| e.iter().zip(query).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        let there = table.model.iter().filter_map(|(id, (_, e))| Some((distance(e.as_ref()?), *id)));
        let mut near: Vec<(f32, i64)> = there.filter(|(distance, _)| distance.is_finite()).collect();
        near.sort_by(|a, b| a.0.total_cmp(&b.0));
        let near: Vec<i64> = near.into_iter().map(|(_, id)| id).collect();
        let keys = Arc::new(Int64Array::from(near[..gone].to_vec())) as ArrayRef;
        table.table.delete(RecordBatch::try_from_iter([("id", keys)]).unwrap()).await.unwrap();
        near[..gone].iter().for_each(|id| drop(table.model.remove(id)));
        let plan = table.explain("EXPLAIN ANALYZE", Metric::L2, "", 10).await;
        assert!(plan.contains("index=IVF_PQ") && !plan.contains("flat_fell_short"), "{plan}");
        let (found, truth) = (ids(&table.session, &sql).await, &near[gone..gone + 10]);
        let hits = found.iter().filter(|id| truth.contains(id)).count();
        assert!(found.len() == 10 && hits >= 9, "{gone} gone: {found:?}, not {truth:?}");
    }
    table.table.close().await.unwrap();
}

#[tokio::test]
async fn what_an_index_cannot_answer_is_compared_row_by_row() {
    let mut rng = SmallRng::seed_from_u64(0xF1A7);
    let table = Adopted::new("IVF_PQ", Metric::L2, ("lsm.ack", "memory"), &mut rng).await;
    let figure = |plan: &str, name: &str| figure(plan, "source=base", name);
    let analyze = "EXPLAIN ANALYZE";
    let plan = table.explain(analyze, Metric::L2, "", 10).await;
    // The fragment that was appended, and the vectors with NaN.
    let appended = table.model.keys().filter(|id| **id >= 2400).count();
    let odd = table.model.keys().filter(|id| **id < 2400 && *id % 200 == 5).count();
    assert_eq!((figure(&plan, "flat"), figure(&plan, "partitions")), (appended + odd, PARTITIONS), "{plan}");
    assert_eq!((figure(&plan, "flat_not_indexed"), figure(&plan, "flat_odd")), (appended, odd), "{plan}");
    assert!(!plan.contains("flat_fell_short"), "{plan}");
    table.set("SET lsm.search.nprobes = 2").await;
    table.set("SET lsm.search.refine = 3").await;
    let plan = table.explain(analyze, Metric::L2, "WHERE id < 2400", 10).await;
    assert_eq!(figure(&plan, "partitions"), 2, "{plan}");
    // More than two partitions have: all rows are compared, though they were told not to be looked into.
    let everything = table.explain(analyze, Metric::L2, "", 2690).await;
    assert!(figure(&everything, "flat_fell_short") > 2000, "{everything}");
    let sql = format!("SELECT id FROM t ORDER BY l2_distance(e, [{}]) LIMIT 5000", vec!["0"; WIDTH].join(", "));
    assert_eq!(ids(&table.session, &sql).await.len(), table.model.len());
    let few = table.explain(analyze, Metric::L2, "WHERE n < 20", 10).await;
    assert_eq!((figure(&few, "partitions"), figure(&few, "flat_few_pass")), (0, figure(&few, "flat")), "{few}");
    // An index of another metric is none.
    let other = table.explain("EXPLAIN", Metric::Cosine, "", 10).await;
    assert!(!other.contains("index=IVF"), "{other}");
    for bad in ["SET lsm.search.nprobes = 0", "SET lsm.search.ef = 'many'", "SET lsm.search.refine = 5000"] {
        assert!(table.session.sql(bad).await.is_err(), "{bad}");
    }
    table.table.close().await.unwrap();
}

#[tokio::test]
async fn a_query_too_long_for_estimates_is_compared_with_all_rows_of_a_base() {
    let mut rng = SmallRng::seed_from_u64(0x1E20);
    for (kind, metric) in [("IVF_SQ", Metric::InnerProduct), ("IVF_FLAT", Metric::Cosine)] {
        let table = Adopted::new(kind, metric, ("lsm.ack", "memory"), &mut rng).await;
        let query: Vec<f32> = vector(&mut rng).iter().map(|x| x * 1e20).collect();
        let text: Vec<String> = query.iter().map(|x| format!("{x:e}")).collect();
        let (function, direction) = sql_of(metric);
        let sql = format!("SELECT id FROM t ORDER BY {function}(e, [{}]) {direction} LIMIT 40", text.join(", "));
        let plan = analyzed(&table.session, &sql).await;
        assert!(plan.contains(&format!("index={kind}")), "{plan}");
        assert_eq!(figure(&plan, "source=base", "partitions"), 0, "{plan}");
        let compared = figure(&plan, "source=base", "flat_huge_query");
        assert_eq!(compared, figure(&plan, "source=base", "flat"), "{plan}");
        assert!(compared.abs_diff(table.model.len()) < 10, "{} rows: {plan}", table.model.len());
        let usual = table.explain("EXPLAIN ANALYZE", metric, "", 40).await;
        assert!(figure(&usual, "source=base", "partitions") > 0 && !usual.contains("flat_huge_query"), "{usual}");

        let there = table.model.iter().filter_map(|(id, (_, e))| Some((rank(metric, e.as_ref()?, &query), *id)));
        let mut near: Vec<(f64, i64)> = there.filter(|(rank, _)| !rank.is_nan()).collect();
        near.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut truth: Vec<i64> = near[..40].iter().map(|(_, id)| *id).collect();
        truth.sort_unstable();
        for mode in ["auto", "exact"] {
            table.set(&format!("SET lsm.search.mode = '{mode}'")).await;
            let mut found = ids(&table.session, &sql).await;
            found.sort_unstable();
            assert_eq!(found, truth, "{metric:?} {mode}");
        }
        table.table.close().await.unwrap();
    }
}

#[tokio::test]
async fn as_many_rows_are_compared_as_refine_says_from_as_many_partitions_as_nprobes_says() {
    let mut rng = SmallRng::seed_from_u64(0x0EF1);
    let table = Adopted::new("IVF_PQ", Metric::L2, ("lsm.ack", "memory"), &mut rng).await;
    let mut told = Vec::new();
    for (refine, nprobes) in [(1, PARTITIONS), (7, PARTITIONS), (7, 3)] {
        table.set(&format!("SET lsm.search.refine = {refine}")).await;
        table.set(&format!("SET lsm.search.nprobes = {nprobes}")).await;
        let plan = table.explain("EXPLAIN ANALYZE", Metric::L2, "", 10).await;
        let figure = |name: &str| figure(&plan, "source=base", name);
        told.push((figure("distances"), figure("partitions")));
    }
    // Besides its candidates there are the rows that the index does not have.
    let others = told[0].0 - 10;
    assert_eq!(told, [(others + 10, PARTITIONS), (others + 70, PARTITIONS), (others + 70, 3)]);
    table.table.close().await.unwrap();
}

#[tokio::test]
async fn a_graph_is_searched_as_widely_as_ef_says() {
    const ROWS: usize = 2000;
    let mut rng = SmallRng::seed_from_u64(0xEF);
    let mut noise = || (0..WIDTH).map(|_| rng.random::<f32>()).collect::<Vec<f32>>();
    let rows: Vec<_> = (0..ROWS as i64).map(|id| (id, id, Some(noise()))).collect();
    let queries: Vec<Vec<f32>> = (0..20).map(|_| noise()).collect();
    let dir = tempfile::tempdir().unwrap();
    let (table, session) = created(dir.path(), schema(), 1, Vec::new()).await;
    let written = futures::stream::iter([Ok(batch(&rows))]);
    table.replace_all(Box::pin(RecordBatchStreamAdapter::new(table.schema(), written))).await.unwrap();
    let graph = IndexSpec::parse("e", "hnsw(l2, m=12, ef_construction=30)").unwrap().remove(0);
    assert!(table.create_index(&graph, false).await.unwrap());
    let run = async |sql: &str| session.sql(sql).await.unwrap().collect().await.unwrap();
    // The graph alone decides which rows are compared.
    run("SET lsm.search.refine = 1").await;
    let mut right = Vec::new();
    for ef in [1, ROWS] {
        run(&format!("SET lsm.search.ef = {ef}")).await;
        let mut hits = 0;
        for query in &queries {
            let text: Vec<String> = query.iter().map(f32::to_string).collect();
            let search = format!("SELECT id FROM t ORDER BY l2_distance(e, [{}]) LIMIT 10", text.join(", "));
            let plan = explained(&session, &search).await;
            assert!(plan.contains("index=IVF_HNSW_FLAT"), "{plan}");
            let found = ids(&session, &search).await;
            let mut near: Vec<(f64, i64)> =
                rows.iter().filter_map(|(id, _, e)| Some((rank(Metric::L2, e.as_ref()?, query), *id))).collect();
            near.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert_eq!(found.len(), 10);
            hits += near[..10].iter().filter(|(_, id)| found.contains(id)).count();
        }
        right.push(hits);
    }
    assert!(right[0] < right[1] && right[1] >= 198, "{right:?} of 200");
    table.close().await.unwrap();
}

/// The generations of the only shard of the table at `uri`, as Lance opens them.
async fn generations(uri: &str) -> Vec<Dataset> {
    let mut dirs: Vec<String> = walkdir::WalkDir::new(format!("{uri}/_mem_wal"))
        .max_depth(2)
        .into_iter()
        .filter_map(|entry| Some(entry.ok()?.path().to_str()?.to_string()))
        .filter(|path| path.rsplit('/').next().is_some_and(|name| name.contains("_gen_")))
        .collect();
    dirs.sort_by_key(|dir| dir.rsplit('_').next().unwrap().parse::<u64>().unwrap());
    let mut opened = Vec::new();
    for dir in dirs {
        opened.push(Dataset::open(&dir).await.unwrap());
    }
    opened
}

#[tokio::test]
async fn lance_finds_the_vector_index_of_our_generations_by_its_name() {
    let mut rng = SmallRng::seed_from_u64(0x1A4CE);
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        let table = Adopted::new("IVF_FLAT", metric, ("lsm.ack", "memory"), &mut rng).await;
        table.table.flush().await.unwrap();
        // More than one partition, rows without a vector, and rows without a rank.
        let rows: Vec<_> = (0..5000)
            .map(|id| {
                let e = match id % 100 {
                    1 => None,
                    2 => Some([&[f32::INFINITY], &vector(&mut rng)[1..]].concat()),
                    3 => Some(vec![0.0; WIDTH]),
                    _ => Some(vector(&mut rng)),
                };
                (id + 10_000, id, e)
            })
            .collect();
        table.table.put(batch(&rows)).await.unwrap();
        table.table.flush().await.unwrap();
        let plan = table.explain("EXPLAIN", metric, "", 5).await;
        assert!(plan.contains("source=generation 1, index=IVF_RQ"), "{plan}");

        let generation = generations(&table.uri()).await.pop().unwrap();
        let name = table.table.indexes().iter().find(|index| index.column == "e").unwrap().name.clone();
        let index = generation.load_indices_by_name(&name).await.unwrap();
        assert_eq!(index.len(), 1, "{name}");
        let query = arrow::array::Float32Array::from(vector(&mut rng));
        let mut scan = generation.scan();
        scan.nearest("e", &query, 10).unwrap().distance_metric(distance(metric)).refine(4).fast_search();
        scan.project(&["id"]).unwrap();
        let plan = scan.explain_plan(false).await.unwrap();
        assert!(plan.contains("ANNSubIndex"), "{plan}");
        let found = scan.try_into_batch().await.unwrap();
        let found: Vec<i64> = found["id"].as_primitive::<arrow::datatypes::Int64Type>().values().to_vec();
        let ranked =
            |e: &Vec<f32>| e.iter().all(|x| x.is_finite()) && (metric != Metric::Cosine || e.iter().any(|x| *x != 0.0));
        let mut truth: Vec<_> = rows
            .iter()
            .filter_map(|(id, _, e)| Some((rank(metric, e.as_ref().filter(|e| ranked(e))?, query.values()), *id)))
            .collect();
        truth.sort_by(|a, b| a.0.total_cmp(&b.0));
        let hits = truth[..10].iter().filter(|(_, id)| found.contains(id)).count();
        assert!(hits >= 8, "{metric:?}: {hits} of 10");
        table.table.close().await.unwrap();
    }
}

#[tokio::test]
async fn generations_without_a_single_vector_are_searched() {
    let mut rng = SmallRng::seed_from_u64(0x0);
    let mut table = Adopted::new("IVF_FLAT", Metric::Cosine, ("lsm.ack", "memory"), &mut rng).await;
    let rows: Vec<_> = (0..5000).map(|i| (i, i, (i % 2 == 0).then(|| vec![0.0; WIDTH]))).collect();
    table.table.put(batch(&rows)).await.unwrap();
    table.table.flush().await.unwrap();
    table.model.extend(rows.into_iter().map(|(id, n, _)| (id, (n, None))));
    for _ in 0..3 {
        check(&table.session, &table.model, Metric::Cosine, &mut rng).await;
    }
    table.table.close().await.unwrap();
}

#[tokio::test]
async fn vectors_of_any_width_are_found_in_generations() {
    let dir = tempfile::tempdir().unwrap();
    let session = SessionContext::new().with_lsm();
    let run = async |sql: &str| session.sql(sql).await.unwrap().collect().await.unwrap();
    for (width, kind) in [(1, "IVF_SQ"), (6, "IVF_SQ"), (8, "IVF_RQ"), (256, "IVF_RQ"), (768, "IVF_RQ")] {
        let place = dir.path().join(format!("w{width}"));
        let create = format!(
            "CREATE EXTERNAL TABLE w{width} (id BIGINT PRIMARY KEY, e FLOAT[{width}]) STORED AS LSM LOCATION '{}' \
             OPTIONS ('lsm.index.e' 'vector(l2)')",
            place.display()
        );
        run(&create).await;
        let near = |i: usize| vec![(i as f32 * 1.5).to_string(); width].join(", ");
        let rows: Vec<String> = (0..300).map(|i| format!("({i}, [{}])", near(i))).collect();
        run(&format!("INSERT INTO w{width} VALUES {}", rows.join(", "))).await;
        run(&format!("SELECT * FROM lsm_flush('w{width}')")).await;
        let search = format!("SELECT id FROM w{width} ORDER BY l2_distance(e, [{}]) LIMIT 3", near(100));
        let plan = explained(&session, &search).await;
        assert!(plan.contains(&format!("source=generation 1, index={kind}")), "{plan}");
        let mut found = ids(&session, &search).await;
        found.sort_unstable();
        assert_eq!(found, [99, 100, 101], "width {width}");
    }
}

#[tokio::test]
async fn a_vector_that_is_far_longer_than_the_others_is_found_after_a_flush() {
    let mut rng = SmallRng::seed_from_u64(0x1E20);
    for (metric, longest) in [(Metric::InnerProduct, 1e19), (Metric::Cosine, 1e-20), (Metric::L2, 1e19)] {
        let table = Adopted::new("IVF_FLAT", metric, ("lsm.ack", "memory"), &mut rng).await;
        // It points where no other does.
        let odd = |i: usize, by: f32| if i == 1 { -5.0 * by } else { by };
        let mut rows: Vec<_> = (10_000..15_000).map(|id| (id, id, Some(vector(&mut rng)))).collect();
        rows[77].2 = Some((0..WIDTH).map(|i| odd(i, longest)).collect());
        table.table.put(batch(&rows)).await.unwrap();
        let (function, direction) = sql_of(metric);
        let by = if metric == Metric::L2 { longest } else { 1.0 };
        let query: Vec<String> = (0..WIDTH).map(|i| format!("{:e}", odd(i, by))).collect();
        let search = format!(
            "SELECT id FROM t WHERE id >= 10000 ORDER BY {function}(e, [{}]) {direction} LIMIT 1",
            query.join(", ")
        );
        let mut found = Vec::new();
        for flush in [false, true] {
            if flush {
                table.table.flush().await.unwrap();
            }
            found.push(ids(&table.session, &search).await);
        }
        assert_eq!(found, [[10_077], [10_077]], "{metric:?}");
        for _ in 0..3 {
            let query = vector(&mut rng).iter().map(f32::to_string).collect::<Vec<_>>().join(", ");
            let search =
                format!("SELECT id FROM t WHERE id >= 10000 ORDER BY {function}(e, [{query}]) {direction} LIMIT 20");
            let approximate = ids(&table.session, &search).await;
            table.set("SET lsm.search.mode = 'exact'").await;
            let exact = ids(&table.session, &search).await;
            table.set("SET lsm.search.mode = 'auto'").await;
            let hits = exact.iter().filter(|id| approximate.contains(id)).count();
            assert!(hits >= 16, "{metric:?}: {hits} of 20");
        }
    }
}
