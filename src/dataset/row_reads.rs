//! Rows of a dataset that are not scanned for a plan: some by their ids, those that have a key, all of them.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, UInt64Type};
use datafusion::logical_expr::Expr;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use lance::dataset::ProjectionRequest;
use lance_core::Error as LanceError;
use lance_core::datatypes::Schema as LanceSchema;
use roaring::{RoaringBitmap, RoaringTreemap};

use super::budgeted_io::ReadFigures;
use super::failure::{diagnose, driven};
use super::handle::DatasetHandle;
use super::storage_read::ReadContext;
use super::value_index::ValueCandidates;
use crate::cache::{ReadQuery, ReadRequest};
use crate::error::{Error, Result};
use crate::key::KeyMap;
use crate::source::add_wait;
use crate::store::from_lance;
use crate::task;

/// Batches of rows by their ids that are taken at once.
const CHUNKS: usize = 4;

impl DatasetHandle {
    /// The rows with these ids, in this order; the logical columns `projection`, nullable as stored.
    ///
    /// # Errors
    /// `Corrupt` if a row is not there, `Unavailable` if the storage fails.
    pub async fn take(&self, row_ids: &[u64], projection: &[usize]) -> Result<RecordBatch> {
        let schema = self.origins().schema_of(projection, false);
        let wanted = self.lance_schema(projection)?;
        if let Some(id) = row_ids.iter().find(|id| !self.may_have(**id)) {
            return Err(Error::corrupt(format!("there is no row {id}")).with_context("dataset", self.dataset().uri()));
        }
        if let Some(rows) = self.resident_rows()
            && let Some(taken) = rows.take(row_ids, projection)?
        {
            return Ok(taken);
        }
        let read = if row_ids.is_empty() {
            return Ok(RecordBatch::new_empty(schema));
        } else if wanted.fields.is_empty() {
            let options = RecordBatchOptions::new().with_row_count(Some(row_ids.len()));
            RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)?
        } else {
            match self.read(row_ids, wanted).await {
                Ok(read) => read,
                Err(error) => return Err(diagnose(self.dataset(), from_lance(error)).await),
            }
        };
        if read.num_rows() != row_ids.len() {
            return Err(Error::corrupt(format!(
                "{} rows were asked for, {} are there",
                row_ids.len(),
                read.num_rows()
            ))
            .with_context("dataset", self.dataset().uri()));
        }
        self.origins().rows(&read, projection, &schema)
    }

    async fn read(&self, row_ids: &[u64], wanted: LanceSchema) -> Result<RecordBatch, LanceError> {
        let charge = self.admit_take(row_ids.len(), &wanted).await;
        if let Some(readers) = self.row_readers()
            && readers.may_take(row_ids.len(), &wanted)
            && let Some(rows) = readers.take(self.dataset(), &wanted, row_ids).await
        {
            return Ok(rows);
        }
        let (dataset, row_ids) = (Arc::clone(self.dataset()), row_ids.to_vec());
        let wanted = ProjectionRequest::from_schema(wanted);
        // Given up, it holds what it read until the task has ended.
        let take = async move {
            let _charge = charge;
            dataset.take_builder(&row_ids, wanted)?.execute().await
        };
        driven(take).await
    }

    /// The keys of all rows, the ids of the rows that hold them and which of these are tombstones, in one pass.
    ///
    /// # Errors
    /// `Invalid` if a key is NULL, `Unavailable` if the storage fails.
    pub async fn key_map(self: &Arc<Self>) -> Result<KeyMap> {
        let key = self.schema().key();
        let columns: Vec<usize> =
            key.columns().iter().map(|c| c.index).chain([self.schema().tombstone_index()]).collect();
        let mut keys = key.no_keys();
        let mut ids = Vec::with_capacity(self.rows());
        let mut tombstones = RoaringTreemap::new();
        let mut read = self.rows_of(&columns, None)?;
        while let Some(batch) = read.try_next().await? {
            let parts: Vec<ArrayRef> = batch.columns()[..key.columns().len()].to_vec();
            keys.extend(&key.of_columns(&parts).map_err(|error| error.with_context("dataset", self.dataset().uri()))?);
            let batch_ids = batch.column(columns.len()).as_primitive::<UInt64Type>().values();
            let deleted = batch.column(key.columns().len()).as_boolean();
            for row in deleted.values().set_indices() {
                tombstones.insert(batch_ids[row]);
            }
            ids.extend_from_slice(batch_ids);
        }
        Ok(KeyMap::new(keys, ids, tombstones))
    }

    /// The rows passing `filter`, an expression over the logical columns that names only key columns: the logical
    /// columns `projection`, nullable as stored. Lance plans the read and uses its scalar indexes.
    ///
    /// # Errors
    /// `Invalid` if Lance cannot evaluate the filter, `Unavailable` if the storage fails.
    pub(crate) async fn search(&self, filter: Expr, projection: &[usize]) -> Result<RecordBatch> {
        let schema = self.origins().schema_of(projection, false);
        let filter = self.origins().rename(filter)?;
        let mut names: Vec<&str> = projection.iter().filter_map(|&i| self.origins().name(i)).collect();
        names.sort_unstable();
        names.dedup();
        let mut scanner = self.dataset().scan();
        // Lance reads as far ahead as it is let: all rows, if no index has the key.
        let reads = self.read_budget().scan(None, self.is_near());
        let charge = reads.admit(ReadRequest::Buffer).await;
        add_wait(self.waited(), charge.waited());
        let planned = scanner.project(&names).map(|scanner| {
            scanner.filter_expr(filter).with_row_id().io_buffer_size(charge.bytes() as u64);
        });
        let read = async move {
            let _charge = charge;
            planned?;
            scanner.try_into_stream().await?.try_collect::<Vec<_>>().await
        };
        let read = match driven(read).await {
            Ok(read) => read,
            Err(error) => return Err(diagnose(self.dataset(), from_lance(error)).await),
        };
        let batches = read.iter().map(|batch| self.origins().rows(batch, projection, &schema));
        let batches = batches.collect::<Result<Vec<_>>>()?;
        Ok(concat_batches(&schema, &batches)?)
    }

    /// The rows `found`, and all of the fragments that no index knows: the stored columns `columns`, nullable as stored,
    /// then `_rowid`. They are read for `query`. Nothing is read before the stream is polled.
    ///
    /// # Errors
    /// `Internal` if Lance cannot plan the read.
    pub fn rows_among(
        self: &Arc<Self>,
        columns: &[usize],
        found: ValueCandidates,
        batch_size: usize,
        query: &ReadQuery,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let ids: Vec<u64> = found.rows.iter().collect();
        let chunks: Vec<Vec<u64>> = ids.chunks(batch_size.max(1)).map(<[u64]>::to_vec).collect();
        let (handle, read, schema) = (Arc::clone(self), columns.to_vec(), self.origins().schema_of(columns, true));
        let taken = stream::iter(chunks).map(move |ids| {
            let (handle, read, schema) = (Arc::clone(&handle), read.clone(), Arc::clone(&schema));
            let take = async move {
                let mut columns = handle.take(&ids, &read).await?.columns().to_vec();
                columns.push(Arc::new(UInt64Array::from(ids)));
                Ok(RecordBatch::try_new(schema, columns)?)
            };
            // Others may wait for what it loads, when nobody wants its rows yet.
            async move { task::driven(take).await? }
        });
        let taken = taken.buffered(CHUNKS);
        if found.uncovered.is_empty() {
            return Ok(taken.boxed());
        }
        Ok(taken.chain(self.rows_for(query, columns, Some(&found.uncovered))?).boxed())
    }

    /// All rows, or those of the given fragments: the stored columns `columns`, nullable as stored, then `_rowid`. They
    /// are read for all queries, such as keys that are kept. Nothing is read before the stream is polled.
    ///
    /// # Errors
    /// `Internal` if Lance cannot plan the read.
    pub fn rows_of(
        self: &Arc<Self>,
        columns: &[usize],
        fragments: Option<&RoaringBitmap>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        self.rows_for(self.read_budget().for_all(), columns, fragments)
    }

    /// The same, read for `query`.
    ///
    /// # Errors
    /// As there.
    pub fn rows_for(
        self: &Arc<Self>,
        query: &ReadQuery,
        columns: &[usize],
        fragments: Option<&RoaringBitmap>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let schema = self.origins().schema_of(columns, true);
        if fragments.is_none()
            && let Some(rows) = self.resident_rows()
        {
            let rows = rows.all(columns, schema);
            return Ok(stream::once(std::future::ready(rows)).boxed());
        }
        let (query, figures) = (Some(Arc::clone(query)), ReadFigures::waiting(self.waited()));
        let read = self.read_rows(columns, fragments, ReadContext { query, figures, ..ReadContext::default() })?;
        let (handle, columns) = (Arc::clone(self), columns.to_vec());
        let rows = read.map(move |batch| handle.origins().rows(&batch?, &columns, &schema));
        Ok(rows.boxed())
    }
}
