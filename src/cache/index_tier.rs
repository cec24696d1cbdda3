//! Entries of a bounded size that belong to several parts: a part is emptied at once, whatever the others hold.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use lance_core::cache::{CacheEntry, InternalCacheKey};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use super::memory_budget::{MemoryBudget, MemoryLease, Reclaim};

/// Bytes that an entry takes beside its own.
const OVERHEAD: usize = 160;
/// Bytes of an entry, about, and entries at most, for the size of a new table of entries.
const USUAL: usize = 64 << 10;
const MANY: usize = 1 << 16;

/// What a cache holds and how often that was of use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// How often something was there.
    pub hits: u64,
    /// How often something was not.
    pub misses: u64,
    /// How often something was loaded: those who miss it at the same time wait for one of them.
    pub loads: u64,
    /// How much is there.
    pub entries: u64,
    /// Bytes held.
    pub bytes: u64,
}

impl CacheCounts {
    /// Those of two halves.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            hits: self.hits + other.hits,
            misses: self.misses + other.misses,
            loads: self.loads + other.loads,
            entries: self.entries + other.entries,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// What one dataset has in a tier.
#[derive(Debug, Clone)]
pub(super) struct Part {
    tier: Arc<Tier>,
    own: Arc<Own>,
}

/// What is known of the entries of a part.
#[derive(Debug)]
struct Own {
    id: u64,
    /// `None` when it is retired.
    listed: Mutex<Option<HashMap<InternalCacheKey, Receipt>>>,
    counters: Counters,
}

/// Which of the entries that a key ever had is held, and its bytes.
#[derive(Debug, Clone, Copy)]
struct Receipt {
    number: u64,
    bytes: usize,
}

impl Part {
    /// An empty one; no other of the tier has this `id`.
    pub(super) fn new(tier: &Arc<Tier>, id: u64) -> Self {
        let own = Own { id, listed: Mutex::new(Some(HashMap::new())), counters: Counters::default() };
        Self { tier: Arc::clone(tier), own: Arc::new(own) }
    }

    /// The entry, if it is there; nobody counts that.
    pub(super) fn look(&self, key: &InternalCacheKey) -> Option<CacheEntry> {
        self.tier.entries.get(&self.place(key)).map(|kept| kept.entry)
    }

    /// Whether there is an entry; it is not used by that.
    pub(super) fn has(&self, key: &InternalCacheKey) -> bool {
        self.tier.entries.contains_key(&self.place(key))
    }

    /// The entry, if it is there.
    pub(super) fn get(&self, key: &InternalCacheKey) -> Option<CacheEntry> {
        let found = self.look(key);
        self.count(if found.is_some() { Counters::hit } else { Counters::miss });
        found
    }

    /// Keeps an entry, unless the part is retired.
    pub(super) fn insert(&self, key: &InternalCacheKey, entry: CacheEntry, bytes: usize) {
        let place = self.place(key);
        self.keep(place, entry, bytes, |kept| Ok(self.tier.entries.insert_with_lifecycle(place, kept)));
    }

    /// The entry and whether it was there; if it was not, it is loaded by one of those who ask.
    pub(super) async fn get_or_load<E>(
        &self,
        key: &InternalCacheKey,
        load: impl Future<Output = Result<(CacheEntry, usize), E>>,
    ) -> Result<(CacheEntry, bool), E> {
        if let Some(entry) = self.get(key) {
            return Ok((entry, true));
        }
        let place = self.place(key);
        if self.own.listed.lock().is_none() {
            let (entry, _) = load.await?;
            self.count(Counters::load);
            return Ok((entry, false));
        }
        // If whoever loads stops or fails, one of those who wait gets the guard.
        match self.tier.entries.get_value_or_guard_async(&place).await {
            Ok(kept) => Ok((kept.entry, true)),
            Err(guard) => {
                let (entry, bytes) = load.await?;
                self.count(Counters::load);
                self.keep(place, Arc::clone(&entry), bytes, |kept| guard.insert_with_lifecycle(kept));
                Ok((entry, false))
            }
        }
    }

    /// Drops all entries.
    pub(super) fn clear(&self) {
        self.empty(Some(HashMap::new()));
    }

    /// Drops all entries, and takes no more.
    pub(super) fn retire(&self) {
        self.empty(None);
    }

    /// Takes entries again, if it was retired.
    pub(super) fn revive(&self) {
        self.own.listed.lock().get_or_insert_default();
    }

    pub(super) fn counts(&self) -> CacheCounts {
        self.own.counters.get()
    }

    /// Bytes that all parts together may have.
    pub(super) fn capacity(&self) -> u64 {
        self.tier.entries.capacity()
    }

    fn place(&self, key: &InternalCacheKey) -> Place {
        Place { part: self.own.id, key: *key }
    }

    fn count(&self, what: fn(&Counters)) {
        what(&self.own.counters);
        what(&self.tier.counters);
    }

    /// Keeps an entry by `insert`, which tells what had to go for it.
    fn keep(
        &self,
        place: Place,
        entry: CacheEntry,
        bytes: usize,
        insert: impl FnOnce(Kept) -> Result<Vec<(Place, Kept)>, Kept>,
    ) {
        let number = self.tier.numbers.fetch_add(1, Ordering::Relaxed);
        let receipt = Receipt { number, bytes: bytes.saturating_add(OVERHEAD) };
        let kept = Kept { entry, receipt, part: Arc::clone(&self.own) };
        let gone = {
            // Held meanwhile: nothing comes in behind the back of whoever retires the part.
            let mut listed = self.own.listed.lock();
            let Some(listed) = listed.as_mut() else { return };
            // Somebody else had one for the key first.
            let Ok(gone) = insert(kept) else { return };
            self.tier.add(&self.own, receipt);
            if let Some(before) = listed.insert(place.key, receipt) {
                self.tier.subtract(&self.own, before);
            }
            gone
        };
        self.tier.forget(gone);
    }

    fn empty(&self, then: Option<HashMap<InternalCacheKey, Receipt>>) {
        let before = {
            let mut listed = self.own.listed.lock();
            // What is retired stays so.
            if listed.is_none() {
                return;
            }
            std::mem::replace(&mut *listed, then).unwrap_or_default()
        };
        for (key, receipt) in before {
            self.tier.subtract(&self.own, receipt);
            // A newer one of this key may have come since.
            let is_it = |kept: &Kept| kept.receipt.number == receipt.number;
            drop(self.tier.entries.remove_if(&self.place(&key), is_it));
        }
    }
}

/// The entries of all parts, of a bounded size.
pub(super) struct Tier {
    entries: Cache<Place, Kept, Weight, DefaultHashBuilder, Evictions>,
    numbers: AtomicU64,
    counters: Counters,
    lease: MemoryLease,
}

impl Tier {
    /// One of at most `capacity` bytes, charged to `budget`, which may ask for them back.
    pub(super) fn new(capacity: usize, budget: &Arc<MemoryBudget>) -> Arc<Self> {
        // One shard: an index may have most of the room.
        let options = OptionsBuilder::new()
            .estimated_items_capacity((capacity / USUAL).clamp(1, MANY))
            .weight_capacity(capacity as u64)
            .shards(1)
            .build()
            .expect("the capacities are given");
        let tier = Arc::new(Self {
            entries: Cache::with_options(options, Weight, DefaultHashBuilder::default(), Evictions),
            numbers: AtomicU64::new(0),
            counters: Counters::default(),
            lease: budget.lease(),
        });
        let holder: Weak<Self> = Arc::downgrade(&tier);
        budget.register(holder);
        tier
    }

    pub(super) fn counts(&self) -> CacheCounts {
        self.counters.get()
    }

    fn add(&self, own: &Own, receipt: Receipt) {
        own.counters.add(receipt);
        self.counters.add(receipt);
        self.lease.grow(receipt.bytes);
    }

    fn subtract(&self, own: &Own, receipt: Receipt) {
        own.counters.subtract(receipt);
        self.counters.subtract(receipt);
        self.lease.shrink(receipt.bytes);
    }

    /// Strikes entries that went off the lists of their parts.
    fn forget(&self, gone: impl IntoIterator<Item = (Place, Kept)>) {
        for (place, kept) in gone {
            let mut listed = kept.part.listed.lock();
            // A newer one of this key may be there.
            let is_it = |known: &Receipt| known.number == kept.receipt.number;
            if let Some(listed) = listed.as_mut()
                && listed.get(&place.key).is_some_and(is_it)
            {
                listed.remove(&place.key);
                self.subtract(&kept.part, kept.receipt);
            }
        }
    }
}

impl Reclaim for Tier {
    fn reclaimable(&self) -> usize {
        self.counters.get().bytes as usize
    }

    fn reclaim(&self) {
        self.forget(self.entries.drain());
    }
}

impl fmt::Debug for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tier").field("counts", &self.counters.get()).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    part: u64,
    key: InternalCacheKey,
}

#[derive(Debug, Clone)]
struct Kept {
    entry: CacheEntry,
    receipt: Receipt,
    part: Arc<Own>,
}

#[derive(Debug, Clone)]
struct Weight;

impl Weighter<Place, Kept> for Weight {
    fn weight(&self, _: &Place, kept: &Kept) -> u64 {
        kept.receipt.bytes as u64
    }
}

/// Collects what goes, for who made it go: their parts cannot be told while the cache is locked.
#[derive(Debug, Clone)]
struct Evictions;

impl Lifecycle<Place, Kept> for Evictions {
    type RequestState = Vec<(Place, Kept)>;

    fn begin_request(&self) -> Self::RequestState {
        Vec::new()
    }

    fn on_evict(&self, gone: &mut Self::RequestState, place: Place, kept: Kept) {
        gone.push((place, kept));
    }
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    loads: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Counters {
    fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    fn miss(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
    }

    fn load(&self) {
        self.loads.fetch_add(1, Ordering::Relaxed);
    }

    fn add(&self, receipt: Receipt) {
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(receipt.bytes as u64, Ordering::Relaxed);
    }

    fn subtract(&self, receipt: Receipt) {
        self.entries.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(receipt.bytes as u64, Ordering::Relaxed);
    }

    fn get(&self) -> CacheCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheCounts {
            hits: get(&self.hits),
            misses: get(&self.misses),
            loads: get(&self.loads),
            entries: get(&self.entries),
            bytes: get(&self.bytes),
        }
    }
}
