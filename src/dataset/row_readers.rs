//! Rows of a dataset by id, through readers of its fragments that stay open.
//!
//! Lance's own takes open the fragments anew each time, and read every row of a local file by a thread of its own: of a
//! search that takes a few rows of files that the operating system has in memory that is a third of the time. Of object
//! stores, rows are taken so of which the blocks are kept. Rows that are not in memory are left to Lance, which waits for many of them at a time.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use lance::Dataset;
use lance::dataset::fragment::{FragReadConfig, FragmentReader};
use lance_core::Error as LanceError;
use lance_core::datatypes::{Field, Schema as LanceSchema};
use lance_io::object_store::{ObjectStore, uri_to_url};
use lance_io::scheduler::{ScanScheduler, SchedulerConfig};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parking_lot::Mutex;

use super::failure::driven;
use crate::error::Result;
use crate::store::{OpenFiles, StoreOptions, from_lance};

/// Rows up to which they are taken so: it is done on the thread that asks.
const FEW: usize = 1024;
/// Readers that stay open at most.
const READERS: usize = 64;
/// Bytes of a file that lie closer are read at once.
const BLOCK: usize = 4096;
/// Where Lance reads through the store that it is given, and does not open files itself.
const THROUGH_STORE: &str = "file-object-store:///";
/// Where Arrow's format says of what extension type a field is.
const EXTENSION_TYPE: &str = "ARROW:extension:name";

type Readers = HashMap<(u32, Vec<i32>), Arc<FragmentReader>>;

/// Whether a read gives these fields as they are in files. It puts blobs, and types such as JSON, in other words.
pub(super) fn is_plain(fields: &LanceSchema) -> bool {
    let is_plain = |field: &Field| !field.is_blob() && !field.metadata.contains_key(EXTENSION_TYPE);
    fields.fields_pre_order().all(is_plain)
}

/// The open readers of one dataset.
pub(super) struct RowReaders {
    store: Arc<ObjectStore>,
    readers: Mutex<Readers>,
}

impl RowReaders {
    /// Readers of `dataset`; `None` if ids do not say where its rows are, or nothing of it is in memory. `options` tell what
    /// is kept of a dataset that is not near.
    ///
    /// # Errors
    /// `Unavailable` if the storage cannot be reached.
    pub(super) async fn open(dataset: &Dataset, options: &StoreOptions) -> Result<Option<Self>> {
        let is_elsewhere = dataset.fragments().iter().flat_map(|f| &f.files).any(|file| file.base_id.is_some());
        if dataset.manifest().uses_stable_row_ids() || is_elsewhere {
            return Ok(None);
        }
        let store = dataset.object_store(None).await.map_err(from_lance)?;
        if store.scheme() == "memory" {
            return Ok(Some(Self { store, readers: Mutex::default() }));
        }
        let in_memory: Arc<dyn object_store::ObjectStore> = if store.has_direct_local_paths() {
            OpenFiles::global()
        } else if let Some(kept) = options.kept(dataset.uri(), &store.store_prefix) {
            kept
        } else {
            return Ok(None);
        };
        let place = uri_to_url(THROUGH_STORE).map_err(from_lance)?;
        let parallelism = store.io_parallelism();
        let store = ObjectStore::new(in_memory, place, Some(BLOCK), None, false, false, parallelism, 0, None);
        Ok(Some(Self { store: Arc::new(store), readers: Mutex::default() }))
    }

    /// Whether all of a file is in memory.
    pub(super) async fn has(&self, path: &Path) -> bool {
        self.store.inner.get(path).await.is_ok()
    }

    /// Whether so many rows of these fields may be taken so.
    pub(super) fn may_take(&self, rows: usize, fields: &LanceSchema) -> bool {
        rows <= FEW && is_plain(fields)
    }

    /// The rows at `addresses`, in this order, as Lance lays out `fields`: those that are there. `None` if they cannot be read
    /// at once: Lance reads them better then, and tells what is wrong.
    pub(super) async fn take(&self, dataset: &Dataset, fields: &LanceSchema, addresses: &[u64]) -> Option<RecordBatch> {
        let read = self.read(dataset, fields, addresses).await;
        read.inspect_err(|error| {
            tracing::trace!(dataset = dataset.uri(), %error, "rows are not read at once");
            // A reader may keep what failed.
            self.readers.lock().clear();
        })
        .ok()
    }

    async fn read(
        &self,
        dataset: &Dataset,
        fields: &LanceSchema,
        addresses: &[u64],
    ) -> Result<RecordBatch, LanceError> {
        let mut sorted = addresses.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let of_fragments = sorted.chunk_by(|a, b| a >> 32 == b >> 32);
        let read = try_join_all(of_fragments.map(|rows| self.read_fragment(dataset, fields, rows))).await?;
        let rows = match read.as_slice() {
            [rows] => rows.clone(),
            [] => return Err(LanceError::invalid_input("no rows are asked for")),
            read => concat_batches(&read[0].schema(), read)?,
        };
        if rows.num_rows() < sorted.len() || sorted == addresses {
            return Ok(rows);
        }
        let place = |address: &u64| sorted.partition_point(|other| other < address) as u32;
        Ok(take_record_batch(&rows, &UInt32Array::from_iter_values(addresses.iter().map(place)))?)
    }

    /// Rows of one fragment, in ascending order. Boxed: readers are deep types.
    fn read_fragment<'a>(
        &'a self,
        dataset: &'a Dataset,
        fields: &'a LanceSchema,
        addresses: &'a [u64],
    ) -> BoxFuture<'a, Result<RecordBatch, LanceError>> {
        let offsets: Vec<u32> = addresses.iter().map(|address| *address as u32).collect();
        let read = async move {
            let reader = self.reader(dataset, (addresses[0] >> 32) as u32, fields).await?;
            reader.take_as_batch(&offsets, None).await
        };
        read.boxed()
    }

    async fn reader(
        &self,
        dataset: &Dataset,
        fragment: u32,
        fields: &LanceSchema,
    ) -> Result<Arc<FragmentReader>, LanceError> {
        let key = (fragment, fields.fields.iter().map(|field| field.id).collect());
        if let Some(reader) = self.readers.lock().get(&key) {
            return Ok(Arc::clone(reader));
        }
        let there = dataset.get_fragment(fragment as usize);
        let there = there.ok_or_else(|| LanceError::invalid_input(format!("there is no fragment {fragment}")))?;
        // The scheduler that starts no task: who asks for rows drives the reads, from whatever runtime.
        let scheduler = SchedulerConfig::max_bandwidth(&self.store).with_lite_scheduler();
        let scheduler = ScanScheduler::new(Arc::clone(&self.store), scheduler);
        let config = FragReadConfig::default().with_scan_scheduler(scheduler);
        // It loads which rows are deleted, for others too.
        let fields = fields.clone();
        let reader = Arc::new(driven(async move { there.open(&fields, config).await }).await?);
        let mut readers = self.readers.lock();
        if readers.len() >= READERS {
            readers.clear();
        }
        readers.insert(key, Arc::clone(&reader));
        Ok(reader)
    }
}
