//! The best of the few rows that sources found for a search.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::compute::{SortOptions, cast, filter_record_batch, interleave_record_batch};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::{Result as DfResult, Statistics, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, SendableRecordBatchStream,
};
use futures::{TryStreamExt, stream};

use super::leaf;
use crate::task;

/// Partitions that a task of its own is worth.
const PART: usize = 3;

/// What rows are ranked by.
#[derive(Debug, Clone)]
pub struct Rank {
    /// A number of each row, over the input's schema; rows without one are left out.
    pub value: Arc<dyn PhysicalExpr>,
    /// What the column of these numbers is called.
    pub name: String,
    /// Whether the smallest are the best.
    pub ascending: bool,
}

/// The `k` best rows of its input that pass a condition, the best first, and what they are ranked by.
///
/// Input: any partitions, of few rows. Output: one partition and, but for no rows, one batch of the columns that are
/// asked for and the ranks. A few partitions are read side by side by the task that asks: what a merge of sorted streams
/// takes for tasks and channels is more than the search of a source in memory. Many are shared out among a few tasks.
#[derive(Debug)]
pub struct BestExec {
    input: Arc<dyn ExecutionPlan>,
    predicate: Option<Arc<dyn PhysicalExpr>>,
    rank: Rank,
    k: usize,
    columns: Vec<usize>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl BestExec {
    /// The `k` best rows of `input` by `rank`, of which `predicate` is true, projected to the columns at `columns`.
    ///
    /// # Errors
    /// If the expressions do not fit the input.
    pub fn try_new(
        input: Arc<dyn ExecutionPlan>,
        predicate: Option<Arc<dyn PhysicalExpr>>,
        rank: Rank,
        k: usize,
        columns: Vec<usize>,
    ) -> DfResult<Self> {
        let read = input.schema();
        let mut fields: Vec<_> = read.project(&columns)?.fields().iter().map(Arc::clone).collect();
        fields.push(Arc::new(Field::new(&rank.name, rank.value.data_type(&read)?, true)));
        let ranks = Arc::new(Column::new(&rank.name, columns.len()));
        let order = SortOptions { descending: !rank.ascending, nulls_first: false };
        let order = [PhysicalSortExpr::new(ranks, order)];
        let properties = PlanProperties::new(
            EquivalenceProperties::new_with_orderings(Arc::new(Schema::new(fields)), [order]),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(Self { input, predicate, rank, k, columns, properties: Arc::new(properties), metrics })
    }

    fn top(&self) -> Top {
        let (predicate, rank, columns) = (self.predicate.clone(), self.rank.clone(), self.columns.clone());
        Top {
            predicate,
            rank,
            columns,
            k: self.k,
            schema: self.schema(),
            batches: Vec::new(),
            partitions: Vec::new(),
            rows: Vec::new(),
        }
    }
}

impl DisplayAs for BestExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = if self.rank.ascending { "ASC" } else { "DESC" };
        write!(f, "BestExec: k={}, {}={} {order}", self.k, self.rank.name, self.rank.value)?;
        match &self.predicate {
            Some(predicate) => write!(f, ", predicate={predicate}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for BestExec {
    fn name(&self) -> &str {
        "BestExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let (Some(input), None) = (children.pop(), children.pop()) else {
            return internal_err!("BestExec has one input");
        };
        let (predicate, rank, columns) = (self.predicate.clone(), self.rank.clone(), self.columns.clone());
        Ok(Arc::new(Self::try_new(input, predicate, rank, self.k, columns)?))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("BestExec has no partition {partition}");
        }
        let partitions = 0..self.input.output_partitioning().partition_count();
        // Memtables are last: while other threads search them, the rows of the first sources are ranked here.
        let found = partitions.rev().map(|partition| {
            let found = self.input.execute(partition, Arc::clone(&context))?;
            Ok(found.map_ok(move |batch| (partition, batch)).try_collect::<Vec<_>>())
        });
        let found = found.collect::<DfResult<Vec<_>>>()?;
        let mut top = self.top();
        let best = stream::once(async move {
            // A partition may wait for another.
            let found = task::shared_out(found, PART, usize::MAX).await?;
            found.iter().flatten().try_for_each(|(partition, batch)| top.offer(*partition, batch))?;
            top.best()
        });
        let best = best.try_filter(|batch| std::future::ready(batch.num_rows() > 0));
        Ok(leaf::counted(self.schema(), best, &self.metrics, partition))
    }

    fn partition_statistics(&self, _: Option<usize>) -> DfResult<Arc<Statistics>> {
        Ok(leaf::rows_at_most(&self.schema(), Precision::Inexact(self.k)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn reset_state(self: Arc<Self>) -> DfResult<Arc<dyn ExecutionPlan>> {
        let input = Arc::clone(&self.input);
        self.with_new_children(vec![input])
    }
}

/// The best rows so far.
struct Top {
    predicate: Option<Arc<dyn PhysicalExpr>>,
    rank: Rank,
    columns: Vec<usize>,
    k: usize,
    schema: SchemaRef,
    /// Rows as they come out.
    batches: Vec<RecordBatch>,
    /// The partition that each batch is of.
    partitions: Vec<usize>,
    /// Their ranks, and where they are: which batch, which row.
    rows: Vec<(f64, usize, usize)>,
}

impl Top {
    fn offer(&mut self, partition: usize, batch: &RecordBatch) -> DfResult<()> {
        let passed = match &self.predicate {
            Some(predicate) => {
                let passed = predicate.evaluate(batch)?.into_array(batch.num_rows())?;
                filter_record_batch(batch, passed.as_boolean())?
            }
            None => batch.clone(),
        };
        let ranks = self.rank.value.evaluate(&passed)?.into_array(passed.num_rows())?;
        let numbers = cast(&ranks, &DataType::Float64)?;
        let numbers: &Float64Array = numbers.as_primitive::<Float64Type>();
        let place = self.batches.len();
        let ranked = (0..passed.num_rows()).filter(|row| numbers.is_valid(*row));
        self.rows.extend(ranked.map(|row| (numbers.value(row), place, row)));
        let mut columns: Vec<ArrayRef> = self.columns.iter().map(|i| Arc::clone(passed.column(*i))).collect();
        columns.push(ranks);
        self.batches.push(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        self.partitions.push(partition);
        Ok(())
    }

    fn best(mut self) -> DfResult<RecordBatch> {
        let ascending = self.rank.ascending;
        let order = |a: &(f64, usize, usize), b: &(f64, usize, usize)| -> Ordering {
            let by_rank = a.0.total_cmp(&b.0);
            let by_rank = if ascending { by_rank } else { by_rank.reverse() };
            // The batches of a partition come in order, partitions as they are done.
            let place = |row: &(f64, usize, usize)| (self.partitions[row.1], row.1, row.2);
            by_rank.then_with(|| place(a).cmp(&place(b)))
        };
        if self.k == 0 || self.rows.is_empty() {
            return Ok(RecordBatch::new_empty(self.schema));
        }
        if self.k < self.rows.len() {
            self.rows.select_nth_unstable_by(self.k, order);
            self.rows.truncate(self.k);
        }
        self.rows.sort_unstable_by(order);
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        let places: Vec<(usize, usize)> = self.rows.iter().map(|(_, batch, row)| (*batch, *row)).collect();
        Ok(interleave_record_batch(&batches, &places)?)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float32Array, Int64Array};
    use arrow::datatypes::Int64Type;
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{binary, col, lit};
    use datafusion::physical_plan::collect;

    use super::*;

    fn batch(rows: &[(i64, Option<f32>)]) -> RecordBatch {
        let ids: Int64Array = rows.iter().map(|(id, _)| *id).collect();
        let values: Float32Array = rows.iter().map(|(_, value)| *value).collect();
        RecordBatch::try_from_iter_with_nullable([
            ("value", Arc::new(values) as ArrayRef, true),
            ("id", Arc::new(ids) as ArrayRef, false),
        ])
        .unwrap()
    }

    async fn best(ascending: bool, k: usize) -> (Vec<i64>, usize) {
        let partitions = [
            vec![batch(&[(1, Some(0.5)), (2, None), (3, Some(9.0))]), batch(&[])],
            vec![],
            vec![batch(&[(4, Some(-1.0)), (5, Some(3.0))]), batch(&[(6, Some(f32::NAN)), (70, Some(4.0))])],
        ];
        let schema = batch(&[]).schema();
        let input = MemorySourceConfig::try_new_exec(&partitions, Arc::clone(&schema), None).unwrap();
        let few = binary(col("id", &schema).unwrap(), Operator::Lt, lit(10i64), &schema).unwrap();
        let rank = Rank { value: col("value", &schema).unwrap(), name: "_rank".into(), ascending };
        let plan: Arc<dyn ExecutionPlan> = Arc::new(BestExec::try_new(input, Some(few), rank, k, vec![1]).unwrap());
        let found = collect(plan.reset_state().unwrap(), Arc::default()).await.unwrap();
        let ids = found.iter().flat_map(|batch| batch["id"].as_primitive::<Int64Type>().values().to_vec());
        (ids.collect(), found.iter().map(|batch| batch["_rank"].len()).sum())
    }

    #[tokio::test]
    async fn the_best_of_all_partitions_come_out_in_order() {
        assert_eq!(best(true, 3).await, (vec![4, 1, 5], 3));
        assert_eq!(best(true, 9).await, (vec![4, 1, 5, 3, 6], 5));
        assert_eq!(best(false, 3).await, (vec![6, 3, 5], 3));
        assert_eq!(best(false, 0).await, (vec![], 0));
    }
}
