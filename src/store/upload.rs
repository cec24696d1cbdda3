//! A file that is written in parts, whose blocks are kept as they are written.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use object_store::path::Path;
use object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};

use super::block_store::{BlockStore, joined};
use crate::cache::{BLOCK, FileName};

/// Bytes of one file that are kept as they are written; of a larger one nothing is.
const WRITTEN: u64 = 256 << 20;

/// Until the file is complete nobody knows its name, so that nobody finds its blocks.
#[derive(Debug)]
pub(super) struct Upload {
    upload: Box<dyn MultipartUpload>,
    store: BlockStore,
    path: Path,
    file: FileName,
    size: u64,
    /// What was written behind the last whole block.
    rest: Bytes,
    keeps: bool,
}

impl Upload {
    pub(super) fn new(upload: Box<dyn MultipartUpload>, store: BlockStore, path: Path) -> Self {
        let file = store.file(&path);
        Self { upload, store, path, file, size: 0, rest: Bytes::new(), keeps: true }
    }

    /// Takes what is written next: where whole blocks begin, and what there is from there on.
    fn take(&mut self, data: &PutPayload) -> (u64, Bytes) {
        let start = self.size - self.rest.len() as u64;
        let bytes = match self.rest.is_empty() {
            true => joined(data),
            false => {
                let mut bytes = BytesMut::with_capacity(self.rest.len() + data.content_length());
                bytes.extend_from_slice(&self.rest);
                data.iter().for_each(|part| bytes.extend_from_slice(part));
                bytes.freeze()
            }
        };
        self.size += data.content_length() as u64;
        let whole = bytes.len() / BLOCK as usize * BLOCK as usize;
        // A slice would keep the whole part.
        self.rest = Bytes::copy_from_slice(&bytes[whole..]);
        (start, bytes)
    }

    /// Drops what was kept: the file will not be there, or is too large.
    fn forget(&self) -> impl Future<Output = ()> + Send + 'static {
        let (store, file, size) = (self.store.clone(), Arc::clone(&self.file), self.size);
        async move { store.shared.reader.forget(&file, size).await }
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        if !self.keeps {
            return self.upload.put_part(data);
        }
        let (start, bytes) = self.take(&data);
        let part = self.upload.put_part(data);
        if self.size > WRITTEN.min(self.store.shared.reader.capacity()) {
            self.keeps = false;
            self.rest = Bytes::new();
            let forget = self.forget();
            return async move {
                forget.await;
                part.await
            }
            .boxed();
        }
        let (store, file) = (self.store.clone(), Arc::clone(&self.file));
        async move {
            part.await?;
            // The last block may not be whole yet.
            store.shared.reader.keep(&file, u64::MAX, start, &bytes).await;
            Ok(())
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let put = self.upload.complete().await?;
        if self.keeps {
            let start = self.size - self.rest.len() as u64;
            self.store.shared.reader.keep(&self.file, self.size, start, &self.rest).await;
            self.store.written(&self.path, &self.file, self.size, &put).await;
        }
        Ok(put)
    }

    async fn abort(&mut self) -> Result<()> {
        if self.keeps {
            self.forget().await;
        }
        self.upload.abort().await
    }
}

#[cfg(test)]
mod tests {

    use std::sync::atomic::{AtomicUsize, Ordering};

    use object_store::memory::InMemory;
    use object_store::{Error, ObjectStore, ObjectStoreExt};

    use super::super::block_store::BlockStores;
    use super::super::size_now;
    use super::*;
    use crate::cache::{MemoryBlocks, MemoryBudget};

    const FILE: &str = "table/data/a.lance";

    /// A store in memory whose blocks are kept up to so many bytes, the store below it, and what is kept.
    fn store(capacity: u64) -> (Arc<dyn ObjectStore>, Arc<InMemory>, Arc<BlockStores>) {
        let below = Arc::new(InMemory::new());
        let blocks = BlockStores::new(MemoryBlocks::new(capacity, &MemoryBudget::new(1 << 30)));
        (blocks.wrapper().wrap("store", Arc::clone(&below) as _), below, blocks)
    }

    fn bytes(len: usize) -> Bytes {
        (0..len).map(|i| (i * 31 % 251) as u8).collect::<Vec<_>>().into()
    }

    /// What is uploaded and still held by anybody.
    struct Held(Vec<u8>, Arc<AtomicUsize>);

    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            self.1.fetch_sub(self.0.len(), Ordering::Relaxed);
        }
    }

    /// Takes parts and holds none.
    #[derive(Debug)]
    struct Nowhere;

    #[async_trait]
    impl MultipartUpload for Nowhere {
        fn put_part(&mut self, _data: PutPayload) -> UploadPart {
            async { Ok(()) }.boxed()
        }

        async fn complete(&mut self) -> Result<PutResult> {
            Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
        }

        async fn abort(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_file_that_is_written_in_parts_of_any_size_is_read_without_a_request() {
        let path = Path::from(FILE);
        let block = BLOCK as usize;
        for parts in
            [vec![3 * block], vec![block, 1, 2 * block - 1, 5], vec![1; 7], vec![block - 1, 2, 0, block], vec![]]
        {
            let (store, below, blocks) = store(16 << 20);
            let all = bytes(parts.iter().sum());
            let mut upload = store.put_multipart(&path).await.unwrap();
            let (mut at, mut sent) = (0, Vec::new());
            for part in &parts {
                // In pieces, as writers give what they have collected.
                let (head, tail) = (at..at + part / 2, at + part / 2..at + part);
                sent.push(upload.put_part(PutPayload::from_iter([all.slice(head), all.slice(tail)])));
                at += part;
            }
            // Later ones may be there first.
            for part in sent.into_iter().rev() {
                part.await.unwrap();
            }
            upload.complete().await.unwrap();
            below.put(&path, "another".into()).await.unwrap();
            if !all.is_empty() {
                assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), all, "{parts:?}");
            }
            assert_eq!(store.head(&path).await.unwrap().size, all.len() as u64, "{parts:?}");
            assert_eq!(blocks.all_reads().requests, 0, "{parts:?}");
        }
    }

    /// An upload to nowhere, whose blocks are kept up to so many bytes.
    fn nowhere(capacity: u64) -> Upload {
        let (_, below, blocks) = store(capacity);
        let store = BlockStore { inner: below, prefix: "store".into(), shared: Arc::clone(&blocks.shared) };
        Upload::new(Box::new(Nowhere), store, Path::from(FILE))
    }

    /// Bytes of a file that are kept.
    async fn kept(upload: &Upload) -> usize {
        let kept = upload.store.shared.reader.kept(&upload.file, &(0..1_000).collect()).await;
        kept.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    #[tokio::test]
    async fn an_upload_holds_no_part_that_was_sent_and_a_file_that_finds_no_room_leaves_nothing() {
        for (capacity, room) in [(64 << 20, true), (1 << 20, false)] {
            let held = Arc::new(AtomicUsize::new(0));
            let mut upload = nowhere(capacity);
            for _ in 0..32 {
                let part = vec![7; (1 << 20) + 3];
                held.fetch_add(part.len(), Ordering::Relaxed);
                let part = Bytes::from_owner(Held(part, Arc::clone(&held)));
                upload.put_part(part.into()).await.unwrap();
                assert_eq!(held.load(Ordering::Relaxed), 0);
            }
            upload.complete().await.unwrap();
            assert_eq!(kept(&upload).await, if room { 32 * ((1 << 20) + 3) } else { 0 });
        }
    }

    #[tokio::test]
    async fn of_what_is_given_up_nothing_is_kept() {
        let mut upload = nowhere(16 << 20);
        upload.put_part(bytes(3 << 20).into()).await.unwrap();
        assert_eq!(kept(&upload).await, 3 << 20);
        upload.abort().await.unwrap();
        assert_eq!(kept(&upload).await, 0);
    }

    #[tokio::test]
    async fn what_is_read_first_is_missed_and_what_is_asked_afresh_is_what_is_there() {
        let (store, below, blocks) = store(16 << 20);
        let (path, all) = (Path::from(FILE), bytes(100_000));
        below.put(&path, all.slice(..99_999).into()).await.unwrap();
        assert_eq!(store.get_range(&path, 10..20).await.unwrap(), all.slice(10..20));
        assert_eq!((blocks.counts().hits, blocks.counts().misses), (0, 1));
        let end = || async { store.get_range(&path, 99_000..100_000).await.unwrap() };
        assert_eq!(end().await, all.slice(99_000..99_999));
        assert_eq!((blocks.counts().hits, blocks.counts().misses), (0, 2));

        // It was cut, and is whole again. Who asks for what there was not, or says how much was written, finds it.
        below.put(&path, all.clone().into()).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap().len(), 99_999, "who knows no better");
        for by_size in [false, true] {
            match by_size {
                false => assert_eq!(end().await, all.slice(99_000..100_000)),
                true => assert_eq!(size_now(&store, &path, Some(100_000)).await.unwrap(), 100_000),
            }
            assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), all);
            below.put(&path, all.slice(..99_999).into()).await.unwrap();
            assert_eq!(size_now(&store, &path, Some(99_999)).await.unwrap(), 99_999);
            assert_eq!(end().await.len(), 999);
            below.put(&path, all.clone().into()).await.unwrap();
        }
        assert_eq!(end().await, all.slice(99_000..100_000));

        // What is kept of a file that was lost since is as good as before, until more of it is needed.
        let read = blocks.all_reads().requests;
        below.delete(&path).await.unwrap();
        assert!(matches!(size_now(&store, &path, Some(100_000)).await, Err(Error::NotFound { .. })));
        assert_eq!(end().await, all.slice(99_000..100_000));
        assert_eq!(blocks.all_reads().requests, read + 1);
    }
}
