//! What a source of rows can be asked, Arrow in and Arrow out: the seam between plan nodes and what is behind them.

mod value_ranges;

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use futures::stream::BoxStream;
use roaring::RoaringTreemap;

use crate::error::Result;

pub use value_ranges::{ValueRange, ValueRanges};

/// The column by which Lance names a row of a dataset.
pub const ROW_ID: &str = "_rowid";

/// Live rows that need no further filter.
pub trait RowSource: Debug + Send + Sync {
    /// What EXPLAIN calls it, such as `memtable 3`.
    fn label(&self) -> String;

    /// How many rows it has, those that are not live included.
    fn row_count(&self) -> usize;

    /// The live rows, projected to logical columns; `schema` is the projected logical schema. Nothing happens before
    /// the stream is polled.
    fn rows(
        &self,
        projection: &[usize],
        schema: &SchemaRef,
        batch_size: usize,
    ) -> BoxStream<'static, Result<RecordBatch>>;
}

/// The rows of an immutable source that newer sources supersede, and its tombstones.
#[async_trait]
pub trait RowMask: Debug + Send + Sync {
    /// What EXPLAIN calls it, such as `3 newer sources`.
    fn label(&self) -> String;

    /// Finds out which rows to drop. Called once per execution, inside the stream.
    async fn resolve(&self) -> Result<Dropped>;
}

/// Rows to drop.
#[derive(Debug, Clone)]
pub enum Dropped {
    /// By row id.
    Rows(Arc<RoaringTreemap>),
    /// By key: for sources whose key index is not resident.
    Keys(Arc<dyn KeyProbe>),
}

/// Tells which rows of a batch are superseded by their keys.
pub trait KeyProbe: Debug + Send + Sync {
    /// The places of the key columns in the table's schema, in key order.
    fn columns(&self) -> &[usize];

    /// For each row, given by its key columns, whether a newer source holds its key.
    ///
    /// # Errors
    /// `Corrupt` if a key is NULL.
    fn superseded(&self, keys: &[arrow::array::ArrayRef]) -> Result<Vec<bool>>;

    /// Keeps that these are all superseded rows, so that a mask of the same rows knows them without asking for keys.
    fn keep(&self, superseded: &Arc<RoaringTreemap>);
}

/// Rows among which the best of one source are, and what it took to find them.
#[derive(Debug, Clone)]
pub struct Best {
    /// The rows, in no particular order.
    pub rows: RecordBatch,
    /// The work: what EXPLAIN ANALYZE calls it, and how much it was.
    pub work: Vec<(&'static str, usize)>,
}

/// A source that finds its best rows: nearest to a vector, or those whose texts fit a query best.
#[async_trait]
pub trait TopKSource: Debug + Send + Sync {
    /// What the plan node is called.
    fn node(&self) -> &'static str;

    /// What EXPLAIN prints: the source, and how it is searched.
    fn label(&self) -> String;

    /// How many rows come out, roughly at most.
    fn limit(&self) -> usize;

    /// Rows, projected, among which are the best.
    async fn best(&self, projection: &[usize], schema: &SchemaRef) -> Result<Best>;
}

/// What has to be known before the rows of a scan are looked at, such as how many rows have a word.
#[async_trait]
pub trait Preparation: Debug + Send + Sync {
    /// What EXPLAIN prints.
    fn label(&self) -> String;

    /// Finds it out, if nobody did. Returns the work: what EXPLAIN ANALYZE calls it, and how much it was.
    async fn prepare(&self) -> Result<Vec<(&'static str, usize)>>;
}

/// The rows of a lookup and what it took.
#[derive(Debug, Clone)]
pub struct Found {
    /// The rows.
    pub rows: RecordBatch,
    /// Sources that were asked for at least one key.
    pub probed: usize,
    /// Older sources that no key had to be asked of.
    pub skipped: usize,
}

/// The newest rows of some keys, as one snapshot sees them.
#[async_trait]
pub trait PointSource: Debug + Send + Sync {
    /// What EXPLAIN prints, such as the keys' number.
    fn label(&self) -> String;

    /// The rows that hold the keys, projected, in the order of the keys; a key without a live row is left out.
    async fn lookup(&self, projection: &[usize], schema: &SchemaRef) -> Result<Found>;
}
