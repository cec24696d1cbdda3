//! The grammar of text queries, top down: a function a rule.

use super::clause::{Distance, TextClause};
use super::cursor::Cursor;
use super::factor::Factor;
use super::list::{List, Operand, Sign};
use super::notation::{AND, KEYWORDS, NOT, OR};
use super::query::TextQuery;
use crate::error::{Error, Result};

/// How many clauses a query may have; an empty pair of parentheses counts as one.
pub const MAX_CLAUSES: usize = 1024;

/// How high the tree of a query may be. Its text may nest parentheses and NOT twice as deep, which is what the canonical
/// form needs at most.
pub const MAX_DEPTH: usize = 64;

/// Where a clause stands.
#[derive(Clone, Copy)]
struct Place<'f> {
    /// The field that holds here.
    field: Option<&'f str>,
    /// Within how many parentheses and NOT.
    depth: usize,
}

pub(super) struct Parser<'a> {
    cursor: Cursor<'a>,
    clauses: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { cursor: Cursor::new(text), clauses: 0 }
    }

    pub(super) fn parse(mut self) -> Result<TextQuery> {
        let query = self.list(Place { field: None, depth: 0 })?;
        if self.cursor.peek().is_some() {
            return Err(self.cursor.wrong("a ')' closes nothing: remove it, or write '\\)' to look for it"));
        }
        if query.height() > MAX_DEPTH { Err(self.too_deep()) } else { Ok(query) }
    }

    fn list(&mut self, place: Place<'_>) -> Result<TextQuery> {
        let (mut list, mut after_or) = (List::default(), false);
        loop {
            self.cursor.skip_blanks();
            if !after_or && matches!(self.cursor.peek(), None | Some(')')) {
                return Ok(list.into_query());
            }
            if !after_or && !list.is_empty() && self.cursor.take_keyword(OR) {
                after_or = true;
                continue;
            }
            let item = self.item(place)?;
            list.push(item, after_or || self.cursor.at_keyword(OR));
            after_or = false;
        }
    }

    fn item(&mut self, place: Place<'_>) -> Result<Operand> {
        let (first, mut others) = (self.operand(place)?, Vec::new());
        self.cursor.skip_blanks();
        while self.cursor.take_keyword(AND) {
            others.push(self.operand(place)?);
            self.cursor.skip_blanks();
        }
        Ok(Operand::and(first, others))
    }

    fn operand(&mut self, place: Place<'_>) -> Result<Operand> {
        self.cursor.skip_blanks();
        if self.cursor.at_keyword(NOT) {
            let place = self.deeper(place)?;
            self.cursor.take_keyword(NOT);
            return Ok(Operand { sign: Sign::Not, query: self.operand(place)?.into_query() });
        }
        Ok(Operand { sign: self.sign()?, query: self.clause(place)? })
    }

    fn sign(&mut self) -> Result<Sign> {
        let sign = match self.cursor.peek() {
            Some('+') => Sign::Plus,
            Some('-') => Sign::Minus,
            _ => return Ok(Sign::None),
        };
        let behind = self.cursor.rest().trim_start_matches(['+', '-']).chars().next();
        if behind.is_none_or(|c| c.is_whitespace() || c == ')') {
            // A dash of prose.
            return Ok(Sign::None);
        }
        self.cursor.next();
        if matches!(self.cursor.peek(), Some('+' | '-')) {
            let message = "a sign follows a sign: keep one, or write '\\+' or '\\-' if the word begins so";
            return Err(self.cursor.wrong(message));
        }
        Ok(sign)
    }

    fn clause(&mut self, place: Place<'_>) -> Result<TextQuery> {
        let own = self.field()?;
        let inner = Place { field: own.as_deref().or(place.field), ..place };
        let query = match self.cursor.peek() {
            Some('(') => self.group(inner)?,
            Some('"') => self.phrase(inner.field)?,
            _ => self.term(inner.field, own.is_some())?,
        };
        self.boosted(query)
    }

    /// The field that the clause names, and its colon.
    fn field(&mut self) -> Result<Option<String>> {
        let mut ahead = self.cursor.clone();
        let name = if ahead.peek() == Some('"') { ahead.quoted()? } else { ahead.word(false)? };
        if name.is_empty() || !ahead.take(':') {
            return Ok(None);
        }
        self.cursor = ahead;
        Ok(Some(name))
    }

    fn group(&mut self, place: Place<'_>) -> Result<TextQuery> {
        let (open, before) = (self.cursor.bytes_read(), self.clauses);
        let place = self.deeper(place)?;
        self.cursor.next();
        let query = self.list(place)?;
        if !self.cursor.take(')') {
            return Err(self.cursor.wrong_at(open, "a '(' is not closed: add a ')', or write '\\(' to look for it"));
        }
        if self.clauses == before {
            self.count()?;
        }
        Ok(query)
    }

    fn phrase(&mut self, field: Option<&str>) -> Result<TextQuery> {
        self.count()?;
        let text = self.cursor.quoted()?;
        let mut slop = 0;
        if self.cursor.take('~') {
            let at = self.cursor.bytes_read();
            slop = number(self.cursor.suffix()).ok_or_else(|| {
                let message = "a phrase's '~' has no number: write how far its words may be moved, as in ~2";
                self.cursor.wrong_at(at, message)
            })?;
        }
        if text.trim().is_empty() {
            return Ok(TextQuery::Empty);
        }
        Ok(TextQuery::Clause(TextClause::Phrase { field: field.map(String::from), text, slop }))
    }

    fn term(&mut self, field: Option<&str>, own_field: bool) -> Result<TextQuery> {
        if own_field && !self.cursor.in_word() && self.cursor.peek() != Some(':') {
            let message = "a field has no clause: write one right behind its ':', or write '\\:' for a colon";
            return Err(self.cursor.wrong(message));
        }
        if !own_field {
            self.check_start()?;
        }
        self.count()?;
        let field = field.map(String::from);
        let text = self.cursor.word(own_field)?;
        if self.cursor.take('*') {
            if self.cursor.in_word() {
                let message = "a '*' ends a word: put a blank behind it, or write '\\*' to look for it";
                return Err(self.cursor.wrong(message));
            }
            return Ok(TextQuery::Clause(TextClause::Prefix { field, text }));
        }
        if self.cursor.take('~') {
            let at = self.cursor.bytes_read();
            let distance = match self.cursor.suffix() {
                "" | "1" => Distance::One,
                "2" => Distance::Two,
                _ => {
                    let message = "a word's '~' is followed by 1, 2 or nothing: change that, or write '\\~'";
                    return Err(self.cursor.wrong_at(at, message));
                }
            };
            return Ok(TextQuery::Clause(TextClause::Fuzzy { field, text, distance }));
        }
        Ok(TextQuery::Clause(TextClause::Term { field, text }))
    }

    /// # Errors
    /// `Invalid` if what comes next is no word.
    fn check_start(&self) -> Result<()> {
        if let Some(keyword) = KEYWORDS.into_iter().find(|keyword| self.cursor.at_keyword(keyword)) {
            return Err(self.cursor.wrong(format!(
                "'{keyword}' stands where a clause should: add the clause, or write '\\{keyword}' for the word"
            )));
        }
        match self.cursor.peek() {
            Some(c @ ('^' | '~' | '*' | ':')) => Err(self
                .cursor
                .wrong(format!("'{c}' has no word right before it: add one, or write '\\{c}' to look for it"))),
            Some(_) if self.cursor.in_word() => Ok(()),
            _ => Err(self.cursor.wrong("a clause is missing: add one, or remove the operator before it")),
        }
    }

    fn boosted(&mut self, query: TextQuery) -> Result<TextQuery> {
        if !self.cursor.take('^') {
            return Ok(query);
        }
        let at = self.cursor.bytes_read();
        let factor = number(self.cursor.suffix()).and_then(|value| Factor::new(value).ok());
        let factor = factor.ok_or_else(|| {
            let message = "a '^' has no boost: write a finite number that is not negative, as in ^2.5, or write '\\^'";
            self.cursor.wrong_at(at, message)
        })?;
        Ok(TextQuery::Boost { query: Box::new(query), factor })
    }

    /// One clause more.
    fn count(&mut self) -> Result<()> {
        self.clauses += 1;
        if self.clauses > MAX_CLAUSES {
            let error = self.cursor.wrong("the query has too many clauses: ask for fewer words at a time");
            return Err(error.with_context("limit", MAX_CLAUSES));
        }
        Ok(())
    }

    fn deeper<'f>(&self, place: Place<'f>) -> Result<Place<'f>> {
        if place.depth == 2 * MAX_DEPTH { Err(self.too_deep()) } else { Ok(Place { depth: place.depth + 1, ..place }) }
    }

    fn too_deep(&self) -> Error {
        let error = self.cursor.wrong("the query is nested too deeply: remove parentheses and NOT it can do without");
        error.with_context("limit", MAX_DEPTH)
    }
}

/// The number that `digits`, and at most one dot, spell: no sign, no exponent, no name.
fn number<N: std::str::FromStr>(digits: &str) -> Option<N> {
    digits.parse().ok().filter(|_| digits.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query_syntax::fixture::shape;

    #[track_caller]
    fn check(cases: &[(&str, &str)]) {
        for (text, expected) in cases {
            match TextQuery::parse(text) {
                Ok(query) => assert_eq!(shape(&query), *expected, "{text}"),
                Err(error) => panic!("{text}: {error}"),
            }
        }
    }

    #[test]
    fn words_are_as_typed() {
        check(&[
            ("", "Empty"),
            (" \t\n\u{3000} ", "Empty"),
            ("rust", "rust"),
            ("  rust ", "rust"),
            ("foo-bar", "foo-bar"),
            ("c++", "c++"),
            ("a.b", "a.b"),
            ("user@example.com", "user@example.com"),
            ("3.14", "3.14"),
            ("don't", "don't"),
            ("Ünïcödé", "Ünïcödé"),
            ("日本\u{3000}語", "Or[日本, 語]"),
            ("and Or nOT", "Or[and, Or, nOT]"),
            ("ANDroid NOTE ORder", "Or[ANDroid, NOTE, ORder]"),
            ("a&&b || !c", "Or[a&&b, ||, !c]"),
            ("[a] {b} /c/ d?", "Or[[a], {b}, /c/, d?]"),
        ]);
    }

    #[test]
    fn a_backslash_takes_a_character_literally() {
        check(&[
            (r"\AND", "AND"),
            (r"a\ b", "a b"),
            (r"\-a \+b", "Or[-a, +b]"),
            (r"-\-a", "Not[-a]"),
            (r"title\:a", "title:a"),
            (r#"\(\)\"\^\~\*\:\\"#, r#"()"^~*:\"#),
            (r"fo\*", "fo*"),
            (r"fo\**", "Prefix(fo*)"),
            (r#""a \"b\" \\ \c (d) *""#, r#"Phrase(a "b" \ c (d) *, 0)"#),
            (r"my\ field:a", "my field=a"),
        ]);
    }

    #[test]
    fn operators_bind_not_before_and_before_or() {
        check(&[
            ("a b", "Or[a, b]"),
            ("a OR b c", "Or[a, b, c]"),
            ("a AND b", "And[a, b]"),
            ("a AND b AND c", "And[a, b, c]"),
            ("a OR b AND c", "Or[a, And[b, c]]"),
            ("a AND b c AND d", "Or[And[a, b], And[c, d]]"),
            ("NOT a AND b", "And[Not[a], b]"),
            ("NOT a OR b", "Or[Not[a], b]"),
            ("NOT a AND NOT b OR c", "Or[And[Not[a], Not[b]], c]"),
            ("NOT NOT a", "Not[Not[a]]"),
            ("(a OR b) AND c", "And[Or[a, b], c]"),
            ("((a))", "a"),
            ("(a b)(c d)", "Or[Or[a, b], Or[c, d]]"),
            ("a AND(b)OR(c)", "Or[And[a, b], c]"),
            ("a\nAND\tb", "And[a, b]"),
            ("\"a\"AND\"b\"", "And[Phrase(a, 0), Phrase(b, 0)]"),
            ("()", "Empty"),
            ("a AND ()", "And[a, Empty]"),
        ]);
    }

    #[test]
    fn signs_and_a_plain_not_are_about_their_list() {
        check(&[
            ("+a", "a"),
            ("-a", "Not[a]"),
            ("NOT a", "Not[a]"),
            ("+a +b", "And[a, b]"),
            ("+a b c", "Prefer[a, Or[b, c]]"),
            ("b +a c", "Prefer[a, Or[b, c]]"),
            ("a b -c", "And[Or[a, b], Not[c]]"),
            ("a b NOT c", "And[Or[a, b], Not[c]]"),
            ("-a -b", "And[Not[a], Not[b]]"),
            ("+a -b c", "Prefer[And[a, Not[b]], c]"),
            ("a OR NOT b", "Or[a, Not[b]]"),
            ("a OR -b", "And[a, Not[b]]"),
            ("a OR NOT b NOT c", "And[Or[a, Not[b]], Not[c]]"),
            ("+a OR b", "Prefer[a, b]"),
            ("+a AND b", "And[a, b]"),
            ("a AND -b", "And[a, Not[b]]"),
            ("NOT -a", "Not[Not[a]]"),
            ("-(a +b)", "Not[Prefer[b, a]]"),
            ("(+a) b", "Or[a, b]"),
            ("-\"a b\"", "Not[Phrase(a b, 0)]"),
            ("-title:a", "Not[title=a]"),
            ("a - b", "Or[a, -, b]"),
            ("a -- b +", "Or[a, --, b, +]"),
            ("(a -)", "Or[a, -]"),
        ]);
    }

    #[test]
    fn clauses_have_suffixes_and_fields() {
        check(&[
            ("rus*", "Prefix(rus)"),
            ("rust~", "Fuzzy(rust, 1)"),
            ("rust~1 go~2", "Or[Fuzzy(rust, 1), Fuzzy(go, 2)]"),
            ("\"a b\"", "Phrase(a b, 0)"),
            ("\"a b\"~3", "Phrase(a b, 3)"),
            ("\" \"", "Empty"),
            ("a^2.5", "Boost[a, 2.5]"),
            ("a^0 b^.5 c^2.", "Or[Boost[a, 0], Boost[b, 0.5], Boost[c, 2]]"),
            (
                "rus*^2 rust~2^3 \"a b\"~4^5",
                "Or[Boost[Prefix(rus), 2], Boost[Fuzzy(rust, 2), 3], Boost[Phrase(a b, 4), 5]]",
            ),
            ("(a b)^2", "Boost[Or[a, b], 2]"),
            ("(a^2)^3", "Boost[Boost[a, 2], 3]"),
            ("-a^2", "Not[Boost[a, 2]]"),
            ("title:rust", "title=rust"),
            ("title:rus*^2", "Boost[title=Prefix(rus), 2]"),
            ("title:\"a b\"~1", "title=Phrase(a b, 1)"),
            ("title:(a OR b)^2", "Boost[Or[title=a, title=b], 2]"),
            ("title:(a body:(b c~) d)", "Or[title=a, Or[body=b, body=Fuzzy(c, 1)], title=d]"),
            ("title:(a) b", "Or[title=a, b]"),
            ("a.b:c", "a.b=c"),
            ("\"My title\":c", "My title=c"),
            ("-\"a \\\"b\\\"\":(c \"d e\")^2", "Not[Boost[Or[a \"b\"=c, a \"b\"=Phrase(d e, 0)], 2]]"),
            ("at:12:30", "at=12:30"),
            ("std::vector", "std=:vector"),
            ("title:-5", "title=-5"),
            ("title:NOT", "title=NOT"),
        ]);
    }

    #[test]
    fn an_error_tells_where_and_what_to_do() {
        for (text, offset, message) in [
            ("(a", 0, "'(' is not closed"),
            ("ä (b (c)", 2, "'(' is not closed"),
            ("a)", 1, "')' closes nothing"),
            ("ä \"b c", 2, "phrase is not closed"),
            ("5\" disk", 1, "phrase is not closed"),
            ("a\\", 2, "'\\' ends the query"),
            ("\"a\\", 3, "'\\' ends the query"),
            ("AND a", 0, "'AND' stands"),
            ("a AND", 5, "clause is missing"),
            ("a OR", 4, "clause is missing"),
            ("a OR OR b", 5, "'OR' stands"),
            ("a AND OR b", 6, "'OR' stands"),
            ("(a OR) b", 5, "clause is missing"),
            ("NOT", 3, "clause is missing"),
            ("-NOT a", 1, "'NOT' stands"),
            ("*", 0, "'*' has no word"),
            ("a *", 2, "'*' has no word"),
            ("*a", 0, "'*' has no word"),
            ("a*b", 2, "'*' ends a word"),
            ("a**", 2, "'*' has no word"),
            ("a*~", 2, "'~' has no word"),
            ("\"a b\"*", 5, "'*' has no word"),
            ("a~3", 2, "'~' is followed by 1, 2"),
            ("a~0.5", 2, "'~' is followed by 1, 2"),
            ("\"a\"~", 4, "'~' has no number"),
            ("\"a\"~-1", 4, "'~' has no number"),
            ("\"a\"~4294967296", 4, "'~' has no number"),
            ("a^", 2, "'^' has no boost"),
            ("a^x", 2, "'^' has no boost"),
            ("a^-1", 2, "'^' has no boost"),
            ("a^1e3", 2, "'^' has no boost"),
            ("a^inf", 2, "'^' has no boost"),
            ("a^9999999999999999999999999999999999999999", 2, "'^' has no boost"),
            ("a^2^3", 3, "'^' has no word"),
            ("a ^2", 2, "'^' has no word"),
            (":a", 0, "':' has no word"),
            ("title:", 6, "field has no clause"),
            ("title: a", 6, "field has no clause"),
            ("title:*", 6, "field has no clause"),
            ("\"my field\":", 11, "field has no clause"),
            ("\"\":a", 2, "':' has no word"),
            ("--a", 1, "sign follows a sign"),
            ("a +-b", 3, "sign follows a sign"),
        ] {
            let error = TextQuery::parse(text).expect_err(text);
            assert!(error.message().contains(message), "{text}: {error}");
            assert_eq!(error.context(), [("offset", offset.to_string())], "{text}: {error}");
        }
    }

    #[test]
    fn limits_are_kept() {
        let limit = |text: &str| TextQuery::parse(text).err().map(|e| e.context().last().cloned().unwrap_or_default());
        let deep = Some(("limit", MAX_DEPTH.to_string()));
        let wide = Some(("limit", MAX_CLAUSES.to_string()));
        let nested = |n: usize| format!("{}a{}", "(".repeat(n), ")".repeat(n));
        let high = |n: usize| format!("{}a{}", "(b ".repeat(n), ")".repeat(n));
        assert_eq!(limit(&nested(2 * MAX_DEPTH)), None);
        assert_eq!(limit(&nested(2 * MAX_DEPTH + 1)), deep);
        assert_eq!(limit(&high(MAX_DEPTH - 1)), None);
        assert_eq!(limit(&high(MAX_DEPTH)), deep);
        assert_eq!(limit(&format!("{}a", "NOT ".repeat(MAX_DEPTH - 1))), None);
        assert_eq!(limit(&format!("{}a", "NOT ".repeat(MAX_DEPTH))), deep);
        for endless in ["(", "NOT ", "-(", "a:(", "NOT(", "a AND (", "+a -(b OR NOT "] {
            assert_eq!(limit(&endless.repeat(100_000)), deep, "{endless}");
        }
        for clause in ["a ", "() ", "(()) ", "\"\" ", "t:a ", "t:() ", "t:\"a\" ", "(a) ", "a* "] {
            assert_eq!(limit(&clause.repeat(MAX_CLAUSES)), None, "{clause}");
            assert_eq!(limit(&clause.repeat(MAX_CLAUSES + 1)), wide, "{clause}");
        }
    }
}
