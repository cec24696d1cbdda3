//! The rows of a memtable whose values pass filters, by its indexes of values; a filter above decides.

use std::ops::Bound;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use futures::stream::BoxStream;
use roaring::RoaringTreemap;

use super::text_match::{bits, found, positions};
use crate::block_list::MemTableRows;
use crate::error::Result;
use crate::memtable::{MemTableView, ScalarRows};
use crate::schema::TableSchema;
use crate::source::{RowSource, ValueRanges, Work, WorkListener};

/// An index helps as long as it leaves at most one row in so many: it finds rows one by one, and a filter looks at many at a
/// time.
const SHARE: usize = 32;
/// In a small memtable, one in so many, up to so many rows.
const SMALL_SHARE: usize = 4;
const FEW: usize = 1024;

/// What `filters`, a conjunction, let columns have, as far as ranges tell it: what one of them says of a column is in
/// one of them.
pub fn value_ranges<'a>(table: &TableSchema, filters: impl IntoIterator<Item = &'a Expr>) -> Vec<ValueRanges> {
    let mut all: Vec<ValueRanges> = Vec::new();
    for part in filters.into_iter().flat_map(split_conjunction) {
        let Some(ranges) = ranges_of(table, part) else { continue };
        match all.iter_mut().find_map(|other| Some((other.and(&ranges)?, other))) {
            Some((both, other)) => *other = both,
            None => all.push(ranges),
        }
    }
    all
}

/// Leaves of `words`, a bit a row, those of rows that may have values in all of `ranges` as far as indexes tell; whether
/// one did.
pub(super) fn narrow(view: &MemTableView, ranges: &[ValueRanges], words: &mut [u64]) -> bool {
    let rows = view.watermark();
    let most = (rows / SHARE).max((rows / SMALL_SHARE).min(FEW));
    let mut narrowed = false;
    for ranges in ranges {
        let Some((index, state)) = ScalarRows::of(view, ranges) else { continue };
        if let Some(candidates) = index.candidates(ranges, state.indexed(), rows, most) {
            words.iter_mut().zip(candidates).for_each(|(word, other)| *word &= other);
            narrowed = true;
        }
    }
    narrowed
}

/// Live rows of a memtable that may have values in all of some ranges.
#[derive(Debug)]
pub(super) struct ValueMatches {
    rows: MemTableRows,
    ranges: Arc<[ValueRanges]>,
}

impl ValueMatches {
    /// The rows that may; `None` if no index knows one of the columns.
    pub(super) fn try_new(rows: &MemTableRows, ranges: &Arc<[ValueRanges]>) -> Option<Self> {
        let known = ranges.iter().any(|ranges| ScalarRows::of(rows.view(), ranges).is_some());
        known.then(|| Self { rows: rows.clone(), ranges: Arc::clone(ranges) })
    }

    /// Their positions, in order, and what finding them took; `None` if they are too many for the index to be worth it.
    fn find(rows: &MemTableRows, ranges: &[ValueRanges], blocked: &RoaringTreemap) -> Option<(Vec<usize>, Work)> {
        let view = rows.view();
        let mut words = vec![u64::MAX; view.watermark().div_ceil(64)];
        if !narrow(view, ranges, &mut words) {
            return None;
        }
        words.iter_mut().zip(view.live_words(blocked)).for_each(|(word, live)| *word &= live);
        let mut work = Work::default();
        work.add("candidates", bits(&words));
        Some((positions(words, view.watermark()), work))
    }
}

impl RowSource for ValueMatches {
    fn label(&self) -> String {
        format!("{} by value", self.rows.label())
    }

    fn row_count(&self) -> usize {
        self.rows.row_count()
    }

    fn yields_all(&self) -> bool {
        false
    }

    fn rows(
        &self,
        projection: &[usize],
        schema: &SchemaRef,
        batch_size: usize,
        told: WorkListener,
    ) -> BoxStream<'static, Result<RecordBatch>> {
        let ranges = Arc::clone(&self.ranges);
        let find = move |rows: &MemTableRows, blocked: &RoaringTreemap| Ok(Self::find(rows, &ranges, blocked));
        found(&self.rows, find, projection, schema, batch_size, told)
    }
}

/// What one filter lets a column have.
fn ranges_of(table: &TableSchema, filter: &Expr) -> Option<ValueRanges> {
    let column = |expr: &Expr| match expr {
        Expr::Column(column) => {
            let (_, field) = table.logical().column_with_name(&column.name)?;
            Some((column.name.clone(), field.data_type().clone()))
        }
        _ => None,
    };
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            ranges_of(table, left)?.or(ranges_of(table, right)?)
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            ranges_of(table, left)?.and(&ranges_of(table, right)?)
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (column(left), column(right)) {
            (Some((name, data_type)), None) => compared(&name, *op, value(right, &data_type)?),
            (None, Some((name, data_type))) => compared(&name, op.swap()?, value(left, &data_type)?),
            _ => None,
        },
        Expr::Between(between) if !between.negated => {
            let (name, data_type) = column(&between.expr)?;
            let (low, high) = (value(&between.low, &data_type)?, value(&between.high, &data_type)?);
            Some(ValueRanges::within(&name, Bound::Included(low), Bound::Included(high)))
        }
        Expr::InList(list) if !list.negated => {
            let (name, data_type) = column(&list.expr)?;
            let one = |item| value(item, &data_type).map(|v| (Bound::Included(v.clone()), Bound::Included(v)));
            // NULL in the list lets nothing through that its other values do not.
            let items = list.list.iter().filter(|item| !matches!(item, Expr::Literal(v, _) if v.is_null()));
            Some(ValueRanges { column: name, ranges: items.map(one).collect::<Option<_>>()?, nulls: false })
        }
        Expr::IsNull(inner) => Some(ValueRanges { column: column(inner)?.0, ranges: Vec::new(), nulls: true }),
        Expr::Column(_) => {
            let (name, data_type) = column(filter)?;
            let yes = (data_type == DataType::Boolean).then_some(ScalarValue::Boolean(Some(true)))?;
            compared(&name, Operator::Eq, yes)
        }
        Expr::Not(inner) => {
            let (name, data_type) = column(inner)?;
            let no = (data_type == DataType::Boolean).then_some(ScalarValue::Boolean(Some(false)))?;
            compared(&name, Operator::Eq, no)
        }
        _ => None,
    }
}

fn compared(column: &str, op: Operator, value: ScalarValue) -> Option<ValueRanges> {
    use Bound::{Excluded, Included, Unbounded};
    let (from, to) = match op {
        Operator::Eq => (Included(value.clone()), Included(value)),
        Operator::Lt => (Unbounded, Excluded(value)),
        Operator::LtEq => (Unbounded, Included(value)),
        Operator::Gt => (Excluded(value), Unbounded),
        Operator::GtEq => (Included(value), Unbounded),
        _ => return None,
    };
    Some(ValueRanges::within(column, from, to))
}

/// The value of a literal of this type, which is not NULL.
fn value(expr: &Expr, data_type: &DataType) -> Option<ScalarValue> {
    let Expr::Literal(value, _) = expr else { return None };
    let alike = value.data_type() == *data_type
        || matches!(data_type, DataType::Utf8 | DataType::LargeUtf8) && value.try_as_str().is_some();
    (alike && !value.is_null()).then(|| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    use arrow::datatypes::{Field, Schema};
    use datafusion::prelude::{col, lit};

    #[test]
    fn filters_become_ranges_where_ranges_say_them() {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("n", DataType::Int64, true),
            Field::new("s", DataType::Utf8, true),
            Field::new("b", DataType::Boolean, true),
        ]);
        let table = TableSchema::try_new(&schema, &["id".into()]).unwrap();
        let shown = |filter: Expr| {
            let ranges = value_ranges(&table, [&filter]);
            let range = |(from, to): &(Bound<ScalarValue>, Bound<ScalarValue>)| format!("{from:?}..{to:?}");
            let column = |r: &ValueRanges| {
                let ranges: Vec<String> = r.ranges.iter().map(range).collect();
                format!("{} {}{}", r.column, ranges.join(" "), if r.nulls { " NULL" } else { "" })
            };
            ranges.iter().map(column).collect::<Vec<_>>().join("; ")
        };
        let five = "Included(Int64(5))";
        assert_eq!(shown(col("n").eq(lit(5i64))), format!("n {five}..{five}"));
        assert_eq!(shown(lit(5i64).lt_eq(col("n"))), format!("n {five}..Unbounded"));
        assert_eq!(
            shown(col("n").gt(lit(1i64)).and(col("n").lt_eq(lit(5i64))).and(col("s").eq(lit("x")))),
            format!("n Excluded(Int64(1))..{five}; s Included(Utf8(\"x\"))..Included(Utf8(\"x\"))")
        );
        assert_eq!(shown(col("n").is_null().or(col("n").eq(lit(5i64)))), format!("n {five}..{five} NULL"));
        assert_eq!(shown(col("n").between(lit(5i64), lit(5i64))), format!("n {five}..{five}"));
        assert_eq!(
            shown(col("n").in_list(vec![lit(5i64), lit(ScalarValue::Int64(None))], false)),
            format!("n {five}..{five}")
        );
        assert_eq!(shown(!col("b")), "b Included(Boolean(false))..Included(Boolean(false))");
        for not in [
            col("n").eq(lit(5i32)),
            col("n").not_eq(lit(5i64)),
            col("n").eq(lit(ScalarValue::Int64(None))),
            col("n").in_list(vec![lit(5i64)], true),
            col("n").eq(lit(5i64)).or(col("s").eq(lit("x"))),
            col("n").eq(col("id")),
            col("m").eq(lit(5i64)),
        ] {
            assert_eq!(shown(not.clone()), "", "{not}");
        }
    }
}
