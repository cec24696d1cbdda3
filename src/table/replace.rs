//! Replacing all rows: TRUNCATE and INSERT OVERWRITE. Its steps and what a crash between them leaves:
//! `docs/concurrency.md`, Replace.
//!
//! If the caller goes away or the storage does not answer, the base commit may have come through unseen: the next write
//! reads the base first.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::EmptyRecordBatchStream;
use tracing::Instrument;

use super::handle::LsmTable;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{GenerationId, ShardId};
use crate::version::Snapshot;
use crate::writer::{Role, ShardWriter};

impl LsmTable {
    /// Replaces all rows by `rows` (logical schema) in one commit and returns how many there are now. Writers wait.
    ///
    /// # Errors
    /// `Invalid` if the rows are not the table's or hold a key twice; `Conflict` if another process changed the base
    /// meanwhile; as [`flush`](Self::flush). The old rows are all there then.
    pub async fn replace_all(&self, rows: SendableRecordBatchStream) -> Result<u64> {
        let _nobody_writes = self.shards.pause().await;
        self.shards.check_open()?;
        self.claim_all().await?;
        self.replace_paused(rows).await
    }

    /// As [`replace_all`](Self::replace_all), by rows that were made of what `read` shows.
    ///
    /// # Errors
    /// `Conflict` if somebody wrote to the table since.
    pub async fn replace_all_read(&self, rows: SendableRecordBatchStream, read: &Snapshot) -> Result<u64> {
        let _nobody_writes = self.shards.pause().await;
        self.shards.check_open()?;
        self.claim_all().await?;
        if !read.is_newest(&self.control.current()) {
            return Err(Error::conflict("rows were written after the statement had read the table: run it again"));
        }
        self.replace_paused(rows).await
    }

    /// Removes all rows in one commit and returns how many there were. Writers wait.
    ///
    /// # Errors
    /// As [`replace_all`](Self::replace_all).
    pub async fn truncate(&self) -> Result<u64> {
        let _nobody_writes = self.shards.pause().await;
        self.shards.check_open()?;
        self.claim_all().await?;
        let removed = self.live_rows(&self.snapshot()).await?;
        self.replace_paused(Box::pin(EmptyRecordBatchStream::new(self.schema()))).await?;
        Ok(removed)
    }

    /// Deletes the table: statements of this handle fail from now on, and whoever else writes is fenced before files go.
    /// The handle is closed, also if the table stays.
    ///
    /// # Errors
    /// As [`replace_all`](Self::replace_all); `Corrupt` if a shard is damaged: whoever writes the other shards is fenced
    /// and nothing deleted then; `Unavailable` if the storage fails: a part may be deleted then.
    pub async fn destroy(&self) -> Result<()> {
        self.shards.retire();
        let _no_index_is_made = self.index_change.lock().await;
        let emptied = self.empty().await;
        let closed = self.close().await;
        emptied.and(closed)?;
        self.io.delete_dir("").await
    }

    /// Fences whoever else writes and removes all rows.
    async fn empty(&self) -> Result<()> {
        let _nobody_writes = self.shards.pause().await;
        let mut damaged = Ok(());
        for shard in self.shards.shards() {
            match shard.claim().await {
                // The writers of the other shards are fenced all the same.
                Err(error) if error.kind() == ErrorKind::Corrupt => damaged = damaged.and(Err(error)),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        damaged?;
        self.replace_paused(Box::pin(EmptyRecordBatchStream::new(self.schema()))).await.map(|_| ())
    }

    async fn claim_all(&self) -> Result<()> {
        for shard in self.shards.shards() {
            shard.claim().await?;
        }
        Ok(())
    }

    async fn replace_paused(&self, rows: SendableRecordBatchStream) -> Result<u64> {
        let span = tracing::info_span!("lsm.replace", table = self.uri());
        self.replace_now(rows).instrument(span).await
    }

    async fn replace_now(&self, rows: SendableRecordBatchStream) -> Result<u64> {
        let mut compacted: Vec<(ShardId, GenerationId)> = Vec::new();
        for shard in self.shards.shards() {
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
        let still_ours = async {
            for shard in self.shards.shards() {
                let epoch = shard.claim().await?;
                shard.manifest().check_fenced(epoch).await?;
            }
            Ok(())
        };
        let base = match base.replace(rows, &compacted, still_ours).await {
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
        // Again with the new rows: who took a snapshot since the first time saw the old ones too.
        self.control.update(|version| {
            version.replacements += 1;
            // An index may have been declared meanwhile, by a later version.
            if base.version() > version.base.version() {
                version.base = base;
            }
            version.shards.iter_mut().for_each(|shard| shard.generations.clear());
        });
        self.context.base_in_doubt.store(false, Ordering::Release);
        self.context.base_adopted.notify_one();
        self.control.release().await;
        self.context.adopt_indexes()?;
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
