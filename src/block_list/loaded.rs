//! Sources that may supersede rows, with their keys in memory: what resolving works on.

use std::ops::Range;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::lists::{KeySource, SourceId};
use crate::error::Result;
use crate::key::{KeyMap, KeyRef};
use crate::memtable::MemTableView;

/// Generations whose keys are loaded at once.
const AT_ONCE: usize = 8;

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
    let loading: Vec<BoxFuture<'static, Result<LoadedKeys>>> = sources
        .iter()
        .cloned()
        .map(|source| {
            async move {
                let id = source.id();
                match source {
                    KeySource::MemTable(view) => Ok(LoadedKeys::MemTable(view)),
                    KeySource::Generation(_, generation) => Ok(LoadedKeys::Generation(id, generation.keys().await?)),
                }
            }
            .boxed()
        })
        .collect();
    stream::iter(loading).buffered(AT_ONCE).try_collect().await
}
