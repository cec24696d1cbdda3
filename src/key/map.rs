//! Where the keys of an immutable source are: one lookup table per generation or base version.

use hashbrown::HashTable;
use roaring::RoaringTreemap;

use super::{KeyRange, KeyRef, Keys};

/// The keys of an immutable source with the id of the row that holds each, and which of them are tombstones.
#[derive(Debug)]
pub struct KeyMap {
    keys: Keys,
    rows: Vec<u64>,
    tombstones: RoaringTreemap,
    table: HashTable<u32>,
    range: Option<KeyRange>,
}

impl KeyMap {
    /// A map of `keys`, where `rows[i]` is the id of the row that holds key `i` and `tombstones` are row ids.
    ///
    /// A key that occurs more than once keeps the row that comes last.
    pub fn new(keys: Keys, rows: Vec<u64>, tombstones: RoaringTreemap) -> Self {
        debug_assert_eq!(keys.len(), rows.len());
        let mut table = HashTable::with_capacity(keys.len());
        for i in 0..keys.len() {
            let key = keys.get(i);
            let at = |j: &u32| keys.get(*j as usize);
            match table.entry(key.hash(), |j| at(j) == key, |j| at(j).hash()) {
                hashbrown::hash_table::Entry::Occupied(mut slot) => *slot.get_mut() = i as u32,
                hashbrown::hash_table::Entry::Vacant(slot) => {
                    slot.insert(i as u32);
                }
            }
        }
        let range = KeyRange::of(&keys);
        Self { keys, rows, tombstones, table, range }
    }

    /// The id of the row that holds `key`, whose hash is `hash`.
    pub fn get(&self, key: KeyRef<'_>, hash: u64) -> Option<u64> {
        let found = self.table.find(hash, |j| self.keys.get(*j as usize) == key)?;
        Some(self.rows[*found as usize])
    }

    /// The keys, one per row that was given.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The ids of the rows that are tombstones.
    pub fn tombstones(&self) -> &RoaringTreemap {
        &self.tombstones
    }

    /// From which key to which there are some; `None` if there are none.
    pub fn range(&self) -> Option<&KeyRange> {
        self.range.as_ref()
    }

    /// How many distinct keys there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        self.keys.memory() + self.rows.len() * 8 + self.table.capacity() * 5 + self.tombstones.serialized_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_row_of_a_key_is_found() {
        let map = KeyMap::new(Keys::Fixed(vec![5, 9, 5]), vec![0, 1, 2], RoaringTreemap::from_iter([1u64]));
        let get = |k: u64| map.get(KeyRef::Fixed(k), KeyRef::Fixed(k).hash());
        assert_eq!((get(5), get(9), get(7)), (Some(2), Some(1), None));
        assert_eq!(map.len(), 2);
        assert!(map.tombstones().contains(1));
    }
}
