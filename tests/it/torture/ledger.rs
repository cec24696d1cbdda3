//! What a writing process said, and which rows can be there after its end.
//!
//! It says `try GROUP VERSION WHAT` before a statement, `done GROUP VERSION` when it was acknowledged, and other words
//! that only tell how far it is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion_lsm::base::{Sharding, bucket};
use datafusion_lsm::ids::ShardId;

use super::GROUP;

/// What a statement does with the rows of its group.
#[derive(Debug, Clone, Copy)]
enum What {
    Insert,
    Update,
    Delete,
}

impl What {
    /// A row after the statement: its version, if it is there.
    fn after(self, before: Option<u64>, version: u64) -> Option<u64> {
        match self {
            Self::Insert => Some(version),
            Self::Update => before.map(|_| version),
            Self::Delete => None,
        }
    }
}

/// The rows by id and the statements underway by group.
#[derive(Debug)]
pub(super) struct Ledger {
    sharding: Sharding,
    rows: BTreeMap<i64, u64>,
    underway: HashMap<i64, (u64, What)>,
    newest: u64,
    acknowledged: u64,
}

impl Ledger {
    pub(super) fn new(shards: u32) -> Self {
        let sharding = match shards {
            1 => Sharding { shards: vec![ShardId::unsharded()], column: None, spec_id: 1 },
            n => Sharding { shards: (0..n).map(ShardId::bucket).collect(), column: Some("id".into()), spec_id: 1 },
        };
        Self { sharding, rows: BTreeMap::new(), underway: HashMap::new(), newest: 0, acknowledged: 0 }
    }

    /// The highest version that was tried.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["try", group, version, what] => {
                let (group, version) = (group.parse().unwrap(), version.parse().unwrap());
                let what = match *what {
                    "insert" => What::Insert,
                    "update" => What::Update,
                    "delete" => What::Delete,
                    other => panic!("what is {other}?"),
                };
                self.newest = self.newest.max(version);
                let earlier = self.underway.insert(group, (version, what));
                assert!(earlier.is_none(), "one statement a group at a time");
            }
            ["done", group, version] => {
                let (group, version): (i64, u64) = (group.parse().unwrap(), version.parse().unwrap());
                let (tried, what) = self.underway.remove(&group).unwrap();
                assert_eq!(tried, version);
                for id in group * GROUP..(group + 1) * GROUP {
                    match what.after(self.rows.get(&id).copied(), version) {
                        Some(version) => self.rows.insert(id, version),
                        None => self.rows.remove(&id),
                    };
                }
                self.acknowledged += 1;
            }
            _ => {}
        }
    }

    /// Compares what is there with what must be, and takes it over: what was underway is decided now.
    pub(super) fn check(&mut self, batches: Vec<RecordBatch>) {
        let mut found: BTreeMap<i64, u64> = BTreeMap::new();
        for batch in &batches {
            let column = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone();
            for (id, version) in column("id").values().iter().zip(column("version").values()) {
                assert!(found.insert(*id, *version as u64).is_none(), "row {id} is there twice");
            }
        }
        for (group, (version, what)) in std::mem::take(&mut self.underway) {
            let ids: Vec<i64> = (group * GROUP..(group + 1) * GROUP).collect();
            let mut applied: HashMap<u32, (i64, bool)> = HashMap::new();
            for (id, shard) in ids.iter().zip(self.shards(&ids)) {
                let before = self.rows.get(id).copied();
                let after = what.after(before, version);
                let is = found.get(id).copied();
                assert!(is == before || is == after, "row {id} was {before:?}, may be {after:?}, and is {is:?}");
                if before != after {
                    let (first, whole) = *applied.entry(shard).or_insert((*id, is == after));
                    let halves = format!("{what:?} {version} is in row {first} ({whole}) and not in row {id}");
                    assert_eq!(whole, is == after, "half of a unit survived: {halves}");
                }
                match is {
                    Some(version) => self.rows.insert(*id, version),
                    None => self.rows.remove(id),
                };
            }
        }
        let lost: Vec<_> = self.rows.iter().filter(|(id, version)| found.get(id) != Some(version)).collect();
        let surplus: Vec<_> = found.iter().filter(|(id, _)| !self.rows.contains_key(id)).collect();
        assert!(lost.is_empty() && surplus.is_empty(), "not there as acknowledged: {lost:?}; too much: {surplus:?}");
    }

    fn shards(&self, ids: &[i64]) -> Vec<u32> {
        let ids: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
        bucket(&self.sharding, &RecordBatch::try_from_iter([("id", ids)]).unwrap()).unwrap()
    }
}
