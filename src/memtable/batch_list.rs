//! Append-only batches that readers walk without locks, tiny ones coalesced.
//!
//! A row's position never changes. Tiny batches collect in levels of [`FAN`] slots; a full level becomes one batch a
//! level up, so a row is copied at most once a level and many one-row puts neither exhaust slots nor make scans slow.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use parking_lot::Mutex;

use crate::error::Result;

/// Slots of a level.
const FAN: usize = 64;
/// Levels of tiny batches: one-row puts end in batches of up to FAN^LEVELS rows.
const LEVELS: usize = 2;
/// A batch of this many rows or bytes is not tiny.
const ROWS: usize = 1024;
const BYTES: usize = 64 << 10;

/// Batches in row order.
#[derive(Debug)]
pub(super) struct BatchList {
    schema: SchemaRef,
    layout: ArcSwap<Layout>,
    /// How many slots of each level are taken; the writer's own.
    taken: Mutex<[usize; LEVELS]>,
}

/// A batch and the position of its first row.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) start: usize,
    pub(super) batch: RecordBatch,
}

impl Chunk {
    fn end(&self) -> usize {
        self.start + self.batch.num_rows()
    }
}

/// One arrangement of the batches: those done with, then levels of tiny ones, the oldest rows in the highest level.
#[derive(Debug, Clone)]
struct Layout {
    done: Arc<boxcar::Vec<Chunk>>,
    done_len: usize,
    levels: [Arc<[OnceLock<Chunk>; FAN]>; LEVELS],
}

fn empty_level() -> Arc<[OnceLock<Chunk>; FAN]> {
    Arc::new([const { OnceLock::new() }; FAN])
}

impl BatchList {
    pub(super) fn new(schema: SchemaRef) -> Self {
        let layout =
            Layout { done: Arc::new(boxcar::Vec::new()), done_len: 0, levels: std::array::from_fn(|_| empty_level()) };
        Self { schema, layout: ArcSwap::from_pointee(layout), taken: Mutex::new([0; LEVELS]) }
    }

    /// Appends rows at position `start`. Only the holder of the memtable's write lock may call this.
    pub(super) fn append(&self, start: usize, batch: RecordBatch, bytes: usize) -> Result<()> {
        let mut taken = self.taken.lock();
        let chunk = Chunk { start, batch };
        if chunk.batch.num_rows() < ROWS && bytes < BYTES {
            let layout = self.layout.load();
            // The slot is free: `taken` counts those set, and only this writer sets them.
            let _ = layout.levels[0][taken[0]].set(chunk);
            taken[0] += 1;
            if taken[0] < FAN {
                return Ok(());
            }
            let mut layout = Layout::clone(&layout);
            self.merge_up(&mut layout, &mut taken)?;
            self.layout.store(Arc::new(layout));
        } else {
            let mut layout = Layout::clone(&self.layout.load());
            for level in (0..LEVELS).rev() {
                if taken[level] > 0 {
                    let merged = self.merge(&layout.levels[level])?;
                    layout.finish(merged);
                    layout.levels[level] = empty_level();
                    taken[level] = 0;
                }
            }
            layout.finish(chunk);
            self.layout.store(Arc::new(layout));
        }
        Ok(())
    }

    /// Moves each full level into one slot of the next, the last into the batches done with.
    fn merge_up(&self, layout: &mut Layout, taken: &mut [usize; LEVELS]) -> Result<()> {
        for level in 0..LEVELS {
            if taken[level] < FAN {
                break;
            }
            let merged = self.merge(&layout.levels[level])?;
            layout.levels[level] = empty_level();
            taken[level] = 0;
            if level + 1 < LEVELS {
                let next: &[OnceLock<Chunk>; FAN] = &layout.levels[level + 1];
                // As above: the slot is free.
                let _ = next[taken[level + 1]].set(merged);
                taken[level + 1] += 1;
            } else {
                layout.finish(merged);
            }
        }
        Ok(())
    }

    fn merge(&self, level: &[OnceLock<Chunk>; FAN]) -> Result<Chunk> {
        let chunks: Vec<&Chunk> = level.iter().map_while(OnceLock::get).collect();
        let batch = concat_batches(&self.schema, chunks.iter().map(|c| &c.batch))?;
        Ok(Chunk { start: chunks[0].start, batch })
    }

    /// The batches that hold rows below `watermark`; the last may reach beyond.
    pub(super) fn below(&self, watermark: usize) -> Vec<Chunk> {
        let layout = self.layout.load();
        let mut chunks = Vec::with_capacity(layout.done_len + FAN);
        chunks.extend(layout.done.iter().take(layout.done_len).map(|(_, c)| c.clone()));
        for level in layout.levels.iter().rev() {
            chunks.extend(level.iter().map_while(OnceLock::get).cloned());
        }
        chunks.truncate(chunks.partition_point(|c| c.start < watermark));
        chunks
    }

    /// Calls `f` with the batch that holds row `row` and the row's place in it.
    pub(super) fn with_row<T>(&self, row: usize, f: impl FnOnce(&RecordBatch, usize) -> T) -> T {
        let layout = self.layout.load();
        if layout.done_len > 0 && row < layout.done[layout.done_len - 1].end() {
            let (mut low, mut high) = (0, layout.done_len);
            while high - low > 1 {
                let middle = (low + high) / 2;
                if layout.done[middle].start <= row { low = middle } else { high = middle }
            }
            let chunk = &layout.done[low];
            return f(&chunk.batch, row - chunk.start);
        }
        for chunk in layout.levels.iter().rev().flat_map(|l| l.iter().map_while(OnceLock::get)) {
            if row < chunk.end() {
                return f(&chunk.batch, row - chunk.start);
            }
        }
        unreachable!("row {row} was handed out before it was appended")
    }
}

impl Layout {
    fn finish(&mut self, chunk: Chunk) {
        self.done.push(chunk);
        self.done_len += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    fn list() -> BatchList {
        BatchList::new(Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)])))
    }

    fn append(list: &BatchList, start: usize, rows: usize) {
        let values = Int64Array::from_iter_values(start as i64..(start + rows) as i64);
        let batch = RecordBatch::try_new(Arc::clone(&list.schema), vec![Arc::new(values)]).unwrap();
        list.append(start, batch, rows * 8).unwrap();
    }

    fn check(list: &BatchList, rows: usize) {
        let mut next = 0;
        for chunk in list.below(rows) {
            assert_eq!(chunk.start, next);
            for value in chunk.batch.column(0).as_primitive::<Int64Type>().values() {
                assert_eq!(*value as usize, next);
                next += 1;
            }
        }
        assert!(next >= rows);
        for row in (0..rows).step_by(7) {
            list.with_row(row, |batch, at| {
                assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(at) as usize, row);
            });
        }
    }

    #[test]
    fn one_row_puts_coalesce_and_keep_their_positions() {
        let list = list();
        for row in 0..10_000 {
            append(&list, row, 1);
        }
        check(&list, 10_000);
        assert!(list.below(10_000).len() < 2 + LEVELS * FAN);
    }

    #[test]
    fn large_batches_end_a_run_of_tiny_ones() {
        let list = list();
        let mut rows = 0;
        for size in [1, 3, 2000, 1, 1, 5000, 70, 1] {
            append(&list, rows, size);
            rows += size;
        }
        check(&list, rows);
        assert_eq!(list.below(4).len(), 1);
    }
}
