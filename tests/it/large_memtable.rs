//! A memtable, and a generation, with so many rows that they are searched in parts side by side, against all of their rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Float32Type, Schema};
use datafusion::prelude::SessionContext;
use datafusion_lsm::index_spec::IndexSpec;
use datafusion_lsm::sql::{LsmSessionExt, LsmTableProvider};
use datafusion_lsm::table::{CreateSpec, LsmTable};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::support::plan::{analyzed, figure};
use crate::text_columns::ids_and_scores;
use crate::vector_search::ids;

const ROWS: usize = 40_000;
const WIDTH: usize = 8;
/// Words that are their own stems.
const WORDS: [&str; 6] = ["fox", "fox", "red", "dog", "cat", "sun"];

type Text = Vec<&'static str>;

fn vector(rng: &mut SmallRng, width: usize) -> Vec<f32> {
    (0..width).map(|_| rng.random()).collect()
}

fn text(rng: &mut SmallRng) -> Text {
    (0..rng.random_range(1..=5)).map(|_| WORDS[rng.random_range(0..WORDS.len())]).collect()
}

async fn filled(uri: &str, vectors: &[Vec<f32>], texts: &[Text]) -> (Arc<LsmTable>, SessionContext) {
    let width = vectors[0].len() as i32;
    let element = Arc::new(Field::new_list_field(DataType::Float32, true));
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("e", DataType::FixedSizeList(element, width), true),
        Field::new("body", DataType::Utf8, true),
    ]));
    let mut indexes = IndexSpec::parse("e", "vector(l2)").unwrap();
    indexes.extend(IndexSpec::parse("body", "fts").unwrap());
    let spec = CreateSpec {
        schema: Arc::clone(&schema),
        key: vec!["id".into()],
        shards: 1,
        shard_column: None,
        indexes,
        defaults: Default::default(),
    };
    let table = LsmTable::builder(uri).option("lsm.sync", "false").create(spec).open().await.unwrap();
    let vectors = vectors.iter().map(|e| Some(e.iter().map(|x| Some(*x)).collect::<Vec<_>>()));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..ROWS as i64)),
        Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, width)),
        Arc::new(StringArray::from_iter_values(texts.iter().map(|text| text.join(" ")))),
    ];
    let rows = RecordBatch::try_new(schema, columns).unwrap();
    for from in (0..ROWS).step_by(ROWS / 4) {
        table.put(rows.slice(from, ROWS / 4)).await.unwrap();
    }
    let session = SessionContext::new().with_lsm();
    session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(&table)))).unwrap();
    (table, session)
}

/// What each text scores for some words, by the definition of BM25.
fn scores(texts: &[Text], words: &[&str]) -> Vec<f64> {
    let n = texts.len() as f64;
    let average = texts.iter().map(Vec::len).sum::<usize>() as f64 / n;
    let mut scores = vec![0.0; texts.len()];
    for word in words {
        let has = texts.iter().filter(|text| text.contains(word)).count() as f64;
        let idf = ((n - has + 0.5) / (has + 0.5) + 1.0).ln();
        for (score, text) in scores.iter_mut().zip(texts) {
            let tf = text.iter().filter(|other| *other == word).count() as f64;
            *score += idf * 2.2 * tf / (tf + 1.2 * (0.25 + 0.75 * text.len() as f64 / average));
        }
    }
    scores
}

/// Compares the best texts for some words, none of which is of the first `gone` rows, with their definition.
async fn best_texts(session: &SessionContext, texts: &[Text], words: &[&str], (source, gone): (&str, usize)) {
    let (query, live) = (words.join(" "), &texts[gone..]);
    let scores = scores(live, words);
    let mut best = scores.clone();
    best.sort_by(|a, b| b.total_cmp(a));
    for k in [10, 300] {
        let sql = format!("SELECT id, score(body, '{query}') AS s FROM t ORDER BY s DESC LIMIT {k}");
        let plan = analyzed(session, &sql).await;
        let node = format!("TextTopKExec: source={source}");
        let figures = ["flat", "candidates", "rows_dropped"].map(|name| figure(&plan, &node, name));
        assert_eq!(figures, [0, live.len(), gone], "{plan}");
        let found = ids_and_scores(session, &sql).await;
        assert_eq!(found.len(), k, "{query}");
        for ((id, score), best) in found.iter().zip(&best) {
            assert!((score - best).abs() < 1e-4, "{query}: {id} scores {score}, not {best}");
            assert!((score - scores[*id as usize - gone]).abs() < 1e-4, "{query}: {id}");
        }
    }
}

/// Texts that have most of the words: as many postings as two threads are worth.
#[tokio::test]
async fn a_large_generation_is_searched_in_parts() {
    let mut rng = SmallRng::seed_from_u64(0x51CE);
    const MANY: [&str; 9] = ["ant", "bat", "cow", "dog", "elk", "fox", "gnu", "hen", "ibex"];
    let text = |rng: &mut SmallRng| -> Text {
        let mut words: Text = MANY.into_iter().filter(|_| rng.random_ratio(4, 5)).collect();
        words.extend((0..rng.random_range(0..4)).map(|_| MANY[rng.random_range(0..MANY.len())]));
        words
    };
    let texts: Vec<Text> = (0..ROWS).map(|_| text(&mut rng)).collect();
    let has = |word: &&str| texts.iter().filter(|text| text.contains(word)).count();
    assert!(MANY.iter().map(has).sum::<usize>() >= 2 * 8 * 16_384);
    // More bytes than a dataset may have whose rows stay in memory.
    let vectors: Vec<Vec<f32>> = (0..ROWS).map(|_| vector(&mut rng, 4 * WIDTH)).collect();
    let dir = tempfile::tempdir().unwrap();
    let (table, session) = filled(dir.path().join("t").to_str().unwrap(), &vectors, &texts).await;
    table.flush().await.unwrap();
    best_texts(&session, &texts, &MANY, ("generation", 0)).await;
    session.sql("DELETE FROM t WHERE id < 1000").await.unwrap().collect().await.unwrap();
    best_texts(&session, &texts, &MANY, ("generation", 1000)).await;
    table.close().await.unwrap();
}

#[tokio::test]
async fn a_large_memtable_is_searched_as_thoroughly_as_a_small_one() {
    let mut rng = SmallRng::seed_from_u64(0x9A27);
    let vectors: Vec<Vec<f32>> = (0..ROWS).map(|_| vector(&mut rng, WIDTH)).collect();
    let texts: Vec<Text> = (0..ROWS).map(|_| text(&mut rng)).collect();
    let dir = tempfile::tempdir().unwrap();
    let (table, session) = filled(dir.path().join("t").to_str().unwrap(), &vectors, &texts).await;
    best_texts(&session, &texts, &["fox"], ("memtable", 0)).await;
    best_texts(&session, &texts, &["sun", "red"], ("memtable", 0)).await;

    let mut searches = Vec::new();
    for condition in ["true", "id % 10 <> 0"] {
        for _ in 0..6 {
            let query: Vec<String> = vector(&mut rng, WIDTH).iter().map(f32::to_string).collect();
            let distance = format!("l2_distance(e, [{}])", query.join(", "));
            searches.push(format!("SELECT id FROM t WHERE {condition} ORDER BY {distance} LIMIT 20"));
        }
    }
    // No part looks at rows of another: each code is looked at once, or twice if it looks near.
    let plan = analyzed(&session, &searches[0]).await;
    let node = "VectorTopKExec: source=memtable";
    assert!((ROWS..=2 * ROWS).contains(&figure(&plan, node, "estimates")), "{plan}");
    assert!((20..ROWS / 10).contains(&figure(&plan, node, "distances")), "{plan}");
    let mut found = Vec::new();
    for sql in &searches {
        found.push(ids(&session, sql).await);
    }
    session.sql("SET lsm.search.mode = 'exact'").await.unwrap().collect().await.unwrap();
    let (mut hits, all) = (0, 20 * searches.len());
    for (sql, found) in searches.iter().zip(&found) {
        let nearest = ids(&session, sql).await;
        assert_eq!((found.len(), nearest.len()), (20, 20), "{sql}");
        hits += nearest.iter().filter(|id| found.contains(id)).count();
    }
    assert!(hits * 100 >= all * 95, "{hits} of {all}");
    table.close().await.unwrap();
}
