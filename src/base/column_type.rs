//! Which column types a table can have.
//!
//! What is refused here is what Lance cannot write or does not give back as it was written; the test tries them all.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};

use crate::error::{Error, Result};

/// What Lance marks columns with whose values are files of their own.
const BLOB: &str = "lance-encoding:blob";

/// Refuses columns that cannot be stored, by name.
pub(super) fn check(schema: &Schema) -> Result<()> {
    for field in schema.fields() {
        if let Some(bad) = unstorable(field.data_type()) {
            return Err(Error::invalid(format!(
                "column '{}' has type {}, which Lance cannot store because of {bad}: choose another type",
                field.name(),
                field.data_type()
            )));
        }
        if field.metadata().contains_key(BLOB)
            || field.extension_type_name().is_some_and(|n| n.starts_with("lance.blob"))
        {
            return Err(Error::invalid(format!(
                "column '{}' is a Lance blob, which a table cannot have",
                field.name()
            )));
        }
    }
    Ok(())
}

/// The type as it is stored and reported: views become plain strings and binaries.
pub(super) fn as_stored(data_type: &DataType) -> DataType {
    let inner = |f: &Arc<Field>| Arc::new(Field::new(f.name(), as_stored(f.data_type()), f.is_nullable()));
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(key, value) => DataType::Dictionary(key.clone(), Box::new(as_stored(value))),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::List(f) => DataType::List(inner(f)),
        DataType::LargeList(f) => DataType::LargeList(inner(f)),
        DataType::FixedSizeList(f, n) => DataType::FixedSizeList(inner(f), *n),
        DataType::Map(f, sorted) => DataType::Map(inner(f), *sorted),
        other => other.clone(),
    }
}

/// The part of the type that cannot be stored.
fn unstorable(data_type: &DataType) -> Option<String> {
    use DataType::*;
    match data_type {
        Null | Boolean | Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => None,
        Float16 | Float32 | Float64 | Decimal128(_, _) | Decimal256(_, _) => None,
        Timestamp(_, _) | Date32 | Date64 | Time32(_) | Time64(_) | Duration(_) => None,
        integer if integer.is_integer() => None,
        Dictionary(_, value) if !value.is_nested() => unstorable(value),
        Struct(fields) if !fields.is_empty() => fields.iter().find_map(|f| unstorable(f.data_type())),
        List(item) | LargeList(item) | Map(item, false) => unstorable(item.data_type()),
        FixedSizeList(item, 1..) if is_fixed(item.data_type()) => unstorable(item.data_type()),
        FixedSizeList(item, 1..) => Some(format!("fixed-size lists of {}", item.data_type())),
        other => Some(other.to_string()),
    }
}

/// Whether values of the type are all equally long, lists of them included.
fn is_fixed(data_type: &DataType) -> bool {
    match data_type {
        DataType::FixedSizeList(item, _) => is_fixed(item.data_type()),
        other => other.is_primitive() || matches!(other, DataType::Boolean | DataType::FixedSizeBinary(_)),
    }
}
