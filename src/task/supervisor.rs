//! The tasks of one table and their end.
//!
//! Tasks stop newest first: a task may use what was started before it until it has ended itself.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::panic_message;
use crate::error::{Error, Result};

/// How long a task whose supervisor is gone may take to finish what it has.
const DRAIN: Duration = Duration::from_secs(5);

/// Starts background tasks and ends them: in order with [`stop`](Self::stop), at once when dropped.
pub struct Supervisor {
    tasks: Mutex<Tasks>,
    failure: watch::Sender<Option<Error>>,
}

#[derive(Default)]
struct Tasks {
    running: Vec<BackgroundTask>,
    stopped: bool,
}

/// A running task. Dropping it aborts it; its supervisor holds it.
pub struct BackgroundTask {
    name: &'static str,
    stop: watch::Sender<bool>,
    handle: JoinHandle<()>,
    /// Dropped, it is told to stop and left to finish, instead of being aborted.
    drains: bool,
}

impl BackgroundTask {
    /// The name it was started under.
    pub fn name(&self) -> &'static str {
        self.name
    }

    async fn end(&mut self) {
        self.stop.send_replace(true);
        // A panic was recorded where it happened; an aborted task has ended too.
        let _ = (&mut self.handle).await;
    }
}

impl Drop for BackgroundTask {
    fn drop(&mut self) {
        if self.drains {
            self.stop.send_replace(true);
        } else {
            self.handle.abort();
        }
    }
}

impl fmt::Debug for BackgroundTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackgroundTask").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Tells a task that it should finish what it has and end.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Whether the task should end.
    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the task should end. Cancel-safe.
    pub async fn wait(&mut self) {
        // An error means that the supervisor is gone, which is a reason to end as well.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// Whether the tasks of a supervisor are alive, for those who wait for what they do.
#[derive(Debug, Clone)]
pub struct Health(watch::Receiver<Option<Error>>);

impl Health {
    /// Nothing if all is well.
    ///
    /// # Errors
    /// `Closed` if a task panicked.
    pub fn check(&self) -> Result<()> {
        match &*self.0.borrow() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Waits until a task panics or the supervisor is gone. Cancel-safe.
    pub async fn failed(&mut self) -> Error {
        match self.0.wait_for(Option::is_some).await {
            Ok(error) => error.clone(),
            Err(_) => None,
        }
        .unwrap_or_else(|| Error::closed("the table was closed"))
    }
}

/// A task that is awaited: back among the others if nobody waits any more.
struct Ending<'a> {
    tasks: &'a Mutex<Tasks>,
    task: Option<BackgroundTask>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.tasks.lock().running.extend(self.task.take());
    }
}

impl Supervisor {
    /// A supervisor without tasks.
    pub fn new() -> Self {
        Self { tasks: Mutex::default(), failure: watch::Sender::new(None) }
    }

    /// Starts a task that has nothing to finish: when it is its turn to stop, it ends at its next `await`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_until(name, |mut stop| async move {
            tokio::select! {
                biased;
                () = stop.wait() => {}
                () = future => {}
            }
        });
    }

    /// Starts a task that is told to stop and then awaited: it finishes what it has and ends by itself.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn_until<F, Fut>(&self, name: &'static str, run: F)
    where
        F: FnOnce(Stop) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.start(name, run, false);
    }

    /// As [`spawn_until`](Self::spawn_until), for a task that must finish what it has even when its supervisor is
    /// dropped: it is told to stop then, and ended if it takes longer than some seconds.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn_draining<F, Fut>(&self, name: &'static str, run: F)
    where
        F: FnOnce(Stop) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.start(name, run, true);
    }

    fn start<F, Fut>(&self, name: &'static str, run: F, drains: bool)
    where
        F: FnOnce(Stop) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let mut tasks = self.tasks.lock();
        if tasks.stopped {
            return;
        }
        let (stop, stopped) = watch::channel(false);
        let mut owner = stopped.clone();
        let future = AssertUnwindSafe(run(Stop(stopped))).catch_unwind();
        let future = async move {
            if !drains {
                return future.await;
            }
            tokio::select! {
                biased;
                ended = future => ended,
                () = async { while owner.changed().await.is_ok() {}; tokio::time::sleep(DRAIN).await } => Ok(()),
            }
        };
        let failure = self.failure.clone();
        #[expect(clippy::disallowed_methods, reason = "this is where tasks are owned")]
        let handle = tokio::spawn(async move {
            if let Err(panic) = future.await {
                let message = panic_message(panic.as_ref());
                tracing::error!(task = name, message, "a background task panicked");
                failure.send_if_modified(|first| {
                    let fresh = first.is_none();
                    first.get_or_insert_with(|| {
                        Error::closed(format!("background task '{name}' panicked: {message}; open the table again"))
                    });
                    fresh
                });
            }
        });
        tasks.running.retain(|task| !task.handle.is_finished());
        tasks.running.push(BackgroundTask { name, stop, handle, drains });
    }

    /// Stops all tasks, newest first, each awaited before the next is told. Starting more afterwards does nothing. If the
    /// future is dropped, the tasks that have not ended go on, and another call goes on with them.
    ///
    /// # Errors
    /// `Closed` if a task panicked in its life.
    pub async fn stop(&self) -> Result<()> {
        self.tasks.lock().stopped = true;
        loop {
            let Some(task) = self.tasks.lock().running.pop() else { break };
            let mut ending = Ending { tasks: &self.tasks, task: Some(task) };
            if let Some(task) = &mut ending.task {
                task.end().await;
            }
            ending.task = None;
        }
        self.health().check()
    }

    /// The names of the tasks that are running.
    pub fn running(&self) -> Vec<&'static str> {
        self.tasks.lock().running.iter().filter(|t| !t.handle.is_finished()).map(BackgroundTask::name).collect()
    }

    /// A view of whether the tasks are alive.
    pub fn health(&self) -> Health {
        Health(self.failure.subscribe())
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor").field("running", &self.running()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::error::ErrorKind;

    #[tokio::test]
    async fn tasks_stop_newest_first_and_finish_their_work() {
        let supervisor = Supervisor::new();
        let (log, mut seen) = mpsc::unbounded_channel();
        for name in ["flusher", "writer"] {
            let log = log.clone();
            supervisor.spawn_until(name, |mut stop| async move {
                stop.wait().await;
                tokio::task::yield_now().await;
                log.send(name).unwrap();
            });
        }
        supervisor.spawn("ticker", std::future::pending());
        assert_eq!(supervisor.running().len(), 3);
        supervisor.stop().await.unwrap();
        assert_eq!((seen.recv().await, seen.recv().await), (Some("writer"), Some("flusher")));
        supervisor.spawn("late", async {});
        assert!(supervisor.running().is_empty());
        supervisor.stop().await.unwrap();
    }

    #[tokio::test]
    async fn stopping_goes_on_where_it_was_given_up() {
        let supervisor = Supervisor::new();
        let (finish, finished) = oneshot::channel::<()>();
        let (log, mut seen) = mpsc::unbounded_channel();
        let late = log.clone();
        supervisor.spawn_until("first", |mut stop| async move {
            stop.wait().await;
            log.send("first").unwrap();
        });
        supervisor.spawn_until("slow", |mut stop| async move {
            stop.wait().await;
            finished.await.unwrap();
            late.send("slow").unwrap();
        });
        let mut stop = Box::pin(supervisor.stop());
        assert!(futures::poll!(stop.as_mut()).is_pending());
        drop(stop);
        assert_eq!(supervisor.running().len(), 2);
        finish.send(()).unwrap();
        supervisor.stop().await.unwrap();
        assert_eq!((seen.recv().await, seen.recv().await), (Some("slow"), Some("first")));
    }

    #[tokio::test]
    async fn a_panic_closes_the_supervisor_and_wakes_those_who_wait() {
        let supervisor = Supervisor::new();
        let mut health = supervisor.health();
        health.check().unwrap();
        supervisor.spawn("index", async { panic!("no such term") });
        let error = health.failed().await;
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert!(error.message().contains("'index' panicked: no such term"));
        assert!(health.check().is_err());
        assert!(supervisor.stop().await.is_err());
    }

    #[tokio::test]
    async fn dropping_the_supervisor_aborts_its_tasks() {
        let supervisor = Supervisor::new();
        let (held, dropped) = oneshot::channel::<()>();
        let alive = Arc::new(());
        let weak = Arc::downgrade(&alive);
        supervisor.spawn_until("stubborn", |_stop| async move {
            let _held = (held, alive);
            std::future::pending::<()>().await;
        });
        let mut health = supervisor.health();
        drop(supervisor);
        assert!(dropped.await.is_err());
        assert!(weak.upgrade().is_none());
        assert_eq!(health.failed().await.kind(), ErrorKind::Closed);
    }
}
