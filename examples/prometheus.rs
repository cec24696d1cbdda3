//! The figures of tables for Prometheus: what a program answers when it is scraped.
#![allow(clippy::print_stdout, reason = "an example shows what it gets")]

use std::error::Error;
use std::sync::Arc;

use datafusion::prelude::SessionContext;
use datafusion_lsm::sql::{LsmEngine, LsmSessionExt};
use datafusion_lsm::table::{Components, MetricsRecorder};
use metrics_exporter_prometheus::PrometheusBuilder;

/// Seconds, from what memory takes to what no user waits for.
const BUCKETS: [f64; 7] = [0.0001, 0.001, 0.01, 0.1, 1.0, 10.0, 100.0];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;

    // Any recorder of the `metrics` crate will do. This one belongs to the tables of one engine; one that the process
    // has (`install_recorder`) is found without components.
    let recorder = PrometheusBuilder::new().with_recommended_naming(true).set_buckets(&BUCKETS)?.build_recorder();
    let recorded = recorder.handle();
    let metrics = MetricsRecorder::new(recorder);
    let engine = LsmEngine::with_components(move |_| Components { metrics: metrics.clone(), ..Components::default() });

    let session = SessionContext::new().with_lsm_engine(Arc::clone(&engine));
    let create = format!(
        "CREATE EXTERNAL TABLE docs (id BIGINT PRIMARY KEY, body VARCHAR) STORED AS LSM LOCATION '{}' \
         OPTIONS ('lsm.index.body' 'fts')",
        dir.path().join("docs").display()
    );
    for sql in [
        create.as_str(),
        "INSERT INTO docs VALUES (7, 'red fox'), (8, 'blue whale')",
        "SELECT * FROM lsm_flush('docs')",
        "INSERT INTO docs VALUES (9, 'grey fox')",
        "SELECT id, _score FROM text_search('docs', 'body', 'fox', k => 10)",
    ] {
        session.sql(sql).await?.collect().await?;
    }

    // For each scrape: look up what can be looked up, then answer with all there is. A program that is seldom scraped
    // calls `recorded.run_upkeep()` now and then, or durations pile up.
    engine.record_metrics();
    let answer = recorded.render();
    println!("{answer}");
    for name in ["lsm_flush_duration_seconds_count", "lsm_wal_rows", "lsm_memtable_memory"] {
        if !answer.contains(name) {
            return Err(format!("{name} is not told").into());
        }
    }
    Ok(())
}
