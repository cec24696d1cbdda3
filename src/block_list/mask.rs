//! Block lists as the plan nodes ask for them: one mask or row source per older source of a snapshot.

use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use roaring::RoaringTreemap;

use super::lists::{BlockLists, KeySource, SourceId};
use crate::base::BaseTable;
use crate::error::Result;
use crate::generation::Generation;
use crate::key::PrimaryKey;
use crate::memtable::MemTableView;
use crate::source::{Dropped, KeyProbe, RowMask, RowSource, WorkListener};
use crate::task;

/// No rows: always the same ones, so that who keeps what follows from them finds it again.
static NONE: LazyLock<Arc<RoaringTreemap>> = LazyLock::new(Arc::default);

/// Keys to probe from which on resolving leaves the async workers.
const HEAVY: usize = 4096;

fn label(newer: &[KeySource]) -> String {
    match newer.len() {
        1 => "1 newer source".to_string(),
        n => format!("{n} newer sources"),
    }
}

/// Runs `resolve` here if it is little work, elsewhere if it is much.
async fn resolve_off_worker(
    (lists, older, newer): (&BlockLists, SourceId, &[KeySource]),
    resolve: impl FnOnce() -> Arc<RoaringTreemap> + Send + 'static,
) -> Result<Arc<RoaringTreemap>> {
    if let Some(known) = lists.known(older, newer) {
        return Ok(known);
    }
    let heavy = newer.iter().map(KeySource::rows).sum::<usize>() >= HEAVY;
    task::blocking_if(heavy, move || Ok(resolve())).await
}

/// The live rows of a memtable.
#[derive(Debug, Clone)]
pub struct MemTableRows {
    lists: Arc<BlockLists>,
    view: MemTableView,
    newer: Arc<[KeySource]>,
    place: Arc<str>,
}

impl MemTableRows {
    /// The rows of `view` that none of `newer` supersedes; `place` goes before its name in EXPLAIN.
    pub fn new(lists: Arc<BlockLists>, view: MemTableView, newer: Arc<[KeySource]>, place: Arc<str>) -> Self {
        Self { lists, view, newer, place }
    }

    /// The memtable.
    pub fn view(&self) -> &MemTableView {
        &self.view
    }

    /// The positions of rows that newer sources supersede.
    pub async fn blocked(&self) -> Result<Arc<RoaringTreemap>> {
        if self.newer.is_empty() {
            return Ok(Arc::clone(&NONE));
        }
        let (lists, newer, older) = (Arc::clone(&self.lists), Arc::clone(&self.newer), self.view.clone());
        let id = SourceId::MemTable(older.table().instance());
        resolve_off_worker((&self.lists, id, &self.newer), move || {
            lists.resolve(id, &newer, &RoaringTreemap::new(), |key, hash| {
                older.find(key, hash).map(|(row, _)| row as u64)
            })
        })
        .await
    }
}

impl RowSource for MemTableRows {
    fn label(&self) -> String {
        format!("{}memtable {}", self.place, self.view.generation())
    }

    fn row_count(&self) -> usize {
        self.view.watermark()
    }

    fn rows(
        &self,
        projection: &[usize],
        schema: &SchemaRef,
        batch_size: usize,
        _: WorkListener,
    ) -> BoxStream<'static, Result<RecordBatch>> {
        let (view, projection, schema) = (self.view.clone(), projection.to_vec(), Arc::clone(schema));
        if self.newer.is_empty() {
            return stream::iter(view.live_rows(projection, schema, None, batch_size)).boxed();
        }
        let source = self.clone();
        stream::once(async move {
            let rows = view.live_rows(projection, schema, Some(source.blocked().await?), batch_size);
            Ok::<_, crate::error::Error>(stream::iter(rows))
        })
        .try_flatten()
        .boxed()
    }
}

/// The superseded rows and tombstones of a generation.
#[derive(Debug)]
pub struct GenerationMask {
    lists: Arc<BlockLists>,
    generation: Arc<Generation>,
    id: SourceId,
    newer: Arc<[KeySource]>,
}

impl GenerationMask {
    /// The rows of `generation`, whose identity is `id`, that one of `newer` supersedes, and its tombstones.
    pub fn new(lists: Arc<BlockLists>, generation: Arc<Generation>, id: SourceId, newer: Arc<[KeySource]>) -> Self {
        Self { lists, generation, id, newer }
    }
}

#[async_trait]
impl RowMask for GenerationMask {
    fn label(&self) -> String {
        label(&self.newer)
    }

    async fn resolve(&self) -> Result<Dropped> {
        let (lists, generation, id, newer) =
            (Arc::clone(&self.lists), Arc::clone(&self.generation), self.id, Arc::clone(&self.newer));
        let rows = resolve_off_worker((&self.lists, self.id, &self.newer), move || {
            let keys = generation.keys();
            lists.resolve(id, &newer, keys.tombstones(), |key, hash| keys.get(key, hash))
        });
        Ok(Dropped::Rows(rows.await?))
    }
}

/// The superseded rows of the base.
pub struct BaseMask {
    lists: Arc<BlockLists>,
    base: Arc<BaseTable>,
    newer: Arc<[KeySource]>,
    key: PrimaryKey,
    columns: Vec<usize>,
    /// Whether the base's keys are asked for rows: decided once, since the plan below depends on it.
    by_row: bool,
}

impl BaseMask {
    /// The rows of `base` that one of `newer` supersedes.
    pub fn new(lists: Arc<BlockLists>, base: Arc<BaseTable>, newer: Arc<[KeySource]>) -> Self {
        let key = base.schema().key().clone();
        let columns = key.columns().iter().map(|c| c.index).collect();
        let by_row = newer.is_empty() || lists.may_hold_keys_of(&base);
        Self { lists, base, newer, key, columns, by_row }
    }
}

impl BaseMask {
    /// The columns that a scan must give behind its own: the key, if the base's keys are too large to be resident.
    pub fn extra_columns(&self) -> &[usize] {
        if self.by_row { &[] } else { &self.columns }
    }
}

impl fmt::Debug for BaseMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BaseMask").field("version", &self.base.version()).field("newer", &self.newer.len()).finish()
    }
}

#[async_trait]
impl RowMask for BaseMask {
    fn label(&self) -> String {
        label(&self.newer)
    }

    async fn resolve(&self) -> Result<Dropped> {
        if self.newer.is_empty() {
            return Ok(Dropped::Rows(Arc::clone(&NONE)));
        }
        if !self.by_row {
            let base = SourceId::Base(self.base.version());
            if let Some(rows) = self.lists.known(base, &self.newer) {
                return Ok(Dropped::Rows(rows));
            }
            return Ok(Dropped::Keys(Arc::new(NewerKeys {
                lists: Arc::clone(&self.lists),
                base,
                key: self.key.clone(),
                columns: self.columns.clone(),
                newer: Arc::clone(&self.newer),
            })));
        }
        let keys = self.lists.base_keys(&self.base).await?;
        let (lists, newer, id) =
            (Arc::clone(&self.lists), Arc::clone(&self.newer), SourceId::Base(self.base.version()));
        let rows = resolve_off_worker((&self.lists, id, &self.newer), move || {
            lists.resolve(id, &newer, &RoaringTreemap::new(), |key, hash| keys.get(key, hash))
        });
        Ok(Dropped::Rows(rows.await?))
    }
}

/// Membership in the newer sources, for a base whose keys are not resident.
#[derive(Debug)]
struct NewerKeys {
    lists: Arc<BlockLists>,
    base: SourceId,
    key: PrimaryKey,
    columns: Vec<usize>,
    newer: Arc<[KeySource]>,
}

impl KeyProbe for NewerKeys {
    fn columns(&self) -> &[usize] {
        &self.columns
    }

    fn superseded(&self, keys: &[ArrayRef]) -> Result<Vec<bool>> {
        let keys = self.key.of_columns(keys)?;
        Ok(keys
            .iter()
            .map(|key| {
                let hash = key.hash();
                self.newer.iter().any(|source| source.holds(key, hash))
            })
            .collect())
    }

    fn keep(&self, superseded: &Arc<RoaringTreemap>) {
        self.lists.keep(self.base, &self.newer, superseded);
    }
}
