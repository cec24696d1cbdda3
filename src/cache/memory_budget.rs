//! A bound on memory that several tables share.
//!
//! Holders charge what they really hold and never wait here: whoever wants to grow looks at
//! [`MemoryBudget::is_exhausted`] first and asks for memory back. The bound is the limit plus one write a table.

use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Part of the machine's memory that the default budget has: one in so many.
const DEFAULT_SHARE: u64 = 4;

/// Who can give memory back.
pub trait Reclaim: Debug + Send + Sync {
    /// Bytes that could be given back.
    fn reclaimable(&self) -> usize;
    /// Begins to give them back.
    fn reclaim(&self);
}

/// A shared bound on memory.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: AtomicUsize,
    used: AtomicUsize,
    holders: Mutex<Vec<Weak<dyn Reclaim>>>,
    freed: Notify,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
            holders: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// The budget of the process: a quarter of the machine's memory unless [`set_limit`](Self::set_limit) says else.
    pub fn global() -> Arc<Self> {
        static GLOBAL: OnceLock<Arc<MemoryBudget>> = OnceLock::new();
        let budget = GLOBAL.get_or_init(|| {
            let mut system = sysinfo::System::new();
            system.refresh_memory();
            let memory = system.cgroup_limits().map_or(system.total_memory(), |c| c.total_memory);
            Self::new(usize::try_from(memory / DEFAULT_SHARE).unwrap_or(usize::MAX))
        });
        Arc::clone(budget)
    }

    /// Changes the bound.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.freed.notify_waiters();
    }

    /// The bound in bytes.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Bytes held now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether nobody should grow.
    pub fn is_exhausted(&self) -> bool {
        self.used() >= self.limit()
    }

    /// Bytes were given back, or the bound was moved.
    pub fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }

    /// Adds somebody who can be asked for memory.
    pub fn register(&self, holder: Weak<dyn Reclaim>) {
        let mut holders = self.holders.lock();
        holders.retain(|h| h.strong_count() > 0);
        holders.push(holder);
    }

    /// Asks whoever can give back most.
    pub fn reclaim(&self) {
        let holders: Vec<Arc<dyn Reclaim>> = self.holders.lock().iter().filter_map(Weak::upgrade).collect();
        if let Some(largest) = holders.iter().max_by_key(|h| h.reclaimable()).filter(|h| h.reclaimable() > 0) {
            largest.reclaim();
        }
    }

    /// A charge that starts at nothing.
    pub fn lease(self: &Arc<Self>) -> MemoryLease {
        MemoryLease { budget: Arc::clone(self), bytes: AtomicUsize::new(0) }
    }
}

/// What one holder is charged; dropping it gives all back.
#[derive(Debug)]
pub struct MemoryLease {
    budget: Arc<MemoryBudget>,
    bytes: AtomicUsize,
}

impl MemoryLease {
    /// The budget that is charged.
    pub fn budget(&self) -> &Arc<MemoryBudget> {
        &self.budget
    }

    /// What is charged.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Charges `bytes` more.
    pub fn grow(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.budget.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Charges `bytes` less; so much must be charged.
    pub fn shrink(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.freed.notify_waiters();
    }

    /// Charges `bytes` instead of what was charged before.
    pub fn set(&self, bytes: usize) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        if bytes >= before {
            self.budget.used.fetch_add(bytes - before, Ordering::Relaxed);
        } else {
            self.budget.used.fetch_sub(before - bytes, Ordering::Relaxed);
            self.budget.freed.notify_waiters();
        }
    }
}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Holder(MemoryLease, AtomicUsize);

    impl Reclaim for Holder {
        fn reclaimable(&self) -> usize {
            self.1.load(Ordering::Relaxed)
        }

        fn reclaim(&self) {
            self.0.set(0);
            self.1.store(0, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_largest_holder_is_asked_and_a_dropped_one_gives_all_back() {
        let budget = MemoryBudget::new(100);
        let holders: Vec<Arc<Holder>> = [30, 80]
            .into_iter()
            .map(|bytes| {
                let holder = Arc::new(Holder(budget.lease(), AtomicUsize::new(bytes)));
                holder.0.set(bytes);
                let weak: Weak<Holder> = Arc::downgrade(&holder);
                budget.register(weak);
                holder
            })
            .collect();
        assert!(budget.is_exhausted());
        budget.reclaim();
        assert_eq!((budget.used(), holders[1].reclaimable()), (30, 0));
        drop(holders);
        assert_eq!(budget.used(), 0);
    }
}
