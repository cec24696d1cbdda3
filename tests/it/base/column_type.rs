//! Every column type: it comes back as written, or is refused by name.

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field};
use arrow::datatypes::{Fields, IntervalUnit, TimeUnit, UnionFields, UnionMode};

use crate::place::*;
use datafusion_lsm::base::BaseTable;
use datafusion_lsm::error::ErrorKind;

fn item(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", data_type, true))
}

fn entries() -> Arc<Field> {
    let fields = vec![Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Int32, true)];
    Arc::new(Field::new("entries", DataType::Struct(fields.into()), false))
}

fn storable() -> Vec<DataType> {
    use DataType::*;
    let dictionary = |key: DataType, value: DataType| Dictionary(Box::new(key), Box::new(value));
    let mut types = vec![Null, Boolean, Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64];
    types.extend([Float16, Float32, Float64, Decimal128(38, 10), Decimal256(76, 10), Date32, Date64]);
    types.extend([Time32(TimeUnit::Second), Time32(TimeUnit::Millisecond)]);
    types.extend([Time64(TimeUnit::Microsecond), Time64(TimeUnit::Nanosecond)]);
    for unit in [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond] {
        types.extend([Timestamp(unit, None), Timestamp(unit, Some("Europe/Berlin".into())), Duration(unit)]);
    }
    types.extend([Utf8, LargeUtf8, Utf8View, Binary, LargeBinary, BinaryView, FixedSizeBinary(16), FixedSizeBinary(0)]);
    types.extend([dictionary(Int8, Utf8), dictionary(UInt32, LargeUtf8), dictionary(Int64, Binary)]);
    types.extend([dictionary(Int32, Int64), dictionary(Int32, Float64), dictionary(Int32, Utf8View)]);
    types.extend([List(item(Int32)), List(item(Utf8)), List(item(Utf8View)), List(item(List(item(Int32))))]);
    types.extend([LargeList(item(Float32)), List(item(dictionary(Int32, Utf8))), List(item(Null))]);
    types.extend([FixedSizeList(item(Float32), 4), FixedSizeList(item(Boolean), 3), FixedSizeList(item(Float16), 2)]);
    types.extend([FixedSizeList(item(Decimal128(20, 1)), 2), FixedSizeList(item(FixedSizeBinary(3)), 2)]);
    types.extend([FixedSizeList(item(Timestamp(TimeUnit::Second, Some("UTC".into()))), 2)]);
    types.extend([FixedSizeList(item(FixedSizeList(item(Float32), 2)), 2), List(item(FixedSizeList(item(Int8), 2)))]);
    types.push(Struct(vec![Field::new("a", Int32, true), Field::new("b", dictionary(Int32, Utf8), true)].into()));
    let inner = Struct(vec![Field::new("b", Utf8, true)].into());
    types.push(Struct(vec![Field::new("a", List(item(inner)), true)].into()));
    types.push(Map(entries(), false));
    types
}

fn unstorable() -> Vec<DataType> {
    use DataType::*;
    let run_ends = Arc::new(Field::new("run_ends", Int32, false));
    let union = UnionFields::try_new([0], [Field::new("i", Int32, true)]).unwrap();
    vec![
        Interval(IntervalUnit::YearMonth),
        Interval(IntervalUnit::DayTime),
        Interval(IntervalUnit::MonthDayNano),
        Decimal32(9, 2),
        Decimal64(18, 2),
        ListView(item(Int32)),
        LargeListView(item(Int32)),
        FixedSizeList(item(Float32), 0),
        FixedSizeList(item(Utf8), 2),
        FixedSizeList(item(List(item(Int32))), 2),
        FixedSizeList(item(Struct(vec![Field::new("a", Int32, true)].into())), 2),
        Struct(Fields::empty()),
        Map(entries(), true),
        RunEndEncoded(run_ends, item(Utf8)),
        Union(union, UnionMode::Dense),
        List(item(Interval(IntervalUnit::DayTime))),
        Struct(vec![Field::new("deep", List(item(Decimal32(9, 2))), true)].into()),
    ]
}

/// Three values of a type, the middle one NULL.
fn values(data_type: &DataType) -> ArrayRef {
    let nulls = Some(vec![true, false, true].into());
    match data_type {
        DataType::FixedSizeBinary(n) => {
            let bytes = [Some(vec![1; *n as usize]), None, Some(vec![3; *n as usize])];
            Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(bytes.into_iter(), *n).unwrap())
        }
        DataType::FixedSizeList(field, n) => {
            let places = UInt64Array::from_iter_values((0..3 * *n as u64).map(|i| i / *n as u64));
            let inner = take(&values(field.data_type()), &places, None).unwrap();
            Arc::new(FixedSizeListArray::try_new(Arc::clone(field), *n, inner, nulls).unwrap())
        }
        DataType::Struct(fields) => {
            let columns = fields.iter().map(|f| values(f.data_type())).collect();
            Arc::new(StructArray::try_new(fields.clone(), columns, nulls).unwrap())
        }
        DataType::List(field) => {
            let offsets = OffsetBuffer::from_lengths([2, 0, 1]);
            Arc::new(ListArray::try_new(Arc::clone(field), offsets, values(field.data_type()), nulls).unwrap())
        }
        DataType::Map(field, sorted) => {
            let DataType::Struct(fields) = field.data_type() else { unreachable!() };
            let keys: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
            let entries = StructArray::new(fields.clone(), vec![keys, values(&DataType::Int32)], None);
            let offsets = OffsetBuffer::from_lengths([2, 0, 1]);
            Arc::new(MapArray::new(Arc::clone(field), offsets, entries, nulls, *sorted))
        }
        DataType::Null => new_null_array(data_type, 3),
        DataType::Dictionary(_, value) => cast(&values(value), data_type).unwrap(),
        other => {
            let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, Some(3)]));
            let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("1"), None, Some("3")]));
            let longs = cast(&numbers, &DataType::Int64).unwrap();
            [numbers, longs, texts].iter().find_map(|from| cast(from, other).ok()).unwrap()
        }
    }
}

#[tokio::test]
async fn every_storable_type_comes_back_as_it_was_written() {
    for data_type in storable() {
        let place = Place::new().await;
        let fields = vec![Field::new("id", DataType::Int64, false), Field::new("c", data_type.clone(), true)];
        let table = place.create(&spec_of(fields, &["id"])).await;
        let stored = as_stored(&data_type);
        assert_eq!(table.schema().logical().field(1).data_type(), &stored);
        let written = [values(&stored), new_null_array(&stored, 3)];
        let batches = written.iter().zip([0, 3]).map(|(column, first)| {
            let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(first..first + 3));
            RecordBatch::try_new(Arc::clone(table.schema().logical()), vec![ids, Arc::clone(column)]).unwrap()
        });
        let table = table.replace(stream(batches.collect()), &[], std::future::ready(Ok(()))).await.unwrap();
        let read = scan(&table, &[1, 0], &[]).await;
        for (column, first) in written.iter().zip([0, 3]) {
            assert_eq!(&plain(&read.column(0).slice(first, 3)), &plain(column), "{data_type}");
        }
        let taken = table.take(&[first_id(&read) + 2, first_id(&read)], &[1]).await.unwrap();
        let wanted = take(&written[0], &UInt64Array::from(vec![2, 0]), None).unwrap();
        assert_eq!(&plain(taken.column(0)), &plain(&wanted), "{data_type}");
    }
}

fn first_id(read: &RecordBatch) -> u64 {
    read.column(2).as_primitive::<arrow::datatypes::UInt64Type>().value(0)
}

/// The column with its dictionary, which may be another, resolved.
fn plain(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Dictionary(_, value) => cast(column, value).unwrap(),
        _ => Arc::clone(column),
    }
}

#[tokio::test]
async fn every_other_type_is_refused_by_name() {
    for data_type in unstorable() {
        let place = Place::new().await;
        let fields = vec![Field::new("id", DataType::Int64, false), Field::new("odd", data_type.clone(), true)];
        let error = BaseTable::create(&place.opener, &place.io, &spec_of(fields, &["id"])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("'odd'"), "{error}");
        assert!(!place.dir.path().join("table").exists());
    }
}

/// The type with plain strings and binaries for views.
fn as_stored(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(key, value) => DataType::Dictionary(key.clone(), Box::new(as_stored(value))),
        DataType::List(field) if field.data_type() == &DataType::Utf8View => DataType::List(item(DataType::Utf8)),
        other => other.clone(),
    }
}
