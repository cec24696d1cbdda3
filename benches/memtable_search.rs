//! The nearest rows of what was just written, beside Lance: the workload of the seed, 62,000 vectors of 1,024
//! dimensions in 620 batches, clean, under filters and after 30,000 of them were overwritten.
//!
//! Each side is searched at its cheapest setting with a recall of 0.95 or more. A search is planned and run, without
//! parsing SQL.

mod support;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int32Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance::index::vector::VectorIndexParams;
use lance_index::IndexType;
use lance_linalg::distance::DistanceType;

use support::Result;
use support::bench::{Bench, run};
use support::measure::{Rounds, alternate, timed};
use support::ours::{self, Ours, Prepared};
use support::peer::{self, Peer, Sources, plain};
use support::report::{Unit, note};
use support::rows::{KEY, shuffled};
use support::vectors::{Noise, Vectors, nearest, recall};

/// Rows that are asked for.
const K: usize = 10;
/// What a setting must find.
const RECALL: f64 = 0.95;
/// Where the ids of the base begin.
const BASE_IDS: i64 = 1_000_000;

/// The rows that are live, by their ids: the bucket and the vector.
type Live = BTreeMap<i64, (i32, Vec<f32>)>;

/// A search.
#[derive(Clone, Copy)]
struct Query<'a> {
    vector: &'a [f32],
    /// Only rows of the first so many of a hundred buckets.
    buckets: Option<i32>,
}

fn main() -> Result<()> {
    run("memtable_search", async |bench| {
        for (noise, suffix) in [(Noise::Shared, ""), (Noise::Independent, "_independent")] {
            searches(bench, noise, suffix).await?;
        }
        Ok(())
    })
}

fn schema(width: usize) -> SchemaRef {
    let primary = [("lance-schema:unenforced-primary-key".to_string(), "true".to_string())];
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    Arc::new(Schema::new(vec![
        Field::new(KEY, DataType::Int64, false).with_metadata(primary.into()),
        Field::new("bucket", DataType::Int32, true),
        Field::new("vector", DataType::FixedSizeList(item, width as i32), true),
    ]))
}

fn rows(ids: &[i64], width: usize, vectors: &mut Vectors, live: &mut Live) -> Result<RecordBatch> {
    let mut values = Vec::with_capacity(ids.len() * width);
    let mut buckets = Vec::with_capacity(ids.len());
    for id in ids {
        let vector = vectors.next();
        let bucket = (id.wrapping_mul(2_654_435_761) >> 8).rem_euclid(100) as i32;
        values.extend_from_slice(&vector);
        buckets.push(bucket);
        live.insert(*id, (bucket, vector));
    }
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(ids.to_vec())), Arc::new(Int32Array::from(buckets)), list(values, width)?];
    Ok(RecordBatch::try_new(schema(width), columns)?)
}

fn list(values: Vec<f32>, width: usize) -> Result<ArrayRef> {
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    Ok(Arc::new(FixedSizeListArray::try_new(item, width as i32, Arc::new(Float32Array::from(values)), None)?))
}

fn ids_of(batches: &[RecordBatch]) -> Vec<i64> {
    let ids = |batch: &RecordBatch| batch[KEY].as_primitive::<Int64Type>().values().to_vec();
    batches.iter().flat_map(ids).collect()
}

async fn searches(bench: &mut Bench, noise: Noise, suffix: &str) -> Result<()> {
    let metrics = ["clean", "clean_bare", "filter1", "filter30", "overwritten"];
    let wanted: Vec<String> = metrics.iter().map(|metric| format!("vector_{metric}{suffix}")).collect();
    let one_fragment = format!("vs_one_fragment_vector{suffix}");
    let names: Vec<&str> = wanted.iter().chain([&one_fragment]).map(String::as_str).collect();
    if !bench.wants(&names) {
        return Ok(());
    }
    let width = bench.size(1024, 32);
    let mut vectors = Vectors::new(noise, width);
    let mut live = Live::new();
    let base_ids: Vec<i64> = (BASE_IDS..BASE_IDS + 300).collect();
    let base = rows(&base_ids, width, &mut vectors, &mut live)?;
    let ids: Vec<i64> = (0..bench.size(62_000, 1_240)).collect();
    let make = |ids: &[i64], vectors: &mut Vectors, live: &mut Live| -> Result<Vec<RecordBatch>> {
        ids.chunks(100).map(|ids| rows(ids, width, vectors, live)).collect()
    };
    let written = make(&ids, &mut vectors, &mut live)?;
    let queries: Vec<Vec<f32>> = (0..bench.size(100, 5)).map(|_| vectors.next()).collect();

    let dir = bench.place().fresh(&format!("ours{suffix}"));
    let ours = Ours::searched(&dir, &schema(width), vec![base.clone()], "vector", ours::roomy()).await?;
    ours.fill(&written).await?;
    let dir = bench.place().fresh(&format!("peer{suffix}"));
    let peer = Peer::searched(&dir, &schema(width), vec![base.clone()], "vector", peer::roomy()).await?;
    peer.fill(&written).await?;
    ours.settle().await?;
    peer.settle().await?;

    let sources = peer.sources().await?;
    for (metric, buckets, target) in [("clean", None, 4.0), ("filter1", Some(1), 10.0), ("filter30", Some(30), 5.0)] {
        let metric = format!("vector_{metric}{suffix}");
        if bench.wants(&[&metric]) {
            compare(bench, &metric, target, (&ours, &sources), &live, (&queries, buckets)).await?;
        }
    }
    bare(bench, &wanted[1], (&ours, &peer), &live, &queries).await?;
    if bench.wants(&[&one_fragment]) {
        let all: Vec<RecordBatch> = [base].into_iter().chain(written).collect();
        one_fragment_of(bench, &one_fragment, &ours, all, &live, &queries).await?;
    }
    if bench.wants(&[&wanted[4]]) {
        let mut ids = shuffled(0, ids.len(), 5);
        ids.truncate(bench.size(30_000, 600));
        let again = make(&ids, &mut vectors, &mut live)?;
        ours.fill(&again).await?;
        peer.fill(&again).await?;
        ours.settle().await?;
        peer.settle().await?;
        let sources = peer.sources().await?;
        compare(bench, &wanted[4], 20.0, (&ours, &sources), &live, (&queries, None)).await?;
    }
    Ok(())
}

/// What the queries should find.
fn truths(live: &Live, queries: &[Vec<f32>], buckets: Option<i32>) -> Vec<Vec<i64>> {
    let passes = |bucket: i32| buckets.is_none_or(|end| bucket < end);
    let rows = || live.iter().filter(|(_, (bucket, _))| passes(*bucket)).map(|(id, (_, v))| (*id, v.as_slice()));
    queries.iter().map(|query| nearest(rows(), query, K)).collect()
}

async fn prepared(ours: &Ours, filtered: bool) -> Result<Prepared<'_>> {
    let filter = if filtered { "WHERE bucket < $2" } else { "" };
    ours.prepare(&format!("SELECT id FROM t {filter} ORDER BY l2_distance(vector, $1) LIMIT {K}")).await
}

async fn ask(prepared: &Prepared<'_>, query: Query<'_>) -> Result<Vec<i64>> {
    let vector = list(query.vector.to_vec(), query.vector.len())?;
    let mut parameters = vec![ScalarValue::FixedSizeList(Arc::new(vector.as_fixed_size_list().clone()))];
    parameters.extend(query.buckets.map(|end| ScalarValue::Int32(Some(end))));
    Ok(ids_of(&prepared.rows(parameters).await?))
}

async fn ask_peer(sources: &Sources, query: Query<'_>, overfetch: f64) -> Result<Vec<i64>> {
    let key = Float32Array::from(query.vector.to_vec());
    let mut scanner = sources.scanner().project(&[KEY])?;
    if let Some(end) = query.buckets {
        scanner = scanner.filter(&format!("bucket < {end}"))?;
    }
    let scanner = scanner
        .nearest("vector", &key, K)?
        .nprobes(1)
        .distance_metric(DistanceType::L2)
        .with_overfetch_factor(overfetch);
    Ok(ids_of(&[scanner.try_into_batch().await?]))
}

/// Both sides' recall over the queries; fails if ours is too low, or does not find as many rows as there are.
async fn recalls(
    metric: &str,
    truth: &[Vec<i64>],
    queries: &[Vec<f32>],
    ours: impl AsyncFn(&[f32]) -> Result<Vec<i64>>,
    peer: impl AsyncFn(&[f32]) -> Result<Vec<i64>>,
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
    if ours < RECALL { Err(format!("{metric}: recall {ours}").into()) } else { Ok(()) }
}

async fn compare(
    bench: &mut Bench,
    metric: &str,
    target: f64,
    (ours, sources): (&Ours, &Sources),
    live: &Live,
    (queries, buckets): (&[Vec<f32>], Option<i32>),
) -> Result<()> {
    let truth = truths(live, queries, buckets);
    let prepared = prepared(ours, buckets.is_some()).await?;
    let overfetch = 2.0;
    let ours = async |vector: &[f32]| ask(&prepared, Query { vector, buckets }).await;
    let theirs = async |vector: &[f32]| ask_peer(sources, Query { vector, buckets }, overfetch).await;
    recalls(metric, &truth, queries, ours, theirs).await?;
    race(bench, metric, target, queries, ours, theirs).await
}

async fn race(
    bench: &mut Bench,
    metric: &str,
    target: f64,
    queries: &[Vec<f32>],
    ours: impl AsyncFn(&[f32]) -> Result<Vec<i64>>,
    peer: impl AsyncFn(&[f32]) -> Result<Vec<i64>>,
) -> Result<()> {
    let (mut our_next, mut peer_next) = (queries.iter().cycle(), queries.iter().cycle());
    let none = Vec::new();
    let times = alternate(
        bench.rounds(Rounds::new(21, 501, 15)),
        async || {
            let query = our_next.next().unwrap_or(&none);
            Ok(timed(async { Ok(black_box(ours(query).await?)) }).await?.0)
        },
        async || {
            let query = peer_next.next().unwrap_or(&none);
            Ok(timed(async { Ok(black_box(peer(query).await?)) }).await?.0)
        },
    );
    bench.compared(metric, Unit::Microseconds, times.await?, target);
    Ok(())
}

/// Beside Lance's scanner of one memtable, which sees neither base nor deletions.
async fn bare(
    bench: &mut Bench,
    metric: &str,
    (ours, peer): (&Ours, &Peer),
    live: &Live,
    queries: &[Vec<f32>],
) -> Result<()> {
    if !bench.wants(&[metric]) {
        return Ok(());
    }
    let written: Live = live.iter().filter(|(id, _)| **id < BASE_IDS).map(|(id, row)| (*id, row.clone())).collect();
    let theirs = async |vector: &[f32], ef: usize| -> Result<Vec<i64>> {
        let mut scanner = peer.writer().scan().await?;
        let key = Float32Array::from(vector.to_vec());
        scanner.project(&[KEY])?.nearest("vector", &key, K)?.distance_metric(DistanceType::L2).ef(ef);
        Ok(ids_of(&[scanner.try_into_batch().await?]))
    };
    let truth = truths(&written, queries, None);
    let mut ef = 16;
    loop {
        let mut found = Vec::new();
        for query in queries {
            found.push(theirs(query, ef).await?);
        }
        if recall(&truth, &found) >= RECALL || ef >= 1024 {
            break;
        }
        ef *= 2;
    }
    note(&format!("{metric}: peer's ef {ef}"));
    let prepared = prepared(ours, false).await?;
    let ours = async |vector: &[f32]| ask(&prepared, Query { vector, buckets: None }).await;
    let theirs = async |vector: &[f32]| theirs(vector, ef).await;
    recalls(metric, &truths(live, queries, None), queries, ours, theirs).await?;
    race(bench, metric, 1.2, queries, ours, theirs).await
}

/// Beside a plain dataset of one fragment with an index of its own, as many of whose partitions are searched as it takes.
async fn one_fragment_of(
    bench: &mut Bench,
    metric: &str,
    ours: &Ours,
    all: Vec<RecordBatch>,
    live: &Live,
    queries: &[Vec<f32>],
) -> Result<()> {
    let width = schema_width(&all);
    let mut dataset = plain(&format!("memory://{metric}"), &schema(width), all, None).await?;
    let params = VectorIndexParams::ivf_flat(bench.size(248, 8), DistanceType::L2);
    Box::pin(dataset.create_index(&["vector"], IndexType::Vector, None, &params, true)).await?;
    let search = async |dataset: &Dataset, vector: &[f32], probes: usize| -> Result<Vec<i64>> {
        let key = Float32Array::from(vector.to_vec());
        let mut scan = dataset.scan();
        scan.project(&[KEY])?.nearest("vector", &key, K)?.nprobes(probes);
        Ok(ids_of(&[scan.try_into_batch().await?]))
    };
    let truth = truths(live, queries, None);
    let mut probes = 1;
    loop {
        let mut found = Vec::new();
        for query in queries {
            found.push(search(&dataset, query, probes).await?);
        }
        if recall(&truth, &found) >= RECALL || probes >= 256 {
            break;
        }
        probes *= 2;
    }
    note(&format!("{metric}: peer's nprobes {probes}"));
    let prepared = prepared(ours, false).await?;
    let ours = async |vector: &[f32]| ask(&prepared, Query { vector, buckets: None }).await;
    let theirs = async |vector: &[f32]| search(&dataset, vector, probes).await;
    recalls(metric, &truth, queries, ours, theirs).await?;
    race(bench, metric, 3.0, queries, ours, theirs).await
}

fn schema_width(batches: &[RecordBatch]) -> usize {
    batches.first().map_or(0, |batch| batch["vector"].as_fixed_size_list().value_length() as usize)
}
