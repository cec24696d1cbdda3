//! Documents: rows with a number, a text of a few words and a vector, and what searches of those that live find and
//! score by the definitions.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, FixedSizeListArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Float32Type, Schema, SchemaRef};
use datafusion::prelude::SessionContext;
use datafusion_lsm::distance::Metric;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::text_columns::ids_and_scores;
use crate::vector_search::{ids, rank, sql_of};

/// Rows that are searched for.
pub(crate) const K: usize = 10;
/// Dimensions of a vector.
const WIDTH: usize = 32;
/// Directions in which vectors lie apart; in others there is a little noise.
const AXES: usize = 8;
/// Words that are their own stems, the frequent ones first.
const WORDS: [&str; 8] = ["fox", "red", "dog", "cat", "sun", "map", "fog", "rod"];

/// What a row has beside its key.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    /// A number that no other document has, nor the same row in another version.
    pub(crate) n: i64,
    pub(crate) words: Option<Vec<&'static str>>,
    pub(crate) vector: Vec<f32>,
}

/// The rows that live, by their keys.
pub(crate) type Live = BTreeMap<i64, Document>;

/// Makes documents.
pub(crate) struct Documents {
    rng: SmallRng,
    axes: Vec<Vec<f32>>,
    /// Bytes beside them that no file can compress.
    pad: usize,
    made: i64,
}

impl Documents {
    /// Documents of this seed, each with so many bytes that nobody asks for.
    pub(crate) fn new(seed: u64, pad: usize) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut axis = || (0..WIDTH).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
        let axes = (0..AXES).map(|_| axis()).collect();
        Self { rng, axes, pad, made: 0 }
    }

    /// A vector such as documents have.
    pub(crate) fn vector(&mut self) -> Vec<f32> {
        let along: Vec<f32> = (0..AXES).map(|_| self.rng.random_range(-1.0..1.0)).collect();
        let at = |i: usize| self.axes.iter().zip(&along).map(|(axis, along)| axis[i] * along).sum::<f32>();
        let exact: Vec<f32> = (0..WIDTH).map(at).collect();
        exact.into_iter().map(|x| x + self.rng.random_range(-0.05f32..0.05)).collect()
    }

    fn document(&mut self) -> Document {
        self.made += 1;
        let word = |rng: &mut SmallRng| WORDS[(rng.random::<f32>().powi(2) * WORDS.len() as f32) as usize];
        let words = match self.rng.random_range(0..15) {
            0 => None,
            _ => Some((0..self.rng.random_range(1..10)).map(|_| word(&mut self.rng)).collect()),
        };
        Document { n: self.made, words, vector: self.vector() }
    }

    /// New documents under these keys, which live from now on: of a key that is there twice, the later one.
    pub(crate) fn rows(&mut self, keys: impl IntoIterator<Item = i64>, live: &mut Live) -> RecordBatch {
        let rows: Vec<(i64, Document)> = keys.into_iter().map(|key| (key, self.document())).collect();
        let vectors = rows.iter().map(|(_, row)| Some(row.vector.iter().map(|x| Some(*x)).collect::<Vec<_>>()));
        let texts = rows.iter().map(|(_, row)| row.words.as_ref().map(|words| words.join(" ")));
        let mut pads = Vec::new();
        for _ in &rows {
            let mut pad = vec![0u8; self.pad];
            self.rng.fill(&mut pad[..]);
            pads.push(pad);
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|(key, _)| *key))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, row)| row.n))),
            Arc::new(StringArray::from_iter(texts)),
            Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, WIDTH as i32)),
            Arc::new(BinaryArray::from_iter_values(pads)),
        ];
        live.extend(rows);
        RecordBatch::try_new(schema(), columns).unwrap()
    }
}

/// The columns of documents, the key first.
pub(crate) fn schema() -> SchemaRef {
    let pad = Field::new("pad", DataType::Binary, true);
    Arc::new(Schema::new(fields(WIDTH).into_iter().chain([pad]).collect::<Vec<_>>()))
}

/// A key, a number, a text and a vector of `width` dimensions.
pub(crate) fn fields(width: usize) -> Vec<Field> {
    let element = Arc::new(Field::new_list_field(DataType::Float32, true));
    vec![
        Field::new("id", DataType::Int64, false),
        Field::new("n", DataType::Int64, true),
        Field::new("body", DataType::Utf8, true),
        Field::new("e", DataType::FixedSizeList(element, width as i32), true),
    ]
}

/// The keys of rows to be deleted, which live no longer.
pub(crate) fn gone(keys: impl IntoIterator<Item = i64>, live: &mut Live) -> RecordBatch {
    let keys: Vec<i64> = keys.into_iter().collect();
    keys.iter().for_each(|key| drop(live.remove(key)));
    RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(keys)) as ArrayRef)]).unwrap()
}

/// The keys of the rows that are nearest to `query`.
pub(crate) fn nearest(live: &Live, metric: Metric, query: &[f32]) -> Vec<i64> {
    let mut ranked: Vec<(f64, i64)> = live.iter().map(|(key, row)| (rank(metric, &row.vector, query), *key)).collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    ranked.into_iter().take(K).map(|(_, key)| key).collect()
}

/// What each row that has one of `words` scores for them, by the definition of BM25.
fn scores(live: &Live, words: &[&str]) -> BTreeMap<i64, f64> {
    let texts: Vec<(i64, &[&str])> = live.iter().filter_map(|(key, row)| Some((*key, row.words.as_deref()?))).collect();
    let n = texts.len() as f64;
    let average = texts.iter().map(|(_, text)| text.len()).sum::<usize>() as f64 / n;
    let mut scores: BTreeMap<i64, f64> = BTreeMap::new();
    for word in words {
        let has = texts.iter().filter(|(_, text)| text.contains(word)).count() as f64;
        let idf = ((n - has + 0.5) / (has + 0.5) + 1.0).ln();
        for (key, text) in texts.iter().filter(|(_, text)| text.contains(word)) {
            let tf = text.iter().filter(|other| *other == word).count() as f64;
            let length = 0.25 + 0.75 * text.len() as f64 / average;
            *scores.entry(*key).or_default() += idf * 2.2 * tf / (tf + 1.2 * length);
        }
    }
    scores
}

/// The statement that finds the nearest rows of `t`.
pub(crate) fn nearest_sql(metric: Metric, query: &[f32]) -> String {
    let (function, direction) = sql_of(metric);
    let query: Vec<String> = query.iter().map(f32::to_string).collect();
    format!("SELECT id FROM t ORDER BY {function}(e, [{}]) {direction} LIMIT {K}", query.join(", "))
}

/// Searches for the nearest rows some times, and returns how many of them were found, of how many.
pub(crate) async fn check_nearest(
    session: &SessionContext,
    documents: &mut Documents,
    live: &Live,
    metric: Metric,
    times: usize,
) -> (usize, usize) {
    let (mut hits, mut all) = (0, 0);
    for _ in 0..times {
        let query = documents.vector();
        let (found, truth) = (ids(session, &nearest_sql(metric, &query)).await, nearest(live, metric, &query));
        assert_eq!(found.len(), truth.len(), "{metric:?}: {found:?}");
        for (place, id) in found.iter().enumerate() {
            assert!(live.contains_key(id) && !found[..place].contains(id), "{metric:?}: {id} in {found:?}");
        }
        hits += truth.iter().filter(|id| found.contains(id)).count();
        all += truth.len();
    }
    (hits, all)
}

/// Compares what a query for some words finds and scores with the definitions.
pub(crate) async fn check_texts(session: &SessionContext, live: &Live, words: &[&str]) {
    let (query, expected) = (words.join(" "), scores(live, words));
    let (matches, score) = (format!("text_match(body, '{query}')"), format!("score(body, '{query}')"));
    let matching: Vec<i64> = expected.keys().copied().collect();
    let found = ids(session, &format!("SELECT id FROM t WHERE {matches} ORDER BY id")).await;
    assert_eq!(found, matching, "{query}");
    let found = ids_and_scores(session, &format!("SELECT id, {score} FROM t WHERE {matches} ORDER BY id")).await;
    assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), matching, "{query}");
    for (id, score) in &found {
        assert!((score - expected[id]).abs() < 1e-4, "{query}: {id} scores {score}, not {}", expected[id]);
    }

    let mut best: Vec<f64> = expected.values().copied().collect();
    best.sort_by(|a, b| b.total_cmp(a));
    best.truncate(K);
    let fits = best.len();
    best.resize(K.min(live.len()), 0.0);
    for (condition, count) in [(format!("WHERE {matches}"), fits), (String::new(), best.len())] {
        let sql = format!("SELECT id, {score} AS s FROM t {condition} ORDER BY s DESC LIMIT {K}");
        let found = ids_and_scores(session, &sql).await;
        assert_eq!(found.len(), count, "{sql}");
        for ((id, score), best) in found.iter().zip(&best) {
            assert!((score - best).abs() < 1e-4, "{sql}: {id} scores {score}, not {best}");
            let own = expected.get(id).copied().unwrap_or(0.0);
            assert!(live.contains_key(id) && (score - own).abs() < 1e-4, "{sql}: {id} scores {score}, not {own}");
        }
    }
}
