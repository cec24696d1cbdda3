//! One tree for all that mean the same by nesting only.

use super::factor::Factor;
use super::query::Query;

impl<C> Query<C> {
    /// The same query in normal form:
    ///
    /// - nothing in it is [`Query::Empty`] unless all of it is;
    /// - no AND is a part of an AND, no OR of an OR, no [`Query::Best`] of another, no [`Query::Prefer`] the `must` of
    ///   another, and AND, OR and Best have at least two parts;
    /// - no NOT is right below a NOT;
    /// - boosts are on leaves, one at most on each, and none is 1.
    ///
    /// It matches the same documents with the same scores, except that a double negation, which has none, gets the score
    /// of what it negates twice.
    #[must_use]
    pub fn normalize(self) -> Self {
        self.normal(Factor::ONE)
    }

    /// The normal form of the query boosted by `factor`.
    fn normal(self, factor: Factor) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Clause(_) if factor == Factor::ONE => self,
            Self::Clause(_) => Self::Boost { query: Box::new(self), factor },
            Self::And(parts) => {
                let mut flat = Vec::with_capacity(parts.len());
                for part in parts {
                    match part.normal(factor) {
                        Self::Empty => {}
                        Self::And(inner) => flat.extend(inner),
                        other => flat.push(other),
                    }
                }
                Self::all(flat)
            }
            Self::Or(parts) => Self::any_flat(parts.into_iter().map(|part| part.normal(factor))),
            Self::Best(parts) => {
                let mut flat = Vec::with_capacity(parts.len());
                for part in parts {
                    match part.normal(factor) {
                        Self::Empty => {}
                        Self::Best(inner) => flat.extend(inner),
                        other => flat.push(other),
                    }
                }
                Self::best(flat)
            }
            Self::Not(query) => match query.normal(Factor::ONE) {
                Self::Empty => Self::Empty,
                Self::Not(twice) => twice.normal(factor),
                other => Self::negated(other),
            },
            Self::Prefer { must, should } => match (must.normal(factor), should.normal(factor)) {
                (Self::Empty, only) | (only, Self::Empty) => only,
                (Self::Prefer { must, should: inner }, outer) => {
                    Self::Prefer { must, should: Box::new(Self::any_flat([*inner, outer])) }
                }
                (must, should) => Self::Prefer { must: Box::new(must), should: Box::new(should) },
            },
            Self::Boost { query, factor: own } => query.normal(factor.times(own)),
        }
    }

    /// At least one of `parts`, which are in normal form.
    fn any_flat(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut flat = Vec::new();
        for part in parts {
            match part {
                Self::Empty => {}
                Self::Or(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        Self::any(flat)
    }
}

#[cfg(test)]
mod tests {
    use crate::query_syntax::TextQuery;

    #[test]
    fn the_normal_form_is_flat() {
        for (text, expected) in [
            ("", ""),
            ("() NOT ()", ""),
            ("((a))", "a"),
            ("a AND ()", "a"),
            ("a OR (b OR (c OR d))", "a OR b OR c OR d"),
            ("a AND (b AND c) AND (d OR e)", "a AND b AND c AND (d OR e)"),
            ("a AND (b OR ())", "a AND b"),
            ("NOT (NOT a)", "a"),
            ("NOT NOT NOT a", "NOT a"),
            ("NOT ((NOT a)^2 OR ())", "a"),
            ("(a b^2)^3", "a^3 OR b^6"),
            ("(a^2)^0.5", "a"),
            ("(a AND NOT b)^2", "a^2 AND NOT b"),
            ("(NOT (NOT a))^2", "a^2"),
            ("+() b", "b"),
            ("+a ()", "a"),
            ("+(+a b) (c OR d)", "+a (b OR c OR d)"),
            ("(+a b)^2", "+a^2 b^2"),
            ("+a +(b AND -c) -d e", "+(a AND b AND NOT c AND NOT d) e"),
            ("a -b -(c OR d)", "a AND NOT b AND NOT (c OR d)"),
            ("(a^340282350000000000000000000000000000000)^2", "a^340282350000000000000000000000000000000"),
        ] {
            let normal = TextQuery::parse(text).unwrap().normalize();
            assert_eq!(normal.to_string(), expected, "{text}");
        }
    }
}
