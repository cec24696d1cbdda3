//! The functions `l2_distance`, `cosine_distance` and `inner_product`, and DataFusion's names for the same.
//!
//! DataFusion's functions are for lists. Ours take their places and answer the same; they are faster where one of the
//! vectors has a fixed size, as the columns of tables have, are answered by indexes, and hand lists on.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Float64Array, PrimitiveArray};
use datafusion::arrow::datatypes::{DataType, Field, Float32Type, Float64Type};
use datafusion::common::utils::take_function_args;
use datafusion::common::{Result, ScalarValue, internal_err, plan_err};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::vector_name::vector_name;
use crate::distance::{Element, Metric};
use crate::error::Error;

/// Each function's name, its other names, its metric, and what DataFusion calls the same.
const FUNCTIONS: [(&str, &[&str], Metric, &str); 4] = [
    ("l2_distance", &[], Metric::L2, "array_distance"),
    ("array_distance", &["list_distance"], Metric::L2, "array_distance"),
    ("cosine_distance", &[], Metric::Cosine, "cosine_distance"),
    ("inner_product", &["dot_product"], Metric::InnerProduct, "inner_product"),
];

/// The distance functions of a session in which `known` finds the functions that are there.
pub(super) fn functions(known: impl Fn(&str) -> Option<Arc<ScalarUDF>>) -> Vec<Arc<ScalarUDF>> {
    let function = |(name, aliases, metric, datafusions)| {
        // Registered before: the one inside hands lists on.
        let of_lists = known(datafusions).and_then(|f| match f.inner().downcast_ref::<DistanceFunction>() {
            Some(ours) => ours.of_lists.clone(),
            None => Some(f),
        });
        DistanceFunction::udf(name, aliases, metric, of_lists)
    };
    FUNCTIONS.map(function).to_vec()
}

/// What a function measures that is one of ours, and whether it is DataFusion's own of which one in `registry` took the
/// place: expressions that are made in Rust have those.
pub(super) fn metric_of(function: &ScalarUDF, registry: Option<&dyn FunctionRegistry>) -> Option<(Metric, bool)> {
    if let Some(ours) = function.inner().downcast_ref::<DistanceFunction>() {
        return Some((ours.metric, false));
    }
    let (.., datafusions) = FUNCTIONS.iter().find(|(.., datafusions)| *datafusions == function.name())?;
    let registered = registry?.udf(datafusions).ok()?;
    let ours = registered.inner().downcast_ref::<DistanceFunction>()?;
    (ours.of_lists.as_deref() == Some(function)).then_some((ours.metric, true))
}

/// The function of `metric`, for vectors of fixed size.
pub(super) fn function(metric: Metric) -> Arc<ScalarUDF> {
    let named = FUNCTIONS.iter().find(|(_, _, other, _)| *other == metric);
    let (name, aliases, ..) = named.expect("each metric has a function");
    DistanceFunction::udf(name, aliases, metric, None)
}

/// A distance function.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DistanceFunction {
    name: &'static str,
    aliases: Vec<String>,
    metric: Metric,
    signature: Signature,
    /// What answers for lists, whose lengths vary.
    of_lists: Option<Arc<ScalarUDF>>,
}

impl DistanceFunction {
    fn udf(name: &'static str, aliases: &[&str], metric: Metric, of_lists: Option<Arc<ScalarUDF>>) -> Arc<ScalarUDF> {
        let aliases = aliases.iter().map(|alias| alias.to_string()).collect();
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(Self { name, aliases, metric, signature, of_lists }))
    }

    fn of_lists(&self, types: &[DataType]) -> Result<&Arc<ScalarUDF>> {
        match &self.of_lists {
            Some(function) => Ok(function),
            None => plan_err!(
                "{} needs a vector of fixed size, such as FLOAT[384], on one side, and has {}",
                self.name,
                types.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(" and ")
            ),
        }
    }
}

/// The width of a vector type and the type it is computed in.
fn vector_type(data_type: &DataType) -> Option<(i32, DataType)> {
    match data_type {
        DataType::FixedSizeList(element, width) => match element.data_type() {
            DataType::Float16 | DataType::Float32 => Some((*width, DataType::Float32)),
            DataType::Float64 => Some((*width, DataType::Float64)),
            _ => None,
        },
        _ => None,
    }
}

impl ScalarUDFImpl for DistanceFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let names = args.iter().map(|arg| vector_name(arg).unwrap_or_else(|| arg.schema_name().to_string()));
        Ok(format!("{}({})", self.name, names.collect::<Vec<_>>().join(",")))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [_, _] = take_function_args(self.name, types)?;
        let vectors: Vec<(i32, DataType)> = types.iter().filter_map(vector_type).collect();
        let Some((width, _)) = vectors.first() else { return self.of_lists(types)?.coerce_types(types) };
        if vectors.iter().any(|(other, _)| other != width) {
            return plan_err!("{} needs vectors of one size, and has {} and {}", self.name, types[0], types[1]);
        }
        let wide = vectors.iter().any(|(_, element)| *element == DataType::Float64);
        let element = if wide { DataType::Float64 } else { DataType::Float32 };
        let field = Arc::new(Field::new_list_field(element, true));
        let coerced = types.iter().map(|data_type| match data_type {
            // What elements are called and whether they may be NULL makes no difference, and a cast hides the column.
            DataType::FixedSizeList(own, _) if own.data_type() == field.data_type() => Ok(data_type.clone()),
            DataType::FixedSizeList(..) if vector_type(data_type).is_some() => {
                Ok(DataType::FixedSizeList(Arc::clone(&field), *width))
            }
            DataType::Null => Ok(DataType::FixedSizeList(Arc::clone(&field), *width)),
            // Its length is looked at row by row.
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
                Ok(DataType::List(Arc::clone(&field)))
            }
            other => plan_err!("{} compares a vector with numbers in brackets, not with {other}", self.name),
        });
        coerced.collect()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [x, y] = take_function_args(self.name, &args.args)?;
        let types = [x.data_type(), y.data_type()];
        let element = match types.iter().find_map(vector_type) {
            Some((_, element)) => element,
            None => return self.of_lists(&types)?.invoke_with_args(args),
        };
        let scalar = matches!((x, y), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
        let rows = if scalar { 1 } else { args.number_rows };
        let distances = match element {
            DataType::Float64 => self.distances::<Float64Type>(x, y, rows)?,
            _ => self.distances::<Float32Type>(x, y, rows)?,
        };
        let distances: ArrayRef = Arc::new(distances);
        Ok(match scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&distances, 0)?),
            false => ColumnarValue::Array(distances),
        })
    }
}

impl DistanceFunction {
    fn distances<T>(&self, x: &ColumnarValue, y: &ColumnarValue, rows: usize) -> Result<Float64Array>
    where
        T: ArrowPrimitiveType<Native: Element>,
    {
        let (x, y) = (Vectors::<T>::try_new(x)?, Vectors::<T>::try_new(y)?);
        let distance = |row| match (x.vector(row), y.vector(row)) {
            (Some(x), Some(y)) if x.len() == y.len() => Ok(Element::distance(self.metric, x, y)),
            (Some(x), Some(y)) => Err(self.other_size(x.len(), y.len()).into()),
            _ => Ok(None),
        };
        (0..rows).map(distance).collect()
    }

    fn other_size(&self, x: usize, y: usize) -> Error {
        Error::invalid(format!("{} needs vectors of one size, and has one of {x} and one of {y} elements", self.name))
    }
}

/// One side of a distance: a vector for each row, or one for all of them.
struct Vectors<T: ArrowPrimitiveType> {
    vectors: ArrayRef,
    values: PrimitiveArray<T>,
    is_one: bool,
}

impl<T: ArrowPrimitiveType> Vectors<T> {
    fn try_new(side: &ColumnarValue) -> Result<Self> {
        let (vectors, is_one) = match side {
            ColumnarValue::Array(vectors) => (Arc::clone(vectors), false),
            ColumnarValue::Scalar(vector) => (vector.to_array()?, true),
        };
        let values = match vectors.data_type() {
            DataType::FixedSizeList(..) => vectors.as_fixed_size_list().values(),
            DataType::List(_) => vectors.as_list::<i32>().values(),
            other => return internal_err!("a distance of {other} was not coerced"),
        };
        let Some(values) = values.as_primitive_opt::<T>().cloned() else {
            return internal_err!("a distance of {} was not coerced", vectors.data_type());
        };
        Ok(Self { vectors, values, is_one })
    }

    /// The vector of `row`; `None` if it or one of its elements is NULL.
    fn vector(&self, row: usize) -> Option<&[T::Native]> {
        let row = if self.is_one { 0 } else { row };
        if self.vectors.is_null(row) {
            return None;
        }
        let (start, len) = match self.vectors.as_fixed_size_list_opt() {
            Some(vectors) => (vectors.value_offset(row) as usize, vectors.value_length() as usize),
            None => {
                let offsets = self.vectors.as_list::<i32>().value_offsets();
                (offsets[row] as usize, (offsets[row + 1] - offsets[row]) as usize)
            }
        };
        let has_null = self.values.nulls().is_some_and(|nulls| nulls.slice(start, len).null_count() > 0);
        (!has_null).then(|| &self.values.values()[start..start + len])
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, run};
    use super::*;

    #[test]
    fn vectors_that_fit_are_not_cast() {
        let vector =
            |name: &str, element, nullable| DataType::FixedSizeList(Arc::new(Field::new(name, element, nullable)), 4);
        let list = DataType::new_list(DataType::Float64, true);
        for function in functions(|_| None) {
            for fits in [vector("item", DataType::Float32, true), vector("element", DataType::Float32, false)] {
                assert_eq!(function.coerce_types(&[fits.clone(), list.clone()]).unwrap()[0], fits);
            }
            let cast = vector("item", DataType::Float32, true);
            assert_eq!(function.coerce_types(&[vector("h", DataType::Float16, false), list.clone()]).unwrap()[0], cast);
        }
    }

    #[tokio::test]
    async fn vectors_of_fixed_size_have_the_distances_that_lists_have() {
        let fixture = Fixture::new();
        let session = fixture.session();
        let create = "CREATE TABLE v AS SELECT arrow_cast(column1, 'FixedSizeList(2, Float32)') AS f, \
                      arrow_cast(column1, 'FixedSizeList(2, Float64)') AS d, \
                      arrow_cast(column1, 'FixedSizeList(2, Float16)') AS h, \
                      column1 AS l FROM VALUES ([3.0, 4.0]), ([0.0, 0.0]), (NULL), ([1.0, NULL]), ([-8.0, 6.0])";
        run(&session, create).await.unwrap();
        for (function, expected) in [
            ("l2_distance", ["5.0", "0.0", "NULL", "NULL", "10.0"]),
            ("cosine_distance", ["0.0", "NULL", "NULL", "NULL", "1.0"]),
            ("inner_product", ["25.0", "0.0", "NULL", "NULL", "0.0"]),
        ] {
            let origin = if function == "l2_distance" { "[0.0, 0.0]" } else { "[3, 4]" };
            for column in ["f", "d", "h", "l"] {
                for (x, y) in [(column, origin), (origin, column)] {
                    let sql = format!("SELECT round({function}({x}, {y})) FROM v");
                    assert_eq!(run(&session, &sql).await.unwrap(), expected, "{sql}");
                }
            }
        }
        let both =
            "SELECT l2_distance(f, d), l2_distance(h, h), inner_product(f, NULL), cosine_distance(l, l) FROM v LIMIT 1";
        assert_eq!(run(&session, both).await.unwrap(), ["0.0 0.0 NULL 0.0"]);
    }

    #[tokio::test]
    async fn vectors_of_other_sizes_and_types_are_refused() {
        let fixture = Fixture::new();
        let session = fixture.session();
        run(&session, "CREATE TABLE v AS SELECT arrow_cast([3.0, 4.0], 'FixedSizeList(2, Float32)') AS f")
            .await
            .unwrap();
        for (call, part) in [
            ("l2_distance(f, [1.0])", "one of 2 and one of 1 elements"),
            ("l2_distance(f, arrow_cast([1.0], 'FixedSizeList(1, Float32)'))", "vectors of one size"),
            ("cosine_distance(f, 'near')", "not with Utf8"),
            ("inner_product(f)", "2 arguments"),
        ] {
            let error = run(&session, &format!("SELECT {call} FROM v")).await.unwrap_err().to_string();
            assert!(error.contains(part), "{call}: {error}");
        }
    }
}
