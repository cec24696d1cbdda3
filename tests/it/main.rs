//! Behaviour of the whole crate through its public API: one binary, because linking it is what takes time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod base;
mod faults;
mod generation;
mod interop;
mod leaks;
mod model;
mod place;
mod row_index;
mod snapshot;
mod support;
mod table;
mod text_index;
mod tidy;
mod torture;
mod vector_index;
mod vector_search;
