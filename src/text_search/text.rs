//! A query as it is typed, and texts that are searched without an index.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;

use super::analyzer::TextAnalyzer;
use super::matching::matching;
use crate::error::{Error, Result};
use crate::query_syntax::{AnalyzedQuery, Split, TextQuery, analyze};
use crate::text_index::TextIndex;

/// A query over one column.
#[derive(Debug, Clone, PartialEq)]
pub struct TextSearch {
    /// The column's name.
    pub column: String,
    /// What is searched for.
    pub query: AnalyzedQuery,
    /// How the query's words were made: an index whose words are made otherwise cannot answer.
    pub analyzer: Arc<TextAnalyzer>,
}

impl TextSearch {
    /// The query that `text` is, in the column named `column`.
    ///
    /// # Errors
    /// `Invalid` if it is none, or names a column: which one is searched is said beside the query.
    pub fn parse(column: &str, text: &str, analyzer: &Arc<TextAnalyzer>) -> Result<Self> {
        let parsed = TextQuery::parse(text)?;
        let others = parsed.clauses().into_iter().filter_map(|clause| clause.field());
        if let Some(other) = others.into_iter().next() {
            return Err(Error::invalid(format!(
                "the query names the column '{other}', and one column is searched: leave it out, or escape the ':' as \
                 '\\:' if it belongs to a word"
            )));
        }
        let query = analyze(&parsed, analyzer.as_ref(), Split::default());
        Ok(Self { column: column.to_string(), query, analyzer: Arc::clone(analyzer) })
    }

    /// Which of `texts` match, a bit each, 64 to a word.
    ///
    /// # Errors
    /// As [`index_of`].
    pub fn matching(&self, texts: &ArrayRef) -> Result<Vec<u64>> {
        let index = index_of(texts, &self.analyzer)?;
        Ok(matching(&self.query, &index, index.rows()))
    }
}

/// An index of the texts of `column`, one row each; NULL is an empty text.
///
/// # Errors
/// `Invalid` if it is no column of texts.
pub fn index_of(column: &ArrayRef, analyzer: &TextAnalyzer) -> Result<TextIndex> {
    let index = TextIndex::new(true);
    append(&index, 0, column, analyzer)?;
    Ok(index)
}

/// Appends the texts of `column` to `index`, the first as row `start`.
///
/// # Errors
/// `Invalid` if it is no column of texts, `Internal` if the index takes no more rows.
pub fn append(index: &TextIndex, start: usize, column: &ArrayRef, analyzer: &TextAnalyzer) -> Result<()> {
    let full = |e| Error::internal("texts could not be indexed").with_source(e);
    let start = u32::try_from(start).map_err(|_| Error::internal("there are too many rows"))?;
    let (mut appender, mut tokenizer) = (index.appender(start).map_err(full)?, analyzer.tokenizer());
    for row in 0..column.len() {
        if let Some(text) = text_at(column, row)? {
            tokenizer.for_each_token(text, |word, position| appender.token(word, position));
        }
        appender.end_document().map_err(full)?;
    }
    Ok(())
}

/// The text in a row; `None` if it is NULL.
///
/// # Errors
/// `Invalid` if it is no column of texts.
pub fn text_at(column: &ArrayRef, row: usize) -> Result<Option<&str>> {
    if column.is_null(row) {
        return Ok(None);
    }
    Ok(Some(match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row),
        DataType::LargeUtf8 => column.as_string::<i64>().value(row),
        DataType::Utf8View => column.as_string_view().value(row),
        other => return Err(Error::invalid(format!("texts are searched, and this is {other}"))),
    }))
}
