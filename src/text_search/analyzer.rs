//! Words of documents and of queries.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use lance_index::scalar::InvertedIndexParams;
use lance_index::scalar::inverted::document_tokenizer::LanceTokenizer;

use crate::error::{Error, Result};
use crate::index_spec::{StopWords, TOKENIZERS, TextParams};
use crate::query_syntax::{Analyzer, Token};

/// Makes words as Lance's text indexes of the same parameters do. Two are equal if their parameters are.
#[derive(Clone)]
pub struct TextAnalyzer {
    told: TextParams,
    params: InvertedIndexParams,
    tokenizer: Box<dyn LanceTokenizer>,
    /// Neither splits nor stems: for pieces of words.
    folder: Box<dyn LanceTokenizer>,
}

impl TextAnalyzer {
    /// The analyzer of an index with these parameters.
    ///
    /// # Errors
    /// `Invalid` if this build of Lance has no such tokenizer, or no stop words of the language.
    pub fn try_new(told: &TextParams) -> Result<Self> {
        let refused = |e: lance_core::Error| {
            let why = e.to_string();
            let why = why.lines().next().unwrap_or_default();
            Error::invalid(format!(
                "texts cannot be split with tokenizer = '{}', language = '{}' here: {why}. Every build has {}; stop_words \
                 = false does without those of a language",
                told.tokenizer,
                told.language,
                TOKENIZERS.join(", ")
            ))
            .with_source(e)
        };
        let lance = lance_params(told).map_err(refused)?;
        let tokenizer = lance.build().map_err(refused)?;
        let folder = InvertedIndexParams::default()
            .base_tokenizer("raw".into())
            .max_token_length(None)
            .stem(false)
            .remove_stop_words(false)
            .lower_case(told.lower_case)
            .ascii_folding(told.ascii_folding);
        let folder = folder.build().map_err(refused)?;
        Ok(Self { told: told.clone(), params: lance, tokenizer, folder })
    }

    /// The analyzer of columns without a text index of their own.
    pub fn default_one() -> Arc<Self> {
        static DEFAULT: LazyLock<Arc<TextAnalyzer>> = LazyLock::new(|| {
            Arc::new(TextAnalyzer::try_new(&TextParams::default()).expect("every build of Lance has its defaults"))
        });
        Arc::clone(&DEFAULT)
    }

    /// How it makes words.
    pub fn told(&self) -> &TextParams {
        &self.told
    }

    /// What Lance is told to make the same words.
    pub fn params(&self) -> &InvertedIndexParams {
        &self.params
    }

    /// Whether indexes keep the positions of words.
    pub fn has_positions(&self) -> bool {
        true
    }

    /// Whether an index of Lance's with these parameters has the same words as this one makes. How it stores them may
    /// differ.
    pub fn agrees_with(&self, params: &InvertedIndexParams) -> bool {
        let (Ok(own), Ok(other)) = (words_of(&self.params), words_of(params)) else { return false };
        own == other
    }

    /// A tokenizer of documents, for one thread.
    pub fn tokenizer(&self) -> Tokenizer {
        Tokenizer(self.tokenizer.clone())
    }
}

/// The parameters as Lance's indexes have them, positions included.
fn lance_params(params: &TextParams) -> lance_core::Result<InvertedIndexParams> {
    let (stop, own) = match &params.stop_words {
        StopWords::Keep => (false, None),
        StopWords::OfLanguage => (true, None),
        StopWords::Own(words) => (true, Some(words.clone())),
    };
    // The tokenizer comes first: it brings defaults of its own.
    Ok(InvertedIndexParams::default()
        .lance_tokenizer("text".into())
        .base_tokenizer(params.tokenizer.clone())
        .language(&params.language)?
        .stem(params.stem)
        .remove_stop_words(stop)
        .custom_stop_words(own)
        .lower_case(params.lower_case)
        .ascii_folding(params.ascii_folding)
        .max_token_length(params.max_token_length.map(|length| length as usize))
        .ngram_min_length(params.ngram.0)
        .ngram_max_length(params.ngram.1)
        .ngram_prefix_only(params.prefix_only)
        .with_position(true))
}

impl PartialEq for TextAnalyzer {
    fn eq(&self, other: &Self) -> bool {
        self.told == other.told
    }
}

impl Eq for TextAnalyzer {}

impl Hash for TextAnalyzer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.told.hash(state);
    }
}

/// What of the parameters has a say in words.
fn words_of(params: &InvertedIndexParams) -> serde_json::Result<serde_json::Value> {
    let mut words = serde_json::to_value(params)?;
    if let Some(words) = words.as_object_mut() {
        words.remove("with_position");
        words.remove("block_size");
        // Old indexes leave unsaid what is the rule.
        if words.get("lance_tokenizer").is_none_or(|kind| kind.is_null()) {
            words.insert("lance_tokenizer".into(), "text".into());
        }
        if words.get("base_tokenizer").is_some_and(|name| name == "") {
            words.insert("base_tokenizer".into(), "simple".into());
        }
    }
    Ok(words)
}

impl fmt::Debug for TextAnalyzer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TextAnalyzer").field(&self.told).finish()
    }
}

/// Splits documents into words.
#[derive(Debug)]
pub struct Tokenizer(Box<dyn LanceTokenizer>);

impl Tokenizer {
    /// Calls `f` with each word of `text` and its position.
    pub fn for_each_token(&mut self, text: &str, mut f: impl FnMut(&str, u32)) {
        let mut stream = self.0.token_stream_for_doc(text);
        while stream.advance() {
            let token = stream.token();
            f(&token.text, u32::try_from(token.position).unwrap_or(u32::MAX));
        }
    }

    /// The words of `text` in their order, and where they stand in it.
    pub fn words(&mut self, text: &str) -> Vec<Word> {
        let mut words = Vec::new();
        let mut stream = self.0.token_stream_for_doc(text);
        while stream.advance() {
            let token = stream.token();
            let bytes = token.offset_from..token.offset_to;
            // A tokenizer whose offsets are not of this text has no words to show.
            if text.get(bytes.clone()).is_some() {
                let position = u32::try_from(token.position).unwrap_or(u32::MAX);
                words.push(Word { text: token.text.clone(), position, bytes });
            }
        }
        words
    }
}

/// A word of a document and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The word as an index has it.
    pub text: String,
    /// Its place among the words.
    pub position: u32,
    /// Its place in the document.
    pub bytes: Range<usize>,
}

impl Analyzer for TextAnalyzer {
    fn analyze(&self, _: Option<&str>, text: &str) -> Vec<Token> {
        let mut tokens = Vec::new();
        let word = |text: &str, position| tokens.push(Token { text: text.to_string(), position });
        self.tokenizer().for_each_token(text, word);
        tokens
    }

    fn normalize(&self, _: Option<&str>, text: &str) -> String {
        let mut folder = self.folder.clone();
        let mut stream = folder.token_stream_for_search(text);
        if stream.advance() { stream.token().text.clone() } else { String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::index_spec::{IndexKind, IndexSpec, LANGUAGES};

    #[test]
    fn words_are_those_of_lance_at_its_defaults() {
        let analyzer = TextAnalyzer::default_one();
        let words: Vec<_> = analyzer.analyze(None, "The Cafés are running, e.g. in x86-64!");
        let words: Vec<(&str, u32)> = words.iter().map(|token| (token.text.as_str(), token.position)).collect();
        assert_eq!(words, [("cafe", 1), ("run", 3), ("e", 4), ("g", 5), ("x86", 7), ("64", 8)]);
        assert_eq!(analyzer.normalize(None, "RunnÍng"), "running");
        assert_eq!(analyzer.normalize(None, ""), "");
    }

    fn analyzer(kind: &str) -> Result<TextAnalyzer> {
        let index = IndexSpec::parse("c", kind).unwrap().remove(0);
        let IndexKind::Text(params) = index.kind else { panic!("{kind}") };
        TextAnalyzer::try_new(&params)
    }

    fn words(kind: &str, text: &str) -> Vec<String> {
        analyzer(kind).unwrap().analyze(None, text).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn words_are_made_as_an_index_is_told() {
        assert_eq!(words("fts(language='German')", "Die Häuser am Fluss"), ["haus", "fluss"]);
        assert_eq!(words("fts(language='German', stem=false)", "Die Häuser"), ["hauser"]);
        assert_eq!(words("fts(tokenizer='whitespace', stem=false)", "x86-64 (ok)"), ["x86-64", "(ok)"]);
        assert_eq!(words("fts(tokenizer='raw', stem=false, lower_case=false)", "A b"), ["A b"]);
        assert_eq!(words("fts(tokenizer='ngram', ngram_min=2, ngram_max=3)", "abc"), ["ab", "abc", "bc"]);
        assert_eq!(words("fts(tokenizer='icu')", "データ 全部 running"), ["データ", "全部", "run"]);
        assert_eq!(words("fts(stop_words=['log'], stem=false)", "the log trees"), ["the", "trees"]);
        assert_eq!(words("fts(stop_words=false, max_token_length=4)", "The tallest oak"), ["the", "oak"]);
        assert_eq!(words("fts(ascii_folding=false, stem=false)", "Café"), ["café"]);
        assert_eq!(analyzer("fts(lower_case=false)").unwrap().normalize(None, "RunnÍng"), "RunnIng");
    }

    #[test]
    fn every_language_and_tokenizer_that_is_told_of_is_there() {
        for language in LANGUAGES {
            analyzer(&format!("fts(language='{language}')")).unwrap();
        }
        for tokenizer in TOKENIZERS {
            let default = TextParams::of_tokenizer(tokenizer);
            let lances = InvertedIndexParams::default().base_tokenizer(tokenizer.into());
            assert!(TextAnalyzer::try_new(&default).unwrap().agrees_with(&lances), "{tokenizer}");
        }
        let error = analyzer("fts(tokenizer='jieba/default')").unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Invalid);
        assert!(error.message().contains("jieba/default") && error.message().contains("icu"), "{error}");
    }

    #[test]
    fn parameters_agree_if_words_do() {
        let analyzer = TextAnalyzer::default_one();
        let of = InvertedIndexParams::default;
        for same in [of(), of().with_position(false), of().block_size(256).unwrap()] {
            assert!(analyzer.agrees_with(&same));
        }
        for other in [of().stem(false), of().base_tokenizer("whitespace".into()), of().lance_tokenizer("json".into())] {
            assert!(!analyzer.agrees_with(&other));
        }
    }
}
