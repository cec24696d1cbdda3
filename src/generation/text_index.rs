//! The text index of a generation, as Lance's inverted index: from the memtable's, or from the rows' texts.
//!
//! Three files of one partition (words, postings, documents) and one that says how they are to be read. A document is a
//! row with words: its number counts these rows, its row id all of the generation's.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use async_trait::async_trait;
use lance_index::pbold::InvertedIndexDetails;
use lance_index::scalar::inverted::builder::{InnerBuilder, PositionRecorder};
use lance_index::scalar::inverted::{
    DELETED_FRAGMENTS_COL, DocSet, FTS_FORMAT_VERSION_KEY, InvertedListFormatVersion, METADATA_FILE,
    POSITIONS_CODEC_KEY, POSITIONS_LAYOUT_KEY, POSITIONS_LAYOUT_SHARED_STREAM_V2, POSTING_BLOCK_SIZE_KEY,
    POSTING_TAIL_CODEC_KEY, PostingListBuilder, TOKEN_SET_FORMAT_KEY, TokenSet, TokenSetFormat,
};
use lance_index::scalar::{IndexStore, InvertedIndexParams, index_files_to_table};
use roaring::RoaringBitmap;

use super::index_files::{IndexFiles, IndexTarget, IndexWriter};
use crate::error::{Error, Result};
use crate::memtable::TextRows;
use crate::store::from_lance;
use crate::task;
use crate::text_index::{PostingList, TextIndex};
use crate::text_search::{TextAnalyzer, append};

/// The version of the format that is written.
const FORMAT: InvertedListFormatVersion = InvertedListFormatVersion::V2;
/// Postings a block.
const BLOCK: usize = 128;
/// The number of the only partition.
const PARTITION: u64 = 0;
/// No document.
const NONE: u32 = u32::MAX;

/// Writes the text index of a column.
#[derive(Debug)]
pub struct TextIndexWriter {
    column: usize,
    analyzer: Arc<TextAnalyzer>,
    /// The memtable's index, and its rows that are the generation's, as bits.
    indexed: Option<(Arc<TextRows>, Arc<Vec<u64>>)>,
}

impl TextIndexWriter {
    /// From the index of the memtable, which has all its rows: those whose bit is set in `newest` are the generation's.
    pub fn of_memtable(column: usize, analyzer: Arc<TextAnalyzer>, rows: Arc<TextRows>, newest: Vec<u64>) -> Self {
        Self { column, analyzer, indexed: Some((rows, Arc::new(newest))) }
    }

    /// From the texts of the generation's rows.
    pub fn of_rows(column: usize, analyzer: Arc<TextAnalyzer>) -> Self {
        Self { column, analyzer, indexed: None }
    }
}

#[async_trait]
impl IndexWriter for TextIndexWriter {
    fn kind(&self) -> &'static str {
        "InvertedIndexDetails"
    }

    async fn write(&self, rows: &[RecordBatch], target: &IndexTarget) -> Result<IndexFiles> {
        let parts = match &self.indexed {
            Some((index, newest)) => {
                let (index, newest) = (Arc::clone(index), Arc::clone(newest));
                task::blocking(move || Ok(Parts::of(index.index(), |row| is_set(&newest, row)))).await?
            }
            None => {
                let (analyzer, column) = (Arc::clone(&self.analyzer), self.column);
                let texts: Vec<ArrayRef> = rows.iter().map(|batch| Arc::clone(batch.column(column))).collect();
                let parts = move || {
                    let index = TextIndex::new(analyzer.has_positions());
                    for text in &texts {
                        append(&index, index.rows() as usize, text, &analyzer)?;
                    }
                    Ok(Parts::of(&index, |_| true))
                };
                task::blocking(parts).await?
            }
        };
        parts.write(self.analyzer.params(), target).await
    }
}

/// Whether the bit of a row is set.
fn is_set(words: &[u64], row: u32) -> bool {
    words.get(row as usize / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
}

/// What the files hold.
#[derive(Debug)]
struct Parts {
    with_positions: bool,
    words: TokenSet,
    postings: Vec<PostingListBuilder>,
    documents: DocSet,
}

impl Parts {
    /// Of the rows of `index` that are kept; they are numbered anew in their order.
    fn of(index: &TextIndex, is_kept: impl Fn(u32) -> bool) -> Self {
        let with_positions = index.has_positions();
        let rows = index.rows();
        let mut documents = DocSet::default();
        let mut numbers = vec![NONE; rows as usize];
        let kept = (0..rows).zip(index.lengths(rows)).filter(|(row, _)| is_kept(*row));
        for (row_id, (row, length)) in (0..).zip(kept) {
            if length > 0 {
                numbers[row as usize] = documents.append(row_id, length);
            }
        }
        let (mut words, mut postings) = (TokenSet::default(), Vec::new());
        let mut list = PostingList::default();
        for term in index.terms(rows) {
            term.read(&mut list);
            let mut builder = PostingListBuilder::new(with_positions);
            let mut end = 0;
            for (row, frequency) in list.rows.iter().zip(&list.frequencies) {
                let start = end;
                end += *frequency as usize;
                let number = numbers[*row as usize];
                if number == NONE {
                    continue;
                }
                builder.add(
                    number,
                    match with_positions {
                        true => PositionRecorder::Position(list.positions[start..end].into()),
                        false => PositionRecorder::Count(*frequency),
                    },
                );
            }
            if !builder.is_empty() {
                words.add(term.text().to_string());
                postings.push(builder);
            }
        }
        Self { with_positions, words, postings, documents }
    }

    async fn write(self, params: &InvertedIndexParams, target: &IndexTarget) -> Result<IndexFiles> {
        let store = target.index_store();
        let params = params.clone().with_position(self.with_positions).block_size(BLOCK).map_err(from_lance)?;
        // A generation without a word has no partition.
        let partitions: &[u64] = if self.documents.is_empty() { &[] } else { &[PARTITION] };
        let mut files = Vec::new();
        if !partitions.is_empty() {
            let mut builder = InnerBuilder::new_with_format_version_and_block_size(
                PARTITION,
                self.with_positions,
                TokenSetFormat::Fst,
                FORMAT,
                BLOCK,
            );
            builder.set_tokens(self.words);
            builder.set_docs(self.documents);
            builder.set_posting_lists(self.postings);
            files = builder.write(&store).await.map_err(from_lance)?;
        }
        files.push(write_metadata(&store, &params, self.with_positions, partitions).await?);
        let details = InvertedIndexDetails::try_from(&params).map_err(from_lance)?;
        let details = prost_types::Any::from_msg(&details)
            .map_err(|e| Error::internal("the details of an index could not be encoded").with_source(e))?;
        Ok(IndexFiles { details, version: FORMAT.index_version(), files: index_files_to_table(files) })
    }
}

/// Writes the file that says how the others are to be read.
async fn write_metadata(
    store: &dyn IndexStore,
    params: &InvertedIndexParams,
    with_positions: bool,
    partitions: &[u64],
) -> Result<lance_index::scalar::IndexFile> {
    let encoded = |e| Error::internal("the parameters of an index could not be encoded").with_source(e);
    let mut metadata = HashMap::from([
        ("partitions".to_string(), serde_json::to_string(partitions).map_err(encoded)?),
        ("params".to_string(), serde_json::to_string(params).map_err(encoded)?),
        (TOKEN_SET_FORMAT_KEY.to_string(), TokenSetFormat::Fst.to_string()),
        (POSTING_TAIL_CODEC_KEY.to_string(), FORMAT.posting_tail_codec().as_str().to_string()),
        (FTS_FORMAT_VERSION_KEY.to_string(), FORMAT.index_version().to_string()),
        (POSTING_BLOCK_SIZE_KEY.to_string(), BLOCK.to_string()),
    ]);
    if with_positions && let Some(codec) = FORMAT.position_codec() {
        metadata.insert(POSITIONS_LAYOUT_KEY.to_string(), POSITIONS_LAYOUT_SHARED_STREAM_V2.to_string());
        metadata.insert(POSITIONS_CODEC_KEY.to_string(), codec.as_str().to_string());
    }
    let mut none = Vec::new();
    RoaringBitmap::new()
        .serialize_into(&mut none)
        .map_err(|e| Error::internal("an empty bitmap could not be encoded").with_source(e))?;
    let schema = Arc::new(Schema::new(vec![Field::new(DELETED_FRAGMENTS_COL, DataType::Binary, false)]));
    let row = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(BinaryArray::from_vec(vec![&none]))])?;
    let mut writer = store.new_index_file(METADATA_FILE, schema).await.map_err(from_lance)?;
    writer.write_record_batch(row).await.map_err(from_lance)?;
    writer.finish_with_metadata(metadata).await.map_err(from_lance)
}
