//! Reads files in blocks, of which many are kept.
//!
//! Who asks for blocks that somebody else is reading waits for those; who stops waiting leaves nothing behind.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, try_join_all};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::block_cache::{BLOCK, BlockCache, BlockId, FileName};

/// Reads blocks through a cache.
#[derive(Debug)]
pub struct BlockReader {
    cache: Arc<dyn BlockCache>,
    /// Who is reading which blocks: the channel closes when they are done, or have stopped.
    loading: Mutex<HashMap<BlockId, watch::Receiver<()>>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// How often blocks were there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockCounts {
    /// Blocks that were there.
    pub hits: u64,
    /// Blocks that were read.
    pub misses: u64,
    /// Bytes that are kept.
    pub bytes: u64,
}

impl BlockReader {
    /// A reader that keeps blocks in `cache`.
    pub fn new(cache: Arc<dyn BlockCache>) -> Self {
        Self { cache, loading: Mutex::default(), hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// Whether it keeps blocks in `cache`.
    pub fn reads_through(&self, cache: &Arc<dyn BlockCache>) -> bool {
        Arc::ptr_eq(&self.cache, cache)
    }

    /// How often blocks were there, and what is kept.
    pub fn counts(&self) -> BlockCounts {
        BlockCounts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            bytes: self.cache.bytes(),
        }
    }

    /// Bytes that may be kept.
    pub fn capacity(&self) -> u64 {
        self.cache.capacity()
    }

    /// The bytes in `range` of a file of `size` bytes. What is not here is read by `fetch`, whole blocks that follow each
    /// other at once.
    ///
    /// # Errors
    /// What `fetch` returns; nothing is kept of what it did not give whole.
    pub async fn read<E>(
        &self,
        file: &FileName,
        size: u64,
        range: Range<u64>,
        fetch: impl Fn(Range<u64>) -> BoxFuture<'static, Result<Bytes, E>>,
    ) -> Result<Bytes, E> {
        let (first, end) = (range.start / BLOCK, range.end.div_ceil(BLOCK));
        let mut there: Vec<Option<Bytes>> = vec![None; (end - first) as usize];
        let mut waits = 0;
        while there.iter().any(Option::is_none) {
            let mut own = Loading { reader: self, places: Vec::new(), done: None };
            let mut others = Vec::new();
            for (at, block) in there.iter_mut().enumerate().filter(|(_, block)| block.is_none()) {
                let place = BlockId { file: Arc::clone(file), number: first + at as u64 };
                *block = self.cache.get(&place).await;
                if block.is_some() {
                    self.hits.fetch_add(1, Ordering::Relaxed);
                } else if let Some(other) = own.take(place, waits > 1) {
                    others.push(other);
                }
            }
            let blocks: Vec<u64> = own.places.iter().map(|place| place.number).collect();
            let runs = blocks.chunk_by(|a, b| a + 1 == *b).map(|run| run[0]..run[run.len() - 1] + 1);
            let runs: Vec<Range<u64>> = runs.collect();
            let read = runs.iter().map(|run| fetch(run.start * BLOCK..run.end.saturating_mul(BLOCK).min(size)));
            for (run, bytes) in runs.iter().zip(try_join_all(read).await?) {
                self.missed(run.end - run.start);
                let start = run.start * BLOCK;
                if start <= range.start && range.end <= start + bytes.len() as u64 {
                    self.keep(file, size, start, &bytes).await;
                    let from = (range.start - start) as usize;
                    return Ok(bytes.slice(from..from + (range.end - range.start) as usize));
                }
                for block in run.clone() {
                    let from = ((block * BLOCK - start) as usize).min(bytes.len());
                    let to = (from + BLOCK as usize).min(bytes.len());
                    there[(block - first) as usize] = Some(bytes.slice(from..to));
                }
                self.keep(file, size, start, &bytes).await;
            }
            drop(own);
            for mut other in others {
                // It never sends: it closes.
                let _ = other.changed().await;
            }
            waits += 1;
        }
        Ok(joined(there.into_iter().flatten(), range.start - first * BLOCK, range.end - range.start))
    }

    /// So many blocks were read elsewhere.
    pub fn missed(&self, blocks: u64) {
        self.misses.fetch_add(blocks, Ordering::Relaxed);
    }

    /// Keeps the whole blocks in `bytes`, which begin at `start` of a file of `size` bytes.
    pub async fn keep(&self, file: &FileName, size: u64, start: u64, bytes: &Bytes) {
        let end = start + bytes.len() as u64;
        let mut block = start.div_ceil(BLOCK);
        while block * BLOCK < end && ((block + 1) * BLOCK).min(size) <= end {
            let from = (block * BLOCK - start) as usize;
            let to = (((block + 1) * BLOCK).min(size) - start) as usize;
            // A slice would keep all that was read with it.
            let own = Bytes::copy_from_slice(&bytes[from..to]);
            self.cache.insert(BlockId { file: Arc::clone(file), number: block }, own).await;
            block += 1;
        }
    }

    /// The bytes in `range` of a file, which is not empty, as they are kept, in order: if all of them are.
    pub async fn read_kept(&self, file: &FileName, range: Range<u64>) -> Option<Vec<Bytes>> {
        let (first, end) = (range.start / BLOCK, range.end.div_ceil(BLOCK));
        let mut blocks = Vec::with_capacity((end - first) as usize);
        for number in first..end {
            let block = self.cache.get(&BlockId { file: Arc::clone(file), number }).await?;
            let from = range.start.saturating_sub(number * BLOCK) as usize;
            let to = ((range.end - number * BLOCK) as usize).min(block.len());
            blocks.push(block.slice(from.min(to)..to));
        }
        self.hits.fetch_add(end - first, Ordering::Relaxed);
        Some(blocks)
    }

    /// Those of `blocks` of a file that are kept, neighbours as one: where they begin, and their bytes.
    pub async fn kept(&self, file: &FileName, blocks: &BTreeSet<u64>) -> Vec<(u64, Bytes)> {
        let mut kept: Vec<(u64, BytesMut)> = Vec::new();
        for &number in blocks {
            let Some(bytes) = self.cache.get(&BlockId { file: Arc::clone(file), number }).await else { continue };
            let start = number * BLOCK;
            match kept.last_mut() {
                Some((first, joined)) if *first + joined.len() as u64 == start => joined.extend_from_slice(&bytes),
                _ => kept.push((start, bytes.into())),
            }
        }
        kept.into_iter().map(|(start, bytes)| (start, bytes.freeze())).collect()
    }

    /// Drops what is held of a file of `size` bytes.
    pub async fn forget(&self, file: &FileName, size: u64) {
        self.cache.remove(file, 0..size.div_ceil(BLOCK)).await;
    }
}

/// So many bytes from `skipped` on of blocks that follow each other.
fn joined(blocks: impl Iterator<Item = Bytes>, skipped: u64, len: u64) -> Bytes {
    let mut blocks = blocks.peekable();
    let (mut skipped, len) = (skipped as usize, len as usize);
    if let Some(first) = blocks.peek()
        && skipped + len <= first.len()
    {
        return first.slice(skipped..skipped + len);
    }
    let mut all = BytesMut::with_capacity(len);
    for block in blocks {
        let from = skipped.min(block.len());
        let to = block.len().min(from + len - all.len());
        all.extend_from_slice(&block[from..to]);
        skipped = 0;
    }
    all.freeze()
}

/// Blocks that one read loads. Dropping it lets the others go on.
struct Loading<'a> {
    reader: &'a BlockReader,
    places: Vec<BlockId>,
    done: Option<(watch::Sender<()>, watch::Receiver<()>)>,
}

impl Loading<'_> {
    /// Takes the load of a block on, or tells who loads it. Who has waited twice loads it in any case: one of the others may
    /// have stopped, or what they read was not kept.
    fn take(&mut self, place: BlockId, in_any_case: bool) -> Option<watch::Receiver<()>> {
        let mut loading = self.reader.loading.lock();
        if let Some(other) = loading.get(&place).filter(|_| !in_any_case) {
            return Some(other.clone());
        }
        let (_, done) = self.done.get_or_insert_with(|| watch::channel(()));
        loading.entry(place.clone()).or_insert_with(|| done.clone());
        self.places.push(place);
        None
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        let Some((_, done)) = &self.done else { return };
        let mut loading = self.reader.loading.lock();
        for place in &self.places {
            if loading.get(place).is_some_and(|other| other.same_channel(done)) {
                loading.remove(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::ready;

    use futures::FutureExt;

    use super::*;
    use crate::cache::{MemoryBlocks, MemoryBudget};

    fn reader() -> BlockReader {
        BlockReader::new(MemoryBlocks::new(64 << 20, &MemoryBudget::new(1 << 30)))
    }

    fn bytes(size: u64) -> Bytes {
        (0..size).map(|i| (i * 31 % 251) as u8).collect::<Vec<_>>().into()
    }

    #[tokio::test]
    async fn ranges_are_read_once_and_come_whole() {
        let reader = reader();
        let file: FileName = "store/file".into();
        let size = 5 * BLOCK + 17;
        let all = bytes(size);
        let asked = Mutex::new(Vec::new());
        let read = async |range: Range<u64>| {
            let fetch = |range: Range<u64>| {
                asked.lock().push(range.clone());
                ready(Ok::<_, Infallible>(all.slice(range.start as usize..range.end as usize))).boxed()
            };
            let read = reader.read(&file, size, range.clone(), fetch).await.unwrap();
            assert_eq!(read, all.slice(range.start as usize..range.end as usize), "{range:?}");
            std::mem::take(&mut *asked.lock())
        };
        let blocks = |from: u64, to: u64| from * BLOCK..(to * BLOCK).min(size);
        assert_eq!(read(10..20).await, [blocks(0, 1)]);
        assert_eq!(read(0..BLOCK).await, []);
        assert_eq!(read(BLOCK - 1..3 * BLOCK + 1).await, [blocks(1, 4)]);
        assert_eq!(read(3 * BLOCK..size).await, [blocks(4, 6)], "the last is short");
        assert_eq!(read(0..size).await, []);
        reader.forget(&file, size).await;
        reader.keep(&file, size, 10, &all.slice(10..(3 * BLOCK) as usize)).await;
        let kept = reader.read_kept(&file, BLOCK + 5..2 * BLOCK + 7).await.unwrap();
        assert_eq!(kept.concat(), all.slice(65_541..131_079));
        let again = reader.read_kept(&file, BLOCK..3 * BLOCK).await.unwrap();
        assert_eq!((kept[1].as_ptr(), again.concat()), (again[1].as_ptr(), all.slice(65_536..196_608).to_vec()));
        assert_eq!(reader.read_kept(&file, BLOCK - 1..BLOCK + 1).await, None);
        assert_eq!(read(0..size).await, [blocks(0, 1), blocks(3, 6)], "only whole blocks are kept");
    }

    #[tokio::test]
    async fn those_who_ask_at_the_same_time_read_once_and_a_reader_who_stops_strands_nobody() {
        let reader = reader();
        let file: FileName = "store/file".into();
        let all = bytes(3 * BLOCK);
        let fetched = Arc::new(AtomicU64::new(0));
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let fetch = |range: Range<u64>| {
            let (gate, fetched, all) = (Arc::clone(&gate), Arc::clone(&fetched), all.clone());
            let fetch = async move {
                let _open = gate.acquire().await.unwrap();
                fetched.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Infallible>(all.slice(range.start as usize..range.end as usize))
            };
            fetch.boxed()
        };
        let read = || reader.read(&file, 3 * BLOCK, 0..3 * BLOCK, &fetch);
        let mut stopped = Box::pin(read());
        assert!(futures::poll!(&mut stopped).is_pending());
        let mut waiting: Vec<_> = (0..16).map(|_| Box::pin(read())).collect();
        for read in &mut waiting {
            assert!(futures::poll!(read).is_pending());
        }
        drop(stopped);
        gate.add_permits(1);
        for read in futures::future::join_all(waiting).await {
            assert_eq!(read.unwrap(), all);
        }
        assert!(reader.loading.lock().is_empty());
        assert_eq!(fetched.load(Ordering::Relaxed), 1);
    }
}
