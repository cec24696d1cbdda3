//! One run: an oracle, a table, and what is done to both.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion_lsm::cache::MemoryBudget;
use datafusion_lsm::distance::Metric;
use datafusion_lsm::error::{ErrorKind, Result};
use datafusion_lsm::settings::{Ack, Bytes, OnConflict, Settings};
use datafusion_lsm::store::SyncRecord;
use datafusion_lsm::table::{LsmTable, StatementKind};
use datafusion_lsm::version::Snapshot;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};

use super::columns;
use super::operation::{Operation, size};
use super::process::Process;
use super::search::Searcher;
use crate::support::key_type::KeyType;
use crate::support::place::{Place, lose_unsynced, quiet, tight_budget};
use crate::support::rows::{self, Row, Rows};

/// Memtables of large tables hold so many rows, enough for their indexes not just to compare all of them.
const LARGE_MEMTABLE: usize = 2_500;
/// Rows that it takes to train the codes of an index.
const FOR_CODES: usize = 1_000;
/// More generations than this are folded into the base.
const GENERATIONS: usize = 8;
/// How many snapshots are held at most.
const SNAPSHOTS: usize = 4;

/// What a run is.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) key_type: KeyType,
    pub(super) shards: u32,
    pub(super) partitions: usize,
    pub(super) ack: Ack,
    /// What is near, in a table that is searched too.
    pub(super) search: Option<Metric>,
    /// Keys are below this, and most rows of one write: in a large table, whose rows do not stay in memory and whose base
    /// has indexes of all of them.
    pub(super) keys: u32,
    pub(super) most: usize,
    pub(super) large: bool,
    /// Files are synced, and crashes lose what is not.
    pub(super) sync: bool,
    pub(super) seed: u64,
    pub(super) operations: u64,
}

/// A snapshot and what it must show for ever.
pub(super) struct Held {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) rows: Rows,
    /// The number of the last write that it sees.
    at: u64,
}

/// A run underway.
pub(super) struct Run {
    pub(super) config: Config,
    pub(super) random: StdRng,
    pub(super) place: Place,
    process: Option<Process>,
    settings: Settings,
    budget: Arc<MemoryBudget>,
    record: Option<SyncRecord>,
    /// What the table must show.
    pub(super) rows: Rows,
    /// The states since the last one that cannot get lost, newest last; only for writes acknowledged from memory.
    may_return_to: Vec<Rows>,
    pub(super) held: Vec<Held>,
    /// A handle of another process that only reads.
    pub(super) reader: Option<Arc<LsmTable>>,
    /// What searches the table, if it has columns for that.
    pub(super) searcher: Option<Searcher>,
    writes: u64,
    /// The number of the last write to each key, and of the last replacement of all rows.
    written: HashMap<u32, u64>,
    replaced: u64,
    next_number: i64,
}

/// Tells the seed when the run fails.
struct Witness {
    config: Config,
    step: u64,
    operation: Option<Operation>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { config, step, operation } = self;
            eprintln!("operation {step} ({operation:?}) of {config:?} failed: repeat with LSM_SEED={}", config.seed);
        }
    }
}

/// Carries out the run.
pub(super) fn run(config: Config) {
    let mut witness = Witness { config: config.clone(), step: 0, operation: None };
    let mut run = Run::new(config);
    if run.config.large {
        let rows = (0..run.config.keys).step_by(2).map(|key| (key, run.row())).collect();
        run.replace_with(rows);
    }
    for step in 1..=run.config.operations {
        let operation = Operation::random(&mut run.random, run.searcher.is_some());
        (witness.step, witness.operation) = (step, Some(operation));
        run.step(operation);
    }
    witness.operation = None;
    run.check_all();
    run.restart(true);
    run.check_all();
    if let Some(searcher) = &run.searcher {
        searcher.check_recall();
    }
}

impl Run {
    fn new(config: Config) -> Self {
        let settings = Settings {
            ack: config.ack,
            sync: config.sync,
            memtable_rows: if config.large { LARGE_MEMTABLE } else { 150 },
            memtable_bytes: if config.large { Bytes::mib(16) } else { Bytes(48 << 10) },
            memtable_entries: if config.large { 500 } else { 24 },
            memtable_limit: if config.large { Bytes::mib(64) } else { Bytes::mib(4) },
            write_timeout: Duration::from_secs(60),
            ..quiet()
        };
        let spec = match config.search {
            Some(metric) => columns::spec(config.key_type, config.shards, metric, config.large),
            None => rows::spec(config.key_type, config.shards),
        };
        let place = Place::of(config.key_type, spec);
        let record = config.sync.then(SyncRecord::new);
        let budget = if config.large { tight_budget() } else { MemoryBudget::global() };
        let process = Process::start(&place, &settings, &budget, record.as_ref());
        let searcher = config.search.map(|metric| process.block_on(Searcher::new(metric, config.partitions)));
        Self {
            random: StdRng::seed_from_u64(config.seed),
            place,
            process: Some(process),
            settings,
            budget,
            record,
            rows: Rows::new(),
            may_return_to: Vec::new(),
            held: Vec::new(),
            reader: None,
            searcher,
            writes: 0,
            written: HashMap::new(),
            replaced: 0,
            next_number: 0,
            config,
        }
    }

    fn step(&mut self, operation: Operation) {
        match operation {
            Operation::Put => self.put(),
            Operation::PutSeveral => self.put_several(),
            Operation::Delete => self.delete(),
            Operation::Update => self.update(false, StatementKind::Update),
            Operation::UpdateStale => self.update(true, StatementKind::Update),
            Operation::DeleteStale => self.update(true, StatementKind::Delete),
            Operation::InsertOrFail => self.insert(OnConflict::Error),
            Operation::InsertIgnore => self.insert(OnConflict::Ignore),
            Operation::Cancel => self.cancel(),
            Operation::Get => self.check_get(),
            Operation::GetMany => self.check_get_many(),
            Operation::Scan => self.check_scan(),
            Operation::Filter => self.check_filter(),
            Operation::FilterKeys => self.check_filter_of_keys(),
            Operation::Limit => self.check_limit(),
            Operation::Aggregate => self.check_aggregate(),
            Operation::Project => self.check_projection(),
            Operation::Count => self.check_count(),
            Operation::Nearest => self.check_nearest(),
            Operation::Matches => self.check_matches(),
            Operation::Scores => self.check_scores(),
            Operation::TakeSnapshot => self.take_snapshot(),
            Operation::ReadSnapshot => self.check_snapshot(),
            Operation::Flush => self.moving(Self::flush),
            Operation::Refresh => self.block_on(self.table().refresh()).unwrap(),
            Operation::Reader => self.check_reader(),
            Operation::Reopen => self.moving(|run| run.restart(false)),
            Operation::Crash => self.moving(Self::crash),
            Operation::Takeover => self.take_over(),
            Operation::Replace => self.replace(),
        }
        if self.generations() > GENERATIONS * self.config.shards as usize {
            self.moving(|run| run.replace_with(run.rows.clone()));
        }
    }

    pub(super) fn key(&mut self) -> u32 {
        self.random.random_range(0..self.config.keys)
    }

    fn row(&mut self) -> Row {
        self.next_number += 1;
        let s = match self.random.random_range(0..20) {
            0..4 => None,
            4 => Some("long ".repeat(300)),
            5 => Some(String::new()),
            n => Some(format!("text {n}")),
        };
        Row { n: self.next_number, s }
    }

    /// Rows of random keys; a key may come twice.
    fn random_rows(&mut self) -> Vec<(u32, Row)> {
        let n = size(&mut self.random, self.config.most);
        (0..n).map(|_| (self.key(), self.row())).collect()
    }

    /// Rows as the table has them.
    fn batch(&self, rows: &[(u32, Row)]) -> RecordBatch {
        let batch = rows::batch(self.config.key_type, rows);
        if self.searcher.is_some() { columns::widened(self.config.key_type, &batch) } else { batch }
    }

    fn some_keys(&mut self, live: bool, most: usize) -> Vec<u32> {
        let n = size(&mut self.random, most);
        let mut keys: Vec<u32> = if live {
            self.rows.keys().copied().choose_multiple(&mut self.random, n)
        } else {
            (0..self.config.keys).choose_multiple(&mut self.random, n)
        };
        keys.sort_unstable();
        keys
    }

    /// The oracle takes a write: new rows, or `None` for rows that go.
    fn apply(&mut self, changes: impl IntoIterator<Item = (u32, Option<Row>)>) {
        if self.config.ack == Ack::Memory {
            self.may_return_to.push(self.rows.clone());
        }
        self.writes += 1;
        for (key, row) in changes {
            self.written.insert(key, self.writes);
            match row {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
    }

    fn put(&mut self) {
        let rows = self.random_rows();
        let batch = self.batch(&rows);
        let n = self.block_on(self.table().put(batch)).unwrap();
        assert_eq!(n, rows.len() as u64);
        self.apply(rows.into_iter().map(|(key, row)| (key, Some(row))));
    }

    /// Writes that wait for each other only in the WAL, and one statement of several batches.
    fn put_several(&mut self) {
        let several: Vec<Vec<(u32, Row)>> = (0..size(&mut self.random, 5)).map(|_| self.random_rows()).collect();
        let batches: Vec<_> = several.iter().map(|rows| self.batch(rows)).collect();
        let one_statement = self.random.random_bool(0.5);
        let table = Arc::clone(self.table());
        let written = self.block_on(async {
            let mut n = 0;
            if one_statement {
                let mut statement = table.begin(StatementKind::Upsert, None, None);
                for batch in batches {
                    statement.push(batch).await?;
                }
                n = statement.finish().await?;
            } else {
                let mut pending = Vec::new();
                for batch in batches {
                    pending.push(table.put_no_wait(batch).await?);
                }
                for write in pending {
                    n += write.wait().await?;
                }
            }
            Result::<u64>::Ok(n)
        });
        assert_eq!(written.unwrap(), several.iter().map(|rows| rows.len() as u64).sum::<u64>());
        for rows in several {
            self.apply(rows.into_iter().map(|(key, row)| (key, Some(row))));
        }
    }

    fn delete(&mut self) {
        let live = self.random.random_bool(0.7);
        let keys = self.some_keys(live, 30);
        if keys.is_empty() {
            return;
        }
        let batch = self.config.key_type.batch(&keys);
        let n = self.block_on(self.table().delete(batch)).unwrap();
        assert_eq!(n, keys.len() as u64);
        self.apply(keys.into_iter().map(|key| (key, None)));
    }

    /// An UPDATE or DELETE of rows that a snapshot shows, which fails if one of them was written since.
    fn update(&mut self, stale: bool, kind: StatementKind) {
        let held = if stale { self.held.choose(&mut self.random) } else { None };
        let (snapshot, at, shown) = match held {
            Some(held) => (Arc::clone(&held.snapshot), held.at, held.rows.clone()),
            None => (self.table().snapshot(), self.writes, self.rows.clone()),
        };
        let n = size(&mut self.random, 8);
        let mut keys = shown.keys().copied().choose_multiple(&mut self.random, n);
        keys.sort_unstable();
        if keys.is_empty() {
            return;
        }
        let changed: BTreeSet<u32> =
            keys.iter().copied().filter(|key| self.written.get(key).is_some_and(|write| *write > at)).collect();
        let rows: Vec<(u32, Row)> = keys.iter().map(|key| (*key, self.row())).collect();
        let batch = match kind {
            StatementKind::Delete => self.config.key_type.batch(&keys),
            _ => self.batch(&rows),
        };
        let table = Arc::clone(self.table());
        let result = self.block_on(async {
            let mut statement = table.begin(kind, Some(snapshot), None);
            statement.push(batch).await?;
            statement.finish().await
        });
        if changed.is_empty() && self.replaced <= at {
            assert_eq!(result.unwrap(), keys.len() as u64);
            let delete = kind == StatementKind::Delete;
            self.apply(rows.into_iter().map(|(key, row)| (key, (!delete).then_some(row))));
        } else {
            let error = result.expect_err(&format!("keys {changed:?} of {keys:?} were written after the snapshot"));
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        }
    }

    fn insert(&mut self, on_conflict: OnConflict) {
        let mut rows = self.random_rows();
        if self.random.random_bool(0.5) {
            // Mostly keys that are free, or nothing would ever be inserted.
            rows.retain(|(key, _)| !self.rows.contains_key(key));
            if rows.is_empty() {
                return;
            }
        }
        let mut fresh: Vec<(u32, Row)> = Vec::new();
        for (key, row) in &rows {
            if !self.rows.contains_key(key) && fresh.iter().all(|(other, _)| other != key) {
                fresh.push((*key, row.clone()));
            }
        }
        let batch = self.batch(&rows);
        let table = Arc::clone(self.table());
        let result = self.block_on(async {
            let mut statement = table.begin(StatementKind::Insert(on_conflict), None, None);
            statement.push(batch).await?;
            statement.finish().await
        });
        if on_conflict == OnConflict::Error && fresh.len() < rows.len() {
            let error = result.expect_err("a key exists");
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        } else {
            assert_eq!(result.unwrap(), fresh.len() as u64);
            self.apply(fresh.into_iter().map(|(key, row)| (key, Some(row))));
        }
    }

    /// A statement that is given up before its end leaves nothing.
    fn cancel(&mut self) {
        let rows = self.random_rows();
        let batch = self.batch(&rows);
        let table = Arc::clone(self.table());
        self.block_on(async {
            let mut statement = table.begin(StatementKind::Upsert, None, None);
            statement.push(batch).await.unwrap();
        });
        self.check_scan();
    }

    fn take_snapshot(&mut self) {
        if self.held.len() == SNAPSHOTS {
            self.held.remove(0);
        }
        let snapshot = self.table().snapshot();
        self.held.push(Held { snapshot, rows: self.rows.clone(), at: self.writes });
    }

    fn flush(&mut self) {
        self.block_on(self.table().flush()).unwrap();
        self.may_return_to.clear();
        let left = self.table().sources().into_iter().filter(|s| s.kind == "memtable" && s.rows > 0).count();
        assert_eq!(left, 0, "nothing writes, so nothing is left after a flush");
    }

    fn generations(&self) -> usize {
        self.table().sources().iter().filter(|s| s.kind == "generation").count()
    }

    fn replace(&mut self) {
        let truncate = self.random.random_bool(0.3);
        let rows: Rows = if truncate { Rows::new() } else { self.random_rows().into_iter().collect() };
        self.replace_with(rows);
    }

    fn replace_with(&mut self, rows: Rows) {
        let list: Vec<(u32, Row)> = rows.clone().into_iter().collect();
        let batches = list.chunks(100).map(|chunk| self.batch(chunk)).collect();
        let stream = rows::stream(self.table().schema(), batches);
        let n = self.block_on(self.table().replace_all(stream)).unwrap();
        assert_eq!(n, rows.len() as u64);
        self.writes += 1;
        self.replaced = self.writes;
        self.rows = rows;
        self.may_return_to.clear();
        assert_eq!(self.generations(), 0);
        if self.config.large && self.rows.len() >= FOR_CODES {
            for index in self.table().indexes() {
                self.block_on(self.table().create_index(&index, true)).unwrap();
            }
        }
    }

    /// Ends the process, in order or not, and starts the next one, which must find everything acknowledged.
    fn restart(&mut self, crash: bool) {
        self.held.clear();
        self.reader = None;
        let process = self.process.take().expect("a process runs between operations");
        if crash {
            process.crash();
        } else {
            process.close().unwrap();
            self.may_return_to.clear();
        }
        self.process = Some(self.start());
        self.recover();
    }

    fn start(&self) -> Process {
        Process::start(&self.place, &self.settings, &self.budget, self.record.as_ref())
    }

    /// What was acknowledged from memory may have lost its end.
    fn recover(&mut self) {
        if self.config.ack == Ack::Memory {
            let found = self.read();
            if found != self.rows {
                let state = self.may_return_to.iter().rev().find(|state| **state == found);
                self.rows = state.expect("the table is in none of the states it was in").clone();
            }
            self.may_return_to.clear();
        }
        self.check_scan();
    }

    fn crash(&mut self) {
        let Some(record) = self.record.clone().filter(|_| self.random.random_bool(0.7)) else {
            return self.restart(true);
        };
        self.held.clear();
        self.reader = None;
        self.process.take().expect("a process runs between operations").crash();
        lose_unsynced(&self.place.root(), &record);
        self.process = Some(self.start());
        self.recover();
    }

    /// Another process writes the same keys; the one before it must notice and have written nothing.
    fn take_over(&mut self) {
        if self.config.ack == Ack::Memory {
            return;
        }
        self.held.clear();
        self.reader = None;
        // One that has not written yet would only claim now, and fence the other.
        self.put();
        let next = self.start();
        let rows: Vec<(u32, Row)> = (0..self.config.keys).step_by(9).map(|key| (key, self.row())).collect();
        let stale: Vec<(u32, Row)> = rows.iter().map(|(key, _)| (*key, self.row())).collect();
        let batch = self.batch(&rows);
        assert_eq!(next.block_on(next.table.put(batch)).unwrap(), rows.len() as u64);
        let batch = self.batch(&stale);
        let fenced = self.block_on(self.table().put(batch)).unwrap_err();
        assert_eq!(fenced.kind(), ErrorKind::Fenced, "{fenced}");
        self.process.replace(next).expect("a process runs between operations").crash();
        self.apply(rows.into_iter().map(|(key, row)| (key, Some(row))));
        self.check_scan();
    }

    pub(super) fn table(&self) -> &Arc<LsmTable> {
        &self.process.as_ref().expect("a process runs between operations").table
    }

    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.process.as_ref().expect("a process runs between operations").block_on(future)
    }
}
