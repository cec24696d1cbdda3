//! The table in SQL: write, change, look, search, crash, look again.
#![allow(clippy::print_stdout, reason = "an example shows what it gets")]

use std::error::Error;

use datafusion::prelude::SessionContext;
use datafusion_lsm::sql::{LsmEngine, LsmSessionExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let create = format!(
        "CREATE EXTERNAL TABLE docs (id BIGINT NOT NULL, body TEXT, embedding FLOAT[2], PRIMARY KEY (id))
           STORED AS LSM LOCATION '{}'
           OPTIONS ('lsm.index.body' 'fts', 'lsm.index.embedding' 'vector(cosine)')",
        dir.path().join("docs").display()
    );

    // One call teaches a session everything. An engine of its own stands for a process of its own here; without one,
    // `with_lsm()`, the sessions of a process share what is open.
    let session = SessionContext::new().with_lsm_engine(LsmEngine::new());
    for sql in [
        create.as_str(),
        "INSERT INTO docs VALUES (7, 'red fox', [0.9, 0.1]), (8, 'blue whale', [0.1, 0.9]), (9, 'tmp', NULL)",
        "UPDATE docs SET body = 'a quick red fox' WHERE id = 7",
        "DELETE FROM docs WHERE body LIKE 'tmp%'",
        "SELECT * FROM docs ORDER BY id",
        // The memtable becomes a generation; newer rows supersede the ones in it.
        "SELECT * FROM lsm_flush('docs')",
        "INSERT INTO docs VALUES (8, 'a newer whale', [0.2, 0.8])",
        "SELECT * FROM docs WHERE id IN (7, 8) ORDER BY id",
        // What was written a moment ago is found as what was written long ago.
        "SELECT id, _score, snippet(body, 'fox') FROM text_search('docs', 'body', 'fox', k => 10)",
        "SELECT id, _distance FROM vector_search('docs', 'embedding', [1, 0], k => 10) WHERE id > 5",
        "SELECT id, lsm_source(id) FROM hybrid_search('docs', 'embedding', [1, 0], 'body', 'whale')",
        "SELECT * FROM lsm_sources('docs')",
        "EXPLAIN SELECT * FROM docs WHERE id = 8",
    ] {
        println!("> {sql}");
        session.sql(sql).await?.show().await?;
    }

    // Nothing is closed, as if the process had died. What was acknowledged is there.
    drop(session);
    let session = SessionContext::new().with_lsm_engine(LsmEngine::new());
    session.sql(&create).await?.collect().await?;
    println!("> after a crash");
    session.sql("SELECT * FROM docs ORDER BY id").await?.show().await?;
    Ok(())
}
