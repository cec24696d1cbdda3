//! Generations: flushed memtables, each an immutable Lance dataset of one data file.
//!
//! A generation holds every row of its memtable that is the newest of its key there, tombstones included. Which of
//! them a newer source supersedes is the business of the block lists above: nothing here hides a row.

mod checksum;
mod index_files;
mod sidecar;
mod text_index;
mod value_index;
mod vector_index;
mod write;

use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lance::Dataset;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tracing::Instrument;

use crate::cache::{CacheCounts, IndexView};
use crate::dataset::{DatasetHandle, DatasetOpener};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{GenerationId, ShardId};
use crate::key::{KeyFilter, KeyMap, KeyRange, KeyRef};
use crate::schema::TableSchema;
use crate::store::{Recording, TablePaths};
use crate::task;

pub use checksum::verify;
pub use index_files::{IndexFiles, IndexTarget, IndexWriter, NewIndex};
pub use text_index::TextIndexWriter;
pub use value_index::ValueIndexWriter;
pub use vector_index::VectorIndexWriter;
pub use write::{Contents, discard, write};

/// The only version of a generation's dataset.
const VERSION: u64 = 1;
/// Generations whose keys are loaded at once.
const AT_ONCE: usize = 8;
/// What a key takes in memory beside its value, about: its row id and its slot in a table that is not full.
const BYTES_BESIDE_KEY: u64 = 18;
/// What the value of a key takes, where nobody wrote that down.
const BYTES_OF_KEY: u64 = 32;

/// What a shard manifest says about a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationRecord {
    /// Its number.
    pub id: GenerationId,
    /// The name of its directory within the shard's.
    pub path: String,
    /// How many bytes its memtable had.
    pub bytes: Option<u64>,
    /// How many rows it has, hidden ones included.
    pub rows: Option<u64>,
    /// How many bytes its keys had in memory.
    pub key_bytes: Option<u64>,
}

impl GenerationRecord {
    /// A record that knows no more than a name.
    fn named(id: GenerationId, path: &str) -> Self {
        Self { id, path: path.into(), bytes: None, rows: None, key_bytes: None }
    }
}

/// One open generation.
///
/// Its keys are loaded when they are asked for, if it has a [`KeyFilter`] in its summary that tells which it can have;
/// else when it is opened.
#[derive(Debug)]
pub struct Generation {
    record: GenerationRecord,
    handle: Arc<DatasetHandle>,
    filter: Option<KeyFilter>,
    keys: Arc<OnceCell<Arc<KeyMap>>>,
    view: IndexView,
    /// Handles of the table that have it in their version.
    tables: Mutex<usize>,
}

/// The dataset of a generation, and the filter of its keys, if there is one.
type Found = (Arc<Dataset>, Option<KeyFilter>);

impl Generation {
    /// Opens a generation, unless somebody of this process did so before, and loads its keys, unless a filter in its summary
    /// tells which it can have: without a summary are those in near stores, and Lance's.
    ///
    /// # Errors
    /// `Corrupt`, naming the directory, if the generation is missing, damaged or of another table.
    pub async fn open(
        opener: &DatasetOpener,
        table_uri: &str,
        shard: ShardId,
        record: &GenerationRecord,
        schema: &Arc<TableSchema>,
    ) -> Result<Arc<Self>> {
        let (own, uri) = (opener.anew(), uri(table_uri, shard, &record.path));
        let opener = own.clone();
        let found = async move {
            if let Some(found) = summarised(&opener, &uri).await {
                return Ok(found);
            }
            let missing = || {
                Error::corrupt("a generation that the shard manifest names is missing: restore it from a backup")
                    .with_context("generation", &uri)
            };
            Ok((opener.latest(&uri).await?.ok_or_else(missing)?, None))
        };
        Self::shared(own, (table_uri, shard), record, schema, found.boxed()).await
    }

    /// Notes what is read of a generation that [`write`](fn@write) has just written, for a summary of it.
    ///
    /// # Errors
    /// `Invalid` if the location is wrong.
    pub async fn recording(
        opener: &DatasetOpener,
        table_uri: &str,
        shard: ShardId,
        record: &GenerationRecord,
    ) -> Result<Option<Recording>> {
        opener.record(&uri(table_uri, shard, &record.path)).await
    }

    /// Opens a generation that [`write`](fn@write) has just written, which has one version, and loads its keys.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_written(
        opener: &DatasetOpener,
        table_uri: &str,
        shard: ShardId,
        record: &GenerationRecord,
        schema: &Arc<TableSchema>,
    ) -> Result<Arc<Self>> {
        let (own, uri) = (opener.anew(), uri(table_uri, shard, &record.path));
        let opener = own.clone();
        let found = async move { Ok((opener.version(&uri, VERSION).await?, None)) };
        Self::shared(own, (table_uri, shard), record, schema, found.boxed()).await
    }

    /// The generation, of what is `found` unless it is open. `own` opens nothing else.
    async fn shared(
        own: DatasetOpener,
        (table_uri, shard): (&str, ShardId),
        record: &GenerationRecord,
        schema: &Arc<TableSchema>,
        found: BoxFuture<'static, Result<Found>>,
    ) -> Result<Arc<Self>> {
        let path = TablePaths::generation_dir(shard, &record.path);
        let (opener, table) = (own.clone(), table_uri.to_string());
        let (record, columns) = (record.clone(), Arc::clone(schema));
        let open = async move {
            // No span of one that is open.
            let span = tracing::debug_span!("lsm.dataset.open", table, %shard, generation = %record.id);
            async { Self::of(&opener, found.await?, record, columns).await }.instrument(span).await
        };
        own.shared(&path, schema, Self::weight, open.boxed()).await
    }

    async fn of(
        own: &DatasetOpener,
        (dataset, filter): Found,
        record: GenerationRecord,
        schema: Arc<TableSchema>,
    ) -> Result<Arc<Self>> {
        let handle = own.handle(dataset, schema, format!("generation {}", record.id)).await?;
        // One that counts otherwise is not of this generation.
        let filter = filter.filter(|filter| filter.keys() == handle.rows() as u64);
        let view = own.view().clone();
        let generation = Self { record, handle, filter, keys: Arc::default(), view, tables: Mutex::default() };
        if generation.filter.is_none() {
            generation.keys().await?;
        }
        Ok(Arc::new(generation))
    }

    /// Its number.
    pub fn id(&self) -> GenerationId {
        self.record.id
    }

    /// What the shard manifest says about it.
    pub fn record(&self) -> &GenerationRecord {
        &self.record
    }

    /// Where its keys are: loaded at the first call. Those who ask meanwhile wait for that, and it goes on although the one
    /// who asked first is not polled.
    ///
    /// # Errors
    /// `Corrupt` if a key cannot be read, `Unavailable` if the storage fails; the next call tries again.
    pub async fn keys(&self) -> Result<Arc<KeyMap>> {
        let load = || {
            let handle = Arc::clone(&self.handle);
            async move { handle.key_map().await.map(Arc::new).map_err(damaged) }
        };
        task::once(&self.keys, load).await
    }

    /// The keys of `generations`, in their order: of some at once.
    ///
    /// # Errors
    /// As [`keys`](Self::keys).
    pub async fn keys_of(generations: impl IntoIterator<Item = Arc<Self>>) -> Result<Vec<Arc<KeyMap>>> {
        let keys = |generation: Arc<Self>| async move { generation.keys().await }.boxed();
        // Collected, or the compiler asks for more of the borrows in the iterator than is true.
        let loading: Vec<BoxFuture<'static, Result<Arc<KeyMap>>>> = generations.into_iter().map(keys).collect();
        stream::iter(loading).buffered(AT_ONCE).try_collect().await
    }

    /// Its keys, if they are in memory.
    pub fn known_keys(&self) -> Option<&Arc<KeyMap>> {
        self.keys.get()
    }

    /// Whether `key`, whose hash is `hash`, may be one of its keys: certain if these are in memory.
    pub fn may_hold(&self, key: KeyRef<'_>, hash: u64) -> bool {
        match (self.known_keys(), &self.filter) {
            (Some(keys), _) => keys.get(key, hash).is_some(),
            (None, Some(filter)) => filter.may_hold(key),
            (None, None) => true,
        }
    }

    /// From which key to which it has some, if that is known.
    pub fn key_range(&self) -> Option<&KeyRange> {
        match self.known_keys() {
            Some(keys) => keys.range(),
            None => self.filter.as_ref().and_then(KeyFilter::range),
        }
    }

    /// Whether it may have keys within `range`: that and its own have to be known to say no.
    pub fn may_overlap(&self, range: Option<&KeyRange>) -> bool {
        self.key_range().zip(range).is_none_or(|(own, other)| own.overlaps(other))
    }

    /// How many of its rows have keys: all.
    pub fn key_count(&self) -> usize {
        self.known_keys().map_or(self.handle.rows(), |keys| keys.keys().len())
    }

    /// Whether some of its rows may be tombstones: certain if its keys or their filter are in memory.
    pub fn may_have_tombstones(&self) -> bool {
        match (self.known_keys(), &self.filter) {
            (Some(keys), _) => !keys.tombstones().is_empty(),
            (None, Some(filter)) => filter.tombstones() > 0,
            (None, None) => true,
        }
    }

    /// The filter of its keys, as a summary has it; nothing if they are not in memory.
    ///
    /// # Errors
    /// `Internal` if there can be none.
    pub fn stored_filter(&self) -> Result<Bytes> {
        match self.known_keys() {
            Some(keys) => Ok(KeyFilter::of(keys)?.to_bytes().into()),
            None => Ok(Bytes::new()),
        }
    }

    /// How many rows it has, tombstones included.
    pub fn rows(&self) -> usize {
        self.handle.rows()
    }

    /// Its dataset.
    pub fn handle(&self) -> &Arc<DatasetHandle> {
        &self.handle
    }

    /// Whether its rows are in memory.
    pub fn is_resident(&self) -> bool {
        self.handle.is_resident()
    }

    /// Bytes of memory held by its keys, as far as they are loaded, and by their filter.
    pub fn memory(&self) -> usize {
        self.known_keys().map_or(0, |keys| keys.memory()) + self.filter.as_ref().map_or(0, KeyFilter::memory)
    }

    /// Bytes of memory that it holds or may come to hold: keys that are not loaded are counted by what they will take.
    fn weight(&self) -> usize {
        if self.known_keys().is_some() {
            return self.memory();
        }
        let rows = self.rows() as u64;
        let values = self.record.key_bytes.unwrap_or(rows.saturating_mul(BYTES_OF_KEY));
        let keys = values.saturating_add(rows.saturating_mul(BYTES_BESIDE_KEY));
        self.memory().saturating_add(usize::try_from(keys).unwrap_or(usize::MAX))
    }

    /// What the index cache has of it.
    pub fn index_counts(&self) -> CacheCounts {
        self.view.counts()
    }

    /// It joins the version of a handle of its table. Handles of one process may share it.
    pub(crate) fn enter(&self) {
        let mut tables = self.tables.lock();
        *tables += 1;
        // It may have been taken out of the cache of open ones just when the last that had it let go.
        self.view.revive();
    }

    /// The handle is gone that had it: the table still has it, and who opens that next finds what is kept of it.
    pub(crate) fn close(&self) {
        let mut tables = self.tables.lock();
        *tables = tables.saturating_sub(1);
    }

    /// It left the version of a handle, as it left the table. The index cache lets go of it with the last handle that had it:
    /// who reads it still goes on, and reads more from storage.
    pub(crate) fn leave(&self) {
        let mut tables = self.tables.lock();
        *tables = tables.saturating_sub(1);
        if *tables == 0 {
            self.view.retire();
        }
    }

    /// A plan that reads the rows passing all `filters`: the logical columns `projection`, nullable as stored, then
    /// `_rowid`. Tombstones and superseded rows are among them.
    ///
    /// # Errors
    /// `Invalid` if a filter cannot be evaluated on the table's columns.
    pub fn scan(&self, projection: &[usize], filters: &[Expr]) -> Result<Arc<dyn ExecutionPlan>> {
        self.handle.scan(projection, filters)
    }

    /// The rows with these ids, in this order; the logical columns `projection`, nullable as stored.
    ///
    /// # Errors
    /// `Corrupt` if a row is not there, `Unavailable` if the storage fails.
    pub async fn take(&self, row_ids: &[u64], projection: &[usize]) -> Result<RecordBatch> {
        self.handle.take(row_ids, projection).await
    }
}

/// The dataset of a generation that has a summary, and the filter of its keys if there is one: then it is one of ours, and
/// its version is known.
async fn summarised(opener: &DatasetOpener, uri: &str) -> Option<Found> {
    let open = async {
        let Some(filter) = opener.recall(uri).await? else { return Ok(None) };
        let dataset = opener.version(uri, VERSION).await?;
        let filter = KeyFilter::of_bytes(&filter).unwrap_or_else(|error| {
            tracing::warn!(generation = uri, %error, "the filter of a generation's keys is of no use");
            None
        });
        Ok::<_, Error>(Some((dataset, filter)))
    };
    open.await.unwrap_or_else(|error| {
        tracing::warn!(generation = uri, %error, "a generation is opened without its summary");
        None
    })
}

/// A key that cannot be read is nobody's request.
fn damaged(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Invalid => Error::corrupt("the keys of a generation cannot be read").with_source(error),
        _ => error,
    }
}

/// Where a generation is.
fn uri(table_uri: &str, shard: ShardId, name: &str) -> String {
    format!("{}/{}", table_uri.trim_end_matches('/'), TablePaths::generation_dir(shard, name))
}
