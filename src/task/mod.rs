//! The only place that spawns: background tasks that start, stop in order, and never die unseen.
//!
//! A task that panics closes its supervisor: everything that waits for it gets `Closed` instead of waiting for ever.
//! Spawn nothing elsewhere, or dropping a table leaks it.

mod supervisor;

pub use supervisor::{BackgroundTask, Health, Stop, Supervisor};

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::error::{Error, Result};

/// Runs blocking work (file I/O, long computations) off the async workers.
///
/// The work goes on if the caller stops waiting: it must leave things whole on its own.
///
/// # Errors
/// What `work` returns; `Internal` if it panics; `Closed` if the runtime is shutting down.
pub async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    #[expect(clippy::disallowed_methods, reason = "this is what everybody else uses")]
    let joined = tokio::task::spawn_blocking(work).await;
    match joined {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => Err(panicked(panic.as_ref())),
            Err(error) => Err(Error::closed("the runtime is shutting down").with_source(error)),
        },
    }
}

/// Runs blocking work right here, while the worker's other tasks move to another thread: sooner done than
/// [`blocking`], whose two hops take longer than a small write to a fast disk. Only for tasks of a [`Supervisor`]; what
/// else the calling task does stands still. On a runtime of one thread this is `blocking`.
///
/// # Errors
/// As [`blocking`].
pub async fn blocking_here<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    if Handle::current().runtime_flavor() != RuntimeFlavor::MultiThread {
        return blocking(work).await;
    }
    #[expect(clippy::disallowed_methods, reason = "this is what everybody else uses")]
    let done = tokio::task::block_in_place(|| catch_unwind(AssertUnwindSafe(work)));
    done.unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    Error::internal(format!("blocking work panicked: {}", panic_message(panic)))
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    async fn results_and_panics_come_back() {
        assert_eq!(blocking(|| Ok(7)).await.unwrap(), 7);
        assert_eq!(blocking_here(|| Ok(7)).await.unwrap(), 7);
        assert_eq!(blocking(|| Err::<(), _>(Error::invalid("no"))).await.unwrap_err().kind(), ErrorKind::Invalid);
        for error in [
            blocking::<(), _>(|| panic!("boom {}", 1)).await.unwrap_err(),
            blocking_here::<(), _>(|| panic!("boom {}", 1)).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Internal);
            assert!(error.message().contains("boom 1"));
        }
    }

    #[tokio::test]
    async fn blocking_work_returns_its_result_and_survives_a_panic() {
        results_and_panics_come_back().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn blocking_work_on_a_worker_returns_its_result_and_survives_a_panic() {
        let supervisor = Supervisor::new();
        let (done, wait) = tokio::sync::oneshot::channel();
        supervisor.spawn("it", async {
            results_and_panics_come_back().await;
            done.send(()).unwrap();
        });
        wait.await.unwrap();
    }
}
