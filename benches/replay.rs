//! Coming back after a crash, beside Lance: from opening a table whose rows are in the WAL to the first row found.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion_lsm::settings::Settings;
use lance::dataset::mem_wal::ShardWriterConfig;

use support::Result;
use support::answer::{Fingerprint, same};
use support::bench::{Bench, run};
use support::measure::{Rounds, alternate, timed};
use support::ours::{self, Ours};
use support::peer::{self, Peer};
use support::report::Unit;
use support::rows::Kind;

/// A WAL of entries of equal size.
#[derive(Debug, Clone, Copy)]
struct Shape {
    kind: Kind,
    entries: usize,
    rows: usize,
}

impl Shape {
    fn label(&self, side: &str) -> String {
        let Self { kind, entries, rows } = self;
        let kind = match kind {
            Kind::Vectors(dimensions) => format!("vectors{dimensions}"),
            Kind::Records => "records".to_string(),
            Kind::Short => "short".to_string(),
        };
        format!("replay-{kind}-{entries}x{rows}-{side}")
    }

    fn batches(&self) -> Result<Vec<RecordBatch>> {
        let ids: Vec<i64> = (0..(self.entries * self.rows) as i64).collect();
        self.kind.batches(&ids, 0, self.rows)
    }

    fn wanted(&self) -> i64 {
        (self.entries * self.rows / 2) as i64
    }
}

fn main() -> Result<()> {
    run("replay", async |bench| {
        let small = Shape { kind: Kind::Short, entries: bench.size(1_000, 20), rows: 20 };
        let large = Shape { kind: Kind::Vectors(512), entries: bench.size(98, 3), rows: bench.size(512, 8) };
        for (metric, shape, target) in [("entries_1000x20", small, 2.0), ("bytes_100mb", large, 1.5)] {
            if bench.wants(&[metric]) {
                Box::pin(replay(bench, metric, shape, target)).await?;
            }
        }
        Ok(())
    })
}

async fn replay(bench: &mut Bench, metric: &str, shape: Shape, target: f64) -> Result<()> {
    let place = bench.place();
    let our_dir = place.built(&shape.label("ours"), async |dir| write_ours(dir, shape).await).await?;
    let peer_dir = place.built(&shape.label("peer"), async |dir| write_peer(dir, shape).await).await?;
    {
        let ours = Ours::open(&copied(bench, &our_dir)?, ours::durable()).await?;
        let peer = Peer::open(&copied(bench, &peer_dir)?, ShardWriterConfig::default()).await?;
        let replayed = Fingerprint::of(ours.stream().await?).await?;
        same(metric, replayed, Fingerprint::of(peer.sources().await?.stream().await?).await?)?;
        peer.abort().await?;
    }
    // Each turn has its own copy: a claim changes what it opens.
    let key = [ScalarValue::Int64(Some(shape.wanted()))];
    let times = alternate(
        bench.rounds(Rounds::new(7, 31, 15)),
        async || {
            let dir = copied(bench, &our_dir)?;
            let (time, ours) = timed(async {
                let ours = Ours::open(&dir, ours::durable()).await?;
                ours.table.get(&key).await?.ok_or("ours: a row was lost")?;
                Ok(ours)
            })
            .await?;
            drop(ours);
            done(&dir, time)
        },
        async || {
            let dir = copied(bench, &peer_dir)?;
            let (time, peer) = timed(async {
                let peer = Peer::open(&dir, ShardWriterConfig::default()).await?;
                peer.unwarmed_sources().await?.lookup()?.lookup(&key, None).await?.ok_or("Lance: a row was lost")?;
                Ok(peer)
            })
            .await?;
            peer.abort().await?;
            done(&dir, time)
        },
    );
    let times = times.await?;
    bench.compared(metric, Unit::Milliseconds, times, target);
    Ok(())
}

fn copied(bench: &Bench, dir: &Path) -> Result<PathBuf> {
    bench.place().copy(dir, "replay")
}

fn done(dir: &Path, time: Duration) -> Result<Duration> {
    support::place::remove(dir)?;
    Ok(time)
}

/// Every put waits for its entry, so each has one; the table is dropped as a crash drops it.
async fn write_ours(dir: &Path, shape: Shape) -> Result<()> {
    let settings = Settings { sync: false, ..ours::durable() };
    let ours = Ours::create(dir, &shape.kind.schema(), vec![shape.kind.rows(&[-1], 0)?], settings).await?;
    ours.fill(&shape.batches()?).await
}

async fn write_peer(dir: &Path, shape: Shape) -> Result<()> {
    let config = peer::durable(Duration::from_millis(1));
    let peer = Peer::create(dir, &shape.kind.schema(), vec![shape.kind.rows(&[-1], 0)?], &[], config).await?;
    peer.fill(&shape.batches()?).await?;
    peer.abort().await
}
