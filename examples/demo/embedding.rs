//! Embeddings without a model: texts that share many pieces of words are near each other.
//!
//! 1. *Pieces.* The words of the text in lower case, those of 4 letters and more, each with a mark before and behind it,
//!    give their character n-grams of 3 to 5 (as fastText does: Bojanowski et al., TACL 2017). A misspelt word keeps most
//!    of its pieces.
//! 2. *Hashing.* Each piece counts 1 or -1, as its hash says, in one of 32,768 buckets, so that collisions cancel out on
//!    average (Weinberger et al., ICML 2009). A bucket weighs the square root of what it counted: pieces that are
//!    everywhere in a text count for less.
//! 3. *Projection.* Each bucket is added to 8 of 256 dimensions or taken from them, which ones is drawn once from a
//!    fixed seed: a sparse random projection, which nearly keeps angles (Achlioptas, JCSS 2003; Li et al., KDD 2006).
//! 4. The result has length 1. A text without such a word has no direction: NULL.
//!
//! So it knows spelling, not meaning: 'car' is far from 'automobile'. It is a stand-in for a model that needs no
//! download and gives the same vectors everywhere.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, FixedSizeListBuilder, Float32Builder};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};

/// Dimensions of an embedding.
pub(crate) const WIDTH: usize = 256;

const GRAMS: std::ops::RangeInclusive<usize> = 3..=5;
/// Letters of a word that counts.
const LEAST: usize = 4;
const BUCKETS: usize = 1 << 15;
/// Dimensions that a bucket touches.
const TOUCHED: usize = 8;
const SEED: u64 = 0x5EED_0F7E_C7E0;

/// For each bucket its dimensions, and whether it is added to them or taken away.
static PROJECTION: LazyLock<Vec<[(u8, f32); TOUCHED]>> = LazyLock::new(|| {
    let of_bucket = |bucket| {
        std::array::from_fn(|i| {
            let random = mixed(SEED ^ (bucket * TOUCHED + i) as u64);
            (random as u8, if random >> 63 == 0 { 1.0 } else { -1.0 })
        })
    };
    (0..BUCKETS).map(of_bucket).collect()
});

/// Makes embeddings, one after the other.
pub(crate) struct Embedder {
    counts: Vec<i32>,
    touched: Vec<usize>,
    word: Vec<char>,
}

impl Default for Embedder {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], touched: Vec::new(), word: Vec::new() }
    }
}

impl Embedder {
    /// The embedding of `text`; none if no word of it counts.
    pub(crate) fn embed(&mut self, text: &str) -> Option<[f32; WIDTH]> {
        for letter in text.chars().chain([' ']) {
            if letter.is_alphanumeric() {
                self.word.extend(letter.to_lowercase());
            } else {
                if self.word.len() >= LEAST {
                    self.count_word();
                }
                self.word.clear();
            }
        }
        let mut sums = [0.0f32; WIDTH];
        for bucket in self.touched.drain(..) {
            // A bucket that was at 0 in between is here twice, and taken once.
            let count = std::mem::take(&mut self.counts[bucket]) as f32;
            let weight = count.signum() * count.abs().sqrt();
            if weight != 0.0 {
                for (dimension, sign) in PROJECTION[bucket] {
                    sums[usize::from(dimension)] += sign * weight;
                }
            }
        }
        let length = sums.iter().map(|x| x * x).sum::<f32>().sqrt();
        (length > 0.0).then(|| sums.map(|x| x / length))
    }

    /// Counts the pieces of the word that was read.
    fn count_word(&mut self) {
        self.word.insert(0, '<');
        self.word.push('>');
        for from in 0..self.word.len() {
            let mut hash = 0xCBF2_9CE4_8422_2325;
            for (length, letter) in (1..=*GRAMS.end()).zip(&self.word[from..]) {
                hash = (hash ^ u64::from(*letter)).wrapping_mul(0x0100_0000_01B3);
                if GRAMS.contains(&length) {
                    let hash = mixed(hash);
                    let bucket = hash as usize % BUCKETS;
                    if self.counts[bucket] == 0 {
                        self.touched.push(bucket);
                    }
                    self.counts[bucket] += if hash >> 63 == 0 { 1 } else { -1 };
                }
            }
        }
    }
}

/// Spreads the bits of `x` (the finisher of splitmix64).
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// The SQL function `embed(text)`.
pub(crate) fn function() -> ScalarUDF {
    let element = Field::new_list_field(DataType::Float32, true);
    let vectors = DataType::FixedSizeList(Arc::new(element), WIDTH as i32);
    create_udf(
        "embed",
        vec![DataType::Utf8],
        vectors,
        Volatility::Immutable,
        Arc::new(|args: &[ColumnarValue]| {
            let one = args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
            let vectors = embed_all(&ColumnarValue::values_to_arrays(args)?[0])?;
            Ok(if one {
                ColumnarValue::Scalar(ScalarValue::try_from_array(&vectors, 0)?)
            } else {
                ColumnarValue::Array(vectors)
            })
        }),
    )
}

fn embed_all(texts: &ArrayRef) -> datafusion::common::Result<ArrayRef> {
    let texts = cast(texts, &DataType::Utf8)?;
    let mut embedder = Embedder::default();
    let mut vectors = FixedSizeListBuilder::with_capacity(Float32Builder::new(), WIDTH as i32, texts.len());
    for text in texts.as_string::<i32>() {
        let vector = text.and_then(|text| embedder.embed(text));
        vectors.values().append_slice(&vector.unwrap_or([0.0; WIDTH]));
        vectors.append(vector.is_some());
    }
    Ok(Arc::new(vectors.finish()))
}
