//! What a table tells about itself.

use std::sync::Arc;

use super::handle::LsmTable;
use crate::error::Result;
use crate::ids::{GenerationId, ShardId};
use crate::metrics::MetricKind;
use crate::writer::Role;

/// One source of a table.
#[derive(Debug, Clone)]
pub struct SourceInfo {
    /// Its shard; `None` for the base.
    pub shard: Option<ShardId>,
    /// The number of its shard, as EXPLAIN and `lsm_source` call it; `None` for the base.
    pub index: Option<u64>,
    /// `memtable`, `generation` or `base`.
    pub kind: &'static str,
    /// Its generation; 0 for the base.
    pub generation: GenerationId,
    /// Its rows, superseded ones and tombstones included; of a memtable those that are visible.
    pub rows: u64,
    /// Bytes: of a memtable, its rows and indexes in memory now; of a generation, what its rows took in memory when it
    /// was written, not its files; `None` if nobody wrote that down, and for the base.
    pub bytes: Option<u64>,
    /// Milliseconds since a memtable was made; `None` for generations and the base.
    pub age_ms: Option<u64>,
    /// Of a memtable `active` (takes writes), `frozen` (is flushed, or about to be) or `failed` (see `error`; a flush
    /// is tried again); of generations and the base `committed`.
    pub state: &'static str,
    /// Why a memtable's last flush failed, its shard cannot be read or one of its indexes was given up.
    pub error: Option<String>,
}

/// The WAL of one shard.
#[derive(Debug, Clone)]
pub struct WalInfo {
    /// The shard.
    pub shard: ShardId,
    /// `reader`, `claiming`, `writer` or `failed`.
    pub role: &'static str,
    /// This process's epoch as a writer; else the one stored, 0 if nobody ever claimed the shard.
    pub epoch: u64,
    /// The next slot to write, or to read for a reader, as far as this process knows; the first is 1.
    pub next_position: u64,
    /// Entries up to this one are in generations, as stored; 0 before the first flush.
    pub replay_after: u64,
    /// The next memtable to become a generation, as stored; the first is 1.
    pub current_generation: u64,
    /// The version of the shard manifest, the newest this process has seen; 0 if nobody ever claimed the shard.
    pub manifest_version: u64,
    /// Units that wait for the WAL; always 0 for a reader. Those of the WAL write under way are not among them.
    pub queued_units: u64,
    /// Their bytes, and those of the WAL write under way: what `lsm.wal.queue` bounds.
    pub queued_bytes: u64,
    /// Entries that were moved aside since the table was opened.
    pub quarantined_entries: u64,
    /// Rows in them; `None` if some cannot be counted.
    pub quarantined_rows: Option<u64>,
    /// Why the shard failed: set exactly if `role` is `failed`.
    pub error: Option<String>,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
    /// `count`, `rows` or `bytes`.
    pub unit: &'static str,
    /// Whether it is how much there is now or a sum, and since when.
    pub kind: MetricKind,
}

impl LsmTable {
    /// The sources of the table: per shard its memtables and generations, newest first, then the base.
    pub fn sources(&self) -> Vec<SourceInfo> {
        let snapshot = self.snapshot();
        let now = self.clock.now();
        let mut sources = Vec::new();
        for (index, ((shard, memtables), writer)) in (0..).zip(snapshot.shards().zip(self.shards.shards())) {
            let status = writer.status();
            for view in memtables {
                let memtable = view.table();
                let indexes = memtable.indexes();
                let known = status.memtables.iter().find(|m| Arc::ptr_eq(&m.memtable, memtable));
                let error = known
                    .and_then(|m| m.flush_error.as_ref())
                    .or(shard.damage.as_ref())
                    .or(indexes.iter().find_map(|i| i.failure()));
                sources.push(SourceInfo {
                    shard: Some(shard.shard),
                    index: Some(index),
                    kind: "memtable",
                    generation: memtable.generation(),
                    rows: view.watermark() as u64,
                    bytes: Some(memtable.memory() as u64),
                    age_ms: Some(now.saturating_sub(memtable.created()).as_millis() as u64),
                    state: match (error, memtable.is_frozen()) {
                        (Some(_), _) => "failed",
                        (None, true) => "frozen",
                        (None, false) => "active",
                    },
                    error: error.map(ToString::to_string),
                });
            }
            sources.extend(shard.generations.iter().map(|generation| SourceInfo {
                shard: Some(shard.shard),
                index: Some(index),
                kind: "generation",
                generation: generation.id(),
                rows: generation.rows() as u64,
                bytes: generation.record().bytes,
                age_ms: None,
                state: "committed",
                error: None,
            }));
        }
        sources.push(SourceInfo {
            shard: None,
            index: None,
            kind: "base",
            generation: GenerationId(0),
            rows: snapshot.version().base.rows() as u64,
            bytes: None,
            age_ms: None,
            state: "committed",
            error: None,
        });
        sources
    }

    /// The WAL of each shard.
    ///
    /// # Errors
    /// `Unavailable` if the manifests cannot be read.
    pub async fn wal(&self) -> Result<Vec<WalInfo>> {
        let mut wal = Vec::new();
        for writer in self.shards.shards() {
            let manifest = match writer.manifest().cached() {
                Some(manifest) => Some(manifest),
                None => writer.manifest().latest().await?,
            };
            let status = writer.status();
            let stored = manifest.as_deref();
            let (role, epoch, error) = match &status.role {
                Role::Reader => ("reader", None, None),
                Role::Claiming(epoch) => ("claiming", Some(epoch.0), None),
                Role::Writer(epoch) => ("writer", Some(epoch.0), None),
                Role::Failed(error) => ("failed", None, Some(error.to_string())),
            };
            wal.push(WalInfo {
                shard: status.shard,
                role,
                epoch: epoch.or(stored.map(|m| m.writer_epoch)).unwrap_or(0),
                next_position: status.next_position.0,
                replay_after: stored.map_or(0, |m| m.replay_after_wal_entry_position),
                current_generation: stored.map_or(1, |m| m.current_generation),
                manifest_version: stored.map_or(0, |m| m.version),
                queued_units: status.queued.0 as u64,
                queued_bytes: status.queued.1 as u64,
                quarantined_entries: status.quarantined.iter().map(|q| q.entries as u64).sum(),
                quarantined_rows: status.quarantined.iter().map(|q| q.rows.map(|rows| rows as u64)).sum(),
                error,
            });
        }
        Ok(wal)
    }

    /// The table's figures.
    pub fn metrics(&self) -> Vec<Metric> {
        let (writes, rows) = self.shards.written();
        let io = self.io.counts();
        let cache = self.context.opener.cache_counts();
        let memtables: usize = self.shards.shards().iter().map(|s| s.memory()).sum();
        let generation_keys: usize =
            self.control.with(|v| v.shards.iter().flat_map(|s| &s.generations).map(|g| g.memory()).sum());
        let opener = self.control.with(|v| v.base.opener().clone());
        let (datasets, indexes) = (opener.datasets().counts(), opener.index_cache().counts());
        let reads = self.context.opener.all_reads();
        let now = |name, value, unit| Metric { name, value, unit, kind: MetricKind::Now };
        let of_table = |name, value, unit| Metric { name, value, unit, kind: MetricKind::OfTable };
        let of_process = |name, value, unit| Metric { name, value, unit, kind: MetricKind::OfProcess };
        vec![
            of_table("lsm.writer.writes", writes, "count"),
            of_table("lsm.writer.rows", rows, "rows"),
            now("lsm.memtable.memory", memtables as u64, "bytes"),
            now("lsm.generation.memory", generation_keys as u64, "bytes"),
            now("lsm.block_list.base_keys", self.control.block_lists().memory() as u64, "bytes"),
            now("lsm.cache.bytes", cache.bytes, "bytes"),
            of_process("lsm.cache.hits", cache.hits, "count"),
            of_process("lsm.cache.misses", cache.misses, "count"),
            of_process("lsm.cache.requests", reads.requests, "count"),
            of_process("lsm.cache.bytes_read", reads.bytes, "bytes"),
            of_process("lsm.cache.retries", reads.retries, "count"),
            now("lsm.budget.used", self.context.budget.used() as u64, "bytes"),
            now("lsm.budget.limit", self.context.budget.limit() as u64, "bytes"),
            of_process("lsm.dataset_cache.hits", datasets.hits, "count"),
            of_process("lsm.dataset_cache.misses", datasets.misses, "count"),
            of_process("lsm.dataset_cache.loads", datasets.loads, "count"),
            now("lsm.dataset_cache.bytes", datasets.bytes, "bytes"),
            of_process("lsm.index_cache.hits", indexes.hits, "count"),
            of_process("lsm.index_cache.misses", indexes.misses, "count"),
            of_process("lsm.index_cache.loads", indexes.loads, "count"),
            now("lsm.index_cache.bytes", indexes.bytes, "bytes"),
            now("lsm.read.used", self.context.read_budget.used() as u64, "bytes"),
            now("lsm.read.peak", self.context.read_budget.peak() as u64, "bytes"),
            now("lsm.read.limit", self.context.read_budget.limit() as u64, "bytes"),
            now("lsm.read.waiting", self.context.read_budget.waiting() as u64, "count"),
            of_process("lsm.read.waits", self.context.read_budget.waits(), "count"),
            of_table("lsm.store.bytes_read", io.bytes_read, "bytes"),
            of_table("lsm.store.bytes_written", io.bytes_written, "bytes"),
            of_table("lsm.store.gets", io.gets, "count"),
            of_table("lsm.store.heads", io.heads, "count"),
            of_table("lsm.store.lists", io.lists, "count"),
            of_table("lsm.store.puts", io.puts, "count"),
            of_table("lsm.store.deletes", io.deletes, "count"),
            of_table("lsm.store.retries", io.retries, "count"),
        ]
    }

    /// Tells the recorder of the table's [components](super::Components) the figures of [`metrics`](Self::metrics) as they
    /// are now: to be called before what was recorded is looked at.
    pub fn record_metrics(&self) {
        self.metrics().iter().for_each(|metric| self.context.metrics.tell(metric.name, metric.value, metric.kind));
    }
}
