//! Runs every file of `test_files` as one test through SQL, each in a directory of its own that `$DIR` stands for.
//!
//! `cargo test --test sqllogictests -- NAME` runs the files whose name contains NAME; with `--complete` it writes what
//! the statements answered into the files instead: read the difference before you keep it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod connection;
mod control;
mod engine;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use datafusion_sqllogictest::{df_value_validator, value_normalizer};
use libtest_mimic::{Arguments, Failed, Trial};
use sqllogictest::{Runner, strict_column_validator};

use connection::{Connection, Machine};
use engine::SessionEngine;

/// The partitions that EXPLAIN shows in the files.
const PARTITIONS: usize = 4;

/// Planning is deeply recursive, and unoptimised code has large frames.
const STACK: usize = 16 << 20;

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Check,
    Complete,
}

fn main() -> ExitCode {
    let complete = std::env::args().any(|arg| arg == "--complete");
    let args = Arguments::from_iter(std::env::args().filter(|arg| arg != "--complete"));
    let mut trials = Vec::new();
    for path in files() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if complete {
            trials.push(trial(&name, path, PARTITIONS, Mode::Complete));
            continue;
        }
        let explains = std::fs::read_to_string(&path).unwrap().contains("query TT\nEXPLAIN");
        if !explains {
            trials.push(trial(&format!("{name}::partitions_1"), path.clone(), 1, Mode::Check));
        }
        trials.push(trial(&format!("{name}::partitions_{PARTITIONS}"), path, PARTITIONS, Mode::Check));
    }
    libtest_mimic::run(&args, trials).exit_code()
}

fn files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("sqllogictests/test_files");
    let entries = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "slt")).collect();
    files.sort();
    files
}

fn trial(name: &str, path: PathBuf, partitions: usize, mode: Mode) -> Trial {
    Trial::test(name, move || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(PARTITIONS).thread_stack_size(STACK).enable_all().build()?;
        // On a worker, not here: only the workers have the large stack.
        let done = runtime.spawn(run(path, partitions, mode));
        runtime.block_on(done)?.map_err(Failed::from)
    })
}

async fn run(path: PathBuf, partitions: usize, mode: Mode) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let machine = Arc::new(Machine::new(SessionEngine::new(partitions), dir.path()));
    let opened = Arc::clone(&machine);
    let mut runner = Runner::new(move || {
        let connection = Connection::new(Arc::clone(&opened));
        async move { Ok(connection) }
    });
    runner.add_label("lsm");
    runner.with_column_validator(strict_column_validator);
    runner.with_normalizer(value_normalizer);
    runner.with_validator(df_value_validator);
    let outcome = match mode {
        Mode::Check => Box::pin(runner.run_file_async(&path)).await.map_err(|e| e.display(false).to_string()),
        Mode::Complete => {
            let (values, normal, columns) = (df_value_validator, value_normalizer, strict_column_validator);
            let done = Box::pin(runner.update_test_file(&path, " ", values, normal, columns)).await;
            done.map_err(|e| e.to_string())
        }
    };
    drop(runner);
    outcome.and(machine.close().await.map_err(|e| e.to_string()))
}
