//! The table as a process has it that knows only Lance.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchIterator, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion_lsm::base::{Sharding, bucket};
use datafusion_lsm::ids::ShardId;
use datafusion_lsm::manifest::ShardManifest;
use datafusion_lsm::version::Snapshot;
use lance::Dataset;
use lance::dataset::mem_wal::scanner::{LsmDataSourceCollector, LsmPointLookupPlanner};
use lance::dataset::mem_wal::write::ShardWriter;
use lance::dataset::mem_wal::{
    DatasetMemWalExt, LsmScanner, ShardSnapshot, ShardWriterConfig, arrow_schema_with_field_ids,
};
use uuid::Uuid;

use crate::support::key_type::KeyType;
use crate::support::place::Place;
use crate::support::rows::{self, Row, Rows};

/// The generations of a table's only shard, as Lance names them.
pub(super) fn generations_of(snapshot: &Snapshot) -> ShardSnapshot {
    let shard = &snapshot.version().shards[0];
    shard
        .generations
        .iter()
        .fold(ShardSnapshot::new(shard.shard.0).with_current_generation(99), |theirs, generation| {
            theirs.with_sstable(generation.id().0, generation.record().path.clone())
        })
}

/// A Lance dataset and the writers of its shards.
pub(super) struct Lance {
    key_type: KeyType,
    pub(super) dataset: Arc<Dataset>,
    writers: Vec<ShardWriter>,
    sharding: Sharding,
}

impl Lance {
    /// Makes a table of these rows with one shard.
    pub(super) async fn create(place: &Place, batch: &RecordBatch) {
        let names = place.key_type.names();
        let fields = batch.schema_ref().fields().iter().map(|field| {
            let Some(place) = names.iter().position(|name| name == field.name()) else { return Arc::clone(field) };
            let mut marks = HashMap::from([("lance-schema:unenforced-primary-key".to_string(), "true".to_string())]);
            if names.len() > 1 {
                marks.insert("lance-schema:unenforced-primary-key:position".into(), (place + 1).to_string());
            }
            Arc::new(field.as_ref().clone().with_metadata(marks))
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let batch = RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec()).unwrap();
        let reader = RecordBatchIterator::new([Ok(batch)], schema);
        let mut dataset = Dataset::write(reader, &place.uri(), None).await.unwrap();
        dataset.initialize_mem_wal().unsharded().execute().await.unwrap();
    }

    /// Writers that do not wait for company.
    pub(super) async fn open(place: &Place) -> Self {
        let config = ShardWriterConfig {
            max_wal_flush_interval: Some(Duration::from_millis(1)),
            ..ShardWriterConfig::default()
        };
        Self::open_with(place, config).await.unwrap()
    }

    pub(super) async fn open_at_defaults(place: &Place) -> Self {
        Self::open_with(place, ShardWriterConfig::default()).await.unwrap()
    }

    pub(super) async fn try_open(place: &Place) -> Result<Self, String> {
        Self::open_with(place, ShardWriterConfig::default()).await
    }

    async fn open_with(place: &Place, config: ShardWriterConfig) -> Result<Self, String> {
        let dataset = Arc::new(Dataset::open(&place.uri()).await.map_err(|e| e.to_string())?);
        let sharding = match place.shards {
            1 => Sharding { shards: vec![ShardId::unsharded()], column: None, spec_id: 1 },
            n => Sharding {
                shards: (0..n).map(ShardId::bucket).collect(),
                column: Some(place.key_type.names().remove(0)),
                spec_id: 1,
            },
        };
        let mut writers = Vec::new();
        for shard in &sharding.shards {
            writers.push(dataset.mem_wal_writer(shard.0, config.clone()).await.map_err(|e| e.to_string())?);
        }
        Ok(Self { key_type: place.key_type, dataset, writers, sharding })
    }

    /// The rows of each shard.
    fn route(&self, batch: &RecordBatch) -> Vec<(&ShardWriter, RecordBatch)> {
        let buckets = bucket(&self.sharding, batch).unwrap();
        let of = |shard: usize| (0..).zip(&buckets).filter(move |(_, b)| **b as usize == shard).map(|(row, _)| row);
        let shards = self.writers.iter().enumerate().map(|(i, writer)| (writer, of(i).collect::<UInt32Array>()));
        let rows = shards.filter(|(_, rows)| !rows.is_empty());
        rows.map(|(writer, rows)| (writer, take_record_batch(batch, &rows).unwrap())).collect()
    }

    pub(super) async fn try_put(&self, batch: &RecordBatch) -> Result<(), String> {
        for (writer, rows) in self.route(batch) {
            writer.put(vec![rows]).await.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    pub(super) async fn put(&self, batch: &RecordBatch) {
        self.try_put(batch).await.unwrap();
    }

    pub(super) async fn delete(&self, keys: &[u32]) {
        for (writer, keys) in self.route(&self.key_type.batch(keys)) {
            writer.delete(vec![keys]).await.unwrap();
        }
    }

    /// Memtables become generations.
    pub(super) async fn freeze(&self) {
        for writer in &self.writers {
            writer.force_freeze_active().await.unwrap().wait().await.unwrap();
        }
    }

    /// What of a shard is on disk, as its manifest says.
    async fn snapshot(&self, writer: &ShardWriter) -> ShardSnapshot {
        let manifest = writer.manifest().await.unwrap().unwrap();
        let details = self.dataset.mem_wal_index_details().await.unwrap().unwrap();
        let compacted =
            details.compacted_sstables.iter().find(|c| c.shard_id == writer.shard_id()).map_or(0, |c| c.generation);
        let live = manifest.sstables.iter().filter(|s| s.generation > compacted);
        let snapshot = ShardSnapshot::new(writer.shard_id()).with_current_generation(manifest.current_generation);
        live.fold(snapshot, |snapshot, s| snapshot.with_sstable(s.generation, s.path.clone()))
    }

    async fn snapshots(&self) -> Vec<ShardSnapshot> {
        let mut snapshots = Vec::new();
        for writer in &self.writers {
            snapshots.push(self.snapshot(writer).await);
        }
        snapshots
    }

    /// All live rows: these columns, in this order.
    pub(super) async fn scan(&self, columns: &[&str]) -> RecordBatch {
        let mut scanner = LsmScanner::new(Arc::clone(&self.dataset), self.snapshots().await, self.key_type.names());
        for writer in &self.writers {
            let memtables = writer.in_memory_memtable_refs().await.unwrap();
            scanner = scanner.with_in_memory_memtables(writer.shard_id(), memtables);
        }
        scanner.project(columns).unwrap().try_into_batch().await.unwrap()
    }

    /// All live rows.
    pub(super) async fn rows(&self) -> Rows {
        let schema = rows::schema(self.key_type);
        let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        rows::collected(self.key_type, &[self.scan(&columns).await])
    }

    /// The row of one key.
    pub(super) async fn lookup(&self, key: u32) -> Option<Row> {
        let mut sources = LsmDataSourceCollector::new(Arc::clone(&self.dataset), self.snapshots().await);
        for writer in &self.writers {
            let memtables = writer.in_memory_memtable_refs().await.unwrap();
            sources = sources.with_in_memory_memtables(writer.shard_id(), memtables);
        }
        let schema: SchemaRef = Arc::new(arrow_schema_with_field_ids(self.dataset.schema()));
        let planner = LsmPointLookupPlanner::new(sources, self.key_type.names(), schema).unwrap();
        let found = planner.lookup(&self.key_type.values(key), None).await.unwrap()?;
        rows::listed(self.key_type, &found).pop().map(|(_, row)| row)
    }

    pub(super) async fn shards(&self) -> Vec<Uuid> {
        self.dataset.list_mem_wal_latest_shard_ids().await.unwrap()
    }

    /// The manifest of the first shard.
    pub(super) async fn manifest(&self) -> ShardManifest {
        self.writers[0].manifest_store().refresh_latest().await.unwrap().unwrap()
    }

    /// Ends in order: everything becomes generations.
    pub(super) async fn close(self) {
        for writer in self.writers {
            writer.close().await.unwrap();
        }
    }

    /// Ends at once.
    pub(super) async fn abort(self) {
        for writer in self.writers {
            writer.abort().await.unwrap();
        }
    }
}
