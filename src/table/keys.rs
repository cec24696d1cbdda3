//! One key, fast: from values to the memtable row that holds it.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::common::ScalarValue;

use crate::error::{Error, Result};
use crate::key::PrimaryKey;
use crate::memtable::{MemTable, MemTableView};
use crate::schema::TableSchema;
use crate::version::VersionControl;

/// The key columns of one key.
///
/// # Errors
/// `Invalid` if there are more or fewer values than key columns, or a value is of another type.
pub(super) fn columns_of_values(key: &PrimaryKey, values: &[ScalarValue]) -> Result<Vec<ArrayRef>> {
    if values.len() != key.columns().len() {
        return Err(Error::invalid(format!(
            "a key has {} values ({}), {} were given",
            key.columns().len(),
            key.names().join(", "),
            values.len()
        )));
    }
    let column = |(value, column): (&ScalarValue, &crate::key::KeyColumn)| {
        if value.data_type() == column.data_type {
            return Ok(value.to_array()?);
        }
        let cast = value.cast_to(&column.data_type).map_err(|e| {
            Error::invalid(format!("{value} is not a {} for key column '{}'", column.data_type, column.name))
                .with_source(e)
        })?;
        Ok(cast.to_array()?)
    };
    values.iter().zip(key.columns()).map(column).collect()
}

/// Looks a key up in the memtables without taking a snapshot: `Some(None)` if it is deleted, `None` if none holds it.
///
/// # Errors
/// `Invalid` if the columns are no key.
pub(super) fn find_in_memory(
    control: &VersionControl,
    table: &TableSchema,
    columns: &[ArrayRef],
) -> Result<Option<Option<RecordBatch>>> {
    let images = table.key().of_columns(columns)?;
    let key = images.get(0);
    let hash = key.hash();
    let found = control.with(|version| {
        version.shards.iter().find_map(|shard| {
            std::iter::once(&shard.active).chain(&shard.frozen).find_map(|memtable: &Arc<MemTable>| {
                let watermark = memtable.visible();
                {
                    let (row, deleted) = memtable.find(key, hash, watermark)?;
                    Some((Arc::clone(memtable), watermark, row, deleted, shard.damage.clone()))
                }
            })
        })
    });
    let Some((memtable, watermark, row, deleted, damage)) = found else { return Ok(None) };
    if let Some(error) = damage {
        return Err(error);
    }
    if deleted {
        return Ok(Some(None));
    }
    let columns = MemTableView::new(memtable, watermark).row(row, table.logical().fields().len());
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    Ok(Some(Some(RecordBatch::try_new_with_options(Arc::clone(table.logical()), columns, &options)?)))
}
