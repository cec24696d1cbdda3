//! Waiting for room in a read budget, and what is held of it then.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

use super::read_budget::ScanReads;
use super::read_queue::{Grant, ReadRequest};

/// Waits for room.
#[must_use = "nothing is asked for before it is awaited"]
pub struct Admission {
    scan: Arc<ScanReads>,
    request: ReadRequest,
    ticket: Option<u64>,
    since: Option<Instant>,
    has_waited: bool,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Admission {
    pub(super) fn new(scan: Arc<ScanReads>, request: ReadRequest) -> Self {
        Self { scan, request, ticket: None, since: None, has_waited: false, sleep: None }
    }
}

impl Future for Admission {
    type Output = ReadCharge;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ReadCharge> {
        let this = &mut *self;
        loop {
            let since = *this.since.get_or_insert_with(Instant::now);
            let (id, request, budget) = (this.scan.id, this.request, &this.scan.budget);
            let ticket = match this.ticket {
                Some(ticket) => ticket,
                None => *this.ticket.insert(budget.change(|queue| queue.wait(id, request, since))),
            };
            let now = Instant::now();
            // Whatever else lets somebody in wakes them; looking at all who wait each time would take long.
            if budget.queue.lock().deadline(ticket).is_some_and(|deadline| deadline <= now) {
                budget.change(|_| ());
            }
            let mut queue = budget.queue.lock();
            if let Some(Grant { bytes, beyond }) = queue.collect(ticket) {
                drop(queue);
                this.ticket = None;
                let amount = Mutex::new(Amount { charged: bytes, requested: 0 });
                let waited = if this.has_waited { since.elapsed() } else { Duration::ZERO };
                return Poll::Ready(ReadCharge { scan: Arc::clone(&this.scan), amount, beyond, waited });
            }
            queue.wake(ticket, cx.waker());
            let deadline = queue.deadline(ticket);
            if deadline.is_none() {
                queue.park(id, cx.waker());
            }
            drop(queue);
            if !std::mem::replace(&mut this.has_waited, true) {
                this.scan.budget.waits.fetch_add(1, Ordering::Relaxed);
            }
            let Some(deadline) = deadline else { return Poll::Pending };
            let sleep = match &mut this.sleep {
                Some(sleep) => {
                    sleep.as_mut().reset(deadline);
                    sleep
                }
                none => none.insert(Box::pin(sleep_until(deadline))),
            };
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.scan.budget.change(|queue| queue.give_up(ticket, self.scan.id, Instant::now()));
        }
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("request", &self.request).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Amount {
    charged: usize,
    requested: usize,
}

/// What one read of a scan holds; dropping it gives it back.
#[derive(Debug)]
pub struct ReadCharge {
    scan: Arc<ScanReads>,
    amount: Mutex<Amount>,
    beyond: bool,
    waited: Duration,
}

impl ReadCharge {
    /// The bytes that are charged.
    pub fn bytes(&self) -> usize {
        self.amount.lock().charged
    }

    /// How long it was waited for.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// So many bytes are requested for it. If they are more than it was given they are charged as well: they are needed
    /// for rows that are under way.
    pub fn request(&self, bytes: usize) {
        let mut amount = self.amount.lock();
        amount.requested += bytes;
        if let Some(more) = amount.requested.checked_sub(amount.charged) {
            amount.charged = amount.requested;
            self.scan.budget.queue.lock().charge(self.scan.id, more);
        }
    }

    /// All is requested: what it was given beyond that is given back.
    pub fn settle(&self) {
        let mut amount = self.amount.lock();
        let less = amount.charged - amount.requested;
        amount.charged = amount.requested;
        drop(amount);
        self.give_back(less);
    }

    /// All its rows are decoded. What it read came within `took`.
    pub fn done(&self, took: Duration) {
        // One lock at a time: who asks for more takes them in another order.
        let bytes = self.bytes();
        self.scan.ahead.lock().done(bytes, took, Instant::now());
        self.scan.budget.queue.lock().took(took);
    }

    fn give_back(&self, bytes: usize) {
        if bytes > 0 {
            self.scan.budget.change(|queue| queue.release(self.scan.id, bytes, self.beyond, Instant::now()));
        }
    }
}

impl Drop for ReadCharge {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.amount.get_mut().charged);
        self.give_back(bytes);
    }
}
