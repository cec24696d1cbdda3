//! The base table: an ordinary Lance dataset that anybody may read.
//!
//! A [`BaseTable`] is one version of it and never changes; whoever commits gets the next one. What the table knows
//! about itself beyond its columns is in the MemWAL index of the dataset.

mod column_index;
mod column_type;
mod create;
mod declare;
mod find;
mod indexes;
mod replace;
mod sharding;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::dataset::{DatasetHandle, DatasetOpener, FileLayout};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{GenerationId, ShardId};
use crate::index_spec::IndexSpec;
use crate::key::KeyMap;
use crate::schema::TableSchema;
use crate::store::ObjectIo;

pub use indexes::Indexes;
pub use sharding::{Sharding, bucket};

/// What a new table is.
#[derive(Debug, Clone)]
pub struct CreateSpec {
    /// Its columns.
    pub schema: SchemaRef,
    /// The names of its key columns in key order.
    pub key: Vec<String>,
    /// How many shards it has.
    pub shards: u32,
    /// The column whose hash tells a row's shard; default the first key column.
    pub shard_column: Option<String>,
    /// Indexes of its columns.
    pub indexes: Vec<IndexSpec>,
    /// Settings that every process that opens the table starts from.
    pub defaults: HashMap<String, String>,
}

/// How a dataset becomes a table.
#[derive(Debug, Clone)]
pub struct AdoptSpec {
    /// The names of its key columns in key order; none if the dataset tells.
    pub key: Vec<String>,
    /// The columns that it must have; any if none are given.
    pub columns: Option<SchemaRef>,
    /// How many shards it has.
    pub shards: u32,
    /// The column whose hash tells a row's shard; default the first key column.
    pub shard_column: Option<String>,
    /// Indexes of its columns.
    pub indexes: Vec<IndexSpec>,
    /// Settings that every process that opens the table starts from.
    pub defaults: HashMap<String, String>,
}

impl Default for AdoptSpec {
    /// One shard; the dataset must tell its key.
    fn default() -> Self {
        Self {
            key: Vec::new(),
            columns: None,
            shards: 1,
            shard_column: None,
            indexes: Vec::new(),
            defaults: HashMap::new(),
        }
    }
}

/// One version of the base table.
#[derive(Debug)]
pub struct BaseTable {
    opener: DatasetOpener,
    io: ObjectIo,
    handle: Arc<DatasetHandle>,
    sharding: Sharding,
    compacted: HashMap<ShardId, GenerationId>,
    defaults: HashMap<String, String>,
    indexes: Indexes,
}

impl BaseTable {
    /// The version of the dataset.
    pub fn version(&self) -> u64 {
        self.handle.dataset().manifest().version
    }

    /// The table's schema.
    pub fn schema(&self) -> &Arc<TableSchema> {
        self.handle.schema()
    }

    /// How rows are spread over shards.
    pub fn sharding(&self) -> &Sharding {
        &self.sharding
    }

    /// The newest generation of the shard whose rows are all in the base; 0 if there is none.
    pub fn compacted(&self, shard: ShardId) -> GenerationId {
        self.compacted.get(&shard).copied().unwrap_or_default()
    }

    /// Settings that every process that opens the table starts from.
    pub fn defaults(&self) -> &HashMap<String, String> {
        &self.defaults
    }

    /// Indexes of its columns.
    pub fn indexes(&self) -> &Indexes {
        &self.indexes
    }

    /// Whether both versions have the same rows, and the same generations are compacted into them.
    pub fn has_rows_of(&self, other: &Self) -> bool {
        let fragments = |base: &Self| Arc::clone(base.handle.dataset().fragments());
        fragments(self) == fragments(other) && self.compacted == other.compacted
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.handle.rows()
    }

    /// Opens what belongs to the table.
    pub fn opener(&self) -> &DatasetOpener {
        &self.opener
    }

    /// Its dataset.
    pub fn handle(&self) -> &Arc<DatasetHandle> {
        &self.handle
    }

    /// Whether its rows are in memory.
    pub fn is_resident(&self) -> bool {
        self.handle.is_resident()
    }

    /// A plan that reads the rows passing all `filters`: the logical columns `projection`, nullable as stored, then
    /// `_rowid`. Superseded rows are among them.
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

    /// The keys of all rows in one pass over the key columns.
    ///
    /// # Errors
    /// `Corrupt` if a key is NULL, `Unavailable` if the storage fails.
    pub fn keys(&self) -> BoxFuture<'static, Result<KeyMap>> {
        let handle = Arc::clone(&self.handle);
        let read = async move {
            handle.key_map().await.map_err(|error| match error.kind() {
                ErrorKind::Invalid => Error::corrupt("the keys of the base cannot be read").with_source(error),
                _ => error,
            })
        };
        read.boxed()
    }

    /// How files that go with this version are written.
    pub fn layout(&self) -> FileLayout {
        self.handle.layout()
    }
}
