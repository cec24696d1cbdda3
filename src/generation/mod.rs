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
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use lance::Dataset;
use tracing::{Instrument, Span};

use crate::cache::{CacheCounts, IndexView};
use crate::dataset::{DatasetHandle, DatasetOpener};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{GenerationId, ShardId};
use crate::key::KeyMap;
use crate::schema::TableSchema;
use crate::store::{Recording, TablePaths};

pub use checksum::verify;
pub use index_files::{IndexFiles, IndexTarget, IndexWriter, NewIndex};
pub use text_index::TextIndexWriter;
pub use value_index::ValueIndexWriter;
pub use vector_index::VectorIndexWriter;
pub use write::{Contents, discard, write};

/// The only version of a generation's dataset.
const VERSION: u64 = 1;

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
#[derive(Debug)]
pub struct Generation {
    record: GenerationRecord,
    handle: Arc<DatasetHandle>,
    keys: KeyMap,
    view: IndexView,
}

impl Generation {
    /// Opens a generation and loads its keys, unless somebody of this process did so before.
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
        let path = TablePaths::generation_dir(shard, &record.path);
        let uri = uri(table_uri, shard, &record.path);
        let own = opener.anew();
        let open = async {
            let span = opening(table_uri, shard, record);
            async {
                let dataset = match summarised(&own, &uri).await {
                    Some(dataset) => dataset,
                    None => own.latest(&uri).await?.ok_or_else(|| {
                        Error::corrupt(
                            "a generation that the shard manifest names is missing: restore it from a backup",
                        )
                        .with_context("generation", &uri)
                    })?,
                };
                Self::of(&own, dataset, record, schema).await
            }
            .instrument(span)
            .await
        };
        opener.shared(&path, schema, Self::memory, open).await
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

    /// Opens a generation that [`write`](fn@write) has just written, which has one version.
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
        let path = TablePaths::generation_dir(shard, &record.path);
        let own = opener.anew();
        let open = async {
            let span = opening(table_uri, shard, record);
            async {
                let dataset = own.version(&uri(table_uri, shard, &record.path), VERSION).await?;
                Self::of(&own, dataset, record, schema).await
            }
            .instrument(span)
            .await
        };
        opener.shared(&path, schema, Self::memory, open).await
    }

    /// `opener` has opened nothing else.
    async fn of(
        opener: &DatasetOpener,
        dataset: Arc<Dataset>,
        record: &GenerationRecord,
        schema: &Arc<TableSchema>,
    ) -> Result<Arc<Self>> {
        let handle = opener.handle(dataset, Arc::clone(schema), format!("generation {}", record.id)).await?;
        let keys = handle.key_map().await.map_err(damaged)?;
        Ok(Arc::new(Self { record: record.clone(), handle, keys, view: opener.view().clone() }))
    }

    /// Its number.
    pub fn id(&self) -> GenerationId {
        self.record.id
    }

    /// What the shard manifest says about it.
    pub fn record(&self) -> &GenerationRecord {
        &self.record
    }

    /// Where its keys are.
    pub fn keys(&self) -> &KeyMap {
        &self.keys
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

    /// Bytes of memory held by its keys.
    pub fn memory(&self) -> usize {
        self.keys.memory()
    }

    /// What the index cache has of it.
    pub fn index_counts(&self) -> CacheCounts {
        self.view.counts()
    }

    /// Lets the index cache go of it: no table has it any more. Who reads it still goes on, and reads more from storage.
    pub(crate) fn retire(&self) {
        self.view.retire();
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

/// The dataset of a generation that has a summary: then it is one of ours, and its version is known.
async fn summarised(opener: &DatasetOpener, uri: &str) -> Option<Arc<Dataset>> {
    let open =
        async { if opener.recall(uri).await? { opener.version(uri, VERSION).await.map(Some) } else { Ok(None) } };
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

/// What traces the opening of a generation that is not open.
fn opening(table: &str, shard: ShardId, record: &GenerationRecord) -> Span {
    tracing::debug_span!("lsm.dataset.open", table, %shard, generation = %record.id)
}

/// Where a generation is.
fn uri(table_uri: &str, shard: ShardId, name: &str) -> String {
    format!("{}/{}", table_uri.trim_end_matches('/'), TablePaths::generation_dir(shard, name))
}
