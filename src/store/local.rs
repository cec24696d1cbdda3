//! A table directory on a local file system: creating files that survive power loss, in one hop off the async workers.
//!
//! A new file is written without a name, synced, linked to its name without replacing anything, and its directory
//! synced. A sync that failed is never tried again on the same file: the kernel may have dropped the bytes
//! and answer the second time that all is well.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Error as IoError, ErrorKind as IoErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use lance_io::object_store::uri_to_url;
use parking_lot::Mutex;

use super::failure::{from_io, from_lance};
use super::new_file::{NewFile, temporary};
use super::{IoHook, Put, SyncRecord, TablePaths};
use crate::error::{Error, Result};
use crate::task::blocking;

/// Bytes read at once.
const PIECE: usize = 1 << 20;

type Hook = Option<Arc<dyn IoHook>>;

#[derive(Debug)]
pub(super) struct Local {
    root: PathBuf,
    sync: AtomicBool,
    /// The table is there: without it no directory is created.
    in_table: AtomicBool,
    dirs: Mutex<Dirs>,
}

#[derive(Debug, Default)]
struct Dirs {
    /// Directories that exist and whose names, up to the root of the file system, are durable.
    known: HashSet<String>,
    /// Directories with a failed sync: what is in them may not survive, and no later sync can tell.
    broken: HashSet<String>,
}

impl Local {
    /// The directory, or `None` if the location is not on a local file system.
    pub(super) fn open(uri: &str, sync: bool) -> Result<Option<Self>> {
        let url = uri_to_url(uri).map_err(from_lance)?;
        if !matches!(url.scheme(), "file" | "file+uring" | "file-object-store") {
            return Ok(None);
        }
        let root = url.to_file_path().map_err(|()| {
            Error::invalid("the location is not a local path: give an absolute one").with_context("uri", uri)
        })?;
        let (sync, in_table) = (AtomicBool::new(sync), AtomicBool::new(false));
        Ok(Some(Self { root, sync, in_table, dirs: Mutex::default() }))
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether what is in a directory can be relied on.
    pub(super) fn check_synced(&self, dir: &str) -> Result<()> {
        if self.dirs.lock().broken.contains(dir) { Err(broken(dir)) } else { Ok(()) }
    }

    pub(super) fn syncs(&self) -> bool {
        self.sync.load(Ordering::Relaxed)
    }

    pub(super) fn set_sync(&self, sync: bool) {
        self.sync.store(sync, Ordering::Relaxed);
    }

    pub(super) fn expect_table(&self) {
        self.in_table.store(true, Ordering::Relaxed);
    }

    fn full(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    pub(super) async fn get(self: Arc<Self>, path: &str) -> Result<Option<Bytes>> {
        let path = path.to_string();
        blocking(move || match fs::read(self.full(&path)) {
            Ok(bytes) => Ok(Some(Bytes::from(bytes))),
            Err(error) if error.kind() == IoErrorKind::NotFound => Ok(None),
            Err(error) => Err(from_io(error, "reading", &path)),
        })
        .await
    }

    pub(super) async fn exists(self: Arc<Self>, path: &str) -> Result<bool> {
        let path = path.to_string();
        blocking(move || fs::exists(self.full(&path)).map_err(|e| from_io(e, "looking for", &path))).await
    }

    pub(super) async fn list(self: Arc<Self>, dir: &str, dirs: bool) -> Result<Vec<String>> {
        let dir = dir.to_string();
        blocking(move || {
            let fail = |e| from_io(e, "listing", &dir);
            let entries = match fs::read_dir(self.full(&dir)) {
                Ok(entries) => entries,
                Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(fail(error)),
            };
            let mut names = Vec::new();
            for entry in entries {
                let entry = entry.map_err(fail)?;
                if entry.file_type().map_err(fail)?.is_dir() == dirs {
                    names.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
            Ok(names)
        })
        .await
    }

    pub(super) async fn put_if_absent(self: Arc<Self>, path: &str, bytes: Bytes, hook: Hook) -> Result<Put> {
        let path = path.to_string();
        blocking(move || {
            let dir = parent(&path);
            self.ensure_dir(dir, &hook)?;
            let mut file = NewFile::create(&self.full(dir)).map_err(|e| Self::failed(e, "creating", &path))?;
            file.write_all(&bytes).map_err(|e| from_io(e, "writing", &path))?;
            if self.syncs() {
                before_sync(&hook, &path)?;
                file.sync().map_err(|e| from_io(e, "syncing", &path))?;
            }
            let put = linked(file.link(&self.full(&path)), &path)?;
            drop(file);
            if put == Put::Created {
                self.record(&hook, |record| record.content(&path));
            }
            // Also if it exists: whoever linked it, perhaps we in a request given up, may not have synced it yet.
            self.sync_dir(dir, &hook).map_err(|e| {
                Error::indeterminate(
                    "the file is there but may not survive power loss: check the disk, then open the table again",
                )
                .with_context("path", &path)
                .with_source(e)
            })?;
            self.record(&hook, |record| record.name(&path));
            Ok(put)
        })
        .await
    }

    pub(super) async fn put(self: Arc<Self>, path: &str, bytes: Bytes) -> Result<()> {
        let path = path.to_string();
        blocking(move || {
            let dir = parent(&path);
            self.create_dir(dir)?;
            let temporary = temporary(&self.full(dir));
            let written = fs::write(&temporary, &bytes).and_then(|()| fs::rename(&temporary, self.full(&path)));
            written.map_err(|e| {
                // The name is random: nobody else would ever find the file.
                let _ = fs::remove_file(&temporary);
                from_io(e, "writing", &path)
            })
        })
        .await
    }

    pub(super) async fn delete(self: Arc<Self>, path: &str) -> Result<()> {
        let path = path.to_string();
        blocking(move || absent_is_fine(fs::remove_file(self.full(&path))).map_err(|e| from_io(e, "deleting", &path)))
            .await
    }

    pub(super) async fn delete_dir(self: Arc<Self>, dir: &str) -> Result<()> {
        let dir = dir.to_string();
        blocking(move || {
            self.dirs.lock().known.clear();
            absent_is_fine(fs::remove_dir_all(self.full(&dir))).map_err(|e| from_io(e, "deleting", &dir))
        })
        .await
    }

    pub(super) async fn rename(self: Arc<Self>, from: &str, to: &str, hook: Hook) -> Result<()> {
        let (from, to) = (from.to_string(), to.to_string());
        blocking(move || {
            self.ensure_dir(parent(&to), &hook)?;
            if linked(fs::hard_link(self.full(&from), self.full(&to)), &to)? == Put::Exists {
                return Err(Error::invalid("there is something already: choose another name").with_context("path", &to));
            }
            self.record(&hook, |record| record.content(&to));
            self.sync_dir(parent(&to), &hook)?;
            self.record(&hook, |record| record.name(&to));
            fs::remove_file(self.full(&from)).map_err(|e| from_io(e, "moving", &from))?;
            self.sync_dir(parent(&from), &hook)
        })
        .await
    }

    pub(super) async fn sync_tree(self: Arc<Self>, dir: &str, hook: Hook) -> Result<()> {
        let dir = dir.to_string();
        blocking(move || {
            if !self.syncs() {
                return Ok(());
            }
            let (mut files, mut dirs) = (Vec::new(), Vec::new());
            self.walk(&dir, &mut files, &mut dirs)?;
            let mut there = Vec::with_capacity(files.len());
            for path in files {
                if self.sync_path(&path, &hook)? {
                    self.record(&hook, |record| record.content(&path));
                    there.push(path);
                }
            }
            self.sync_dirs(&there, &dirs, &hook)
        })
        .await
    }

    pub(super) async fn sync_files(self: Arc<Self>, paths: Vec<String>, hook: Hook) -> Result<()> {
        blocking(move || {
            if !self.syncs() {
                return Ok(());
            }
            let mut dirs: Vec<String> = Vec::new();
            for path in &paths {
                let mut dir = parent(path);
                while !dirs.iter().any(|d| d == dir) {
                    dirs.push(dir.to_string());
                    dir = parent(dir);
                }
            }
            // A longer path is never above a shorter one.
            dirs.sort_by_key(|dir| dir.len());
            for path in &paths {
                if !self.sync_path(path, &hook)? {
                    return Err(from_io(IoErrorKind::NotFound.into(), "syncing", path));
                }
                self.record(&hook, |record| record.content(path));
            }
            self.sync_dirs(&paths, &dirs, &hook)
        })
        .await
    }

    pub(super) async fn files(self: Arc<Self>, dir: &str) -> Result<Vec<String>> {
        let dir = dir.to_string();
        blocking(move || {
            let mut files = Vec::new();
            self.walk(&dir, &mut files, &mut Vec::new())?;
            Ok(files)
        })
        .await
    }

    /// The length and the checksum of a file, read piece by piece.
    pub(super) async fn checksum(self: Arc<Self>, path: &str) -> Result<(u64, u32)> {
        let path = path.to_string();
        blocking(move || {
            let fail = |e| from_io(e, "reading", &path);
            let mut file = File::open(self.full(&path)).map_err(fail)?;
            let (mut hasher, mut length, mut piece) = (crc32fast::Hasher::new(), 0, vec![0; PIECE]);
            loop {
                match file.read(&mut piece).map_err(fail)? {
                    0 => return Ok((length, hasher.finalize())),
                    n => {
                        hasher.update(&piece[..n]);
                        length += n as u64;
                    }
                }
            }
        })
        .await
    }

    /// The files and directories below and with `dir`; parents come before children.
    fn walk(&self, dir: &str, files: &mut Vec<String>, dirs: &mut Vec<String>) -> Result<()> {
        dirs.push(dir.to_string());
        let fail = |e| from_io(e, "listing", dir);
        for entry in fs::read_dir(self.full(dir)).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let path = if dir.is_empty() { name.into_owned() } else { format!("{dir}/{name}") };
            if entry.file_type().map_err(fail)?.is_dir() {
                self.walk(&path, files, dirs)?;
            } else {
                files.push(path);
            }
        }
        Ok(())
    }

    /// Syncs `dirs` (parents first in the list), which hold `files`, bottom-up, then what is above the first of them.
    fn sync_dirs(&self, files: &[String], dirs: &[String], hook: &Hook) -> Result<()> {
        for dir in dirs.iter().rev() {
            self.sync_dir(dir, hook)?;
        }
        if let Some(top) = dirs.first() {
            self.sync_above(top, hook)?;
        }
        self.record(hook, |record| files.iter().chain(dirs).for_each(|path| record.name(path)));
        Ok(())
    }

    /// Makes the names on the way to `dir` durable, up to the root of the file system.
    fn sync_above(&self, dir: &str, hook: &Hook) -> Result<()> {
        let mut below = dir;
        while !below.is_empty() {
            self.sync_dir(parent(below), hook)?;
            self.record(hook, |record| record.name(below));
            below = parent(below);
        }
        let mut known = self.dirs.lock();
        if known.known.insert(String::new()) {
            drop(known);
            for above in self.root.ancestors().skip(1) {
                // Above the table, what we may not open others have made, and synced or not.
                match File::open(above).and_then(|dir| dir.sync_all()) {
                    Ok(()) => {}
                    Err(error) if error.kind() == IoErrorKind::PermissionDenied => break,
                    Err(error) => {
                        self.dirs.lock().known.remove("");
                        return Err(from_io(error, "syncing the directory", &above.to_string_lossy()));
                    }
                }
            }
            known = self.dirs.lock();
        }
        known.known.insert(dir.to_string());
        Ok(())
    }

    /// Creates `dir` and all above, durably, unless this handle knows that they are.
    fn ensure_dir(&self, dir: &str, hook: &Hook) -> Result<()> {
        {
            let dirs = self.dirs.lock();
            if dirs.broken.contains(dir) {
                return Err(broken(dir));
            }
            if dirs.known.contains(dir) {
                return Ok(());
            }
        }
        self.create_dir(dir)?;
        if self.syncs() {
            self.sync_above(dir, hook)?;
        } else {
            self.dirs.lock().known.insert(dir.to_string());
        }
        Ok(())
    }

    /// Creates `dir` and all above, unless the table it belongs to is gone.
    fn create_dir(&self, dir: &str) -> Result<()> {
        let fail = |e| from_io(e, "creating the directory", dir);
        let table = self.full(TablePaths::VERSIONS);
        if self.in_table.load(Ordering::Relaxed) && !fs::exists(table).map_err(fail)? {
            return Err(Error::fenced("the table was dropped: if it was created again, open it again")
                .with_context("path", dir));
        }
        fs::create_dir_all(self.full(dir)).map_err(fail)
    }

    /// Why a file could not be created in a directory that was there: making it again would write into nothing, or into
    /// whatever took its place.
    fn failed(error: IoError, doing: &'static str, path: &str) -> Error {
        if error.kind() == IoErrorKind::NotFound {
            return Error::fenced("the directory was deleted: if the table was created again, open it again")
                .with_context("path", path)
                .with_source(error);
        }
        from_io(error, doing, path)
    }

    fn record(&self, hook: &Hook, note: impl FnOnce(&SyncRecord)) {
        if let Some(record) = hook.as_ref().filter(|_| self.syncs()).and_then(|hook| hook.sync_record()) {
            note(&record);
        }
    }

    /// Syncs a file or directory; false if there is none.
    fn sync_path(&self, path: &str, hook: &Hook) -> Result<bool> {
        before_sync(hook, path)?;
        match File::open(self.full(path)).and_then(|file| file.sync_all()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == IoErrorKind::NotFound => Ok(false),
            Err(error) => Err(from_io(error, "syncing", path)),
        }
    }

    fn sync_dir(&self, dir: &str, hook: &Hook) -> Result<()> {
        if !self.syncs() {
            return Ok(());
        }
        self.check_synced(dir)?;
        let synced = match self.sync_path(dir, hook) {
            Ok(true) => Ok(()),
            Ok(false) => Err(from_io(IoErrorKind::NotFound.into(), "syncing", dir)),
            Err(error) => Err(error),
        };
        synced.inspect_err(|_| {
            self.dirs.lock().broken.insert(dir.to_string());
        })
    }
}

/// What came of giving a file a name that may be taken.
fn linked(result: Result<(), IoError>, path: &str) -> Result<Put> {
    match result {
        Ok(()) => Ok(Put::Created),
        Err(error) if error.kind() == IoErrorKind::AlreadyExists => Ok(Put::Exists),
        Err(error) if matches!(error.kind(), IoErrorKind::Unsupported | IoErrorKind::PermissionDenied) => {
            Err(Error::invalid(
                "the file system has no hard links, which creating a file without replacing another needs: put the \
                 table on another one",
            )
            .with_context("path", path)
            .with_source(error))
        }
        Err(error) => Err(from_io(error, "linking", path)),
    }
}

fn broken(dir: &str) -> Error {
    Error::indeterminate("a sync of this directory failed, what is in it may be lost: check the disk, then open again")
        .with_context("path", dir)
}

fn before_sync(hook: &Hook, path: &str) -> Result<()> {
    hook.as_ref().map_or(Ok(()), |hook| hook.before_sync(path))
}

fn absent_is_fine(result: Result<(), IoError>) -> Result<(), IoError> {
    match result {
        Err(error) if error.kind() == IoErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The directory of a path; the empty path is the root.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}
