//! What a vector in a statement is called: its numbers if they are few, else some of them and a checksum.
//!
//! DataFusion names expressions over and over while it plans. The name of a distance from a thousand numbers would take
//! longer to write than the search takes.

use std::fmt::Write;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float32Type};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Expr;

/// Vectors of up to so many elements are named as DataFusion does.
const FEW: usize = 8;
/// Elements that are told of others.
const SHOWN: usize = 3;

/// The name of a constant vector of many elements, the same before and after it is cast or folded; `None` if `expr` is
/// something else.
pub(super) fn vector_name(expr: &Expr) -> Option<String> {
    let elements = elements_of(expr).filter(|elements| elements.len() > FEW)?;
    let mut checksum = crc32fast::Hasher::new();
    elements.iter().for_each(|element| checksum.update(&element.to_le_bytes()));
    let mut name = String::from("[");
    for element in &elements[..SHOWN] {
        // Writing to a string does not fail.
        let _ = write!(name, "{element},");
    }
    let _ = write!(name, "…{} elements,{:08x}]", elements.len(), checksum.finalize());
    Some(name)
}

fn elements_of(expr: &Expr) -> Option<Vec<f32>> {
    match expr {
        Expr::Literal(ScalarValue::List(list), _) if list.is_valid(0) => of_array(list.value(0)),
        Expr::Literal(ScalarValue::FixedSizeList(list), _) if list.is_valid(0) => of_array(list.value(0)),
        Expr::Cast(cast) => elements_of(&cast.expr),
        Expr::ScalarFunction(call) if call.name() == "make_array" => call.args.iter().map(number).collect(),
        _ => None,
    }
}

fn of_array(elements: ArrayRef) -> Option<Vec<f32>> {
    let elements = cast(&elements, &DataType::Float32).ok()?;
    (elements.null_count() == 0).then(|| elements.as_primitive::<Float32Type>().values().to_vec())
}

fn number(expr: &Expr) -> Option<f32> {
    let Expr::Literal(value, _) = expr else { return None };
    match value {
        ScalarValue::Float64(Some(value)) => Some(*value as f32),
        ScalarValue::Int64(Some(value)) => Some(*value as f32),
        other => match other.cast_to(&DataType::Float32).ok()? {
            ScalarValue::Float32(value) => value,
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::Float32Array;
    use datafusion::functions_nested::expr_fn::make_array;
    use datafusion::logical_expr::{cast as cast_expr, lit};

    use super::*;

    #[test]
    fn a_long_vector_has_one_short_name_however_it_is_written() {
        let numbers = |n: u32| (0..n).map(|i| f64::from(i) / 3.0);
        let list = |n| {
            ScalarValue::List(ScalarValue::new_list_nullable(
                &numbers(n).map(ScalarValue::from).collect::<Vec<_>>(),
                &DataType::Float64,
            ))
        };
        let written = make_array(numbers(500).map(lit).collect());
        let name = vector_name(&written).unwrap();
        assert!(name.starts_with("[0,0.33333334,0.6666667,…500 elements,") && name.len() < 60, "{name}");
        assert_eq!(vector_name(&Expr::Literal(list(500), None)), Some(name.clone()));
        let folded = Float32Array::from_iter_values(numbers(500).map(|value| value as f32));
        let folded = ScalarValue::List(std::sync::Arc::new(
            datafusion::common::utils::SingleRowListArrayBuilder::new(std::sync::Arc::new(folded)).build_list_array(),
        ));
        assert_eq!(vector_name(&Expr::Literal(folded.clone(), None)), Some(name.clone()));
        assert_eq!(vector_name(&cast_expr(written, folded.data_type())), Some(name.clone()));
        assert_ne!(vector_name(&Expr::Literal(list(501), None)), Some(name));
        for other in [Expr::Literal(list(8), None), lit(1), make_array(vec![lit(ScalarValue::Null); 20])] {
            assert_eq!(vector_name(&other), None, "{other}");
        }
    }
}
