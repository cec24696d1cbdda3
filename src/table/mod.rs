//! The table as a user holds it: open, write, read, flush, close.
//!
//! Owns: the wiring of the rooms below, and what a statement is. Opening reads and never claims; the first write does.

mod builder;
mod handle;
mod index;
mod info;
mod keys;
mod replace;
mod statement;
mod warm;

pub use builder::{Components, TableBuilder};
pub use handle::LsmTable;
pub use index::IndexInfo;
pub use info::{Metric, SourceInfo, WalInfo};
pub use statement::{Statement, StatementKind};
pub use warm::Warmed;

pub use crate::base::{AdoptSpec, CreateSpec};
pub use crate::metrics::{MetricKind, MetricsRecorder};
pub use crate::planner::{FilterSupport, ScanRequest, Search, TextRanking, TextScorer, VectorSearch, source_names};
pub use crate::text_search::{TextAnalyzer, TextColumn, TextSearch};
pub use crate::version::Snapshot;
pub use crate::writer::PendingWrite;
