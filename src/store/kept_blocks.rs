//! What is in memory of the files of a store that is read in blocks.

use std::io::{ErrorKind as IoErrorKind, Result as IoResult};
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{GetRange, ObjectMeta};

use super::block_store::{Shared, absolute};
use super::memory_store::MemoryFiles;
use crate::cache::BLOCK;

/// Files of the store called `store` of which blocks are kept.
#[derive(Debug)]
pub(super) struct KeptBlocks {
    pub(super) shared: Arc<Shared>,
    pub(super) store: Arc<str>,
}

#[async_trait]
impl MemoryFiles for KeptBlocks {
    const NAME: &'static str = "KeptBlocks";

    async fn meta(&self, path: &Path) -> IoResult<ObjectMeta> {
        let known = self.shared.files.get(&self.shared.name(&self.store, path)).await;
        known.map(|meta| ObjectMeta::clone(&meta)).ok_or_else(|| IoErrorKind::WouldBlock.into())
    }

    async fn read(&self, path: &Path, range: Option<&GetRange>) -> IoResult<(ObjectMeta, Range<u64>, Vec<Bytes>)> {
        let name = self.shared.name(&self.store, path);
        let known = async {
            let meta = self.shared.files.get(&name).await?;
            let range = absolute(range, meta.size)?;
            let bytes = self.shared.reader.read_kept(&name, range.clone()).await?;
            let blocks = range.end.div_ceil(BLOCK) - range.start / BLOCK;
            self.shared.reads.of_file(&name).hit(blocks);
            Some((ObjectMeta::clone(&meta), range, bytes))
        };
        known.await.ok_or_else(|| IoErrorKind::WouldBlock.into())
    }
}
