//! Words of documents and of queries.

use std::fmt;

use lance_index::scalar::InvertedIndexParams;
use lance_index::scalar::inverted::document_tokenizer::LanceTokenizer;

use crate::error::{Error, Result};
use crate::query_syntax::{Analyzer, Token};

/// Makes words as Lance's text indexes do at their defaults: split at blanks and punctuation, in lower case and without
/// accents, stemmed in English, without words of more than 40 bytes and English stop words.
#[derive(Clone)]
pub struct TextAnalyzer {
    tokenizer: Box<dyn LanceTokenizer>,
    /// Neither splits nor stems: for pieces of words.
    folder: Box<dyn LanceTokenizer>,
}

impl TextAnalyzer {
    /// The analyzer.
    ///
    /// # Errors
    /// `Internal` if Lance has no such tokenizer any more.
    pub fn try_new() -> Result<Self> {
        let refused = |e| Error::internal("Lance does not make words as it did").with_source(e);
        let tokenizer = InvertedIndexParams::default().build().map_err(refused)?;
        let folder = InvertedIndexParams::default()
            .base_tokenizer("raw".into())
            .max_token_length(None)
            .stem(false)
            .remove_stop_words(false);
        Ok(Self { tokenizer, folder: folder.build().map_err(refused)? })
    }

    /// A tokenizer of documents, for one thread.
    pub fn tokenizer(&self) -> Tokenizer {
        Tokenizer(self.tokenizer.clone())
    }
}

impl fmt::Debug for TextAnalyzer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TextAnalyzer")
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

    #[test]
    fn words_are_those_of_lance_at_its_defaults() {
        let analyzer = TextAnalyzer::try_new().unwrap();
        let words: Vec<_> = analyzer.analyze(None, "The Cafés are running, e.g. in x86-64!");
        let words: Vec<(&str, u32)> = words.iter().map(|token| (token.text.as_str(), token.position)).collect();
        assert_eq!(words, [("cafe", 1), ("run", 3), ("e", 4), ("g", 5), ("x86", 7), ("64", 8)]);
        assert_eq!(analyzer.normalize(None, "RunnÍng"), "running");
        assert_eq!(analyzer.normalize(None, ""), "");
    }
}
