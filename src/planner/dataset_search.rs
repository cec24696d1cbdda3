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
use roaring::{RoaringBitmap, RoaringTreemap};

use super::hit_search::{By, Candidates, HitSearch, allowed, share};
use super::live_rows::batch_of;
use super::near_hits::NearHits;
use super::ranking::{Ranked, Ranking};
use super::reading::Reading;
use super::sources::StoredRows;
use super::vector_search::VectorSearch;
use crate::dataset::{DatasetHandle, DatasetVectorIndex, Hits};
use crate::error::Result;
use crate::source::{Best, Flat, TopKSource, Work};
use crate::task;
use crate::text_search::TextSearch;

/// Hits up to which their rows are read whole: one read more costs more than the columns of a few rows too many.
const WHOLE: usize = 64;
/// Rows that are taken at once.
const CHUNK: usize = 1024;

/// A generation or base that has an index for the search.
#[derive(Debug)]
pub(super) struct DatasetSearch {
    hits: Arc<HitSearch>,
    near_hits: Arc<NearHits>,
    place: usize,
}

impl DatasetSearch {
    /// The search in the live rows of a dataset that match `texts`, one of those that `near_hits` are of; `None` if no index
    /// answers it, or the rows are in memory.
    pub(super) fn try_new(
        rows: &StoredRows,
        search: &Arc<VectorSearch>,
        texts: &Arc<[TextSearch]>,
        near_hits: &Arc<NearHits>,
    ) -> Option<Self> {
        let handle = rows.handle();
        let kind = handle.vector_index_kind(search.column, search.metric).filter(|_| !handle.is_resident())?;
        let hits = HitSearch { rows: rows.clone(), kind, search: Arc::clone(search), texts: Arc::clone(texts) };
        let (hits, near_hits) = (Arc::new(hits), if search.is_shared { Arc::clone(near_hits) } else { Arc::default() });
        let place = near_hits.enter(Arc::clone(&hits));
        Some(Self { hits, near_hits, place })
    }

    /// The nearest of the `candidates`, hits no further away than `furthest` among them.
    async fn find(
        &self,
        candidates: &Candidates,
        furthest: f32,
        projection: &[usize],
        work: &mut Work,
    ) -> Result<Ranked> {
        let pass = Pass { candidates, search: &self.hits.search, projection, furthest };
        let ranking = match &candidates.by {
            By::Few(passing) => {
                let mut ranking = Ranking::new(&self.hits.search);
                pass.compare(passing, &mut ranking).await?;
                work.flat(Flat::FewPass, passing.len());
                ranking
            }
            By::Index { index, hits, asked, wanted } => {
                match pass.by_index(index, hits, (*asked, *wanted), work).await? {
                    Some(ranking) => ranking,
                    None => pass.flat(Flat::FellShort, work).await?,
                }
            }
            By::Flat(why) => pass.flat(*why, work).await?,
        };
        work.add("distances", ranking.compared());
        Ok(ranking.into_rows())
    }
}

/// One search in one dataset.
struct Pass<'a> {
    candidates: &'a Candidates,
    search: &'a Arc<VectorSearch>,
    projection: &'a [usize],
    /// How far away hits are at most that have to be compared.
    furthest: f32,
}

impl<'a> Pass<'a> {
    fn handle(&self) -> &'a Arc<DatasetHandle> {
        self.candidates.live.handle()
    }

    /// Compares the rows `ids`; those that are superseded, if only keys tell, are left out and put into `stale`.
    async fn verify(&self, ids: &[u64], ranking: &mut Ranking<'_>, stale: &mut RoaringTreemap) -> Result<()> {
        let (live, by_key) = (&self.candidates.live, self.candidates.is_by_key());
        let keys = if by_key { live.key_columns() } else { &[] };
        let whole = if ids.len() <= WHOLE { self.projection } else { &[] };
        let columns: Vec<usize> = [&[self.search.column], keys, whole].concat();
        for ids in ids.chunks(CHUNK) {
            let taken = self.handle().take(ids, &columns).await?;
            let vectors = taken.column(0).as_fixed_size_list();
            if by_key {
                let live = live.live(ids, &taken.columns()[1..1 + keys.len()])?;
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

    /// The nearest of the hits, of which so many were `asked` for and so many are `wanted`, and of the rows that the index
    /// does not have; `None` if it gives too few, or is damaged.
    async fn by_index(
        &self,
        index: &Arc<DatasetVectorIndex>,
        hits: &Hits,
        (asked, mut wanted): (usize, usize),
        work: &mut Work,
    ) -> Result<Option<Ranking<'a>>> {
        let (search, coverage) = (self.search, index.coverage());
        let Candidates { live, passing, .. } = self.candidates;
        let mut stale = live.dropped_rows().map_or_else(Arc::default, Arc::clone);
        let mut share = share(passing.as_deref(), self.handle().rows());
        let is_share = asked < wanted && hits.more;
        // Those of a share that is not beyond what is wanted of all sources may not be all.
        let are_all = !is_share || hits.rows.iter().any(|hit| self.is_beyond(hit.0));
        let mut hits = match are_all {
            true => Ok(hits.clone()),
            false => {
                work.add("partitions", hits.partitions);
                self.hits(index, wanted, &stale, share).await
            }
        };
        let (mut ranking, mut found);
        loop {
            let of_index = match hits {
                Ok(hits) => hits,
                Err(error) => {
                    self.handle().give_up_vector_index(search.column, search.metric, error).await?;
                    return Ok(None);
                }
            };
            work.add("partitions", of_index.partitions);
            ranking = Ranking::new(search);
            let mut found_stale = RoaringTreemap::new();
            let near = of_index.rows.iter().filter(|hit| !self.is_beyond(hit.0)).map(|hit| hit.1).collect::<Vec<_>>();
            self.verify(&near, &mut ranking, &mut found_stale).await?;
            let mut beyond = of_index.rows.len() - near.len();
            if is_share && beyond > 0 {
                // Whatever was not asked for is beyond as well.
                beyond = beyond.max(search.k);
            }
            ranking.leave_out(beyond);
            found = ranking.compared() + beyond;
            // Superseded rows took the places of others that may be nearer than what is left.
            let enough = if found_stale.is_empty() { search.k } else { search.k.max(wanted / 2) };
            if !found_stale.is_empty() {
                *Arc::make_mut(&mut stale) |= found_stale;
            }
            if found >= enough || !of_index.more {
                break;
            }
            work.add("distances", ranking.compared());
            (wanted, share) = (wanted.saturating_mul(2), share / 2.0);
            hits = self.hits(index, wanted, &stale, share).await;
        }
        let is_allowed = |id: &u64| match passing {
            Some(passing) => passing.contains(*id),
            None => !stale.contains(*id),
        };
        if found < search.k && !self.is_complete(found, index, &stale) {
            work.add("distances", ranking.compared());
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
            match self.candidates.is_by_key() {
                true => self.compare(&missing, &mut ranking).await?,
                false => missing.iter().for_each(|id| ranking.offer_missing(*id)),
            }
        }
        Ok(Some(ranking))
    }

    /// Hits of the index, parts of which are loaded for others, too: that goes on although nobody polls this.
    async fn hits(
        &self,
        index: &Arc<DatasetVectorIndex>,
        wanted: usize,
        stale: &Arc<RoaringTreemap>,
        share: f64,
    ) -> Result<Hits> {
        let (index, search) = (Arc::clone(index), Arc::clone(self.search));
        let allowed = allowed(self.candidates.passing.as_ref(), stale);
        let look = async move { index.hits(&search.query, wanted, search.effort, &allowed, share).await };
        task::driven(look).await.flatten()
    }

    fn is_beyond(&self, distance: f32) -> bool {
        distance > self.furthest
    }

    /// Whether `found` are all rows that the index could have found.
    fn is_complete(&self, found: usize, index: &DatasetVectorIndex, stale: &RoaringTreemap) -> bool {
        let coverage = index.coverage();
        let odd: RoaringTreemap = coverage.odd().iter().collect();
        let in_index = |id: &u64| {
            let is_covered = u32::try_from(id >> 32).is_ok_and(|fragment| !coverage.uncovered().contains(fragment));
            is_covered && !coverage.missing().contains(*id) && !odd.contains(*id)
        };
        if self.handle().has_stable_row_ids() && !coverage.uncovered().is_empty() {
            return false;
        }
        let there = match &self.candidates.passing {
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
        let Candidates { live, passing, .. } = self.candidates;
        let mut columns = vec![self.search.column];
        columns.extend(live.key_columns());
        let mut rows = live.rows_of(&columns, fragments)?;
        while let Some(batch) = rows.try_next().await? {
            let (values, ids) = batch.columns().split_at(columns.len());
            let ids = ids[0].as_primitive::<UInt64Type>().values();
            let allowed = match passing {
                Some(passing) => BooleanBuffer::collect_bool(ids.len(), |row| passing.contains(ids[row])),
                None => live.live(ids, &values[1..])?,
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
        let HitSearch { rows, kind, search, .. } = self.hits.as_ref();
        let superseded_by = rows.mask().label();
        format!("source={}, index={kind}, k={}, superseded_by={superseded_by}", rows.label(), search.k)
    }

    fn limit(&self) -> usize {
        self.hits.search.k.min(self.hits.rows.handle().rows())
    }

    async fn best(&self, projection: &[usize], schema: &SchemaRef) -> Result<Best> {
        let (candidates, furthest) = self.near_hits.of(self.place).await?;
        let mut work = candidates.work.clone();
        let reading = Reading::begin(self.hits.rows.handle());
        let found = self.find(&candidates, furthest, projection, &mut work).await?;
        let rows = match found.kept()? {
            Some(rows) => batch_of(schema, rows.columns().to_vec(), found.ids.len())?,
            None => candidates.live.take(&found.ids, projection, schema).await?,
        };
        reading.tell(&mut work);
        Ok(Best { rows, work })
    }
}
