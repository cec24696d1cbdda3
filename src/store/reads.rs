//! What was asked of a store for the files of a dataset, and what was in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::RwLock;

/// Directories of a dataset: a file is in one of them.
const PARTS: [&str; 5] = ["/data/", "/_indices/", "/_deletions/", "/_versions/", "/_pk_index/"];

/// What was read of the files of a dataset so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reads {
    /// Requests that the store got, each attempt.
    pub requests: u64,
    /// Bytes that came.
    pub bytes: u64,
    /// Blocks that were in memory.
    pub hits: u64,
    /// How often the store was asked again.
    pub retries: u64,
}

impl Reads {
    /// The figures under the names that plan nodes show.
    pub fn named(self) -> [(&'static str, usize); 3] {
        [("store_requests", self.requests), ("store_bytes", self.bytes), ("cache_hits", self.hits)]
            .map(|(name, much)| (name, usize::try_from(much).unwrap_or(usize::MAX)))
    }

    /// What came after `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            bytes: self.bytes - before.bytes,
            hits: self.hits - before.hits,
            retries: self.retries - before.retries,
        }
    }
}

/// Counts [`Reads`].
#[derive(Debug, Default)]
pub struct ReadCounters {
    requests: AtomicU64,
    bytes: AtomicU64,
    hits: AtomicU64,
    retries: AtomicU64,
    /// What counts the same beside others.
    all: Option<Arc<ReadCounters>>,
}

impl ReadCounters {
    /// What was read so far.
    pub fn get(&self) -> Reads {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Reads {
            requests: get(&self.requests),
            bytes: get(&self.bytes),
            hits: get(&self.hits),
            retries: get(&self.retries),
        }
    }

    pub(super) fn asked(&self) {
        self.add(|counters| &counters.requests, 1);
    }

    pub(super) fn asked_again(&self) {
        self.add(|counters| &counters.retries, 1);
    }

    pub(super) fn came(&self, bytes: u64) {
        self.add(|counters| &counters.bytes, bytes);
    }

    pub(super) fn hit(&self, blocks: u64) {
        self.add(|counters| &counters.hits, blocks);
    }

    fn add(&self, counter: impl Fn(&Self) -> &AtomicU64, much: u64) {
        for counters in [Some(self), self.all.as_deref()].into_iter().flatten() {
            counter(counters).fetch_add(much, Ordering::Relaxed);
        }
    }
}

/// The counters of datasets that are open, by the names of their directories.
#[derive(Debug, Default)]
pub(super) struct DatasetReads {
    open: RwLock<HashMap<String, Weak<ReadCounters>>>,
    all: Arc<ReadCounters>,
}

impl DatasetReads {
    /// The counters of the dataset in the directory with this name; handles of one dataset share them.
    pub(super) fn open(&self, dir: String) -> Arc<ReadCounters> {
        let mut all = self.open.write();
        if let Some(there) = all.get(&dir).and_then(Weak::upgrade) {
            return there;
        }
        all.retain(|_, counters| counters.strong_count() > 0);
        let counters = self.more();
        all.insert(dir, Arc::downgrade(&counters));
        counters
    }

    /// Those of the dataset that the file with this name belongs to; others if that is not open.
    pub(super) fn of_file(&self, name: &str) -> Arc<ReadCounters> {
        let end = PARTS.iter().filter_map(|part| name.rfind(part)).max();
        end.and_then(|end| self.open.read().get(&name[..end])?.upgrade()).unwrap_or_else(|| self.more())
    }

    /// Those of all datasets, and of what is asked for beside them.
    pub(super) fn all(&self) -> &Arc<ReadCounters> {
        &self.all
    }

    fn more(&self) -> Arc<ReadCounters> {
        Arc::new(ReadCounters { all: Some(Arc::clone(&self.all)), ..ReadCounters::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_belong_to_the_dataset_that_a_file_is_of() {
        let all = DatasetReads::default();
        let (base, generation) = (all.open("0/s/data/t".into()), all.open("0/s/data/t/_mem_wal/x/a_gen_1".into()));
        for (file, of) in [
            ("0/s/data/t/data/1.lance", &base),
            ("0/s/data/t/_indices/u/index.idx", &base),
            ("0/s/data/t/_mem_wal/x/a_gen_1/data/1.lance", &generation),
            ("0/s/data/t/_mem_wal/x/a_gen_1/_versions/1.manifest", &generation),
        ] {
            assert!(Arc::ptr_eq(&all.of_file(file), of), "{file}");
        }
        all.of_file("0/s/other/data/1.lance").asked();
        assert!(Arc::ptr_eq(&all.open("0/s/data/t".into()), &base));
        base.asked();
        base.came(7);
        let before = base.get();
        base.hit(3);
        assert_eq!(base.get().since(before), Reads { hits: 3, ..Reads::default() });
        drop(base);
        assert_eq!(all.open("0/s/data/t".into()).get(), Reads::default(), "nobody counted any more");
        assert_eq!(
            all.all().get(),
            Reads { requests: 2, bytes: 7, hits: 3, retries: 0 },
            "those that are gone as well"
        );
    }
}
