//! A table in a store that is reached as one over a network is.

use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::common::Result;
use datafusion::prelude::SessionContext;
use datafusion_lsm::sql::LsmSessionExt;

/// Dimensions: rows of a generation take more than what stays in memory as rows. From so many on an index keeps one bit of
/// each, which is soon made.
const WIDTH: usize = 768;
const ROWS: usize = 1_700;
/// Rows of the memtable.
const FRESH: usize = 100;

/// How many rows a statement returns.
pub(crate) async fn run(session: &SessionContext, sql: &str) -> usize {
    let rows = session.sql(sql).await.unwrap_or_else(|e| panic!("{}: {e}", &sql[..sql.len().min(200)]));
    rows.collect().await.unwrap().iter().map(|rows| rows.num_rows()).sum()
}

fn vector(seed: usize) -> String {
    let value = |i: usize| ((seed * 31 + i * 17) % 101).to_string();
    format!("[{}]", (0..WIDTH).map(value).collect::<Vec<_>>().join(", "))
}

/// A table with three generations and a memtable, each of which replaces rows of the one before.
pub(crate) async fn filled(session: &SessionContext, uri: &str) {
    filled_by(session, uri, &[ROWS; 3]).await;
}

/// The same with generations of so many rows, the oldest first.
pub(crate) async fn filled_by(session: &SessionContext, uri: &str, generations: &[usize]) {
    let create = format!(
        "CREATE EXTERNAL TABLE t (id BIGINT PRIMARY KEY, n BIGINT, body VARCHAR, e FLOAT[{WIDTH}]) STORED AS LSM \
         LOCATION '{uri}' OPTIONS ('lsm.index.e' 'vector(l2)', 'lsm.index.body' 'fts', 'lsm.index.n' 'btree', \
         'lsm.base.refresh' '1h')"
    );
    run(session, &create).await;
    let mut first = 0;
    for (generation, rows) in generations.iter().copied().chain([FRESH]).enumerate() {
        let vectors = format!("(array_repeat(CAST((i * 7 + {generation}) % 97 AS FLOAT), {WIDTH}))");
        let insert = format!(
            "INSERT INTO t SELECT i, i % 50, concat('word', i % 30, ' log'), {vectors} \
             FROM (SELECT value AS i FROM generate_series({first}, {}))",
            first + rows - 1
        );
        run(session, &insert).await;
        if generation < generations.len() {
            run(session, "SELECT * FROM lsm_flush('t')").await;
        }
        first += rows / 2;
    }
}

/// The same table in another session that has nothing of it in memory, as in another process.
pub(crate) async fn reopened(session: &SessionContext, uri: &str) -> SessionContext {
    reopened_in(session, SessionContext::new().with_lsm(), uri, "").await
}

/// The same in the session `other`, with further options.
pub(crate) async fn reopened_in(
    session: &SessionContext,
    other: SessionContext,
    uri: &str,
    options: &str,
) -> SessionContext {
    run(session, "DROP TABLE t").await;
    let storage = format!("'unused' '{}'", uuid::Uuid::new_v4());
    let create = format!(
        "CREATE EXTERNAL TABLE t STORED AS LSM LOCATION '{uri}' \
         OPTIONS ({storage}, 'lsm.base.refresh' '0' {options})"
    );
    run(&other, &create).await;
    other
}

/// A query that searches vectors and texts.
pub(crate) fn hybrid() -> String {
    format!("SELECT id, _score FROM hybrid_search('t', 'e', {}, 'body', 'word7 log', 10)", vector(3))
}

/// The queries, each by its name. Rows that are as good as each other look the same.
pub(crate) fn queries() -> Vec<(&'static str, String)> {
    let near = format!("SELECT l2_distance(e, {}) AS d FROM t ORDER BY d LIMIT 10", vector(3));
    vec![
        ("scan", "SELECT id, n, body FROM t".to_string()),
        ("point", "SELECT * FROM t WHERE id = 17".to_string()),
        ("value", "SELECT id FROM t WHERE n = 7".to_string()),
        ("text", "SELECT score(body, 'word7 log') AS s, length(body) FROM t ORDER BY s DESC LIMIT 10".to_string()),
        ("match", "SELECT id, body FROM t WHERE text_match(body, 'word3')".to_string()),
        ("vector", near),
    ]
}

/// The queries, and one that searches vectors and texts.
pub(crate) fn all_queries() -> Vec<(&'static str, String)> {
    queries().into_iter().chain([("hybrid", hybrid())]).collect()
}

/// What a query finds, row by row in no order.
pub(crate) async fn answer(session: &SessionContext, sql: &str) -> Result<Vec<String>> {
    let rows = session.sql(sql).await?.collect().await?;
    let text = pretty_format_batches(&rows)?.to_string();
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    lines.sort();
    Ok(lines)
}
