//! Stores that are busy, slow, break off, lose files: queries find what there is or say what is wrong, and give back what
//! they hold.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use datafusion::prelude::SessionContext;
use datafusion_lsm::cache::ReadBudget;
use datafusion_lsm::error::{Error, ErrorKind};
use datafusion_lsm::sql::{LsmEngine, LsmSessionExt, LsmTableProvider};
use datafusion_lsm::table::Components;
use futures::StreamExt;

use crate::support::remote::{Bucket, Weather};
use crate::support::remote_table::{
    all_queries, answer, filled, filled_by, hybrid, queries, reopened, reopened_in, run,
};
use crate::support::{poll_times, polled_until, soon, until};

/// Nothing that is read is kept.
pub(crate) const NO_CACHE: &str = ", 'lsm.cache.memory' '0'";

/// The answers of all queries.
async fn answers(session: &SessionContext) -> Vec<Vec<String>> {
    let mut answers = Vec::new();
    for (name, sql) in queries() {
        answers.push(answer(session, &sql).await.unwrap_or_else(|error| panic!("{name}: {error}")));
    }
    answers
}

/// A session whose tables charge what they read to `budget`.
pub(crate) fn charging(budget: &Arc<ReadBudget>) -> SessionContext {
    let components = Components { read_budget: Arc::clone(budget), ..Components::default() };
    SessionContext::new().with_lsm_engine(LsmEngine::with_components(move |_| components.clone()))
}

/// Waits until nothing is charged: tasks of a query end soon after it.
async fn all_back(budget: &ReadBudget, bucket: &Bucket, held: u64, what: &str) {
    until(what, || budget.used() == 0 && budget.waiting() == 0 && bucket.bytes_held() <= held).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_busy_or_breaks_off_is_asked_again() {
    let (bucket, uri) = Bucket::new();
    let mut session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let expected = answers(&session).await;
    let weathers =
        [Weather::Busy(3), Weather::Throttled(3), Weather::Short(3), Weather::Busy(2), Weather::Throttled(2)];
    let all = weathers.map(|weather| (weather, "")).into_iter();
    for (weather, options) in all.chain([(Weather::Busy(3), NO_CACHE), (Weather::Short(3), NO_CACHE)]) {
        // Nothing is in memory, so all is read in bad weather.
        session = reopened_in(&session, SessionContext::new().with_lsm(), &uri, options).await;
        bucket.set_weather(weather);
        assert!(answers(&session).await == expected, "{weather:?} {options}");
        let figures = "'lsm.cache.requests', 'lsm.cache.bytes_read', 'lsm.cache.retries'";
        let told = format!("SELECT name FROM lsm_metrics('t') WHERE name IN ({figures}) AND value > 0");
        assert_eq!(run(&session, &told).await, 3, "{weather:?} {options}");
        // Nothing that came short was kept.
        bucket.set_weather(Weather::Fine);
        assert!(answers(&session).await == expected, "after {weather:?} {options}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_damaged_once_while_a_table_is_opened_is_read_again() {
    let (bucket, uri) = Bucket::new();
    let mut session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let expected = answers(&session).await;
    for part in ["/wal/", "/manifest/", "summary.binpb"] {
        for options in ["", NO_CACHE] {
            bucket.set_weather(Weather::Garbled(part));
            bucket.reset();
            session = reopened_in(&session, SessionContext::new().with_lsm(), &uri, options).await;
            bucket.set_weather(Weather::Fine);
            assert!(answers(&session).await == expected, "{part} {options}");
            let read = bucket.reset().1;
            // Without blocks that are kept nobody reads summaries.
            let is_read = options.is_empty() || part != "summary.binpb";
            assert_eq!(read.iter().any(|what| what.starts_with("GET") && what.contains(part)), is_read, "{read:#?}");
        }
    }
}

#[tokio::test]
async fn a_store_that_is_down_is_unavailable_until_it_is_up() {
    let (bucket, uri) = Bucket::new();
    let mut session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let expected = answers(&session).await;
    for weather in [Weather::Down, Weather::Throttled(1)] {
        let budget = ReadBudget::new(1 << 20);
        session = reopened_in(&session, charging(&budget), &uri, "").await;
        // Nobody waits for the pauses between attempts.
        tokio::time::pause();
        bucket.set_weather(weather);
        let mut failed = 0;
        for ((name, sql), expected) in queries().iter().zip(&expected) {
            match answer(&session, sql).await {
                // Opening may have brought all that it takes.
                Ok(found) => assert!(found == *expected, "{name}"),
                Err(error) => {
                    let error = Error::from(error);
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{name}: {error}");
                    failed += 1;
                }
            }
        }
        assert!(failed > 0, "something had to be read");
        tokio::time::resume();
        all_back(&budget, &bucket, u64::MAX, "the end of what failed").await;
        bucket.set_weather(Weather::Fine);
        assert!(answers(&session).await == expected, "after {weather:?}");
    }
}

#[tokio::test]
async fn a_read_that_hangs_is_waited_for_and_given_up_with_its_query() {
    let (bucket, uri) = Bucket::new();
    let mut session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let expected = answers(&session).await;
    // With blocks that are kept and without.
    for options in ["", NO_CACHE] {
        let budget = ReadBudget::new(1 << 20);
        session = reopened_in(&session, charging(&budget), &uri, options).await;
        // Nobody waits for what hangs: time passes when nothing else is left to do.
        tokio::time::pause();
        bucket.set_weather(Weather::Late(5, Duration::from_secs(30)));
        assert!(answers(&session).await == expected, "{options}");
        tokio::time::resume();
        bucket.set_weather(Weather::Fine);
        assert!(answers(&session).await == expected, "after {options}");
        all_back(&budget, &bucket, u64::MAX, "the end of all queries").await;
    }
    // What stays of files besides blocks is in memory now.
    let budget = ReadBudget::new(1 << 20);
    session = reopened_in(&session, charging(&budget), &uri, NO_CACHE).await;
    for _ in 0..3 {
        assert!(answers(&session).await == expected);
        run(&session, &hybrid()).await;
    }
    let held = bucket.bytes_held();
    let mut hung = 0;
    for (_, sql) in all_queries() {
        tokio::time::pause();
        bucket.set_weather(Weather::Late(3, Duration::from_secs(3600)));
        let mut query = Box::pin(answer(&session, &sql));
        for _ in 0..5_000 {
            if bucket.hanging() > 0 || futures::poll!(&mut query).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        hung += bucket.hanging();
        drop(query);
        // Reads of others than scans end when they are answered.
        bucket.set_weather(Weather::Fine);
        tokio::time::advance(Duration::from_secs(3600)).await;
        tokio::time::resume();
        all_back(&budget, &bucket, held, &sql).await;
    }
    assert!(hung > 0, "nothing was read");
    assert!(answers(&session).await == expected);
}

#[tokio::test]
async fn a_read_that_fails_takes_nothing_from_memory() {
    let (bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let session = reopened(&session, &uri).await;
    // Both rows are in one file, and their vectors in blocks of their own.
    let [known, other] = [100, 600].map(|id| format!("SELECT * FROM t WHERE id = {id}"));
    let expected = answer(&session, &known).await.unwrap();
    assert!(answer(&session, &known).await.unwrap() == expected);
    for weather in [Weather::Down, Weather::Throttled(1)] {
        // Nobody waits for the pauses between attempts.
        tokio::time::pause();
        bucket.set_weather(weather);
        let error = Error::from(answer(&session, &other).await.unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{weather:?}: {error}");
        bucket.reset();
        assert!(answer(&session, &known).await.unwrap() == expected, "{weather:?}");
        let (requests, read) = bucket.reset();
        assert_eq!(requests.all(), 0, "{weather:?}: {read:#?}");
        tokio::time::resume();
    }
    bucket.set_weather(Weather::Fine);
    assert_eq!(run(&session, &other).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_a_live_generation_that_was_cut_is_corrupt() {
    let (bucket, uri) = Bucket::new();
    let mut session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let whole = bucket.fork();
    let expected = answers(&session).await;
    let budget = ReadBudget::new(1 << 20);
    for options in ["", NO_CACHE] {
        let (bucket, uri) = whole.0.fork();
        // Sizes and footers are known before.
        session = reopened_in(&session, charging(&budget), &uri, options).await;
        bucket.rewrite(".lance", |all| Some(all.slice(..all.len() / 2))).await.unwrap();
        for again in [false, true] {
            let error = Error::from(answer(&session, "SELECT * FROM t").await.unwrap_err());
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{options} {again}: {error}");
        }
        all_back(&budget, &bucket, u64::MAX, "the end of the scan").await;
    }
    session = reopened_in(&session, charging(&budget), &whole.1, "").await;
    assert!(answers(&session).await == expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_damaged_is_read_as_it_is_once_it_was_restored() {
    type Damage = fn(Bytes) -> Option<Bytes>;
    let damages: [(&str, Damage); 3] = [
        ("short", |all| Some(all.slice(..all.len().saturating_sub(100_000)))),
        ("half", |all| Some(all.slice(..all.len() / 2))),
        ("gone", |_| None),
    ];
    let (bucket, uri) = Bucket::new();
    let mut session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let (scan, expected) = ("SELECT * FROM t", answers(&session).await);
    let all = answer(&session, scan).await.unwrap();
    let cases = damages.iter().flat_map(|damage| [".lance", ".idx"].map(|suffix| (damage, suffix)));
    for ((name, damage), suffix) in cases {
        let (damaged, uri) = bucket.fork();
        // Summaries repeat small files, and the ends of others.
        damaged.replace("summary.binpb", None).await.unwrap();
        session = reopened(&session, &uri).await;
        damaged.rewrite(suffix, damage).await.unwrap();
        let mut damages = 0;
        for again in [false, true] {
            for sql in queries().into_iter().map(|(_, sql)| sql).chain([scan.to_string()]) {
                if let Err(error) = answer(&session, &sql).await.map_err(Error::from) {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{name} {suffix} {again} {sql:.60}: {error}");
                    damages += 1;
                }
            }
        }
        // An index that is damaged is not used.
        assert_eq!(damages > 0, suffix == ".lance", "{name} {suffix}");
        damaged.restore(&bucket).await.unwrap();
        let restored = answer(&session, scan).await.map_err(Error::from);
        assert!(restored.as_ref().is_ok_and(|rows| *rows == all), "{name} {suffix}: {:?}", restored.err());
        assert!(answers(&session).await == expected, "{name} {suffix}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_again_was_asked() {
    let (bucket, uri) = Bucket::new();
    let mut session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    for weather in [Weather::Fine, Weather::Busy(3)] {
        bucket.set_weather(weather);
        session = reopened(&session, &uri).await;
        bucket.set_weather(Weather::Fine);
        // Manifests and lists are no part of it; a summary of each of three generations is.
        let figure = |name: &str| format!("max(CASE WHEN name = 'lsm.cache.{name}' THEN value END)");
        let figures = format!("SELECT {} AS asked, {} AS again", figure("requests"), figure("retries"));
        let told = format!("SELECT * FROM ({figures} FROM lsm_metrics('t')) WHERE asked >= 3 + again");
        assert_eq!(run(&session, &told).await, 1, "{weather:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_file_of_a_live_generation_is_corrupt() {
    let (bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let budget = ReadBudget::new(1 << 20);
    let session = reopened_in(&session, charging(&budget), &uri, "").await;
    bucket.replace(".lance", None).await.unwrap();
    let error = Error::from(answer(&session, "SELECT * FROM t").await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("missing"), "{error}");
    all_back(&budget, &bucket, u64::MAX, "the end of the scan").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_goes_missing_under_a_scan_ends_it() {
    let (bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    // Little is read ahead, and nothing kept.
    let budget = ReadBudget::new(1 << 20);
    let session = reopened_in(&session, charging(&budget), &uri, NO_CACHE).await;
    let mut rows = session.sql("SELECT * FROM t").await.unwrap().execute_stream().await.unwrap();
    assert!(soon("a batch", rows.next()).await.unwrap().is_ok());
    bucket.replace(".lance", None).await.unwrap();
    let error = loop {
        match soon("an end", rows.next()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break Error::from(error),
            None => panic!("the scan ended as if nothing were missing"),
        }
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    drop(rows);
    all_back(&budget, &bucket, u64::MAX, "the end of the scan").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_is_given_up_at_any_moment_leaves_the_next_one_its_answer() {
    let (bucket, uri) = Bucket::new();
    let mut session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let expected = answers(&session).await;
    let all: Vec<String> = all_queries().into_iter().map(|(_, sql)| sql).collect();
    for options in ["", NO_CACHE] {
        let budget = ReadBudget::new(1 << 20);
        session = reopened_in(&session, charging(&budget), &uri, options).await;
        for polls in 1..40 {
            let mut given_up = 0;
            for sql in &all {
                given_up += usize::from(poll_times(polls, answer(&session, sql)).await.is_none());
            }
            all_back(&budget, &bucket, u64::MAX, "the end of what was given up").await;
            assert!(polls > 1 || given_up > 0, "the first poll is not the last");
            if given_up == 0 {
                // There are no more moments.
                break;
            }
        }
        assert!(answers(&session).await == expected, "{options}");
        assert_eq!(run(&session, &hybrid()).await, 10);
        assert!(run(&session, "SELECT id FROM t").await > 0);
        all_back(&budget, &bucket, u64::MAX, "the end of all queries").await;
        assert!(budget.peak() > 0);
    }
}

#[tokio::test]
async fn an_index_is_opened_for_others_though_nobody_polls_who_asked_first() {
    let (bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let session = reopened_in(&session, SessionContext::new().with_lsm(), &uri, NO_CACHE).await;
    let provider = session.table_provider("t").await.unwrap();
    let snapshot = provider.downcast_ref::<LsmTableProvider>().unwrap().table().snapshot();
    let version = snapshot.version();
    let (handle, analyzer) = (version.shards[0].generations[0].handle(), version.base.indexes().text_analyzer("body"));
    bucket.set_weather(Weather::Late(1, Duration::from_millis(20)));
    let mut first = Box::pin(handle.stored_text_index(2, &analyzer));
    polled_until("a read of the index", first.as_mut(), || bucket.hanging() > 0).await;
    bucket.set_weather(Weather::Fine);
    let second = Box::pin(soon("the index", handle.stored_text_index(2, &analyzer))).await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&second, &soon("the same", first).await.unwrap().unwrap()));
}

#[tokio::test]
async fn codes_are_loaded_for_others_though_nobody_polls_who_searched_first() {
    let (bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    filled_by(&session, &uri, &[1_700]).await;
    let session = reopened_in(&session, SessionContext::new().with_lsm(), &uri, NO_CACHE).await;
    run(&session, "SELECT * FROM lsm_warm('t', 'indexes')").await;
    let (_, search) = queries().into_iter().find(|(name, _)| *name == "vector").unwrap();
    bucket.set_weather(Weather::Stuck("auxiliary.idx"));
    let mut first = Box::pin(answer(&session, &search));
    polled_until("a read of codes", first.as_mut(), || bucket.hanging() > 0).await;
    bucket.set_weather(Weather::Fine);
    let second = Box::pin(soon("the same search", answer(&session, &search))).await.unwrap();
    assert!(soon("the first search", first).await.unwrap() == second);
}
