//! What a recorder of the `metrics` crate is told of tables, as Prometheus gets it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use datafusion::prelude::SessionContext;
use datafusion_lsm::metrics::TableMetrics;
use datafusion_lsm::sql::{LsmEngine, LsmSessionExt};
use datafusion_lsm::table::{Components, MetricsRecorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// An engine whose tables have a recorder of their own, and what that was told.
fn engine() -> (Arc<LsmEngine>, PrometheusHandle) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let told = recorder.handle();
    let metrics = MetricsRecorder::new(recorder);
    let engine = LsmEngine::with_components(move |_| Components { metrics: metrics.clone(), ..Components::default() });
    (engine, told)
}

async fn run(session: &SessionContext, sql: &str) {
    session.sql(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}")).collect().await.unwrap();
}

async fn create(session: &SessionContext, dir: &Path, table: &str) {
    let create = format!(
        "CREATE EXTERNAL TABLE {table} (id BIGINT PRIMARY KEY) STORED AS LSM LOCATION '{}' \
         OPTIONS ('lsm.sync' 'false', 'lsm.base.refresh' '0')",
        dir.join(table).display()
    );
    run(session, &create).await;
}

/// A figure of the table in the directory `table`.
fn figure(text: &str, name: &str, table: &str) -> Option<f64> {
    let (start, end) = (format!("{name}{{table=\""), format!("/{table}"));
    let is_it = |line: &&str| {
        let rest = line.strip_prefix(start.as_str()).and_then(|rest| rest.split_once("\"} "));
        rest.is_some_and(|(uri, _)| uri.ends_with(&end))
    };
    text.lines().find(is_it)?.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn a_recorder_is_told_of_each_table_what_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, told) = engine();
    let session = SessionContext::new().with_lsm_engine(Arc::clone(&engine));
    create(&session, dir.path(), "a").await;
    create(&session, dir.path(), "b").await;
    for sql in ["INSERT INTO a VALUES (1), (2)", "INSERT INTO a VALUES (3)", "INSERT INTO b VALUES (1)"] {
        run(&session, sql).await;
    }
    run(&session, "SELECT * FROM lsm_flush('a')").await;
    run(&session, "SET lsm.on_conflict = 'error'").await;
    assert!(session.sql("INSERT INTO b VALUES (1)").await.unwrap().collect().await.is_err());
    let text = told.render();
    for (name, a, b) in [
        ("lsm_open_duration_count", 1.0, 1.0),
        ("lsm_claim_duration_count", 1.0, 1.0),
        ("lsm_statement_duration_count", 2.0, 1.0),
        ("lsm_statement_failures", 0.0, 1.0),
        ("lsm_wal_duration_count", 2.0, 1.0),
        ("lsm_wal_rows", 3.0, 1.0),
        ("lsm_freeze_duration_count", 1.0, 0.0),
        ("lsm_flush_duration_count", 1.0, 0.0),
        ("lsm_flush_rows", 3.0, 0.0),
        ("lsm_flush_failures", 0.0, 0.0),
    ] {
        let found = [figure(&text, name, "a"), figure(&text, name, "b")];
        assert_eq!(found, [Some(a), Some(b)], "{name}\n{text}");
    }
    assert!(figure(&text, "lsm_flush_duration_sum", "a").unwrap() > 0.0, "{text}");
    assert!(figure(&text, "lsm_wal_bytes", "a") > figure(&text, "lsm_wal_bytes", "b"), "{text}");
}

#[tokio::test]
async fn what_is_looked_up_is_told_when_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, told) = engine();
    let session = SessionContext::new().with_lsm_engine(Arc::clone(&engine));
    create(&session, dir.path(), "a").await;
    run(&session, "INSERT INTO a VALUES (1), (2)").await;
    assert_eq!(figure(&told.render(), "lsm_writer_rows", "a"), None);
    engine.record_metrics();
    engine.record_metrics();
    let text = told.render();
    for metric in engine.tables()[0].metrics() {
        let name = metric.name.replace('.', "_");
        assert!(figure(&text, &name, "a").is_some(), "{name}\n{text}");
    }
    let of_table = ["lsm_writer_writes", "lsm_writer_rows"];
    assert_eq!(of_table.map(|name| figure(&text, name, "a").unwrap()), [1.0, 2.0], "once, though told twice");
    assert!(figure(&text, "lsm_memtable_memory", "a").unwrap() > 0.0);
    assert!(text.contains("# TYPE lsm_memtable_memory gauge") && text.contains("# TYPE lsm_writer_rows counter"));

    // A handle that is opened anew goes on where the last one ended.
    run(&session, "DROP TABLE a").await;
    create(&session, dir.path(), "a").await;
    run(&session, "INSERT INTO a VALUES (3)").await;
    engine.record_metrics();
    let text = told.render();
    assert_eq!(of_table.map(|name| figure(&text, name, "a").unwrap()), [2.0, 3.0], "{text}");
    assert_eq!(figure(&text, "lsm_open_duration_count", "a"), Some(2.0));
}

#[tokio::test]
async fn recorders_of_two_engines_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let engines = [engine(), engine()];
    for ((engine, _), table) in engines.iter().zip(["a", "b"]) {
        let session = SessionContext::new().with_lsm_engine(Arc::clone(engine));
        create(&session, dir.path(), table).await;
        run(&session, &format!("INSERT INTO {table} VALUES (1)")).await;
        run(&session, &format!("SELECT * FROM lsm_flush('{table}')")).await;
        engine.record_metrics();
    }
    for ((_, told), (own, other)) in engines.iter().zip([("a", "b"), ("b", "a")]) {
        let text = told.render();
        for name in ["lsm_flush_duration_count", "lsm_wal_rows", "lsm_writer_rows"] {
            assert_eq!([own, other].map(|table| figure(&text, name, table)), [Some(1.0), None], "{name}\n{text}");
        }
        assert!(!text.contains(&format!("/{other}\"")), "{text}");
    }
}

#[tokio::test]
async fn without_a_recorder_of_its_own_a_table_tells_that_of_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = PrometheusBuilder::new().build_recorder();
    let _process = metrics::set_default_local_recorder(&recorder);
    let session = SessionContext::new().with_lsm_engine(LsmEngine::new());
    create(&session, dir.path(), "a").await;
    run(&session, "INSERT INTO a VALUES (1)").await;
    assert_eq!(figure(&recorder.handle().render(), "lsm_wal_rows", "a"), Some(1.0));
}

#[tokio::test]
async fn operations_tell_of_every_figure() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, told) = engine();
    let session = SessionContext::new().with_lsm_engine(Arc::clone(&engine));
    create(&session, dir.path(), "a").await;
    let text = told.render();
    let registered: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()).collect();
    let names: BTreeSet<String> = TableMetrics::NAMES.iter().map(|name| name.replace('.', "_")).collect();
    let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(registered, names, "NAMES are those that are registered\n{text}");

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let operations = std::fs::read_to_string(path).unwrap();
    let looked_up = engine.tables()[0].metrics().into_iter().map(|metric| metric.name);
    let all = looked_up.chain(TableMetrics::NAMES.iter().copied());
    let missing: Vec<&str> = all.filter(|name| !operations.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/operations.md does not tell of {missing:?}");
}
