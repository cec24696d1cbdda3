//! What blocks of files are kept in, so that they need not be read again.
//!
//! A file is named once and for ever, so what is kept of it never goes stale.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

/// Bytes of a block; the last of a file may have fewer. What object stores need for a request is worth many more.
pub const BLOCK: u64 = 64 << 10;

/// A file of a store: where the store is and how it is reached, and the path there.
pub type FileName = Arc<str>;

/// A block of a file: it begins at [`BLOCK`] times its number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BlockId {
    /// The file.
    pub file: FileName,
    /// The number of the block in the file, from 0.
    pub number: u64,
}

/// Blocks of files, of whatever stores. What is inserted may be gone the next moment: a cache never fails.
#[async_trait]
pub trait BlockCache: Debug + Send + Sync {
    /// The bytes of a block, if they are here.
    async fn get(&self, block: &BlockId) -> Option<Bytes>;
    /// Keeps the bytes of a block, which are all of it.
    async fn insert(&self, block: BlockId, bytes: Bytes);
    /// Drops blocks of a file.
    async fn remove(&self, file: &FileName, blocks: Range<u64>);
    /// Bytes that are kept.
    fn bytes(&self) -> u64;
    /// Bytes that may be kept.
    fn capacity(&self) -> u64;
}
