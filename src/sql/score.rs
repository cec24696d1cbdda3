//! The function `score`: how well a text, or several of a row, fit a query, among all live rows of their table.
//!
//! By itself it knows no table. [`super::LsmStatementRule`] finds out whose columns its texts are and puts a function in
//! its place that knows the snapshot.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::new_null_array;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::rule::needs_rule;
use super::text::{BoundText, ScoredTexts, texts_and_query};
use crate::table::{TextColumn, TextScorer};

/// The function's name.
pub(super) const NAME: &str = "score";

/// `score(text, …, query)`.
#[derive(Debug)]
pub(super) struct Score {
    signature: Signature,
    /// What the texts are; nobody told if there is none.
    texts: Vec<BoundText>,
    scored: Option<ScoredTexts>,
}

/// The function for a session.
pub(super) fn function() -> Arc<ScalarUDF> {
    of(Vec::new(), None)
}

fn of(texts: Vec<BoundText>, scored: Option<ScoredTexts>) -> Arc<ScalarUDF> {
    let signature = Signature::user_defined(Volatility::Stable);
    Arc::new(ScalarUDF::new_from_impl(Score { signature, texts, scored }))
}

/// A call of the function.
pub(super) struct Call<'a> {
    pub(super) texts: &'a [Expr],
    pub(super) query: &'a Expr,
    /// What is known of the texts already.
    pub(super) told: &'a [BoundText],
}

/// The call of the function that `expr` is.
pub(super) fn call_of(expr: &Expr) -> Option<Call<'_>> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let function = call.func.inner().downcast_ref::<Score>()?;
    let (query, texts) = call.args.split_last()?;
    Some(Call { texts, query, told: &function.texts })
}

/// Whether an expression asks for scores.
pub(super) fn is_in(expr: &Expr) -> bool {
    expr.exists(|part| Ok(call_of(part).is_some())).unwrap_or(true)
}

/// A call of the function with what is known of its texts.
pub(super) fn labelled(call: Expr, texts: Vec<BoundText>) -> Expr {
    match call {
        Expr::ScalarFunction(call) => Expr::ScalarFunction(ScalarFunction::new_udf(of(texts, None), call.args)),
        other => other,
    }
}

/// The call of the function that `scored` answers, of texts of which `told` is known.
pub(super) fn bound(texts: &[Expr], query: Expr, told: Vec<BoundText>, scored: ScoredTexts) -> Expr {
    let args = texts.iter().cloned().chain([query]).collect();
    Expr::ScalarFunction(ScalarFunction::new_udf(of(told, Some(scored)), args))
}

/// The scorer of a call of the function.
pub(super) fn known_scorer_of(expr: &Expr) -> Option<&Arc<TextScorer>> {
    let Expr::ScalarFunction(call) = expr else { return None };
    Some(&call.func.inner().downcast_ref::<Score>()?.scored.as_ref()?.scorer)
}

/// The scorer of a call of the function, if its texts are the columns that the scorer is about.
pub(super) fn scorer_of(expr: &Expr) -> Option<&Arc<TextScorer>> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let known = call.func.inner().downcast_ref::<Score>()?.scored.as_ref()?;
    let columns = &known.scorer.search().columns;
    let is_that = |(place, column): (&usize, &TextColumn)| matches!(call.args.get(*place), Some(Expr::Column(text)) if text.name == column.name);
    known.places.iter().zip(columns).all(is_that).then_some(&known.scorer)
}

impl Score {
    fn identity(&self) -> (Option<*const TextScorer>, &[BoundText]) {
        (self.scored.as_ref().map(|scored| Arc::as_ptr(&scored.scorer)), &self.texts)
    }
}

impl PartialEq for Score {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Score {}

impl Hash for Score {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl ScalarUDFImpl for Score {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float32)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        texts_and_query(NAME, types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if matches!(args.args.last(), Some(ColumnarValue::Scalar(query)) if query.is_null()) {
            return Ok(ColumnarValue::Array(new_null_array(&DataType::Float32, args.number_rows)));
        }
        let Some(ScoredTexts { scorer, places }) = &self.scored else {
            return exec_err!("{}", needs_rule(NAME));
        };
        let texts: Vec<&ColumnarValue> = places.iter().filter_map(|place| args.args.get(*place)).collect();
        let is_constant = texts.iter().all(|text| matches!(text, ColumnarValue::Scalar(_)));
        let rows = if is_constant { 1 } else { args.number_rows };
        let texts = texts.into_iter().map(|text| text.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let scores = scorer.scores(&texts)?;
        Ok(match is_constant {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&scores, 0)?),
            false => ColumnarValue::Array(Arc::new(scores)),
        })
    }
}
