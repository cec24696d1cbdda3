//! The function `snippet`: the piece of a text that shows a query best.
//!
//! It recognises words as `text_match` does and works on any text: no rows and no index are asked. Of a column with a text
//! index it makes words as that index does, which [`super::LsmStatementRule`] tells it.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::text::{BoundText, is_text, unbound};
use crate::error::Error;
use crate::text_search::{SnippetStyle, TextSearch, snippet, text_at};

const NAME: &str = "snippet";

/// What it is called with; all but the first two may be left out, from the end.
const PARAMETERS: [&str; 5] = ["text", "query", "words", "open", "close"];

/// The most words that a snippet may be asked to have.
const MAX_WORDS: i64 = 10_000;

/// `snippet(text, query [, words [, open [, close]]])`.
#[derive(Debug)]
pub(super) struct Snippet {
    signature: Signature,
    /// What the text is, if anybody told.
    text: Option<BoundText>,
}

/// The function.
pub(super) fn function() -> Arc<ScalarUDF> {
    of(None)
}

/// The function for a text.
fn of(text: Option<BoundText>) -> Arc<ScalarUDF> {
    let signature = Signature::user_defined(Volatility::Immutable);
    let signature = signature.with_parameter_names(PARAMETERS.to_vec()).expect("the names differ");
    Arc::new(ScalarUDF::new_from_impl(Snippet { signature, text }))
}

/// The text of a call of the function, and what is known of it.
pub(super) fn call_of(expr: &Expr) -> Option<(&[Expr], &[BoundText])> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let function = call.func.inner().downcast_ref::<Snippet>()?;
    Some((call.args.get(..1)?, function.text.as_slice()))
}

/// A call of the function with what is known of its text.
pub(super) fn bound(call: Expr, texts: Vec<BoundText>) -> Expr {
    match call {
        Expr::ScalarFunction(call) => {
            Expr::ScalarFunction(ScalarFunction::new_udf(of(texts.into_iter().next()), call.args))
        }
        other => other,
    }
}

impl PartialEq for Snippet {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Snippet {}

impl Hash for Snippet {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl ScalarUDFImpl for Snippet {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        if !(2..=PARAMETERS.len()).contains(&types.len()) {
            return plan_err!("{NAME} takes 2 to 5 arguments: {}", PARAMETERS.join(", "));
        }
        let coerced = types.iter().enumerate().map(|(i, data_type)| match (PARAMETERS[i], data_type) {
            ("words", number) if number.is_integer() || number.is_null() => Ok(DataType::Int64),
            ("words", other) => plan_err!("{NAME} takes a number of words, not {other}"),
            ("text", text) if is_text(text) => Ok(text.clone()),
            ("text", DataType::Dictionary(_, text)) if is_text(text) => Ok(text.as_ref().clone()),
            (_, other) if is_text(other) || other.is_null() => Ok(DataType::Utf8),
            (parameter, other) => plan_err!("{NAME} takes '{parameter}' as text, not as {other}"),
        });
        coerced.collect()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if scalar { 1 } else { args.number_rows };
        let columns: Vec<ArrayRef> = args.args.iter().map(|arg| arg.to_array(rows)).collect::<Result<_>>()?;
        let text = self.text.clone().or_else(|| unbound(args.arg_fields.get(..1)?).pop());
        let snippets = snippets(&text.unwrap_or_default(), &columns, rows)?;
        Ok(match scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&snippets, 0)?),
            false => ColumnarValue::Array(snippets),
        })
    }
}

fn snippets(told: &BoundText, columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let mut tokenizer = told.analyzer.tokenizer();
    let mut style = SnippetStyle::default();
    let mut parsed: Option<(&str, TextSearch)> = None;
    let mut snippets = StringBuilder::new();
    for row in 0..rows {
        let text = text_at(&columns[0], row)?.filter(|_| columns.iter().all(|column| column.is_valid(row)));
        let Some(text) = text else {
            snippets.append_null();
            continue;
        };
        let query = columns[1].as_string::<i32>().value(row);
        if let Some(words) = columns.get(2) {
            style.words = words_of(words.as_primitive::<Int64Type>().value(row))?;
        }
        for (mark, column) in [&mut style.open, &mut style.close].into_iter().zip(columns.iter().skip(3)) {
            column.as_string::<i32>().value(row).clone_into(mark);
        }
        let search = match parsed.take().filter(|(text, _)| *text == query) {
            Some((_, search)) => search,
            None => TextSearch::within(&told.label, query, &told.analyzer)?,
        };
        snippets.append_value(snippet(text, &search.query, &style, &mut tokenizer)?);
        parsed = Some((query, search));
    }
    Ok(Arc::new(snippets.finish()))
}

fn words_of(words: i64) -> Result<usize, Error> {
    let fits = usize::try_from(words).ok().filter(|_| (1..=MAX_WORDS).contains(&words));
    fits.ok_or_else(|| Error::invalid(format!("a {NAME} has 1 to {MAX_WORDS} words, not {words}")))
}
