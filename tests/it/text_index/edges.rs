//! Empty, huge and odd documents and queries.

use datafusion_lsm::text_index::{
    AppendError, Field, Floor, LengthPrecision, Mask, Query, QueryError, Search, Slot, Term, TextIndex,
};

use super::naive::{self, Document, Source};

fn field(index: &TextIndex) -> [Field<'_>; 1] {
    [Field { index, average_length: 10.0, precision: LengthPrecision::Exact }]
}

fn term(text: &str) -> Query {
    Query::Term(Term::new(text, 2.0))
}

fn phrase(words: &[&str], slop: u32) -> Query {
    let slot = |(i, word): (usize, &&str)| Slot { offset: i as u32, terms: vec![Term::new(*word, 1.0)] };
    Query::Phrase { slots: words.iter().enumerate().map(slot).collect(), slop }
}

fn tokens(text: &str) -> Document {
    text.split_whitespace().enumerate().map(|(at, word)| (word.to_string(), at as u32)).collect()
}

fn index_of(texts: &[&str]) -> (TextIndex, Vec<Document>) {
    let (index, documents) = (TextIndex::new(true), texts.iter().map(|text| tokens(text)).collect::<Vec<_>>());
    index.append(0, documents.iter().map(|d| d.iter().map(|(text, at)| (text, *at)))).unwrap();
    (index, documents)
}

fn rows(index: &TextIndex, query: &Query) -> Vec<u32> {
    let fields = field(index);
    let search = Search::new(&fields, Mask::new(u32::MAX));
    let rows: Vec<u32> = search.all(query).unwrap().iter().map(|hit| hit.row).collect();
    let mut top: Vec<u32> =
        search.top_k(query, 1000, &Floor::new(f32::NEG_INFINITY)).unwrap().iter().map(|hit| hit.row).collect();
    top.sort_unstable();
    assert_eq!(rows, top);
    rows
}

#[test]
fn empty_indexes_documents_and_queries() {
    let index = TextIndex::new(true);
    assert_eq!(rows(&index, &term("a")), [0_u32; 0]);
    assert_eq!(index.statistics(&["a"], 5, None).doc_freqs, [0]);
    assert_eq!(index.statistics(&["a"], 5, None).average_length(), 0.0);
    let nothing: [Vec<(&str, u32)>; 3] = [vec![], vec![], vec![]];
    index.append(0, nothing).unwrap();
    assert_eq!((index.rows(), index.term_count()), (3, 0));
    index.append(3, [[("a", 0)]]).unwrap();
    assert_eq!(rows(&index, &term("a")), [3]);
    assert_eq!(index.statistics(&["a"], 9, None).doc_count, 1);
    for query in [
        Query::Any(vec![]),
        Query::Best(vec![]),
        Query::Bool { must: vec![], should: vec![], must_not: vec![term("a")] },
        Query::Bool { must: vec![term("a"), term("b")], should: vec![], must_not: vec![] },
        Query::Phrase { slots: vec![], slop: 0 },
        Query::Phrase { slots: vec![Slot { offset: 0, terms: vec![] }], slop: 0 },
    ] {
        assert_eq!(rows(&index, &query), [0_u32; 0], "{query:?}");
    }
    assert_eq!(Search::new(&[], Mask::new(9)).rows(&Query::Any(vec![])).unwrap(), [0_u64; 0]);
}

#[test]
fn phrases() {
    let (index, _) = index_of(&["a b a c", "a c b", "b a", "a x b", "a x x b", "c b a", "a a b", "ä 日本 ä"]);
    assert_eq!(rows(&index, &phrase(&["a", "b"], 0)), [0, 6]);
    assert_eq!(rows(&index, &phrase(&["a", "b"], 1)), [0, 1, 3, 6]);
    assert_eq!(rows(&index, &phrase(&["a", "b"], 2)), [0, 1, 3, 4, 6]);
    assert_eq!(rows(&index, &phrase(&["a", "b", "a"], 0)), [0]);
    assert_eq!(rows(&index, &phrase(&["a", "a"], 0)), [6]);
    assert_eq!(rows(&index, &phrase(&["a", "a"], 1)), [0, 6]);
    assert_eq!(rows(&index, &phrase(&["ä", "日本", "ä"], 0)), [7]);
    assert_eq!(rows(&index, &phrase(&["b"], 0)), [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn the_slop_of_each_slot_counts_from_the_one_before() {
    // A greedy matcher takes the first `a` and gives up.
    let (index, _) = index_of(&["a x b x c", "a x x b c", "b c a", "a z a b y c"]);
    assert_eq!(rows(&index, &phrase(&["a", "b", "c"], 1)), [0, 3]);
    assert_eq!(rows(&index, &phrase(&["a", "b", "c"], 2)), [0, 1, 3]);
}

#[test]
fn huge_documents_and_long_terms() {
    let long = "é".repeat(100_000);
    let mut documents: Vec<Document> = Vec::new();
    for row in 0..300_u32 {
        let mut document = tokens("some words of an ordinary document");
        if row % 50 == 7 {
            document = (0..70_000).map(|at| (format!("h{}", at % 5), at)).collect();
        }
        if row % 9 == 0 {
            document.push((long.clone(), 90_000));
        }
        documents.push(document);
    }
    let index = TextIndex::new(true);
    for (row, document) in documents.iter().enumerate() {
        index.append(row as u32, [document.iter().map(|(text, at)| (text, *at))]).unwrap();
    }
    let sources = [Source { documents: &documents, average_length: 10.0, four_bits: false }];
    let fields = field(&index);
    for query in [
        term("h1"),
        term(&long),
        phrase(&["h1", "h2", "h3"], 0),
        phrase(&["h3", "h1"], 1),
        phrase(&["h3", "h1"], 3),
        Query::Any(vec![term("words"), term("h0"), term(&long)]),
    ] {
        let search = Search::new(&fields, Mask::new(300));
        let all = search.all(&query).unwrap();
        naive::check_all(&all, &naive::all(&query, &sources, |_| true), "huge");
        naive::check_top(&search.top_k(&query, 4, &Floor::new(0.0)).unwrap(), &all, 4, 0.0, "huge");
    }
}

#[test]
fn tokens_out_of_position_order() {
    let index = TextIndex::new(true);
    index.append(0, [[("b", 1), ("ab", 0), ("a", 0), ("b", 0), ("c", 9)]]).unwrap();
    assert_eq!(rows(&index, &phrase(&["a", "b"], 0)), [0]);
    assert_eq!(rows(&index, &phrase(&["ab", "b"], 0)), [0]);
    assert_eq!(rows(&index, &phrase(&["b", "ab"], 0)), [0_u32; 0]);
}

#[test]
fn what_is_not_as_it_should_be_is_refused() {
    let index = TextIndex::new(false);
    let given = index.append(3, [[("a", 0)]]);
    assert_eq!(given, Err(AppendError::Row { expected: 0, given: 3 }));
    // An unfinished document leaves nothing behind.
    index.appender(0).unwrap().token("lost", 0);
    index.append(0, [[("a", 0)]]).unwrap();
    assert_eq!((index.rows(), index.term_count()), (1, 1));
    index.freeze();
    index.freeze();
    assert_eq!(index.append(1, [[("a", 0)]]), Err(AppendError::Frozen));
    let fields = field(&index);
    let search = Search::new(&fields, Mask::new(1));
    assert_eq!(search.all(&phrase(&["a"], 0)), Err(QueryError::Positions(0)));
    for weight in [-1.0, f32::NAN, f32::INFINITY] {
        assert_eq!(search.all(&Query::Term(Term::new("a", weight))), Err(QueryError::Weight));
    }
    let elsewhere = Query::Term(Term { field: 1, text: "a".into(), weight: 1.0 });
    assert_eq!(search.all(&elsewhere), Err(QueryError::Field(1)));
    let mut deep = term("a");
    for _ in 0..1000 {
        deep = Query::Any(vec![deep]);
    }
    assert_eq!(search.all(&deep), Err(QueryError::Depth));
    let index = TextIndex::new(true);
    let slot = Slot { offset: 0, terms: vec![Term::new("a", 1.0)] };
    let twice = Query::Phrase { slots: vec![slot.clone(), slot], slop: 0 };
    assert_eq!(Search::new(&field(&index), Mask::new(1)).all(&twice), Err(QueryError::Phrase));
}

#[test]
fn equal_scores_come_in_row_order() {
    let (index, _) = index_of(&["a b"; 500]);
    let fields = field(&index);
    let search = Search::new(&fields, Mask::new(500));
    for query in [term("a"), Query::Any(vec![term("a"), term("b")]), phrase(&["a", "b"], 0)] {
        let top: Vec<u32> =
            search.top_k(&query, 5, &Floor::new(f32::NEG_INFINITY)).unwrap().iter().map(|hit| hit.row).collect();
        assert_eq!(top, [0, 1, 2, 3, 4]);
    }
}
