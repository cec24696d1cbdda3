//! A directory for a table, what opens it, and rows to put there.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::collect;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use tempfile::TempDir;

use datafusion_lsm::base::{BaseTable, CreateSpec};
use datafusion_lsm::cache::MemoryBudget;
use datafusion_lsm::dataset::DatasetOpener;
use datafusion_lsm::store::{IoHook, ObjectIo, StoreOptions, SyncRecord};

/// A directory for a table and what opens it.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
    pub(crate) opener: DatasetOpener,
    pub(crate) io: ObjectIo,
}

impl Place {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let uri = dir.path().join("table").to_str().unwrap().to_string();
        let io = ObjectIo::open(&uri, &StoreOptions::default(), true).await.unwrap();
        Self { dir, opener: DatasetOpener::new(StoreOptions::default(), MemoryBudget::global()), io }
    }

    pub(crate) async fn create(&self, spec: &CreateSpec) -> Arc<BaseTable> {
        BaseTable::create(&self.opener, &self.io, spec).await.unwrap()
    }

    /// The table as a process that starts now finds it.
    pub(crate) async fn reopen(&self) -> Arc<BaseTable> {
        BaseTable::open(&DatasetOpener::new(StoreOptions::default(), MemoryBudget::global()), &self.io)
            .await
            .unwrap()
            .unwrap()
    }

    pub(crate) async fn lance(&self) -> lance::Dataset {
        lance::Dataset::open(self.io.uri()).await.unwrap()
    }
}

/// Records what is synced.
#[derive(Debug, Default)]
pub(crate) struct Recorder(SyncRecord);

impl IoHook for Recorder {
    fn sync_record(&self) -> Option<SyncRecord> {
        Some(self.0.clone())
    }
}

/// `(id BIGINT PRIMARY KEY, name TEXT)`.
pub(crate) fn spec() -> CreateSpec {
    spec_of(vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)], &["id"])
}

pub(crate) fn spec_of(fields: Vec<Field>, key: &[&str]) -> CreateSpec {
    CreateSpec {
        schema: Arc::new(Schema::new(fields)),
        key: key.iter().map(ToString::to_string).collect(),
        shards: 1,
        shard_column: None,
        indexes: Vec::new(),
        defaults: HashMap::new(),
    }
}

pub(crate) fn rows(ids: Vec<i64>, names: Vec<&str>) -> RecordBatch {
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)]);
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(ids)), Arc::new(StringArray::from(names))];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

pub(crate) fn stream(batches: Vec<RecordBatch>) -> SendableRecordBatchStream {
    let schema = batches[0].schema();
    Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(batches.into_iter().map(Ok))))
}

pub(crate) async fn scan(table: &BaseTable, projection: &[usize], filters: &[Expr]) -> RecordBatch {
    let plan = table.scan(projection, filters).unwrap();
    let schema = plan.schema();
    let batches = collect(plan, Arc::default()).await.unwrap();
    assert!(batches.iter().all(|batch| batch.schema() == schema));
    concat_batches(&schema, &batches).unwrap()
}

pub(crate) fn strings(column: &ArrayRef) -> Vec<&str> {
    use arrow::array::AsArray;
    column.as_string::<i32>().iter().map(|v| v.unwrap_or("NULL")).collect()
}
