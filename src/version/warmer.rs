//! What makes a generation quick to ask before anybody can ask it.

use std::fmt::Debug;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use tracing::Instrument;

use super::control::{Version, VersionControl};
use crate::base::BaseTable;
use crate::dataset::DatasetHandle;
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::ids::ShardId;
use crate::settings::Warmth;
use crate::task;

/// How long a generation waits for its warmer before it is committed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Prepares a generation for queries: before its manifest commit where this process writes it, else before queries see
/// it.
#[async_trait]
pub trait GenerationWarmer: Debug + Send + Sync {
    /// Prepares `generation` of `shard`, which joins what `control` knows. Called again for one that is prepared it does
    /// next to nothing. A failure, a panic, or one that lasts, is logged and keeps nothing from being committed.
    ///
    /// # Errors
    /// What is to be logged.
    async fn warm(&self, shard: ShardId, generation: &Arc<Generation>, control: &Arc<VersionControl>) -> Result<()>;
}

/// Opens the indexes of a generation, and finds out which rows of older sources it supersedes.
#[derive(Debug, Default, Clone, Copy)]
pub struct IndexWarmer;

#[async_trait]
impl GenerationWarmer for IndexWarmer {
    async fn warm(&self, shard: ShardId, generation: &Arc<Generation>, control: &Arc<VersionControl>) -> Result<()> {
        let version = control.current();
        open(generation.handle(), &version.base, Warmth::Indexes).await?;
        let (generation, control) = (Arc::clone(generation), Arc::clone(control));
        task::blocking(move || {
            relate(shard, &generation, &control, &version);
            Ok(())
        })
        .await
    }
}

/// Reads what of a dataset's metadata and indexes is worth `warmth`; `base` declares the indexes.
async fn open(handle: &Arc<DatasetHandle>, base: &BaseTable, warmth: Warmth) -> Result<()> {
    if warmth >= Warmth::Metadata {
        handle.open_files().await?;
    }
    if warmth >= Warmth::Indexes {
        handle.open_indexes(|column| base.indexes().text_analyzer(column)).await?;
    }
    Ok(())
}

/// Prepares a version of the base for queries: what `warmth` says, its files up to `most` bytes. Returns their bytes.
///
/// # Errors
/// `Unavailable` if the storage fails.
pub async fn warm_base(base: &BaseTable, control: &VersionControl, warmth: Warmth, most: u64) -> Result<u64> {
    let read = if warmth >= Warmth::All { base.handle().read_files(most).await? } else { 0 };
    open(base.handle(), base, warmth).await?;
    let lists = control.block_lists();
    if warmth >= Warmth::Indexes && lists.may_hold_keys_of(base) {
        lists.base_keys(base).await?;
    }
    Ok(read)
}

/// Prepares a generation for queries: what `warmth` says, its files up to `most` bytes. Returns their bytes.
///
/// # Errors
/// `Unavailable` if the storage fails.
pub async fn warm_generation(
    warmer: &dyn GenerationWarmer,
    (shard, generation): (ShardId, &Arc<Generation>),
    control: &Arc<VersionControl>,
    warmth: Warmth,
    most: u64,
) -> Result<u64> {
    let read = if warmth >= Warmth::All { generation.handle().read_files(most).await? } else { 0 };
    if warmth >= Warmth::Indexes {
        warm(warmer, shard, generation, control).await;
    } else {
        open(generation.handle(), &control.current().base, warmth).await?;
    }
    Ok(read)
}

/// Finds out which rows of the older sources of its shard a generation supersedes, as far as their keys are in memory.
fn relate(shard: ShardId, generation: &Arc<Generation>, control: &VersionControl, version: &Version) {
    let lists = control.block_lists();
    let of_shard = version.shards.iter().filter(|s| s.shard == shard).flat_map(|s| &s.generations);
    for older in of_shard.filter(|older| older.id() < generation.id()) {
        lists.relate(shard, older, generation);
    }
    lists.relate_base(&version.base, shard, generation);
}

/// Does no more than opening does.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoWarmer;

#[async_trait]
impl GenerationWarmer for NoWarmer {
    async fn warm(&self, _: ShardId, _: &Arc<Generation>, _: &Arc<VersionControl>) -> Result<()> {
        Ok(())
    }
}

/// Lets `warmer` prepare a generation, whatever becomes of it.
pub async fn warm(
    warmer: &dyn GenerationWarmer,
    shard: ShardId,
    generation: &Arc<Generation>,
    control: &Arc<VersionControl>,
) {
    let span = tracing::debug_span!("lsm.warm.generation", %shard, generation = %generation.id());
    let warming = AssertUnwindSafe(warmer.warm(shard, generation, control)).catch_unwind().instrument(span);
    let error = match tokio::time::timeout(PATIENCE, warming).await {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(error))) => error,
        Ok(Err(_)) => Error::internal("the warmer of generations panicked"),
        Err(_) => Error::unavailable(format!("the warmer of generations took more than {PATIENCE:?}")),
    };
    tracing::warn!(%shard, generation = %generation.id(), %error, "a generation is not warm");
}
