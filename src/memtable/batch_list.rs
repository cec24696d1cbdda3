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

use super::selection::Selections;

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
    /// What scans selected from it.
    pub(super) selections: Arc<Selections>,
}

impl Chunk {
    fn new(start: usize, batch: RecordBatch) -> Self {
        Self { start, batch, selections: Arc::default() }
    }

    fn end(&self) -> usize {
        self.start + self.batch.num_rows()
    }
}

/// One arrangement of the batches: those done with, then levels of tiny ones, the oldest rows in the highest level.
#[derive(Debug, Clone)]
pub(super) struct Layout {
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
    pub(super) fn append(&self, start: usize, batch: RecordBatch, bytes: usize) {
        let mut taken = self.taken.lock();
        let chunk = Chunk::new(start, batch);
        let tiny = chunk.batch.num_rows() < ROWS && bytes < BYTES;
        if tiny {
            // The slot is free: `taken` counts those set, and only this writer sets them.
            let _ = self.layout.load().levels[0][taken[0]].set(chunk);
            taken[0] += 1;
            if taken[0] < FAN {
                return;
            }
            let mut layout = Layout::clone(&self.layout.load());
            self.merge_up(&mut layout, &mut taken);
            self.layout.store(Arc::new(layout));
        } else {
            let mut layout = Layout::clone(&self.layout.load());
            for level in (0..LEVELS).rev() {
                self.merge(&layout.levels[level]).into_iter().for_each(|merged| layout.finish(merged));
                layout.levels[level] = empty_level();
                taken[level] = 0;
            }
            layout.finish(chunk);
            self.layout.store(Arc::new(layout));
        }
    }

    /// Moves each full level into one slot of the next, the last into the batches done with. Levels above the first are
    /// replaced, never set in place: readers of the old layout would see the rows of the level below twice.
    fn merge_up(&self, layout: &mut Layout, taken: &mut [usize; LEVELS]) {
        for level in 0..LEVELS {
            if taken[level] < FAN {
                break;
            }
            let merged = self.merge(&layout.levels[level]);
            layout.levels[level] = empty_level();
            taken[level] = 0;
            let Ok([merged]) = <[Chunk; 1]>::try_from(merged.clone()) else {
                // What cannot be merged stays as it is, behind everything older.
                for above in (level + 1..LEVELS).rev() {
                    self.merge(&layout.levels[above]).into_iter().for_each(|older| layout.finish(older));
                    layout.levels[above] = empty_level();
                    taken[above] = 0;
                }
                merged.into_iter().for_each(|chunk| layout.finish(chunk));
                break;
            };
            if level + 1 < LEVELS {
                let next = <[OnceLock<Chunk>; FAN]>::clone(&layout.levels[level + 1]);
                // As above: the slot is free.
                let _ = next[taken[level + 1]].set(merged);
                layout.levels[level + 1] = Arc::new(next);
                taken[level + 1] += 1;
            } else {
                layout.finish(merged);
            }
        }
    }

    /// The chunks of a level as one, or as they are if they do not fit into one (dictionaries may not).
    fn merge(&self, level: &[OnceLock<Chunk>; FAN]) -> Vec<Chunk> {
        let chunks: Vec<Chunk> = level.iter().map_while(OnceLock::get).cloned().collect();
        let Some(first) = chunks.first() else { return chunks };
        match concat_batches(&self.schema, chunks.iter().map(|c| &c.batch)) {
            Ok(batch) => vec![Chunk::new(first.start, batch)],
            Err(_) => chunks,
        }
    }

    /// The batches that hold rows below `watermark`; the last may reach beyond.
    pub(super) fn below(&self, watermark: usize) -> Chunks {
        let mut chunks = Chunks { layout: self.layout.load_full(), watermark, level: LEVELS, at: 0 };
        chunks.settle();
        chunks
    }

    /// The batches of this moment.
    pub(super) fn layout(&self) -> Arc<Layout> {
        self.layout.load_full()
    }

    /// Calls `f` with the batch that holds row `row` and the row's place in it.
    pub(super) fn with_row<T>(&self, row: usize, f: impl FnOnce(&RecordBatch, usize) -> T) -> T {
        let layout = self.layout.load();
        let chunk = layout.chunk_of(row);
        f(&chunk.batch, row - chunk.start)
    }

    /// Calls `f` with batches and for each of `rows` which of them holds it and where. Rows in order are found fastest.
    pub(super) fn with_rows<T>(&self, rows: &[usize], f: impl FnOnce(&[&RecordBatch], &[(usize, usize)]) -> T) -> T {
        let layout = self.layout.load();
        let mut chunks: Vec<&Chunk> = Vec::new();
        let mut places = Vec::with_capacity(rows.len());
        for &row in rows {
            let chunk = match chunks.last() {
                Some(chunk) if (chunk.start..chunk.end()).contains(&row) => chunk,
                _ => {
                    chunks.push(layout.chunk_of(row));
                    chunks[chunks.len() - 1]
                }
            };
            places.push((chunks.len() - 1, row - chunk.start));
        }
        let batches: Vec<&RecordBatch> = chunks.iter().map(|chunk| &chunk.batch).collect();
        f(&batches, &places)
    }
}

/// The batches of one moment, oldest first.
#[derive(Debug)]
pub(super) struct Chunks {
    layout: Arc<Layout>,
    watermark: usize,
    /// Where the current batch is: in a level of tiny ones, or with [`LEVELS`] among those done with.
    level: usize,
    at: usize,
}

impl Chunks {
    /// The current batch, unless there is none left.
    pub(super) fn current(&self) -> Option<&Chunk> {
        let chunk = match self.layout.levels.get(self.level) {
            Some(level) => level[self.at].get()?,
            None => &self.layout.done[self.at],
        };
        (chunk.start < self.watermark).then_some(chunk)
    }

    /// Goes on to the next batch.
    pub(super) fn advance(&mut self) {
        self.at += 1;
        self.settle();
    }

    /// Leaves what is exhausted behind: stays in an empty slot only at the end.
    fn settle(&mut self) {
        let is_there = |level: usize, at: usize| match self.layout.levels.get(level) {
            Some(level) => level.get(at).is_some_and(|slot| slot.get().is_some()),
            None => at < self.layout.done_len,
        };
        while !is_there(self.level, self.at) {
            if self.level == 0 {
                self.watermark = 0;
                self.at = 0;
                return;
            }
            (self.level, self.at) = (self.level - 1, 0);
        }
    }
}

impl Iterator for Chunks {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        let chunk = self.current().cloned()?;
        self.advance();
        Some(chunk)
    }
}

impl Layout {
    /// The chunk that holds row `row`, which was appended.
    pub(super) fn chunk_of(&self, row: usize) -> &Chunk {
        if self.done_len > 0 && row < self.done[self.done_len - 1].end() {
            let (mut low, mut high) = (0, self.done_len);
            // Batches of one size, as they often are, are found at once.
            let guess = row * self.done_len / self.done[self.done_len - 1].end();
            let guessed = &self.done[guess];
            if (guessed.start..guessed.end()).contains(&row) {
                return guessed;
            }
            if guessed.start < row {
                low = guess
            } else {
                high = guess
            };
            while high - low > 1 {
                let middle = (low + high) / 2;
                if self.done[middle].start <= row { low = middle } else { high = middle }
            }
            return &self.done[low];
        }
        let mut tiny = self.levels.iter().rev().flat_map(|level| level.iter().map_while(OnceLock::get));
        match tiny.find(|chunk| row < chunk.end()) {
            Some(chunk) => chunk,
            None => unreachable!("row {row} was handed out before it was appended"),
        }
    }

    fn finish(&mut self, chunk: Chunk) {
        self.done.push(chunk);
        self.done_len += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    fn list() -> BatchList {
        BatchList::new(Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)])))
    }

    fn append(list: &BatchList, start: usize, rows: usize) {
        let values = Int64Array::from_iter_values(start as i64..(start + rows) as i64);
        let batch = RecordBatch::try_new(Arc::clone(&list.schema), vec![Arc::new(values)]).unwrap();
        list.append(start, batch, rows * 8);
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
        assert!(list.below(10_000).count() < 2 + LEVELS * FAN);
    }

    #[test]
    fn readers_see_each_row_once_while_tiny_batches_merge() {
        let list = list();
        let visible = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|s| {
            s.spawn(|| {
                for row in 0..30_000 {
                    append(&list, row, 1);
                    visible.store(row + 1, std::sync::atomic::Ordering::Release);
                }
            });
            loop {
                let rows = visible.load(std::sync::atomic::Ordering::Acquire);
                let mut next = 0;
                for chunk in list.below(rows) {
                    assert_eq!(chunk.start, next);
                    next = chunk.end();
                }
                assert!(next >= rows);
                if rows == 30_000 {
                    break;
                }
            }
        });
    }

    #[test]
    fn batches_that_cannot_be_merged_stay_as_they_are() {
        use arrow::array::DictionaryArray;
        use arrow::datatypes::Int8Type;
        let values: Vec<String> = (0..500).map(|i| format!("value {i}")).collect();
        let of = |value: &String| DictionaryArray::<Int8Type>::from_iter([Some(value.as_str())]);
        let field = Field::new("d", of(&values[0]).data_type().clone(), true);
        let schema = Arc::new(Schema::new(vec![field]));
        let list = BatchList::new(Arc::clone(&schema));
        for (row, value) in values.iter().enumerate() {
            list.append(row, RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(of(value))]).unwrap(), 1);
        }
        let rows: usize = list.below(500).map(|c| c.batch.num_rows()).sum();
        assert_eq!(rows, 500);
        list.with_row(321, |batch, at| {
            let value = arrow::util::display::array_value_to_string(batch.column(0), at).unwrap();
            assert_eq!(value, "value 321");
        });
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
        assert_eq!(list.below(4).count(), 1);
    }
}
