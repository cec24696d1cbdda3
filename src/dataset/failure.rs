//! What went wrong when Lance could not read.
//!
//! Lance reports a truncated file as failed I/O, which asks the caller to repeat what can never succeed. So after a
//! failure the files are held against the manifest, which knows their sizes.

use datafusion::common::DataFusionError;
use lance::Dataset;
use lance_core::Error as LanceError;

use crate::error::{Error, ErrorKind};
use crate::store::from_lance;

/// An error from one of Lance's plan nodes as one of ours.
pub(super) fn from_plan(error: DataFusionError) -> Error {
    match error {
        DataFusionError::External(source) => match source.downcast::<LanceError>() {
            Ok(lance) => from_lance(*lance),
            Err(source) => Error::from(DataFusionError::External(source)),
        },
        DataFusionError::Context(_, inner) => from_plan(*inner),
        other => Error::from(other),
    }
}

/// `error`, or what is wrong with the dataset's files if one of them is missing or of another size than written.
pub(super) async fn diagnose(dataset: &Dataset, error: Error) -> Error {
    let error = error.with_context("dataset", dataset.uri());
    if !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Internal | ErrorKind::Invalid) {
        return error;
    }
    let Ok(store) = dataset.object_store(None).await else {
        return error;
    };
    let files = dataset.fragments().iter().flat_map(|fragment| &fragment.files);
    for file in files.filter(|file| file.base_id.is_none()) {
        let size = match store.size(&dataset.data_dir().join(file.path.as_str())).await {
            Ok(size) => size,
            Err(LanceError::NotFound { .. }) => {
                return Error::corrupt("a data file is missing: restore it from a backup")
                    .with_context("dataset", dataset.uri())
                    .with_context("file", &file.path)
                    .with_source(error);
            }
            Err(_) => return error,
        };
        if let Some(written) = file.file_size_bytes.get().filter(|written| written.get() != size) {
            return Error::corrupt(format!(
                "a data file has {size} bytes, {written} were written: restore it from a backup"
            ))
            .with_context("dataset", dataset.uri())
            .with_context("file", &file.path)
            .with_source(error);
        }
    }
    error
}
