//! The vector index of a generation, as Lance's IVF_RQ: a few bits a dimension after a random rotation, near rows beside
//! each other. Vectors whose width is no multiple of 8 get a byte a dimension instead, IVF_SQ.
//!
//! Two files: the codes of all rows that have a rank, partition by partition, and the centroids of the partitions. Rows
//! without a rank (no vector, NaN, no direction under cosine) and vectors so long or short that their codes would mean
//! nothing are left out; whoever searches compares them one by one.

use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::{concat_batches, filter, take_record_batch};
use arrow::datatypes::{DataType, Field, Float32Type, Schema, SchemaRef, UInt32Type};
use async_trait::async_trait;
use lance_core::{ROW_ID, ROW_ID_FIELD};
use lance_file::versions::create_writer;
use lance_file::writer::FileWriterOptions;
use lance_index::pb::vector_index_details::{Compression, RabitQuantization, ScalarQuantization};
use lance_index::pb::{Ivf, VectorIndexDetails, VectorMetricType};
use lance_index::vector::bq::RQRotationType;
use lance_index::vector::bq::builder::RabitQuantizer;
use lance_index::vector::flat::index::FlatIndex;
use lance_index::vector::ivf::new_ivf_transformer_with_quantizer;
use lance_index::vector::ivf::storage::{IVF_METADATA_KEY, IvfModel};
use lance_index::vector::kmeans::{KMeans, KMeansParams};
use lance_index::vector::quantizer::{Quantization, QuantizationMetadata, Quantizer};
use lance_index::vector::sq::ScalarQuantizer;
use lance_index::vector::storage::STORAGE_METADATA_KEY;
use lance_index::vector::transform::Transformer;
use lance_index::vector::v3::subindex::IvfSubIndex;
use lance_index::vector::{DISTANCE_TYPE_KEY, PART_ID_COLUMN};
use lance_index::{INDEX_AUXILIARY_FILE_NAME, INDEX_FILE_NAME, INDEX_METADATA_SCHEMA_KEY, IndexMetadata};
use lance_linalg::distance::DistanceType;
use lance_linalg::kernels::normalize_fsl;
use lance_table::format::IndexFile;
use prost::Message;

use super::index_files::{IndexFiles, IndexTarget, IndexWriter};
use crate::distance::Metric;
use crate::error::{Error, Result};
use crate::store::from_lance;
use crate::task;
use crate::vector_index::{Class, squared_length, vector_of};

/// From so many dimensions on, so many bits a dimension. The more dimensions, the more the errors of their bits cancel
/// out; a second bit costs several times what the first does, and so does the third.
const BITS: [(i32, u8); 3] = [(768, 1), (256, 3), (0, 5)];
/// Rows a partition, about.
const PARTITION: usize = 2048;
/// Vectors a centroid that centroids are made of, and how often they are moved.
const SAMPLE: usize = 32;
const ROUNDS: u32 = 8;
/// Rows that are made codes at once.
const CHUNK: usize = 8192;
/// Squared lengths between which codes are made: the sums of squares that they hold are numbers of 32 bits.
const LENGTHS: RangeInclusive<f64> = 1e-30..=1e30;
/// The version of the format that is written.
const FORMAT: u32 = 1;
/// The column of vectors on its way to codes.
const VECTOR: &str = "vector";

/// Writes the vector index of a column.
#[derive(Debug)]
pub struct VectorIndexWriter {
    column: usize,
    metric: Metric,
}

impl VectorIndexWriter {
    /// Of the stored column `column`, which holds `FixedSizeList<Float32>`.
    pub fn new(column: usize, metric: Metric) -> Self {
        Self { column, metric }
    }
}

#[async_trait]
impl IndexWriter for VectorIndexWriter {
    fn kind(&self) -> &'static str {
        "VectorIndexDetails"
    }

    async fn write(&self, rows: &[RecordBatch], target: &IndexTarget) -> Result<IndexFiles> {
        let vectors: Vec<ArrayRef> = rows.iter().map(|batch| Arc::clone(batch.column(self.column))).collect();
        let metric = self.metric;
        task::blocking(move || Codes::of(&vectors, metric)).await?.write(target).await
    }
}

/// What the files hold.
struct Codes {
    distance: DistanceType,
    quantizer: Quantizer,
    centroids: FixedSizeListArray,
    /// How many rows each partition has.
    sizes: Vec<u32>,
    /// Row ids and codes, partition by partition.
    rows: RecordBatch,
}

impl Codes {
    fn of(vectors: &[ArrayRef], metric: Metric) -> Result<Self> {
        let Some(DataType::FixedSizeList(_, width)) = vectors.first().map(|vectors| vectors.data_type().clone()) else {
            return Err(Error::internal("a vector index of other values than vectors was to be written"));
        };
        let distance = distance_of(metric);
        let ranked = ranked(vectors, metric, width)?;
        let (centroids, quantizer) = (centroids(&ranked, distance, width)?, quantizer(&ranked, distance, width)?);
        let transformer =
            new_ivf_transformer_with_quantizer(centroids.clone(), distance, VECTOR, quantizer.clone(), None)
                .map_err(from_lance)?;
        let schema = code_schema(&quantizer);
        let mut parts = Vec::new();
        let mut codes = Vec::new();
        for batch in ranked.iter().filter(|batch| batch.num_rows() > 0) {
            let made = transformer.transform(batch).map_err(from_lance)?;
            let column = |name: &str| {
                made.column_by_name(name).ok_or_else(|| Error::internal(format!("codes have no column '{name}'")))
            };
            parts.extend_from_slice(column(PART_ID_COLUMN)?.as_primitive::<UInt32Type>().values());
            let columns = schema.fields().iter().map(|field| column(field.name()).cloned());
            codes.push(RecordBatch::try_new(Arc::clone(&schema), columns.collect::<Result<_>>()?)?);
        }
        let mut sizes = vec![0; centroids.len()];
        parts.iter().for_each(|part| sizes[*part as usize] += 1);
        let mut order: Vec<u32> = (0..parts.len() as u32).collect();
        order.sort_by_key(|row| parts[*row as usize]);
        let rows = take_record_batch(&concat_batches(&schema, &codes)?, &UInt32Array::from(order))?;
        Ok(Self { distance, quantizer, centroids, sizes, rows })
    }

    async fn write(self, target: &IndexTarget) -> Result<IndexFiles> {
        let codes = self.write_codes(target).await.map_err(from_lance)?;
        let centroids = self.write_centroids(target).await.map_err(from_lance)?;
        let details = prost_types::Any::from_msg(&self.details())
            .map_err(|e| Error::internal("the details of an index could not be encoded").with_source(e))?;
        Ok(IndexFiles { details, version: FORMAT, files: vec![codes, centroids] })
    }

    async fn write_codes(&self, target: &IndexTarget) -> lance_core::Result<IndexFile> {
        let object = target.store.create(&target.dir.clone().join(INDEX_AUXILIARY_FILE_NAME)).await?;
        let schema = self.rows.schema_ref().as_ref().try_into()?;
        let mut writer = create_writer(target.version, object, schema, FileWriterOptions::default())?;
        if self.rows.num_rows() > 0 {
            writer.write_batch(&self.rows).await?;
        }
        let mut partitions = IvfModel::empty();
        self.sizes.iter().for_each(|size| partitions.add_partition(*size));
        let position = writer.add_global_buffer(Ivf::try_from(&partitions)?.encode_to_vec().into()).await?;
        writer.add_schema_metadata(DISTANCE_TYPE_KEY, self.distance.to_string());
        writer.add_schema_metadata(IVF_METADATA_KEY, position.to_string());
        let metadata = self.quantizer.metadata(Some(QuantizationMetadata::default()))?.to_string();
        writer.add_schema_metadata(STORAGE_METADATA_KEY, serde_json::to_string(&[metadata])?);
        let written = writer.finish().await?;
        Ok(IndexFile { path: INDEX_AUXILIARY_FILE_NAME.to_string(), size_bytes: written.size_bytes })
    }

    async fn write_centroids(&self, target: &IndexTarget) -> lance_core::Result<IndexFile> {
        let object = target.store.create(&target.dir.clone().join(INDEX_FILE_NAME)).await?;
        let schema = FlatIndex::schema().as_ref().try_into()?;
        let mut writer = create_writer(target.version, object, schema, FileWriterOptions::default())?;
        let kind = match self.quantizer {
            Quantizer::Rabit(_) => "IVF_RQ",
            _ => "IVF_SQ",
        };
        let metadata = IndexMetadata { index_type: kind.to_string(), distance_type: self.distance.to_string() };
        writer.add_schema_metadata(INDEX_METADATA_SCHEMA_KEY, serde_json::to_string(&metadata)?);
        let mut partitions = IvfModel::new(self.centroids.clone(), None);
        // What a partition has beside codes: nothing.
        self.sizes.iter().for_each(|_| partitions.add_partition(0));
        let position = writer.add_global_buffer(Ivf::try_from(&partitions)?.encode_to_vec().into()).await?;
        writer.add_schema_metadata(IVF_METADATA_KEY, position.to_string());
        writer.add_schema_metadata(FlatIndex::metadata_key(), serde_json::to_string(&vec![""; self.sizes.len()])?);
        let written = writer.finish().await?;
        Ok(IndexFile { path: INDEX_FILE_NAME.to_string(), size_bytes: written.size_bytes })
    }

    fn details(&self) -> VectorIndexDetails {
        let compression = match &self.quantizer {
            Quantizer::Rabit(rq) => {
                let mut compression = RabitQuantization { num_bits: u32::from(rq.num_bits()), ..Default::default() };
                compression
                    .set_rotation_type(lance_index::pb::vector_index_details::rabit_quantization::RotationType::Fast);
                Compression::Rq(compression)
            }
            _ => Compression::Sq(ScalarQuantization { num_bits: 8 }),
        };
        let mut details = VectorIndexDetails { compression: Some(compression), ..Default::default() };
        details.set_metric_type(VectorMetricType::from(self.distance));
        details
    }
}

/// What Lance calls a metric.
fn distance_of(metric: Metric) -> DistanceType {
    match metric {
        Metric::L2 => DistanceType::L2,
        Metric::Cosine => DistanceType::Cosine,
        Metric::InnerProduct => DistanceType::Dot,
    }
}

/// Whether codes tell something of a vector with a rank.
fn has_code(metric: Metric, vector: &[f32]) -> bool {
    let length = squared_length(vector);
    length <= *LENGTHS.end() && (metric != Metric::Cosine || length >= *LENGTHS.start())
}

/// The rows with a rank and a code, in batches: their ids and vectors.
fn ranked(vectors: &[ArrayRef], metric: Metric, width: i32) -> Result<Vec<RecordBatch>> {
    let item = Arc::new(Field::new_list_field(DataType::Float32, true));
    let field = Field::new(VECTOR, DataType::FixedSizeList(Arc::clone(&item), width), true);
    let schema = Arc::new(Schema::new(vec![ROW_ID_FIELD.clone(), field]));
    let (mut batches, mut pending, mut count) = (Vec::new(), Vec::new(), 0);
    let mut start = 0;
    for vectors in vectors {
        let vectors = vectors.as_fixed_size_list();
        let is_ranked = (0..vectors.len()).map(|row| {
            let vector = vector_of(vectors, row);
            Class::of(metric, vector) == Class::Ranked && vector.is_some_and(|vector| has_code(metric, vector))
        });
        let is_ranked = arrow::array::BooleanArray::from_iter(is_ranked.map(Some));
        let ids: ArrayRef = Arc::new(UInt64Array::from_iter_values(start..start + vectors.len() as u64));
        start += vectors.len() as u64;
        let bare = FixedSizeListArray::try_new(
            Arc::clone(&item),
            width,
            Arc::clone(vectors.values()),
            vectors.nulls().cloned(),
        )?;
        let columns = vec![filter(&ids, &is_ranked)?, filter(&bare, &is_ranked)?];
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
        count += batch.num_rows();
        pending.push(batch);
        if count >= CHUNK {
            batches.push(concat_batches(&schema, &pending)?);
            (pending, count) = (Vec::new(), 0);
        }
    }
    batches.push(concat_batches(&schema, &pending)?);
    Ok(batches)
}

/// The centroids of the partitions: those of a sample of the rows.
fn centroids(ranked: &[RecordBatch], distance: DistanceType, width: i32) -> Result<FixedSizeListArray> {
    let rows: usize = ranked.iter().map(RecordBatch::num_rows).sum();
    // Inner products of long vectors are large with whatever, wherever they point.
    let partitions = if distance == DistanceType::Dot { 1 } else { (rows / PARTITION).max(1) };
    let step = (rows / (partitions * SAMPLE)).max(1);
    let mut sample = Vec::new();
    for (i, vector) in ranked.iter().flat_map(vectors_of).enumerate() {
        if i % step == 0 {
            sample.extend_from_slice(vector);
        }
    }
    let sample = vectors_from(sample, width)?;
    let sample = match distance {
        DistanceType::Cosine => normalize_fsl(&sample).map_err(|e| Error::internal("vectors").with_source(e))?,
        _ => sample,
    };
    if partitions == 1 {
        return vectors_from(mean(&sample, width as usize), width);
    }
    let params = KMeansParams { max_iters: ROUNDS, seed: Some(1), ..KMeansParams::default() };
    let trained = KMeans::new_with_params(&sample, partitions, &params)?;
    vectors_from(trained.centroids.as_primitive::<Float32Type>().values().to_vec(), width)
}

fn mean(vectors: &FixedSizeListArray, width: usize) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    for vector in vectors.values().as_primitive::<Float32Type>().values().chunks_exact(width.max(1)) {
        sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    sum.iter().map(|sum| (sum / vectors.len().max(1) as f64) as f32).collect()
}

fn vectors_of(batch: &RecordBatch) -> impl Iterator<Item = &[f32]> {
    let vectors = batch.column(1).as_fixed_size_list();
    (0..vectors.len()).filter_map(|row| vector_of(vectors, row))
}

fn vectors_from(values: Vec<f32>, width: i32) -> Result<FixedSizeListArray> {
    let item = Arc::new(Field::new_list_field(DataType::Float32, true));
    Ok(FixedSizeListArray::try_new(item, width, Arc::new(Float32Array::from(values)), None)?)
}

/// What makes codes of vectors.
fn quantizer(ranked: &[RecordBatch], distance: DistanceType, width: i32) -> Result<Quantizer> {
    if width % 8 == 0 {
        let bits = BITS.iter().find(|(from, _)| width >= *from).map_or(1, |(_, bits)| *bits);
        let rotated = RabitQuantizer::new_with_rotation::<Float32Type>(bits, width, RQRotationType::Fast);
        return Ok(Quantizer::Rabit(rotated));
    }
    let mut bytes = ScalarQuantizer::new(8, width as usize);
    for batch in ranked.iter().filter(|batch| batch.num_rows() > 0) {
        let vectors = batch.column(1).as_fixed_size_list();
        let vectors = match distance {
            DistanceType::Cosine => normalize_fsl(vectors).map_err(|e| Error::internal("vectors").with_source(e))?,
            _ => vectors.clone(),
        };
        bytes.update_bounds::<Float32Type>(&vectors).map_err(from_lance)?;
    }
    Ok(Quantizer::Scalar(bytes))
}

/// The columns of codes as they are stored: the row id before them.
fn code_schema(quantizer: &Quantizer) -> SchemaRef {
    let (code, factors) = match quantizer {
        Quantizer::Rabit(rq) => (rq.field(), rq.extra_fields()),
        Quantizer::Scalar(sq) => (sq.field(), sq.extra_fields()),
        _ => unreachable!("`quantizer` makes no others"),
    };
    Arc::new(Schema::new([vec![ROW_ID_FIELD.clone().with_name(ROW_ID), code], factors].concat()))
}
