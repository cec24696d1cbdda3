//! Text queries over several columns against their definition, wherever the rows are; and what EXPLAIN ANALYZE tells of
//! searches.

use std::collections::BTreeMap;

use arrow::array::AsArray;
use arrow::datatypes::{Float32Type, Int64Type};
use datafusion::prelude::SessionContext;
use datafusion_lsm::sql::{LsmEngine, LsmSessionExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::number_from_env;
use crate::support::plan::analyzed;

/// Words that are their own stems.
const WORDS: [&str; 8] = ["red", "fox", "dog", "rod", "cat", "fog", "sun", "map"];

/// What a row has in its title and its body.
type Texts = [Option<Vec<&'static str>>; 2];

/// What is asked; a leaf names the column or none.
enum Ask {
    Word(Option<usize>, &'static str),
    Prefix(Option<usize>, &'static str),
    Phrase(Option<usize>, [&'static str; 2]),
    And(Vec<Ask>),
    Or(Vec<Ask>),
    Not(Box<Ask>),
    Times(f64, Box<Ask>),
}

use Ask::{And, Not, Or, Phrase, Prefix, Times, Word};

fn queries() -> Vec<(&'static str, Ask)> {
    vec![
        ("fox", Word(None, "fox")),
        ("fox red sun", Or(vec![Word(None, "fox"), Word(None, "red"), Word(None, "sun")])),
        ("title:fox", Word(Some(0), "fox")),
        ("title:fox body:red", Or(vec![Word(Some(0), "fox"), Word(Some(1), "red")])),
        ("fox AND title:map", And(vec![Word(None, "fox"), Word(Some(0), "map")])),
        ("fox AND NOT body:dog", And(vec![Word(None, "fox"), Not(Box::new(Word(Some(1), "dog")))])),
        ("cat NOT rod", And(vec![Word(None, "cat"), Not(Box::new(Word(None, "rod")))])),
        ("\"red fox\"", Phrase(None, ["red", "fox"])),
        ("body:\"dog cat\" OR sun^3", Or(vec![Phrase(Some(1), ["dog", "cat"]), times(3.0, Word(None, "sun"))])),
        ("fo* body:r*", Or(vec![Prefix(None, "fo"), Prefix(Some(1), "r")])),
        (
            "title:(map OR cat)^2 AND (sun OR fog)",
            And(vec![
                times(2.0, Or(vec![Word(Some(0), "map"), Word(Some(0), "cat")])),
                Or(vec![Word(None, "sun"), Word(None, "fog")]),
            ]),
        ),
        ("map OR NOT title:red", Or(vec![Word(None, "map"), Not(Box::new(Word(Some(0), "red")))])),
        ("dog AND (title:red OR NOT body:fox)", {
            let not = Not(Box::new(Word(Some(1), "fox")));
            And(vec![Word(None, "dog"), Or(vec![Word(Some(0), "red"), not])])
        }),
    ]
}

fn times(factor: f64, ask: Ask) -> Ask {
    Times(factor, Box::new(ask))
}

/// The live rows, and what their words weigh.
struct Corpus<'a>(&'a BTreeMap<i64, Texts>);

impl Corpus<'_> {
    fn column(&self, column: usize) -> Vec<&Vec<&'static str>> {
        self.0.values().filter_map(|texts| texts[column].as_ref()).filter(|text| !text.is_empty()).collect()
    }

    fn bm25(&self, column: usize, text: &[&str], word: &str) -> f64 {
        let texts = self.column(column);
        let (n, has) = (texts.len() as f64, texts.iter().filter(|text| text.contains(&word)).count() as f64);
        let average = texts.iter().map(|text| text.len()).sum::<usize>() as f64 / n;
        let tf = text.iter().filter(|other| **other == word).count() as f64;
        let idf = ((n - has + 0.5) / (has + 0.5) + 1.0).ln();
        idf * 2.2 * tf / (tf + 1.2 * (0.25 + 0.75 * text.len() as f64 / average))
    }

    /// Whether a row matches a leaf, and what it scores: the best of the columns.
    fn leaf(&self, texts: &Texts, column: Option<usize>, words: &dyn Fn(&[&str]) -> Vec<&'static str>) -> (bool, f64) {
        let columns = column.map_or(0..2, |column| column..column + 1);
        let mut found = (false, 0.0_f64);
        for column in columns {
            let text = texts[column].as_deref().unwrap_or_default();
            let words = words(text);
            if !words.is_empty() {
                let score = words.iter().map(|word| self.bm25(column, text, word)).sum();
                found = (true, found.1.max(score));
            }
        }
        found
    }

    fn of(&self, texts: &Texts, ask: &Ask) -> (bool, f64) {
        let all = |parts: &[Ask]| parts.iter().map(|part| self.of(texts, part)).collect::<Vec<_>>();
        let sum = |matches: bool, parts: Vec<(bool, f64)>| match matches {
            true => (true, parts.iter().map(|(_, score)| score).sum()),
            false => (false, 0.0),
        };
        match ask {
            Word(column, word) => {
                self.leaf(texts, *column, &|text| text.contains(word).then_some(*word).into_iter().collect())
            }
            Prefix(column, start) => {
                let words = |text: &[&str]| {
                    let has = |word: &&str| word.starts_with(start) && text.contains(word);
                    WORDS.into_iter().filter(has).collect()
                };
                self.leaf(texts, *column, &words)
            }
            Phrase(column, words) => self.leaf(texts, *column, &|text| {
                if text.windows(2).any(|pair| pair == words) { words.to_vec() } else { Vec::new() }
            }),
            And(parts) => {
                let parts = all(parts);
                sum(parts.iter().all(|(matches, _)| *matches), parts)
            }
            Or(parts) => {
                let parts = all(parts);
                sum(parts.iter().any(|(matches, _)| *matches), parts)
            }
            Not(ask) => (!self.of(texts, ask).0, 0.0),
            Times(factor, ask) => {
                let (matches, score) = self.of(texts, ask);
                (matches, score * factor)
            }
        }
    }
}

async fn run(session: &SessionContext, sql: &str) {
    session.sql(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}")).collect().await.unwrap();
}

/// The ids and scores that a statement returns, in its order.
pub(crate) async fn ids_and_scores(session: &SessionContext, sql: &str) -> Vec<(i64, f64)> {
    let found = session.sql(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}")).collect().await.unwrap();
    let mut rows = Vec::new();
    for batch in &found {
        let (ids, scores) =
            (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Float32Type>());
        rows.extend(ids.values().iter().copied().zip(scores.values().iter().map(|score| f64::from(*score))));
    }
    rows
}

/// Compares what queries find, all or one in five, with what their definitions say.
async fn check(session: &SessionContext, rows: &BTreeMap<i64, Texts>, rng: &mut StdRng, what: &str, all: bool) {
    let corpus = Corpus(rows);
    let mut queries = queries();
    queries.retain(|_| all || rng.random_ratio(1, 5));
    for (query, ask) in queries {
        let what = format!("{what}: {query}");
        let expected: BTreeMap<i64, (bool, f64)> = rows.iter().map(|(id, t)| (*id, corpus.of(t, &ask))).collect();
        let known = |id: &i64| rows[id].iter().any(Option::is_some);
        let matching: Vec<i64> = expected.iter().filter(|(id, (m, _))| *m && known(id)).map(|(id, _)| *id).collect();

        let score = format!("score(title, body, '{query}')");
        let all = ids_and_scores(session, &format!("SELECT id, {score} FROM d ORDER BY id")).await;
        assert_eq!(all.len(), rows.len(), "{what}");
        for (id, score) in &all {
            assert!((score - expected[id].1).abs() < 1e-4, "{what}: row {id} scores {score}, not {}", expected[id].1);
        }
        let filter = format!("text_match(title, body, '{query}')");
        let found = ids_and_scores(session, &format!("SELECT id, {score} FROM d WHERE {filter} ORDER BY id")).await;
        assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), matching, "{what}");

        let k = rng.random_range(1..25);
        for (condition, passes) in [("true", 1), ("id % 3 = 0", 3)] {
            let is_there = |id: &&i64| **id % passes == 0;
            let mut best: Vec<f64> = matching.iter().filter(is_there).map(|id| expected[id].1).collect();
            best.sort_by(|a, b| b.total_cmp(a));
            best.truncate(k);
            let sql =
                format!("SELECT id, {score} AS s FROM d WHERE {filter} AND {condition} ORDER BY s DESC LIMIT {k}");
            let call =
                format!("SELECT id, _score FROM text_search('d', ['title', 'body'], '{query}', {k}) WHERE {condition}");
            for sql in [sql, call] {
                let found = ids_and_scores(session, &sql).await;
                assert_eq!(found.len(), best.len(), "{what}: {sql}");
                for ((id, score), best) in found.iter().zip(&best) {
                    assert!((score - best).abs() < 1e-4, "{what}: {sql}: {id} scores {score}, not {best}");
                    assert!(expected[id].0 && (score - expected[id].1).abs() < 1e-4, "{what}: {sql}: {id}");
                }
            }
            // Those that match nothing fill up.
            let mut best: Vec<f64> = expected.iter().filter(|(id, _)| is_there(id)).map(|(_, (_, s))| *s).collect();
            best.sort_by(|a, b| b.total_cmp(a));
            best.truncate(k);
            let sql = format!("SELECT id, {score} AS s FROM d WHERE {condition} ORDER BY s DESC LIMIT {k}");
            let found = ids_and_scores(session, &sql).await;
            assert_eq!(found.len(), best.len(), "{what}: {sql}");
            for ((id, score), best) in found.iter().zip(&best) {
                assert!((score - best).abs() < 1e-4, "{what}: {sql}: {id} scores {score}, not {best}");
            }
        }
    }
}

/// Writes some rows, over others and new ones, and deletes some.
async fn write(session: &SessionContext, rows: &mut BTreeMap<i64, Texts>, rng: &mut StdRng) {
    let text = |rng: &mut StdRng, most: usize| -> Option<Vec<&'static str>> {
        let words = rng.random_range(0..most);
        (!rng.random_bool(0.15)).then(|| (0..words).map(|_| WORDS[rng.random_range(0..WORDS.len())]).collect())
    };
    let mut values = Vec::new();
    for _ in 0..60 {
        let (id, texts) = (rng.random_range(0..150), [text(rng, 4), text(rng, 9)]);
        let sql = texts.each_ref().map(|t| t.as_ref().map_or("NULL".into(), |words| format!("'{}'", words.join(" "))));
        rows.insert(id, texts);
        values.retain(|(other, _)| *other != id);
        values.push((id, format!("({id}, {}, {})", sql[0], sql[1])));
    }
    let values: Vec<String> = values.into_iter().map(|(_, row)| row).collect();
    run(session, &format!("INSERT INTO d VALUES {}", values.join(", "))).await;
    let deleted = rng.random_range(0..10);
    run(session, &format!("DELETE FROM d WHERE id % 10 = {deleted} AND id > 40")).await;
    rows.retain(|id, _| id % 10 != deleted || *id <= 40);
}

#[tokio::test]
async fn queries_over_columns_find_and_score_what_their_definition_says() {
    let seed = number_from_env("LSM_SEED", 0xC015);
    println!("LSM_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for indexes in [
        "'lsm.index.title' 'fts', 'lsm.index.body' 'fts'",
        "'lsm.index.body' 'fts'",
        "'lsm.index.sync' 'false', 'lsm.index.title' 'fts', 'lsm.index.body' 'fts'",
        "'lsm.index.title' 'btree'",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let session = SessionContext::new().with_lsm_engine(LsmEngine::new());
        let create = format!(
            "CREATE EXTERNAL TABLE d (id BIGINT PRIMARY KEY, title VARCHAR, body VARCHAR) STORED AS LSM LOCATION '{}' \
             OPTIONS ('lsm.sync' 'false', {indexes})",
            dir.path().join("d").display()
        );
        run(&session, &create).await;
        let mut rows = BTreeMap::new();
        write(&session, &mut rows, &mut rng).await;
        check(&session, &rows, &mut rng, &format!("a memtable, {indexes}"), false).await;
        // The base gets indexes where the table has them, at different times.
        run(&session, "INSERT OVERWRITE d SELECT * FROM d").await;
        for column in ["title", "body"].into_iter().filter(|column| indexes.contains(&format!("{column}' 'fts"))) {
            check(&session, &rows, &mut rng, &format!("a base, {indexes}, not yet {column}"), false).await;
            run(&session, &format!("CREATE INDEX IF NOT EXISTS {column}_fts ON d USING fts ({column})")).await;
        }
        check(&session, &rows, &mut rng, &format!("a base, {indexes}"), false).await;
        for part in 0..2 {
            write(&session, &mut rows, &mut rng).await;
            run(&session, "SELECT * FROM lsm_flush('d')").await;
            check(&session, &rows, &mut rng, &format!("{part} and a generation, {indexes}"), false).await;
        }
        write(&session, &mut rows, &mut rng).await;
        check(&session, &rows, &mut rng, &format!("all sources, {indexes}"), true).await;
    }
}

/// What EXPLAIN ANALYZE tells of a node: the names of its figures.
fn figures(plan: &str, node: &str) -> Vec<String> {
    let line = plan.lines().find(|line| line.contains(node)).unwrap_or_else(|| panic!("{node} is not in\n{plan}"));
    let metrics = line.split("metrics=[").nth(1).unwrap_or_else(|| panic!("{node} has no figures\n{plan}"));
    let names = metrics.split([',', ']']).filter_map(|figure| Some(figure.split_once('=')?.0.trim().to_string()));
    // DataFusion's own.
    let own =
        |name: &String| !name.starts_with("output_") && !name.ends_with("_timestamp") && name != "elapsed_compute";
    names.filter(own).filter(|name| name != "bytes").collect()
}

#[tokio::test]
async fn explain_analyze_tells_how_each_source_was_searched_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let session = SessionContext::new().with_lsm_engine(LsmEngine::new());
    let create = format!(
        "CREATE EXTERNAL TABLE d (id BIGINT PRIMARY KEY, body VARCHAR, note VARCHAR, e FLOAT[8]) STORED AS LSM \
         LOCATION '{}' OPTIONS ('lsm.sync' 'false', 'lsm.index.body' 'fts', 'lsm.index.e' 'vector(l2)')",
        dir.path().join("d").display()
    );
    run(&session, &create).await;
    let vector = "arrow_cast(make_array(value, 1, 2, 3, 4, 5, 6, 7), 'FixedSizeList(8 x Float32)')";
    let insert = |from: i64, to: i64| {
        format!("INSERT INTO d SELECT value, 'fox ' || value, 'dog', {vector} FROM generate_series({from}, {to})")
    };
    run(&session, &insert(1, 2000)).await;
    run(&session, "SELECT * FROM lsm_flush('d')").await;
    run(&session, &insert(1991, 2100)).await;
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };

    let plan = analyzed(&session, "SELECT id FROM d ORDER BY score(body, 'fox 7') DESC LIMIT 3").await;
    assert_eq!(sorted(figures(&plan, "PrepareExec")), names(&["documents", "flat", "words"]), "{plan}");
    for source in ["TextTopKExec: source=memtable", "TextTopKExec: source=generation"] {
        let expected = names(&["candidates", "flat", "postings", "rows_dropped", "texts_read"]);
        assert_eq!(sorted(figures(&plan, source)), expected, "{plan}");
    }
    assert!(plan.contains("rows_dropped=10"), "{plan}");
    assert!(plan.contains("candidates=110") && plan.contains("candidates=1.99 K"), "{plan}");

    let plan = analyzed(&session, "SELECT id FROM d WHERE text_match(body, '7')").await;
    for source in ["sources=[memtable 2 by text]", "sources=[generation 1 by text]"] {
        assert_eq!(sorted(figures(&plan, source)), names(&["candidates", "postings", "rows_dropped"]), "{plan}");
    }

    // No word leads to what has none of these, nor to NULL, which is not found: a scan and a filter.
    let plan = analyzed(&session, "SELECT id FROM d WHERE text_match(body, 'NOT fox')").await;
    assert!(!plan.contains("by text"), "{plan}");
    let plan = analyzed(&session, "SELECT id FROM d ORDER BY score(body, 'fox OR NOT dog') DESC LIMIT 3").await;
    assert!(figures(&plan, "source=generation 1").contains(&"flat_wordless".into()), "{plan}");

    let near = "l2_distance(e, [7, 1, 2, 3, 4, 5, 6, 7])";
    let plan = analyzed(&session, &format!("SELECT id FROM d ORDER BY {near} LIMIT 3")).await;
    let expected =
        names(&["candidates", "distances", "estimates", "flat", "flat_few_pass", "rows_dropped", "texts_read"]);
    assert_eq!(sorted(figures(&plan, "VectorTopKExec: source=memtable")), expected, "{plan}");

    let other = "SELECT id FROM d ORDER BY cosine_distance(e, [7, 1, 2, 3, 4, 5, 6, 7]) LIMIT 3";
    let plan = analyzed(&session, other).await;
    assert!(
        plan.lines().any(|line| line.contains("sources=[memtable 2]") && line.contains("flat=other metric")),
        "{plan}"
    );
    let plan = analyzed(&session, "SELECT id FROM d ORDER BY score(note, 'dog') DESC LIMIT 3").await;
    assert!(plan.lines().any(|line| line.contains("sources=[memtable 2]") && line.contains("flat=no index")), "{plan}");
    assert!(plan.contains("source=generation 1, index=text in memory, k=3, superseded_by=1 newer source"), "{plan}");
    assert!(figures(&plan, "PrepareExec").contains(&"flat_no_index".into()), "{plan}");
}
