//! Rows of a memtable that its indexes do not have yet: searched one by one, beside those that are indexed.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::prelude::SessionContext;
use datafusion_lsm::distance::Metric;
use datafusion_lsm::error::Result;
use datafusion_lsm::ids::GenerationId;
use datafusion_lsm::index_spec::{IndexKind, IndexSpec};
use datafusion_lsm::memtable::{RowIndex, RowIndexFactory, TextRowsFactory, VectorRowsFactory};
use datafusion_lsm::schema::TableSchema;
use datafusion_lsm::settings::Settings;
use datafusion_lsm::sql::{LsmSessionExt, LsmTableProvider};
use datafusion_lsm::store::{IoHook, IoOp};
use datafusion_lsm::table::{Components, CreateSpec, LsmTable};
use datafusion_lsm::text_search::TextAnalyzer;

use crate::support::documents::{Documents, Live, check_nearest, check_texts, gone, nearest_sql, schema};
use crate::support::faults::{At, Faults};
use crate::support::place::quiet;
use crate::support::plan::{analyzed, figure};
use crate::support::{number_from_env, until};

/// Holds a thread until it is opened.
#[derive(Debug, Default)]
struct Gate {
    /// Whether somebody came, and whether it is open.
    state: Mutex<(bool, bool)>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 = true;
        drop(self.opened.wait_while(state, |(_, is_open)| !*is_open).unwrap());
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.opened.notify_all();
    }

    fn is_reached(&self) -> bool {
        self.state.lock().unwrap().0
    }
}

/// The part of an index in the first memtable. What keeps an index puts rows into the oldest memtable first, one step
/// after the other, so who holds up this part holds up those of all later memtables.
#[derive(Debug, Default)]
struct Oldest {
    first_row: Gate,
    freeze: Gate,
}

#[derive(Debug)]
struct OldestRows(Arc<Oldest>);

impl RowIndex for OldestRows {
    fn append(&self, start: usize, _: &RecordBatch) -> Result<()> {
        if start == 0 {
            self.0.first_row.pass();
        }
        Ok(())
    }

    fn freeze(&self) {
        self.0.freeze.pass();
    }

    fn memory(&self) -> usize {
        0
    }
}

/// An index of the program, which is found before the declared one of its column: a real one in all memtables but the
/// first.
#[derive(Debug)]
enum Late {
    Vectors(Arc<Oldest>),
    Texts(Arc<Oldest>),
}

impl RowIndexFactory for Late {
    fn name(&self) -> &str {
        match self {
            Self::Vectors(_) => "late_vectors",
            Self::Texts(_) => "late_texts",
        }
    }

    fn create(&self, schema: &TableSchema, generation: GenerationId) -> Arc<dyn RowIndex> {
        match self {
            Self::Vectors(oldest) | Self::Texts(oldest) if generation == GenerationId(1) => {
                Arc::new(OldestRows(Arc::clone(oldest)))
            }
            Self::Vectors(_) => {
                let factory = VectorRowsFactory::try_new(schema, self.name(), "e", Metric::L2);
                factory.unwrap().create(schema, generation)
            }
            Self::Texts(_) => {
                let factory = TextRowsFactory::try_new(schema, self.name(), "body", TextAnalyzer::default_one());
                factory.unwrap().create(schema, generation)
            }
        }
    }
}

/// Lets everybody go when the test ends, however it does.
struct LetGo([Arc<Oldest>; 2]);

impl Drop for LetGo {
    fn drop(&mut self) {
        self.0.iter().flat_map(|oldest| [&oldest.first_row, &oldest.freeze]).for_each(Gate::open);
    }
}

/// How many rows of a memtable its indexes have: the late ones, or the declared ones.
fn indexed(table: &LsmTable, generation: u64, late: bool) -> Vec<usize> {
    let snapshot = table.snapshot();
    let view = snapshot.memtables(0).iter().find(|view| view.generation() == GenerationId(generation)).unwrap();
    let indexes = view.table().indexes();
    indexes.iter().filter(|state| state.name().starts_with("late") == late).map(|state| state.indexed()).collect()
}

/// How many rows a node looked at one by one since no index had them.
fn not_indexed(plan: &str, node: &str) -> usize {
    let line = plan.lines().find(|line| line.contains(node)).unwrap_or_else(|| panic!("{node} is not in\n{plan}"));
    if line.contains("flat_not_indexed=") { figure(plan, node, "flat_not_indexed") } else { 0 }
}

/// Compares what searches find with the definitions, and returns how many rows of the second memtable were looked at
/// one by one: for the nearest rows, the best texts, all that match, and the words' weights.
async fn check(session: &SessionContext, documents: &mut Documents, live: &Live) -> [usize; 4] {
    let (hits, all) = check_nearest(session, documents, live, Metric::L2, 8).await;
    assert!(hits as f64 >= 0.95 * all as f64, "{hits} of {all}");
    for words in [&["fox"][..], &["rod", "fog"], &["sun", "map", "cat"]] {
        check_texts(session, live, words).await;
    }
    let near = analyzed(session, &nearest_sql(Metric::L2, &documents.vector())).await;
    let best = analyzed(session, "SELECT id FROM t ORDER BY score(body, 'map red') DESC LIMIT 10").await;
    let matching = analyzed(session, "SELECT id FROM t WHERE text_match(body, 'rod')").await;
    [
        not_indexed(&near, "VectorTopKExec: source=memtable 2"),
        not_indexed(&best, "TextTopKExec: source=memtable 2"),
        not_indexed(&matching, "sources=[memtable 2 by text]"),
        not_indexed(&best, "PrepareExec"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_no_index_has_yet_are_found_beside_those_that_one_has() {
    let seed = number_from_env("LSM_SEED", 0x7A11);
    println!("LSM_SEED={seed}");
    let (mut documents, mut live) = (Documents::new(seed, 0), Live::new());
    let oldest: [Arc<Oldest>; 2] = Default::default();
    let _let_go = LetGo(oldest.clone());
    let [vectors, texts] = oldest.each_ref().map(Arc::clone);
    let faults = Arc::new(Faults::default());
    let components = Components {
        io_hook: Some(Arc::clone(&faults) as Arc<dyn IoHook>),
        indexes: vec![Arc::new(Late::Vectors(vectors)), Arc::new(Late::Texts(texts))],
        ..Components::default()
    };
    let spec = CreateSpec {
        schema: schema(),
        key: vec!["id".into()],
        shards: 1,
        shard_column: None,
        indexes: vec![IndexSpec::new("e", IndexKind::vector(Metric::L2)), IndexSpec::new("body", IndexKind::text())],
        defaults: Default::default(),
    };
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { index_sync: false, write_timeout: Duration::from_secs(600), ..quiet() };
    let builder = LsmTable::builder(dir.path().join("t").to_str().unwrap()).settings(settings);
    let table = builder.create(spec).components(components).open().await.unwrap();
    let session = SessionContext::new().with_lsm();
    session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(&table)))).unwrap();

    // The late indexes wait at the first rows of the first memtable, and have more of them before them when they go on.
    table.put(documents.rows(0..10, &mut live)).await.unwrap();
    until("the late indexes", || oldest.iter().all(|oldest| oldest.first_row.is_reached())).await;
    table.put(documents.rows(10..20, &mut live)).await.unwrap();
    // It is frozen and stays where it is: its flush waits before the commit.
    let commit = faults.hold(IoOp::PutIfAbsent, "/manifest/", At::Before);
    let mut flush = Box::pin(table.flush());
    tokio::select! {
        ended = &mut flush => panic!("the flush does not wait: {ended:?}"),
        () = commit.reached() => {}
    }
    until("the declared indexes", || indexed(&table, 1, false) == [20, 20]).await;

    table.put(documents.rows(1000..2500, &mut live)).await.unwrap();
    assert_eq!(indexed(&table, 2, true), [0, 0]);
    assert_eq!(check(&session, &mut documents, &live).await, [1500; 4], "nothing is indexed");

    // One step in the first memtable, one in the second, and they wait at the end of the first.
    oldest.iter().for_each(|oldest| oldest.first_row.open());
    until("the end of the first memtable", || oldest.iter().all(|oldest| oldest.freeze.is_reached())).await;
    assert_eq!(indexed(&table, 2, true), [1500, 1500]);
    assert_eq!(check(&session, &mut documents, &live).await, [0; 4], "everything is indexed");

    // New rows, others in place of rows that are indexed, and rows that are gone.
    table.put(documents.rows((3000..3200).chain(1000..1100), &mut live)).await.unwrap();
    table.delete(gone(1100..1105, &mut live)).await.unwrap();
    assert_eq!(indexed(&table, 2, true), [1500, 1500]);
    assert_eq!(check(&session, &mut documents, &live).await, [300; 4], "the end is not indexed");

    oldest.iter().for_each(|oldest| oldest.freeze.open());
    until("the late indexes to catch up", || indexed(&table, 2, true) == [1805, 1805]).await;
    assert_eq!(check(&session, &mut documents, &live).await, [0; 4], "everything is indexed again");
    commit.open();
    flush.await.unwrap();
    assert_eq!(check(&session, &mut documents, &live).await, [0; 4], "beside a generation");
    table.close().await.unwrap();
}
