//! What a memtable might search vectors of 1,024 dimensions by, beside the codes that ours keeps: no index, a graph (Lance's
//! HNSW), and product codes with the centroids and the codebook of a base, so that nothing is trained.
//!
//! Each kind is searched at its cheapest effort with a recall of 0.95 or more; what it costs to index a row is told too.
//! Product codes are searched by this crate, in a base that has no other rows: 64 of 8 bits, as Lance makes them unless
//! told otherwise, and 256 of 4 bits.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, FixedSizeListArray};
use lance::Dataset;
use lance::index::vector::VectorIndexParams;
use lance::index::{DatasetIndexExt, DatasetIndexInternalExt};
use lance_index::IndexType;
use lance_index::metrics::NoOpMetricsCollector;
use lance_index::vector::ivf::IvfBuildParams;
use lance_index::vector::pq::PQBuildParams;
use lance_index::vector::quantizer::Quantizer;
use lance_linalg::distance::DistanceType;

use support::Result;
use support::bench::{Bench, run};
use support::documents::{Documents, Live, VECTOR, WORDLESS};
use support::indexes::Index;
use support::measure::timed;
use support::ours::{self, Ours};
use support::peer::{self, Peer, plain};
use support::place::uri;
use support::report::{Unit, note};
use support::search::{OurSearch, cheapest, compare_nearest, race, truths};
use support::vectors::Noise;

const MODELS: [(Noise, &str); 2] = [(Noise::Shared, "shared"), (Noise::Independent, "independent")];
/// Product codes: their names, how many a vector has, and of how many bits.
const PRODUCTS: [(&str, usize, u8); 2] = [("pq8", 64, 8), ("pq4", 256, 4)];
/// Where the ids of the base begin that lends centroids and codebooks.
const BASE_IDS: i64 = 1_000_000;
const GRAPH: Index = Index::Vector { column: VECTOR, partitions: 1, codes: None };

fn main() -> Result<()> {
    run("vector_kinds", async |bench| {
        for (noise, name) in MODELS {
            let documents = Documents::new(noise, bench.size(1024, 64));
            let mut inherited = Vec::new();
            for (_, codes, bits) in PRODUCTS {
                inherited.push(Inherited::of_base(bench, &documents, (codes.min(bench.size(256, 16)), bits)).await?);
            }
            for rows in bench.size(vec![10_000, 62_000, 100_000], vec![1_000]) {
                Box::pin(kinds(bench, &documents, &format!("{name}_{rows}"), rows, &inherited)).await?;
            }
        }
        Ok(())
    })
}

/// The model of a base's index.
struct Inherited {
    centroids: FixedSizeListArray,
    codebook: FixedSizeListArray,
    codes: usize,
    bits: u8,
}

impl Inherited {
    /// What Lance learns from the rows of a base.
    async fn of_base(bench: &Bench, documents: &Documents, (codes, bits): (usize, u8)) -> Result<Self> {
        let ids: Vec<i64> = (BASE_IDS..BASE_IDS + bench.size(100_000, 1_000)).collect();
        let uri = format!("memory://base-{bits}");
        let mut dataset = plain(&uri, &documents.schema(), documents.batches(&ids, WORDLESS, 1_000)?, None).await?;
        let params = VectorIndexParams::ivf_pq(bench.size(256, 8), bits, codes, DistanceType::L2, 50);
        index(&mut dataset, &params).await?;
        let name = GRAPH.name();
        let segments = dataset.load_indices_by_name(&name).await?;
        let segment = segments.first().ok_or("the base has an index")?;
        let index = dataset.open_vector_index(VECTOR, &segment.uuid, &NoOpMetricsCollector).await?;
        let Quantizer::Product(quantizer) = index.quantizer() else { return Err("the index has product codes".into()) };
        let centroids = index.ivf_model().centroids_array().ok_or("the index has centroids")?.clone();
        Ok(Self { centroids, codebook: quantizer.codebook, codes, bits })
    }

    /// An index of this model.
    fn params(&self) -> Result<VectorIndexParams> {
        let partitions = IvfBuildParams::try_with_centroids(self.centroids.len(), self.centroids.clone().into())?;
        let codebook = Arc::clone(self.codebook.values());
        let codes = PQBuildParams::with_codebook(self.codes, self.bits.into(), codebook);
        Ok(VectorIndexParams::with_ivf_pq_params(DistanceType::L2, partitions, codes))
    }
}

async fn index(dataset: &mut Dataset, params: &VectorIndexParams) -> Result<()> {
    let name = Some(GRAPH.name());
    Box::pin(dataset.create_index(&[VECTOR], IndexType::Vector, name, params, true)).await?;
    Ok(())
}

/// So many rows in each kind of index.
async fn kinds(
    bench: &mut Bench,
    documents: &Documents,
    suffix: &str,
    rows: usize,
    inherited: &[Inherited],
) -> Result<()> {
    let named = |name: &str| format!("{name}_{suffix}");
    let names: Vec<String> = ["flat", "hnsw"].into_iter().chain(PRODUCTS.map(|(name, ..)| name)).map(named).collect();
    if !bench.wants(&names) {
        return Ok(());
    }
    let ids: Vec<i64> = (0..rows as i64).collect();
    let batches = documents.batches(&ids, WORDLESS, 100)?;
    let mut live = Live::new();
    documents.write(&mut live, &ids, WORDLESS);
    let queries = documents.queries(bench.size(100, 5));
    let truth = truths(&live, &queries, None);

    // A table of Lance's wants an index of vectors to begin with, which wants a row.
    let base = vec![documents.rows(&[0], WORDLESS)?];
    let dir = bench.place().fresh("ours");
    let ours = Ours::searched(&dir, &documents.schema(), base.clone(), &[GRAPH], ours::roomy()).await?;
    let (indexed, ()) = timed(ours.fill(&batches)).await?;
    let codes = OurSearch::new(&ours, None);
    let codes = async |query: &Vec<f32>| codes.near(query).await;

    let metric = named("flat");
    if bench.wants(&[&metric]) {
        let mut all = ours.again()?;
        all.set("lsm.search.mode", "exact").await?;
        let all = OurSearch::new(&all, None);
        let all = async |query: &Vec<f32>| all.near(query).await;
        compare_nearest(&metric, &truth, &queries, codes, all).await?;
        race(bench, &metric, None, &queries, codes, all).await?;
    }

    let metric = named("hnsw");
    if bench.wants(&[&metric]) {
        let dir = bench.place().fresh("hnsw");
        let peer = Peer::create(&dir, &documents.schema(), base, &[GRAPH], peer::roomy()).await?;
        let (time, ()) = timed(peer.fill(&batches)).await?;
        peer.settle(bench).await?;
        let graph = async |query: &[f32], ef: usize| peer.bare(query, ef).await;
        let ef = cheapest(&truth, &queries, (16, 1024), graph).await?;
        note(&format!("{metric}: ef {ef}"));
        let graph = async |query: &Vec<f32>| graph(query, ef).await;
        compare_nearest(&metric, &truth, &queries, codes, graph).await?;
        race(bench, &metric, None, &queries, codes, graph).await?;
        told(bench, &metric, rows, (indexed, time));
        peer.abort().await?;
    }

    for ((name, ..), model) in PRODUCTS.into_iter().zip(inherited) {
        let metric = named(name);
        if bench.wants(&[&metric]) {
            let dir = bench.place().fresh(name);
            let (time, base) = product(&dir, documents, &ids, model).await?;
            let looked = async |probes: usize| -> Result<Ours> {
                let mut ours = base.again()?;
                ours.set("lsm.search.nprobes", &probes.to_string()).await?;
                Ok(ours)
            };
            let near =
                async |query: &[f32], probes: usize| OurSearch::new(&looked(probes).await?, None).near(query).await;
            let probes = cheapest(&truth, &queries, (1, 256), near).await?;
            note(&format!("{metric}: nprobes {probes}"));
            let base = looked(probes).await?;
            let search = OurSearch::new(&base, None);
            let search = async |query: &Vec<f32>| search.near(query).await;
            compare_nearest(&metric, &truth, &queries, codes, search).await?;
            race(bench, &metric, None, &queries, codes, search).await?;
            told(bench, &metric, rows, (indexed, time));
            base.table.close().await?;
        }
    }
    Ok(ours.table.close().await?)
}

/// A base with product codes of these rows, and what making the codes took.
async fn product(dir: &Path, documents: &Documents, ids: &[i64], model: &Inherited) -> Result<(Duration, Ours)> {
    let batches = documents.batches(ids, WORDLESS, 1_000)?;
    let mut dataset = plain(uri(dir)?, &documents.schema(), batches, None).await?;
    let (time, ()) = timed(index(&mut dataset, &model.params()?)).await?;
    Ok((time, Ours::adopt(dir, &[], ours::roomy()).await?))
}

/// What indexing so many rows took in codes and in another kind.
fn told(bench: &mut Bench, metric: &str, rows: usize, (codes, other): (Duration, Duration)) {
    let times = (codes.as_secs_f64(), other.as_secs_f64());
    bench.beside(&format!("{metric}_rows"), Unit::Rows(rows), times);
}
