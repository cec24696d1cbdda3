//! Indexes of a base and of generations when rows have left, when files of them are damaged, and when memory is short.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatchIterator;
use datafusion::prelude::SessionContext;
use datafusion_lsm::base::AdoptSpec;
use datafusion_lsm::cache::MemoryBudget;
use datafusion_lsm::distance::Metric;
use datafusion_lsm::index_spec::{IndexKind, IndexSpec};
use datafusion_lsm::sql::{LsmSessionExt, LsmTableProvider};
use datafusion_lsm::table::{Components, LsmTable};
use lance::Dataset;
use lance::dataset::{WriteMode, WriteParams};
use lance::index::DatasetIndexExt;
use lance::index::vector::VectorIndexParams;
use lance_index::IndexType;
use lance_linalg::distance::DistanceType;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use walkdir::WalkDir;

use crate::support::number_from_env;
use crate::vector_search::{Model, batch, check, ids, schema, vector};

fn session(table: &Arc<LsmTable>) -> SessionContext {
    let session = SessionContext::new().with_lsm();
    session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(table)))).unwrap();
    session
}

async fn run(session: &SessionContext, sql: &str) {
    session.sql(sql).await.unwrap().collect().await.unwrap();
}

#[tokio::test]
async fn vectors_of_fragments_that_are_gone_are_not_found() {
    let seed = number_from_env("LSM_SEED", 0x60E);
    println!("LSM_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    for (stable, more_happens) in [(false, false), (false, true), (true, false), (true, true)] {
        let dir = tempfile::tempdir().unwrap();
        let uri = dir.path().join("t").to_str().unwrap().to_string();
        let mut model = Model::new();
        let mut write = async |from: i64, to: i64, mode: WriteMode| {
            let rows: Vec<_> = (from..to).map(|id| (id, id % 1000, Some(vector(&mut rng)))).collect();
            let reader = RecordBatchIterator::new([Ok(batch(&rows))], schema());
            let enable_stable_row_ids = stable;
            let params = WriteParams { mode, max_rows_per_file: 1000, enable_stable_row_ids, ..Default::default() };
            model.extend(rows.into_iter().map(|(id, n, e)| (id, (n, e))));
            Dataset::write(reader, uri.as_str(), Some(params)).await.unwrap()
        };
        let mut dataset = write(0, 2000, WriteMode::Create).await;
        let params = VectorIndexParams::ivf_flat(4, DistanceType::L2);
        dataset.create_index(&["e"], IndexType::Vector, Some("near".into()), &params, true).await.unwrap();
        if more_happens {
            dataset = write(2000, 2200, WriteMode::Append).await;
            dataset.delete("id % 10 = 3").await.unwrap();
        }
        dataset.delete("id < 1000").await.unwrap();
        assert!(dataset.get_fragment(0).is_none(), "the fragment is gone");
        model.retain(|id, _| *id >= 1000 && !(more_happens && id % 10 == 3));

        let indexes = vec![IndexSpec::new("e", IndexKind::vector(Metric::L2))];
        let spec = AdoptSpec { key: vec!["id".into()], indexes, ..Default::default() };
        let table = LsmTable::builder(&uri).adopt(spec).open().await.unwrap();
        let session = session(&table);
        let (mut hits, mut all) = (0, 0);
        for _ in 0..6 {
            let (found, of) = check(&session, &model, Metric::L2, &mut rng).await;
            (hits, all) = (hits + found, all + of);
        }
        assert_eq!(hits, all, "stable {stable}, more {more_happens}: all partitions are looked into");
    }
}

/// A table with 600 rows in the base and 600 in a generation, vectors and texts of which both have indexes.
async fn indexed(uri: &str) {
    let session = SessionContext::new().with_lsm();
    let create = format!(
        "CREATE EXTERNAL TABLE t (id BIGINT PRIMARY KEY, e FLOAT[8], body VARCHAR) STORED AS LSM LOCATION '{uri}' \
         OPTIONS ('lsm.index.e' 'vector(l2)', 'lsm.index.body' 'fts')"
    );
    run(&session, &create).await;
    let rows = |from: usize| {
        let row = |i: usize| format!("({i}, [{i}, 1, 0, 0, 0, 0, 0, 0], 'row w{i} of all')");
        (from..from + 600).map(row).collect::<Vec<_>>().join(", ")
    };
    run(&session, &format!("INSERT OVERWRITE t VALUES {}", rows(0))).await;
    for (name, kind, column) in [("e_vector", "vector(l2)", "e"), ("body_fts", "fts", "body")] {
        run(&session, &format!("CREATE INDEX IF NOT EXISTS {name} ON t USING \"{kind}\" ({column})")).await;
    }
    run(&session, &format!("INSERT INTO t VALUES {}", rows(600))).await;
    run(&session, "SELECT * FROM lsm_flush('t')").await;
}

fn copy(from: &Path, to: &Path) {
    for entry in WalkDir::new(from) {
        let entry = entry.unwrap();
        let target = to.join(entry.path().strip_prefix(from).unwrap());
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(target).unwrap();
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

const NEAREST: &str = "SELECT id FROM t ORDER BY l2_distance(e, [598.9, 1, 0, 0, 0, 0, 0, 0]) LIMIT 4";
const BEST: &str = "SELECT id FROM t WHERE text_match(body, 'w17 w718') ORDER BY score(body, 'w17 w718') DESC LIMIT 5";
const MATCHING: &str = "SELECT id FROM t WHERE text_match(body, 'w59*') ORDER BY id";

/// What the three searches find.
async fn found(session: &SessionContext) -> [Vec<i64>; 3] {
    let mut found = [ids(session, NEAREST).await, ids(session, BEST).await, ids(session, MATCHING).await];
    found[1].sort_unstable();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_found_beside_an_index_whose_files_are_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    indexed(whole.to_str().unwrap()).await;
    let files: Vec<PathBuf> = WalkDir::new(&whole)
        .into_iter()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().is_file() && entry.path().iter().any(|part| part == "_indices"))
        .map(|entry| entry.path().strip_prefix(&whole).unwrap().to_path_buf())
        .collect();
    assert!(files.len() >= 10, "{files:?}");
    let matching: Vec<i64> = std::iter::once(59).chain(590..600).collect();
    let expected = [vec![599, 598, 600, 597], vec![17, 718], matching];
    for (n, file) in files.iter().enumerate() {
        let place = dir.path().join(n.to_string());
        copy(&whole, &place);
        let length = std::fs::metadata(place.join(file)).unwrap().len();
        std::fs::OpenOptions::new().write(true).open(place.join(file)).unwrap().set_len(length / 2).unwrap();
        let table = LsmTable::builder(place.to_str().unwrap()).option("lsm.verify", "false").open().await.unwrap();
        let session = session(&table);
        for _ in 0..2 {
            assert_eq!(found(&session).await, expected, "{}", file.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_found_though_their_words_do_not_fit_into_memory() {
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("t").to_str().unwrap().to_string();
    indexed(&uri).await;
    let budget = MemoryBudget::new(1 << 30);
    let components = Components { budget: Arc::clone(&budget), ..Components::default() };
    let table = LsmTable::builder(&uri).components(components).open().await.unwrap();
    let session = session(&table);
    let plenty = found(&session).await;
    budget.set_limit(1);
    let every = "SELECT id FROM t WHERE text_match(body, 'w*')";
    assert_eq!(ids(&session, every).await.len(), 1200);
    assert_eq!(found(&session).await, plenty);
}
