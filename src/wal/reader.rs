//! Reading entries in order, several ahead, with a bound on what is in memory.
//!
//! Reading ends at the first free slot. A free slot before a taken one is no end but a loss, and is reported: if the taken
//! one is among those read ahead, or the caller knows of it.

use bytes::Bytes;
use futures::future::{BoxFuture, try_join_all};
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};

use super::entry::{WalEntry, decode};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{ShardId, WalPosition};
use crate::store::{ObjectIo, TablePaths};
use crate::task::blocking;

/// How many bytes of entries are read ahead, by the largest seen so far; one entry is always read.
const READ_AHEAD: usize = 64 << 20;

/// Entries larger than this are decoded off the async workers.
const LARGE: usize = 64 << 10;

/// How many slots ahead are probed at once.
const PROBES: u32 = 8;

type Fetch = BoxFuture<'static, (WalPosition, Result<Option<WalEntry>>)>;

/// Reads the entries of one shard in order.
pub struct WalReader {
    io: ObjectIo,
    shard: ShardId,
    /// The slot to be fetched next.
    ahead: WalPosition,
    /// The slot to be returned next.
    next: WalPosition,
    /// A slot that was taken when reading began.
    known: WalPosition,
    prefetch: usize,
    window: usize,
    largest: usize,
    fetching: FuturesOrdered<Fetch>,
    ended: bool,
}

impl WalReader {
    /// A reader that starts at `from` and has up to `prefetch` requests under way.
    pub fn new(io: ObjectIo, shard: ShardId, from: WalPosition, prefetch: usize) -> Self {
        let prefetch = prefetch.max(1);
        Self {
            io,
            shard,
            ahead: from,
            next: from,
            known: WalPosition(0),
            prefetch,
            window: prefetch.min(2),
            largest: 0,
            fetching: FuturesOrdered::new(),
            ended: false,
        }
    }

    /// Tells the reader that slot `known` was taken before it began: an end before that is a loss.
    #[must_use]
    pub fn knowing(self, known: WalPosition) -> Self {
        Self { known, ..self }
    }

    /// The slot that comes next: at the end, the first free one; after an error, the damaged one.
    pub fn position(&self) -> WalPosition {
        self.next
    }

    /// The next entry, or `None` at the first free slot. After the end or an error, start anew at
    /// [`position`](Self::position) to go on.
    ///
    /// # Errors
    /// `Corrupt` if the entry is damaged, or missing while later ones exist; `Unavailable`.
    pub async fn next(&mut self) -> Result<Option<WalEntry>> {
        if self.ended {
            return Ok(None);
        }
        self.fill();
        let Some((position, fetched)) = self.fetching.next().await else { return Ok(None) };
        match fetched {
            Ok(Some(entry)) => {
                self.next = position.next();
                self.largest = self.largest.max(entry.bytes);
                self.window = (self.window * 2).min(self.prefetch).min((READ_AHEAD / self.largest.max(1)).max(1));
                Ok(Some(entry))
            }
            Ok(None) => self.end(position).await,
            Err(error) => {
                self.ended = true;
                self.fetching = FuturesOrdered::new();
                Err(error)
            }
        }
    }

    fn fill(&mut self) {
        while self.fetching.len() < self.window {
            self.fetching.push_back(fetch(self.io.clone(), self.shard, self.ahead));
            self.ahead = self.ahead.next();
        }
    }

    /// The slot is free. If a later one is not, a writer filled both meanwhile, or an entry is gone.
    async fn end(&mut self, position: WalPosition) -> Result<Option<WalEntry>> {
        let later: Vec<_> = (&mut self.fetching).map(|(_, fetched)| fetched).collect().await;
        let taken = |fetched: &Result<Option<WalEntry>>| match fetched {
            Ok(entry) => entry.is_some(),
            Err(error) => error.kind() == ErrorKind::Corrupt,
        };
        if position > self.known && !later.iter().any(taken) {
            self.ended = true;
            return Ok(None);
        }
        self.ahead = position;
        match fetch(self.io.clone(), self.shard, position).await.1 {
            Ok(Some(entry)) => {
                self.next = position.next();
                self.ahead = self.next;
                Ok(Some(entry))
            }
            Ok(None) => {
                self.ended = true;
                Err(Error::corrupt("a WAL entry is missing while later ones exist: restore it from a backup")
                    .with_context("path", TablePaths::wal_entry(self.shard, position))
                    .with_context("position", position))
            }
            Err(error) => {
                self.ended = true;
                Err(error)
            }
        }
    }
}

impl std::fmt::Debug for WalReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalReader").field("shard", &self.shard).field("next", &self.next).finish_non_exhaustive()
    }
}

fn fetch(io: ObjectIo, shard: ShardId, position: WalPosition) -> Fetch {
    async move {
        let path = TablePaths::wal_entry(shard, position);
        let fetched = io.read(&path, |bytes| decoded(position, bytes, path.clone())).await;
        (position, fetched)
    }
    .boxed()
}

async fn decoded(position: WalPosition, bytes: Bytes, path: String) -> Result<WalEntry> {
    if bytes.len() > LARGE {
        blocking(move || decode(position, bytes, &path)).await
    } else {
        decode(position, bytes, &path)
    }
}

/// The next free slot behind `hint`, a slot that is taken or before all that are; 0 if nothing is known.
///
/// # Errors
/// `Unavailable` or `Invalid`.
pub async fn tip(io: &ObjectIo, shard: ShardId, hint: WalPosition) -> Result<WalPosition> {
    // Slots are taken without gaps: look in growing steps, then again from the last one that is taken.
    let mut taken = hint;
    loop {
        let steps = (0..PROBES).map(|n| WalPosition(taken.0.saturating_add(1 << (2 * n))));
        let probes = steps.clone().map(|p| async move { io.exists(&TablePaths::wal_entry(shard, p)).await });
        let found = try_join_all(probes).await?;
        match steps.zip(found).take_while(|(_, exists)| *exists).last() {
            Some((position, _)) => taken = position,
            None => return Ok(taken.next()),
        }
    }
}
