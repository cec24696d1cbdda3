//! The rows of a memtable that match text queries, by its indexes.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{Schema, SchemaRef};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use roaring::RoaringTreemap;

use crate::block_list::MemTableRows;
use crate::error::{Error, Result};
use crate::memtable::{MemTableView, TextFields};
use crate::source::{Flat, RowSource, Work, WorkListener};
use crate::task;
use crate::text_search::{TextColumn, TextSearch};

/// Live rows of a memtable that match all of some queries.
#[derive(Debug)]
pub(super) struct TextMatches {
    rows: MemTableRows,
    searches: Arc<[TextSearch]>,
}

impl TextMatches {
    /// The rows that match; `None` if no index answers one of `searches`.
    pub(super) fn try_new(rows: &MemTableRows, searches: &Arc<[TextSearch]>) -> Option<Self> {
        let answered = searches.iter().any(|search| TextFields::of(rows.view(), search).is_some());
        answered.then(|| Self { rows: rows.clone(), searches: Arc::clone(searches) })
    }

    /// The positions of the rows, in order, and what finding them took.
    fn find(rows: &MemTableRows, searches: &[TextSearch], blocked: &RoaringTreemap) -> Result<(Vec<usize>, Work)> {
        let (view, mut work) = (rows.view(), Work::default());
        let live = view.live_words(blocked);
        let count = bits(&live);
        work.add("candidates", count);
        work.add("rows_dropped", view.watermark() - count);
        let found = matching_rows(view, searches, live, &mut work)?;
        Ok((positions(found, view.watermark()), work))
    }
}

/// Texts that are looked at together where no index has them.
const BATCH: usize = 8192;

/// How many bits are set.
pub(super) fn bits(words: &[u64]) -> usize {
    words.iter().map(|word| word.count_ones() as usize).sum()
}

/// Leaves of `words`, a bit a row, those of rows that match all of `searches`.
///
/// # Errors
/// What reading texts raises.
pub(super) fn matching_rows<'a>(
    view: &MemTableView,
    searches: impl IntoIterator<Item = &'a TextSearch>,
    mut words: Vec<u64>,
    work: &mut Work,
) -> Result<Vec<u64>> {
    for search in searches {
        let (mut indexed, mut why) = (0, Flat::NoIndex);
        if let Some(fields) = TextFields::of(view, search) {
            (indexed, why) = (fields.indexed(), Flat::NotIndexed);
            let (candidates, postings) = fields.candidates(search, view.watermark());
            work.add("postings", postings);
            words.iter_mut().zip(candidates).for_each(|(word, other)| *word &= other);
        }
        for rows in unindexed(&words, indexed, view.watermark()).chunks(BATCH) {
            work.flat(why, rows.len());
            let matches = search.matching(&texts_of(view, &search.columns, rows)?)?;
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

/// The texts of some rows, column by column.
///
/// # Errors
/// `Internal` if there is no such column, or a kernel fails.
pub(super) fn texts_of(view: &MemTableView, columns: &[TextColumn], rows: &[usize]) -> Result<Vec<ArrayRef>> {
    let schema = view.table().schema().logical();
    let columns = columns.iter().map(|column| schema.index_of(&column.name)).collect::<Result<Vec<_>, _>>()?;
    // Tombstones have NULL where columns are NOT NULL.
    let nullable = columns.iter().map(|column| schema.field(*column).clone().with_nullable(true));
    let nullable: SchemaRef = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
    let texts = view.take(rows, &columns, &nullable)?;
    Ok(texts.columns().to_vec())
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
        let searches = Arc::clone(&self.searches);
        let find = move |rows: &MemTableRows, blocked: &RoaringTreemap| Self::find(rows, &searches, blocked).map(Some);
        found(&self.rows, find, projection, schema, batch_size, told)
    }
}

/// The rows at the positions that `find` finds, given those that newer sources supersede; all live rows if it says
/// that finding does not pay. `told` gets to know what finding took.
pub(super) fn found(
    rows: &MemTableRows,
    find: impl FnOnce(&MemTableRows, &RoaringTreemap) -> Result<Option<(Vec<usize>, Work)>> + Send + 'static,
    projection: &[usize],
    schema: &SchemaRef,
    batch_size: usize,
    told: WorkListener,
) -> BoxStream<'static, Result<RecordBatch>> {
    let (rows, projection, schema) = (rows.clone(), projection.to_vec(), Arc::clone(schema));
    stream::once(async move {
        let (source, blocked) = (rows.clone(), rows.blocked().await?);
        let found = task::blocking(move || find(&source, &blocked)).await?;
        let Some((found, work)) = found else { return Ok(rows.rows(&projection, &schema, batch_size, told)) };
        told(&work);
        let batches: Vec<Vec<usize>> = found.chunks(batch_size.max(1)).map(<[usize]>::to_vec).collect();
        let take = move |found: Vec<usize>| rows.view().take(&found, &projection, &schema);
        Ok::<_, Error>(stream::iter(batches.into_iter().map(take)).boxed())
    })
    .try_flatten()
    .boxed()
}
