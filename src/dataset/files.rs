//! The files of a dataset, as its manifest names them.

use futures::{StreamExt, TryStreamExt};
use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance_core::Error as LanceError;
use lance_table::format::IndexMetadata;
use object_store::path::Path;

use crate::error::Result;
use crate::store::from_lance;

/// A file as it was written.
pub(super) struct File {
    /// Its path within the directory of such files.
    pub(super) name: String,
    pub(super) path: Path,
    /// Its bytes, where the manifest knows them.
    pub(super) size: Option<u64>,
}

/// The data files; those that lie in another dataset are not among them.
pub(super) fn data_files(dataset: &Dataset) -> Vec<File> {
    let files = dataset.fragments().iter().flat_map(|fragment| &fragment.files);
    let files = files.filter(|file| file.base_id.is_none()).map(|file| File {
        name: file.path.clone(),
        path: dataset.data_dir().join(file.path.as_str()),
        size: file.file_size_bytes.get().map(u64::from),
    });
    files.collect()
}

/// The files of an index's segments, as far as their metadata names them.
pub(super) fn index_files(dataset: &Dataset, segments: &[IndexMetadata]) -> Vec<File> {
    let files = segments.iter().filter(|segment| segment.base_id.is_none()).flat_map(|segment| {
        let dir = dataset.indices_dir().join(segment.uuid.to_string());
        segment.files.iter().flatten().map(move |file| File {
            name: format!("{}/{}", segment.uuid, file.path),
            path: dir.clone().join(file.path.as_str()),
            size: Some(file.size_bytes),
        })
    });
    files.collect()
}

/// The files of all indexes. Those that their metadata does not name are listed.
///
/// # Errors
/// `Unavailable` if the storage fails.
pub(super) async fn all_index_files(dataset: &Dataset) -> Result<Vec<File>> {
    let segments = dataset.load_indices().await.map_err(from_lance)?;
    let mut files = index_files(dataset, &segments);
    let store = dataset.object_store(None).await.map_err(from_lance)?;
    for segment in segments.iter().filter(|segment| segment.base_id.is_none() && segment.files.is_none()) {
        let dir = dataset.indices_dir().join(segment.uuid.to_string());
        let listed = store.inner.list(Some(&dir)).map_ok(|file| File {
            name: file.location.to_string(),
            path: file.location,
            size: Some(file.size),
        });
        let listed = listed.boxed().try_collect::<Vec<_>>().await;
        files.extend(listed.map_err(|error| from_lance(LanceError::from(error)))?);
    }
    Ok(files)
}
