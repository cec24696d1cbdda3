//! Who holds how many bytes of a read budget, who waits for some, and who is next.
//!
//! Nothing here waits or looks at a clock: it is told the time, and it says whom to wake.

use std::collections::{BTreeMap, HashMap};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

/// The most that is read of a scan at once while there is room: one part of the limit in so many, within bounds.
const READ: (usize, usize, usize) = (16, 64 << 10, 8 << 20);
/// What a scan reads at once that is let in without room.
const LEAST: (usize, usize, usize) = (64, 16 << 10, 1 << 20);
/// So many reads may be held beyond the limit: one whose rows the consumer has, and two that are decoded meanwhile. What
/// was asked for and did not come has the rest.
const BEYOND: usize = 3;
/// What is left of a file is read at once if it is at most so many reads.
const REST: usize = 3;
/// A query reads its share in so many parts.
const PARTS: usize = 4;
/// Bytes of one column that are worth a request.
const COLUMN: usize = 256 << 10;
/// The most that Lance is given to read ahead by itself.
const BUFFER: usize = 32 << 20;
/// How long the bytes of others may not move before a scan that has none is let in.
const STALL: Duration = Duration::from_millis(100);
/// Reads that take long move late: how many of them may pass.
const SLOW: u32 = 4;
/// One read that hung tells nothing of what moves: the longest that it may look as if nothing did.
const LONGEST: Duration = Duration::from_secs(2);
/// Who has nothing waits so many times as long at most while only others move: they may go on for hours.
const OVERDUE: u32 = 4;

/// What somebody wants to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadRequest {
    /// Rows that follow each other, as many as should be read at once: `rest` bytes follow, in `columns` columns.
    Rows {
        /// The bytes of all rows that follow.
        rest: usize,
        /// In how many columns they are.
        columns: usize,
    },
    /// Single rows, of about so many bytes with what lies around them.
    Take(usize),
    /// As much as Lance should read ahead by itself.
    Buffer,
}

/// What was given to one who waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) bytes: usize,
    /// Whether there was no room.
    pub(super) beyond: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum QueryId {
    /// The address of what the scans of the query share.
    Shared(usize),
    /// One scan alone.
    Alone(u64),
}

#[derive(Debug, Default)]
struct Query {
    scans: usize,
    charged: usize,
    /// Its scans wait for each other: all of them must go on, each with little.
    in_step: bool,
}

#[derive(Debug)]
struct Scan {
    /// `None` for single rows: they take no share.
    query: Option<QueryId>,
    charged: usize,
    open: bool,
    /// Single rows that were let in without room, after a while.
    is_late: bool,
    /// Waits without having asked, or without a time: whom to wake when it holds nothing any more.
    parked: Option<Waker>,
}

#[derive(Debug)]
struct Waiting {
    scan: u64,
    request: ReadRequest,
    since: Instant,
    waker: Option<Waker>,
}

/// The bytes of a budget.
#[derive(Debug)]
pub(super) struct ReadQueue {
    pub(super) limit: usize,
    pub(super) used: usize,
    pub(super) peak: usize,
    next: u64,
    queries: HashMap<QueryId, Query>,
    scans: HashMap<u64, Scan>,
    /// In the order in which they came.
    waiting: BTreeMap<u64, Waiting>,
    granted: HashMap<u64, Grant>,
    /// Who is woken with those who are let in next.
    woken: Vec<Waker>,
    /// When bytes were last given or given back for which there was room.
    moved: Instant,
    /// How many read single rows that were let in without room after a while, and when the last was.
    late: (usize, Instant),
    /// How long reads take of late.
    pub(super) latency: Duration,
}

impl ReadQueue {
    pub(super) fn new(limit: usize, now: Instant) -> Self {
        Self {
            limit,
            used: 0,
            peak: 0,
            next: 0,
            queries: HashMap::new(),
            scans: HashMap::new(),
            waiting: BTreeMap::new(),
            granted: HashMap::new(),
            woken: Vec::new(),
            moved: now,
            late: (0, now),
            latency: Duration::ZERO,
        }
    }

    /// How many queries there are.
    pub(super) fn queries(&self) -> usize {
        self.queries.len()
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A scan, of the query with this address or alone.
    pub(super) fn enter(&mut self, query: Option<usize>) -> u64 {
        let id = self.number();
        let query = query.map_or(QueryId::Alone(id), QueryId::Shared);
        self.queries.entry(query).or_default().scans += 1;
        self.scans.insert(id, Scan { query: Some(query), charged: 0, open: true, is_late: false, parked: None });
        id
    }

    /// Somebody who reads single rows.
    pub(super) fn enter_take(&mut self) -> u64 {
        let id = self.number();
        self.scans.insert(id, Scan { query: None, charged: 0, open: true, is_late: false, parked: None });
        id
    }

    /// The scan asks for nothing more; what it holds is given back by those who hold it.
    pub(super) fn leave(&mut self, scan: u64) {
        if let Some(there) = self.scans.get_mut(&scan) {
            there.open = false;
        }
        self.forget(scan);
    }

    /// Stands in line. The number under which it is found there.
    pub(super) fn wait(&mut self, scan: u64, request: ReadRequest, now: Instant) -> u64 {
        let ticket = self.number();
        self.waiting.insert(ticket, Waiting { scan, request, since: now, waker: None });
        ticket
    }

    /// What was given, once.
    pub(super) fn collect(&mut self, ticket: u64) -> Option<Grant> {
        self.granted.remove(&ticket)
    }

    /// Whom to wake when it is given something.
    pub(super) fn wake(&mut self, ticket: u64, waker: &Waker) {
        if let Some(waiting) = self.waiting.get_mut(&ticket) {
            match &mut waiting.waker {
                Some(there) => there.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
    }

    /// Whom to wake when the scan holds nothing any more: those who give back last may be others than who reads.
    pub(super) fn park(&mut self, scan: u64, waker: &Waker) {
        if let Some(there) = self.scans.get_mut(&scan) {
            there.parked = Some(waker.clone());
        }
    }

    /// When one who waits is let in at the latest, if nothing moves until then; `None` if it holds something, and moves
    /// by itself.
    pub(super) fn deadline(&self, ticket: u64) -> Option<Instant> {
        let waiting = self.waiting.get(&ticket)?;
        let due = (self.moved + self.stall()).min(self.overdue(waiting));
        let is_in_turn = !matches!(waiting.request, ReadRequest::Take(_));
        (self.charged(waiting.scan) == 0).then(|| if is_in_turn { due } else { due.max(self.turn(due)) })
    }

    /// When single rows may be let in without room that would be at `due`: one after the other, each when the last was
    /// read or has taken a while. They may be large, and many may wait.
    fn turn(&self, due: Instant) -> Instant {
        if self.late.0 > 0 { self.late.1 + self.stall() } else { due }
    }

    /// When one who has nothing is let in though others move: they may always be those who come first.
    fn overdue(&self, waiting: &Waiting) -> Instant {
        waiting.since + self.stall() * OVERDUE
    }

    /// Waits no more. What was given meanwhile is given back.
    pub(super) fn give_up(&mut self, ticket: u64, scan: u64, now: Instant) {
        self.waiting.remove(&ticket);
        if let Some(grant) = self.granted.remove(&ticket) {
            self.release(scan, grant.bytes, grant.beyond, now);
        }
    }

    /// The scan holds so many bytes more.
    pub(super) fn charge(&mut self, scan: u64, bytes: usize) {
        let Some(there) = self.scans.get_mut(&scan) else { return };
        there.charged += bytes;
        if let Some(query) = there.query.and_then(|id| self.queries.get_mut(&id)) {
            query.charged += bytes;
        }
        self.used += bytes;
        self.peak = self.peak.max(self.used);
    }

    /// The scan holds so many bytes less; `beyond` if there was no room for them.
    pub(super) fn release(&mut self, scan: u64, bytes: usize, beyond: bool, now: Instant) {
        let Some(there) = self.scans.get_mut(&scan) else { return };
        there.charged -= bytes;
        if there.charged == 0 {
            self.woken.extend(there.parked.take());
        }
        if let Some(query) = there.query.and_then(|id| self.queries.get_mut(&id)) {
            query.charged -= bytes;
        }
        self.used -= bytes;
        if !beyond && bytes > 0 {
            self.moved = now;
        }
        self.forget(scan);
    }

    /// What a scan holds.
    pub(super) fn charged(&self, scan: u64) -> usize {
        self.scans.get(&scan).map_or(0, |scan| scan.charged)
    }

    /// How much a scan of so many columns reads at once while there is room.
    pub(super) fn read_size(&self, scan: u64, columns: usize) -> usize {
        let share = self.limit / self.queries.len().max(1);
        let query = self.scans.get(&scan).and_then(|scan| self.queries.get(&scan.query?));
        let share = match query {
            Some(query) if query.in_step => share / query.scans.max(PARTS),
            _ => share / PARTS,
        };
        let least = self.part(LEAST);
        share.clamp(least, self.part(READ).max(columns * COLUMN).max(least))
    }

    /// A read took so long.
    pub(super) fn took(&mut self, latency: Duration) {
        self.latency = latency.max(self.latency * 7 / 8);
    }

    /// Lets in whoever may: those with the least first, by query, then by scan, then in the order in which they came.
    /// Whom to wake.
    pub(super) fn admit(&mut self, now: Instant) -> Vec<Waker> {
        let mut wake = std::mem::take(&mut self.woken);
        while let Some((&ticket, first)) = self.waiting.iter().min_by_key(|(ticket, w)| self.place(w.scan, **ticket)) {
            let Some(bytes) = self.fitting(first) else { break };
            self.moved = now;
            self.grant(ticket, Grant { bytes, beyond: false }, &mut wake);
        }
        let is_stalled = now >= self.moved + self.stall();
        let starved = self.waiting.iter().filter(|(_, waiting)| self.charged(waiting.scan) == 0);
        let starved: Vec<u64> = starved.map(|(ticket, _)| *ticket).collect();
        for ticket in starved {
            let waiting = &self.waiting[&ticket];
            let (least, is_overdue) = (self.part(LEAST), now >= self.overdue(waiting));
            let query = self.scans.get(&waiting.scan).and_then(|scan| scan.query);
            let query = query.and_then(|id| self.queries.get_mut(&id));
            // Each query has one read at least, and after a while each scan.
            let is_due = match (&query, waiting.request) {
                (_, ReadRequest::Take(bytes)) => bytes <= least,
                (Some(query), _) => query.charged == 0 || query.in_step,
                (None, _) => false,
            };
            if !is_due && !is_stalled && !is_overdue {
                continue;
            }
            if let Some(query) = query.filter(|_| !is_due) {
                query.in_step = true;
            }
            let (scan, size) = (waiting.scan, self.size(waiting));
            let is_take = matches!(waiting.request, ReadRequest::Take(_));
            if is_take && !is_due {
                if self.turn(now) > now {
                    continue;
                }
                self.late = (self.late.0 + 1, now);
                if let Some(there) = self.scans.get_mut(&scan) {
                    there.is_late = true;
                }
            }
            let bytes = if is_take { size } else { size.min(least) };
            self.grant(ticket, Grant { bytes, beyond: true }, &mut wake);
        }
        wake
    }

    fn grant(&mut self, ticket: u64, grant: Grant, wake: &mut Vec<Waker>) {
        let Some(waiting) = self.waiting.remove(&ticket) else { return };
        self.charge(waiting.scan, grant.bytes);
        self.granted.insert(ticket, grant);
        wake.extend(waiting.waker);
    }

    /// Where one who waits stands in line: the lowest is the first.
    fn place(&self, scan: u64, ticket: u64) -> (usize, usize, u64) {
        let there = self.scans.get(&scan);
        let query = there.and_then(|scan| self.queries.get(&scan.query?));
        (query.map_or(0, |query| query.charged), there.map_or(0, |scan| scan.charged), ticket)
    }

    /// What one who waits gets if there is room for it.
    fn fitting(&self, waiting: &Waiting) -> Option<usize> {
        let room = self.limit.saturating_add(BEYOND * self.part(READ)).saturating_sub(self.used);
        let size = self.size(waiting);
        match waiting.request {
            ReadRequest::Buffer => Some(size.min(room)).filter(|bytes| *bytes >= size / PARTS),
            _ => (size <= room).then_some(size),
        }
    }

    /// What one who waits should get.
    fn size(&self, waiting: &Waiting) -> usize {
        match waiting.request {
            ReadRequest::Rows { rest, columns } => {
                let size = self.read_size(waiting.scan, columns);
                if rest <= REST * size { rest } else { size }
            }
            ReadRequest::Take(bytes) => bytes.min(self.limit / PARTS),
            ReadRequest::Buffer => {
                let share = self.limit / self.queries.len().max(1) / 2;
                share.clamp(self.part(LEAST), BUFFER.max(self.part(LEAST)))
            }
        }
    }

    fn part(&self, (of, least, most): (usize, usize, usize)) -> usize {
        (self.limit / of).clamp(least, most)
    }

    fn stall(&self) -> Duration {
        (self.latency * SLOW).clamp(STALL, LONGEST)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Strikes out a scan that has ended and holds nothing.
    fn forget(&mut self, scan: u64) {
        if self.scans.get(&scan).is_none_or(|scan| scan.open || scan.charged > 0) {
            return;
        }
        let Some(scan) = self.scans.remove(&scan) else { return };
        self.late.0 -= usize::from(scan.is_late);
        if let Some(id) = scan.query
            && let Some(query) = self.queries.get_mut(&id)
        {
            query.scans -= 1;
            if query.scans == 0 {
                self.queries.remove(&id);
            }
        }
    }
}
