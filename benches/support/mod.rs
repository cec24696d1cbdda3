//! What the benches share: how they run, measure, compare answers and report, and how each side is set up.
//!
//! Every bench compares the answers of both sides before it times them: a figure for a wrong answer is worth nothing.
#![allow(dead_code, reason = "each bench uses a part")]

pub(crate) mod answer;
pub(crate) mod bench;
pub(crate) mod documents;
pub(crate) mod expected;
pub(crate) mod indexes;
pub(crate) mod measure;
pub(crate) mod ours;
pub(crate) mod peer;
pub(crate) mod place;
#[path = "../../tests/it/support/remote.rs"]
pub(crate) mod remote;
pub(crate) mod report;
pub(crate) mod resident;
pub(crate) mod rows;
pub(crate) mod scans;
pub(crate) mod search;
pub(crate) mod shape;
pub(crate) mod side;
pub(crate) mod stage;
pub(crate) mod texts;
pub(crate) mod tuning;
pub(crate) mod vectors;

/// What the benches return: any error ends one.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
