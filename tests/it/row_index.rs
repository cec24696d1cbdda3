//! Indexes of memtables: in step with the rows, and never in their way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use arrow::array::RecordBatch;
use datafusion_lsm::error::{ErrorKind, Result};
use datafusion_lsm::events::EventListener;
use datafusion_lsm::ids::{GenerationId, ShardId};
use datafusion_lsm::index_spec::IndexSpec;
use datafusion_lsm::memtable::{RowIndex, RowIndexFactory};
use datafusion_lsm::schema::TableSchema;
use datafusion_lsm::settings::Settings;
use datafusion_lsm::table::{Components, LsmTable};

use crate::support::soon;
use crate::table::{rows, scan, spec};

/// Counts rows; panics at the row given.
#[derive(Debug)]
struct Counting {
    rows: AtomicUsize,
    panics_at: usize,
}

impl RowIndex for Counting {
    fn append(&self, start: usize, rows: &RecordBatch) -> Result<()> {
        assert_eq!(self.rows.fetch_add(rows.num_rows(), Ordering::SeqCst), start, "rows come in order, each once");
        assert!(start + rows.num_rows() <= self.panics_at, "the index breaks as the test wants");
        Ok(())
    }

    fn memory(&self) -> usize {
        64
    }
}

#[derive(Debug)]
struct Factory(usize);

impl RowIndexFactory for Factory {
    fn name(&self) -> &str {
        "counting"
    }

    fn create(&self, _: &TableSchema, _: GenerationId) -> Arc<dyn RowIndex> {
        Arc::new(Counting { rows: AtomicUsize::new(0), panics_at: self.0 })
    }
}

async fn open(uri: &str, panics_at: usize) -> Arc<LsmTable> {
    let components = Components { indexes: vec![Arc::new(Factory(panics_at))], ..Components::default() };
    LsmTable::builder(uri).create(spec(1)).components(components).open().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_visible_row_is_indexed() {
    let dir = tempfile::tempdir().unwrap();
    let table = open(&dir.path().to_string_lossy(), usize::MAX).await;
    for i in 0..50 {
        table.put(rows(&[i, i + 1], "row")).await.unwrap();
        let snapshot = table.snapshot();
        let view = &snapshot.memtables(0)[0];
        assert!(view.watermark() > i as usize);
        assert!(view.table().indexes()[0].indexed() >= view.watermark());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panicking_index_loses_no_row_and_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let table = open(&dir.path().to_string_lossy(), 3).await;
    for i in 0..10 {
        table.put(rows(&[i], "row")).await.unwrap();
    }
    assert_eq!(scan(&table).await.len(), 10);
    let sources = table.sources();
    let memtable = sources.iter().find(|s| s.kind == "memtable").unwrap();
    assert!(memtable.error.as_ref().unwrap().contains("the index breaks as the test wants"));
    table.flush().await.unwrap();
    assert_eq!(scan(&table).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_index_beside_one_of_the_program_of_the_same_name_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().to_string_lossy().into_owned();
    let table = open(&uri, usize::MAX).await;
    let same = IndexSpec::parse("body", "fts(name='counting')").unwrap().remove(0);
    assert_eq!(table.create_index(&same, false).await.unwrap_err().kind(), ErrorKind::Invalid);
    table.close().await.unwrap();
    // A program without an index of its own may have made one.
    let other = LsmTable::open(&uri, Settings::default()).await.unwrap();
    other.create_index(&same, false).await.unwrap();
    other.close().await.unwrap();
    let table = open(&uri, usize::MAX).await;
    for i in 0..10 {
        soon("a row is written", table.put(rows(&[i], "row"))).await.unwrap();
    }
    soon("a flush", table.flush()).await.unwrap();
    assert_eq!(scan(&table).await.len(), 10);
}

/// Indexes nothing until it is let.
#[derive(Debug)]
struct Slow(Arc<Gate>);

#[derive(Debug, Default)]
struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

impl RowIndex for Slow {
    fn append(&self, _: usize, _: &RecordBatch) -> Result<()> {
        let is_open = self.0.is_open.lock().unwrap();
        drop(self.0.opened.wait_while(is_open, |is_open| !*is_open).unwrap());
        Ok(())
    }

    fn memory(&self) -> usize {
        0
    }
}

#[derive(Debug)]
struct SlowFactory(Arc<Gate>);

impl RowIndexFactory for SlowFactory {
    fn name(&self) -> &str {
        "slow"
    }

    fn create(&self, _: &TableSchema, _: GenerationId) -> Arc<dyn RowIndex> {
        Arc::new(Slow(Arc::clone(&self.0)))
    }
}

async fn open_slow(uri: &str, sync: &str) -> (Arc<LsmTable>, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let components = Components { indexes: vec![Arc::new(SlowFactory(Arc::clone(&gate)))], ..Components::default() };
    let builder = LsmTable::builder(uri).create(spec(1)).components(components);
    (builder.option("lsm.index.sync", sync).open().await.unwrap(), gate)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_wait_for_a_slow_index_only_with_index_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (table, gate) = open_slow(&dir.path().join("on").to_string_lossy(), "on").await;
    let mut put = Box::pin(table.put(rows(&[1], "row")));
    let waits = tokio::time::timeout(std::time::Duration::from_millis(200), &mut put).await;
    assert!(waits.is_err() && scan(&table).await.is_empty());
    gate.open();
    assert_eq!((put.await.unwrap(), scan(&table).await.len()), (1, 1));

    let (table, gate) = open_slow(&dir.path().join("off").to_string_lossy(), "off").await;
    for i in 0..5 {
        assert_eq!(table.put(rows(&[i], "row")).await.unwrap(), 1);
        assert_eq!(scan(&table).await.len(), i as usize + 1);
    }
    let memtable = Arc::clone(table.snapshot().memtables(0)[0].table());
    assert_eq!(memtable.indexes()[0].indexed(), 0);
    gate.open();
    while memtable.indexes()[0].indexed() < 5 {
        tokio::task::yield_now().await;
    }
    table.flush().await.unwrap();
    assert_eq!(scan(&table).await.len(), 5);
}

/// Holds memory until it is frozen, and flushes until it is.
#[derive(Debug, Default, Clone)]
struct Thawed(Arc<Cold>);

#[derive(Debug, Default)]
struct Cold {
    is_frozen: Mutex<bool>,
    froze: Condvar,
}

const SPARE: usize = 1 << 20;

impl RowIndex for Thawed {
    fn append(&self, _: usize, _: &RecordBatch) -> Result<()> {
        assert!(!*self.0.is_frozen.lock().unwrap(), "rows came after the last");
        Ok(())
    }

    fn freeze(&self) {
        assert!(!std::mem::replace(&mut *self.0.is_frozen.lock().unwrap(), true), "once");
        self.0.froze.notify_all();
    }

    fn memory(&self) -> usize {
        if *self.0.is_frozen.lock().unwrap() { 0 } else { SPARE }
    }
}

impl RowIndexFactory for Thawed {
    fn name(&self) -> &str {
        "thawed"
    }

    fn create(&self, _: &TableSchema, generation: GenerationId) -> Arc<dyn RowIndex> {
        Arc::new(if generation == GenerationId(1) { self.clone() } else { Self::default() })
    }
}

impl EventListener for Thawed {
    fn on_flush_written(&self, _: ShardId, _: GenerationId) {
        drop(self.0.froze.wait_while(self.0.is_frozen.lock().unwrap(), |is_frozen| !*is_frozen).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_a_frozen_memtable_gives_back_what_only_appending_needs() {
    let dir = tempfile::tempdir().unwrap();
    let index = Thawed::default();
    let components =
        Components { indexes: vec![Arc::new(index.clone())], events: Arc::new(index), ..Components::default() };
    let builder = LsmTable::builder(dir.path().to_str().unwrap()).create(spec(1)).components(components);
    let table = builder.open().await.unwrap();
    for i in 0..3 {
        table.put(rows(&[i], "row")).await.unwrap();
    }
    let memtable = Arc::clone(table.snapshot().memtables(0)[0].table());
    let before = memtable.memory();
    assert!(!memtable.indexes()[0].is_frozen());
    table.flush().await.unwrap();
    assert!(memtable.indexes()[0].is_frozen());
    assert_eq!(memtable.memory() + SPARE, before);
    assert_eq!(scan(&table).await.len(), 3);
    table.close().await.unwrap();
}
