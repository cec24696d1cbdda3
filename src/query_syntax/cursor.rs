//! A text that is read from left to right.

use std::borrow::Cow;
use std::str::Chars;

use super::notation::{is_quote_or_parenthesis, is_special};
use crate::error::{Error, Result};

/// A text and how much of it is still to be read.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    rest: Chars<'a>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, rest: text.chars() }
    }

    /// What is still to be read.
    pub(super) fn rest(&self) -> &'a str {
        self.rest.as_str()
    }

    /// The next character, which stays.
    pub(super) fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    /// The next character.
    pub(super) fn next(&mut self) -> Option<char> {
        self.rest.next()
    }

    /// Reads `c` if it comes next.
    pub(super) fn take(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.rest.next();
        }
        found
    }

    /// Whether `keyword` comes next and stands alone.
    pub(super) fn at_keyword(&self, keyword: &str) -> bool {
        self.behind_keyword(keyword).is_some()
    }

    /// Reads `keyword` if it comes next and stands alone.
    pub(super) fn take_keyword(&mut self, keyword: &str) -> bool {
        let behind = self.behind_keyword(keyword);
        if let Some(behind) = behind {
            self.rest = behind.chars();
        }
        behind.is_some()
    }

    fn behind_keyword(&self, keyword: &str) -> Option<&'a str> {
        let behind = self.rest().strip_prefix(keyword)?;
        let alone = behind.chars().next().is_none_or(|c| c.is_whitespace() || is_quote_or_parenthesis(c));
        alone.then_some(behind)
    }

    pub(super) fn skip_blanks(&mut self) {
        self.rest = self.rest().trim_start().chars();
    }

    /// Whether a character of a word comes next.
    pub(super) fn in_word(&self) -> bool {
        self.peek().is_some_and(|c| c == '\\' || !ends_word(c))
    }

    /// Reads a word up to what ends it. A colon does unless `colons` are part of it.
    pub(super) fn word(&mut self, colons: bool) -> Result<String> {
        let mut text = String::new();
        while let Some(c) = self.peek().filter(|c| self.in_word() || (colons && *c == ':')) {
            self.next();
            text.push(if c == '\\' { self.escaped()? } else { c });
        }
        Ok(text)
    }

    /// Reads what is in quotes, the first of which comes next.
    pub(super) fn quoted(&mut self) -> Result<String> {
        let (open, mut text) = (self.bytes_read(), String::new());
        self.next();
        loop {
            match self.next() {
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escaped()?),
                Some(c) => text.push(c),
                None => {
                    let message = "a phrase is not closed: add a '\"', or write '\\\"' to look for it";
                    return Err(self.wrong_at(open, message));
                }
            }
        }
    }

    fn escaped(&mut self) -> Result<char> {
        self.next().ok_or_else(|| self.wrong("a '\\' ends the query: write '\\\\' to look for it"))
    }

    /// Reads what is left of the word, without escapes.
    pub(super) fn suffix(&mut self) -> &'a str {
        let rest = self.rest();
        let (suffix, behind) = rest.split_at(rest.find(ends_word).unwrap_or(rest.len()));
        self.rest = behind.chars();
        suffix
    }

    pub(super) fn bytes_read(&self) -> usize {
        self.text.len() - self.rest().len()
    }

    /// An error about what comes next.
    pub(super) fn wrong(&self, message: impl Into<Cow<'static, str>>) -> Error {
        self.wrong_at(self.bytes_read(), message)
    }

    /// An error about what stands behind the first `bytes`.
    pub(super) fn wrong_at(&self, bytes: usize, message: impl Into<Cow<'static, str>>) -> Error {
        let offset = self.text.char_indices().take_while(|(at, _)| *at < bytes).count();
        Error::invalid(message).with_context("offset", offset)
    }
}

fn ends_word(c: char) -> bool {
    c.is_whitespace() || is_special(c)
}
