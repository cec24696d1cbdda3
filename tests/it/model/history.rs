//! What concurrent readers and writers did, and whether it can have happened in any order that respects time.
//!
//! Times are ticks of one counter taken before an operation begins and after it ended: of two operations that do not
//! overlap, the ticks tell which came first.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// No write yet.
const NOTHING: i64 = 0;

/// A write of `number` to `key`; `None` ends if nobody knows whether it was applied.
#[derive(Debug, Clone, Copy)]
struct Write {
    key: u32,
    number: i64,
    begin: u64,
    end: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Read {
    key: u32,
    number: i64,
    begin: u64,
    end: u64,
}

/// The history so far.
#[derive(Debug, Default)]
pub(super) struct History {
    clock: AtomicU64,
    numbers: AtomicI64,
    writes: Mutex<Vec<Write>>,
    reads: Mutex<Vec<Read>>,
}

impl History {
    pub(super) fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// A number that no other write has.
    pub(super) fn number(&self) -> i64 {
        self.numbers.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// A write that began at `begin` and has ended now.
    pub(super) fn wrote(&self, keys: &[u32], number: i64, begin: u64) {
        let end = Some(self.tick());
        self.writes.lock().unwrap().extend(keys.iter().map(|key| Write { key: *key, number, begin, end }));
    }

    /// A write that may have been applied or may be some day.
    pub(super) fn may_have_written(&self, keys: &[u32], number: i64, begin: u64) {
        self.writes.lock().unwrap().extend(keys.iter().map(|key| Write { key: *key, number, begin, end: None }));
    }

    /// A read that began at `begin` and has ended now; keys that are not in `found` had no row.
    pub(super) fn read(&self, keys: impl IntoIterator<Item = u32>, found: &HashMap<u32, i64>, begin: u64) {
        let end = self.tick();
        let number = |key: u32| found.get(&key).copied().unwrap_or(NOTHING);
        let reads = keys.into_iter().map(|key| Read { key, number: number(key), begin, end });
        self.reads.lock().unwrap().extend(reads);
    }

    /// How many writes and reads there were.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.writes.lock().unwrap().len(), self.reads.lock().unwrap().len())
    }

    /// Every read must have seen a write that had begun and that no other write, wholly between them, had replaced.
    pub(super) fn check(&self) {
        let mut by_key: HashMap<u32, Vec<Write>> = HashMap::new();
        for write in self.writes.lock().unwrap().iter() {
            by_key.entry(write.key).or_default().push(*write);
        }
        for read in self.reads.lock().unwrap().iter() {
            let none = Vec::new();
            let writes = by_key.get(&read.key).unwrap_or(&none);
            let seen = writes.iter().find(|write| write.number == read.number);
            let seen_end = match seen {
                Some(write) => {
                    assert!(write.begin < read.end, "{read:?} saw {write:?} before it began");
                    write.end.unwrap_or(u64::MAX)
                }
                None => {
                    assert_eq!(read.number, NOTHING, "{read:?} saw what nobody wrote");
                    0
                }
            };
            let between = writes.iter().find(|w| w.begin >= seen_end && w.end.is_some_and(|end| end < read.begin));
            assert!(between.is_none(), "{read:?} saw {seen:?}, which {between:?} had replaced");
        }
    }
}

#[test]
fn a_history_that_cannot_have_happened_is_found() {
    let history = History::default();
    let (first, second) = (history.number(), history.number());
    let begin = history.tick();
    history.wrote(&[1], first, begin);
    let begin = history.tick();
    history.wrote(&[1], second, begin);
    let found = HashMap::from([(1, first)]);
    let begin = history.tick();
    history.read([1], &found, begin);
    assert!(std::panic::catch_unwind(|| history.check()).is_err(), "an old row was read");
    let history = History::default();
    let begin = history.tick();
    history.read([1], &HashMap::from([(1, 7)]), begin);
    assert!(std::panic::catch_unwind(|| history.check()).is_err(), "a row that nobody wrote was read");
}
