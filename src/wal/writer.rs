//! Appending entries: the same bytes to the same slot until its owner is known.
//!
//! An answer that got lost is resolved by reading the slot back. Where that fails too the append is `Indeterminate`,
//! and the attempt is remembered: the slot is settled before anything else is written.

use bytes::Bytes;
use uuid::Uuid;

use super::entry::{EncodedEntry, decode};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, ShardId, WalPosition};
use crate::store::{ObjectIo, Put, Retry, TablePaths};

/// Writes the entries of one shard, one at a time.
#[derive(Debug)]
pub struct WalWriter {
    io: ObjectIo,
    shard: ShardId,
    epoch: Epoch,
    next: WalPosition,
    retry: Retry,
    /// All that may be in the slot `next`; at most one of them is or ever will be.
    tried: Vec<Attempt>,
}

/// An entry that was sent to the next slot.
#[derive(Debug)]
struct Attempt {
    id: Uuid,
    bytes: Bytes,
    /// A request was not answered.
    open: bool,
}

/// What one attempt achieved.
enum Progress {
    /// The entry is in this slot.
    Done(WalPosition),
    /// The slot turned out to be another's: go on with the next one.
    Next,
}

impl WalWriter {
    /// A writer of `epoch` whose first entry goes to `next`.
    pub fn new(io: ObjectIo, shard: ShardId, epoch: Epoch, next: WalPosition, retry: Retry) -> Self {
        Self { io, shard, epoch, next, retry, tried: Vec::new() }
    }

    /// The slot of the next entry.
    pub fn next_position(&self) -> WalPosition {
        self.next
    }

    /// Writes an entry and returns its slot when it is durable.
    ///
    /// After an append that was `Indeterminate` or whose future was dropped, give the same entry to continue it. With
    /// another entry, that one takes the slot unless the earlier arrived after all: then it goes behind it.
    ///
    /// A sentinel goes behind entries of older epochs that it meets, and any entry behind sentinels that are not newer;
    /// rows belong behind what their writer has read.
    ///
    /// # Errors
    /// `Fenced` if the slot belongs to another writer; `Indeterminate` if it is unknown whether the entry arrived;
    /// `Unavailable` or `Invalid` if it did not; `Corrupt` if the slot holds something unreadable.
    pub async fn append(&mut self, entry: &EncodedEntry) -> Result<WalPosition> {
        let mut attempt = 1;
        loop {
            let failure = match self.attempt(entry).await {
                Ok(Progress::Done(position)) => return Ok(position),
                Ok(Progress::Next) => continue,
                Err(error) if error.kind() == ErrorKind::Unavailable => error,
                Err(error) => return Err(error),
            };
            if !self.retry.again_after(attempt) {
                return Err(self.give_up(entry, failure));
            }
            tracing::debug!(shard = %self.shard, position = %self.next, attempt, error = %failure, "a WAL write is retried");
            self.io.retried();
            self.retry.pause(attempt).await;
            attempt += 1;
        }
    }

    async fn attempt(&mut self, entry: &EncodedEntry) -> Result<Progress> {
        let path = TablePaths::wal_entry(self.shard, self.next);
        self.sending(entry);
        let failure = match self.io.put_if_absent(&path, entry.bytes().clone()).await {
            Ok(Put::Created) => return Ok(Progress::Done(self.settle())),
            Ok(Put::Exists) => None,
            Err(error) => Some(error),
        };
        self.answered(entry);
        match failure {
            // It is there but not synced: reading it back would prove nothing.
            Some(error) if error.kind() == ErrorKind::Indeterminate => return Err(error),
            Some(error) if error.kind() != ErrorKind::Unavailable => {
                self.forget_unless_open();
                return Err(error);
            }
            _ => {}
        }
        let found = match self.io.get(&path).await {
            Ok(found) => found,
            Err(error) => return Err(failure.unwrap_or(error)),
        };
        match found {
            Some(found) => match self.tried.iter().find(|attempt| attempt.bytes == found).map(|attempt| attempt.id) {
                Some(id) if id == entry.id() => Ok(Progress::Done(self.settle())),
                Some(_) => {
                    self.settle();
                    Ok(Progress::Next)
                }
                None => self.taken(entry, found, &path),
            },
            None => {
                self.forget_unless_open();
                Err(failure.unwrap_or_else(|| Error::unavailable("a WAL entry vanished").with_context("path", path)))
            }
        }
    }

    /// The slot holds an entry of another writer.
    fn taken(&mut self, entry: &EncodedEntry, found: Bytes, path: &str) -> Result<Progress> {
        let other = decode(self.next, found, path)?;
        let (position, owner) = (self.next, other.epoch);
        let is_older = owner < self.epoch && entry.is_sentinel();
        // A sentinel that another claim, or an earlier attempt at this one, left where a quarantine made room.
        if is_older || (owner <= self.epoch && other.sentinel) {
            self.settle();
            return Ok(Progress::Next);
        }
        // Nothing that was tried here can arrive any more.
        self.tried.clear();
        Err(Error::fenced("another process writes to the shard: open the table again if this one should write")
            .with_context("shard", self.shard)
            .with_context("position", position)
            .with_context("epoch", self.epoch)
            .with_context("owner", owner))
    }

    /// Before a request: from now on the entry may be in the slot, also if nobody waits for the answer.
    fn sending(&mut self, entry: &EncodedEntry) {
        match self.tried.iter_mut().find(|attempt| attempt.id == entry.id()) {
            Some(attempt) => attempt.open = true,
            None => self.tried.push(Attempt { id: entry.id(), bytes: entry.bytes().clone(), open: true }),
        }
    }

    /// After a request: on a local file system nothing is under way any more. An object store may have more patience
    /// than its client.
    fn answered(&mut self, entry: &EncodedEntry) {
        if self.io.is_local()
            && let Some(attempt) = self.tried.iter_mut().find(|attempt| attempt.id == entry.id())
        {
            attempt.open = false;
        }
    }

    /// The slot is free: what is not under way is not in it.
    fn forget_unless_open(&mut self) {
        self.tried.retain(|attempt| attempt.open);
    }

    /// The owner of the slot is known, so nothing else can get into it: the next one is the one behind.
    fn settle(&mut self) -> WalPosition {
        self.tried.clear();
        let position = self.next;
        self.next = position.next();
        position
    }

    fn give_up(&self, entry: &EncodedEntry, failure: Error) -> Error {
        if self.tried.iter().all(|attempt| attempt.id != entry.id()) {
            return failure;
        }
        Error::indeterminate("the WAL entry may or may not be written: the next write finds out")
            .with_context("shard", self.shard)
            .with_context("position", self.next)
            .with_source(failure)
    }
}
