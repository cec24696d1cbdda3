//! Searches of both sides: asked, compared with the truth, raced.

use std::collections::HashMap;
use std::hint::black_box;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::logical_expr::{col, lit};
use datafusion_lsm::distance::Metric;
use datafusion_lsm::sql::TableSearch;

use super::Result;
use super::bench::Bench;
use super::documents::{BUCKET, Live, TEXT, VECTOR, bucket};
use super::measure::{Rounds, alternate, timed};
use super::ours::Ours;
use super::report::{Unit, note};
use super::rows::KEY;
use super::texts::{Corpus, TextQuery, close};
use super::vectors::{nearest, recall};

/// Rows that are asked for.
pub(crate) const K: usize = 10;
/// What a setting must find.
pub(crate) const RECALL: f64 = 0.95;

/// The ids of rows.
pub(crate) fn ids_of(batches: &[RecordBatch]) -> Vec<i64> {
    let ids = |batch: &RecordBatch| batch[KEY].as_primitive::<Int64Type>().values().to_vec();
    batches.iter().flat_map(ids).collect()
}

/// The ids of rows and the numbers in a column.
pub(crate) fn scored(batches: &[RecordBatch], column: &str) -> Result<Vec<(i64, f64)>> {
    let mut found = Vec::new();
    for batch in batches {
        let scores = arrow::compute::cast(&batch[column], &DataType::Float64)?;
        let scores = scores.as_primitive::<Float64Type>().values().to_vec();
        found.extend(batch[KEY].as_primitive::<Int64Type>().values().iter().copied().zip(scores));
    }
    Ok(found)
}

/// Searches of ours, among the rows whose buckets are below an end. Each is planned and run.
pub(crate) struct OurSearch<'a> {
    ours: &'a Ours,
    end: Option<i32>,
}

impl<'a> OurSearch<'a> {
    pub(crate) fn new(ours: &'a Ours, end: Option<i32>) -> Self {
        Self { ours, end }
    }

    async fn rows(&self, search: TableSearch) -> Result<Vec<RecordBatch>> {
        let search = match self.end {
            Some(end) => search.filter(col(BUCKET).lt(lit(end))),
            None => search,
        };
        Ok(search.k(K).select([KEY]).rows(self.ours.state()).await?)
    }

    /// The ids of the rows nearest to `vector`.
    pub(crate) async fn near(&self, vector: &[f32]) -> Result<Vec<i64>> {
        Ok(ids_of(&self.rows(TableSearch::nearest(&self.ours.table, VECTOR, Metric::L2, vector)).await?))
    }

    /// The ids and scores of the texts that score best.
    pub(crate) async fn scores(&self, query: &TextQuery) -> Result<Vec<(i64, f64)>> {
        scored(&self.rows(TableSearch::text(&self.ours.table, [TEXT], &query.typed())).await?, "_score")
    }
}

fn passes(end: Option<i32>) -> impl Fn(i64) -> bool {
    move |id| end.is_none_or(|end| bucket(id) < end)
}

/// What the queries should find among the live rows whose buckets are below `end`.
pub(crate) fn truths(live: &Live, queries: &[Vec<f32>], end: Option<i32>) -> Vec<Vec<i64>> {
    let passes = passes(end);
    let rows = || live.iter().filter(|(id, _)| passes(**id)).map(|(id, (_, vector))| (*id, vector.as_slice()));
    queries.iter().map(|query| nearest(rows(), query, K)).collect()
}

/// The first effort, doubled from the least to the most, that finds enough.
pub(crate) async fn cheapest(
    truth: &[Vec<i64>],
    queries: &[Vec<f32>],
    (mut effort, most): (usize, usize),
    search: impl AsyncFn(&[f32], usize) -> Result<Vec<i64>>,
) -> Result<usize> {
    loop {
        let mut found = Vec::new();
        for query in queries {
            found.push(search(query, effort).await?);
        }
        if recall(truth, &found) >= RECALL || effort >= most {
            return Ok(effort);
        }
        effort *= 2;
    }
}

/// Both sides' recall of the nearest vectors. Fails if ours is too low, or does not find as many rows as there are.
pub(crate) async fn compare_nearest<Q>(
    metric: &str,
    truth: &[Vec<i64>],
    queries: &[Q],
    ours: impl AsyncFn(&Q) -> Result<Vec<i64>>,
    peer: impl AsyncFn(&Q) -> Result<Vec<i64>>,
) -> Result<()> {
    compare_recall((metric, RECALL), truth, queries, ours, peer).await
}

/// As [`compare_nearest`], where a recall below `least` is too low.
pub(crate) async fn compare_recall<Q>(
    (metric, least): (&str, f64),
    truth: &[Vec<i64>],
    queries: &[Q],
    ours: impl AsyncFn(&Q) -> Result<Vec<i64>>,
    peer: impl AsyncFn(&Q) -> Result<Vec<i64>>,
) -> Result<()> {
    let (mut found, mut theirs) = (Vec::new(), Vec::new());
    for query in queries {
        found.push(ours(query).await?);
        theirs.push(peer(query).await?);
    }
    if found.iter().zip(truth).any(|(found, truth)| found.len() != truth.len()) {
        return Err(format!("{metric}: not as many rows as there are").into());
    }
    let (ours, peer) = (recall(truth, &found), recall(truth, &theirs));
    note(&format!("{metric}: recall {ours:.3}, peer {peer:.3}"));
    if ours < least { Err(format!("{metric}: recall {ours}").into()) } else { Ok(()) }
}

/// Both sides' best texts, compared with one corpus of the live rows. Fails unless ours are the best, as many as there
/// are, with their scores.
pub(crate) async fn compare_best<Q: AsRef<TextQuery>>(
    metric: &str,
    corpus: &Corpus,
    (queries, end): (&[Q], Option<i32>),
    ours: impl AsyncFn(&Q) -> Result<Vec<(i64, f64)>>,
    peer: impl AsyncFn(&Q) -> Result<Vec<(i64, f64)>>,
) -> Result<()> {
    let (mut hits, mut wanted, mut matches) = (0, 0, 0);
    for query in queries {
        let scores = corpus.scores(query.as_ref(), passes(end));
        let mut best: Vec<f64> = scores.values().copied().collect();
        best.sort_unstable_by(|a, b| b.total_cmp(a));
        matches += best.len();
        best.truncate(K);
        let found = ours(query).await?;
        let right = |((id, score), best): (&(i64, f64), &f64)| {
            scores.get(id).is_some_and(|truth| close(*truth, *score) && close(*truth, *best))
        };
        if found.len() != best.len() || !found.iter().zip(&best).all(right) {
            return Err(format!("{metric}: {} gives {found:?}, not {best:?}", query.as_ref().typed()).into());
        }
        let last = best.last().copied().unwrap_or(f64::INFINITY);
        let good = |id: &i64| scores.get(id).is_some_and(|truth| *truth >= last || close(*truth, last));
        hits += peer(query).await?.iter().filter(|(id, _)| good(id)).count();
        wanted += best.len();
    }
    let (share, each) = (hits as f64 / wanted.max(1) as f64, matches / queries.len().max(1));
    note(&format!("{metric}: {each} matches a query; all of the best found, peer {share:.3} of them"));
    Ok(())
}

/// Ranks of two lists as one: reciprocal rank fusion (Cormack et al., SIGIR 2009) with the constant 60.
pub(crate) fn fused(near: &[i64], best: &[i64]) -> Vec<(i64, f64)> {
    let mut scores = HashMap::<i64, f64>::new();
    for list in [near, best] {
        for (rank, id) in (1..).zip(list) {
            *scores.entry(*id).or_default() += 1.0 / (60.0 + f64::from(rank));
        }
    }
    let mut ranked: Vec<(i64, f64)> = scores.into_iter().collect();
    ranked.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    ranked
}

/// The time a search takes on both sides, one query after the other.
pub(crate) async fn race<Q, A, B>(
    bench: &mut Bench,
    metric: &str,
    target: Option<f64>,
    queries: &[Q],
    ours: impl AsyncFn(&Q) -> Result<A>,
    peer: impl AsyncFn(&Q) -> Result<B>,
) -> Result<()> {
    let (mut our_next, mut peer_next) = (queries.iter().cycle(), queries.iter().cycle());
    let missing = "a search needs queries";
    let times = alternate(
        bench.rounds(Rounds::new(21, 501, 15)),
        async || {
            let query = our_next.next().ok_or(missing)?;
            Ok(timed(async { Ok(black_box(ours(query).await?)) }).await?.0)
        },
        async || {
            let query = peer_next.next().ok_or(missing)?;
            Ok(timed(async { Ok(black_box(peer(query).await?)) }).await?.0)
        },
    );
    match target {
        Some(target) => bench.compared(metric, Unit::Microseconds, times.await?, target),
        None => bench.beside(metric, Unit::Microseconds, times.await?),
    }
    Ok(())
}
