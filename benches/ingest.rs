//! Writing, beside Lance: rows a second that are acknowledged in memory, and what it takes to make a row durable.
//!
//! Ours syncs at its defaults; Lance never does, and waits up to 100 ms for company unless told otherwise.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion_lsm::settings::Settings;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::JoinSet;

use support::Result;
use support::answer::{Fingerprint, same};
use support::bench::{Bench, run};
use support::measure::{Rounds, alternate, timed, timed_here};
use support::ours::{self, Ours};
use support::peer::{self, Peer};
use support::report::Unit;
use support::rows::{Kind, shuffled};

const KIND: Kind = Kind::Records;
/// Lance's default, and the shortest that it is told beside it.
const LANCE_DEFAULT: Duration = Duration::from_millis(100);
const LANCE_SHORT: Duration = Duration::from_millis(1);

fn main() -> Result<()> {
    run("ingest", async |bench| {
        // The rows stay below what makes a memtable freeze at the defaults of either side.
        for (metric, batch, puts, target) in [
            ("volatile_b1", 1, bench.size(20_000, 50), 3.0),
            ("volatile_b10", 10, bench.size(9_000, 20), 2.0),
            ("volatile_b100", 100, bench.size(900, 5), 1.0),
            ("volatile_b1000", 1_000, bench.size(90, 2), 2.0),
        ] {
            if bench.wants(&[metric]) {
                Box::pin(volatile(bench, metric, batch, puts, target)).await?;
            }
        }
        Box::pin(durable(bench)).await?;
        Box::pin(floor(bench)).await?;
        crowd(bench).await
    })
}

async fn our_table(bench: &Bench, settings: Settings) -> Result<Ours> {
    Ours::create(&bench.place().fresh("ours"), &KIND.schema(), vec![KIND.rows(&[-1], 0)?], settings).await
}

async fn peer_table(bench: &Bench, config: lance::dataset::mem_wal::ShardWriterConfig) -> Result<Peer> {
    Peer::create(&bench.place().fresh("peer"), &KIND.schema(), vec![KIND.rows(&[-1], 0)?], &[], config).await
}

async fn volatile(bench: &mut Bench, metric: &str, batch: usize, puts: usize, target: f64) -> Result<()> {
    let rows = KIND.batches(&shuffled(0, batch * puts, 3), 0, batch)?;
    {
        let (ours, peer) = (our_table(bench, ours::roomy()).await?, peer_table(bench, peer::roomy()).await?);
        ours.fill(&rows).await?;
        peer.fill(&rows).await?;
        let written = Fingerprint::of(ours.stream().await?).await?;
        same(metric, written, Fingerprint::of(peer.sources().await?.stream().await?).await?)?;
        ours.table.close().await?;
        peer.abort().await?;
    }
    // Each turn has a new table; making it and emptying its queue does not count.
    let times = alternate(
        bench.rounds(Rounds::new(5, 15, 20)),
        async || {
            let ours = our_table(bench, ours::roomy()).await?;
            let (time, ()) = timed(ours.fill(&rows)).await?;
            ours.table.close().await?;
            Ok(time)
        },
        async || {
            let peer = peer_table(bench, peer::roomy()).await?;
            let (time, ()) = timed(peer.fill(&rows)).await?;
            peer.abort().await?;
            Ok(time)
        },
    );
    let times = times.await?;
    bench.compared(metric, Unit::Rows(batch * puts), times, target);
    Ok(())
}

/// One-row batches that are handed out one after another.
struct Rows {
    rows: Vec<RecordBatch>,
    next: usize,
}

impl Rows {
    fn new(count: usize) -> Result<Self> {
        Ok(Self { rows: KIND.batches(&shuffled(0, count, 9), 0, 1)?, next: 0 })
    }

    fn next(&mut self) -> RecordBatch {
        self.next += 1;
        self.rows[(self.next - 1) % self.rows.len()].clone()
    }
}

/// A lone writer that waits for each row.
async fn durable(bench: &mut Bench) -> Result<()> {
    let synced = ours::durable();
    let unsynced = Settings { sync: false, ..ours::durable() };
    let cases = [
        ("durable_b1_latency", synced.clone(), LANCE_DEFAULT, Some(40.0), Rounds::new(11, 31, 10)),
        ("durable_b1_latency_vs_1ms", synced, LANCE_SHORT, None, Rounds::new(51, 501, 5)),
        ("durable_b1_unsynced", unsynced, LANCE_SHORT, Some(2.0), Rounds::new(51, 501, 5)),
    ];
    for (metric, settings, interval, target, rounds) in cases {
        if !bench.wants(&[metric]) {
            continue;
        }
        let (ours, peer) = (our_table(bench, settings).await?, peer_table(bench, peer::durable(interval)).await?);
        let (mut our_rows, mut peer_rows) = (Rows::new(1_000)?, Rows::new(1_000)?);
        let times = alternate(
            bench.rounds(rounds),
            async || Ok(timed(async { Ok(ours.table.put(our_rows.next()).await?) }).await?.0),
            async || Ok(timed(async { Ok(peer.writer().put(vec![peer_rows.next()]).await?) }).await?.0),
        );
        let times = times.await?;
        let written = Fingerprint::of(ours.stream().await?).await?;
        same(metric, written, Fingerprint::of(peer.sources().await?.stream().await?).await?)?;
        match target {
            Some(target) => bench.compared(metric, Unit::Microseconds, times, target),
            None => bench.beside(metric, Unit::Microseconds, times),
        }
        ours.table.close().await?;
        peer.abort().await?;
    }
    Ok(())
}

/// The least that durability costs on this file system, beside a put.
async fn floor(bench: &mut Bench) -> Result<()> {
    const METRIC: &str = "durable_b1_vs_fsync";
    if !bench.wants(&[METRIC]) {
        return Ok(());
    }
    let dir = bench.place().fresh("ours");
    let ours = Ours::create(&dir, &KIND.schema(), vec![KIND.rows(&[-1], 0)?], ours::durable()).await?;
    let mut rows = Rows::new(1_000)?;
    ours.table.put(rows.next()).await?;
    let bytes = vec![7; newest_entry(&dir)?];
    let beside = bench.place().fresh("floor");
    std::fs::create_dir_all(&beside)?;
    let mut files = 0;
    let times = alternate(
        bench.rounds(Rounds::new(51, 501, 10)),
        async || Ok(timed(async { Ok(ours.table.put(rows.next()).await?) }).await?.0),
        async || {
            files += 1;
            timed_here(|| make_durable(&beside, files, &bytes))
        },
    );
    let times = times.await?;
    bench.compared(METRIC, Unit::Microseconds, times, 0.8);
    Ok(ours.table.close().await?)
}

/// The size of the WAL entry that was written last below `dir`.
fn newest_entry(dir: &Path) -> Result<usize> {
    let files = walkdir::WalkDir::new(dir).into_iter().filter_map(std::result::Result::ok);
    let entries = files.filter(|f| f.file_type().is_file() && f.path().components().any(|c| c.as_os_str() == "wal"));
    let newest = entries.filter_map(|f| f.metadata().ok().map(|m| (m.modified().ok(), m.len()))).max();
    let (_, size) = newest.ok_or("the table has no WAL entry")?;
    Ok(usize::try_from(size)?)
}

/// Create, write, sync, link under the final name, sync the directory.
fn make_durable(dir: &Path, number: usize, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let temporary = dir.join(format!("temporary-{number}"));
    let mut file = std::fs::File::create_new(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::hard_link(&temporary, dir.join(format!("entry-{number}")))?;
    std::fs::File::open(dir)?.sync_all()?;
    Ok(())
}

/// 64 writers, each waiting for its own rows.
async fn crowd(bench: &mut Bench) -> Result<()> {
    let writers = bench.size(64, 4);
    let puts = bench.size(20, 2);
    let rows: Vec<Vec<RecordBatch>> =
        shuffled(0, writers * puts, 13).chunks(puts).map(|ids| KIND.batches(ids, 0, 1)).collect::<Result<_>>()?;
    let cases = [
        ("durable_b1_64writers", LANCE_DEFAULT, Some(10.0), Rounds::new(5, 7, 20)),
        ("durable_b1_64writers_vs_1ms", LANCE_SHORT, None, Rounds::new(5, 31, 10)),
    ];
    for (metric, interval, target, rounds) in cases {
        if !bench.wants(&[metric]) {
            continue;
        }
        let ours = our_table(bench, ours::durable()).await?;
        let peer = Arc::new(peer_table(bench, peer::durable(interval)).await?);
        let times = alternate(
            bench.rounds(rounds),
            async || {
                let table = Arc::clone(&ours.table);
                let put = move |row| {
                    let table = Arc::clone(&table);
                    async move { Ok(table.put(row).await.map(|_| ())?) }.boxed()
                };
                Ok(timed(together(&rows, put)).await?.0)
            },
            async || {
                let peer = Arc::clone(&peer);
                let put = move |row| {
                    let peer = Arc::clone(&peer);
                    async move { Ok(peer.writer().put(vec![row]).await.map(|_| ())?) }.boxed()
                };
                Ok(timed(together(&rows, put)).await?.0)
            },
        );
        let times = times.await?;
        let written = Fingerprint::of(ours.stream().await?).await?;
        same(metric, written, Fingerprint::of(peer.sources().await?.stream().await?).await?)?;
        match target {
            Some(target) => bench.compared(metric, Unit::Rows(writers * puts), times, target),
            None => bench.beside(metric, Unit::Rows(writers * puts), times),
        }
        ours.table.close().await?;
        Arc::into_inner(peer).ok_or("a writer is still at work")?.abort().await?;
    }
    Ok(())
}

/// Writes with a task a writer, each waiting for its row before it writes the next.
async fn together(
    rows: &[Vec<RecordBatch>],
    put: impl Fn(RecordBatch) -> BoxFuture<'static, Result<()>> + Clone + Send + 'static,
) -> Result<()> {
    let mut writers = JoinSet::new();
    for rows in rows {
        let (rows, put) = (rows.clone(), put.clone());
        writers.spawn(async move {
            for row in rows {
                put(row).await?;
            }
            Ok(())
        });
    }
    writers.join_all().await.into_iter().collect()
}
