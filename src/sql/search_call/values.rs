//! The arguments of a call as values.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Float32Array, Float64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Float64Type};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

use super::SearchCall;
use super::parameters::SearchFunction;
use crate::error::Error;

/// How many rows are searched for unless the call says.
pub(crate) const K: usize = 10;

/// What a call is told.
pub(super) struct Values {
    function: SearchFunction,
    values: HashMap<&'static str, ScalarValue>,
}

impl Values {
    /// # Errors
    /// `Invalid` if a parameter has no value yet, or an argument is not constant.
    pub(super) fn of(call: &SearchCall, config: &ConfigOptions) -> Result<Self> {
        let context = SimplifyContext::builder().with_config_options(Arc::new(config.clone())).build();
        let simplifier = ExprSimplifier::new(context);
        let mut values = HashMap::new();
        for (parameter, argument) in call.arguments() {
            let refused = |what: &str| {
                let (function, name) = (call.function.name(), parameter.name);
                Error::invalid(format!("{function}: '{name}' {what}: {argument}"))
            };
            let missing = argument.exists(|expr| Ok(matches!(expr, Expr::Placeholder(_))))?;
            if missing {
                return Err(refused("has no value yet").into());
            }
            let value = simplifier.simplify(simplifier.coerce(argument.clone(), &DFSchema::empty())?)?;
            let Expr::Literal(value, _) = value.unalias() else { return Err(refused("is not constant").into()) };
            // NULL for what may be left out says nothing.
            if parameter.is_required || !value.is_null() {
                values.insert(parameter.name, value);
            }
        }
        Ok(Self { function: call.function, values })
    }

    fn refused(&self, name: &str, what: &str) -> Error {
        let given = self.values.get(name).map(|value| format!(", not {value}")).unwrap_or_default();
        Error::invalid(format!("{}: '{name}' is {what}{given}", self.function.name()))
    }

    /// The text that is given, which may be NULL.
    pub(super) fn text(&self, name: &'static str) -> Result<Option<&str>, Error> {
        match self.values.get(name) {
            None | Some(ScalarValue::Null) => Ok(None),
            Some(value) => value.try_as_str().ok_or_else(|| self.refused(name, "a text")),
        }
    }

    /// The text that must be given.
    pub(super) fn name(&self, name: &'static str) -> Result<&str, Error> {
        self.text(name)?.ok_or_else(|| self.refused(name, "a text"))
    }

    /// The names that must be given: a text, or a list of some.
    pub(super) fn names(&self, name: &'static str) -> Result<Vec<String>, Error> {
        let refused = || self.refused(name, "a text, or a list of texts such as ['title', 'body']");
        let list = match self.values.get(name) {
            Some(ScalarValue::List(list)) if list.is_valid(0) => list.value(0),
            Some(ScalarValue::LargeList(list)) if list.is_valid(0) => list.value(0),
            Some(ScalarValue::FixedSizeList(list)) if list.is_valid(0) => list.value(0),
            Some(value) => return Ok(vec![value.try_as_str().flatten().ok_or_else(refused)?.to_string()]),
            None => return Err(refused()),
        };
        let names = cast(&list, &DataType::Utf8)?;
        let names = names.as_string::<i32>().iter().map(|name| name.map(str::to_string));
        names.collect::<Option<Vec<_>>>().filter(|names| !names.is_empty()).ok_or_else(refused)
    }

    /// The number of rows that is given.
    pub(super) fn count(&self, name: &'static str) -> Result<Option<usize>, Error> {
        let Some(value) = self.values.get(name) else { return Ok(None) };
        let whole = value.data_type().is_integer();
        let count = match value.cast_to(&DataType::Int64) {
            Ok(ScalarValue::Int64(Some(count))) if whole => usize::try_from(count).ok(),
            _ => None,
        };
        count.map(Some).ok_or_else(|| self.refused(name, "a number of rows, 0 or more"))
    }

    /// How many rows are searched for.
    pub(super) fn k(&self) -> Result<usize, Error> {
        Ok(self.count("k")?.unwrap_or(K))
    }

    /// The number that is given: finite and not negative.
    pub(super) fn number(&self, name: &'static str) -> Result<Option<f64>, Error> {
        let Some(value) = self.values.get(name) else { return Ok(None) };
        let is_number = value.data_type().is_numeric();
        match value.cast_to(&DataType::Float64) {
            Ok(ScalarValue::Float64(Some(number))) if is_number && number.is_finite() && number >= 0.0 => {
                Ok(Some(number))
            }
            _ => Err(self.refused(name, "a number, 0 or more")),
        }
    }

    /// The vector that is given, of `width` elements of the type `element`, as a list; none if it or an element of it is
    /// NULL.
    pub(super) fn vector(
        &self,
        name: &'static str,
        element: &DataType,
        width: usize,
    ) -> Result<Option<ScalarValue>, Error> {
        let elements: ArrayRef = match self.values.get(name) {
            None | Some(ScalarValue::Null) => return Ok(None),
            Some(vector) if vector.is_null() => return Ok(None),
            Some(ScalarValue::List(list)) => list.value(0),
            Some(ScalarValue::LargeList(list)) => list.value(0),
            Some(ScalarValue::FixedSizeList(list)) => list.value(0),
            Some(_) => return Err(self.refused(name, "a vector, such as [0.1, 0.2]")),
        };
        if !elements.data_type().is_numeric() && !elements.data_type().is_null() {
            return Err(self.refused(name, "a vector of numbers"));
        }
        if elements.len() != width {
            let what = format!("a vector of {width} elements, as the column has, and this one has {}", elements.len());
            return Err(Error::invalid(format!("{}: '{name}' is to be {what}", self.function.name())));
        }
        let wide = cast(&elements, &DataType::Float64)?;
        let wide = wide.as_primitive::<Float64Type>();
        if wide.null_count() > 0 {
            return Ok(None);
        }
        let narrow = Float32Array::from_iter_values(wide.values().iter().map(|value| *value as f32));
        let fits = match element {
            DataType::Float64 => wide.values().iter().all(|value| value.is_finite()),
            _ => narrow.values().iter().all(|value| value.is_finite()),
        };
        if !fits {
            return Err(Error::invalid(format!(
                "{}: '{name}' has an element that is no finite number of the column's type",
                self.function.name()
            )));
        }
        let elements: ArrayRef = match element {
            DataType::Float64 => Arc::new(Float64Array::clone(wide)),
            _ => Arc::new(narrow),
        };
        let field = Arc::new(Field::new_list_field(elements.data_type().clone(), true));
        Ok(Some(SingleRowListArrayBuilder::new(elements).with_field(&field).build_list_scalar()))
    }
}
