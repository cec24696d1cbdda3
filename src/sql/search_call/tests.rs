//! Calls against what they stand for, and under changes.

use std::any::Any;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::catalog::TableFunctionArgs;
use datafusion::common::ScalarValue;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{Expr, col, lit};
use datafusion::physical_plan::{ExecutionPlanProperties, collect};
use datafusion::prelude::SessionContext;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::SearchFunction;
use crate::distance::Metric;
use crate::error::ErrorKind;
use crate::sql::fixture::{Fixture, run, text};
use crate::sql::{LsmSessionExt, LsmTableProvider, TableSearch};

const WORDS: [&str; 8] = ["log", "structured", "merge", "tree", "forest", "running", "vector", "scan"];

/// A session with the table `d` of `rows` rows in several sources, each of another version of some keys.
async fn documents(fixture: &Fixture, rng: &mut StdRng, rows: usize) -> SessionContext {
    let session = fixture.session();
    let create = format!(
        "CREATE EXTERNAL TABLE d (id BIGINT PRIMARY KEY, kind BIGINT, body VARCHAR, e FLOAT[3]) STORED AS LSM \
         LOCATION '{}' OPTIONS ('lsm.sync' 'false', 'lsm.index.e' 'vector(l2)', 'lsm.index.body' 'fts')",
        fixture.path("d")
    );
    run(&session, &create).await.unwrap();
    for part in 0..3 {
        let row = |rng: &mut StdRng| {
            let words: Vec<_> = (0..rng.random_range(0..6)).map(|_| WORDS[rng.random_range(0..WORDS.len())]).collect();
            let [x, y, z] = [0; 3].map(|_| rng.random_range(-99..99));
            let vector = if rng.random_bool(0.1) { "NULL".into() } else { format!("[{x}, {y}.5, {z}]") };
            let (id, kind) = (rng.random_range(0..rows), rng.random_range(0..4));
            format!("({id}, {kind}, '{}', {vector})", words.join(" "))
        };
        let values: Vec<String> = (0..rows / 2).map(|_| row(rng)).collect();
        run(&session, &format!("INSERT INTO d VALUES {}", values.join(", "))).await.unwrap();
        if part < 2 {
            run(&session, "SELECT * FROM lsm_flush('d')").await.unwrap();
        }
    }
    session
}

#[tokio::test]
async fn a_call_finds_what_a_sort_with_a_limit_finds() {
    for seed in 0..3 {
        let mut rng = StdRng::seed_from_u64(seed);
        let fixture = Fixture::new();
        let session = documents(&fixture, &mut rng, 120).await;
        for _ in 0..10 {
            let k = rng.random_range(1..20);
            let filter = ["kind = 1", "id % 3 = 0", "kind < 3 AND id > 7", "true"][rng.random_range(0..4)];
            let vector = format!("[{}, 0.25, {}]", rng.random_range(-99..99), rng.random_range(-99..99));
            let metric = ["l2", "cosine"][rng.random_range(0..2)];
            let call = format!(
                "SELECT _distance FROM vector_search('d', 'e', {vector}, {k}, '{metric}') WHERE {filter} ORDER BY 1"
            );
            let sort = format!(
                "SELECT {metric}_distance(e, {vector}) AS far FROM d WHERE {filter} AND e IS NOT NULL \
                 ORDER BY far LIMIT {k}"
            );
            assert_eq!(run(&session, &call).await.unwrap(), run(&session, &sort).await.unwrap(), "seed {seed}: {call}");
            let query =
                ["log tree", "+merge run*", "\"log structured\" OR forst~", "scan -vector"][rng.random_range(0..4)];
            let call =
                format!("SELECT _score FROM text_search('d', 'body', '{query}', {k}) WHERE {filter} ORDER BY 1 DESC");
            let sort = format!(
                "SELECT score(body, '{query}') AS fit FROM d WHERE {filter} AND text_match(body, '{query}') \
                 ORDER BY fit DESC LIMIT {k}"
            );
            assert_eq!(run(&session, &call).await.unwrap(), run(&session, &sort).await.unwrap(), "seed {seed}: {call}");
            let call = format!(
                "SELECT id, _vector_rank, _text_rank FROM hybrid_search('d', 'e', {vector}, 'body', '{query}', {k}, \
                 vector_limit => 1000, text_limit => 1000) WHERE {filter}"
            );
            let joined = format!(
                "WITH v AS (SELECT id, rank() OVER (ORDER BY l2_distance(e, {vector})) AS r FROM d \
                            WHERE {filter} AND e IS NOT NULL), \
                      t AS (SELECT id, rank() OVER (ORDER BY score(body, '{query}') DESC) AS r FROM d \
                            WHERE {filter} AND text_match(body, '{query}')) \
                 SELECT coalesce(v.id, t.id) AS id, v.r, t.r FROM v FULL JOIN t ON v.id = t.id \
                 ORDER BY coalesce(1.0 / (60.0 + v.r), 0.0) + coalesce(1.0 / (60.0 + t.r), 0.0) DESC, id LIMIT {k}"
            );
            assert_eq!(
                run(&session, &call).await.unwrap(),
                run(&session, &joined).await.unwrap(),
                "seed {seed}: {call}"
            );
        }
    }
}

#[tokio::test]
async fn who_sees_a_table_and_no_plan_finds_the_same() {
    let fixture = Fixture::new();
    let session = documents(&fixture, &mut StdRng::seed_from_u64(9), 60).await;
    let state = session.state();
    let function = &state.table_functions()[SearchFunction::Text.name()];
    let arguments = [lit("d"), lit("body"), lit("log tree"), lit(7_i64)];
    let table = function.create_table_provider_with_args(TableFunctionArgs::new(&arguments, &state)).unwrap();
    let filters = [col("kind").lt(lit(3_i64))];
    let plan = table.scan(&state, Some(&vec![0, 4]), &filters, Some(5)).await.unwrap();
    let found: Vec<RecordBatch> = collect(plan, session.task_ctx()).await.unwrap();
    let sql = "SELECT id, _score FROM text_search('d', 'body', 'log tree', 7) WHERE kind < 3 LIMIT 5";
    assert_eq!(text(&found), run(&session, sql).await.unwrap());
    assert_eq!(text(&found).len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hybrid_search_and_what_it_is_joined_with_see_one_snapshot() {
    let fixture = Fixture::new();
    let session = fixture.session();
    let create = format!(
        "CREATE EXTERNAL TABLE s (id BIGINT PRIMARY KEY, n BIGINT, body VARCHAR, e FLOAT[1]) STORED AS LSM \
         LOCATION '{}' OPTIONS ('lsm.sync' 'false', 'lsm.index.e' 'vector(l2)', 'lsm.index.body' 'fts')",
        fixture.path("s")
    );
    run(&session, &create).await.unwrap();
    run(&session, "INSERT INTO s SELECT value, 0, 'word', [0.0] FROM generate_series(1, 40)").await.unwrap();
    let writes = async {
        for n in 1..15 {
            run(&session, &format!("UPDATE s SET n = {n}, e = [{n}]")).await.unwrap();
        }
    };
    let reads = async {
        for _ in 0..15 {
            let sql = "SELECT count(DISTINCT h.n), count(DISTINCT h._distance), count(*) \
                       FROM hybrid_search('s', 'e', [0.0], 'body', 'word', 60, vector_limit => 20, text_limit => 40) h \
                       JOIN s ON s.id = h.id AND s.n = h.n";
            assert_eq!(run(&session, sql).await.unwrap(), ["1 1 40"]);
        }
    };
    tokio::join!(writes, reads);
}

#[tokio::test]
async fn a_session_learns_named_arguments_once() {
    let fixture = Fixture::new();
    let session = fixture.session().with_lsm_engine(Arc::clone(&fixture.engine));
    assert_eq!(session.state().relation_planners().len(), 1);
    let builder = SessionStateBuilder::new().with_default_features().with_lsm_engine(Arc::clone(&fixture.engine));
    let state = builder.with_lsm_engine(Arc::clone(&fixture.engine)).build();
    assert_eq!(state.relation_planners().len(), 1);
    let again = SessionContext::new_with_state(state).with_lsm_engine(Arc::clone(&fixture.engine));
    assert_eq!(again.state().relation_planners().len(), 1);
}

#[tokio::test]
async fn a_search_from_rust_finds_what_the_call_finds() {
    for seed in 0..3 {
        let mut rng = StdRng::seed_from_u64(seed);
        let fixture = Fixture::new();
        let session = documents(&fixture, &mut rng, 120).await;
        let provider = session.table_provider("d").await.unwrap();
        let table = Arc::clone((provider.as_ref() as &dyn Any).downcast_ref::<LsmTableProvider>().unwrap().table());
        for _ in 0..14 {
            let k = [0, 1, 7, 40, 20_000][rng.random_range(0..5)];
            let (filter, sql) = [
                (col("kind").eq(lit(1)), "kind = 1"),
                ((col("id") % lit(3)).eq(lit(0)), "id % 3 = 0"),
                (col("kind").lt(lit(3)).and(col("id").gt(lit(7_u8))), "kind < 3 AND id > 7"),
                (text_match("body", "merge OR tree"), "text_match(body, 'merge OR tree')"),
                (lit(true), "true"),
            ][rng.random_range(0..5)]
            .clone();
            let vector = [rng.random_range(-99..99) as f32, 0.25, rng.random_range(-99..99) as f32];
            let (metric, name) =
                [(Metric::L2, "l2"), (Metric::Cosine, "cosine"), (Metric::InnerProduct, "inner_product")]
                    [rng.random_range(0..3)];
            let state = session.state();
            let nearest = TableSearch::nearest(&table, "e", metric, &vector).k(k).filter(filter.clone());
            let rows = nearest.select(["kind"]).rows(&state).await.unwrap();
            let call = format!("vector_search('d', 'e', {vector:?}, {k}, '{name}') WHERE {sql}");
            let distances = format!(
                "SELECT _distance FROM {call} ORDER BY 1 {}",
                if name == "inner_product" { "DESC" } else { "" }
            );
            let values =
                |rows: &[RecordBatch]| text(&rows.iter().map(|rows| rows.project(&[1]).unwrap()).collect::<Vec<_>>());
            assert_eq!(values(&rows), run(&session, &distances).await.unwrap(), "seed {seed}: {call}");

            let query = ["log", "merg* AND NOT scan", "\"structured merge\"~3 vektor~", "the"][rng.random_range(0..4)];
            let best = TableSearch::text(&table, ["body"], query).k(k).filter(filter).select(["id"]);
            let call = format!("text_search('d', 'body', '{query}', {k}) WHERE {sql}");
            let scores = format!("SELECT _score FROM {call} ORDER BY 1 DESC");
            let rows = best.rows(&state).await.unwrap();
            assert_eq!(values(&rows), run(&session, &scores).await.unwrap(), "seed {seed}: {call}");
        }
    }
}

fn text_match(column: &str, query: &str) -> Expr {
    crate::sql::text::function().call(vec![col(column), lit(query)])
}

#[tokio::test]
async fn a_search_from_rust_says_what_is_wrong_and_what_it_is() {
    let fixture = Fixture::new();
    let session = documents(&fixture, &mut StdRng::seed_from_u64(0), 40).await;
    let provider = session.table_provider("d").await.unwrap();
    let table = Arc::clone((provider.as_ref() as &dyn Any).downcast_ref::<LsmTableProvider>().unwrap().table());
    let state = session.state();
    let nearest = |column: &str, query: &[f32]| TableSearch::nearest(&table, column, Metric::L2, query);
    for (search, part) in [
        (nearest("x", &[0.0; 3]), "no column 'x', there are: id, kind, body, e"),
        (nearest("body", &[0.0; 3]), "such as FLOAT[384], and 'body' is"),
        (nearest("e", &[0.0; 2]), "vectors of 3 elements, and the one searched for has 2"),
        (nearest("e", &[0.0, f32::NAN, 0.0]), "no finite number"),
        (nearest("e", &[0.0; 3]).select(["id", "no"]), "no column 'no'"),
        (nearest("e", &[0.0; 3]).filter(col("no").eq(lit(1))), "no"),
        (TableSearch::text(&table, ["kind"], "log"), "VARCHAR, and 'kind' is Int64"),
        (TableSearch::text(&table, ["body"], "(log"), "("),
        (TableSearch::text(&table, ["no"], "log"), "no column 'no'"),
        (TableSearch::text(&table, Vec::<String>::new(), "log"), "at least one column"),
        (TableSearch::text(&table, ["body"], "log").filter(col("id")), "which rows are wanted, and id is Int64"),
        (nearest("e", &[0.0; 3]).filter(lit(1)), "which rows are wanted, and Int32(1) is Int32"),
    ] {
        let error = search.plan(&state).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    let now = datafusion::functions::datetime::expr_fn::now;
    for (filter, count) in [(now().is_not_null(), 10), (now().is_null(), 0), (lit(ScalarValue::Null), 0)] {
        for search in [nearest("e", &[0.0; 3]), TableSearch::text(&table, ["body"], "log OR NOT log")] {
            let rows = search.filter(filter.clone()).rows(&state).await.unwrap();
            assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), count, "{filter}");
        }
    }
    let snapshot = table.snapshot();
    run(&session, "DELETE FROM d").await.unwrap();
    assert!(nearest("e", &[0.0; 3]).rows(&state).await.unwrap().iter().all(|rows| rows.num_rows() == 0));
    let then = nearest("e", &[0.0; 3]).as_of(snapshot).k(4).rows(&state).await.unwrap();
    assert_eq!(then.iter().map(RecordBatch::num_rows).sum::<usize>(), 4);
    assert_eq!(then[0].schema().field(4).name(), "_distance");
    let plan = nearest("e", &[0.0; 3]).plan(&state).unwrap();
    assert_eq!(plan.output_partitioning().partition_count(), 1);
    assert!(plan.output_ordering().is_some());
}
