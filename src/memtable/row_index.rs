//! Indexes over the rows of a memtable that are kept off the write lock.
//!
//! The key index is no such index: who writes must know at once which row a key has. Text and vector indexes are.

use std::any::Any;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

    /// Gives back what only appending needs: no row will be added any more. Readers go on, and find the same.
    fn freeze(&self) {}

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
    factory: Arc<dyn RowIndexFactory>,
    index: Arc<dyn RowIndex>,
    indexed: AtomicUsize,
    /// Whether rows become visible only when this index has them.
    awaited: AtomicBool,
    frozen: AtomicBool,
    failure: OnceLock<Error>,
}

impl IndexState {
    pub(super) fn new(
        factory: &Arc<dyn RowIndexFactory>,
        schema: &TableSchema,
        generation: GenerationId,
        awaited: bool,
    ) -> Self {
        Self {
            index: factory.create(schema, generation),
            factory: Arc::clone(factory),
            indexed: AtomicUsize::new(0),
            awaited: AtomicBool::new(awaited),
            frozen: AtomicBool::new(false),
            failure: OnceLock::new(),
        }
    }

    /// The index's name.
    pub fn name(&self) -> &str {
        self.factory.name()
    }

    /// What made it: its name another index of the memtable may have, made by something else.
    pub fn factory(&self) -> &Arc<dyn RowIndexFactory> {
        &self.factory
    }

    /// Whether `factory` made it.
    pub fn is_of(&self, factory: &Arc<dyn RowIndexFactory>) -> bool {
        Arc::ptr_eq(&self.factory, factory)
    }

    /// The index, unless it was given up.
    pub fn index(&self) -> Option<&Arc<dyn RowIndex>> {
        self.failure.get().is_none().then_some(&self.index)
    }

    /// The index, be it given up or not: what it was made with can be asked for.
    pub fn kept(&self) -> &Arc<dyn RowIndex> {
        &self.index
    }

    /// How many rows are indexed; those behind are for a flat pass.
    pub fn indexed(&self) -> usize {
        self.indexed.load(Ordering::Acquire)
    }

    /// Whether rows become visible only when this index has them: not while it catches up with a memtable that had rows
    /// before it.
    pub fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Acquire) && self.failure.get().is_none()
    }

    /// From now on rows wait for this index.
    pub fn set_awaited(&self) {
        self.awaited.store(true, Ordering::Release);
    }

    /// Why it was given up.
    pub fn failure(&self) -> Option<&Error> {
        self.failure.get()
    }

    /// Rows below `end` are indexed.
    pub fn advance(&self, end: usize) {
        self.indexed.store(end, Ordering::Release);
    }

    /// Whether [`Self::freeze`] was called.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Lets the index give back what only appending needs. It has all rows of its memtable, and no more will come.
    pub fn freeze(&self) {
        if !self.frozen.swap(true, Ordering::AcqRel) {
            self.index.freeze();
        }
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

/// An index of a memtable that is a `T`; it lives on though the memtable may lose it.
#[derive(Debug)]
pub struct Indexed<T> {
    state: Arc<IndexState>,
    is: PhantomData<fn() -> T>,
}

impl<T: RowIndex> Indexed<T> {
    /// The index behind `state` if it is a `T`, was not given up and is `wanted`.
    pub(super) fn of(state: &Arc<IndexState>, wanted: impl FnOnce(&T) -> bool) -> Option<Self> {
        let index: &dyn Any = state.index()?.as_ref();
        index.downcast_ref::<T>().filter(|index| wanted(index))?;
        Some(Self { state: Arc::clone(state), is: PhantomData })
    }
}

impl<T: RowIndex> Deref for Indexed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        let index: &dyn Any = self.state.index.as_ref();
        index.downcast_ref::<T>().expect("it was one when this was made, and stays the same")
    }
}
