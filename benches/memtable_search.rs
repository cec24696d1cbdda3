//! Searching what was just written, beside Lance: the workload of the seed, 62,000 rows in 620 batches, with vectors of
//! 1,024 dimensions and texts of 30 to 80 words; clean, under filters, and after 30,000 rows were overwritten.
//!
//! Each side is searched at its cheapest setting with a recall of 0.95 or more. A search is planned and run, without
//! parsing SQL. What is found is compared with the truth before it is timed: the nearest of all live vectors, and the
//! best scores of one corpus of all live texts.

mod support;

use arrow::array::{Float32Array, RecordBatch};
use lance::Dataset;
use lance_index::scalar::FullTextSearchQuery;
use lance_linalg::distance::DistanceType;

use support::Result;
use support::bench::{Bench, run};
use support::documents::{Documents, Live, TEXT, VECTOR, WORDLESS};
use support::indexes::{Index, create_all, told};
use support::ours::{self, Ours};
use support::peer::{self, Peer, SCORE, Sources, full_text, plain};
use support::report::note;
use support::rows::{KEY, shuffled};
use support::search::{K, OurSearch, cheapest, compare_best, compare_nearest, ids_of, race, scored, truths};
use support::texts::{Class, Corpus, TextQuery};
use support::vectors::Noise;

/// Where the ids of the base begin. Its rows have no text, so that both sides count the same texts.
const BASE_IDS: i64 = 1_000_000;
/// Rows of a batch.
const BATCH: usize = 100;
/// Only a btree of the key, and an index of each column that is searched.
const INDEXES: [Index; 3] =
    [Index::Btree(KEY), Index::Text(TEXT), Index::Vector { column: VECTOR, partitions: 1, codes: None }];

/// A metric, the rows it sees of a hundred, and its target.
type Case = (&'static str, Option<i32>, f64);

const VECTORS: [Case; 3] =
    [("vector_clean", None, 4.0), ("vector_filter1", Some(1), 10.0), ("vector_filter30", Some(30), 5.0)];
const TEXTS: [(Case, Class); 5] = [
    (("text_rare", None, 4.0), Class::Rare),
    (("text_mid", None, 4.0), Class::Mid),
    (("text_or3", None, 4.0), Class::Or3),
    (("text_phrase", None, 4.0), Class::Phrase),
    (("text_mid_filter30", Some(30), 8.0), Class::Mid),
];
const TEXTS_OVERWRITTEN: [(Case, Class); 2] =
    [(("text_mid_overwritten", None, 20.0), Class::Mid), (("text_or3_overwritten", None, 100.0), Class::Or3)];

/// Plain datasets: their metrics, the rows of a fragment if there are several, and the targets for vectors and texts.
type Plain = (&'static str, Option<usize>, Option<(f64, f64)>);

const PLAIN: [Plain; 2] = [("vs_one_fragment", None, Some((3.0, 5.0))), ("vs_620_fragments", Some(BATCH), None)];

/// Both sides with the same rows.
struct Pair {
    ours: Ours,
    peer: Peer,
    sources: Sources,
    documents: Documents,
    live: Live,
}

fn main() -> Result<()> {
    run("memtable_search", async |bench| {
        for (noise, suffix) in [(Noise::Shared, ""), (Noise::Independent, "_independent")] {
            searches(bench, noise, suffix).await?;
        }
        Ok(())
    })
}

impl Pair {
    async fn new(bench: &Bench, noise: Noise, ids: &[i64]) -> Result<Self> {
        let documents = Documents::new(noise, bench.size(1024, 32));
        let base_ids: Vec<i64> = (BASE_IDS..BASE_IDS + 300).collect();
        let base = vec![documents.rows(&base_ids, WORDLESS)?];
        let place = bench.place();
        let ours =
            Ours::searched(&place.fresh("ours"), &documents.schema(), base.clone(), &INDEXES, ours::roomy()).await?;
        let peer = Peer::create(&place.fresh("peer"), &documents.schema(), base, &INDEXES, peer::roomy()).await?;
        let mut live = Live::new();
        documents.write(&mut live, &base_ids, WORDLESS);
        let sources = peer.sources().await?;
        let mut pair = Self { ours, peer, sources, documents, live };
        pair.write(ids, 0).await?;
        Ok(pair)
    }

    async fn write(&mut self, ids: &[i64], version: u64) -> Result<()> {
        for batch in self.documents.batches(ids, version, BATCH)? {
            self.ours.fill(std::slice::from_ref(&batch)).await?;
            self.peer.fill(&[batch]).await?;
        }
        self.documents.write(&mut self.live, ids, version);
        self.ours.settle().await?;
        self.peer.settle().await?;
        self.sources = self.peer.sources().await?;
        Ok(())
    }

    /// All rows that were written first, and those of the base.
    fn batches(&self) -> Result<Vec<RecordBatch>> {
        let ids: Vec<(i64, u64)> = self.live.iter().map(|(id, (version, _))| (*id, *version)).collect();
        let runs = ids.chunk_by(|a, b| a.1 == b.1);
        let ids = |run: &[(i64, u64)]| run.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        runs.map(|run| self.documents.rows(&ids(run), run[0].1)).collect()
    }
}

async fn searches(bench: &mut Bench, noise: Noise, suffix: &str) -> Result<()> {
    // The noise of vectors says nothing about texts.
    let with_texts = noise == Noise::Shared;
    let named = |name: &str| format!("{name}{suffix}");
    let texts = TEXTS.iter().chain(&TEXTS_OVERWRITTEN).map(|((name, ..), _)| named(name)).filter(|_| with_texts);
    let vectors = VECTORS.iter().map(|(name, ..)| named(name));
    let others = ["vector_clean_bare", "vector_overwritten"].map(named);
    let plain = |kind: &str| PLAIN.map(|(name, ..)| named(&format!("{name}_{kind}")));
    let others = others.into_iter().chain(plain("vector")).chain(plain("text").into_iter().filter(|_| with_texts));
    let names: Vec<String> = texts.chain(vectors).chain(others).collect();
    if !bench.wants(&names.iter().map(String::as_str).collect::<Vec<_>>()) {
        return Ok(());
    }
    let ids: Vec<i64> = (0..bench.size(62_000, 1_240)).collect();
    let mut pair = Pair::new(bench, noise, &ids).await?;
    note(&told(&pair.ours.table, &INDEXES));
    let queries = pair.documents.queries(bench.size(100, 5));

    for case in VECTORS {
        near(bench, case, suffix, &pair, &queries).await?;
    }
    bare(bench, &named("vector_clean_bare"), &pair, &queries).await?;
    for case in PLAIN {
        plain_vectors(bench, case, suffix, &pair, &queries).await?;
    }
    if with_texts {
        for (case, class) in TEXTS {
            best(bench, case, class, &pair).await?;
        }
        for case in PLAIN {
            plain_texts(bench, case, &pair).await?;
        }
    }
    let mut again = shuffled(0, ids.len(), 5);
    again.truncate(bench.size(30_000, 600));
    pair.write(&again, 1).await?;
    near(bench, ("vector_overwritten", None, 20.0), suffix, &pair, &queries).await?;
    if with_texts {
        for (case, class) in TEXTS_OVERWRITTEN {
            best(bench, case, class, &pair).await?;
        }
    }
    pair.ours.table.close().await?;
    pair.peer.abort().await
}

/// The nearest vectors, beside Lance's scanner.
async fn near(bench: &mut Bench, case: Case, suffix: &str, pair: &Pair, queries: &[Vec<f32>]) -> Result<()> {
    let (name, end, target) = case;
    let metric = format!("{name}{suffix}");
    if !bench.wants(&[&metric]) {
        return Ok(());
    }
    let truth = truths(&pair.live, queries, end);
    let theirs = async |vector: &[f32], asked: usize| pair.sources.near(vector, end, asked).await;
    let asked = cheapest(&truth, queries, (K, 64 * K), theirs).await?;
    note(&format!("{metric}: the peer is asked for {asked} rows"));
    let search = OurSearch::new(&pair.ours, end);
    let ours = async |query: &Vec<f32>| search.near(query).await;
    let peer = async |query: &Vec<f32>| theirs(query, asked).await;
    compare_nearest(&metric, &truth, queries, ours, peer).await?;
    race(bench, &metric, Some(target), queries, ours, peer).await?;
    if asked > K {
        // Fewer rows than it takes to find as many: told, but no comparison.
        let hasty = async |query: &Vec<f32>| theirs(query, K).await;
        race(bench, &format!("{metric}_hasty_peer"), None, queries, ours, hasty).await?;
    }
    Ok(())
}

/// Queries of a class over the texts of the live rows, and those texts.
fn asked(bench: &Bench, class: Class, pair: &Pair) -> (Vec<TextQuery>, Corpus) {
    let texts: Vec<(i64, Vec<u32>)> = pair.documents.texts(&pair.live).collect();
    let samples: Vec<Vec<u32>> = texts.iter().step_by(7).map(|(_, words)| words.clone()).collect();
    let queries = class.queries(bench.size(20, 3), &samples);
    let corpus = Corpus::of(texts.into_iter(), &queries);
    (queries, corpus)
}

/// The best texts, beside Lance's scanner.
async fn best(bench: &mut Bench, (metric, end, target): Case, class: Class, pair: &Pair) -> Result<()> {
    if !bench.wants(&[metric]) {
        return Ok(());
    }
    let (queries, corpus) = asked(bench, class, pair);
    let search = OurSearch::new(&pair.ours, end);
    let ours = async |query: &TextQuery| search.scores(query).await;
    let peer = async |query: &TextQuery| pair.sources.best(query, end).await;
    compare_best(metric, &corpus, (&queries, end), ours, peer).await?;
    race(bench, metric, Some(target), &queries, ours, peer).await
}

/// Beside Lance's scanner of one memtable, which sees neither base nor deletions.
async fn bare(bench: &mut Bench, metric: &str, pair: &Pair, queries: &[Vec<f32>]) -> Result<()> {
    if !bench.wants(&[metric]) {
        return Ok(());
    }
    let written: Live =
        pair.live.iter().filter(|(id, _)| **id < BASE_IDS).map(|(id, row)| (*id, row.clone())).collect();
    let theirs = async |vector: &[f32], ef: usize| -> Result<Vec<i64>> {
        let mut scanner = pair.peer.writer().scan().await?;
        let key = Float32Array::from(vector.to_vec());
        scanner.project(&[KEY])?.nearest(VECTOR, &key, K)?.distance_metric(DistanceType::L2).ef(ef);
        Ok(ids_of(&[scanner.try_into_batch().await?]))
    };
    let ef = cheapest(&truths(&written, queries, None), queries, (16, 1024), theirs).await?;
    note(&format!("{metric}: peer's ef {ef}"));
    let search = OurSearch::new(&pair.ours, None);
    let ours = async |query: &Vec<f32>| search.near(query).await;
    let peer = async |query: &Vec<f32>| theirs(query, ef).await;
    compare_nearest(metric, &truths(&pair.live, queries, None), queries, ours, peer).await?;
    race(bench, metric, Some(1.2), queries, ours, peer).await
}

/// A plain dataset of one fragment, or of fragments of so many rows.
async fn plainly(metric: &str, pair: &Pair, index: Index, rows: Option<usize>) -> Result<Dataset> {
    let uri = format!("memory://{metric}");
    let mut dataset = plain(&uri, &pair.documents.schema(), pair.batches()?, rows).await?;
    create_all(&mut dataset, &[index]).await?;
    Ok(dataset)
}

/// Beside a plain dataset with an index of its own, as many of whose partitions are searched as it takes.
async fn plain_vectors(
    bench: &mut Bench,
    (name, rows, target): Plain,
    suffix: &str,
    pair: &Pair,
    queries: &[Vec<f32>],
) -> Result<()> {
    let metric = format!("{name}_vector{suffix}");
    if !bench.wants(&[&metric]) {
        return Ok(());
    }
    let index = Index::Vector { column: VECTOR, partitions: bench.size(248, 8), codes: None };
    let dataset = plainly(&metric, pair, index, rows).await?;
    let theirs = async |vector: &[f32], probes: usize| -> Result<Vec<i64>> {
        let key = Float32Array::from(vector.to_vec());
        let mut scan = dataset.scan();
        scan.project(&[KEY])?.nearest(VECTOR, &key, K)?.nprobes(probes);
        Ok(ids_of(&[scan.try_into_batch().await?]))
    };
    let truth = truths(&pair.live, queries, None);
    let probes = cheapest(&truth, queries, (1, 256), theirs).await?;
    note(&format!("{metric}: peer's nprobes {probes}"));
    let search = OurSearch::new(&pair.ours, None);
    let ours = async |query: &Vec<f32>| search.near(query).await;
    let peer = async |query: &Vec<f32>| theirs(query, probes).await;
    compare_nearest(&metric, &truth, queries, ours, peer).await?;
    race(bench, &metric, target.map(|(vectors, _)| vectors), queries, ours, peer).await
}

/// Words of middling frequency, beside a plain dataset with an index of its own.
async fn plain_texts(bench: &mut Bench, (name, rows, target): Plain, pair: &Pair) -> Result<()> {
    let metric = format!("{name}_text");
    if !bench.wants(&[&metric]) {
        return Ok(());
    }
    let dataset = plainly(&metric, pair, Index::Text(TEXT), rows).await?;
    let (queries, corpus) = asked(bench, Class::Mid, pair);
    let search = OurSearch::new(&pair.ours, None);
    let ours = async |query: &TextQuery| search.scores(query).await;
    let peer = async |query: &TextQuery| -> Result<Vec<(i64, f64)>> {
        let query: FullTextSearchQuery = full_text(query);
        let mut scan = dataset.scan();
        scan.project(&[KEY])?.full_text_search(query)?;
        scored(&[scan.try_into_batch().await?], SCORE)
    };
    compare_best(&metric, &corpus, (&queries, None), ours, peer).await?;
    race(bench, &metric, target.map(|(_, texts)| texts), &queries, ours, peer).await
}
