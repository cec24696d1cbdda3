//! Reading from a store until what came is whole, or it is clear that it will not be.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use object_store::path::Path;
use object_store::{Attributes, Error, GetOptions, GetResult, GetResultPayload, ObjectMeta, ObjectStore, Result};
use tokio::time::Instant;

use super::Retry;
use super::reads::ReadCounters;

/// How long a store is asked again.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What came of a file: as many bytes as the store says.
pub(super) struct Whole {
    /// What the file is.
    pub(super) meta: ObjectMeta,
    /// Which of its bytes came.
    pub(super) range: Range<u64>,
    pub(super) bytes: Bytes,
    pub(super) attributes: Attributes,
}

impl Whole {
    /// As a store gives it.
    pub(super) fn into_result(self) -> GetResult {
        let Self { meta, range, bytes, attributes } = self;
        let payload = GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed());
        GetResult { payload, meta, range, attributes, extensions: Default::default() }
    }
}

/// Reads what `options` say of a file. A store that is busy, or breaks off, is asked again.
pub(super) async fn whole(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    options: GetOptions,
    reads: &ReadCounters,
) -> Result<Whole> {
    asked(reads, || async {
        reads.asked();
        let result = store.get_opts(path, options.clone()).await?;
        let (meta, range, attributes) = (result.meta.clone(), result.range.clone(), result.attributes.clone());
        let bytes = result.bytes().await?;
        reads.came(bytes.len() as u64);
        if bytes.len() as u64 == range.end - range.start {
            return Ok(Whole { meta, range, bytes, attributes });
        }
        let source = format!("{path}: {} bytes came of {}", bytes.len(), range.end - range.start).into();
        Err(Error::Generic { store: "BlockStore", source })
    })
    .await
}

/// Asks until there is an answer, or it is clear that there will be none. Clients of stores in clouds try again for
/// themselves, for long: what took them long is not repeated.
pub(super) async fn asked<T, Asking: Future<Output = Result<T>>>(
    reads: &ReadCounters,
    ask: impl Fn() -> Asking,
) -> Result<T> {
    let (retry, since) = (Retry::default(), Instant::now());
    let mut attempt = 1;
    loop {
        match ask().await {
            Err(Error::Generic { .. }) if retry.again_after(attempt) && since.elapsed() < PATIENCE => {
                reads.asked_again();
                retry.pause(attempt).await;
                attempt += 1;
            }
            answer => return answer,
        }
    }
}
