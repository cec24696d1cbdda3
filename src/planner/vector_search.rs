//! The nearest rows of a source, by its index.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::physical_expr::PhysicalExpr;

use super::text_match::{bits, matching_rows, positions};
use super::value_match::narrow;
use crate::block_list::MemTableRows;
use crate::distance::Metric;
use crate::error::Result;
use crate::memtable::{NearestRequest, VectorRows};
use crate::settings::SearchEffort;
use crate::source::{Best, Flat, RowSource, TopKSource, ValueRanges, Work};
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
    /// What rows must pass beside text queries, over the logical schema.
    pub beside_texts: Option<Arc<dyn PhysicalExpr>>,
    /// What that lets columns have.
    pub ranges: Vec<ValueRanges>,
    /// How thoroughly indexes of generations and base are searched.
    pub effort: SearchEffort,
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

    fn find(&self, blocked: &roaring::RoaringTreemap, projection: &[usize], schema: &SchemaRef) -> Result<Best> {
        let (view, search) = (self.rows.view(), &self.search);
        let mut allowed = view.live_words(blocked);
        let mut work = Work::default();
        work.add("rows_dropped", view.watermark() - bits(&allowed));
        narrow(view, &search.ranges, &mut allowed);
        let mut filter = Work::default();
        allowed = matching_rows(view, self.texts.iter(), allowed, &mut filter)?;
        work.filtered(&filter);
        if let Some(predicate) = &search.beside_texts {
            allowed = view.passing(allowed, predicate)?;
        }
        let candidates = bits(&allowed);
        work.add("candidates", candidates);
        let request =
            NearestRequest { query: &search.query, k: search.k, nulls_first: search.nulls_first, allowed: &allowed };
        let Some((index, state)) = VectorRows::of(view, search.column, search.metric) else {
            // Given up since the plan was made: all rows are compared above.
            let rows = view.take(&positions(allowed, view.watermark()), projection, schema)?;
            work.flat(Flat::NoIndex, candidates);
            return Ok(Best { rows, work });
        };
        let found = index.nearest(view, state.indexed(), &request)?;
        let rows = view.take(&found.rows, projection, schema)?;
        work.add("estimates", found.work.quick);
        work.add("distances", found.work.exact + found.flat);
        work.flat(if found.few { Flat::FewPass } else { Flat::NotIndexed }, found.flat);
        Ok(Best { rows, work })
    }
}

#[async_trait]
impl TopKSource for MemTableSearch {
    fn node(&self) -> &'static str {
        "VectorTopKExec"
    }

    fn label(&self) -> String {
        format!("source={}, index=vector, k={}", self.rows.label(), self.search.k)
    }

    fn limit(&self) -> usize {
        self.search.k.min(self.rows.row_count())
    }

    async fn best(&self, projection: &[usize], schema: &SchemaRef) -> Result<Best> {
        let blocked = self.rows.blocked().await?;
        if self.rows.row_count() < HEAVY {
            return self.find(&blocked, projection, schema);
        }
        let search = Self { rows: self.rows.clone(), search: Arc::clone(&self.search), texts: Arc::clone(&self.texts) };
        let (projection, schema) = (projection.to_vec(), Arc::clone(schema));
        task::blocking(move || search.find(&blocked, &projection, &schema)).await
    }
}
