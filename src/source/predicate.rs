//! A condition on rows, and the columns that it reads.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};

use crate::error::Result;

/// A condition over just the columns that it reads.
#[derive(Debug)]
pub struct Predicate {
    /// The condition, over `schema`.
    pub expr: Arc<dyn PhysicalExpr>,
    /// The columns that it reads, by their places in the schema of the rows, in order.
    pub columns: Vec<usize>,
    /// These columns, nullable: tombstones have NULL where columns are NOT NULL.
    pub schema: SchemaRef,
}

impl Predicate {
    /// `expr` is a boolean expression over `rows`.
    ///
    /// # Errors
    /// `Internal` if it names a column that is not there.
    pub fn over(rows: &Schema, expr: &Arc<dyn PhysicalExpr>) -> Result<Self> {
        let mut columns: Vec<usize> = collect_columns(expr).iter().map(|column| column.index()).collect();
        columns.sort_unstable();
        let nullable = columns.iter().map(|i| rows.field(*i).clone().with_nullable(true));
        let schema = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
        Ok(Self { expr: reassign_expr_columns(Arc::clone(expr), &schema)?, columns, schema })
    }
}
