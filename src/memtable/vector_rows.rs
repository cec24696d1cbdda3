//! The vectors of a memtable's column, and its rows that are nearest to a query.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, Float32Type};

use super::batch_list::Layout;
use super::row_index::{IndexState, Indexed, RowIndex, RowIndexFactory};
use super::view::MemTableView;
use crate::distance::Metric;
use crate::error::{Error, Result};
use crate::ids::GenerationId;
use crate::schema::TableSchema;
use crate::source::Flat;
use crate::vector_index::{Class, Effort, Mask, Nearest, Request, Simd, VectorIndex, Vectors, Work, vector_of};

/// So many rows are compared one by one, or 4 for each row asked for.
const FEW: usize = 1024;

/// Makes a [`VectorRows`] for each memtable.
#[derive(Debug)]
pub struct VectorRowsFactory {
    name: String,
    column: usize,
    metric: Metric,
    width: usize,
}

impl VectorRowsFactory {
    /// Indexes called `name` of the column named `column`, a `FixedSizeList<Float32>`, for `metric`.
    ///
    /// # Errors
    /// `Invalid` if the column is none of vectors.
    pub fn try_new(schema: &TableSchema, name: &str, column: &str, metric: Metric) -> Result<Self> {
        let there = column;
        let column = schema.logical().column_with_name(column);
        let width = match column.map(|(_, field)| field.data_type()) {
            Some(DataType::FixedSizeList(element, width)) if *element.data_type() == DataType::Float32 => *width,
            _ => 0,
        };
        match (column, usize::try_from(width)) {
            (Some((column, _)), Ok(width)) if width > 0 => Ok(Self { name: name.to_string(), column, metric, width }),
            _ => Err(Error::invalid(format!("'{there}' is no column of vectors: a vector index needs FLOAT[n]"))),
        }
    }
}

impl RowIndexFactory for VectorRowsFactory {
    fn name(&self) -> &str {
        &self.name
    }

    fn create(&self, _: &TableSchema, _: GenerationId) -> Arc<dyn RowIndex> {
        let index = VectorIndex::new(self.width, self.metric).expect("try_new refuses a width of zero");
        Arc::new(VectorRows {
            column: self.column,
            metric: self.metric,
            width: self.width,
            index,
            missing: boxcar::Vec::new(),
            odd: boxcar::Vec::new(),
        })
    }
}

/// The vectors of one column of a memtable.
pub struct VectorRows {
    column: usize,
    metric: Metric,
    width: usize,
    index: VectorIndex,
    /// Rows whose distance is NULL from whatever query: without a vector, with a NULL in it, or without a direction.
    missing: boxcar::Vec<u32>,
    /// Rows whose vector holds NaN or infinity: what their distance is, only arithmetic tells.
    odd: boxcar::Vec<u32>,
}

/// Which rows are wanted.
#[derive(Debug)]
pub struct NearestRequest<'a> {
    /// The query.
    pub query: &'a [f32],
    /// How many rows.
    pub k: usize,
    /// Whether rows without a distance come first.
    pub nulls_first: bool,
    /// Row `r` may be found if bit `r % 64` of word `r / 64` is set.
    pub allowed: &'a [u64],
}

/// What was found.
#[derive(Debug)]
pub struct NearestRows {
    /// Rows in their order: the nearest, those whose distance only arithmetic tells, and rows without a distance if they
    /// are wanted.
    pub rows: Vec<usize>,
    /// Rows whose distance was estimated by the index.
    pub estimated: usize,
    /// Rows whose exact distance was computed.
    pub compared: usize,
    /// Why rows were looked at one by one, and how many; some of them may have no distance.
    pub flat: (Flat, usize),
}

impl VectorRows {
    /// The place of its column.
    pub fn column(&self) -> usize {
        self.column
    }

    /// What nearness means.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Whether it answers for this column and metric.
    pub fn answers(&self, column: usize, metric: Metric) -> bool {
        (self.column, self.metric) == (column, metric)
    }

    /// The index of `view` that answers for this column and metric, if there is one that was not given up.
    pub fn of(view: &MemTableView, column: usize, metric: Metric) -> Option<(Indexed<Self>, Arc<IndexState>)> {
        view.table().find_index(|rows: &Self| rows.answers(column, metric))
    }

    /// Whether `view` has an index of this column, whatever its metric.
    pub fn of_column(view: &MemTableView, column: usize) -> bool {
        view.table().find_index(|rows: &Self| rows.column == column).is_some()
    }

    /// Whether a search in `view`, of which the first `indexed` rows are indexed, looks at codes and at few vectors.
    pub fn is_quick(&self, view: &MemTableView, indexed: usize, request: &NearestRequest<'_>) -> bool {
        indexed + FEW >= view.watermark() && request.k <= FEW / 4 && !self.index.may_overflow(request.query)
    }

    /// Finds rows of `view`, of which the first `indexed` are indexed and the others are looked at one by one.
    ///
    /// # Errors
    /// `Invalid` if the query has another size.
    pub fn nearest(&self, view: &MemTableView, indexed: usize, request: &NearestRequest<'_>) -> Result<NearestRows> {
        let watermark = view.watermark();
        let indexed = indexed.min(watermark);
        let column = VectorColumn { layout: view.table().batches().layout(), column: self.column };
        let allows = |row: usize| request.allowed.get(row / 64).is_some_and(|word| word >> (row % 64) & 1 == 1);
        let allowed: usize = request.allowed.iter().map(|word| word.count_ones() as usize).sum();
        let why = if allowed <= FEW.max(request.k.saturating_mul(4)) {
            Flat::FewPass
        } else if self.index.may_overflow(request.query) {
            Flat::HugeQuery
        } else {
            Flat::NotIndexed
        };
        // Few rows are compared one by one, as if none were indexed.
        let indexed = if why == Flat::NotIndexed { indexed } else { 0 };
        let wanted = Request {
            vector: request.query,
            k: request.k,
            watermark: u32::try_from(indexed).unwrap_or(u32::MAX),
            mask: Mask::Bits(request.allowed),
            effort: Effort::default(),
        };
        let (near, Work { quick, exact, .. }) = self
            .index
            .search_counting(&wanted, &column)
            .map_err(|e| Error::invalid("the query does not fit the column").with_source(e))?;
        let mut nearest = Nearest::new(request.k);
        near.into_iter().for_each(|found| nearest.offer(u64::from(found.row), f64::from(found.distance)));
        let listed = |rows: &boxcar::Vec<u32>| -> Vec<usize> {
            let rows = rows.iter().map(|(_, row)| *row as usize);
            rows.take_while(|row| *row < indexed).filter(|row| allows(*row)).collect()
        };
        let mut odd = listed(&self.odd);
        let mut missing = Vec::new();
        let (simd, mut compared, mut flat) = (Simd::detect(), exact, 0);
        let set = BooleanBuffer::new(request.allowed.to_vec().into(), 0, watermark);
        for row in set.slice(indexed, watermark - indexed).set_indices().map(|row| indexed + row) {
            flat += 1;
            match Class::and_rank(self.metric, simd, request.query, column.get(row)) {
                (Class::Ranked, rank) => {
                    compared += 1;
                    nearest.offer(row as u64, rank);
                }
                (Class::Odd, _) => odd.push(row),
                (Class::Missing, _) => missing.push(row),
            }
        }
        let mut rows: Vec<usize> = nearest.into_rows().map(|row| row as usize).collect();
        // All that have no distance are alike: more than k of them are never needed.
        if request.nulls_first || rows.len() + odd.len() < request.k {
            missing.splice(0..0, listed(&self.missing));
            missing.truncate(request.k);
            rows.append(&mut missing);
        }
        rows.append(&mut odd);
        rows.sort_unstable();
        Ok(NearestRows { rows, estimated: quick, compared, flat: (why, flat) })
    }
}

impl RowIndex for VectorRows {
    fn append(&self, start: usize, rows: &RecordBatch) -> Result<()> {
        let vectors = rows.column(self.column).as_fixed_size_list();
        let mut ranked = Vec::with_capacity(vectors.len());
        for row in 0..vectors.len() {
            let position = u32::try_from(start + row).map_err(|_| Error::internal("a memtable has too many rows"))?;
            let class = Class::of(self.metric, vector_of(vectors, row));
            ranked.push(matches!(class, Class::Ranked));
            match class {
                Class::Ranked => {}
                Class::Missing => drop(self.missing.push(position)),
                Class::Odd => drop(self.odd.push(position)),
            }
        }
        let values = vectors.values().as_primitive::<Float32Type>();
        let from = vectors.value_offset(0) as usize;
        let values = &values.values()[from..from + vectors.len() * self.width];
        self.index
            .append(start, values, |row| ranked[row])
            .map_err(|e| Error::internal("vectors could not be indexed").with_source(e))
    }

    fn memory(&self) -> usize {
        self.index.memory() + (self.missing.count() + self.odd.count()) * size_of::<(u32, bool)>()
    }
}

impl fmt::Debug for VectorRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VectorRows").field("column", &self.column).field("metric", &self.metric).finish_non_exhaustive()
    }
}

/// The vectors where the rows are.
struct VectorColumn {
    layout: Arc<Layout>,
    column: usize,
}

impl VectorColumn {
    fn get(&self, row: usize) -> Option<&[f32]> {
        let chunk = self.layout.chunk_of(row);
        vector_of(chunk.batch.column(self.column).as_fixed_size_list_opt()?, row - chunk.start)
    }
}

impl Vectors for VectorColumn {
    fn vector(&self, row: u32) -> &[f32] {
        // Only rows that have a vector are compared.
        self.get(row as usize).unwrap_or_default()
    }
}
