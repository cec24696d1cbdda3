//! Where a bench keeps its data: below the target directory, so on a real disk and gone with `cargo clean`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Result;

/// Part of the names of cached data: another version builds its own.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "-1");
/// Says that a cached directory is complete.
const COMPLETE: &str = ".complete";

/// The directories of one bench.
pub(crate) struct Place {
    target: PathBuf,
    work: PathBuf,
    next: AtomicUsize,
}

impl Place {
    /// The directories of the bench `name`, emptied of what an earlier run left.
    pub(crate) fn new(name: &str) -> Result<Self> {
        // target/<profile>/deps/<bench>
        let exe = std::env::current_exe()?;
        let target = exe.ancestors().nth(3).ok_or("a bench is run by cargo")?.to_path_buf();
        let work = target.join("bench").join("work").join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&work)?;
        Ok(Self { target, work, next: AtomicUsize::new(0) })
    }

    /// The target directory.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// A directory that does not exist yet.
    pub(crate) fn fresh(&self, label: &str) -> PathBuf {
        self.work.join(format!("{label}-{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// A fresh copy of the data that `build` makes in the directory it is given, unless an earlier run made it.
    pub(crate) async fn copy_of_built(
        &self,
        label: &str,
        build: impl AsyncFnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let built = self.built(label, build).await?;
        self.copy(&built, label)
    }

    /// The data that `build` makes in the directory it is given, unless an earlier run made it. Not to be changed.
    pub(crate) async fn built(&self, label: &str, build: impl AsyncFnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let dir = self.target.join("bench").join("data").join(format!("{label}-{VERSION}"));
        if !dir.join(COMPLETE).exists() {
            remove(&dir)?;
            build(&dir).await?;
            std::fs::write(dir.join(COMPLETE), [])?;
        }
        Ok(dir)
    }

    /// Whether a file in a directory of built data is none of its files: it says that they are complete.
    pub(crate) fn is_mark(file: &Path) -> bool {
        file.file_name().is_some_and(|name| name == COMPLETE)
    }

    /// A fresh copy of `dir`.
    pub(crate) fn copy(&self, dir: &Path, label: &str) -> Result<PathBuf> {
        let to = self.fresh(label);
        copy(dir, &to)?;
        Ok(to)
    }

    /// Deletes what is not cached.
    pub(crate) fn clear(&self) -> Result<()> {
        remove(&self.work)
    }
}

/// Copies the data in `dir` to `to`, which does not exist yet.
pub(crate) fn copy(dir: &Path, to: &Path) -> Result<()> {
    for entry in walkdir::WalkDir::new(dir) {
        let entry = entry?;
        let path = to.join(entry.path().strip_prefix(dir)?);
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(path)?;
        } else if !Place::is_mark(entry.path()) {
            std::fs::copy(entry.path(), path)?;
        }
    }
    Ok(())
}

/// Deletes a directory, if there is one.
pub(crate) fn remove(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// A path as text.
pub(crate) fn uri(dir: &Path) -> Result<&str> {
    dir.to_str().ok_or_else(|| format!("{}: not UTF-8", dir.display()).into())
}
