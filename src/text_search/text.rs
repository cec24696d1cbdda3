//! A query as it is typed, and texts that are searched without an index.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;

use super::analyzer::TextAnalyzer;
use super::leaf::{Asked, Pattern};
use super::matching::matching;
use crate::error::{Error, Result};
use crate::query_syntax::{
    AnalyzedClause, AnalyzedQuery, Analyzer, Query, Split, TextClause, TextQuery, Token, analyze,
};
use crate::text_index::TextIndex;

/// Bytes of texts from which on other tasks should not wait for somebody to look at them.
const HEAVY: usize = 16 << 10;

/// Whether looking at `texts` should leave the async workers.
pub fn is_heavy(texts: &ArrayRef) -> bool {
    texts.get_buffer_memory_size() > HEAVY
}

/// A column of texts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TextColumn {
    /// Its name.
    pub name: String,
    /// How its words are made: an index whose words are made otherwise cannot answer.
    pub analyzer: Arc<TextAnalyzer>,
}

/// A query over columns of texts.
#[derive(Debug, Clone, PartialEq)]
pub struct TextSearch {
    /// The columns that the query asks, at least one, each once.
    pub columns: Vec<TextColumn>,
    /// What is searched for. Each clause names its column, unless there is one only.
    pub query: AnalyzedQuery,
}

impl TextSearch {
    /// The query that `text` is, in the column named `column`, which it may name.
    ///
    /// # Errors
    /// `Invalid` if it is none, or names another column.
    pub fn parse(column: &str, text: &str, analyzer: &Arc<TextAnalyzer>) -> Result<Self> {
        let searched = TextColumn { name: column.to_string(), analyzer: Arc::clone(analyzer) };
        Self::over(&[searched], &[column], text)
    }

    /// The query that `text` is, in columns that differ in their names, and that it calls by `labels`. What it asks no
    /// column by name is looked for in all of them, and found if one has it; columns that are not asked are left out.
    ///
    /// # Errors
    /// `Invalid` if it is none, or names another column.
    pub fn over(columns: &[TextColumn], labels: &[impl AsRef<str>], text: &str) -> Result<Self> {
        let parsed = TextQuery::parse(text)?;
        let place = |clause: &TextClause| match clause.field() {
            None => Ok(None),
            Some(field) => match labels.iter().position(|label| label.as_ref() == field) {
                Some(place) => Ok(Some(place)),
                None => Err(no_column(field, labels)),
            },
        };
        let mut asked = vec![false; columns.len()];
        for clause in parsed.clauses() {
            match place(clause)? {
                Some(place) => asked[place] = true,
                None => asked.fill(true),
            }
        }
        if !asked.contains(&true) {
            // A query that says nothing asks no column.
            asked[0] = true;
        }
        let is_one = asked.iter().filter(|asked| **asked).count() == 1;
        let within = |clause: &TextClause, place: usize| {
            Query::Clause(clause.in_field((!is_one).then_some(columns[place].name.as_str())))
        };
        let query = parsed.map_clauses(|clause| match place(clause) {
            Ok(Some(place)) => within(clause, place),
            _ => {
                let places = (0..columns.len()).filter(|place| asked[*place]);
                Query::best(places.map(|place| within(clause, place)).collect())
            }
        });
        let columns: Vec<_> = columns.iter().zip(asked).filter(|(_, asked)| *asked).map(|(c, _)| c.clone()).collect();
        let query = analyze(&query, &Words(&columns), Split::default());
        Ok(Self { columns, query })
    }

    /// The part of the query `text` that is about one text, which it calls by `label`: what it asks of others is left out.
    ///
    /// # Errors
    /// `Invalid` if it is none.
    pub fn within(label: &str, text: &str, analyzer: &Arc<TextAnalyzer>) -> Result<Self> {
        let parsed = TextQuery::parse(text)?.map_clauses(|clause| match clause.field() {
            Some(field) if field != label => Query::Empty,
            _ => Query::Clause(clause.in_field(None)),
        });
        let columns = vec![TextColumn { name: label.to_string(), analyzer: Arc::clone(analyzer) }];
        let query = analyze(&parsed, &Words(&columns), Split::default());
        Ok(Self { columns, query })
    }

    /// The place of the column that a clause of the query asks.
    pub fn column_of(&self, clause: &AnalyzedClause) -> usize {
        let named = clause.field().and_then(|field| self.columns.iter().position(|column| column.name == field));
        named.unwrap_or(0)
    }

    /// The query without what it asks of other columns than the one at `place`: what it looks for there, and not what it
    /// matches.
    pub fn asked_of(&self, place: usize) -> AnalyzedQuery {
        self.query.map_clauses(|clause| match self.column_of(clause) == place {
            true => Query::Clause(clause.clone()),
            false => Query::Empty,
        })
    }

    /// Which rows match whose texts are `texts`, those of its columns: a bit each, 64 to a word.
    ///
    /// # Errors
    /// As [`index_of`].
    pub fn matching(&self, texts: &[ArrayRef]) -> Result<Vec<u64>> {
        if matches!(self.query, Query::Empty) {
            return Ok(vec![0; texts.first().map_or(0, |texts| texts.len()).div_ceil(64)]);
        }
        let indexes = self.indexes_of(texts)?;
        let indexes: Vec<&TextIndex> = indexes.iter().collect();
        Ok(matching(self, &indexes, u32::MAX))
    }

    /// Indexes of `texts`, those of its columns, with the words that it looks for.
    ///
    /// # Errors
    /// As [`index_of`].
    pub fn indexes_of(&self, texts: &[ArrayRef]) -> Result<Vec<TextIndex>> {
        let asked = |place| -> Vec<Pattern> {
            let clauses = self.query.clauses().into_iter().filter(|clause| self.column_of(clause) == place);
            clauses.flat_map(Pattern::all_of).collect()
        };
        let index = |(place, (column, texts)): (usize, (&TextColumn, &ArrayRef))| {
            index_of(texts, &column.analyzer, Some(&asked(place)))
        };
        self.columns.iter().zip(texts).enumerate().map(index).collect()
    }
}

impl fmt::Display for TextSearch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        write!(f, "{} in {}", self.query, columns.join(", "))
    }
}

fn no_column(field: &str, labels: &[impl AsRef<str>]) -> Error {
    let labels: Vec<String> = labels.iter().map(|label| format!("'{}'", label.as_ref())).collect();
    Error::invalid(format!(
        "the query names the column '{field}', and what is searched is {}: name one of these, none for all, or escape \
         the ':' as '\\:' if it belongs to a word",
        labels.join(", ")
    ))
}

/// Makes the words of each column as its analyzer does.
struct Words<'a>(&'a [TextColumn]);

impl Words<'_> {
    fn of(&self, field: Option<&str>) -> &TextAnalyzer {
        let named = self.0.iter().find(|column| field.is_none_or(|field| column.name == field));
        &named.unwrap_or(&self.0[0]).analyzer
    }
}

impl Analyzer for Words<'_> {
    fn analyze(&self, field: Option<&str>, text: &str) -> Vec<Token> {
        self.of(field).analyze(field, text)
    }

    fn normalize(&self, field: Option<&str>, text: &str) -> String {
        self.of(field).normalize(field, text)
    }
}

/// An index of the texts of `column`, one row each; NULL is an empty text. Words are left out that are none of `asked`,
/// but count.
///
/// # Errors
/// `Invalid` if it is no column of texts.
pub fn index_of(column: &ArrayRef, analyzer: &TextAnalyzer, asked: Option<&[Pattern]>) -> Result<TextIndex> {
    let index = TextIndex::new(true);
    let asked = asked.map(Asked::by);
    append_asked(&index, 0, column, analyzer, |word| asked.as_ref().is_none_or(|asked| asked.may_be(word)))?;
    Ok(index)
}

/// Appends the texts of `column` to `index`, the first as row `start`.
///
/// # Errors
/// `Invalid` if it is no column of texts, `Internal` if the index takes no more rows.
pub fn append(index: &TextIndex, start: usize, column: &ArrayRef, analyzer: &TextAnalyzer) -> Result<()> {
    append_asked(index, start, column, analyzer, |_| true)
}

fn append_asked(
    index: &TextIndex,
    start: usize,
    column: &ArrayRef,
    analyzer: &TextAnalyzer,
    is_asked: impl Fn(&str) -> bool,
) -> Result<()> {
    let full = |e| Error::internal("texts could not be indexed").with_source(e);
    let start = u32::try_from(start).map_err(|_| Error::internal("there are too many rows"))?;
    let (mut appender, mut tokenizer) = (index.appender(start).map_err(full)?, analyzer.tokenizer());
    for row in 0..column.len() {
        if let Some(text) = text_at(column, row)? {
            tokenizer.for_each_token(text, |word, position| match is_asked(word) {
                true => appender.token(word, position),
                false => appender.count_token(),
            });
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

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;

    use super::*;
    use crate::error::ErrorKind;
    use crate::index_spec::TextParams;
    use crate::text_index::Limits;
    use crate::text_search::{Survey, Weights, patterns, scores};

    fn columns() -> [TextColumn; 2] {
        let plain = TextAnalyzer::default_one();
        let german = TextParams { language: "German".into(), stem: false, ..TextParams::default() };
        let german = Arc::new(TextAnalyzer::try_new(&german).unwrap());
        [("title", german), ("body", plain)].map(|(name, analyzer)| TextColumn { name: name.into(), analyzer })
    }

    #[test]
    fn a_leaf_without_a_column_is_looked_for_in_all() {
        for (text, asked, expected) in [
            ("trees", 2, "title:trees | body:tree"),
            ("the trees", 2, "title:the OR (title:trees | body:tree)"),
            ("t:trees", 1, "trees"),
            ("t:(trees \"b c\")^2 AND NOT (x b:y)", 2, ""),
            ("b:trees", 1, "tree"),
            ("b:the", 1, ""),
            ("()", 1, ""),
            ("+trees b:run*", 2, "+(title:trees | body:tree) body:run*"),
        ] {
            let search = TextSearch::over(&columns(), &["t", "b"], text).unwrap();
            assert_eq!(search.columns.len(), asked, "{text}");
            if !expected.is_empty() {
                assert_eq!(search.query.to_string(), expected, "{text}");
            }
        }
        let error = TextSearch::over(&columns(), &["t", "b"], "a title:x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("'title', and what is searched is 't', 'b'"), "{error}");
    }

    #[test]
    fn a_row_matches_if_one_of_its_texts_does() {
        let texts = |texts: [Option<&str>; 4]| Arc::new(StringArray::from_iter(texts)) as ArrayRef;
        let texts = [texts([Some("a"), Some("b c"), None, Some("")]), texts([Some("b"), Some("a"), Some("c b"), None])];
        let plain = TextAnalyzer::default_one();
        let columns = ["t", "b"].map(|name| TextColumn { name: name.into(), analyzer: Arc::clone(&plain) });
        for (text, expected) in [
            ("c", 0b0110),
            ("b AND c", 0b0110),
            ("t:b OR b:b", 0b0111),
            ("\"c b\"", 0b0100),
            ("b NOT b:b", 0b0010),
            ("NOT c", 0b1001),
        ] {
            let search = TextSearch::over(&columns, &["t", "b"], text).unwrap();
            assert_eq!(search.matching(&texts).unwrap(), [expected], "{text}");
        }
    }

    #[test]
    fn words_that_are_not_asked_for_count() {
        let texts = ["logs of trees", "a log", "treat the logs", "", "trees and trees log trees", "of"];
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        let analyzer = TextAnalyzer::default_one();
        let all = index_of(&texts, &analyzer, None).unwrap();
        let limits = Limits { returned: usize::MAX, compared: usize::MAX };
        for text in ["log", "tre*", "\"log tree\"~1 treat", "lug~1", "log NOT tree", "absent"] {
            let search = TextSearch::parse("body", text, &analyzer).unwrap();
            let asked = search.indexes_of(std::slice::from_ref(&texts)).unwrap();
            let patterns = patterns(&search.query);
            let of = |index: &TextIndex| {
                let survey = Survey::of(index, &patterns, index.rows(), None);
                let weights = [Weights::new(&survey, &patterns)];
                (survey, scores(&search, &weights, &[index]), matching(&search, &[index], u32::MAX))
            };
            assert_eq!(of(&asked[0]), of(&all), "{text}");
            let words = |index: &TextIndex| index.prefix("", u32::MAX, limits).terms.len();
            assert!(words(&asked[0]) < words(&all) || text.contains('~'), "{text}");
        }
    }

    #[test]
    fn of_a_query_over_several_texts_one_shows_its_own_part() {
        let search = TextSearch::within("t", "x AND b:y t:z", &TextAnalyzer::default_one()).unwrap();
        assert_eq!(search.query.to_string(), "x OR z");
    }
}
