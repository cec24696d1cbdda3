//! The function `score`: how well a text fits a query, among all live rows of its table.
//!
//! By itself it knows no table. [`super::LsmStatementRule`] finds out whose column its text is and puts a function in
//! its place that knows the snapshot.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::new_null_array;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::utils::take_function_args;
use datafusion::common::{Column, Result, ScalarValue, exec_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::rule::needs_rule;
use super::text::text_and_query;
use crate::table::TextScorer;

/// The function's name.
pub(super) const NAME: &str = "score";

/// The function.
#[derive(Debug)]
pub(super) struct Score {
    signature: Signature,
    scorer: Option<Arc<TextScorer>>,
}

/// The function for a session.
pub(super) fn function() -> Arc<ScalarUDF> {
    of(None)
}

fn of(scorer: Option<Arc<TextScorer>>) -> Arc<ScalarUDF> {
    let signature = Signature::user_defined(Volatility::Stable);
    Arc::new(ScalarUDF::new_from_impl(Score { signature, scorer }))
}

/// The text and the query of a call of the function.
pub(super) fn call_of(expr: &Expr) -> Option<(&Expr, &Expr)> {
    let Expr::ScalarFunction(call) = expr else { return None };
    call.func.inner().downcast_ref::<Score>()?;
    match call.args.as_slice() {
        [text, query] => Some((text, query)),
        _ => None,
    }
}

/// The call of the function that `scorer` answers.
pub(super) fn bound(text: Expr, query: Expr, scorer: Arc<TextScorer>) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(of(Some(scorer)), vec![text, query]))
}

/// The scorer and the column of a call that is bound.
pub(super) fn scorer_of(expr: &Expr) -> Option<(&Arc<TextScorer>, &Column)> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let scorer = call.func.inner().downcast_ref::<Score>()?.scorer.as_ref()?;
    match call.args.first() {
        Some(Expr::Column(column)) => Some((scorer, column)),
        _ => None,
    }
}

impl Score {
    fn identity(&self) -> Option<*const TextScorer> {
        self.scorer.as_ref().map(Arc::as_ptr)
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
        text_and_query(NAME, types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [text, query] = take_function_args(NAME, &args.args)?;
        if matches!(query, ColumnarValue::Scalar(query) if query.is_null()) {
            return Ok(ColumnarValue::Array(new_null_array(&DataType::Float32, args.number_rows)));
        }
        let Some(scorer) = &self.scorer else {
            return exec_err!("{}", needs_rule(NAME));
        };
        if let ColumnarValue::Scalar(text) = text {
            let scores = scorer.scores(&text.to_array()?)?;
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&scores, 0)?));
        }
        Ok(ColumnarValue::Array(Arc::new(scorer.scores(&text.to_array(args.number_rows)?)?)))
    }
}
