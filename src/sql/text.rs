//! The function `text_match`: whether a text matches a query.
//!
//! It means the same wherever it stands. Of a column with a text index it makes words as that index does, which
//! [`super::LsmStatementRule`] tells it. As a filter of an LSM table it is also handed to the scan, where the indexes of
//! memtables spare most rows.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::cast::as_string_array;
use datafusion::common::utils::take_function_args;
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::text_search::{TextAnalyzer, TextSearch};

const NAME: &str = "text_match";

/// `text_match(text, query)`.
#[derive(Debug)]
pub(super) struct TextMatch {
    signature: Signature,
    aliases: Vec<String>,
    analyzer: Arc<TextAnalyzer>,
}

/// The function.
pub(super) fn function() -> Arc<ScalarUDF> {
    with_analyzer(TextAnalyzer::default_one())
}

/// The function for texts whose words `analyzer` makes.
fn with_analyzer(analyzer: Arc<TextAnalyzer>) -> Arc<ScalarUDF> {
    let signature = Signature::user_defined(Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(TextMatch { signature, aliases: vec!["match".into()], analyzer }))
}

impl PartialEq for TextMatch {
    fn eq(&self, other: &Self) -> bool {
        self.analyzer == other.analyzer
    }
}

impl Eq for TextMatch {}

impl Hash for TextMatch {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.analyzer.hash(state);
    }
}

pub(super) fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// The types in which `function` takes a text and a query.
pub(super) fn text_and_query(function: &str, types: &[DataType]) -> Result<Vec<DataType>> {
    let [text, query] = take_function_args(function, types)?;
    let text = match text {
        text if is_text(text) => text.clone(),
        DataType::Dictionary(_, text) if is_text(text) => text.as_ref().clone(),
        DataType::Null => DataType::Utf8,
        other => return plan_err!("{function} searches texts, not {other}"),
    };
    if is_text(query) || query.is_null() {
        return Ok(vec![text, DataType::Utf8]);
    }
    plan_err!("{function} takes a query as text, not as {query}")
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
        text_and_query(NAME, types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [text, query] = take_function_args(NAME, &args.args)?;
        let column = args.arg_fields.first().map_or("", |field| field.name());
        if let (ColumnarValue::Scalar(text), ColumnarValue::Scalar(query)) = (text, query) {
            let found = self.matches(column, &text.to_array()?, query)?;
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&found, 0)?));
        }
        let texts = text.to_array(args.number_rows)?;
        if let ColumnarValue::Scalar(query) = query {
            return Ok(ColumnarValue::Array(Arc::new(self.matches(column, &texts, query)?)));
        }
        let queries = query.to_array(args.number_rows)?;
        let queries = as_string_array(&queries)?;
        let row = |(row, query): (usize, Option<&str>)| -> Result<Option<bool>> {
            let query = ScalarValue::Utf8(query.map(str::to_string));
            Ok(self.matches(column, &texts.slice(row, 1), &query)?.iter().next().flatten())
        };
        Ok(ColumnarValue::Array(Arc::new(queries.iter().enumerate().map(row).collect::<Result<BooleanArray>>()?)))
    }
}

impl TextMatch {
    fn matches(&self, column: &str, texts: &ArrayRef, query: &ScalarValue) -> Result<BooleanArray> {
        let Some(Some(query)) = query.try_as_str() else { return Ok(BooleanArray::new_null(texts.len())) };
        let search = TextSearch::parse(column, query, &self.analyzer)?;
        let words = search.matching(texts)?;
        let found = |row: usize| texts.is_valid(row).then(|| words[row / 64] >> (row % 64) & 1 == 1);
        Ok((0..texts.len()).map(found).collect())
    }
}

/// The text of a call of the function.
pub(super) fn text_of(expr: &Expr) -> Option<&Expr> {
    let Expr::ScalarFunction(call) = expr else { return None };
    call.func.inner().downcast_ref::<TextMatch>()?;
    call.args.first()
}

/// A call of the function with words as `analyzer` makes them.
pub(super) fn bound(call: Expr, analyzer: Arc<TextAnalyzer>) -> Expr {
    match call {
        Expr::ScalarFunction(call) => Expr::ScalarFunction(ScalarFunction::new_udf(with_analyzer(analyzer), call.args)),
        other => other,
    }
}

/// The query that a filter asks of a column, if it is nothing but that. None if a text without a word matches, as it
/// does `NOT a`: what indexes know of NULL is the same, and no words lead to the rows.
pub(super) fn search_of(filter: &Expr) -> Option<TextSearch> {
    let Expr::ScalarFunction(call) = filter else { return None };
    let function = call.func.inner().downcast_ref::<TextMatch>()?;
    let [Expr::Column(column), Expr::Literal(query, _)] = call.args.as_slice() else { return None };
    let query = query.try_as_str()??;
    // What is no query is told when it runs.
    TextSearch::parse(&column.name, query, &function.analyzer).ok().filter(|search| !search.query.matches(|_| false))
}
