//! Lance's own LSM engine at its best: one session, cached and prewarmed SSTables, planners that are kept, memtables and
//! manifest looked at once and not for every query.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Float32Array, RecordBatch, RecordBatchIterator};
use arrow::datatypes::SchemaRef;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;
use datafusion_lsm::store::registry;
use lance::Dataset;
use lance::dataset::WriteParams;
use lance::dataset::builder::DatasetBuilder;
use lance::dataset::mem_wal::scanner::{
    DatasetCache, InMemoryMemTables, LsmDataSourceCollector, LsmFtsSearchPlanner, LsmPointLookupPlanner,
    LsmVectorSearchPlanner, SsTableCache,
};
use lance::dataset::mem_wal::{
    DatasetMemWalExt, LsmScanner, ShardManifestStore, ShardSnapshot, ShardWriter, ShardWriterConfig,
    arrow_schema_with_field_ids,
};
use lance::session::Session;
use lance_core::utils::bloomfilter::sbbf::Sbbf;
use lance_index::mem_wal::ShardManifest;
use lance_index::scalar::FullTextSearchQuery;
use lance_index::scalar::inverted::query::{FtsQuery, MatchQuery, PhraseQuery};
use lance_linalg::distance::DistanceType;
use object_store::ObjectStoreExt;
use uuid::Uuid;

use super::Result;
use super::bench::Bench;
use super::documents::{BUCKET, TEXT, VECTOR, list};
use super::indexes::{Index, create_all};
use super::place::uri;
use super::rows::KEY;
use super::search::{K, ids_of, scored};
use super::texts::{TextQuery, written};

/// The one shard of a peer's table.
const SHARD: Uuid = Uuid::from_u128(1);
/// How many more rows than asked for Lance looks at in each source, for those that newer sources supersede: what LanceDB
/// takes.
pub(crate) const OVERFETCH: f64 = 2.0;

/// Bytes of the caches of indexes and of metadata: Lance's defaults, which hold all that a bench has.
const CACHES: (usize, usize) = (6 << 30, 1 << 30);
/// SSTables that stay open.
const OPEN: u64 = 64;

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
    memtables: Option<InMemoryMemTables>,
    cache: Arc<dyn DatasetCache>,
    /// Which keys the SSTables have, if that was read.
    blooms: Vec<(u64, Arc<Sbbf>)>,
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

/// The dataset at `uri` with caches of its own, reached as this crate reaches it.
pub(crate) async fn dataset(uri: &str) -> Result<Dataset> {
    let session = Session::new(CACHES.0, CACHES.1, registry());
    Ok(Box::pin(DatasetBuilder::from_uri(uri).with_session(Arc::new(session)).load()).await?)
}

/// What a manifest says there is on storage.
fn snapshot(manifest: Option<ShardManifest>) -> ShardSnapshot {
    let mut snapshot = ShardSnapshot::new(SHARD);
    if let Some(manifest) = manifest {
        snapshot = snapshot.with_current_generation(manifest.current_generation);
        for sstable in &manifest.sstables {
            snapshot = snapshot.with_sstable(sstable.generation, sstable.path.clone());
        }
    }
    snapshot
}

impl Peer {
    /// Makes a table at `dir` whose base has `base`, with these indexes, kept in memtables too.
    pub(crate) async fn create(
        dir: &Path,
        schema: &SchemaRef,
        base: Vec<RecordBatch>,
        indexes: &[Index],
        config: ShardWriterConfig,
    ) -> Result<Self> {
        let mut dataset = plain(uri(dir)?, schema, base, None).await?;
        create_all(&mut dataset, indexes).await?;
        Self::over(dataset, indexes, config).await
    }

    /// Makes a table of the dataset at `dir`, which has these indexes.
    pub(crate) async fn adopt(dir: &Path, indexes: &[Index], config: ShardWriterConfig) -> Result<Self> {
        Self::over(Box::pin(Dataset::open(uri(dir)?)).await?, indexes, config).await
    }

    /// Makes a table of the dataset at `uri`, which has these indexes.
    pub(crate) async fn adopt_at(uri: &str, indexes: &[Index], config: ShardWriterConfig) -> Result<Self> {
        Self::over(dataset(uri).await?, indexes, config).await
    }

    async fn over(mut dataset: Dataset, indexes: &[Index], config: ShardWriterConfig) -> Result<Self> {
        let kept: Vec<String> = indexes.iter().map(|index| index.name()).collect();
        Box::pin(dataset.initialize_mem_wal().maintained_indexes(kept).execute()).await?;
        Self::with(dataset, config).await
    }

    /// Opens the table at `dir`, replaying its WAL.
    pub(crate) async fn open(dir: &Path, config: ShardWriterConfig) -> Result<Self> {
        Self::with(Box::pin(Dataset::open(uri(dir)?)).await?, config).await
    }

    /// Opens the table at `uri`.
    pub(crate) async fn open_at(uri: &str, config: ShardWriterConfig) -> Result<Self> {
        Self::with(dataset(uri).await?, config).await
    }

    async fn with(dataset: Dataset, config: ShardWriterConfig) -> Result<Self> {
        let config = ShardWriterConfig { shard_id: SHARD, ..config };
        let writer = Box::pin(dataset.mem_wal_writer(SHARD, config)).await?;
        Ok(Self { dataset: Arc::new(dataset), writer, cache: Arc::new(SsTableCache::new(OPEN)) })
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
    pub(crate) async fn settle(&self, bench: &Bench) -> Result<()> {
        tokio::time::sleep(bench.size(Duration::from_secs(1), Duration::from_millis(20))).await;
        Ok(())
    }

    /// Turns the memtable into an SSTable.
    pub(crate) async fn flush(&self) -> Result<()> {
        Ok(self.writer.force_freeze_active().await?.wait().await?)
    }

    /// What there is now, prewarmed.
    pub(crate) async fn sources(&self) -> Result<Sources> {
        let mut sources = self.unwarmed_sources().await?;
        self.dataset.prewarm_mem_wal(std::slice::from_ref(&sources.snapshot), Some(&self.cache)).await?;
        sources.blooms = sources.read_blooms().await?;
        Ok(sources)
    }

    /// What there is now. Memtables are looked at first: what is flushed meanwhile is then seen twice, not never.
    pub(crate) async fn unwarmed_sources(&self) -> Result<Sources> {
        let memtables = Some(self.writer.in_memory_memtable_refs().await?);
        let snapshot = snapshot(self.writer.manifest().await?);
        let (dataset, cache) = (Arc::clone(&self.dataset), Arc::clone(&self.cache));
        Ok(Sources { dataset, snapshot, memtables, cache, blooms: Vec::new() })
    }

    /// Every row of the active memtable and of nothing else, superseded ones too: Lance's bare scanner.
    pub(crate) async fn memtable_stream(&self) -> Result<SendableRecordBatchStream> {
        Ok(self.writer.scan().await?.try_into_stream().await?)
    }

    /// The ids of the rows nearest to `vector` in the active memtable, so many nodes of whose graph are kept in view: Lance's
    /// bare scanner, which sees superseded rows too.
    pub(crate) async fn bare(&self, vector: &[f32], ef: usize) -> Result<Vec<i64>> {
        let mut scanner = self.writer.scan().await?;
        let key = Float32Array::from(vector.to_vec());
        scanner.project(&[KEY])?.nearest(VECTOR, &key, K)?.distance_metric(DistanceType::L2).ef(ef);
        Ok(ids_of(&[scanner.try_into_batch().await?]))
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
    /// What there is on storage at `uri`, for who only reads: no shard is claimed and nothing is warmed.
    pub(crate) async fn stored(uri: &str) -> Result<Self> {
        let dataset = Arc::new(dataset(uri).await?);
        let store = dataset.object_store(None).await?;
        let probes = ShardWriterConfig::default().manifest_scan_batch_size;
        let manifests = ShardManifestStore::new(store, &dataset.branch_location().path, SHARD, probes);
        let snapshot = snapshot(manifests.latest().await?);
        let cache = Arc::new(SsTableCache::new(OPEN));
        Ok(Self { dataset, snapshot, memtables: None, cache, blooms: Vec::new() })
    }

    /// The filters that flushes write beside SSTables. Lance leaves it to who looks up to read them.
    async fn read_blooms(&self) -> Result<Vec<(u64, Arc<Sbbf>)>> {
        let store = self.dataset.object_store(None).await?;
        let shard = self.dataset.branch_location().path.join("_mem_wal").join(SHARD.to_string());
        let mut blooms = Vec::new();
        for sstable in &self.snapshot.sstables {
            let path = shard.clone().join(sstable.path.as_str()).join("bloom_filter.bin");
            let bytes = store.inner.get(&path).await?.bytes().await?;
            blooms.push((sstable.generation, Arc::new(Sbbf::new(&bytes)?)));
        }
        Ok(blooms)
    }

    /// Lance's scanner over all sources.
    pub(crate) fn scanner(&self) -> LsmScanner {
        let scanner = LsmScanner::new(Arc::clone(&self.dataset), vec![self.snapshot.clone()], vec![KEY.to_string()])
            .with_sstable_cache(Arc::clone(&self.cache));
        match &self.memtables {
            Some(memtables) => scanner.with_in_memory_memtables(SHARD, memtables.clone()),
            None => scanner,
        }
    }

    /// All live rows.
    pub(crate) async fn stream(&self) -> Result<SendableRecordBatchStream> {
        Ok(self.scanner().try_into_stream().await?)
    }

    /// Lance's planner for point lookups, to be kept.
    pub(crate) fn lookup(&self) -> Result<LsmPointLookupPlanner> {
        Ok(LsmPointLookupPlanner::new(self.collector(), vec![KEY.to_string()], self.schema())?
            .with_session(self.dataset.session())
            .with_sstable_cache(Arc::clone(&self.cache))
            .with_bloom_filters(self.blooms.iter().cloned()))
    }

    fn collector(&self) -> LsmDataSourceCollector {
        let collector = LsmDataSourceCollector::new(Arc::clone(&self.dataset), vec![self.snapshot.clone()]);
        match &self.memtables {
            Some(memtables) => collector.with_in_memory_memtables(SHARD, memtables.clone()),
            None => collector,
        }
    }

    fn schema(&self) -> SchemaRef {
        Arc::new(arrow_schema_with_field_ids(self.dataset.schema()))
    }

    /// Lance's planners for searches, to be kept.
    pub(crate) fn planners(&self, refine: Option<u32>) -> Planners {
        let key = || vec![KEY.to_string()];
        let vectors =
            LsmVectorSearchPlanner::new(self.collector(), key(), self.schema(), VECTOR.to_string(), DistanceType::L2);
        let vectors = vectors
            .with_dataset(Arc::clone(&self.dataset))
            .with_session(self.dataset.session())
            .with_sstable_cache(Arc::clone(&self.cache))
            .with_refine_factor(refine);
        let texts = LsmFtsSearchPlanner::new(self.collector(), key(), self.schema())
            .with_session(self.dataset.session())
            .with_sstable_cache(Arc::clone(&self.cache))
            .with_overfetch_factor(OVERFETCH);
        Planners { vectors, texts, task: SessionContext::new().task_ctx() }
    }

    /// The ids of the rows nearest to `vector` among those whose buckets are below `end`, by Lance's scanner: the first of
    /// `asked` rows. It has no other setting for how many of its graph's nodes it keeps in view.
    pub(crate) async fn near(&self, vector: &[f32], end: Option<i32>, asked: usize) -> Result<Vec<i64>> {
        let key = Float32Array::from(vector.to_vec());
        let scanner = self.below(end)?.nearest(VECTOR, &key, asked)?.nprobes(1);
        let scanner = scanner.distance_metric(DistanceType::L2).with_overfetch_factor(OVERFETCH);
        let mut ids = ids_of(&[scanner.try_into_batch().await?]);
        ids.truncate(K);
        Ok(ids)
    }

    /// The ids and scores of the best texts among the rows whose buckets are below `end`, by Lance's scanner.
    pub(crate) async fn best(&self, query: &TextQuery, end: Option<i32>) -> Result<Vec<(i64, f64)>> {
        let scanner = self.below(end)?.full_text_search(full_text(query))?.with_overfetch_factor(OVERFETCH);
        scored(&[scanner.try_into_batch().await?], SCORE)
    }

    fn below(&self, end: Option<i32>) -> Result<LsmScanner> {
        let scanner = self.scanner().project(&[KEY])?;
        Ok(match end {
            Some(end) => scanner.filter(&format!("{BUCKET} < {end}"))?.with_memtable_filter_indexes(true),
            None => scanner,
        })
    }
}

/// Where Lance puts scores.
pub(crate) const SCORE: &str = "_score";

/// A query as Lance takes it.
pub(crate) fn full_text(query: &TextQuery) -> FullTextSearchQuery {
    let column = Some(TEXT.to_string());
    let query: FtsQuery = match query {
        TextQuery::Any(words) => MatchQuery::new(written(words)).with_column(column).into(),
        TextQuery::Phrase(words) => PhraseQuery::new(written(words)).with_column(column).into(),
    };
    FullTextSearchQuery::new_query(query).limit(Some(K as i64))
}

/// Lance's planners over the sources of one moment.
pub(crate) struct Planners {
    vectors: LsmVectorSearchPlanner,
    texts: LsmFtsSearchPlanner,
    task: Arc<TaskContext>,
}

impl Planners {
    /// The ids of the rows nearest to `vector`, of which so many partitions are searched.
    pub(crate) async fn near(&self, vector: &[f32], probes: usize) -> Result<Vec<i64>> {
        let query = list(vector.to_vec(), vector.len())?;
        let key = [KEY.to_string()];
        let plan = self.vectors.plan_search(&query, K, probes, Some(&key), true, OVERFETCH).await?;
        Ok(ids_of(&collect(plan, Arc::clone(&self.task)).await?))
    }

    /// The ids and scores of the best texts.
    pub(crate) async fn best(&self, query: &TextQuery) -> Result<Vec<(i64, f64)>> {
        let key = [KEY.to_string()];
        let plan = self.texts.plan_search(full_text(query), Some(K), Some(&key)).await?;
        scored(&collect(plan, Arc::clone(&self.task)).await?, SCORE)
    }
}
