//! Rows that were recorded under another schema of the table, such as WAL entries older than a rename.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};

use super::origin::{Origins, field_id};
use crate::error::Result;
use crate::schema::TableSchema;

/// Brings `batches`, recorded under `recorded`, to the stored schema of the table: columns are found by field id, or by
/// name if none was recorded; those that are gone are left out, younger ones are NULL.
///
/// # Errors
/// `Corrupt` if a key column is missing or a column has another type, `Invalid` if a key is NULL.
pub fn conform(schema: &Arc<TableSchema>, recorded: &Schema, batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
    let numbered = recorded.fields().iter().any(|f| field_id(f).is_some());
    let recorded = if numbered { recorded.clone() } else { number_by_name(recorded, schema.numbered()) };
    let origins = Origins::resolve(recorded, Arc::clone(schema))?;
    let columns: Vec<usize> = (0..schema.stored().fields().len()).collect();
    let stored = origins.schema_of(&columns, false);
    batches.iter().map(|batch| origins.rows(batch, &columns, &stored)).collect()
}

fn number_by_name(recorded: &Schema, numbered: &Schema) -> Schema {
    let number = |field: &Arc<Field>| match numbered.field_with_name(field.name()) {
        Ok(known) => field.as_ref().clone().with_metadata(known.metadata().clone()),
        Err(_) => field.as_ref().clone(),
    };
    Schema::new(recorded.fields().iter().map(number).collect::<Vec<_>>())
}
