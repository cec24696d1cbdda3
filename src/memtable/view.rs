//! A memtable as one reader sees it: the rows below a watermark, less those that newer sources supersede.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, RecordBatch, RecordBatchOptions, new_empty_array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{FilterBuilder, concat, interleave};
use arrow::datatypes::{DataType, SchemaRef};
use roaring::RoaringTreemap;

use super::batch_list::Chunk;
use super::table::MemTable;
use crate::error::Result;
use crate::ids::GenerationId;
use crate::key::KeyRef;

/// A memtable at a watermark.
#[derive(Debug, Clone)]
pub struct MemTableView {
    table: Arc<MemTable>,
    watermark: usize,
}

impl MemTableView {
    /// The rows of `table` below `watermark`.
    pub fn new(table: Arc<MemTable>, watermark: usize) -> Self {
        Self { table, watermark }
    }

    /// The memtable.
    pub fn table(&self) -> &Arc<MemTable> {
        &self.table
    }

    /// How many rows are seen, superseded ones and tombstones included.
    pub fn watermark(&self) -> usize {
        self.watermark
    }

    /// The generation the memtable becomes.
    pub fn generation(&self) -> GenerationId {
        self.table.generation()
    }

    /// The newest row of `key`, and whether it is a tombstone.
    pub fn find(&self, key: KeyRef<'_>, hash: u64) -> Option<(usize, bool)> {
        self.table.find(key, hash, self.watermark)
    }

    /// The live rows, batch by batch in row order and projected to logical columns: without superseded rows and
    /// tombstones of this memtable and without `blocked` rows. `schema` is the projected logical schema; batches have
    /// at most `batch_size` rows. Untouched runs of rows are not copied.
    pub fn live_rows(
        &self,
        projection: Vec<usize>,
        schema: SchemaRef,
        blocked: Option<Arc<RoaringTreemap>>,
        batch_size: usize,
    ) -> impl Iterator<Item = Result<RecordBatch>> + Send + use<> {
        let mut chunks = self.table.batches().below(self.watermark);
        let view = self.clone();
        let blocked = blocked.filter(|b| !b.is_empty());
        let batch_size = batch_size.max(1);
        // Where the next part of the current chunk begins.
        let mut from = 0;
        std::iter::from_fn(move || {
            loop {
                let chunk = chunks.current()?;
                let rows = chunk.batch.num_rows().min(view.watermark - chunk.start);
                let count = batch_size.min(rows - from);
                let live = view.live(chunk.start + from, count, blocked.as_deref());
                let picked = view.pick(chunk, &projection, &schema, from..from + count, live).transpose();
                from += count;
                if from == rows {
                    chunks.advance();
                    from = 0;
                }
                if picked.is_some() {
                    return picked;
                }
            }
        })
    }

    /// Every row that is the newest of its key, tombstones included, as stored batches: what a flush writes.
    pub fn newest_rows(&self) -> impl Iterator<Item = Result<RecordBatch>> + Send + use<> {
        let view = self.clone();
        self.table.batches().below(self.watermark).filter_map(move |chunk| {
            let rows = chunk.batch.num_rows().min(view.watermark - chunk.start);
            let keys = view.table.keys();
            let newest = || BooleanBuffer::collect_bool(rows, |i| keys.is_newest(chunk.start + i, view.watermark));
            let selection = (!keys.all_live(chunk.start..chunk.start + rows)).then(newest);
            select(chunk.batch.slice(0, rows), selection).transpose()
        })
    }

    /// Which rows [`Self::newest_rows`] gives: row `r` is one if bit `r % 64` of word `r / 64` is set.
    pub fn newest_words(&self) -> Vec<u64> {
        let (rows, keys) = (self.watermark, self.table.keys());
        let mut words = vec![u64::MAX; rows.div_ceil(64)];
        if !keys.all_live(0..rows) {
            for row in (0..rows).filter(|row| !keys.is_newest(*row, rows)) {
                words[row / 64] &= !(1 << (row % 64));
            }
        }
        cut(words, rows)
    }

    /// Rows by position, in the order given, projected to logical columns.
    ///
    /// # Errors
    /// `Internal` if a kernel fails.
    pub fn take(&self, rows: &[usize], projection: &[usize], schema: &SchemaRef) -> Result<RecordBatch> {
        if let [row] = rows {
            return self.table.batches().with_row(*row, |batch, at| {
                batch_of(schema, projection.iter().map(|&i| batch.column(i).slice(at, 1)).collect(), 1)
            });
        }
        self.table.batches().with_rows(rows, |batches, places| {
            let column = |&i: &usize| {
                let arrays: Vec<&dyn Array> = batches.iter().map(|b| b.column(i).as_ref()).collect();
                if arrays.is_empty() {
                    return Ok(new_empty_array(self.table.schema().stored().field(i).data_type()));
                }
                gather(&arrays, places)
            };
            batch_of(schema, projection.iter().map(column).collect::<Result<_>>()?, rows.len())
        })
    }

    /// Which rows are live, without `blocked` ones: row `r` is if bit `r % 64` of word `r / 64` is set.
    pub fn live_words(&self, blocked: &RoaringTreemap) -> Vec<u64> {
        let rows = self.watermark;
        let words = match self.live(0, rows, Some(blocked)) {
            Some(live) => live.bit_chunks().iter_padded().take(rows.div_ceil(64)).collect(),
            None => vec![u64::MAX; rows.div_ceil(64)],
        };
        cut(words, rows)
    }

    /// Which of `count` rows from position `start` are live; `None` if all are.
    fn live(&self, start: usize, count: usize, blocked: Option<&RoaringTreemap>) -> Option<BooleanBuffer> {
        let end = start + count;
        let blocked = blocked.map(|blocked| {
            let mut rows = blocked.iter();
            rows.advance_to(start as u64);
            rows.take_while(move |row| *row < end as u64).map(|row| row as usize)
        });
        self.table.keys().live(start..end, self.watermark, blocked.into_iter().flatten())
    }

    /// Some rows of a chunk, projected to logical columns and selected.
    ///
    /// The columns get their logical names and nullability last: a tombstone has NULL in NOT NULL columns until the
    /// selection drops it.
    fn pick(
        &self,
        chunk: &Chunk,
        projection: &[usize],
        schema: &SchemaRef,
        rows: Range<usize>,
        selection: Option<BooleanBuffer>,
    ) -> Result<Option<RecordBatch>> {
        let whole = rows.len() == chunk.batch.num_rows();
        let columns = |from: usize, count: usize| -> Vec<ArrayRef> {
            let all = count == chunk.batch.num_rows();
            let column = |&i: &usize| {
                let column = chunk.batch.column(i);
                if all { Arc::clone(column) } else { column.slice(from, count) }
            };
            projection.iter().map(column).collect()
        };
        let Some(selection) = selection else {
            return batch_of(schema, columns(rows.start, rows.len()), rows.len()).map(Some);
        };
        let mut runs = selection.set_slices();
        let Some((start, end)) = runs.next() else { return Ok(None) };
        if runs.next().is_none() {
            return batch_of(schema, columns(rows.start + start, end - start), end - start).map(Some);
        }
        if whole {
            let budget = self.table.budget();
            let (columns, count) = chunk.selections.select(&chunk.batch, selection, projection, budget)?;
            return batch_of(schema, columns, count).map(Some);
        }
        let filter = FilterBuilder::new(&BooleanArray::new(selection, None)).optimize().build();
        let picked = columns(rows.start, rows.len()).iter().map(|c| Ok(filter.filter(c)?)).collect::<Result<_>>()?;
        batch_of(schema, picked, filter.count()).map(Some)
    }
}

/// `words` without the bits from `rows` on.
fn cut(mut words: Vec<u64>, rows: usize) -> Vec<u64> {
    if let Some(last) = words.last_mut()
        && !rows.is_multiple_of(64)
    {
        *last &= (1 << (rows % 64)) - 1;
    }
    words
}

/// The values at these places, each an array and a row of it.
fn gather(arrays: &[&dyn Array], places: &[(usize, usize)]) -> Result<ArrayRef> {
    if let DataType::FixedSizeList(field, size) = arrays[0].data_type()
        && arrays.iter().all(|array| array.null_count() == 0)
        && !places.is_empty()
    {
        // Arrow would look at every array as a whole; vectors are better copied one by one.
        let width = usize::try_from(*size).unwrap_or(0);
        let of = |&(array, row): &(usize, usize)| arrays[array].as_fixed_size_list().values().slice(row * width, width);
        let values: Vec<ArrayRef> = places.iter().map(of).collect();
        let values: Vec<&dyn Array> = values.iter().map(|v| v.as_ref()).collect();
        return Ok(Arc::new(FixedSizeListArray::try_new(Arc::clone(field), *size, concat(&values)?, None)?));
    }
    Ok(interleave(arrays, places)?)
}

pub(super) fn batch_of(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

/// The selected rows of a batch; a single run of them is not copied. `None` if there are none.
fn select(batch: RecordBatch, selection: Option<BooleanBuffer>) -> Result<Option<RecordBatch>> {
    let Some(selection) = selection else { return Ok((batch.num_rows() > 0).then_some(batch)) };
    let mut runs = selection.set_slices();
    let Some((start, end)) = runs.next() else { return Ok(None) };
    if runs.next().is_none() {
        return Ok(Some(batch.slice(start, end - start)));
    }
    let filter = BooleanArray::new(selection, None);
    let filter = FilterBuilder::new(&filter).optimize().build();
    Ok(Some(filter.filter_record_batch(&batch)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{Field, Float32Type, Int64Type, Schema};

    use crate::schema::TableSchema;

    fn table() -> Arc<MemTable> {
        let schema =
            Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, false)]);
        let schema = TableSchema::try_new(&schema, &["id".into()]).unwrap();
        let lease = crate::cache::MemoryBudget::new(usize::MAX).lease();
        Arc::new(MemTable::new(GenerationId(1), Arc::new(schema), Duration::ZERO, lease))
    }

    fn put(table: &MemTable, ids: &[i64]) {
        let rows = RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef),
            ("name", Arc::new(StringArray::from_iter_values(ids.iter().map(|i| format!("row {i}"))))),
        ]);
        let stored = table.schema().to_stored(&rows.unwrap()).unwrap();
        let keys = table.schema().key().of_batch(&stored).unwrap();
        table.append(stored, &keys, 100);
        table.publish(table.rows());
    }

    fn delete(table: &MemTable, id: i64) {
        let stored = table.schema().tombstones(&[Arc::new(Int64Array::from(vec![id]))]).unwrap();
        let keys = table.schema().key().of_batch(&stored).unwrap();
        table.append(stored, &keys, 10);
        table.publish(table.rows());
    }

    fn ids(view: &MemTableView, blocked: &[u64]) -> Vec<i64> {
        let schema = Arc::clone(view.table().schema().logical());
        let blocked = Some(Arc::new(RoaringTreemap::from_iter(blocked.iter().copied())));
        view.live_rows(vec![0, 1], schema, blocked, 2)
            .flat_map(|b| b.unwrap().column(0).as_primitive::<Int64Type>().values().to_vec())
            .collect()
    }

    #[test]
    fn a_view_keeps_its_watermark_while_the_table_moves_on() {
        let table = table();
        put(&table, &[1, 2, 3, 4, 5]);
        let before = MemTableView::new(Arc::clone(&table), table.visible());
        put(&table, &[2]);
        delete(&table, 4);
        let after = MemTableView::new(Arc::clone(&table), table.visible());
        assert_eq!(ids(&before, &[]), [1, 2, 3, 4, 5]);
        assert_eq!(ids(&after, &[]), [1, 3, 5, 2]);
        assert_eq!(ids(&after, &[0, 5]), [3, 5]);
        let newest: usize = after.newest_rows().map(|b| b.unwrap().num_rows()).sum();
        assert_eq!((newest, after.newest_words()), (5, vec![0b111_0101]));
    }

    #[test]
    fn vectors_are_gathered_with_and_without_nulls() {
        let list = |rows: Vec<Option<[f32; 2]>>| -> ArrayRef {
            let rows = rows.into_iter().map(|row| row.map(|values| values.map(Some)));
            Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(rows, 2))
        };
        let (a, b) = (list(vec![Some([1., 2.]), Some([3., 4.])]), list(vec![Some([5., 6.])]));
        let places = [(1, 0), (0, 1), (0, 0), (0, 1)];
        let expected = list(vec![Some([5., 6.]), Some([3., 4.]), Some([1., 2.]), Some([3., 4.])]);
        assert_eq!(&gather(&[a.as_ref(), b.as_ref()], &places).unwrap(), &expected);
        let sliced = a.slice(1, 1);
        assert_eq!(&gather(&[sliced.as_ref()], &[(0, 0)]).unwrap(), &list(vec![Some([3., 4.])]));
        let c = list(vec![None]);
        assert_eq!(&gather(&[a.as_ref(), c.as_ref()], &[(1, 0), (0, 0)]).unwrap(), &list(vec![None, Some([1., 2.])]));
        assert_eq!(gather(&[a.as_ref()], &[]).unwrap().len(), 0);
    }

    #[test]
    fn rows_are_taken_in_the_order_asked() {
        let table = table();
        put(&table, &[10, 11]);
        put(&table, &[12]);
        let view = MemTableView::new(Arc::clone(&table), 3);
        let schema = Arc::clone(table.schema().logical());
        let rows = view.take(&[2, 0, 2], &[0, 1], &schema).unwrap();
        assert_eq!(rows.column(0).as_primitive::<Int64Type>().values().to_vec(), [12, 10, 12]);
        assert_eq!(view.take(&[], &[0, 1], &schema).unwrap().num_rows(), 0);
    }
}
