//! Stores for reading what is in memory, and nothing else: who asks for more is told at once and looks elsewhere.

use std::fmt;
use std::io::{Error as IoError, ErrorKind as IoErrorKind, Result as IoResult};
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// Files that never change, of which some bytes are in memory.
#[async_trait]
pub trait MemoryFiles: fmt::Debug + Send + Sync + 'static {
    /// How they are called in errors.
    const NAME: &'static str;

    /// What is known of a file.
    ///
    /// # Errors
    /// [`IoErrorKind::WouldBlock`] if nothing is, `NotFound` if there is none.
    async fn meta(&self, path: &Path) -> IoResult<ObjectMeta>;

    /// What is in a range, or in the whole file, in as many pieces as it is held.
    ///
    /// # Errors
    /// [`IoErrorKind::WouldBlock`] if not all of it is in memory.
    async fn read(&self, path: &Path, range: Option<&GetRange>) -> IoResult<(ObjectMeta, Range<u64>, Vec<Bytes>)>;
}

/// Such files as a store.
#[derive(Debug)]
pub struct MemoryStore<F>(pub(super) F);

impl<F: MemoryFiles> MemoryStore<F> {
    fn failed(path: &Path, error: IoError) -> Error {
        match error.kind() {
            IoErrorKind::NotFound => Error::NotFound { path: path.to_string(), source: error.into() },
            _ => Error::Generic { store: F::NAME, source: error.into() },
        }
    }

    fn for_reading(operation: &str) -> Error {
        Error::NotImplemented { operation: operation.to_string(), implementer: F::NAME.to_string() }
    }
}

#[async_trait]
impl<F: MemoryFiles> ObjectStore for MemoryStore<F> {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let read = async {
            if options.head {
                let meta = self.0.meta(location).await?;
                return Ok((meta.clone(), 0..meta.size, Vec::new()));
            }
            self.0.read(location, options.range.as_ref()).await
        };
        let (meta, range, pieces) = read.await.map_err(|error| Self::failed(location, error))?;
        options.check_preconditions(&meta)?;
        let payload = GetResultPayload::Stream(stream::iter(pieces.into_iter().map(Ok)).boxed());
        Ok(GetResult { payload, meta, range, attributes: Attributes::default(), extensions: Default::default() })
    }

    async fn put_opts(&self, _location: &Path, _payload: PutPayload, _options: PutOptions) -> Result<PutResult> {
        Err(Self::for_reading("put"))
    }

    async fn put_multipart_opts(
        &self,
        _location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(Self::for_reading("put_multipart"))
    }

    fn delete_stream(&self, _locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        async { Err(Self::for_reading("delete")) }.into_stream().boxed()
    }

    fn list(&self, _prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        async { Err(Self::for_reading("list")) }.into_stream().boxed()
    }

    async fn list_with_delimiter(&self, _prefix: Option<&Path>) -> Result<ListResult> {
        Err(Self::for_reading("list"))
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(Self::for_reading("copy"))
    }
}

impl<F: MemoryFiles> fmt::Display for MemoryStore<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(F::NAME)
    }
}
