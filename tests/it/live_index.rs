//! Indexes that come and go while others write, flush, replace and drop the table.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, FixedSizeListArray, Int64Array, RecordBatch, RecordBatchIterator, StringArray, StructArray,
};
use arrow::datatypes::{DataType, Field, Float32Type};
use datafusion::physical_plan::EmptyRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionContext;
use datafusion_lsm::base::AdoptSpec;
use datafusion_lsm::error::ErrorKind;
use datafusion_lsm::index_spec::IndexSpec;
use datafusion_lsm::sql::LsmSessionExt;
use datafusion_lsm::table::{IndexInfo, LsmTable};
use lance::index::DatasetIndexExt;
use lance::index::vector::VectorIndexParams;
use lance_index::IndexType;
use lance_index::scalar::{BuiltinIndexType, InvertedIndexParams, ScalarIndexParams};
use lance_linalg::distance::DistanceType;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::support::number_from_env;
use crate::table::{rows, scan, spec};

fn index(column: &str, kind: &str) -> IndexSpec {
    IndexSpec::parse(column, kind).unwrap().remove(0)
}

async fn create(uri: &str) -> Arc<LsmTable> {
    LsmTable::builder(uri).create(spec(1)).option("lsm.sync", "false").open().await.unwrap()
}

async fn open(uri: &str) -> Arc<LsmTable> {
    LsmTable::builder(uri).option("lsm.base.refresh", "none").open().await.unwrap()
}

fn names(table: &LsmTable) -> Vec<String> {
    table.indexes().into_iter().map(|index| index.name).collect()
}

/// What memtables have, once every index has all rows.
async fn caught_up(table: &LsmTable) -> Vec<IndexInfo> {
    let behind = async {
        loop {
            let info = table.index_info().await.unwrap();
            if info.iter().all(|i| i.source != "memtable" || i.indexed == i.rows) {
                return info;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), behind).await.expect("indexes catch up")
}

#[tokio::test(flavor = "multi_thread")]
async fn memtables_get_a_new_index_and_lose_a_dropped_one() {
    let dir = tempfile::tempdir().unwrap();
    let table = create(dir.path().join("t").to_str().unwrap()).await;
    for i in 0..200 {
        table.put(rows(&[i], "before")).await.unwrap();
    }
    assert!(table.create_index(&index("body", "fts"), false).await.unwrap());
    assert!(!table.create_index(&index("body", "fts"), true).await.unwrap());
    let info = caught_up(&table).await;
    assert_eq!(
        info.iter().map(|i| (i.source, i.rows, i.indexed)).collect::<Vec<_>>(),
        [("memtable", 200, 200), ("base", 0, 0)]
    );
    // From now on rows wait for it.
    for i in 0..20 {
        table.put(rows(&[i], "after")).await.unwrap();
        let snapshot = table.snapshot();
        let view = &snapshot.memtables(0)[0];
        assert!(view.table().indexes()[0].indexed() >= view.watermark());
    }
    let with = table.snapshot().memtables(0)[0].table().memory();
    assert!(table.drop_index("body_fts", false).await.unwrap());
    let view = &table.snapshot().memtables(0)[0].clone();
    assert!(view.table().indexes().is_empty() && view.table().memory() < with);
    assert_eq!(table.drop_index("body_fts", false).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert!(!table.drop_index("body_fts", true).await.unwrap());
    assert_eq!(scan(&table).await.len(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_change_while_rows_are_written_and_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let table = create(dir.path().join("t").to_str().unwrap()).await;
    let writing = async {
        for i in 0..150 {
            table.put(rows(&[i, 1000 + i], "row")).await.unwrap();
            if i % 40 == 39 {
                table.flush().await.unwrap();
            }
        }
    };
    let changing = async {
        for round in 0..12 {
            let language = if round % 2 == 0 { "English" } else { "German" };
            table.create_index(&index("body", &format!("fts(language={language})")), false).await.unwrap();
            tokio::task::yield_now().await;
            table.drop_index("body_fts", false).await.unwrap();
        }
        table.create_index(&index("body", "fts"), false).await.unwrap();
    };
    tokio::join!(writing, changing);
    assert_eq!(scan(&table).await.len(), 300);
    table.put(rows(&[1], "last")).await.unwrap();
    caught_up(&table).await;
    let indexes = table.snapshot().memtables(0)[0].table().indexes();
    assert!(indexes.len() == 1 && indexes[0].failure().is_none() && indexes[0].is_awaited());
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_create_indexes_at_once_all_get_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("t").to_string_lossy().into_owned();
    let first = create(&uri).await;
    first.put(rows(&[1, 2], "row")).await.unwrap();
    let (second, third) = (open(&uri).await, open(&uri).await);
    let kinds = ["fts", "btree", "bitmap"];
    let specs = kinds.map(|kind| index("body", kind));
    let (a, b, c) = tokio::join!(
        first.create_index(&specs[0], false),
        second.create_index(&specs[1], false),
        third.create_index(&specs[2], false)
    );
    assert!(a.unwrap() && b.unwrap() && c.unwrap());
    for table in [&first, &second, &third] {
        table.refresh().await.unwrap();
        let mut names = names(table);
        names.sort();
        assert_eq!(names, ["body_bitmap", "body_btree", "body_fts"]);
    }
    assert_eq!(first.snapshot().memtables(0)[0].table().indexes().len(), first.indexes().len());
    // A statement that read before an index came does not conflict with it: no row changed.
    let before = first.snapshot();
    second.drop_index("body_bitmap", false).await.unwrap();
    first.refresh().await.unwrap();
    assert_eq!(before.version().shards[0].foreign_changes, first.snapshot().version().shards[0].foreign_changes);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_declared_while_rows_are_replaced_forgets_no_generation() {
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("t").to_string_lossy().into_owned();
    let writer = create(&uri).await;
    let other = open(&uri).await;
    for round in 0..6 {
        writer.put(rows(&[round, 100 + round], "old")).await.unwrap();
        writer.flush().await.unwrap();
        let spec = index("body", "fts");
        let nothing = Box::pin(EmptyRecordBatchStream::new(writer.schema()));
        let (replaced, created) = tokio::join!(writer.replace_all(nothing), other.create_index(&spec, true));
        replaced.unwrap();
        // The rows that the base's index was made of may be gone by then.
        assert!(created.is_ok() || created.unwrap_err().kind() == ErrorKind::Conflict);
        writer.refresh().await.unwrap();
        let fresh = open(&uri).await;
        assert_eq!((scan(&writer).await.len(), scan(&fresh).await.len()), (0, 0));
        other.drop_index("body_fts", true).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_table_gets_no_index() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let table = create(path.to_str().unwrap()).await;
    let other = open(path.to_str().unwrap()).await;
    table.put(rows(&(0..500).collect::<Vec<_>>(), "row")).await.unwrap();
    let spec = index("body", "fts");
    let (created, destroyed) = tokio::join!(table.create_index(&spec, false), table.destroy());
    destroyed.unwrap();
    assert!(created.is_ok() || created.unwrap_err().kind() == ErrorKind::Closed);
    assert!(!path.exists());
    assert!(table.create_index(&spec, true).await.is_err() && other.create_index(&spec, true).await.is_err());
    assert!(!path.exists(), "nothing comes back");
}

/// A plain Lance dataset with indexes.
async fn dataset(uri: &str) -> lance::Dataset {
    let vectors = (0..300).map(|i| Some([i as f32, 1.0, 0.0, 0.0].map(Some)));
    let batch = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from_iter_values(0..300)) as ArrayRef),
        ("body", Arc::new(StringArray::from_iter_values((0..300).map(|i| format!("Häuser {i}"))))),
        ("e", Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, 4))),
    ])
    .unwrap();
    let schema = batch.schema();
    let batches = RecordBatchIterator::new([Ok(batch)], schema);
    let mut dataset = lance::Dataset::write(batches, uri, None).await.unwrap();
    let text = InvertedIndexParams::default().language("German").unwrap().stem(false).max_token_length(Some(30));
    dataset.create_index(&["body"], IndexType::Inverted, Some("words".into()), &text, false).await.unwrap();
    let vectors = VectorIndexParams::ivf_pq(2, 8, 2, DistanceType::Cosine, 10);
    dataset.create_index(&["e"], IndexType::Vector, Some("near".into()), &vectors, false).await.unwrap();
    dataset
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_brings_its_indexes_along() {
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("t").to_string_lossy().into_owned();
    dataset(&uri).await;
    let adopt = |indexes| AdoptSpec { key: vec!["id".into()], indexes, ..AdoptSpec::default() };
    let wrong = LsmTable::builder(&uri).adopt(adopt(vec![index("body", "fts")])).open().await.unwrap_err();
    assert!(wrong.message().contains("words"), "{wrong}");
    let table = LsmTable::builder(&uri).adopt(adopt(vec![index("id", "btree")])).open().await.unwrap();
    let shown: Vec<String> = table.indexes().iter().map(|i| format!("{} {i}", i.column)).collect();
    assert_eq!(
        shown,
        [
            "body fts(language='German', stem=false, max_token_length=30, name='words')",
            "e ivf_pq(cosine, num_sub_vectors=2, name='near')",
            "id btree",
        ]
    );
    assert_eq!(table.text_analyzer("body").told().language, "German");
    assert_eq!(table.text_analyzer("id").told().language, "English");
    let info = table.index_info().await.unwrap();
    let base: Vec<_> = info.iter().filter(|i| i.source == "base").map(|i| (&*i.index.name, i.indexed)).collect();
    assert_eq!(base, [("words", 300), ("near", 300), ("id_btree", 0)]);
    assert!(!table.create_index(&index("id", "btree"), true).await.unwrap());
    let base = lance::Dataset::open(&uri).await.unwrap();
    let mut names: Vec<String> = base.load_indices().await.unwrap().iter().map(|i| i.name.clone()).collect();
    names.sort();
    assert_eq!(names, ["__lance_mem_wal", "id_btree", "near", "words"]);
    table.drop_index("near", false).await.unwrap();
    let base = lance::Dataset::open(&uri).await.unwrap();
    assert!(base.load_indices().await.unwrap().iter().all(|i| i.name != "near"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_index_is_made_of_the_base() {
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("t").to_string_lossy().into_owned();
    let mut plain = dataset(&uri).await;
    for name in ["words", "near"] {
        plain.drop_index(name).await.unwrap();
    }
    let adopt = AdoptSpec { key: vec!["id".into()], ..AdoptSpec::default() };
    let table = LsmTable::builder(&uri).adopt(adopt).open().await.unwrap();
    for (column, kind) in [
        ("body", "fts(tokenizer=ngram)"),
        ("body", "btree"),
        ("id", "bitmap"),
        ("e", "hnsw(l2, m=8)"),
        ("e", "ivf_pq(cosine, num_partitions=2, num_sub_vectors=2)"),
        ("e", "ivf_hnsw_sq(inner_product)"),
    ] {
        assert!(table.create_index(&index(column, kind), false).await.unwrap(), "{kind}");
    }
    let info = table.index_info().await.unwrap();
    for index in info.iter().filter(|i| i.source == "base") {
        assert_eq!((index.indexed, index.rows), (300, 300), "{}", index.index);
    }
    // What is there is not made again.
    let before = lance::Dataset::open(&uri).await.unwrap().version().version;
    for index in table.indexes() {
        assert!(!table.create_index(&index, true).await.unwrap());
    }
    assert_eq!(lance::Dataset::open(&uri).await.unwrap().version().version, before);
    drop(table);
    assert_eq!(open(&uri).await.indexes().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_are_told_much_are_indexed_once() {
    let dir = tempfile::tempdir().unwrap();
    let (_, table) = filled(dir.path(), 0..20).await;
    for kind in [
        "fts(max_token_length=none, stem=false, ascii_folding=false)",
        "fts(language=German, stop_words=['x', 'y'], tokenizer=whitespace)",
        "fts(tokenizer=ngram, ngram_min=2, ngram_max=4, prefix_only=true)",
        "fts(stop_words=false, lower_case=false)",
    ] {
        assert!(table.create_index(&index("body", kind), false).await.unwrap());
        let before = table.snapshot().version().base.version();
        assert!(!table.create_index(&index("body", kind), true).await.unwrap());
        assert_eq!(table.snapshot().version().base.version(), before, "{kind}");
        table.drop_index("body_fts", false).await.unwrap();
    }
}

/// Puts other rows into the base.
async fn replace(table: &Arc<LsmTable>, ids: std::ops::Range<i64>) {
    let batch = rows(&ids.collect::<Vec<_>>(), "row");
    let stream = futures::stream::iter([Ok(batch)]);
    table.replace_all(Box::pin(RecordBatchStreamAdapter::new(table.schema(), stream))).await.unwrap();
}

/// A table below `dir` whose base has these rows, and where it is.
async fn filled(dir: &Path, ids: std::ops::Range<i64>) -> (String, Arc<LsmTable>) {
    let uri = dir.join("t").to_string_lossy().into_owned();
    let table = create(&uri).await;
    replace(&table, ids).await;
    (uri, table)
}

/// Makes a btree of the key that no table declares.
async fn undeclared(lance: &mut lance::Dataset, name: &str) {
    let params = ScalarIndexParams::for_builtin(BuiltinIndexType::BTree);
    lance.create_index(&["id"], IndexType::BTree, Some(name.into()), &params, false).await.unwrap();
}

/// How many rows of the base have the index of this name, and what Lance has under it.
async fn of_base(table: &LsmTable, uri: &str, name: &str) -> (u64, Vec<String>) {
    let info = table.index_info().await.unwrap();
    let indexed = info.iter().find(|i| i.source == "base" && i.index.name == name).map_or(0, |i| i.indexed);
    let lance = lance::Dataset::open(uri).await.unwrap();
    let kind = |i: &lance_table::format::IndexMetadata| i.index_details.as_ref().unwrap().type_url.clone();
    let all = lance.load_indices().await.unwrap();
    (indexed, all.iter().filter(|i| i.name == name).map(kind).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_no_longer_what_its_name_says_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (uri, table) = filled(dir.path(), 0..50).await;
    let mut lance = lance::Dataset::open(&uri).await.unwrap();
    undeclared(&mut lance, "w").await;
    let words = index("body", "fts(name='w')");
    assert!(table.create_index(&words, false).await.unwrap());
    let (indexed, kinds) = of_base(&table, &uri, "w").await;
    assert_eq!(indexed, 50);
    assert!(kinds.len() == 1 && kinds[0].ends_with("InvertedIndexDetails"), "{kinds:?}");
    // Of the rows that it has none is left.
    replace(&table, 100..130).await;
    assert_eq!(of_base(&table, &uri, "w").await.0, 0);
    assert!(!table.create_index(&words, true).await.unwrap());
    let (indexed, kinds) = of_base(&table, &uri, "w").await;
    assert_eq!((indexed, kinds.len()), (30, 1));
    // Dropped and made again while another process still builds it: what comes late is not taken for it.
    table.drop_index("w", false).await.unwrap();
    assert!(table.create_index(&index("body", "fts(name='w', language=German)"), false).await.unwrap());
    assert_eq!(table.snapshot().version().base.build_index(&words).await.unwrap().map(|b| b.version()), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_takes_what_is_not_declared() {
    let dir = tempfile::tempdir().unwrap();
    let (uri, table) = filled(dir.path(), 0..50).await;
    let mut lance = lance::Dataset::open(&uri).await.unwrap();
    for if_exists in [false, true] {
        lance.checkout_latest().await.unwrap();
        undeclared(&mut lance, "orphan").await;
        assert!(table.drop_index("orphan", if_exists).await.unwrap());
        assert_eq!(of_base(&table, &uri, "orphan").await.1.len(), 0);
    }
    assert_eq!(table.drop_index("orphan", false).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert!(!table.drop_index("__lance_mem_wal", true).await.unwrap());
    assert_eq!(scan(&open(&uri).await).await.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_indexes_of_one_name_that_are_created_at_once_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("t").to_string_lossy().into_owned();
    let first = create(&uri).await;
    for round in 0..4 {
        let second = open(&uri).await;
        let (words, numbers) = (index("body", "fts(name='same')"), index("id", "btree(name='same')"));
        let (a, b) = tokio::join!(first.create_index(&words, false), second.create_index(&numbers, false));
        assert!(a.is_ok() != b.is_ok(), "round {round}");
        assert_eq!(a.and(b).unwrap_err().kind(), ErrorKind::Invalid);
        let third = open(&uri).await;
        assert_eq!(names(&third), ["same"]);
        first.drop_index("same", false).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_within_a_column_is_not_taken_for_a_column() {
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("t").to_string_lossy().into_owned();
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..20).map(|i| format!("text {i}"))));
    let inner = StructArray::from(vec![(Arc::new(Field::new("body", DataType::Utf8, true)), Arc::clone(&texts))]);
    let batch = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from_iter_values(0..20)) as ArrayRef),
        ("body", texts),
        ("meta", Arc::new(inner) as ArrayRef),
    ])
    .unwrap();
    let schema = batch.schema();
    let mut dataset = lance::Dataset::write(RecordBatchIterator::new([Ok(batch)], schema), &uri, None).await.unwrap();
    let params = InvertedIndexParams::default();
    dataset.create_index(&["meta.body"], IndexType::Inverted, Some("inner".into()), &params, false).await.unwrap();
    let adopt = AdoptSpec { key: vec!["id".into()], ..AdoptSpec::default() };
    let table = LsmTable::builder(&uri).adopt(adopt).open().await.unwrap();
    assert!(table.indexes().is_empty(), "{:?}", table.indexes());
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_find_the_same_rows_with_an_index_of_values_as_without() {
    let seed = number_from_env("LSM_SEED", 0xB7EE);
    println!("LSM_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let session = SessionContext::new().with_lsm();
    for (name, indexes) in [("with", "OPTIONS ('lsm.index.n' 'btree', 'lsm.index.s' 'bitmap')"), ("without", "")] {
        let path = dir.path().join(name);
        let create = format!(
            "CREATE EXTERNAL TABLE {name} (id BIGINT PRIMARY KEY, n INT, s VARCHAR, e FLOAT[2]) STORED AS LSM LOCATION '{}' {indexes}",
            path.display()
        );
        run(&session, &create).await;
    }
    for _ in 0..30 {
        let rows: Vec<String> = (0..rng.random_range(1..60))
            .map(|_| {
                let n = if rng.random_bool(0.1) { "NULL".into() } else { rng.random_range(0..200).to_string() };
                let (id, s) = (rng.random_range(0..900), rng.random_range(0..40));
                format!("({id}, {n}, 's{s}', [{id}, {s}])")
            })
            .collect();
        let gone = rng.random_range(0..900);
        for table in ["with", "without"] {
            run(&session, &format!("INSERT INTO {table} VALUES {}", rows.join(", "))).await;
            run(&session, &format!("DELETE FROM {table} WHERE id BETWEEN {gone} AND {}", gone + 3)).await;
        }
        let (low, high) = (rng.random_range(0..200), rng.random_range(0..200));
        for filter in [
            format!("n = {low}"),
            format!("n > {low} AND n <= {high}"),
            format!("n IN ({low}, {high}) OR n IS NULL"),
            format!("n < {low} AND s = 's{}'", high % 40),
            format!("NOT (n < {low}) AND n BETWEEN {low} AND {high}"),
        ] {
            let select = |table: &str| format!("SELECT id, n, s FROM {table} WHERE {filter} ORDER BY id");
            assert_eq!(run(&session, &select("with")).await, run(&session, &select("without")).await, "{filter}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn generations_that_are_older_than_an_index_are_searched_without_it() {
    let seed = number_from_env("LSM_SEED", 0x01DE);
    println!("LSM_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let session = SessionContext::new().with_lsm();
    for name in ["late", "plain"] {
        let create = format!(
            "CREATE EXTERNAL TABLE {name} (id BIGINT PRIMARY KEY, n INT, s VARCHAR, e FLOAT[2]) STORED AS LSM LOCATION '{}'",
            dir.path().join(name).display()
        );
        run(&session, &create).await;
    }
    let near = "EXPLAIN SELECT id FROM late ORDER BY l2_distance(e, [1, 1]) LIMIT 3";
    for round in 0..4 {
        let rows: Vec<String> = (0..300)
            .map(|_| {
                let words = ["red", "fox", "foal", "hen", "blue"].map(|word| (word, rng.random_bool(0.3)));
                let text: Vec<&str> = words.iter().filter(|(_, is_in)| *is_in).map(|(word, _)| *word).collect();
                let (id, n) = (rng.random_range(0..900), rng.random_range(0..100));
                format!(
                    "({id}, {n}, '{}', [{}, {}])",
                    text.join(" "),
                    rng.random_range(0..999),
                    rng.random_range(0..999)
                )
            })
            .collect();
        for table in ["late", "plain"] {
            run(&session, &format!("INSERT INTO {table} VALUES {}", rows.join(", "))).await;
        }
        if round == 0 {
            run(&session, "SELECT * FROM lsm_flush('late')").await;
            run(&session, "CREATE INDEX words ON late USING fts (s)").await;
            run(&session, "CREATE INDEX near ON late USING hnsw (e)").await;
            run(&session, "CREATE INDEX numbers ON late USING btree (n)").await;
            let plan = run(&session, near).await;
            assert!(plan.contains("source=generation 1, flat=no index"), "{plan}");
        }
        if round == 2 {
            run(&session, "SELECT * FROM lsm_flush('late')").await;
            let plan = run(&session, near).await;
            assert!(plan.contains("source=generation 2, index=IVF_SQ"), "{plan}");
        }
        let (low, x, y) = (rng.random_range(0..80), rng.random_range(0..999), rng.random_range(0..999));
        for (columns, rest) in [
            ("id, n", format!("WHERE n BETWEEN {low} AND {} ORDER BY id", low + 9)),
            ("id, s", "WHERE text_match(s, '+fo* -red') ORDER BY id".into()),
            ("id, round(score(s, 'blue hen'), 3) AS f", "WHERE text_match(s, 'blue hen') ORDER BY id".into()),
            ("round(score(s, 'fox'), 3) AS f", "ORDER BY score(s, 'fox') DESC LIMIT 9".into()),
            ("round(l2_distance(e, [1, 1]), 2) AS f", "ORDER BY l2_distance(e, [1, 1]) LIMIT 5".into()),
            (
                "id, n",
                format!("WHERE n > {low} AND text_match(s, 'hen') ORDER BY l2_distance(e, [{x}.5, {y}.25]) LIMIT 3"),
            ),
        ] {
            let select = |table: &str| format!("SELECT {columns} FROM {table} {rest}");
            let (late, plain) = (run(&session, &select("late")).await, run(&session, &select("plain")).await);
            assert_eq!(late, plain, "round {round}: {columns} {rest}");
        }
    }
}

async fn run(session: &SessionContext, sql: &str) -> String {
    let rows = session.sql(sql).await.unwrap().collect().await.unwrap();
    arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string()
}
