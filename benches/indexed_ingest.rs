//! Writing with indexes kept up to date, beside Lance: texts of 30 to 80 words, vectors of 1,024 dimensions and a btree.
//!
//! A row counts once it is acknowledged and can be searched. Lance builds its graph of vectors at the cheapest setting
//! with a recall of 0.95 or more over the rows written here; both sides' searches are compared with the truth first, and
//! both are acknowledged in memory. Rows are written twice: with vectors whose noise is shared and with independent noise.

mod support;

use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion_lsm::settings::Settings;
use lance::dataset::mem_wal::ShardWriterConfig;
use lance_index::vector::hnsw::builder::HnswBuildParams;

use support::Result;
use support::bench::{Bench, run};
use support::documents::{BUCKET, Documents, Live, TEXT, VECTOR, WORDLESS};
use support::indexes::{Index, told};
use support::measure::{Rounds, alternate, timed};
use support::ours::{self, Ours};
use support::peer::{self, Peer};
use support::report::{Unit, note};
use support::rows::shuffled;
use support::search::{K, OurSearch, RECALL, cheapest, compare_best, compare_nearest, truths};
use support::texts::{Class, Corpus, TextQuery};
use support::vectors::{Noise, recall};

const GRAPH: Index = Index::Vector { column: VECTOR, partitions: 1, codes: None };
const INDEXES: [Index; 3] = [Index::Btree(BUCKET), Index::Text(TEXT), GRAPH];
/// Edges of a node and candidates while building, the cheapest first; the last but one is Lance's default in memtables.
const GRAPHS: [(usize, usize); 5] = [(8, 32), (12, 48), (12, 64), (16, 100), (20, 150)];
/// Metrics, rows of a batch, targets.
const VOLATILE: [(&str, usize, f64); 4] = [("b1", 1, 4.0), ("b10", 10, 3.0), ("b100", 100, 2.5), ("b1000", 1_000, 2.0)];
/// Metrics, milliseconds that Lance waits at most for company, targets, rounds.
const DURABLE: [(&str, u64, Option<f64>, Rounds); 2] = [
    ("durable_b1_latency", 100, Some(40.0), Rounds::new(11, 31, 10)),
    ("durable_b1_latency_vs_1ms", 1, None, Rounds::new(51, 501, 5)),
];
/// Where the ids of the base begin.
const BASE_IDS: i64 = 1_000_000;

fn main() -> Result<()> {
    run("indexed_ingest", async |bench| {
        for (noise, suffix) in [(Noise::Shared, ""), (Noise::Independent, "_independent")] {
            let volatiles = VOLATILE.map(|(metric, ..)| format!("{metric}{suffix}"));
            let durables = DURABLE.map(|(metric, ..)| format!("{metric}{suffix}"));
            if !bench.wants(&volatiles) && !bench.wants(&durables) {
                continue;
            }
            let documents = Documents::new(noise, bench.size(1024, 32));
            let ids = shuffled(0, bench.size(20_000, 400), 3);
            let graph = answers(bench, &documents, &ids).await?;
            for ((_, batch, target), metric) in VOLATILE.into_iter().zip(&volatiles) {
                if bench.wants(&[metric]) {
                    let rows = documents.batches(&ids, 0, batch)?;
                    volatile(bench, metric, (&documents, &rows), graph, target).await?;
                }
            }
            for ((_, interval, target, rounds), metric) in DURABLE.into_iter().zip(&durables) {
                if bench.wants(&[metric]) {
                    durable(bench, metric, (&documents, interval), graph, (target, rounds)).await?;
                }
            }
        }
        Ok(())
    })
}

fn base(documents: &Documents) -> Result<Vec<RecordBatch>> {
    let ids: Vec<i64> = (BASE_IDS..BASE_IDS + 300).collect();
    Ok(vec![documents.rows(&ids, WORDLESS)?])
}

async fn our_table(bench: &Bench, documents: &Documents, settings: Settings) -> Result<Ours> {
    Ours::searched(&bench.place().fresh("ours"), &documents.schema(), base(documents)?, &INDEXES, settings).await
}

async fn peer_table(
    bench: &Bench,
    documents: &Documents,
    (edges, candidates): (usize, usize),
    config: ShardWriterConfig,
) -> Result<Peer> {
    let graph = HnswBuildParams::default().num_edges(edges).ef_construction(candidates);
    let config = config.with_hnsw_params(GRAPH.name(), graph);
    Peer::create(&bench.place().fresh("peer"), &documents.schema(), base(documents)?, &INDEXES, config).await
}

/// Compares what both sides find in the rows of this bench; gives the peer's cheapest graph that finds enough,
/// with as many rows asked for as that takes.
async fn answers(bench: &Bench, documents: &Documents, ids: &[i64]) -> Result<(usize, usize)> {
    let (mut live, rows) = (Live::new(), documents.batches(ids, 0, 100)?);
    documents.write(&mut live, ids, 0);
    documents.write(&mut live, &(BASE_IDS..BASE_IDS + 300).collect::<Vec<_>>(), WORDLESS);
    let vectors = documents.queries(bench.size(100, 5));
    let truth = truths(&live, &vectors, None);
    let texts: Vec<(i64, Vec<u32>)> = documents.texts(&live).collect();
    let queries = Class::Or3.queries(bench.size(20, 3), &[]);
    let corpus = Corpus::of(texts.into_iter(), &queries);
    let ours = our_table(bench, documents, ours::roomy()).await?;
    note(&told(&ours.table, &INDEXES));
    ours.fill(&rows).await?;
    let (near, best) = (OurSearch::new(&ours, None), OurSearch::new(&ours, None));
    for graph in GRAPHS {
        let peer = peer_table(bench, documents, graph, peer::roomy()).await?;
        peer.fill(&rows).await?;
        let sources = peer.sources().await?;
        let theirs = async |query: &[f32], asked: usize| sources.near(query, None, asked).await;
        let asked = cheapest(&truth, &vectors, (K, 64 * K), theirs).await?;
        let mut found = Vec::new();
        for query in &vectors {
            found.push(sources.near(query, None, asked).await?);
        }
        let enough = recall(&truth, &found) >= RECALL;
        if enough || Some(&graph) == GRAPHS.last() {
            note(&format!("the peer's graph: {} edges, {} candidates, asked for {asked} rows", graph.0, graph.1));
            let theirs = async |query: &Vec<f32>| sources.near(query, None, asked).await;
            compare_nearest("vectors", &truth, &vectors, async |query: &Vec<f32>| near.near(query).await, theirs)
                .await?;
            let theirs = async |query: &TextQuery| sources.best(query, None).await;
            let all = (queries.as_slice(), None);
            compare_best("texts", &corpus, all, async |query: &TextQuery| best.scores(query).await, theirs).await?;
            peer.abort().await?;
            ours.table.close().await?;
            return Ok(graph);
        }
        peer.abort().await?;
    }
    Err("there is a graph to begin with".into())
}

/// Rows a second into a new table, which is made and closed beside the measured time.
async fn volatile(
    bench: &mut Bench,
    metric: &str,
    (documents, rows): (&Documents, &[RecordBatch]),
    graph: (usize, usize),
    target: f64,
) -> Result<()> {
    let count = rows.iter().map(RecordBatch::num_rows).sum();
    let times = alternate(
        bench.rounds(Rounds::new(3, 9, 60)),
        async || {
            let ours = our_table(bench, documents, ours::roomy()).await?;
            let (time, ()) = timed(ours.fill(rows)).await?;
            ours.table.close().await?;
            Ok(time)
        },
        async || {
            let peer = peer_table(bench, documents, graph, peer::roomy()).await?;
            let (time, ()) = timed(peer.fill(rows)).await?;
            peer.abort().await?;
            Ok(time)
        },
    );
    let times = times.await?;
    bench.compared(metric, Unit::Rows(count), times, target);
    Ok(())
}

/// A lone writer that waits until each row is durable and indexed. Ours syncs; Lance never does, and waits up to 100 ms
/// for company unless told otherwise.
async fn durable(
    bench: &mut Bench,
    metric: &str,
    (documents, interval): (&Documents, u64),
    graph: (usize, usize),
    (target, rounds): (Option<f64>, Rounds),
) -> Result<()> {
    let rows = documents.batches(&shuffled(0, bench.size(1_000, 20), 9), 0, 1)?;
    let ours = our_table(bench, documents, ours::durable()).await?;
    let peer = peer_table(bench, documents, graph, peer::durable(Duration::from_millis(interval))).await?;
    let (mut our_rows, mut peer_rows) = (rows.iter().cycle().cloned(), rows.iter().cycle().cloned());
    let missing = "there are rows";
    let times = alternate(
        bench.rounds(rounds),
        async || {
            let row = our_rows.next().ok_or(missing)?;
            Ok(timed(async { Ok(ours.table.put(row).await?) }).await?.0)
        },
        async || {
            let row = peer_rows.next().ok_or(missing)?;
            Ok(timed(async { Ok(peer.writer().put(vec![row]).await?) }).await?.0)
        },
    );
    let times = times.await?;
    match target {
        Some(target) => bench.compared(metric, Unit::Microseconds, times, target),
        None => bench.beside(metric, Unit::Microseconds, times),
    }
    ours.table.close().await?;
    peer.abort().await
}
