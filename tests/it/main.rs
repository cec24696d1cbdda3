//! Behaviour of the whole crate through its public API: one binary, because linking it is what takes time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod adopted_index;
mod base;
mod dataset_search;
mod faults;
mod generation;
mod interop;
mod leaks;
mod live_index;
mod model;
mod place;
mod row_index;
mod snapshot;
mod support;
mod table;
mod text_columns;
mod text_filters;
mod text_index;
mod text_source;
mod tidy;
mod torture;
mod value_index;
mod vector_index;
mod vector_search;
