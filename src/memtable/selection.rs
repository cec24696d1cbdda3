//! The live rows of a batch, kept while they stay the same.
//!
//! Dropping superseded rows copies those that stay. Most batches do not change between two scans, so the copy is kept
//! from the second scan on that finds the same rows live, as long as memory is not short.

use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{FilterBuilder, FilterPredicate};
use parking_lot::Mutex;

use crate::cache::{MemoryBudget, MemoryLease};
use crate::error::Result;
use crate::size::array_bytes;

/// Copies may take memory while the budget is filled less than this: one part in so many.
const ROOM: usize = 2;

/// What the last scans selected from one batch.
#[derive(Debug, Default)]
pub(super) struct Selections(Mutex<Option<Last>>);

#[derive(Debug)]
enum Last {
    /// One scan found these rows live.
    Seen(BooleanBuffer),
    /// So did another.
    Kept(Arc<Selection>),
}

/// Rows of a batch, column by column as they are asked for.
#[derive(Debug)]
struct Selection {
    keep: BooleanBuffer,
    columns: Box<[OnceLock<ArrayRef>]>,
    lease: MemoryLease,
}

impl Selections {
    /// The columns `projection` of the rows of `batch` that `keep` has, and how many rows these are.
    ///
    /// # Errors
    /// `Internal` if Arrow cannot filter.
    pub(super) fn select(
        &self,
        batch: &RecordBatch,
        keep: BooleanBuffer,
        projection: &[usize],
        budget: &Arc<MemoryBudget>,
    ) -> Result<(Vec<ArrayRef>, usize)> {
        let rows = keep.count_set_bits();
        let kept = self.note(&keep, batch.num_columns(), budget);
        let filter: OnceLock<FilterPredicate> = OnceLock::new();
        let copy = |i: usize| -> Result<ArrayRef> {
            let build = || FilterBuilder::new(&BooleanArray::new(keep.clone(), None)).optimize().build();
            Ok(filter.get_or_init(build).filter(batch.column(i))?)
        };
        let column = |&i: &usize| {
            let Some(kept) = &kept else { return copy(i) };
            if let Some(column) = kept.columns[i].get() {
                return Ok(Arc::clone(column));
            }
            let column = copy(i)?;
            if kept.columns[i].set(Arc::clone(&column)).is_ok() {
                kept.lease.grow(array_bytes(column.as_ref()));
            }
            Ok(column)
        };
        Ok((projection.iter().map(column).collect::<Result<_>>()?, rows))
    }

    /// Takes down that these rows are selected; the copy of them, if there is to be one.
    fn note(&self, keep: &BooleanBuffer, columns: usize, budget: &Arc<MemoryBudget>) -> Option<Arc<Selection>> {
        let mut last = self.0.lock();
        match &*last {
            Some(Last::Kept(kept)) if kept.keep == *keep => return Some(Arc::clone(kept)),
            Some(Last::Seen(seen)) if seen == keep => {
                if budget.used() > budget.limit() / ROOM {
                    return None;
                }
                let columns = (0..columns).map(|_| OnceLock::new()).collect();
                let kept = Arc::new(Selection { keep: keep.clone(), columns, lease: budget.lease() });
                *last = Some(Last::Kept(Arc::clone(&kept)));
                return Some(kept);
            }
            _ => *last = Some(Last::Seen(keep.clone())),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Int64Array, StringArray};
    use arrow::datatypes::Int64Type;

    fn batch() -> RecordBatch {
        let numbers = Int64Array::from_iter_values(0..100);
        let texts = StringArray::from_iter_values((0..100).map(|i| format!("row {i}")));
        RecordBatch::try_from_iter([("n", Arc::new(numbers) as ArrayRef), ("t", Arc::new(texts))]).unwrap()
    }

    fn even() -> BooleanBuffer {
        BooleanBuffer::collect_bool(100, |i| i % 2 == 0)
    }

    #[test]
    fn what_two_scans_select_is_copied_for_good_column_by_column() {
        let (selections, batch, budget) = (Selections::default(), batch(), MemoryBudget::new(1 << 20));
        let select = |keep, projection: &[usize]| selections.select(&batch, keep, projection, &budget).unwrap();
        let (first, rows) = select(even(), &[0]);
        assert_eq!((rows, budget.used()), (50, 0));
        let (second, _) = select(even(), &[0]);
        let (third, _) = select(even(), &[0]);
        assert_eq!(first, second);
        assert!(!Arc::ptr_eq(&first[0], &second[0]) && Arc::ptr_eq(&second[0], &third[0]));
        assert_eq!(budget.used(), 400);
        assert!(select(even(), &[1, 0]).0[0].len() == 50 && budget.used() > 600);
        // Other rows: the copy is given back, and the answer is right at once.
        let few = BooleanBuffer::collect_bool(100, |i| i > 97);
        let (other, rows) = select(few, &[0]);
        assert_eq!((rows, budget.used()), (2, 0));
        assert_eq!(other[0].as_primitive::<Int64Type>().values(), &[98, 99]);
    }

    #[test]
    fn nothing_is_kept_when_memory_is_short() {
        let (selections, batch, budget) = (Selections::default(), batch(), MemoryBudget::new(100));
        let held = budget.lease();
        held.set(60);
        for _ in 0..3 {
            assert_eq!(selections.select(&batch, even(), &[0], &budget).unwrap().1, 50);
        }
        assert_eq!(budget.used(), 60);
    }
}
