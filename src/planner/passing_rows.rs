//! The live rows of a memtable that pass what a search asks of them.

use std::sync::Arc;

use datafusion::physical_expr::PhysicalExpr;
use roaring::RoaringTreemap;

use super::text_match::{bits, matching_rows};
use super::value_match::narrow;
use crate::error::Result;
use crate::memtable::MemTableView;
use crate::source::{ValueRanges, Work};
use crate::text_search::TextSearch;

/// The rows of `view` that are not `blocked`, match all of `texts` and pass `predicate`, which lets columns have what is
/// in `ranges`: as bits, and what finding them took.
///
/// # Errors
/// What reading and evaluating raise.
pub(super) fn passing<'a>(
    view: &MemTableView,
    blocked: &RoaringTreemap,
    texts: impl IntoIterator<Item = &'a TextSearch>,
    predicate: Option<&Arc<dyn PhysicalExpr>>,
    ranges: &[ValueRanges],
) -> Result<(Vec<u64>, Work)> {
    let (mut passing, mut work) = matching(view, blocked, texts, ranges)?;
    if let Some(predicate) = predicate {
        passing = view.passing(passing, predicate)?;
    }
    work.add("candidates", bits(&passing));
    Ok((passing, work))
}

/// As [`passing`], of a predicate that is asked afterwards; the candidates are not counted yet.
///
/// # Errors
/// What reading raises.
pub(super) fn matching<'a>(
    view: &MemTableView,
    blocked: &RoaringTreemap,
    texts: impl IntoIterator<Item = &'a TextSearch>,
    ranges: &[ValueRanges],
) -> Result<(Vec<u64>, Work)> {
    let (mut matching, mut work) = (view.live_words(blocked), Work::default());
    work.add("rows_dropped", view.watermark() - bits(&matching));
    narrow(view, ranges, &mut matching);
    let mut filter = Work::default();
    matching = matching_rows(view, texts, matching, &mut filter)?;
    work.filtered(&filter);
    Ok((matching, work))
}
