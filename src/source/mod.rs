//! What a source of rows can be asked, Arrow in and Arrow out: the seam between plan nodes and what is behind them.

mod predicate;
mod value_ranges;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::physical_plan::metrics::Time;
use futures::stream::BoxStream;
use roaring::RoaringTreemap;

use crate::error::Result;

pub use predicate::Predicate;
pub use value_ranges::{ValueRange, ValueRanges};

/// The column by which Lance names a row of a dataset.
pub const ROW_ID: &str = "_rowid";

/// What plan nodes call the time that reads waited for the read budget, each for itself.
pub const READ_WAIT: &str = "read_wait";

/// Adds so long a wait to `time`, which would take none for a nanosecond.
pub fn add_wait(time: &Time, waited: Duration) {
    if !waited.is_zero() {
        time.add_duration(waited);
    }
}

/// What a source did for a query: the kinds of work, as EXPLAIN ANALYZE calls them, and how much of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Work(Vec<(&'static str, usize)>);

impl Work {
    /// Adds so much work of a kind, which is shown even if it is nothing.
    pub fn add(&mut self, kind: &'static str, much: usize) {
        match self.0.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, sum)) => *sum += much,
            None => self.0.push((kind, much)),
        }
    }

    /// Adds so much time that reads waited for the read budget, in nanoseconds.
    pub fn waited(&mut self, waited: Duration) {
        self.add(READ_WAIT, usize::try_from(waited.as_nanos()).unwrap_or(usize::MAX));
    }

    /// Adds rows that were looked at one by one, and why.
    pub fn flat(&mut self, why: Flat, rows: usize) {
        self.add("flat", rows);
        if rows > 0 {
            self.add(why.name(), rows);
        }
    }

    /// Adds what it took to find the rows that pass a filter, before a search in these: rows of which it looked at the
    /// texts are not rows that the search looked at.
    pub fn filtered(&mut self, filter: &Self) {
        let texts_read = filter.iter().filter(|(kind, _)| *kind == "flat").map(|(_, rows)| rows).sum();
        let others = filter.iter().filter(|(kind, _)| !kind.starts_with("flat"));
        others.for_each(|(kind, much)| self.add(kind, much));
        self.add("texts_read", texts_read);
    }

    /// Adds the work of another.
    pub fn extend(&mut self, other: &Self) {
        other.iter().for_each(|(kind, much)| self.add(kind, much));
    }

    /// The kinds and how much of each.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, usize)> {
        self.0.iter().copied()
    }
}

/// Why rows are looked at one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flat {
    /// The column has no index here that can be used, or it was given up.
    NoIndex,
    /// The index does not have these rows yet.
    NotIndexed,
    /// Few rows pass the filter.
    FewPass,
    /// The query also matches rows that no word of it leads to.
    Wordless,
    /// The query has a phrase, and the index knows no places of words.
    NoPositions,
    /// The index gave fewer rows than there must be.
    FellShort,
    /// Vectors with NaN or infinity.
    Odd,
    /// The query is so long that estimates mean nothing.
    HugeQuery,
}

impl Flat {
    /// What EXPLAIN ANALYZE calls the rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoIndex => "flat_no_index",
            Self::NotIndexed => "flat_not_indexed",
            Self::FewPass => "flat_few_pass",
            Self::Wordless => "flat_wordless",
            Self::NoPositions => "flat_no_positions",
            Self::FellShort => "flat_fell_short",
            Self::Odd => "flat_odd",
            Self::HugeQuery => "flat_huge_query",
        }
    }
}

/// Is told the work when it is done.
pub type WorkListener = Arc<dyn Fn(&Work) + Send + Sync>;

/// Live rows that need no further filter.
pub trait RowSource: Debug + Send + Sync {
    /// What EXPLAIN calls it, such as `memtable 3`.
    fn label(&self) -> String;

    /// How many rows it has, those that are not live included.
    fn row_count(&self) -> usize;

    /// Whether all live rows come out: then those that do not are superseded or tombstones.
    fn yields_all(&self) -> bool {
        true
    }

    /// The live rows, projected to logical columns; `schema` is the projected logical schema. Nothing happens before
    /// the stream is polled. `told` gets to know what finding them took, if they have to be found.
    fn rows(
        &self,
        projection: &[usize],
        schema: &SchemaRef,
        batch_size: usize,
        told: WorkListener,
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

/// The rows of one source that may be among the best of all, and what it took to find them.
#[derive(Debug, Clone)]
pub struct Best {
    /// The rows, in no particular order.
    pub rows: RecordBatch,
    /// What that took.
    pub work: Work,
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

    /// Rows, projected: of the source's best those that may be among the best of all, as far as is known, and maybe
    /// others.
    async fn best(&self, projection: &[usize], schema: &SchemaRef) -> Result<Best>;
}

/// What has to be known before the rows of a scan are looked at, such as how many rows have a word.
#[async_trait]
pub trait Preparation: Debug + Send + Sync {
    /// What EXPLAIN prints.
    fn label(&self) -> String;

    /// Finds it out, if nobody did. Returns what that took.
    async fn prepare(&self) -> Result<Work>;
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
    /// What else it took.
    pub work: Work,
}

/// The newest rows of some keys, as one snapshot sees them.
#[async_trait]
pub trait PointSource: Debug + Send + Sync {
    /// What EXPLAIN prints, such as the keys' number.
    fn label(&self) -> String;

    /// The rows that hold the keys, projected, in the order of the keys; a key without a live row is left out.
    async fn lookup(&self, projection: &[usize], schema: &SchemaRef) -> Result<Found>;
}
