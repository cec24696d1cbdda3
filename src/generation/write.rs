//! Writes a memtable's rows as a generation.
//!
//! The generation is complete and synced when [`write`] returns, and nothing names it before: a crash on the way leaves
//! a directory that nobody reads.

use arrow::array::RecordBatch;

use super::GenerationRecord;
use crate::base::BaseTable;
use crate::dataset::DatasetOpener;
use crate::error::{Error, Result};
use crate::ids::{GenerationId, ShardId};
use crate::schema::TableSchema;
use crate::store::ObjectIo;

/// Writes `batches` (stored schema; of each key only the newest row, tombstones included) as generation `id`.
///
/// # Errors
/// `Unavailable` if the storage fails: the generation may be written again.
pub async fn write(
    opener: &DatasetOpener,
    io: &ObjectIo,
    shard: ShardId,
    id: GenerationId,
    batches: Vec<RecordBatch>,
    schema: &TableSchema,
    base: &BaseTable,
) -> Result<GenerationRecord> {
    let _ = (opener, io, shard, id, batches, schema, base);
    Err(Error::internal("not written yet"))
}
