//! What an index finds, and what it is told.

use std::fmt;

use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::notation::{self, Call};
use super::params::Params;
use super::text_params::TextParams;
use super::vector_params::{VectorLayout, VectorParams};
use crate::distance::Metric;
use crate::error::{Error, Result};

/// What an index finds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexKind {
    /// The nearest vectors by a metric.
    Vector(VectorParams),
    /// Texts by their words.
    #[serde(rename = "fts")]
    Text(TextParams),
    /// Values by their order.
    #[serde(rename = "btree")]
    BTree,
    /// Values that many rows share.
    Bitmap,
}

/// What options call an index of texts.
const TEXT: &str = "fts";
const BTREE: &str = "btree";
const BITMAP: &str = "bitmap";

impl IndexKind {
    /// A vector index of the default kind.
    pub fn vector(metric: Metric) -> Self {
        Self::Vector(VectorParams::new(metric))
    }

    /// A text index at Lance's defaults.
    pub fn text() -> Self {
        Self::Text(TextParams::default())
    }

    /// Its name in options, without parameters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vector(vector) => vector.layout.name(),
            Self::Text(_) => TEXT,
            Self::BTree => BTREE,
            Self::Bitmap => BITMAP,
        }
    }

    /// Its parameters as options spell them, those at their defaults left out.
    pub fn params(&self) -> String {
        let told = match self {
            Self::Vector(vector) => vector.told(),
            Self::Text(text) => text.told(),
            Self::BTree | Self::Bitmap => Vec::new(),
        };
        let metric = match self {
            Self::Vector(vector) => Some(vector.metric_name().to_string()),
            _ => None,
        };
        let told = told.iter().map(|(name, value)| format!("{name}={}", notation::written(value)));
        metric.into_iter().chain(told).collect::<Vec<_>>().join(", ")
    }

    /// The kind that `call` says, and the index's name if it is among the parameters.
    pub(super) fn read(call: Call) -> Result<(Self, Option<String>)> {
        let layout = VectorLayout::ALL.into_iter().find(|layout| layout.name() == call.kind);
        let kind = call.kind.clone();
        let mut params = Params::new(call, layout.map(|_| "metric"))?;
        let read = match (layout, kind.as_str()) {
            (Some(layout), _) => Self::Vector(VectorParams::read(layout, &mut params)?),
            (None, TEXT) => Self::Text(TextParams::read(&mut params)?),
            (None, BTREE) => Self::BTree,
            (None, BITMAP) => Self::Bitmap,
            _ => {
                return Err(Error::invalid(format!(
                    "'{kind}' is no kind of index: known are {TEXT}, {BTREE}, {BITMAP}, vector(metric), hnsw, ivf_pq, \
                     ivf_hnsw_sq"
                )));
            }
        };
        let name = params.text(&["name"])?;
        params.finish()?;
        if name.as_ref().is_some_and(String::is_empty) {
            return Err(Error::invalid("an index needs a name that is not empty"));
        }
        Ok((read, name))
    }

    /// Nothing, if a column of this type can be indexed so.
    ///
    /// # Errors
    /// `Invalid`, saying what type it needs.
    pub(super) fn check_type(&self, data_type: &DataType) -> Result<()> {
        let (what, needs) = match (self, data_type) {
            (Self::Vector(_), DataType::FixedSizeList(element, width))
                if *element.data_type() == DataType::Float32 && *width > 0 =>
            {
                return self.check_width(*width);
            }
            (Self::Text(_), DataType::Utf8 | DataType::LargeUtf8) => return Ok(()),
            (Self::BTree | Self::Bitmap, data_type) if is_scalar(data_type) => return Ok(()),
            (Self::Text(_), _) => ("a text index", "a column of the type VARCHAR"),
            (Self::Vector(_), _) => ("a vector index", "a column of the type FLOAT[n]"),
            (Self::BTree, _) => ("a btree", SCALARS),
            (Self::Bitmap, _) => ("a bitmap", SCALARS),
        };
        Err(Error::invalid(format!("{what} needs {needs}, and this one is {data_type}")))
    }

    fn check_width(&self, width: i32) -> Result<()> {
        let Self::Vector(VectorParams { num_sub_vectors: Some(parts), .. }) = self else { return Ok(()) };
        if width.unsigned_abs().is_multiple_of(*parts) {
            return Ok(());
        }
        Err(Error::invalid(format!("num_sub_vectors = {parts} does not divide the {width} dimensions of the column")))
    }

    /// Whether an index of the kind `there` is what this asks for: the default vector kind leaves open which.
    pub fn is_answered_by(&self, there: &Self) -> bool {
        match (self, there) {
            (Self::Vector(asked), Self::Vector(there)) if *asked == VectorParams::new(asked.metric) => {
                asked.metric == there.metric
            }
            (asked, there) => asked == there,
        }
    }

    /// Whether an index that is described as `there` may be one that was made as this says: neither has to say all.
    pub fn may_be(&self, there: &Self) -> bool {
        match (self, there) {
            (Self::Vector(asked), Self::Vector(there)) => asked.may_be(there),
            (Self::Text(asked), Self::Text(there)) => asked.may_be(there),
            (asked, there) => asked == there,
        }
    }

    /// Whether a column has at most one of both.
    pub(super) fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            // A query means one thing in every place.
            (Self::Text(_), Self::Text(_)) => true,
            (Self::Vector(a), Self::Vector(b)) => a.metric == b.metric,
            (a, b) => a == b,
        }
    }
}

const SCALARS: &str = "a column of numbers, texts, dates, times or booleans";

fn is_scalar(data_type: &DataType) -> bool {
    data_type.is_integer()
        || matches!(
            data_type,
            DataType::Float16
                | DataType::Float32
                | DataType::Float64
                | DataType::Boolean
                | DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Date32
                | DataType::Date64
                | DataType::Time32(_)
                | DataType::Time64(_)
                | DataType::Timestamp(_, _)
                | DataType::Decimal128(_, _)
                | DataType::Decimal256(_, _)
        )
}

/// As options spell it.
impl fmt::Display for IndexKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let params = self.params();
        if params.is_empty() { f.write_str(self.name()) } else { write!(f, "{}({params})", self.name()) }
    }
}

/// Adds the parameter `name` to what [`IndexKind`]'s `Display` gives.
pub(super) fn with_name(kind: &IndexKind, name: &str) -> String {
    let name = notation::written(&Value::String(name.to_string()));
    let params = kind.params();
    let separator = if params.is_empty() { "" } else { ", " };
    format!("{}({params}{separator}name={name})", kind.name())
}
