//! How a query is spelled: what has to be escaped, and the canonical form.

use std::fmt::{self, Display, Formatter, Write};

use super::clause::{Distance, TextClause};
use super::query::Query;

pub(super) const AND: &str = "AND";
pub(super) const OR: &str = "OR";
pub(super) const NOT: &str = "NOT";
/// For people: no query has it.
const BEST: &str = "|";
pub(super) const KEYWORDS: [&str; 3] = [AND, OR, NOT];

/// Whether `c` means something anywhere in a word; signs do only at its start.
pub(super) fn is_special(c: char) -> bool {
    is_quote_or_parenthesis(c) || matches!(c, '^' | '~' | '*' | ':' | '\\')
}

/// Whether `c` begins or ends a clause.
pub(super) fn is_quote_or_parenthesis(c: char) -> bool {
    matches!(c, '(' | ')' | '"')
}

/// How tightly the surroundings hold a part: what binds less gets parentheses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Binding {
    /// Nothing around it.
    Loose,
    /// Beside AND or OR.
    Operand,
    /// Behind NOT or a sign, or in a list.
    Signed,
    /// Before a boost.
    Boosted,
}

impl<C> Query<C> {
    fn binding(&self) -> Binding {
        match self {
            Self::And(_) | Self::Or(_) | Self::Best(_) | Self::Prefer { .. } => Binding::Loose,
            Self::Not(_) => Binding::Operand,
            Self::Boost { .. } => Binding::Signed,
            Self::Empty | Self::Clause(_) => Binding::Boosted,
        }
    }
}

impl<C: Display> Query<C> {
    fn write(&self, f: &mut Formatter<'_>, within: Binding) -> fmt::Result {
        if let Self::And(parts) | Self::Or(parts) | Self::Best(parts) = self
            && parts.len() < 2
        {
            return parts.first().unwrap_or(&Self::Empty).write(f, within);
        }
        match self {
            Self::Empty if within == Binding::Loose => Ok(()),
            _ if self.binding() < within => {
                f.write_char('(')?;
                self.write(f, Binding::Loose)?;
                f.write_char(')')
            }
            Self::Empty => f.write_str("()"),
            Self::Clause(clause) => clause.fmt(f),
            Self::And(parts) => Self::write_joined(f, parts, AND),
            Self::Or(parts) => Self::write_joined(f, parts, OR),
            Self::Best(parts) => Self::write_joined(f, parts, BEST),
            Self::Not(query) => {
                write!(f, "{NOT} ")?;
                query.write(f, Binding::Signed)
            }
            Self::Prefer { must, should } => {
                f.write_char('+')?;
                must.write(f, Binding::Signed)?;
                f.write_char(' ')?;
                should.write(f, Binding::Signed)
            }
            Self::Boost { query, factor } => {
                query.write(f, Binding::Boosted)?;
                write!(f, "^{factor}")
            }
        }
    }

    fn write_joined(f: &mut Formatter<'_>, parts: &[Self], keyword: &str) -> fmt::Result {
        for (i, part) in parts.iter().enumerate() {
            if i > 0 {
                write!(f, " {keyword} ")?;
            }
            part.write(f, Binding::Operand)?;
        }
        Ok(())
    }
}

impl<C: Display> Display for Query<C> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write(f, Binding::Loose)
    }
}

impl Display for TextClause {
    /// As the syntax spells it. A clause without text says nothing.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Phrase { text, .. } if text.trim().is_empty() => return f.write_str("()"),
            _ if self.text().is_empty() => return f.write_str("()"),
            _ => write_field(f, self.field())?,
        }
        match self {
            Self::Term { text, .. } => write_word(f, text),
            Self::Prefix { text, .. } => {
                write_word(f, text)?;
                f.write_char('*')
            }
            Self::Fuzzy { text, distance, .. } => {
                write_word(f, text)?;
                write_distance(f, *distance)
            }
            Self::Phrase { text, slop, .. } => {
                f.write_char('"')?;
                write_quoted(f, text)?;
                f.write_char('"')?;
                write_slop(f, *slop)
            }
        }
    }
}

/// The field, if there is one, and its colon.
pub(super) fn write_field(f: &mut Formatter<'_>, field: Option<&str>) -> fmt::Result {
    match field {
        None => Ok(()),
        Some(field) => {
            write_word(f, field)?;
            f.write_char(':')
        }
    }
}

/// A word with the escapes that it needs.
pub(super) fn write_word(f: &mut Formatter<'_>, word: &str) -> fmt::Result {
    if KEYWORDS.contains(&word) || word.starts_with(['+', '-']) {
        f.write_char('\\')?;
    }
    for c in word.chars() {
        if is_special(c) || c.is_whitespace() {
            f.write_char('\\')?;
        }
        f.write_char(c)?;
    }
    Ok(())
}

/// The inside of a phrase with the escapes that it needs.
pub(super) fn write_quoted(f: &mut Formatter<'_>, text: &str) -> fmt::Result {
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            f.write_char('\\')?;
        }
        f.write_char(c)?;
    }
    Ok(())
}

pub(super) fn write_distance(f: &mut Formatter<'_>, distance: Distance) -> fmt::Result {
    write!(f, "~{}", distance.edits())
}

pub(super) fn write_slop(f: &mut Formatter<'_>, slop: u32) -> fmt::Result {
    if slop == 0 { Ok(()) } else { write!(f, "~{slop}") }
}
