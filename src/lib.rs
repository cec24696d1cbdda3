//! An LSM table for Apache DataFusion whose storage is Lance.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod base;
pub mod block_list;
pub mod cache;
pub mod clock;
pub mod dataset;
pub mod error;
pub mod events;
pub mod flush;
pub mod generation;
pub mod ids;
pub mod key;
pub mod manifest;
pub mod memtable;
pub mod physical_plan;
pub mod planner;
pub mod schema;
pub mod settings;
pub mod source;
pub mod sql;
pub mod store;
pub mod table;
pub mod task;
pub mod version;
pub mod wal;
pub mod writer;
