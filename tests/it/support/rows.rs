//! Rows of the tables under test: a key, a number and a text that may be NULL.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion_lsm::base::CreateSpec;

use super::key_type::KeyType;

/// What a row has beside its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) n: i64,
    pub(crate) s: Option<String>,
}

impl Row {
    pub(crate) fn new(n: i64) -> Self {
        Self { n, s: Some(format!("row {n}")) }
    }
}

/// The live rows of a table.
pub(crate) type Rows = BTreeMap<u32, Row>;

/// The columns of the table: of a composite key, the second column comes first and the first one last.
pub(crate) fn schema(key_type: KeyType) -> SchemaRef {
    let mut key = key_type.fields();
    let mut fields = vec![key.pop().expect("a key has columns")];
    fields.push(Field::new("n", DataType::Int64, false));
    fields.push(Field::new("s", DataType::Utf8, true));
    fields.append(&mut key);
    Arc::new(Schema::new(fields))
}

/// What creates the table.
pub(crate) fn spec(key_type: KeyType, shards: u32) -> CreateSpec {
    CreateSpec {
        schema: schema(key_type),
        key: key_type.names(),
        shards,
        shard_column: None,
        indexes: Vec::new(),
        defaults: Default::default(),
    }
}

/// A batch of rows.
pub(crate) fn batch(key_type: KeyType, rows: &[(u32, Row)]) -> RecordBatch {
    let keys: Vec<u32> = rows.iter().map(|(key, _)| *key).collect();
    let mut key = key_type.columns(&keys);
    let mut columns = vec![key.pop().expect("a key has columns")];
    columns.push(Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, row)| row.n))) as ArrayRef);
    columns.push(Arc::new(StringArray::from_iter(rows.iter().map(|(_, row)| row.s.as_deref()))));
    columns.append(&mut key);
    RecordBatch::try_new(schema(key_type), columns).expect("columns fit")
}

/// A batch of rows whose number is given.
pub(crate) fn numbered(key_type: KeyType, rows: &[(u32, i64)]) -> RecordBatch {
    let rows: Vec<(u32, Row)> = rows.iter().map(|(key, n)| (*key, Row::new(*n))).collect();
    batch(key_type, &rows)
}

/// The rows of a batch, in its order.
pub(crate) fn listed(key_type: KeyType, batch: &RecordBatch) -> Vec<(u32, Row)> {
    let numbers = batch.column_by_name("n").expect("the column is there").as_primitive::<Int64Type>();
    let texts = batch.column_by_name("s").expect("the column is there").as_string::<i32>();
    let rows = numbers.values().iter().zip(texts).map(|(n, s)| Row { n: *n, s: s.map(ToString::to_string) });
    key_type.keys(batch).into_iter().zip(rows).collect()
}

/// The rows of batches; a key that is there twice is a failure.
pub(crate) fn collected(key_type: KeyType, batches: &[RecordBatch]) -> Rows {
    let mut rows = Rows::new();
    for (key, row) in batches.iter().flat_map(|batch| listed(key_type, batch)) {
        let earlier = rows.insert(key, row.clone());
        assert!(earlier.is_none(), "key {key} was read twice, as {:?} and {row:?}", earlier.unwrap());
    }
    rows
}

/// A stream of batches.
pub(crate) fn stream(schema: SchemaRef, batches: Vec<RecordBatch>) -> SendableRecordBatchStream {
    Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(batches.into_iter().map(Ok))))
}
