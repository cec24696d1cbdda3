//! How far a scan reads ahead.
//!
//! While one read is under way its consumer takes so many bytes: with less than that ahead it would wait, and with more
//! it would wait no less. Twice that leaves room to find out that more can be had.
//!
//! What is asked for at once comes at once: the first rows would wait until the bytes of all reads are taken over, and
//! the next reads for them. So those of the first round trip are asked for one after the other.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Reads by which it is judged.
const RECENT: usize = 16;
/// Reads before anything is concluded.
const ENOUGH: usize = 4;
/// Reads that are always ahead.
const FLOOR: usize = 4;
/// A budget's worth of first reads is asked for in this part of the time that one of them takes.
const SPREAD: f64 = 0.25;
/// The longest between two of them: what is read at once hardly comes faster.
const PAUSE: Duration = Duration::from_millis(1);
/// Timers tell no less apart: what is missing is made up for by the next read.
const TICK: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Copy)]
struct Read {
    bytes: usize,
    /// From its first request to the last answer.
    took: Duration,
    /// When its last row was handed on.
    done: Instant,
}

/// What the recent reads of a scan were like.
#[derive(Debug)]
pub(super) struct ReadAhead {
    is_near: bool,
    recent: VecDeque<Read>,
    /// When the next of the first reads is to be asked for.
    due: Option<Instant>,
}

impl ReadAhead {
    /// Of a scan that has read nothing; `is_near` if the storage answers at once.
    pub(super) fn new(is_near: bool) -> Self {
        Self { is_near, recent: VecDeque::with_capacity(RECENT), due: None }
    }

    /// All rows of a read were handed on.
    pub(super) fn done(&mut self, bytes: usize, took: Duration, done: Instant) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(Read { bytes, took, done });
    }

    /// Until when a read of `read` bytes should not be asked for, where reads take `latency` and `limit` bytes can be
    /// under way. Only the first ones have to wait: those that follow are asked for as rows are handed on.
    pub(super) fn due(&mut self, read: usize, limit: usize, latency: Duration, now: Instant) -> Option<Instant> {
        if self.is_near || !self.recent.is_empty() {
            return None;
        }
        let share = (read as f64 / limit.max(1) as f64).min(1.0);
        let due = *self.due.get_or_insert(now);
        self.due = Some(due + latency.mul_f64(SPREAD * share).min(PAUSE));
        (due >= now + TICK).then_some(due)
    }

    /// How many bytes should be under way or not handed on, if one read has `read` bytes.
    pub(super) fn target(&self, read: usize) -> usize {
        let floor = FLOOR * read;
        if self.recent.len() < ENOUGH {
            return if self.is_near { floor } else { usize::MAX };
        }
        let (first, last) = (self.recent[0].done, self.recent[self.recent.len() - 1].done);
        let passed = last.saturating_duration_since(first).as_secs_f64();
        let bytes: usize = self.recent.iter().skip(1).map(|read| read.bytes).sum();
        // Small ones tell nothing of how long the others take.
        let most = self.recent.iter().map(|read| read.bytes).max().unwrap_or(0);
        let large = self.recent.iter().filter(|read| read.bytes >= most / 2);
        let took = large.map(|read| read.took).min().unwrap_or_default().as_secs_f64();
        // Casts of floats stop at the bounds of the integer.
        let meanwhile = if passed > 0.0 { (bytes as f64 / passed * took * 2.0) as usize } else { usize::MAX };
        floor.max(meanwhile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: usize = 4 << 20;

    /// The target of a consumer of so many bytes a millisecond, where a read takes `took`.
    fn target(took: Duration, per_ms: usize) -> usize {
        let (mut ahead, start) = (ReadAhead::new(false), Instant::now());
        for i in 0..100 {
            let done = start + Duration::from_secs_f64((i * READ) as f64 / per_ms as f64 / 1000.0);
            ahead.done(READ, took, done);
        }
        ahead.target(READ)
    }

    #[test]
    fn a_scan_reads_ahead_what_is_taken_while_a_read_is_under_way() {
        let fast = 1 << 20;
        assert!(target(Duration::from_millis(50), fast) > 64 << 20, "all of the budget at 50 ms");
        let five = target(Duration::from_millis(5), 4 * fast);
        assert!((30 << 20..50 << 20).contains(&five), "{five}");
        assert_eq!(target(Duration::from_micros(800), fast), FLOOR * READ, "some reads of a local file");
        assert_eq!(target(Duration::from_millis(50), 20 << 10), FLOOR * READ, "a slow consumer");
    }

    #[test]
    fn a_scan_that_knows_nothing_yet_reads_by_where_the_storage_is() {
        let (near, mut far) = (ReadAhead::new(true), ReadAhead::new(false));
        assert_eq!((near.target(READ), far.target(READ)), (FLOOR * READ, usize::MAX));
        let now = Instant::now();
        (1..ENOUGH).for_each(|_| far.done(READ, Duration::ZERO, now));
        assert_eq!(far.target(READ), usize::MAX);
        far.done(READ, Duration::ZERO, now + Duration::from_millis(1));
        assert_eq!(far.target(READ), FLOOR * READ);
    }

    #[test]
    fn the_first_reads_of_a_far_store_are_asked_for_one_after_the_other() {
        let limit = 16 * READ;
        // When the reads of a scan are asked for that waits as it is told to.
        let asked = |latency: Duration, is_near: bool| {
            let (mut ahead, start) = (ReadAhead::new(is_near), Instant::now());
            let mut now = start;
            let ask = |_| {
                now = ahead.due(READ, limit, latency, now).unwrap_or(now);
                now - start
            };
            (0..17).map(ask).collect::<Vec<Duration>>()
        };
        let ms = Duration::from_millis;
        let far = asked(ms(64), false);
        assert_eq!(far, (0..17).map(ms).collect::<Vec<_>>());
        assert_eq!(asked(Duration::from_secs(9), false), far, "they wait no longer than their bytes take");
        let nearer = asked(ms(16), false);
        assert_eq!((nearer[3], nearer[4], nearer[16]), (ms(0), ms(1), ms(4)), "less than a tick is not waited for");
        assert_eq!(asked(Duration::ZERO, false), [ms(0); 17], "nothing is known");
        assert_eq!(asked(ms(64), true), [ms(0); 17]);
        // Large budgets are there at once.
        let (mut ahead, now) = (ReadAhead::new(false), Instant::now());
        assert!((0..100).all(|_| ahead.due(READ, usize::MAX, ms(64), now).is_none()));
        assert_eq!(ahead.due(READ, limit, ms(64), now), None);
        assert_eq!(ahead.due(READ, limit, ms(64), now), Some(now + TICK));
        ahead.done(READ, ms(64), now);
        assert_eq!(ahead.due(READ, limit, ms(64), now), None, "rows are handed on");
    }
}
