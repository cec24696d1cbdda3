//! Indexes of memtables: in step with the rows, and never in their way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use datafusion_lsm::error::Result;
use datafusion_lsm::ids::GenerationId;
use datafusion_lsm::memtable::{RowIndex, RowIndexFactory};
use datafusion_lsm::schema::TableSchema;
use datafusion_lsm::table::{Components, LsmTable};

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
