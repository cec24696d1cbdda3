//! The indexes of generations: Lance's are searched here, ours are searched by Lance.
#![allow(clippy::print_stdout, reason = "a test that fails tells its seed")]

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, Float32Array, RecordBatch, RecordBatchIterator};
use arrow::datatypes::{Int64Type, Schema};
use datafusion::prelude::SessionContext;
use datafusion_lsm::distance::Metric;
use datafusion_lsm::ids::ShardId;
use datafusion_lsm::index_spec::{IndexKind, IndexSpec};
use datafusion_lsm::sql::{LsmSessionExt, LsmTableProvider};
use datafusion_lsm::table::LsmTable;
use lance::Dataset;
use lance::dataset::mem_wal::{DatasetMemWalExt, LsmScanner, ShardWriterConfig};
use lance::index::DatasetIndexExt;
use lance::index::vector::VectorIndexParams;
use lance_index::IndexType;
use lance_index::scalar::{InvertedIndexParams, ScalarIndexParams};
use lance_index::vector::hnsw::builder::HnswBuildParams;
use lance_index::vector::ivf::IvfBuildParams;
use lance_index::vector::sq::builder::SQBuildParams;

use super::lance_side::generations_of;
use crate::dataset_search::distance;
use crate::support::documents::{Documents, K, Live, check_nearest, check_texts, gone, nearest, nearest_sql, schema};
use crate::support::number_from_env;
use crate::support::place::quiet;
use crate::support::plan::{analyzed, explained, figure};
use crate::support::rows::stream;
use crate::vector_search::{created, ids};

/// Rows of the base, some of which the generation has anew.
const BASE: i64 = 400;
const FIRST: i64 = 250;

/// The batch with its first column marked as Lance marks a key.
fn marked(batch: &RecordBatch) -> RecordBatch {
    let mark = HashMap::from([("lance-schema:unenforced-primary-key".to_string(), "true".to_string())]);
    let mut fields: Vec<_> = batch.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields[0].set_metadata(mark);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), batch.columns().to_vec()).unwrap()
}

/// A table whose base and first generation Lance wrote with indexes of its own, opened here.
struct Theirs {
    table: Arc<LsmTable>,
    session: SessionContext,
    documents: Documents,
    live: Live,
    /// The keys of the generation.
    keys: Range<i64>,
    _dir: tempfile::TempDir,
}

impl Theirs {
    /// A generation of so many rows and some that are not the newest of their keys, each with a pad of so many bytes.
    async fn new(metric: Metric, rows: i64, pad: usize) -> Self {
        let seed = number_from_env("LSM_SEED", 0x1A7CE);
        println!("LSM_SEED={seed}");
        let dir = tempfile::tempdir().unwrap();
        let uri = dir.path().join("t").to_str().unwrap().to_string();
        let (mut documents, mut live, keys) = (Documents::new(seed, pad), Live::new(), FIRST..FIRST + rows);
        Box::pin(Self::write(&uri, &mut documents, &mut live, metric, keys.clone())).await;
        let table = LsmTable::open(&uri, quiet()).await.unwrap();
        let session = SessionContext::new().with_lsm();
        session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(&table)))).unwrap();
        Self { table, session, documents, live, keys, _dir: dir }
    }

    async fn write(uri: &str, documents: &mut Documents, live: &mut Live, metric: Metric, keys: Range<i64>) {
        let base = marked(&documents.rows(0..BASE, live));
        let schema = base.schema();
        let mut dataset = Dataset::write(RecordBatchIterator::new([Ok(base)], schema), uri, None).await.unwrap();
        let ivf = IvfBuildParams { max_iters: 5, sample_rate: 64, ..IvfBuildParams::new(1) };
        let (graph, bytes) = (HnswBuildParams::default(), SQBuildParams::default());
        let near = VectorIndexParams::with_ivf_hnsw_sq_params(distance(metric), ivf, graph, bytes);
        dataset.create_index(&["e"], IndexType::Vector, Some("near".into()), &near, true).await.unwrap();
        let words = InvertedIndexParams::default().with_position(true);
        dataset.create_index(&["body"], IndexType::Inverted, Some("words".into()), &words, true).await.unwrap();
        let numbers = ScalarIndexParams::default();
        dataset.create_index(&["n"], IndexType::BTree, Some("numbers".into()), &numbers, true).await.unwrap();
        let kept = ["near", "words", "numbers"];
        dataset.initialize_mem_wal().unsharded().maintained_indexes(kept).execute().await.unwrap();

        let config = ShardWriterConfig {
            max_wal_flush_interval: Some(Duration::from_millis(1)),
            max_memtable_rows: 8_000,
            ..ShardWriterConfig::default()
        };
        let writer = dataset.mem_wal_writer(ShardId::unsharded().0, config).await.unwrap();
        for from in keys.clone().step_by(300) {
            writer.put(vec![documents.rows(from..keys.end.min(from + 300), live)]).await.unwrap();
        }
        writer.put(vec![documents.rows(keys.clone().step_by(19), live)]).await.unwrap();
        writer.delete(vec![gone(keys.step_by(23), live)]).await.unwrap();
        writer.force_freeze_active().await.unwrap().wait().await.unwrap();
        writer.close().await.unwrap();
    }

    async fn set(&self, mode: &str) {
        let set = format!("SET lsm.search.mode = '{mode}'");
        self.session.sql(&set).await.unwrap().collect().await.unwrap();
    }

    /// Compares the nearest rows with brute force: by indexes, and comparing all.
    async fn check_vectors(&mut self, metric: Metric) {
        let (hits, all) = check_nearest(&self.session, &mut self.documents, &self.live, metric, 12).await;
        assert!(hits as f64 >= 0.95 * all as f64, "{metric:?}: {hits} of {all}");
        self.set("exact").await;
        let (hits, all) = check_nearest(&self.session, &mut self.documents, &self.live, metric, 3).await;
        assert_eq!(hits, all, "{metric:?}: all rows are compared");
        self.set("auto").await;
    }

    async fn check_words(&self) {
        for words in [&["fox"][..], &["rod"], &["map", "red"], &["sun", "fog", "dog"]] {
            check_texts(&self.session, &self.live, words).await;
        }
        let has = |words: &Vec<&str>| words.windows(2).any(|pair| pair == ["red", "fox"]);
        let phrase = self.live.iter().filter(|(_, row)| row.words.as_ref().is_some_and(has)).map(|(id, _)| *id);
        let found = ids(&self.session, "SELECT id FROM t WHERE text_match(body, '\"red fox\"') ORDER BY id").await;
        assert_eq!(found, phrase.collect::<Vec<_>>());
    }

    /// The row of the generation whose key is the last, by its number.
    async fn check_numbers(&self) -> String {
        let (id, row) = self.live.iter().next_back().unwrap();
        let sql = format!("SELECT id FROM t WHERE n = {}", row.n);
        assert_eq!(ids(&self.session, &sql).await, [*id]);
        analyzed(&self.session, &sql).await
    }

    /// Writes over some rows of the generation and deletes others.
    async fn change(&mut self, step: usize) {
        let (documents, live) = (&mut self.documents, &mut self.live);
        self.table.put(documents.rows(self.keys.clone().step_by(step), live)).await.unwrap();
        self.table.delete(gone(self.keys.clone().skip(1).step_by(3 * step), live)).await.unwrap();
    }
}

/// The vector index of a generation finds the nearest rows, before and after some are superseded.
async fn vectors_are_found(metric: Metric) {
    let mut theirs = Theirs::new(metric, 1200, 4096).await;
    let node = "source=generation 1, index=IVF_HNSW_SQ";
    for dropped in [false, true] {
        if dropped {
            theirs.change(7).await;
        }
        let plan = analyzed(&theirs.session, &nearest_sql(metric, &theirs.documents.vector())).await;
        assert!(plan.contains(node), "{plan}");
        let [partitions, flat, distances] = ["partitions", "flat", "distances"].map(|name| figure(&plan, node, name));
        assert_eq!((partitions, flat), (1, 0), "{plan}");
        assert!((K..300).contains(&distances), "{plan}");
        assert_eq!(figure(&plan, node, "rows_dropped") > 100, dropped, "{plan}");
        theirs.check_vectors(metric).await;
    }
    theirs.table.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_graph_that_lance_wrote_into_a_generation_is_searched_by_distance() {
    vectors_are_found(Metric::L2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_graph_that_lance_wrote_into_a_generation_is_searched_by_direction() {
    vectors_are_found(Metric::Cosine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_graph_that_lance_wrote_into_a_generation_is_searched_by_inner_product() {
    vectors_are_found(Metric::InnerProduct).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_and_numbers_are_found_by_the_indexes_that_lance_wrote_into_a_generation() {
    let mut theirs = Theirs::new(Metric::L2, 1200, 4096).await;
    let (best, rod) =
        ("SELECT id, score(body, 'map red') AS s FROM t ORDER BY s DESC LIMIT 10", "text_match(body, 'rod')");
    let matching = format!("SELECT id FROM t WHERE {rod}");
    let node = "TextTopKExec: source=generation 1, index=text,";
    for dropped in [false, true] {
        if dropped {
            theirs.change(7).await;
        }
        let plan = analyzed(&theirs.session, best).await;
        assert_eq!(figure(&plan, node, "flat"), 0, "{plan}");
        assert!(figure(&plan, node, "postings") > 0, "{plan}");
        assert_eq!(figure(&plan, node, "rows_dropped") > 100, dropped, "{plan}");
        // A table that declares no index hands no filter of texts to its sources.
        let plan = analyzed(&theirs.session, &matching).await;
        assert!(!plan.contains("by text"), "{plan}");
        theirs.check_words().await;
    }
    theirs.change(400).await;
    let plan = theirs.check_numbers().await;
    let node = "DatasetScanExec: source=generation 1";
    let line = plan.lines().find(|line| line.contains(node)).unwrap_or_else(|| panic!("{plan}"));
    assert!(line.contains("indexes=[numbers]"), "{plan}");
    assert_eq!(figure(&plan, node, "rows_by_value"), 1, "{plan}");

    // Declared under its name, the index that is there is the table's.
    let before = theirs.table.snapshot().version().base.version();
    let index = IndexSpec::parse("body", "fts(name='words')").unwrap().remove(0);
    assert!(theirs.table.create_index(&index, true).await.unwrap());
    assert_eq!(theirs.table.snapshot().version().base.version(), before + 1, "it is not made anew");
    for flushed in [false, true] {
        if flushed {
            theirs.table.flush().await.unwrap();
        }
        let plan = analyzed(&theirs.session, &matching).await;
        let node = "sources=[generation 1 by text]";
        assert!(figure(&plan, node, "postings") > 0, "{plan}");
        let line = plan.lines().find(|line| line.contains(node)).unwrap();
        assert!(!line.contains("flat"), "{plan}");
        theirs.check_words().await;
        theirs.check_numbers().await;
    }
    theirs.table.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_generation_that_lance_wrote_is_searched_in_memory_as_by_its_indexes() {
    let mut theirs = Theirs::new(Metric::L2, 300, 0).await;
    let plan = explained(&theirs.session, &nearest_sql(Metric::L2, &theirs.documents.vector())).await;
    assert!(plan.contains("source=generation 1, index=IVF_HNSW_SQ"), "{plan}");
    for round in 0..2 {
        theirs.check_vectors(Metric::L2).await;
        theirs.check_words().await;
        theirs.check_numbers().await;
        if round == 0 {
            // All of them were read more than once.
            let plan = explained(&theirs.session, &nearest_sql(Metric::L2, &theirs.documents.vector())).await;
            assert!(plan.contains("generation 1, flat=in memory"), "{plan}");
            theirs.change(5).await;
        }
    }
    theirs.table.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lance_finds_the_nearest_rows_of_our_generations_in_their_newest_versions() {
    let seed = number_from_env("LSM_SEED", 0x0E45);
    println!("LSM_SEED={seed}");
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        let dir = tempfile::tempdir().unwrap();
        let (mut documents, mut live) = (Documents::new(seed, 0), Live::new());
        let (table, session) = created(dir.path(), schema(), 1, Vec::new()).await;
        let base = documents.rows(0..BASE, &mut live);
        table.replace_all(stream(base.schema(), vec![base])).await.unwrap();
        let index = IndexSpec::new("e", IndexKind::vector(metric));
        assert!(Box::pin(table.create_index(&index, false)).await.unwrap());
        for round in 0..3 {
            // Keys of the base, of the round before, and new ones.
            table.put(documents.rows((round..1500).step_by(4), &mut live)).await.unwrap();
            table.put(documents.rows((round * 100..1500).step_by(7), &mut live)).await.unwrap();
            let deleted: Vec<i64> = live.keys().copied().filter(|id| id % 37 == round).collect();
            table.delete(gone(deleted, &mut live)).await.unwrap();
            table.flush().await.unwrap();
        }
        let plan = explained(&session, &nearest_sql(metric, &documents.vector())).await;
        assert_eq!(plan.matches("index=IVF_RQ").count(), 3, "{plan}");

        let theirs = generations_of(&table.snapshot());
        let base = Arc::new(Dataset::open(table.uri()).await.unwrap());
        let (mut hits, mut all) = (0, 0);
        for _ in 0..12 {
            let query = documents.vector();
            let scanner = LsmScanner::new(Arc::clone(&base), vec![theirs.clone()], vec!["id".into()]);
            let key = Float32Array::from(query.clone());
            let scanner = scanner.project(&["id", "n"]).unwrap().nearest("e", &key, K).unwrap();
            let scanner = scanner.refine(4).distance_metric(distance(metric)).with_overfetch_factor(3.0);
            let found = Box::pin(scanner.try_into_batch()).await.unwrap();
            let keys = found["id"].as_primitive::<Int64Type>().values().to_vec();
            for (id, n) in keys.iter().zip(found["n"].as_primitive::<Int64Type>().values()) {
                assert_eq!(live.get(id).map(|row| row.n), Some(*n), "{metric:?}: row {id} is an old one");
            }
            assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "{metric:?}: {keys:?}");
            let truth = nearest(&live, metric, &query);
            hits += truth.iter().filter(|id| keys.contains(id)).count();
            all += truth.len();
        }
        assert!(hits as f64 >= 0.9 * all as f64, "{metric:?}: {hits} of {all}");
        table.close().await.unwrap();
    }
}
