//! The sources of a snapshot, newest first in each shard and the base last, each with what newer ones take from it.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use futures::stream::BoxStream;
use roaring::RoaringBitmap;

use crate::base::BaseTable;
use crate::block_list::{BaseMask, BlockLists, GenerationMask, KeySource, MemTableRows, SourceId};
use crate::cache::ReadQuery;
use crate::dataset::DatasetHandle;
use crate::error::Result;
use crate::generation::Generation;
use crate::physical_plan::{BlockListExec, MemTableScanExec};
use crate::source::{RowMask, RowSource, ValueRanges};
use crate::version::Snapshot;

/// One source of a snapshot that has rows.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A memtable.
    MemTable(MemTableRows),
    /// A generation or the base.
    Stored(StoredRows),
}

/// The rows of a generation or of the base.
#[derive(Clone)]
pub(super) struct StoredRows {
    data: Stored,
    mask: Arc<dyn RowMask>,
    /// Columns that the mask reads behind the projected ones.
    extra: Vec<usize>,
    label: String,
    /// The query that they are read for: all that is read of one snapshot is one.
    query: ReadQuery,
}

#[derive(Clone)]
enum Stored {
    Generation(Arc<Generation>),
    Base(Arc<BaseTable>),
}

impl fmt::Debug for StoredRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredRows").field("label", &self.label).field("mask", &self.mask).finish_non_exhaustive()
    }
}

impl StoredRows {
    /// The dataset.
    pub(super) fn handle(&self) -> &Arc<DatasetHandle> {
        match &self.data {
            Stored::Generation(generation) => generation.handle(),
            Stored::Base(base) => base.handle(),
        }
    }

    /// The query that they are read for.
    pub(super) fn query(&self) -> &ReadQuery {
        &self.query
    }

    /// All rows of the dataset, or those of the given fragments: the stored columns `columns`, nullable as stored, then
    /// `_rowid`. Nothing is read before the stream is polled.
    ///
    /// # Errors
    /// `Internal` if Lance cannot plan the read.
    pub(super) fn rows_of(
        &self,
        columns: &[usize],
        fragments: Option<&RoaringBitmap>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        self.handle().rows_for(&self.query, columns, fragments)
    }

    /// What newer sources supersede of it.
    pub(super) fn mask(&self) -> &Arc<dyn RowMask> {
        &self.mask
    }

    /// The columns that the mask reads: the key, if it drops rows by key.
    pub(super) fn extra(&self) -> &[usize] {
        &self.extra
    }

    /// What EXPLAIN calls it.
    pub(super) fn label(&self) -> &str {
        &self.label
    }
}

impl Source {
    /// All of `snapshot`.
    pub(super) fn all(snapshot: &Arc<Snapshot>, lists: &Arc<BlockLists>) -> Vec<Self> {
        let (mut found, mut everything) = (Vec::new(), Vec::<KeySource>::new());
        let shards = snapshot.shards().count();
        let query: ReadQuery = Arc::<Snapshot>::clone(snapshot);
        for (s, (shard, views)) in snapshot.shards().enumerate() {
            let place: Arc<str> = if shards > 1 { format!("shard {s}, ").into() } else { Arc::default() };
            let sources = snapshot.key_sources(s);
            let visible: Vec<_> = views.iter().filter(|v| v.watermark() > 0).collect();
            for (newer, view) in visible.iter().enumerate() {
                let newer: Arc<[KeySource]> = sources[..newer].into();
                let rows = MemTableRows::new(Arc::clone(lists), (*view).clone(), newer, Arc::clone(&place));
                found.push(Self::MemTable(rows));
            }
            for (g, generation) in shard.generations.iter().enumerate() {
                let newer: Arc<[KeySource]> = sources[..visible.len() + g].into();
                let id = SourceId::Generation(shard.shard, generation.id());
                found.push(Self::Stored(StoredRows {
                    data: Stored::Generation(Arc::clone(generation)),
                    mask: Arc::new(GenerationMask::new(Arc::clone(lists), Arc::clone(generation), id, newer)),
                    extra: Vec::new(),
                    label: format!("{place}generation {}", generation.id()),
                    query: Arc::clone(&query),
                }));
            }
            everything.extend(sources);
        }
        let base = &snapshot.version().base;
        if base.rows() > 0 {
            let mask = BaseMask::new(Arc::clone(lists), Arc::clone(base), everything.into());
            found.push(Self::Stored(StoredRows {
                data: Stored::Base(Arc::clone(base)),
                extra: mask.extra_columns().to_vec(),
                mask: Arc::new(mask),
                label: format!("base {}", base.version()),
                query,
            }));
        }
        found
    }

    /// Whether its rows are in memory.
    pub(super) fn is_resident(&self) -> bool {
        match self {
            Self::MemTable(_) => true,
            Self::Stored(rows) => match &rows.data {
                Stored::Generation(generation) => generation.is_resident(),
                Stored::Base(base) => base.is_resident(),
            },
        }
    }

    /// A plan of its live rows, projected to the logical columns `projection`, of which `schema` is. Rows that do not
    /// pass all `filters`, or whose values are not in all of `ranges`, may be left out. `why` no index finds rows, if a
    /// search wants some.
    ///
    /// # Errors
    /// `Invalid` if a filter cannot be evaluated on the table's columns.
    pub(super) fn live(
        &self,
        projection: &[usize],
        schema: &SchemaRef,
        filters: &[Expr],
        ranges: &[ValueRanges],
        why: Option<&'static str>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = match self {
            Self::MemTable(rows) => {
                let scan = MemTableScanExec::new(vec![Arc::new(rows.clone())], projection.to_vec(), Arc::clone(schema));
                return Ok(Arc::new(scan.because(why)));
            }
            Self::Stored(rows) => rows,
        };
        let columns: Vec<usize> = projection.iter().chain(&rows.extra).copied().collect();
        let scan = rows.handle().scan_within(&columns, filters, ranges)?;
        let label = match why {
            Some(why) => format!("{}, flat={why}", rows.label),
            None => rows.label.clone(),
        };
        Ok(Arc::new(BlockListExec::new(scan, Arc::clone(&rows.mask), label, Arc::clone(schema))))
    }
}

/// A plan of rows that need no further filter.
pub(super) fn of_source(rows: Arc<dyn RowSource>, projection: &[usize], schema: &SchemaRef) -> Arc<dyn ExecutionPlan> {
    Arc::new(MemTableScanExec::new(vec![rows], projection.to_vec(), Arc::clone(schema)))
}
