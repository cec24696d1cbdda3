//! All live rows, or those of some keys.

use std::sync::Arc;

use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::union::UnionExec;

use super::point_lookup::{PointLookup, projected};
use super::pushdown::{FilterSupport, key_filter, support};
use super::text_match::TextMatches;
use super::vector_search::{MemTableSearch, VectorSearch};
use crate::block_list::{BaseMask, BlockLists, GenerationMask, KeySource, MemTableRows, SourceId};
use crate::error::Result;
use crate::physical_plan::{AppendExec, BlockListExec, FirstMatchExec, MemTableScanExec, VectorTopKExec};
use crate::source::{RowSource, VectorSource};
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
    /// Only the rows nearest to a vector: each source may leave out what is not among its own nearest. They must be
    /// ranked above.
    pub search: Option<&'a Arc<VectorSearch>>,
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
    let ScanRequest { projection, filters, limit, texts, search } = request;
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
        let source = PointLookup::new(Arc::clone(snapshot), Arc::clone(lists), keys);
        return Ok(Arc::new(FirstMatchExec::new(Arc::new(source), projection.to_vec(), schema)));
    }
    snapshot.check()?;
    let pushed: Vec<Expr> =
        filters.iter().filter(|f| support(table, f) != FilterSupport::Unsupported).cloned().collect();

    let mut in_memory: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
    let mut arms: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
    let mut everything: Vec<KeySource> = Vec::new();
    let shards = snapshot.shards().count();
    let texts: Arc<[TextSearch]> = texts.into();
    for (s, (shard, views)) in snapshot.shards().enumerate() {
        let place: Arc<str> = if shards > 1 { format!("shard {s}, ").into() } else { Arc::default() };
        let sources = snapshot.key_sources(s);
        let visible: Vec<_> = views.iter().filter(|v| v.watermark() > 0).collect();
        for (newer, view) in visible.iter().enumerate() {
            let newer: Arc<[KeySource]> = sources[..newer].into();
            let rows = MemTableRows::new(Arc::clone(lists), (*view).clone(), newer, Arc::clone(&place));
            if let Some(found) = search.and_then(|search| MemTableSearch::try_new(&rows, search, &texts)) {
                let source: Arc<dyn VectorSource> = Arc::new(found);
                arms.push(Arc::new(VectorTopKExec::new(source, projection.to_vec(), Arc::clone(&schema))));
                continue;
            }
            let rows: Arc<dyn RowSource> = match TextMatches::try_new(&rows, &texts) {
                Some(matches) => Arc::new(matches),
                None => Arc::new(rows),
            };
            in_memory.push(Arc::new(MemTableScanExec::new(vec![rows], projection.to_vec(), Arc::clone(&schema))));
        }
        for (g, generation) in shard.generations.iter().enumerate() {
            let newer: Arc<[KeySource]> = sources[..visible.len() + g].into();
            let id = SourceId::Generation(shard.shard, generation.id());
            let scan = generation.scan(projection, &pushed)?;
            let mask = GenerationMask::new(Arc::clone(lists), Arc::clone(generation), id, newer);
            let label = format!("{place}generation {}", generation.id());
            let arm = BlockListExec::new(scan, Arc::new(mask), label, Arc::clone(&schema));
            if generation.is_resident() { &mut in_memory } else { &mut arms }.push(Arc::new(arm));
        }
        everything.extend(sources);
    }
    let base = &snapshot.version().base;
    if base.rows() > 0 {
        let mask = BaseMask::new(Arc::clone(lists), Arc::clone(base), everything.into());
        let columns: Vec<usize> = projection.iter().copied().chain(mask.extra_columns().iter().copied()).collect();
        let scan = base.scan(&columns, &pushed)?;
        let label = format!("base {}", base.version());
        let arm = BlockListExec::new(scan, Arc::new(mask), label, Arc::clone(&schema));
        if base.is_resident() { &mut in_memory } else { &mut arms }.push(Arc::new(arm));
    }
    match in_memory.len() {
        0 => {}
        1 => arms.insert(0, in_memory.remove(0)),
        _ => arms.insert(0, Arc::new(AppendExec::try_new(in_memory)?)),
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
