//! Indexes over the rows of a memtable that are kept off the write lock.
//!
//! The key index is no such index: who writes must know at once which row a key has. Text and vector indexes are.

use std::any::Any;
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;

use crate::error::{Error, Result};
use crate::ids::GenerationId;
use crate::schema::TableSchema;

/// An index of one memtable.
///
/// One task appends; any number of readers search at the same time and leave out rows from their watermark on.
pub trait RowIndex: Any + Debug + Send + Sync {
    /// Adds the rows from position `start` on (stored schema), each row once and in order. May panic: the index is
    /// given up then, the rows are not.
    ///
    /// # Errors
    /// Gives the index up.
    fn append(&self, start: usize, rows: &RecordBatch) -> Result<()>;

    /// Bytes of memory held.
    fn memory(&self) -> usize;
}

/// Makes an index for each memtable.
pub trait RowIndexFactory: Debug + Send + Sync {
    /// The index's name, unique within the table.
    fn name(&self) -> &str;

    /// An empty index for the memtable of `generation`.
    fn create(&self, schema: &TableSchema, generation: GenerationId) -> Arc<dyn RowIndex>;
}

/// An index of a memtable and how far it is.
#[derive(Debug)]
pub struct IndexState {
    name: String,
    index: Arc<dyn RowIndex>,
    indexed: AtomicUsize,
    failure: OnceLock<Error>,
}

impl IndexState {
    pub(super) fn new(factory: &dyn RowIndexFactory, schema: &TableSchema, generation: GenerationId) -> Self {
        Self {
            name: factory.name().to_string(),
            index: factory.create(schema, generation),
            indexed: AtomicUsize::new(0),
            failure: OnceLock::new(),
        }
    }

    /// The index's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The index, unless it was given up.
    pub fn index(&self) -> Option<&Arc<dyn RowIndex>> {
        self.failure.get().is_none().then_some(&self.index)
    }

    /// How many rows are indexed; those behind are for a flat pass.
    pub fn indexed(&self) -> usize {
        self.indexed.load(Ordering::Acquire)
    }

    /// Why it was given up.
    pub fn failure(&self) -> Option<&Error> {
        self.failure.get()
    }

    /// Rows below `end` are indexed.
    pub fn advance(&self, end: usize) {
        self.indexed.store(end, Ordering::Release);
    }

    /// Gives the index up: nobody waits for it any more.
    pub fn give_up(&self, error: Error) {
        // The first reason counts.
        let _ = self.failure.set(error);
    }

    pub(super) fn memory(&self) -> usize {
        // One that was given up is held all the same.
        self.index.memory()
    }
}
