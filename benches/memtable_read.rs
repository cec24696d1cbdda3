//! Reading rows that were just written, beside Lance: the workload of the seed, 62,000 rows in 620 batches with vectors
//! of 1,024 dimensions, over a small base.
//!
//! A scan is drained as the seed's bench does it, batches collected and counted; `…_consumed` reads every value.

mod support;

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use datafusion::common::ScalarValue;
use datafusion::execution::SendableRecordBatchStream;
use lance::Dataset;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use support::Result;
use support::answer::{Fingerprint, consume, drain, same};
use support::bench::{Bench, run};
use support::indexes::Index;
use support::measure::{Rounds, alternate, timed};
use support::ours::{self, Ours};
use support::peer::{self, Peer, Sources, plain};
use support::report::Unit;
use support::rows::{KEY, Kind, shuffled};

/// Where the ids of the base begin.
const BASE_IDS: i64 = 1_000_000;

/// How big everything is.
struct Shape {
    kind: Kind,
    rows: usize,
    batch: usize,
    base: usize,
    overwritten: usize,
}

/// Both sides with the same rows.
struct Pair {
    ours: Ours,
    peer: Peer,
    sources: Sources,
}

fn main() -> Result<()> {
    run("memtable_read", async |bench| {
        let shape = Shape {
            kind: Kind::Vectors(bench.size(1024, 16)),
            rows: bench.size(62_000, 620),
            batch: bench.size(100, 10),
            base: bench.size(100, 5),
            overwritten: bench.size(30_000, 300),
        };
        let ids: Vec<i64> = (0..shape.rows as i64).collect();
        let rows = shape.kind.batches(&ids, 0, shape.batch)?;
        let pair = Pair::new(bench, &shape, &rows).await?;
        scans(bench, &pair).await?;
        plain_datasets(bench, &pair, &shape, &rows).await?;
        points(bench, &pair, &shape).await?;
        if bench.wants(&["scan_overwritten"]) {
            overwritten(bench, &pair, &shape).await?;
        }
        Ok(())
    })
}

impl Pair {
    async fn new(bench: &Bench, shape: &Shape, rows: &[RecordBatch]) -> Result<Self> {
        let schema = shape.kind.schema();
        let base_ids: Vec<i64> = (BASE_IDS..BASE_IDS + shape.base as i64).collect();
        let base = vec![shape.kind.rows(&base_ids, 0)?];
        let ours = Ours::create(&bench.place().fresh("ours"), &schema, base.clone(), ours::roomy()).await?;
        ours.fill(rows).await?;
        let peer =
            Peer::create(&bench.place().fresh("peer"), &schema, base, &[Index::Btree(KEY)], peer::roomy()).await?;
        peer.fill(rows).await?;
        let pair = Self { sources: peer.sources().await?, ours, peer };
        pair.settle(bench).await?;
        Ok(pair)
    }

    /// Waits until nothing but the queries is at work.
    async fn settle(&self, bench: &Bench) -> Result<()> {
        self.ours.settle().await?;
        self.peer.settle(bench).await
    }
}

/// Runs a scan metric both ways: drained, and with every value read.
async fn scan_metric(
    bench: &mut Bench,
    metric: &str,
    target: f64,
    ours: impl AsyncFn() -> Result<SendableRecordBatchStream>,
    peer: impl AsyncFn() -> Result<SendableRecordBatchStream>,
) -> Result<()> {
    let consumed = format!("{metric}_consumed");
    if bench.wants(&[metric, &consumed]) {
        let rounds = bench.rounds(Rounds::new(11, 301, 10));
        let times = alternate(
            rounds,
            async || Ok(timed(async { drain(ours().await?).await }).await?.0),
            async || Ok(timed(async { drain(peer().await?).await }).await?.0),
        );
        bench.compared(metric, Unit::Milliseconds, times.await?, target);
        let rounds = bench.rounds(Rounds::new(5, 51, 10));
        let times = alternate(
            rounds,
            async || Ok(timed(async { consume(ours().await?).await }).await?.0),
            async || Ok(timed(async { consume(peer().await?).await }).await?.0),
        );
        bench.beside(&consumed, Unit::Milliseconds, times.await?);
    }
    Ok(())
}

async fn scans(bench: &mut Bench, pair: &Pair) -> Result<()> {
    let ours = Fingerprint::of(pair.ours.stream().await?).await?;
    same("scan", ours, Fingerprint::of(pair.sources.stream().await?).await?)?;
    let (ours, sources) = (async || pair.ours.stream().await, async || pair.sources.stream().await);
    scan_metric(bench, "scan_vs_lsm_scanner", 10.0, ours, sources).await?;
    scan_metric(bench, "scan_vs_memtable_scanner", 1.5, ours, async || pair.peer.memtable_stream().await).await
}

async fn plain_datasets(bench: &mut Bench, pair: &Pair, shape: &Shape, rows: &[RecordBatch]) -> Result<()> {
    let metrics = [("scan_vs_one_fragment", None, 84.0), ("scan_vs_620_fragments", Some(shape.batch), 99.0)];
    for (metric, fragment, target) in metrics {
        if bench.wants(&[metric]) {
            let dataset = plain(&format!("memory://{metric}"), &shape.kind.schema(), rows.to_vec(), fragment).await?;
            let written = Fingerprint::of_batches(rows)?;
            same(metric, written, Fingerprint::of(stream(&dataset).await?).await?)?;
            scan_metric(bench, metric, target, async || pair.ours.stream().await, async || stream(&dataset).await)
                .await?;
        }
    }
    Ok(())
}

async fn stream(dataset: &Dataset) -> Result<SendableRecordBatchStream> {
    Ok(dataset.scan().try_into_stream().await?.into())
}

async fn points(bench: &mut Bench, pair: &Pair, shape: &Shape) -> Result<()> {
    let mut rng = SmallRng::seed_from_u64(11);
    let mut some = |count: usize| -> Vec<i64> { (0..count).map(|_| rng.random_range(0..shape.rows as i64)).collect() };
    let lookup = pair.sources.lookup()?;
    let scalar = |id: i64| [ScalarValue::Int64(Some(id))];

    let ids = some(bench.size(1_000, 10));
    let keys: Vec<[ScalarValue; 1]> = ids.iter().map(|&id| scalar(id)).collect();
    for key in &keys {
        let found = Fingerprint::of_batches(&pair.ours.table.get(key).await?)?;
        same("get", found, Fingerprint::of_batches(&lookup.lookup(key, None).await?)?)?;
        if found.rows() != 1 {
            return Err("get: a key that was written is not found".into());
        }
    }
    if bench.wants(&["get"]) {
        let (ours, peer) = alternate(
            bench.rounds(Rounds::new(11, 201, 10)),
            async || {
                let work = async {
                    for key in &keys {
                        black_box(pair.ours.table.get(key).await?);
                    }
                    Ok(())
                };
                Ok(timed(work).await?.0)
            },
            async || {
                let work = async {
                    for key in &keys {
                        black_box(lookup.lookup(key, None).await?);
                    }
                    Ok(())
                };
                Ok(timed(work).await?.0)
            },
        )
        .await?;
        let each = keys.len() as f64;
        bench.compared("get", Unit::Microseconds, (ours / each, peer / each), 1.5);
    }

    let mut ids = some(bench.size(100, 10));
    ids.sort_unstable();
    ids.dedup();
    let many: Vec<ScalarValue> = ids.iter().map(|&id| ScalarValue::Int64(Some(id))).collect();
    let batch = RecordBatch::try_from_iter([(KEY, Arc::new(Int64Array::from(ids.clone())) as _)])?;
    let found = Fingerprint::of_batches([&pair.ours.table.get_many(&batch).await?])?;
    same("get_many_100", found, Fingerprint::of_batches([&lookup.lookup_many(&many, None).await?])?)?;
    if bench.wants(&["get_many_100"]) {
        let times = alternate(
            bench.rounds(Rounds::new(11, 501, 10)),
            async || Ok(timed(async { Ok(black_box(pair.ours.table.get_many(&batch).await?)) }).await?.0),
            async || Ok(timed(async { Ok(black_box(lookup.lookup_many(&many, None).await?)) }).await?.0),
        );
        bench.compared("get_many_100", Unit::Microseconds, times.await?, 3.0);
    }
    points_in_sql(bench, pair, &ids).await
}

async fn points_in_sql(bench: &mut Bench, pair: &Pair, ids: &[i64]) -> Result<()> {
    let session = &pair.ours.session;
    let prepared = pair.ours.prepare(&format!("SELECT * FROM {} WHERE id = $1", ours::NAME)).await?;
    let by_statement = async |id: i64| prepared.rows(vec![ScalarValue::Int64(Some(id))]).await;
    let by_text = async |id: i64| -> Result<Vec<RecordBatch>> {
        Ok(session.sql(&format!("SELECT * FROM {} WHERE id = {id}", ours::NAME)).await?.collect().await?)
    };
    let by_peer = async |id: i64| -> Result<RecordBatch> {
        Ok(pair.sources.scanner().filter(&format!("id = {id}"))?.try_into_batch().await?)
    };
    for &id in ids.iter().take(10) {
        let peer = Fingerprint::of_batches([&by_peer(id).await?])?;
        same("point_prepared", Fingerprint::of_batches(&by_statement(id).await?)?, peer)?;
        same("point_sql", Fingerprint::of_batches(&by_text(id).await?)?, peer)?;
    }
    let rounds = Rounds::new(51, 1_001, 5);
    let (mut ours_next, mut peer_next) = (ids.iter().cycle(), ids.iter().cycle());
    if bench.wants(&["point_prepared"]) {
        let times = alternate(
            bench.rounds(rounds),
            async || Ok(timed(by_statement(*ours_next.next().unwrap_or(&0))).await?.0),
            async || Ok(timed(by_peer(*peer_next.next().unwrap_or(&0))).await?.0),
        );
        bench.compared("point_prepared", Unit::Microseconds, times.await?, 2.0);
    }
    if bench.wants(&["point_sql"]) {
        let times = alternate(
            bench.rounds(rounds),
            async || Ok(timed(by_text(*ours_next.next().unwrap_or(&0))).await?.0),
            async || Ok(timed(by_peer(*peer_next.next().unwrap_or(&0))).await?.0),
        );
        bench.compared("point_sql", Unit::Microseconds, times.await?, 0.8);
    }
    Ok(())
}

/// Last: it changes the rows.
async fn overwritten(bench: &mut Bench, pair: &Pair, shape: &Shape) -> Result<()> {
    let mut ids = shuffled(0, shape.rows, 5);
    ids.truncate(shape.overwritten);
    let rows = shape.kind.batches(&ids, 1, shape.batch)?;
    pair.ours.fill(&rows).await?;
    pair.peer.fill(&rows).await?;
    pair.settle(bench).await?;
    let sources = pair.peer.sources().await?;
    let ours = Fingerprint::of(pair.ours.stream().await?).await?;
    same("scan_overwritten", ours, Fingerprint::of(sources.stream().await?).await?)?;
    let (ours, peer) = (async || pair.ours.stream().await, async || sources.stream().await);
    scan_metric(bench, "scan_overwritten", 20.0, ours, peer).await
}
