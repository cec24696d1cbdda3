//! The table in SQL: write, change, look, crash, look again.
#![allow(clippy::print_stdout, reason = "an example shows what it gets")]

use std::error::Error;

use datafusion::prelude::SessionContext;
use datafusion_lsm::sql::{LsmEngine, LsmSessionExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let create = format!(
        "CREATE EXTERNAL TABLE docs (id BIGINT NOT NULL, body TEXT, PRIMARY KEY (id))
           STORED AS LSM LOCATION '{}'",
        dir.path().join("docs").display()
    );

    // One call teaches a session everything. An engine of its own stands for a process of its own here; without one,
    // `with_lsm()`, the sessions of a process share what is open.
    let session = SessionContext::new().with_lsm_engine(LsmEngine::new());
    for sql in [
        create.as_str(),
        "INSERT INTO docs VALUES (7, 'first'), (8, 'second'), (9, 'tmp')",
        "UPDATE docs SET body = 'changed' WHERE id = 7",
        "DELETE FROM docs WHERE body LIKE 'tmp%'",
        "SELECT * FROM docs ORDER BY id",
        // The memtable becomes a generation; newer rows supersede the ones in it.
        "SELECT * FROM lsm_flush('docs')",
        "INSERT INTO docs VALUES (8, 'newer')",
        "SELECT * FROM docs WHERE id IN (7, 8) ORDER BY id",
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
