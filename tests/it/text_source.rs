//! Text indexes of generations and the base: written by us and by Lance, searched by both.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchIterator, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, UInt64Type};
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use lance::Dataset;
use lance::dataset::mem_wal::{LsmScanner, ShardSnapshot};
use lance::dataset::optimize::{CompactionOptions, compact_files};
use lance::dataset::{UpdateBuilder, WriteParams};
use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::optimize::OptimizeOptions;
use lance_index::scalar::inverted::query::{FtsQuery, PhraseQuery};
use lance_index::scalar::{FullTextSearchQuery, InvertedIndexParams};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use roaring::RoaringTreemap;

use crate::place::{Place, spec, strings};
use crate::support::number_from_env;
use crate::support::plan::{analyzed, figure};
use crate::text_columns::ids_and_scores;
use datafusion_lsm::base::{AdoptSpec, BaseTable};
use datafusion_lsm::cache::MemoryBudget;
use datafusion_lsm::dataset::{DatasetHandle, DatasetOpener, DatasetTextIndex};
use datafusion_lsm::error::ErrorKind;
use datafusion_lsm::index_spec::IndexSpec;
use datafusion_lsm::sql::{LsmSessionExt, LsmTableProvider};
use datafusion_lsm::store::TablePaths;
use datafusion_lsm::table::{CreateSpec, LsmTable};
use datafusion_lsm::text_index::{Floor, Mask, TextIndex};
use datafusion_lsm::text_search::{Survey, TextAnalyzer, TextSearch, Weights, best, index_of, matching, patterns};

const WORDS: [&str; 24] = [
    "log",
    "logs",
    "structured",
    "merge",
    "merged",
    "tree",
    "trees",
    "btree",
    "the",
    "and",
    "Café",
    "naïve",
    "running",
    "runner",
    "x86-64",
    "memtable",
    "flush",
    "日本",
    "compaction",
    "compact",
    "strcture",
    "structure",
    "write",
    "read",
];

const QUERIES: [&str; 16] = [
    "log",
    "log tree",
    "log AND structured",
    "merge -btree",
    "+tree flush compaction",
    "\"log structured\"",
    "\"merge tree\"~2",
    "\"log structured merge\"",
    "merg*",
    "str*",
    "structur~",
    "compct~2 read^3",
    "(log OR flush) AND (tree OR write)",
    "日本",
    "nothing",
    "log log cafe",
];

fn text(rng: &mut StdRng) -> Option<String> {
    match rng.random_range(0..12) {
        0 => None,
        1 => Some(String::new()),
        _ => {
            let word = |rng: &mut StdRng| WORDS[(rng.random::<f32>().powi(2) * WORDS.len() as f32) as usize];
            Some((0..rng.random_range(1..25)).map(|_| word(rng)).collect::<Vec<_>>().join(" "))
        }
    }
}

fn batch(ids: impl IntoIterator<Item = i64>, rng: &mut StdRng) -> RecordBatch {
    let ids = Int64Array::from_iter_values(ids);
    let texts: StringArray = (0..ids.len()).map(|_| text(rng)).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(ids) as ArrayRef, false),
        ("name", Arc::new(texts) as ArrayRef, true),
    ])
    .unwrap()
}

async fn rows(plan: Arc<dyn ExecutionPlan>) -> RecordBatch {
    let schema = plan.schema();
    concat_batches(&schema, &collect(plan, Arc::default()).await.unwrap()).unwrap()
}

/// The same rows as `all`, but only those that `index` does not know.
async fn beside(handle: &Arc<DatasetHandle>, index: &DatasetTextIndex, all: &RecordBatch) -> RecordBatch {
    let read: Vec<RecordBatch> = handle.rows_of(&[1], Some(index.uncovered())).unwrap().try_collect().await.unwrap();
    concat_batches(&all.schema(), &read).unwrap()
}

/// A text and the row id it has.
fn without(rows: &RecordBatch, blocked: &RoaringTreemap) -> (ArrayRef, Vec<u64>) {
    let ids = rows.column(1).as_primitive::<UInt64Type>();
    let live: arrow::array::BooleanArray = ids.values().iter().map(|id| Some(!blocked.contains(*id))).collect();
    let live = arrow::compute::filter_record_batch(rows, &live).unwrap();
    (Arc::clone(live.column(0)), live.column(1).as_primitive::<UInt64Type>().values().to_vec())
}

/// What an index finds, by row id: the rows that match, and the best `k` with their scores.
struct Found {
    rows: BTreeSet<u64>,
    best: Vec<(u64, f32)>,
}

fn find(
    search: &TextSearch,
    weights: &Weights,
    index: &TextIndex,
    dead: &[u64],
    k: usize,
    id: impl Fn(u32) -> u64,
) -> Found {
    let bits = matching(search, &[index], index.rows());
    let is_found = |row: &u32| {
        let of = |words: &[u64]| words.get(*row as usize / 64).is_some_and(|word| word >> (row % 64) & 1 == 1);
        of(&bits) && !of(dead)
    };
    let rows = (0..index.rows()).filter(is_found).map(&id).collect();
    let mask = Mask::new(index.rows()).without(dead);
    let (hits, _) = best(search, std::slice::from_ref(weights), &[index], mask, k, &Floor::new(0.0));
    Found { rows, best: hits.into_iter().map(|hit| (id(hit.row), hit.score)).collect() }
}

/// Compares what `index` and a look at the rows `beside` it find with what a look at `all` rows finds.
async fn check(index: &DatasetTextIndex, all: &RecordBatch, beside: &RecordBatch, blocked: &Arc<RoaringTreemap>) {
    let analyzer = TextAnalyzer::default_one();
    let (texts, ids) = without(all, blocked);
    let (texts_beside, ids_beside) = without(beside, blocked);
    let (flat, flat_beside) =
        (index_of(&texts, &analyzer, None).unwrap(), index_of(&texts_beside, &analyzer, None).unwrap());
    let mut answered = 0;
    for query in QUERIES {
        let search = TextSearch::parse("name", query, &analyzer).unwrap();
        if !index.can_find(&search.query) {
            assert!(query.contains('"'), "{query}");
            continue;
        }
        answered += 1;
        let asked = patterns(&search.query);
        let parts = index.load(&search.query).await.unwrap();
        let mut survey = Survey::of(&flat_beside, &asked, flat_beside.rows(), None);
        for part in &parts {
            survey.add(&part.survey(&asked, Some(blocked)));
        }
        assert_eq!(survey, Survey::of(&flat, &asked, flat.rows(), None), "{query}");
        let weights = Weights::new(&survey, &asked);
        let expected = find(&search, &weights, &flat, &[], 10, |row| ids[row as usize]);
        let mut found = find(&search, &weights, &flat_beside, &[], 10, |row| ids_beside[row as usize]);
        for part in &parts {
            let more = find(&search, &weights, part.index(), part.dead(blocked).bits(), 10, |row| part.row_id(row));
            assert!(found.rows.is_disjoint(&more.rows), "{query}: a row is in two parts");
            let bits = part.among(&more.rows.iter().copied().collect());
            assert!(part.row_ids(&bits).iter().eq(more.rows.iter().copied()));
            found.rows.extend(more.rows);
            found.best.extend(more.best);
        }
        assert_eq!(found.rows, expected.rows, "{query}");
        found.best.sort_by(|a, b| b.1.total_cmp(&a.1));
        found.best.truncate(10);
        assert_eq!(found.best.len(), expected.best.len(), "{query}");
        for (a, b) in found.best.iter().zip(&expected.best) {
            assert!((a.1 - b.1).abs() < 1e-4, "{query}: {a:?}, not {b:?}");
        }
    }
    assert!(answered > 10);
}

fn some_of(rows: &RecordBatch, rng: &mut StdRng, share: f64) -> Arc<RoaringTreemap> {
    let ids = rows.column(1).as_primitive::<UInt64Type>().values();
    Arc::new(ids.iter().copied().filter(|_| rng.random_bool(share)).collect())
}

/// The row ids that Lance finds for a query.
async fn lance_finds(dataset: &Dataset, query: FullTextSearchQuery) -> BTreeSet<u64> {
    let mut scan = dataset.scan();
    scan.full_text_search(query).unwrap().with_row_id().fast_search();
    let found = scan.try_into_batch().await.unwrap();
    found["_rowid"].as_primitive::<UInt64Type>().values().iter().copied().collect()
}

#[tokio::test]
async fn a_generation_has_the_text_index_of_its_memtable() {
    let seed = number_from_env("LSM_SEED", 0x7E87);
    println!("LSM_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("t").to_str().unwrap().to_string();
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)]);
    let spec = CreateSpec {
        schema: Arc::new(schema),
        key: vec!["id".into()],
        shards: 1,
        shard_column: None,
        indexes: IndexSpec::parse("name", "fts").unwrap(),
        defaults: Default::default(),
    };
    let table = LsmTable::builder(&uri).create(spec).open().await.unwrap();
    for round in 0..3 {
        for _ in 0..4 {
            let mut ids: Vec<i64> = (0..300).map(|_| rng.random_range(0..1500)).collect();
            ids.sort_unstable();
            ids.dedup();
            table.put(batch(ids, &mut rng)).await.unwrap();
            let gone = Int64Array::from_iter_values((0..40).map(|_| rng.random_range(0..1500)));
            let gone = RecordBatch::try_from_iter([("id", Arc::new(gone) as ArrayRef)]).unwrap();
            table.delete(gone).await.unwrap();
        }
        if round == 2 {
            // Texts without a word make an index without one.
            table.flush().await.unwrap();
            let nothing = StringArray::from(vec![Some("the and"), None, Some("")]);
            let ids = Int64Array::from(vec![1, 2, 3]);
            let columns = [("id", Arc::new(ids) as ArrayRef, false), ("name", Arc::new(nothing) as ArrayRef, true)];
            table.put(RecordBatch::try_from_iter_with_nullable(columns).unwrap()).await.unwrap();
        }
        table.flush().await.unwrap();
    }
    let (analyzer, snapshot) = (TextAnalyzer::default_one(), table.snapshot());
    let shard = &snapshot.version().shards[0];
    assert_eq!(shard.generations.len(), 4);
    let mut theirs = ShardSnapshot::new(shard.shard.0).with_current_generation(9);
    for generation in &shard.generations {
        let index = generation.handle().text_index(1, &analyzer).await.unwrap().unwrap();
        assert!(index.uncovered().is_empty());
        let all = rows(generation.scan(&[1], &[]).unwrap()).await;
        let beside = beside(generation.handle(), &index, &all).await;
        assert_eq!(beside.num_rows(), 0);
        for share in [0.0, 0.02, 0.6] {
            check(&index, &all, &beside, &some_of(&all, &mut rng, share)).await;
        }

        let path = &generation.record().path;
        theirs = theirs.with_sstable(generation.id().0, path.clone());
        let lance = Dataset::open(&format!("{uri}/{}", TablePaths::generation_dir(shard.shard, path))).await.unwrap();
        let indexes = lance.load_indices().await.unwrap();
        assert_eq!((indexes.len(), indexes[0].name.as_str()), (1, "name_fts"));
        assert!(indexes[0].files.as_ref().is_some_and(|files| files.iter().all(|file| file.size_bytes > 0)));
        let (texts, ids) = without(&all, &RoaringTreemap::new());
        let flat = index_of(&texts, &analyzer, None).unwrap();
        let ours = |query: &str| -> BTreeSet<u64> {
            let bits = matching(&TextSearch::parse("name", query, &analyzer).unwrap(), &[&flat], flat.rows());
            (0..flat.rows()).filter(|r| bits[*r as usize / 64] >> (r % 64) & 1 == 1).map(|r| ids[r as usize]).collect()
        };
        for query in ["log", "log tree", "café", "running compaction", "日本"] {
            let found = lance_finds(&lance, FullTextSearchQuery::new(query.into())).await;
            assert_eq!(found, ours(query), "{query}");
        }
        let phrase = PhraseQuery::new("log structured".into()).with_column(Some("name".into()));
        let found = lance_finds(&lance, FullTextSearchQuery::new_query(FtsQuery::Phrase(phrase))).await;
        assert_eq!(found, ours("\"log structured\""));
    }

    // Lance's reader of the whole table finds live rows alone.
    let base = Arc::new(Dataset::open(&uri).await.unwrap());
    let query = FullTextSearchQuery::new("compaction".into()).with_column("name".into()).unwrap();
    let scanner = LsmScanner::new(base, vec![theirs], vec!["id".into()]).full_text_search(query).unwrap();
    let found = scanner.project(&["id", "name"]).unwrap().try_into_batch().await.unwrap();
    let live = table.scan(&snapshot, Some(&[0, 1]), &[], None).unwrap();
    let live = rows(live).await;
    let has_word = |text: Option<&str>| text.is_some_and(|t| t.split(' ').any(|w| w.starts_with("compact")));
    let expected: BTreeSet<i64> = (0..live.num_rows())
        .filter(|i| has_word(live.column(1).is_valid(*i).then(|| strings(live.column(1))[*i])))
        .map(|i| live.column(0).as_primitive::<arrow::datatypes::Int64Type>().value(i))
        .collect();
    let found = found["id"].as_primitive::<arrow::datatypes::Int64Type>().values().iter().copied();
    assert_eq!(found.collect::<BTreeSet<_>>(), expected);
    table.close().await.unwrap();
}

async fn append(lance: &mut Dataset, rows: RecordBatch) {
    let schema = lance.schema().into();
    let rows = RecordBatch::try_new(Arc::new(schema), rows.columns().to_vec()).unwrap();
    let schema = rows.schema();
    lance.append(RecordBatchIterator::new([Ok(rows)], schema), None).await.unwrap();
}

#[tokio::test]
async fn an_index_that_lance_made_is_searched_with_all_that_happened_since() {
    let seed = number_from_env("LSM_SEED", 0x1A4CE);
    println!("LSM_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let analyzer = TextAnalyzer::default_one();
    for (with_position, block_size) in [(true, 128), (false, 128), (true, 256)] {
        let place = Place::new().await;
        place.create(&spec()).await;
        let mut lance = place.lance().await;
        append(&mut lance, batch(0..900, &mut rng)).await;
        let params = InvertedIndexParams::default().with_position(with_position).block_size(block_size).unwrap();
        lance.create_index(&["name"], IndexType::Inverted, Some("texts".into()), &params, false).await.unwrap();
        // A second segment, one of two partitions, and rows that no segment has.
        append(&mut lance, batch(900..1300, &mut rng)).await;
        lance.optimize_indices(&OptimizeOptions::append()).await.unwrap();
        append(&mut lance, batch(1300..1600, &mut rng)).await;
        lance.optimize_indices(&OptimizeOptions::merge(1)).await.unwrap();
        lance.delete("id % 7 = 3 OR id BETWEEN 950 AND 1000").await.unwrap();
        append(&mut lance, batch(1600..1800, &mut rng)).await;
        for step in 0..4 {
            match step {
                1 => drop(lance.delete("id < 900 AND id % 3 = 0").await.unwrap()),
                2 => drop(compact_files(&mut lance, CompactionOptions::default(), None).await.unwrap()),
                3 => drop(lance.delete("id >= 1300").await.unwrap()),
                _ => {}
            }
            let base = place.reopen().await;
            let index = base.handle().text_index(1, &analyzer).await.unwrap().unwrap();
            assert_eq!(index.uncovered().is_empty(), step == 3, "step {step}");
            let all = rows(base.scan(&[1], &[]).unwrap()).await;
            let beside = beside(base.handle(), &index, &all).await;
            assert!(beside.num_rows() < all.num_rows() / 2, "step {step}: {} beside", beside.num_rows());
            let blocked = some_of(&all, &mut rng, 0.2);
            check(&index, &all, &beside, &blocked).await;
        }
    }
}

#[tokio::test]
async fn a_phrase_is_found_in_a_base_whose_index_has_no_positions() {
    let texts = batch(0..600, &mut StdRng::seed_from_u64(0x9057));
    let phrase = "name, '\"log structured\"'";
    let best = format!("SELECT id, score({phrase}) AS s FROM t ORDER BY s DESC LIMIT 7");
    let all = format!("SELECT id, score({phrase}) FROM t WHERE text_match({phrase}) ORDER BY id");
    let mut answers = Vec::new();
    for with_position in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let uri = dir.path().join("t").to_str().unwrap().to_string();
        let reader = RecordBatchIterator::new([Ok(texts.clone())], texts.schema());
        let mut lance = Dataset::write(reader, uri.as_str(), None).await.unwrap();
        let params = InvertedIndexParams::default().with_position(with_position);
        lance.create_index(&["name"], IndexType::Inverted, Some("texts".into()), &params, false).await.unwrap();
        let adopt = AdoptSpec { key: vec!["id".into()], ..AdoptSpec::default() };
        let table = LsmTable::builder(&uri).adopt(adopt).open().await.unwrap();
        let session = SessionContext::new().with_lsm();
        session.register_table("t", Arc::new(LsmTableProvider::new(Arc::clone(&table)))).unwrap();

        let plan = analyzed(&session, &best).await;
        let [flat, postings] = ["flat", "postings"].map(|name| figure(&plan, "TextTopKExec: source=base", name));
        assert_eq!((flat, postings > 0), (if with_position { 0 } else { 600 }, with_position), "{plan}");
        assert_eq!(plan.contains("flat_no_positions=600"), !with_position, "{plan}");
        let plan = analyzed(&session, &all).await;
        assert_eq!(plan.contains("flat_no_positions=600"), !with_position, "{plan}");
        answers.push([ids_and_scores(&session, &best).await, ids_and_scores(&session, &all).await]);
        table.close().await.unwrap();
    }
    let [[best, all], [flat_best, flat_all]] = [&answers[0], &answers[1]];
    assert!(best.len() == 7 && all.len() > 20, "{all:?}");
    assert_eq!((best.len(), all.len()), (flat_best.len(), flat_all.len()));
    for ((_, score), (_, flat)) in best.iter().zip(flat_best) {
        assert!(*score > 0.0 && (score - flat).abs() < 1e-4, "{best:?}, not {flat_best:?}");
    }
    for ((id, score), (flat_id, flat)) in all.iter().zip(flat_all) {
        assert!(id == flat_id && (score - flat).abs() < 1e-4, "{id} scores {score}, not {flat_id} {flat}");
    }
}

#[tokio::test]
async fn an_index_of_other_words_is_none() {
    let mut rng = StdRng::seed_from_u64(5);
    let analyzer = TextAnalyzer::default_one();
    let place = Place::new().await;
    place.create(&spec()).await;
    let mut lance = place.lance().await;
    append(&mut lance, batch(0..50, &mut rng)).await;
    assert!(place.reopen().await.handle().text_index(1, &analyzer).await.unwrap().is_none());
    let params = InvertedIndexParams::default().stem(false);
    lance.create_index(&["name"], IndexType::Inverted, None, &params, false).await.unwrap();
    assert!(place.reopen().await.handle().text_index(1, &analyzer).await.unwrap().is_none());
    assert!(place.reopen().await.handle().text_index(0, &analyzer).await.unwrap().is_none());
}

/// A dataset of Lance's with stable row ids, two fragments of 300 texts and a text index of both.
async fn stable_dataset(place: &Place, rng: &mut StdRng) -> Dataset {
    let rows = batch(0..600, rng);
    let schema = rows.schema();
    let params = WriteParams { max_rows_per_file: 300, enable_stable_row_ids: true, ..Default::default() };
    let rows = RecordBatchIterator::new([Ok(rows)], schema);
    let mut lance = Dataset::write(rows, place.io.uri(), Some(params)).await.unwrap();
    let params = InvertedIndexParams::default().with_position(true);
    lance.create_index(&["name"], IndexType::Inverted, Some("texts".into()), &params, false).await.unwrap();
    lance
}

/// Compares the index of a dataset, made a table, with a look at all rows.
async fn check_adopted(place: &Place, rng: &mut StdRng) {
    let adopt = AdoptSpec { key: vec!["id".into()], ..AdoptSpec::default() };
    let base = BaseTable::adopt(&place.opener, &place.io, &adopt).await.unwrap();
    let index = base.handle().text_index(1, &TextAnalyzer::default_one()).await.unwrap().unwrap();
    let all = rows(base.scan(&[1], &[]).unwrap()).await;
    let beside = beside(base.handle(), &index, &all).await;
    for share in [0.0, 0.1] {
        check(&index, &all, &beside, &some_of(&all, rng, share)).await;
    }
}

#[tokio::test]
async fn texts_of_fragments_that_are_gone_count_nowhere_if_row_ids_are_stable() {
    let mut rng = StdRng::seed_from_u64(0x60E);
    let place = Place::new().await;
    let mut lance = stable_dataset(&place, &mut rng).await;
    lance.delete("id < 300").await.unwrap();
    assert!(lance.get_fragment(0).is_none(), "the fragment is gone");
    check_adopted(&place, &mut rng).await;
}

#[tokio::test]
async fn a_text_that_changed_is_in_one_partition_of_an_index_alone() {
    let mut rng = StdRng::seed_from_u64(0xC4A);
    let place = Place::new().await;
    let lance = stable_dataset(&place, &mut rng).await;
    let update = UpdateBuilder::new(Arc::new(lance)).update_where("id % 5 = 1").unwrap();
    let update = update.set("name", "'log log log structured tree'").unwrap().build().unwrap();
    let mut lance = Arc::unwrap_or_clone(update.execute().await.unwrap().new_dataset);
    lance.optimize_indices(&OptimizeOptions::merge(1)).await.unwrap();
    assert_eq!(lance.load_indices_by_name("texts").await.unwrap().len(), 1);
    check_adopted(&place, &mut rng).await;
}

#[tokio::test]
async fn an_index_gives_all_memory_back_when_nobody_uses_it() {
    let mut rng = StdRng::seed_from_u64(0x3E3);
    let place = Place::new().await;
    stable_dataset(&place, &mut rng).await;
    let adopt = AdoptSpec { key: vec!["id".into()], ..AdoptSpec::default() };
    BaseTable::adopt(&place.opener, &place.io, &adopt).await.unwrap();
    let budget = MemoryBudget::new(1 << 30);
    let opener = DatasetOpener::new(Default::default(), Arc::clone(&budget));
    let base = BaseTable::open(&opener, &place.io).await.unwrap().unwrap();
    let (analyzer, before) = (TextAnalyzer::default_one(), budget.used());
    let index = base.handle().text_index(1, &analyzer).await.unwrap().unwrap();
    let opened = budget.used();
    let words = TextSearch::parse("name", "l* OR m* OR t*", &analyzer).unwrap().query;
    let parts = index.load(&words).await.unwrap();
    let loaded = budget.used();
    assert!(before < opened && opened < loaded);
    budget.reclaim();
    assert_eq!(budget.used(), loaded, "a query holds the words");
    drop(parts);
    assert_eq!(budget.used(), opened);
    budget.reclaim();
    drop(index);
    assert_eq!(budget.used(), before);
    // It is opened again, and told when it has too much.
    let index = base.handle().text_index(1, &analyzer).await.unwrap().unwrap();
    budget.set_limit(1);
    assert_eq!(index.load(&words).await.unwrap_err().kind(), ErrorKind::Backpressure);
    budget.set_limit(1 << 30);
    assert!(!index.load(&words).await.unwrap().is_empty());
}
