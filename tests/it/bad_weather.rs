//! Stores that are busy, slow, break off, lose files: queries find what there is or say what is wrong.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use datafusion::prelude::SessionContext;
use datafusion_lsm::error::{Error, ErrorKind};
use datafusion_lsm::sql::LsmSessionExt;

use crate::support::remote::{Bucket, Weather};
use crate::support::remote_table::{answer, filled, queries, reopened, run};

/// The answers of all queries.
async fn answers(session: &SessionContext) -> Vec<Vec<String>> {
    let mut answers = Vec::new();
    for (name, sql) in queries() {
        answers.push(answer(session, &sql).await.unwrap_or_else(|error| panic!("{name}: {error}")));
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_busy_or_breaks_off_is_asked_again() {
    let (bucket, uri) = Bucket::new();
    let mut session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let expected = answers(&session).await;
    for weather in [Weather::Busy(3), Weather::Short(3), Weather::Busy(2)] {
        // Nothing is in memory, so all is read in bad weather.
        session = reopened(&session, &uri).await;
        bucket.set_weather(weather);
        assert!(answers(&session).await == expected, "{weather:?}");
        // Nothing that came short was kept.
        bucket.set_weather(Weather::Fine);
        assert!(answers(&session).await == expected, "after {weather:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_down_is_unavailable_until_it_is_up() {
    let (bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let expected = answers(&session).await;
    let session = reopened(&session, &uri).await;
    bucket.set_weather(Weather::Down);
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
    bucket.set_weather(Weather::Fine);
    assert!(answers(&session).await == expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_file_of_a_live_generation_is_corrupt() {
    let (bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let session = reopened(&session, &uri).await;
    bucket.replace(".lance", None).await.unwrap();
    let error = Error::from(answer(&session, "SELECT * FROM t").await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("missing"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_is_given_up_at_any_moment_leaves_the_next_one_its_answer() {
    let (_bucket, uri) = Bucket::new();
    let session = SessionContext::new().with_lsm();
    filled(&session, &uri).await;
    let expected = answers(&session).await;
    let session = reopened(&session, &uri).await;
    for polls in 1..40 {
        for (_, sql) in queries() {
            let mut query = pin!(answer(&session, &sql));
            let mut left = polls;
            poll_fn(|cx| {
                left -= 1;
                match query.as_mut().poll(cx) {
                    Poll::Pending if left > 0 => Poll::Pending,
                    _ => Poll::Ready(()),
                }
            })
            .await;
        }
    }
    assert!(answers(&session).await == expected);
    assert!(run(&session, "SELECT id FROM t").await > 0);
}
