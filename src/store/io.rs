//! The one handle to a table directory: dispatch to the file system or an object store, hooks and counters.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::hook::Counters;
use super::local::Local;
use super::remote::Remote;
use super::{IoCounts, IoHook, IoOp, StoreOptions, SyncRecord};
use crate::error::{Error, ErrorKind, Result};

/// The objects of one table directory. Cheap to clone; paths are relative to the directory and separated by '/'.
#[derive(Debug, Clone)]
pub struct ObjectIo {
    uri: Arc<str>,
    backend: Backend,
    hook: Option<Arc<dyn IoHook>>,
    counters: Arc<Counters>,
}

#[derive(Debug, Clone)]
enum Backend {
    Local(Arc<Local>),
    Remote(Arc<Remote>),
}

/// Whether an object was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is there now and was not before.
    Created,
    /// Another one was there already and stays.
    Exists,
}

impl ObjectIo {
    /// The objects below a local path or URI. With `sync`, what is created on a local file system survives power loss.
    /// Nothing is read or created yet.
    ///
    /// # Errors
    /// `Invalid` if the location or the options are wrong.
    pub async fn open(uri: &str, options: &StoreOptions, sync: bool) -> Result<Self> {
        let backend = match Local::open(uri, sync)? {
            Some(local) => Backend::Local(Arc::new(local)),
            None => Backend::Remote(Arc::new(Remote::open(uri, options).await?)),
        };
        Ok(Self { uri: uri.into(), backend, hook: None, counters: Arc::default() })
    }

    /// Lets `hook` look at every request.
    #[must_use]
    pub fn with_hook(self, hook: Arc<dyn IoHook>) -> Self {
        Self { hook: Some(hook), ..self }
    }

    /// Whether what is created on a local file system survives power loss.
    pub fn syncs(&self) -> bool {
        match &self.backend {
            Backend::Local(local) => local.syncs(),
            Backend::Remote(_) => false,
        }
    }

    /// From now on, whether what this handle and its clones create on a local file system survives power loss.
    pub fn set_sync(&self, sync: bool) {
        if let Backend::Local(local) = &self.backend {
            local.set_sync(sync);
        }
    }

    /// From now on this handle and its clones create directories on a local file system only while the table is there: one
    /// that was dropped does not come back in parts.
    pub fn expect_table(&self) {
        if let Backend::Local(local) = &self.backend {
            local.expect_table();
        }
    }

    /// Whether this is a local file system.
    pub fn is_local(&self) -> bool {
        matches!(self.backend, Backend::Local(_))
    }

    /// The location as it was given.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The table directory on a local file system.
    pub fn local_root(&self) -> Option<&Path> {
        match &self.backend {
            Backend::Local(local) => Some(local.root()),
            Backend::Remote(_) => None,
        }
    }

    /// What is synced, if a hook records it.
    pub fn synced(&self) -> Option<SyncRecord> {
        self.hook.as_ref().and_then(|hook| hook.sync_record())
    }

    /// How many requests were made through this handle and its clones.
    pub fn counts(&self) -> IoCounts {
        self.counters.get()
    }

    /// What failed is tried again.
    pub(crate) fn retried(&self) {
        self.counters.retried();
    }

    /// The object, or `None` if there is none.
    ///
    /// # Errors
    /// `Unavailable` or `Invalid`.
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>> {
        self.before(IoOp::Get, path).await?;
        let bytes = match &self.backend {
            Backend::Local(local) => Arc::clone(local).get(path).await?,
            Backend::Remote(remote) => remote.get(path).await?,
        };
        self.counters.read(bytes.as_ref().map_or(0, Bytes::len));
        self.after(IoOp::Get, path).await?;
        Ok(bytes)
    }

    /// What `decode` makes of the object; `None` if there is none. What seems to be damaged is read once more: it may have
    /// been so on its way only.
    ///
    /// # Errors
    /// As [`get`](Self::get), and those of `decode`.
    pub async fn read<T, Decoding>(&self, path: &str, decode: impl Fn(Bytes) -> Decoding) -> Result<Option<T>>
    where
        Decoding: Future<Output = Result<T>>,
    {
        let Some(bytes) = self.get(path).await? else { return Ok(None) };
        let damage = match decode(bytes).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => error,
            decoded => return decoded.map(Some),
        };
        tracing::debug!(path, error = %damage, "an object that seems to be damaged is read once more");
        self.retried();
        match self.get(path).await? {
            Some(bytes) => decode(bytes).await.map(Some),
            None => Err(damage),
        }
    }

    /// Whether the object exists.
    ///
    /// # Errors
    /// `Unavailable` or `Invalid`.
    pub async fn exists(&self, path: &str) -> Result<bool> {
        self.before(IoOp::Head, path).await?;
        let exists = match &self.backend {
            Backend::Local(local) => Arc::clone(local).exists(path).await?,
            Backend::Remote(remote) => remote.exists(path).await?,
        };
        self.after(IoOp::Head, path).await?;
        Ok(exists)
    }

    /// The names of the files directly in a directory, in no order; none if there is no directory.
    ///
    /// # Errors
    /// `Unavailable` or `Invalid`.
    pub async fn list(&self, dir: &str) -> Result<Vec<String>> {
        self.list_kind(dir, false).await
    }

    /// The names of the directories directly in a directory, in no order; none if there is no directory.
    ///
    /// # Errors
    /// `Unavailable` or `Invalid`.
    pub async fn list_dirs(&self, dir: &str) -> Result<Vec<String>> {
        self.list_kind(dir, true).await
    }

    async fn list_kind(&self, dir: &str, dirs: bool) -> Result<Vec<String>> {
        self.before(IoOp::List, dir).await?;
        let names = match &self.backend {
            Backend::Local(local) => Arc::clone(local).list(dir, dirs).await?,
            Backend::Remote(remote) => remote.list(dir, dirs).await?,
        };
        self.after(IoOp::List, dir).await?;
        Ok(names)
    }

    /// Creates the object unless there is one, durably: on a local file system the file, its name and every directory
    /// created on the way are synced when this returns (unless opened without sync), also if another one was there.
    ///
    /// # Errors
    /// `Unavailable`: it may be there or not, read it back (on a local file system: it is not). `Indeterminate`: it is
    /// there, but a sync failed, so it may not survive; reading it back proves nothing. `Invalid`: it cannot be created.
    pub async fn put_if_absent(&self, path: &str, bytes: Bytes) -> Result<Put> {
        self.before(IoOp::PutIfAbsent, path).await?;
        self.counters.written(bytes.len());
        let put = match &self.backend {
            Backend::Local(local) => Arc::clone(local).put_if_absent(path, bytes, self.hook.clone()).await?,
            Backend::Remote(remote) => remote.put_if_absent(path, bytes).await?,
        };
        self.after(IoOp::PutIfAbsent, path).await?;
        Ok(put)
    }

    /// Creates or replaces the object, whole but not durably: for hints, and for files that a sync follows.
    ///
    /// # Errors
    /// `Unavailable` or `Invalid`.
    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.before(IoOp::Put, path).await?;
        self.counters.written(bytes.len());
        self.forget(path);
        match &self.backend {
            Backend::Local(local) => Arc::clone(local).put(path, bytes).await?,
            Backend::Remote(remote) => remote.put(path, bytes).await?,
        }
        self.after(IoOp::Put, path).await
    }

    /// Deletes the object; it is no error if there is none.
    ///
    /// # Errors
    /// `Unavailable` or `Invalid`.
    pub async fn delete(&self, path: &str) -> Result<()> {
        self.before(IoOp::Delete, path).await?;
        self.forget(path);
        match &self.backend {
            Backend::Local(local) => Arc::clone(local).delete(path).await?,
            Backend::Remote(remote) => remote.delete(path).await?,
        }
        self.after(IoOp::Delete, path).await
    }

    /// Deletes a directory and all below; it is no error if there is none. The empty path is the table itself.
    ///
    /// # Errors
    /// `Unavailable` or `Invalid`; part of it may be deleted.
    pub async fn delete_dir(&self, dir: &str) -> Result<()> {
        self.before(IoOp::Delete, dir).await?;
        self.forget(dir);
        match &self.backend {
            Backend::Local(local) => Arc::clone(local).delete_dir(dir).await?,
            Backend::Remote(remote) => remote.delete_dir(dir).await?,
        }
        self.after(IoOp::Delete, dir).await
    }

    /// Moves an object; durable like [`put_if_absent`](Self::put_if_absent). `to` must be free. On object stores this
    /// is a copy and a delete: stopped in the middle, both are there.
    ///
    /// # Errors
    /// `Unavailable` or `Invalid`.
    pub async fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.before(IoOp::Rename, from).await?;
        self.forget(from);
        match &self.backend {
            Backend::Local(local) => Arc::clone(local).rename(from, to, self.hook.clone()).await?,
            Backend::Remote(remote) => remote.rename(from, to).await?,
        }
        self.after(IoOp::Rename, from).await
    }

    /// Makes all below a directory durable on a local file system, however it was written: its files, then the
    /// directories bottom-up, then the directories above. A file that others delete meanwhile is left out. Elsewhere, or
    /// without sync, it does nothing.
    ///
    /// # Errors
    /// `Unavailable` if a sync failed: what was written must not be relied on, write it anew elsewhere.
    pub async fn sync_tree(&self, dir: &str) -> Result<()> {
        self.before(IoOp::Sync, dir).await?;
        if let Backend::Local(local) = &self.backend {
            Arc::clone(local).sync_tree(dir, self.hook.clone()).await?;
        }
        self.after(IoOp::Sync, dir).await
    }

    /// Like [`sync_tree`](Self::sync_tree), for some files and the directories above them.
    ///
    /// # Errors
    /// As `sync_tree`; `Invalid` if one of them does not exist.
    pub async fn sync_files(&self, paths: Vec<String>) -> Result<()> {
        let first = paths.first().cloned().unwrap_or_default();
        self.before(IoOp::Sync, &first).await?;
        if let Backend::Local(local) = &self.backend {
            Arc::clone(local).sync_files(paths, self.hook.clone()).await?;
        }
        self.after(IoOp::Sync, &first).await
    }

    /// Whether what was read in a directory can be relied on: after a failed sync it may vanish, though it is there.
    ///
    /// # Errors
    /// `Indeterminate` if a sync of the directory failed in the life of this handle.
    pub fn check_synced(&self, dir: &str) -> Result<()> {
        match &self.backend {
            Backend::Local(local) => local.check_synced(dir),
            Backend::Remote(_) => Ok(()),
        }
    }

    /// The files below a directory that would not survive power loss, if a hook records what would.
    ///
    /// # Errors
    /// `Unavailable` or `Invalid`.
    pub async fn unsynced(&self, dir: &str) -> Result<Vec<String>> {
        match (&self.backend, self.synced()) {
            (Backend::Local(local), Some(record)) if local.syncs() => {
                let files = Arc::clone(local).files(dir).await?;
                Ok(files.into_iter().filter(|path| !record.has_file(path)).collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The files below a directory, in no order. Only a local file system tells.
    ///
    /// # Errors
    /// `Unavailable` or `Invalid`.
    pub async fn files(&self, dir: &str) -> Result<Vec<String>> {
        self.before(IoOp::List, dir).await?;
        let files = match &self.backend {
            Backend::Local(local) => Arc::clone(local).files(dir).await?,
            Backend::Remote(_) => return Err(Error::internal("only a local directory is walked")),
        };
        self.after(IoOp::List, dir).await?;
        Ok(files)
    }

    /// The length of a file in bytes and the CRC-32 (IEEE) of its content.
    ///
    /// # Errors
    /// `Unavailable` or `Invalid`.
    pub async fn checksum(&self, path: &str) -> Result<(u64, u32)> {
        self.before(IoOp::Get, path).await?;
        let (length, crc32) = match &self.backend {
            Backend::Local(local) => Arc::clone(local).checksum(path).await?,
            Backend::Remote(_) => return Err(Error::internal("only a local file is read through")),
        };
        self.counters.read(length as usize);
        self.after(IoOp::Get, path).await?;
        Ok((length, crc32))
    }

    fn forget(&self, path: &str) {
        if let Some(record) = self.synced() {
            record.forget(path);
        }
    }

    async fn before(&self, op: IoOp, path: &str) -> Result<()> {
        if path.split('/').any(|part| part == "..") {
            return Err(Error::internal("a path leaves the table directory").with_context("path", path));
        }
        self.counters.count(op);
        match &self.hook {
            Some(hook) => hook.before(op, path).await,
            None => Ok(()),
        }
    }

    async fn after(&self, op: IoOp, path: &str) -> Result<()> {
        match &self.hook {
            Some(hook) => hook.after(op, path).await,
            None => Ok(()),
        }
    }
}
