//! A process that writes through SQL is killed at random moments: what it had acknowledged is there, in its newest
//! version, and of a statement that was underway each shard has all or nothing.
//!
//! `LSM_KILLS` says how often. The writing process is this test binary, called with the name of one test.

mod child;
mod ledger;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use datafusion::physical_plan::collect;
use datafusion_lsm::error::ErrorKind;
use datafusion_lsm::settings::{Access, Settings};
use datafusion_lsm::table::LsmTable;
use ledger::Ledger;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{self, number_from_env};

/// Rows of a group: a statement writes all of them.
const GROUP: i64 = 8;
/// More generations than this are folded into the base.
const GENERATIONS: usize = 12;

/// A table and what is known of its rows.
struct Victim {
    dir: tempfile::TempDir,
    shards: u32,
    ledger: Ledger,
}

impl Victim {
    fn new(shards: u32) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), shards, ledger: Ledger::new(shards) }
    }

    fn table(&self) -> std::path::PathBuf {
        self.dir.path().join("table")
    }

    /// Runs a writing process, kills it when it has said `lines` lines, and hears what else it had said.
    fn run_and_kill(&mut self, lines: usize, seed: u64) {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["torture::child::writes_until_it_is_killed", "--exact", "--nocapture"])
            .env("LSM_TORTURE_TABLE", self.table())
            .env("LSM_TORTURE_SHARDS", self.shards.to_string())
            .env("LSM_TORTURE_SEED", seed.to_string())
            .env("LSM_TORTURE_FROM", self.ledger.newest().to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let (mut said, mut killed, mut line) = (0, false, String::new());
        loop {
            if said >= lines && !killed {
                process.kill().unwrap();
                killed = true;
            }
            line.clear();
            if output.read_line(&mut line).unwrap() == 0 {
                break;
            }
            // Half a line is a line that was never said; other lines are the test harness's.
            if let Some(words) = line.strip_suffix('\n').and_then(|line| line.strip_prefix('@')) {
                self.ledger.hear(words);
                said += 1;
            }
        }
        let status = process.wait().unwrap();
        assert!(killed, "the writing process ended by itself: {status}");
    }

    /// Opens the table as the next process does and compares it with the ledger.
    fn check(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        match runtime.block_on(read(&self.table())) {
            Some(rows) => {
                self.ledger.check(rows.clone());
                runtime.block_on(fold(&self.table(), rows));
            }
            None => assert!(self.ledger.is_empty(), "there is no table, but rows were acknowledged"),
        }
    }
}

/// All rows, or `None` if there is no table.
async fn read(location: &Path) -> Option<Vec<arrow::array::RecordBatch>> {
    let settings = Settings { access: Access::Read, ..Settings::default() };
    let table = match LsmTable::open(location.to_str().unwrap(), settings).await {
        Ok(table) => table,
        Err(error) if error.kind() == ErrorKind::Invalid => return None,
        Err(error) => panic!("the table cannot be opened: {error}"),
    };
    let snapshot = table.snapshot();
    let plan = table.scan(&snapshot, None, &[], None).unwrap();
    let rows = collect(plan, Arc::default()).await.unwrap();
    let count: usize = rows.iter().map(|batch| batch.num_rows()).sum();
    assert_eq!(table.live_rows(&snapshot).await.unwrap(), count as u64);
    Some(rows)
}

/// Many generations are made one base, or reading them would take most of the time.
async fn fold(location: &Path, rows: Vec<arrow::array::RecordBatch>) {
    let table = LsmTable::open(location.to_str().unwrap(), Settings::default()).await.unwrap();
    if table.sources().iter().filter(|s| s.kind == "generation").count() > GENERATIONS {
        let rows = support::rows::stream(table.schema(), rows);
        table.replace_all(rows).await.unwrap();
    }
}

#[test]
fn what_a_killed_process_had_acknowledged_survives() {
    let kills = number_from_env("LSM_KILLS", 5);
    let seed = number_from_env("LSM_SEED", 0xDEAD);
    println!("{kills} kills, LSM_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut victims = [Victim::new(1), Victim::new(3)];
    for kill in 0..kills {
        // Sometimes while it creates, opens or claims; mostly in the middle of writing.
        let lines = if random.random_bool(0.2) { random.random_range(0..4) } else { random.random_range(4..500) };
        let victim = &mut victims[(kill % 2) as usize];
        victim.run_and_kill(lines, random.random());
        victim.check();
    }
    let heard: Vec<u64> = victims.iter().map(|victim| victim.ledger.acknowledged()).collect();
    println!("{heard:?} statements were acknowledged before {kills} kills");
}
