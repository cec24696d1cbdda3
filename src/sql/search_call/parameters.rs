//! What the functions are called with and what they return.

use std::fmt;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::DataFusionError;

use crate::error::Error;

/// A table function that searches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SearchFunction {
    /// The rows nearest to a vector.
    Vector,
    /// The rows whose texts fit a query best.
    Text,
    /// The rows that are best by both.
    Hybrid,
}

/// What a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// A text, or a list of texts.
    Texts,
    Vector,
    Count,
    Number,
}

/// A parameter of a function.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) is_required: bool,
}

const fn required(name: &'static str, kind: Kind) -> Parameter {
    Parameter { name, kind, is_required: true }
}

const fn optional(name: &'static str, kind: Kind) -> Parameter {
    Parameter { name, kind, is_required: false }
}

const VECTOR: &[Parameter] = &[
    required("table", Kind::Text),
    required("column", Kind::Text),
    required("query", Kind::Vector),
    optional("k", Kind::Count),
    optional("metric", Kind::Text),
];

const TEXT: &[Parameter] = &[
    required("table", Kind::Text),
    required("column", Kind::Texts),
    required("query", Kind::Text),
    optional("k", Kind::Count),
];

const HYBRID: &[Parameter] = &[
    required("table", Kind::Text),
    required("vector_column", Kind::Text),
    required("vector", Kind::Vector),
    required("text_column", Kind::Texts),
    required("query", Kind::Text),
    optional("k", Kind::Count),
    optional("vector_limit", Kind::Count),
    optional("text_limit", Kind::Count),
    optional("fusion", Kind::Text),
    optional("rank_constant", Kind::Number),
    optional("vector_weight", Kind::Number),
    optional("text_weight", Kind::Number),
    optional("metric", Kind::Text),
];

/// How far a row's vector is from the one searched for, as the metric's function says.
pub(crate) const DISTANCE: &str = "_distance";

/// How well a row fits.
pub(crate) const SCORE: &str = "_score";

/// How well a row's text fits, where `_score` is that of both sides.
pub(super) const TEXT_SCORE: &str = "_text_score";

/// The places of a row among those that each side found.
pub(super) const RANKS: [&str; 2] = ["_vector_rank", "_text_rank"];

impl SearchFunction {
    /// All functions.
    pub const ALL: &'static [Self] = &[Self::Vector, Self::Text, Self::Hybrid];

    /// The function's name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vector => "vector_search",
            Self::Text => "text_search",
            Self::Hybrid => "hybrid_search",
        }
    }

    /// In the order of arguments without names. The first is the table.
    pub(super) fn parameters(self) -> &'static [Parameter] {
        match self {
            Self::Vector => VECTOR,
            Self::Text => TEXT,
            Self::Hybrid => HYBRID,
        }
    }

    /// What it returns besides the table's columns.
    pub(super) fn columns(self) -> Vec<Field> {
        let score = |name| Field::new(name, DataType::Float32, true);
        let number = |name| Field::new(name, DataType::Float64, true);
        match self {
            Self::Vector => vec![number(DISTANCE)],
            Self::Text => vec![score(SCORE)],
            Self::Hybrid => {
                let ranks = RANKS.map(|rank| Field::new(rank, DataType::UInt64, true));
                [number(SCORE), number(DISTANCE), score(TEXT_SCORE)].into_iter().chain(ranks).collect()
            }
        }
    }

    /// A call that is not right, because of `what`.
    pub(super) fn refused(self, what: impl fmt::Display) -> DataFusionError {
        Error::invalid(format!("{what}: call {}", self.usage())).into()
    }

    /// How it is called, for people.
    fn usage(self) -> String {
        let (first, rest): (Vec<&Parameter>, Vec<&Parameter>) =
            self.parameters().iter().partition(|parameter| parameter.is_required);
        let names = |parameters: Vec<&Parameter>| parameters.iter().map(|p| p.name).collect::<Vec<_>>().join(", ");
        format!("{}({} [, {}])", self.name(), names(first), names(rest))
    }
}
