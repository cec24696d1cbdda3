//! Writes a memtable's rows as a generation.
//!
//! The generation is complete and synced when [`write`] returns, and nothing names it before: a crash on the way leaves
//! a directory that nobody reads, and a retry writes another.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::future::try_join3;
use futures::{FutureExt, TryFutureExt};
use lance::dataset::WriteMode;
use lance::dataset::fragment::write::FragmentCreateBuilder;
use lance_core::datatypes::{LANCE_FIELD_ID_KEY, Schema as LanceSchema};
use lance_io::object_store::ObjectStore;
use lance_table::feature_flags::apply_feature_flags;
use lance_table::format::{Fragment, IndexMetadata, Manifest};
use lance_table::io::commit::{ManifestNamingScheme, write_manifest_file_to_path};

use super::index_files::{self, NewIndex, Place};
use super::{GenerationRecord, checksum, sidecar, uri};
use crate::dataset::{DatasetOpener, FileLayout};
use crate::error::{Error, Result};
use crate::ids::{GenerationId, ShardId};
use crate::schema::{TableSchema, relabel};
use crate::store::{ObjectIo, TablePaths, from_lance};

/// What a new generation holds.
#[derive(Debug, Default)]
pub struct Contents {
    /// Its rows (stored schema): of each key only the newest, tombstones included.
    pub rows: Vec<RecordBatch>,
    /// Its indexes.
    pub indexes: Vec<NewIndex>,
}

impl From<Vec<RecordBatch>> for Contents {
    fn from(rows: Vec<RecordBatch>) -> Self {
        Self { rows, indexes: Vec::new() }
    }
}

/// Writes `contents` as generation `id`; `layout` is the base's. An index that cannot be written is left out.
///
/// # Errors
/// `Unavailable` if the storage fails: the generation may be written again. What was written is deleted then, if that
/// can be done.
pub async fn write(
    opener: &DatasetOpener,
    io: &ObjectIo,
    shard: ShardId,
    id: GenerationId,
    contents: impl Into<Contents>,
    schema: &TableSchema,
    layout: FileLayout,
) -> Result<GenerationRecord> {
    let name = TablePaths::new_generation_name(id);
    let written =
        write_files(opener, io, shard, GenerationRecord::named(id, &name), contents.into(), schema, layout).await;
    if written.is_err() {
        discard(io, shard, &name).await;
    }
    written
}

/// Deletes the directory of a generation that nothing names and nothing will: attempts that fail must not fill the disk.
pub async fn discard(io: &ObjectIo, shard: ShardId, name: &str) {
    let dir = TablePaths::generation_dir(shard, name);
    if let Err(error) = io.delete_dir(&dir).await {
        tracing::warn!(dir, %error, "the rest of a generation that was not committed stays");
    }
}

async fn write_files(
    opener: &DatasetOpener,
    io: &ObjectIo,
    shard: ShardId,
    mut record: GenerationRecord,
    contents: Contents,
    schema: &TableSchema,
    layout: FileLayout,
) -> Result<GenerationRecord> {
    let Contents { rows: batches, indexes } = contents;
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if rows == 0 {
        return Err(Error::internal("a generation without rows was to be written").with_context("shard", shard));
    }
    let uri = uri(io.uri(), shard, &record.path);
    let failed = |error: lance_core::Error| from_lance(error).with_context("generation", &uri);
    record.rows = Some(rows as u64);
    for batch in &batches {
        *record.bytes.get_or_insert_default() += batch.get_array_memory_size() as u64;
        *record.key_bytes.get_or_insert_default() += schema.key().of_batch(batch)?.memory() as u64;
    }

    let numbered = numbered_schema(schema, layout)?;
    let lance_schema = LanceSchema::try_from(numbered.as_ref()).map_err(failed)?;
    let mut params = opener.write_params(&uri);
    params.mode = WriteMode::Create;
    params.max_rows_per_file = usize::MAX;
    params.max_bytes_per_file = usize::MAX;
    params.data_storage_version = Some(layout.version());
    let fragment = FragmentCreateBuilder::new(&uri).schema(&lance_schema).write_params(&params);
    let fragment = fragment.write(labelled(&numbered, &batches)?, Some(0)).map_err(failed).boxed();
    let (store, root) =
        ObjectStore::from_uri_and_params(opener.session().store_registry(), &uri, &opener.store_params(&uri))
            .await
            .map_err(failed)?;
    let keys = async {
        if schema.key().is_lance_key() {
            let written = sidecar::write(&store, &root, &batches, schema.key()).await;
            written.map_err(|error| error.with_context("generation", &uri))?;
        }
        Ok(())
    };
    let place = Place { io, shard, name: &record.path, store: &store, root: &root };
    let indexes = index_files::write(&indexes, &batches, place, schema, layout).map(Ok);
    let (fragment, (), indexes) = try_join3(fragment, keys.boxed(), indexes.boxed()).await?;
    commit(&store, &root, lance_schema, fragment, indexes, layout).await.map_err(failed)?;
    checksum::write(io, shard, &record.path).await?;
    io.sync_tree(&TablePaths::generation_dir(shard, &record.path)).await?;
    Ok(record)
}

/// Writes the first and only manifest of the generation.
async fn commit(
    store: &ObjectStore,
    root: &object_store::path::Path,
    schema: LanceSchema,
    fragment: Fragment,
    indexes: Vec<IndexMetadata>,
    layout: FileLayout,
) -> lance_core::Result<()> {
    let format = layout.format();
    let mut manifest = Manifest::new(schema, Arc::new(vec![fragment]), format, HashMap::new());
    manifest.set_timestamp(0);
    manifest.update_max_fragment_id();
    apply_feature_flags(&mut manifest, false, true)?;
    let path = ManifestNamingScheme::V2.manifest_path(root, manifest.version);
    let indexes = (!indexes.is_empty()).then_some(indexes);
    write_manifest_file_to_path(store, &mut manifest, indexes, &path, None).await?;
    Ok(())
}

/// The table's numbered schema with a number for `_tombstone` that no column of the base has or had.
fn numbered_schema(schema: &TableSchema, layout: FileLayout) -> Result<SchemaRef> {
    let free = layout.max_field_id.max(max_id(schema.numbered().fields())) + 1;
    let fields: Vec<Arc<Field>> = schema
        .numbered()
        .fields()
        .iter()
        .enumerate()
        .map(|(i, field)| {
            if i != schema.tombstone_index() {
                return Arc::clone(field);
            }
            let id = (LANCE_FIELD_ID_KEY.to_string(), free.to_string());
            Arc::new(field.as_ref().clone().with_metadata(HashMap::from([id])))
        })
        .collect();
    Ok(Arc::new(Schema::new_with_metadata(fields, schema.numbered().metadata().clone())))
}

/// The highest field id in use, at any depth.
fn max_id(fields: &arrow::datatypes::Fields) -> i32 {
    Schema::new(fields.clone())
        .flattened_fields()
        .iter()
        .filter_map(|f| crate::dataset::field_id(f))
        .max()
        .unwrap_or(-1)
}

/// The rows under the numbered schema: the same values, other labels.
fn labelled(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<SendableRecordBatchStream> {
    let labelled = batches.iter().filter(|b| b.num_rows() > 0).map(|batch| {
        let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| relabel(column, field));
        Ok(RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<_>>()?)?)
    });
    let labelled = labelled.collect::<Result<Vec<_>>>()?;
    let batches = futures::stream::iter(labelled.into_iter().map(Ok));
    Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), batches)))
}
