//! Lance's own LSM engine at its best: one session, cached and prewarmed SSTables, planners that are kept, memtables and
//! manifest looked at once and not for every query.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::array::RecordBatchIterator;
use arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use lance::Dataset;
use lance::dataset::WriteParams;
use lance::dataset::mem_wal::scanner::{
    DatasetCache, InMemoryMemTables, LsmDataSourceCollector, LsmPointLookupPlanner, SsTableCache,
};
use lance::dataset::mem_wal::{
    DatasetMemWalExt, LsmScanner, ShardSnapshot, ShardWriter, ShardWriterConfig, arrow_schema_with_field_ids,
};
use lance::index::DatasetIndexExt;
use lance::index::vector::VectorIndexParams;
use lance_index::IndexType;
use lance_index::scalar::ScalarIndexParams;
use lance_linalg::distance::DistanceType;
use uuid::Uuid;

use super::Result;
use super::place::uri;
use super::rows::KEY;

/// The one shard of a peer's table.
const SHARD: Uuid = Uuid::from_u128(1);
/// The index on the key.
const KEY_INDEX: &str = "id_btree";
/// The index on vectors.
const VECTOR_INDEX: &str = "vector_idx";

/// A table of Lance's with its writer.
pub(crate) struct Peer {
    dataset: Arc<Dataset>,
    writer: ShardWriter,
    cache: Arc<dyn DatasetCache>,
}

/// The sources of a peer's table at one moment.
pub(crate) struct Sources {
    dataset: Arc<Dataset>,
    snapshot: ShardSnapshot,
    memtables: InMemoryMemTables,
    cache: Arc<dyn DatasetCache>,
}

/// A configuration whose memtables stay in memory while a bench fills them.
pub(crate) fn roomy() -> ShardWriterConfig {
    ShardWriterConfig {
        durable_write: false,
        max_memtable_size: 8 << 30,
        max_unflushed_memtable_bytes: 16 << 30,
        max_memtable_rows: 200_000,
        max_memtable_batches: 100_000,
        ..ShardWriterConfig::default()
    }
}

/// A configuration that acknowledges what is durable, at most `interval` after it was written.
pub(crate) fn durable(interval: Duration) -> ShardWriterConfig {
    ShardWriterConfig { durable_write: true, max_wal_flush_interval: Some(interval), ..ShardWriterConfig::default() }
}

/// Writes a plain dataset at `uri`, of one fragment unless `fragment` rows make one.
pub(crate) async fn plain(
    uri: &str,
    schema: &SchemaRef,
    rows: Vec<RecordBatch>,
    fragment: Option<usize>,
) -> Result<Dataset> {
    let total: usize = rows.iter().map(RecordBatch::num_rows).sum();
    let params = WriteParams { max_rows_per_file: fragment.unwrap_or(total + 1), ..WriteParams::default() };
    let reader = RecordBatchIterator::new(rows.into_iter().map(Ok), Arc::clone(schema));
    Ok(Box::pin(Dataset::write(reader, uri, Some(params))).await?)
}

impl Peer {
    /// Makes a table at `dir` whose base has `base`. With `index` the key has a BTree, maintained in memtables too.
    pub(crate) async fn create(
        dir: &Path,
        schema: &SchemaRef,
        base: Vec<RecordBatch>,
        index: bool,
        config: ShardWriterConfig,
    ) -> Result<Self> {
        let mut dataset = plain(uri(dir)?, schema, base, None).await?;
        let mut maintained = Vec::new();
        if index {
            let params = ScalarIndexParams::default();
            let name = Some(KEY_INDEX.to_string());
            Box::pin(dataset.create_index(&[KEY], IndexType::BTree, name, &params, true)).await?;
            maintained.push(KEY_INDEX);
        }
        Box::pin(dataset.initialize_mem_wal().maintained_indexes(maintained).execute()).await?;
        Self::with(dataset, config).await
    }

    /// Makes a table at `dir` whose base has `base`, with a BTree on the key and a vector index by L2 distances on
    /// `column`, both maintained in memtables.
    pub(crate) async fn searched(
        dir: &Path,
        schema: &SchemaRef,
        base: Vec<RecordBatch>,
        column: &str,
        config: ShardWriterConfig,
    ) -> Result<Self> {
        let mut dataset = plain(uri(dir)?, schema, base, None).await?;
        let (name, params) = (Some(KEY_INDEX.to_string()), ScalarIndexParams::default());
        Box::pin(dataset.create_index(&[KEY], IndexType::BTree, name, &params, true)).await?;
        let (name, params) = (Some(VECTOR_INDEX.to_string()), VectorIndexParams::ivf_flat(1, DistanceType::L2));
        Box::pin(dataset.create_index(&[column], IndexType::Vector, name, &params, true)).await?;
        Box::pin(dataset.initialize_mem_wal().maintained_indexes([KEY_INDEX, VECTOR_INDEX]).execute()).await?;
        Self::with(dataset, config).await
    }

    /// Opens the table at `dir`, replaying its WAL.
    pub(crate) async fn open(dir: &Path, config: ShardWriterConfig) -> Result<Self> {
        Self::with(Box::pin(Dataset::open(uri(dir)?)).await?, config).await
    }

    async fn with(dataset: Dataset, config: ShardWriterConfig) -> Result<Self> {
        let config = ShardWriterConfig { shard_id: SHARD, ..config };
        let writer = Box::pin(dataset.mem_wal_writer(SHARD, config)).await?;
        Ok(Self { dataset: Arc::new(dataset), writer, cache: Arc::new(SsTableCache::new(64)) })
    }

    /// The writer.
    pub(crate) fn writer(&self) -> &ShardWriter {
        &self.writer
    }

    /// Writes batch by batch.
    pub(crate) async fn fill(&self, rows: &[RecordBatch]) -> Result<()> {
        for batch in rows {
            self.writer.put(vec![batch.clone()]).await?;
        }
        Ok(())
    }

    /// Gives the writer the time to write in the background what it holds; it does not tell when it is done.
    pub(crate) async fn settle(&self) -> Result<()> {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    }

    /// Turns the memtable into an SSTable.
    pub(crate) async fn flush(&self) -> Result<()> {
        Ok(self.writer.force_freeze_active().await?.wait().await?)
    }

    /// What there is now, prewarmed.
    pub(crate) async fn sources(&self) -> Result<Sources> {
        let sources = self.unwarmed_sources().await?;
        self.dataset.prewarm_mem_wal(std::slice::from_ref(&sources.snapshot), Some(&self.cache)).await?;
        Ok(sources)
    }

    /// What there is now. Memtables are looked at first: what is flushed meanwhile is then seen twice, not never.
    pub(crate) async fn unwarmed_sources(&self) -> Result<Sources> {
        let memtables = self.writer.in_memory_memtable_refs().await?;
        let mut snapshot = ShardSnapshot::new(SHARD);
        if let Some(manifest) = self.writer.manifest().await? {
            snapshot = snapshot.with_current_generation(manifest.current_generation);
            for sstable in &manifest.sstables {
                snapshot = snapshot.with_sstable(sstable.generation, sstable.path.clone());
            }
        }
        let (dataset, cache) = (Arc::clone(&self.dataset), Arc::clone(&self.cache));
        Ok(Sources { dataset, snapshot, memtables, cache })
    }

    /// Every row of the active memtable and of nothing else, superseded ones too: Lance's bare scanner.
    pub(crate) async fn memtable_stream(&self) -> Result<SendableRecordBatchStream> {
        Ok(self.writer.scan().await?.try_into_stream().await?)
    }

    /// Ends the writer without flushing its memtable.
    pub(crate) async fn abort(self) -> Result<()> {
        Ok(self.writer.abort().await?)
    }

    /// Ends the writer, flushing what it holds.
    pub(crate) async fn close(self) -> Result<()> {
        Ok(self.writer.close().await?)
    }
}

impl Sources {
    /// Lance's scanner over all sources.
    pub(crate) fn scanner(&self) -> LsmScanner {
        LsmScanner::new(Arc::clone(&self.dataset), vec![self.snapshot.clone()], vec![KEY.to_string()])
            .with_in_memory_memtables(SHARD, self.memtables.clone())
            .with_sstable_cache(Arc::clone(&self.cache))
    }

    /// All live rows.
    pub(crate) async fn stream(&self) -> Result<SendableRecordBatchStream> {
        Ok(self.scanner().try_into_stream().await?)
    }

    /// Lance's planner for point lookups, to be kept.
    pub(crate) fn lookup(&self) -> Result<LsmPointLookupPlanner> {
        let collector = LsmDataSourceCollector::new(Arc::clone(&self.dataset), vec![self.snapshot.clone()])
            .with_in_memory_memtables(SHARD, self.memtables.clone());
        let schema = Arc::new(arrow_schema_with_field_ids(self.dataset.schema()));
        Ok(LsmPointLookupPlanner::new(collector, vec![KEY.to_string()], schema)?
            .with_session(self.dataset.session())
            .with_sstable_cache(Arc::clone(&self.cache)))
    }
}
