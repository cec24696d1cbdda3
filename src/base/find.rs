//! Finding rows by key when the key map is not resident.
//!
//! Lance narrows the rows down, column by column; which of them have one of the keys is decided here, by value.

use std::collections::HashMap;

use arrow::array::{ArrayRef, RecordBatch};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::utils::conjunction;
use datafusion::prelude::{col, in_list, lit};

use super::BaseTable;
use crate::error::{Error, Result};
use crate::key::KeyRef;
use crate::schema::take_rows;

impl BaseTable {
    /// The rows that hold the given keys (the key columns in key order), nullable as stored, and which of the keys each
    /// holds: a row for each of equal keys. Uses Lance's scalar index on the key if there is one.
    ///
    /// # Errors
    /// `Invalid` if the columns are not the key's, `Unavailable` if the storage fails.
    pub async fn find(&self, keys: &[ArrayRef], projection: &[usize]) -> Result<(RecordBatch, Vec<usize>)> {
        let key = self.schema().key();
        let wanted = key.of_columns(keys)?;
        if wanted.is_empty() {
            let nothing = self.handle.take(&[], projection).await?;
            return Ok((nothing, Vec::new()));
        }
        let mut filters = Vec::with_capacity(keys.len());
        for (column, values) in key.columns().iter().zip(keys) {
            let literals = (0..values.len()).map(|i| ScalarValue::try_from_array(values, i).map(lit));
            let mut literals = literals.collect::<Result<Vec<_>, _>>()?;
            let name = col(datafusion::common::Column::new_unqualified(&column.name));
            filters.push(match literals.len() {
                1 => name.eq(literals.swap_remove(0)),
                _ => in_list(name, literals, false),
            });
        }
        let filter = conjunction(filters).ok_or_else(|| Error::internal("a key has no columns"))?;

        let mut columns = projection.to_vec();
        columns.extend(key.columns().iter().map(|c| c.index));
        let candidates = self.handle.search(filter, &columns).await?;
        let mut places: HashMap<KeyRef<'_>, Vec<usize>> = HashMap::new();
        for (place, key) in wanted.iter().enumerate() {
            places.entry(key).or_default().push(place);
        }
        let mut rows = Vec::new();
        let mut found = Vec::new();
        let theirs = key.of_columns(&candidates.columns()[projection.len()..])?;
        for (row, theirs) in theirs.iter().enumerate() {
            for place in places.get(&theirs).into_iter().flatten() {
                rows.push(row as u64);
                found.push(*place);
            }
        }
        let candidates = candidates.project(&(0..projection.len()).collect::<Vec<_>>())?;
        Ok((take_rows(&candidates, rows)?, found))
    }
}
