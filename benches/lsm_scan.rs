//! Scanning all sources of a table, beside Lance: base, generations and memtable, with and without rows that newer
//! sources supersede; and beside a plain dataset that holds just the live rows.

mod support;

use std::path::Path;

use arrow::array::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use lance::Dataset;

use support::Result;
use support::answer::{Fingerprint, consume, drain, same};
use support::bench::{Bench, run};
use support::indexes::Index;
use support::measure::{Rounds, alternate, timed};
use support::ours::{self, Ours};
use support::peer::{self, Peer, plain};
use support::place::uri;
use support::report::Unit;
use support::rows::{KEY, Kind};
use support::shape::{Shape, newest};

const KIND: Kind = Kind::Records;
const BATCH: usize = 1_000;

/// The ids of each source, the base first and the memtable last; a row's version is its source's place.
struct Sources(Vec<Vec<i64>>);

impl Sources {
    fn batches(&self, source: usize) -> Result<Vec<RecordBatch>> {
        KIND.batches(&self.0[source], source as u64, BATCH)
    }

    fn generations(&self) -> std::ops::Range<usize> {
        1..self.0.len() - 1
    }

    fn memtable(&self) -> Result<Vec<RecordBatch>> {
        self.batches(self.0.len() - 1)
    }

    /// The live rows in the order of their ids.
    fn live(&self) -> Result<Vec<RecordBatch>> {
        let batch = |rows: &[(i64, u64)]| -> Result<Vec<RecordBatch>> {
            let runs = rows.chunk_by(|a, b| a.1 == b.1);
            runs.map(|run| KIND.rows(&run.iter().map(|r| r.0).collect::<Vec<_>>(), run[0].1)).collect()
        };
        let rows = newest(&self.0);
        rows.chunks(BATCH).map(|rows| Ok(arrow::compute::concat_batches(&KIND.schema(), &batch(rows)?)?)).collect()
    }
}

/// Both sides with the same rows; memtables are filled anew at every run, the rest is kept between runs.
struct Pair {
    ours: Ours,
    peer: Peer,
    sources: peer::Sources,
}

impl Pair {
    async fn new(bench: &Bench, shape: Shape) -> Result<Self> {
        let rows = Sources(shape.ids());
        let place = bench.place();
        let dir =
            place.copy_of_built(&shape.label("lsm_scan", "ours"), async |dir| build_ours(dir, &rows).await).await?;
        let ours = Ours::open(&dir, ours::roomy()).await?;
        ours.fill(&rows.memtable()?).await?;
        let dir =
            place.copy_of_built(&shape.label("lsm_scan", "peer"), async |dir| build_peer(dir, &rows).await).await?;
        let peer = Peer::open(&dir, peer::roomy()).await?;
        peer.fill(&rows.memtable()?).await?;
        ours.settle().await?;
        peer.settle(bench).await?;
        let sources = peer.sources().await?;
        Ok(Self { ours, peer, sources })
    }

    async fn end(self) -> Result<()> {
        self.ours.table.close().await?;
        self.peer.abort().await
    }
}

async fn build_ours(dir: &Path, rows: &Sources) -> Result<()> {
    let ours = Ours::create(dir, &KIND.schema(), rows.batches(0)?, ours::roomy()).await?;
    for generation in rows.generations() {
        ours.fill(&rows.batches(generation)?).await?;
        ours.table.flush().await?;
    }
    Ok(ours.table.close().await?)
}

async fn build_peer(dir: &Path, rows: &Sources) -> Result<()> {
    let peer = Peer::create(dir, &KIND.schema(), rows.batches(0)?, &[Index::Btree(KEY)], peer::roomy()).await?;
    for generation in rows.generations() {
        peer.fill(&rows.batches(generation)?).await?;
        peer.flush().await?;
    }
    peer.close().await
}

fn main() -> Result<()> {
    run("lsm_scan", async |bench| {
        let shape = |overlap| Shape {
            base: bench.size(1_000_000, 2_000),
            generations: bench.size(5, 2),
            generation: bench.size(50_000, 200),
            memtable: bench.size(20_000, 100),
            overlap,
        };
        let (none, some) = (shape(0), shape(20));
        everything(bench, none, ["overlap0_vs_lance", "overlap0_vs_plain"], [3.0, 0.9]).await?;
        everything(bench, some, ["overlap20_vs_lance", "overlap20_vs_plain"], [3.0, 0.8]).await?;
        let shape = |overlap| Shape {
            base: bench.size(20_000, 500),
            generations: bench.size(18, 3),
            generation: bench.size(5_000, 100),
            memtable: bench.size(2_000, 50),
            overlap,
        };
        let (none, some) = (shape(0), shape(20));
        keys(bench, none, "gens18_vs_lance", Some(10.0)).await?;
        keys(bench, some, "gens18_overlap20_vs_lance", None).await
    })
}

/// All live rows, all columns.
async fn everything(bench: &mut Bench, shape: Shape, metrics: [&str; 2], targets: [f64; 2]) -> Result<()> {
    if !bench.wants(&metrics) {
        return Ok(());
    }
    let pair = Pair::new(bench, shape).await?;
    let live = async |dir: &Path| -> Result<()> {
        plain(uri(dir)?, &KIND.schema(), Sources(shape.ids()).live()?, None).await.map(|_| ())
    };
    let dir = bench.place().built(&shape.label("lsm_scan", "plain"), live).await?;
    let dataset = Dataset::open(uri(&dir)?).await?;
    let (ours, lance, plain) =
        (async || pair.ours.stream().await, async || pair.sources.stream().await, async || stream(&dataset).await);
    let expected = Fingerprint::of(plain().await?).await?;
    same("ours and a plain dataset", Fingerprint::of(ours().await?).await?, expected)?;
    same("Lance and a plain dataset", Fingerprint::of(lance().await?).await?, expected)?;
    scan_metric(bench, metrics[0], Some(targets[0]), ours, lance).await?;
    scan_metric(bench, metrics[1], Some(targets[1]), ours, plain).await?;
    pair.end().await
}

/// The key of all live rows.
async fn keys(bench: &mut Bench, shape: Shape, metric: &str, target: Option<f64>) -> Result<()> {
    if !bench.wants(&[metric]) {
        return Ok(());
    }
    let pair = Pair::new(bench, shape).await?;
    let peer = async || Ok(pair.sources.scanner().project(&[KEY])?.try_into_stream().await?);
    let ours = async || pair.ours.keys().await;
    let expected = Sources(shape.ids()).live()?;
    let key: Vec<RecordBatch> = expected.iter().map(|b| b.project(&[0])).collect::<std::result::Result<_, _>>()?;
    let expected = Fingerprint::of_batches(&key)?;
    same("ours and what was written", Fingerprint::of(ours().await?).await?, expected)?;
    same("Lance and what was written", Fingerprint::of(peer().await?).await?, expected)?;
    scan_metric(bench, metric, target, ours, peer).await?;
    pair.end().await
}

async fn stream(dataset: &Dataset) -> Result<SendableRecordBatchStream> {
    Ok(dataset.scan().try_into_stream().await?.into())
}

async fn scan_metric(
    bench: &mut Bench,
    metric: &str,
    target: Option<f64>,
    ours: impl AsyncFn() -> Result<SendableRecordBatchStream>,
    peer: impl AsyncFn() -> Result<SendableRecordBatchStream>,
) -> Result<()> {
    let rounds = Rounds::new(7, 51, 15);
    let times = alternate(
        bench.rounds(rounds),
        async || Ok(timed(async { drain(ours().await?).await }).await?.0),
        async || Ok(timed(async { drain(peer().await?).await }).await?.0),
    );
    let times = times.await?;
    match target {
        Some(target) => bench.compared(metric, Unit::Milliseconds, times, target),
        None => bench.beside(metric, Unit::Milliseconds, times),
    }
    let times = alternate(
        bench.rounds(rounds),
        async || Ok(timed(async { consume(ours().await?).await }).await?.0),
        async || Ok(timed(async { consume(peer().await?).await }).await?.0),
    );
    bench.beside(&format!("{metric}_consumed"), Unit::Milliseconds, times.await?);
    Ok(())
}
