//! The indexes of a new generation: who writes their files, and what its manifest says of them.
//!
//! They are where Lance has them: the files of each below `_indices` in a directory of its own, its entry in the
//! generation's only manifest. An index that cannot be written is left out: its rows are found by a flat pass.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::future::join_all;
use lance_core::cache::LanceCache;
use lance_file::version::ConcreteFileVersion;
use lance_index::scalar::lance_format::LanceIndexStore;
use lance_io::object_store::ObjectStore;
use lance_table::format::{IndexFile, IndexMetadata};
use object_store::path::Path;
use roaring::RoaringBitmap;
use uuid::Uuid;

use crate::dataset::{FileLayout, field_id};
use crate::error::{Error, Result};
use crate::ids::ShardId;
use crate::schema::TableSchema;
use crate::store::{ObjectIo, TablePaths};

/// Where Lance looks for the files of indexes.
const DIR: &str = "_indices";

/// An index that a new generation gets.
#[derive(Debug)]
pub struct NewIndex {
    /// Its name, unique within the generation: that of the base's index of the same kind and column, if it has one.
    pub name: String,
    /// The stored column that it is of.
    pub column: usize,
    /// Writes its files.
    pub writer: Box<dyn IndexWriter>,
}

/// Writes the files of one index.
#[async_trait]
pub trait IndexWriter: fmt::Debug + Send + Sync {
    /// What Lance calls the details of such indexes: the end of their type's name.
    fn kind(&self) -> &'static str;

    /// Writes an index of `rows`, the generation's in order (stored schema): row `i` of them has the row id `i`.
    ///
    /// # Errors
    /// Leaves the index out.
    async fn write(&self, rows: &[RecordBatch], target: &IndexTarget) -> Result<IndexFiles>;
}

/// Where the files of an index go.
#[derive(Debug)]
pub struct IndexTarget {
    /// The object store.
    pub(crate) store: Arc<ObjectStore>,
    /// The directory, which is there for this index alone.
    pub(crate) dir: Path,
    /// The version of Lance's file format.
    pub(crate) version: ConcreteFileVersion,
}

impl IndexTarget {
    /// The target as Lance's scalar indexes are written to one.
    pub(crate) fn index_store(&self) -> LanceIndexStore {
        let cache = Arc::new(LanceCache::no_cache());
        LanceIndexStore::with_format_version(Arc::clone(&self.store), self.dir.clone(), cache, self.version)
    }
}

/// The files of an index that are written.
#[derive(Debug)]
pub struct IndexFiles {
    /// What kind of index it is, as Lance encodes that.
    pub(crate) details: prost_types::Any,
    /// The version of its format.
    pub(crate) version: u32,
    /// The files, with paths within the index's directory.
    pub(crate) files: Vec<IndexFile>,
}

/// Writes `indexes` of `rows`, the rows of the generation named `name` at `root`, and returns what its manifest says of
/// those that could be written.
pub(super) async fn write(
    indexes: &[NewIndex],
    rows: &[RecordBatch],
    place: Place<'_>,
    schema: &TableSchema,
    layout: FileLayout,
) -> Vec<IndexMetadata> {
    let writing = indexes.iter().map(|index| async move {
        let uuid = Uuid::new_v4();
        let written = write_one(index, uuid, rows, &place, schema, layout).await;
        if let Err(error) = &written {
            let dir = format!("{}/{DIR}/{uuid}", TablePaths::generation_dir(place.shard, place.name));
            tracing::warn!(generation = place.name, index = index.name, %error, "an index could not be written");
            if let Err(error) = place.io.delete_dir(&dir).await {
                tracing::warn!(dir, %error, "the rest of an index that could not be written stays");
            }
        }
        written.ok()
    });
    join_all(writing).await.into_iter().flatten().collect()
}

/// Where a generation is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) io: &'a ObjectIo,
    pub(super) shard: ShardId,
    pub(super) name: &'a str,
    pub(super) store: &'a Arc<ObjectStore>,
    pub(super) root: &'a Path,
}

async fn write_one(
    index: &NewIndex,
    uuid: Uuid,
    rows: &[RecordBatch],
    place: &Place<'_>,
    schema: &TableSchema,
    layout: FileLayout,
) -> Result<IndexMetadata> {
    let field = schema.numbered().fields().get(index.column).and_then(|field| field_id(field));
    let field = field.ok_or_else(|| Error::internal(format!("index '{}' is of no column of the base", index.name)))?;
    let dir = place.root.clone().join(DIR).join(uuid.to_string());
    let target = IndexTarget { store: Arc::clone(place.store), dir, version: layout.index_version() };
    let written = index.writer.write(rows, &target).await?;
    Ok(IndexMetadata {
        uuid,
        fields: vec![field],
        covering_fields: Vec::new(),
        name: index.name.clone(),
        dataset_version: 1,
        fragment_bitmap: Some(RoaringBitmap::from_iter([0])),
        index_details: Some(Arc::new(written.details)),
        index_version: i32::try_from(written.version).unwrap_or(i32::MAX),
        created_at: None,
        base_id: None,
        files: Some(written.files),
    })
}
