//! Which keys an immutable source can have, in few bytes that last longer than the process.
//!
//! A [`KeyRange`] and a split block Bloom filter as Parquet has it
//! (<https://github.com/apache/parquet-format/blob/master/BloomFilter.md>), over XXH64 with seed 0 of a key's image: the
//! hash of [`KeyRef`] is another one in every process. `docs/format.md` tells the bytes.

use lance_core::utils::bloomfilter::sbbf::Sbbf;
use prost::Message;
use twox_hash::XxHash64;

use super::{KeyMap, KeyRange, KeyRef};
use crate::error::{Error, Result};

/// How images of keys are made. A filter with another number is of no use: a key's image here says nothing of its image
/// there.
const IMAGES: u32 = 1;
/// Bits of the filter for each key: about one key in 150 that is not there seems to be.
const BITS: usize = 12;
/// Bytes of a block, each key has its bits in one.
const BLOCK: usize = 32;
/// Bytes of a filter at most: with more keys it is wrong more often.
const MOST: usize = 4 << 20;

/// What may be among the keys of an immutable source: it never says no of a key that is.
#[derive(Debug, Clone)]
pub struct KeyFilter {
    keys: u64,
    tombstones: u64,
    range: Option<KeyRange>,
    /// Has blocks if there are keys.
    bloom: Sbbf,
}

#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(uint32, tag = "1")]
    images: u32,
    #[prost(uint64, tag = "2")]
    keys: u64,
    #[prost(uint64, tag = "3")]
    tombstones: u64,
    #[prost(bytes = "vec", tag = "4")]
    least: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "5")]
    most: Option<Vec<u8>>,
    #[prost(bytes = "vec", tag = "6")]
    bloom: Vec<u8>,
}

impl KeyFilter {
    /// That of `keys`.
    ///
    /// # Errors
    /// `Internal` if the filter cannot be made, which does not happen.
    pub fn of(keys: &KeyMap) -> Result<Self> {
        let bytes = keys.keys().len().saturating_mul(BITS).div_ceil(8 * BLOCK).saturating_mul(BLOCK);
        Self::with_bytes(keys, bytes.clamp(BLOCK, MOST))
    }

    fn with_bytes(keys: &KeyMap, bytes: usize) -> Result<Self> {
        let mut bloom = Sbbf::new(&vec![0; bytes]).map_err(|e| Error::internal("a filter of keys").with_source(e))?;
        for key in keys.keys().iter() {
            bloom.insert_hash(key.with_image(stable_hash));
        }
        Ok(Self {
            keys: keys.keys().len() as u64,
            tombstones: keys.tombstones().len(),
            range: keys.range().cloned(),
            bloom,
        })
    }

    /// Whether `key` may be there.
    pub fn may_hold(&self, key: KeyRef<'_>) -> bool {
        let Some(range) = &self.range else { return false };
        key.with_image(|image| range.holds_image(image) && self.bloom.check_hash(stable_hash(image)))
    }

    /// From which key to which there are some; `None` if there are none.
    pub fn range(&self) -> Option<&KeyRange> {
        self.range.as_ref()
    }

    /// How many rows with keys there are.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// How many of them are tombstones.
    pub fn tombstones(&self) -> u64 {
        self.tombstones
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        self.bloom.size_bytes() + self.range().map_or(0, KeyRange::memory)
    }

    /// The filter as it is stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        let range = self.range();
        let stored = Stored {
            images: IMAGES,
            keys: self.keys,
            tombstones: self.tombstones,
            least: range.map(|range| range.least().to_vec()).unwrap_or_default(),
            most: range.and_then(|range| range.most().map(<[u8]>::to_vec)),
            bloom: self.bloom.to_bytes(),
        };
        stored.encode_to_vec()
    }

    /// The filter in `bytes`; `None` if there is none, or none of which this version knows how to ask.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged.
    pub fn of_bytes(bytes: &[u8]) -> Result<Option<Self>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let damaged = || Error::corrupt("the filter of a generation's keys is damaged: its keys are read instead");
        let stored = Stored::decode(bytes).map_err(|e| damaged().with_source(e))?;
        if stored.images != IMAGES {
            return Ok(None);
        }
        let bloom = Sbbf::new(&stored.bloom).map_err(|e| damaged().with_source(e))?;
        let is_inverted = stored.most.as_ref().is_some_and(|most| *most < stored.least);
        if bloom.num_blocks() == 0 || stored.tombstones > stored.keys || is_inverted {
            return Err(damaged());
        }
        let range = (stored.keys > 0).then(|| KeyRange::between(stored.least, stored.most));
        Ok(Some(Self { keys: stored.keys, tombstones: stored.tombstones, range, bloom }))
    }
}

/// The same in every process.
fn stable_hash(image: &[u8]) -> u64 {
    XxHash64::oneshot(0, image)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::*;
    use arrow::datatypes::{Field, Schema};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use roaring::RoaringTreemap;

    use super::super::{Keys, PrimaryKey};
    use super::*;

    fn map(keys: Keys) -> KeyMap {
        let rows = (0..keys.len() as u64).collect();
        KeyMap::new(keys, rows, RoaringTreemap::new())
    }

    fn key(columns: &[ArrayRef]) -> PrimaryKey {
        let field = |(i, column): (usize, &ArrayRef)| Field::new(format!("c{i}"), column.data_type().clone(), false);
        let fields: Vec<Field> = columns.iter().enumerate().map(field).collect();
        let names: Vec<String> = fields.iter().map(|f| f.name().clone()).collect();
        PrimaryKey::try_new(&Schema::new(fields), &names).unwrap()
    }

    /// Columns of keys of every kind, made of the same numbers.
    fn columns(numbers: &[i64]) -> Vec<Vec<ArrayRef>> {
        let text = |n: &i64| match n % 3 {
            0 => String::new(),
            1 => format!("{n}"),
            _ => format!("{}{n}", "x".repeat(n.unsigned_abs() as usize % 200)),
        };
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(numbers.iter().map(text)));
        let longs: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
        let bools: ArrayRef = Arc::new(BooleanArray::from_iter(numbers.iter().map(|n| Some(n % 2 == 0))));
        let days: ArrayRef = Arc::new(Date32Array::from_iter_values(numbers.iter().map(|n| *n as i32)));
        let binaries: ArrayRef = Arc::new(BinaryArray::from_iter_values(numbers.iter().map(|n| n.to_le_bytes())));
        let decimals: ArrayRef = Arc::new(Decimal128Array::from_iter_values(numbers.iter().map(|n| i128::from(*n))));
        let bytes: ArrayRef = Arc::new(UInt8Array::from_iter_values(numbers.iter().map(|n| *n as u8)));
        vec![
            vec![Arc::clone(&texts)],
            vec![Arc::clone(&longs)],
            vec![Arc::clone(&bools)],
            vec![Arc::clone(&days)],
            vec![binaries],
            vec![decimals],
            vec![bytes],
            vec![texts, longs],
            vec![days, bools],
        ]
    }

    #[test]
    fn a_filter_never_denies_a_key_that_is_there_and_comes_back() {
        let mut random = StdRng::seed_from_u64(28);
        for round in 0..20 {
            let numbers: Vec<i64> = (0..round * 10 + 1).map(|_| random.random_range(-1000..1000)).collect();
            for columns in columns(&numbers) {
                let keys = key(&columns).of_columns(&columns).unwrap();
                let map = map(keys.clone());
                let filter = KeyFilter::of(&map).unwrap();
                let again = KeyFilter::of_bytes(&filter.to_bytes()).unwrap().unwrap();
                assert_eq!((again.keys(), again.range()), (keys.len() as u64, map.range()));
                assert!(again.range().zip(filter.range()).is_some_and(|(again, range)| again.overlaps(range)));
                for key in keys.iter() {
                    assert!(filter.may_hold(key) && again.may_hold(key), "{key:?} of {:?}", columns[0].data_type());
                }
            }
        }
    }

    #[test]
    fn few_keys_that_are_not_there_seem_to_be() {
        let filter = KeyFilter::of(&map(Keys::Fixed((0..20_000).map(|n| n * 2).collect()))).unwrap();
        let wrong = (0..20_000).filter(|n| filter.may_hold(KeyRef::Fixed(n * 2 + 1))).count();
        assert!(wrong > 0 && wrong < 300, "{wrong} of 20000");
        assert!(!filter.may_hold(KeyRef::Fixed(40_000)), "out of range");
        assert!(filter.memory() < 40_000);
        // With one block of bits all that is in range seems to be there.
        let full = KeyFilter::with_bytes(&map(Keys::Fixed((0..1000).map(|n| n * 2).collect())), BLOCK).unwrap();
        assert!(full.may_hold(KeyRef::Fixed(1)) && !full.may_hold(KeyRef::Fixed(2000)));
        let none = KeyFilter::of(&map(Keys::Fixed(Vec::new()))).unwrap();
        assert!(!none.may_hold(KeyRef::Fixed(0)) && none.range().is_none());
        assert!(!KeyFilter::of_bytes(&none.to_bytes()).unwrap().unwrap().may_hold(KeyRef::Fixed(0)));
    }

    #[test]
    fn tombstones_are_counted() {
        let dead = RoaringTreemap::from_iter([1u64, 2]);
        let filter = KeyFilter::of(&KeyMap::new(Keys::Fixed(vec![1, 2, 3]), vec![0, 1, 2], dead)).unwrap();
        let again = KeyFilter::of_bytes(&filter.to_bytes()).unwrap().unwrap();
        assert_eq!((again.keys(), again.tombstones()), (3, 2));
    }

    #[test]
    fn what_is_no_filter_is_not_asked() {
        assert!(KeyFilter::of_bytes(&[]).unwrap().is_none());
        assert!(KeyFilter::of_bytes(b"what is this").is_err());
        let stored = |images, bloom| Stored { images, keys: 1, bloom, ..Stored::default() }.encode_to_vec();
        assert!(KeyFilter::of_bytes(&stored(IMAGES + 1, vec![0; 32])).unwrap().is_none(), "of a later version");
        assert!(KeyFilter::of_bytes(&stored(IMAGES, vec![0; 33])).is_err());
        assert!(KeyFilter::of_bytes(&stored(IMAGES, Vec::new())).is_err());
        assert!(KeyFilter::of_bytes(&stored(IMAGES, vec![0; 32])).unwrap().is_some());
        // It would deny every key.
        let range = |least: &[u8], most: &[u8]| {
            let (least, most) = (least.to_vec(), Some(most.to_vec()));
            Stored { images: IMAGES, keys: 1, bloom: vec![0; 32], least, most, ..Stored::default() }.encode_to_vec()
        };
        assert!(KeyFilter::of_bytes(&range(b"b", b"a")).is_err());
        assert!(KeyFilter::of_bytes(&range(b"ab", b"a")).is_err());
        assert!(KeyFilter::of_bytes(&range(b"a", b"a")).unwrap().is_some());
    }

    /// If this fails the images of keys or the bits of the filter are others than they were: give `IMAGES` another number.
    #[test]
    fn images_and_bits_are_what_the_format_says() {
        // From the reference implementation of xxHash.
        assert_eq!((stable_hash(b""), stable_hash(b"abc")), (0xef46_db37_51d8_e999, 0x44bc_2cf5_ad77_0999));
        // Bit y of word i: (low half of the hash * salt i) >> 27, of the only block there is.
        let mut bloom = Sbbf::new(&[0; BLOCK]).unwrap();
        bloom.insert_hash(1);
        let salts: [u32; 8] =
            [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];
        let expected: Vec<u8> = salts.iter().flat_map(|salt| (1u32 << (salt >> 27)).to_le_bytes()).collect();
        assert_eq!(bloom.to_bytes(), expected);
        // The block is told by the high half: the second of two.
        let mut two = Sbbf::new(&[0; 2 * BLOCK]).unwrap();
        two.insert_hash(0x8000_0000_0000_0001);
        assert_eq!(two.to_bytes(), [vec![0; BLOCK], expected].concat());

        let image = |columns: Vec<ArrayRef>| key(&columns).of_columns(&columns).unwrap().get(0).to_bytes();
        assert_eq!(image(vec![Arc::new(Int64Array::from(vec![-1]))]), [0x7f, 255, 255, 255, 255, 255, 255, 255]);
        assert_eq!(image(vec![Arc::new(Int8Array::from(vec![3]))]), [0x80, 0, 0, 0, 0, 0, 0, 3]);
        assert_eq!(image(vec![Arc::new(StringArray::from(vec!["né"]))]), "né".as_bytes());
        let text = || Arc::new(StringArray::from(vec!["a"])) as ArrayRef;
        let of_text = [2u8, b'a', 0, 0, 0, 0, 0, 0, 0, 1];
        let long = [1u8, 0x7f, 255, 255, 255, 255, 255, 255, 255];
        assert_eq!(image(vec![text(), Arc::new(Int64Array::from(vec![-1]))]), [&of_text[..], &long].concat());
        let nothing = Arc::new(StringArray::from(vec![""])) as ArrayRef;
        assert_eq!(image(vec![nothing, Arc::new(BooleanArray::from(vec![true]))]), [1, 1, 1]);
        let decimal = Decimal128Array::from(vec![-2]);
        assert_eq!(image(vec![Arc::new(decimal)]), [&[1u8, 0x7f][..], &[255; 14], &[254]].concat());
    }
}
