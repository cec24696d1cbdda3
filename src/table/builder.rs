//! Opening a table: settings are data, components are parts, and nobody is fenced.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use futures::future::try_join_all;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tracing::Instrument;

use super::handle::{LsmTable, Parts};
use crate::base::{AdoptSpec, BaseTable, CreateSpec};
use crate::block_list::BlockLists;
use crate::cache::{BlockCache, IndexCache, MemoryBlocks, MemoryBudget, ReadBudget};
use crate::clock::{Clock, SystemClock};
use crate::dataset::{DatasetCache, DatasetOpener, DefaultDatasetCache};
use crate::error::{Error, ErrorKind, Result};
use crate::events::{EventListener, NoEvents};
use crate::flush::{self, FlushContext};
use crate::ids::{GenerationId, WalPosition};
use crate::index_spec::IndexSpec;
use crate::manifest::ManifestStore;
use crate::memtable::{MemTable, RowIndexFactory};
use crate::metrics::{MetricsRecorder, TableMetrics};
use crate::schema::TableSchema;
use crate::settings::{Access, Settings};
use crate::store::{IoHook, ObjectIo, StoreOptions, TablePaths};
use crate::task::Supervisor;
use crate::version::{GenerationWarmer, IndexWarmer, ShardVersion, Version, VersionControl};
use crate::writer::{IndexSet, Publisher, ShardSet, ShardWriter, WriterContext};

/// The parts of a table that an embedder may bring.
#[derive(Debug, Clone)]
pub struct Components {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Who listens.
    pub events: Arc<dyn EventListener>,
    /// Who is told figures; the process's recorder by default.
    pub metrics: MetricsRecorder,
    /// Stands between the table and its objects.
    pub io_hook: Option<Arc<dyn IoHook>>,
    /// What all tables that share it may hold together; the process's by default.
    pub budget: Arc<MemoryBudget>,
    /// Open indexes, manifests and file footers; those of the process by default.
    pub index_cache: Arc<IndexCache>,
    /// Open generations; by default those of the process, or of the table alone if it keeps blocks of its own
    /// ([`Settings::cache_memory`]), which nobody else could use and which open generations keep in memory.
    pub dataset_cache: Option<Arc<dyn DatasetCache>>,
    /// What all queries that share it may have read and not yet used; the process's by default.
    pub read_budget: Arc<ReadBudget>,
    /// What keeps blocks of files on object stores, unless [`Settings::cache_memory`] says how much is to be kept; the
    /// process's by default.
    pub block_cache: Option<Arc<dyn BlockCache>>,
    /// Prepares generations for queries before they are committed, or seen if another process committed them; by default it
    /// opens their indexes, loads their keys and codes of vectors, and finds out what they supersede.
    pub warmer: Arc<dyn GenerationWarmer>,
    /// Indexes that every memtable gets besides its key index.
    pub indexes: Vec<Arc<dyn RowIndexFactory>>,
}

impl Default for Components {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            events: Arc::new(NoEvents),
            metrics: MetricsRecorder::default(),
            io_hook: None,
            budget: MemoryBudget::global(),
            index_cache: IndexCache::global(),
            dataset_cache: None,
            read_budget: ReadBudget::global(),
            block_cache: None,
            warmer: Arc::new(IndexWarmer),
            indexes: Vec::new(),
        }
    }
}

/// What is expected at the location.
#[derive(Debug, Clone)]
enum Start {
    Open,
    Create(CreateSpec),
    Adopt(AdoptSpec),
}

/// Opens or creates a table.
#[derive(Debug, Clone)]
pub struct TableBuilder {
    uri: String,
    settings: Option<Settings>,
    options: Vec<(String, String)>,
    storage_options: HashMap<String, String>,
    components: Components,
    start: Start,
    replace: bool,
}

impl TableBuilder {
    pub(super) fn new(uri: &str) -> Self {
        Self {
            uri: uri.to_string(),
            settings: None,
            options: Vec::new(),
            storage_options: HashMap::new(),
            components: Components::default(),
            start: Start::Open,
            replace: false,
        }
    }

    /// All settings, instead of those stored with the table, which then do not count at all. A new table does not store
    /// them.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = Some(settings);
        self
    }

    /// One setting by its option name, over [`settings`](Self::settings) if those are given, else over those stored
    /// with the table. A table that is created stores what is set this way and [is kept](Settings::is_stored); one that
    /// is adopted stores [`AdoptSpec::defaults`] alone.
    #[must_use]
    pub fn option(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.push((name.into(), value.into()));
        self
    }

    /// What the object store needs to know, in Lance's names.
    #[must_use]
    pub fn storage_options(mut self, options: HashMap<String, String>) -> Self {
        self.storage_options = options;
        self
    }

    /// Parts other than the default ones.
    #[must_use]
    pub fn components(mut self, components: Components) -> Self {
        self.components = components;
        self
    }

    /// Creates the table if there is none; if there is one, it must have this schema and key.
    #[must_use]
    pub fn create(mut self, spec: CreateSpec) -> Self {
        self.start = Start::Create(spec);
        self
    }

    /// With [`create`](Self::create): deletes the table that is at the location first. Whoever else writes it is fenced
    /// before its files go.
    #[must_use]
    pub fn replace(mut self, yes: bool) -> Self {
        self.replace = yes;
        self
    }

    /// Makes a plain Lance dataset a table, after checking that its key is unique and non-null.
    #[must_use]
    pub fn adopt(mut self, spec: AdoptSpec) -> Self {
        self.start = Start::Adopt(spec);
        self
    }

    /// Opens the table.
    ///
    /// # Errors
    /// `Invalid` if a setting is wrong, there is no table, or it has another schema; `Corrupt` if the base is damaged
    /// (damage of a shard is told by those who read it); `Unavailable` if the storage fails.
    pub async fn open(self) -> Result<Arc<LsmTable>> {
        let (since, span) = (Instant::now(), tracing::info_span!("lsm.open", table = self.uri.as_str()));
        let table = Box::pin(self.open_now()).instrument(span).await?;
        table.context.metrics.opened(since.elapsed());
        Ok(table)
    }

    async fn open_now(self) -> Result<Arc<LsmTable>> {
        let mut explicit = self.settings.clone().unwrap_or_default();
        for (name, value) in &self.options {
            explicit.set(name, value)?;
        }
        let options = self.store_options(&explicit);
        let mut io = ObjectIo::open(&self.uri, &options, explicit.sync).await?;
        if let Some(hook) = &self.components.io_hook {
            io = io.with_hook(Arc::clone(hook));
        }
        let components = &self.components;
        let opener = DatasetOpener::new(options, Arc::clone(&components.budget))
            .with_caches(Arc::clone(&components.index_cache), self.dataset_cache(&explicit))
            .with_read_budget(Arc::clone(&components.read_budget));
        // What opening does has large frames: they are for the heap, not for whoever awaits.
        let base = Box::pin(self.base(&opener, &io, &explicit)).await?;
        let settings = self.effective(&base)?;
        io.set_sync(settings.sync);
        io.expect_table();
        Box::pin(self.start_table(io, base, settings)).await
    }

    /// How the objects are reached, and what is kept of them.
    fn store_options(&self, settings: &Settings) -> StoreOptions {
        let options = StoreOptions::new(self.storage_options.clone());
        match (&self.components.block_cache, settings.cache_memory) {
            (Some(cache), None) => options.with_cache(Arc::clone(cache)),
            (_, None) => options,
            (_, Some(bytes)) if bytes.as_usize() == 0 => options.without_cache(),
            (_, Some(bytes)) => {
                let cache = MemoryBlocks::new(bytes.as_usize() as u64, &self.components.budget);
                options.with_cache(cache)
            }
        }
    }

    /// What keeps generations open.
    fn dataset_cache(&self, settings: &Settings) -> Arc<dyn DatasetCache> {
        match &self.components.dataset_cache {
            Some(cache) => Arc::clone(cache),
            None if settings.cache_memory.is_some_and(|bytes| bytes.as_usize() > 0) => {
                DefaultDatasetCache::of_share(&self.components.budget)
            }
            None => DefaultDatasetCache::global(),
        }
    }

    /// The settings stored with the table, unless all were given, and over them those given one by one.
    fn effective(&self, base: &BaseTable) -> Result<Settings> {
        let mut settings = match &self.settings {
            Some(settings) => settings.clone(),
            None => {
                let mut stored = Settings::default();
                for (name, value) in base.defaults() {
                    if Settings::NAMES.contains(&name.as_str()) && !IndexSpec::is_option(name, value) {
                        stored.set(name, value)?;
                    }
                }
                stored
            }
        };
        for (name, value) in &self.options {
            settings.set(name, value)?;
        }
        settings.validate()?;
        Ok(settings)
    }

    async fn base(&self, opener: &DatasetOpener, io: &ObjectIo, settings: &Settings) -> Result<Arc<BaseTable>> {
        match &self.start {
            Start::Open => BaseTable::open(opener, io).await?.ok_or_else(|| {
                Error::invalid("there is no table at the location: create it by giving columns and a PRIMARY KEY")
                    .with_context("location", io.uri())
            }),
            Start::Create(spec) => {
                let spec = self.told(spec, settings);
                if self.replace {
                    // What cannot be created replaces nothing, and what is no table is nobody's to delete.
                    Self::check_may_write(settings)?;
                    spec.validate()?;
                    check_defaults(&spec.defaults)?;
                    Box::pin(self.retire()).await?;
                    match BaseTable::open(&opener.anew(), io).await {
                        // The rest of a table that was deleted in part.
                        Ok(None) => io.delete_dir(TablePaths::SHARDS).await?,
                        Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
                        Ok(Some(_)) | Err(_) => io.delete_dir("").await?,
                    }
                } else if let Some(base) = BaseTable::open(opener, io).await? {
                    self.verify(&base, &spec, io)?;
                    return Ok(base);
                }
                Self::check_may_write(settings)?;
                check_defaults(&spec.defaults)?;
                check_vacant(io).await?;
                BaseTable::create(opener, io, &spec).await
            }
            Start::Adopt(spec) => {
                Self::check_may_write(settings)?;
                check_defaults(&spec.defaults)?;
                BaseTable::adopt(opener, io, spec).await
            }
        }
    }

    /// The table to create, with what the options say of it.
    fn told(&self, spec: &CreateSpec, settings: &Settings) -> CreateSpec {
        let mut spec = spec.clone();
        if spec.shards == 1 {
            spec.shards = settings.shards;
        }
        spec.shard_column = spec.shard_column.or_else(|| settings.shard_column.clone());
        let stored = self.options.iter().filter(|(name, _)| Settings::is_stored(name)).cloned();
        spec.defaults.extend(stored);
        spec
    }

    /// Empties and deletes the table that is to be replaced. What cannot be opened has no writers to mind.
    async fn retire(&self) -> Result<()> {
        let mut components = self.components.clone();
        components.indexes.clear();
        let old = Self::new(&self.uri).storage_options(self.storage_options.clone()).components(components);
        match old.open().await {
            Ok(old) => match old.destroy().await {
                Err(error) if error.kind() != ErrorKind::Corrupt => Err(error),
                _ => Ok(()),
            },
            Err(error) if error.kind() == ErrorKind::Unavailable => Err(error),
            Err(_) => Ok(()),
        }
    }

    fn check_may_write(settings: &Settings) -> Result<()> {
        settings.validate()?;
        if settings.access == Access::Write {
            return Ok(());
        }
        Err(Error::invalid("'lsm.access' = 'read' forbids creating a table"))
    }

    /// A table that is there must be the one that is declared.
    fn verify(&self, base: &BaseTable, spec: &CreateSpec, io: &ObjectIo) -> Result<()> {
        let there = base.schema();
        let differs = |what: &str, is: String, declared: String| {
            Err(Error::invalid(format!("the table that is there has {what} {is}, {declared} was declared"))
                .with_context("location", io.uri()))
        };
        if there.key().names() != spec.key {
            return differs("the primary key", there.key().names().join(", "), spec.key.join(", "));
        }
        let declared = TableSchema::try_new(&spec.schema, &spec.key)?;
        if declared.logical() != there.logical() {
            let columns = |s: &TableSchema| {
                let columns: Vec<_> = s.logical().fields().iter().map(|f| f.to_string()).collect();
                format!("[{}]", columns.join("; "))
            };
            return differs("the columns", columns(there), columns(&declared));
        }
        IndexSpec::check_there(&spec.indexes, base.indexes().specs(), there)?;
        let shards = base.sharding().shards.len();
        let said = spec.shards != 1 || self.options.iter().any(|(name, _)| name == "lsm.shards");
        if said && spec.shards as usize != shards {
            return differs("this many shards:", shards.to_string(), spec.shards.to_string());
        }
        Ok(())
    }

    async fn start_table(self, io: ObjectIo, base: Arc<BaseTable>, settings: Settings) -> Result<Arc<LsmTable>> {
        let Components { clock, events, metrics, budget, read_budget, indexes, warmer, .. } = self.components;
        let metrics = Arc::new(TableMetrics::new(&metrics, io.uri()));
        if let Some(limit) = settings.read_budget {
            read_budget.set_limit(limit.as_usize());
        }
        let opener = base.opener().clone();
        let schema = Arc::clone(base.schema());
        let indexes = IndexSet::new(indexes, settings.index_sync);
        let sharding = base.sharding().clone();
        let memtable = || {
            let memtable = MemTable::new(GenerationId(1), Arc::clone(&schema), clock.now(), budget.lease());
            memtable.set_indexes(&indexes.all(), indexes.is_sync());
            Arc::new(memtable)
        };
        let shards = sharding.shards.iter().map(|shard| ShardVersion {
            shard: *shard,
            active: memtable(),
            frozen: Vec::new(),
            generations: Vec::new(),
            foreign_changes: 0,
            damage: None,
        });
        let version = Version { shards: shards.collect(), base, replacements: 0 };
        let actives: Vec<Arc<MemTable>> = version.shards.iter().map(|s| Arc::clone(&s.active)).collect();
        let lists = Arc::new(BlockLists::new(settings.base_keys.as_usize()));
        let control = Arc::new(VersionControl::new(version, lists));
        let supervisor = Supervisor::new();
        let context = Arc::new(WriterContext {
            io: io.clone(),
            opener: opener.clone(),
            control: Arc::clone(&control),
            settings: settings.clone(),
            clock: Arc::clone(&clock),
            events: Arc::clone(&events),
            metrics: Arc::clone(&metrics),
            schema,
            health: supervisor.health(),
            publisher: Publisher::new(Arc::clone(&control)),
            room: Notify::new(),
            refreshing: tokio::sync::Mutex::default(),
            base_adopted: Notify::new(),
            base_in_doubt: AtomicBool::new(false),
            budget: Arc::clone(&budget),
            read_budget,
            indexes,
            warmer: Arc::clone(&warmer),
            is_open: AtomicBool::new(false),
        });
        let mut writers = Vec::new();
        let mut inboxes = Vec::new();
        for (index, (shard, active)) in sharding.shards.iter().zip(actives).enumerate() {
            let manifest = Arc::new(ManifestStore::new(io.clone(), *shard, settings.manifest_probe));
            let (flusher, inbox) = mpsc::unbounded_channel();
            let from = WalPosition(1);
            let writer = ShardWriter::new(
                index,
                sharding.spec_id,
                Arc::clone(&context),
                Arc::clone(&manifest),
                active,
                from,
                flusher,
            );
            writers.push(writer);
            inboxes.push((manifest, inbox));
        }
        // A group commit that ends hands memtables over: the flushers start first and stop last.
        let flush = FlushContext { io: io.clone(), opener, control: Arc::clone(&control), events, metrics, warmer };
        for (manifest, inbox) in inboxes {
            let flush = flush.clone();
            supervisor.spawn_until("flusher", |stop| flush::run(flush, manifest, inbox, stop));
        }
        for writer in &writers {
            let (indexing, writing) = (Arc::clone(writer), Arc::clone(writer));
            supervisor.spawn_until("index", |stop| indexing.run_indexes(stop));
            supervisor.spawn_draining("wal", |stop| writing.run_wal(stop));
        }
        let shards = Arc::new(ShardSet::new(Arc::clone(&context), writers));
        context.adopt_indexes()?;
        try_join_all(shards.shards().iter().map(|w| w.open())).await?;
        context.is_open.store(true, Ordering::Release);
        let holder: Weak<ShardSet> = Arc::downgrade(&shards);
        budget.register(holder);
        Ok(LsmTable::start(Parts { io, settings, control, shards, context, clock, supervisor }))
    }
}

/// What a table stores for those who open it next must be what they can open it with.
fn check_defaults(defaults: &HashMap<String, String>) -> Result<()> {
    let mut settings = Settings::default();
    let ours = |(name, value): &(&String, &String)| {
        Settings::NAMES.contains(&name.as_str()) && !IndexSpec::is_option(name, value)
    };
    for (name, value) in defaults.iter().filter(ours) {
        settings.set(name, value)?;
    }
    settings.validate()
}

/// A new table shares its directory with nothing: dropping it deletes the directory.
async fn check_vacant(io: &ObjectIo) -> Result<()> {
    let (files, dirs) = (io.list("").await?, io.list_dirs("").await?);
    if dirs.iter().any(|name| name == TablePaths::SHARDS) {
        return Err(Error::invalid(
            "the location holds the rest of a table that was deleted in part: delete the directory, or create the \
             table with OR REPLACE and 'lsm.drop' 'delete'",
        )
        .with_context("location", io.uri()));
    }
    match files.iter().chain(&dirs).find(|name| !TablePaths::ROOT.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => {
            Err(Error::invalid("the location is a directory that holds other things: give the table its own")
                .with_context("location", io.uri())
                .with_context("found", name))
        }
    }
}
