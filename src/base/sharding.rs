//! Which shard a row belongs to.
//!
//! A key always belongs to the same shard: a table is sharded by a column of its key, and never sharded anew.

use arrow::array::RecordBatch;

use crate::error::{Error, Result};
use crate::ids::ShardId;

/// How the rows of a table are spread over shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharding {
    /// The shards; a row of bucket `n` is in shard `n`.
    pub shards: Vec<ShardId>,
    /// The column whose hash tells the bucket; `None` if there is one shard.
    pub column: Option<String>,
    /// The id of the sharding in the MemWAL index; 0 if shards are managed by hand.
    pub spec_id: u32,
}

/// The bucket of each row of a batch that has the sharding's column.
///
/// # Errors
/// `Invalid` if the column is missing or its type cannot be hashed.
pub fn bucket(sharding: &Sharding, batch: &RecordBatch) -> Result<Vec<u32>> {
    let _ = (sharding, batch);
    Err(Error::internal("not written yet"))
}
