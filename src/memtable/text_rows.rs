//! The texts of a memtable's column, and its rows that match a query.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;

use super::row_index::{IndexState, Indexed, RowIndex, RowIndexFactory};
use super::view::MemTableView;
use crate::error::{Error, Result};
use crate::ids::GenerationId;
use crate::schema::TableSchema;
use crate::text_index::TextIndex;
use crate::text_search::{TextAnalyzer, TextColumn, TextSearch, append, matching_counted};

/// Makes a [`TextRows`] for each memtable.
#[derive(Debug)]
pub struct TextRowsFactory {
    name: String,
    column: (usize, String),
    analyzer: Arc<TextAnalyzer>,
}

impl TextRowsFactory {
    /// Indexes called `name` of the column named `column`, which has texts.
    ///
    /// # Errors
    /// `Invalid` if it has none.
    pub fn try_new(schema: &TableSchema, name: &str, column: &str, analyzer: Arc<TextAnalyzer>) -> Result<Self> {
        match schema.logical().column_with_name(column) {
            Some((at, field)) if matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8) => {
                Ok(Self { name: name.to_string(), column: (at, column.to_string()), analyzer })
            }
            _ => Err(Error::invalid(format!("'{column}' is no column of texts: a text index needs VARCHAR"))),
        }
    }
}

impl RowIndexFactory for TextRowsFactory {
    fn name(&self) -> &str {
        &self.name
    }

    fn create(&self, _: &TableSchema, _: GenerationId) -> Arc<dyn RowIndex> {
        let (column, name) = self.column.clone();
        Arc::new(TextRows { name, column, index: TextIndex::new(true), analyzer: Arc::clone(&self.analyzer) })
    }
}

/// The texts of one column of a memtable.
#[derive(Debug)]
pub struct TextRows {
    /// The column's.
    name: String,
    column: usize,
    index: TextIndex,
    analyzer: Arc<TextAnalyzer>,
}

impl TextRows {
    /// The index of the column `column` of `view`, if there is one that was not given up.
    pub fn of(view: &MemTableView, column: &TextColumn) -> Option<(Indexed<Self>, Arc<IndexState>)> {
        let answers = |rows: &Self| rows.name == column.name && rows.analyzer == column.analyzer;
        view.table().find_index(answers)
    }

    /// The index of the rows that are indexed.
    pub fn index(&self) -> &TextIndex {
        &self.index
    }

    /// The place of its column.
    pub fn column(&self) -> usize {
        self.column
    }

    /// What makes words of its texts.
    pub fn analyzer(&self) -> &Arc<TextAnalyzer> {
        &self.analyzer
    }
}

/// The texts of all columns that a query asks.
#[derive(Debug)]
pub struct TextFields {
    columns: Vec<Indexed<TextRows>>,
    indexed: usize,
}

impl TextFields {
    /// The indexes of `view` that answer `search`, if each of its columns has one that was not given up.
    pub fn of(view: &MemTableView, search: &TextSearch) -> Option<Self> {
        let (mut columns, mut indexed) = (Vec::with_capacity(search.columns.len()), view.watermark());
        for column in &search.columns {
            let (rows, state) = TextRows::of(view, column)?;
            indexed = indexed.min(state.indexed());
            columns.push(rows);
        }
        Some(Self { columns, indexed })
    }

    /// How many of the first rows all of them have; at most the watermark.
    pub fn indexed(&self) -> usize {
        self.indexed
    }

    /// The indexes, in the order of the columns.
    pub fn indexes(&self) -> Vec<&TextIndex> {
        self.columns.iter().map(|rows| rows.index()).collect()
    }

    /// Which of the first `rows` rows may match: those that do, and those that are not indexed yet. Row `r` may if bit
    /// `r % 64` of word `r / 64` is set; rows without a text count as empty ones. And how many postings that took.
    pub fn candidates(&self, search: &TextSearch, rows: usize) -> (Vec<u64>, usize) {
        let indexed = self.indexed.min(rows);
        let below = u32::try_from(indexed).unwrap_or(u32::MAX);
        let (mut words, postings) = matching_counted(search, &self.indexes(), below);
        words.resize(rows.div_ceil(64), 0);
        (indexed..rows).for_each(|row| words[row / 64] |= 1 << (row % 64));
        (words, postings)
    }
}

impl RowIndex for TextRows {
    fn append(&self, start: usize, rows: &RecordBatch) -> Result<()> {
        append(&self.index, start, rows.column(self.column), &self.analyzer)
    }

    fn freeze(&self) {
        self.index.freeze();
    }

    fn memory(&self) -> usize {
        self.index.memory()
    }
}
