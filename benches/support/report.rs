//! What a bench found: a line a metric on the terminal, and `bench/<bench>.json` in the target directory.
#![allow(clippy::print_stdout, reason = "a bench reports on the terminal")]

use std::path::Path;

use serde::Serialize;

use super::Result;

/// What a figure counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    /// Seconds, told as milliseconds.
    Milliseconds,
    /// Seconds, told as microseconds.
    Microseconds,
    /// Seconds for the number of rows given, told as rows a second.
    Rows(usize),
    /// Requests to an object store.
    Requests,
    /// Bytes, told as mebibytes.
    Mebibytes,
}

/// What a metric is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// Ours so many times better than the peer's.
    Better(f64),
    /// Ours no more than this, in the metric's unit.
    AtMost(f64),
}

impl Target {
    fn verdict(self, ours: f64, ratio: Option<f64>) -> String {
        let (target, is_met) = match self {
            // A ratio to nothing is none.
            Self::Better(least) => (format!(">= {least}"), ours == 0.0 || ratio.is_some_and(|ratio| ratio >= least)),
            Self::AtMost(most) => (format!("<= {most}"), ours <= most),
        };
        format!("{target}{}", if is_met { "" } else { "  MISSED" })
    }
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Microseconds => "us",
            Self::Rows(_) => "rows/s",
            Self::Requests => "req",
            Self::Mebibytes => "MiB",
        }
    }

    /// The figure for a number of seconds, of requests or of bytes.
    fn of(self, measured: f64) -> f64 {
        match self {
            Self::Milliseconds => measured * 1e3,
            Self::Microseconds => measured * 1e6,
            Self::Rows(rows) => rows as f64 / measured,
            Self::Requests => measured,
            Self::Mebibytes => measured / f64::from(1 << 20),
        }
    }
}

/// One metric. `ratio` tells how many times better ours is, whatever the unit.
#[derive(Debug, Serialize)]
struct Measure {
    metric: String,
    unit: &'static str,
    ours: f64,
    peer: Option<f64>,
    ratio: Option<f64>,
}

/// The metrics of a bench.
pub(crate) struct Report {
    name: &'static str,
    measures: Vec<Measure>,
}

impl Report {
    /// An empty report of the bench `name`.
    pub(crate) fn new(name: &'static str) -> Self {
        println!("{:<34} {:>14} {:>14} {:<7} {:>8}  target", name, "ours", "peer", "", "ratio");
        Self { name, measures: Vec::new() }
    }

    /// Adds a metric; `ours` and `peer` are seconds, requests or bytes.
    pub(crate) fn add(&mut self, metric: &str, unit: Unit, ours: f64, peer: Option<f64>, target: Option<Target>) {
        let ratio = peer.map(|peer| peer / ours).filter(|ratio| ratio.is_finite() && ours > 0.0);
        let measure = Measure {
            metric: metric.to_string(),
            unit: unit.name(),
            ours: unit.of(ours),
            peer: peer.map(|p| unit.of(p)),
            ratio,
        };
        let shown = |figure: Option<f64>| figure.map_or_else(|| "-".to_string(), short);
        let verdict = target.map_or_else(String::new, |target| target.verdict(measure.ours, ratio));
        println!(
            "{metric:<34} {:>14} {:>14} {:<7} {:>8}  {verdict}",
            short(measure.ours),
            shown(measure.peer),
            measure.unit,
            shown(ratio),
        );
        self.measures.push(measure);
    }

    /// Writes the JSON below `target`.
    pub(crate) fn write(&self, target: &Path) -> Result<()> {
        let dir = target.join("bench");
        std::fs::create_dir_all(&dir)?;
        let path = dir.join(format!("{}.json", self.name));
        std::fs::write(&path, serde_json::to_vec_pretty(&self.measures)?)?;
        println!("written to {}", path.display());
        Ok(())
    }
}

/// Tells what a figure was measured with.
pub(crate) fn note(text: &str) {
    println!("  {text}");
}

/// Three digits and more, no more than needed.
fn short(figure: f64) -> String {
    match figure.abs() {
        x if x >= 100.0 => format!("{figure:.0}"),
        x if x >= 10.0 => format!("{figure:.1}"),
        x if x >= 1.0 => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}
