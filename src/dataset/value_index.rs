//! Lance's B-tree or bitmap of a column of a dataset, open, and asked which rows have a value in ranges.
//!
//! What comes out is looked at again: Lance tells zeros by their sign, and rows may have a value that a filter refuses.
//! Row ids of rows that were deleted, or of fragments that the index knows in another state, are left out.

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use futures::{StreamExt, stream};
use lance::Dataset;
use lance::dataset::scanner::RowAddrMask;
use lance::index::DatasetIndexInternalExt;
use lance_index::metrics::NoOpMetricsCollector;
use lance_index::scalar::{SargableQuery, ScalarIndex, SearchOptions, SearchResult};
use roaring::{RoaringBitmap, RoaringTreemap};

use super::index_catalog::ValueEntry;
use super::index_rows::{covered, fragments_of, live_rows};
use crate::error::{Error, Result};
use crate::source::ValueRanges;
use crate::store::from_lance;

/// Questions that an index is asked at once.
const AT_ONCE: usize = 8;

/// Rows that may pass filters, as far as indexes of values tell.
#[derive(Debug, Clone)]
pub struct ValueCandidates {
    /// The ids of those that an index has.
    pub rows: RoaringTreemap,
    /// Fragments that no index knows: all their rows.
    pub uncovered: RoaringBitmap,
}

impl ValueCandidates {
    /// What both leave; the first where they are of other fragments.
    pub(super) fn and(mut self, other: &Self) -> Self {
        if self.uncovered == other.uncovered {
            self.rows &= &other.rows;
        }
        self
    }
}

/// The index of values of one column.
#[derive(Debug)]
pub(super) struct DatasetValueIndex {
    name: String,
    data_type: DataType,
    segments: Vec<Segment>,
    uncovered: RoaringBitmap,
}

#[derive(Debug)]
struct Segment {
    index: Arc<dyn ScalarIndex>,
    /// Which of its rows are there; all if `None`.
    there: Option<RowAddrMask>,
}

impl DatasetValueIndex {
    /// Opens the index that `entry` names, of the column `column` of `dataset` with values of type `data_type`; `None` if
    /// it knows no fragment as it is.
    ///
    /// # Errors
    /// `Corrupt` if it is not what its metadata says, `Unavailable` if the storage fails.
    pub(super) async fn open(
        dataset: &Arc<Dataset>,
        column: &str,
        data_type: &DataType,
        entry: &ValueEntry,
    ) -> Result<Option<Self>> {
        let failed =
            |error| from_lance(error).with_context("index", &entry.name).with_context("dataset", dataset.uri());
        let mut uncovered = fragments_of(dataset);
        // Fragments that are no more, of which the index may have rows.
        let count = dataset.manifest().max_fragment_id().map_or(0, |id| id + 1);
        let mut ever = RoaringBitmap::new();
        ever.insert_range(0..u32::try_from(count).unwrap_or(u32::MAX));
        let mut segments = Vec::with_capacity(entry.segments.len());
        for segment in &entry.segments {
            let covered = covered(dataset, segment) & &uncovered;
            if covered.is_empty() {
                continue;
            }
            let index =
                dataset.open_scalar_index(column, &segment.uuid, &NoOpMetricsCollector).await.map_err(failed)?;
            // Addresses are of no use where ids do not tell the place.
            if dataset.manifest().uses_stable_row_ids() && index.results_are_row_addresses() {
                continue;
            }
            let there = live_rows(dataset, &covered, (covered != ever).then(|| ever.clone())).await?;
            uncovered -= &covered;
            segments.push(Segment { index, there });
        }
        let opened = Self { name: entry.name.clone(), data_type: data_type.clone(), segments, uncovered };
        Ok((!opened.segments.is_empty()).then_some(opened))
    }

    /// The rows whose values may be in `ranges`; `None` if they are more than `most`, or a bound is not of the column's
    /// type.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails, `Corrupt` if a part of the index cannot be read.
    pub(super) async fn candidates(&self, ranges: &ValueRanges, most: u64) -> Result<Option<ValueCandidates>> {
        let Some(queries) = queries(ranges, &self.data_type) else { return Ok(None) };
        let mut rows = RoaringTreemap::new();
        let asked: Vec<_> =
            self.segments.iter().flat_map(|segment| queries.iter().map(|query| segment.find(query))).collect();
        let mut asked = stream::iter(asked).buffered(AT_ONCE);
        while let Some(found) = asked.next().await {
            rows |= found.map_err(|error| error.with_context("index", &self.name))?;
            if rows.len() > most {
                return Ok(None);
            }
        }
        Ok(Some(ValueCandidates { rows, uncovered: self.uncovered.clone() }))
    }
}

impl Segment {
    async fn find(&self, query: &SargableQuery) -> Result<RoaringTreemap> {
        let options = SearchOptions::default().with_track_nulls(false);
        let found = self.index.search_with_options(query, options, &NoOpMetricsCollector).await.map_err(from_lance)?;
        let rows = match &found {
            SearchResult::Exact(rows) | SearchResult::AtMost(rows) => rows.selected_rows(),
            SearchResult::AtLeast(_) => return Err(Error::internal("an index of values does not give all rows")),
        };
        let rows = rows.row_addrs().ok_or_else(|| Error::internal("an index of values does not say which rows"))?;
        let is_there = |id: &u64| self.there.as_ref().is_none_or(|mask| mask.selected(*id));
        Ok(rows.map(u64::from).filter(is_there).collect())
    }
}

/// What Lance is asked for `ranges` of a column of this type; `None` if it cannot be.
fn queries(ranges: &ValueRanges, data_type: &DataType) -> Option<Vec<SargableQuery>> {
    let mut points = Vec::new();
    let mut queries = Vec::new();
    for (from, to) in &ranges.ranges {
        let (from, to) = (bound(from, data_type)?, bound(to, data_type)?);
        if is_empty(&from, &to) {
            continue;
        }
        match (from, to) {
            (Bound::Included(from), Bound::Included(to)) if from == to => points.push(from),
            (from, to) => queries.push(SargableQuery::Range(from, to)),
        }
    }
    match points.len() {
        0 => {}
        1 => queries.extend(points.pop().map(SargableQuery::Equals)),
        _ => queries.push(SargableQuery::IsIn(points)),
    }
    if ranges.nulls {
        queries.push(SargableQuery::IsNull());
    }
    Some(queries)
}

/// Whether no value is between two bounds.
fn is_empty(from: &Bound<ScalarValue>, to: &Bound<ScalarValue>) -> bool {
    let (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) = (from, to)
    else {
        return false;
    };
    match low.partial_cmp(high) {
        Some(Ordering::Greater) => true,
        Some(Ordering::Equal) => !matches!((from, to), (Bound::Included(_), Bound::Included(_))),
        _ => false,
    }
}

/// A bound as a value of this type.
fn bound(bound: &Bound<ScalarValue>, data_type: &DataType) -> Option<Bound<ScalarValue>> {
    let value = match bound {
        Bound::Included(value) | Bound::Excluded(value) => value,
        Bound::Unbounded => return Some(Bound::Unbounded),
    };
    let is_text = |data_type: &DataType| matches!(data_type, DataType::Utf8 | DataType::LargeUtf8);
    let value = match value.data_type() == *data_type {
        true => value.clone(),
        false if is_text(data_type) && value.try_as_str().is_some() => value.cast_to(data_type).ok()?,
        false => return None,
    };
    Some(if matches!(bound, Bound::Included(_)) { Bound::Included(value) } else { Bound::Excluded(value) })
}

#[cfg(test)]
mod tests {
    use super::*;

    use Bound::{Excluded, Included, Unbounded};

    fn asked(
        ranges: Vec<(Bound<ScalarValue>, Bound<ScalarValue>)>,
        nulls: bool,
        data_type: &DataType,
    ) -> Option<String> {
        let ranges = ValueRanges { column: "c".into(), ranges, nulls };
        let queries = queries(&ranges, data_type)?;
        Some(queries.iter().map(|query| format!("{query:?}")).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn ranges_become_queries_of_lance() {
        let int = |n| ScalarValue::Int64(Some(n));
        let point = |value: ScalarValue| (Included(value.clone()), Included(value));
        let of_ints = |ranges| asked(ranges, false, &DataType::Int64);
        assert_eq!(of_ints(vec![point(int(5))]).unwrap(), "Equals(Int64(5))");
        assert_eq!(of_ints(vec![point(int(5)), point(int(7))]).unwrap(), "IsIn([Int64(5), Int64(7)])");
        assert_eq!(
            of_ints(vec![(Excluded(int(1)), Unbounded), point(int(0))]).unwrap(),
            "Range(Excluded(Int64(1)), Unbounded); Equals(Int64(0))"
        );
        assert_eq!(asked(Vec::new(), true, &DataType::Int64).unwrap(), "IsNull");
        // Nothing is in these.
        for (from, to) in [
            (Included(int(3)), Included(int(1))),
            (Excluded(int(3)), Included(int(3))),
            (Included(int(3)), Excluded(int(3))),
        ] {
            assert_eq!(of_ints(vec![(from, to)]).unwrap(), "");
        }
        let text = vec![point(ScalarValue::Utf8View(Some("x".into())))];
        assert_eq!(asked(text.clone(), false, &DataType::LargeUtf8).unwrap(), "Equals(LargeUtf8(\"x\"))");
        assert_eq!(asked(text, false, &DataType::Int64), None);
    }
}
