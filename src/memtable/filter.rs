//! Which rows of a memtable pass a filter.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::concat;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;

use super::view::{MemTableView, batch_of};
use crate::error::Result;
use crate::source::Predicate;

/// Rows that are evaluated together where they have to be put together first.
const TOGETHER: usize = 8192;
/// One row in so many: if no more are asked for, they alone are read.
const FEW: usize = 16;

impl MemTableView {
    /// The rows of `words`, which are live, that also pass `predicate`: a boolean expression over the logical schema,
    /// every column nullable. Others are not evaluated.
    ///
    /// # Errors
    /// What evaluating raises.
    pub fn passing(&self, words: Vec<u64>, predicate: &Arc<dyn PhysicalExpr>) -> Result<Vec<u64>> {
        // Only what it reads: rows that are left out are copied around.
        let filter = Predicate::over(self.table().schema().logical(), predicate)?;
        let asked: usize = words.iter().map(|word| word.count_ones() as usize).sum();
        // Who asks may ask of one slice of the rows.
        let first = words.iter().position(|word| *word != 0).unwrap_or(0);
        let last = words.iter().rposition(|word| *word != 0).unwrap_or(0);
        match asked * FEW <= (last + 1 - first) * 64 {
            true => self.pass_taken(words, &filter),
            false => self.pass_all(words, &filter),
        }
    }

    /// Reads the rows that are asked for.
    fn pass_taken(&self, mut words: Vec<u64>, filter: &Predicate) -> Result<Vec<u64>> {
        let rows = BooleanBuffer::new(words.clone().into(), 0, self.watermark());
        let rows: Vec<usize> = rows.set_indices().collect();
        for rows in rows.chunks(TOGETHER) {
            let batch = self.take(rows, &filter.columns, &filter.schema)?;
            let passed = filter.expr.evaluate(&batch)?.into_array(rows.len())?;
            let passed = passed.as_boolean();
            for (i, row) in rows.iter().enumerate() {
                if !(passed.is_valid(i) && passed.value(i)) {
                    words[row / 64] &= !(1 << (row % 64));
                }
            }
        }
        Ok(words)
    }

    /// Reads all rows; small batches of narrow columns together.
    fn pass_all(&self, mut words: Vec<u64>, filter: &Predicate) -> Result<Vec<u64>> {
        let is_narrow = filter.schema.fields().iter().all(|field| is_narrow(field.data_type()));
        let together = if is_narrow { TOGETHER } else { 0 };
        let mut group = Group::default();
        for chunk in self.table().batches().below(self.watermark()) {
            let rows = chunk.batch.num_rows().min(self.watermark() - chunk.start);
            let is_asked = any(&words, chunk.start, rows);
            if group.rows > 0 && (!is_asked || group.rows + rows > together) {
                std::mem::take(&mut group).filter(filter, &mut words)?;
            }
            if !is_asked {
                continue;
            }
            if group.rows == 0 {
                group.start = chunk.start;
            }
            let column = |i: &usize| match chunk.batch.column(*i) {
                all if all.len() == rows => Arc::clone(all),
                more => more.slice(0, rows),
            };
            group.batches.push(filter.columns.iter().map(column).collect());
            group.rows += rows;
        }
        if group.rows > 0 {
            group.filter(filter, &mut words)?;
        }
        Ok(words)
    }
}

/// Whether a bit of the words is set from `start` on, among the next `rows`.
fn any(words: &[u64], start: usize, rows: usize) -> bool {
    let (first, end) = (start / 64, (start + rows).div_ceil(64));
    (first..end).any(|at| {
        let from = start.saturating_sub(at * 64);
        let behind = (at * 64 + 64).saturating_sub(start + rows);
        words[at] >> from << from << behind != 0
    })
}

/// Batches whose rows follow each other.
#[derive(Default)]
struct Group {
    start: usize,
    rows: usize,
    batches: Vec<Vec<ArrayRef>>,
}

impl Group {
    /// Unsets the bits in `words` of the rows that do not pass.
    fn filter(self, filter: &Predicate, words: &mut [u64]) -> Result<()> {
        let (start, rows) = (self.start, self.rows);
        let (first, shift) = (start / 64, start % 64);
        let asked = words[first..(start + rows).div_ceil(64)].to_vec();
        let asked = BooleanBuffer::new(asked.into(), shift, rows);
        let (batch, selection) = (self.batch(&filter.schema)?, BooleanArray::new(asked, None));
        let passed = filter.expr.evaluate_selection(&batch, &selection)?.into_array(rows)?;
        let passed = passed.as_boolean();
        let failed = match passed.nulls() {
            Some(valid) => !&(passed.values() & valid.inner()),
            None => !passed.values(),
        };
        // What lies behind the last row is 0 there, and there may be one word too many.
        for (at, failed) in (first..).zip(failed.bit_chunks().iter_padded().take(rows.div_ceil(64))) {
            words[at] &= !(failed << shift);
            if let Some(next) = words.get_mut(at + 1).filter(|_| shift > 0) {
                *next &= !(failed >> (64 - shift));
            }
        }
        Ok(())
    }

    /// All rows as one batch of `schema`.
    fn batch(mut self, schema: &SchemaRef) -> Result<RecordBatch> {
        if self.batches.len() == 1 {
            return batch_of(schema, self.batches.remove(0), self.rows);
        }
        let column = |place: usize| {
            let parts: Vec<&dyn Array> = self.batches.iter().map(|batch| batch[place].as_ref()).collect();
            concat(&parts)
        };
        let columns = (0..schema.fields().len()).map(column).collect::<Result<Vec<_>, _>>()?;
        batch_of(schema, columns, self.rows)
    }
}

/// Whether values are of few bytes: putting them together takes less than evaluating them apart.
fn is_narrow(data_type: &DataType) -> bool {
    data_type.is_primitive() || *data_type == DataType::Boolean
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{Field, Schema};
    use datafusion::common::DFSchema;
    use datafusion::execution::context::ExecutionProps;
    use datafusion::logical_expr::{Expr, col, lit};
    use datafusion::physical_expr::create_physical_expr;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::ids::GenerationId;
    use crate::memtable::MemTable;
    use crate::schema::TableSchema;

    /// Rows 0, 1, … in batches of these sizes, with NULL in every fifth row of `n`.
    fn view(sizes: &[usize], watermark: usize) -> MemTableView {
        let fields = vec![
            Field::new("id", DataType::Int64, false),
            Field::new("n", DataType::Int64, true),
            Field::new("name", DataType::Utf8, true),
        ];
        let schema = Arc::new(TableSchema::try_new(&Schema::new(fields), &["id".into()]).unwrap());
        let lease = crate::cache::MemoryBudget::new(usize::MAX).lease();
        let table = Arc::new(MemTable::new(GenerationId(1), Arc::clone(&schema), Duration::ZERO, lease));
        let mut start = 0;
        for size in sizes {
            let ids = start..start + *size as i64;
            let rows = RecordBatch::try_from_iter([
                ("id", Arc::new(Int64Array::from_iter_values(ids.clone())) as ArrayRef),
                ("n", Arc::new(ids.clone().map(|i| (i % 5 != 0).then_some(i)).collect::<Int64Array>())),
                ("name", Arc::new(StringArray::from_iter_values(ids.map(|i| format!("row {}", i % 7))))),
            ]);
            let stored = schema.to_stored(&rows.unwrap()).unwrap();
            let keys = schema.key().of_batch(&stored).unwrap();
            table.append(stored, &keys, 100);
            start += *size as i64;
        }
        table.publish(table.rows());
        MemTableView::new(table, watermark)
    }

    fn physical(view: &MemTableView, filter: &Expr) -> Arc<dyn PhysicalExpr> {
        let schema = DFSchema::try_from(view.table().schema().logical().as_ref().clone()).unwrap();
        create_physical_expr(filter, &schema, &ExecutionProps::new()).unwrap()
    }

    #[test]
    fn rows_pass_alone_or_together() {
        let mut rng = StdRng::seed_from_u64(5);
        for round in 0..24 {
            let sizes: Vec<usize> = match round {
                0 => vec![64],
                1 => vec![128; 3],
                2 => vec![10; 64],
                3 => vec![TOGETHER, TOGETHER, 64],
                _ => (0..rng.random_range(1..40)).map(|_| rng.random_range(1..400)).collect(),
            };
            let rows: usize = sizes.iter().sum();
            let view = view(&sizes, if round % 3 == 2 { rows - 1 } else { rows });
            let limit = rng.random_range(0..rows as i64);
            let is_named = |row: usize| row % 7 == 3;
            let is_low = |row: usize| !row.is_multiple_of(5) && (row as i64) < limit;
            let of_name = col("name").eq(lit("row 3"));
            let of_number = col("n").lt(lit(limit));
            for share in [1.0, 0.5, 0.01] {
                let asked: Vec<bool> = (0..view.watermark()).map(|_| rng.random_bool(share)).collect();
                let mut words = vec![0u64; view.watermark().div_ceil(64)];
                (0..asked.len()).filter(|row| asked[*row]).for_each(|row| words[row / 64] |= 1 << (row % 64));
                let check = |filter: Expr, passes: &dyn Fn(usize) -> bool| {
                    let found = view.passing(words.clone(), &physical(&view, &filter)).unwrap();
                    let is_set = |row: usize| found[row / 64] >> (row % 64) & 1 == 1;
                    let wrong = (0..asked.len()).find(|row| is_set(*row) != (asked[*row] && passes(*row)));
                    assert_eq!(wrong, None, "{filter}, {sizes:?}");
                };
                check(of_number.clone(), &is_low);
                check(of_name.clone(), &is_named);
                check(of_number.clone().and(of_name.clone()), &|row| is_low(row) && is_named(row));
                check(lit(true), &|_| true);
            }
        }
    }

    #[test]
    fn rows_that_are_not_asked_for_are_not_evaluated() {
        let view = view(&[10; 40], 400);
        let halves = physical(&view, &(lit(1i64) / (col("id") - lit(7i64))).gt_eq(lit(0i64)));
        let words = vec![u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX, (1 << 16) - 1];
        assert!(view.passing(words.clone(), &halves).is_err(), "1 / 0");
        for mut words in [words, vec![0b1111_1000, 0, 0, 0, 0, 0, 0]] {
            words[0] &= !(1 << 7);
            view.passing(words, &halves).unwrap();
        }
    }
}
