//! An LSM table for Apache DataFusion whose storage is Lance.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod clock;
pub mod error;
pub mod events;
pub mod ids;
pub mod key;
pub mod manifest;
pub mod schema;
pub mod settings;
pub mod store;
pub mod task;
pub mod wal;
