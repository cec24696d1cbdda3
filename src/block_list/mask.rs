//! Block lists as the plan nodes ask for them: one mask or row source per older source of a snapshot.

use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use futures::future::try_join;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use roaring::RoaringTreemap;

use super::lists::{BlockLists, KeySource, SourceId};
use super::loaded::{self, LoadedKeys};
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

/// What `resolve` makes of the sources whose keys it asks for: here if it is little work, elsewhere if it is much.
async fn resolve_off_worker(
    asked: Vec<LoadedKeys>,
    resolve: impl FnOnce(&[LoadedKeys]) -> Arc<RoaringTreemap> + Send + 'static,
) -> Result<Arc<RoaringTreemap>> {
    let heavy = asked.iter().map(LoadedKeys::rows).sum::<usize>() >= HEAVY;
    task::blocking_if(heavy, move || Ok(resolve(&asked))).await
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
        if let Some(rows) = lists.known(id, &newer) {
            return Ok(rows);
        }
        let asked = loaded::load(&newer).await?;
        resolve_off_worker(asked, move |asked| {
            lists.resolve(id, &newer, asked, &RoaringTreemap::new(), |key, hash| {
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

    /// Whether keys of the generation are needed to know what `newer`, those sources that may have some of its keys,
    /// supersede of it.
    async fn needs_keys(&self, newer: &[KeySource]) -> Result<bool> {
        if self.generation.known_keys().is_some() || self.generation.may_have_tombstones() {
            return Ok(true);
        }
        let mut views = Vec::with_capacity(newer.len());
        for source in newer {
            match source {
                KeySource::MemTable(view) => views.push(view.clone()),
                KeySource::Generation(..) => return Ok(true),
            }
        }
        let (lists, generation, id) = (Arc::clone(&self.lists), Arc::clone(&self.generation), self.id);
        let heavy = views.iter().map(MemTableView::watermark).sum::<usize>() >= HEAVY;
        let is_passed_over =
            move |view: &MemTableView| lists.pass_over(id, view, |key| generation.may_hold(key, key.hash()));
        task::blocking_if(heavy, move || Ok(!views.iter().all(is_passed_over))).await
    }
}

#[async_trait]
impl RowMask for GenerationMask {
    fn label(&self) -> String {
        label(&self.newer)
    }

    async fn resolve(&self) -> Result<Dropped> {
        if let Some(rows) = self.lists.known(self.id, &self.newer) {
            return Ok(Dropped::Rows(rows));
        }
        let range = self.generation.key_range();
        let near: Vec<KeySource> = self.newer.iter().filter(|source| source.may_overlap(range)).cloned().collect();
        let (keys, asked) = if self.needs_keys(&near).await? {
            let (keys, asked) = try_join(self.generation.keys(), loaded::load(&near)).await?;
            (Some(keys), asked)
        } else {
            (None, loaded::load(&near).await?)
        };
        let (lists, id, newer) = (Arc::clone(&self.lists), self.id, Arc::clone(&self.newer));
        let rows = resolve_off_worker(asked, move |asked| match keys {
            Some(keys) => lists.resolve(id, &newer, asked, keys.tombstones(), |key, hash| keys.get(key, hash)),
            // No tombstones, and of memtables only keys that it has not.
            None => lists.resolve(id, &newer, asked, &RoaringTreemap::new(), |_, _| None),
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
        let (lists, newer, id) =
            (Arc::clone(&self.lists), Arc::clone(&self.newer), SourceId::Base(self.base.version()));
        if let Some(rows) = lists.known(id, &newer) {
            return Ok(Dropped::Rows(rows));
        }
        if !self.by_row {
            return Ok(Dropped::Keys(Arc::new(NewerKeys {
                lists,
                base: id,
                key: self.key.clone(),
                columns: self.columns.clone(),
                asked: loaded::load(&newer).await?,
                newer,
            })));
        }
        let keys = lists.base_keys(&self.base).await?;
        let near: Vec<KeySource> = newer.iter().filter(|source| source.may_overlap(keys.range())).cloned().collect();
        let asked = loaded::load(&near).await?;
        let rows = resolve_off_worker(asked, move |asked| {
            lists.resolve(id, &newer, asked, &RoaringTreemap::new(), |key, hash| keys.get(key, hash))
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
    /// The same with their keys.
    asked: Vec<LoadedKeys>,
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
                self.asked.iter().any(|source| source.holds(key, hash))
            })
            .collect())
    }

    fn keep(&self, superseded: &Arc<RoaringTreemap>) {
        self.lists.keep(self.base, &self.newer, superseded);
    }
}
