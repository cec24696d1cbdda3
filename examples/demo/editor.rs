//! The editor: a task that updates some chunks, one after the other, until it is told to stop.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::table::Table;
use crate::{Result, escaped};

/// What it does, as the page shows it.
pub(crate) const STATEMENT: &str =
    "UPDATE chunks SET body = …, embedding = embed(…), edits = edits + 1 WHERE path = … AND chunk = …";

/// How many edits it makes at least.
const LEAST: usize = 20;

/// The key of a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Chunk {
    pub(crate) path: String,
    pub(crate) number: i64,
}

impl Chunk {
    /// What only this chunk passes.
    pub(crate) fn filter(&self) -> String {
        format!("path = '{}' AND chunk = {}", escaped(&self.path), self.number)
    }
}

/// How often chunks were edited, by statements that have returned.
pub(crate) type Ledger = HashMap<Chunk, i64>;

/// A running editor.
pub(crate) struct Editor {
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<Report>>,
}

/// What an editor did.
pub(crate) struct Report {
    pub(crate) edits: usize,
    /// How long its UPDATEs took together.
    pub(crate) took: Duration,
}

impl Editor {
    /// Edits `chunks`, one after the other, again and again.
    pub(crate) fn start(table: Table, chunks: Vec<Chunk>) -> Self {
        let (ledger, stop) = (Arc::new(Mutex::new(Ledger::new())), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn(edit(table, chunks, Arc::clone(&ledger), Arc::clone(&stop)));
        Self { ledger, stop, task }
    }

    /// What was acknowledged until now.
    pub(crate) fn acknowledged(&self) -> Ledger {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many edits were acknowledged until now.
    pub(crate) fn edits(&self) -> i64 {
        self.acknowledged().values().sum()
    }

    /// Lets it finish its edit.
    pub(crate) async fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

async fn edit(table: Table, chunks: Vec<Chunk>, ledger: Arc<Mutex<Ledger>>, stop: Arc<AtomicBool>) -> Result<Report> {
    let mut report = Report { edits: 0, took: Duration::ZERO };
    for chunk in chunks.iter().cycle() {
        if report.edits >= LEAST && stop.load(Ordering::Relaxed) {
            break;
        }
        report.edits += 1;
        let start = Instant::now();
        let body = format!("concat(body, ' editor{}')", report.edits);
        let update = format!(
            "UPDATE chunks SET body = {body}, embedding = embed({body}), edits = edits + 1, modified = now() WHERE {}",
            chunk.filter()
        );
        if table.number(&update).await? != 1 {
            return Err(format!("{chunk:?} is not there").into());
        }
        report.took += start.elapsed();
        *ledger.lock().unwrap_or_else(PoisonError::into_inner).entry(chunk.clone()).or_default() += 1;
        let found = format!(
            "SELECT count(*) FROM text_search('chunks', 'body', 'editor{}') WHERE {}",
            report.edits,
            chunk.filter()
        );
        if table.number(&found).await? != 1 {
            return Err(format!("{chunk:?} is not found by its newest word").into());
        }
    }
    Ok(report)
}
