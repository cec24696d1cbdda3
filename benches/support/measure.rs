//! Times two sides in turns: what disturbs the machine disturbs both, and neither always comes first.
#![allow(clippy::disallowed_methods, reason = "a bench measures the machine's time")]

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Result;

/// How often each side is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounds {
    at_least: usize,
    at_most: usize,
    budget: Duration,
}

impl Rounds {
    /// `at_most` times, fewer when that takes longer than `seconds`, never less than `at_least`.
    pub(crate) const fn new(at_least: usize, at_most: usize, seconds: u64) -> Self {
        Self { at_least, at_most, budget: Duration::from_secs(seconds) }
    }

    /// Once.
    pub(crate) fn once() -> Self {
        Self::new(1, 1, 0)
    }
}

/// The time `work` takes, and what it gives.
pub(crate) async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<(Duration, T)> {
    let start = Instant::now();
    let value = work.await?;
    Ok((start.elapsed(), value))
}

/// The time `work` takes.
pub(crate) fn timed_here<T>(work: impl FnOnce() -> Result<T>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

/// Moments, and the times between them.
#[derive(Debug, Default)]
pub(crate) struct Laps(Mutex<Vec<Instant>>);

impl Laps {
    /// Takes down that it is now.
    pub(crate) fn lap(&self) {
        self.0.lock().push(Instant::now());
    }

    /// How long it took from each moment to the next.
    pub(crate) fn between(&self) -> Vec<Duration> {
        self.0.lock().windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

/// What two sides reported, turn by turn.
#[derive(Debug)]
pub(crate) struct Turns {
    ours: Vec<Duration>,
    peer: Vec<Duration>,
}

impl Turns {
    /// The time, in seconds, that this share of each side's turns did not exceed.
    pub(crate) fn quantile(&self, share: f64) -> (f64, f64) {
        (quantile(self.ours.clone(), share), quantile(self.peer.clone(), share))
    }

    /// The medians, in seconds.
    pub(crate) fn medians(&self) -> (f64, f64) {
        (median(self.ours.clone()), median(self.peer.clone()))
    }
}

/// Runs both sides in turns; the medians of what they report, in seconds. A side reports the time of the part that counts.
/// Before that each has a turn that is not counted, unless there is one round only.
pub(crate) async fn alternate(
    rounds: Rounds,
    ours: impl AsyncFnMut() -> Result<Duration>,
    peer: impl AsyncFnMut() -> Result<Duration>,
) -> Result<(f64, f64)> {
    Ok(turns(rounds, ours, peer).await?.medians())
}

/// As [`alternate`], but all that they report.
pub(crate) async fn turns(
    rounds: Rounds,
    mut ours: impl AsyncFnMut() -> Result<Duration>,
    mut peer: impl AsyncFnMut() -> Result<Duration>,
) -> Result<Turns> {
    if rounds.at_most > 1 {
        ours().await?;
        peer().await?;
    }
    let mut turns = Turns { ours: Vec::new(), peer: Vec::new() };
    let start = Instant::now();
    for round in 0..rounds.at_most {
        if round >= rounds.at_least && start.elapsed() > rounds.budget {
            break;
        }
        if round % 2 == 0 {
            turns.ours.push(ours().await?);
            turns.peer.push(peer().await?);
        } else {
            turns.peer.push(peer().await?);
            turns.ours.push(ours().await?);
        }
    }
    Ok(turns)
}

/// Measures any number of sides in turns, each round beginning with another one; what was measured of each. Before that
/// each has a turn that is not counted, unless there is one round only.
pub(crate) async fn rounds_of<S, T>(
    rounds: Rounds,
    sides: &[S],
    mut measure: impl AsyncFnMut(&S) -> Result<T>,
) -> Result<Vec<Vec<T>>> {
    if rounds.at_most > 1 {
        for side in sides {
            measure(side).await?;
        }
    }
    let mut measured: Vec<Vec<T>> = sides.iter().map(|_| Vec::new()).collect();
    let start = Instant::now();
    for round in 0..rounds.at_most {
        if round >= rounds.at_least && start.elapsed() > rounds.budget {
            break;
        }
        for turn in round..round + sides.len() {
            let side = turn % sides.len();
            measured[side].push(measure(&sides[side]).await?);
        }
    }
    Ok(measured)
}

/// The median, in seconds.
pub(crate) fn median(times: Vec<Duration>) -> f64 {
    quantile(times, 0.5)
}

fn quantile(mut times: Vec<Duration>, share: f64) -> f64 {
    times.sort_unstable();
    times.get((times.len() as f64 * share) as usize).map_or(f64::NAN, Duration::as_secs_f64)
}
