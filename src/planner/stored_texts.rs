//! The texts of the live rows of a generation or of the base: by the text indexes that Lance's files hold, and one by one
//! where these know nothing.

use std::sync::Arc;

use arrow::array::ArrayRef;
use datafusion::physical_expr::PhysicalExpr;
use futures::future::try_join_all;
use roaring::RoaringTreemap;

use super::live_rows::LiveRows;
use super::text_columns::{Findable, TextColumns};
use crate::error::Result;
use crate::source::{Flat, ValueRanges, Work};
use crate::task;
use crate::text_search::TextSearch;

/// The texts that one query looks at in one dataset.
#[derive(Debug)]
pub(super) struct StoredTexts {
    pub(super) superseded: Arc<RoaringTreemap>,
    pub(super) columns: TextColumns,
}

impl StoredTexts {
    /// Opens what the query needs.
    ///
    /// # Errors
    /// What reading raises.
    pub(super) async fn open(live: &LiveRows, search: &TextSearch) -> Result<Self> {
        let columns = TextColumns::open(live.source(), search).await?;
        Ok(Self { superseded: live.superseded().await?, columns })
    }

    /// The live rows that match.
    ///
    /// # Errors
    /// What reading raises.
    pub(super) async fn matching(&self, work: &mut Work) -> Result<RoaringTreemap> {
        let answered = self.columns.answered();
        let why = answered.as_ref().err().copied().unwrap_or(Flat::NotIndexed);
        let (mut found, mut read) = (RoaringTreemap::new(), RoaringTreemap::new());
        let search = self.columns.search().clone();
        let look = move |texts: &[ArrayRef]| search.matching(texts);
        let answered = answered.ok();
        let take = |ids: &[u64], matches: Vec<u64>| {
            work.flat(why, ids.len());
            read.extend(ids);
            let is_match = |row: &usize| matches[row / 64] >> (row % 64) & 1 == 1;
            let live = (0..ids.len()).filter(is_match).map(|row| ids[row]);
            found.extend(live.filter(|id| !self.superseded.contains(*id)));
        };
        self.columns.look(answered.as_ref(), look, take).await?;
        if let Some(answered) = answered {
            let heavy = answered.is_heavy(self.columns.search());
            let (search, superseded) = (self.columns.search().clone(), Arc::clone(&self.superseded));
            let matching = move || {
                let mut work = Work::default();
                let rows = Findable { superseded, passing: None, read: Arc::new(read) };
                let found = answered.matching(&search, &rows, &mut work)?;
                Ok((found, work))
            };
            let (more, postings) = task::blocking_if(heavy, matching).await?;
            found |= more;
            work.extend(&postings);
        }
        Ok(found)
    }
}

/// The live rows that match all of `searches` and pass `predicate`, which lets columns have what is in `ranges`; `None`,
/// which is all, if there is none of both.
///
/// # Errors
/// What reading and evaluating raise.
pub(super) async fn passing(
    live: &LiveRows,
    searches: impl IntoIterator<Item = &TextSearch>,
    predicate: Option<&Arc<dyn PhysicalExpr>>,
    ranges: &[ValueRanges],
    work: &mut Work,
) -> Result<Option<RoaringTreemap>> {
    let mut passing = None;
    for texts in try_join_all(searches.into_iter().map(|search| StoredTexts::open(live, search))).await? {
        let found = texts.matching(work).await?;
        passing = Some(match passing {
            Some(rows) => rows & found,
            None => found,
        });
    }
    if let Some(predicate) = predicate {
        let (rows, by_value) = live.passing(predicate, ranges, passing).await?;
        passing = Some(rows);
        by_value.into_iter().for_each(|rows| work.add("rows_by_value", rows as usize));
    }
    Ok(passing)
}
