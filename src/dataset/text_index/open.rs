//! Opening the text indexes of a column: which of Lance's there are, and which rows each is asked for.
//!
//! A fragment is asked of the first index that covers it, and of the partitions of an index only the newest knows a row:
//! when Lance adds rows to an index it keeps older partitions as they are, with what these rows had been. So no row is
//! found twice. An index that makes other words than the table, or that this version cannot read, is as if it were not
//! there.

use std::cmp::Reverse;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{UInt32Type, UInt64Type};
use futures::future::{try_join_all, try_join3};
use futures::{StreamExt, TryStreamExt, stream};
use lance::Dataset;
use lance::dataset::index::LanceIndexStoreExt;
use lance::dataset::scanner::RowAddrMask;
use lance_core::Error as LanceError;
use lance_core::ROW_ID;
use lance_index::scalar::inverted::{
    DOCS_FILE, INVERT_LIST_FILE, METADATA_FILE, NUM_TOKEN_COL, TOKEN_FST_BYTES_COL, TOKEN_SET_FORMAT_KEY, TOKENS_FILE,
    TokenSet, TokenSetFormat,
};
use lance_index::scalar::lance_format::LanceIndexStore;
use lance_index::scalar::{IndexStore, InvertedIndexParams};
use lance_table::format::IndexMetadata;
use roaring::{RoaringBitmap, RoaringTreemap};

use super::DatasetTextIndex;
use super::documents::Documents;
use super::partition::Partition;
use super::postings::PostingFile;
use crate::cache::MemoryBudget;
use crate::dataset::index_rows::{covered, fragments_of, live_rows};
use crate::error::{Error, Result};
use crate::store::from_lance;
use crate::task;
use crate::text_index::Vocabulary;
use crate::text_search::TextAnalyzer;

/// Partitions that are opened at the same time.
const CONCURRENT: usize = 8;

impl DatasetTextIndex {
    /// Opens those of `indexes`, all inverted indexes of one column of `dataset`, that have the words of `analyzer`;
    /// `None` if there are none.
    pub(in crate::dataset) async fn open(
        dataset: &Arc<Dataset>,
        indexes: &[IndexMetadata],
        analyzer: &TextAnalyzer,
        budget: &Arc<MemoryBudget>,
    ) -> Result<Option<Self>> {
        let opened = try_join_all(indexes.iter().map(|index| Segment::open(dataset, index, analyzer))).await?;
        let mut segments: Vec<Segment<'_>> = opened.into_iter().flatten().collect();
        // Those that answer most questions first.
        segments.sort_by_key(|segment| !segment.has_positions);
        let fragments = dataset.fragments();
        let mut left = fragments_of(dataset);
        let mut reading = Vec::new();
        for segment in &segments {
            let covered = covered(dataset, segment.index) & &left;
            if !covered.is_empty() {
                left -= &covered;
                reading.push(segment.partitions(dataset, covered, budget));
            }
        }
        let partitions: Vec<Arc<Partition>> = try_join_all(reading).await?.into_iter().flatten().collect();
        if left.len() == fragments.len() as u64 && !left.is_empty() {
            return Ok(None);
        }
        let has_positions = partitions.iter().all(|partition| partition.has_positions());
        Ok(Some(Self { partitions, whole: None, has_positions, uncovered: left }))
    }
}

/// One of Lance's index segments whose words are ours.
struct Segment<'a> {
    index: &'a IndexMetadata,
    store: Arc<dyn IndexStore>,
    partitions: Vec<u64>,
    format: TokenSetFormat,
    has_positions: bool,
}

impl<'a> Segment<'a> {
    async fn open(dataset: &Dataset, index: &'a IndexMetadata, analyzer: &TextAnalyzer) -> Result<Option<Self>> {
        let store = LanceIndexStore::from_dataset_for_existing(dataset, index).await.map_err(from_lance)?;
        let metadata = match store.open_index_file(METADATA_FILE).await {
            Ok(reader) => reader.schema().metadata.clone(),
            // Of the time before there were partitions.
            Err(LanceError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(damaged(index, from_lance(error))),
        };
        let said = |key: &str| metadata.get(key).map(String::as_str);
        let unreadable =
            |e: serde_json::Error| damaged(index, Error::corrupt("a text index is damaged").with_source(e));
        let params: InvertedIndexParams = serde_json::from_str(said("params").unwrap_or("{}")).map_err(unreadable)?;
        if !analyzer.agrees_with(&params) {
            return Ok(None);
        }
        let partitions = serde_json::from_str(said("partitions").unwrap_or("[]")).map_err(unreadable)?;
        let format = match said(TOKEN_SET_FORMAT_KEY) {
            None => TokenSetFormat::Arrow,
            Some(format) => format.parse().map_err(|e| damaged(index, from_lance(e)))?,
        };
        let positions = serde_json::to_value(&params).map_err(unreadable)?;
        let has_positions = positions.get("with_position").is_some_and(|with| with == true);
        Ok(Some(Self { index, store: Arc::new(store), partitions, format, has_positions }))
    }

    /// Opens its partitions, of which the rows in the fragments `asked` can be found.
    async fn partitions(
        &self,
        dataset: &Arc<Dataset>,
        asked: RoaringBitmap,
        budget: &Arc<MemoryBudget>,
    ) -> Result<Vec<Arc<Partition>>> {
        let mask = live_rows(dataset, &asked, Some(RoaringBitmap::new())).await?;
        let fragments = (!dataset.manifest().uses_stable_row_ids()).then_some(asked);
        let reading: Vec<_> = self.partitions.iter().map(|id| self.read(*id)).collect();
        let read: Result<Vec<_>> = stream::iter(reading).buffered(CONCURRENT).try_collect().await;
        let (read, budget) = (read.map_err(|error| damaged(self.index, error))?, Arc::clone(budget));
        let open = move || Stored { fragments, mask }.open(read, &budget);
        task::blocking(open).await.map_err(|error| damaged(self.index, error))
    }

    async fn read(&self, id: u64) -> Result<Read> {
        let open = async |file: &str| self.store.open_index_file(&format!("part_{id}_{file}")).await;
        let words = async { TokenSet::load(open(TOKENS_FILE).await?, self.format).await };
        let postings = async { Ok(PostingFile::try_new(open(INVERT_LIST_FILE).await?)) };
        let documents = async {
            let documents = open(DOCS_FILE).await?;
            documents.read_range(0..documents.num_rows(), Some(&[ROW_ID, NUM_TOKEN_COL])).await
        };
        let (words, postings, documents) = try_join3(words, postings, documents).await.map_err(from_lance)?;
        let postings =
            postings.ok_or_else(|| Error::corrupt("postings are of a format that their index does not have"))?;
        Ok(Read { id, words, postings, documents })
    }
}

/// A partition as it was read.
struct Read {
    id: u64,
    words: TokenSet,
    postings: PostingFile,
    /// Row ids, and how many words each has.
    documents: RecordBatch,
}

/// The rows that an index is asked for.
struct Stored {
    /// The fragments that row ids name, if they name any.
    fragments: Option<RoaringBitmap>,
    mask: Option<RowAddrMask>,
}

impl Stored {
    fn has(&self, row_id: u64) -> bool {
        self.fragments.as_ref().is_none_or(|fragments| fragments.contains((row_id >> 32) as u32))
            && self.mask.as_ref().is_none_or(|mask| mask.selected(row_id))
    }

    /// The partitions of an index. Their numbers ascend as they were written.
    fn open(&self, mut read: Vec<Read>, budget: &Arc<MemoryBudget>) -> Result<Vec<Arc<Partition>>> {
        read.sort_unstable_by_key(|read| Reverse(read.id));
        let mut newer = (read.len() > 1).then(RoaringTreemap::new);
        let mut is_there = |row_id: u64| self.has(row_id) && newer.as_mut().is_none_or(|newer| newer.insert(row_id));
        let open = |Read { words, postings, documents, .. }| {
            let row_ids = documents.column(0).as_primitive::<UInt64Type>().values();
            let lengths = documents.column(1).as_primitive::<UInt32Type>().values();
            let documents = Documents::new(row_ids, &mut is_there);
            Ok(Partition::new(vocabulary(words)?, postings, documents, Arc::from(lengths.as_ref()), budget))
        };
        read.into_iter().map(open).collect()
    }
}

fn vocabulary(words: TokenSet) -> Result<Vocabulary> {
    let words = words.to_batch(TokenSetFormat::Fst).map_err(from_lance)?;
    let words = words.column_by_name(TOKEN_FST_BYTES_COL).and_then(|words| words.as_binary_opt::<i64>());
    let words = words.ok_or_else(|| Error::internal("Lance did not give a vocabulary"))?.value(0).to_vec();
    Vocabulary::try_new(words).map_err(|e| Error::corrupt("a vocabulary is damaged").with_source(e))
}

fn damaged(index: &IndexMetadata, error: Error) -> Error {
    error.with_context("index", &index.name).with_context("segment", index.uuid)
}
