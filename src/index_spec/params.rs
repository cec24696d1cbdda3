//! The parameters of one index as they are given, taken one by one: what is left over is nobody's.

use serde_json::Value;

use super::notation::Call;
use crate::error::{Error, Result};
use crate::settings::switch;

/// What is given, and what has been asked for.
pub(super) struct Params {
    kind: String,
    given: Vec<(String, Value)>,
    known: Vec<&'static str>,
}

impl Params {
    /// The parameters of `call`; one without a name is named `first`.
    ///
    /// # Errors
    /// `Invalid` if one is given twice, or needs a name.
    pub(super) fn new(call: Call, first: Option<&str>) -> Result<Self> {
        let Call { kind, params } = call;
        let mut given: Vec<(String, Value)> = Vec::new();
        for (place, (name, value)) in params.into_iter().enumerate() {
            let name = match (name, first) {
                (Some(name), _) => name,
                (None, Some(first)) if place == 0 => first.to_string(),
                (None, _) => return Err(Error::invalid(format!("a parameter of '{kind}' has no name: name = value"))),
            };
            if given.iter().any(|(other, _)| *other == name) {
                return Err(Error::invalid(format!("the parameter '{name}' of '{kind}' is given twice")));
            }
            given.push((name, value));
        }
        Ok(Self { kind, given, known: Vec::new() })
    }

    /// The parameter that has one of these names; the first is the one that is told.
    ///
    /// # Errors
    /// `Invalid` if it is given under two names.
    pub(super) fn value(&mut self, names: &[&'static str]) -> Result<Option<Value>> {
        self.known.extend(names.first());
        let mut found = None;
        for name in names {
            if let Some(at) = self.given.iter().position(|(given, _)| given == name)
                && found.replace(self.given.remove(at).1).is_some()
            {
                return Err(Error::invalid(format!("the parameter '{}' of '{}' is given twice", names[0], self.kind)));
            }
        }
        Ok(found)
    }

    /// As [`value`](Self::value), of one type.
    fn typed<T>(&mut self, names: &[&'static str], what: &str, of: fn(&Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.value(names)? else { return Ok(None) };
        of(&value).map(Some).ok_or_else(|| self.wrong(names[0], what, &value))
    }

    /// That a parameter has a value that it cannot have.
    pub(super) fn wrong(&self, name: &str, expected: &str, found: &Value) -> Error {
        let found = super::notation::written(found);
        Error::invalid(format!("the parameter '{name}' of '{}' is {expected}, not {found}", self.kind))
    }

    pub(super) fn text(&mut self, names: &[&'static str]) -> Result<Option<String>> {
        self.typed(names, "a text", |value| value.as_str().map(str::to_string))
    }

    pub(super) fn flag(&mut self, names: &[&'static str]) -> Result<Option<bool>> {
        self.typed(names, "true or false", |value| match value {
            Value::Bool(flag) => Some(*flag),
            Value::String(text) => switch(text),
            _ => None,
        })
    }

    pub(super) fn number(&mut self, names: &[&'static str]) -> Result<Option<u32>> {
        self.typed(names, "a whole number above 0", number)
    }

    /// A number; `Some(None)` says that there is none.
    pub(super) fn limit(&mut self, names: &[&'static str]) -> Result<Option<Option<u32>>> {
        self.typed(names, "a whole number above 0, or none", |value| match value {
            Value::Null => Some(None),
            other => number(other).map(Some),
        })
    }

    /// Nothing, if all that is given was asked for.
    ///
    /// # Errors
    /// `Invalid`, naming what is known.
    pub(super) fn finish(self) -> Result<()> {
        let Some((name, _)) = self.given.first() else { return Ok(()) };
        let known = if self.known.is_empty() { "none".into() } else { self.known.join(", ") };
        Err(Error::invalid(format!("'{}' has no parameter '{name}': known are {known}", self.kind)))
    }
}

fn number(value: &Value) -> Option<u32> {
    let number = match value {
        Value::String(text) => text.parse().ok()?,
        other => other.as_u64()?,
    };
    u32::try_from(number).ok().filter(|n| *n > 0)
}
