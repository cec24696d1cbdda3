//! Replacing all rows: TRUNCATE and INSERT OVERWRITE.
//!
//! One commit removes every fragment, adds the new ones and marks generations as compacted. Two would show a reader
//! the old generations over the new base, or the other way round.

use std::sync::Arc;

use datafusion::execution::SendableRecordBatchStream;

use super::BaseTable;
use crate::error::{Error, Result};
use crate::ids::{GenerationId, ShardId};

impl BaseTable {
    /// Replaces all rows by `rows` (logical schema) and marks, a shard, every generation up to the given one as
    /// compacted; synced when this returns.
    ///
    /// # Errors
    /// `Conflict` if another commit came first: nothing is changed then.
    pub async fn replace(
        &self,
        rows: SendableRecordBatchStream,
        compacted: &[(ShardId, GenerationId)],
    ) -> Result<Arc<Self>> {
        let _ = (rows, compacted);
        Err(Error::internal("not written yet"))
    }
}
