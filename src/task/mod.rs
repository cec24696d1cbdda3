//! The only place that spawns: background tasks that start, stop in order, and never die unseen.
//!
//! A task that panics closes its supervisor: everything that waits for it gets `Closed` instead of waiting for ever.
//! Spawn nothing elsewhere, or dropping a table leaks it.

mod supervisor;

pub use supervisor::{BackgroundTask, Health, Stop, Supervisor};

use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use futures::future::try_join_all;
use futures::{StreamExt, TryFutureExt, TryStreamExt, stream, try_join};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tracing::Instrument;

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
            Ok(panic) => Err(Error::internal(format!("blocking work panicked: {}", panic_message(panic.as_ref())))),
            Err(error) => Err(Error::closed("the runtime is shutting down").with_source(error)),
        },
    }
}

/// Does what must go on whether or not its caller goes on to poll it, such as what others wait for; it ends when the caller
/// stops waiting.
///
/// # Errors
/// `Internal` if it panics; `Closed` if the runtime is shutting down.
pub async fn driven<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    // Dropped, it aborts what it runs.
    let mut tasks = JoinSet::new();
    tasks.spawn(work.in_current_span());
    match tasks.join_next().await {
        Some(Ok(done)) => Ok(done),
        Some(Err(error)) => match error.try_into_panic() {
            Ok(panic) => Err(Error::internal(format!("a task panicked: {}", panic_message(panic.as_ref())))),
            Err(error) => Err(Error::closed("the runtime is shutting down").with_source(error)),
        },
        None => Err(Error::internal("a task is gone")),
    }
}

/// What `cell` holds: what `load` comes to at the first call. Those who ask meanwhile wait for that, so it goes on although
/// nobody polls who asked first.
///
/// # Errors
/// Those of `load`, after which the next call tries again; those of [`driven`].
pub async fn once<T, Load>(cell: &Arc<OnceCell<T>>, load: impl FnOnce() -> Load) -> Result<T>
where
    T: Clone + Send + Sync + 'static,
    Load: Future<Output = Result<T>> + Send + 'static,
{
    if let Some(there) = cell.get() {
        return Ok(there.clone());
    }
    let (cell, load) = (Arc::clone(cell), load());
    driven(async move { cell.get_or_try_init(|| load).await.cloned() }).await.flatten()
}

/// Does all of `work`, about `at_once` of it at a time, each `part` of it that is worth a task in another one, and the rest
/// here; what comes out is in its order.
///
/// # Errors
/// Of what fails first; `Internal` if it panics; `Closed` if the runtime is shutting down.
pub async fn shared_out<T, E, F>(mut work: Vec<F>, part: usize, at_once: usize) -> Result<Vec<T>, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    let tasks = threads().min(work.len() / part.max(1)).max(1);
    let parts = split(work.len(), tasks);
    let others = parts.iter().skip(1).rev().map(|part| work.split_off(part.start)).collect::<Vec<_>>();
    let at_once = at_once.div_ceil(tasks);
    let others = others.into_iter().rev().map(|part| async move { driven(all_of(part, at_once)).await? });
    // The others start first.
    let (others, mut done) = try_join!(try_join_all(others), all_of(work, at_once))?;
    done.extend(others.into_iter().flatten());
    Ok(done)
}

/// What all of `work` comes to, in its order, or the first failure; so many of it at a time.
async fn all_of<T, E, F: Future<Output = Result<T, E>>>(work: Vec<F>, at_once: usize) -> Result<Vec<T>, E> {
    let work = work.into_iter().enumerate().map(|(place, work)| work.map_ok(move |done| (place, done)));
    let mut done = stream::iter(work).buffer_unordered(at_once).try_collect::<Vec<_>>().await?;
    done.sort_unstable_by_key(|(place, _)| *place);
    Ok(done.into_iter().map(|(_, done)| done).collect())
}

/// Runs work off the async workers if it is heavy, and here if not: the way to another thread takes longer than light
/// work.
///
/// # Errors
/// As [`blocking`]; of light work what it returns.
pub async fn blocking_if<T, F>(heavy: bool, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    if heavy { blocking(work).await } else { work() }
}

/// Vectors that a thread of its own is worth.
const PART: usize = 16 * 1024;

/// How many threads the machine runs at a time.
pub fn threads() -> usize {
    static THREADS: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));
    *THREADS
}

/// How many threads looking at so many vectors, or what takes as long, is worth: at most as many as the machine runs at a
/// time.
pub fn threads_for(rows: usize) -> usize {
    (rows / PART).clamp(1, threads())
}

/// `count` things in order as ranges of about one length, one for each of so many threads; none is empty.
pub fn split(count: usize, threads: usize) -> Vec<Range<usize>> {
    let at_once = count.div_ceil(threads.max(1)).max(1);
    (0..count).step_by(at_once).map(|start| start..count.min(start + at_once)).collect()
}

/// Nothing, if tasks can be started here.
///
/// # Errors
/// `Invalid` outside a tokio runtime.
pub fn check_runtime() -> Result<()> {
    match tokio::runtime::Handle::try_current() {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(Error::invalid("this starts a background task: call it within a tokio runtime").with_source(error))
        }
    }
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;
    use crate::error::ErrorKind;

    #[tokio::test]
    async fn blocking_work_returns_its_result_and_survives_a_panic() {
        assert_eq!(blocking(|| Ok(7)).await.unwrap(), 7);
        assert_eq!(blocking(|| Err::<(), _>(Error::invalid("no"))).await.unwrap_err().kind(), ErrorKind::Invalid);
        let error = blocking::<(), _>(|| panic!("boom {}", 1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(error.message().contains("boom 1"));
    }

    #[tokio::test]
    async fn driven_work_goes_on_unpolled_and_ends_with_who_waits_for_it() {
        let (send, mut received) = tokio::sync::mpsc::unbounded_channel();
        let gate = Arc::new(Notify::new());
        let work = |gate: &Arc<Notify>| {
            let (gate, send) = (Arc::clone(gate), send.clone());
            Box::pin(driven(async move {
                send.send("begun").unwrap();
                gate.notified().await;
                send.send("done").unwrap();
                7
            }))
        };
        let mut waiting = work(&gate);
        assert!(futures::poll!(&mut waiting).is_pending());
        assert_eq!(received.recv().await, Some("begun"));
        gate.notify_one();
        assert_eq!(received.recv().await, Some("done"), "nobody polled it");
        assert_eq!(waiting.await.unwrap(), 7);
        let mut stopped = work(&gate);
        assert!(futures::poll!(&mut stopped).is_pending());
        assert_eq!(received.recv().await, Some("begun"));
        drop((stopped, send));
        assert_eq!(received.recv().await, None);
        let error = driven(async { panic!("boom {}", 2) }).await.map(|()| 0).unwrap_err();
        assert!(error.kind() == ErrorKind::Internal && error.message().contains("boom 2"));
    }

    #[tokio::test]
    async fn what_is_loaded_once_comes_to_all_though_who_asked_first_is_not_polled() {
        let (cell, gate) = (Arc::new(OnceCell::new()), Arc::new(Notify::new()));
        let load = |result: Result<i32>| {
            let gate = Arc::clone(&gate);
            move || async move {
                gate.notified().await;
                result
            }
        };
        let mut first = Box::pin(once(&cell, load(Ok(1))));
        assert!(futures::poll!(&mut first).is_pending());
        let mut second = Box::pin(once(&cell, load(Ok(2))));
        assert!(futures::poll!(&mut second).is_pending());
        tokio::task::yield_now().await;
        gate.notify_one();
        assert_eq!(second.await.unwrap(), 1, "nobody polled the first");
        assert_eq!((first.await.unwrap(), once(&cell, load(Ok(3))).await.unwrap()), (1, 1));
        // Nothing is kept of a failure.
        let cell = Arc::new(OnceCell::new());
        gate.notify_one();
        assert_eq!(once(&cell, load(Err(Error::invalid("no")))).await.unwrap_err().kind(), ErrorKind::Invalid);
        gate.notify_one();
        assert_eq!(once(&cell, load(Ok(4))).await.unwrap(), 4);
    }

    #[tokio::test]
    async fn work_that_is_shared_out_is_done_in_order_and_fails_at_once() {
        for count in [0, 1, 2, 5, 40] {
            let work: Vec<_> = (0..count).map(|i| async move { Ok::<_, Error>(i) }).collect();
            assert_eq!(shared_out(work, 2, 3).await.unwrap(), (0..count).collect::<Vec<_>>());
        }
        for bad in [0, 39] {
            let one = |i| async move {
                if i == bad { Err(Error::invalid("no")) } else { std::future::pending::<Result<()>>().await }
            };
            assert_eq!(
                shared_out((0..40).map(one).collect(), 2, usize::MAX).await.unwrap_err().kind(),
                ErrorKind::Invalid
            );
        }
    }

    #[tokio::test]
    async fn of_work_that_is_shared_out_little_is_done_at_a_time() {
        let (gate, begun) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let one = |i| {
            let (gate, begun) = (Arc::clone(&gate), Arc::clone(&begun));
            async move {
                begun.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
                Ok::<usize, Error>(i)
            }
        };
        // In one part.
        let mut all = std::pin::pin!(shared_out((0..100).map(one).collect(), 100, 8));
        assert!(futures::poll!(all.as_mut()).is_pending());
        assert_eq!(begun.load(Ordering::SeqCst), 8);
        gate.add_permits(3);
        assert!(futures::poll!(all.as_mut()).is_pending());
        assert_eq!(begun.load(Ordering::SeqCst), 11);
        gate.add_permits(97);
        assert_eq!(all.await.unwrap(), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn many_rows_are_worth_as_many_threads_as_there_are() {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        assert_eq!([0, PART, 2 * PART, 100 * PART].map(threads_for), [1, 1, all.min(2), all.min(100)]);
    }

    #[test]
    fn things_are_shared_out_among_threads() {
        let ends = |count, threads| -> Vec<usize> {
            let parts = split(count, threads);
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start) && parts[0].start == 0);
            parts.iter().map(|part| part.end).collect()
        };
        assert_eq!(ends(64, 1), [64]);
        assert_eq!(ends(64, 2), [32, 64]);
        assert_eq!(ends(7, 3), [3, 6, 7]);
        assert_eq!(ends(2, 16), [1, 2]);
        assert!(split(0, 4).is_empty());
    }
}
