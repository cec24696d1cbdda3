//! Files of the local file system that stay open, and what the operating system has of them in memory.
//!
//! A few kilobytes of a file that is in memory are read at once, on the thread that asks (`preadv2` with `RWF_NOWAIT`,
//! Linux). Lance's own reader takes another thread for each read, which costs many times the read itself; where a disk has
//! to be waited for it is the better one, and nothing is read here.

use std::fs::File;
use std::io::{Error as IoError, ErrorKind as IoErrorKind, Result as IoResult};
use std::ops::Range;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lance_io::local::to_local_path;
use moka::future::Cache;
use object_store::path::Path;
use object_store::{GetRange, ObjectMeta};

use super::memory_store::{MemoryFiles, MemoryStore};
use crate::task::blocking;

/// Bytes that are read at most.
const SMALL: u64 = 1 << 20;
/// Files of the process that stay open at most, and for how long after the last read.
const FILES: u64 = 256;
const IDLE: Duration = Duration::from_secs(60);

/// Files that are never written again; paths begin at the root of the file system. What is large is not read.
#[derive(Debug)]
pub struct OpenFiles(Cache<Path, Arc<OpenFile>>);

#[derive(Debug)]
struct OpenFile {
    file: File,
    meta: ObjectMeta,
}

impl OpenFiles {
    /// Those of the process.
    pub fn global() -> Arc<MemoryStore<Self>> {
        static GLOBAL: LazyLock<Arc<MemoryStore<OpenFiles>>> =
            LazyLock::new(|| Arc::new(MemoryStore(OpenFiles::new(FILES))));
        Arc::clone(&GLOBAL)
    }

    fn new(files: u64) -> Self {
        Self(Cache::builder().max_capacity(files).time_to_idle(IDLE).build())
    }

    async fn open(&self, path: &Path) -> IoResult<Arc<OpenFile>> {
        if let Some(file) = self.0.get(path).await {
            return Ok(file);
        }
        let opening = path.clone();
        let opened = blocking(move || Ok(OpenFile::open(&opening))).await;
        let opened = Arc::new(opened.map_err(IoError::other)??);
        self.0.insert(path.clone(), Arc::clone(&opened)).await;
        Ok(opened)
    }
}

impl OpenFile {
    fn open(path: &Path) -> IoResult<Self> {
        let file = File::open(to_local_path(path))?;
        let metadata = file.metadata()?;
        let meta = ObjectMeta {
            location: path.clone(),
            last_modified: metadata.modified()?.into(),
            size: metadata.len(),
            e_tag: None,
            version: None,
        };
        Ok(Self { file, meta })
    }

    /// What is in a range, if all of it is in memory.
    #[cfg(target_os = "linux")]
    fn read(&self, range: &Range<u64>) -> IoResult<Bytes> {
        use std::io::IoSliceMut;

        use rustix::io::{Errno, ReadWriteFlags, preadv2};

        let mut bytes = vec![0; (range.end - range.start) as usize];
        let mut done = 0;
        while done < bytes.len() {
            let mut rest = [IoSliceMut::new(&mut bytes[done..])];
            match preadv2(&self.file, &mut rest, range.start + done as u64, ReadWriteFlags::NOWAIT) {
                // The end of the file: the other way to read says so. Some file systems do not know the flag.
                Ok(0) | Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    return Err(IoErrorKind::WouldBlock.into());
                }
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(bytes.into())
    }

    /// Nothing tells whether a read would wait.
    #[cfg(not(target_os = "linux"))]
    fn read(&self, _range: &Range<u64>) -> IoResult<Bytes> {
        Err(IoErrorKind::WouldBlock.into())
    }
}

#[async_trait]
impl MemoryFiles for OpenFiles {
    const NAME: &'static str = "OpenFiles";

    async fn meta(&self, path: &Path) -> IoResult<ObjectMeta> {
        Ok(self.open(path).await?.meta.clone())
    }

    async fn read(&self, path: &Path, range: Option<&GetRange>) -> IoResult<(ObjectMeta, Range<u64>, Vec<Bytes>)> {
        let file = self.open(path).await?;
        let range = match range {
            Some(range) => range.as_range(file.meta.size).map_err(IoError::other)?,
            None => 0..file.meta.size,
        };
        if range.end - range.start > SMALL {
            return Err(IoErrorKind::WouldBlock.into());
        }
        let bytes = file.read(&range)?;
        Ok((file.meta.clone(), range, vec![bytes]))
    }
}

#[cfg(test)]
mod tests {
    use object_store::{Error, ObjectStoreExt};

    use super::*;

    fn path(file: &std::path::Path) -> Path {
        Path::from_absolute_path(file).unwrap()
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_is_in_memory_of_a_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a file");
        let bytes: Vec<u8> = (0..3 * SMALL).map(|i| (i * 7 % 251) as u8).collect();
        std::fs::write(&file, &bytes).unwrap();
        let (store, at) = (MemoryStore(OpenFiles::new(FILES)), path(&file));
        let size = bytes.len() as u64;
        let opened = OpenFile::open(&at).unwrap();
        if opened.read(&(0..1)).is_err_and(|error| error.kind() == IoErrorKind::WouldBlock) {
            println!("the file system of {} does not tell what is in memory", file.display());
            return;
        }
        for range in [0..1, 5..4101, 4095..4097, size - 3..size, 0..SMALL, 100..SMALL + 100] {
            let expected = &bytes[range.start as usize..range.end as usize];
            assert_eq!(store.get_range(&at, range.clone()).await.unwrap(), expected, "{range:?}");
        }
        assert_eq!(store.head(&at).await.unwrap().size, size);
        // It stays open, whatever its name is now.
        std::fs::remove_file(&file).unwrap();
        assert_eq!(store.get_range(&at, 0..2).await.unwrap(), &bytes[..2]);
    }

    #[tokio::test]
    async fn what_cannot_be_read_at_once_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("large");
        std::fs::write(&file, vec![1; 2 * SMALL as usize]).unwrap();
        let store = MemoryStore(OpenFiles::new(FILES));
        let absent = store.get_range(&path(&dir.path().join("absent")), 0..1).await.unwrap_err();
        assert!(matches!(absent, Error::NotFound { .. }), "{absent}");
        assert!(store.get_range(&path(&file), 0..SMALL + 1).await.is_err());
        assert!(store.get_range(&path(&file), 9 * SMALL..9 * SMALL + 1).await.is_err());
        File::options().write(true).open(&file).unwrap().set_len(2).unwrap();
        assert!(store.get_range(&path(&file), 0..4).await.is_err(), "it is shorter than it was");
        assert!(store.put(&path(&file), "no".into()).await.is_err());
    }

    #[tokio::test]
    async fn no_more_files_stay_open_than_there_is_room_for() {
        let dir = tempfile::tempdir().unwrap();
        let store = OpenFiles::new(5);
        for i in 0..20 {
            let file = dir.path().join(i.to_string());
            std::fs::write(&file, i.to_string()).unwrap();
            store.open(&path(&file)).await.unwrap();
        }
        store.0.run_pending_tasks().await;
        assert!(store.0.entry_count() <= 5);
    }
}
