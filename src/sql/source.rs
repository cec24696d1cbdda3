//! The function `lsm_source`: which source of its table a row comes from.
//!
//! By itself it knows no table. [`super::LsmStatementRule`] finds out whose key its arguments are and puts a function in
//! its place that knows the snapshot.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::rule::needs_rule;
use crate::table::{Snapshot, source_names};

/// The function's name.
pub(super) const NAME: &str = "lsm_source";

/// The function.
#[derive(Debug)]
pub(super) struct Source {
    signature: Signature,
    snapshot: Option<Arc<Snapshot>>,
}

/// The function for a session.
pub(super) fn function() -> Arc<ScalarUDF> {
    of(None)
}

fn of(snapshot: Option<Arc<Snapshot>>) -> Arc<ScalarUDF> {
    let signature = Signature::variadic_any(Volatility::Stable);
    Arc::new(ScalarUDF::new_from_impl(Source { signature, snapshot }))
}

/// The key that a call of the function is about.
pub(super) fn key_of(expr: &Expr) -> Option<&[Expr]> {
    let Expr::ScalarFunction(call) = expr else { return None };
    call.func.inner().downcast_ref::<Source>()?;
    (!call.args.is_empty()).then_some(&call.args)
}

/// The call of the function that `snapshot` answers.
pub(super) fn bound(key: Vec<Expr>, snapshot: Arc<Snapshot>) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(of(Some(snapshot)), key))
}

impl Source {
    fn identity(&self) -> Option<*const Snapshot> {
        self.snapshot.as_ref().map(Arc::as_ptr)
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Source {}

impl Hash for Source {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl ScalarUDFImpl for Source {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(snapshot) = &self.snapshot else {
            return exec_err!("{}", needs_rule(NAME));
        };
        let key: Vec<ArrayRef> = args.args.iter().map(|arg| arg.to_array(args.number_rows)).collect::<Result<_>>()?;
        Ok(ColumnarValue::Array(Arc::new(source_names(snapshot, &key)?)))
    }
}
