//! What the tests of whole tables share: places to put them, faults, events, plans, and rows of every key type.
//!
//! A test waits for an event or a gate, never for time to pass.

pub(crate) mod documents;
pub(crate) mod events;
pub(crate) mod faults;
pub(crate) mod gated;
pub(crate) mod key_type;
pub(crate) mod place;
pub(crate) mod plan;
pub(crate) mod provider;
pub(crate) mod remote;
pub(crate) mod remote_table;
pub(crate) mod rows;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

/// How long a test waits for what must happen before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for what must happen.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

/// Waits until `done`, which background work makes true.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let poll = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(what, poll).await;
}

/// Polls `asking`, which does not end before, until what it does makes `is_so` true.
pub(crate) async fn polled_until<F: Future>(what: &str, mut asking: Pin<&mut F>, is_so: impl Fn() -> bool) {
    let asks = async {
        while !is_so() {
            assert!(futures::poll!(asking.as_mut()).is_pending(), "{what}");
            tokio::task::yield_now().await;
        }
    };
    soon(what, asks).await;
}

/// Polls so often, if what is polled does not end before; then it is given up. What it returned if it ended.
pub(crate) async fn poll_times<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Pending if left > 0 => Poll::Pending,
            Poll::Pending => Poll::Ready(None),
            Poll::Ready(done) => Poll::Ready(Some(done)),
        }
    })
    .await
}

/// A number from the environment.
pub(crate) fn number_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, it is '{text}'")),
        Err(_) => default,
    }
}
