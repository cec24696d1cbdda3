//! One older and one newer source: which rows of the older one the newer one supersedes, at every watermark.

use std::sync::Arc;

use roaring::RoaringTreemap;

use super::loaded::LoadedKeys;
use crate::key::KeyRef;
use crate::memtable::MemTableView;

/// What is known of a pair so far. A newer memtable grows, so each superseded row is kept with the position that
/// superseded it first: a snapshot at watermark `w` sees those below `w`.
#[derive(Debug, Default)]
pub(super) struct Pair {
    /// Rows of the newer source that were probed.
    probed: usize,
    /// Position in the newer source and row of the older one, positions ascending.
    hits: Vec<(u64, u64)>,
    seen: RoaringTreemap,
    /// The rows of the first so many hits.
    memo: (usize, Arc<RoaringTreemap>),
}

impl Pair {
    /// Passes over rows of `newer` whose keys the older source has not, up to the first that it may have. Returns whether
    /// there is none, nor was before: then resolving finds nothing, and asks the older source for nothing.
    pub(super) fn pass_over(&mut self, newer: &MemTableView, may_hold: impl Fn(KeyRef<'_>) -> bool) -> bool {
        let (keys, rows) = (newer.table().keys(), newer.watermark());
        let mut may = false;
        while !may && self.probed < rows {
            keys.for_each(self.probed..self.probed + 1, |_, key| may = may_hold(key));
            self.probed += usize::from(!may);
        }
        !may && self.hits.is_empty()
    }

    /// The rows of the older source that `newer` supersedes; `find` tells the older source's row of a key.
    pub(super) fn resolve(
        &mut self,
        newer: &LoadedKeys,
        find: impl Fn(KeyRef<'_>, u64) -> Option<u64>,
    ) -> Arc<RoaringTreemap> {
        let rows = newer.rows();
        if rows > self.probed {
            newer.for_each_key(self.probed..rows, |position, key| {
                if let Some(row) = find(key, key.hash())
                    && self.seen.insert(row)
                {
                    self.hits.push((position as u64, row));
                }
            });
            self.probed = rows;
        }
        let count = self.hits.partition_point(|(position, _)| *position < rows as u64);
        if count > self.memo.0 {
            let rows = Arc::make_mut(&mut self.memo.1);
            rows.extend(self.hits[self.memo.0..count].iter().map(|(_, row)| *row));
            self.memo.0 = count;
        } else if count < self.memo.0 {
            // An older snapshot than the last one asked for.
            return Arc::new(self.hits[..count].iter().map(|(_, row)| *row).collect());
        }
        Arc::clone(&self.memo.1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::cache::MemoryBudget;
    use crate::ids::GenerationId;
    use crate::memtable::MemTable;
    use crate::schema::TableSchema;

    fn memtable(ids: &[i64]) -> MemTableView {
        let schema = Schema::new(vec![Field::new("id", DataType::Int64, false)]);
        let schema = Arc::new(TableSchema::try_new(&schema, &["id".into()]).unwrap());
        let lease = MemoryBudget::new(1 << 20).lease();
        let table = MemTable::new(GenerationId(1), Arc::clone(&schema), Duration::ZERO, lease);
        let rows = RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef)]);
        let rows = schema.to_stored(&rows.unwrap()).unwrap();
        let keys = schema.key().of_batch(&rows).unwrap();
        table.append(rows, &keys, 100);
        MemTableView::new(Arc::new(table), ids.len())
    }

    #[test]
    fn who_has_superseded_rows_is_not_passed_over() {
        let newer = memtable(&[1, 2, 3]);
        let third = memtable(&[3]);
        let is_third = |key: KeyRef<'_>| third.find(key, key.hash()).is_some();
        let mut pair = Pair::default();
        assert!(pair.pass_over(&newer, |_| false));
        let mut pair = Pair::default();
        assert!(!pair.pass_over(&newer, is_third) && pair.probed == 2);
        let find = |key: KeyRef<'_>, _| is_third(key).then_some(7);
        let rows = pair.resolve(&LoadedKeys::MemTable(newer.clone()), find);
        assert!(rows.iter().eq([7]));
        // All rows are probed; who passed over it, and then began anew, would not find the one again.
        assert!(!pair.pass_over(&newer, is_third));
    }
}
