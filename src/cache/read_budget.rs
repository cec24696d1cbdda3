//! A bound on what is requested or read and not yet handed on, shared by all scans of a process.
//!
//! A scan asks before it reads, for rows that follow each other: whatever these need of their columns is theirs, so that
//! they can be handed on without anything that would have to be asked for. The charge ends when that is done and the next
//! are wanted, not when the last slice of a buffer goes: who keeps rows, as a sort does, answers for them elsewhere.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::admission::{Admission, ReadCharge};
use super::read_ahead::ReadAhead;
use super::read_queue::{ReadQueue, ReadRequest};

/// The bound of the process unless it is told another one.
pub const READ_LIMIT: usize = 64 << 20;

/// What the reads of one query have in common, and no others have.
pub type ReadQuery = Arc<dyn Any + Send + Sync>;

/// A shared bound on what is read ahead.
pub struct ReadBudget {
    pub(super) queue: Mutex<ReadQueue>,
    pub(super) waits: AtomicU64,
    for_all: ReadQuery,
}

impl ReadBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        let queue = Mutex::new(ReadQueue::new(limit, Instant::now()));
        Arc::new(Self { queue, waits: AtomicU64::new(0), for_all: Arc::new(()) })
    }

    /// The budget of the process: 64 MiB unless [`set_limit`](Self::set_limit) says else.
    pub fn global() -> Arc<Self> {
        static GLOBAL: OnceLock<Arc<ReadBudget>> = OnceLock::new();
        Arc::clone(GLOBAL.get_or_init(|| Self::new(READ_LIMIT)))
    }

    /// Changes the bound.
    pub fn set_limit(&self, limit: usize) {
        self.change(|queue| queue.limit = limit);
    }

    /// The bound in bytes.
    pub fn limit(&self) -> usize {
        self.queue.lock().limit
    }

    /// Bytes that are charged now.
    pub fn used(&self) -> usize {
        self.queue.lock().used
    }

    /// The most bytes that were ever charged.
    pub fn peak(&self) -> usize {
        self.queue.lock().peak
    }

    /// How many queries share it now; rows that are taken by their ids are of none.
    pub fn queries(&self) -> usize {
        self.queue.lock().queries()
    }

    /// How many scans and takes wait for room.
    pub fn waiting(&self) -> usize {
        self.queue.lock().waiting()
    }

    /// How many reads ever had to wait for room.
    pub fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// The query of reads whose outcome is kept for all queries, such as keys: together they are one.
    pub fn for_all(&self) -> &ReadQuery {
        &self.for_all
    }

    /// A scan. Those that give the same `query` are one query, one without is one alone: queries have equal shares.
    /// `is_near` if the storage answers at once.
    pub fn scan(self: &Arc<Self>, query: Option<ReadQuery>, is_near: bool) -> Arc<ScanReads> {
        let address = query.as_ref().map(|query| Arc::as_ptr(query).cast::<()>() as usize);
        let id = self.queue.lock().enter(address);
        let ahead = Mutex::new(ReadAhead::new(is_near));
        Arc::new(ScanReads { budget: Arc::clone(self), id, ahead, _query: query })
    }

    /// Room for single rows of about so many bytes, with what lies around them. Few bytes need not wait.
    pub async fn take(self: &Arc<Self>, bytes: usize) -> ReadCharge {
        let id = self.queue.lock().enter_take();
        let scan = ScanReads { budget: Arc::clone(self), id, ahead: Mutex::new(ReadAhead::new(true)), _query: None };
        Arc::new(scan).admit(ReadRequest::Take(bytes)).await
    }

    /// Does what changes how much room there is, then wakes who may go on.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut ReadQueue) -> T) -> T {
        let mut queue = self.queue.lock();
        let changed = change(&mut queue);
        let wake = queue.admit(Instant::now());
        drop(queue);
        wake.into_iter().for_each(std::task::Waker::wake);
        changed
    }
}

impl fmt::Debug for ReadBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.queue.lock();
        f.debug_struct("ReadBudget").field("limit", &queue.limit).field("used", &queue.used).finish_non_exhaustive()
    }
}

/// One scan, which reads ahead as far as it is of use.
pub struct ScanReads {
    pub(super) budget: Arc<ReadBudget>,
    pub(super) id: u64,
    pub(super) ahead: Mutex<ReadAhead>,
    /// Kept, that its address is nobody else's.
    _query: Option<ReadQuery>,
}

impl ScanReads {
    /// Ready if more should be read of `columns` columns before what there is was handed on. While nothing is held it
    /// should; who waits is woken then at the latest.
    pub fn poll_ahead(&self, columns: usize, cx: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.budget.queue.lock();
        let (charged, read) = (queue.charged(self.id), queue.read_size(self.id, columns));
        if charged < self.ahead.lock().target(read) {
            return Poll::Ready(());
        }
        queue.park(self.id, cx.waker());
        Poll::Pending
    }

    /// Until when a read of `columns` columns should not be asked for, if `rest` bytes follow: the first reads of a far
    /// store are spread a little. Who reads no more than the budget at all need not wait.
    pub fn due(&self, rest: usize, columns: usize) -> Option<Instant> {
        let queue = self.budget.queue.lock();
        let (read, limit, latency) = (queue.read_size(self.id, columns), queue.limit, queue.latency);
        drop(queue);
        if rest > limit { self.ahead.lock().due(read, limit, latency, Instant::now()) } else { None }
    }

    /// Room for what is asked for, as soon as it is this scan's turn. A scan that holds nothing is let in without room:
    /// the first of its query at once, others when nothing has moved for a while. Dropped, it has asked for nothing.
    pub fn admit(self: &Arc<Self>, request: ReadRequest) -> Admission {
        Admission::new(Arc::clone(self), request)
    }
}

impl Drop for ScanReads {
    fn drop(&mut self) {
        // Fewer scans have larger shares.
        self.budget.change(|queue| queue.leave(self.id));
    }
}

impl fmt::Debug for ScanReads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScanReads").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::task::Waker;
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::*;

    const LIMIT: usize = 64 << 20;
    /// What one read has, and how much more than the limit may be let in at a time.
    const READ: usize = 4 << 20;
    const SLACK: usize = 12 << 20;
    const LEAST: usize = 1 << 20;
    const ROWS: ReadRequest = ReadRequest::Rows { rest: 1 << 30, columns: 1 };

    fn poll(admission: &mut Admission) -> Option<ReadCharge> {
        match Pin::new(admission).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(charge) => Some(charge),
            Poll::Pending => None,
        }
    }

    fn query() -> Option<ReadQuery> {
        Some(Arc::new(7u8))
    }

    /// All that a scan gets now, and the admission that waits.
    fn fill(scan: &Arc<ScanReads>) -> (VecDeque<ReadCharge>, Admission) {
        let mut charges = VecDeque::new();
        loop {
            let mut admission = scan.admit(ROWS);
            match poll(&mut admission) {
                Some(charge) => charges.push_back(charge),
                None => return (charges, admission),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_scan_has_the_whole_budget_and_some_reads_more_and_all_of_it_comes_back() {
        let budget = ReadBudget::new(LIMIT);
        let scan = budget.scan(None, false);
        assert!(scan.poll_ahead(1, &mut Context::from_waker(Waker::noop())).is_ready());
        let (mut charges, mut waiting) = fill(&scan);
        assert!(charges.iter().all(|charge| charge.bytes() == READ && charge.waited().is_zero()));
        assert_eq!((budget.used(), budget.peak(), budget.waiting()), (LIMIT + SLACK, LIMIT + SLACK, 1));
        assert_eq!(budget.waits(), 1);
        charges.pop_front();
        assert_eq!(poll(&mut waiting).unwrap().bytes(), READ);
        assert_eq!(budget.used(), LIMIT + SLACK - READ);
        // What is left of a file is read at once, if it is not much more than a read.
        charges.truncate(2);
        let rest = |rest| poll(&mut scan.admit(ReadRequest::Rows { rest, columns: 1 })).unwrap().bytes();
        assert_eq!([rest(100), rest(3 * READ), rest(3 * READ + 1)], [100, 3 * READ, READ]);
        let wide = poll(&mut scan.admit(ReadRequest::Rows { rest: 1 << 30, columns: 40 })).unwrap();
        assert_eq!(wide.bytes(), 40 * (256 << 10), "requests of each column are worth it");
        drop((charges, wide));
        assert_eq!((budget.used(), budget.waiting(), budget.peak()), (0, 0, LIMIT + SLACK));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_requested_is_charged_and_what_is_not_is_given_back() {
        let budget = ReadBudget::new(LIMIT);
        let scan = budget.scan(None, false);
        let charge = poll(&mut scan.admit(ROWS)).unwrap();
        charge.request(READ / 2);
        assert_eq!(budget.used(), READ);
        charge.settle();
        assert_eq!((budget.used(), charge.bytes()), (READ / 2, READ / 2));
        charge.request(3 * LIMIT);
        assert_eq!(budget.used(), READ / 2 + 3 * LIMIT, "rows that are under way are read to their end");
        // Nobody else gets more than what everybody has.
        let other = budget.scan(None, false);
        assert_eq!(fill(&other).0.iter().map(ReadCharge::bytes).collect::<Vec<_>>(), [LEAST]);
        drop(scan);
        drop(charge);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn each_query_has_a_read_at_once_and_each_scan_after_a_while() {
        let budget = ReadBudget::new(LIMIT);
        let stalled = budget.scan(None, false);
        let (held, _waiting) = fill(&stalled);
        let query = query();
        let (first, second) = (budget.scan(query.clone(), false), budget.scan(query.clone(), false));
        let _others: Vec<_> = (0..14).map(|_| budget.scan(query.clone(), false)).collect();
        let (of_first, mut more) = fill(&first);
        assert_eq!(of_first.iter().map(ReadCharge::bytes).collect::<Vec<_>>(), [LEAST]);
        let mut waiting = second.admit(ROWS);
        assert!(poll(&mut waiting).is_none());
        let start = Instant::now();
        let charge = waiting.await;
        assert_eq!((start.elapsed(), charge.waited(), charge.bytes()), (STALLED, STALLED, LEAST));
        // From now on its scans go on without waiting, each with little: they wait for each other.
        drop((charge, of_first));
        assert_eq!(poll(&mut more).unwrap().bytes(), LEAST);
        assert_eq!(poll(&mut second.admit(ROWS)).unwrap().bytes(), LEAST);
        assert!(budget.peak() <= LIMIT + SLACK + 2 * LEAST);
        drop(held);
        let (of_second, _waiting) = fill(&second);
        assert!(of_second.iter().all(|charge| charge.bytes() == LIMIT / 2 / 16), "less, so that all find room");
    }

    #[tokio::test(start_paused = true)]
    async fn first_reads_wait_by_what_others_took_if_more_follows_than_the_budget() {
        let budget = ReadBudget::new(LIMIT);
        let (first, second) = (budget.scan(None, false), budget.scan(None, false));
        poll(&mut first.admit(ROWS)).unwrap().done(Duration::from_secs(1));
        let is_late = |rest| [second.due(rest, 1), second.due(rest, 1)].map(|due| due.is_some());
        assert_eq!((is_late(LIMIT), is_late(LIMIT + 1)), ([false; 2], [false, true]));
    }

    const STALLED: Duration = Duration::from_millis(100);

    #[tokio::test(start_paused = true)]
    async fn slow_storage_is_not_taken_for_a_standstill() {
        let budget = ReadBudget::new(LIMIT);
        let query = query();
        let (first, second) = (budget.scan(query.clone(), false), budget.scan(query, false));
        let (mut held, _waiting) = fill(&first);
        held[0].done(Duration::from_millis(200));
        let waiting = second.admit(ROWS);
        let start = Instant::now();
        let later = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            held.drain(..3).for_each(drop);
        };
        let (charge, ()) = tokio::join!(waiting, later);
        assert_eq!((charge.bytes(), start.elapsed()), (READ, Duration::from_millis(500)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_scan_that_has_nothing_is_let_in_though_others_always_come_first() {
        let budget = ReadBudget::new(LIMIT);
        let other = budget.scan(None, false);
        let (mut of_other, mut more) = fill(&other);
        let query = query();
        let (idle, needed) = (budget.scan(query.clone(), false), budget.scan(query, false));
        let mut of_idle = Vec::new();
        // The first of the query holds half of all there is, and hands nothing on before the second does.
        let mut next = idle.admit(ROWS);
        while of_idle.iter().map(ReadCharge::bytes).sum::<usize>() < (LIMIT + SLACK) / 2 {
            match poll(&mut next) {
                Some(charge) => {
                    of_idle.push(charge);
                    next = idle.admit(ROWS);
                }
                None => drop(of_other.pop_front()),
            }
        }
        drop(next);
        let refill = |of_other: &mut VecDeque<ReadCharge>, more: &mut Admission| {
            while let Some(charge) = poll(more) {
                of_other.push_back(charge);
                *more = other.admit(ROWS);
            }
        };
        refill(&mut of_other, &mut more);
        let mut waiting = needed.admit(ROWS);
        let start = Instant::now();
        let charge = loop {
            tokio::time::advance(Duration::from_millis(10)).await;
            if let Some(charge) = poll(&mut waiting) {
                break charge;
            }
            of_other.pop_front();
            refill(&mut of_other, &mut more);
            assert!(start.elapsed() < 20 * STALLED, "the other query goes on for ever");
        };
        assert!(charge.waited() <= 5 * STALLED, "{:?}", charge.waited());
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_hung_is_not_what_the_next_ones_wait_for() {
        let budget = ReadBudget::new(LIMIT);
        let query = query();
        let (first, second) = (budget.scan(query.clone(), false), budget.scan(query, false));
        let (held, _waiting) = fill(&first);
        held[0].done(Duration::from_secs(3600));
        let charge = second.admit(ROWS).await;
        assert!(charge.waited() <= Duration::from_secs(2), "{:?}", charge.waited());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_what_somebody_else_gives_back_is_woken() {
        let budget = ReadBudget::new(LIMIT);
        let query = query();
        let (first, second) = (budget.scan(query.clone(), true), budget.scan(query, true));
        let ahead = budget.scan(None, true);
        let [_held, of_second, of_ahead] = [&first, &second, &ahead].map(|scan| poll(&mut scan.admit(ROWS)).unwrap());
        of_ahead.request(LIMIT);
        budget.set_limit(1 << 20);
        let mut waiting = JoinSet::new();
        waiting.spawn(async move {
            std::future::poll_fn(|cx| ahead.poll_ahead(1, cx)).await;
            0
        });
        waiting.spawn(async move { second.admit(ROWS).await.bytes() });
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(waiting.try_join_next().is_none());
        // As requests whose answers were used and that went later: their scans have nothing else to wait for.
        drop((of_ahead, of_second));
        let bytes = tokio::time::timeout(Duration::from_secs(60), waiting.join_all()).await;
        let mut bytes = bytes.expect("nobody woke them");
        bytes.sort_unstable();
        assert_eq!(bytes, [0, 16 << 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_without_a_bound_is_one() {
        let budget = ReadBudget::new(usize::MAX);
        let scan = budget.scan(None, false);
        let charges: Vec<_> = (0..100).filter_map(|_| poll(&mut scan.admit(ROWS))).collect();
        assert_eq!(charges.len(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn queries_have_equal_shares_however_many_scans_they_have() {
        let budget = ReadBudget::new(LIMIT);
        let (many, one) = (query(), query());
        let scans: Vec<Arc<ScanReads>> =
            (0..18).map(|_| budget.scan(many.clone(), false)).chain([budget.scan(one, false)]).collect();
        let mut held: Vec<VecDeque<ReadCharge>> = scans.iter().map(|_| VecDeque::new()).collect();
        let mut waiting: Vec<Admission> = scans.iter().map(|scan| scan.admit(ROWS)).collect();
        let mut reads = vec![0; scans.len()];
        for round in 0..2000 {
            for (i, scan) in scans.iter().enumerate() {
                while let Some(charge) = poll(&mut waiting[i]) {
                    held[i].push_back(charge);
                    reads[i] += 1;
                    waiting[i] = scan.admit(ROWS);
                }
            }
            // One read ends: the oldest of one scan after the other.
            let ending = (0..scans.len()).map(|i| (i + round) % scans.len()).find(|i| !held[*i].is_empty());
            held[ending.unwrap()].pop_front();
        }
        let bytes = |held: &[VecDeque<ReadCharge>]| held.iter().flatten().map(ReadCharge::bytes).sum::<usize>();
        let (of_many, of_one) = (bytes(&held[..18]), bytes(&held[18..]));
        assert!(of_many.abs_diff(of_one) <= 3 * READ, "{of_many} {of_one}");
        let (least, most) = (reads[..18].iter().min().unwrap(), reads[..18].iter().max().unwrap());
        assert!(*least > 0 && *most <= 3 * least, "{reads:?}");
        assert!(budget.peak() <= LIMIT + SLACK + 19 * LEAST);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_leaves_nothing_behind() {
        let budget = ReadBudget::new(LIMIT);
        let (first, second) = (budget.scan(None, false), budget.scan(None, true));
        let (held, waiting) = fill(&first);
        let (small, other) = fill(&second);
        drop(waiting);
        assert_eq!(budget.waiting(), 1);
        // It is given its room, and goes without having seen it.
        drop((held, small));
        assert_eq!(budget.waiting(), 0);
        assert!(budget.used() > 0);
        drop(other);
        assert_eq!(budget.used(), 0);
        let pending = budget.take(LIMIT);
        drop(pending);
        drop((first, second));
        let queue = budget.queue.lock();
        assert!(format!("{queue:?}").contains("queries: {}, scans: {}, waiting: {}, granted: {}"), "{queue:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn few_rows_are_taken_at_once_and_many_when_there_is_room() {
        let budget = ReadBudget::new(LIMIT);
        let scan = budget.scan(None, false);
        let (held, _waiting) = fill(&scan);
        let start = Instant::now();
        let few = budget.take(LEAST).await;
        assert_eq!((few.bytes(), start.elapsed()), (LEAST, Duration::ZERO));
        let many = budget.take(LIMIT).await;
        assert_eq!((many.bytes(), start.elapsed()), (LIMIT / 4, STALLED));
        drop((many, few, held));
        let start = Instant::now();
        let many = budget.take(3 * READ).await;
        assert_eq!((many.bytes(), start.elapsed()), (3 * READ, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn rows_that_are_taken_are_let_in_without_room_one_after_the_other() {
        let budget = ReadBudget::new(LIMIT);
        let scan = budget.scan(None, false);
        let (held, _waiting) = fill(&scan);
        let take = |_| {
            let budget = Arc::clone(&budget);
            async move { budget.take(LIMIT / 4).await }
        };
        let mut takes: JoinSet<ReadCharge> = (0..30).map(take).collect();
        let full = LIMIT + SLACK + LIMIT / 4;
        let first = takes.join_next().await.unwrap().unwrap();
        assert_eq!((first.bytes(), first.waited(), budget.used()), (LIMIT / 4, STALLED, full));
        // The next when it was read …
        drop(first);
        let second = takes.join_next().await.unwrap().unwrap();
        assert_eq!((second.waited(), budget.used()), (STALLED, full));
        // … or takes long.
        let third = takes.join_next().await.unwrap().unwrap();
        assert_eq!((third.waited(), budget.used()), (2 * STALLED, full + LIMIT / 4));
        // All others when there is room.
        drop((second, third, held));
        let rest = tokio::time::timeout(STALLED, async { while takes.join_next().await.is_some() {} }).await;
        assert!(rest.is_ok() && budget.peak() == full + LIMIT / 4, "{}", budget.peak());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_a_query_whose_scans_waited_for_each_other_reads_a_part_of_the_budget_at_once() {
        let budget = ReadBudget::new(LIMIT);
        let other = budget.scan(None, false);
        let of_other = fill(&other);
        let query = query();
        let (first, second) = (budget.scan(query.clone(), false), budget.scan(query, false));
        let of_first = poll(&mut first.admit(ROWS)).unwrap();
        let of_second = second.admit(ROWS).await;
        drop((of_other, other, of_first, first, of_second));
        let wide = ReadRequest::Rows { rest: 2 * LIMIT, columns: 400 };
        assert_eq!(poll(&mut second.admit(wide)).unwrap().bytes(), LIMIT / 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_larger_limit_lets_in_who_waits_and_lance_gets_a_part_of_a_share() {
        let budget = ReadBudget::new(1 << 20);
        let scan = budget.scan(None, false);
        let (held, mut waiting) = fill(&scan);
        budget.set_limit(LIMIT);
        assert!(poll(&mut waiting).is_some() && budget.limit() == LIMIT);
        let other = budget.scan(None, false);
        let buffer = poll(&mut other.admit(ReadRequest::Buffer)).unwrap();
        assert_eq!(buffer.bytes(), LIMIT / 4);
        drop((held, buffer));
        let tiny = ReadBudget::new(1 << 10);
        let scan = tiny.scan(None, false);
        assert_eq!(poll(&mut scan.admit(ReadRequest::Buffer)).unwrap().bytes(), 16 << 10);
        assert_eq!(poll(&mut scan.admit(ROWS)).unwrap().bytes(), 16 << 10);
    }
}
