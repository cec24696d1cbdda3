//! Prefixes that stand for more words than may weigh: which ones weigh is decided over all sources of a table together.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, Int64Type};
use datafusion::prelude::SessionContext;
use datafusion_lsm::sql::{LsmEngine, LsmSessionExt};

use crate::vector_search::ids;

async fn run(session: &SessionContext, sql: &str) -> Vec<RecordBatch> {
    session.sql(sql).await.unwrap().collect().await.unwrap()
}

/// Rows of one word each: `w` and a number, which added to `first` is the key.
fn values(first: i64, numbers: impl IntoIterator<Item = i64>) -> String {
    let row = |number: i64| format!("({}, 'w{number:04}')", first + number);
    numbers.into_iter().map(row).collect::<Vec<_>>().join(", ")
}

/// The rows that have a word that begins with `w`, by their keys, and what they score.
async fn scores(session: &SessionContext, table: &str) -> Vec<(i64, f32)> {
    let sql = format!("SELECT id, score(body, 'w*') FROM {table} WHERE text_match(body, 'w*') ORDER BY id");
    let mut scores = Vec::new();
    for rows in run(session, &sql).await {
        let (ids, of) = (rows.column(0).as_primitive::<Int64Type>(), rows.column(1).as_primitive::<Float32Type>());
        scores.extend(ids.values().iter().copied().zip(of.values().iter().copied()));
    }
    scores
}

#[tokio::test]
async fn the_words_that_weigh_are_the_same_whichever_source_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let session = SessionContext::new().with_lsm_engine(LsmEngine::new());
    for table in ["together", "apart"] {
        let create = format!(
            "CREATE EXTERNAL TABLE {table} (id BIGINT PRIMARY KEY, body VARCHAR) STORED AS LSM LOCATION '{}' \
             OPTIONS ('lsm.sync' 'false', 'lsm.index.body' 'fts')",
            dir.path().join(table).display()
        );
        run(&session, &create).await;
    }
    let index = "CREATE INDEX IF NOT EXISTS body_fts ON apart USING fts (body)";
    // 1,300 words together, and in no source more than 1,024.
    let (base, generation) = (values(0, 0..900), values(1000, 450..1300));
    let memtable = values(3000, (0..100).chain(1200..1300));
    for part in [&base, &generation, &memtable] {
        run(&session, &format!("INSERT INTO together VALUES {part}")).await;
    }
    run(&session, &format!("INSERT OVERWRITE apart VALUES {base}")).await;
    run(&session, index).await;
    run(&session, &format!("INSERT INTO apart VALUES {generation}")).await;
    run(&session, "SELECT * FROM lsm_flush('apart')").await;
    run(&session, &format!("INSERT INTO apart VALUES {memtable}")).await;

    let expected = scores(&session, "together").await;
    assert_eq!(expected.len(), 900 + 850 + 200);
    let keys = |weigh: bool| -> Vec<i64> {
        expected.iter().filter(|(_, score)| (*score > 0.0) == weigh).map(|(id, _)| *id).collect()
    };
    // The 650 words that two rows have come first, then those of one row in the order of their bytes.
    assert_eq!(keys(false), (1924..2200).collect::<Vec<i64>>());
    let weighing = keys(true);

    for (place, statement) in [
        ("base, generation and memtable", "SELECT 1"),
        ("base and generations", "SELECT * FROM lsm_flush('apart')"),
        ("base", "INSERT OVERWRITE apart SELECT * FROM apart"),
        ("base with an index", index),
    ] {
        run(&session, statement).await;
        let found = scores(&session, "apart").await;
        assert_eq!(found.len(), expected.len(), "{place}");
        for (a, b) in found.iter().zip(&expected) {
            assert!(a.0 == b.0 && (a.1 - b.1).abs() < 1e-6, "{place}: {a:?}, not {b:?}");
        }
        let best = format!("SELECT id FROM apart ORDER BY score(body, 'w*') DESC LIMIT {}", weighing.len());
        let mut best = ids(&session, &best).await;
        best.sort_unstable();
        assert_eq!(best, weighing, "{place}");
    }
}
