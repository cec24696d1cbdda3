//! Sources that may supersede rows, with their keys in memory: what resolving works on.

use std::ops::Range;
use std::sync::Arc;

use super::lists::{KeySource, SourceId};
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::key::{KeyMap, KeyRef};
use crate::memtable::MemTableView;

/// A source whose keys are in memory.
#[derive(Debug, Clone)]
pub(super) enum LoadedKeys {
    /// A memtable at a watermark.
    MemTable(MemTableView),
    /// A generation.
    Generation(SourceId, Arc<KeyMap>),
}

impl LoadedKeys {
    /// Its identity.
    pub(super) fn id(&self) -> SourceId {
        match self {
            Self::MemTable(view) => SourceId::MemTable(view.table().instance()),
            Self::Generation(id, _) => *id,
        }
    }

    /// How many rows it has, each with a key.
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::MemTable(view) => view.watermark(),
            Self::Generation(_, keys) => keys.keys().len(),
        }
    }

    /// Calls `f` with the position and key of each of these rows.
    pub(super) fn for_each_key(&self, rows: Range<usize>, mut f: impl FnMut(usize, KeyRef<'_>)) {
        match self {
            Self::MemTable(view) => view.table().keys().for_each(rows, f),
            Self::Generation(_, keys) => {
                for i in rows {
                    f(i, keys.keys().get(i));
                }
            }
        }
    }

    /// Whether it holds the key, live or as a tombstone.
    pub(super) fn holds(&self, key: KeyRef<'_>, hash: u64) -> bool {
        match self {
            Self::MemTable(view) => view.find(key, hash).is_some(),
            Self::Generation(_, keys) => keys.get(key, hash).is_some(),
        }
    }
}

/// `sources` with their keys, in their order.
///
/// # Errors
/// What loading keys raises.
pub(super) async fn load(sources: &[KeySource]) -> Result<Vec<LoadedKeys>> {
    let generations = sources.iter().filter_map(|source| match source {
        KeySource::MemTable(_) => None,
        KeySource::Generation(_, generation) => Some(Arc::clone(generation)),
    });
    let mut keys = Generation::keys_of(generations).await?.into_iter();
    let loaded = |source: &KeySource| match source {
        KeySource::MemTable(view) => Ok(LoadedKeys::MemTable(view.clone())),
        KeySource::Generation(..) => {
            let keys = keys.next().ok_or_else(|| Error::internal("the keys of a generation are gone"))?;
            Ok(LoadedKeys::Generation(source.id(), keys))
        }
    };
    sources.iter().map(loaded).collect()
}
