//! What Lance is asked for where it may fail, and what went wrong when it could not read.
//!
//! Lance reports a truncated file as failed I/O, which asks the caller to repeat what can never succeed. So after a
//! failure the files are held against the manifest, which knows their sizes.

use datafusion::common::DataFusionError;
use futures::{FutureExt, StreamExt, stream};
use lance::Dataset;
use lance_core::Error as LanceError;
use lance_table::format::IndexMetadata;

use super::files::{File, data_files, index_files};
use crate::error::{Error, ErrorKind};
use crate::store::{from_lance, size_now};
use crate::task;

/// Files that are asked for at once.
const AT_ONCE: usize = 16;

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

/// Does what Lance does for all who wait for it, such as loading metadata: it goes on although nobody polls this.
///
/// # Errors
/// Those of `work` and of [`task::driven`].
pub(super) async fn driven<T: Send + 'static>(
    work: impl Future<Output = Result<T, LanceError>> + Send + 'static,
) -> Result<T, LanceError> {
    task::driven(work.boxed()).await.map_err(|error| LanceError::External { source: error.into() })?
}

/// `error`, or what is wrong with the dataset's files if one of them is missing or of another size than written. What is
/// remembered of such a file is forgotten: once it is there again, it is found.
pub(super) async fn diagnose(dataset: &Dataset, error: Error) -> Error {
    diagnose_files(dataset, "a data file", data_files(dataset), error).await
}

/// The same of the files of an index's segments.
pub(super) async fn diagnose_index(dataset: &Dataset, segments: &[IndexMetadata], error: Error) -> Error {
    diagnose_files(dataset, "a file of an index", index_files(dataset, segments), error).await
}

async fn diagnose_files(dataset: &Dataset, what: &str, files: Vec<File>, error: Error) -> Error {
    let error = error.with_context("dataset", dataset.uri());
    if !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Internal | ErrorKind::Invalid) {
        return error;
    }
    let Ok(store) = dataset.object_store(None).await else {
        return error;
    };
    let sizes = stream::iter(files).map(|file| async {
        let size = size_now(store.inner.as_ref(), &file.path, file.size).await;
        (file, size)
    });
    let mut sizes = sizes.buffered(AT_ONCE);
    while let Some((file, size)) = sizes.next().await {
        let size = match size {
            Ok(size) => size,
            Err(object_store::Error::NotFound { .. }) => {
                return Error::corrupt(format!("{what} is missing: restore it from a backup"))
                    .with_context("dataset", dataset.uri())
                    .with_context("file", &file.name)
                    .with_source(error);
            }
            Err(_) => return error,
        };
        if let Some(written) = file.size.filter(|written| *written != size) {
            return Error::corrupt(format!(
                "{what} has {size} bytes, {written} were written: restore it from a backup"
            ))
            .with_context("dataset", dataset.uri())
            .with_context("file", &file.name)
            .with_source(error);
        }
    }
    error
}
