//! The table functions `vector_search`, `text_search` and `hybrid_search`.
//!
//! A call is a node of the plan ([`SearchCall`]) whose arguments are expressions, so that a prepared statement fills in
//! its parameters. At each analysis the node becomes the plan that says the same in sorts and limits, which the rule
//! `lsm_search` knows. What WHERE asks of the table's columns goes below the search before that.

mod expansion;
mod function;
mod hybrid;
mod named;
mod node;
mod parameters;
mod prefilter;
#[cfg(test)]
mod tests;
mod values;

pub(super) use expansion::{expand, text_column, vector_column};
pub use function::SearchTableFunction;
pub(super) use named::NamedArguments;
use node::SearchCall;
pub use parameters::SearchFunction;
pub(super) use parameters::{DISTANCE, SCORE};
pub(super) use values::K;
