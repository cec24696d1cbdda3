//! Answers: drained, read value by value, or brought down to a number that tells two of them apart.

use arrow::array::{Array, ArrayData, ArrayRef, ArrowPrimitiveType, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Int32Type, Int64Type, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::execution::SendableRecordBatchStream;
use foldhash::fast::FixedState;
use futures::TryStreamExt;
use std::hash::BuildHasher;

use super::Result;

/// Collects a stream and counts its rows: the way the seed's bench drains a scan.
pub(crate) async fn drain(stream: SendableRecordBatchStream) -> Result<usize> {
    let batches: Vec<RecordBatch> = stream.try_collect().await?;
    Ok(batches.iter().map(RecordBatch::num_rows).sum())
}

/// Reads every value of a stream.
pub(crate) async fn consume(mut stream: SendableRecordBatchStream) -> Result<usize> {
    let mut rows = 0;
    let mut sum = 0u64;
    while let Some(batch) = stream.try_next().await? {
        for column in batch.columns() {
            sum = sum.wrapping_add(read(&column.to_data()));
        }
        rows += batch.num_rows();
    }
    std::hint::black_box(sum);
    Ok(rows)
}

/// The sum of the bytes that an array's values are made of, children included.
fn read(data: &ArrayData) -> u64 {
    use arrow::datatypes::DataType::{Binary, FixedSizeList, LargeBinary, LargeUtf8, Utf8};
    if data.is_empty() {
        return 0;
    }
    let (from, to) = (data.offset(), data.offset() + data.len());
    match data.data_type() {
        Utf8 | Binary => {
            let offsets = data.buffers()[0].typed_data::<i32>();
            sum(&data.buffers()[1].as_slice()[offsets[from] as usize..offsets[to] as usize])
        }
        LargeUtf8 | LargeBinary => {
            let offsets = data.buffers()[0].typed_data::<i64>();
            sum(&data.buffers()[1].as_slice()[offsets[from] as usize..offsets[to] as usize])
        }
        FixedSizeList(_, size) => {
            let size = usize::try_from(*size).unwrap_or(0);
            read(&data.child_data()[0].slice(from * size, (to - from) * size))
        }
        other => match other.primitive_width() {
            Some(width) => sum(&data.buffers()[0].as_slice()[from * width..to * width]),
            None => data.len() as u64,
        },
    }
}

fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(0u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    rest.iter().fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)))
}

/// What all values of an answer come down to: how many rows there are, and a sum over the values of each column. Equal
/// for equal rows in any order and in any batches, and soon found out: a value is read and added, no more.
#[derive(Debug, PartialEq, Eq, Clone, Copy, Default)]
pub(crate) struct Values {
    rows: usize,
    sum: u64,
}

impl Values {
    /// Those of a stream, as it comes.
    pub(crate) async fn of(mut stream: SendableRecordBatchStream) -> Result<Self> {
        let mut found = Self::default();
        while let Some(batch) = stream.try_next().await? {
            found.add(&batch)?;
        }
        Ok(found)
    }

    /// Adds those of a batch.
    pub(crate) fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        for (column, factor) in batch.columns().iter().zip((1u64..).step_by(2)) {
            self.sum = self.sum.wrapping_add(added(column.as_ref())?.wrapping_mul(factor));
        }
        self.rows += batch.num_rows();
        Ok(())
    }
}

/// The sum of an array's values: of numbers their bits, of texts their bytes.
fn added(array: &dyn Array) -> Result<u64> {
    fn words<T: ArrowPrimitiveType>(array: &dyn Array, bits: impl Fn(T::Native) -> u64) -> u64 {
        array.as_primitive::<T>().values().iter().fold(0, |sum: u64, value| sum.wrapping_add(bits(*value)))
    }
    if array.null_count() > 0 {
        return Err("values that are not there cannot be added".into());
    }
    Ok(match array.data_type() {
        DataType::Int32 => words::<Int32Type>(array, |value| u64::from(value.cast_unsigned())),
        DataType::Int64 => words::<Int64Type>(array, i64::cast_unsigned),
        DataType::Float32 => words::<Float32Type>(array, |value| u64::from(value.to_bits())),
        DataType::Utf8 => {
            let texts = array.as_string::<i32>();
            let (first, last) = (texts.value_offsets()[0], texts.value_offsets()[texts.len()]);
            let bytes = &texts.value_data()[first as usize..last as usize];
            bytes.iter().fold(0, |sum: u64, byte| sum + u64::from(*byte))
        }
        DataType::FixedSizeList(..) => added(array.as_fixed_size_list().values().as_ref())?,
        other => return Err(format!("values of {other} cannot be added").into()),
    })
}

/// The rows of an answer as a set that counts: how many, and a sum over a hash of each. Equal for equal rows in any
/// order and in any batches.
#[derive(Debug, PartialEq, Eq, Clone, Copy, Default)]
pub(crate) struct Fingerprint {
    rows: usize,
    sum: u64,
}

impl Fingerprint {
    /// The fingerprint of a stream's rows.
    pub(crate) async fn of(mut stream: SendableRecordBatchStream) -> Result<Self> {
        let mut found = Self::default();
        while let Some(batch) = stream.try_next().await? {
            found.add(&batch)?;
        }
        Ok(found)
    }

    /// The fingerprint of some batches' rows.
    pub(crate) fn of_batches<'a>(batches: impl IntoIterator<Item = &'a RecordBatch>) -> Result<Self> {
        let mut found = Self::default();
        for batch in batches {
            found.add(batch)?;
        }
        Ok(found)
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let hasher = FixedState::with_seed(7);
        let converter = RowConverter::new(fields(&batch.schema()))?;
        let columns: Vec<ArrayRef> = batch.columns().to_vec();
        for from in (0..batch.num_rows()).step_by(1024) {
            let rows = 1024.min(batch.num_rows() - from);
            let slices: Vec<ArrayRef> = columns.iter().map(|c| c.slice(from, rows)).collect();
            for row in &converter.convert_columns(&slices)? {
                self.sum = self.sum.wrapping_add(hasher.hash_one(row.as_ref()));
            }
        }
        self.rows += batch.num_rows();
        Ok(())
    }

    /// How many rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }
}

fn fields(schema: &SchemaRef) -> Vec<SortField> {
    schema.fields().iter().map(|f| SortField::new(f.data_type().clone())).collect()
}

/// Fails unless both sides have the same rows.
pub(crate) fn same(what: &str, ours: Fingerprint, peer: Fingerprint) -> Result<()> {
    if ours == peer {
        return Ok(());
    }
    Err(format!("{what}: the answers differ: ours has {} rows, the peer {}", ours.rows, peer.rows).into())
}
