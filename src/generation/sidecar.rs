//! The `_pk_index` beside a generation: a B-tree over its keys, by which Lance's readers find superseded rows.
//!
//! We do not read it: our own [`crate::key::KeyMap`] comes from the key columns. Without it Lance cannot read the
//! generation at all.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, UInt64Array};
use arrow::compute::{concat, sort_to_indices, take};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use lance::dataset::mem_wal::util::pk_index_path;
use lance_core::ROW_ADDR;
use lance_core::cache::LanceCache;
use lance_index::scalar::btree::train_btree_index;
use lance_index::scalar::lance_format::LanceIndexStore;
use lance_index::scalar::registry::VALUE_COLUMN_NAME;
use lance_io::object_store::ObjectStore;

use crate::error::Result;
use crate::key::{KeyRef, PrimaryKey};
use crate::store::from_lance;

/// Keys a page.
const PAGE: usize = 8192;

/// Writes the sidecar of the generation at `root`, whose rows are `batches` in this order.
pub(super) async fn write(
    store: &Arc<ObjectStore>,
    root: &object_store::path::Path,
    batches: &[RecordBatch],
    key: &PrimaryKey,
) -> Result<()> {
    let keys = batches.iter().map(|batch| image(batch, key)).collect::<Result<Vec<_>>>()?;
    let keys = concat(&keys.iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
    let order = sort_to_indices(&keys, None, None)?;
    let schema = Arc::new(Schema::new(vec![
        Field::new(VALUE_COLUMN_NAME, keys.data_type().clone(), true),
        Field::new(ROW_ADDR, DataType::UInt64, false),
    ]));
    let positions = UInt64Array::from_iter_values(order.values().iter().map(|i| u64::from(*i)));
    let sorted = RecordBatch::try_new(Arc::clone(&schema), vec![take(&keys, &order, None)?, Arc::new(positions)])?;
    let pages: Vec<_> = (0..sorted.num_rows())
        .step_by(PAGE)
        .map(|start| Ok(sorted.slice(start, PAGE.min(sorted.num_rows() - start))))
        .collect();
    let pages = Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(pages)));
    let store = LanceIndexStore::new(Arc::clone(store), pk_index_path(root), Arc::new(LanceCache::no_cache()));
    train_btree_index(pages, &store, PAGE as u64, None, None).await.map_err(from_lance)?;
    Ok(())
}

/// The keys of a batch as Lance indexes them: the value itself, or a tuple's encoding.
fn image(batch: &RecordBatch, key: &PrimaryKey) -> Result<ArrayRef> {
    if let [only] = key.columns() {
        return Ok(Arc::clone(batch.column(only.index)));
    }
    let mut tuples = vec![Vec::new(); batch.num_rows()];
    for column in key.columns() {
        let alone = PrimaryKey::try_new(&batch.schema(), std::slice::from_ref(&column.name))?;
        for (tuple, value) in tuples.iter_mut().zip(alone.of_batch(batch)?.iter()) {
            append(tuple, value, &column.data_type);
        }
    }
    Ok(Arc::new(BinaryArray::from_iter_values(tuples)))
}

/// Appends one value of a tuple: a mark that it is not NULL, then eight ordered bytes of a number, one of a boolean, or
/// the bytes of a string with zeros escaped and two zeros behind.
fn append(tuple: &mut Vec<u8>, value: KeyRef<'_>, data_type: &DataType) {
    tuple.push(1);
    match value {
        KeyRef::Fixed(truth) if data_type == &DataType::Boolean => tuple.push(u8::from(truth != 0)),
        KeyRef::Fixed(number) => tuple.extend_from_slice(&number.to_be_bytes()),
        KeyRef::Bytes(bytes) => {
            for byte in bytes {
                tuple.push(*byte);
                if *byte == 0 {
                    tuple.push(0xFF);
                }
            }
            tuple.extend_from_slice(&[0, 0]);
        }
    }
}
