//! Bit packing: 128 numbers in four interleaved lanes, and a plain stream of numbers that is read at random.
//!
//! The lanes are those of SIMD-BP128 (Lemire and Boytsov, "Decoding billions of integers per second through
//! vectorization", 2015): the loop over the lanes is one vector instruction each.

/// How many numbers are packed at once.
pub(crate) const LEN: usize = 128;
/// Lanes that are packed side by side.
const LANES: usize = 4;

/// Bits that hold every number up to `max`.
pub(crate) fn width(max: u32) -> u32 {
    32 - max.leading_zeros()
}

/// Words that [`pack`] writes.
pub(crate) fn packed_words(width: u32) -> usize {
    width as usize * LANES
}

/// Appends the numbers with `width` bits each, which must hold all of them.
pub(crate) fn pack(values: &[u32; LEN], width: u32, out: &mut Vec<u32>) {
    let start = out.len();
    out.resize(start + packed_words(width), 0);
    if width == 0 {
        return;
    }
    let words = &mut out[start..];
    for (i, &value) in values.iter().enumerate() {
        let (lane, bit) = (i % LANES, (i / LANES) as u32 * width);
        let (word, shift) = ((bit / 32) as usize, bit % 32);
        words[word * LANES + lane] |= value << shift;
        if shift + width > 32 {
            words[(word + 1) * LANES + lane] |= value >> (32 - shift);
        }
    }
}

fn unpack_fixed<const W: usize>(words: &[u32], out: &mut [u32; LEN]) {
    let (words, _) = words.as_chunks::<LANES>();
    let Some(words) = words.first_chunk::<W>() else {
        out.fill(0);
        return;
    };
    let mask = if W == 32 { u32::MAX } else { (1 << W) - 1 };
    let (out, _) = out.as_chunks_mut::<LANES>();
    for (i, out) in out.iter_mut().enumerate() {
        let (word, shift) = (i * W / 32, i * W % 32);
        for (lane, out) in out.iter_mut().enumerate() {
            let mut value = words[word][lane] >> shift;
            if shift + W > 32 {
                value |= words[word + 1][lane] << (32 - shift);
            }
            *out = value & mask;
        }
    }
}

macro_rules! dispatch {
    ($width:expr, $words:expr, $out:expr; $($w:literal)*) => {
        match $width {
            $($w => unpack_fixed::<$w>($words, $out),)*
            _ => $out.fill(0),
        }
    };
}

/// Reads what [`pack`] wrote with the same width.
pub(crate) fn unpack(words: &[u32], width: u32, out: &mut [u32; LEN]) {
    dispatch!(width, words, out;
        1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32)
}

/// Appends the numbers one behind the other, from a fresh word on.
pub(crate) fn write_stream(values: &[u32], width: u32, out: &mut Vec<u32>) {
    let start = out.len();
    out.resize(start + (values.len() * width as usize).div_ceil(32), 0);
    if width == 0 {
        return;
    }
    let words = &mut out[start..];
    for (i, &value) in values.iter().enumerate() {
        let bit = i * width as usize;
        let (word, shift) = (bit / 32, (bit % 32) as u32);
        words[word] |= value << shift;
        if shift + width > 32 {
            words[word + 1] |= value >> (32 - shift);
        }
    }
}

/// The number at place `i` of a stream that starts with `words`.
pub(crate) fn read_stream(words: &[u32], width: u32, i: usize) -> u32 {
    if width == 0 {
        return 0;
    }
    let bit = i * width as usize;
    let (word, shift) = (bit / 32, (bit % 32) as u32);
    let low = u64::from(words.get(word).copied().unwrap_or(0));
    let high = u64::from(words.get(word + 1).copied().unwrap_or(0));
    (((high << 32 | low) >> shift) & ((1 << width) - 1)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_comes_back() {
        for bits in 0..=32 {
            let max = if bits == 32 { u32::MAX } else { (1 << bits) - 1 };
            let values: [u32; LEN] = std::array::from_fn(|i| (i as u32).wrapping_mul(0x9E37_79B9) & max);
            let mut words = vec![7];
            pack(&values, bits, &mut words);
            write_stream(&values[..77], bits, &mut words);
            let mut out = [1; LEN];
            unpack(&words[1..], bits, &mut out);
            assert_eq!(out, values);
            let stream = &words[1 + packed_words(bits)..];
            for (i, value) in values[..77].iter().enumerate() {
                assert_eq!(read_stream(stream, bits, i), *value);
            }
        }
    }
}
