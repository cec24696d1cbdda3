//! The piece of a text that shows a query best, with the words it matches marked.
//!
//! Words are those that a search finds: prefixes and misspelt words mark what they stand for, a phrase marks its words
//! only where they stand as it says, and what is behind a NOT marks nothing.

use std::ops::Range;

use super::analyzer::{Tokenizer, Word};
use super::leaf::Pattern;
use crate::error::{Error, Result};
use crate::query_syntax::{AnalyzedClause, AnalyzedQuery, Query, Token};
use crate::text_index::TextIndex;

/// What stands where text was cut.
const CUT: &str = "…";

/// The bytes a word and what is between it and the next may have, on average, before text is cut inside: no word is
/// longer than this, but what is no word may be.
const BYTES_PER_WORD: usize = 48;

/// How much of a text a snippet has, and how it marks words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnippetStyle {
    /// Words at most, stop words not counted; at least 1.
    pub words: usize,
    /// What stands before a marked word.
    pub open: String,
    /// What stands behind it.
    pub close: String,
}

impl Default for SnippetStyle {
    fn default() -> Self {
        Self { words: 32, open: "<b>".into(), close: "</b>".into() }
    }
}

/// One place where a clause of the query is found.
#[derive(Debug)]
struct Hit {
    clause: usize,
    /// Indexes into the words of the text, ascending.
    words: Vec<usize>,
}

impl Hit {
    fn first(&self) -> usize {
        self.words[0]
    }

    fn last(&self) -> usize {
        self.words[self.words.len() - 1]
    }
}

/// The stretch of `text` that has the most clauses of `query`, then the most matches, then is the first; the beginning
/// if nothing matches. Nothing is escaped.
///
/// # Errors
/// `Internal` if the text has more words than an index takes.
pub fn snippet(text: &str, query: &AnalyzedQuery, style: &SnippetStyle, tokenizer: &mut Tokenizer) -> Result<String> {
    let words = tokenizer.words(text);
    let hits = hits(query, &words)?;
    let window = window(&hits, words.len(), style.words.max(1));
    let mut marked: Vec<usize> = hits.into_iter().flat_map(|hit| hit.words).filter(|w| window.contains(w)).collect();
    marked.sort_unstable();
    marked.dedup();
    let marks: Vec<Range<usize>> = marked.into_iter().map(|word| words[word].bytes.clone()).collect();
    let start = if window.start == 0 { 0 } else { words[window.start].bytes.start };
    let end = if window.end == words.len() { text.len() } else { words[window.end - 1].bytes.end };
    let bytes = bounded(text, start..end.max(start), marks.first(), style.words.saturating_add(1));
    Ok(render(text, bytes, &marks, style))
}

/// Where the query is found, but for what is behind a NOT.
fn hits(query: &AnalyzedQuery, words: &[Word]) -> Result<Vec<Hit>> {
    let (mut hits, mut open, mut clause) = (Vec::new(), vec![query], 0);
    while let Some(query) = open.pop() {
        match query {
            Query::Empty | Query::Not(_) => {}
            Query::Clause(leaf) => {
                hits.extend(places(leaf, words)?.into_iter().map(|words| Hit { clause, words }));
                clause += 1;
            }
            Query::And(parts) | Query::Or(parts) | Query::Best(parts) => open.extend(parts),
            Query::Prefer { must, should } => open.extend([must.as_ref(), should.as_ref()]),
            Query::Boost { query, .. } => open.push(query),
        }
    }
    Ok(hits)
}

/// The words of each place where `clause` is found.
fn places(clause: &AnalyzedClause, words: &[Word]) -> Result<Vec<Vec<usize>>> {
    let those = |is_one: &dyn Fn(&str) -> bool| {
        (0..words.len()).filter(|word| is_one(&words[*word].text)).map(|word| vec![word]).collect()
    };
    Ok(match clause {
        AnalyzedClause::Term { text, .. } => those(&|word| word == text),
        AnalyzedClause::Prefix { text, .. } => those(&|word| word.starts_with(text)),
        AnalyzedClause::Fuzzy { text, distance, .. } => {
            let index = TextIndex::new(false);
            let full = |e| Error::internal("a text has too many words").with_source(e);
            index.append(0, [words.iter().map(|word| (word.text.as_str(), word.position))]).map_err(full)?;
            let near = Pattern::Fuzzy(text.clone(), distance.edits()).words(&index, index.rows());
            those(&|word| near.iter().any(|near| near == word))
        }
        AnalyzedClause::Phrase { tokens, slop, .. } => phrases(tokens, *slop, words),
    })
}

/// The words of a phrase wherever it stands: each word at its place behind the one before, or up to `slop` behind that.
fn phrases(tokens: &[Token], slop: u32, words: &[Word]) -> Vec<Vec<usize>> {
    // For each place of the phrase, where it would begin by each word that may stand there.
    let slots: Vec<Vec<(i64, usize)>> = tokens
        .chunk_by(|a, b| a.position == b.position)
        .map(|slot| {
            let fits = |word: &Word| slot.iter().any(|token| token.text == word.text);
            let start = |word: usize| i64::from(words[word].position) - i64::from(slot[0].position);
            let mut starts: Vec<_> = (0..words.len()).filter(|w| fits(&words[*w])).map(|w| (start(w), w)).collect();
            starts.sort_unstable();
            starts
        })
        .collect();
    // Those from which the phrase goes on to its end, from the last place to the first.
    let next = |rest: &[(i64, usize)], start: i64| {
        let at = rest.partition_point(|(other, _)| *other < start);
        rest.get(at).copied().filter(|(other, _)| *other <= start + i64::from(slop))
    };
    let mut whole: Vec<Vec<(i64, usize)>> = Vec::with_capacity(slots.len());
    for mut slot in slots.into_iter().rev() {
        if let Some(rest) = whole.last() {
            slot.retain(|(start, _)| next(rest, *start).is_some());
        }
        whole.push(slot);
    }
    whole.reverse();
    let Some((first, rest)) = whole.split_first() else { return Vec::new() };
    let chain = |(start, word): &(i64, usize)| {
        let (mut start, mut chain) = (*start, vec![*word]);
        for slot in rest {
            if let Some((at, word)) = next(slot, start) {
                start = at;
                chain.push(word);
            }
        }
        chain.sort_unstable();
        chain
    };
    first.iter().map(chain).collect()
}

/// The best `width` of `count` words, its matches in the middle.
fn window(hits: &[Hit], count: usize, width: usize) -> Range<usize> {
    if count <= width {
        return 0..count;
    }
    // A place that is too long to be shown counts as nothing.
    let mut by_first: Vec<&Hit> = hits.iter().filter(|hit| hit.last() - hit.first() < width).collect();
    by_first.sort_by_key(|hit| hit.first());
    let mut by_last = by_first.clone();
    by_last.sort_by_key(|hit| hit.last());
    let clauses = hits.iter().map(|hit| hit.clause + 1).max().unwrap_or(0);
    let (mut found, mut distinct, mut total) = (vec![0_usize; clauses], 0_usize, 0_usize);
    let (mut entered, mut left) = (0, 0);
    let mut best: Option<(usize, usize, Range<usize>)> = None;
    for hit in &by_first {
        let start = hit.first();
        while let Some(next) = by_last.get(entered).filter(|next| next.last() < start + width) {
            distinct += usize::from(found[next.clause] == 0);
            found[next.clause] += 1;
            total += 1;
            entered += 1;
        }
        while let Some(gone) = by_first.get(left).filter(|gone| gone.first() < start) {
            found[gone.clause] -= 1;
            distinct -= usize::from(found[gone.clause] == 0);
            total -= 1;
            left += 1;
        }
        if best.as_ref().is_none_or(|(d, t, _)| (distinct, total) > (*d, *t)) {
            best = Some((distinct, total, start..by_last[entered - 1].last() + 1));
        }
    }
    let Some((_, _, shown)) = best else { return 0..width };
    let start = shown.start.saturating_sub((width - shown.len().min(width)) / 2).min(count - width);
    start..start + width
}

/// `bytes`, or so much of it around `mark` as `words` words may have.
fn bounded(text: &str, bytes: Range<usize>, mark: Option<&Range<usize>>, words: usize) -> Range<usize> {
    let most = words.saturating_mul(BYTES_PER_WORD);
    if bytes.len() <= most {
        return bytes;
    }
    let start = mark.map_or(bytes.start, |mark| bytes.start.max(mark.start.saturating_sub(most / 2)));
    let start = text.floor_char_boundary(start);
    start..text.floor_char_boundary(bytes.end.min(start + most))
}

/// The piece of `text` with `marks`, which are ascending.
fn render(text: &str, bytes: Range<usize>, marks: &[Range<usize>], style: &SnippetStyle) -> String {
    let mut joined: Vec<Range<usize>> = Vec::with_capacity(marks.len());
    for mark in marks {
        let mark = mark.start.max(bytes.start)..mark.end.min(bytes.end);
        match joined.last_mut() {
            Some(last) if mark.start < last.end => last.end = last.end.max(mark.end),
            _ if mark.is_empty() => {}
            _ => joined.push(mark),
        }
    }
    let mut piece = String::with_capacity(bytes.len() + joined.len() * (style.open.len() + style.close.len()) + 6);
    if bytes.start > 0 {
        piece.push_str(CUT);
    }
    let mut at = bytes.start;
    for mark in joined {
        piece.push_str(&text[at..mark.start]);
        piece.push_str(&style.open);
        piece.push_str(&text[mark.clone()]);
        piece.push_str(&style.close);
        at = mark.end;
    }
    piece.push_str(&text[at..bytes.end]);
    if bytes.end < text.len() {
        piece.push_str(CUT);
    }
    piece
}

#[cfg(test)]
mod tests {

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::super::{TextAnalyzer, TextSearch};
    use super::*;

    fn shown(text: &str, query: &str, words: usize) -> String {
        let analyzer = TextAnalyzer::default_one();
        let query = TextSearch::parse("", query, &analyzer).unwrap().query;
        let style = SnippetStyle { words, open: "[".into(), close: "]".into() };
        snippet(text, &query, &style, &mut analyzer.tokenizer()).unwrap()
    }

    #[test]
    fn a_snippet_marks_what_a_query_matches() {
        let fox = "The quick brown fox, jumping over lazy dogs";
        for (query, expected) in [
            ("fox", "The quick brown [fox], jumping over lazy dogs"),
            ("jump AND dog", "The quick brown fox, [jumping] over lazy [dogs]"),
            ("bro* dig~", "The quick [brown] fox, jumping over lazy [dogs]"),
            ("\"quick fox\" dog", "The quick brown fox, jumping over lazy [dogs]"),
            ("\"quick fox\"~1", "The [quick] brown [fox], jumping over lazy dogs"),
            ("\"jumps over lazy\"", "The quick brown fox, [jumping] over [lazy] dogs"),
            ("+quick^2 -fox", "The [quick] brown fox, jumping over lazy dogs"),
            ("NOT fox", "The quick brown fox, jumping over lazy dogs"),
            ("the", "The quick brown fox, jumping over lazy dogs"),
            ("", "The quick brown fox, jumping over lazy dogs"),
            ("absent", "The quick brown fox, jumping over lazy dogs"),
        ] {
            assert_eq!(shown(fox, query, 20), expected, "{query}");
        }
    }

    #[test]
    fn a_snippet_is_the_best_piece() {
        let text = "one two three four five log six seven eight nine ten log eleven structured twelve merge thirteen";
        for (query, words, expected) in [
            ("log", 3, "…five [log] six…"),
            ("log structured", 5, "…ten [log] eleven [structured] twelve…"),
            ("\"log structured\"~1 merge", 5, "…[log] eleven [structured] twelve [merge]…"),
            ("one", 3, "[one] two three…"),
            ("thirteen", 3, "…twelve merge [thirteen]"),
            ("absent", 2, "one two…"),
            // Too long to be shown as a whole: what there is of it is marked where it is.
            ("\"log six\" OR \"one merge\"~20", 2, "…[log] [six]…"),
        ] {
            assert_eq!(shown(text, query, words), expected, "{query}");
        }
    }

    #[test]
    fn a_snippet_is_cut_between_characters_and_never_long() {
        assert_eq!(shown("Ünï caf\u{e9}s 日本語 und 𝒳 ß", "cafe", 1), "…[caf\u{e9}s]…");
        assert_eq!(shown("", "a", 3), "");
        assert_eq!(shown("!?", "a", 3), "!?");
        let noise = "é".repeat(5000);
        let piece = shown(&format!("{noise} needle {noise}"), "needle", 2);
        assert!(piece.contains("[needle]") && piece.len() < 200, "{piece}");
        let piece = shown(&noise, "needle", 2);
        assert!(piece.starts_with('é') && piece.ends_with('…') && piece.len() < 200, "{piece}");
    }

    #[test]
    fn a_snippet_without_its_marks_is_a_piece_of_the_text() {
        for seed in 0..300 {
            let mut rng = StdRng::seed_from_u64(seed);
            let vocabulary = ["log", "tree", "der", "naïve", "日本", "x-y", "the", "  ", "A😀b", "\n"];
            let mut text = String::new();
            for _ in 0..rng.random_range(0..60) {
                text.push_str(vocabulary[rng.random_range(0..vocabulary.len())]);
                text.push_str(if rng.random_bool(0.8) { " " } else { "" });
            }
            let queries = ["log", "\"log tree\"~3 naive", "tr* OR 日本", "lg~ AND \"x y\"", "b NOT log"];
            let query = queries[rng.random_range(0..queries.len())];
            let piece = shown(&text, query, rng.random_range(1..20));
            let bare = piece.replace(['[', ']'], "");
            let bare = bare.strip_prefix(CUT).unwrap_or(&bare);
            let bare = bare.strip_suffix(CUT).unwrap_or(bare);
            assert!(text.contains(bare), "seed {seed}: {query}: {piece:?} of {text:?}");
        }
    }
}
