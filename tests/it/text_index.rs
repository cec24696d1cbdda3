//! The index against a naive evaluation of BM25 over all documents.

mod concurrent;
mod corpus;
mod edges;
mod naive;
mod trees;
