//! A statement that writes: rows in, units out, one count.
//!
//! Rows are collected into units of one shard. What fits into the buffer is written at once when the statement ends:
//! all of it becomes visible together, and a conflict leaves nothing behind. A larger statement writes what it has
//! whenever the buffer is full.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use tokio::time::Instant;
use tracing::{Instrument, Span, field};

use super::handle::LsmTable;
use crate::base;
use crate::error::{Error, ErrorKind, Result};
use crate::planner;
use crate::schema::TableSchema;
use crate::settings::{Ack, OnConflict};
use crate::size::row_bytes;
use crate::version::Snapshot;
use crate::writer::{Check, PendingWrite, Unit};

/// How many units a statement collects before it writes.
const BUFFERED_UNITS: usize = 4;
/// How often an INSERT that looks for existing keys looks again after a conflict.
const ATTEMPTS: usize = 8;

/// Bytes of foreign buffers that rows may keep alive besides as much as they take themselves.
const PINNED: usize = 64 << 10;

/// The rows in buffers of their own: a slice of a large batch would keep all of it in memory.
fn unpinned(rows: &RecordBatch) -> Result<RecordBatch> {
    let all = UInt32Array::from_iter_values(0..rows.num_rows() as u32);
    Ok(take_record_batch(rows, &all)?)
}

/// What a statement does with its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementKind {
    /// A row replaces the one of the same key; the last writer wins.
    Upsert,
    /// A key that exists is an error, or its row is left out.
    Insert(OnConflict),
    /// Full new rows for keys that the snapshot shows; the first writer wins.
    Update,
    /// The keys of rows that the snapshot shows; the first writer wins.
    Delete,
}

/// A statement on its way. Dropping it writes nothing more.
#[derive(Debug)]
pub struct Statement {
    table: Arc<LsmTable>,
    schema: Arc<TableSchema>,
    kind: StatementKind,
    snapshot: Option<Arc<Snapshot>>,
    ack: Ack,
    /// For each shard, rows of the stored schema and their bytes.
    collected: Vec<(Vec<RecordBatch>, usize)>,
    collected_bytes: usize,
    written: u64,
    /// Keys that an INSERT which may not replace has written so far.
    own_keys: HashSet<Vec<u8>>,
    since: Instant,
    span: Span,
}

impl Statement {
    pub(super) fn new(table: Arc<LsmTable>, kind: StatementKind, snapshot: Option<Arc<Snapshot>>, ack: Ack) -> Self {
        let schema = table.table_schema();
        let shards = table.shards.shards().len();
        let span = tracing::debug_span!("lsm.statement", table = table.uri(), kind = ?kind, rows = field::Empty);
        Self {
            table,
            schema,
            kind,
            snapshot,
            ack,
            collected: vec![(Vec::new(), 0); shards],
            collected_bytes: 0,
            written: 0,
            own_keys: HashSet::new(),
            since: Instant::now(),
            span,
        }
    }

    /// Adds rows: of the logical schema, or for a DELETE the key columns in key order.
    ///
    /// # Errors
    /// `Invalid` if the rows are not the table's; as [`finish`](Self::finish) if the buffer is full.
    pub async fn push(&mut self, rows: RecordBatch) -> Result<()> {
        let span = self.span.clone();
        let pushed = self.collect(rows).instrument(span).await;
        pushed.inspect_err(|_| self.table.context.metrics.statement_failed())
    }

    async fn collect(&mut self, rows: RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let stored = match self.kind {
            StatementKind::Delete => self.schema.tombstones(rows.columns())?,
            _ => self.schema.to_stored(&rows)?,
        };
        // NULL keys are told before anything is written.
        self.schema.key().of_batch(&stored)?;
        for (shard, rows) in self.route(stored)? {
            let bytes = row_bytes(&rows);
            let rows = if rows.get_array_memory_size() > 2 * bytes + PINNED { unpinned(&rows)? } else { rows };
            self.collected[shard].0.push(rows);
            self.collected[shard].1 += bytes;
            self.collected_bytes += bytes;
        }
        if self.collected_bytes >= BUFFERED_UNITS * self.table.settings.statement_unit.as_usize() {
            self.write_and_settle().await?;
        }
        Ok(())
    }

    /// Writes what was collected and waits until it is acknowledged. Returns how many rows the statement wrote.
    ///
    /// # Errors
    /// `Conflict` if another statement changed one of the rows first; `Invalid` if an INSERT meets an existing key and
    /// may not replace it; `Fenced`, `Backpressure`, `Indeterminate`, `Unavailable` as [`ErrorKind`] says. A statement
    /// that was larger than its buffer may have left rows: the error says how many.
    pub async fn finish(mut self) -> Result<u64> {
        let span = self.span.clone();
        let finished = self.write_and_settle().instrument(span).await;
        match &finished {
            Ok(()) => self.table.context.metrics.statement_done(self.since.elapsed()),
            Err(_) => self.table.context.metrics.statement_failed(),
        }
        self.span.record("rows", self.written);
        finished.map(|()| self.written)
    }

    async fn write_and_settle(&mut self) -> Result<()> {
        let pending = self.write().await?;
        self.settle(pending).await
    }

    /// As [`finish`](Self::finish), but returns as soon as the rows are accepted.
    pub(super) async fn submit(mut self) -> Result<PendingWrite> {
        let span = self.span.clone();
        let pending = self.write().instrument(span).await;
        Ok(pending.inspect_err(|_| self.table.context.metrics.statement_failed())?.behind(self.written))
    }

    async fn settle(&mut self, pending: PendingWrite) -> Result<()> {
        self.written = pending.behind(self.written).wait().await?;
        Ok(())
    }

    fn with_written(&self, error: Error) -> Error {
        error.with_rows_written(self.written)
    }

    /// Splits rows by shard.
    fn route(&self, rows: RecordBatch) -> Result<Vec<(usize, RecordBatch)>> {
        if self.collected.len() == 1 {
            return Ok(vec![(0, rows)]);
        }
        let sharding = self.table.control.with(|v| v.base.sharding().clone());
        let buckets = base::bucket(&sharding, &rows)?;
        let mut by_shard: Vec<Vec<u32>> = vec![Vec::new(); self.collected.len()];
        for (row, bucket) in buckets.iter().enumerate() {
            by_shard[*bucket as usize].push(row as u32);
        }
        by_shard
            .into_iter()
            .enumerate()
            .filter(|(_, rows)| !rows.is_empty())
            .map(|(shard, indices)| Ok((shard, take_record_batch(&rows, &UInt32Array::from(indices))?)))
            .collect()
    }

    /// Writes what was collected.
    async fn write(&mut self) -> Result<PendingWrite> {
        let collected: Vec<Vec<RecordBatch>> =
            self.collected.iter_mut().map(|(rows, bytes)| (std::mem::take(rows), *bytes = 0).0).collect();
        self.collected_bytes = 0;
        let result = match self.kind {
            StatementKind::Insert(on_conflict) => self.insert(&collected, on_conflict).await,
            _ => {
                let check = match (&self.snapshot, self.kind) {
                    (Some(snapshot), StatementKind::Update | StatementKind::Delete) => {
                        Check::Unchanged(Arc::clone(snapshot))
                    }
                    _ => Check::None,
                };
                self.table.shards.write(self.units(&collected)?, &check, self.ack).await
            }
        };
        result.map_err(|e| self.with_written(e))
    }

    /// Cuts rows into units.
    fn units(&self, collected: &[Vec<RecordBatch>]) -> Result<Vec<Unit>> {
        let settings = &self.table.settings;
        let (max_bytes, max_rows) = (settings.statement_unit.as_usize(), settings.memtable_rows);
        let mut units = Vec::new();
        for (shard, batches) in collected.iter().enumerate() {
            let mut open: Vec<RecordBatch> = Vec::new();
            let (mut rows, mut bytes) = (0, 0);
            let mut close = |open: &mut Vec<RecordBatch>, bytes: &mut usize, rows: &mut usize| -> Result<()> {
                let batch = match open.as_slice() {
                    [] => return Ok(()),
                    [only] => only.clone(),
                    several => concat_batches(self.schema.stored(), several)?,
                };
                let keys = self.schema.key().of_batch(&batch)?;
                units.push(Unit { shard, rows: batch, keys, bytes: *bytes });
                open.clear();
                (*bytes, *rows) = (0, 0);
                Ok(())
            };
            for batch in batches {
                for (part, part_bytes) in parts(batch, max_rows, max_bytes) {
                    if part_bytes > max_bytes && part_bytes > settings.memtable_limit.as_usize() {
                        return Err(Error::invalid(format!(
                            "a row takes {part_bytes} bytes, more than 'lsm.memtable.limit' ({}): raise it or split the row",
                            settings.memtable_limit.as_usize()
                        )));
                    }
                    if rows + part.num_rows() > max_rows || (rows > 0 && bytes + part_bytes > max_bytes) {
                        close(&mut open, &mut bytes, &mut rows)?;
                    }
                    rows += part.num_rows();
                    bytes += part_bytes;
                    open.push(part);
                }
            }
            close(&mut open, &mut bytes, &mut rows)?;
        }
        Ok(units)
    }

    /// Writes rows whose keys do not exist. Whether they do is looked up anew if somebody writes one meanwhile.
    async fn insert(&mut self, collected: &[Vec<RecordBatch>], on_conflict: OnConflict) -> Result<PendingWrite> {
        // A key that another writer deleted is no key any more.
        self.table.catch_up(|shard| !collected[shard].is_empty()).await?;
        let own_before = self.own_keys.clone();
        for attempt in 1.. {
            let snapshot = self.table.snapshot();
            let mut fresh = Vec::with_capacity(collected.len());
            for batches in collected {
                let mut kept = Vec::new();
                for batch in batches {
                    let keep = self.absent(&snapshot, batch, on_conflict).await?;
                    kept.push(filter_record_batch(batch, &keep)?);
                }
                kept.retain(|b| b.num_rows() > 0);
                fresh.push(kept);
            }
            let units = self.units(&fresh)?;
            match self.table.shards.write(units, &Check::Unchanged(snapshot), self.ack).await {
                Err(error) if error.kind() == ErrorKind::Conflict && attempt < ATTEMPTS => {
                    // Who was first may still be on the way to the WAL: before that no snapshot shows its rows.
                    self.table.settled().await?;
                    self.own_keys = own_before.clone();
                }
                other => return other,
            }
        }
        Err(Error::internal("an INSERT ended without a result"))
    }

    /// Which rows have a key that neither the table nor this statement has yet.
    async fn absent(
        &mut self,
        snapshot: &Snapshot,
        rows: &RecordBatch,
        on_conflict: OnConflict,
    ) -> Result<BooleanArray> {
        let columns: Vec<ArrayRef> =
            self.schema.key().columns().iter().map(|c| Arc::clone(rows.column(c.index))).collect();
        let of = (snapshot, self.table.control.block_lists().as_ref());
        let present = planner::present(of, &columns, self.table.settings.read_lookahead).await?;
        let keys = self.schema.key().of_columns(&columns)?;
        let mut keep = Vec::with_capacity(rows.num_rows());
        for (i, present) in present.iter().enumerate() {
            let fresh = !present && self.own_keys.insert(keys.get(i).to_bytes());
            if !fresh && on_conflict == OnConflict::Error {
                let key: Vec<String> = columns
                    .iter()
                    .map(|c| arrow::util::display::array_value_to_string(c, i).unwrap_or_default())
                    .collect();
                return Err(Error::invalid(format!(
                    "the key ({}) exists already: use REPLACE INTO, or 'lsm.on_conflict' = 'replace' or 'ignore'",
                    key.join(", ")
                )));
            }
            keep.push(fresh);
        }
        Ok(BooleanArray::from(keep))
    }
}

/// A batch in parts of at most so many rows and bytes, each with its bytes; a row is never cut.
fn parts(batch: &RecordBatch, max_rows: usize, max_bytes: usize) -> Vec<(RecordBatch, usize)> {
    let rows = batch.num_rows();
    let mut cut = Vec::new();
    let mut left: Vec<RecordBatch> =
        (0..rows).step_by(max_rows).rev().map(|from| batch.slice(from, max_rows.min(rows - from))).collect();
    while let Some(part) = left.pop() {
        let (rows, bytes) = (part.num_rows(), row_bytes(&part));
        if rows <= 1 || bytes <= max_bytes {
            cut.push((part, bytes));
        } else {
            left.push(part.slice(rows / 2, rows - rows / 2));
            left.push(part.slice(0, rows / 2));
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::StringArray;

    #[test]
    fn rows_of_unequal_size_are_cut_by_what_they_take() {
        let texts = (0..1000).map(|i| "x".repeat(if i < 10 { 10_000 } else { 1 }));
        let rows =
            RecordBatch::try_from_iter([("t", Arc::new(StringArray::from_iter_values(texts)) as ArrayRef)]).unwrap();
        let cut = parts(&rows, 400, 25_000);
        assert_eq!(cut.iter().map(|(part, _)| part.num_rows()).sum::<usize>(), 1000);
        assert!(cut.iter().all(|(part, bytes)| part.num_rows() <= 400 && *bytes <= 25_000));
        let whole = concat_batches(&rows.schema(), cut.iter().map(|(part, _)| part)).unwrap();
        assert_eq!(whole, rows);
        let alone = parts(&rows, 400, 100);
        assert!(alone.iter().all(|(part, bytes)| *bytes <= 100 || part.num_rows() == 1));
    }
}
