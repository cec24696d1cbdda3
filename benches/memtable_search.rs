//! Searching what was just written, beside Lance: the workload of the seed, 62,000 rows in 620 batches, with vectors of
//! 1,024 dimensions and texts of 30 to 80 words; clean, under filters of a column with and without an index by value, and
//! after 30,000 rows were overwritten.
//!
//! Each side is searched at its cheapest setting with a recall of 0.95 or more. A search is planned and run, without
//! parsing SQL. What is found is compared with the truth before it is timed: the nearest of all live vectors, and the
//! best scores of one corpus of all live texts.

mod support;

use arrow::array::{Float32Array, RecordBatch};
use lance::Dataset;
use lance_index::scalar::FullTextSearchQuery;

use support::Result;
use support::bench::{Bench, run};
use support::documents::{BUCKET, Documents, Live, TEXT, VECTOR, WORDLESS};
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

/// Metrics and how many times better ours is to be, whatever the noise. The others are told beside them.
const TARGETS: [(&str, f64); 14] = [
    ("vector_clean", 4.0),
    ("vector_clean_bare", 1.2),
    ("vector_overwritten", 20.0),
    ("vector_filter1", 10.0),
    ("vector_filter30", 5.0),
    ("text_rare", 4.0),
    ("text_mid", 4.0),
    ("text_or3", 4.0),
    ("text_phrase", 4.0),
    ("text_mid_overwritten", 20.0),
    ("text_or3_overwritten", 100.0),
    ("text_mid_filter30", 8.0),
    ("vs_one_fragment_text", 5.0),
    ("vs_one_fragment_vector", 3.0),
];

/// What is added to a metric's name, and the rows it sees of a hundred.
type Case = (&'static str, Option<i32>);

const FILTERS: [Case; 2] = [("_filter1", Some(1)), ("_filter30", Some(30))];
const CLASSES: [(&str, Class); 4] =
    [("text_rare", Class::Rare), ("text_mid", Class::Mid), ("text_or3", Class::Or3), ("text_phrase", Class::Phrase)];

/// Plain datasets: their metrics, and the rows of a fragment if there are several.
type Plain = (&'static str, Option<usize>);

const PLAIN: [Plain; 2] = [("vs_one_fragment", None), ("vs_620_fragments", Some(BATCH))];

/// Vectors of one model, and what that adds to a metric's name.
type Model = (Noise, &'static str);

/// The noise of vectors says nothing about texts, which are searched beside the first.
const MODELS: [Model; 2] = [(Noise::Shared, ""), (Noise::Independent, "_independent")];

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
        for model in MODELS {
            if bench.wants(&named(model)) {
                searches(bench, model).await?;
            }
        }
        values(bench).await
    })
}

/// The metrics of a model.
fn named((noise, model): Model) -> Vec<String> {
    let vectors = ["vector_clean", "vector_clean_bare", "vector_overwritten"].map(str::to_string).into_iter();
    let vectors = vectors.chain(FILTERS.map(|(state, _)| format!("vector{state}")));
    let vectors = vectors.chain(PLAIN.map(|(name, _)| format!("{name}_vector")));
    let states = FILTERS.map(|(state, _)| state).into_iter().chain(["", "_overwritten"]);
    let texts = states.flat_map(|state| CLASSES.map(|(name, _)| format!("{name}{state}")));
    let texts = texts.chain(PLAIN.map(|(name, _)| format!("{name}_text"))).filter(|_| noise == Noise::Shared);
    vectors.map(|name| format!("{name}{model}")).chain(texts).collect()
}

fn target(metric: &str) -> Option<f64> {
    let metric = metric.strip_suffix(MODELS[1].1).unwrap_or(metric);
    TARGETS.iter().find(|(name, _)| *name == metric).map(|(_, target)| *target)
}

impl Pair {
    async fn new(bench: &Bench, noise: Noise, indexes: &[Index]) -> Result<Self> {
        let documents = Documents::new(noise, bench.size(1024, 32));
        let base_ids: Vec<i64> = (BASE_IDS..BASE_IDS + 300).collect();
        let base = vec![documents.rows(&base_ids, WORDLESS)?];
        let place = bench.place();
        let ours =
            Ours::searched(&place.fresh("ours"), &documents.schema(), base.clone(), indexes, ours::roomy()).await?;
        let peer = Peer::create(&place.fresh("peer"), &documents.schema(), base, indexes, peer::roomy()).await?;
        let mut live = Live::new();
        documents.write(&mut live, &base_ids, WORDLESS);
        let sources = peer.sources().await?;
        let mut pair = Self { ours, peer, sources, documents, live };
        note(&told(&pair.ours.table, indexes));
        pair.write(bench, &ids(bench), 0).await?;
        Ok(pair)
    }

    async fn write(&mut self, bench: &Bench, ids: &[i64], version: u64) -> Result<()> {
        for batch in self.documents.batches(ids, version, BATCH)? {
            self.ours.fill(std::slice::from_ref(&batch)).await?;
            self.peer.fill(&[batch]).await?;
        }
        self.documents.write(&mut self.live, ids, version);
        self.ours.settle().await?;
        self.peer.settle(bench).await?;
        self.sources = self.peer.sources().await?;
        Ok(())
    }

    async fn close(self) -> Result<()> {
        self.ours.table.close().await?;
        self.peer.abort().await
    }

    /// All rows that were written first, and those of the base.
    fn batches(&self) -> Result<Vec<RecordBatch>> {
        let ids: Vec<(i64, u64)> = self.live.iter().map(|(id, (version, _))| (*id, *version)).collect();
        let runs = ids.chunk_by(|a, b| a.1 == b.1);
        let ids = |run: &[(i64, u64)]| run.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        runs.map(|run| self.documents.rows(&ids(run), run[0].1)).collect()
    }
}

fn ids(bench: &Bench) -> Vec<i64> {
    (0..bench.size(62_000, 1_240)).collect()
}

fn queries(bench: &Bench, pair: &Pair) -> Vec<Vec<f32>> {
    pair.documents.queries(bench.size(100, 5))
}

/// All searches of one model.
async fn searches(bench: &mut Bench, (noise, model): Model) -> Result<()> {
    let with_texts = noise == Noise::Shared;
    let mut pair = Pair::new(bench, noise, &INDEXES).await?;
    let queries = queries(bench, &pair);
    for (state, end) in [("_clean", None)].into_iter().chain(FILTERS) {
        near(bench, &format!("vector{state}{model}"), end, &pair, &queries).await?;
    }
    bare(bench, &format!("vector_clean_bare{model}"), &pair, &queries).await?;
    for (name, rows) in PLAIN {
        plain_vectors(bench, &format!("{name}_vector{model}"), rows, &pair, &queries).await?;
    }
    if with_texts {
        for (state, end) in [("", None)].into_iter().chain(FILTERS) {
            for (name, class) in CLASSES {
                best(bench, &format!("{name}{state}"), end, class, &pair).await?;
            }
        }
        for (name, rows) in PLAIN {
            plain_texts(bench, &format!("{name}_text"), rows, &pair).await?;
        }
    }
    let mut again = shuffled(0, ids(bench).len(), 5);
    again.truncate(bench.size(30_000, 600));
    pair.write(bench, &again, 1).await?;
    near(bench, &format!("vector_overwritten{model}"), None, &pair, &queries).await?;
    if with_texts {
        for (name, class) in CLASSES {
            best(bench, &format!("{name}_overwritten"), None, class, &pair).await?;
        }
    }
    pair.close().await
}

/// Filters of a column that has an index by value on both sides.
async fn values(bench: &mut Bench) -> Result<()> {
    let metrics = ["vector", "text_mid"].map(|name| FILTERS.map(|(state, end)| (format!("{name}{state}_btree"), end)));
    let names: Vec<&String> = metrics.iter().flatten().map(|(name, _)| name).collect();
    if !bench.wants(&names) {
        return Ok(());
    }
    let indexes: Vec<Index> = INDEXES.into_iter().chain([Index::Btree(BUCKET)]).collect();
    let pair = Pair::new(bench, Noise::Shared, &indexes).await?;
    let queries = queries(bench, &pair);
    let [vectors, texts] = &metrics;
    for (metric, end) in vectors {
        near(bench, metric, *end, &pair, &queries).await?;
    }
    for (metric, end) in texts {
        best(bench, metric, *end, Class::Mid, &pair).await?;
    }
    pair.close().await
}

/// The nearest vectors, beside Lance's scanner.
async fn near(bench: &mut Bench, metric: &str, end: Option<i32>, pair: &Pair, queries: &[Vec<f32>]) -> Result<()> {
    if !bench.wants(&[metric]) {
        return Ok(());
    }
    let truth = truths(&pair.live, queries, end);
    let theirs = async |vector: &[f32], asked: usize| pair.sources.near(vector, end, asked).await;
    let asked = cheapest(&truth, queries, (K, 64 * K), theirs).await?;
    note(&format!("{metric}: the peer is asked for {asked} rows"));
    let search = OurSearch::new(&pair.ours, end);
    let ours = async |query: &Vec<f32>| search.near(query).await;
    let peer = async |query: &Vec<f32>| theirs(query, asked).await;
    compare_nearest(metric, &truth, queries, ours, peer).await?;
    race(bench, metric, target(metric), queries, ours, peer).await?;
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
async fn best(bench: &mut Bench, metric: &str, end: Option<i32>, class: Class, pair: &Pair) -> Result<()> {
    if !bench.wants(&[metric]) {
        return Ok(());
    }
    let (queries, corpus) = asked(bench, class, pair);
    let search = OurSearch::new(&pair.ours, end);
    let ours = async |query: &TextQuery| search.scores(query).await;
    let peer = async |query: &TextQuery| pair.sources.best(query, end).await;
    compare_best(metric, &corpus, (&queries, end), ours, peer).await?;
    race(bench, metric, target(metric), &queries, ours, peer).await
}

/// Beside Lance's scanner of one memtable, which sees neither base nor deletions.
async fn bare(bench: &mut Bench, metric: &str, pair: &Pair, queries: &[Vec<f32>]) -> Result<()> {
    if !bench.wants(&[metric]) {
        return Ok(());
    }
    let written: Live =
        pair.live.iter().filter(|(id, _)| **id < BASE_IDS).map(|(id, row)| (*id, row.clone())).collect();
    let theirs = async |vector: &[f32], ef: usize| pair.peer.bare(vector, ef).await;
    let ef = cheapest(&truths(&written, queries, None), queries, (16, 1024), theirs).await?;
    note(&format!("{metric}: peer's ef {ef}"));
    let search = OurSearch::new(&pair.ours, None);
    let ours = async |query: &Vec<f32>| search.near(query).await;
    let peer = async |query: &Vec<f32>| theirs(query, ef).await;
    compare_nearest(metric, &truths(&pair.live, queries, None), queries, ours, peer).await?;
    race(bench, metric, target(metric), queries, ours, peer).await
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
    metric: &str,
    rows: Option<usize>,
    pair: &Pair,
    queries: &[Vec<f32>],
) -> Result<()> {
    if !bench.wants(&[metric]) {
        return Ok(());
    }
    let index = Index::Vector { column: VECTOR, partitions: bench.size(248, 8), codes: None };
    let dataset = plainly(metric, pair, index, rows).await?;
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
    compare_nearest(metric, &truth, queries, ours, peer).await?;
    race(bench, metric, target(metric), queries, ours, peer).await
}

/// Words of middling frequency, beside a plain dataset with an index of its own.
async fn plain_texts(bench: &mut Bench, metric: &str, rows: Option<usize>, pair: &Pair) -> Result<()> {
    if !bench.wants(&[metric]) {
        return Ok(());
    }
    let dataset = plainly(metric, pair, Index::Text(TEXT), rows).await?;
    let (queries, corpus) = asked(bench, Class::Mid, pair);
    let search = OurSearch::new(&pair.ours, None);
    let ours = async |query: &TextQuery| search.scores(query).await;
    let peer = async |query: &TextQuery| -> Result<Vec<(i64, f64)>> {
        let query: FullTextSearchQuery = full_text(query);
        let mut scan = dataset.scan();
        scan.project(&[KEY])?.full_text_search(query)?;
        scored(&[scan.try_into_batch().await?], SCORE)
    };
    compare_best(metric, &corpus, (&queries, None), ours, peer).await?;
    race(bench, metric, target(metric), &queries, ours, peer).await
}
