//! The Lance indexes of the base's rows: ordinary ones, under the names that the table's indexes have.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::DataType;
use lance::Dataset;
use lance::dataset::CommitBuilder;
use lance::dataset::transaction::{Operation, Transaction};
use lance::index::DatasetIndexExt;
use lance::index::vector::VectorIndexParams;
use lance_core::datatypes::format_field_path;
use lance_index::scalar::{BuiltinIndexType, ScalarIndexParams};
use lance_index::vector::hnsw::builder::HnswBuildParams;
use lance_index::vector::ivf::IvfBuildParams;
use lance_index::vector::pq::PQBuildParams;
use lance_index::vector::sq::builder::SQBuildParams;
use lance_index::{IndexDescription, IndexParams, IndexType, is_system_index};
use lance_linalg::distance::DistanceType;
use lance_table::format::{Fragment, IndexMetadata};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::BaseTable;
use crate::distance::Metric;
use crate::error::{Error, Result};
use crate::index_spec::{IndexKind, IndexSpec, VectorLayout, VectorParams};
use crate::schema::TableSchema;
use crate::store::from_lance;
use crate::text_search::TextAnalyzer;

impl BaseTable {
    /// How many rows the base's part of each index has, by the index's name; nothing of an index without.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails.
    pub async fn indexed_rows(&self) -> Result<HashMap<String, u64>> {
        let described = described(self.handle.dataset()).await.map_err(|e| self.failed(e))?;
        let ours = |there: &&Arc<dyn IndexDescription>| self.indexes.specs().iter().any(|i| self.serves(there, i));
        Ok(described.iter().filter(ours).map(|index| (index.name().to_string(), index.rows_indexed())).collect())
    }

    /// Makes the Lance index of `index` over the rows of the base, in place of what has its name and is something else;
    /// synced when this returns. `None` if there are no rows, or there is such an index with some of them, or `index` is not
    /// declared any more. The files are written before anything names them.
    ///
    /// # Errors
    /// `Invalid` if Lance cannot make such an index, `Conflict` if another process made one first, `Fenced` if the table
    /// was dropped, `Unavailable` if the storage fails.
    pub async fn build_index(&self, index: &IndexSpec) -> Result<Option<Arc<Self>>> {
        let mut dataset = Dataset::clone(self.handle.dataset());
        let described = described(&dataset).await.map_err(|e| self.failed(e))?;
        let is_built = described.iter().any(|there| self.serves(there, index));
        if self.rows() == 0 || is_built || !self.indexes.specs().contains(index) {
            return Ok(None);
        }
        let removed_indices = self.named(&index.name).await?;
        let (index_type, params) = self.params(index)?;
        let column = format_field_path(&[index.column.as_str()]);
        let columns = [column.as_str()];
        // Lance refuses a name that an index of another column has until the commit.
        let free_name = Uuid::new_v4().to_string();
        let mut builder = dataset.create_index_builder(&columns, index_type, params.as_ref()).name(free_name);
        let mut built = builder.execute_uncommitted().await.map_err(|e| self.failed(e))?;
        built.name.clone_from(&index.name);
        self.io.sync_tree(&format!("_indices/{}", built.uuid)).await?;
        // It took long: who dropped the index meanwhile found nothing of it to take away.
        if !self.present().await?.indexes.specs().contains(index) {
            return Ok(None);
        }
        self.commit(Operation::CreateIndex { new_indices: vec![built], removed_indices }).await.map(Some)
    }

    /// Takes the Lance index of this name from the base, whoever made it; `None` if there is none.
    ///
    /// # Errors
    /// As [`build_index`](Self::build_index).
    pub async fn drop_index(&self, name: &str) -> Result<Option<Arc<Self>>> {
        let removed_indices = self.named(name).await?;
        if removed_indices.is_empty() {
            return Ok(None);
        }
        self.check_present().await?;
        self.commit(Operation::CreateIndex { new_indices: Vec::new(), removed_indices }).await.map(Some)
    }

    /// The segments of the Lance index of this name, unless it is one of Lance's own.
    async fn named(&self, name: &str) -> Result<Vec<IndexMetadata>> {
        let all = self.handle.dataset().load_indices().await.map_err(|e| self.failed(e))?;
        Ok(all.iter().filter(|there| there.name == name && !is_system_index(there)).cloned().collect())
    }

    /// Whether a Lance index is the base's part of `index`, and has rows that are there.
    fn serves(&self, there: &Arc<dyn IndexDescription>, index: &IndexSpec) -> bool {
        let dataset = self.handle.dataset();
        let has = |f: &Fragment| {
            let of = |s: &IndexMetadata| s.fragment_bitmap.as_ref().is_some_and(|b| b.contains(f.id as u32));
            there.metadata().iter().any(of)
        };
        let is_as_told = || {
            let spec = spec_of(dataset, there.as_ref()).and_then(|spec| spec.resolved(self.schema()).ok());
            spec.is_some_and(|spec| spec.column == index.column && index.kind.may_be(&spec.kind))
        };
        there.name() == index.name && dataset.fragments().iter().any(has) && is_as_told()
    }

    async fn commit(&self, operation: Operation) -> Result<Arc<Self>> {
        let committed = CommitBuilder::new(Arc::clone(self.handle.dataset()))
            .execute(Transaction::new(self.version(), operation, None))
            .await
            .map_err(|e| self.failed(e))?;
        self.io.sync_tree("_transactions").await?;
        self.io.sync_tree("_versions").await?;
        Self::of(self.opener.clone(), self.io.clone(), Arc::new(committed)).await
    }

    fn failed(&self, error: lance_core::Error) -> Error {
        from_lance(error).with_context("location", self.io.uri())
    }

    /// What Lance is told to make `index`.
    fn params(&self, index: &IndexSpec) -> Result<(IndexType, Box<dyn IndexParams>)> {
        Ok(match &index.kind {
            IndexKind::Text(text) => (IndexType::Inverted, Box::new(TextAnalyzer::try_new(text)?.params().clone())),
            IndexKind::BTree => (IndexType::BTree, Box::new(ScalarIndexParams::for_builtin(BuiltinIndexType::BTree))),
            IndexKind::Bitmap => {
                (IndexType::Bitmap, Box::new(ScalarIndexParams::for_builtin(BuiltinIndexType::Bitmap)))
            }
            IndexKind::Vector(vector) => {
                let field = self.schema().logical().field_with_name(&index.column).map(|f| f.data_type());
                let width = match field {
                    Ok(DataType::FixedSizeList(_, width)) => width.unsigned_abs() as usize,
                    _ => return Err(Error::internal("a vector index is of a column of vectors")),
                };
                let params = vector_params(vector, width);
                (params.index_type(), Box::new(params))
            }
        })
    }
}

fn vector_params(vector: &VectorParams, width: usize) -> VectorIndexParams {
    let metric = match vector.metric {
        Metric::L2 => DistanceType::L2,
        Metric::Cosine => DistanceType::Cosine,
        Metric::InnerProduct => DistanceType::Dot,
    };
    let partitions = vector.num_partitions.map(|n| n as usize);
    let mut ivf = IvfBuildParams { num_partitions: partitions, ..IvfBuildParams::default() };
    let usual = HnswBuildParams::default();
    let m = vector.m.map_or(usual.m, |m| m as usize);
    let ef_construction = vector.ef_construction.map_or(usual.ef_construction, |ef| ef as usize);
    let hnsw = HnswBuildParams { m, ef_construction, ..usual };
    match vector.layout {
        VectorLayout::Hnsw => {
            ivf.num_partitions = ivf.num_partitions.or(Some(1));
            VectorIndexParams::ivf_hnsw(metric, ivf, hnsw)
        }
        VectorLayout::IvfPq => {
            // As many parts as Lance's own clients choose: of 16 dimensions each, else of 8, else one.
            let parts = [16, 8].into_iter().find(|part| width.is_multiple_of(*part)).map_or(1, |part| width / part);
            let parts = vector.num_sub_vectors.map_or(parts, |n| n as usize);
            VectorIndexParams::with_ivf_pq_params(metric, ivf, PQBuildParams::new(parts, 8))
        }
        VectorLayout::Vector | VectorLayout::IvfHnswSq => {
            VectorIndexParams::with_ivf_hnsw_sq_params(metric, ivf, hnsw, SQBuildParams::default())
        }
    }
}

async fn described(dataset: &Dataset) -> lance_core::Result<Vec<Arc<dyn IndexDescription>>> {
    let all = dataset.describe_indices(None).await?;
    Ok(all.into_iter().filter(|index| !index.metadata().iter().any(is_system_index)).collect())
}

/// The indexes that a dataset has already, as far as tables have such ones.
///
/// # Errors
/// Lance's if they cannot be read.
pub(super) async fn found(dataset: &Dataset, schema: &TableSchema) -> lance_core::Result<Vec<IndexSpec>> {
    let mut found: Vec<IndexSpec> = Vec::new();
    for index in described(dataset).await? {
        match spec_of(dataset, index.as_ref())
            .map(|spec| spec.resolved(schema).and_then(|spec| spec.check_beside(&found).map(|()| spec)))
        {
            Some(Ok(spec)) => found.push(spec),
            Some(Err(error)) => {
                tracing::warn!(index = index.name(), %error, "an index of the dataset is left to Lance")
            }
            None => {
                tracing::warn!(
                    index = index.name(),
                    "an index of the dataset is left to Lance: tables have none of its kind"
                )
            }
        }
    }
    Ok(found)
}

/// The index as the table's options would say it; none if they cannot.
fn spec_of(dataset: &Dataset, index: &dyn IndexDescription) -> Option<IndexSpec> {
    let [field] = index.field_ids() else { return None };
    let field = dataset.schema().field_by_id(i32::try_from(*field).ok()?)?;
    // A field within a column is no column, though it may have the name of one.
    if field.parent_id >= 0 {
        return None;
    }
    let details: Value = serde_json::from_str(&index.details().ok()?).unwrap_or_default();
    let mut told: Map<String, Value> = Map::new();
    let kind = match index.index_type().to_ascii_lowercase().as_str() {
        "inverted" => {
            text_details(&details, &mut told)?;
            "fts"
        }
        "btree" => "btree",
        "bitmap" => "bitmap",
        _ => vector_details(&details, &mut told)?,
    };
    told.insert("kind".into(), kind.into());
    told.insert("name".into(), index.name().into());
    let specs = IndexSpec::parse(&field.name, &Value::Object(told).to_string());
    specs.inspect_err(|error| tracing::warn!(index = index.name(), %error, "an index cannot be declared")).ok()?.pop()
}

/// What of a text index says how words are made.
const TEXT: [&str; 11] = [
    "base_tokenizer",
    "language",
    "max_token_length",
    "lower_case",
    "stem",
    "remove_stop_words",
    "custom_stop_words",
    "ascii_folding",
    "min_ngram_length",
    "max_ngram_length",
    "prefix_only",
];

fn text_details(details: &Value, told: &mut Map<String, Value>) -> Option<()> {
    let details = details.as_object()?;
    if details.get("document_granularity").is_some_and(|of| of != "row")
        || details.get("split_identifiers") == Some(&Value::Bool(true))
    {
        return None;
    }
    let is_ngram = details.get("base_tokenizer").is_some_and(|of| of == "ngram");
    let counts = |name: &str| is_ngram || !(name.contains("ngram") || name == "prefix_only");
    let known = TEXT.into_iter().filter(|name| counts(name));
    told.extend(known.filter_map(|name| Some((name.to_string(), details.get(name)?.clone()))));
    Some(())
}

fn vector_details(details: &Value, told: &mut Map<String, Value>) -> Option<&'static str> {
    let metric = details.get("metric_type")?.as_str()?.to_ascii_lowercase();
    told.insert("metric".into(), metric.into());
    let compression = details.get("compression").filter(|of| !of.is_null());
    let graph = details.get("hnsw").filter(|of| !of.is_null());
    let coded = compression.and_then(|of| of.get("type")).and_then(Value::as_str);
    Some(match (graph, coded) {
        (None, Some("pq")) => {
            let parts = compression.and_then(|of| of.get("num_sub_vectors")).cloned();
            told.extend(parts.map(|parts| ("num_sub_vectors".to_string(), parts)));
            "ivf_pq"
        }
        (Some(graph), None | Some("sq")) => {
            for (ours, lances) in [("m", "max_connections"), ("ef_construction", "construction_ef")] {
                told.extend(graph.get(lances).map(|of| (ours.to_string(), of.clone())));
            }
            if coded.is_some() { "ivf_hnsw_sq" } else { "hnsw" }
        }
        // Memtables do not mind.
        _ => "vector",
    })
}
