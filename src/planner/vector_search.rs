//! The nearest rows of a source, by its index.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::physical_expr::PhysicalExpr;

use super::text_match::{TextMatches, positions};
use crate::block_list::MemTableRows;
use crate::distance::Metric;
use crate::error::Result;
use crate::memtable::{NearestRequest, VectorRows};
use crate::source::{Nearest, RowSource, VectorSource};
use crate::task;
use crate::text_search::TextSearch;

/// Rows from which on a search leaves the async workers.
const HEAVY: usize = 4096;

/// What is searched for in every source alike.
#[derive(Debug)]
pub struct VectorSearch {
    /// The column, by its place in the logical schema.
    pub column: usize,
    /// What nearness means.
    pub metric: Metric,
    /// The query: finite, and not zero under cosine.
    pub query: Vec<f32>,
    /// How many rows.
    pub k: usize,
    /// Whether rows without a distance come first.
    pub nulls_first: bool,
    /// What rows must pass, over the logical schema.
    pub predicate: Option<Arc<dyn PhysicalExpr>>,
}

/// A memtable that has an index for the search.
#[derive(Debug)]
pub(super) struct MemTableSearch {
    rows: MemTableRows,
    search: Arc<VectorSearch>,
    texts: Arc<[TextSearch]>,
}

impl MemTableSearch {
    /// The search in the live rows of a memtable that match `texts`; `None` if no index answers it.
    pub(super) fn try_new(rows: &MemTableRows, search: &Arc<VectorSearch>, texts: &Arc<[TextSearch]>) -> Option<Self> {
        VectorRows::of(rows.view(), search.column, search.metric)?;
        Some(Self { rows: rows.clone(), search: Arc::clone(search), texts: Arc::clone(texts) })
    }

    fn find(&self, blocked: &roaring::RoaringTreemap, projection: &[usize], schema: &SchemaRef) -> Result<Nearest> {
        let (view, search) = (self.rows.view(), &self.search);
        let mut allowed = view.live_words(blocked);
        TextMatches::narrow(view, &self.texts, &mut allowed);
        if let Some(predicate) = &search.predicate {
            allowed = view.passing(allowed, predicate)?;
        }
        let candidates = allowed.iter().map(|word| word.count_ones() as usize).sum();
        let request =
            NearestRequest { query: &search.query, k: search.k, nulls_first: search.nulls_first, allowed: &allowed };
        let Some((index, state)) = VectorRows::of(view, search.column, search.metric) else {
            // Given up since the plan was made: all rows are compared above.
            let rows = view.take(&positions(allowed, view.watermark()), projection, schema)?;
            return Ok(Nearest { rows, candidates, distances: 0, flat: candidates });
        };
        let found = index.nearest(view, state.indexed(), &request)?;
        let rows: RecordBatch = view.take(&found.rows, projection, schema)?;
        Ok(Nearest { rows, candidates, distances: found.work.exact + found.flat, flat: found.flat })
    }
}

#[async_trait]
impl VectorSource for MemTableSearch {
    fn label(&self) -> String {
        format!("source={}, index=vector, k={}", self.rows.label(), self.search.k)
    }

    fn limit(&self) -> usize {
        self.search.k.min(self.rows.row_count())
    }

    async fn nearest(&self, projection: &[usize], schema: &SchemaRef) -> Result<Nearest> {
        let blocked = self.rows.blocked().await?;
        if self.rows.row_count() < HEAVY {
            return self.find(&blocked, projection, schema);
        }
        let search = Self { rows: self.rows.clone(), search: Arc::clone(&self.search), texts: Arc::clone(&self.texts) };
        let (projection, schema) = (projection.to_vec(), Arc::clone(schema));
        task::blocking(move || search.find(&blocked, &projection, &schema)).await
    }
}
