//! Small datasets kept in memory as rows.
//!
//! A version of a dataset never changes, so its rows may be kept once they were read. Reading a few kilobytes through
//! Lance costs about as much as reading megabytes: for a small base or generation that cost is all there is.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{SchemaRef, UInt64Type};
use parking_lot::Mutex;

use super::lazy_indexes::LazyIndexes;
use super::text_index::DatasetTextIndex;
use crate::cache::{MemoryLease, Reclaim};
use crate::error::Result;
use crate::index_spec::TextParams;
use crate::schema::take_rows;
use crate::size::row_bytes;
use crate::task;
use crate::text_search::{TextAnalyzer, is_heavy};

/// The most bytes of files that are kept as rows.
const FILE_BYTES: u64 = 4 << 20;
/// The most bytes of rows: files may be compressed.
pub(super) const ROW_BYTES: usize = 16 << 20;
/// Rows are kept while the budget is filled less than this, so that writers find room: one part in so many.
const ROOM: usize = 2;
/// The most bytes of texts of one column that get an index in memory.
const TEXT_BYTES: usize = 2 << 20;
/// Reads before the one that keeps the rows: who reads once does not pay for all columns.
const READS: usize = 1;

/// Every row of a dataset in its order: the stored columns, then the row id.
#[derive(Debug)]
pub(super) struct ResidentRows {
    pub(super) batch: RecordBatch,
    ids_ascend: bool,
    bytes: usize,
    text_indexes: LazyIndexes<(usize, TextParams), DatasetTextIndex>,
}

/// The rows of a small dataset, while memory lasts.
#[derive(Debug)]
pub(super) struct Resident {
    small: AtomicBool,
    reads: AtomicUsize,
    loading: AtomicBool,
    rows: ArcSwapOption<ResidentRows>,
    /// What `rows` are charged; both change under its lock.
    lease: Mutex<MemoryLease>,
}

/// How a dataset is read now.
pub(super) enum Residency {
    /// From memory.
    Rows(Arc<ResidentRows>),
    /// From storage, all of it, to be kept.
    Load(Loading),
    /// From storage.
    Storage,
}

/// The right to load the rows; others read from storage meanwhile.
pub(super) struct Loading(Arc<Resident>);

impl Resident {
    /// Of a dataset whose files have `file_bytes` (`None` if that is unknown); `lease` is charged for the rows.
    pub(super) fn new(file_bytes: Option<u64>, lease: MemoryLease) -> Arc<Self> {
        let small = file_bytes.is_some_and(|bytes| bytes <= FILE_BYTES);
        let budget = Arc::clone(lease.budget());
        let resident = Arc::new(Self {
            small: AtomicBool::new(small),
            reads: AtomicUsize::new(0),
            loading: AtomicBool::new(false),
            rows: ArcSwapOption::empty(),
            lease: Mutex::new(lease),
        });
        if small {
            let holder: Weak<Self> = Arc::downgrade(&resident);
            budget.register(holder);
        }
        resident
    }

    /// How to read now.
    pub(super) fn residency(self: &Arc<Self>) -> Residency {
        if let Some(rows) = self.rows() {
            return Residency::Rows(rows);
        }
        if !self.small.load(Ordering::Relaxed)
            || self.reads.fetch_add(1, Ordering::Relaxed) < READS
            || self.is_tight()
            || self.loading.swap(true, Ordering::AcqRel)
        {
            return Residency::Storage;
        }
        Residency::Load(Loading(Arc::clone(self)))
    }

    /// The rows, if they are in memory.
    pub(super) fn rows(&self) -> Option<Arc<ResidentRows>> {
        self.rows.load_full()
    }

    /// A text index of a column of the rows, made when it is first asked for; `None` if they are not in memory, the texts
    /// are too long, or memory is short.
    ///
    /// # Errors
    /// `Invalid` if it is no column of texts.
    pub(super) async fn text_index(
        &self,
        column: usize,
        analyzer: &TextAnalyzer,
    ) -> Result<Option<Arc<DatasetTextIndex>>> {
        let Some(rows) = self.rows().filter(|rows| rows.may_index_texts(column) && !self.is_tight()) else {
            return Ok(None);
        };
        let budget = Arc::clone(self.lease.lock().budget());
        let make = || {
            let (rows, analyzer) = (rows.batch.clone(), analyzer.clone());
            let heavy = is_heavy(rows.column(column));
            let make = move || DatasetTextIndex::of_rows(rows.column(column), ids(&rows), &analyzer, &budget);
            async move { Ok(Some(Arc::new(task::blocking_if(heavy, make).await?))) }
        };
        rows.text_indexes.get((column, analyzer.told().clone()), make).await
    }

    fn is_tight(&self) -> bool {
        let lease = self.lease.lock();
        let budget = lease.budget();
        budget.used() >= budget.limit() / ROOM
    }
}

impl Reclaim for Resident {
    fn reclaimable(&self) -> usize {
        self.rows.load().as_ref().map_or(0, |rows| rows.bytes + rows.text_memory())
    }

    fn reclaim(&self) {
        let lease = self.lease.lock();
        self.rows.store(None);
        lease.set(0);
    }
}

impl Loading {
    /// Keeps the rows.
    pub(super) fn keep(self, batch: RecordBatch) -> Arc<ResidentRows> {
        let ids_ascend = ids(&batch).is_sorted();
        let bytes = row_bytes(&batch);
        let rows = Arc::new(ResidentRows { batch, ids_ascend, bytes, text_indexes: LazyIndexes::default() });
        let lease = self.0.lease.lock();
        lease.set(bytes);
        self.0.rows.store(Some(Arc::clone(&rows)));
        drop(lease);
        rows
    }

    /// The rows take more than [`ROW_BYTES`]: they are never kept.
    pub(super) fn give_up(self) {
        self.0.small.store(false, Ordering::Relaxed);
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.0.loading.store(false, Ordering::Release);
    }
}

impl ResidentRows {
    /// All rows: these columns and the row id, of which `schema` is.
    pub(super) fn all(&self, columns: &[usize], schema: SchemaRef) -> Result<RecordBatch> {
        let places = columns.iter().copied().chain([self.batch.num_columns() - 1]);
        Ok(RecordBatch::try_new(schema, places.map(|place| Arc::clone(self.batch.column(place))).collect())?)
    }

    /// Whether a text index of a column may be made.
    pub(super) fn may_index_texts(&self, column: usize) -> bool {
        self.batch.column(column).get_buffer_memory_size() <= TEXT_BYTES
    }

    /// Bytes of its text indexes.
    fn text_memory(&self) -> usize {
        self.text_indexes.opened().iter().map(|index| index.memory()).map(|(words, rest)| words + rest).sum()
    }

    /// The rows with these ids, in this order; `None` if only storage can say.
    pub(super) fn take(&self, row_ids: &[u64], columns: &[usize]) -> Result<Option<RecordBatch>> {
        if !self.ids_ascend {
            return Ok(None);
        }
        let ids = ids(&self.batch);
        let places: Option<Vec<u64>> = row_ids.iter().map(|id| Some(ids.binary_search(id).ok()? as u64)).collect();
        let Some(places) = places else { return Ok(None) };
        Ok(Some(take_rows(&self.batch.project(columns)?, places)?))
    }
}

fn ids(batch: &RecordBatch) -> &[u64] {
    batch.column(batch.num_columns() - 1).as_primitive::<UInt64Type>().values()
}
