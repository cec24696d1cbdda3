//! What scans read ahead of their consumers, beside Lance: 400 MB in a store that takes 0, 1, 5 or 50 ms for every
//! request, read by one or four scans at once, whose consumers take rows as fast as they come or 100,000 a second.
//!
//! Both sides have the same file, metadata in memory, batches of the same size and no cache of data. What is held is
//! counted by the store for both alike: the bytes that it gave, less those whose last reference is gone. It gives copies,
//! as a network does, so that the process grows by them: that is told beside it. MB are 2^20 bytes here, as the budget's.
//!
//! `<pace>_x<scans>_<latency>` is rows a second beside Lance unbounded, `…_peak` what is held, `…_buffer` and
//! `…_buffer_peak` the same beside Lance with an I/O buffer of the budget's size. Of one fast scan there is the seed's own
//! table with more bounds; the seed's rows have 4 KB as these do, its bounds are batches that may wait.
//!
//! `throughput_…` has rows a second under the budget, and in the place of the peer the bound: the least of what a scan
//! reads without a bound in the same run, and of the budget a latency. `vs_lance_throughput_50ms` is beside Lance with the
//! smallest buffer with which it holds no more than 1.1 times what we hold, `vs_lance_fastest_50ms` beside the fastest of
//! these. `vs_lance_peak` is what Lance holds where it is fastest: with the least of those within a twentieth of that.

mod support;

use std::time::Duration;

use support::Result;
use support::bench::{Bench, run};
use support::measure::{Rounds, rounds_of};
use support::report::{Unit, note};
use support::scans::{Figures, Load, NO_BOUND, Reader, Sides, bound};

/// How long requests take, in milliseconds.
const LATENCIES: [u64; 4] = [0, 1, 5, 50];
/// The last of them.
const FAR: usize = LATENCIES.len() - 1;
/// Lance's other buffers, in parts of the budget of which it has so many.
const BUFFERS: [usize; 5] = [1, 8, 16, 32, 128];
const PARTS: usize = 64;

/// What the throughput is to be of what is possible.
const THROUGHPUT: f64 = 0.95;
/// The most that may be held in any case.
const PEAK: &str = "peak_mb";
const MOST: f64 = 80.0;
const LANCE_RATE: &str = "vs_lance_throughput_50ms";
const LANCE_FASTEST: &str = "vs_lance_fastest_50ms";
const LANCE_PEAK: &str = "vs_lance_peak";
const BETTER: f64 = 3.0;
/// Lance is compared with buffers with which it holds no more than so many times what we hold.
const AS_MUCH: f64 = 1.1;
/// Rates that are so near to each other are the same.
const SAME: f64 = 1.05;

/// Rows a second, megabytes and requests at each latency.
type SeedRow = [(f64, f64, u64); LATENCIES.len()];

/// What the seed measured on another machine, for each bound.
const SEED: [(&str, SeedRow); 5] = [
    ("unbounded", [(1_771_346.0, 423.0, 1), (1_808_342.0, 423.0, 1), (1_668_330.0, 423.0, 1), (936_137.0, 423.0, 1)]),
    ("2 batches", [(4_831_215.0, 24.4, 98), (462_761.0, 12.4, 98), (163_463.0, 12.4, 98), (19_863.0, 12.4, 98)]),
    ("4 batches", [(1_206_624.0, 48.4, 98), (460_657.0, 12.4, 98), (162_007.0, 12.4, 98), (19_869.0, 12.4, 98)]),
    ("8 batches", [(1_240_292.0, 48.4, 98), (456_573.0, 12.4, 98), (162_050.0, 12.4, 98), (19_873.0, 12.4, 98)]),
    ("16 batches", [(1_207_817.0, 48.4, 98), (464_966.0, 12.4, 98), (162_829.0, 12.4, 98), (19_872.0, 12.4, 98)]),
];

fn main() -> Result<()> {
    run("read_budget", async |bench| {
        // When everything is tiny the least latency and the most are enough.
        let is_run = |case: &Case| bench.size(true, case.latency.is_multiple_of(FAR)) && bench.wants(&case.metrics());
        let cases: Vec<Case> = Case::all().filter(is_run).collect();
        let sides = Box::pin(Sides::new(bench.size(100_000, 8_000), bench.size(1_024, 192))).await?;
        let budget = bench.size(64 << 20, 1 << 20);
        let readers = [budget, NO_BOUND].map(|bytes| [Reader::Ours(bytes), Reader::Lance(bytes)]);
        sides.check(&readers.concat()).await?;
        let mut most = (0.0, 0.0);
        for case in &cases {
            let measured = Box::pin(measure(bench, &sides, case, budget)).await?;
            let (ours, lance) = take_down(bench, &sides, case, &measured)?;
            most = (f64::max(most.0, ours), f64::max(most.1, lance));
        }
        if bench.wants(&[PEAK]) {
            bench.bounded(PEAK, Unit::Mebibytes, most, MOST);
        }
        sides.close().await
    })
}

/// One load of the store.
#[derive(Debug, Clone, Copy)]
struct Case {
    /// Which of the latencies.
    latency: usize,
    is_slow: bool,
    scans: usize,
}

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        let loads = [(false, 1), (false, 4), (true, 1), (true, 4)];
        (0..LATENCIES.len()).flat_map(move |latency| loads.map(|(is_slow, scans)| Self { latency, is_slow, scans }))
    }

    /// Whether Lance is measured with all buffers.
    fn has_all_bounds(&self) -> bool {
        !self.is_slow && self.scans == 1
    }

    fn name(&self) -> String {
        let pace = if self.is_slow { "slow" } else { "fast" };
        format!("{pace}_x{}_{}ms", self.scans, LATENCIES[self.latency])
    }

    fn throughput(&self) -> String {
        format!("throughput_{}ms", LATENCIES[self.latency])
    }

    /// What is found out by it, not by it alone.
    fn metrics(&self) -> Vec<String> {
        let mut metrics: Vec<String> =
            ["", "_peak", "_buffer", "_buffer_peak"].iter().map(|what| format!("{}{what}", self.name())).collect();
        metrics.push(PEAK.to_string());
        if self.has_all_bounds() {
            metrics.push(self.throughput());
            if self.latency == FAR {
                metrics.extend([LANCE_RATE, LANCE_FASTEST, LANCE_PEAK].map(String::from));
            }
        }
        metrics
    }

    /// How it is done: when everything is tiny, in little time.
    fn load(&self, bench: &Bench) -> Load {
        let latency = bench.size(LATENCIES[self.latency], LATENCIES[self.latency].min(2));
        let pause = Duration::from_micros(bench.size(10, 2));
        Load {
            scans: self.scans,
            pause: if self.is_slow { pause } else { Duration::ZERO },
            delay: Duration::from_millis(latency),
        }
    }
}

/// What was measured of a load.
struct Measured {
    load: Load,
    budget: usize,
    all: Vec<(Reader, Figures)>,
}

impl Measured {
    fn of(&self, reader: Reader) -> Result<Figures> {
        let found = self.all.iter().find(|(of, _)| *of == reader).map(|(_, figures)| *figures);
        found.ok_or_else(|| format!("{} was not measured", reader.name()).into())
    }

    /// Lance with each of its buffers, the smallest first.
    fn lance(&self) -> Vec<(usize, Figures)> {
        let of = |(reader, figures): &(Reader, Figures)| match reader {
            Reader::Lance(buffer) => Some((*buffer, *figures)),
            Reader::Ours(_) => None,
        };
        let mut all: Vec<(usize, Figures)> = self.all.iter().filter_map(of).collect();
        all.sort_by_key(|(buffer, _)| *buffer);
        all
    }
}

/// Runs a load, everybody in turns.
async fn measure(bench: &Bench, sides: &Sides, case: &Case, budget: usize) -> Result<Measured> {
    let mut readers = vec![Reader::Lance(NO_BOUND), Reader::Lance(budget), Reader::Ours(budget)];
    let mut rounds = Rounds::new(3, 3, 0);
    if case.has_all_bounds() {
        readers.extend(BUFFERS.map(|parts| Reader::Lance(budget / PARTS * parts)));
        readers.push(Reader::Ours(NO_BOUND));
        rounds = Rounds::new(5, 9, 25);
    }
    let load = case.load(bench);
    let scans = rounds_of(bench.rounds(rounds), &readers, async |reader: &Reader| sides.measure(*reader, load).await);
    let scans = Box::pin(scans).await?;
    let figures = scans.iter().map(|scans| Figures::of(scans));
    Ok(Measured { load, budget, all: readers.iter().copied().zip(figures).collect() })
}

/// Takes down what was measured; the most that was held by us under the budget, and by Lance.
fn take_down(bench: &mut Bench, sides: &Sides, case: &Case, measured: &Measured) -> Result<(f64, f64)> {
    let (name, rows) = (case.name(), sides.rows * case.scans);
    let ours = measured.of(Reader::Ours(measured.budget))?;
    let lance = measured.of(Reader::Lance(NO_BOUND))?;
    let buffered = measured.of(Reader::Lance(measured.budget))?;
    for (with, lance) in [("", lance), ("_buffer", buffered)] {
        bench.beside(&format!("{name}{with}"), Unit::Rows(rows), (ours.seconds, lance.seconds));
        bench.beside(&format!("{name}{with}_peak"), Unit::Mebibytes, (ours.peak, lance.peak));
    }
    table(case, rows, measured);
    if case.has_all_bounds() {
        throughput(bench, case, rows, measured)?;
        if case.latency == FAR {
            beside_lance(bench, rows, measured)?;
        }
    }
    let most = measured.lance().iter().map(|(_, lance)| lance.peak).fold(0.0, f64::max);
    Ok((ours.peak, most))
}

/// What everybody did, as the seed tells it.
fn table(case: &Case, rows: usize, measured: &Measured) {
    let line = |who: &str, rate: f64, peak: f64, resident: Option<u64>, requests: u64| {
        let resident = resident.map_or_else(|| "-".to_string(), |bytes| format!("{:.1}", mebibytes(bytes as f64)));
        note(&format!("{who:<24} {rate:>10.0} rows/s {peak:>7.1} MB {resident:>7} RSS {requests:>6} requests"));
    };
    if case.has_all_bounds() {
        for (bound, figures) in SEED {
            let (rate, megabytes, requests) = figures[case.latency];
            line(&format!("the seed, {bound}"), rate, megabytes, None, requests);
        }
    }
    for (reader, figures) in &measured.all {
        let Figures { seconds, peak, resident, requests, .. } = *figures;
        line(&reader.name(), rows as f64 / seconds, mebibytes(peak), resident, requests);
    }
}

fn mebibytes(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

/// Under the budget beside what is possible.
fn throughput(bench: &mut Bench, case: &Case, rows: usize, measured: &Measured) -> Result<()> {
    let ours = measured.of(Reader::Ours(measured.budget))?;
    let unbounded = measured.of(Reader::Ours(NO_BOUND))?.seconds;
    // All bytes, a budget's each latency.
    let by_budget = ours.bytes as f64 / measured.budget as f64 * measured.load.delay.as_secs_f64();
    bench.compared(&case.throughput(), Unit::Rows(rows), (ours.seconds, unbounded.max(by_budget)), THROUGHPUT);
    let rate = |seconds: f64| rows as f64 / seconds;
    note(&format!(
        "{}: unbounded {:.0} rows/s, a budget each latency {:.0} rows/s",
        case.throughput(),
        rate(unbounded),
        rate(by_budget)
    ));
    Ok(())
}

/// Beside Lance where it holds as much as we do, and where it is fastest.
fn beside_lance(bench: &mut Bench, rows: usize, measured: &Measured) -> Result<()> {
    let ours = measured.of(Reader::Ours(measured.budget))?;
    let all = measured.lance();
    let small: Vec<&(usize, Figures)> = all.iter().filter(|(_, lance)| lance.peak <= AS_MUCH * ours.peak).collect();
    let least = all.iter().min_by(|a, b| a.1.peak.total_cmp(&b.1.peak));
    let fastest = |of: &[&(usize, Figures)]| of.iter().map(|(_, lance)| lance.seconds).fold(f64::INFINITY, f64::min);
    let compared = small.first().copied().or(least).ok_or("Lance was not measured")?;
    let why = if small.is_empty() { "the least that it holds" } else { "the smallest buffer that is small enough" };
    bench.compared(LANCE_RATE, Unit::Rows(rows), (ours.seconds, compared.1.seconds), BETTER);
    note(&format!(
        "{LANCE_RATE}: Lance with a buffer of {}, {why}: {:.1} MB, ours {:.1} MB",
        bound(compared.0),
        mebibytes(compared.1.peak),
        mebibytes(ours.peak)
    ));
    let seconds = if small.is_empty() { compared.1.seconds } else { fastest(&small) };
    bench.beside(LANCE_FASTEST, Unit::Rows(rows), (ours.seconds, seconds));
    let best = fastest(&all.iter().collect::<Vec<_>>());
    let at_best = all.iter().filter(|(_, lance)| lance.seconds <= best * SAME);
    let at_best = at_best.min_by(|a, b| a.1.peak.total_cmp(&b.1.peak)).ok_or("Lance was not measured")?;
    bench.compared(LANCE_PEAK, Unit::Mebibytes, (ours.peak, at_best.1.peak), BETTER);
    note(&format!("{LANCE_PEAK}: Lance with a buffer of {}", bound(at_best.0)));
    Ok(())
}
