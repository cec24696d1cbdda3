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

/// Runs both sides in turns after one turn each that is not counted; the medians of what they report, in seconds.
/// A side reports the time of the part that counts.
pub(crate) async fn alternate(
    rounds: Rounds,
    mut ours: impl AsyncFnMut() -> Result<Duration>,
    mut peer: impl AsyncFnMut() -> Result<Duration>,
) -> Result<(f64, f64)> {
    ours().await?;
    peer().await?;
    let (mut our_times, mut peer_times) = (Vec::new(), Vec::new());
    let start = Instant::now();
    for round in 0..rounds.at_most {
        if round >= rounds.at_least && start.elapsed() > rounds.budget {
            break;
        }
        if round % 2 == 0 {
            our_times.push(ours().await?);
            peer_times.push(peer().await?);
        } else {
            peer_times.push(peer().await?);
            our_times.push(ours().await?);
        }
    }
    Ok((median(our_times), median(peer_times)))
}

/// The median, in seconds.
pub(crate) fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, Duration::as_secs_f64)
}
