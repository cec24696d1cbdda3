//! One memtable: its rows, its key index and how many of its rows are visible.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::SchemaRef;

use super::batch_list::{BatchList, Chunk};
use super::key_index::KeyIndex;
use super::row_index::{IndexState, Indexed, RowIndex, RowIndexFactory};
use crate::cache::{MemoryBudget, MemoryLease};
use crate::error::Result;
use crate::ids::GenerationId;
use crate::key::{KeyRef, Keys};
use crate::schema::TableSchema;

/// The rows of one generation while they are in memory.
#[derive(Debug)]
pub struct MemTable {
    instance: u64,
    generation: GenerationId,
    schema: Arc<TableSchema>,
    batches: BatchList,
    keys: KeyIndex,
    /// As they are now: an index may come and go while the memtable lives.
    indexes: ArcSwap<Vec<Arc<IndexState>>>,
    rows: AtomicUsize,
    bytes: AtomicUsize,
    /// Rows below this are visible to readers: durable, if the table waits for that.
    visible: AtomicUsize,
    frozen: AtomicBool,
    created: Duration,
    lease: MemoryLease,
}

impl MemTable {
    /// An empty memtable that becomes generation `generation`; `created` is the time on the engine's clock, `lease` is
    /// charged with the memory held until the last reader is gone.
    pub fn new(generation: GenerationId, schema: Arc<TableSchema>, created: Duration, lease: MemoryLease) -> Self {
        static INSTANCES: AtomicU64 = AtomicU64::new(0);
        Self {
            instance: INSTANCES.fetch_add(1, Ordering::Relaxed),
            generation,
            batches: BatchList::new(Arc::clone(schema.stored())),
            keys: KeyIndex::new(schema.key().is_fixed()),
            indexes: ArcSwap::default(),
            schema,
            rows: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            visible: AtomicUsize::new(0),
            frozen: AtomicBool::new(false),
            created,
            lease,
        }
    }

    /// The generation this memtable becomes.
    pub fn generation(&self) -> GenerationId {
        self.generation
    }

    /// A number no other memtable of this process has.
    pub fn instance(&self) -> u64 {
        self.instance
    }

    /// The schema its rows were written under.
    pub fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    /// When it was made, on the engine's clock.
    pub fn created(&self) -> Duration {
        self.created
    }

    /// Appends rows of the stored schema with their keys and returns how many rows the memtable has then. The rows
    /// stay invisible until [`Self::publish`]. Only the holder of the shard's write lock may call this.
    pub fn append(&self, rows: RecordBatch, keys: &Keys, bytes: usize) -> usize {
        let start = self.rows.load(Ordering::Relaxed);
        let count = rows.num_rows();
        let tombstones = rows.column(self.schema.tombstone_index()).as_boolean().clone();
        self.batches.append(start, rows, bytes);
        let flags = tombstones.values();
        self.keys.append(keys, |i| flags.value(i));
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.rows.store(start + count, Ordering::Release);
        self.lease.set(self.memory());
        start + count
    }

    /// Charges what the memtable holds now: indexes grow after the rows were appended.
    pub fn charge(&self) {
        self.lease.set(self.memory());
    }

    /// Makes the rows below `watermark` visible. Watermarks only rise.
    pub fn publish(&self, watermark: usize) {
        self.visible.fetch_max(watermark, Ordering::AcqRel);
    }

    /// How many rows are visible.
    pub fn visible(&self) -> usize {
        self.visible.load(Ordering::Acquire)
    }

    /// How many rows were appended, visible or not.
    pub fn rows(&self) -> usize {
        self.rows.load(Ordering::Acquire)
    }

    /// Marks that no row will be appended any more.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::Release);
    }

    /// Whether no row will be appended any more.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Bytes of the rows.
    pub fn row_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes of memory held: rows and indexes.
    pub fn memory(&self) -> usize {
        self.row_bytes() + self.keys.memory() + self.indexes.load().iter().map(|i| i.memory()).sum::<usize>()
    }

    /// Makes these its indexes besides the key index: those it has of them stay, others go, new ones begin at the first
    /// row. If `sync`, rows become visible only when every index has them that has caught up once. Only the holder of
    /// the shard's write lock may call this.
    pub fn set_indexes(&self, factories: &[Arc<dyn RowIndexFactory>], sync: bool) {
        let there = self.indexes.load();
        let awaited = sync && self.rows() == 0;
        let state = |factory: &Arc<dyn RowIndexFactory>| match there.iter().find(|state| state.is_of(factory)) {
            Some(state) => Arc::clone(state),
            None => Arc::new(IndexState::new(factory, &self.schema, self.generation, awaited)),
        };
        self.indexes.store(Arc::new(factories.iter().map(state).collect()));
        self.charge();
    }

    /// The indexes besides the key index, as they are now.
    pub fn indexes(&self) -> Arc<Vec<Arc<IndexState>>> {
        self.indexes.load_full()
    }

    /// The index that is a `T` and `wanted`, and how far it is, if there is one that was not given up.
    pub fn find_index<T: RowIndex>(&self, wanted: impl Fn(&T) -> bool) -> Option<(Indexed<T>, Arc<IndexState>)> {
        self.indexes.load().iter().find_map(|state| Some((Indexed::of(state, &wanted)?, Arc::clone(state))))
    }

    /// How many rows every index has that rows wait for.
    pub fn indexed(&self) -> usize {
        self.indexes.load().iter().filter(|i| i.is_awaited()).map(|i| i.indexed()).min().unwrap_or(usize::MAX)
    }

    /// The rows from `from` to `to`, visible or not, batch by batch with the position of each batch's first row.
    pub fn rows_between(&self, from: usize, to: usize) -> Vec<(usize, RecordBatch)> {
        let overlap = |chunk: Chunk| {
            let (start, end) = (chunk.start.max(from), (chunk.start + chunk.batch.num_rows()).min(to));
            (start < end).then(|| (start, chunk.batch.slice(start - chunk.start, end - start)))
        };
        self.batches.below(to).filter_map(overlap).collect()
    }

    /// The key index.
    pub fn keys(&self) -> &KeyIndex {
        &self.keys
    }

    /// The newest row of `key` below `watermark`, and whether it is a tombstone.
    pub fn find(&self, key: KeyRef<'_>, hash: u64, watermark: usize) -> Option<(usize, bool)> {
        self.keys.get(key, hash, watermark)
    }

    /// One row; `logical` is the table's logical schema. The values are slices of the batch that holds the row.
    ///
    /// # Errors
    /// `Internal` if the row is not of that schema.
    pub fn row(&self, row: usize, logical: &SchemaRef) -> Result<RecordBatch> {
        let columns = logical.fields().len();
        self.batches.with_row(row, |batch, at| {
            let values = batch.columns()[..columns].iter().map(|c| c.slice(at, 1)).collect();
            Ok(RecordBatch::try_new(Arc::clone(logical), values)?)
        })
    }

    /// The budget that the memtable is charged to.
    pub(super) fn budget(&self) -> &Arc<MemoryBudget> {
        self.lease.budget()
    }

    pub(super) fn batches(&self) -> &BatchList {
        &self.batches
    }
}
