//! The values of a memtable's column in order, and its rows whose values lie in ranges.
//!
//! The values are in a skip list, whose readers take no lock, each with its row. Rows that were superseded stay in it.
//! Values are compared as DataFusion does, but that zero has no sign: what comes out is looked at again.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, Float64Type, Int64Type, UInt64Type, i256};
use crossbeam_skiplist::SkipSet;
use datafusion::common::ScalarValue;

use super::row_index::{IndexState, Indexed, RowIndex, RowIndexFactory};
use super::view::MemTableView;
use crate::error::{Error, Result};
use crate::ids::GenerationId;
use crate::index_spec::IndexKind;
use crate::schema::TableSchema;
use crate::source::ValueRanges;

/// About what the list takes for one row beside the value: its tower, its counters and the row.
const NODE: usize = 56;

/// Makes a [`ScalarRows`] for each memtable.
#[derive(Debug)]
pub struct ScalarRowsFactory {
    name: String,
    column: (usize, String),
    data_type: DataType,
    kind: IndexKind,
}

impl ScalarRowsFactory {
    /// Indexes called `name` of the column named `column`; generations get those of the kind `kind`.
    ///
    /// # Errors
    /// `Invalid` if its values have no order.
    pub fn try_new(schema: &TableSchema, name: &str, column: &str, kind: &IndexKind) -> Result<Self> {
        let found = schema.logical().column_with_name(column);
        match found.filter(|(_, field)| Values::of(field.data_type()).is_some()) {
            Some((at, field)) => Ok(Self {
                name: name.to_string(),
                column: (at, column.to_string()),
                data_type: field.data_type().clone(),
                kind: kind.clone(),
            }),
            None => Err(Error::invalid(format!("'{column}' is no column of numbers, texts, dates, times or booleans"))),
        }
    }
}

impl RowIndexFactory for ScalarRowsFactory {
    fn name(&self) -> &str {
        &self.name
    }

    fn create(&self, _: &TableSchema, _: GenerationId) -> Arc<dyn RowIndex> {
        let (column, name) = self.column.clone();
        let values = Values::of(&self.data_type).expect("try_new refuses what has no order");
        let (data_type, kind, missing) = (self.data_type.clone(), self.kind.clone(), boxcar::Vec::new());
        Arc::new(ScalarRows { name, column, data_type, kind, values, missing, bytes: AtomicUsize::new(0) })
    }
}

/// The values of one column of a memtable.
pub struct ScalarRows {
    /// The column's.
    name: String,
    column: usize,
    data_type: DataType,
    kind: IndexKind,
    values: Values,
    /// Rows without a value.
    missing: boxcar::Vec<u32>,
    bytes: AtomicUsize,
}

/// Values and their rows in order.
enum Values {
    /// Of at most eight bytes.
    Short(SkipSet<(i64, u32)>),
    Long(SkipSet<(i128, u32)>),
    Huge(SkipSet<(i256, u32)>),
    Text(SkipSet<(Box<str>, u32)>),
}

impl ScalarRows {
    /// The index of `view` that knows the column of `ranges`, if there is one that was not given up.
    pub fn of(view: &MemTableView, ranges: &ValueRanges) -> Option<(Indexed<Self>, Arc<IndexState>)> {
        view.table().find_index(|rows: &Self| rows.name == ranges.column)
    }

    /// The place of its column.
    pub fn column(&self) -> usize {
        self.column
    }

    /// What it becomes in a generation.
    pub fn kind(&self) -> &IndexKind {
        &self.kind
    }

    /// Which of the first `rows` rows may have a value in `ranges`: those of the first `indexed` that do, and all others.
    /// Row `r` may if bit `r % 64` of word `r / 64` is set. `None` if these are more than `most`, or a bound is not of the
    /// column's type.
    pub fn candidates(&self, ranges: &ValueRanges, indexed: usize, rows: usize, most: usize) -> Option<Vec<u64>> {
        let indexed = indexed.min(rows);
        let (mut words, mut left) = (vec![0u64; rows.div_ceil(64)], most.checked_sub(rows - indexed)?);
        // Rows above the watermark count too: they are passed over all the same.
        let mut take = |row: u32| {
            let row = row as usize;
            if row < indexed {
                words[row / 64] |= 1 << (row % 64);
            }
            left.checked_sub(1).map(|rest| left = rest)
        };
        for (from, to) in &ranges.ranges {
            let (from, to) = (self.bound(from)?, self.bound(to)?);
            match &self.values {
                Values::Short(values) => within(values, from, to, |keys| Some(shorts(keys)?.value(0)), &mut take)?,
                Values::Long(values) => {
                    within(
                        values,
                        from,
                        to,
                        |key| Some(key.as_primitive_opt::<Decimal128Type>()?.value(0)),
                        &mut take,
                    )?;
                }
                Values::Huge(values) => {
                    within(
                        values,
                        from,
                        to,
                        |key| Some(key.as_primitive_opt::<Decimal256Type>()?.value(0)),
                        &mut take,
                    )?;
                }
                Values::Text(values) => within(values, from, to, |key| Some(text(key, 0)?.into()), &mut take)?,
            }
        }
        if ranges.nulls {
            self.missing.iter().try_for_each(|(_, row)| take(*row))?;
        }
        (indexed..rows).for_each(|row| words[row / 64] |= 1 << (row % 64));
        Some(words)
    }

    /// The bound as a column of one row.
    fn bound(&self, bound: &Bound<ScalarValue>) -> Option<Bound<ArrayRef>> {
        let array = |value: &ScalarValue| {
            let is_text = matches!(self.values, Values::Text(_)) && value.try_as_str().is_some();
            (value.data_type() == self.data_type || is_text).then(|| value.to_array().ok()).flatten()
        };
        Some(match bound {
            Bound::Included(value) => Bound::Included(array(value)?),
            // A filter tells zeros apart by their sign, which this index does not have.
            Bound::Excluded(value) if is_zero(value) => Bound::Included(array(value)?),
            Bound::Excluded(value) => Bound::Excluded(array(value)?),
            Bound::Unbounded => Bound::Unbounded,
        })
    }

    fn put<K: Ord + Send + 'static>(
        &self,
        values: &SkipSet<(K, u32)>,
        start: u32,
        column: &dyn Array,
        key: impl Fn(usize) -> Option<(K, usize)>,
    ) -> Result<()> {
        let wrong = || Error::internal("a column has another type than its index");
        let mut bytes = 0;
        for (row, at) in (start..).zip(0..column.len()) {
            if column.is_null(at) {
                bytes += size_of::<u32>();
                self.missing.push(row);
            } else {
                let (key, beside) = key(at).ok_or_else(wrong)?;
                bytes += NODE + size_of::<K>() + beside;
                values.insert((key, row));
            }
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// Calls `take` with the rows of the values in a range until it says no.
fn within<K: Ord + Clone>(
    values: &SkipSet<(K, u32)>,
    from: Bound<ArrayRef>,
    to: Bound<ArrayRef>,
    key: impl Fn(&ArrayRef) -> Option<K>,
    take: &mut impl FnMut(u32) -> Option<()>,
) -> Option<()> {
    let from = match from {
        Bound::Included(value) => Bound::Included((key(&value)?, 0)),
        Bound::Excluded(value) => Bound::Excluded((key(&value)?, u32::MAX)),
        Bound::Unbounded => Bound::Unbounded,
    };
    let to = match to {
        Bound::Included(value) => Bound::Included((key(&value)?, u32::MAX)),
        Bound::Excluded(value) => Bound::Excluded((key(&value)?, 0)),
        Bound::Unbounded => Bound::Unbounded,
    };
    let is_empty = match (&from, &to) {
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
        _ => false,
    };
    // A skip list may not be asked for what ends before it begins.
    if is_empty { Some(()) } else { values.range((from, to)).try_for_each(|entry| take(entry.1)) }
}

impl RowIndex for ScalarRows {
    fn append(&self, start: usize, rows: &RecordBatch) -> Result<()> {
        let start = u32::try_from(start).map_err(|_| Error::internal("there are too many rows"))?;
        let column = rows.column(self.column);
        let fixed = column.as_ref();
        match &self.values {
            Values::Short(values) => {
                let keys = shorts(column).ok_or_else(|| Error::internal("values have no order"))?;
                self.put(values, start, fixed, |at| Some((keys.value(at), 0)))
            }
            Values::Long(values) => {
                let keys = column.as_primitive_opt::<Decimal128Type>();
                self.put(values, start, fixed, |at| Some((keys?.value(at), 0)))
            }
            Values::Huge(values) => {
                let keys = column.as_primitive_opt::<Decimal256Type>();
                self.put(values, start, fixed, |at| Some((keys?.value(at), 0)))
            }
            Values::Text(values) => self.put(values, start, fixed, |at| {
                let text = text(column, at)?;
                Some((text.into(), text.len()))
            }),
        }
    }

    fn memory(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for ScalarRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScalarRows").field("column", &self.name).field("type", &self.data_type).finish_non_exhaustive()
    }
}

impl Values {
    /// An empty list for values of this type, if they have an order.
    fn of(data_type: &DataType) -> Option<Self> {
        use DataType::*;
        Some(match data_type {
            Utf8 | LargeUtf8 => Self::Text(SkipSet::new()),
            Decimal128(..) => Self::Long(SkipSet::new()),
            Decimal256(..) => Self::Huge(SkipSet::new()),
            Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Float16 | Float32 | Float64
            | Date32 | Date64 | Time32(_) | Time64(_) | Timestamp(..) => Self::Short(SkipSet::new()),
            _ => return None,
        })
    }
}

/// The text in a row.
fn text(texts: &dyn Array, row: usize) -> Option<&str> {
    Some(match texts.data_type() {
        DataType::Utf8 => texts.as_string::<i32>().value(row),
        DataType::LargeUtf8 => texts.as_string::<i64>().value(row),
        DataType::Utf8View => texts.as_string_view().value(row),
        _ => return None,
    })
}

/// Values of at most eight bytes as integers in the same order.
fn shorts(values: &ArrayRef) -> Option<Int64Array> {
    let integers = match values.data_type() {
        DataType::UInt64 => {
            let numbers = values.as_primitive::<UInt64Type>();
            return Some(numbers.unary::<_, Int64Type>(|number| (number ^ (1 << 63)) as i64));
        }
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            let numbers = cast(values, &DataType::Float64).ok()?;
            return Some(numbers.as_primitive::<Float64Type>().unary::<_, Int64Type>(order_of));
        }
        DataType::Time32(_) => &cast(values, &DataType::Int32).ok()?,
        _ => values,
    };
    Some(cast(integers, &DataType::Int64).ok()?.as_primitive::<Int64Type>().clone())
}

/// Whether a value is a zero of floats.
fn is_zero(value: &ScalarValue) -> bool {
    match value {
        ScalarValue::Float16(Some(float)) => f32::from(*float) == 0.0,
        ScalarValue::Float32(Some(float)) => *float == 0.0,
        ScalarValue::Float64(Some(float)) => *float == 0.0,
        _ => false,
    }
}

/// The place of a float among all: NaN with a sign comes first, NaN without one last, and zero has none.
fn order_of(number: f64) -> i64 {
    let bits = (number + 0.0).to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;
    use std::time::Duration;

    use arrow::array::{Float64Array, StringArray, UInt64Array};
    use arrow::datatypes::{Field, Schema};

    use crate::memtable::MemTable;

    /// An index of a column, in front of which are the keys.
    fn index(values: ArrayRef) -> ScalarRows {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("v", values.data_type().clone(), true),
        ]);
        let schema = TableSchema::try_new(&schema, &["id".into()]).unwrap();
        let factory = ScalarRowsFactory::try_new(&schema, "i", "v", &IndexKind::BTree).unwrap();
        let (column, name) = factory.column.clone();
        let values_of = Values::of(values.data_type()).unwrap();
        let index = ScalarRows {
            name,
            column,
            data_type: values.data_type().clone(),
            kind: IndexKind::BTree,
            values: values_of,
            missing: boxcar::Vec::new(),
            bytes: AtomicUsize::new(0),
        };
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..values.len() as i64));
        let rows = RecordBatch::try_from_iter_with_nullable([("id", ids, false), ("v", values, true)]).unwrap();
        let half = rows.num_rows() / 2;
        index.append(0, &rows.slice(0, half)).unwrap();
        index.append(half, &rows.slice(half, rows.num_rows() - half)).unwrap();
        index
    }

    fn found(index: &ScalarRows, ranges: &ValueRanges, indexed: usize, rows: usize) -> Vec<usize> {
        let words = index.candidates(ranges, indexed, rows, usize::MAX).unwrap();
        (0..rows).filter(|row| words[row / 64] >> (row % 64) & 1 == 1).collect()
    }

    fn range(from: Bound<ScalarValue>, to: Bound<ScalarValue>) -> ValueRanges {
        ValueRanges::within("v", from, to)
    }

    #[test]
    fn rows_are_found_by_ranges_of_values_of_every_type() {
        use Bound::{Excluded, Included, Unbounded};
        let numbers = Int64Array::from(vec![Some(5), Some(-3), None, Some(7), Some(5), Some(i64::MAX)]);
        for data_type in [
            DataType::Int64,
            DataType::Decimal128(20, 0),
            DataType::Decimal256(40, 0),
            DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into())),
            DataType::Time64(arrow::datatypes::TimeUnit::Nanosecond),
            DataType::Float64,
        ] {
            let column = cast(&numbers, &data_type).unwrap();
            let value = |n: i64| ScalarValue::try_from_array(&cast(&Int64Array::from(vec![n]), &data_type).unwrap(), 0);
            let value = |n: i64| value(n).unwrap();
            let index = index(column);
            let rows = |from, to| found(&index, &range(from, to), 6, 6);
            assert_eq!(rows(Included(value(5)), Included(value(5))), [0, 4], "{data_type}");
            assert_eq!(rows(Excluded(value(5)), Unbounded), [3, 5]);
            assert_eq!(rows(Unbounded, Excluded(value(5))), [1]);
            assert_eq!(rows(Included(value(-3)), Included(value(7))), [0, 1, 3, 4]);
            assert_eq!(rows(Included(value(7)), Excluded(value(5))), [0usize; 0]);
            assert_eq!(rows(Excluded(value(5)), Excluded(value(5))), [0usize; 0]);
            let nulls = ValueRanges { column: "v".into(), ranges: Vec::new(), nulls: true };
            assert_eq!(found(&index, &nulls, 6, 6), [2]);
            assert!(index.memory() > 0);
        }
        let small = index(Arc::new(UInt64Array::from(vec![u64::MAX, 0, 1 << 63])));
        let above = range(Excluded(ScalarValue::UInt64(Some(1))), Unbounded);
        assert_eq!(found(&small, &above, 3, 3), [0, 2]);
        let wrong = range(Included(ScalarValue::Int64(Some(1))), Unbounded);
        assert!(small.candidates(&wrong, 3, 3, 9).is_none(), "of another type");
    }

    #[test]
    fn texts_and_floats_have_the_order_that_filters_give_them() {
        use Bound::{Excluded, Included, Unbounded};
        let texts = index(Arc::new(StringArray::from(vec!["b", "", "ä", "a", "ab"])));
        let utf8 = |text: &str| ScalarValue::Utf8View(Some(text.into()));
        assert_eq!(found(&texts, &range(Included(utf8("a")), Included(utf8("b"))), 5, 5), [0, 3, 4]);
        assert_eq!(found(&texts, &range(Included(utf8("c")), Unbounded), 5, 5), [2]);
        let floats = index(Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, -1.5, f64::INFINITY, -f64::NAN])));
        let float = |number: f64| ScalarValue::Float64(Some(number));
        assert_eq!(found(&floats, &range(Included(float(0.0)), Included(float(0.0))), 6, 6), [0, 1]);
        assert_eq!(found(&floats, &range(Included(float(-0.0)), Unbounded), 6, 6), [0, 1, 2, 4]);
        assert_eq!(found(&floats, &range(Unbounded, Included(float(-1.0))), 6, 6), [3, 5]);
        // -0.0 < 0.0 for a filter, and the index cannot tell.
        assert_eq!(found(&floats, &range(Unbounded, Excluded(float(0.0))), 6, 6), [0, 1, 3, 5]);
        assert_eq!(found(&floats, &range(Excluded(float(-0.0)), Unbounded), 6, 6), [0, 1, 2, 4]);
    }

    #[test]
    fn rows_that_are_not_indexed_are_candidates_and_too_many_are_none() {
        let numbers = index(Arc::new(Int64Array::from_iter_values(0..100)));
        let one = range(Bound::Included(ScalarValue::Int64(Some(3))), Bound::Included(ScalarValue::Int64(Some(3))));
        assert_eq!(found(&numbers, &one, 90, 93), [3, 90, 91, 92]);
        assert_eq!(found(&numbers, &one, 2, 3), [2]);
        let all = range(Bound::Unbounded, Bound::Unbounded);
        assert!(numbers.candidates(&all, 100, 100, 99).is_none());
        assert!(numbers.candidates(&all, 100, 100, 100).is_some());
        assert!(numbers.candidates(&one, 10, 100, 20).is_none());
    }

    #[test]
    fn ranges_are_joined_where_one_range_says_it() {
        use Bound::{Excluded, Included, Unbounded};
        let number = |n| ScalarValue::Int64(Some(n));
        let (low, high) = (range(Included(number(3)), Unbounded), range(Excluded(number(3)), Excluded(number(9))));
        assert_eq!(low.and(&high).unwrap(), high);
        assert_eq!(
            high.and(&range(Unbounded, Included(number(5)))).unwrap(),
            range(Excluded(number(3)), Included(number(5)))
        );
        let both = low.clone().or(high.clone()).unwrap();
        assert!(both.ranges.len() == 2 && both.and(&low).is_none());
    }

    #[test]
    fn a_memtable_finds_its_index_of_a_column() {
        let schema = Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("v", DataType::Utf8, true)]);
        let schema = Arc::new(TableSchema::try_new(&schema, &["id".into()]).unwrap());
        let lease = crate::cache::MemoryBudget::new(1 << 20).lease();
        let table = Arc::new(MemTable::new(GenerationId(1), Arc::clone(&schema), Duration::ZERO, lease));
        let view = MemTableView::new(Arc::clone(&table), 0);
        let ranges = range(Bound::Unbounded, Bound::Unbounded);
        assert!(ScalarRows::of(&view, &ranges).is_none());
        let factory: Arc<dyn RowIndexFactory> =
            Arc::new(ScalarRowsFactory::try_new(&schema, "i", "v", &IndexKind::BTree).unwrap());
        table.set_indexes(std::slice::from_ref(&factory), true);
        let (held, state) = ScalarRows::of(&view, &ranges).unwrap();
        assert!(state.is_awaited() && table.indexed() == 0);
        table.set_indexes(&[], true);
        assert!(ScalarRows::of(&view, &ranges).is_none() && table.indexed() == usize::MAX);
        assert_eq!(held.candidates(&ranges, 0, 0, 1).unwrap(), [0u64; 0], "who has it keeps it");
    }
}
