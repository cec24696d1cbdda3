//! The process that is killed: several sessions write through SQL, each to groups of its own, and say what they do.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::AsArray;
use arrow::datatypes::UInt64Type;
use datafusion::prelude::SessionContext;
use datafusion_lsm::sql::{LsmEngine, LsmSessionExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use super::GROUP;
use crate::support::number_from_env;

const SESSIONS: i64 = 3;
/// Groups of one session.
const GROUPS: i64 = 8;

/// Nobody listens any more if this fails: there is nothing left to do.
fn say(words: &str) {
    let mut output = std::io::stdout().lock();
    if writeln!(output, "@{words}").and_then(|()| output.flush()).is_err() {
        std::process::exit(0);
    }
}

async fn execute(session: &SessionContext, sql: &str) -> u64 {
    let rows = match session.sql(sql).await {
        Ok(frame) => frame.collect().await,
        Err(error) => Err(error),
    };
    let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let count = rows.iter().find(|batch| batch.num_rows() == 1 && batch.num_columns() == 1);
    count.and_then(|batch| batch.column(0).as_primitive_opt::<UInt64Type>()).map_or(0, |count| count.value(0))
}

fn values(group: i64, version: u64) -> String {
    let row = |id: i64| format!("({id}, {group}, {version}, 'version {version} of row {id}')");
    (group * GROUP..(group + 1) * GROUP).map(row).collect::<Vec<_>>().join(", ")
}

async fn write_for_ever(session: SessionContext, number: i64, seed: u64, versions: Arc<AtomicU64>) {
    let mut random = StdRng::seed_from_u64(seed);
    loop {
        let group = number + SESSIONS * random.random_range(0..GROUPS);
        let version = versions.fetch_add(1, Ordering::SeqCst) + 1;
        let (what, sql) = match random.random_range(0..10) {
            0..5 => ("insert", format!("INSERT INTO t VALUES {}", values(group, version))),
            5..8 => ("update", format!("UPDATE t SET version = {version} WHERE grp = {group}")),
            8 => ("update", format!("INSERT INTO t SELECT id, grp, {version}, body || '!' FROM t WHERE grp = {group}")),
            _ => ("delete", format!("DELETE FROM t WHERE grp = {group}")),
        };
        say(&format!("try {group} {version} {what}"));
        let count = execute(&session, &sql).await;
        assert!(count <= GROUP as u64, "{sql}: {count} rows");
        say(&format!("done {group} {version}"));
        if random.random_bool(0.01) {
            execute(&session, "SELECT * FROM lsm_flush('t')").await;
        }
    }
}

/// Writes only if it was started as the writing process.
#[test]
fn writes_until_it_is_killed() {
    let Ok(location) = std::env::var("LSM_TORTURE_TABLE") else { return };
    let shards = number_from_env("LSM_TORTURE_SHARDS", 1);
    let seed = number_from_env("LSM_TORTURE_SEED", 0);
    let versions = Arc::new(AtomicU64::new(number_from_env("LSM_TORTURE_FROM", 0)));
    // The harness has begun a line.
    let _ = writeln!(std::io::stdout());
    say("started");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let engine = LsmEngine::new();
        let mut sessions = JoinSet::new();
        for number in 0..SESSIONS {
            let session = SessionContext::new().with_lsm_engine(Arc::clone(&engine));
            let create = format!(
                "CREATE EXTERNAL TABLE t (id BIGINT NOT NULL, grp BIGINT, version BIGINT, body TEXT, PRIMARY KEY (id)) \
                 STORED AS LSM LOCATION '{location}' OPTIONS ('lsm.shards' '{shards}', 'lsm.memtable.rows' '150')"
            );
            execute(&session, &create).await;
            say("opened");
            sessions.spawn(write_for_ever(session, number, seed + number as u64, Arc::clone(&versions)));
        }
        while let Some(ended) = sessions.join_next().await {
            // A session that fails ends the process: the one that watches it sees that it was not killed.
            if ended.is_err() {
                std::process::exit(1);
            }
        }
    });
}
