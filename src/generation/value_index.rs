//! The index of values of a generation's column, as Lance's B-tree or bitmap.
//!
//! Both are made of the values in order, NULLs first, each with its row: pages of a B-tree, or one bitmap a value.
//! Tombstones are in it, as rows without a value: it says what the column holds, and what is dead is masked elsewhere.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::compute::{concat, sort_to_indices, take};
use arrow::datatypes::{DataType, Field, Schema};
use async_trait::async_trait;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use lance_core::{ROW_ADDR, ROW_ID};
use lance_index::pbold::{BTreeIndexDetails, BitmapIndexDetails};
use lance_index::scalar::bitmap::BitmapIndexPlugin;
use lance_index::scalar::btree::{BTREE_INDEX_VERSION, DEFAULT_BTREE_BATCH_SIZE, train_btree_index};
use lance_index::scalar::index_files_to_table;
use lance_index::scalar::registry::VALUE_COLUMN_NAME;

use super::index_files::{IndexFiles, IndexTarget, IndexWriter};
use crate::error::{Error, Result};
use crate::index_spec::IndexKind;
use crate::store::from_lance;
use crate::task;

/// Rows that are given to Lance at once, which makes them one page of a B-tree.
const PAGE: usize = DEFAULT_BTREE_BATCH_SIZE as usize;
/// The version of the bitmaps that are written.
const BITMAP_VERSION: u32 = 0;

/// Which of Lance's indexes it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    BTree,
    Bitmap,
}

/// Writes the index of values of a column.
#[derive(Debug)]
pub struct ValueIndexWriter {
    column: usize,
    form: Form,
}

impl ValueIndexWriter {
    /// Of the stored column `column`; `None` if `kind` is no index of values.
    pub fn try_new(column: usize, kind: &IndexKind) -> Option<Self> {
        let form = match kind {
            IndexKind::BTree => Form::BTree,
            IndexKind::Bitmap => Form::Bitmap,
            IndexKind::Vector(_) | IndexKind::Text(_) => return None,
        };
        Some(Self { column, form })
    }
}

#[async_trait]
impl IndexWriter for ValueIndexWriter {
    fn kind(&self) -> &'static str {
        match self.form {
            Form::BTree => "BTreeIndexDetails",
            Form::Bitmap => "BitmapIndexDetails",
        }
    }

    async fn write(&self, rows: &[RecordBatch], target: &IndexTarget) -> Result<IndexFiles> {
        let values: Vec<ArrayRef> = rows.iter().map(|batch| Arc::clone(batch.column(self.column))).collect();
        let store = target.index_store();
        let (version, files) = match self.form {
            Form::BTree => {
                let sorted = task::blocking(move || in_order(&values, ROW_ADDR)).await?;
                let files = train_btree_index(sorted, &store, DEFAULT_BTREE_BATCH_SIZE, None, None).await;
                (BTREE_INDEX_VERSION, files.map_err(from_lance)?)
            }
            Form::Bitmap => {
                let sorted = task::blocking(move || in_order(&values, ROW_ID)).await?;
                let file = BitmapIndexPlugin::train_bitmap_index(sorted, &store).await;
                (BITMAP_VERSION, vec![file.map_err(from_lance)?])
            }
        };
        let details = match self.form {
            Form::BTree => prost_types::Any::from_msg(&BTreeIndexDetails::default()),
            Form::Bitmap => prost_types::Any::from_msg(&BitmapIndexDetails::default()),
        };
        let encoded = |e| Error::internal("the details of an index could not be encoded").with_source(e);
        Ok(IndexFiles { details: details.map_err(encoded)?, version, files: index_files_to_table(files) })
    }
}

/// The values of consecutive rows in order, each beside its row in a column called `row_column`.
fn in_order(values: &[ArrayRef], row_column: &str) -> Result<SendableRecordBatchStream> {
    let values = concat(&values.iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
    let order = sort_to_indices(&values, None, None)?;
    let schema = Arc::new(Schema::new(vec![
        Field::new(VALUE_COLUMN_NAME, values.data_type().clone(), true),
        Field::new(row_column, DataType::UInt64, false),
    ]));
    let rows = UInt64Array::from_iter_values(order.values().iter().map(|row| u64::from(*row)));
    let sorted = RecordBatch::try_new(Arc::clone(&schema), vec![take(&values, &order, None)?, Arc::new(rows)])?;
    let pages: Vec<_> = (0..sorted.num_rows())
        .step_by(PAGE)
        .map(|start| Ok(sorted.slice(start, PAGE.min(sorted.num_rows() - start))))
        .collect();
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(pages))))
}
