//! All live rows, or those of some keys.

use std::sync::Arc;

use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::union::UnionExec;
use tracing::Span;

use super::dataset_search::DatasetSearch;
use super::near_hits::NearHits;
use super::point_lookup::{PointLookup, projected};
use super::pushdown::{FilterSupport, key_filter, support};
use super::sources::{Source, of_source};
use super::stored_matches::StoredMatches;
use super::stored_ranking::{BestTexts, StoredRanking};
use super::text_match::TextMatches;
use super::text_ranking::{MemTableRanking, TextRanking};
use super::text_scorer::TextScorer;
use super::value_match::{ValueMatches, value_ranges};
use super::vector_search::{MemTableSearch, VectorSearch};
use super::whereabouts::KeyLoading;
use crate::block_list::BlockLists;
use crate::distance::Metric;
use crate::error::Result;
use crate::memtable::VectorRows;
use crate::physical_plan::{AppendExec, FirstMatchExec, PrepareExec, TopKExec};
use crate::source::{Preparation, RowSource, TopKSource, ValueRanges};
use crate::text_search::TextSearch;
use crate::version::Snapshot;

/// Which rows are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScanRequest<'a> {
    /// The logical columns; all if `None`.
    pub projection: Option<&'a [usize]>,
    /// A conjunction. Filters that are not [`FilterSupport::Exact`] must be applied again above.
    pub filters: &'a [Expr],
    /// At least so many rows come out if there are that many.
    pub limit: Option<usize>,
    /// Text queries that every row must match, which is decided above: sources may leave out rows that do not.
    pub texts: &'a [TextSearch],
    /// Only the best rows: each source may leave out what is not among its own best, or not among the best of all. They
    /// must be ranked above, and pass there all that the search asks of them.
    pub search: Option<&'a Search>,
    /// Why all rows are compared, of a search that is not told.
    pub flat: Option<&'static str>,
    /// What must be known before rows are looked at.
    pub scorers: &'a [Arc<TextScorer>],
    /// Whether the keys of all generations are in memory before a row comes out.
    pub with_keys: bool,
    /// How many generations have their keys loaded while those of one are, to find the rows of some keys.
    pub lookahead: usize,
    /// What traces the search.
    pub span: Option<&'a Span>,
}

/// The rows that are wanted of each source, and their order.
#[derive(Debug, Clone)]
pub enum Search {
    /// Those nearest to a vector.
    Vector(Arc<VectorSearch>),
    /// Those whose texts score most.
    Text(Arc<TextRanking>),
}

/// What the sources of one query tell each other.
#[derive(Debug, Default)]
struct Together {
    near_hits: Arc<NearHits>,
    best_texts: Arc<BestTexts>,
}

impl Search {
    /// What it is called where it is traced.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Vector(_) => "vector",
            Self::Text(_) => "text",
        }
    }

    /// How many rows are wanted.
    pub(crate) fn k(&self) -> usize {
        match self {
            Self::Vector(search) => search.k,
            Self::Text(ranking) => ranking.k,
        }
    }

    /// The best rows of a source that match `texts`; `None` if no index finds them. All sources of a query have the same
    /// `together`.
    fn in_source(
        &self,
        source: &Source,
        texts: &Arc<[TextSearch]>,
        together: &Together,
    ) -> Option<Arc<dyn TopKSource>> {
        match (self, source) {
            (Self::Vector(search), Source::MemTable(rows)) => {
                Some(Arc::new(MemTableSearch::try_new(rows, search, texts)?))
            }
            (Self::Vector(search), Source::Stored(rows)) => {
                Some(Arc::new(DatasetSearch::try_new(rows, search, texts, &together.near_hits)?))
            }
            (Self::Text(ranking), Source::MemTable(rows)) => {
                Some(Arc::new(MemTableRanking::try_new(rows, ranking, texts)?))
            }
            (Self::Text(ranking), Source::Stored(rows)) => {
                Some(Arc::new(StoredRanking::try_new(rows, ranking, texts, &together.best_texts)?))
            }
        }
    }
}

impl Search {
    /// Why no index of `source` finds the best rows.
    fn missing_index(&self, source: &Source) -> &'static str {
        let Self::Vector(search) = self else { return "no index" };
        let of_other_metric = match source {
            Source::MemTable(rows) => VectorRows::of_column(rows.view(), search.column),
            Source::Stored(rows) if rows.handle().is_resident() => return "in memory",
            Source::Stored(rows) => {
                Metric::ALL.iter().any(|metric| rows.handle().vector_index_kind(search.column, *metric).is_some())
            }
        };
        if of_other_metric { "other metric" } else { "no index" }
    }
}

/// Plans a scan.
///
/// # Errors
/// `Invalid` if a filter cannot be evaluated on the table's columns.
pub fn plan_scan(
    snapshot: &Arc<Snapshot>,
    lists: &Arc<BlockLists>,
    request: ScanRequest<'_>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let rows = plan_rows(snapshot, lists, request)?;
    let scorers = request.scorers.iter().map(|scorer| Arc::clone(scorer) as Arc<dyn Preparation>);
    let keys = request.with_keys.then(|| KeyLoading::of(snapshot)).flatten();
    let preparations: Vec<Arc<dyn Preparation>> =
        keys.into_iter().map(|keys| Arc::new(keys) as Arc<dyn Preparation>).chain(scorers).collect();
    if preparations.is_empty() {
        return Ok(rows);
    }
    Ok(Arc::new(PrepareExec::new(rows, preparations).within(request.span)))
}

fn plan_rows(
    snapshot: &Arc<Snapshot>,
    lists: &Arc<BlockLists>,
    request: ScanRequest<'_>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let ScanRequest { projection, filters, limit, texts, search, flat, lookahead, .. } = request;
    let table = snapshot.version().base.schema();
    let all: Vec<usize>;
    let projection = match projection {
        Some(projection) => projection,
        None => {
            all = (0..table.logical().fields().len()).collect();
            &all
        }
    };
    let schema = projected(table.logical(), projection);
    if let Some((keys, _)) = key_filter(table.key(), filters) {
        if keys[0].is_empty() {
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let source = PointLookup::new(Arc::clone(snapshot), Arc::clone(lists), keys, lookahead);
        return Ok(Arc::new(FirstMatchExec::new(Arc::new(source), projection.to_vec(), schema)));
    }
    snapshot.check()?;
    let pushed: Vec<Expr> =
        filters.iter().filter(|f| support(table, f) != FilterSupport::Unsupported).cloned().collect();

    let texts: Arc<[TextSearch]> = texts.into();
    let ranges: Arc<[ValueRanges]> = value_ranges(table, filters).into();
    let together = Together::default();
    let mut resident: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
    let mut arms: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
    for source in Source::all(snapshot, lists) {
        if let Some(best) = search.and_then(|search| search.in_source(&source, &texts, &together)) {
            arms.push(Arc::new(TopKExec::new(best, projection.to_vec(), Arc::clone(&schema)).within(request.span)));
            continue;
        }
        let matches: Option<Arc<dyn RowSource>> = match &source {
            Source::MemTable(rows) => match TextMatches::try_new(rows, &texts) {
                Some(matches) => Some(Arc::new(matches)),
                None => ValueMatches::try_new(rows, &ranges).map(|rows| Arc::new(rows) as _),
            },
            Source::Stored(rows) => StoredMatches::try_new(rows, &texts).map(|rows| Arc::new(rows) as _),
        };
        if let Some(matches) = matches {
            let rows = of_source(matches, projection, &schema);
            if source.is_resident() { &mut resident } else { &mut arms }.push(rows);
            continue;
        }
        let why = match search {
            Some(search) => Some(search.missing_index(&source)),
            None => flat.or((!texts.is_empty()).then_some("no index")),
        };
        let rows = source.live(projection, &schema, &pushed, &ranges, why)?;
        if source.is_resident() { &mut resident } else { &mut arms }.push(rows);
    }
    match resident.len() {
        0 => {}
        1 => arms.insert(0, resident.remove(0)),
        _ => arms.insert(0, Arc::new(AppendExec::try_new(resident)?)),
    }
    if let Some(limit) = limit {
        arms = arms.into_iter().map(|arm| Arc::new(LocalLimitExec::new(arm, limit)) as _).collect();
    }
    Ok(match arms.len() {
        0 => Arc::new(EmptyExec::new(schema)),
        1 => arms.remove(0),
        _ => UnionExec::try_new(arms)?,
    })
}
