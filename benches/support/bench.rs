//! One bench from its command line to its report.

use super::Result;
use super::measure::Rounds;
use super::place::Place;
use super::report::{Report, Target, Unit};

/// A running bench.
pub(crate) struct Bench {
    smoke: bool,
    only: Vec<String>,
    place: Place,
    report: Report,
}

/// Runs `body` as the bench `name`, on a runtime of as many workers as there are processors.
///
/// `--smoke` makes everything tiny; any word selects the metrics whose names contain it.
pub(crate) fn run(name: &'static str, body: impl AsyncFnOnce(&mut Bench) -> Result<()>) -> Result<()> {
    let (mut smoke, mut only) = (false, Vec::new());
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            "--smoke" => smoke = true,
            // Cargo says it to every bench.
            "--bench" => {}
            word if word.starts_with('-') => return Err(format!("{word}: only --smoke and names of metrics").into()),
            word => only.push(word.to_string()),
        }
    }
    let processors = std::thread::available_parallelism()?.get();
    // SAFETY: nothing else runs yet, so nobody reads the environment. Lance reads it at its first use and keeps two
    // processors for I/O unless told, which would leave one thread on a small machine: both sides decode on all.
    unsafe { std::env::set_var("LANCE_CPU_THREADS", processors.to_string()) };
    let place = Place::new(name)?;
    let mut bench = Bench { smoke, only, report: Report::new(name), place };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(processors).enable_all().build()?;
    runtime.block_on(body(&mut bench))?;
    bench.report.write(bench.place.target())?;
    bench.place.clear()
}

impl Bench {
    /// One of two sizes.
    pub(crate) fn size<T>(&self, full: T, smoke: T) -> T {
        if self.smoke { smoke } else { full }
    }

    /// How often to measure: `rounds`, and once when everything is tiny.
    pub(crate) fn rounds(&self, rounds: Rounds) -> Rounds {
        if self.smoke { Rounds::once() } else { rounds }
    }

    /// Whether one of `metrics` was asked for.
    pub(crate) fn wants(&self, metrics: &[impl AsRef<str>]) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| metrics.iter().any(|m| m.as_ref().contains(word.as_str())))
    }

    /// Where data goes.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Takes down a metric that has a target: `ours` is to be so many times better than `peer`.
    pub(crate) fn compared(&mut self, metric: &str, unit: Unit, (ours, peer): (f64, f64), target: f64) {
        // Tiny figures say nothing about targets.
        self.report.add(metric, unit, ours, Some(peer), (!self.smoke).then_some(Target::Better(target)));
    }

    /// Takes down a metric of which ours is to be no more than `most`, in its unit.
    pub(crate) fn bounded(&mut self, metric: &str, unit: Unit, (ours, peer): (f64, f64), most: f64) {
        self.report.add(metric, unit, ours, Some(peer), (!self.smoke).then_some(Target::AtMost(most)));
    }

    /// Takes down a metric of ours that nothing is compared with.
    pub(crate) fn alone(&mut self, metric: &str, unit: Unit, ours: f64) {
        self.report.add(metric, unit, ours, None, None);
    }

    /// Takes down a metric that is told beside the others.
    pub(crate) fn beside(&mut self, metric: &str, unit: Unit, (ours, peer): (f64, f64)) {
        self.report.add(metric, unit, ours, Some(peer), None);
    }
}
