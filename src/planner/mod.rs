//! A snapshot and a request become a plan. Nothing is read before the plan runs.
//!
//! Per source one arm: memtables as they are, generations and the base as Lance scans under a block list. Filters go
//! below a block list, because it was resolved without them; limits stay above it; key columns stay until it has been
//! applied.

mod dataset_search;
mod found_texts;
mod hit_search;
mod leaders;
mod live_rows;
mod near_hits;
mod passing_rows;
mod point_lookup;
mod pushdown;
mod ranking;
mod reading;
mod scan;
mod side_by_side;
mod sources;
mod stored_matches;
mod stored_ranking;
mod stored_texts;
mod text_columns;
mod text_match;
mod text_ranking;
mod text_scorer;
mod value_match;
mod vector_search;
mod whereabouts;

pub use point_lookup::{PointLookup, lookup, present};
pub use pushdown::{FilterSupport, key_filter, promised, support};
pub use scan::{ScanRequest, Search, plan_scan};
pub use text_ranking::TextRanking;
pub use text_scorer::TextScorer;
pub use value_match::value_ranges;
pub use vector_search::VectorSearch;
pub use whereabouts::source_names;
