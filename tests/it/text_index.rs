//! The index against a naive evaluation of BM25 over all documents.
#![allow(clippy::print_stdout, reason = "a test that fails tells its seed")]

mod concurrent;
mod corpus;
mod edges;
mod naive;
mod pruning;
mod trees;
