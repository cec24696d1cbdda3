//! One key, fast: from values to the memtable row that holds it.

use arrow::array::{ArrayRef, RecordBatch};
use datafusion::common::{DataFusionError, ScalarValue};

use crate::error::{Error, Result};
use crate::key::{KeyColumn, KeyRef, PrimaryKey};
use crate::version::{Version, VersionControl};

/// The key columns of one key.
///
/// # Errors
/// `Invalid` if there are more or fewer values than key columns, or a value is none of the column's type.
pub(super) fn columns_of_values(key: &PrimaryKey, values: &[ScalarValue]) -> Result<Vec<ArrayRef>> {
    if values.len() != key.columns().len() {
        return Err(Error::invalid(format!(
            "a key has {} values ({}), {} were given",
            key.columns().len(),
            key.names().join(", "),
            values.len()
        )));
    }
    let column = |(value, column): (&ScalarValue, &KeyColumn)| {
        if value.data_type() == column.data_type {
            return Ok(value.to_array()?);
        }
        let is_no = |cause: Option<DataFusionError>| {
            let error =
                Error::invalid(format!("{value} is not a {} for key column '{}'", column.data_type, column.name));
            match cause {
                Some(cause) => error.with_source(cause),
                None => error,
            }
        };
        let cast = value.cast_to(&column.data_type).map_err(|e| is_no(Some(e)))?;
        // A value that is rounded to a key is not that key.
        if cast.cast_to(&value.data_type()).map_err(|e| is_no(Some(e)))? != *value {
            return Err(is_no(None));
        }
        Ok(cast.to_array()?)
    };
    values.iter().zip(key.columns()).map(column).collect()
}

/// Looks a key, given by its values, up in the memtables without taking a snapshot: `Some(None)` if it is deleted, `None`
/// if no memtable holds it.
///
/// # Errors
/// As [`columns_of_values`]; why the shard that holds it is damaged.
pub(super) fn find_in_memory(control: &VersionControl, values: &[ScalarValue]) -> Result<Option<Option<RecordBatch>>> {
    control.with(|version| {
        let key = version.base.schema().key();
        match key.of_values(values) {
            Some(key) => find(version, key),
            None => find(version, key.of_columns(&columns_of_values(key, values)?)?.get(0)),
        }
    })
}

fn find(version: &Version, key: KeyRef<'_>) -> Result<Option<Option<RecordBatch>>> {
    let hash = key.hash();
    for shard in &version.shards {
        for memtable in std::iter::once(&shard.active).chain(&shard.frozen) {
            let Some((row, deleted)) = memtable.find(key, hash, memtable.visible()) else { continue };
            // A damaged shard may hold a newer version of the key where it cannot be read.
            if let Some(error) = &shard.damage {
                return Err(error.clone());
            }
            if deleted {
                return Ok(Some(None));
            }
            return memtable.row(row, version.base.schema().logical()).map(|row| Some(Some(row)));
        }
    }
    Ok(None)
}
