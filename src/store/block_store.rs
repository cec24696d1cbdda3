//! An object store that is asked again when it is busy, and whose files that never change are read in blocks, which stay in
//! memory.
//!
//! Below Lance: whatever reads or writes a file passes here, so that opening a dataset whose bytes are in memory asks the
//! storage for nothing.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use lance_io::object_store::WrappingObjectStore;
use moka::future::Cache;
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use super::kept_blocks::KeptBlocks;
use super::memory_store::MemoryStore;
use super::reads::{DatasetReads, ReadCounters, Reads};
use super::recording::{Recorded, Recordings};
use super::summary::{self, FileSummary, Part, Summary};
use super::upload::Upload;
use super::whole::{PATIENCE, Whole, asked, whole};
use crate::cache::{BLOCK, BlockCache, BlockCounts, BlockReader, FileName, MemoryBlocks, MemoryBudget};

/// Files whose sizes are known at most.
const FILES: u64 = 100_000;

impl Shared {
    /// What a file is called here.
    pub(super) fn name(&self, store: &str, path: &Path) -> FileName {
        format!("{}/{store}/{path}", self.namespace).into()
    }
}

/// Stores that are read in blocks.
#[derive(Debug)]
pub(super) struct BlockStores {
    pub(super) shared: Arc<Shared>,
    wrapper: Arc<Wrapper>,
}

/// Makes every store that Lance opens with it read in blocks. Lance's registry never lets go of it, so it holds none.
#[derive(Debug)]
struct Wrapper(Weak<Shared>);

/// What such stores have in common.
#[derive(Debug)]
pub(super) struct Shared {
    /// Goes before the names of all files: who may not read a store must not find its files in a cache.
    namespace: u64,
    keeps: bool,
    pub(super) reader: BlockReader,
    /// What is known of files that are there.
    pub(super) files: Cache<FileName, Arc<ObjectMeta>>,
    recordings: Recordings,
    pub(super) reads: DatasetReads,
}

impl BlockStores {
    /// Stores whose blocks are kept in `cache`, where they meet none of other stores.
    pub(super) fn new(cache: Arc<dyn BlockCache>) -> Arc<Self> {
        Self::of(cache, true)
    }

    /// Those of the process of which nothing is kept: they are only asked again.
    pub(super) fn keeping_nothing() -> Arc<Self> {
        static STORES: LazyLock<Arc<BlockStores>> =
            LazyLock::new(|| BlockStores::of(MemoryBlocks::new(0, &MemoryBudget::global()), false));
        Arc::clone(&STORES)
    }

    fn of(cache: Arc<dyn BlockCache>, keeps: bool) -> Arc<Self> {
        static NAMESPACES: AtomicU64 = AtomicU64::new(0);
        let namespace = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        let (reader, files) = (BlockReader::new(cache), Cache::new(FILES));
        let (recordings, reads) = (Recordings::default(), DatasetReads::default());
        let shared = Arc::new(Shared { namespace, keeps, reader, files, recordings, reads });
        Arc::new(Self { wrapper: Arc::new(Wrapper(Arc::downgrade(&shared))), shared })
    }

    /// What wraps stores that Lance opens.
    pub(super) fn wrapper(&self) -> Arc<dyn WrappingObjectStore> {
        Arc::clone(&self.wrapper) as _
    }

    /// Whether blocks are kept in `cache`.
    pub(super) fn keep_in(&self, cache: &Arc<dyn BlockCache>) -> bool {
        self.shared.reader.reads_through(cache)
    }

    /// Whether blocks are kept.
    pub(super) fn keeps(&self) -> bool {
        self.shared.keeps
    }

    /// What is kept of the store called `store`.
    pub(super) fn kept(&self, store: &str) -> MemoryStore<KeptBlocks> {
        MemoryStore(KeptBlocks { shared: Arc::clone(&self.shared), store: store.into() })
    }

    /// Counts what is read of the dataset in the directory `dir` of the store called `store`.
    pub(super) fn reads(&self, store: &str, dir: &Path) -> Arc<ReadCounters> {
        self.shared.reads.open(self.shared.name(store, dir).to_string())
    }

    /// Notes what is read below the directory `dir` of the store called `store`, until [`Self::summary`].
    pub(super) fn record(&self, store: &str, dir: &Path) -> Arc<Recorded> {
        self.shared.recordings.begin(format!("{}/", self.shared.name(store, dir)))
    }

    /// What was read, as far as it is still here.
    pub(super) async fn summary(&self, recorded: &Arc<Recorded>) -> Summary {
        self.shared.recordings.end(recorded);
        let mut files = Vec::new();
        for file in recorded.files() {
            let parts = self.shared.reader.kept(&file.name, &file.blocks).await;
            let parts = parts.into_iter().map(|(start, bytes)| Part { start, bytes }).collect();
            files.push(FileSummary { path: recorded.path_of(&file.name), size: file.size, parts });
        }
        Summary { files, ..Summary::default() }
    }

    /// Keeps what `summary` repeats of files below the directory `dir` of the store called `store`.
    pub(super) async fn keep(&self, store: &str, dir: &Path, summary: &Summary) {
        for file in &summary.files {
            let path = file.path.split('/').fold(dir.clone(), |dir, part| dir.join(part));
            let name = self.shared.name(store, &path);
            for part in &file.parts {
                self.shared.reader.keep(&name, file.size, part.start, &part.bytes).await;
            }
            self.shared.files.insert(name, Arc::new(written(&path, file.size, None, None))).await;
        }
    }

    /// A recording that nobody waits for.
    pub(super) fn forget(&self, recorded: &Arc<Recorded>) {
        self.shared.recordings.end(recorded);
    }

    /// Bytes that may be kept.
    pub(super) fn capacity(&self) -> u64 {
        self.shared.reader.capacity()
    }

    /// What the stores were asked for, and how often again.
    pub(super) fn all_reads(&self) -> Reads {
        self.shared.reads.all().get()
    }

    /// How often blocks were there, and what is kept of all stores with the same cache.
    pub(super) fn counts(&self) -> BlockCounts {
        self.shared.reader.counts()
    }
}

impl WrappingObjectStore for Wrapper {
    fn wrap(&self, store_prefix: &str, original: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        match self.0.upgrade() {
            Some(shared) => Arc::new(BlockStore { inner: original, prefix: store_prefix.into(), shared }),
            // Whoever opens it has the options that it is opened with.
            None => original,
        }
    }

    fn wrap_paginated(
        &self,
        _store_prefix: &str,
        original: Arc<dyn PaginatedListStore>,
    ) -> Option<Arc<dyn PaginatedListStore>> {
        Some(original)
    }
}

/// Whether a file is written once and never again under its name: data, indexes and deletions of a Lance table, whose
/// names are random, and all of a generation.
fn is_immutable(path: &Path) -> bool {
    let parts: Vec<String> = path.parts().map(|part| part.as_ref().to_string()).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let in_generation = parts.windows(3).any(|parts| parts[0] == "_mem_wal" && is_generation(parts[2]));
    let by_name = match parts.as_slice() {
        [.., "data", file] => file.ends_with(".lance"),
        [.., "_deletions", _] | [.., "_indices", _, _] => true,
        _ => false,
    };
    // A summary is read once, and what it repeats is kept as blocks of the files. A name that begins with `.` or ends with `#` is one on its way.
    let is_final = |file: &&str| !file.starts_with('.') && !file.contains('#') && *file != summary::NAME;
    (in_generation || by_name) && parts.last().is_some_and(is_final)
}

/// Whether a directory of a shard is one of a generation: eight hexadecimal digits, `_gen_`, a number.
fn is_generation(dir: &str) -> bool {
    let is_random = |part: &str| part.len() == 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
    dir.split_once("_gen_").is_some_and(|(random, number)| is_random(random) && number.parse::<u64>().is_ok())
}

/// Asks a store for the file itself, not for what is known of it; `size` is how large it should be.
#[derive(Debug, Clone, Copy)]
struct Afresh {
    size: Option<u64>,
}

/// How many bytes a file of `store` has now, whatever is remembered of it. That is forgotten if it is of a file that did not
/// have the `written` bytes.
///
/// # Errors
/// Those of the store, `NotFound` if there is no such file.
pub(crate) async fn size_now(store: &dyn ObjectStore, path: &Path, written: Option<u64>) -> Result<u64> {
    let mut options = GetOptions { head: true, ..GetOptions::default() };
    options.extensions.insert(Afresh { size: written });
    Ok(store.get_opts(path, options).await?.meta.size)
}

#[derive(Debug, Clone)]
pub(super) struct BlockStore {
    pub(super) inner: Arc<dyn ObjectStore>,
    pub(super) prefix: Arc<str>,
    pub(super) shared: Arc<Shared>,
}

impl BlockStore {
    pub(super) fn file(&self, path: &Path) -> FileName {
        self.shared.name(&self.prefix, path)
    }

    /// Whether blocks of a file are kept.
    fn keeps(&self, path: &Path) -> bool {
        self.shared.keeps && is_immutable(path)
    }

    /// The first read of a file, of whole blocks: what it is and how large, and what was asked for.
    async fn first(&self, path: &Path, file: &FileName, options: GetOptions) -> Result<GetResult> {
        let wide = match &options.range {
            None => None,
            Some(GetRange::Bounded(range)) => {
                Some(GetRange::Bounded(range.start / BLOCK * BLOCK..range.end.div_ceil(BLOCK) * BLOCK))
            }
            Some(GetRange::Offset(start)) => Some(GetRange::Offset(start / BLOCK * BLOCK)),
            Some(GetRange::Suffix(len)) => Some(GetRange::Suffix(len + BLOCK - 1)),
        };
        let (asked, reads) = (options.range.clone(), self.shared.reads.of_file(file));
        let read = whole(&self.inner, path, GetOptions { range: wide, ..options }, &reads).await?;
        let (size, there) = (read.meta.size, read.range.clone());
        self.learn(file, &read.meta).await;
        self.shared.recordings.note(file, size, there.start / BLOCK..there.end.div_ceil(BLOCK));
        self.shared.reader.missed(there.end.div_ceil(BLOCK) - there.start / BLOCK);
        self.shared.reader.keep(file, size, there.start, &read.bytes).await;
        match absolute(asked.as_ref(), size) {
            Some(range) if there.start <= range.start && range.end <= there.end => {
                let from = (range.start - there.start) as usize;
                let bytes = read.bytes.slice(from..from + (range.end - range.start) as usize);
                Ok(Whole { range, bytes, ..read }.into_result())
            }
            // The store says what is wrong with such a range.
            _ => {
                reads.asked();
                self.inner.get_opts(path, GetOptions { range: asked, ..GetOptions::default() }).await
            }
        }
    }

    /// What is there now: of a file that changes, or of which no blocks are kept, or on conditions. Of files that change only
    /// summaries count, which are read for the blocks that they repeat.
    async fn current(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let reads = match path.filename() {
            Some(summary::NAME) => Arc::clone(self.shared.reads.all()),
            _ if is_immutable(path) => self.shared.reads.of_file(&self.file(path)),
            _ => Arc::default(),
        };
        if !options.head {
            return Ok(whole(&self.inner, path, options, &reads).await?.into_result());
        }
        let ask = || {
            reads.asked();
            self.inner.get_opts(path, options.clone())
        };
        asked(&reads, ask).await
    }

    /// Whether a file of `size` bytes, of which a read ended with `error`, is not as it is known. A store that does not
    /// answer, or denies access, says nothing of its files: what is kept of them is as good as before.
    async fn is_another(&self, path: &Path, size: u64, error: &Error, reads: &ReadCounters) -> bool {
        match error {
            Error::NotFound { .. } => true,
            // Or what was asked for lies behind the end of what is there.
            Error::Generic { .. } => {
                reads.asked();
                let head = self.inner.get_opts(path, GetOptions { head: true, ..GetOptions::default() });
                match tokio::time::timeout(PATIENCE, head).await {
                    Ok(Ok(there)) => there.meta.size != size,
                    Ok(Err(error)) => matches!(error, Error::NotFound { .. }),
                    Err(_) => false,
                }
            }
            _ => false,
        }
    }

    /// Remembers what a file is. What is kept of one of another size is of one that was damaged.
    async fn learn(&self, file: &FileName, meta: &ObjectMeta) {
        if let Some(known) = self.shared.files.get(file).await.filter(|known| known.size != meta.size) {
            self.shared.reader.forget(file, known.size).await;
        }
        self.shared.files.insert(Arc::clone(file), Arc::new(meta.clone())).await;
    }

    /// From now on it is known of a file that was written.
    pub(super) async fn written(&self, path: &Path, file: &FileName, size: u64, put: &PutResult) {
        let meta = written(path, size, put.e_tag.clone(), put.version.clone());
        self.shared.files.insert(Arc::clone(file), Arc::new(meta)).await;
    }

    /// What a file is now, whatever is known of it: that is forgotten if it is not what it should be, `size` bytes, or else
    /// what is there.
    async fn afresh(&self, path: &Path, size: Option<u64>, options: GetOptions) -> Result<GetResult> {
        let found = self.current(path, options).await;
        let right = size.or(found.as_ref().ok().map(|found| found.meta.size));
        let known = self.shared.files.get(&self.file(path)).await.map(|meta| meta.size);
        if right.is_some() && known.is_some() && right != known {
            self.forget(path).await;
        }
        found
    }

    async fn forget(&self, path: &Path) {
        let file = self.file(path);
        if let Some(meta) = self.shared.files.remove(&file).await {
            self.shared.reader.forget(&file, meta.size).await;
        }
    }
}

/// What is known of a file that was written, and never changes: nobody asks when.
fn written(path: &Path, size: u64, e_tag: Option<String>, version: Option<String>) -> ObjectMeta {
    ObjectMeta { location: path.clone(), last_modified: Default::default(), size, e_tag, version }
}

/// What is in memory of a file.
fn here(meta: &ObjectMeta, range: Range<u64>, bytes: Bytes) -> GetResult {
    Whole { meta: meta.clone(), range, bytes, attributes: Attributes::default() }.into_result()
}

/// What `range` means in a file of `size` bytes; `None` if that is nothing.
pub(super) fn absolute(range: Option<&GetRange>, size: u64) -> Option<Range<u64>> {
    let range = match range {
        None => 0..size,
        Some(GetRange::Bounded(range)) => range.start..range.end.min(size),
        Some(GetRange::Offset(start)) => *start..size,
        Some(GetRange::Suffix(len)) => size.saturating_sub(*len)..size,
    };
    (range.start < range.end).then_some(range)
}

#[async_trait]
impl ObjectStore for BlockStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let is_plain = options.if_match.is_none()
            && options.if_none_match.is_none()
            && options.if_modified_since.is_none()
            && options.if_unmodified_since.is_none()
            && options.version.is_none();
        if !is_plain || !self.keeps(location) {
            return self.current(location, options).await;
        }
        if let Some(Afresh { size }) = options.extensions.get().copied() {
            return self.afresh(location, size, options).await;
        }
        let file = self.file(location);
        let Some(meta) = self.shared.files.get(&file).await else {
            if options.head {
                let reads = self.shared.reads.of_file(&file);
                let head = || {
                    reads.asked();
                    self.inner.get_opts(location, options.clone())
                };
                let result = asked(&reads, head).await?;
                self.shared.recordings.note(&file, result.meta.size, 0..0);
                self.shared.files.insert(file, Arc::new(result.meta.clone())).await;
                return Ok(result);
            }
            return self.first(location, &file, options).await;
        };
        if options.head {
            self.shared.recordings.note(&file, meta.size, 0..0);
            return Ok(here(&meta, 0..meta.size, Bytes::new()));
        }
        // Nobody asks for more than was written: what is known may be of a file that was cut.
        if matches!(&options.range, Some(GetRange::Bounded(range)) if range.end > meta.size) {
            return self.first(location, &file, options).await;
        }
        let reads = self.shared.reads.of_file(&file);
        let Some(range) = absolute(options.range.as_ref(), meta.size) else {
            reads.asked();
            return self.inner.get_opts(location, options).await;
        };
        self.shared.recordings.note(&file, meta.size, range.start / BLOCK..range.end.div_ceil(BLOCK));
        let (missed, size) = (AtomicU64::new(0), meta.size);
        let fetch = |range: Range<u64>| {
            missed.fetch_add((range.end - range.start).div_ceil(BLOCK), Ordering::Relaxed);
            let (inner, path, reads) = (Arc::clone(&self.inner), location.clone(), Arc::clone(&reads));
            let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
            let fetch = async move {
                let read = whole(&inner, &path, options, &reads).await?;
                let (came, found) = (read.range, read.meta.size);
                if (found, &came) == (size, &range) {
                    return Ok(read.bytes);
                }
                // A store gives what there is of a range whose end there is not.
                let source = format!("{path}: {came:?} of {found} bytes came, not {range:?} of {size}").into();
                Err(Error::Generic { store: "BlockStore", source })
            };
            fetch.boxed()
        };
        match self.shared.reader.read(&file, meta.size, range.clone(), fetch).await {
            Ok(bytes) => {
                let blocks = range.end.div_ceil(BLOCK) - range.start / BLOCK;
                reads.hit(blocks.saturating_sub(missed.into_inner()));
                Ok(here(&meta, range, bytes))
            }
            Err(error) => {
                // Who looks next must see what is there.
                if self.is_another(location, meta.size, &error, &reads).await {
                    self.forget(location).await;
                }
                Err(error)
            }
        }
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if !self.keeps(location) {
            return self.inner.put_opts(location, payload, options).await;
        }
        let bytes = joined(&payload);
        let put = self.inner.put_opts(location, payload, options).await?;
        let file = self.file(location);
        self.shared.reader.keep(&file, bytes.len() as u64, 0, &bytes).await;
        self.written(location, &file, bytes.len() as u64, &put).await;
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.inner.put_multipart_opts(location, options).await?;
        if !self.keeps(location) {
            return Ok(upload);
        }
        Ok(Box::new(Upload::new(upload, self.clone(), location.clone())))
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deleted = self.inner.delete_stream(locations);
        let forget = move |deleted: Result<Path>| {
            let store = store.clone();
            async move {
                if let Ok(path) = &deleted {
                    store.forget(path).await;
                }
                deleted
            }
        };
        deleted.then(forget).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        asked(&ReadCounters::default(), || self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.forget(to).await;
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.forget(from).await;
        self.forget(to).await;
        self.inner.rename_opts(from, to, options).await
    }
}

impl fmt::Display for BlockStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockStore({})", self.inner)
    }
}

/// What is in `payload`, in one piece.
pub(super) fn joined(payload: &PutPayload) -> Bytes {
    match payload.as_ref() {
        [all] => all.clone(),
        parts => parts.concat().into(),
    }
}
