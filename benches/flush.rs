//! From a full memtable to a committed generation, beside Lance: 100,000 rows with texts of 30 to 80 words, vectors of
//! 1,024 dimensions and a btree, all indexed in what is written.
//!
//! Lance never syncs, so ours does not where it is compared; ours alone is told with its parts at its defaults.

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use datafusion_lsm::events::EventListener;
use datafusion_lsm::ids::{GenerationId, ShardId};
use datafusion_lsm::settings::Settings;
use datafusion_lsm::table::{Components, LsmTable};

use support::Result;
use support::answer::{Fingerprint, same};
use support::bench::{Bench, run};
use support::documents::{BUCKET, Documents, TEXT, VECTOR, WORDLESS};
use support::indexes::{Index, told};
use support::measure::{Laps, Rounds, alternate, median, timed};
use support::ours::{self, Ours};
use support::peer::{self, Peer, plain};
use support::place::uri;
use support::report::{Unit, note};
use support::rows::shuffled;
use support::vectors::Noise;

const INDEXES: [Index; 3] =
    [Index::Btree(BUCKET), Index::Text(TEXT), Index::Vector { column: VECTOR, partitions: 1, codes: None }];
/// Where the ids of the base begin.
const BASE_IDS: i64 = 1_000_000;

/// When a flush got where.
#[derive(Debug, Default)]
struct Stages {
    laps: Laps,
    table: OnceLock<Weak<LsmTable>>,
    /// Bytes that the frozen memtable holds.
    frozen: AtomicU64,
}

impl EventListener for Stages {
    fn on_freeze(&self, _: ShardId, _: GenerationId, _: usize) {
        self.laps.lap();
    }

    fn on_flush_written(&self, _: ShardId, _: GenerationId) {
        if let Some(table) = self.table.get().and_then(Weak::upgrade) {
            self.frozen.store(held(&table), Ordering::Relaxed);
        }
        self.laps.lap();
    }
}

/// Bytes that memtables hold.
fn held(table: &LsmTable) -> u64 {
    table.metrics().into_iter().find(|metric| metric.name == "lsm.memtable.memory").map_or(0, |metric| metric.value)
}

fn main() -> Result<()> {
    run("flush", async |bench| {
        let documents = Documents::new(Noise::Shared, bench.size(1024, 32));
        let ids = shuffled(0, bench.size(100_000, 600), 3);
        let ours = our_table(bench, &documents, ours::roomy(), Arc::default()).await?;
        note(&told(&ours.table, &INDEXES));
        ours.table.close().await?;
        beside(bench, &documents, &ids).await?;
        alone(bench, &documents, &ids).await
    })
}

async fn our_table(bench: &Bench, documents: &Documents, settings: Settings, stages: Arc<Stages>) -> Result<Ours> {
    let dir = bench.place().fresh("ours");
    let base: Vec<i64> = (BASE_IDS..BASE_IDS + 300).collect();
    plain(uri(&dir)?, &documents.schema(), vec![documents.rows(&base, WORDLESS)?], None).await?;
    let components = Components { events: stages, ..Components::default() };
    Ours::adopt_with(&dir, &INDEXES, settings, components).await
}

/// Both sides, neither synced.
async fn beside(bench: &mut Bench, documents: &Documents, ids: &[i64]) -> Result<()> {
    const METRIC: &str = "indexed_100k";
    if !bench.wants(&[METRIC]) {
        return Ok(());
    }
    let rows = documents.batches(ids, 0, 1_000)?;
    let base: Vec<i64> = (BASE_IDS..BASE_IDS + 300).collect();
    let base = vec![documents.rows(&base, WORDLESS)?];
    let settings = Settings { sync: false, ..ours::roomy() };
    let (mut found, mut theirs) = (None, None);
    let times = alternate(
        bench.rounds(Rounds::new(3, 5, 240)),
        async || {
            let ours = our_table(bench, documents, settings.clone(), Arc::default()).await?;
            ours.fill(&rows).await?;
            ours.settle().await?;
            let (time, ()) = timed(async { Ok(ours.table.flush().await.map(|_| ())?) }).await?;
            if found.is_none() {
                check_indexed(&ours).await?;
                found = Some(Fingerprint::of(ours.stream().await?).await?);
            }
            ours.table.close().await?;
            Ok(time)
        },
        async || {
            let dir = bench.place().fresh("peer");
            let peer = Peer::create(&dir, &documents.schema(), base.clone(), &INDEXES, peer::roomy()).await?;
            peer.fill(&rows).await?;
            peer.settle(bench).await?;
            let (time, ()) = timed(peer.flush()).await?;
            if theirs.is_none() {
                theirs = Some(Fingerprint::of(peer.sources().await?.stream().await?).await?);
            }
            peer.abort().await?;
            Ok(time)
        },
    );
    let times = times.await?;
    same(METRIC, found.unwrap_or_default(), theirs.unwrap_or_default())?;
    bench.compared(METRIC, Unit::Milliseconds, times, 1.2);
    Ok(())
}

/// Fails unless each index of the generation has all its rows.
async fn check_indexed(ours: &Ours) -> Result<()> {
    let infos = ours.table.index_info().await?.into_iter().filter(|info| info.source == "generation");
    let (whole, part): (Vec<_>, Vec<_>) = infos.partition(|info| info.indexed == info.rows);
    match part.first() {
        None if whole.len() == INDEXES.len() => Ok(()),
        None => Err(format!("the generation has {} indexes", whole.len()).into()),
        Some(info) => Err(format!("{} of {} rows are in {}", info.indexed, info.rows, info.index.name).into()),
    }
}

/// Ours at its defaults: synced, and open once it is committed.
async fn alone(bench: &mut Bench, documents: &Documents, ids: &[i64]) -> Result<()> {
    const METRIC: &str = "indexed_100k_full";
    if !bench.wants(&[METRIC]) {
        return Ok(());
    }
    let rows = documents.batches(ids, 0, 1_000)?;
    let (mut wholes, mut parts) = (Vec::new(), [Vec::new(), Vec::new(), Vec::new()]);
    for _ in 0..bench.size(3, 1) {
        let stages = Arc::new(Stages::default());
        let ours = our_table(bench, documents, ours::roomy(), Arc::clone(&stages)).await?;
        ours.fill(&rows).await?;
        ours.settle().await?;
        stages.table.set(Arc::downgrade(&ours.table)).map_err(|_| "a bench has one table")?;
        let filled = held(&ours.table);
        stages.laps.lap();
        ours.table.flush().await?;
        stages.laps.lap();
        note(&format!("of {filled} bytes the frozen memtable holds {}", stages.frozen.load(Ordering::Relaxed)));
        wholes.push(stages.laps.between().iter().sum());
        for (part, time) in parts.iter_mut().zip(stages.laps.between()) {
            part.push(time);
        }
        ours.table.close().await?;
    }
    bench.alone(METRIC, Unit::Milliseconds, median(wholes));
    for (name, times) in ["frozen", "written", "committed"].into_iter().zip(parts) {
        bench.alone(&format!("{METRIC}_{name}"), Unit::Milliseconds, median(times));
    }
    Ok(())
}
