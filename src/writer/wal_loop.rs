//! Group commit: a WAL write starts as soon as none is in flight and takes everything that is queued.

use std::sync::Arc;
use std::time::Duration;

use arrow::compute::concat_batches;
use tokio::time::Instant;
use tracing::Instrument;

use super::outcome::Outcome;
use super::shard::{Queued, ShardWriter};
use super::status::Role;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, WalPosition};
use crate::memtable::MemTable;
use crate::store::{Retry, TablePaths};
use crate::task::{self, Stop};
use crate::wal::{self, EncodedEntry, WalWriter};

/// Rows and bytes of one entry at most, unless one unit alone has more.
const GROUP_BYTES: usize = 64 << 20;
const GROUP_ROWS: usize = 50_000;
/// Entries larger than this are encoded off the async workers.
const LARGE: usize = 256 << 10;
/// How long a write on an object store waits for company.
const OBJECT_STORE_LINGER: Duration = Duration::from_millis(5);

/// Units of one memtable that go into one entry.
struct Group {
    memtable: Arc<MemTable>,
    units: Vec<Queued>,
    bytes: usize,
    epoch: Epoch,
}

impl ShardWriter {
    /// The shard's WAL loop: runs until `stop`, and then until the queue is empty or cannot be written.
    pub async fn run_wal(self: Arc<Self>, mut stop: Stop) {
        let mut appender = None;
        while let Some(group) = self.next_group(&mut stop).await {
            let appender = match appender.as_mut() {
                Some(appender) => appender,
                None => match self.appender.lock().take() {
                    Some(claimed) => appender.insert(claimed),
                    None => {
                        self.fail(&group.units, Error::internal("a shard has a writer's role and no WAL writer"));
                        continue;
                    }
                },
            };
            let span = tracing::debug_span!(
                "lsm.wal",
                table = self.context.io.uri(),
                shard = %self.shard,
                generation = %group.memtable.generation(),
                units = group.units.len(),
            );
            self.write_group(group, appender, &stop).instrument(span).await;
        }
    }

    async fn next_group(&self, stop: &mut Stop) -> Option<Group> {
        loop {
            let woken = self.wal_wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let waiting = !self.core.lock().queue.is_empty();
            if waiting {
                let local = if self.context.io.is_local() { Duration::ZERO } else { OBJECT_STORE_LINGER };
                let linger = self.context.settings.wal_linger.unwrap_or(local);
                if !linger.is_zero() && !stop.is_set() {
                    tokio::time::sleep(linger).await;
                }
                if let Some(group) = self.take_group() {
                    return Some(group);
                }
            }
            if stop.is_set() {
                return None;
            }
            tokio::select! {
                () = woken => {}
                () = stop.wait() => {}
            }
        }
    }

    fn take_group(&self) -> Option<Group> {
        let mut core = self.core.lock();
        let Role::Writer(epoch) = core.role else { return None };
        let memtable = Arc::clone(&core.queue.front()?.memtable);
        let (mut units, mut bytes, mut rows) = (Vec::new(), 0, 0);
        while let Some(unit) = core.queue.front() {
            let fits = bytes + unit.bytes <= GROUP_BYTES && rows + unit.rows.num_rows() <= GROUP_ROWS;
            if !Arc::ptr_eq(&unit.memtable, &memtable) || !(units.is_empty() || fits) {
                break;
            }
            bytes += unit.bytes;
            rows += unit.rows.num_rows();
            units.extend(core.queue.pop_front());
        }
        core.in_flight = true;
        Some(Group { memtable, units, bytes, epoch })
    }

    async fn write_group(self: &Arc<Self>, group: Group, appender: &mut WalWriter, stop: &Stop) {
        let entry = match self.encode(&group).await {
            Ok(entry) => entry,
            Err(_) if group.units.len() > 1 => {
                // Units that do not fit into one batch (dictionaries may not) get an entry each.
                let Group { memtable, units, epoch, .. } = group;
                for unit in units {
                    let (memtable, bytes) = (Arc::clone(&memtable), unit.bytes);
                    let alone = Group { memtable, units: vec![unit], bytes, epoch };
                    Box::pin(self.write_group(alone, appender, stop)).await;
                }
                return;
            }
            Err(error) => return self.fail(&group.units, error),
        };
        let (mut attempt, since) = (0, Instant::now());
        let position = loop {
            let error = match appender.append(&entry).await {
                Ok(position) => break position,
                Err(error) => error,
            };
            if let Err(broken) = self.check_synced() {
                // Every later write would end in the same doubt.
                return self.fail(&group.units, broken.with_context("shard", self.shard).with_source(error));
            }
            let lasting =
                !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Indeterminate | ErrorKind::Backpressure);
            if lasting || stop.is_set() {
                return self.fail(&group.units, error);
            }
            tracing::warn!(shard = %self.shard, %error, "a WAL write failed and is tried again");
            // The bytes stay the same and nothing goes behind them, so the rows may yet become durable.
            let doubt = Error::indeterminate("the write is not durable yet and is still being tried")
                .with_context("shard", self.shard)
                .with_source(error);
            group.units.iter().filter_map(|u| u.outcome.as_ref()).for_each(|o| o.doubt(&doubt));
            attempt += 1;
            self.context.io.retried();
            Retry::default().pause(attempt).await;
        };
        self.written(&group, position, entry.bytes().len(), since.elapsed());
    }

    /// Whether what is put into the WAL can become durable at all.
    fn check_synced(&self) -> Result<()> {
        let dirs = ["", TablePaths::SHARDS, &TablePaths::shard_dir(self.shard), &TablePaths::wal_dir(self.shard)];
        dirs.into_iter().try_for_each(|dir| self.context.io.check_synced(dir))
    }

    async fn encode(&self, group: &Group) -> Result<EncodedEntry> {
        let schema = Arc::clone(&self.context.schema);
        let (epoch, generation) = (group.epoch, Some(group.memtable.generation()));
        let batches: Vec<_> = group.units.iter().map(|u| u.rows.clone()).collect();
        let encode = move || {
            let rows = match batches.as_slice() {
                [only] => only.clone(),
                several => concat_batches(schema.stored(), several)?,
            };
            wal::encode(epoch, generation, schema.numbered(), &rows)
        };
        task::blocking_if(group.bytes > LARGE, encode).await
    }

    fn written(self: &Arc<Self>, group: &Group, position: WalPosition, bytes: usize, took: Duration) {
        let rows = group.units.iter().map(|u| u.rows.num_rows()).sum();
        {
            let mut core = self.core.lock();
            core.last_position = position;
            core.next_position = position.next();
            core.in_flight = false;
            core.queued_bytes = core.queued_bytes.saturating_sub(group.bytes);
            if let Some(slot) = core.slot(&group.memtable) {
                slot.entries += 1;
                slot.last = position;
                slot.waiting -= group.units.len();
            }
        }
        self.context.metrics.wal_written(rows, bytes, took);
        self.context.events.on_wal_append(self.shard, position, rows, bytes);
        for (unit, outcome) in group.units.iter().filter_map(|u| Some((u, u.outcome.as_ref()?))) {
            outcome.unit_done(unit.rows.num_rows());
        }
        self.context.publisher.publish();
        self.context.room.notify_waiters();
    }

    /// Ends the shard's writing: everything queued fails with `error`, and so does every later write.
    pub(super) fn fail(&self, units: &[Queued], error: Error) {
        tracing::error!(shard = %self.shard, %error, "a shard cannot be written any more");
        let (queued, in_flight): (Vec<Queued>, bool) = {
            let mut core = self.core.lock();
            core.role = Role::Failed(error.clone());
            core.queued_bytes = 0;
            core.in_flight &= units.is_empty();
            (core.queue.drain(..).collect(), core.in_flight)
        };
        let lost: Vec<&Arc<Outcome>> = units.iter().chain(&queued).filter_map(|u| u.outcome.as_ref()).collect();
        // What is in the WAL already only waits for another shard or an index: it may still come to be seen.
        let doubt = Error::indeterminate("the write is durable in part, and its shard failed: read before repeating")
            .with_context("shard", self.shard)
            .with_source(error.clone());
        let is_lost = |outcome: &Arc<Outcome>| lost.iter().any(|other| Arc::ptr_eq(other, outcome));
        // What is on its way right now, the WAL loop decides on.
        for ticket in self.context.publisher.withdraw(self, |ticket| !in_flight || is_lost(&ticket.outcome)) {
            ticket.outcome.fail(if is_lost(&ticket.outcome) { &error } else { &doubt });
            ticket.outcome.drop_ticket();
        }
        for outcome in lost {
            outcome.unit_lost();
        }
        self.context.publisher.publish();
        self.context.room.notify_waiters();
    }
}
