//! Flushes that fail: the rows stay readable, the error is shown, and the flush goes on when it can.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use datafusion_lsm::clock::ManualClock;
use datafusion_lsm::error::{Error, ErrorKind};
use datafusion_lsm::events::EventListener;
use datafusion_lsm::ids::{Epoch, GenerationId, ShardId, WalPosition};
use datafusion_lsm::settings::{Bytes, Settings};
use datafusion_lsm::store::{IoOp, TablePaths};
use datafusion_lsm::table::{Components, LsmTable};

use crate::support::events::Events;
use crate::support::faults::{ALWAYS, At, Faults};
use crate::support::key_type::KeyType;
use crate::support::place::{Place, numbers, quiet};
use crate::support::rows::{Rows, numbered, schema, stream};
use crate::support::{soon, until};

/// What a flush does with storage: the sync of what Lance wrote, and the commit.
const STEPS: [(IoOp, &str); 2] = [(IoOp::Sync, "_gen_"), (IoOp::PutIfAbsent, "/manifest/")];

async fn check(place: &Place, table: &LsmTable, expected: &Rows) {
    assert_eq!(&place.rows(table).await, expected);
    for (key, row) in expected {
        let found = table.get(&KeyType::Int64.values(*key)).await.unwrap().unwrap();
        assert_eq!(crate::support::rows::listed(KeyType::Int64, &found), [(*key, row.clone())]);
    }
}

#[tokio::test]
async fn a_failing_flush_keeps_rows_readable_is_shown_and_resumes_by_itself() {
    for (op, path) in STEPS {
        let place = Place::simple();
        let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
        let settings = Settings { memtable_rows: 10, write_timeout: Duration::from_secs(1), ..quiet() };
        let table = place.open_with(settings, &faults, &events).await;
        let rows: Vec<(u32, i64)> = (0..8).map(|key| (key, 1)).collect();
        table.put(numbered(KeyType::Int64, &rows)).await.unwrap();
        faults.fail(op, path, At::Before, ALWAYS);
        // The second batch freezes the first one's memtable.
        table.put(numbered(KeyType::Int64, &rows[..5])).await.unwrap();
        events.until("a failed flush", |c| c.failed_flushes >= 2).await;
        table.put(numbered(KeyType::Int64, &[(3, 3), (100, 3)])).await.unwrap();
        let expected = place.rows(&table).await;
        assert_eq!((expected.len(), expected[&3].n), (9, 3));
        check(&place, &table, &expected).await;
        let sources = table.sources();
        let failed: Vec<_> = sources.iter().filter(|s| s.state == "failed").collect();
        assert!(!failed.is_empty(), "{sources:?}");
        assert!(failed[0].error.as_ref().is_some_and(|e| e.contains("injected")), "{failed:?}");
        let error = table.flush().await.unwrap_err();
        assert!(error.to_string().contains("injected"), "{error}");

        faults.heal();
        events.until("the flush", |c| c.flushes >= 2).await;
        until("the end of the flush", || table.sources().iter().all(|s| s.state != "failed" && s.state != "frozen"))
            .await;
        check(&place, &table, &expected).await;
        let generations = table.sources().iter().filter(|s| s.kind == "generation").count() as u64;
        assert_eq!(generations, events.counts().flushes);
        let shard = place.root().join(TablePaths::shard_dir(ShardId::unsharded()));
        let names = std::fs::read_dir(shard).unwrap().map(|entry| entry.unwrap().file_name());
        let written = names.filter(|name| name.to_str().unwrap().contains("_gen_")).count() as u64;
        assert_eq!(written, generations, "attempts that failed leave nothing");
        drop(table);
        let table = place.open(quiet()).await.unwrap();
        check(&place, &table, &expected).await;
    }
}

#[tokio::test]
async fn a_crash_while_flushes_fail_loses_nothing() {
    for (op, path) in STEPS {
        for at in [At::Before, At::After] {
            let place = Place::simple();
            let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
            let table = place.open_with(Settings { memtable_rows: 10, ..quiet() }, &faults, &events).await;
            faults.fail(IoOp::PutIfAbsent, "never", At::Before, 1);
            table.put(numbered(KeyType::Int64, &[(0, 0)])).await.unwrap();
            // The answer of a commit that is always lost cannot be read back either.
            faults.fail(op, path, at, ALWAYS);
            faults.fail(IoOp::Get, "/manifest/", At::Before, ALWAYS);
            for key in 1..30 {
                table.put(numbered(KeyType::Int64, &[(key, 1), (key / 2, 2)])).await.unwrap();
            }
            events.until("a failed flush", |c| c.failed_flushes >= 1).await;
            let expected = place.rows(&table).await;
            assert_eq!(expected.len(), 30);
            drop(table);
            let table = place.open(quiet()).await.unwrap();
            check(&place, &table, &expected).await;
            table.put(numbered(KeyType::Int64, &[(0, 7)])).await.unwrap();
            table.flush().await.unwrap();
            assert_eq!(place.rows(&table).await[&0].n, 7);
        }
    }
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_names_its_generation_once() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let table = place.open_with(quiet(), &faults, &events).await;
    table.put(numbered(KeyType::Int64, &[(1, 10)])).await.unwrap();
    faults.fail(IoOp::PutIfAbsent, "/manifest/", At::After, 1);
    table.flush().await.unwrap();
    assert_eq!(table.sources().iter().filter(|s| s.kind == "generation").count(), 1);
    assert_eq!(table.wal().await.unwrap()[0].current_generation, 2);
    drop(table);
    let table = place.open(quiet()).await.unwrap();
    assert_eq!(table.sources().iter().filter(|s| s.kind == "generation").count(), 1);
    assert_eq!(numbers(&place.rows(&table).await), [(1, 10)]);
}

#[tokio::test]
async fn memory_that_cannot_be_flushed_is_backpressure_that_ends_with_its_cause() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let settings = Settings {
        memtable_bytes: Bytes(32 << 10),
        memtable_limit: Bytes(256 << 10),
        write_timeout: Duration::from_millis(200),
        ..quiet()
    };
    let table = place.open_with(settings, &faults, &events).await;
    faults.fail(IoOp::Sync, "_gen_", At::Before, ALWAYS);
    let rows: Vec<(u32, i64)> = (0..200).map(|key| (key, i64::from(key))).collect();
    let mut refused = None;
    for _ in 0..1000 {
        if let Err(error) = table.put(numbered(KeyType::Int64, &rows)).await {
            refused = Some(error);
            break;
        }
    }
    let error = refused.expect("memory is bounded");
    assert_eq!(error.kind(), ErrorKind::Backpressure, "{error}");
    assert!(error.to_string().contains("injected"), "it says why: {error}");
    assert!(error.is_retryable());
    assert_eq!(place.rows(&table).await.len(), 200, "reading goes on");
    faults.heal();
    events.until("a flush", |c| c.flushes >= 1).await;
    for _ in 0..20 {
        table.put(numbered(KeyType::Int64, &rows)).await.unwrap();
    }
}

#[tokio::test]
async fn rows_are_read_once_at_every_step_of_a_flush() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let table = place.open_with(quiet(), &faults, &events).await;
    let rows: Vec<(u32, i64)> = (0..20).map(|key| (key, 1)).collect();
    table.put(numbered(KeyType::Int64, &rows)).await.unwrap();
    let before = table.snapshot();
    let expected = place.rows(&table).await;
    for at in [At::Before, At::After] {
        for (op, path) in STEPS {
            let gate = faults.hold(op, path, at);
            table.put(numbered(KeyType::Int64, &[(5, 1)])).await.unwrap();
            let flush = table.flush();
            tokio::pin!(flush);
            tokio::select! {
                result = &mut flush => panic!("the flush is held: {result:?}"),
                () = gate.reached() => {}
            }
            check(&place, &table, &expected).await;
            let reader = place.reader().await;
            check(&place, &reader, &expected).await;
            gate.open();
            flush.await.unwrap();
            check(&place, &table, &expected).await;
            assert_eq!(place.rows_of(&table, &before).await, expected);
            reader.refresh().await.unwrap();
            check(&place, &reader, &expected).await;
        }
    }
}

#[tokio::test]
async fn a_memtable_that_is_old_enough_is_frozen_by_the_next_write() {
    let place = Place::simple();
    let (clock, events) = (Arc::new(ManualClock::default()), Arc::new(Events::default()));
    let components =
        Components { clock: Arc::clone(&clock) as _, events: Arc::clone(&events) as _, ..Components::default() };
    let settings = Settings { memtable_age: Some(Duration::from_secs(60)), ..quiet() };
    let table = place.builder(settings).components(components).open().await.unwrap();
    table.put(numbered(KeyType::Int64, &[(1, 1)])).await.unwrap();
    clock.advance(Duration::from_secs(59));
    table.put(numbered(KeyType::Int64, &[(2, 1)])).await.unwrap();
    assert_eq!(events.counts().freezes, 0);
    assert_eq!(table.sources()[0].age_ms, Some(59_000));
    clock.advance(Duration::from_secs(1));
    table.put(numbered(KeyType::Int64, &[(3, 1)])).await.unwrap();
    events.until("the flush", |c| c.freezes == 1 && c.flushes == 1).await;
    assert_eq!(numbers(&place.rows(&table).await), [(1, 1), (2, 1), (3, 1)]);
}

#[tokio::test]
async fn a_flush_waits_for_no_memtable_that_is_frozen_after_it() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let table = place.open_with(Settings { memtable_rows: 2, ..quiet() }, &faults, &events).await;
    let put = async |key| table.put(numbered(KeyType::Int64, &[(key, 1)])).await.unwrap();
    put(1).await;
    let (first, second) =
        (faults.hold(IoOp::Sync, "_gen_1", At::Before), faults.hold(IoOp::Sync, "_gen_2", At::Before));
    let flush = async {
        let flush = table.flush();
        tokio::pin!(flush);
        tokio::select! {
            result = &mut flush => panic!("the flush is held: {result:?}"),
            () = first.reached() => {}
        }
        for key in 2..5 {
            put(key).await;
        }
        first.open();
        flush.await.unwrap();
    };
    soon("the flush", Box::pin(flush)).await;
    assert_eq!(events.counts().freezes, 2);
    second.open();
    table.flush().await.unwrap();
    assert_eq!(events.counts().flushes, 3);
}

#[tokio::test]
async fn a_generation_that_a_claim_reads_while_it_is_flushed_is_there_once() {
    let place = Place::simple();
    let settings = || Settings { memtable_rows: 1, ..quiet() };
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let older = place.open_with(settings(), &faults, &events).await;
    faults.fail(IoOp::Sync, "_gen_", At::Before, ALWAYS);
    for key in 1..=2 {
        older.put(numbered(KeyType::Int64, &[(key, 1)])).await.unwrap();
    }
    drop(older);
    faults.heal();

    let table = place.open_with(settings(), &faults, &events).await;
    let sentinel = faults.hold(IoOp::PutIfAbsent, "/wal/", At::After);
    let put = async || table.put(numbered(KeyType::Int64, &[(3, 1)])).await;
    let hint = {
        let put = put();
        tokio::pin!(put);
        tokio::select! {
            result = &mut put => panic!("the claim is held: {result:?}"),
            () = sentinel.reached() => {}
        }
        // The claim fails behind its sentinel, while what it handed over is being flushed.
        let hint = faults.hold(IoOp::Put, "version_hint", At::Before);
        faults.fail(IoOp::Get, &TablePaths::wal_entry_name(WalPosition(4)), At::Before, ALWAYS);
        sentinel.open();
        assert_eq!(put.await.unwrap_err().kind(), ErrorKind::Unavailable);
        hint
    };
    hint.reached().await;
    faults.heal();
    table.refresh().await.unwrap();
    let generations = || table.sources().iter().filter(|s| s.kind == "generation").map(|s| s.generation.0).collect();
    let before: Vec<u64> = generations();
    assert_eq!(before, [1]);
    hint.open();
    events.until("the flush", |c| c.flushes == 1).await;
    let after: Vec<u64> = generations();
    assert_eq!(after, [1]);
    put().await.unwrap();
    table.flush().await.unwrap();
    assert_eq!(numbers(&place.rows(&table).await), [(1, 1), (2, 1), (3, 1)]);
}

#[tokio::test]
async fn a_generation_that_the_base_took_over_before_it_was_opened_is_not_read_again() {
    let place = Place::simple();
    let (faults, events) = (Arc::new(Faults::default()), Arc::new(Events::default()));
    let table = place.open_with(quiet(), &faults, &events).await;
    table.put(numbered(KeyType::Int64, &[(1, 1), (2, 1)])).await.unwrap();
    let gate = faults.hold(IoOp::PutIfAbsent, "/manifest/", At::After);
    let flush = table.flush();
    tokio::pin!(flush);
    tokio::select! {
        result = &mut flush => panic!("the flush is held: {result:?}"),
        () = gate.reached() => {}
    }
    // As Lance does it: the rows go into the base, and the generation is marked.
    let base = Arc::clone(&place.reader().await.snapshot().version().base);
    let rows = stream(schema(KeyType::Int64), vec![numbered(KeyType::Int64, &[(1, 1), (2, 1)])]);
    base.replace(rows, &[(ShardId::unsharded(), GenerationId(1))], std::future::ready(Ok(()))).await.unwrap();
    table.refresh().await.unwrap();
    gate.open();
    flush.await.unwrap();
    events.until("the flush", |c| c.flushes == 1).await;
    assert!(table.sources().iter().all(|s| s.kind != "generation"), "{:?}", table.sources());
    assert_eq!(numbers(&place.rows(&table).await), [(1, 1), (2, 1)]);
    table.put(numbered(KeyType::Int64, &[(2, 2)])).await.unwrap();
    table.flush().await.unwrap();
    let reader = place.reader().await;
    assert_eq!(numbers(&place.rows(&reader).await), [(1, 1), (2, 2)]);
}

/// Looks at its table whenever something happens, and says how often that did not end.
#[derive(Debug, Default)]
struct Looks {
    table: OnceLock<Weak<LsmTable>>,
    looked: AtomicUsize,
    stuck: AtomicUsize,
}

impl Looks {
    #[expect(clippy::disallowed_methods, reason = "a thread that is stuck must not take the test with it")]
    fn look(&self) {
        let Some(table) = self.table.get().and_then(Weak::upgrade) else { return };
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let sources = table.sources().len() + table.snapshot().version().shards.len();
            done.send(sources)
        });
        let looked = ended.recv_timeout(Duration::from_secs(5)).is_ok();
        if looked { &self.looked } else { &self.stuck }.fetch_add(1, Ordering::Relaxed);
    }
}

impl EventListener for Looks {
    fn on_claim(&self, _: ShardId, _: Epoch) {
        self.look();
    }

    fn on_wal_append(&self, _: ShardId, _: WalPosition, _: usize, _: usize) {
        self.look();
    }

    fn on_freeze(&self, _: ShardId, _: GenerationId, _: usize) {
        self.look();
    }

    fn on_flush_written(&self, _: ShardId, _: GenerationId) {
        self.look();
    }

    fn on_flush(&self, _: ShardId, _: GenerationId, _: usize) {
        self.look();
    }

    fn on_flush_failed(&self, _: ShardId, _: GenerationId, _: &Error) {
        self.look();
    }

    fn on_base_refresh(&self, _: u64) {
        self.look();
    }
}

#[tokio::test]
async fn whoever_listens_may_look_at_the_table() {
    let place = Place::simple();
    let (looks, faults) = (Arc::new(Looks::default()), Arc::new(Faults::default()));
    let components = Components {
        events: Arc::clone(&looks) as _,
        io_hook: Some(Arc::clone(&faults) as _),
        ..Components::default()
    };
    let settings = Settings { memtable_rows: 2, ..quiet() };
    let table = place.builder(settings).components(components).open().await.unwrap();
    looks.table.set(Arc::downgrade(&table)).unwrap();
    faults.fail(IoOp::Sync, "_gen_", At::Before, 1);
    for key in 0..4 {
        table.put(numbered(KeyType::Int64, &[(key, 1)])).await.unwrap();
    }
    table.flush().await.unwrap();
    let base = Arc::clone(&table.snapshot().version().base);
    let rows = stream(schema(KeyType::Int64), vec![numbered(KeyType::Int64, &[(9, 1)])]);
    base.replace(rows, &[], std::future::ready(Ok(()))).await.unwrap();
    table.refresh().await.unwrap();
    assert_eq!(looks.stuck.load(Ordering::Relaxed), 0);
    assert!(looks.looked.load(Ordering::Relaxed) >= 13, "a claim, 4 appends, 2 freezes, a failure, 2 flushes, a base");
}
