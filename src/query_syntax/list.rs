//! Clauses side by side, and what their signs make of them.

use super::query::TextQuery;

/// What stands before a clause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    None,
    Plus,
    Minus,
    Not,
}

/// A clause and what stands before it.
#[derive(Debug)]
pub(super) struct Operand {
    pub(super) sign: Sign,
    pub(super) query: TextQuery,
}

impl Operand {
    /// As an operand of logic.
    pub(super) fn into_query(self) -> TextQuery {
        match self.sign {
            Sign::None | Sign::Plus => self.query,
            Sign::Minus | Sign::Not => TextQuery::negated(self.query),
        }
    }

    /// As one that must match beside others.
    pub(super) fn and(first: Self, others: Vec<Self>) -> Self {
        if others.is_empty() {
            return first;
        }
        let parts = std::iter::once(first).chain(others).map(Self::into_query).collect();
        Self { sign: Sign::None, query: TextQuery::And(parts) }
    }
}

/// The clauses of one list.
#[derive(Debug, Default)]
pub(super) struct List {
    must: Vec<TextQuery>,
    should: Vec<TextQuery>,
    must_not: Vec<TextQuery>,
}

impl List {
    pub(super) fn is_empty(&self) -> bool {
        self.must.is_empty() && self.should.is_empty() && self.must_not.is_empty()
    }

    /// Adds a clause; `by_or` if an OR stands beside it.
    pub(super) fn push(&mut self, operand: Operand, by_or: bool) {
        match operand.sign {
            Sign::Plus => self.must.push(operand.query),
            Sign::Minus => self.must_not.push(operand.into_query()),
            Sign::Not if !by_or => self.must_not.push(operand.into_query()),
            Sign::None | Sign::Not => self.should.push(operand.into_query()),
        }
    }

    /// The list as one query.
    pub(super) fn into_query(self) -> TextQuery {
        let Self { mut must, should, must_not } = self;
        if must.is_empty() {
            must.extend((!should.is_empty()).then(|| TextQuery::any(should)));
            must.extend(must_not);
            return TextQuery::all(must);
        }
        must.extend(must_not);
        let must = TextQuery::all(must);
        if should.is_empty() {
            return must;
        }
        TextQuery::Prefer { must: Box::new(must), should: Box::new(TextQuery::any(should)) }
    }
}
