//! Which indexes a dataset has for searches, by what Lance's metadata says.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance_index::frag_reuse::FRAG_REUSE_INDEX_NAME;
use lance_index::pb::VectorIndexDetails;
use lance_index::pb::vector_index_details::Compression;
use lance_linalg::distance::DistanceType;
use lance_table::format::IndexMetadata;
use prost::Message;
use roaring::RoaringBitmap;

use crate::distance::Metric;
use crate::error::Result;
use crate::store::from_lance;

/// What the type of an index's details ends with.
const DETAILS: &str = "VectorIndexDetails";
/// The same of text indexes.
const TEXT_DETAILS: &str = "InvertedIndexDetails";
/// The same of indexes of values that give every row.
const VALUE_DETAILS: [&str; 2] = ["BTreeIndexDetails", "BitmapIndexDetails"];

/// A vector index of a column: one or several segments under one name.
#[derive(Debug, Clone)]
pub(super) struct IndexEntry {
    pub(super) name: String,
    pub(super) field: i32,
    pub(super) metric: Metric,
    pub(super) kind: IndexKind,
    pub(super) segments: Vec<IndexMetadata>,
}

/// A B-tree or bitmap of a column: one or several segments under one name.
#[derive(Debug, Clone)]
pub(super) struct ValueEntry {
    pub(super) name: String,
    pub(super) field: i32,
    pub(super) segments: Vec<IndexMetadata>,
}

/// How an index finds vectors and what it keeps of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexKind {
    /// Whether there is a graph in each partition.
    pub(super) graph: bool,
    pub(super) codes: Codes,
}

/// What an index keeps of a vector, which decides how far its distances can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codes {
    /// The vector.
    Flat,
    /// A byte a dimension.
    Scalar,
    /// So many bits a dimension.
    Rabit(u32),
    /// A byte for several dimensions.
    Product,
}

impl fmt::Display for IndexKind {
    /// As Lance calls it, such as `IVF_HNSW_SQ`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let codes = match self.codes {
            Codes::Flat => "FLAT",
            Codes::Scalar => "SQ",
            Codes::Rabit(_) => "RQ",
            Codes::Product => "PQ",
        };
        write!(f, "IVF_{}{codes}", if self.graph { "HNSW_" } else { "" })
    }
}

/// The indexes of a dataset that this version can search.
#[derive(Debug, Default)]
pub(super) struct IndexCatalog {
    entries: Vec<IndexEntry>,
    /// The text indexes of each field, segment by segment, whatever their words.
    texts: HashMap<i32, Vec<IndexMetadata>>,
    values: Vec<ValueEntry>,
}

impl IndexCatalog {
    /// Reads what the dataset's manifest says, which is in Lance's cache after opening.
    ///
    /// # Errors
    /// `Unavailable` if the storage fails.
    pub(super) async fn of(dataset: &Dataset) -> Result<Self> {
        // Without this even an empty list costs a read.
        if dataset.manifest().index_section.is_none() {
            return Ok(Self::default());
        }
        let indexes = dataset.load_indices().await.map_err(from_lance)?;
        // Row ids of an index that was not brought up to date after a compaction mean other rows than they say.
        if indexes.iter().any(|index| index.name == FRAG_REUSE_INDEX_NAME) {
            return Ok(Self::default());
        }
        let (mut entries, mut texts) = (Vec::<IndexEntry>::new(), HashMap::<i32, Vec<IndexMetadata>>::new());
        let mut values = Vec::<ValueEntry>::new();
        for index in indexes.iter() {
            let is_text = index.index_details.as_ref().is_some_and(|any| any.type_url.ends_with(TEXT_DETAILS));
            if let Some(field) = index.keyed_field().filter(|_| is_text) {
                texts.entry(field).or_default().push(index.clone());
            }
            if let Some(entry) = value_entry_of(index) {
                match values.iter_mut().find(|e| e.name == entry.name && e.field == entry.field) {
                    Some(there) => there.segments.extend(entry.segments),
                    None => values.push(entry),
                }
            }
            let Some(entry) = entry_of(index) else { continue };
            match entries.iter_mut().find(|e| e.name == entry.name && e.field == entry.field) {
                Some(there) => there.segments.extend(entry.segments),
                None => entries.push(entry),
            }
        }
        Ok(Self { entries, texts, values })
    }

    /// The text indexes of a field, segment by segment.
    pub(super) fn find_texts(&self, field: i32) -> &[IndexMetadata] {
        self.texts.get(&field).map_or(&[], Vec::as_slice)
    }

    /// The index of a field for a metric; of several the one that covers most fragments.
    pub(super) fn find(&self, field: i32, metric: Metric) -> Option<&IndexEntry> {
        let fits = self.entries.iter().filter(|e| (e.field, e.metric) == (field, metric));
        fits.max_by_key(|e| fragments_of(&e.segments))
    }

    /// The segments of all vector indexes.
    pub(super) fn vector_segments(&self) -> Vec<IndexMetadata> {
        self.entries.iter().flat_map(|entry| &entry.segments).cloned().collect()
    }

    /// The index of a field's values; of several the one that covers most fragments.
    pub(super) fn find_values(&self, field: i32) -> Option<&ValueEntry> {
        self.values.iter().filter(|e| e.field == field).max_by_key(|e| fragments_of(&e.segments))
    }
}

/// How many fragments some segments cover.
fn fragments_of(segments: &[IndexMetadata]) -> u64 {
    segments.iter().filter_map(|segment| segment.fragment_bitmap.as_ref()).map(RoaringBitmap::len).sum()
}

/// The entry of a single segment, if it is of an index of values whose coverage is known.
fn value_entry_of(index: &IndexMetadata) -> Option<ValueEntry> {
    let is_kind = |any: &&Arc<prost_types::Any>| VALUE_DETAILS.iter().any(|kind| any.type_url.ends_with(kind));
    index.index_details.as_ref().filter(is_kind)?;
    index.fragment_bitmap.as_ref().filter(|_| index.base_id.is_none())?;
    let [field] = index.keyed_fields() else { return None };
    Some(ValueEntry { name: index.name.clone(), field: *field, segments: vec![index.clone()] })
}

/// The entry of a single segment, if it is of a vector index whose coverage is known.
fn entry_of(index: &IndexMetadata) -> Option<IndexEntry> {
    if index.base_id.is_some() {
        return None;
    }
    let any = index.index_details.as_ref().filter(|any| any.type_url.ends_with(DETAILS))?;
    let details = VectorIndexDetails::decode(any.value.as_slice()).ok()?;
    let metric = metric_of(DistanceType::from(details.metric_type()))?;
    index.fragment_bitmap.as_ref()?;
    let codes = match &details.compression {
        Some(Compression::Pq(_)) => Codes::Product,
        Some(Compression::Sq(_)) => Codes::Scalar,
        Some(Compression::Rq(rq)) => Codes::Rabit(rq.num_bits),
        Some(Compression::Flat(_)) | None => Codes::Flat,
    };
    let kind = IndexKind { graph: details.hnsw_index_config.is_some(), codes };
    let [field] = index.keyed_fields() else { return None };
    Some(IndexEntry { name: index.name.clone(), field: *field, metric, kind, segments: vec![index.clone()] })
}

/// The metric that Lance calls so.
pub(super) fn metric_of(distance: DistanceType) -> Option<Metric> {
    match distance {
        DistanceType::L2 => Some(Metric::L2),
        DistanceType::Cosine => Some(Metric::Cosine),
        DistanceType::Dot => Some(Metric::InnerProduct),
        DistanceType::Hamming => None,
    }
}
