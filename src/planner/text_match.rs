//! The rows of a memtable that match text queries, by its indexes.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::SchemaRef;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use roaring::RoaringTreemap;

use super::point_lookup::projected;
use crate::block_list::MemTableRows;
use crate::error::{Error, Result};
use crate::memtable::{MemTableView, TextRows};
use crate::source::RowSource;
use crate::task;
use crate::text_search::TextSearch;

/// Live rows of a memtable that match all of some queries.
#[derive(Debug)]
pub(super) struct TextMatches {
    rows: MemTableRows,
    searches: Arc<[TextSearch]>,
}

impl TextMatches {
    /// The rows that match; `None` if no index answers one of `searches`.
    pub(super) fn try_new(rows: &MemTableRows, searches: &Arc<[TextSearch]>) -> Option<Self> {
        let answered = searches.iter().any(|search| TextRows::of(rows.view(), search).is_some());
        answered.then(|| Self { rows: rows.clone(), searches: Arc::clone(searches) })
    }

    /// The positions of the rows, in order.
    fn find(rows: &MemTableRows, searches: &[TextSearch], blocked: &RoaringTreemap) -> Result<Vec<usize>> {
        let view = rows.view();
        Ok(positions(matching_rows(view, searches, view.live_words(blocked))?, view.watermark()))
    }
}

/// Texts that are looked at together where no index has them.
const BATCH: usize = 8192;

/// Leaves of `words`, a bit a row, those of rows that match all of `searches`.
///
/// # Errors
/// What reading texts raises.
pub(super) fn matching_rows(view: &MemTableView, searches: &[TextSearch], mut words: Vec<u64>) -> Result<Vec<u64>> {
    for search in searches {
        let mut indexed = 0;
        if let Some((index, state)) = TextRows::of(view, search) {
            indexed = state.indexed();
            let candidates = index.candidates(search, indexed, view.watermark());
            words.iter_mut().zip(candidates).for_each(|(word, other)| *word &= other);
        }
        for rows in unindexed(&words, indexed, view.watermark()).chunks(BATCH) {
            let matches = search.matching(&texts_of(view, &search.column, rows)?)?;
            for (i, row) in rows.iter().enumerate() {
                if matches[i / 64] >> (i % 64) & 1 == 0 {
                    words[row / 64] &= !(1 << (row % 64));
                }
            }
        }
    }
    Ok(words)
}

/// The rows from `indexed` on whose bit is set in `words`, in order.
pub(super) fn unindexed(words: &[u64], indexed: usize, watermark: usize) -> Vec<usize> {
    (indexed..watermark).filter(|row| words[row / 64] >> (row % 64) & 1 == 1).collect()
}

/// The texts of some rows.
///
/// # Errors
/// `Internal` if there is no such column, or a kernel fails.
pub(super) fn texts_of(view: &MemTableView, column: &str, rows: &[usize]) -> Result<ArrayRef> {
    let schema = view.table().schema().logical();
    let column = schema.index_of(column)?;
    let texts = view.take(rows, &[column], &projected(schema, &[column]))?;
    Ok(Arc::clone(texts.column(0)))
}

/// The first `rows` rows whose bit is set in `words`, in order.
pub(super) fn positions(words: Vec<u64>, rows: usize) -> Vec<usize> {
    BooleanBuffer::new(words.into(), 0, rows).set_indices().collect()
}

impl RowSource for TextMatches {
    fn label(&self) -> String {
        format!("{} by text", self.rows.label())
    }

    fn row_count(&self) -> usize {
        self.rows.row_count()
    }

    fn rows(
        &self,
        projection: &[usize],
        schema: &SchemaRef,
        batch_size: usize,
    ) -> BoxStream<'static, Result<RecordBatch>> {
        let searches = Arc::clone(&self.searches);
        let find = move |rows: &MemTableRows, blocked: &RoaringTreemap| Self::find(rows, &searches, blocked).map(Some);
        found(&self.rows, find, projection, schema, batch_size)
    }
}

/// The rows at the positions that `find` finds, given those that newer sources supersede; all live rows if it says
/// that finding does not pay.
pub(super) fn found(
    rows: &MemTableRows,
    find: impl FnOnce(&MemTableRows, &RoaringTreemap) -> Result<Option<Vec<usize>>> + Send + 'static,
    projection: &[usize],
    schema: &SchemaRef,
    batch_size: usize,
) -> BoxStream<'static, Result<RecordBatch>> {
    let (rows, projection, schema) = (rows.clone(), projection.to_vec(), Arc::clone(schema));
    stream::once(async move {
        let (source, blocked) = (rows.clone(), rows.blocked().await?);
        let found = task::blocking(move || find(&source, &blocked)).await?;
        let Some(found) = found else { return Ok(rows.rows(&projection, &schema, batch_size)) };
        let batches: Vec<Vec<usize>> = found.chunks(batch_size.max(1)).map(<[usize]>::to_vec).collect();
        let take = move |found: Vec<usize>| rows.view().take(&found, &projection, &schema);
        Ok::<_, Error>(stream::iter(batches.into_iter().map(take)).boxed())
    })
    .try_flatten()
    .boxed()
}
