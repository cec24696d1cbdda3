//! Postings as Lance stores them: a row of the file each word, the word's number its place.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Schema, UInt32Type};
use lance_index::scalar::IndexReader;
use lance_index::scalar::inverted::{
    COMPRESSED_POSITION_COL, LENGTH_COL, POSITION_BLOCK_OFFSET_COL, POSITION_COL, POSTING_COL, PostingList as Stored,
};

use crate::error::{Error, Result};
use crate::store::from_lance;
use crate::text_index::PostingList;

/// The postings of one partition.
pub(super) struct PostingFile {
    reader: Arc<dyn IndexReader>,
    /// How they are coded.
    metadata: HashMap<String, String>,
    positions: &'static [&'static str],
}

impl PostingFile {
    /// Of a file of postings; `None` if it is of the oldest format.
    pub(super) fn try_new(reader: Arc<dyn IndexReader>) -> Option<Self> {
        let has = |column: &str| reader.schema().field(column).is_some();
        if !has(POSTING_COL) || !has(LENGTH_COL) {
            return None;
        }
        let positions: &[_] = match () {
            () if has(COMPRESSED_POSITION_COL) => &[COMPRESSED_POSITION_COL, POSITION_BLOCK_OFFSET_COL],
            () if has(POSITION_COL) => &[POSITION_COL],
            () => &[],
        };
        Some(Self { metadata: reader.schema().metadata.clone(), reader, positions })
    }

    /// Whether positions are there.
    pub(super) fn has_positions(&self) -> bool {
        !self.positions.is_empty()
    }

    /// How many words there are.
    pub(super) fn words(&self) -> usize {
        self.reader.num_rows()
    }

    /// How many postings each of these words has, whose numbers ascend.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(super) async fn lengths(&self, words: &[u64]) -> Result<Vec<usize>> {
        let read = self.read_columns(words, &[LENGTH_COL]).await?;
        Ok(read.column(0).as_primitive::<UInt32Type>().values().iter().map(|length| *length as usize).collect())
    }

    /// Reads the postings of words, whose numbers ascend, as they are stored: a row a word.
    ///
    /// # Errors
    /// `Corrupt` if there is no such word, `Unavailable` if the storage fails.
    pub(super) async fn read(&self, words: &[u64], with_positions: bool) -> Result<RecordBatch> {
        let mut columns = vec![POSTING_COL, LENGTH_COL];
        columns.extend(if with_positions { self.positions } else { &[] });
        let read = self.read_columns(words, &columns).await?;
        let schema = Schema::new_with_metadata(read.schema().fields().clone(), self.metadata.clone());
        Ok(RecordBatch::try_new(Arc::new(schema), read.columns().to_vec())?)
    }

    async fn read_columns(&self, words: &[u64], columns: &[&str]) -> Result<RecordBatch> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for word in words {
            let word = usize::try_from(*word).ok().filter(|word| *word < self.words());
            let Some(word) = word else {
                return Err(Error::corrupt("a text index has a word without postings: drop it and create it anew"));
            };
            match ranges.last_mut() {
                Some(last) if last.end == word => last.end += 1,
                _ => ranges.push(word..word + 1),
            }
        }
        let read = self.reader.read_ranges(&ranges, Some(columns)).await.map_err(from_lance)?;
        if read.num_rows() != words.len() {
            return Err(Error::corrupt("postings are missing in a text index: drop it and create it anew"));
        }
        Ok(read)
    }
}

impl fmt::Debug for PostingFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostingFile").field("words", &self.words()).field("positions", &self.positions).finish()
    }
}

/// The postings in row `i` of what [`PostingFile::read`] gave; documents are the rows. May panic if they are damaged.
///
/// # Errors
/// `Corrupt` if they are damaged.
pub(super) fn decode(read: &RecordBatch, i: usize, into: &mut PostingList) -> Result<()> {
    into.clear();
    let length = read.column_by_name(LENGTH_COL).map(|lengths| lengths.as_primitive::<UInt32Type>().value(i));
    if length.is_none_or(|length| length == 0) {
        return Ok(());
    }
    // The best score is of no use: it was made with other statistics.
    let stored = Stored::from_batch(&read.slice(i, 1), Some(0.0), length).map_err(from_lance)?;
    for (document, frequency, positions) in stored.iter() {
        into.rows.push(u32::try_from(document).unwrap_or(u32::MAX));
        into.frequencies.push(frequency);
        if let Some(positions) = positions {
            let start = into.positions.len();
            into.positions.extend(positions);
            if !into.positions[start..].is_sorted() {
                into.positions[start..].sort_unstable();
            }
        }
    }
    Ok(())
}
