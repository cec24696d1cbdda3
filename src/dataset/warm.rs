//! Reading what queries would wait for, before there are any.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::{BoxFuture, try_join_all};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lance::dataset::fragment::FragReadConfig;
use lance_core::Error as LanceError;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::files::{all_index_files, data_files, index_files};
use super::handle::DatasetHandle;
use crate::cache::{BLOCK, ReadRequest};
use crate::distance::Metric;
use crate::error::Result;
use crate::store::from_lance;
use crate::text_search::TextAnalyzer;

/// How much is done at once.
const AT_ONCE: usize = 16;
/// Bytes that are read at once at most.
const READ: u64 = 8 << 20;

impl DatasetHandle {
    /// Reads where in its files the columns are, and which rows are deleted.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails, `Corrupt` if a file is damaged.
    pub async fn open_files(&self) -> Result<()> {
        let (dataset, schema) = (self.dataset(), self.dataset().schema());
        let open = dataset.get_fragments().into_iter().map(|fragment| {
            async move {
                fragment.open(schema, FragReadConfig::default()).await?;
                fragment.get_deletion_vector().await?;
                Ok::<_, LanceError>(())
            }
            .boxed()
        });
        let opened = stream::iter(open).buffer_unordered(AT_ONCE).try_collect::<()>().await;
        opened.map_err(|error| from_lance(error).with_context("dataset", dataset.uri()))
    }

    /// Opens its indexes; `analyzer` tells how the words of a column are made.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails. An index that cannot be used is none.
    pub async fn open_indexes(self: &Arc<Self>, analyzer: impl Fn(&str) -> Arc<TextAnalyzer>) -> Result<()> {
        let mut opening: Vec<BoxFuture<'_, Result<()>>> = Vec::new();
        for (column, field) in self.schema().logical().fields().iter().enumerate() {
            if self.has_stored_text_index(column) {
                let analyzer = analyzer(field.name());
                opening.push(async move { self.stored_text_index(column, &analyzer).await.map(drop) }.boxed());
            }
            let metrics = Metric::ALL.iter().filter(|metric| self.vector_index_kind(column, **metric).is_some());
            opening
                .extend(metrics.map(|metric| self.vector_index(column, *metric).map(|index| index.map(drop)).boxed()));
            if let Some((column, entry)) = self.value_entry(field.name()) {
                opening.push(self.value_index(column, entry).map(|index| index.map(drop)).boxed());
            }
        }
        stream::iter(opening).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Loads the codes of its vector indexes that are open, if there is memory for them, and their files are there.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails, `Corrupt` if a part of an index cannot be read.
    pub async fn load_codes(&self) -> Result<()> {
        let indexes = self.vector_indexes();
        if indexes.is_empty() || self.budget().is_exhausted() || !self.has_vector_files().await {
            return Ok(());
        }
        try_join_all(indexes.iter().map(|index| index.load_codes())).await.map(drop)
    }

    /// Whether the files of its vector indexes are near, or in memory. Of files that nobody names that cannot be told.
    async fn has_vector_files(&self) -> bool {
        if self.is_near() {
            return true;
        }
        let Some(readers) = self.row_readers() else { return false };
        let segments = self.vector_segments();
        if segments.iter().any(|segment| segment.files.is_none() || segment.base_id.is_some()) {
            return false;
        }
        for file in index_files(self.dataset(), &segments) {
            if !readers.has(&file.path).await {
                return false;
            }
        }
        true
    }

    /// Reads its files as they are, indexes first, so that who keeps blocks of files has these: whole files, as far as there
    /// is `room` for so many bytes, which it takes, and as the read budget lets. Returns how many bytes there were.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails.
    pub async fn read_files(&self, room: &AtomicU64) -> Result<u64> {
        let store = self.dataset().object_store(None).await.map_err(from_lance)?;
        let mut files = all_index_files(self.dataset()).await?;
        files.extend(data_files(self.dataset()));
        let (mut all, mut ranges) = (0, Vec::new());
        for file in files {
            let size = match file.size {
                Some(size) => size,
                None => store.size(&file.path).await.map_err(from_lance)?,
            };
            let take = |left: u64| left.checked_sub(size);
            if room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                all += size;
                let starts = (0..size).step_by(READ as usize);
                ranges.extend(starts.map(|start| (file.path.clone(), start..size.min(start + READ))));
            }
        }
        let reads = self.read_budget().scan(Some(Arc::clone(self.read_budget().for_all())), self.is_near());
        let parts = stream::unfold((ranges.into_iter(), None), |(mut ranges, left)| {
            let reads = Arc::clone(&reads);
            async move {
                let (path, Range { start, end }): (Path, Range<u64>) = left.or_else(|| ranges.next())?;
                let rest = end - start;
                let charge = reads.admit(ReadRequest::Rows { rest: rest as usize, columns: 1 }).await;
                // Whoever keeps blocks reads whole ones.
                let bytes = (charge.bytes() as u64).next_multiple_of(BLOCK).min(rest);
                charge.request(bytes as usize);
                let left = (bytes < rest).then(|| (path.clone(), start + bytes..end));
                Some(((path, start..start + bytes, charge), (ranges, left)))
            }
        });
        let read = parts.map(|(path, range, charge)| {
            let store = Arc::clone(&store);
            async move {
                let read = store.inner.get_range(&path, range).await.map(drop);
                drop(charge);
                read
            }
        });
        let read = read.buffer_unordered(AT_ONCE).try_collect::<()>().await;
        read.map_err(|error| from_lance(LanceError::from(error)).with_context("dataset", self.dataset().uri()))?;
        Ok(all)
    }
}
