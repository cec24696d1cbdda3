//! The rows of a memtable that may match a text query, by its index.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::SchemaRef;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use crate::block_list::MemTableRows;
use crate::error::Result;
use crate::memtable::{MemTableView, TextRows};
use crate::source::RowSource;
use crate::task;
use crate::text_search::TextSearch;

/// Live rows of a memtable that may match all of some queries; a filter above decides.
#[derive(Debug)]
pub(super) struct TextMatches {
    rows: MemTableRows,
    searches: Arc<[TextSearch]>,
}

impl TextMatches {
    /// The rows that may match; `None` if no index answers one of `searches`.
    pub(super) fn try_new(rows: &MemTableRows, searches: &Arc<[TextSearch]>) -> Option<Self> {
        let answered = searches.iter().any(|search| TextRows::of(rows.view(), search).is_some());
        answered.then(|| Self { rows: rows.clone(), searches: Arc::clone(searches) })
    }

    /// Leaves of `words`, a bit a row, those that may match as far as indexes tell.
    pub(super) fn narrow(view: &MemTableView, searches: &[TextSearch], words: &mut [u64]) {
        for search in searches {
            if let Some((index, state)) = TextRows::of(view, search) {
                let candidates = index.candidates(search, state.indexed(), view.watermark());
                words.iter_mut().zip(candidates).for_each(|(word, other)| *word &= other);
            }
        }
    }

    /// The positions of the rows, in order.
    fn find(rows: &MemTableRows, searches: &[TextSearch], blocked: &roaring::RoaringTreemap) -> Vec<usize> {
        let view = rows.view();
        let mut words = view.live_words(blocked);
        Self::narrow(view, searches, &mut words);
        positions(words, view.watermark())
    }
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
        let (rows, searches) = (self.rows.clone(), Arc::clone(&self.searches));
        let (projection, schema) = (projection.to_vec(), Arc::clone(schema));
        stream::once(async move {
            let (source, blocked) = (rows.clone(), rows.blocked().await?);
            let found = task::blocking(move || Ok(Self::find(&source, &searches, &blocked))).await?;
            let batches: Vec<Vec<usize>> = found.chunks(batch_size.max(1)).map(<[usize]>::to_vec).collect();
            let take = move |found: Vec<usize>| rows.view().take(&found, &projection, &schema);
            Ok::<_, crate::error::Error>(stream::iter(batches.into_iter().map(take)))
        })
        .try_flatten()
        .boxed()
    }
}
