//! The block lists of a table, memoised by source and shared by all its queries.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::TryFutureExt;
use parking_lot::Mutex;
use roaring::RoaringTreemap;
use tokio::sync::OnceCell;

use super::loaded::LoadedKeys;
use super::pair::Pair;
use crate::base::BaseTable;
use crate::error::Result;
use crate::generation::Generation;
use crate::ids::{GenerationId, ShardId};
use crate::key::{KeyMap, KeyRange, KeyRef};
use crate::memtable::MemTableView;
use crate::task;

/// The identity of a source: two with the same one hold the same rows under the same row ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceId {
    /// A memtable, by its instance.
    MemTable(u64),
    /// A generation.
    Generation(ShardId, GenerationId),
    /// The base at a version.
    Base(u64),
}

/// A source that may supersede rows of older ones.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// A memtable at a watermark.
    MemTable(MemTableView),
    /// A generation.
    Generation(ShardId, Arc<Generation>),
}

impl KeySource {
    /// Its identity.
    pub fn id(&self) -> SourceId {
        match self {
            Self::MemTable(view) => SourceId::MemTable(view.table().instance()),
            Self::Generation(shard, generation) => SourceId::Generation(*shard, generation.id()),
        }
    }

    /// How many rows it has, each with a key.
    pub fn rows(&self) -> usize {
        match self {
            Self::MemTable(view) => view.watermark(),
            Self::Generation(_, generation) => generation.key_count(),
        }
    }

    /// Whether it may have a key of a source whose keys are in `range`, if that is known. A memtable may: it grows.
    pub(super) fn may_overlap(&self, range: Option<&KeyRange>) -> bool {
        match self {
            Self::MemTable(_) => true,
            Self::Generation(_, generation) => generation.may_overlap(range),
        }
    }
}

/// Source and how many of its rows count: what a union was made of.
type Extent = Vec<(SourceId, usize)>;

fn extent(newer: &[KeySource]) -> Extent {
    newer.iter().map(|source| (source.id(), source.rows())).collect()
}

/// What is known of each older and newer source.
type Pairs = HashMap<(SourceId, SourceId), Arc<Mutex<Pair>>>;

/// The keys of one version of the base, once they were read.
type BaseKeys = OnceCell<Arc<KeyMap>>;

/// The block lists of one table.
#[derive(Debug)]
pub struct BlockLists {
    pairs: Mutex<Pairs>,
    unions: Mutex<HashMap<SourceId, (Extent, Arc<RoaringTreemap>)>>,
    /// By version: those that queries see, and those of a newer one that is prepared for them.
    base_keys: Mutex<BTreeMap<u64, Arc<BaseKeys>>>,
    /// The version of the base whose keys were read and did not fit.
    too_large: Mutex<Option<u64>>,
    base_key_bytes: usize,
}

/// Versions of the base whose keys are in memory at most.
const VERSIONS: usize = 2;
/// What a key of the base takes in memory, roughly: its value, row id and slot.
const BYTES_PER_BASE_KEY: usize = 48;

impl BlockLists {
    /// No lists yet; the base's keys stay resident while they take at most `base_key_bytes`.
    pub fn new(base_key_bytes: usize) -> Self {
        Self {
            pairs: Mutex::default(),
            unions: Mutex::default(),
            base_keys: Mutex::default(),
            too_large: Mutex::new(None),
            base_key_bytes,
        }
    }

    /// Forgets the lists of sources that are no longer there.
    pub fn retain(&self, live: &HashSet<SourceId>) {
        self.pairs.lock().retain(|(older, newer), _| live.contains(older) && live.contains(newer));
        self.unions.lock().retain(|older, _| live.contains(older));
        let is_older = |version: u64| live.iter().any(|id| matches!(id, SourceId::Base(live) if *live > version));
        self.base_keys.lock().retain(|version, _| live.contains(&SourceId::Base(*version)) || !is_older(*version));
    }

    /// Whether `older` has no key of a newer memtable, as far as `may_hold` tells: then resolving the two asks it for none.
    pub(super) fn pass_over(
        &self,
        older: SourceId,
        newer: &MemTableView,
        may_hold: impl Fn(KeyRef<'_>) -> bool,
    ) -> bool {
        let id = SourceId::MemTable(newer.table().instance());
        let pair = Arc::clone(self.pairs.lock().entry((older, id)).or_default());
        pair.lock().pass_over(newer, may_hold)
    }

    /// The rows of `older` that any of `newer` supersedes, and `always`; `find` tells the older source's row of a key. Of
    /// `newer` only `asked` may have keys of the older source.
    pub(super) fn resolve(
        &self,
        older: SourceId,
        newer: &[KeySource],
        asked: &[LoadedKeys],
        always: &RoaringTreemap,
        find: impl Fn(KeyRef<'_>, u64) -> Option<u64>,
    ) -> Arc<RoaringTreemap> {
        if let Some(rows) = self.known(older, newer) {
            return rows;
        }
        let mut union = always.clone();
        for source in asked {
            let pair = Arc::clone(self.pairs.lock().entry((older, source.id())).or_default());
            let rows = pair.lock().resolve(source, &find);
            union |= rows.as_ref();
        }
        let union = Arc::new(union);
        self.keep(older, newer, &union);
        union
    }

    /// Finds out which rows of a generation a newer one of its shard supersedes, before queries ask: each by its number and
    /// its keys.
    pub fn relate(
        &self,
        shard: ShardId,
        (older, keys): (GenerationId, &KeyMap),
        (newer, newer_keys): (GenerationId, &Arc<KeyMap>),
    ) {
        let newer = LoadedKeys::Generation(SourceId::Generation(shard, newer), Arc::clone(newer_keys));
        self.relate_to(SourceId::Generation(shard, older), &newer, |key, hash| keys.get(key, hash));
    }

    /// The same of the base, if its keys are in memory.
    pub fn relate_base(&self, base: &BaseTable, shard: ShardId, (newer, newer_keys): (GenerationId, &Arc<KeyMap>)) {
        let known = self.base_keys.lock().get(&base.version()).map(Arc::clone);
        if let Some(keys) = known.as_ref().and_then(|cell| cell.get()) {
            let newer = LoadedKeys::Generation(SourceId::Generation(shard, newer), Arc::clone(newer_keys));
            self.relate_to(SourceId::Base(base.version()), &newer, |key, hash| keys.get(key, hash));
        }
    }

    fn relate_to(&self, older: SourceId, newer: &LoadedKeys, find: impl Fn(KeyRef<'_>, u64) -> Option<u64>) {
        let pair = Arc::clone(self.pairs.lock().entry((older, newer.id())).or_default());
        pair.lock().resolve(newer, find);
    }

    /// The rows of `older` that any of `newer` supersedes, if that was found out and no row came since.
    pub(super) fn known(&self, older: SourceId, newer: &[KeySource]) -> Option<Arc<RoaringTreemap>> {
        let unions = self.unions.lock();
        unions.get(&older).filter(|(known, _)| *known == extent(newer)).map(|(_, rows)| Arc::clone(rows))
    }

    /// Keeps that `rows` are the rows of `older` that any of `newer` supersedes.
    pub(super) fn keep(&self, older: SourceId, newer: &[KeySource], rows: &Arc<RoaringTreemap>) {
        self.unions.lock().insert(older, (extent(newer), Arc::clone(rows)));
    }

    /// Whether the base's keys fit into memory, as far as is known: their size is found out when they are read.
    pub fn may_hold_keys_of(&self, base: &BaseTable) -> bool {
        base.rows().saturating_mul(BYTES_PER_BASE_KEY) <= self.base_key_bytes
            && *self.too_large.lock() != Some(base.version())
    }

    /// The base's keys: read once a version if they fit into memory, and each time if they turn out not to, or the version is
    /// older than two that are here. Those who ask meanwhile wait for that, and it goes on although the one who asked first
    /// is not polled.
    ///
    /// # Errors
    /// Whatever reading the base raises; the next call tries again.
    pub async fn base_keys(&self, base: &BaseTable) -> Result<Arc<KeyMap>> {
        let cell = {
            let mut versions = self.base_keys.lock();
            let cell = Arc::clone(versions.entry(base.version()).or_default());
            if versions.len() > VERSIONS {
                // It may be the one that is asked for.
                versions.pop_first();
            }
            cell
        };
        let keys = task::once(&cell, || base.keys().map_ok(Arc::new)).await?;
        if keys.memory() > self.base_key_bytes {
            *self.too_large.lock() = Some(base.version());
            self.base_keys.lock().remove(&base.version());
        }
        Ok(keys)
    }

    /// Bytes of memory held by the base's keys.
    pub fn memory(&self) -> usize {
        let versions = self.base_keys.lock();
        versions.values().filter_map(|cell| cell.get()).map(|keys| keys.memory()).sum()
    }
}
