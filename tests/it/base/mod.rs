//! The base table on a real directory, and what Lance makes of it.

mod adopt;
mod column_type;
mod create;
mod replace;
