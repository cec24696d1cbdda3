//! How many bytes rows take.

use arrow::array::{Array, AsArray, OffsetSizeTrait, RecordBatch};
use arrow::datatypes::DataType;

/// Bytes of the values a batch shows, not of the buffers it shares with others. Allocates nothing for columns of
/// numbers, strings, binary and lists of them.
pub fn row_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|c| array_bytes(c.as_ref())).sum()
}

/// As [`row_bytes`], of one column.
pub fn array_bytes(array: &dyn Array) -> usize {
    let rows = array.len();
    let validity = if array.nulls().is_some() { rows.div_ceil(8) } else { 0 };
    validity
        + match array.data_type() {
            DataType::Boolean => rows.div_ceil(8),
            DataType::Utf8 => offset_bytes(array.as_string::<i32>().value_offsets(), |from, to| to - from),
            DataType::LargeUtf8 => offset_bytes(array.as_string::<i64>().value_offsets(), |from, to| to - from),
            DataType::Binary => offset_bytes(array.as_binary::<i32>().value_offsets(), |from, to| to - from),
            DataType::LargeBinary => offset_bytes(array.as_binary::<i64>().value_offsets(), |from, to| to - from),
            DataType::FixedSizeBinary(width) => rows * usize::try_from(*width).unwrap_or(0),
            DataType::FixedSizeList(_, _) => array_bytes(array.as_fixed_size_list().values().as_ref()),
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                offset_bytes(list.value_offsets(), |from, to| range_bytes(list.values().as_ref(), from, to))
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                offset_bytes(list.value_offsets(), |from, to| range_bytes(list.values().as_ref(), from, to))
            }
            DataType::Struct(_) => array.as_struct().columns().iter().map(|c| array_bytes(c.as_ref())).sum(),
            other => match other.primitive_width() {
                Some(width) => rows * width,
                None => array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size()),
            },
        }
}

fn offset_bytes<O: OffsetSizeTrait>(offsets: &[O], values: impl Fn(usize, usize) -> usize) -> usize {
    let ends = offsets.first().zip(offsets.last()).map(|(from, to)| values(from.as_usize(), to.as_usize()));
    size_of_val(offsets) + ends.unwrap_or(0)
}

fn range_bytes(values: &dyn Array, from: usize, to: usize) -> usize {
    match values.data_type().primitive_width() {
        Some(width) if values.nulls().is_none() => (to - from) * width,
        _ => array_bytes(values.slice(from, to - from).as_ref()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, FixedSizeListArray, Int64Array, ListArray, StringArray, StructArray};
    use arrow::datatypes::{Float32Type, Int32Type};

    fn arrays(rows: usize) -> Vec<ArrayRef> {
        let numbers = || (0..rows).map(|i| (i % 3 > 0).then_some(i as i64));
        let vectors = (0..rows).map(|i| Some(vec![Some(i as f32); 7]));
        let lists = (0..rows).map(|i| (i % 5 > 0).then(|| vec![Some(i as i32); i % 4]));
        let struct_of: StructArray = vec![(Arc::new(arrow::datatypes::Field::new("n", DataType::Int64, true)), {
            Arc::new(Int64Array::from_iter(numbers())) as ArrayRef
        })]
        .into();
        vec![
            Arc::new(Int64Array::from_iter_values(0..rows as i64)),
            Arc::new(Int64Array::from_iter(numbers())),
            Arc::new(StringArray::from_iter((0..rows).map(|i| (i % 4 > 0).then(|| "x".repeat(i))))),
            Arc::new(BooleanArray::from_iter((0..rows).map(|i| Some(i % 2 == 0)))),
            Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, 7)),
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists)),
            Arc::new(struct_of),
        ]
    }

    #[test]
    fn a_slice_counts_its_own_values_only() {
        for array in arrays(64) {
            let (whole, half) = (array_bytes(array.as_ref()), array_bytes(array.slice(16, 32).as_ref()));
            assert!(half < whole && half > 0, "{}: {half} of {whole}", array.data_type());
        }
    }

    #[test]
    fn sizes_agree_with_what_the_values_take_in_arrow() {
        for array in arrays(64) {
            let arrow = array.to_data().get_slice_memory_size().unwrap();
            let ours = array_bytes(array.as_ref());
            // Arrow counts child offsets and validity of nested values a little otherwise.
            assert!(ours.abs_diff(arrow) <= 16 + arrow / 8, "{}: {ours}, arrow {arrow}", array.data_type());
        }
    }
}
