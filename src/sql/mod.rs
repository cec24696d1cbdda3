//! The table in SQL: sessions, statements, table functions and the tables that are open in a process.
//!
//! Owns: what a statement means (its snapshot, its conflicts, its retry) and every type of DataFusion's catalog. Does
//! not own rows: all it does to them goes through [`crate::table::LsmTable`]. Nothing here acts at planning time:
//! EXPLAIN plans too.

mod binding;
mod declaration;
mod distance;
mod drop_hook;
mod engine;
mod factory;
#[cfg(test)]
mod fixture;
mod functions;
mod index_statement;
mod inferred;
mod location;
mod options;
mod provider;
mod replace_sink;
mod report;
mod rewrite;
mod rule;
mod score;
mod search;
mod search_call;
mod session;
mod sink;
mod snippet;
mod source;
mod table_search;
mod target;
mod text;
mod vector_name;
mod when_read;

pub use engine::{LsmEngine, OpenRequest};
pub use factory::LsmTableFactory;
pub use functions::{LsmFunction, LsmTableFunction};
pub use index_statement::LsmSqlExt;
pub use options::{SessionOptions, TableOptionNames};
pub use provider::LsmTableProvider;
pub use rule::LsmStatementRule;
pub use search::LsmSearchRule;
pub use search_call::{SearchFunction, SearchTableFunction};
pub use session::LsmSessionExt;
pub use table_search::TableSearch;
