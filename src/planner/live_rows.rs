//! Which rows of a dataset are live, and which of them pass a filter.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{SchemaRef, UInt64Type};
use datafusion::physical_expr::PhysicalExpr;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use roaring::{RoaringBitmap, RoaringTreemap};

use super::sources::StoredRows;
use crate::dataset::{DatasetHandle, ValueCandidates};
use crate::error::Result;
use crate::source::{Dropped, Predicate, ValueRanges};

/// Rows that are taken at once.
const TAKEN: usize = 8192;
/// One row in so many: if no more are asked for, they are taken one by one.
const FEW: u64 = 64;

/// The rows of a generation or of the base, less those that newer sources supersede.
#[derive(Debug, Clone)]
pub(super) struct LiveRows {
    rows: StoredRows,
    dropped: Dropped,
}

impl LiveRows {
    /// Finds out what is superseded.
    ///
    /// # Errors
    /// What reading raises.
    pub(super) async fn resolve(rows: &StoredRows) -> Result<Self> {
        Ok(Self { rows: rows.clone(), dropped: rows.mask().resolve().await? })
    }

    /// All rows of the source, live or not.
    pub(super) fn source(&self) -> &StoredRows {
        &self.rows
    }

    /// The dataset.
    pub(super) fn handle(&self) -> &Arc<DatasetHandle> {
        self.rows.handle()
    }

    /// All rows, or those of the given fragments, superseded ones among them: the stored columns `columns`, nullable as
    /// stored, then `_rowid`. Nothing is read before the stream is polled.
    ///
    /// # Errors
    /// `Internal` if Lance cannot plan the read.
    pub(super) fn rows_of(
        &self,
        columns: &[usize],
        fragments: Option<&RoaringBitmap>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        self.rows.rows_of(columns, fragments)
    }

    /// The rows that are superseded, if that is known by row.
    pub(super) fn dropped_rows(&self) -> Option<&Arc<RoaringTreemap>> {
        match &self.dropped {
            Dropped::Rows(rows) => Some(rows),
            Dropped::Keys(_) => None,
        }
    }

    /// Columns by which rows are verified, behind others that are read.
    pub(super) fn key_columns(&self) -> &[usize] {
        self.rows.extra()
    }

    /// Which rows of a batch are live: `keys` are its key columns if superseded rows are known by key.
    ///
    /// # Errors
    /// `Corrupt` if a key is NULL.
    pub(super) fn live(&self, ids: &[u64], keys: &[ArrayRef]) -> Result<BooleanBuffer> {
        Ok(match &self.dropped {
            Dropped::Rows(rows) => BooleanBuffer::collect_bool(ids.len(), |row| !rows.contains(ids[row])),
            Dropped::Keys(probe) => probe.superseded(keys)?.iter().map(|superseded| !superseded).collect(),
        })
    }

    /// The rows that are superseded: all keys are read if that is known by key, once as long as nothing is written.
    ///
    /// # Errors
    /// What reading raises.
    pub(super) async fn superseded(&self) -> Result<Arc<RoaringTreemap>> {
        let probe = match &self.dropped {
            Dropped::Rows(rows) => return Ok(Arc::clone(rows)),
            Dropped::Keys(probe) => probe,
        };
        // Another query of the same statement may have asked since.
        if let Dropped::Rows(rows) = self.rows.mask().resolve().await? {
            return Ok(rows);
        }
        let columns = self.key_columns();
        let (mut superseded, mut rows) = (RoaringTreemap::new(), self.rows_of(columns, None)?);
        while let Some(batch) = rows.try_next().await? {
            let (keys, ids) = batch.columns().split_at(columns.len());
            let ids = ids[0].as_primitive::<UInt64Type>().values();
            let live = self.live(ids, keys)?;
            superseded.extend((0..ids.len()).filter(|row| !live.value(*row)).map(|row| ids[row]));
        }
        let superseded = Arc::new(superseded);
        probe.keep(&superseded);
        Ok(superseded)
    }

    /// The live rows, or those `among` them, that pass `predicate`, and how many of all indexes of values left to look at.
    /// Others are not evaluated. `ranges` are what the predicate lets columns have.
    ///
    /// # Errors
    /// What reading and evaluating raise.
    pub(super) async fn passing(
        &self,
        predicate: &Arc<dyn PhysicalExpr>,
        ranges: &[ValueRanges],
        among: Option<RoaringTreemap>,
    ) -> Result<(RoaringTreemap, Option<u64>)> {
        let Predicate { expr, mut columns, schema } = Predicate::over(self.handle().schema().logical(), predicate)?;
        let read = columns.len();
        columns.extend(self.key_columns());
        let mut passing = RoaringTreemap::new();
        let is_few = |rows: &RoaringTreemap| rows.len() <= self.handle().rows() as u64 / FEW;
        let few = among.as_ref().filter(|rows| is_few(rows));
        let found = if few.is_none() { self.handle().find_values(ranges).await? } else { None };
        let left = found.as_ref().map(|found| found.rows.len());
        let few = few.map(|rows| ValueCandidates { rows: rows.clone(), uncovered: RoaringBitmap::new() });
        let mut rows = match few.or(found) {
            Some(found) => self.handle().rows_among(&columns, found, TAKEN, self.rows.query())?,
            None => self.rows_of(&columns, None)?,
        };
        while let Some(batch) = rows.try_next().await? {
            let (values, ids) = batch.columns().split_at(columns.len());
            let ids = ids[0].as_primitive::<UInt64Type>().values();
            let mut asked = self.live(ids, &values[read..])?;
            if let Some(among) = &among {
                asked = &asked & &BooleanBuffer::collect_bool(ids.len(), |row| among.contains(ids[row]));
            }
            let selection = BooleanArray::new(asked, None);
            let values = batch_of(&schema, values[..read].to_vec(), ids.len())?;
            let passed = expr.evaluate_selection(&values, &selection)?.into_array(ids.len())?;
            let passed = passed.as_boolean();
            let passes = |row: &usize| selection.value(*row) && passed.is_valid(*row) && passed.value(*row);
            passing.extend((0..ids.len()).filter(passes).map(|row| ids[row]));
        }
        Ok((passing, left))
    }

    /// The rows `ids`, in this order, projected to the logical columns `projection`, of which `schema` is.
    ///
    /// # Errors
    /// What reading raises.
    pub(super) async fn take(&self, ids: &[u64], projection: &[usize], schema: &SchemaRef) -> Result<RecordBatch> {
        let rows = self.handle().take(ids, projection).await?;
        batch_of(schema, rows.columns().to_vec(), ids.len())
    }
}

/// Columns of so many rows under `schema`.
pub(super) fn batch_of(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}
