//! The indexes that a bench wants: alike in memtables of both sides, the same in the base.

use datafusion_lsm::distance::Metric;
use datafusion_lsm::index_spec::{IndexKind, IndexSpec};
use datafusion_lsm::table::LsmTable;
use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance::index::vector::VectorIndexParams;
use lance_index::IndexType;
use lance_index::scalar::{InvertedIndexParams, ScalarIndexParams};
use lance_linalg::distance::DistanceType;

use super::Result;
use super::rows::KEY;

/// An index of a column.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Index {
    /// Of vectors by their L2 distances. In the base it has so many partitions, and codes of so many bytes a vector
    /// unless it keeps the vectors themselves.
    Vector { column: &'static str, partitions: usize, codes: Option<usize> },
    /// Of texts, with positions.
    Text(&'static str),
    /// Of values in order.
    Btree(&'static str),
}

impl Index {
    fn column(self) -> &'static str {
        match self {
            Self::Vector { column, .. } | Self::Text(column) | Self::Btree(column) => column,
        }
    }

    /// The name that Lance knows it by.
    pub(crate) fn name(self) -> String {
        format!("{}_index", self.column())
    }

    /// What declares it in a table of ours, which always has an index of its key.
    pub(crate) fn spec(self) -> Option<IndexSpec> {
        let kind = match self {
            Self::Vector { .. } => IndexKind::vector(Metric::L2),
            Self::Text(_) => IndexKind::text(),
            Self::Btree(KEY) => return None,
            Self::Btree(_) => IndexKind::BTree,
        };
        Some(IndexSpec::new(self.column(), kind))
    }

    /// Makes it over the rows of `dataset`.
    pub(crate) async fn create(self, dataset: &mut Dataset) -> Result<()> {
        let (columns, name) = ([self.column()], Some(self.name()));
        match self {
            Self::Vector { partitions, codes, .. } => {
                let metric = DistanceType::L2;
                let params = match codes {
                    Some(bytes) => VectorIndexParams::ivf_pq(partitions, 8, bytes, metric, 50),
                    None => VectorIndexParams::ivf_flat(partitions, metric),
                };
                Box::pin(dataset.create_index(&columns, IndexType::Vector, name, &params, true)).await?;
            }
            Self::Text(_) => {
                let params = InvertedIndexParams::default().with_position(true);
                Box::pin(dataset.create_index(&columns, IndexType::Inverted, name, &params, true)).await?;
            }
            Self::Btree(_) => {
                let params = ScalarIndexParams::default();
                Box::pin(dataset.create_index(&columns, IndexType::BTree, name, &params, true)).await?;
            }
        }
        Ok(())
    }
}

/// Makes all of them.
pub(crate) async fn create_all(dataset: &mut Dataset, indexes: &[Index]) -> Result<()> {
    for index in indexes {
        index.create(dataset).await?;
    }
    Ok(())
}

/// What each side keeps up to date, in words: our table, whose key always has an index, and a peer with these.
pub(crate) fn told(ours: &LsmTable, peer: &[Index]) -> String {
    let ours = ours.indexes().into_iter().map(|index| format!("{} ({})", index.column, index.kind));
    let ours: Vec<String> = [format!("{KEY} (key)")].into_iter().chain(ours).collect();
    let peer = peer.iter().map(|index| match index {
        Index::Vector { column, .. } => format!("{column} (hnsw)"),
        Index::Text(column) => format!("{column} (inverted)"),
        Index::Btree(column) => format!("{column} (btree)"),
    });
    format!("indexes kept: ours {}; peer {}", ours.join(", "), peer.collect::<Vec<_>>().join(", "))
}
