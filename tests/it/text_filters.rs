//! What searches look at where texts are filtered: the postings of indexes rather than texts, and keys but once.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchIterator, StringArray};
use arrow::datatypes::Float32Type;
use datafusion::prelude::SessionContext;
use lance::Dataset;
use lance::dataset::WriteParams;
use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::scalar::InvertedIndexParams;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::vector_search::ids;
use datafusion_lsm::base::AdoptSpec;
use datafusion_lsm::index_spec::IndexSpec;
use datafusion_lsm::sql::{LsmSessionExt, LsmTableProvider};
use datafusion_lsm::table::LsmTable;

async fn run(session: &SessionContext, sql: &str) -> Vec<RecordBatch> {
    session.sql(sql).await.unwrap().collect().await.unwrap()
}

/// Figures of the search in `source`, as EXPLAIN ANALYZE tells them.
async fn figures<const N: usize>(session: &SessionContext, source: &str, names: [&str; N], sql: &str) -> [String; N] {
    let rows = run(session, &format!("EXPLAIN ANALYZE {sql}")).await;
    let plan: String =
        rows.iter().flat_map(|b| b.column(1).as_string::<i32>().iter().flatten().collect::<Vec<_>>()).collect();
    let is_it = |line: &&str| line.contains("TopKExec") && line.contains(&format!("source={source}"));
    let line = plan.lines().find(is_it).unwrap_or_else(|| panic!("{source}: {plan}"));
    names.map(|name| {
        let name = format!("{name}=");
        let from = line.find(&name).unwrap_or_else(|| panic!("{name}: {line}")) + name.len();
        line[from..].split([',', ']']).next().unwrap().trim().to_string()
    })
}

#[tokio::test]
async fn fragments_without_a_match_hide_nothing_and_keys_are_read_once() {
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("t").to_str().unwrap().to_string();
    let texts = (0..400).map(|id| if id < 300 { "alpha" } else { "beta" });
    let rows = RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from_iter_values(0..400)) as ArrayRef, false),
        ("body", Arc::new(StringArray::from_iter_values(texts)) as ArrayRef, true),
    ])
    .unwrap();
    let schema = rows.schema();
    let params = WriteParams { max_rows_per_file: 100, ..Default::default() };
    let rows = RecordBatchIterator::new([Ok(rows)], schema);
    let mut dataset = Dataset::write(rows, uri.as_str(), Some(params)).await.unwrap();
    let params = InvertedIndexParams::default();
    dataset.create_index(&["body"], IndexType::Inverted, Some("texts".into()), &params, false).await.unwrap();

    let indexes = IndexSpec::parse("body", "fts").unwrap();
    let spec = AdoptSpec { key: vec!["id".into()], indexes, ..Default::default() };
    let table = LsmTable::builder(&uri).option("lsm.base.keys", "1B").adopt(spec).open().await.unwrap();
    let session = SessionContext::new().with_lsm();
    session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(&table)))).unwrap();
    let beta = "SELECT id FROM t WHERE text_match(body, 'beta')";
    assert_eq!(ids(&session, beta).await.len(), 100);
    run(&session, "INSERT INTO t VALUES (350, 'gamma'), (7, 'beta')").await;
    assert_eq!(ids(&session, beta).await.len(), 100);

    // The count of words has asked for all keys: the search knows what is superseded by row.
    run(&session, "INSERT INTO t VALUES (351, 'gamma')").await;
    let best = format!("{beta} ORDER BY score(body, 'beta') DESC LIMIT 5");
    assert_eq!(figures(&session, "base", ["rows_dropped"], &best).await, ["3"]);
    run(&session, "INSERT INTO t VALUES (352, 'gamma')").await;
    assert_eq!(figures(&session, "base", ["rows_dropped"], &best).await, ["4"]);
    assert_eq!(ids(&session, beta).await.len(), 98);
    table.close().await.unwrap();
}

#[tokio::test]
async fn indexes_answer_text_filters_and_queries_of_any_form() {
    let dir = tempfile::tempdir().unwrap();
    let session = SessionContext::new().with_lsm();
    let create = format!(
        "CREATE EXTERNAL TABLE t (id BIGINT PRIMARY KEY, body VARCHAR, note VARCHAR, e FLOAT[8]) STORED AS LSM \
         LOCATION '{}' OPTIONS ('lsm.index.body' 'fts', 'lsm.index.e' 'vector(l2)', 'lsm.index.sync' 'true')",
        dir.path().join("t").to_str().unwrap()
    );
    run(&session, &create).await;
    let insert = "INSERT INTO t SELECT value, 'w' || value || CASE WHEN value % 100 = 0 THEN ' rare' ELSE '' END, 'note', \
                  [value, value, 0, 0, 0, 0, 0, value] FROM generate_series(1, 2000)";
    let of_all = "SELECT id FROM t WHERE text_match(body, 'w*') AND id > 0 ORDER BY score(body, 'w*') DESC LIMIT 5";
    let of_any_form = "SELECT id FROM t ORDER BY score(body, 'rare AND (w200 OR NOT w300)') DESC LIMIT 3";
    run(&session, insert).await;
    for source in ["memtable 1", "generation 1"] {
        if source == "generation 1" {
            let table = session.table_provider("t").await.unwrap();
            table.downcast_ref::<LsmTableProvider>().unwrap().table().flush().await.unwrap();
            let near = |filter: &str| {
                format!("SELECT id FROM t WHERE {filter} ORDER BY l2_distance(e, [1, 0, 0, 0, 0, 0, 0, 0]) LIMIT 3")
            };
            let by_index = near("text_match(body, 'rare') AND id > 500");
            let read = ["texts_read", "candidates"];
            assert_eq!(figures(&session, source, read, &by_index).await, ["0", "15"]);
            let by_texts = near("text_match(note, 'note') AND text_match(body, 'rare')");
            assert_ne!(figures(&session, source, read, &by_texts).await[0], "0");
            assert_eq!(ids(&session, &by_index).await, [600, 700, 800]);
        }
        for sql in [of_all, of_any_form] {
            assert_eq!(figures(&session, source, ["flat"], sql).await, ["0"], "{sql}");
        }
        assert_eq!(ids(&session, of_all).await.len(), 5);
        assert_eq!(ids(&session, of_any_form).await[0], 200);
    }
}

/// What rows score that score less than `below`, the best first.
async fn scores(session: &SessionContext, below: f32, limit: usize) -> Vec<f32> {
    let score = "score(body, 'red^3 ab*')";
    let filter = format!("{score} > 0 AND {score} < {below}");
    let sql = format!("SELECT {score} AS s FROM t WHERE {filter} ORDER BY s DESC LIMIT {limit}");
    run(session, &sql)
        .await
        .iter()
        .flat_map(|rows| rows.column(0).as_primitive::<Float32Type>().values().to_vec())
        .collect()
}

#[tokio::test]
async fn a_row_that_a_condition_on_scores_lets_through_is_found_wherever_better_ones_fail() {
    let dir = tempfile::tempdir().unwrap();
    let session = SessionContext::new().with_lsm();
    let create = format!(
        "CREATE EXTERNAL TABLE t (id BIGINT PRIMARY KEY, body VARCHAR) STORED AS LSM LOCATION '{}' \
         OPTIONS ('lsm.index.body' 'fts', 'lsm.index.sync' 'true')",
        dir.path().join("t").to_str().unwrap()
    );
    run(&session, &create).await;
    let mut rng = StdRng::seed_from_u64(0x5C0);
    for part in 0..3 {
        let text = |_| -> String {
            let words = ["red", "aba", "abb", "abc", "blue", "green"];
            (0..rng.random_range(2..40)).map(|_| words[rng.random_range(0..words.len())].to_string() + " ").collect()
        };
        let rows: Vec<String> =
            (0..60).map(text).zip(part * 60..).map(|(text, id)| format!("({id}, '{text}')")).collect();
        run(&session, &format!("INSERT INTO t VALUES {}", rows.join(", "))).await;
        if part < 2 {
            let table = session.table_provider("t").await.unwrap();
            table.downcast_ref::<LsmTableProvider>().unwrap().table().flush().await.unwrap();
        }
    }
    let all = scores(&session, 1e9, 1000).await;
    assert!(all.len() > 100, "{}", all.len());
    // Others are much like their neighbours.
    for last in all.iter().step_by(3) {
        let below = all.iter().filter(|score| **score < last - 1e-4).count().min(2);
        let found = scores(&session, *last, 2).await;
        assert!(found.len() >= below, "{found:?} below {last}");
    }
}
