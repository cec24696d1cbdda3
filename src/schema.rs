//! The two schemas of a table and the one place that brings rows from one to the other.
//!
//! The *logical* schema is what users see. The *stored* schema is what memtables hold: the same columns, nullable
//! outside the key (a tombstone has only its key), and a trailing `_tombstone`. The *numbered* schema is the stored one
//! with Lance's field ids and marks in the metadata: WAL entries and generations are written under it.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, LargeListArray, ListArray, MapArray, RecordBatch,
    RecordBatchOptions, StructArray, UInt64Array, new_null_array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::error::{Error, Result};
use crate::key::PrimaryKey;

/// The column that marks a deleted key.
pub const TOMBSTONE: &str = "_tombstone";

/// Where Lance puts the id of a field in its metadata.
const FIELD_ID: &str = "lance:field_id";

/// Names that Lance or this crate use for columns of their own.
const RESERVED: &[&str] = &[
    TOMBSTONE,
    "_rowid",
    "_rowaddr",
    "_rowoffset",
    "_distance",
    "_score",
    "_memtable_gen",
    "_row_created_at_version",
    "_row_last_updated_at_version",
];

/// A table's logical and stored schema and its primary key.
#[derive(Debug, Clone)]
pub struct TableSchema {
    logical: SchemaRef,
    stored: SchemaRef,
    numbered: SchemaRef,
    key: PrimaryKey,
}

impl TableSchema {
    /// A table schema from the logical columns as Lance numbers them.
    ///
    /// `numbered` has the logical columns with their field ids (and whatever Lance marks key columns with) in the
    /// fields' metadata; `key` names the primary key.
    ///
    /// # Errors
    /// `Invalid` if a name is reserved or the key cannot be one.
    pub fn try_new(numbered: &Schema, key: &[String]) -> Result<Self> {
        check_names(numbered)?;
        let key = PrimaryKey::try_new(numbered, key)?;
        let mut logical = Vec::with_capacity(numbered.fields().len());
        let mut stored = Vec::with_capacity(numbered.fields().len() + 1);
        let mut marked = Vec::with_capacity(numbered.fields().len() + 1);
        for (i, field) in numbered.fields().iter().enumerate() {
            let nullable = field.is_nullable() && !key.contains(i);
            logical.push(Field::new(field.name(), strip(field.data_type()), nullable));
            stored.push(Field::new(field.name(), strip(field.data_type()), !key.contains(i)));
            marked.push(field.as_ref().clone().with_nullable(!key.contains(i)));
        }
        stored.push(Field::new(TOMBSTONE, DataType::Boolean, false));
        marked.push(Field::new(TOMBSTONE, DataType::Boolean, false));
        Ok(Self {
            logical: Arc::new(Schema::new(logical)),
            stored: Arc::new(Schema::new(stored)),
            numbered: Arc::new(Schema::new_with_metadata(marked, numbered.metadata().clone())),
            key,
        })
    }

    /// What users see.
    pub fn logical(&self) -> &SchemaRef {
        &self.logical
    }

    /// What is stored: the logical columns, nullable outside the key, and `_tombstone` last.
    pub fn stored(&self) -> &SchemaRef {
        &self.stored
    }

    /// What WAL entries and generations are written under: the stored schema with Lance's field ids and marks.
    pub fn numbered(&self) -> &SchemaRef {
        &self.numbered
    }

    /// The primary key.
    pub fn key(&self) -> &PrimaryKey {
        &self.key
    }

    /// Whether both have the same columns: equal to users, and to Lance by their field ids. A column that was dropped and
    /// added again is another one.
    pub fn is_same(&self, other: &Self) -> bool {
        let ids = |schema: &Self| {
            let mut ids = Vec::new();
            schema.numbered.fields().iter().for_each(|field| field_ids(field, &mut ids));
            ids
        };
        self.logical == other.logical && ids(self) == ids(other)
    }

    /// The place of `_tombstone` in the stored schema.
    pub fn tombstone_index(&self) -> usize {
        self.logical.fields().len()
    }

    /// Brings rows of the logical schema to the stored one.
    ///
    /// # Errors
    /// `Invalid` if columns are missing, additional, in another order, of another type, or hold NULL where they must not.
    pub fn to_stored(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let given = rows.schema_ref().fields();
        let want = self.logical.fields();
        if given.len() != want.len() || given.iter().zip(want).any(|(g, w)| g.name() != w.name()) {
            let names = |f: &Fields| f.iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ");
            return Err(Error::invalid(format!(
                "the rows have columns ({}), the table has ({}): give exactly these, in this order",
                names(given),
                names(want)
            )));
        }
        let mut columns = Vec::with_capacity(want.len() + 1);
        for ((column, want), stored) in rows.columns().iter().zip(want).zip(self.stored.fields()) {
            if !want.is_nullable() && column.logical_null_count() > 0 {
                return Err(Error::invalid(format!(
                    "NULL in column '{}', which is NOT NULL: give a value",
                    want.name()
                )));
            }
            columns.push(relabel(column, stored)?);
        }
        columns.push(Arc::new(BooleanArray::new(BooleanBuffer::new_unset(rows.num_rows()), None)));
        self.stored_batch(columns, rows.num_rows())
    }

    /// The tombstones of keys: rows with the key, NULL elsewhere and `_tombstone` set. `keys` are the key columns in
    /// key order.
    ///
    /// # Errors
    /// `Invalid` if the columns are not the key's or hold NULL.
    pub fn tombstones(&self, keys: &[ArrayRef]) -> Result<RecordBatch> {
        self.key.of_columns(keys)?;
        let rows = keys[0].len();
        let mut columns = Vec::with_capacity(self.stored.fields().len());
        for (i, field) in self.stored.fields().iter().enumerate() {
            columns.push(if i == self.tombstone_index() {
                Arc::new(BooleanArray::new(BooleanBuffer::new_set(rows), None)) as ArrayRef
            } else if let Some(place) = self.key.columns().iter().position(|c| c.index == i) {
                relabel(&keys[place], field)?
            } else {
                new_null_array(field.data_type(), rows)
            });
        }
        self.stored_batch(columns, rows)
    }

    fn stored_batch(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.stored), columns, &options)?)
    }

    /// Projects a stored batch to logical columns; `projection` holds places in the logical schema, `schema` is the
    /// projected logical schema.
    ///
    /// # Errors
    /// `Internal` if `schema` is not the projection.
    pub fn project(&self, stored: &RecordBatch, projection: &[usize], schema: &SchemaRef) -> Result<RecordBatch> {
        let columns = projection
            .iter()
            .zip(schema.fields())
            .map(|(&i, field)| relabel(stored.column(i), field))
            .collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(stored.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
    }
}

/// The rows at these places, in this order, also of a batch without columns.
///
/// # Errors
/// `Internal` if there is no such row.
pub fn take_rows(batch: &RecordBatch, places: Vec<u64>) -> Result<RecordBatch> {
    if batch.num_columns() > 0 {
        return Ok(take_record_batch(batch, &UInt64Array::from(places))?);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(places.len()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), Vec::new(), &options)?)
}

/// The column as the type of `field`, which may differ from its own only in the metadata and nullability of nested fields
/// and the names of list items and of the keys and values of maps.
///
/// # Errors
/// `Invalid` if the types differ in more, or nested NULLs stand where the field forbids them.
pub fn relabel(column: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    retype(column, field.data_type()).map_err(|source| {
        Error::invalid(format!(
            "column '{}' has type {}, {} was given",
            field.name(),
            strip(field.data_type()),
            column.data_type()
        ))
        .with_source(source)
    })
}

fn retype(column: &ArrayRef, to: &DataType) -> std::result::Result<ArrayRef, ArrowError> {
    if column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    Ok(match (column.data_type(), to) {
        (DataType::Struct(from), DataType::Struct(to))
            if from.len() == to.len() && from.iter().zip(to).all(|(from, to)| from.name() == to.name()) =>
        {
            Arc::new(retype_children(column.as_struct(), to)?)
        }
        (DataType::List(_), DataType::List(field)) => {
            let (_, offsets, values, nulls) = column.as_list::<i32>().clone().into_parts();
            Arc::new(ListArray::try_new(Arc::clone(field), offsets, retype(&values, field.data_type())?, nulls)?)
        }
        (DataType::LargeList(_), DataType::LargeList(field)) => {
            let (_, offsets, values, nulls) = column.as_list::<i64>().clone().into_parts();
            Arc::new(LargeListArray::try_new(Arc::clone(field), offsets, retype(&values, field.data_type())?, nulls)?)
        }
        (DataType::FixedSizeList(_, m), DataType::FixedSizeList(field, n)) if m == n => {
            let rows = column.len();
            let (_, size, values, nulls) = column.as_fixed_size_list().clone().into_parts();
            let values = retype(&values, field.data_type())?;
            Arc::new(FixedSizeListArray::try_new_with_length(Arc::clone(field), size, values, nulls, rows)?)
        }
        (DataType::Map(_, _), DataType::Map(field, sorted)) => {
            let (_, offsets, entries, nulls, _) = column.as_map().clone().into_parts();
            // Keys and values are told by their place: everybody names them in another way.
            let entries = match field.data_type() {
                DataType::Struct(to) if to.len() == entries.num_columns() => retype_children(&entries, to)?,
                to => return Err(ArrowError::SchemaError(format!("{} is not {to}", entries.data_type()))),
            };
            Arc::new(MapArray::try_new(Arc::clone(field), offsets, entries, nulls, *sorted)?)
        }
        (from, to) => return Err(ArrowError::SchemaError(format!("{from} is not {to}"))),
    })
}

fn retype_children(column: &StructArray, to: &Fields) -> std::result::Result<StructArray, ArrowError> {
    let children = column.columns().iter().zip(to).map(|(c, f)| retype(c, f.data_type()));
    let children = children.collect::<std::result::Result<_, _>>()?;
    StructArray::try_new_with_length(to.clone(), children, column.nulls().cloned(), column.len())
}

/// The type without metadata in nested fields.
fn strip(data_type: &DataType) -> DataType {
    let bare = |f: &Arc<Field>| Arc::new(Field::new(f.name(), strip(f.data_type()), f.is_nullable()));
    match data_type {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(bare).collect()),
        DataType::List(f) => DataType::List(bare(f)),
        DataType::LargeList(f) => DataType::LargeList(bare(f)),
        DataType::FixedSizeList(f, n) => DataType::FixedSizeList(bare(f), *n),
        DataType::Map(f, sorted) => DataType::Map(bare(f), *sorted),
        other => other.clone(),
    }
}

/// The ids that Lance gave a field and those below it, in their order.
fn field_ids(field: &Field, ids: &mut Vec<Option<String>>) {
    ids.push(field.metadata().get(FIELD_ID).cloned());
    match field.data_type() {
        DataType::Struct(fields) => fields.iter().for_each(|f| field_ids(f, ids)),
        DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) | DataType::Map(f, _) => {
            field_ids(f, ids);
        }
        _ => {}
    }
}

/// Refuses column names that are reserved, empty, doubled, or that Lance reads as paths.
///
/// # Errors
/// `Invalid`, naming the column.
pub fn check_names(schema: &Schema) -> Result<()> {
    for (i, field) in schema.fields().iter().enumerate() {
        let name = field.name();
        if RESERVED.contains(&name.as_str()) || name.starts_with("__lance") {
            return Err(Error::invalid(format!("column name '{name}' is reserved: choose another")));
        }
        if name.is_empty() || name.contains('.') {
            return Err(Error::invalid(format!("column name '{name}' is not allowed: it is empty or contains a dot")));
        }
        if schema.fields()[..i].iter().any(|f| f.name() == name) {
            return Err(Error::invalid(format!("column '{name}' is declared twice")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use arrow::array::{
        DictionaryArray, Float32Array, Int8Array, Int64Array, MapBuilder, MapFieldNames, StringArray, StringBuilder,
    };
    use arrow::datatypes::Int8Type;

    fn schema() -> TableSchema {
        let item = Field::new("item", DataType::Float32, true)
            .with_metadata([("lance:field_id".to_string(), "2".to_string())].into());
        let numbered = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("v", DataType::FixedSizeList(Arc::new(item), 2), false),
        ]);
        TableSchema::try_new(&numbered, &["id".into()]).unwrap()
    }

    fn rows(item: &str, ids: Vec<Option<i64>>) -> RecordBatch {
        let values = Float32Array::from(vec![0.5; ids.len() * 2]);
        let item = Arc::new(Field::new(item, DataType::Float32, true));
        let v = FixedSizeListArray::try_new(item, 2, Arc::new(values), None).unwrap();
        RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(ids)) as ArrayRef), ("v", Arc::new(v))]).unwrap()
    }

    #[test]
    fn rows_become_stored_rows_and_back() {
        let schema = schema();
        let stored = schema.to_stored(&rows("element", vec![Some(1), Some(2)])).unwrap();
        assert_eq!(stored.schema_ref(), schema.stored());
        assert!(!schema.logical().field(0).is_nullable());
        let back = schema.project(&stored, &[0, 1], schema.logical()).unwrap();
        assert_eq!(back.schema_ref(), schema.logical());
    }

    #[test]
    fn a_tombstone_has_only_its_key() {
        let schema = schema();
        let stored = schema.tombstones(&[Arc::new(Int64Array::from(vec![7]))]).unwrap();
        assert_eq!(stored.column(1).null_count(), 1);
        assert!(stored.column(schema.tombstone_index()).as_boolean().value(0));
    }

    #[test]
    fn bad_rows_are_refused() {
        let schema = schema();
        assert!(schema.to_stored(&rows("item", vec![None])).is_err());
        let wrong_type = RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
            ("v", Arc::new(StringArray::from(vec!["x"]))),
        ]);
        assert!(schema.to_stored(&wrong_type.unwrap()).unwrap_err().message().contains("'v'"));
        let fewer = RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
        assert!(schema.to_stored(&fewer).is_err());
        for name in ["_tombstone", "a.b", ""] {
            assert!(check_names(&Schema::new(vec![Field::new(name, DataType::Int64, false)])).is_err());
        }
    }

    #[test]
    fn the_fields_of_a_struct_are_told_by_name() {
        let fields = |names: [&str; 2]| names.map(|name| Field::new(name, DataType::Int64, true)).to_vec();
        let numbered = Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("s", DataType::Struct(fields(["a", "b"]).into()), true),
        ]);
        let schema = TableSchema::try_new(&numbered, &["id".into()]).unwrap();
        let rows = |names| {
            let columns = vec![Arc::new(Int64Array::from(vec![1])) as ArrayRef, Arc::new(Int64Array::from(vec![2]))];
            let s = StructArray::try_new(fields(names).into(), columns, None).unwrap();
            RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![7])) as ArrayRef), ("s", Arc::new(s))])
        };
        schema.to_stored(&rows(["a", "b"]).unwrap()).unwrap();
        let error = schema.to_stored(&rows(["b", "a"]).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("'s'"), "{error}");
    }

    #[test]
    fn the_entries_of_a_map_are_told_by_place() {
        let map = |key: &str, value: &str| {
            let names = MapFieldNames { entry: "e".into(), key: key.into(), value: value.into() };
            let mut map = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
            map.keys().append_value("k");
            map.values().append_value("v");
            map.append(true).unwrap();
            Arc::new(map.finish()) as ArrayRef
        };
        let field = Field::new("m", map("keys", "values").data_type().clone(), true);
        let relabelled = relabel(&map("key", "value"), &field).unwrap();
        assert_eq!(&relabelled, &map("keys", "values"));
    }

    #[test]
    fn a_null_in_a_dictionary_is_null() {
        let dictionary = || DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
        let numbered =
            Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("d", dictionary(), false)]);
        let schema = TableSchema::try_new(&numbered, &["id".into()]).unwrap();
        let values = Arc::new(StringArray::from(vec![None, Some("x")]));
        let d = DictionaryArray::<Int8Type>::try_new(Int8Array::from(vec![0]), values).unwrap();
        let id = Arc::new(Int64Array::from(vec![7])) as ArrayRef;
        let error = schema.to_stored(&RecordBatch::try_from_iter([("id", id), ("d", Arc::new(d))]).unwrap());
        assert!(error.unwrap_err().message().contains("NOT NULL"));
    }
}
