//! Searching all sources of a table, beside Lance: a base of a million rows with an IVF index of vectors of 384 dimensions
//! and an inverted index of texts, five generations and a memtable, of whose rows every fifth replaces an older one.
//!
//! Lance's planners are kept and look at twice the rows asked for. Each side searches at its cheapest setting with a
//! recall of 0.95 or more; Lance at the one that finds most if none finds that much. Ours must find exactly as many as
//! there are. Vectors are searched once more in a table, a quarter as large, whose vectors have noise in every dimension
//! alike.

mod support;

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{concat_batches, filter_record_batch, is_not_null, sort_to_indices, take_record_batch};
use datafusion::common::ScalarValue;

use support::Result;
use support::bench::{Bench, run};
use support::documents::{Documents, Live, TEXT, VECTOR, list};
use support::indexes::{Index, create_all, told};
use support::ours::{self, NAME, Ours, Prepared};
use support::peer::{self, Peer, Planners, Sources, plain};
use support::place::{copy, uri};
use support::report::note;
use support::rows::KEY;
use support::search::{K, OurSearch, compare_best, compare_nearest, fused, ids_of, race, scored, truths};
use support::shape::{Shape, newest};
use support::texts::{Class, Corpus, TextQuery};
use support::tuning::{PeerEffort, REFINE, our_effort, peer_effort};
use support::vectors::Noise;

const BATCH: usize = 1_000;
const METRICS: [&str; 4] = ["vector", "text_mid", "text_or3", "hybrid"];
const INDEPENDENT: &str = "vector_independent";

fn main() -> Result<()> {
    run("lsm_search", async |bench| {
        let shape = |part: usize| Shape {
            base: bench.size(1_000_000 / part, 3_000),
            generations: bench.size(5, 2),
            generation: bench.size(50_000 / part, 300),
            memtable: bench.size(20_000 / part, 200),
            overlap: 20,
        };
        let (whole, quarter) = (shape(1), shape(4));
        if bench.wants(&METRICS) {
            let mut table = Table::new(bench, &whole, Noise::Shared).await?;
            for (metric, class) in [("text_mid", Class::Mid), ("text_or3", Class::Or3)] {
                best(bench, metric, class, &table, &table.sources.planners(None)).await?;
            }
            if bench.wants(&["vector", "hybrid"]) {
                let setting = nearest(bench, "vector", &mut table).await?;
                hybrid(bench, &table, &setting).await?;
            }
            table.close().await?;
        }
        if bench.wants(&[INDEPENDENT]) {
            let mut table = Table::new(bench, &quarter, Noise::Independent).await?;
            nearest(bench, INDEPENDENT, &mut table).await?;
            table.close().await?;
        }
        Ok(())
    })
}

/// Both sides with the same rows; memtables are filled anew at every run, the rest is kept between runs.
struct Table {
    ours: Ours,
    peer: Peer,
    sources: Sources,
    documents: Documents,
    live: Live,
}

impl Table {
    async fn new(bench: &Bench, shape: &Shape, noise: Noise) -> Result<Self> {
        let (width, place, ids) = (bench.size(384, 16), bench.place(), shape.ids());
        let documents = Documents::new(noise, width);
        let vector = Index::Vector { column: VECTOR, partitions: bench.size(256, 4), codes: Some(width / 4) };
        // The noise of vectors says nothing about texts.
        let (name, indexes) = match noise {
            Noise::Shared => ("lsm_search", vec![Index::Btree(KEY), Index::Text(TEXT), vector]),
            Noise::Independent => ("lsm_search_independent", vec![Index::Btree(KEY), vector]),
        };
        let base = async |dir: &Path| base(dir, &documents, &ids[0], &indexes).await;
        let base = place.built(&shape.label(name, "base"), base).await?;
        let rows = (&documents, ids.as_slice(), indexes.as_slice());
        let ours = async |dir: &Path| build_ours(&base, dir, rows).await;
        let ours = place.copy_of_built(&shape.label(name, "ours"), ours).await?;
        let ours = Ours::open(&ours, ours::roomy()).await?;
        let peer = async |dir: &Path| build_peer(&base, dir, rows).await;
        let peer = place.copy_of_built(&shape.label(name, "peer"), peer).await?;
        let peer = Peer::open(&peer, peer::roomy()).await?;
        let last = ids.len() - 1;
        for batch in documents.batches(&ids[last], last as u64, BATCH)? {
            ours.fill(std::slice::from_ref(&batch)).await?;
            peer.fill(&[batch]).await?;
        }
        ours.settle().await?;
        peer.settle(bench).await?;
        let mut live = Live::new();
        for (id, version) in newest(&ids) {
            documents.write(&mut live, &[id], version);
        }
        note(&told(&ours.table, &indexes));
        Ok(Self { sources: peer.sources().await?, ours, peer, documents, live })
    }

    async fn close(self) -> Result<()> {
        self.ours.table.close().await?;
        self.peer.abort().await
    }
}

/// The dataset that both sides begin with, and its indexes.
async fn base(dir: &Path, documents: &Documents, ids: &[i64], indexes: &[Index]) -> Result<()> {
    let mut dataset = plain(uri(dir)?, &documents.schema(), documents.batches(ids, 0, BATCH)?, None).await?;
    create_all(&mut dataset, indexes).await
}

type Rows<'a> = (&'a Documents, &'a [Vec<i64>], &'a [Index]);

async fn build_ours(base: &Path, dir: &Path, (documents, ids, _): Rows<'_>) -> Result<()> {
    copy(base, dir)?;
    // The table takes over the indexes that the dataset has.
    let ours = Ours::adopt(dir, &[], ours::roomy()).await?;
    for (version, ids) in ids.iter().enumerate().take(ids.len() - 1).skip(1) {
        ours.fill(&documents.batches(ids, version as u64, BATCH)?).await?;
        ours.table.flush().await?;
    }
    Ok(ours.table.close().await?)
}

async fn build_peer(base: &Path, dir: &Path, (documents, ids, indexes): Rows<'_>) -> Result<()> {
    copy(base, dir)?;
    let peer = Peer::adopt(dir, indexes, peer::roomy()).await?;
    for (version, ids) in ids.iter().enumerate().take(ids.len() - 1).skip(1) {
        peer.fill(&documents.batches(ids, version as u64, BATCH)?).await?;
        peer.flush().await?;
    }
    peer.close().await
}

/// The peer's planners and how many partitions of the base they search.
struct Setting {
    planners: Planners,
    probes: usize,
}

/// How many partitions are searched, until enough is found.
fn probes(bench: &Bench) -> Vec<usize> {
    bench.size(vec![8, 16, 32, 64, 128, 256], vec![4])
}

/// The nearest vectors, both sides at their cheapest settings. Gives the peer's; ours stays set.
async fn nearest(bench: &mut Bench, metric: &str, table: &mut Table) -> Result<Setting> {
    let queries = table.documents.queries(bench.size(100, 5));
    let truth = truths(&table.live, &queries, None);
    let wanted = (queries.as_slice(), truth.as_slice());
    let PeerEffort { probes: searched, refine } =
        peer_effort(&table.sources, wanted, &probes(bench), &REFINE.map(Some)).await?;
    let setting = Setting { planners: table.sources.planners(refine), probes: searched };
    our_effort(&mut table.ours, wanted, &probes(bench)).await?;
    if bench.wants(&[metric]) {
        let search = OurSearch::new(&table.ours, None);
        let ours = async |query: &Vec<f32>| search.near(query).await;
        let peer = async |query: &Vec<f32>| setting.planners.near(query, setting.probes).await;
        compare_nearest(metric, &truth, &queries, ours, peer).await?;
        race(bench, metric, Some(3.0), &queries, ours, peer).await?;
    }
    Ok(setting)
}

/// Queries of a class over the texts of the live rows, and those texts.
fn asked(bench: &Bench, class: Class, table: &Table) -> (Vec<TextQuery>, Corpus) {
    let queries = class.queries(bench.size(20, 3), &[]);
    let corpus = Corpus::of(table.documents.texts(&table.live), &queries);
    (queries, corpus)
}

/// The best texts.
async fn best(bench: &mut Bench, metric: &str, class: Class, table: &Table, planners: &Planners) -> Result<()> {
    if !bench.wants(&[metric]) {
        return Ok(());
    }
    let (queries, corpus) = asked(bench, class, table);
    let search = OurSearch::new(&table.ours, None);
    let ours = async |query: &TextQuery| search.scores(query).await;
    let peer = async |query: &TextQuery| planners.best(query).await;
    compare_best(metric, &corpus, (&queries, None), ours, peer).await?;
    race(bench, metric, Some(3.0), &queries, ours, peer).await
}

/// A vector and a text at once.
struct Both {
    vector: Vec<f32>,
    text: TextQuery,
}

impl AsRef<TextQuery> for Both {
    fn as_ref(&self) -> &TextQuery {
        &self.text
    }
}

/// A prepared hybrid search for so many rows, of which each side contributes [`K`].
async fn statement(ours: &Ours, rows: usize) -> Result<Prepared<'_>> {
    let sides = format!("vector_limit => {K}, text_limit => {K}");
    let call = format!("hybrid_search('{NAME}', '{VECTOR}', $1, '{TEXT}', $2, {rows}, {sides})");
    ours.prepare(&format!("SELECT {KEY}, _vector_rank, _text_rank, _text_score FROM {call}")).await
}

async fn ask(statement: &Prepared<'_>, query: &Both) -> Result<Vec<RecordBatch>> {
    let vector = ScalarValue::FixedSizeList(Arc::new(list(query.vector.clone(), query.vector.len())?));
    statement.rows(vec![vector, ScalarValue::from(query.text.typed())]).await
}

/// The rows that one side contributed, the best first.
fn side(rows: &[RecordBatch], rank: &str) -> Result<Vec<RecordBatch>> {
    let schema = rows.first().ok_or("a hybrid search finds rows")?.schema();
    let rows = concat_batches(&schema, rows)?;
    let rows = filter_record_batch(&rows, &is_not_null(&rows[rank])?)?;
    Ok(vec![take_record_batch(&rows, &sort_to_indices(&rows[rank], None, None)?)?])
}

/// The ids of two lists as one, the best first.
fn both(near: &[i64], best: &[(i64, f64)]) -> Vec<i64> {
    let best: Vec<i64> = best.iter().map(|(id, _)| *id).collect();
    fused(near, &best).into_iter().take(K).map(|(id, _)| id).collect()
}

/// A vector and a text at once. Lance has no such search: on both sides two run side by side and the bench fuses their
/// ranks. What one statement of ours takes, which plans a join of the two, is told beside it.
async fn hybrid(bench: &mut Bench, table: &Table, setting: &Setting) -> Result<()> {
    let metrics = ["hybrid", "hybrid_statement"];
    if !bench.wants(&metrics) {
        return Ok(());
    }
    let (texts, corpus) = asked(bench, Class::Or3, table);
    let vectors = table.documents.queries(texts.len());
    let truth = truths(&table.live, &vectors, None);
    let queries: Vec<Both> = vectors.into_iter().zip(texts).map(|(vector, text)| Both { vector, text }).collect();
    let search = OurSearch::new(&table.ours, None);
    let all = statement(&table.ours, 2 * K).await?;
    // Fused ranks say little: texts of one score may come in any order. What is fused is compared.
    let theirs = async |query: &Both| setting.planners.near(&query.vector, setting.probes).await;
    let ours = async |query: &Both| search.near(&query.vector).await;
    compare_nearest(metrics[0], &truth, &queries, ours, theirs).await?;
    let ours = async |query: &Both| Ok(ids_of(&side(&ask(&all, query).await?, "_vector_rank")?));
    compare_nearest(metrics[1], &truth, &queries, ours, theirs).await?;
    let theirs = async |query: &Both| setting.planners.best(&query.text).await;
    let ours = async |query: &Both| search.scores(&query.text).await;
    compare_best(metrics[0], &corpus, (&queries, None), ours, theirs).await?;
    let ours = async |query: &Both| scored(&side(&ask(&all, query).await?, "_text_rank")?, "_text_score");
    compare_best(metrics[1], &corpus, (&queries, None), ours, theirs).await?;

    let ours = async |query: &Both| {
        let (near, best) = tokio::try_join!(search.near(&query.vector), search.scores(&query.text))?;
        Ok(both(&near, &best))
    };
    let peer = async |query: &Both| {
        let near = setting.planners.near(&query.vector, setting.probes);
        let (near, best) = tokio::try_join!(near, setting.planners.best(&query.text))?;
        Ok(both(&near, &best))
    };
    race(bench, metrics[0], Some(3.0), &queries, ours, peer).await?;
    let few = statement(&table.ours, K).await?;
    race(bench, metrics[1], None, &queries, async |query| ask(&few, query).await, peer).await
}
