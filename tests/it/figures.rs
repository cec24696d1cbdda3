//! What EXPLAIN ANALYZE counts against what there was to do in each source.

use std::path::Path;

use datafusion::prelude::SessionContext;
use datafusion_lsm::sql::{LsmEngine, LsmSessionExt};

use crate::support::plan::{analyzed, figure};

/// Each source, how many of its rows were replaced and how many can be found.
const SOURCES: [(&str, usize, usize); 3] = [("memtable", 10, 1500), ("generation", 10, 290), ("base", 50, 550)];

async fn run(session: &SessionContext, sql: &str) {
    session.sql(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}")).collect().await.unwrap();
}

/// A table of [`SOURCES`] whose rows have texts of two words and vectors, all indexed.
async fn filled(place: &Path) -> SessionContext {
    let session = SessionContext::new().with_lsm_engine(LsmEngine::new());
    let create = format!(
        "CREATE EXTERNAL TABLE d (id BIGINT PRIMARY KEY, body VARCHAR, e FLOAT[8]) STORED AS LSM LOCATION '{}' \
         OPTIONS ('lsm.sync' 'false', 'lsm.index.body' 'fts', 'lsm.index.e' 'vector(l2)')",
        place.display()
    );
    run(&session, &create).await;
    let vector = "arrow_cast(make_array(value, 1, 2, 3, 4, 5, 6, 7), 'FixedSizeList(8 x Float32)')";
    let rows =
        |from: i64, to: i64| format!("SELECT value, 'fox ' || value, {vector} FROM generate_series({from}, {to})");
    run(&session, &format!("INSERT OVERWRITE d {}", rows(0, 599))).await;
    for (name, kind, column) in [("e_vector", "vector(l2)", "e"), ("body_fts", "fts", "body")] {
        run(&session, &format!("CREATE INDEX IF NOT EXISTS {name} ON d USING \"{kind}\" ({column})")).await;
    }
    run(&session, &format!("INSERT INTO d {}", rows(550, 849))).await;
    run(&session, "SELECT * FROM lsm_flush('d')").await;
    run(&session, &format!("INSERT INTO d {}", rows(840, 2339))).await;
    run(&session, &format!("INSERT INTO d {}", rows(840, 849))).await;
    session
}

#[tokio::test]
async fn figures_of_searches_count_what_was_done_in_each_source() {
    let dir = tempfile::tempdir().unwrap();
    let session = filled(&dir.path().join("d")).await;
    let found = |plan: &str, node: &str| ["rows_dropped", "candidates"].map(|name| figure(plan, node, name));

    // First, as rows that are read a second time stay in memory.
    let near = "SELECT id FROM d ORDER BY l2_distance(e, [300, 1, 2, 3, 4, 5, 6, 7]) LIMIT 3";
    let plan = analyzed(&session, near).await;
    for (source, dropped, candidates) in SOURCES {
        let node = format!("VectorTopKExec: source={source}");
        assert_eq!(found(&plan, &node), [dropped, candidates], "{plan}");
        assert_eq!((figure(&plan, &node, "flat"), figure(&plan, &node, "texts_read")), (0, 0), "{plan}");
        let most = if source == "memtable" { 1200 } else { 64 };
        assert!((3..=most).contains(&figure(&plan, &node, "distances")), "{source}: {plan}");
        if source != "memtable" {
            assert!((1..=8).contains(&figure(&plan, &node, "partitions")), "{source}: {plan}");
        }
    }
    // Codes are looked at by 32, and some of them twice.
    assert!((1500..=3080).contains(&figure(&plan, "source=memtable", "estimates")), "{plan}");

    let plan = analyzed(&session, "SELECT id FROM d ORDER BY score(body, 'fox 7') DESC LIMIT 3").await;
    let words = ["documents", "words", "flat"].map(|name| figure(&plan, "PrepareExec", name));
    assert_eq!(words, [1500 + 290 + 550, 2, 0], "{plan}");
    for (source, dropped, candidates) in SOURCES {
        let node = format!("TextTopKExec: source={source}");
        assert_eq!(found(&plan, &node), [dropped, candidates], "{plan}");
        assert_eq!((figure(&plan, &node, "flat"), figure(&plan, &node, "texts_read")), (0, 0), "{plan}");
        // All rows have the one word, and one has the other.
        let most = dropped + candidates + 1;
        assert!((3..=most).contains(&figure(&plan, &node, "postings")), "{source}: {plan}");
    }

    let plan = analyzed(&session, "SELECT id FROM d WHERE text_match(body, '7 600 900')").await;
    for (source, dropped, candidates) in SOURCES {
        let node = format!("sources=[{source}");
        assert_eq!(found(&plan, &node), [dropped, candidates], "{plan}");
        assert_eq!(figure(&plan, &node, "postings"), 1, "{source}: {plan}");
    }
}
