//! Where a test puts its table, and how it opens it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::physical_plan::collect;
use datafusion_lsm::base::{CreateSpec, bucket};
use datafusion_lsm::cache::{IndexCache, MemoryBudget};
use datafusion_lsm::dataset::DefaultDatasetCache;
use datafusion_lsm::error::Result;
use datafusion_lsm::ids::{ShardId, WalPosition};
use datafusion_lsm::settings::{Access, Settings};
use datafusion_lsm::store::{IoHook, SyncRecord, TablePaths};
use datafusion_lsm::table::{Components, LsmTable, TableBuilder};
use datafusion_lsm::version::Snapshot;
use tempfile::TempDir;
use walkdir::WalkDir;

use super::events::Events;
use super::faults::Faults;
use super::key_type::KeyType;
use super::rows::{self, Rows};

/// A temporary directory with one table in it.
pub(crate) struct Place {
    dir: TempDir,
    pub(crate) key_type: KeyType,
    pub(crate) shards: u32,
    spec: CreateSpec,
}

impl Place {
    pub(crate) fn new(key_type: KeyType, shards: u32) -> Self {
        Self::of(key_type, rows::spec(key_type, shards))
    }

    /// A table of `spec` with keys of this type.
    pub(crate) fn of(key_type: KeyType, spec: CreateSpec) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), key_type, shards: spec.shards, spec }
    }

    /// One shard and a number for a key.
    pub(crate) fn simple() -> Self {
        Self::new(KeyType::Int64, 1)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("table")
    }

    pub(crate) fn uri(&self) -> String {
        self.root().to_str().unwrap().to_string()
    }

    /// Opens the table as a process does that has nothing of it; it is created if it is not there.
    pub(crate) fn builder(&self, settings: Settings) -> TableBuilder {
        LsmTable::builder(&self.uri()).settings(settings).components(of_a_process()).create(self.spec.clone())
    }

    pub(crate) async fn open(&self, settings: Settings) -> Result<Arc<LsmTable>> {
        self.builder(settings).open().await
    }

    /// A handle with faults and events.
    pub(crate) async fn open_with(
        &self,
        settings: Settings,
        hook: &Arc<Faults>,
        events: &Arc<Events>,
    ) -> Arc<LsmTable> {
        self.try_open_with(settings, hook, events).await.unwrap()
    }

    pub(crate) async fn try_open_with(
        &self,
        settings: Settings,
        hook: &Arc<Faults>,
        events: &Arc<Events>,
    ) -> Result<Arc<LsmTable>> {
        let components = Components {
            events: Arc::clone(events) as _,
            io_hook: Some(Arc::clone(hook) as Arc<dyn IoHook>),
            ..of_a_process()
        };
        self.builder(settings).components(components).open().await
    }

    /// Opens the table as a new process does and reads all of it.
    pub(crate) async fn try_scan_anew(&self, settings: Settings) -> Result<Vec<RecordBatch>> {
        let table = self.open(settings).await?;
        self.try_scan(&table, &table.snapshot()).await
    }

    /// A handle that reads only, as another process has it.
    pub(crate) async fn reader(&self) -> Arc<LsmTable> {
        self.open(Settings { access: Access::Read, ..quiet() }).await.unwrap()
    }

    /// The file of a WAL entry of an unsharded table.
    pub(crate) fn wal_file(&self, position: u64) -> PathBuf {
        self.root().join(TablePaths::wal_entry(ShardId::unsharded(), WalPosition(position)))
    }

    /// The slots of the WAL of a shard that are taken.
    pub(crate) fn wal_slots(&self, shard: ShardId) -> Vec<u64> {
        let Ok(names) = std::fs::read_dir(self.root().join(TablePaths::wal_dir(shard))) else { return Vec::new() };
        let mut slots: Vec<u64> = names
            .filter_map(|entry| TablePaths::parse_wal_entry(entry.unwrap().file_name().to_str().unwrap()))
            .map(|position| position.0)
            .collect();
        slots.sort_unstable();
        slots
    }

    /// For each shard of the table, in their order, its identity and some of its keys below 100.
    pub(crate) fn keys_by_shard(&self, table: &LsmTable) -> Vec<(ShardId, Vec<u32>)> {
        let snapshot = table.snapshot();
        let keys: Vec<(u32, i64)> = (0..100).map(|key| (key, 0)).collect();
        let shard_of = bucket(snapshot.version().base.sharding(), &rows::numbered(self.key_type, &keys)).unwrap();
        let keys_of = |n: usize| (0..100).filter(|key| shard_of[*key as usize] as usize == n).collect();
        snapshot.shards().enumerate().map(|(n, (shard, _))| (shard.shard, keys_of(n))).collect()
    }

    /// The rows a handle shows.
    pub(crate) async fn rows(&self, table: &LsmTable) -> Rows {
        self.rows_of(table, &table.snapshot()).await
    }

    pub(crate) async fn rows_of(&self, table: &LsmTable, snapshot: &Arc<Snapshot>) -> Rows {
        rows::collected(self.key_type, &self.try_scan(table, snapshot).await.unwrap())
    }

    /// All columns of all rows.
    pub(crate) async fn try_scan(&self, table: &LsmTable, snapshot: &Arc<Snapshot>) -> Result<Vec<RecordBatch>> {
        let plan = table.scan(snapshot, None, &[], None)?;
        Ok(collect(plan, Arc::default()).await?)
    }
}

/// The parts of a table in a process that has nothing of it in memory.
pub(crate) fn of_a_process() -> Components {
    let budget = MemoryBudget::global();
    Components {
        index_cache: IndexCache::new(256 << 20, 64 << 20, &budget),
        dataset_cache: Some(DefaultDatasetCache::new(64 << 20, &budget)),
        ..Components::default()
    }
}

/// A budget with room that is so short that no rows of datasets stay in memory.
pub(crate) fn tight_budget() -> Arc<MemoryBudget> {
    let budget = MemoryBudget::new(4 << 30);
    let lease = Box::leak(Box::new(budget.lease()));
    lease.grow(2 << 30);
    budget
}

/// Settings without what time does: no refresh of the base in the background, nothing synced.
pub(crate) fn quiet() -> Settings {
    Settings { base_refresh: None, sync: false, ..Settings::default() }
}

/// Deletes what a power failure would take: files whose bytes or names were not synced, and directories likewise.
pub(crate) fn lose_unsynced(root: &Path, synced: &SyncRecord) -> usize {
    let mut lost = 0;
    for entry in WalkDir::new(root).min_depth(1).contents_first(true).into_iter().filter_map(Result::ok) {
        let path = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_string();
        if entry.file_type().is_dir() {
            if !synced.has_dir(&path) {
                std::fs::remove_dir_all(entry.path()).unwrap();
            }
        } else if !synced.has_file(&path) {
            std::fs::remove_file(entry.path()).unwrap();
            lost += 1;
        }
    }
    lost
}

/// The rows `(key, n)`.
pub(crate) fn numbers(rows: &Rows) -> Vec<(u32, i64)> {
    rows.iter().map(|(key, row)| (*key, row.n)).collect()
}
