//! How texts become words: what a text index is told.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::params::Params;
use crate::error::{Error, Result};

/// The languages whose words are stemmed, as Lance names them.
pub const LANGUAGES: [&str; 18] = [
    "Arabic",
    "Danish",
    "Dutch",
    "English",
    "Finnish",
    "French",
    "German",
    "Greek",
    "Hungarian",
    "Italian",
    "Norwegian",
    "Portuguese",
    "Romanian",
    "Russian",
    "Spanish",
    "Swedish",
    "Tamil",
    "Turkish",
];

/// The tokenizers that every build has, as Lance names them. Besides there are `lindera/…` and `jieba/…`, if Lance is
/// built with them and finds their dictionaries.
pub const TOKENIZERS: [&str; 7] = ["simple", "whitespace", "raw", "ngram", "code", "icu", "icu/split"];

/// How texts become words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TextParams {
    /// What splits a text: one of [`TOKENIZERS`], `lindera/…` or `jieba/…`.
    pub tokenizer: String,
    /// Whose stems and stop words, one of [`LANGUAGES`].
    pub language: String,
    /// Whether words are reduced to their stems.
    pub stem: bool,
    /// Which words are left out.
    pub stop_words: StopWords,
    /// Whether words are brought to lower case.
    pub lower_case: bool,
    /// Whether accents are dropped.
    pub ascii_folding: bool,
    /// Words of more bytes are left out.
    pub max_token_length: Option<u32>,
    /// Characters of the shortest and the longest n-gram.
    pub ngram: (u32, u32),
    /// Whether n-grams begin where a text begins, and only there.
    pub prefix_only: bool,
}

/// Which words are left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StopWords {
    /// None.
    Keep,
    /// Those of the language.
    OfLanguage,
    /// These.
    Own(Vec<String>),
}

impl Default for TextParams {
    /// Lance's defaults: English.
    fn default() -> Self {
        Self::of_tokenizer("simple")
    }
}

impl TextParams {
    /// Whether an index that is described as `there` may be one that was made as this says: Lance does not describe which
    /// words of a list are left out.
    pub(super) fn may_be(&self, there: &Self) -> bool {
        let stop_words = match &self.stop_words {
            StopWords::Own(_) => StopWords::OfLanguage,
            other => other.clone(),
        };
        Self { stop_words, ..self.clone() } == *there
    }

    /// Lance's defaults for a tokenizer: pieces of words and identifiers are not stemmed, and none is left out.
    pub fn of_tokenizer(tokenizer: &str) -> Self {
        let whole_words = !matches!(tokenizer, "ngram" | "code");
        Self {
            tokenizer: tokenizer.to_string(),
            language: "English".into(),
            stem: whole_words,
            stop_words: if whole_words { StopWords::OfLanguage } else { StopWords::Keep },
            lower_case: true,
            ascii_folding: true,
            max_token_length: Some(40),
            ngram: (3, 3),
            prefix_only: false,
        }
    }

    pub(super) fn read(params: &mut Params) -> Result<Self> {
        let tokenizer = match params.text(&["tokenizer", "base_tokenizer"])? {
            Some(name) => tokenizer_named(&name)?,
            None => "simple".to_string(),
        };
        let mut text = Self::of_tokenizer(&tokenizer);
        if let Some(name) = params.text(&["language"])? {
            text.language = language_named(&name)?;
        }
        text.stem = params.flag(&["stem"])?.unwrap_or(text.stem);
        text.lower_case = params.flag(&["lower_case"])?.unwrap_or(text.lower_case);
        text.ascii_folding = params.flag(&["ascii_folding"])?.unwrap_or(text.ascii_folding);
        text.max_token_length = params.limit(&["max_token_length"])?.unwrap_or(text.max_token_length);
        if let Some(value) = params.value(&["stop_words", "remove_stop_words"])? {
            text.stop_words = stop_words(&value).ok_or_else(|| {
                params.wrong("stop_words", "true, false or a list of words such as ['a', 'the']", &value)
            })?;
        }
        // Lance has two names for what is one here.
        if let Some(value) = params.value(&["custom_stop_words"])?.filter(|value| !value.is_null()) {
            let own = stop_words(&value).filter(|words| matches!(words, StopWords::Own(_)));
            let own = own.ok_or_else(|| params.wrong("custom_stop_words", "a list of words", &value))?;
            if text.stop_words != StopWords::Keep {
                text.stop_words = own;
            }
        }
        let min = params.number(&["ngram_min", "min_ngram_length"])?;
        let max = params.number(&["ngram_max", "max_ngram_length"])?;
        let only = params.flag(&["prefix_only"])?;
        if tokenizer != "ngram" && (min.is_some() || max.is_some() || only.is_some()) {
            return Err(Error::invalid(format!(
                "ngram_min, ngram_max and prefix_only are for tokenizer = 'ngram', and it is '{tokenizer}'"
            )));
        }
        let smallest = min.unwrap_or_else(|| max.map_or(text.ngram.0, |max| max.min(text.ngram.0)));
        text.ngram = (smallest, max.unwrap_or_else(|| smallest.max(text.ngram.1)));
        if text.ngram.0 > text.ngram.1 {
            return Err(Error::invalid(format!(
                "ngram_min = {} is more than ngram_max = {}",
                text.ngram.0, text.ngram.1
            )));
        }
        text.prefix_only = only.unwrap_or(text.prefix_only);
        Ok(text)
    }

    /// The parameters that differ from their defaults.
    pub(super) fn told(&self) -> Vec<(&'static str, Value)> {
        let default = Self::of_tokenizer(&self.tokenizer);
        let mut told = Vec::new();
        let mut tell = |differs: bool, name, value: Value| {
            if differs {
                told.push((name, value));
            }
        };
        tell(self.tokenizer != "simple", "tokenizer", self.tokenizer.clone().into());
        tell(self.language != default.language, "language", self.language.clone().into());
        tell(self.stem != default.stem, "stem", self.stem.into());
        let words = match &self.stop_words {
            StopWords::Keep => Value::Bool(false),
            StopWords::OfLanguage => Value::Bool(true),
            StopWords::Own(words) => words.clone().into(),
        };
        tell(self.stop_words != default.stop_words, "stop_words", words);
        tell(self.lower_case != default.lower_case, "lower_case", self.lower_case.into());
        tell(self.ascii_folding != default.ascii_folding, "ascii_folding", self.ascii_folding.into());
        let length = self.max_token_length.map_or(Value::Null, Value::from);
        tell(self.max_token_length != default.max_token_length, "max_token_length", length);
        tell(self.ngram.0 != default.ngram.0, "ngram_min", self.ngram.0.into());
        tell(self.ngram.1 != self.ngram.0.max(default.ngram.1), "ngram_max", self.ngram.1.into());
        tell(self.prefix_only, "prefix_only", true.into());
        told
    }
}

fn tokenizer_named(name: &str) -> Result<String> {
    let lower = name.to_ascii_lowercase();
    if TOKENIZERS.contains(&lower.as_str()) {
        return Ok(lower);
    }
    if ["lindera/", "jieba/"].iter().any(|prefix| lower.starts_with(prefix)) {
        return Ok(name.to_string());
    }
    Err(Error::invalid(format!(
        "there is no tokenizer '{name}': known are {}, lindera/<model>, jieba/<model>",
        TOKENIZERS.join(", ")
    )))
}

fn language_named(name: &str) -> Result<String> {
    let found = LANGUAGES.iter().find(|language| language.eq_ignore_ascii_case(name));
    found
        .map(|language| (*language).to_string())
        .ok_or_else(|| Error::invalid(format!("there is no language '{name}': known are {}", LANGUAGES.join(", "))))
}

fn stop_words(value: &Value) -> Option<StopWords> {
    match value {
        Value::Bool(true) => Some(StopWords::OfLanguage),
        Value::Bool(false) => Some(StopWords::Keep),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" => Some(StopWords::OfLanguage),
            "false" => Some(StopWords::Keep),
            _ => None,
        },
        Value::Array(words) => {
            let words = words.iter().map(|word| word.as_str().map(str::to_string));
            words.collect::<Option<Vec<_>>>().map(StopWords::Own)
        }
        _ => None,
    }
}
