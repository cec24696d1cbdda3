//! An LSM table for Apache DataFusion whose storage is Lance.
//!
//! ```
//! use datafusion::assert_batches_eq;
//! use datafusion::prelude::SessionContext;
//! use datafusion_lsm::sql::LsmSessionExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let location = dir.path().join("docs").display().to_string();
//! let session = SessionContext::new().with_lsm();
//! let create = format!(
//!     "CREATE EXTERNAL TABLE docs (id BIGINT PRIMARY KEY, body VARCHAR) STORED AS LSM LOCATION '{location}'"
//! );
//! session.sql(&create).await?.collect().await?;
//!
//! // An upsert by primary key, durable when it returns.
//! session.sql("INSERT INTO docs VALUES (7, 'first'), (8, 'second')").await?.collect().await?;
//! session.sql("INSERT INTO docs VALUES (7, 'newer')").await?.collect().await?;
//!
//! let rows = session.sql("SELECT * FROM docs ORDER BY id").await?.collect().await?;
//! let expected = [
//!     "+----+--------+",
//!     "| id | body   |",
//!     "+----+--------+",
//!     "| 7  | newer  |",
//!     "| 8  | second |",
//!     "+----+--------+",
//! ];
//! assert_batches_eq!(expected, &rows);
//! # Ok(())
//! # }
//! ```
//!
//! With indexes declared, rows are also found by text, by vector and by both the moment they are written:
//!
//! ```text
//! CREATE EXTERNAL TABLE docs (id BIGINT PRIMARY KEY, body VARCHAR, e FLOAT[256]) STORED AS LSM LOCATION '…'
//! OPTIONS ('lsm.index.body' 'fts', 'lsm.index.e' 'vector(cosine)');
//! SELECT id, _score FROM text_search('docs', 'body', 'log OR tree', k => 10) WHERE id > 7;
//! SELECT id FROM docs ORDER BY cosine_distance(e, $1) LIMIT 10;
//! ```
//!
//! Users need [`sql`], [`table`], [`settings`], [`error`] and [`events`], and what these name of other modules:
//! `docs/rust.md` lists it. The other modules are the rooms of the engine, mapped in `docs/architecture.md`; they are no
//! stable interface.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod base;
pub mod block_list;
pub mod cache;
pub mod clock;
pub mod dataset;
pub mod distance;
pub mod error;
pub mod events;
pub mod flush;
pub mod generation;
pub mod ids;
pub mod index_spec;
pub mod key;
pub mod manifest;
pub mod memtable;
pub mod metrics;
pub mod physical_plan;
pub mod planner;
pub mod query_syntax;
pub mod schema;
pub mod settings;
pub mod size;
pub mod source;
pub mod sql;
pub mod store;
pub mod table;
pub mod task;
pub mod text_index;
pub mod text_search;
pub mod vector_index;
pub mod version;
pub mod wal;
pub mod writer;
