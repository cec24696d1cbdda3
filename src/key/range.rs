//! From which key to which a source has some: sources whose ranges are apart have no key in common.

use super::Keys;

/// Bytes of a key's image that a bound keeps.
const KEPT: usize = 64;

/// A smallest and a largest key. Long ones are cut so that the range is rather too wide than too narrow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    least: Vec<u8>,
    /// No key is larger; `None` if nothing is known to be.
    most: Option<Vec<u8>>,
}

impl KeyRange {
    /// That of `keys`; `None` if there are none.
    pub fn of(keys: &Keys) -> Option<Self> {
        let (least, most) = (keys.iter().min()?, keys.iter().max()?);
        let mut least = least.to_bytes();
        least.truncate(KEPT);
        Some(Self { least, most: bound_above(most.to_bytes()) })
    }

    /// The one with these bounds.
    pub(super) fn between(least: Vec<u8>, most: Option<Vec<u8>>) -> Self {
        Self { least, most }
    }

    /// Below or at every key.
    pub(super) fn least(&self) -> &[u8] {
        &self.least
    }

    /// Above or at every key, if there is such a bound.
    pub(super) fn most(&self) -> Option<&[u8]> {
        self.most.as_deref()
    }

    /// Whether the key with this image is within it.
    pub(super) fn holds_image(&self, image: &[u8]) -> bool {
        self.least.as_slice() <= image && self.most().is_none_or(|most| image <= most)
    }

    /// Whether a key can be within both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let begins_in_time = |range: &Self, other: &Self| other.most().is_none_or(|most| range.least() <= most);
        begins_in_time(self, other) && begins_in_time(other, self)
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        self.least.len() + self.most().map_or(0, <[u8]>::len)
    }
}

/// What no image is above that begins as `image` does; `None` if there is no such thing of few bytes.
fn bound_above(mut image: Vec<u8>) -> Option<Vec<u8>> {
    if image.len() <= KEPT {
        return Some(image);
    }
    image.truncate(KEPT);
    while let Some(last) = image.pop() {
        if last < u8::MAX {
            image.push(last + 1);
            return Some(image);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::{KeyBytes, KeyRef};
    use super::*;

    fn bytes(keys: &[&[u8]]) -> Keys {
        let mut all = KeyBytes::default();
        keys.iter().for_each(|key| all.push(key));
        Keys::Bytes(all)
    }

    fn holds(range: &KeyRange, key: KeyRef<'_>) -> bool {
        key.with_image(|image| range.holds_image(image))
    }

    fn of(keys: &[&[u8]]) -> KeyRange {
        KeyRange::of(&bytes(keys)).unwrap()
    }

    #[test]
    fn ranges_of_numbers_are_apart_or_not() {
        let of = |keys: &[u64]| KeyRange::of(&Keys::Fixed(keys.to_vec())).unwrap();
        let (low, high) = (of(&[300, 5, 7]), of(&[301, 400]));
        assert!(!low.overlaps(&high) && !high.overlaps(&low));
        assert!(low.overlaps(&of(&[300])) && of(&[300]).overlaps(&low));
        assert!(of(&[0, u64::MAX]).overlaps(&low));
        assert!(holds(&low, KeyRef::Fixed(300)) && holds(&low, KeyRef::Fixed(6)));
        assert!(!holds(&low, KeyRef::Fixed(301)) && !holds(&low, KeyRef::Fixed(4)));
        assert_eq!(KeyRange::of(&Keys::Fixed(Vec::new())), None);
    }

    #[test]
    fn ranges_of_long_keys_are_cut_and_hold_them() {
        let (a, b) = ([b'a'; 100], [b'b'; 100]);
        let range = of(&[&a, &b]);
        assert!(range.memory() <= 2 * KEPT);
        assert!(holds(&range, KeyRef::Bytes(&a)) && holds(&range, KeyRef::Bytes(&b)));
        assert!(!holds(&range, KeyRef::Bytes(b"c")) && !holds(&range, KeyRef::Bytes(b"a")));
        assert!(!range.overlaps(&of(&[b"c", b"d"])) && range.overlaps(&of(&[b"abc", b"d"])));
        // Nothing of 64 bytes is above all that begins so.
        let high = [u8::MAX; 100];
        let open = of(&[&high]);
        assert_eq!(open.most(), None);
        assert!(holds(&open, KeyRef::Bytes(&high)) && open.overlaps(&of(&[&[u8::MAX; 200]])));
        let mut ends_high = [u8::MAX; 100];
        ends_high[0] = 7;
        assert_eq!(of(&[&ends_high]).most(), Some([8].as_slice()));
        assert!(holds(&of(&[&ends_high]), KeyRef::Bytes(&ends_high)));
    }

    #[test]
    fn an_empty_text_is_the_least_key() {
        let range = of(&[b"", b"m"]);
        assert!(holds(&range, KeyRef::Bytes(b"")) && !holds(&range, KeyRef::Bytes(b"n")));
        assert!(range.overlaps(&of(&[b""])));
    }
}
