//! Primary keys: which columns, and one comparable value per row.
//!
//! Keys are compared as values, never by hash alone: a hash only says where to look. A key of one column of at most
//! eight bytes is a number ([`Keys::Fixed`]); any other is bytes ([`Keys::Bytes`]). Two rows have the same key exactly
//! if their [`KeyRef`]s are equal, whatever batch, memtable or file they come from.

mod filter;
mod map;
mod range;

use std::hash::BuildHasher;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema, TimeUnit};
use arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;
use foldhash::quality::RandomState;

use crate::error::{Error, Result};

pub use filter::KeyFilter;
pub use map::KeyMap;
pub use range::KeyRange;

/// One seed for the whole process: a key's hash is computed once and used against every source.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// The primary key of a table: its columns in key order.
#[derive(Debug, Clone)]
pub struct PrimaryKey {
    columns: Vec<KeyColumn>,
    converter: Option<Arc<RowConverter>>,
}

/// One column of a primary key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyColumn {
    /// The column's name.
    pub name: String,
    /// Its place in the table's schema.
    pub index: usize,
    /// Its type as stored.
    pub data_type: DataType,
}

/// How a key becomes a [`KeyRef`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Image {
    Fixed,
    Raw,
    Rows,
}

impl PrimaryKey {
    /// A key over the named columns of `schema`, in that order.
    ///
    /// # Errors
    /// `Invalid` if there is no column, a column is missing, or its type cannot be a key.
    pub fn try_new(schema: &Schema, names: &[String]) -> Result<Self> {
        if names.is_empty() {
            return Err(Error::invalid("a table needs a PRIMARY KEY: declare one, for example PRIMARY KEY (id)"));
        }
        let mut columns = Vec::with_capacity(names.len());
        for name in names {
            let (index, field) = schema.column_with_name(name).ok_or_else(|| {
                Error::invalid(format!("the primary key names column '{name}', which the table does not have"))
            })?;
            if columns.iter().any(|c: &KeyColumn| c.index == index) {
                return Err(Error::invalid(format!("the primary key names column '{name}' twice")));
            }
            if !is_key_type(field.data_type()) {
                return Err(Error::invalid(format!(
                    "column '{name}' of type {} cannot be part of a primary key: use an integer, boolean, string, \
                     binary, date, timestamp, decimal or fixed-size binary column",
                    field.data_type()
                )));
            }
            columns.push(KeyColumn { name: name.clone(), index, data_type: field.data_type().clone() });
        }
        let mut key = Self { columns, converter: None };
        if key.image() == Image::Rows {
            let fields = key.columns.iter().map(|c| SortField::new(c.data_type.clone())).collect();
            key.converter = Some(Arc::new(RowConverter::new(fields)?));
        }
        Ok(key)
    }

    /// The key's columns in key order.
    pub fn columns(&self) -> &[KeyColumn] {
        &self.columns
    }

    /// The names of the key's columns in key order.
    pub fn names(&self) -> Vec<String> {
        self.columns.iter().map(|c| c.name.clone()).collect()
    }

    /// Whether the column at `index` of the table's schema belongs to the key.
    pub fn contains(&self, index: usize) -> bool {
        self.columns.iter().any(|c| c.index == index)
    }

    /// No keys yet, of this key's image.
    pub fn no_keys(&self) -> Keys {
        if self.is_fixed() { Keys::Fixed(Vec::new()) } else { Keys::Bytes(KeyBytes::default()) }
    }

    /// Whether [`Keys`] of this key are numbers.
    pub fn is_fixed(&self) -> bool {
        self.image() == Image::Fixed
    }

    /// Whether Lance 14 can use this key in a MemWAL table of its own.
    pub fn is_lance_key(&self) -> bool {
        use DataType::*;
        self.columns.iter().all(|c| {
            matches!(
                c.data_type,
                Int8 | Int16
                    | Int32
                    | Int64
                    | UInt8
                    | UInt16
                    | UInt32
                    | UInt64
                    | Boolean
                    | Utf8
                    | LargeUtf8
                    | Binary
                    | LargeBinary
            )
        })
    }

    fn image(&self) -> Image {
        use DataType::*;
        match self.columns.as_slice() {
            [only] => match only.data_type {
                Int8
                | Int16
                | Int32
                | Int64
                | UInt8
                | UInt16
                | UInt32
                | UInt64
                | Boolean
                | Date32
                | Date64
                | Timestamp(_, _) => Image::Fixed,
                Utf8 | LargeUtf8 | Binary | LargeBinary | FixedSizeBinary(_) => Image::Raw,
                _ => Image::Rows,
            },
            _ => Image::Rows,
        }
    }

    /// The keys of a batch whose schema is the table's (or begins with it): one per row.
    ///
    /// # Errors
    /// `Invalid` if a key column holds a NULL or has another type than the table's.
    pub fn of_batch(&self, batch: &RecordBatch) -> Result<Keys> {
        let columns: Vec<ArrayRef> = self.columns.iter().map(|c| Arc::clone(batch.column(c.index))).collect();
        self.of_columns(&columns)
    }

    /// One key given by the values of its columns, in key order, without making arrays of them. `None` if that takes
    /// arrays: for composite keys, decimals, values of another type and NULL.
    pub fn of_values<'a>(&self, values: &'a [ScalarValue]) -> Option<KeyRef<'a>> {
        use ScalarValue::*;
        let ([value], [column]) = (values, self.columns.as_slice()) else { return None };
        let signed = |v: i64| KeyRef::Fixed((v as u64) ^ (1 << 63));
        Some(match (value, &column.data_type) {
            (Int8(Some(v)), DataType::Int8) => signed(i64::from(*v)),
            (Int16(Some(v)), DataType::Int16) => signed(i64::from(*v)),
            (Int32(Some(v)), DataType::Int32) => signed(i64::from(*v)),
            (Int64(Some(v)), DataType::Int64) => signed(*v),
            (UInt8(Some(v)), DataType::UInt8) => KeyRef::Fixed(u64::from(*v)),
            (UInt16(Some(v)), DataType::UInt16) => KeyRef::Fixed(u64::from(*v)),
            (UInt32(Some(v)), DataType::UInt32) => KeyRef::Fixed(u64::from(*v)),
            (UInt64(Some(v)), DataType::UInt64) => KeyRef::Fixed(*v),
            (Utf8(Some(v)), DataType::Utf8) | (LargeUtf8(Some(v)), DataType::LargeUtf8) => KeyRef::Bytes(v.as_bytes()),
            (Binary(Some(v)), DataType::Binary) | (LargeBinary(Some(v)), DataType::LargeBinary) => KeyRef::Bytes(v),
            _ => return None,
        })
    }

    /// The keys of rows given by their key columns alone, in key order.
    ///
    /// # Errors
    /// As [`Self::of_batch`].
    pub fn of_columns(&self, columns: &[ArrayRef]) -> Result<Keys> {
        if columns.len() != self.columns.len() {
            return Err(Error::invalid(format!(
                "a key has {} columns ({}), {} were given",
                self.columns.len(),
                self.names().join(", "),
                columns.len()
            )));
        }
        for (column, key) in columns.iter().zip(&self.columns) {
            if column.data_type() != &key.data_type {
                return Err(Error::invalid(format!(
                    "key column '{}' has type {}, {} was given",
                    key.name,
                    key.data_type,
                    column.data_type()
                )));
            }
            if column.null_count() > 0 {
                return Err(Error::invalid(format!("NULL in primary key column '{}': give a value", key.name)));
            }
        }
        match self.image() {
            Image::Fixed => Ok(Keys::Fixed(fixed_images(&columns[0]))),
            Image::Raw => Ok(Keys::Bytes(raw_images(&columns[0]))),
            Image::Rows => {
                let converter = self.converter.as_ref().ok_or_else(|| Error::internal("a key lost its converter"))?;
                let rows = converter.convert_columns(columns)?;
                let mut bytes = KeyBytes::with_capacity(rows.num_rows(), 16);
                for row in rows.iter() {
                    bytes.push(row.as_ref());
                }
                Ok(Keys::Bytes(bytes))
            }
        }
    }
}

/// Whether a column of this type can be part of a primary key.
fn is_key_type(data_type: &DataType) -> bool {
    use DataType::*;
    matches!(
        data_type,
        Int8 | Int16
            | Int32
            | Int64
            | UInt8
            | UInt16
            | UInt32
            | UInt64
            | Boolean
            | Utf8
            | LargeUtf8
            | Binary
            | LargeBinary
            | FixedSizeBinary(_)
            | Date32
            | Date64
            | Timestamp(_, _)
            | Decimal128(_, _)
            | Decimal256(_, _)
    )
}

fn fixed_images(column: &ArrayRef) -> Vec<u64> {
    use arrow::datatypes as t;
    macro_rules! signed {
        ($t:ty) => {
            column.as_primitive::<$t>().values().iter().map(|v| (*v as i64 as u64) ^ (1 << 63)).collect()
        };
    }
    macro_rules! unsigned {
        ($t:ty) => {
            column.as_primitive::<$t>().values().iter().map(|v| u64::from(*v)).collect()
        };
    }
    match column.data_type() {
        DataType::Int8 => signed!(t::Int8Type),
        DataType::Int16 => signed!(t::Int16Type),
        DataType::Int32 => signed!(t::Int32Type),
        DataType::Int64 => signed!(t::Int64Type),
        DataType::UInt8 => unsigned!(t::UInt8Type),
        DataType::UInt16 => unsigned!(t::UInt16Type),
        DataType::UInt32 => unsigned!(t::UInt32Type),
        DataType::UInt64 => unsigned!(t::UInt64Type),
        DataType::Date32 => signed!(t::Date32Type),
        DataType::Date64 => signed!(t::Date64Type),
        DataType::Timestamp(TimeUnit::Second, _) => signed!(t::TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => signed!(t::TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => signed!(t::TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => signed!(t::TimestampNanosecondType),
        DataType::Boolean => column.as_boolean().values().iter().map(u64::from).collect(),
        other => unreachable!("{other} has no fixed key image"),
    }
}

fn raw_images(column: &ArrayRef) -> KeyBytes {
    let mut bytes = KeyBytes::with_capacity(column.len(), 16);
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().iter().flatten().for_each(|v| bytes.push(v.as_bytes())),
        DataType::LargeUtf8 => column.as_string::<i64>().iter().flatten().for_each(|v| bytes.push(v.as_bytes())),
        DataType::Binary => column.as_binary::<i32>().iter().flatten().for_each(|v| bytes.push(v)),
        DataType::LargeBinary => column.as_binary::<i64>().iter().flatten().for_each(|v| bytes.push(v)),
        DataType::FixedSizeBinary(_) => column.as_fixed_size_binary().iter().flatten().for_each(|v| bytes.push(v)),
        other => unreachable!("{other} has no raw key image"),
    }
    bytes
}

/// The keys of some rows, one per row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// Keys of one column of at most eight bytes, as order-preserving numbers.
    Fixed(Vec<u64>),
    /// Any other keys.
    Bytes(KeyBytes),
}

/// Byte keys back to back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyBytes {
    ends: Vec<usize>,
    data: Vec<u8>,
}

impl KeyBytes {
    fn with_capacity(rows: usize, bytes_per_row: usize) -> Self {
        Self { ends: Vec::with_capacity(rows), data: Vec::with_capacity(rows * bytes_per_row) }
    }

    fn push(&mut self, key: &[u8]) {
        self.data.extend_from_slice(key);
        self.ends.push(self.data.len());
    }

    fn get(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.data[start..self.ends[i]]
    }
}

/// One key, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyRef<'a> {
    /// A number.
    Fixed(u64),
    /// Bytes.
    Bytes(&'a [u8]),
}

impl KeyRef<'_> {
    /// The key's image on its own: numbers as eight bytes, the highest first, so that images have the order of keys.
    pub fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::Fixed(v) => v.to_be_bytes().to_vec(),
            Self::Bytes(v) => v.to_vec(),
        }
    }

    /// What `read` makes of the key's image.
    fn with_image<T>(self, read: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            Self::Fixed(v) => read(&v.to_be_bytes()),
            Self::Bytes(v) => read(v),
        }
    }

    /// The key's hash: the same in every source of this process, different in the next process.
    pub fn hash(self) -> u64 {
        match self {
            Self::Fixed(v) => HASHER.hash_one(v),
            Self::Bytes(v) => HASHER.hash_one(v),
        }
    }
}

impl Keys {
    /// How many rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Fixed(v) => v.len(),
            Self::Bytes(v) => v.ends.len(),
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key of row `i`.
    pub fn get(&self, i: usize) -> KeyRef<'_> {
        match self {
            Self::Fixed(v) => KeyRef::Fixed(v[i]),
            Self::Bytes(v) => KeyRef::Bytes(v.get(i)),
        }
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        match self {
            Self::Fixed(v) => v.len() * 8,
            Self::Bytes(v) => v.data.len() + v.ends.len() * 8,
        }
    }

    /// Appends the keys of other rows of the same table.
    pub fn extend(&mut self, more: &Keys) {
        match (self, more) {
            (Self::Fixed(all), Self::Fixed(more)) => all.extend_from_slice(more),
            (Self::Bytes(all), Self::Bytes(more)) => {
                let start = all.data.len();
                all.data.extend_from_slice(&more.data);
                all.ends.extend(more.ends.iter().map(|end| start + end));
            }
            _ => unreachable!("keys of one table have one image"),
        }
    }

    /// The keys in row order.
    pub fn iter(&self) -> impl Iterator<Item = KeyRef<'_>> {
        (0..self.len()).map(|i| self.get(i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Decimal128Array, Int32Array, Int64Array, StringArray};
    use arrow::datatypes::Field;

    fn key(types: &[DataType]) -> PrimaryKey {
        let fields: Vec<Field> =
            types.iter().enumerate().map(|(i, t)| Field::new(format!("c{i}"), t.clone(), false)).collect();
        let names: Vec<String> = fields.iter().map(|f| f.name().clone()).collect();
        PrimaryKey::try_new(&Schema::new(fields), &names).unwrap()
    }

    #[test]
    fn numbers_keep_their_order() {
        let keys = key(&[DataType::Int64]).of_columns(&[Arc::new(Int64Array::from(vec![i64::MIN, -1, 0, 7]))]).unwrap();
        let images: Vec<_> = keys.iter().collect();
        assert!(images.is_sorted());
        assert_eq!(keys.len(), 4);
    }

    #[test]
    fn composite_keys_of_different_splits_differ() {
        let key = key(&[DataType::Utf8, DataType::Utf8]);
        let keys = key
            .of_columns(&[
                Arc::new(StringArray::from(vec!["ab", "a", "ab"])),
                Arc::new(StringArray::from(vec!["c", "bc", "c"])),
            ])
            .unwrap();
        assert_ne!(keys.get(0), keys.get(1));
        assert_eq!(keys.get(0), keys.get(2));
        assert_eq!(keys.get(0).hash(), keys.get(2).hash());
    }

    #[test]
    fn the_same_key_has_the_same_image_in_every_batch() {
        let key = key(&[DataType::Decimal128(20, 2)]);
        let of = |v: Vec<i128>| {
            let column = Decimal128Array::from(v).with_precision_and_scale(20, 2).unwrap();
            key.of_columns(&[Arc::new(column)]).unwrap()
        };
        let (a, b) = (of(vec![-5, 12]), of(vec![12]));
        assert_eq!(a.get(1), b.get(0));
        assert!(a.get(0) < a.get(1));
    }

    #[test]
    fn a_value_has_the_image_its_array_has() {
        use ScalarValue::*;
        for value in [
            Int8(Some(-3)),
            Int16(Some(-3)),
            Int32(Some(i32::MIN)),
            Int64(Some(i64::MAX)),
            UInt8(Some(200)),
            UInt16(Some(7)),
            UInt32(Some(u32::MAX)),
            UInt64(Some(u64::MAX)),
            Utf8(Some("né".into())),
            LargeUtf8(Some(String::new())),
            Binary(Some(vec![0, 255])),
            LargeBinary(Some(vec![1])),
        ] {
            let key = key(&[value.data_type()]);
            let keys = key.of_columns(&[value.to_array().unwrap()]).unwrap();
            assert_eq!(key.of_values(std::slice::from_ref(&value)), Some(keys.get(0)), "{value:?}");
            let null = ScalarValue::try_from(value.data_type()).unwrap();
            assert_eq!(key.of_values(&[null]), None);
        }
        assert_eq!(key(&[DataType::Int32]).of_values(&[Int64(Some(1))]), None);
    }

    #[test]
    fn bad_keys_are_refused() {
        let schema = Schema::new(vec![Field::new("f", DataType::Float64, false)]);
        assert!(PrimaryKey::try_new(&schema, &["f".into()]).is_err());
        assert!(PrimaryKey::try_new(&schema, &["g".into()]).is_err());
        assert!(PrimaryKey::try_new(&schema, &[]).is_err());
        let key = key(&[DataType::Int32]);
        assert!(key.of_columns(&[Arc::new(Int32Array::from(vec![Some(1), None]))]).is_err());
        assert!(key.of_columns(&[Arc::new(Int64Array::from(vec![1]))]).is_err());
    }
}
