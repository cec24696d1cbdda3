//! Opening the text indexes of a column: which of Lance's there are, and which rows each is asked for.
//!
//! A fragment is asked of the first index that covers it, so that no row is found twice. An index that makes other words
//! than the table, or that this version cannot read, is as if it were not there.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{UInt32Type, UInt64Type};
use futures::{StreamExt, TryStreamExt, stream};
use lance::Dataset;
use lance::dataset::index::LanceIndexStoreExt;
use lance::index::DatasetIndexExt;
use lance::index::prefilter::DatasetPreFilter;
use lance_core::Error as LanceError;
use lance_core::ROW_ID;
use lance_index::frag_reuse::FRAG_REUSE_INDEX_NAME;
use lance_index::scalar::inverted::{
    DOCS_FILE, INVERT_LIST_FILE, METADATA_FILE, NUM_TOKEN_COL, TOKEN_FST_BYTES_COL, TOKEN_SET_FORMAT_KEY, TOKENS_FILE,
    TokenSet, TokenSetFormat,
};
use lance_index::scalar::lance_format::LanceIndexStore;
use lance_index::scalar::{IndexStore, InvertedIndexParams};
use lance_table::format::overlay::staleness::overlay_affects_index;
use lance_table::format::{Fragment, IndexMetadata};
use roaring::RoaringBitmap;

use super::DatasetTextIndex;
use super::documents::Documents;
use super::partition::Partition;
use super::postings::PostingFile;
use crate::cache::MemoryBudget;
use crate::error::{Error, Result};
use crate::store::from_lance;
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
        // Its indexes name rows by addresses that are no more.
        let all = dataset.load_indices().await.map_err(from_lance)?;
        if all.iter().any(|index| index.name == FRAG_REUSE_INDEX_NAME) {
            return Ok(None);
        }
        let mut segments = Vec::new();
        for index in indexes {
            segments.extend(Segment::open(dataset, index, analyzer).await?);
        }
        // Those that answer most questions first.
        segments.sort_by_key(|segment| !segment.has_positions);
        let fragments = dataset.fragments();
        let mut left: RoaringBitmap = fragments.iter().filter_map(|f| u32::try_from(f.id).ok()).collect();
        let mut partitions = Vec::new();
        for segment in segments {
            let covered = segment.current(dataset) & &left;
            if !covered.is_empty() {
                left -= &covered;
                partitions.extend(segment.partitions(dataset, covered, budget).await?);
            }
        }
        if left.len() == fragments.len() as u64 && !left.is_empty() {
            return Ok(None);
        }
        let uncovered = fragments.iter().filter(|f| u32::try_from(f.id).is_ok_and(|id| left.contains(id)));
        let has_positions = partitions.iter().all(|partition| partition.has_positions());
        Ok(Some(Self { partitions, has_positions, uncovered: Arc::new(uncovered.cloned().collect()) }))
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

    /// The fragments that it covers and that are as it knows them.
    fn current(&self, dataset: &Dataset) -> RoaringBitmap {
        let covered = self.index.fragment_bitmap.clone().unwrap_or_default();
        let (fields, version) = (&self.index.fields, self.index.dataset_version);
        let is_current = |fragment: &&Fragment| {
            !fragment.overlays.iter().any(|o| overlay_affects_index(o, fields, version, dataset.schema()))
        };
        let fragments = dataset.fragments();
        let current = fragments.iter().filter(is_current).filter_map(|f| u32::try_from(f.id).ok());
        covered & current.collect::<RoaringBitmap>()
    }

    /// Opens its partitions, of which the rows in the fragments `asked` can be found.
    async fn partitions(
        &self,
        dataset: &Arc<Dataset>,
        asked: RoaringBitmap,
        budget: &Arc<MemoryBudget>,
    ) -> Result<Vec<Arc<Partition>>> {
        let mask = match DatasetPreFilter::create_restricted_deletion_mask(Arc::clone(dataset), asked.clone()) {
            Some(mask) => Some(mask.await.map_err(from_lance)?),
            None => None,
        };
        let stable = dataset.manifest().uses_stable_row_ids();
        let is_there = |row_id: u64| {
            (stable || asked.contains((row_id >> 32) as u32)) && mask.as_ref().is_none_or(|mask| mask.selected(row_id))
        };
        let opening: Vec<_> = self.partitions.iter().map(|id| self.partition(*id, &is_there, budget)).collect();
        let opened: Result<Vec<_>> = stream::iter(opening).buffered(CONCURRENT).try_collect().await;
        opened.map_err(|error| damaged(self.index, error))
    }

    async fn partition(
        &self,
        id: u64,
        is_there: impl Fn(u64) -> bool,
        budget: &Arc<MemoryBudget>,
    ) -> Result<Arc<Partition>> {
        let open = async |file: &str| self.store.open_index_file(&format!("part_{id}_{file}")).await;
        let words = TokenSet::load(open(TOKENS_FILE).await.map_err(from_lance)?, self.format).await;
        let words = words.and_then(|words| words.to_batch(TokenSetFormat::Fst)).map_err(from_lance)?;
        let words = words.column_by_name(TOKEN_FST_BYTES_COL).and_then(|words| words.as_binary_opt::<i64>());
        let words = words.ok_or_else(|| Error::internal("Lance did not give a vocabulary"))?.value(0).to_vec();
        let words = Vocabulary::try_new(words).map_err(|e| Error::corrupt("a vocabulary is damaged").with_source(e))?;
        let postings = PostingFile::try_new(open(INVERT_LIST_FILE).await.map_err(from_lance)?);
        let postings =
            postings.ok_or_else(|| Error::corrupt("postings are of a format that their index does not have"))?;
        let documents = open(DOCS_FILE).await.map_err(from_lance)?;
        let documents = documents.read_range(0..documents.num_rows(), Some(&[ROW_ID, NUM_TOKEN_COL])).await;
        let documents = documents.map_err(from_lance)?;
        let row_ids = documents.column(0).as_primitive::<UInt64Type>().values().to_vec();
        let lengths = documents.column(1).as_primitive::<UInt32Type>().values().to_vec();
        Ok(Partition::new(words, postings, Documents::new(row_ids, is_there), lengths, budget))
    }
}

fn damaged(index: &IndexMetadata, error: Error) -> Error {
    error.with_context("index", &index.name).with_context("segment", index.uuid)
}
