//! A file that has no name before it is whole.
//!
//! On Linux it has none at all (`O_TMPFILE`) until it is linked: one change of the directory less to wait for, and nothing
//! is left behind when the process ends. Elsewhere, and on file systems that cannot do that, it has a temporary name
//! first.

use std::fs::{self, File};
use std::io::{Result, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// A new file in a directory.
#[derive(Debug)]
pub(super) struct NewFile {
    file: File,
    /// Its name, if it has one.
    temporary: Option<PathBuf>,
}

impl NewFile {
    /// An empty file in `dir`.
    pub(super) fn create(dir: &Path) -> Result<Self> {
        if let Some(file) = unnamed::create(dir)? {
            return Ok(Self { file, temporary: None });
        }
        let temporary = temporary(dir);
        Ok(Self { file: File::create_new(&temporary)?, temporary: Some(temporary) })
    }

    pub(super) fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes)
    }

    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data()
    }

    /// Gives it a name; `AlreadyExists` if that is taken.
    pub(super) fn link(&self, path: &Path) -> Result<()> {
        match &self.temporary {
            Some(temporary) => fs::hard_link(temporary, path),
            None => unnamed::link(&self.file, path),
        }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary
            && let Err(error) = fs::remove_file(temporary)
        {
            tracing::debug!(path = %temporary.display(), %error, "a temporary file was not removed");
        }
    }
}

/// A name in `dir` that nobody else has, and that is not taken for an entry.
pub(super) fn temporary(dir: &Path) -> PathBuf {
    dir.join(format!(".tmp-{}", Uuid::new_v4().simple()))
}

#[cfg(target_os = "linux")]
mod unnamed {
    use std::fs::File;
    use std::io::Result;
    use std::os::fd::AsRawFd;
    use std::path::Path;
    use std::sync::LazyLock;

    use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
    use rustix::io::Errno;

    /// Where an open file can be linked from.
    const OPEN_FILES: &str = "/proc/self/fd";

    /// A file without a name, if the file system has such.
    pub(super) fn create(dir: &Path) -> Result<Option<File>> {
        static LINKABLE: LazyLock<bool> = LazyLock::new(|| Path::new(OPEN_FILES).exists());
        if !*LINKABLE {
            return Ok(None);
        }
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match open(dir, flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => Ok(Some(file.into())),
            // Kernels and file systems that do not know the flag see a directory opened for writing.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn link(file: &File, path: &Path) -> Result<()> {
        Ok(linkat(CWD, format!("{OPEN_FILES}/{}", file.as_raw_fd()), CWD, path, AtFlags::SYMLINK_FOLLOW)?)
    }
}

#[cfg(not(target_os = "linux"))]
mod unnamed {
    use std::fs::File;
    use std::io::{Error, ErrorKind, Result};
    use std::path::Path;

    pub(super) fn create(_dir: &Path) -> Result<Option<File>> {
        Ok(None)
    }

    pub(super) fn link(_file: &File, _path: &Path) -> Result<()> {
        Err(Error::from(ErrorKind::Unsupported))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::ErrorKind;

    fn check(new: impl Fn(&Path) -> NewFile) {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        let mut file = new(dir.path());
        file.write_all(b"whole").unwrap();
        file.sync().unwrap();
        assert!(!first.exists());
        file.link(&first).unwrap();
        assert_eq!(file.link(&first).unwrap_err().kind(), ErrorKind::AlreadyExists);
        drop(file);
        drop(new(dir.path()));
        assert_eq!(fs::read(&first).unwrap(), b"whole");
        let mut other = new(dir.path());
        other.write_all(b"other").unwrap();
        assert_eq!(other.link(&first).unwrap_err().kind(), ErrorKind::AlreadyExists);
        other.link(&second).unwrap();
        drop(other);
        assert_eq!((fs::read(&first).unwrap(), fs::read(&second).unwrap()), (b"whole".into(), b"other".into()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn a_file_gets_a_name_that_is_free() {
        check(|dir| NewFile::create(dir).unwrap());
    }

    #[test]
    fn a_file_with_a_temporary_name_loses_it() {
        check(|dir| {
            let temporary = temporary(dir);
            NewFile { file: File::create_new(&temporary).unwrap(), temporary: Some(temporary) }
        });
    }
}
