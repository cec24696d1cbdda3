//! Rows with a text and a vector, made from their ids and versions, and what is live of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::Result;
use super::rows::KEY;
use super::texts::{Zipf, written};
use super::vectors::{Noise, Vectors};

/// The column of texts.
pub(crate) const TEXT: &str = "text";
/// The column of vectors.
pub(crate) const VECTOR: &str = "vector";
/// The column of numbers below 100, which filters use.
pub(crate) const BUCKET: &str = "bucket";
/// The version of rows that have no text.
pub(crate) const WORDLESS: u64 = u64::MAX;

/// Makes rows: `id`, `bucket`, `text`, `vector`.
pub(crate) struct Documents {
    width: usize,
    vectors: Vectors,
    zipf: Zipf,
}

/// The live rows by their ids: their versions and vectors.
pub(crate) type Live = BTreeMap<i64, (u64, Vec<f32>)>;

/// The bucket of a row.
pub(crate) fn bucket(id: i64) -> i32 {
    (id.wrapping_mul(2_654_435_761) >> 8).rem_euclid(100) as i32
}

fn rng(id: i64, version: u64) -> SmallRng {
    SmallRng::seed_from_u64((id as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ version)
}

impl Documents {
    /// Rows whose vectors have `width` dimensions.
    pub(crate) fn new(noise: Noise, width: usize) -> Self {
        Self { width, vectors: Vectors::new(noise, width), zipf: Zipf::new() }
    }

    /// The columns, the key declared the way Lance wants it.
    pub(crate) fn schema(&self) -> SchemaRef {
        let primary = [("lance-schema:unenforced-primary-key".to_string(), "true".to_string())];
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        Arc::new(Schema::new(vec![
            Field::new(KEY, DataType::Int64, false).with_metadata(primary.into()),
            Field::new(BUCKET, DataType::Int32, true),
            Field::new(TEXT, DataType::Utf8, true),
            Field::new(VECTOR, DataType::FixedSizeList(item, self.width as i32), true),
        ]))
    }

    /// The words of a row's text, by their ranks.
    pub(crate) fn words(&self, id: i64, version: u64) -> Option<Vec<u32>> {
        (version != WORDLESS).then(|| self.zipf.text(&mut rng(id, version)))
    }

    /// A row's vector.
    pub(crate) fn vector(&self, id: i64, version: u64) -> Vec<f32> {
        self.vectors.make(&mut rng(id, version ^ 0x5EED))
    }

    /// Vectors of no row.
    pub(crate) fn queries(&self, count: usize) -> Vec<Vec<f32>> {
        (0..count as i64).map(|i| self.vector(-1 - i, 0)).collect()
    }

    /// The rows with these ids in their `version`.
    pub(crate) fn rows(&self, ids: &[i64], version: u64) -> Result<RecordBatch> {
        let texts = ids.iter().map(|id| self.words(*id, version).map(|words| written(&words)));
        let values: Vec<f32> = ids.iter().flat_map(|id| self.vector(*id, version)).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(ids.to_vec())),
            Arc::new(Int32Array::from_iter_values(ids.iter().map(|id| bucket(*id)))),
            Arc::new(StringArray::from_iter(texts)),
            Arc::new(list(values, self.width)?),
        ];
        Ok(RecordBatch::try_new(self.schema(), columns)?)
    }

    /// The rows with these ids in batches of `size`.
    pub(crate) fn batches(&self, ids: &[i64], version: u64, size: usize) -> Result<Vec<RecordBatch>> {
        ids.chunks(size).map(|ids| self.rows(ids, version)).collect()
    }

    /// Takes these rows down as live.
    pub(crate) fn write(&self, live: &mut Live, ids: &[i64], version: u64) {
        live.extend(ids.iter().map(|id| (*id, (version, self.vector(*id, version)))));
    }

    /// The words of all live rows that have a text.
    pub(crate) fn texts(&self, live: &Live) -> impl Iterator<Item = (i64, Vec<u32>)> {
        live.iter().filter_map(|(id, (version, _))| Some((*id, self.words(*id, *version)?)))
    }
}

/// Vectors of `width` dimensions.
pub(crate) fn list(values: Vec<f32>, width: usize) -> Result<FixedSizeListArray> {
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    Ok(FixedSizeListArray::try_new(item, width as i32, Arc::new(Float32Array::from(values)), None)?)
}
