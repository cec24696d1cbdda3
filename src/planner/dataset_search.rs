//! The nearest rows of a generation or of the base, by the vector index that Lance's files hold.
//!
//! The index gives hits, which are compared exactly. Rows that it does not have are compared one by one, and so
//! are all rows where it gives too few. What newer sources supersede and what does not pass the filter is masked before
//! anything is cut; where only keys tell what is superseded, hits are verified and the index is asked again.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{SchemaRef, UInt64Type};
use async_trait::async_trait;
use futures::TryStreamExt;
use futures::future::try_join;
use roaring::{RoaringBitmap, RoaringTreemap};

use super::live_rows::{LiveRows, batch_of};
use super::ranking::{Ranked, Ranking};
use super::reading::Reading;
use super::sources::StoredRows;
use super::stored_texts::passing;
use super::vector_search::VectorSearch;
use crate::dataset::{Allowed, DatasetHandle, DatasetVectorIndex};
use crate::error::Result;
use crate::source::{Best, Flat, TopKSource, Work};
use crate::text_search::TextSearch;
use crate::vector_index::squared_length;

/// Rows left by a filter up to which they are compared one by one.
const FEW: u64 = 1024;
/// Hits up to which their rows are read whole: one read more costs more than the columns of a few rows too many.
const WHOLE: usize = 64;
/// Rows that are taken at once.
const CHUNK: usize = 1024;
/// Squared lengths of queries from which on the estimates of an index mean nothing.
const HUGE: f64 = 1e30;

/// A generation or base that has an index for the search.
#[derive(Debug)]
pub(super) struct DatasetSearch {
    rows: StoredRows,
    search: Arc<VectorSearch>,
    texts: Arc<[TextSearch]>,
    kind: String,
}

impl DatasetSearch {
    /// The search in the live rows of a dataset that match `texts`; `None` if no index answers it, or the rows are in
    /// memory.
    pub(super) fn try_new(rows: &StoredRows, search: &Arc<VectorSearch>, texts: &Arc<[TextSearch]>) -> Option<Self> {
        let handle = rows.handle();
        let kind = handle.vector_index_kind(search.column, search.metric).filter(|_| !handle.is_resident())?;
        Some(Self { rows: rows.clone(), search: Arc::clone(search), texts: Arc::clone(texts), kind })
    }

    async fn find(&self, projection: &[usize]) -> Result<(LiveRows, Ranked, Work)> {
        let index = self.rows.handle().vector_index(self.search.column, self.search.metric);
        let (live, index) = try_join(LiveRows::resolve(&self.rows), index).await?;
        let mut pass = Pass { rows: &live, handle: live.handle(), search: &self.search, projection, passing: None };
        let mut work = Work::default();
        ["distances", "partitions", "flat"].into_iter().for_each(|kind| work.add(kind, 0));
        let dropped = live.dropped_rows().map_or(0, |rows| rows.len() as usize);
        work.add("rows_dropped", dropped);
        let (texts, predicate) = (self.texts.iter(), self.search.beside_texts.as_ref());
        let mut filter = Work::default();
        pass.passing = passing(&live, texts, predicate, &self.search.ranges, &mut filter).await?.map(Arc::new);
        work.filtered(&filter);
        let candidates = match &pass.passing {
            Some(passing) => passing.len() as usize,
            None => pass.handle.rows().saturating_sub(dropped),
        };
        work.add("candidates", candidates);
        let ranking = match (&pass.passing, index) {
            (Some(passing), _) if passing.len() <= FEW.max(4 * self.search.k as u64) => {
                let mut ranking = Ranking::new(&self.search);
                let passing: Vec<u64> = passing.iter().collect();
                pass.compare(&passing, &mut ranking).await?;
                work.flat(Flat::FewPass, passing.len());
                ranking
            }
            (_, Some(index)) if self.is_meaningful() => match pass.by_index(&index, &mut work).await? {
                Some(ranking) => ranking,
                None => pass.flat(Flat::FellShort, &mut work).await?,
            },
            (_, Some(_)) => pass.flat(Flat::HugeQuery, &mut work).await?,
            (_, None) => pass.flat(Flat::NoIndex, &mut work).await?,
        };
        work.add("distances", ranking.compared());
        let found = ranking.into_rows();
        Ok((live, found, work))
    }

    /// Whether estimates tell something of distances from the query.
    fn is_meaningful(&self) -> bool {
        squared_length(&self.search.query) < HUGE
    }
}

/// One search in one dataset.
struct Pass<'a> {
    rows: &'a LiveRows,
    handle: &'a Arc<DatasetHandle>,
    search: &'a Arc<VectorSearch>,
    projection: &'a [usize],
    /// The live rows that pass the filter, if there is one.
    passing: Option<Arc<RoaringTreemap>>,
}

impl<'a> Pass<'a> {
    /// Compares the rows `ids`; those that are superseded, if only keys tell, are left out and put into `stale`.
    async fn verify(&self, ids: &[u64], ranking: &mut Ranking<'_>, stale: &mut RoaringTreemap) -> Result<()> {
        let by_key = self.passing.is_none() && self.rows.dropped_rows().is_none();
        let keys = if by_key { self.rows.key_columns() } else { &[] };
        let whole = if ids.len() <= WHOLE { self.projection } else { &[] };
        let columns: Vec<usize> = [&[self.search.column], keys, whole].concat();
        for ids in ids.chunks(CHUNK) {
            let taken = self.handle.take(ids, &columns).await?;
            let vectors = taken.column(0).as_fixed_size_list();
            if by_key {
                let live = self.rows.live(ids, &taken.columns()[1..1 + keys.len()])?;
                stale.extend((0..ids.len()).filter(|row| !live.value(*row)).map(|row| ids[row]));
                ranking.offer(ids, vectors, |row| live.value(row));
            } else {
                ranking.offer(ids, vectors, |_| true);
            }
            if !whole.is_empty() {
                ranking.keep(ids, taken.project(&(1 + keys.len()..columns.len()).collect::<Vec<_>>())?);
            }
        }
        Ok(())
    }

    /// Compares rows that are known to be allowed.
    async fn compare(&self, ids: &[u64], ranking: &mut Ranking<'_>) -> Result<()> {
        self.verify(ids, ranking, &mut RoaringTreemap::new()).await
    }

    /// The nearest rows by the index, and those that it does not have; `None` if it gives too few, or is damaged.
    async fn by_index(&self, index: &DatasetVectorIndex, work: &mut Work) -> Result<Option<Ranking<'a>>> {
        let (search, coverage) = (self.search.as_ref(), index.coverage());
        let mut stale = self.rows.dropped_rows().map_or_else(Arc::default, Arc::clone);
        let mut wanted = index.wanted(search.k, search.effort);
        let mut share = self.passing.as_ref().map_or(1.0, |rows| rows.len() as f64 / self.handle.rows().max(1) as f64);
        let (mut ranking, mut found);
        loop {
            let allowed = match &self.passing {
                Some(passing) => Allowed::Only(Arc::clone(passing)),
                None => Allowed::Except(Arc::clone(&stale)),
            };
            let hits = match index.hits(&search.query, wanted, search.effort, &allowed, share).await {
                Ok(hits) => hits,
                Err(error) => {
                    self.handle.give_up_vector_index(search.column, search.metric, error).await?;
                    return Ok(None);
                }
            };
            work.add("partitions", hits.partitions);
            ranking = Ranking::new(self.search);
            let mut found_stale = RoaringTreemap::new();
            self.verify(&hits.rows, &mut ranking, &mut found_stale).await?;
            found = ranking.compared();
            // Superseded rows took the places of others that may be nearer than what is left.
            let enough = if found_stale.is_empty() { search.k } else { search.k.max(wanted / 2) };
            if !found_stale.is_empty() {
                *Arc::make_mut(&mut stale) |= found_stale;
            }
            if found >= enough || !hits.more {
                break;
            }
            work.add("distances", found);
            (wanted, share) = (wanted.saturating_mul(2), share / 2.0);
        }
        let is_allowed = |id: &u64| match &self.passing {
            Some(passing) => passing.contains(*id),
            None => !stale.contains(*id),
        };
        if found < search.k && !self.is_complete(found, index, &stale) {
            work.add("distances", found);
            return Ok(None);
        }
        let odd: Vec<u64> = coverage.odd().iter().copied().filter(is_allowed).collect();
        self.compare(&odd, &mut ranking).await?;
        work.flat(Flat::Odd, odd.len());
        if !coverage.uncovered().is_empty() {
            self.scan(Some(coverage.uncovered()), Flat::NotIndexed, &mut ranking, work).await?;
        }
        if ranking.wants_missing() && !coverage.missing().is_empty() {
            let missing: Vec<u64> = coverage.missing().iter().filter(is_allowed).collect();
            match self.passing.is_none() && self.rows.dropped_rows().is_none() {
                true => self.compare(&missing, &mut ranking).await?,
                false => missing.iter().for_each(|id| ranking.offer_missing(*id)),
            }
        }
        Ok(Some(ranking))
    }

    /// Whether `found` are all rows that the index could have found.
    fn is_complete(&self, found: usize, index: &DatasetVectorIndex, stale: &RoaringTreemap) -> bool {
        let coverage = index.coverage();
        let odd: RoaringTreemap = coverage.odd().iter().collect();
        let in_index = |id: &u64| {
            let is_covered = u32::try_from(id >> 32).is_ok_and(|fragment| !coverage.uncovered().contains(fragment));
            is_covered && !coverage.missing().contains(*id) && !odd.contains(*id)
        };
        if self.handle.has_stable_row_ids() && !coverage.uncovered().is_empty() {
            return false;
        }
        let there = match &self.passing {
            Some(passing) => passing.iter().filter(in_index).count(),
            None => coverage.ranked().saturating_sub(stale.iter().filter(in_index).count()),
        };
        found >= there
    }

    /// Compares all rows.
    async fn flat(&self, why: Flat, work: &mut Work) -> Result<Ranking<'a>> {
        let mut ranking = Ranking::new(self.search);
        self.scan(None, why, &mut ranking, work).await?;
        Ok(ranking)
    }

    /// Compares all rows, or those of the given fragments.
    async fn scan(
        &self,
        fragments: Option<&RoaringBitmap>,
        why: Flat,
        ranking: &mut Ranking<'_>,
        work: &mut Work,
    ) -> Result<()> {
        let mut columns = vec![self.search.column];
        columns.extend(self.rows.key_columns());
        let mut rows = self.handle.rows_of(&columns, fragments)?;
        while let Some(batch) = rows.try_next().await? {
            let (values, ids) = batch.columns().split_at(columns.len());
            let ids = ids[0].as_primitive::<UInt64Type>().values();
            let allowed = match &self.passing {
                Some(passing) => BooleanBuffer::collect_bool(ids.len(), |row| passing.contains(ids[row])),
                None => self.rows.live(ids, &values[1..])?,
            };
            work.flat(why, allowed.count_set_bits());
            ranking.offer(ids, values[0].as_fixed_size_list(), |row| allowed.value(row));
        }
        Ok(())
    }
}

#[async_trait]
impl TopKSource for DatasetSearch {
    fn node(&self) -> &'static str {
        "VectorTopKExec"
    }

    fn label(&self) -> String {
        let superseded_by = self.rows.mask().label();
        format!("source={}, index={}, k={}, superseded_by={superseded_by}", self.rows.label(), self.kind, self.search.k)
    }

    fn limit(&self) -> usize {
        self.search.k.min(self.rows.handle().rows())
    }

    async fn best(&self, projection: &[usize], schema: &SchemaRef) -> Result<Best> {
        let reading = Reading::begin(self.rows.handle());
        let (live, found, mut work) = self.find(projection).await?;
        let rows = match found.kept()? {
            Some(rows) => batch_of(schema, rows.columns().to_vec(), found.ids.len())?,
            None => live.take(&found.ids, projection, schema).await?,
        };
        reading.tell(&mut work);
        Ok(Best { rows, work })
    }
}
