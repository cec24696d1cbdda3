//! Where tests and embedders look at, delay and fail I/O, and the counters of it.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;

use super::SyncRecord;
use crate::error::Result;

/// The requests of an [`ObjectIo`](super::ObjectIo).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IoOp {
    /// Reading an object.
    Get,
    /// Asking whether an object exists.
    Head,
    /// Listing a directory.
    List,
    /// Creating an object where none is.
    PutIfAbsent,
    /// Writing or replacing an object.
    Put,
    /// Deleting an object or a directory.
    Delete,
    /// Moving an object.
    Rename,
    /// Syncing what others wrote.
    Sync,
}

/// Looks at every request of an [`ObjectIo`](super::ObjectIo); every method is a no-op unless overridden.
pub trait IoHook: Debug + Send + Sync {
    /// Before a request. An error fails it, nothing having been done.
    fn before(&self, _op: IoOp, _path: &str) -> BoxFuture<'_, Result<()>> {
        async { Ok(()) }.boxed()
    }

    /// After a request that succeeded. An error loses the response: the request was carried out.
    fn after(&self, _op: IoOp, _path: &str) -> BoxFuture<'_, Result<()>> {
        async { Ok(()) }.boxed()
    }

    /// Before a file or directory of a local file system is synced, on a blocking thread. An error fails the sync.
    fn before_sync(&self, _path: &str) -> Result<()> {
        Ok(())
    }

    /// Where to record what is synced, for tests that lose the rest. A record grows with every object.
    fn sync_record(&self) -> Option<SyncRecord> {
        None
    }
}

/// How many requests were made, failed ones included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoCounts {
    /// Objects read.
    pub gets: u64,
    /// Existence checks.
    pub heads: u64,
    /// Directory listings.
    pub lists: u64,
    /// Objects written.
    pub puts: u64,
    /// Objects or directories deleted; a move on an object store is a put and a delete.
    pub deletes: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes given to be written.
    pub bytes_written: u64,
    /// Requests of these that repeat one which failed.
    pub retries: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    gets: AtomicU64,
    heads: AtomicU64,
    lists: AtomicU64,
    puts: AtomicU64,
    deletes: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    retries: AtomicU64,
}

impl Counters {
    pub(super) fn count(&self, op: IoOp) {
        let add = |counter: &AtomicU64| {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        match op {
            IoOp::Get => add(&self.gets),
            IoOp::Head => add(&self.heads),
            IoOp::List => add(&self.lists),
            IoOp::PutIfAbsent | IoOp::Put => add(&self.puts),
            IoOp::Delete => add(&self.deletes),
            IoOp::Rename => {
                add(&self.puts);
                add(&self.deletes);
            }
            IoOp::Sync => {}
        }
    }

    pub(super) fn read(&self, bytes: usize) {
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn written(&self, bytes: usize) {
        self.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> IoCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        IoCounts {
            gets: get(&self.gets),
            heads: get(&self.heads),
            lists: get(&self.lists),
            puts: get(&self.puts),
            deletes: get(&self.deletes),
            bytes_read: get(&self.bytes_read),
            bytes_written: get(&self.bytes_written),
            retries: get(&self.retries),
        }
    }
}
