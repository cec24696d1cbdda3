//! Reading many generations over a network, beside Lance: a base of 20,000 rows, up to 18 generations of 5,000 and a
//! memtable of 2,000, in a store that takes 10 ms for every request; every fifth row replaces an older one.
//!
//! Each side has a table of its own with the same rows. Lance is at its best: a session whose caches hold everything,
//! SSTables that stay open, prewarmed with their filters, planners that are kept, every query asked before. Each side
//! searches at its cheapest setting with a recall of 0.95 or more, and what is found is compared before it is timed.
//! Beside each time stand the requests of a query, and what it takes that only one in a hundred exceeds.
//!
//! `scan…` reads the keys of all rows. `scan_values…` reads every value of all columns: it has no target, and need not find
//! all that it reads in memory.
//!
//! `…_g18` is asked again and again over 18 generations. `…_first` is the first query after a flush that makes them 18,
//! all else warm, as `lsm_warm('t', 'all')` and queries leave it; Lance has prewarmed what was flushed. `…_cold` is opening
//! the table and one query, with nothing in any cache and no memtable: each time in a fork of the store that nobody has
//! seen. `…_nolatency` has no delay.
//!
//! Vectors have 384 dimensions, so that no generation is so small that its rows all stay in memory.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use datafusion_lsm::settings::Warmth;
use datafusion_lsm::table::Components;

use support::Result;
use support::bench::{Bench, run};
use support::documents::{Documents, TEXT, VECTOR};
use support::expected::{Expected, ids};
use support::indexes::{Index, create_all, told};
use support::measure::{Rounds, Turns, median, timed, turns};
use support::ours::Ours;
use support::peer::{self, Peer, plain};
use support::place::uri;
use support::remote::Bucket;
use support::report::{Unit, note};
use support::rows::KEY;
use support::search::RECALL;
use support::shape::Shape;
use support::side::{Asked, Kind, OurSide, PeerSide, Questions, Side, Tally, empty_caches, settings};
use support::stage::{grown, kept, loaded};
use support::tuning::{OurEffort, PeerEffort, REFINE, our_effort, peer_effort};
use support::vectors::{Noise, recall};

/// What must be found of the nearest rows where no setting was looked for: it was in a table of the same rows whose
/// memtable was not flushed.
const NEARLY: f64 = 0.9;
/// Rows of a batch.
const BATCH: usize = 1_000;
/// What is added to a metric's name, for each number of generations.
const LEVELS: [&str; 4] = ["g2", "g5", "g10", "g18"];
/// The last of them.
const MOST: usize = LEVELS.len() - 1;
const KINDS: [Kind; 6] = [Kind::Text, Kind::Vector, Kind::Hybrid, Kind::Point, Kind::Scan, Kind::Values];
/// Those that are asked after a flush, and cold: in smoke size fewer.
const FIRST: [Kind; 5] = [Kind::Text, Kind::Vector, Kind::Hybrid, Kind::Point, Kind::Scan];
const COLD: [Kind; 6] = KINDS;
const FEW: [Kind; 3] = [Kind::Text, Kind::Vector, Kind::Point];

/// Metrics and how many times better ours is to be.
const TARGETS: [(&str, f64); 15] = [
    ("text_g18", 6.0),
    ("vector_g18", 15.0),
    ("point_g18", 8.0),
    ("scan_g18", 10.0),
    ("text_first", 10.0),
    ("vector_first", 10.0),
    ("point_first", 10.0),
    ("text_cold", 4.0),
    ("vector_cold", 4.0),
    ("scan_cold", 4.0),
    ("text_cold_requests", 4.0),
    ("vector_cold_requests", 4.0),
    ("scan_cold_requests", 4.0),
    ("text_g18_nolatency", 4.0),
    ("vector_g18_nolatency", 4.0),
];
/// Metrics of other levels of searches whose settings have to be found out.
const EFFORTFUL: [&str; 6] =
    ["vector_first", "hybrid_first", "vector_cold", "hybrid_cold", "vector_cold_requests", "hybrid_cold_requests"];
/// Requests of a query that was asked before.
const WARM: &str = "requests_warm";
/// What each further generation may cost a query that was asked before, in microseconds.
const SLOPES: [(Kind, &str, f64); 2] = [(Kind::Text, "slope_text_us", 100.0), (Kind::Vector, "slope_vector_us", 100.0)];

fn main() -> Result<()> {
    run("fresh_tier", async |bench| {
        let data = Data::new(bench).await?;
        let mut found = Found::default();
        // The largest first: what its searches need is mostly enough for the others. The slopes need the smallest.
        for level in bench.size((0..=MOST).rev().collect(), vec![MOST, 0]) {
            Box::pin(warm(bench, &data, level, &mut found)).await?;
        }
        summary(bench, &data, &found);
        let effort = found.effort.unwrap_or_else(Effort::any);
        for kind in bench.size(FIRST.as_slice(), &FEW) {
            Box::pin(first(bench, &data, *kind, &effort)).await?;
        }
        for kind in bench.size(COLD.as_slice(), &FEW) {
            Box::pin(cold(bench, &data, *kind, &effort)).await?;
        }
        Ok(())
    })
}

/// What was measured of queries that had been asked before, and the settings they were asked with.
#[derive(Default)]
struct Found {
    medians: BTreeMap<(Kind, usize), (f64, f64)>,
    /// The most requests of a query.
    requests: (f64, f64),
    effort: Option<Effort>,
}

/// How thoroughly each side searches.
#[derive(Clone)]
struct Effort {
    ours: OurEffort,
    peer: PeerEffort,
}

impl Effort {
    fn any() -> Self {
        Self { ours: OurEffort::default_one(), peer: PeerEffort { probes: 8, refine: None } }
    }
}

/// Both sides' tables after some of their generations.
struct Data {
    documents: Documents,
    shape: Shape,
    delay: Duration,
    /// How many generations each level has.
    levels: [usize; LEVELS.len()],
    /// The buckets of ours and of the peer, by how many generations there are.
    stages: BTreeMap<usize, (Arc<Bucket>, Arc<Bucket>)>,
}

impl Data {
    async fn new(bench: &Bench) -> Result<Self> {
        // When everything is tiny only the first and the last are looked at.
        let levels = bench.size([2, 5, 10, 18], [1, 1, 1, 3]);
        let shape = Shape {
            base: bench.size(20_000, 500),
            generations: levels[MOST],
            generation: bench.size(5_000, 100),
            memtable: bench.size(2_000, 50),
            overlap: 20,
        };
        let width = bench.size(384, 16);
        let documents = Documents::new(Noise::Shared, width);
        let vector = Index::Vector { column: VECTOR, partitions: bench.size(64, 4), codes: None };
        let indexes = [Index::Btree(KEY), Index::Text(TEXT), vector];
        let (place, ids) = (bench.place(), shape.ids());
        let label = shape.label("fresh_tier", "base");
        let base = place.built(&label, async |dir| base(dir, &documents, &ids[0], &indexes).await).await?;
        let base = loaded(&base).await?;
        let mut stages = BTreeMap::new();
        let mut last = (Arc::clone(&base), base);
        let mut there = 0;
        // A flush makes the last generation: there is a stage before it.
        let mut wanted = levels.to_vec();
        wanted.push(levels[MOST] - 1);
        wanted.sort_unstable();
        wanted.dedup();
        for stage in wanted {
            let rows = |generation: usize| documents.batches(&ids[generation], generation as u64, BATCH);
            let new = there + 1..=stage;
            // What a flush of ours writes is what is measured: it is not kept from an earlier run.
            let ours = grown(&last.0, async |uri| {
                let ours = match there {
                    0 => Ours::adopt_at(uri, &[], settings(), Components::default()).await?,
                    _ => Ours::open_at(uri, settings()).await?,
                };
                for generation in new.clone() {
                    ours.fill(&rows(generation)?).await?;
                    ours.table.flush().await?;
                }
                if stage == levels[MOST] {
                    note(&told(&ours.table, &indexes));
                }
                Ok(ours.table.close().await?)
            });
            let ours = ours.await?;
            let label = format!("{}-{stage}", shape.label("fresh_tier", "peer"));
            let peer = kept((place, &label), &last.1, async |uri| {
                let peer = match there {
                    0 => Peer::adopt_at(uri, &indexes, peer::roomy()).await?,
                    _ => Peer::open_at(uri, peer::roomy()).await?,
                };
                for generation in new.clone() {
                    peer.fill(&rows(generation)?).await?;
                    peer.flush().await?;
                }
                peer.close().await
            });
            last = (ours, peer.await?);
            there = stage;
            stages.insert(stage, (Arc::clone(&last.0), Arc::clone(&last.1)));
        }
        empty_caches();
        Ok(Self {
            documents,
            shape,
            delay: bench.size(Duration::from_millis(10), Duration::from_millis(1)),
            levels,
            stages,
        })
    }

    /// The ids of each source if there are so many generations, the memtable last.
    fn ids(&self, generations: usize) -> Vec<Vec<i64>> {
        Shape { generations, ..self.shape }.ids()
    }

    /// Forks of both sides' buckets as they were after so many generations.
    fn fork(&self, generations: usize) -> Result<(Arc<Bucket>, Arc<Bucket>)> {
        let (ours, peer) = self.stages.get(&generations).ok_or("there is no such stage")?;
        Ok((ours.fork().0, peer.fork().0))
    }
}

/// The dataset that both sides begin with, and its indexes. Vectors are kept whole: codes would have to be made up for by
/// reading more rows, which costs requests.
async fn base(dir: &Path, documents: &Documents, ids: &[i64], indexes: &[Index]) -> Result<()> {
    let mut dataset = plain(uri(dir)?, &documents.schema(), documents.batches(ids, 0, BATCH)?, None).await?;
    create_all(&mut dataset, indexes).await
}

fn target(metric: &str) -> Option<f64> {
    TARGETS.iter().find(|(name, _)| *name == metric).map(|(_, target)| *target)
}

/// Takes a metric down, against its target if it has one.
fn take_down(bench: &mut Bench, metric: &str, unit: Unit, figures: (f64, f64)) {
    match target(metric) {
        Some(target) => bench.compared(metric, unit, figures, target),
        None => bench.beside(metric, unit, figures),
    }
}

/// Takes down how long both sides took.
fn take_down_times(bench: &mut Bench, metric: &str, times: &Turns) {
    take_down(bench, metric, Unit::Milliseconds, times.medians());
    let (ours, peer) = times.quantile(0.99);
    note(&format!("{metric}: p99 {:.2} ms, peer {:.2} ms", ours * 1e3, peer * 1e3));
}

/// The metrics for which a kind of queries is asked again and again at a level.
fn warm_metrics(kind: Kind, level: usize) -> Vec<String> {
    let metric = format!("{}_{}", kind.name(), LEVELS[level]);
    let mut metrics: Vec<String> = (kind != Kind::Values).then(|| WARM.to_string()).into_iter().collect();
    metrics.extend(nolatency(kind, level));
    let slope = SLOPES.iter().find(|(of, ..)| *of == kind && (level == 0 || level == MOST));
    metrics.extend(slope.map(|(_, name, _)| (*name).to_string()));
    metrics.push(metric);
    metrics
}

/// The metric without delay, where there is one.
fn nolatency(kind: Kind, level: usize) -> Option<String> {
    let metric = format!("{}_{}_nolatency", kind.name(), LEVELS[level]);
    target(&metric).map(|_| metric)
}

/// Queries that were asked before, at one level.
async fn warm(bench: &mut Bench, data: &Data, level: usize, found: &mut Found) -> Result<()> {
    let kinds = KINDS.into_iter().filter(|kind| *kind != Kind::Values || level == MOST);
    let kinds: Vec<Kind> = kinds.filter(|kind| bench.wants(&warm_metrics(*kind, level))).collect();
    let needs_effort = kinds.iter().any(|kind| matches!(kind, Kind::Vector | Kind::Hybrid))
        || (level == MOST && bench.wants(&EFFORTFUL));
    if kinds.is_empty() && !needs_effort {
        return Ok(());
    }
    let generations = data.levels[level];
    let sources = data.ids(generations);
    let expected = Expected::of(bench, &data.documents, &sources);
    let memtable = data.documents.batches(&sources[generations + 1], generations as u64 + 1, BATCH)?;
    let (mut ours, mut peer) = opened(data, generations, &Effort::any()).await?;
    ours.ours.fill(&memtable).await?;
    if let Some(peer) = &peer.peer {
        peer.fill(&memtable).await?;
        peer.settle(bench).await?;
    }
    ours.ours.settle().await?;
    peer.renew(Effort::any().peer).await?;
    delay(&ours, &peer, data.delay);
    if needs_effort {
        tune(bench, &expected, (&mut ours, &mut peer), found).await?;
    }
    for kind in kinds {
        again(bench, (kind, level), (&ours, &peer), &expected, found).await?;
    }
    delay(&ours, &peer, Duration::ZERO);
    for kind in KINDS {
        if let Some(metric) = nolatency(kind, level).filter(|metric| bench.wants(&[metric])) {
            let rounds = bench.rounds(Rounds::new(31, 501, 10));
            race(bench, &metric, (kind, rounds), (&ours, &peer), &expected.questions).await?;
        }
    }
    peer.close().await?;
    ours.close().await
}

/// Both sides' tables after so many generations, to be written.
async fn opened(data: &Data, generations: usize, effort: &Effort) -> Result<(OurSide, PeerSide)> {
    let (ours, peer) = data.fork(generations)?;
    Ok((OurSide::open(ours, &effort.ours).await?, PeerSide::writing(peer, effort.peer).await?))
}

fn delay(ours: &OurSide, peer: &PeerSide, delay: Duration) {
    ours.bucket().set_delay(delay);
    peer.bucket().set_delay(delay);
}

/// Sets both sides to what was enough before, or else to the cheapest that is.
async fn tune(
    bench: &Bench,
    expected: &Expected<'_>,
    (ours, peer): (&mut OurSide, &mut PeerSide),
    found: &mut Found,
) -> Result<()> {
    let (questions, truth) = (&expected.questions, expected.truth.as_slice());
    let enough = |asked: &[Asked]| -> Result<bool> {
        let found: Vec<Vec<i64>> = asked.iter().map(|asked| ids(&asked.answer)).collect::<Result<_>>()?;
        Ok(recall(truth, &found) >= RECALL)
    };
    let probes = bench.size(vec![4, 8, 16, 32, 64], vec![4]);
    let wanted = (questions.vectors.as_slice(), truth);
    let before = found.effort.clone().unwrap_or_else(Effort::any);
    before.ours.set(&mut ours.ours).await?;
    let ours_is_enough = found.effort.is_some() && enough(&ours.ask_all(Kind::Vector, questions).await?)?;
    let our_effort = if ours_is_enough { before.ours } else { our_effort(&mut ours.ours, wanted, &probes).await? };
    peer.renew(before.peer).await?;
    let peer_is_enough = found.effort.is_some() && enough(&peer.ask_all(Kind::Vector, questions).await?)?;
    let refines =
        bench.size([None].into_iter().chain(REFINE.map(Some)).collect(), vec![Some(REFINE[REFINE.len() - 1])]);
    let peer_effort = match peer_is_enough {
        true => before.peer,
        false => peer_effort(&peer.sources, wanted, &probes, &refines).await?,
    };
    peer.renew(peer_effort).await?;
    found.effort.get_or_insert(Effort { ours: our_effort, peer: peer_effort });
    Ok(())
}

/// One kind of queries at one level, asked until nothing is new.
async fn again(
    bench: &mut Bench,
    (kind, level): (Kind, usize),
    (ours, peer): (&OurSide, &PeerSide),
    expected: &Expected<'_>,
    found: &mut Found,
) -> Result<()> {
    let (metric, questions) = (format!("{}_{}", kind.name(), LEVELS[level]), &expected.questions);
    // Who reads often enough may keep what it read.
    for _ in 0..2 {
        let asked = (ours.ask_all(kind, questions).await?, peer.ask_all(kind, questions).await?);
        expected.check((&metric, RECALL), kind, (&asked.0, &asked.1)).await?;
    }
    match kind {
        Kind::Scan => expected.check_scan(ours, peer).await?,
        Kind::Values => expected.check_rows(ours, peer).await?,
        _ => {}
    }
    let rounds = match kind {
        Kind::Values => Rounds::new(5, 51, 10),
        _ if level == MOST => Rounds::new(31, 501, 10),
        _ => Rounds::new(31, 301, 4),
    };
    let rounds = bench.rounds(rounds);
    let (medians, requests) = race(bench, &metric, (kind, rounds), (ours, peer), questions).await?;
    found.medians.insert((kind, level), medians);
    if kind != Kind::Values {
        found.requests = (found.requests.0.max(requests.0), found.requests.1.max(requests.1));
    }
    Ok(())
}

/// The times of both sides, one query after the other; the medians, and the requests of a query.
async fn race(
    bench: &mut Bench,
    metric: &str,
    (kind, rounds): (Kind, Rounds),
    (ours, peer): (&OurSide, &PeerSide),
    questions: &Questions,
) -> Result<((f64, f64), (f64, f64))> {
    let (mut our_tally, mut peer_tally) = (Tally::default(), Tally::default());
    let times = turns(
        rounds,
        async || {
            let asked = ours.ask(kind, questions, our_tally.queries()).await?;
            our_tally.add(asked.requests);
            Ok(asked.time)
        },
        async || {
            let asked = peer.ask(kind, questions, peer_tally.queries()).await?;
            peer_tally.add(asked.requests);
            Ok(asked.time)
        },
    );
    let times = times.await?;
    take_down_times(bench, metric, &times);
    note(&format!("{metric}: requests {}, peer {}", our_tally.told(), peer_tally.told()));
    Ok((times.medians(), (our_tally.all(), peer_tally.all())))
}

/// What all levels say together.
fn summary(bench: &mut Bench, data: &Data, found: &Found) {
    for (kind, metric, most) in SLOPES {
        let (Some(few), Some(many)) = (found.medians.get(&(kind, 0)), found.medians.get(&(kind, MOST))) else {
            continue;
        };
        if bench.wants(&[metric]) {
            let more = (data.levels[MOST] - data.levels[0]) as f64;
            let slope = ((many.0 - few.0) / more, (many.1 - few.1) / more);
            bench.bounded(metric, Unit::Microseconds, slope, most);
        }
    }
    if bench.wants(&[WARM]) {
        bench.bounded(WARM, Unit::Requests, found.requests, 0.0);
    }
}

/// The first query after a flush.
async fn first(bench: &mut Bench, data: &Data, kind: Kind, effort: &Effort) -> Result<()> {
    let metric = format!("{}_first", kind.name());
    if !bench.wants(&[&metric]) {
        return Ok(());
    }
    let generations = data.levels[MOST];
    let mut sources = data.ids(generations);
    sources.pop();
    let mut expected = Expected::of(bench, &data.documents, &sources);
    let everywhere = expected.questions.clone();
    // Of the rows that were just flushed: what is older has been read before.
    expected.questions.keys = sources[generations].iter().take(bench.size(100, 10)).copied().collect();
    let rows = data.documents.batches(&sources[generations], generations as u64, BATCH)?;
    let (mut ours, mut peer) = (Turn::default(), Turn::default());
    let times = turns(
        bench.rounds(Rounds::new(3, 7, 60)),
        async || {
            let side = OurSide::open(data.fork(generations - 1)?.0, &effort.ours).await?;
            for _ in 0..2 {
                side.ask_all(kind, &everywhere).await?;
            }
            // Rows that no query has found yet may be among the best now.
            side.ours.table.warm(Warmth::All).await?;
            side.ours.fill(&rows).await?;
            side.ours.table.flush().await?;
            side.bucket().set_delay(data.delay);
            let asked = side.ask(kind, &expected.questions, ours.tally.queries()).await?;
            Box::pin(ours.end(side, kind, &expected.questions, asked)).await
        },
        async || {
            let mut side = PeerSide::writing(data.fork(generations - 1)?.1, effort.peer).await?;
            for _ in 0..2 {
                side.ask_all(kind, &everywhere).await?;
            }
            if let Some(peer) = &side.peer {
                peer.fill(&rows).await?;
                peer.flush().await?;
                peer.settle(bench).await?;
            }
            side.renew(effort.peer).await?;
            side.bucket().set_delay(data.delay);
            let asked = side.ask(kind, &expected.questions, peer.tally.queries()).await?;
            Box::pin(peer.end(side, kind, &expected.questions, asked)).await
        },
    );
    let times = times.await?;
    expected.check((&metric, NEARLY), kind, (&ours.answers, &peer.answers)).await?;
    take_down_times(bench, &metric, &times);
    note(&format!("{metric}: requests {}, peer {}", ours.tally.told(), peer.tally.told()));
    Ok(())
}

/// Opening a table and the first query, with nothing in any cache.
async fn cold(bench: &mut Bench, data: &Data, kind: Kind, effort: &Effort) -> Result<()> {
    let metric = format!("{}_cold", kind.name());
    let requests = format!("{metric}_requests");
    if !bench.wants(&[&metric, &requests]) {
        return Ok(());
    }
    let generations = data.levels[MOST];
    let mut sources = data.ids(generations);
    sources.pop();
    let expected = Expected::of(bench, &data.documents, &sources);
    let (mut ours, mut peer) = (Turn::default(), Turn::default());
    let times = turns(
        bench.rounds(Rounds::new(5, 15, 30)),
        async || {
            let (bucket, _) = data.fork(generations)?;
            bucket.set_delay(data.delay);
            let side = timed(OurSide::open(bucket, &effort.ours)).await?;
            Box::pin(ours.open_and_ask(side, kind, &expected.questions)).await
        },
        async || {
            let (_, bucket) = data.fork(generations)?;
            bucket.set_delay(data.delay);
            let side = timed(PeerSide::open(bucket, effort.peer)).await?;
            Box::pin(peer.open_and_ask(side, kind, &expected.questions)).await
        },
    );
    let times = times.await?;
    expected.check((&metric, NEARLY), kind, (&ours.answers, &peer.answers)).await?;
    take_down_times(bench, &metric, &times);
    let (our_open, peer_open) = (median(ours.opened.clone()), median(peer.opened.clone()));
    note(&format!("{metric}: of which opening {:.1} ms, peer {:.1} ms", our_open * 1e3, peer_open * 1e3));
    take_down(bench, &requests, Unit::Requests, (ours.tally.all(), peer.tally.all()));
    note(&format!("{metric}: requests {}, peer {}", ours.tally.told(), peer.tally.told()));
    note(&format!("{metric}: of which opening {}, peer {}", ours.opening.told(), peer.opening.told()));
    Ok(())
}

/// Turns of one side, each in a table that is opened for it.
#[derive(Default)]
struct Turn {
    tally: Tally,
    opening: Tally,
    opened: Vec<Duration>,
    answers: Vec<Asked>,
}

impl Turn {
    /// Asks the next question of a side that took so long to open; the time of both.
    async fn open_and_ask(
        &mut self,
        (opened, side): (Duration, impl Side),
        kind: Kind,
        questions: &Questions,
    ) -> Result<Duration> {
        self.opening.add(side.bucket().requests());
        self.opened.push(opened);
        let mut asked = side.ask(kind, questions, self.tally.queries()).await?;
        asked.time += opened;
        asked.requests = side.bucket().requests();
        Box::pin(self.end(side, kind, questions, asked)).await
    }

    /// Takes an answer down and closes the side; the time of the answer.
    async fn end(&mut self, side: impl Side, kind: Kind, questions: &Questions, asked: Asked) -> Result<Duration> {
        side.bucket().set_delay(Duration::ZERO);
        let time = asked.time;
        self.tally.add(asked.requests);
        if self.answers.is_empty() {
            // A few answers say little about a recall.
            self.answers = side.ask_all(kind, questions).await?;
        }
        self.answers.push(asked);
        side.close().await?;
        Ok(time)
    }
}
