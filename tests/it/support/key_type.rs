//! Key types, each with a one-to-one map from small numbers to keys: one oracle serves them all.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Int32Array, Int64Array, RecordBatch,
    StringArray,
};
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Field, Int32Type, Int64Type, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, col, lit};

/// The type of a table's primary key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyType {
    Int64,
    Text,
    /// `(b Int32, a Utf8)`; the table has `a` first and `b` last.
    Composite,
    Date,
    Decimal,
    Uuid,
}

use KeyType::*;

impl KeyType {
    /// The key columns in key order.
    pub(crate) fn names(self) -> Vec<String> {
        let names: &[&str] = if self == Composite { &["b", "a"] } else { &["k"] };
        names.iter().map(ToString::to_string).collect()
    }

    /// The fields of the key columns in key order.
    pub(crate) fn fields(self) -> Vec<Field> {
        let types = match self {
            Int64 => vec![DataType::Int64],
            Text => vec![DataType::Utf8],
            Composite => vec![DataType::Int32, DataType::Utf8],
            Date => vec![DataType::Date32],
            Decimal => vec![DataType::Decimal128(20, 2)],
            Uuid => vec![DataType::FixedSizeBinary(16)],
        };
        self.names().into_iter().zip(types).map(|(name, t)| Field::new(name, t, false)).collect()
    }

    /// The key columns, in key order, of these keys.
    pub(crate) fn columns(self, keys: &[u32]) -> Vec<ArrayRef> {
        match self {
            Int64 => vec![Arc::new(Int64Array::from_iter_values(keys.iter().map(|k| int64(*k))))],
            Text => vec![Arc::new(StringArray::from_iter_values(keys.iter().map(|k| text(*k))))],
            Composite => vec![
                Arc::new(Int32Array::from_iter_values(keys.iter().map(|k| (*k % 7) as i32 - 3))),
                Arc::new(StringArray::from_iter_values(keys.iter().map(|k| text(*k / 7)))),
            ],
            Date => vec![Arc::new(Date32Array::from_iter_values(keys.iter().map(|k| *k as i32 * 13 - 1000)))],
            Decimal => {
                let values = keys.iter().map(|k| decimal(*k));
                let column = Decimal128Array::from_iter_values(values).with_precision_and_scale(20, 2);
                vec![Arc::new(column.expect("20 digits are enough"))]
            }
            Uuid => {
                let values = keys.iter().map(|k| uuid(*k));
                vec![Arc::new(FixedSizeBinaryArray::try_from_iter(values).expect("there is a key"))]
            }
        }
    }

    /// A batch of the key columns in key order.
    pub(crate) fn batch(self, keys: &[u32]) -> RecordBatch {
        RecordBatch::try_new(Arc::new(Schema::new(self.fields())), self.columns(keys)).expect("columns fit")
    }

    /// The values of one key in key order.
    pub(crate) fn values(self, key: u32) -> Vec<ScalarValue> {
        let value = |column: &ArrayRef| ScalarValue::try_from_array(column, 0).expect("there is a row");
        self.columns(&[key]).iter().map(value).collect()
    }

    /// The filter that pins one key.
    pub(crate) fn equals(self, key: u32) -> Expr {
        let names = self.names().into_iter().zip(self.values(key));
        names.map(|(name, value)| col(name).eq(lit(value))).reduce(Expr::and).expect("a key has columns")
    }

    /// The keys of a batch that has the key columns.
    pub(crate) fn keys(self, batch: &RecordBatch) -> Vec<u32> {
        let column = |i: usize| batch.column_by_name(&self.names()[i]).expect("the key columns are there");
        match self {
            Int64 => column(0).as_primitive::<Int64Type>().values().iter().map(|v| int64_back(*v)).collect(),
            Text => column(0).as_string::<i32>().iter().map(|v| text_back(v.expect("no NULL"))).collect(),
            Composite => {
                let texts = column(1).as_string::<i32>().iter().map(|v| text_back(v.expect("no NULL")));
                let numbers = column(0).as_primitive::<Int32Type>().values();
                numbers.iter().zip(texts).map(|(b, a)| a * 7 + (*b + 3) as u32).collect()
            }
            Date => column(0).as_primitive::<Date32Type>().values().iter().map(|v| ((*v + 1000) / 13) as u32).collect(),
            Decimal => column(0).as_primitive::<Decimal128Type>().values().iter().map(|v| decimal_back(*v)).collect(),
            Uuid => {
                let column = column(0).as_fixed_size_binary();
                (0..column.len()).map(|i| uuid_back(column.value(i))).collect()
            }
        }
    }
}

/// Half of them negative.
fn int64(key: u32) -> i64 {
    let half = i64::from(key / 2) * 1_000_003;
    if key.is_multiple_of(2) { half } else { -half - 1 }
}

fn int64_back(value: i64) -> u32 {
    if value >= 0 { (value / 1_000_003) as u32 * 2 } else { ((-value - 1) / 1_000_003) as u32 * 2 + 1 }
}

/// The first one is empty; some are prefixes of others, some hold a zero byte, some are long.
fn text(key: u32) -> String {
    match key {
        0 => String::new(),
        k if k % 5 == 1 => format!("{k}"),
        k if k % 5 == 2 => format!("{k}\0"),
        k if k % 5 == 3 => format!("{k}{}", "é".repeat(30)),
        k => format!("{k} and more"),
    }
}

fn text_back(value: &str) -> u32 {
    let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
    if digits.is_empty() { 0 } else { digits.parse().expect("digits") }
}

fn decimal(key: u32) -> i128 {
    let big = i128::from(key) * 1_000_000_000_000_037;
    if key.is_multiple_of(3) { -big - 1 } else { big }
}

fn decimal_back(value: i128) -> u32 {
    let big = if value < 0 { -value - 1 } else { value };
    (big / 1_000_000_000_000_037) as u32
}

fn uuid(key: u32) -> [u8; 16] {
    let mut bytes = [0xA5; 16];
    bytes[6..10].copy_from_slice(&key.reverse_bits().to_le_bytes());
    bytes
}

fn uuid_back(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[6..10].try_into().expect("four bytes")).reverse_bits()
}

#[test]
fn keys_come_back_from_every_key_type() {
    let keys: Vec<u32> = (0..300).collect();
    for key_type in [Int64, Text, Composite, Date, Decimal, Uuid] {
        assert_eq!(key_type.keys(&key_type.batch(&keys)), keys, "{key_type:?}");
    }
}
