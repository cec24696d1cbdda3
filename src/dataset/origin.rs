//! Where a table's columns are in a dataset that may have been written under another schema.
//!
//! Columns are found by field id, never by name: a rename keeps the id, and a name may have been given to another
//! column since. Only `_tombstone` is found by name, because every generation numbers it anew.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array, new_null_array};
use arrow::array::{AsArray, BooleanArray};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, UInt64Type};
use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::Expr;
use lance::dataset::mem_wal::reconcile_batches;
use lance_core::datatypes::LANCE_FIELD_ID_KEY;

use super::{ROW_ID, row_id_field};
use crate::error::{Error, Result};
use crate::schema::{TOMBSTONE, TableSchema, relabel};
use crate::store::from_lance;

/// Where the values of one stored column of the table are.
#[derive(Debug, Clone)]
enum Origin {
    /// In this column of the dataset, as they are.
    Column(String),
    /// In this column of the dataset, whose nested fields have changed since.
    Reshaped(String),
    /// Nowhere: the column is younger than the dataset.
    Missing,
}

/// Where each stored column of a table is in one dataset.
#[derive(Debug)]
pub(super) struct Origins {
    columns: Vec<Origin>,
    /// The dataset's columns with field ids in the metadata.
    source: Schema,
    schema: Arc<TableSchema>,
}

impl Origins {
    /// Finds the columns of `schema` in a dataset whose columns, with field ids, are `source`.
    pub(super) fn resolve(source: Schema, schema: Arc<TableSchema>) -> Result<Self> {
        let mut columns = Vec::with_capacity(schema.stored().fields().len());
        for (i, (stored, numbered)) in schema.stored().fields().iter().zip(schema.numbered().fields()).enumerate() {
            let found = if stored.name() == TOMBSTONE {
                source.fields().iter().find(|f| f.name() == TOMBSTONE)
            } else {
                let id = field_id(numbered);
                source.fields().iter().find(|f| f.name() != TOMBSTONE && id.is_some() && field_id(f) == id)
            };
            columns.push(match found {
                None if schema.key().contains(i) => {
                    return Err(Error::corrupt(format!("key column '{}' is missing", stored.name())));
                }
                None => Origin::Missing,
                Some(field) if alike(field.data_type(), stored.data_type()) => Origin::Column(field.name().clone()),
                Some(field) if field.data_type().is_nested() => Origin::Reshaped(field.name().clone()),
                Some(field) => {
                    return Err(Error::corrupt(format!(
                        "column '{}' is stored as {}, the table has it as {}",
                        stored.name(),
                        field.data_type(),
                        stored.data_type()
                    )));
                }
            });
        }
        Ok(Self { columns, source, schema })
    }

    /// The name in the dataset of stored column `i`, if it is there.
    pub(super) fn name(&self, i: usize) -> Option<&str> {
        match &self.columns[i] {
            Origin::Column(name) | Origin::Reshaped(name) => Some(name),
            Origin::Missing => None,
        }
    }

    /// The name in the dataset of stored column `i`, if its values are there as they are.
    pub(super) fn unchanged(&self, i: usize) -> Option<&str> {
        match &self.columns[i] {
            Origin::Column(name) => Some(name),
            Origin::Reshaped(_) | Origin::Missing => None,
        }
    }

    /// An expression over the table's columns as one over the dataset's.
    pub(super) fn rename(&self, expr: Expr) -> Result<Expr> {
        let renamed = expr.transform(|e| {
            let Expr::Column(column) = &e else {
                return Ok(Transformed::no(e));
            };
            let i = self.schema.stored().index_of(&column.name)?;
            let name =
                self.name(i).ok_or_else(|| Error::internal(format!("column '{}' is not stored", column.name)))?;
            Ok(Transformed::yes(Expr::Column(Column::new_unqualified(name))))
        })?;
        Ok(renamed.data)
    }

    /// The schema that [`Self::rows`] gives the stored columns `columns`, with the row id behind them if asked for.
    pub(super) fn schema_of(&self, columns: &[usize], row_id: bool) -> SchemaRef {
        let stored = self.schema.stored();
        let mut fields: Vec<Arc<Field>> = columns.iter().map(|&i| Arc::clone(&stored.fields()[i])).collect();
        if row_id {
            fields.push(Arc::new(row_id_field()));
        }
        Arc::new(Schema::new(fields))
    }

    /// Brings rows read from the dataset to the stored columns `columns` of the table; `schema` is
    /// [`Self::schema_of`] them.
    pub(super) fn rows(&self, read: &RecordBatch, columns: &[usize], schema: &SchemaRef) -> Result<RecordBatch> {
        let rows = read.num_rows();
        let mut arrays = Vec::with_capacity(schema.fields().len());
        for (&i, field) in columns.iter().zip(schema.fields()) {
            arrays.push(match &self.columns[i] {
                Origin::Column(name) => relabel(column(read, name)?, field)?,
                Origin::Reshaped(name) => relabel(&self.reshape(column(read, name)?, name, i)?, field)?,
                Origin::Missing if field.name() == TOMBSTONE => {
                    Arc::new(BooleanArray::new(BooleanBuffer::new_unset(rows), None)) as ArrayRef
                }
                Origin::Missing => new_null_array(field.data_type(), rows),
            });
        }
        if let Some(i) = (0..arrays.len()).find(|&i| !schema.field(i).is_nullable() && arrays[i].null_count() > 0) {
            return Err(Error::invalid(format!("NULL in primary key column '{}'", schema.field(i).name())));
        }
        if schema.fields().len() > columns.len() {
            let ids = column(read, ROW_ID)?.as_primitive::<UInt64Type>();
            arrays.push(Arc::new(UInt64Array::new(ids.values().clone(), None)));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options)?)
    }

    /// The values of a nested column whose fields were added, dropped, renamed or reordered since.
    fn reshape(&self, values: &ArrayRef, name: &str, i: usize) -> Result<ArrayRef> {
        let from = self.source.field_with_name(name)?;
        let to = self.schema.numbered().field(i).clone().with_nullable(true);
        let batch = RecordBatch::try_new(
            Arc::new(Schema::new(vec![Field::new(name, values.data_type().clone(), true)])),
            vec![Arc::clone(values)],
        )?;
        let (from, to) = (Schema::new(vec![from.clone()]), Arc::new(Schema::new(vec![to])));
        let mut batches = reconcile_batches(&from, &to, &[], vec![batch]).map_err(from_lance)?;
        let batch = batches.pop().ok_or_else(|| Error::internal("a reconciled batch went missing"))?;
        Ok(Arc::clone(batch.column(0)))
    }
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| Error::internal(format!("Lance did not return column '{name}'")))
}

/// The Lance field id in a field's metadata.
pub(crate) fn field_id(field: &Field) -> Option<i32> {
    field.metadata().get(LANCE_FIELD_ID_KEY).and_then(|id| id.parse().ok()).filter(|id| *id >= 0)
}

/// Whether values of one type are values of the other as they stand: the same but for the names of list elements and
/// map entries, metadata and nullability.
fn alike(a: &DataType, b: &DataType) -> bool {
    match (a, b) {
        (DataType::Struct(a), DataType::Struct(b)) => same_fields(a, b),
        (DataType::List(a), DataType::List(b)) | (DataType::LargeList(a), DataType::LargeList(b)) => {
            alike(a.data_type(), b.data_type())
        }
        (DataType::FixedSizeList(a, m), DataType::FixedSizeList(b, n)) => m == n && alike(a.data_type(), b.data_type()),
        (DataType::Map(a, _), DataType::Map(b, _)) => alike(a.data_type(), b.data_type()),
        (a, b) => a == b,
    }
}

fn same_fields(a: &Fields, b: &Fields) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.name() == b.name() && alike(a.data_type(), b.data_type()))
}
