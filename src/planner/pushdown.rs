//! Which filters may go down to the sources, and which pin keys.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use crate::key::{KeyColumn, PrimaryKey};
use crate::schema::TableSchema;

/// What a source does with a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterSupport {
    /// Every row that comes out passes it.
    Exact,
    /// It may spare reading; rows that do not pass may come out.
    Inexact,
    /// It is not looked at.
    Unsupported,
}

/// The most keys a lookup takes; more are a scan.
const MAX_KEYS: usize = 10_000;

/// What a scan of the table does with `filter`.
pub fn support(schema: &TableSchema, filter: &Expr) -> FilterSupport {
    if is_simple(schema, filter) { FilterSupport::Inexact } else { FilterSupport::Unsupported }
}

/// Whether every engine evaluates the filter alike: comparisons of columns with literals, and AND, OR, NOT of them.
fn is_simple(schema: &TableSchema, filter: &Expr) -> bool {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And | Operator::Or, right }) => {
            is_simple(schema, left) && is_simple(schema, right)
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(*op) => {
            matches!((comparable(schema, left), literal(right)), (Some(t), Some(l)) if l.data_type() == t)
                || matches!((literal(left), comparable(schema, right)), (Some(l), Some(t)) if l.data_type() == t)
        }
        Expr::Not(inner) => is_simple(schema, inner),
        Expr::IsNull(inner) | Expr::IsNotNull(inner) => comparable(schema, inner).is_some(),
        Expr::InList(list) => comparable(schema, &list.expr)
            .is_some_and(|t| list.list.iter().all(|e| literal(e).is_some_and(|l| l.data_type() == t))),
        Expr::Between(b) => comparable(schema, &b.expr)
            .is_some_and(|t| [&b.low, &b.high].iter().all(|e| literal(e).is_some_and(|l| l.data_type() == t))),
        _ => false,
    }
}

fn is_comparison(op: Operator) -> bool {
    matches!(op, Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq)
}

fn literal(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    }
}

/// The type of a column whose values compare alike everywhere: no floats, whose NaN and -0.0 do not.
fn comparable(schema: &TableSchema, expr: &Expr) -> Option<DataType> {
    use DataType::*;
    let Expr::Column(column) = expr else { return None };
    let (_, field) = schema.logical().column_with_name(&column.name)?;
    let simple = matches!(
        field.data_type(),
        Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Boolean | Utf8 | LargeUtf8 | Date32 | Date64
    );
    simple.then(|| field.data_type().clone())
}

/// The keys that `filters`, a conjunction, pins: the key columns in key order, one row a key, none twice; and which of
/// the filters say no more than that. `None` if they do not pin the whole key.
pub fn key_filter(key: &PrimaryKey, filters: &[Expr]) -> Option<(Vec<ArrayRef>, Vec<bool>)> {
    let mut used = vec![false; filters.len()];
    let mut columns: Vec<Vec<ScalarValue>> = Vec::new();
    for column in key.columns() {
        // Every filter that pins the column counts: nobody else may look at one that is promised.
        let mut allowed: Option<Vec<ScalarValue>> = None;
        for (filter, used) in filters.iter().zip(&mut used) {
            let Some(values) = pinned(filter, &column.name, &column.data_type) else { continue };
            *used = true;
            match &mut allowed {
                Some(allowed) => allowed.retain(|value| values.contains(value)),
                None => allowed = Some(values),
            }
        }
        columns.push(allowed?);
    }
    let count = columns.iter().try_fold(1usize, |count, values| count.checked_mul(values.len()))?;
    if count > MAX_KEYS {
        return None;
    }
    // Every combination: for a composite key `a IN (1, 2) AND b = 3` is two keys.
    let mut repeat = count;
    let mut arrays = Vec::with_capacity(columns.len());
    for (values, column) in columns.iter().zip(key.columns()) {
        repeat /= values.len().max(1);
        let combined = (0..count).map(|i| values[i / repeat.max(1) % values.len()].clone());
        arrays.push(if count == 0 {
            arrow::array::new_empty_array(&column.data_type)
        } else {
            ScalarValue::iter_to_array(combined).ok()?
        });
    }
    Some((arrays, used))
}

/// Which of `filters` a scan promises to apply: equalities, if they alone pin the whole key. The optimizer writes other
/// filters in another form after they were pushed into a scan; what is promised must still be recognised then.
pub fn promised(key: &PrimaryKey, filters: &[Expr]) -> Vec<bool> {
    let pins = |filter: &Expr, column: &KeyColumn| {
        is_equality(filter) && pinned(filter, &column.name, &column.data_type).is_some()
    };
    let whole = key.columns().iter().all(|column| filters.iter().any(|filter| pins(filter, column)));
    filters.iter().map(|filter| whole && key.columns().iter().any(|column| pins(filter, column))).collect()
}

/// Whether the filter is `column = literal`, the literal not NULL.
fn is_equality(filter: &Expr) -> bool {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = filter else { return false };
    let value = |e: &Expr| literal(e).is_some_and(|v| !v.is_null());
    let column = |e: &Expr| matches!(e, Expr::Column(_));
    (column(left) && value(right)) || (value(left) && column(right))
}

/// The distinct values that a filter allows a column, if it allows only some.
fn pinned(filter: &Expr, column: &str, data_type: &DataType) -> Option<Vec<ScalarValue>> {
    let is_column = |e: &Expr| matches!(e, Expr::Column(c) if c.name == column);
    let value = |e: &Expr| literal(e).filter(|v| v.data_type() == *data_type).cloned();
    let mut values = match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) if is_column(left) => vec![value(right)?],
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) if is_column(right) => vec![value(left)?],
        Expr::InList(list) if !list.negated && is_column(&list.expr) => {
            list.list.iter().map(value).collect::<Option<Vec<_>>>()?
        }
        // Short IN lists become ORs of equalities.
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            let mut values = pinned(left, column, data_type)?;
            values.extend(pinned(right, column, data_type)?);
            values
        }
        _ => return None,
    };
    values.retain(|v| !v.is_null());
    let mut seen = std::collections::HashSet::new();
    values.retain(|v| seen.insert(v.clone()));
    Some(values)
}
