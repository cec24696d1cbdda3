//! The values that a filter lets a column have: what an index of values is asked.

use std::cmp::Ordering;
use std::ops::Bound;

use datafusion::common::ScalarValue;

/// From and to.
pub type ValueRange = (Bound<ScalarValue>, Bound<ScalarValue>);

/// The values that a column may have. Bounds are of the column's type and not NULL.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueRanges {
    /// The column's name.
    pub column: String,
    /// A value of any of these.
    pub ranges: Vec<ValueRange>,
    /// Or none.
    pub nulls: bool,
}

impl ValueRanges {
    /// Values in one range.
    pub fn within(column: &str, from: Bound<ScalarValue>, to: Bound<ScalarValue>) -> Self {
        Self { column: column.to_string(), ranges: vec![(from, to)], nulls: false }
    }

    /// What both allow, if that is said in one range; `None` if it is not.
    pub fn and(&self, other: &Self) -> Option<Self> {
        let ([a], [b]) = (self.ranges.as_slice(), other.ranges.as_slice()) else { return None };
        if self.column != other.column || self.nulls || other.nulls {
            return None;
        }
        let from = tighter(&a.0, &b.0, Ordering::Greater)?;
        let to = tighter(&a.1, &b.1, Ordering::Less)?;
        Some(Self::within(&self.column, from, to))
    }

    /// What one of them allows; `None` if they are of two columns.
    pub fn or(mut self, other: Self) -> Option<Self> {
        if self.column != other.column {
            return None;
        }
        self.ranges.extend(other.ranges);
        self.nulls |= other.nulls;
        Some(self)
    }
}

/// The one of two bounds that allows less: the `tight` one, or the exclusive one of equals.
fn tighter(a: &Bound<ScalarValue>, b: &Bound<ScalarValue>, tight: Ordering) -> Option<Bound<ScalarValue>> {
    let value = |bound: &Bound<ScalarValue>| match bound {
        Bound::Included(value) | Bound::Excluded(value) => Some(value.clone()),
        Bound::Unbounded => None,
    };
    let first = match (value(a), value(b)) {
        (None, _) => false,
        (_, None) => true,
        (Some(x), Some(y)) => match x.partial_cmp(&y)? {
            Ordering::Equal => matches!(a, Bound::Excluded(_)),
            other => other == tight,
        },
    };
    Some(if first { a.clone() } else { b.clone() })
}
