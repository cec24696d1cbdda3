//! Opening, flushing, refreshing and reading ahead that are given up, at one moment after the other: nothing stays
//! charged, and who tries again gets what there is.

use std::collections::HashMap;
use std::iter::successors;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::physical_plan::collect;
use datafusion_lsm::base::CreateSpec;
use datafusion_lsm::cache::ReadBudget;
use datafusion_lsm::error::Result;
use datafusion_lsm::index_spec::{IndexKind, IndexSpec};
use datafusion_lsm::settings::{Access, Settings, Warmth};
use datafusion_lsm::table::{Components, LsmTable};

use crate::support::key_type::KeyType;
use crate::support::place::{of_a_process, quiet};
use crate::support::remote::Bucket;
use crate::support::rows::{Rows, collected, numbered, schema, spec, stream};
use crate::support::{poll_times, soon, until};

const KEY: KeyType = KeyType::Int64;

/// After how many polls something is given up: after each, later on after some.
fn moments() -> impl Iterator<Item = usize> {
    successors(Some(1), |polls| Some(polls + 1 + polls / 24)).take_while(|polls| *polls < 2_000)
}

fn rows(keys: Range<u32>, n: i64) -> RecordBatch {
    numbered(KEY, &keys.map(|key| (key, n)).collect::<Vec<_>>())
}

async fn read(table: &LsmTable) -> Rows {
    let plan = table.scan(&table.snapshot(), None, &[], None).unwrap();
    collected(KEY, &collect(plan, Arc::default()).await.unwrap())
}

/// A process that has nothing of the table in memory.
struct Process {
    components: Components,
    storage: HashMap<String, String>,
}

impl Process {
    fn new() -> Self {
        let components = Components { read_budget: ReadBudget::new(1 << 20), ..of_a_process() };
        let storage = HashMap::from([("unused".to_string(), uuid::Uuid::new_v4().to_string())]);
        Self { components, storage }
    }

    async fn open(&self, uri: &str, access: Access) -> Result<Arc<LsmTable>> {
        let indexes = vec![IndexSpec::new("n", IndexKind::BTree), IndexSpec::new("s", IndexKind::text())];
        let spec = CreateSpec { indexes, ..spec(KEY, 1) };
        let table = LsmTable::builder(uri).settings(Settings { access, ..quiet() });
        table.components(self.components.clone()).storage_options(self.storage.clone()).create(spec).open().await
    }

    /// Waits until nothing is charged: tasks end soon after those who wait for them.
    async fn gives_back(&self, polls: usize) {
        let budget = &self.components.read_budget;
        until(&format!("the end after {polls} polls"), || budget.used() == 0 && budget.waiting() == 0).await;
    }
}

/// A table with rows in its base, in generations and in the WAL, and a handle of it. From then on each request is a
/// moment of its own.
async fn filled() -> (Arc<Bucket>, String, Arc<LsmTable>) {
    let (bucket, uri) = Bucket::new();
    let table = Process::new().open(&uri, Access::Write).await.unwrap();
    change(&table, 0).await;
    bucket.set_delay(Duration::from_nanos(1));
    (bucket, uri, table)
}

/// Changes the base, and what is in front of it.
async fn change(table: &Arc<LsmTable>, n: i64) {
    table.replace_all(stream(schema(KEY), vec![rows(0..100, n)])).await.unwrap();
    for generation in 0..2 {
        table.put(rows(generation * 30..generation * 30 + 50, n + 1)).await.unwrap();
        table.flush().await.unwrap();
    }
    table.put(rows(90..110, n + 2)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opening_that_is_given_up_leaves_the_next_one_the_table() {
    let (bucket, uri, writer) = filled().await;
    let expected = read(&writer).await;
    let mut has_ended = false;
    for polls in moments() {
        let process = Process::new();
        has_ended = poll_times(polls, process.open(&uri, Access::Write)).await.is_some();
        process.gives_back(polls).await;
        let table = soon("the next one", process.open(&uri, Access::Write)).await.unwrap();
        assert_eq!(read(&table).await, expected, "after {polls} polls");
        process.gives_back(polls).await;
        if has_ended {
            break;
        }
    }
    assert!(has_ended);
    bucket.remove();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_that_is_given_up_goes_on_or_is_begun_again() {
    let (bucket, uri, writer) = filled().await;
    let mut expected = read(&writer).await;
    writer.close().await.unwrap();
    let mut has_ended = false;
    for (polls, key) in moments().zip(1_000..) {
        // Its memtable has what is in the WAL: the shard is claimed by the flush.
        let process = Process::new();
        let table = process.open(&uri, Access::Write).await.unwrap();
        has_ended = poll_times(polls, table.flush()).await.is_some();
        process.gives_back(polls).await;
        soon("the flush", table.flush()).await.unwrap();
        assert_eq!(table.wal().await.unwrap()[0].role, "writer");
        assert_eq!(read(&table).await, expected, "after {polls} polls");
        table.put(rows(key..key + 1, 5)).await.unwrap();
        expected = read(&table).await;
        assert!(expected.contains_key(&key));
        table.close().await.unwrap();
        if has_ended {
            break;
        }
    }
    assert!(has_ended);
    bucket.remove();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_that_is_given_up_leaves_the_next_one_all_that_is_new() {
    let (bucket, uri, writer) = filled().await;
    let mut has_ended = false;
    for (polls, n) in moments().zip((10..).step_by(10)) {
        let process = Process::new();
        let reader = process.open(&uri, Access::Read).await.unwrap();
        change(&writer, n).await;
        has_ended = poll_times(polls, reader.refresh()).await.is_some();
        process.gives_back(polls).await;
        soon("the next one", reader.refresh()).await.unwrap();
        assert_eq!(read(&reader).await, read(&writer).await, "after {polls} polls");
        process.gives_back(polls).await;
        if has_ended {
            break;
        }
    }
    assert!(has_ended);
    bucket.remove();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_ahead_that_is_given_up_is_done_the_next_time() {
    let (bucket, uri, writer) = filled().await;
    let expected = read(&writer).await;
    let mut has_ended = false;
    for polls in moments() {
        let process = Process::new();
        let table = process.open(&uri, Access::Read).await.unwrap();
        has_ended = poll_times(polls, table.warm(Warmth::All)).await.is_some();
        process.gives_back(polls).await;
        let warmed = soon("the next time", table.warm(Warmth::All)).await.unwrap();
        assert!(warmed.sources == 3 && warmed.bytes > 0, "{warmed:?} after {polls} polls");
        bucket.reset();
        assert_eq!(read(&table).await, expected, "after {polls} polls");
        let (requests, asked) = bucket.reset();
        assert_eq!(requests.all(), 0, "after {polls} polls: {asked:#?}");
        process.gives_back(polls).await;
        if has_ended {
            break;
        }
    }
    assert!(has_ended);
    bucket.remove();
}
