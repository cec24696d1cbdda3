//! Reading ahead of queries.

use std::sync::atomic::AtomicU64;

use futures::{StreamExt, TryStreamExt, stream};
use tracing::Instrument;

use super::handle::LsmTable;
use crate::error::Result;
use crate::settings::Warmth;
use crate::version::{warm_base, warm_generation};
use crate::writer::WriterContext;

/// Generations that are prepared at once.
const AT_ONCE: usize = 8;

/// What was read ahead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Warmed {
    /// Generations, and the base.
    pub sources: usize,
    /// Bytes of whole files that [`Warmth::All`] read into the cache of blocks.
    pub bytes: u64,
}

impl LsmTable {
    /// Reads what queries would wait for: as much as `warmth` says of all generations, newest first, then of the base.
    /// What is there already is not read again. From [`Warmth::Indexes`] on the warmer prepares generations: one that it
    /// fails to prepare, or not within 10 seconds, is logged and left out.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails, `Corrupt` if a file is damaged.
    pub async fn warm(&self, warmth: Warmth) -> Result<Warmed> {
        warm_all(&self.context, warmth).await
    }
}

/// What [`LsmTable::warm`] does.
pub(super) async fn warm_all(context: &WriterContext, warmth: Warmth) -> Result<Warmed> {
    let span = tracing::info_span!("lsm.warm", table = context.io.uri(), warmth = ?warmth);
    warm_sources(context, warmth).instrument(span).await
}

async fn warm_sources(context: &WriterContext, warmth: Warmth) -> Result<Warmed> {
    let version = context.control.current();
    let generations = version.shards.iter().flat_map(|s| s.generations.iter().map(move |g| (s.shard, g)));
    let mut generations: Vec<_> = generations.collect();
    generations.sort_by_key(|(_, generation)| std::cmp::Reverse(generation.id()));
    let most = context.opener.cache_capacity(context.io.uri());
    // One room for all: of generations that differ much a large one has what the small ones leave.
    let room = AtomicU64::new(most);
    let warming = generations.iter().map(|(shard, generation)| {
        let of = (*shard, *generation);
        warm_generation(context.warmer.as_ref(), of, &context.control, warmth, &room)
    });
    let warming: Vec<_> = warming.collect();
    let bytes: Vec<u64> = stream::iter(warming).buffer_unordered(AT_ONCE).try_collect().await?;
    let bytes: u64 = bytes.iter().sum();
    let of_base = warm_base(&version.base, &context.control, warmth, room.into_inner()).await?;
    Ok(Warmed { sources: generations.len() + 1, bytes: bytes + of_base })
}
