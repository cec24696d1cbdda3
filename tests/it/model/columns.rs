//! The columns that are searched, a text and a vector. Both are made of the row's number, so that the oracle need not
//! keep them.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, FixedSizeListArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Float32Type, Int64Type, Schema, SchemaRef};
use datafusion_lsm::base::CreateSpec;
use datafusion_lsm::distance::Metric;
use datafusion_lsm::index_spec::{IndexKind, IndexSpec, VectorLayout, VectorParams};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::texts;
use crate::support::key_type::KeyType;
use crate::support::rows;

pub(super) const TEXT: &str = "t";
pub(super) const VECTOR: &str = "v";
/// Dimensions of a vector.
const WIDTH: usize = 16;

/// The columns of the table.
pub(super) fn schema(key_type: KeyType) -> SchemaRef {
    let mut fields = rows::schema(key_type).fields().to_vec();
    let element = Arc::new(Field::new_list_field(DataType::Float32, true));
    fields.push(Arc::new(Field::new(TEXT, DataType::Utf8, true)));
    fields.push(Arc::new(Field::new(VECTOR, DataType::FixedSizeList(element, WIDTH as i32), true)));
    Arc::new(Schema::new(fields))
}

/// What creates the table, whose vectors are near by `metric`, and kept as product codes in the base of one that is `large`.
pub(super) fn spec(key_type: KeyType, shards: u32, metric: Metric, large: bool) -> CreateSpec {
    let mut vectors = VectorParams::new(metric);
    if large {
        (vectors.layout, vectors.num_sub_vectors) = (VectorLayout::IvfPq, Some(WIDTH as u32 / 2));
    }
    let indexes = vec![
        IndexSpec::new("n", IndexKind::BTree),
        IndexSpec::new(TEXT, IndexKind::text()),
        IndexSpec::new(VECTOR, IndexKind::Vector(vectors)),
    ];
    CreateSpec { schema: schema(key_type), indexes, ..rows::spec(key_type, shards) }
}

/// The rows of `batch`, which have no such columns, with those that their numbers make.
pub(super) fn widened(key_type: KeyType, batch: &RecordBatch) -> RecordBatch {
    let mut columns = batch.columns().to_vec();
    columns.extend(made(batch));
    RecordBatch::try_new(schema(key_type), columns).expect("columns fit")
}

/// Fails unless the texts and vectors of `batch` are those of its numbers.
pub(super) fn check(batch: &RecordBatch) {
    for (name, made) in [TEXT, VECTOR].into_iter().zip(made(batch)) {
        assert_eq!(batch.column_by_name(name), Some(&made), "column {name}");
    }
}

fn made(batch: &RecordBatch) -> [ArrayRef; 2] {
    let numbers = batch.column_by_name("n").expect("the column is there").as_primitive::<Int64Type>().values();
    let texts = StringArray::from_iter(numbers.iter().map(|n| texts::text(*n)));
    let vectors = numbers.iter().map(|n| vector(*n).map(|v| v.into_iter().map(Some).collect::<Vec<_>>()));
    let vectors = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, WIDTH as i32);
    [Arc::new(texts), Arc::new(vectors)]
}

/// The vector of row `n`, which the next one may have too; some have none, and some point nowhere.
pub(super) fn vector(n: i64) -> Option<Vec<f32>> {
    let mut random = StdRng::seed_from_u64(n as u64 / 2);
    match random.random_range(0..20) {
        0 => None,
        1 => Some(vec![0.0; WIDTH]),
        _ => Some(around(&mut random)),
    }
}

/// A vector around one of a few centres.
pub(super) fn around(random: &mut StdRng) -> Vec<f32> {
    let centre = random.random_range(1..7) as f32;
    (0..WIDTH).map(|i| centre * ((i % 3) as f32 - 0.8) + random.random_range(-1.0..1.0)).collect()
}

/// How far two vectors are apart; `None` where that means nothing.
pub(super) fn distance(metric: Metric, a: &[f32], b: &[f32]) -> Option<f64> {
    let pairs = || a.iter().zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    let dot: f64 = pairs().map(|(a, b)| a * b).sum();
    let squares = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    match metric {
        Metric::L2 => Some(pairs().map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()),
        Metric::InnerProduct => Some(dot),
        Metric::Cosine if squares(a) == 0.0 || squares(b) == 0.0 => None,
        Metric::Cosine => Some(1.0 - dot / (squares(a) * squares(b)).sqrt()),
    }
}
