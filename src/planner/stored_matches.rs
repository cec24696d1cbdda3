//! The rows of a generation or of the base that match text queries, by their text indexes.

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{SchemaRef, UInt64Type};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use roaring::RoaringTreemap;

use super::live_rows::LiveRows;
use super::reading::Reading;
use super::sources::StoredRows;
use super::stored_texts::passing;
use crate::error::{Error, Result};
use crate::source::{RowSource, Work, WorkListener};
use crate::text_search::{TextColumn, TextSearch};

/// One row in so many: of more, all are read and the others dropped.
const FEW: u64 = 8;

/// Live rows of a dataset that match all of some queries.
#[derive(Debug)]
pub(super) struct StoredMatches {
    rows: StoredRows,
    searches: Arc<[TextSearch]>,
}

impl StoredMatches {
    /// The rows that match; `None` if no columns of one of `searches` have text indexes.
    pub(super) fn try_new(rows: &StoredRows, searches: &Arc<[TextSearch]>) -> Option<Self> {
        let (handle, columns) = (rows.handle(), rows.handle().schema().logical());
        let has_index =
            |column: &TextColumn| columns.index_of(&column.name).is_ok_and(|column| handle.has_text_index(column));
        let has_index = |search: &TextSearch| search.columns.iter().all(has_index);
        let indexed: Arc<[TextSearch]> = searches.iter().filter(|search| has_index(search)).cloned().collect();
        (!indexed.is_empty()).then(|| Self { rows: rows.clone(), searches: indexed })
    }
}

impl RowSource for StoredMatches {
    fn label(&self) -> String {
        format!("{} by text", self.rows.label())
    }

    fn row_count(&self) -> usize {
        self.rows.handle().rows()
    }

    fn yields_all(&self) -> bool {
        false
    }

    fn rows(
        &self,
        projection: &[usize],
        schema: &SchemaRef,
        batch_size: usize,
        told: WorkListener,
    ) -> BoxStream<'static, Result<RecordBatch>> {
        let (rows, searches) = (self.rows.clone(), Arc::clone(&self.searches));
        let (projection, schema, all) = (projection.to_vec(), Arc::clone(schema), self.row_count() as u64);
        stream::once(async move {
            rows.handle().keep_small().await;
            let reading = Reading::begin(rows.handle());
            let live = LiveRows::resolve(&rows).await?;
            let mut work = Work::default();
            let superseded = live.superseded().await?.len() as usize;
            work.add("candidates", live.handle().rows().saturating_sub(superseded));
            work.add("rows_dropped", superseded);
            let found = passing(&live, searches.iter(), None, &[], &mut work).await?.unwrap_or_default();
            reading.tell(&mut work);
            told(&work);
            if found.len() > all / FEW {
                let read = live.rows_of(&projection, None)?;
                return Ok::<_, Error>(read.map(move |batch| among(&batch?, &found, &schema)).boxed());
            }
            let ids: Vec<u64> = found.iter().collect();
            let chunks: Vec<Vec<u64>> = ids.chunks(batch_size.max(1)).map(<[u64]>::to_vec).collect();
            let taken = stream::iter(chunks).then(move |ids| {
                let (live, projection, schema) = (live.clone(), projection.clone(), Arc::clone(&schema));
                async move { live.take(&ids, &projection, &schema).await }
            });
            Ok::<_, Error>(taken.boxed())
        })
        .try_flatten()
        .boxed()
    }
}

/// The rows of a batch, whose last column has their ids, that are among `found`.
fn among(batch: &RecordBatch, found: &RoaringTreemap, schema: &SchemaRef) -> Result<RecordBatch> {
    let (ids, columns) = (batch.num_columns() - 1, batch.columns());
    let row_ids = columns[ids].as_primitive::<UInt64Type>().values();
    let filter: BooleanArray = row_ids.iter().map(|id| Some(found.contains(*id))).collect();
    // Tombstones have NULL where columns are NOT NULL: the schema fits once they are dropped.
    let kept = filter_record_batch(batch, &filter)?;
    let options = RecordBatchOptions::new().with_row_count(Some(kept.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), kept.columns()[..ids].to_vec(), &options)?)
}
