//! What holds for all queries: spelling, normal form and analysis, with random ones.

use std::collections::HashSet;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::fixture::{ODD, Verdict, judge, negates_twice, random_query, with_seeds};
use super::{AnalyzedClause, Analyzer, MAX_DEPTH, Query, Split, TextClause, TextQuery, Token, analyze};

#[track_caller]
fn reads_back(query: &TextQuery) {
    let printed = query.to_string();
    match TextQuery::parse(&printed) {
        Ok(again) => assert_eq!(again, *query, "{printed}"),
        Err(error) => panic!("{printed}: {error}"),
    }
}

#[test]
fn a_printed_query_reads_back() {
    with_seeds(2_000, |random| {
        let query = random_query(random, ODD, 5);
        reads_back(&query);
        reads_back(&query.normalize());
    });
}

#[test]
fn the_canonical_form_is_sparing() {
    for (text, expected) in [
        ("", ""),
        ("()", ""),
        ("a   b", "a OR b"),
        ("a b AND c", "a OR (b AND c)"),
        ("-a", "NOT a"),
        ("NOT (NOT a)", "NOT (NOT a)"),
        ("a -b", "a AND NOT b"),
        ("a OR NOT b", "a OR NOT b"),
        ("+a b c", "+a (b OR c)"),
        ("+a -b c^2", "+(a AND NOT b) c^2"),
        ("title:(a b*)^2", "(title:a OR title:b*)^2"),
        ("NOT a^2", "NOT a^2"),
        ("(a^2)^3", "(a^2)^3"),
        ("(NOT a)^2", "(NOT a)^2"),
        ("\"a \\\"b\"~0 c~", "\"a \\\"b\" OR c~1"),
        (r"\AND \-a b-c", r"\AND OR \-a OR b-c"),
    ] {
        assert_eq!(TextQuery::parse(text).unwrap().to_string(), expected, "{text}");
    }
}

#[test]
fn the_highest_query_reads_back() {
    let clause = TextQuery::terms_of("a");
    let nodes: [fn(TextQuery) -> TextQuery; 6] = [
        TextQuery::negated,
        |query| Query::Prefer { must: Box::new(query), should: Box::new(Query::Empty) },
        |query| Query::Prefer { must: Box::new(Query::Empty), should: Box::new(query) },
        |query| Query::Boost { query: Box::new(query), factor: super::Factor::ONE },
        |query| Query::And(vec![query, Query::Empty]),
        |query| Query::Or(vec![query, Query::Empty]),
    ];
    for one in nodes {
        for other in nodes {
            let high =
                (1..MAX_DEPTH).fold(clause.clone(), |query, i| if i % 2 == 0 { one(query) } else { other(query) });
            reads_back(&high);
            assert!(TextQuery::parse(&one(other(high)).to_string()).is_err());
        }
    }
}

/// A text that is often nearly a query.
fn random_text(random: &mut StdRng) -> String {
    const PIECES: &[&str] = &[
        "a",
        "b",
        "ü",
        "日",
        "AND",
        "OR",
        "NOT",
        "+",
        "-",
        "(",
        ")",
        "\"",
        "~",
        "*",
        "^",
        ":",
        "\\",
        " ",
        " ",
        " ",
        "\t",
        "0",
        "1",
        "2.5",
        ".",
        "t:",
        "t:(",
        "\u{0}",
        "\u{feff}",
        "\u{3000}",
        "\u{1f980}",
        "e\u{301}",
        "^2",
        "~1",
        "NaN",
    ];
    let any = |random: &mut StdRng| match random.random_range(0..20) {
        0 => random.random::<char>().to_string(),
        _ => PIECES.choose(random).expect("there are pieces").to_string(),
    };
    if random.random() {
        return (0..random.random_range(0..25)).map(|_| any(random)).collect();
    }
    let mut text = random_query(random, ODD, 4).to_string();
    for _ in 0..random.random_range(0..4) {
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let at = *places.choose(random).expect("the end is one");
        if random.random() {
            text.insert_str(at, &any(random));
        } else if at < text.len() {
            text.remove(at);
        }
    }
    text
}

#[test]
fn any_text_is_a_query_or_an_error() {
    let (mut queries, mut errors) = (0, HashSet::new());
    let tries = with_seeds(10_000, |random| {
        let text = random_text(random);
        match TextQuery::parse(&text) {
            Ok(query) => {
                reads_back(&query);
                queries += 1;
            }
            Err(error) => {
                let (name, offset) = &error.context()[0];
                assert_eq!(*name, "offset");
                assert!(offset.parse::<usize>().unwrap() <= text.chars().count(), "{text:?}: {error}");
                errors.insert(error.message().to_string());
            }
        }
        reads_back(&TextQuery::terms_of(&text));
    });
    // Both were tried, or the text is too random, or not enough.
    assert!(tries < 1_000 || (queries > tries / 10 && errors.len() > 12), "{queries} of {tries}, {errors:?}");
}

/// The words that queries and documents of the tests are made of.
const WORDS: &[&str] = &["a", "b", "ab", "c-a", "the", "the-b", "B-the-a", "a-the", "both", "the-the"];

/// Splits at '-' and blanks and folds case; "the" is a stop word, "both" is a word and stands for another.
struct SmallAnalyzer;

impl Analyzer for SmallAnalyzer {
    fn analyze(&self, _: Option<&str>, text: &str) -> Vec<Token> {
        let mut tokens = Vec::new();
        let words = text.split(['-', ' ']).filter(|word| !word.is_empty());
        for (position, word) in (7..).zip(words).filter(|(_, word)| *word != "the") {
            tokens.push(Token { text: word.to_lowercase(), position });
            tokens.extend((word == "both").then(|| Token { text: "a".to_string(), position }));
        }
        tokens
    }

    fn normalize(&self, _: Option<&str>, text: &str) -> String {
        text.trim_start_matches("the").to_lowercase()
    }
}

/// A document: the words at its places.
type Document = Vec<&'static str>;

fn random_document(random: &mut StdRng) -> Document {
    (0..random.random_range(0..6)).map(|_| *["a", "b", "ab", "c", "z"].choose(random).expect("words")).collect()
}

fn occurrences(document: &Document, word: &str) -> f64 {
    document.iter().filter(|other| **other == word).count() as f64
}

fn verdict(score: f64) -> Verdict {
    if score > 0.0 { Verdict::yes(score) } else { Verdict::NO }
}

/// How well the places of `document` fit words at positions.
fn phrase(document: &Document, words: &[(i64, &str)], slop: u32) -> Verdict {
    let first = words.iter().map(|(position, _)| *position).min().unwrap_or_default();
    let starts = 0..document.len() as i64;
    let stands = |start: i64, position: i64| {
        let at = usize::try_from(start + position - first).ok()?;
        document.get(at).map(|found| words.contains(&(position, *found)))
    };
    let fits = |start: &i64| words.iter().all(|(position, _)| stands(*start, *position) == Some(true));
    verdict(starts.filter(fits).count() as f64 * f64::from(slop + 1))
}

/// What a clause as typed says, by its description and without [`analyze`].
fn judge_text(clause: &TextClause, document: &Document, split: Split) -> Verdict {
    let tokens = SmallAnalyzer.analyze(None, clause.text());
    let words: Vec<_> = tokens.iter().map(|token| (i64::from(token.position), token.text.as_str())).collect();
    let places: HashSet<_> = words.iter().map(|(position, _)| *position).collect();
    let any = |place: Option<i64>| {
        let here = words.iter().filter(|(position, _)| place.is_none_or(|place| place == *position));
        here.map(|(_, word)| occurrences(document, word)).sum::<f64>()
    };
    match (clause, split) {
        (TextClause::Prefix { text, .. } | TextClause::Fuzzy { text, .. }, _) => {
            match SmallAnalyzer.normalize(None, text) {
                text if text.is_empty() => Verdict::NOTHING,
                text => verdict(document.iter().filter(|word| word.starts_with(&text)).count() as f64),
            }
        }
        _ if places.is_empty() => Verdict::NOTHING,
        _ if places.len() == 1 => verdict(any(None)),
        (TextClause::Phrase { slop, .. }, _) => phrase(document, &words, *slop),
        (_, Split::Phrase) => phrase(document, &words, 0),
        (_, Split::Or) => verdict(any(None)),
        (_, Split::And) if places.iter().any(|place| any(Some(*place)) == 0.0) => Verdict::NO,
        (_, Split::And) => verdict(any(None)),
    }
}

fn judge_analyzed(clause: &AnalyzedClause, document: &Document) -> Verdict {
    match clause {
        AnalyzedClause::Term { text, .. } => verdict(occurrences(document, text)),
        AnalyzedClause::Prefix { text, .. } | AnalyzedClause::Fuzzy { text, .. } => {
            verdict(document.iter().filter(|word| word.starts_with(text)).count() as f64)
        }
        AnalyzedClause::Phrase { tokens, slop, .. } => {
            let words: Vec<_> = tokens.iter().map(|token| (i64::from(token.position), token.text.as_str())).collect();
            phrase(document, &words, *slop)
        }
    }
}

/// Whether one way of asking says the same as another: `before` has the score of the original.
#[track_caller]
fn same(before: Verdict, after: Verdict, scores: bool, what: &str) {
    assert_eq!(after.matches, before.matches, "{what}");
    assert!(!scores || after.score == before.score, "{what}: {} became {}", before.score, after.score);
}

fn is_normal<C>(query: &Query<C>) -> bool {
    match query {
        Query::Empty => false,
        Query::Clause(_) => true,
        Query::And(parts) => {
            parts.len() > 1 && parts.iter().all(|part| is_normal(part) && !matches!(part, Query::And(_)))
        }
        Query::Or(parts) => {
            parts.len() > 1 && parts.iter().all(|part| is_normal(part) && !matches!(part, Query::Or(_)))
        }
        Query::Best(parts) => {
            parts.len() > 1 && parts.iter().all(|part| is_normal(part) && !matches!(part, Query::Best(_)))
        }
        Query::Not(query) => is_normal(query) && !matches!(**query, Query::Not(_)),
        Query::Prefer { must, should } => {
            is_normal(must) && is_normal(should) && !matches!(**must, Query::Prefer { .. })
        }
        Query::Boost { query, factor } => matches!(**query, Query::Clause(_)) && factor.get() != 1.0,
    }
}

#[test]
fn the_normal_form_means_the_same() {
    with_seeds(2_000, |random| {
        // Of some leaves the best of several.
        let query = random_query(random, WORDS, 6).map_clauses(|clause| {
            let more = random.random_range(0..4_usize).saturating_sub(1);
            let others = (0..more).map(|_| random_query(random, WORDS, 1));
            Query::best(std::iter::once(Query::Clause(clause.clone())).chain(others).collect())
        });
        let (normal, scores) = (query.clone().normalize(), !negates_twice(&query, false));
        assert!(normal == Query::Empty || is_normal(&normal), "{query}: {normal}");
        assert_eq!(normal.clone().normalize(), normal, "{query}");
        assert_eq!(normal.has_positive(), query.has_positive(), "{query}: {normal}");
        for _ in 0..5 {
            let document = random_document(random);
            let leaf = |clause: &TextClause| judge_text(clause, &document, Split::Or);
            let known = |clause: &TextClause| match leaf(clause) {
                Verdict::NOTHING => Verdict::NO,
                verdict => verdict,
            };
            let before = judge(&query, &known);
            same(before, judge(&normal, &known), scores, &format!("{query}: {normal} on {document:?}"));
            let matches = |clause: &TextClause| known(clause).matches == Some(true);
            assert_eq!(query.matches(matches), before.matches == Some(true), "{query} on {document:?}");
        }
    });
}

#[test]
fn an_analyzed_query_means_the_same() {
    with_seeds(2_000, |random| {
        let query = random_query(random, WORDS, 5);
        let scores = !negates_twice(&query, false);
        for split in [Split::Phrase, Split::And, Split::Or] {
            let analyzed = analyze(&query, &SmallAnalyzer, split);
            assert!(analyzed == Query::Empty || is_normal(&analyzed), "{query}: {analyzed}");
            for _ in 0..3 {
                let document = random_document(random);
                let before = judge(&query, &|clause| judge_text(clause, &document, split));
                let after = judge(&analyzed, &|clause| judge_analyzed(clause, &document));
                same(before, after, scores, &format!("{query}: {analyzed} on {document:?}, {split:?}"));
            }
        }
    });
}

#[test]
fn only_a_query_with_words_leaves_the_rest_alone() {
    with_seeds(2_000, |random| {
        let query = random_query(random, WORDS, 5);
        assert!(!(query.has_positive() && query.matches(|_| false)), "{query}");
    });
}

#[test]
fn clauses_become_words() {
    for (text, split, expected) in [
        ("Rust", Split::Or, "rust"),
        ("foo-bar", Split::Or, "foo OR bar"),
        ("foo-bar", Split::And, "foo AND bar"),
        ("foo-bar", Split::Phrase, "\"foo bar\""),
        ("foo-the-bar", Split::Phrase, "\"foo bar@2\""),
        ("both", Split::Phrase, "both OR a"),
        ("both-b", Split::And, "(both OR a) AND b"),
        ("both-b", Split::Phrase, "\"both a@0 b\""),
        ("title:a-b^2", Split::And, "title:a^2 AND title:b^2"),
        ("-a-b", Split::Or, "NOT (a OR b)"),
        ("the", Split::Or, ""),
        ("NOT the", Split::Or, ""),
        ("the AND rust", Split::Or, "rust"),
        ("+the rust -the", Split::Or, "rust"),
        ("\"the quick the fox the\"", Split::Or, "\"quick fox@2\""),
        ("\"quick fox\"~2", Split::Or, "\"quick fox\"~2"),
        ("\"the Fox\"^2", Split::Or, "fox^2"),
        ("\"the\" OR \"\"", Split::Or, ""),
        ("Foo-Ba* Foo-Ba~2", Split::Or, "foo-ba* OR foo-ba~2"),
        ("the* a", Split::Or, "a"),
    ] {
        let analyzed = analyze(&TextQuery::parse(text).unwrap(), &SmallAnalyzer, split);
        assert_eq!(analyzed.to_string(), expected, "{text} {split:?}");
    }
    assert_eq!(Split::default(), Split::Or);
}

#[test]
fn any_tokens_are_taken() {
    struct Fixed(Vec<(&'static str, u32)>);
    impl Analyzer for Fixed {
        fn analyze(&self, field: Option<&str>, _: &str) -> Vec<Token> {
            assert_eq!(field, Some("title"));
            self.0.iter().map(|(text, position)| Token { text: (*text).to_string(), position: *position }).collect()
        }

        fn normalize(&self, _: Option<&str>, _: &str) -> String {
            String::new()
        }
    }
    let query = TextQuery::parse("title:x").unwrap();
    for (tokens, expected) in [
        (vec![], ""),
        (vec![("", 3)], ""),
        (vec![("a", u32::MAX)], "title:a"),
        (vec![("a", 4), ("a", 4)], "title:a"),
        (vec![("b", u32::MAX), ("a", 0)], "title:\"a b@4294967295\""),
        (vec![("b", 3), ("a", 2), ("B", 3)], "title:\"a b B@1\""),
    ] {
        assert_eq!(analyze(&query, &Fixed(tokens), Split::Phrase).to_string(), expected);
    }
}
