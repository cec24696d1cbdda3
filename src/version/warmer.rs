//! What makes a generation quick to ask before anybody can ask it.

use std::fmt::Debug;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use super::control::{Version, VersionControl};
use crate::base::BaseTable;
use crate::dataset::DatasetHandle;
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::ids::ShardId;
use crate::settings::Warmth;
use crate::task;

/// How long it is waited for what prepares a generation or a version of the base before it is committed, or taken over.
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

    /// Loads what searches of `generation`, which this process wrote, decode when they first need it. What this reads is not
    /// in the summary of the generation, as what [`warm`](Self::warm) reads is. No failure matters here either.
    ///
    /// # Errors
    /// What is to be logged.
    async fn load(&self, _generation: &Arc<Generation>) -> Result<()> {
        Ok(())
    }
}

/// Opens the indexes of a generation, loads its keys, and finds out which rows of older sources it supersedes; then loads the
/// codes of its vectors.
#[derive(Debug, Default, Clone, Copy)]
pub struct IndexWarmer;

#[async_trait]
impl GenerationWarmer for IndexWarmer {
    async fn warm(&self, shard: ShardId, generation: &Arc<Generation>, control: &Arc<VersionControl>) -> Result<()> {
        let version = control.current();
        open(generation.handle(), &version.base, Warmth::Indexes).await?;
        relate(shard, generation, control, version).await
    }

    async fn load(&self, generation: &Arc<Generation>) -> Result<()> {
        generation.handle().load_codes().await
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
    let read = if warmth >= Warmth::All { base.handle().read_files(&AtomicU64::new(most)).await? } else { 0 };
    open(base.handle(), base, warmth).await?;
    let lists = control.block_lists();
    if warmth >= Warmth::Indexes && lists.may_hold_keys_of(base) {
        lists.base_keys(base).await?;
    }
    Ok(read)
}

/// Prepares a generation for queries: what `warmth` says, its files as far as there is `room` for so many bytes, which it
/// takes. Returns their bytes.
///
/// # Errors
/// `Unavailable` if the storage fails.
pub async fn warm_generation(
    warmer: &dyn GenerationWarmer,
    (shard, generation): (ShardId, &Arc<Generation>),
    control: &Arc<VersionControl>,
    warmth: Warmth,
    room: &AtomicU64,
) -> Result<u64> {
    let read = if warmth >= Warmth::All { generation.handle().read_files(room).await? } else { 0 };
    if warmth >= Warmth::Indexes {
        warm(warmer, shard, generation, control, deadline()).await;
    } else {
        open(generation.handle(), &control.current().base, warmth).await?;
    }
    Ok(read)
}

/// Finds out which rows a generation supersedes of the older ones of its shard that may have keys of it, and of the base if
/// its keys are in memory.
async fn relate(
    shard: ShardId,
    generation: &Arc<Generation>,
    control: &VersionControl,
    version: Arc<Version>,
) -> Result<()> {
    let (id, keys) = (generation.id(), generation.keys().await?);
    let of_shard = version.shards.iter().filter(|s| s.shard == shard).flat_map(|s| &s.generations);
    let near = of_shard.filter(|older| older.id() < id && older.may_overlap(keys.range()));
    let older: Vec<Arc<Generation>> = near.cloned().collect();
    let older_keys = Generation::keys_of(older.iter().cloned()).await?;
    let lists = Arc::clone(control.block_lists());
    task::blocking(move || {
        for (older, older_keys) in older.iter().zip(&older_keys) {
            lists.relate(shard, (older.id(), older_keys.as_ref()), (id, &keys));
        }
        lists.relate_base(&version.base, shard, (id, &keys));
        Ok(())
    })
    .await
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

/// Until when it is waited for what begins to be prepared now.
pub fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

/// What `preparing` comes to, if it ends before a [`deadline`]; else it is given up.
///
/// # Errors
/// Its own; `Unavailable` if it takes longer.
pub async fn in_time<T>(deadline: Instant, preparing: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Error::unavailable(format!("it took more than {PATIENCE:?}"));
    timeout_at(deadline, preparing).await.map_err(late).flatten()
}

/// Lets `warmer` prepare a generation before a [`deadline`], whatever becomes of it.
pub async fn warm(
    warmer: &dyn GenerationWarmer,
    shard: ShardId,
    generation: &Arc<Generation>,
    control: &Arc<VersionControl>,
    deadline: Instant,
) {
    let span = tracing::debug_span!("lsm.warm.generation", %shard, generation = %generation.id());
    let warming = warmer.warm(shard, generation, control).instrument(span);
    log_failure(shard, generation, deadline, warming).await;
}

/// Lets `warmer` [load](GenerationWarmer::load) what of a generation is decoded before a [`deadline`], whatever becomes of
/// it.
pub async fn load(warmer: &dyn GenerationWarmer, shard: ShardId, generation: &Arc<Generation>, deadline: Instant) {
    log_failure(shard, generation, deadline, warmer.load(generation)).await;
}

/// A failure, a panic, and what lasts too long, is logged.
async fn log_failure(
    shard: ShardId,
    generation: &Generation,
    deadline: Instant,
    warming: impl Future<Output = Result<()>>,
) {
    let panicked = |_| Err(Error::internal("the warmer of generations panicked"));
    let warming = AssertUnwindSafe(warming).catch_unwind().map(|warmed| warmed.unwrap_or_else(panicked));
    if let Err(error) = in_time(deadline, warming).await {
        tracing::warn!(%shard, generation = %generation.id(), %error, "a generation is not warm");
    }
}
