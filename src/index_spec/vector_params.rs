//! What a vector index is told.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::params::Params;
use crate::distance::Metric;
use crate::error::{Error, Result};

/// The metrics as options name them.
pub(super) const METRICS: [(&str, Metric); 3] =
    [("l2", Metric::L2), ("cosine", Metric::Cosine), ("inner_product", Metric::InnerProduct)];

/// An index of vectors: what nearness means, and of what kind the base's Lance index is. Memtables have one kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VectorParams {
    /// What nearness means.
    pub metric: Metric,
    /// The kind of the base's index.
    pub layout: VectorLayout,
    /// Partitions of the base's index; chosen by its rows if it is not told.
    pub num_partitions: Option<u32>,
    /// Parts of a vector that are quantized apart, under `ivf_pq`.
    pub num_sub_vectors: Option<u32>,
    /// Neighbours of a row in the graph, under `hnsw` and `ivf_hnsw_sq`.
    pub m: Option<u32>,
    /// Rows looked at when one is put into the graph, under `hnsw` and `ivf_hnsw_sq`.
    pub ef_construction: Option<u32>,
}

/// The kind of the base's vector index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VectorLayout {
    /// Whatever is best: `ivf_hnsw_sq` now.
    Vector,
    /// A graph over the vectors as they are, in one partition unless more are told.
    Hnsw,
    /// Partitions of vectors in product-quantized form.
    IvfPq,
    /// Partitions, each a graph over vectors of one byte a dimension.
    IvfHnswSq,
}

impl VectorLayout {
    pub(super) const ALL: [Self; 4] = [Self::Vector, Self::Hnsw, Self::IvfPq, Self::IvfHnswSq];

    /// Its name in options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vector => "vector",
            Self::Hnsw => "hnsw",
            Self::IvfPq => "ivf_pq",
            Self::IvfHnswSq => "ivf_hnsw_sq",
        }
    }
}

impl VectorParams {
    /// An index of the default kind.
    pub fn new(metric: Metric) -> Self {
        let (num_partitions, num_sub_vectors, m, ef_construction) = (None, None, None, None);
        Self { metric, layout: VectorLayout::Vector, num_partitions, num_sub_vectors, m, ef_construction }
    }

    pub(super) fn read(layout: VectorLayout, params: &mut Params) -> Result<Self> {
        let metric = match params.text(&["metric"])? {
            Some(name) => metric_named(&name)?,
            None if layout == VectorLayout::Vector => {
                let known: Vec<String> = METRICS.iter().map(|(name, _)| format!("vector({name})")).collect();
                return Err(Error::invalid(format!("a vector index needs a metric: {}", known.join(", "))));
            }
            None => Metric::L2,
        };
        let mut vector = Self { layout, ..Self::new(metric) };
        if layout != VectorLayout::Vector {
            vector.num_partitions = params.number(&["num_partitions"])?;
        }
        if layout == VectorLayout::IvfPq {
            vector.num_sub_vectors = params.number(&["num_sub_vectors"])?;
        }
        if matches!(layout, VectorLayout::Hnsw | VectorLayout::IvfHnswSq) {
            vector.m = params.number(&["m"])?;
            vector.ef_construction = params.number(&["ef_construction"])?;
        }
        Ok(vector)
    }

    /// Whether both may describe one index. A number that is not told, and the default kind, may be any.
    pub(super) fn may_be(&self, there: &Self) -> bool {
        let any = VectorLayout::Vector;
        let is_same_kind = self.layout == there.layout || self.layout == any || there.layout == any;
        let agree = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.metric == there.metric
            && is_same_kind
            && agree(self.num_partitions, there.num_partitions)
            && agree(self.num_sub_vectors, there.num_sub_vectors)
            && agree(self.m, there.m)
            && agree(self.ef_construction, there.ef_construction)
    }

    /// The metric's name in options.
    pub(super) fn metric_name(&self) -> &'static str {
        METRICS.iter().find(|(_, metric)| *metric == self.metric).map_or("l2", |(name, _)| name)
    }

    /// The parameters besides the metric that are told.
    pub(super) fn told(&self) -> Vec<(&'static str, Value)> {
        let numbers = [
            ("num_partitions", self.num_partitions),
            ("num_sub_vectors", self.num_sub_vectors),
            ("m", self.m),
            ("ef_construction", self.ef_construction),
        ];
        numbers.into_iter().filter_map(|(name, number)| Some((name, number?.into()))).collect()
    }
}

/// The metric that options call `name`.
///
/// # Errors
/// `Invalid` if there is none.
pub fn metric_named(name: &str) -> Result<Metric> {
    let lower = if name.eq_ignore_ascii_case("dot") { "inner_product".into() } else { name.to_ascii_lowercase() };
    let known: Vec<&str> = METRICS.iter().map(|(name, _)| *name).collect();
    let found = METRICS.iter().find(|(known, _)| *known == lower).map(|(_, metric)| *metric);
    found.ok_or_else(|| Error::invalid(format!("there is no metric '{name}': known are {}", known.join(", "))))
}
