//! How indexes are written down: `fts(language = 'German', stem = false), btree`, or the same as JSON.
//!
//! ```text
//! kinds  = kind { "," kind }
//! kind   = word [ "(" [ param { "," param } ] ")" ]
//! param  = value | word "=" value
//! value  = word | quoted | "[" [ value { "," value } ] "]"
//! quoted = "'" … "'" or '"' … '"'; the quote itself is written twice
//! ```
//!
//! As JSON a kind is an object with the member `kind`, and several are an array of them.

use serde_json::{Map, Number, Value};

use crate::error::{Error, Result};
use crate::settings::switch;

/// A kind of index with its parameters as they are written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) kind: String,
    /// Without a name if the place tells which one it is.
    pub(super) params: Vec<(Option<String>, Value)>,
}

/// The kinds of `text`.
///
/// # Errors
/// `Invalid` if it is not of this form.
pub(super) fn parse(text: &str) -> Result<Vec<Call>> {
    if text.trim_start().starts_with(['{', '[']) {
        let json: Value = serde_json::from_str(text)
            .map_err(|e| Error::invalid(format!("'{text}' is no JSON: {e}")).with_source(e))?;
        let kinds = if let Value::Array(kinds) = json { kinds } else { vec![json] };
        return kinds.into_iter().map(of_json).collect();
    }
    let mut cursor = Cursor { text, rest: text };
    let kinds = cursor.list(None, Cursor::call)?;
    if kinds.is_empty() { Err(cursor.expected("a kind of index")) } else { Ok(kinds) }
}

/// A parameter's value as it is written.
///
/// # Errors
/// `Invalid` if it is not of this form.
pub(super) fn parse_value(text: &str) -> Result<Value> {
    let mut cursor = Cursor { text, rest: text };
    let value = cursor.value()?;
    if cursor.rest.trim().is_empty() { Ok(value) } else { Err(cursor.expected("the end")) }
}

fn of_json(kind: Value) -> Result<Call> {
    let wrong = || Error::invalid("an index as JSON is an object with its kind: {\"kind\": \"fts\"}");
    let Value::Object(mut members) = kind else { return Err(wrong()) };
    let Some(Value::String(kind)) = members.remove("kind") else { return Err(wrong()) };
    Ok(Call { kind: kind.to_ascii_lowercase(), params: named(members) })
}

fn named(members: Map<String, Value>) -> Vec<(Option<String>, Value)> {
    members.into_iter().map(|(name, value)| (Some(name), value)).collect()
}

/// A value as [`parse_value`] reads it.
pub(super) fn written(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(written).collect();
            format!("[{}]", values.join(", "))
        }
        Value::Null => "none".into(),
        other => other.to_string(),
    }
}

struct Cursor<'a> {
    text: &'a str,
    rest: &'a str,
}

impl Cursor<'_> {
    fn expected(&self, what: &str) -> Error {
        let found = match self.rest.trim_start() {
            "" => "the end".to_string(),
            rest => format!("'{rest}'"),
        };
        Error::invalid(format!("'{}' says no index: {what} is expected at {found}", self.text))
    }

    fn take(&mut self, symbol: char) -> bool {
        let rest = self.rest.trim_start().strip_prefix(symbol);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Parts between commas, up to `close` or the end.
    fn list<T>(&mut self, close: Option<char>, part: fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut parts = Vec::new();
        let ends = |cursor: &mut Self| match close {
            Some(close) => cursor.take(close),
            None => cursor.rest.trim().is_empty(),
        };
        if ends(self) {
            return Ok(parts);
        }
        loop {
            parts.push(part(self)?);
            if ends(self) {
                return Ok(parts);
            }
            if !self.take(',') {
                return Err(self.expected(&close.map_or("','".into(), |close| format!("',' or '{close}'"))));
            }
        }
    }

    fn call(&mut self) -> Result<Call> {
        let kind = self.word().ok_or_else(|| self.expected("a kind of index"))?.to_ascii_lowercase();
        let params = if self.take('(') { self.list(Some(')'), Self::param)? } else { Vec::new() };
        Ok(Call { kind, params })
    }

    fn param(&mut self) -> Result<(Option<String>, Value)> {
        let before = self.rest;
        if let Some(name) = self.word()
            && self.take('=')
        {
            return Ok((Some(name.to_ascii_lowercase()), self.value()?));
        }
        self.rest = before;
        Ok((None, self.value()?))
    }

    fn value(&mut self) -> Result<Value> {
        if self.take('[') {
            return Ok(Value::Array(self.list(Some(']'), Self::value)?));
        }
        for quote in ['\'', '"'] {
            if self.take(quote) {
                return self.quoted(quote).map(Value::String);
            }
        }
        let word = self.word().ok_or_else(|| self.expected("a value"))?;
        if let Some(flag) = switch(&word) {
            return Ok(Value::Bool(flag));
        }
        Ok(match word.to_ascii_lowercase().as_str() {
            "none" | "null" => Value::Null,
            _ => word.parse::<u64>().map_or_else(|_| Value::String(word), |n| Value::Number(Number::from(n))),
        })
    }

    fn word(&mut self) -> Option<String> {
        let rest = self.rest.trim_start();
        let end = rest.find(|c: char| !(c.is_alphanumeric() || "_-./".contains(c))).unwrap_or(rest.len());
        let (word, rest) = rest.split_at(end);
        if word.is_empty() {
            return None;
        }
        self.rest = rest;
        Some(word.to_string())
    }

    /// What follows an opening quote, up to the closing one.
    fn quoted(&mut self, quote: char) -> Result<String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if c != quote {
                text.push(c);
            } else if chars.next_if(|(_, next)| *next == quote).is_some() {
                text.push(quote);
            } else {
                self.rest = &self.rest[at + c.len_utf8()..];
                return Ok(text);
            }
        }
        self.rest = "";
        Err(self.expected(&format!("a closing {quote}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_indexes_are_read_with_their_parameters() {
        let calls =
            parse(" FTS ( Language='Ger''man' , stem = FALSE, words=[a, 'b c'], most = 40) ,btree, v(l2)").unwrap();
        let json = r#"[{"kind": "fts", "language": "Ger'man", "stem": false, "words": ["a", "b c"], "most": 40}]"#;
        let mut of_json = parse(json).unwrap().remove(0);
        of_json.params.sort_by(|a, b| a.0.cmp(&b.0));
        let mut sorted = calls[0].clone();
        sorted.params.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(sorted, of_json);
        assert_eq!(calls[1], Call { kind: "btree".into(), params: Vec::new() });
        assert_eq!(calls[2].params, [(None, Value::String("l2".into()))]);
        for (_, value) in &calls[0].params {
            assert_eq!(parse_value(&written(value)).unwrap(), *value);
        }
        assert_eq!(parse("fts()").unwrap(), parse("fts").unwrap());
    }

    #[test]
    fn what_says_no_index_is_refused() {
        for bad in [
            "", " ", ",", "fts,", "fts(", "fts(a", "fts(a=", "fts(a='b", "fts) x", "fts fts", "fts(=1)", "[[1]]", "{",
            "[1]", "{}",
        ] {
            assert_eq!(parse(bad).unwrap_err().kind(), crate::error::ErrorKind::Invalid, "{bad}");
        }
        assert!(parse_value("1 2").is_err());
    }
}
