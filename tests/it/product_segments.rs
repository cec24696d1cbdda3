//! A base whose vector index has segments with codebooks of their own: how far rows are by the codes of one says
//! nothing of rows that another one has.

use std::iter::repeat_n;
use std::sync::Arc;

use arrow::array::{FixedSizeListArray, Float32Array, RecordBatchIterator};
use arrow::datatypes::Float32Type;
use datafusion::prelude::SessionContext;
use datafusion_lsm::base::AdoptSpec;
use datafusion_lsm::distance::Metric;
use datafusion_lsm::index_spec::{IndexKind, IndexSpec};
use datafusion_lsm::sql::{LsmSessionExt, LsmTableProvider};
use datafusion_lsm::table::LsmTable;
use lance::Dataset;
use lance::dataset::{WriteMode, WriteParams};
use lance::index::vector::VectorIndexParams;
use lance::index::{CreateIndexBuilder, DatasetIndexExt};
use lance_index::IndexType;
use lance_index::vector::ivf::IvfBuildParams;
use lance_index::vector::pq::PQBuildParams;
use lance_linalg::distance::DistanceType;

use crate::support::plan::explained;
use crate::vector_search::{WIDTH, batch, ids, schema};

const PIECES: usize = 12;
const K: i64 = 10;

/// Codes of vectors whose values are all alike: the nearest of 256 multiples of `step`.
fn params(step: f32) -> VectorIndexParams {
    let centre = [Some(vec![Some(0.0); WIDTH])];
    let centre = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(centre, WIDTH as i32);
    let ivf = IvfBuildParams::try_with_centroids(1, Arc::new(centre)).unwrap();
    let piece = || (0..256).flat_map(move |name| repeat_n(name as f32 * step, WIDTH / PIECES));
    let codebook = Float32Array::from_iter_values((0..PIECES).flat_map(|_| piece()));
    let pq = PQBuildParams::with_codebook(PIECES, 8, Arc::new(codebook));
    VectorIndexParams::with_ivf_pq_params(DistanceType::L2, ivf, pq)
}

#[tokio::test]
async fn rows_whose_codes_are_right_are_found_beside_many_that_only_look_near() {
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("t").to_str().unwrap().to_string();
    let far: Vec<_> = (0..200).map(|id| (id, 0, Some(vec![2.4 + id as f32 * 1e-3; WIDTH]))).collect();
    let near: Vec<_> = (0..40).map(|n| (1_000 + n, 0, Some(vec![1.9 + n as f32 * 1e-2; WIDTH]))).collect();
    for (rows, mode) in [(far, WriteMode::Create), (near, WriteMode::Append)] {
        let reader = RecordBatchIterator::new([Ok(batch(&rows))], schema());
        let params = WriteParams { mode, ..Default::default() };
        Dataset::write(reader, uri.as_str(), Some(params)).await.unwrap();
    }
    let mut dataset = Dataset::open(&uri).await.unwrap();
    let mut segments = Vec::new();
    // By the codes of the first fragment all its rows are where the query is.
    for (fragment, step) in [(0, 1e-5), (1, 1e-2)] {
        let params = params(step);
        let build = CreateIndexBuilder::new(&mut dataset, &["e"], IndexType::Vector, &params);
        let mut build = build.name("near".into()).fragments(vec![fragment]);
        segments.push(build.execute_uncommitted().await.unwrap());
    }
    dataset.commit_existing_index_segments("near", "e", segments).await.unwrap();

    let indexes = vec![IndexSpec::new("e", IndexKind::vector(Metric::L2))];
    let spec = AdoptSpec { key: vec!["id".into()], indexes, ..Default::default() };
    let table = LsmTable::builder(&uri).adopt(spec).open().await.unwrap();
    let session = SessionContext::new().with_lsm();
    session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(&table)))).unwrap();
    let query = vec!["0.0"; WIDTH].join(", ");
    let search = format!("SELECT id FROM t ORDER BY l2_distance(e, [{query}]) LIMIT {K}");
    let plan = explained(&session, &search).await;
    assert!(plan.contains("index=IVF_PQ"), "{plan}");
    assert_eq!(ids(&session, &search).await, (1_000..1_000 + K).collect::<Vec<_>>());
    table.close().await.unwrap();
}
