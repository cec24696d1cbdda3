//! Replacing all rows: TRUNCATE and INSERT OVERWRITE. Its steps and what a crash between them leaves:
//! `docs/concurrency.md`, Replace.
//!
//! If the caller goes away or the storage does not answer, the base commit may have come through unseen: the next write
//! reads the base first.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use datafusion::execution::SendableRecordBatchStream;

use super::handle::LsmTable;
use crate::error::Result;
use crate::ids::{GenerationId, ShardId};
use crate::writer::{Role, ShardWriter};

impl LsmTable {
    /// Replaces all rows by `rows` (logical schema) in one commit and returns how many there are now. Writers wait.
    ///
    /// # Errors
    /// `Invalid` if the rows are not the table's or hold a key twice; `Conflict` if another process changed the base
    /// meanwhile; as [`flush`](Self::flush). The old rows are all there then.
    pub async fn replace_all(&self, rows: SendableRecordBatchStream) -> Result<u64> {
        let _nobody_writes = self.shards.pause().await;
        let mut compacted: Vec<(ShardId, GenerationId)> = Vec::new();
        for shard in self.shards.shards() {
            shard.claim().await?;
            shard.freeze();
        }
        for shard in self.shards.shards() {
            shard.drained(self.settings.write_timeout).await?;
            let newest = shard.manifest().cached().and_then(|m| m.sstables.iter().map(|t| t.generation).max());
            compacted.extend(newest.map(|g| (shard.shard(), GenerationId(g))));
        }
        let base = Arc::clone(&self.control.current().base);
        let base = base.refresh().await?.unwrap_or(base);
        // Before the commit: whoever read the old rows must not write them back, whatever becomes of this future.
        self.control.update(|version| version.replacements += 1);
        self.context.base_in_doubt.store(true, Ordering::Release);
        let base = match base.replace(rows, &compacted).await {
            Ok(base) => base,
            Err(error) => {
                // It may have come through after all.
                if let Err(error) = self.context.settle_base().await {
                    tracing::warn!(%error, "the base could not be read after a failed commit");
                }
                return Err(error);
            }
        };
        let rows = base.rows() as u64;
        self.control.update(|version| {
            version.base = base;
            version.shards.iter_mut().for_each(|shard| shard.generations.clear());
        });
        self.context.base_in_doubt.store(false, Ordering::Release);
        for (shard, generation) in compacted {
            let Some(writer) = self.shards.shards().iter().find(|w| w.shard() == shard) else { continue };
            if let Err(error) = trim(writer, generation).await {
                tracing::warn!(%shard, %error, "compacted generations stay in the shard manifest until the next commit");
            }
        }
        Ok(rows)
    }
}

/// Takes generations up to `compacted` out of the shard's manifest.
async fn trim(shard: &ShardWriter, compacted: GenerationId) -> Result<()> {
    let Role::Writer(epoch) = shard.role() else { return Ok(()) };
    let trimmed = shard.manifest().commit(epoch, |current| {
        let mut next = current.clone();
        next.sstables.retain(|t| t.generation > compacted.0);
        Ok(next)
    });
    trimmed.await.map(|_| ())
}
