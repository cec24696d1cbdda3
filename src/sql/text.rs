//! The function `text_match`: whether a text, or one of several, matches a query.
//!
//! It means the same wherever it stands. Of a column with a text index it makes words as that index does, which
//! [`super::LsmStatementRule`] tells it. As a filter of an LSM table it is also handed to the scan, where text indexes
//! spare most rows.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray};
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::cast::as_string_array;
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::error::Error;
use crate::table::{TextAnalyzer, TextColumn, TextScorer, TextSearch};

const NAME: &str = "text_match";

/// `text_match(text, …, query)`.
#[derive(Debug)]
pub(super) struct TextMatch {
    signature: Signature,
    aliases: Vec<String>,
    /// What the texts are; nobody told if there is none.
    texts: Vec<BoundText>,
    /// What the same query is scored by in this statement: it knows texts that were found.
    scored: Option<ScoredTexts>,
}

/// What scores the texts of a call.
#[derive(Debug, Clone)]
pub(super) struct ScoredTexts {
    pub(super) scorer: Arc<TextScorer>,
    /// The places of the scorer's columns among the texts.
    pub(super) places: Vec<usize>,
}

impl ScoredTexts {
    /// Which texts match.
    fn matches(&self, texts: &[ArrayRef]) -> Result<BooleanArray> {
        let asked: Vec<ArrayRef> = self.places.iter().map(|place| Arc::clone(&texts[*place])).collect();
        if self.scorer.matches_all(&asked) {
            return Ok(BooleanArray::from(vec![true; asked[0].len()]));
        }
        Ok(matching(self.scorer.search(), &asked, texts)?)
    }
}

/// What is known of a text of a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct BoundText {
    /// What the query calls it: as the statement did when it was written.
    pub(super) label: String,
    /// How its words are made.
    pub(super) analyzer: Arc<TextAnalyzer>,
}

impl Default for BoundText {
    fn default() -> Self {
        Self { label: String::new(), analyzer: TextAnalyzer::default_one() }
    }
}

/// The function.
pub(super) fn function() -> Arc<ScalarUDF> {
    of(Vec::new(), None)
}

/// The function for these texts.
fn of(texts: Vec<BoundText>, scored: Option<ScoredTexts>) -> Arc<ScalarUDF> {
    let signature = Signature::user_defined(Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(TextMatch { signature, aliases: vec!["match".into()], texts, scored }))
}

/// With a scorer or without, the same texts match.
impl PartialEq for TextMatch {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

impl Eq for TextMatch {}

impl Hash for TextMatch {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.texts.hash(state);
    }
}

pub(super) fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// The types in which `function` takes texts and, behind them, a query.
pub(super) fn texts_and_query(function: &str, types: &[DataType]) -> Result<Vec<DataType>> {
    let Some((query, texts @ [_, ..])) = types.split_last() else {
        return plan_err!("{function} takes a text or several, and a query behind them");
    };
    let text = |text: &DataType| match text {
        text if is_text(text) => Ok(text.clone()),
        DataType::Dictionary(_, text) if is_text(text) => Ok(text.as_ref().clone()),
        DataType::Null => Ok(DataType::Utf8),
        other => plan_err!("{function} searches texts, not {other}"),
    };
    let mut taken = texts.iter().map(text).collect::<Result<Vec<_>>>()?;
    let is_query = match query {
        DataType::Dictionary(_, text) => is_text(text),
        query => is_text(query) || query.is_null(),
    };
    if !is_query {
        return plan_err!("{function} takes a query as text, not as {query}");
    }
    taken.push(DataType::Utf8);
    Ok(taken)
}

impl ScalarUDFImpl for TextMatch {
    fn name(&self) -> &str {
        NAME
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        texts_and_query(NAME, types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some((query, texts @ [_, ..])) = args.args.split_last() else {
            return exec_err!("{NAME} takes a text or several, and a query behind them");
        };
        let scalar = |value: &ColumnarValue| matches!(value, ColumnarValue::Scalar(_));
        let is_constant = texts.iter().all(scalar) && scalar(query);
        let rows = if is_constant { 1 } else { args.number_rows };
        let arrays = texts.iter().map(|text| text.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let searched = || match self.texts.is_empty() {
            true => Searched::new(&unbound(&args.arg_fields[..arrays.len()])),
            false => Searched::new(&self.texts),
        };
        if let ColumnarValue::Scalar(query) = query {
            let found = match &self.scored {
                Some(scored) => scored.matches(&arrays)?,
                None => searched()?.matches(&arrays, query)?,
            };
            return Ok(match is_constant {
                true => ColumnarValue::Scalar(ScalarValue::try_from_array(&found, 0)?),
                false => ColumnarValue::Array(Arc::new(found)),
            });
        }
        let queries = query.to_array(rows)?;
        let (queries, searched) = (as_string_array(&queries)?, searched()?);
        let row = |(row, query): (usize, Option<&str>)| -> Result<Option<bool>> {
            let query = ScalarValue::Utf8(query.map(str::to_string));
            let texts: Vec<ArrayRef> = arrays.iter().map(|texts| texts.slice(row, 1)).collect();
            Ok(searched.matches(&texts, &query)?.iter().next().flatten())
        };
        Ok(ColumnarValue::Array(Arc::new(queries.iter().enumerate().map(row).collect::<Result<BooleanArray>>()?)))
    }
}

/// Texts of which nobody told anything.
pub(super) fn unbound(fields: &[FieldRef]) -> Vec<BoundText> {
    let text = |field: &FieldRef| BoundText { label: field.name().clone(), analyzer: TextAnalyzer::default_one() };
    fields.iter().map(text).collect()
}

/// Texts that are searched.
pub(super) struct Searched {
    columns: Vec<TextColumn>,
    labels: Vec<String>,
}

impl Searched {
    /// # Errors
    /// `Invalid` if two have the same label.
    pub(super) fn new(texts: &[BoundText]) -> Result<Self> {
        Self::named(texts, texts.iter().map(|text| text.label.clone()))
    }

    /// The texts of columns that have these names in their table.
    ///
    /// # Errors
    /// `Invalid` if two have the same.
    pub(super) fn named(texts: &[BoundText], names: impl IntoIterator<Item = String>) -> Result<Self> {
        let column = |(text, name): (&BoundText, String)| TextColumn { name, analyzer: Arc::clone(&text.analyzer) };
        let columns: Vec<TextColumn> = texts.iter().zip(names).map(column).collect();
        let twice = columns.iter().enumerate().find(|(i, column)| columns[..*i].iter().any(|c| c.name == column.name));
        if let Some((_, column)) = twice {
            return Err(Error::invalid(format!("'{}' is searched twice: name it once", column.name)).into());
        }
        Ok(Self { columns, labels: texts.iter().map(|text| text.label.clone()).collect() })
    }

    /// What `query` searches for in them.
    ///
    /// # Errors
    /// `Invalid` if it is no query, or names another text.
    pub(super) fn search(&self, query: &str) -> Result<TextSearch, Error> {
        TextSearch::over(&self.columns, &self.labels, query)
    }

    /// The places among them of the columns that `search` asks.
    pub(super) fn places(&self, search: &TextSearch) -> Vec<usize> {
        let is_asked = |column: &TextColumn| search.columns.iter().any(|asked| asked.name == column.name);
        (0..self.columns.len()).filter(|place| is_asked(&self.columns[*place])).collect()
    }

    /// Which texts match.
    fn matches(&self, texts: &[ArrayRef], query: &ScalarValue) -> Result<BooleanArray> {
        let rows = texts.first().map_or(0, |texts| texts.len());
        let Some(Some(query)) = query.try_as_str() else { return Ok(BooleanArray::new_null(rows)) };
        let search = self.search(query)?;
        let asked: Vec<ArrayRef> = self.places(&search).into_iter().map(|place| Arc::clone(&texts[place])).collect();
        Ok(matching(&search, &asked, texts)?)
    }
}

/// Which rows match whose texts are `texts`, among them `asked`, which `search` is about; NULL if all are NULL.
fn matching(search: &TextSearch, asked: &[ArrayRef], texts: &[ArrayRef]) -> Result<BooleanArray, Error> {
    let words = search.matching(asked)?;
    let is_known = |row: usize| texts.iter().any(|texts| texts.is_valid(row));
    let found = |row: usize| is_known(row).then(|| words[row / 64] >> (row % 64) & 1 == 1);
    Ok((0..texts[0].len()).map(found).collect())
}

/// The texts of a call of the function, and what is known of them.
pub(super) fn call_of(expr: &Expr) -> Option<(&[Expr], &[BoundText])> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let function = call.func.inner().downcast_ref::<TextMatch>()?;
    Some((call.args.split_last()?.1, &function.texts))
}

/// Nothing, unless `expr` is a call of the function with a query that is none of `texts`.
///
/// # Errors
/// `Invalid` if it is so.
pub(super) fn check(expr: &Expr, texts: &[BoundText]) -> Result<()> {
    let Expr::ScalarFunction(call) = expr else { return Ok(()) };
    let is_that = call.func.inner().downcast_ref::<TextMatch>().is_some();
    if let (true, Some(Expr::Literal(query, _))) = (is_that, call.args.last())
        && let Some(Some(query)) = query.try_as_str()
    {
        Searched::new(texts)?.search(query)?;
    }
    Ok(())
}

/// A call of the function with what is known of its texts.
pub(super) fn bound(call: Expr, texts: Vec<BoundText>) -> Expr {
    match call {
        Expr::ScalarFunction(call) => Expr::ScalarFunction(ScalarFunction::new_udf(of(texts, None), call.args)),
        other => other,
    }
}

/// A call of the function with what the same query is scored by.
pub(super) fn scored(call: Expr, scored: ScoredTexts) -> Expr {
    let texts = call_of(&call).map(|(_, texts)| texts.to_vec()).unwrap_or_default();
    match call {
        Expr::ScalarFunction(call) => Expr::ScalarFunction(ScalarFunction::new_udf(of(texts, Some(scored)), call.args)),
        other => other,
    }
}

/// A call of the function with what the same query is scored by, which `scorer` finds if there is such.
pub(super) fn scored_by(call: Expr, scorer: impl FnOnce(&TextSearch) -> Option<Arc<TextScorer>>) -> Expr {
    let known = asked_of(&call).and_then(|(searched, search)| {
        Some(ScoredTexts { scorer: scorer(&search)?, places: searched.places(&search) })
    });
    match known {
        Some(known) => scored(call, known),
        None => call,
    }
}

/// The query that a filter asks of columns of a table, if it is nothing but that. None if texts without a word match, as
/// they do `NOT a`: what indexes know of NULL is the same, and no words lead to the rows.
pub(super) fn search_of(filter: &Expr) -> Option<TextSearch> {
    Some(asked_of(filter)?.1)
}

/// What a filter asks, and the columns that it asks, under the same conditions.
fn asked_of(filter: &Expr) -> Option<(Searched, TextSearch)> {
    let Expr::ScalarFunction(call) = filter else { return None };
    let function = call.func.inner().downcast_ref::<TextMatch>()?;
    let Some((Expr::Literal(query, _), texts)) = call.args.split_last() else { return None };
    let name = |text: &Expr| match text {
        Expr::Column(column) => Some(column.name.clone()),
        _ => None,
    };
    let names = texts.iter().map(name).collect::<Option<Vec<_>>>()?;
    let told = match function.texts.is_empty() {
        true => {
            names.iter().map(|name| BoundText { label: name.clone(), analyzer: TextAnalyzer::default_one() }).collect()
        }
        false => function.texts.clone(),
    };
    // What is no query is told when it runs.
    let searched = Searched::named(&told, names).ok()?;
    let search = searched.search(query.try_as_str()??).ok()?;
    (!search.query.matches(|_| false)).then_some((searched, search))
}
