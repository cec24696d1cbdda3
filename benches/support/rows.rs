//! The rows that benches write: made from their ids, so that each side and each run has the same ones.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeListArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::Result;

/// The key column of every kind of rows.
pub(crate) const KEY: &str = "id";

/// What the rows of a table look like.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// The seed's: id, three common words and a number, a normalised vector of this many dimensions.
    Vectors(usize),
    /// About a hundred bytes: id, category, score, text.
    Records,
    /// Id and a short text.
    Short,
}

impl Kind {
    /// The schema, the key declared the way Lance wants it.
    pub(crate) fn schema(self) -> SchemaRef {
        let primary = [("lance-schema:unenforced-primary-key".to_string(), "true".to_string())];
        let id = Field::new(KEY, DataType::Int64, false).with_metadata(primary.into());
        let text = Field::new("text", DataType::Utf8, true);
        let fields = match self {
            Self::Vectors(dimensions) => vec![id, text, Field::new("vector", vector_type(dimensions), false)],
            Self::Records => vec![
                id,
                Field::new("category", DataType::Int32, true),
                Field::new("score", DataType::Float64, true),
                text,
            ],
            Self::Short => vec![id, text],
        };
        Arc::new(Schema::new(fields))
    }

    /// The rows with these ids in their `version`.
    pub(crate) fn rows(self, ids: &[i64], version: u64) -> Result<RecordBatch> {
        let id: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
        let columns: Vec<ArrayRef> = match self {
            Self::Vectors(dimensions) => {
                let texts = ids.iter().map(|&id| words(id, version));
                let mut values = Vec::with_capacity(ids.len() * dimensions);
                ids.iter().for_each(|&id| vector(id, version, dimensions, &mut values));
                vec![id, Arc::new(StringArray::from_iter_values(texts)), vectors(values, dimensions)?]
            }
            Self::Records => {
                let mut rngs: Vec<SmallRng> = ids.iter().map(|&id| rng(id, version)).collect();
                let category = Int32Array::from_iter_values(rngs.iter_mut().map(|r| r.random_range(0..100)));
                let score = Float64Array::from_iter_values(rngs.iter_mut().map(Rng::random));
                let texts = ids.iter().zip(&mut rngs).map(|(id, r)| {
                    let noise = (0..4).map(|_| format!("{:016x} ", r.random::<u64>())).collect::<String>();
                    format!("record {id} v{version} {noise}")
                });
                vec![id, Arc::new(category), Arc::new(score), Arc::new(StringArray::from_iter_values(texts))]
            }
            Self::Short => {
                let texts = ids.iter().map(|id| format!("row {id} v{version}"));
                vec![id, Arc::new(StringArray::from_iter_values(texts))]
            }
        };
        Ok(RecordBatch::try_new(self.schema(), columns)?)
    }

    /// The rows with these ids in batches of `size`.
    pub(crate) fn batches(self, ids: &[i64], version: u64, size: usize) -> Result<Vec<RecordBatch>> {
        ids.chunks(size).map(|ids| self.rows(ids, version)).collect()
    }
}

/// `count` ids from `first` on, in an order without sense.
pub(crate) fn shuffled(first: i64, count: usize, seed: u64) -> Vec<i64> {
    let mut ids: Vec<i64> = (first..first + count as i64).collect();
    ids.shuffle(&mut SmallRng::seed_from_u64(seed));
    ids
}

fn rng(id: i64, version: u64) -> SmallRng {
    SmallRng::seed_from_u64((id as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ version)
}

fn words(id: i64, version: u64) -> String {
    const WORDS: [&str; 8] = ["hello", "world", "search", "benchmark", "lance", "memory", "test", "data"];
    let word = |step: i64| WORDS[(id + step).rem_euclid(WORDS.len() as i64) as usize];
    format!("{} {} {} row_{id}_{version}", word(0), word(3), word(5))
}

fn vector(id: i64, version: u64, dimensions: usize, values: &mut Vec<f32>) {
    let (mut rng, from) = (rng(id, version), values.len());
    values.extend((0..dimensions).map(|_| rng.random::<f32>() - 0.5));
    let norm = values[from..].iter().map(|x| x * x).sum::<f32>().sqrt();
    values[from..].iter_mut().for_each(|x| *x /= norm);
}

fn item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Float32, true))
}

fn vector_type(dimensions: usize) -> DataType {
    DataType::FixedSizeList(item(), dimensions as i32)
}

fn vectors(values: Vec<f32>, dimensions: usize) -> Result<ArrayRef> {
    let values = Arc::new(Float32Array::from(values));
    Ok(Arc::new(FixedSizeListArray::try_new(item(), dimensions as i32, values, None)?))
}
