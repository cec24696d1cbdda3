//! One WAL entry and its bytes: an Arrow IPC stream with Lance's keys in the schema metadata, then our trailer.
//!
//! An entry holds one record batch of one memtable, since Lance counts batches; its schema metadata is the table's and
//! Lance's reserved keys, nothing else.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use uuid::Uuid;

use super::frames::stream_length;
use super::trailer;
use crate::error::{Error, Result};
use crate::ids::{Epoch, GenerationId, WalPosition};
use crate::schema::relabel;
use crate::size::row_bytes;

const EPOCH: &str = "writer_epoch";
const GENERATION: &str = "generation";
const SENTINEL: &str = "fence_sentinel";

/// An entry as it was read.
#[derive(Debug, Clone)]
pub struct WalEntry {
    /// Its slot.
    pub position: WalPosition,
    /// The epoch of the writer.
    pub epoch: Epoch,
    /// The generation its rows belong to; Lance's WAL-only writer does not say.
    pub generation: Option<GenerationId>,
    /// Whether it only marks a claim.
    pub sentinel: bool,
    /// The schema it was written under, with the metadata of its fields, without Lance's reserved keys.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Vec<RecordBatch>,
    /// The size of the object, which the batches may keep in memory.
    pub bytes: usize,
}

impl WalEntry {
    /// How many rows it holds.
    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

/// An entry ready to be written; the bytes of no two are the same. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EncodedEntry {
    bytes: Bytes,
    id: Uuid,
    sentinel: bool,
}

impl EncodedEntry {
    /// The bytes of the object.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What tells it from every other entry.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Whether it only marks a claim.
    pub fn is_sentinel(&self) -> bool {
        self.sentinel
    }
}

/// The entry of some rows. `schema` is the table's numbered schema, `batch` has the same columns.
///
/// # Errors
/// `Internal` if the batch is empty or does not fit the schema.
pub fn encode(
    epoch: Epoch,
    generation: Option<GenerationId>,
    schema: &SchemaRef,
    batch: &RecordBatch,
) -> Result<EncodedEntry> {
    if batch.num_rows() == 0 || batch.num_columns() != schema.fields().len() {
        return Err(Error::internal("a WAL entry needs rows with the columns of its schema")
            .with_context("rows", batch.num_rows())
            .with_context("columns", batch.num_columns()));
    }
    let mut metadata = schema.metadata().clone();
    metadata.insert(EPOCH.into(), epoch.to_string());
    if let Some(generation) = generation {
        metadata.insert(GENERATION.into(), generation.to_string());
    }
    let schema = Arc::new(Schema::new_with_metadata(schema.fields().clone(), metadata));
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| relabel(column, field));
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), columns.collect::<Result<_>>()?, &options)?;
    finish(&schema, Some(&batch))
}

/// The entry that marks a claim: whoever held the shard before finds its next slot taken.
///
/// # Errors
/// `Internal` if Arrow cannot write it.
pub fn encode_sentinel(epoch: Epoch) -> Result<EncodedEntry> {
    let metadata = HashMap::from([(EPOCH.into(), epoch.to_string()), (SENTINEL.into(), "true".into())]);
    finish(&Schema::new_with_metadata(arrow::datatypes::Fields::empty(), metadata), None)
}

fn finish(schema: &Schema, batch: Option<&RecordBatch>) -> Result<EncodedEntry> {
    let size = batch.map_or(0, row_bytes);
    // Messages, padding and trailer come on top of the rows.
    let room = size + 1024 + 256 * schema.fields().len();
    let mut writer = StreamWriter::try_new(Vec::with_capacity(room), schema)?;
    if let Some(batch) = batch {
        writer.write(batch)?;
    }
    writer.finish()?;
    let mut bytes = writer.into_inner()?;
    let id = Uuid::new_v4();
    trailer::append(&mut bytes, id);
    Ok(EncodedEntry { bytes: bytes.into(), id, sentinel: batch.is_none() })
}

/// The entry in `bytes`, ours or Lance's; `path` names it in errors.
///
/// # Errors
/// `Corrupt` if it ends early, also between two batches, or if anything but our trailer follows the Arrow stream.
pub fn decode(position: WalPosition, bytes: Bytes, path: &str) -> Result<WalEntry> {
    let corrupt = |why: &str| {
        Error::corrupt(format!(
            "the WAL entry is damaged ({why}): restore it from a backup, or set 'lsm.recovery' to 'quarantine' and \
             lose it and all later ones"
        ))
        .with_context("path", path)
        .with_context("position", position)
    };
    let length = stream_length(&bytes).map_err(corrupt)?;
    if length != bytes.len() && !trailer::verify(&bytes, length) {
        return Err(corrupt("its checksum does not match"));
    }
    let size = bytes.len();
    // Lance's entries have no checksum: a flipped bit reaches Arrow, which checks most of a message and panics at the rest.
    let read = catch_unwind(AssertUnwindSafe(|| read_stream(bytes.slice(..length))));
    let (schema, batches) = match read {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(corrupt("it does not parse").with_source(error)),
        Err(_) => return Err(corrupt("it does not parse")),
    };
    let mut metadata = schema.metadata().clone();
    let mut number = |key: &str| -> Result<Option<u64>> {
        metadata.remove(key).map(|v| v.parse().map_err(|_| corrupt("a number in it does not parse"))).transpose()
    };
    let epoch = number(EPOCH)?.ok_or_else(|| corrupt("it does not name its writer"))?;
    let generation = number(GENERATION)?;
    let sentinel = metadata.remove(SENTINEL).is_some_and(|value| value == "true");
    let schema = Arc::new(Schema::new_with_metadata(schema.fields().clone(), metadata));
    let batches = batches.into_iter().map(|batch| {
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&schema), batch.columns().to_vec(), &options)
    });
    Ok(WalEntry {
        position,
        epoch: Epoch(epoch),
        generation: generation.map(GenerationId),
        sentinel,
        batches: batches
            .collect::<Result<_, _>>()
            .map_err(|e| corrupt("its rows do not fit its schema").with_source(e))?,
        schema,
        bytes: size,
    })
}

/// The schema and batches of a stream whose length is known; their buffers are those of `bytes` where aligned.
pub(super) fn read_stream(bytes: Bytes) -> Result<(SchemaRef, Vec<RecordBatch>), ArrowError> {
    let mut input = Buffer::from(bytes);
    let mut decoder = StreamDecoder::new();
    let mut batches = Vec::new();
    while !input.is_empty() {
        batches.extend(decoder.decode(&mut input)?);
    }
    let schema = decoder.schema().ok_or_else(|| ArrowError::IpcError("there is no schema".into()))?;
    Ok((schema, batches))
}
